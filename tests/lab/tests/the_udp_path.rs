//! What the lab can do to UDP on its way, and that it does nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Flow, Hole, Lab, Nat, PATIENCE, Ping, Server, eventually, move_client, until};

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft"],
        lab::tests![
            udp_to_the_gateway_can_be_blocked_while_tcp_passes,
            large_datagrams_vanish_in_a_black_hole_and_others_do_not,
            a_share_of_the_datagrams_is_lost,
            a_router_that_forgets_gives_another_port_and_keeps_tcp,
            a_router_can_get_another_address,
            a_client_that_moves_loses_its_old_address,
        ],
    )
}

/// Where the echo listens, at the gateway.
const ECHO: u16 = 7007;

/// How long an answer may take that never comes. Short: where one comes, it takes far less than a millisecond.
const SILENCE: Duration = Duration::from_millis(200);

/// Answers every datagram at the gateway with who sent it, and its length in bytes.
fn serve(lab: &Lab) -> Result<()> {
    for wildcard in ["0.0.0.0", "2001:db8:2::1"] {
        let address = SocketAddr::new(wildcard.parse()?, ECHO);
        let socket = lab.site().gateway.run(|| UdpSocket::bind(address))??;
        // It ends with the process, as all threads do.
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{peer} {length}").as_bytes(), peer);
            }
        });
    }
    Ok(())
}

/// A socket of the client's host, connected to the echo at `address`.
fn client(lab: &Lab, address: impl Into<IpAddr>) -> Result<UdpSocket> {
    let to = SocketAddr::new(address.into(), ECHO);
    let own: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = lab.client().run(|| UdpSocket::bind((own, 0)))??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Sends `length` bytes: who the gateway thinks has sent them, or `None` if no answer comes.
fn ask(socket: &UdpSocket, length: usize) -> Result<Option<SocketAddr>> {
    socket.send(&vec![0; length])?;
    let mut buffer = [0; 100];
    match socket.recv(&mut buffer) {
        Ok(end) => {
            let answer = std::str::from_utf8(&buffer[..end])?;
            let (peer, echoed) = answer.split_once(' ').context("two words")?;
            ensure!(echoed.parse::<usize>()? == length, "{answer}");
            Ok(Some(peer.parse()?))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An answer that must come, if not to the first datagram then to one of the next: an idle host may need time to look up its
/// neighbour.
fn answered(socket: &UdpSocket) -> Result<SocketAddr> {
    eventually("an answer", PATIENCE, || ask(socket, 100))
}

fn udp_to_the_gateway_can_be_blocked_while_tcp_passes(lab: &Lab) -> Result<()> {
    serve(lab)?;
    let plan = lab.site().plan;
    let (v4, v6) = (client(lab, plan.gateway_v4())?, client(lab, plan.gateway_v6())?);
    answered(&v4)?;
    answered(&v6)?;
    let _server = Server::start(&lab.site().gateway)?;
    let mut tcp = Flow::open(lab.client(), plan.gateway_v4())?;

    let hole = Hole::for_udp(lab, plan.gateway_v4())?;
    ensure!(Hole::for_udp(lab, plan.gateway_v4()).is_err(), "one at a time");
    ensure!(ask(&v4, 100)?.is_none(), "blocked");
    ensure!(ask(&v6, 100)?.is_some(), "of the other family");
    tcp.echo(PATIENCE)?;
    Ping::new(lab.client(), plan.gateway_v4()).answered(PATIENCE)?;
    drop(hole);
    answered(&v4)?;
    let _hole = Hole::for_udp(lab, plan.gateway_v6())?;
    ensure!(
        ask(&v6, 100)?.is_none() && ask(&v4, 100)?.is_some(),
        "the other way round"
    );
    Ok(())
}

fn large_datagrams_vanish_in_a_black_hole_and_others_do_not(lab: &Lab) -> Result<()> {
    serve(lab)?;
    let plan = lab.site().plan;
    let _server = Server::start(&lab.site().gateway)?;
    let mut tcp = Flow::open(lab.client(), plan.gateway_v4())?;
    let ends = [
        (client(lab, plan.gateway_v4())?, 28),
        (client(lab, plan.gateway_v6())?, 48),
    ];
    for (socket, headers) in &ends {
        answered(socket)?;
        ensure!(ask(socket, 1500 - headers)?.is_some(), "the cables take it");
    }
    let hole = Hole::for_large_udp(lab, 1300)?;
    for (socket, headers) in &ends {
        ensure!(ask(socket, 1301 - headers)?.is_none(), "too large");
        ensure!(
            ask(socket, 1300 - headers)?.is_some(),
            "not too large, and no ICMP message came"
        );
    }
    tcp.echo(PATIENCE)?;
    drop(hole);
    for (socket, headers) in &ends {
        ensure!(ask(socket, 1500 - headers)?.is_some(), "no hole any more");
    }
    Ok(())
}

fn a_share_of_the_datagrams_is_lost(lab: &Lab) -> Result<()> {
    serve(lab)?;
    let socket = client(lab, lab.site().plan.gateway_v4())?;
    answered(&socket)?;
    let _hole = Hole::for_some_udp(lab, 300)?;
    const SENT: usize = 400;
    let mut came = 0;
    let mut buffer = [0; 100];
    for _ in 0..SENT {
        socket.send(b"hello")?;
    }
    while socket.recv(&mut buffer).is_ok() {
        came += 1;
    }
    // Both ways 0.7 * 0.7 come back, 196 of 400 with a deviation of 10.
    lab.note(&format!("{came} of {SENT} came back where 49 % should"));
    ensure!((120..=270).contains(&came), "{came} of {SENT}");
    Ok(())
}

fn a_router_that_forgets_gives_another_port_and_keeps_tcp(lab: &Lab) -> Result<()> {
    serve(lab)?;
    let mut nat = Nat::start(lab)?;
    let plan = lab.site().plan;
    let _server = Server::start(&lab.site().gateway)?;
    let mut tcp = Flow::open(lab.client(), plan.gateway_v4())?;
    let socket = client(lab, plan.gateway_v4())?;
    let first = answered(&socket)?;
    ensure!(first.ip() == IpAddr::from(nat.address()), "{first}");
    ensure!(answered(&socket)? == first, "a flow keeps its port");
    tcp.echo(PATIENCE)?;

    let mut seen = vec![first];
    for _ in 0..3 {
        nat.rebind()?;
        let again = answered(&socket)?;
        ensure!(
            again.ip() == first.ip() && !seen.contains(&again),
            "{again} after {seen:?}"
        );
        seen.push(again);
        tcp.echo(PATIENCE)?;
    }
    // What the gateway sends to a forgotten port arrives nowhere, and nobody complains.
    let stray = lab.site().gateway.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    stray.connect(first)?;
    stray.set_read_timeout(Some(SILENCE))?;
    stray.send(b"late")?;
    let mut buffer = [0; 10];
    let silence = stray.recv(&mut buffer).expect_err("nobody is there");
    ensure!(silence.kind() == io::ErrorKind::WouldBlock, "{silence}");
    ensure!(socket.recv(&mut buffer).is_err(), "not the client either");
    Ok(())
}

fn a_router_can_get_another_address(lab: &Lab) -> Result<()> {
    serve(lab)?;
    let mut nat = Nat::start(lab)?;
    let socket = client(lab, lab.site().plan.gateway_v4())?;
    let first = answered(&socket)?;
    nat.renumber()?;
    let second = answered(&socket)?;
    ensure!(
        second.ip() == IpAddr::from(nat.address()) && second.ip() != first.ip(),
        "{first} {second}"
    );
    ensure!(nat.renumber().is_err(), "there is one other");
    Ok(())
}

fn a_client_that_moves_loses_its_old_address(lab: &Lab) -> Result<()> {
    serve(lab)?;
    let plan = lab.site().plan;
    let before = client(lab, plan.gateway_v4())?;
    ensure!(answered(&before)?.ip() == IpAddr::from([192, 0, 2, 2]));
    let (v4, v6) = move_client(lab, 2, 3)?;
    ensure!(before.send(b"hello").is_err(), "its source is gone");
    ensure!(answered(&client(lab, plan.gateway_v4())?)?.ip() == IpAddr::from(v4));
    ensure!(answered(&client(lab, plan.gateway_v6())?)?.ip() == IpAddr::from(v6));
    move_client(lab, 3, 2)?;
    until("the way back", PATIENCE, || Ok(ask(&before, 100)?.is_some()))
}
