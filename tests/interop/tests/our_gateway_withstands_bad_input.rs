//! Our gateway and what strangers, clients and administrators get wrong. Each time it says what is wrong, and goes on serving
//! the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use interop::{Failing, session_end};
use lab::peer::{Cstp, DATA, PeerClient, echo_packet, spoofed_packet};
use lab::{Lab, PATIENCE, Process, Settings, Signal, USER, Users, gateway_settings, start_gateway, users_file};

fn main() -> ExitCode {
    lab::run(
        &[],
        lab::tests![
            two_frames_in_a_record_are_two_packets,
            a_frame_over_two_records_is_one_packet,
            a_packet_from_a_foreign_source_is_dropped_and_counted,
            an_oversized_head_is_refused,
            an_oversized_body_is_refused,
            garbage_on_the_port_harms_nobody,
            half_open_clients_are_cut_and_others_served,
            one_address_gets_only_its_share_of_connections,
            a_wrong_password_and_an_unknown_user_look_the_same,
            an_address_that_guesses_is_shut_out,
            an_exhausted_pool_is_named_and_others_stay,
            a_port_in_use_is_named,
            a_missing_privilege_is_named,
            a_missing_tun_device_is_named,
            mistakes_in_the_configuration_are_named,
            unusable_files_are_named,
            a_bad_reload_changes_nothing,
        ],
    )
}

fn two_frames_in_a_record_are_two_packets(lab: &Lab) -> Result<()> {
    let (_gateway, mut client) = connected(lab)?;
    let (first, second) = (echo(lab, &client, 1)?, echo(lab, &client, 2)?);
    client.line_mut().send_record(&[first, second].concat())?;
    client.receive_echo(1)?;
    client.receive_echo(2)
}

fn a_frame_over_two_records_is_one_packet(lab: &Lab) -> Result<()> {
    let (_gateway, mut client) = connected(lab)?;
    let frame = echo(lab, &client, 1)?;
    for cut in [1, 8, 20] {
        let (start, rest) = frame.split_at(cut);
        client.line_mut().send_record(start)?;
        client.line_mut().send_record(rest)?;
        client.receive_echo(1)?;
    }
    Ok(())
}

fn a_packet_from_a_foreign_source_is_dropped_and_counted(lab: &Lab) -> Result<()> {
    let (gateway, mut client) = connected(lab)?;
    let target = lab.site().plan.host_v4();
    for source in ["10.78.0.99", "192.0.2.2", "10.77.0.1", "127.0.0.1"] {
        client.send_packet(&spoofed_packet(source.parse()?, target))?;
    }
    let good = echo(lab, &client, 7)?;
    client.line_mut().send_record(&good)?;
    client.receive_echo(7)?;
    // A logout: without one the session would wait, also over a stop of the gateway.
    client.send(&Cstp::new(5, b"\xb0bye"))?;
    let end = session_end(&gateway, "foreign_source=4")?;
    ensure!(end.contains("packets_in=1 "), "{end}");
    Ok(())
}

fn an_oversized_head_is_refused(lab: &Lab) -> Result<()> {
    let gateway = started(lab, |settings| settings)?;
    for padding in [17_000, 200_000] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: gw.test\r\nX-Pad: {}\r\n\r\n",
            "0".repeat(padding)
        );
        let answer = request_once(lab, request.as_bytes())?;
        ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // Whoever does not stop sending gets no answer, but an end.
    let mut flood = PeerClient::line(lab, lab.client(), lab.site(), None)?;
    let sent = flood.send(&vec![b'x'; 20_000_000]);
    ensure!(sent.is_err(), "nobody may send 20 MB of head");
    serves(lab, &gateway)
}

fn an_oversized_body_is_refused(lab: &Lab) -> Result<()> {
    let gateway = started(lab, |settings| settings)?;
    let announced = "POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 70000\r\n\r\n".to_owned();
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n{}\r\n",
        "x".repeat(70_000)
    );
    for request in [announced, chunked] {
        let answer = request_once(lab, request.as_bytes())?;
        ensure!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    serves(lab, &gateway)
}

fn garbage_on_the_port_harms_nobody(lab: &Lab) -> Result<()> {
    let (gateway, mut client) = connected(lab)?;
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0; 64],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    ] {
        let mut socket = dial(lab)?;
        socket.write_all(garbage)?;
        socket.shutdown(std::net::Shutdown::Write)?;
        drain(&mut socket).context("the gateway must close the connection")?;
    }
    for garbage in [
        &b"\x00\x01\x02 garbage\r\n\r\n"[..],
        b"CONNECT\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
    ] {
        let answer = request_once(lab, garbage)?;
        ensure!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 505 "),
            "{answer}"
        );
    }
    let frame = echo(lab, &client, 1)?;
    client.line_mut().send_record(&frame)?;
    client.receive_echo(1)?;
    client
        .line_mut()
        .send_record(b"this is no frame at all, but long enough for a header")?;
    gateway.wait_for("session detached", PATIENCE)?;
    serves(lab, &gateway)
}

fn half_open_clients_are_cut_and_others_served(lab: &Lab) -> Result<()> {
    let gateway = started(lab, |settings| {
        settings
            .with("limits.handshake_timeout_s", 2)
            .with("limits.login_timeout_s", 2)
    })?;
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = Vec::new();
    for hello in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        for _ in 0..5 {
            let mut socket = dial(lab)?;
            socket.write_all(hello)?;
            silent.push(socket);
        }
    }
    let mut half = Vec::new();
    for start in [
        "",
        "POST / HTTP/1.1\r\nHost: gw",
        "POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n<?xml",
    ] {
        let mut line = PeerClient::line(lab, lab.client(), lab.site(), None)?;
        if !start.is_empty() {
            line.send(start.as_bytes())?;
        }
        half.push(line);
    }
    serves(lab, &gateway)?;
    for mut socket in silent {
        drain(&mut socket).context("a half-open handshake must be cut")?;
    }
    for mut line in half {
        ensure!(
            line.receive(|_| Ok(None::<()>)).is_err(),
            "a half-open login must be cut"
        );
    }
    lab.note(&format!(
        "13 half-open clients were cut within {} ms, limit 2 s",
        began.elapsed().as_millis()
    ));
    gateway.wait_for("the TLS handshake took too long", PATIENCE)?;
    gateway.wait_for("the login took too long", PATIENCE)?;
    serves(lab, &gateway)
}

fn one_address_gets_only_its_share_of_connections(lab: &Lab) -> Result<()> {
    let gateway = started(lab, |settings| settings.with("limits.connections_per_address", 3))?;
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        held.push(dial(lab)?);
    }
    let mut refused = dial(lab)?;
    drain(&mut refused)?;
    gateway.wait_for("not let in", PATIENCE)?;
    let other = lab.add_client()?;
    let mut line = PeerClient::line(lab, &other, lab.site(), None).context("another address must be served")?;
    PeerClient::log_in(&mut line)?;
    drop(held);
    Ok(())
}

fn a_wrong_password_and_an_unknown_user_look_the_same(lab: &Lab) -> Result<()> {
    let _gateway = started(lab, |settings| settings.with("limits.login_attempts_per_address", 100))?;
    let mut answers = Vec::new();
    for (user, password) in [(USER, "wrong"), ("nobody", "wrong"), (USER, ""), ("nobody", "")] {
        let mut times = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            let answer = log_in_as(lab, user, password)?;
            times.push(began.elapsed().as_millis());
            answers.push(answer.replace(user, "USER"));
        }
        lab.note(&format!("{user} with password {password:?}: {times:?} ms"));
    }
    ensure!(answers[0].contains("Login failed"), "{}", answers[0]);
    ensure!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    Ok(())
}

fn an_address_that_guesses_is_shut_out(lab: &Lab) -> Result<()> {
    let gateway = started(lab, |settings| settings.with("limits.login_attempts_per_address", 3))?;
    for _ in 0..3 {
        ensure!(log_in_as(lab, USER, "wrong")?.contains("Login failed"));
    }
    let answer = log_in_as(lab, USER, lab::PASSWORD)?;
    ensure!(answer.starts_with("HTTP/1.1 401 Too many login attempts"), "{answer}");
    gateway.wait_for("login denied", PATIENCE)?;
    Ok(())
}

fn an_exhausted_pool_is_named_and_others_stay(lab: &Lab) -> Result<()> {
    let gateway = started(lab, |settings| {
        ipv4_only(lab, settings).with("pool.ipv4", "10.78.0.0/30")
    })?;
    let mut first = PeerClient::connect(lab, lab.client(), lab.site())?;
    let refused = PeerClient::connect(lab, lab.client(), lab.site());
    let reason = refused.err().context("there is no address left")?.to_string();
    ensure!(
        reason.contains("503") && reason.contains("X-Reason:") && reason.contains("pool"),
        "{reason}"
    );
    gateway.wait_for("address pool exhausted", PATIENCE)?;
    let frame = echo(lab, &first, 1)?;
    first.line_mut().send_record(&frame)?;
    first.receive_echo(1)
}

fn a_port_in_use_is_named(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let second = settings
        .with("network.interface", "second")
        .with("pool.ipv4", "10.79.0.0/24");
    Failing::new(lab, &lab.site().gateway, "gateway", "second", &ipv4_only(lab, second))?
        .ends_with(1, &["cannot listen on", "443", "in use"])?;
    serves(lab, &gateway)
}

fn a_missing_privilege_is_named(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    Failing::new(lab, &lab.site().gateway, "gateway", "gateway", &settings)?
        .without_privilege()
        .ends_with(5, &["CAP_NET_ADMIN"])
}

fn a_missing_tun_device_is_named(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    Failing::new(lab, &lab.site().gateway, "gateway", "gateway", &settings)?
        .without_tun()
        .ends_with(5, &["/dev/net/tun is missing"])
}

fn mistakes_in_the_configuration_are_named(lab: &Lab) -> Result<()> {
    let good = gateway_settings(lab, lab.site())?;
    let cases: [(&str, Settings, &[&str]); 5] = [
        (
            "unknown-key",
            good.clone().with("listen.adresses", "x"),
            &[
                "listen.adresses: unknown key",
                "did you mean `addresses`?",
                "unknown-key.toml:",
            ],
        ),
        (
            "unknown-section",
            good.clone().with("liste.addresses", "x"),
            &["liste: unknown section; did you mean [listen]?"],
        ),
        (
            "overlapping-routes",
            good.clone().with("network.routes", vec!["10.0.0.0/8", "10.77.0.0/24"]),
            &["10.77.0.0/24 overlaps 10.0.0.0/8"],
        ),
        (
            "route-over-pool",
            good.clone().with("network.exclude_routes", vec!["10.78.0.0/16"]),
            &["10.78.0.0/16"],
        ),
        ("wrong-type", good.with("network.mtu", "big"), &["mtu"]),
    ];
    for (name, settings, texts) in cases {
        Failing::new(lab, &lab.site().gateway, "gateway", name, &settings)?.ends_with(3, texts)?;
    }
    Ok(())
}

fn unusable_files_are_named(lab: &Lab) -> Result<()> {
    let good = gateway_settings(lab, lab.site())?;
    let missing = lab.folder().join("missing.key");
    let open = lab.file("open.key", "not secret")?;
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let nonsense = lab.file("nonsense.key", "-----BEGIN NONSENSE-----\n")?;
    let other = lab.pki().renewed_server()?;
    let cases: [(&str, Settings, &[&str]); 5] = [
        (
            "missing-key",
            good.clone().with_path("tls.key_file", &missing),
            &["cannot read the private key", "missing.key", "No such file"],
        ),
        (
            "folder-as-key",
            good.clone().with_path("tls.key_file", lab.folder()),
            &["private key"],
        ),
        (
            "open-key",
            good.clone().with_path("tls.key_file", &open),
            &["open.key", "chmod"],
        ),
        (
            "nonsense-key",
            good.clone().with_path("tls.key_file", &nonsense),
            &["nonsense.key"],
        ),
        (
            "other-key",
            good.with_path("tls.key_file", &other.key),
            &["does not belong to the certificate"],
        ),
    ];
    for (name, settings, texts) in cases {
        Failing::new(lab, &lab.site().gateway, "gateway", name, &settings)?.ends_with(3, texts)?;
    }
    Ok(())
}

/// Something an administrator does to files.
type Change<'a> = Box<dyn Fn() -> Result<()> + 'a>;

fn a_bad_reload_changes_nothing(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let mut client = PeerClient::connect(lab, lab.client(), lab.site())?;
    let users = users_file(lab, lab.site());
    let changes: [(&str, Change<'_>); 3] = [
        (
            "users-site-a.toml",
            Box::new(|| Users::alice()?.with(USER, "pasword", "x").write(&users)),
        ),
        (
            "gateway.toml",
            Box::new(|| {
                Users::alice()?.write(&users)?;
                settings
                    .clone()
                    .with("tls.bogus", 1)
                    .write(&lab.folder().join("gateway.toml"))
                    .map(drop)
            }),
        ),
        (
            "[pool]",
            Box::new(|| {
                let smaller = settings.clone().with("pool.ipv4", "10.78.0.0/28");
                smaller.write(&lab.folder().join("gateway.toml")).map(drop)
            }),
        ),
    ];
    for (named, change) in changes {
        change()?;
        let mark = gateway.mark();
        gateway.signal(Signal::HUP)?;
        gateway.wait_for_line(mark, &["reload refused"], PATIENCE)?;
        gateway.wait_for_after(mark, named, PATIENCE)?;
        let frame = echo(lab, &client, 1)?;
        client.line_mut().send_record(&frame)?;
        client.receive_echo(1)?;
    }
    serves(lab, &gateway)
}

fn started(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
    let settings = change(gateway_settings(lab, lab.site())?);
    start_gateway(lab, lab.site(), "gateway", &settings)
}

fn ipv4_only(lab: &Lab, settings: Settings) -> Settings {
    let settings = settings.without("pool.ipv6");
    settings.with("network.routes", vec![lab.site().plan.lan_v4().to_string()])
}

fn connected(lab: &Lab) -> Result<(Process, PeerClient)> {
    let gateway = started(lab, |settings| settings)?;
    Ok((gateway, PeerClient::connect(lab, lab.client(), lab.site())?))
}

/// A frame with an echo request to the host in the LAN.
fn echo(lab: &Lab, client: &PeerClient, number: u16) -> Result<Vec<u8>> {
    let packet = echo_packet(client.address()?, lab.site().plan.host_v4(), number);
    Ok(Cstp::new(DATA, packet).bytes())
}

/// A whole login and a packet there and back.
fn serves(lab: &Lab, gateway: &Process) -> Result<()> {
    ensure!(gateway.is_running(), "the gateway is gone");
    let mut client = PeerClient::connect(lab, lab.client(), lab.site()).context("the gateway must go on serving")?;
    let frame = echo(lab, &client, 99)?;
    client.line_mut().send_record(&frame)?;
    client.receive_echo(99)
}

fn dial(lab: &Lab) -> Result<TcpStream> {
    let to = SocketAddr::from((lab.site().plan.gateway_v4(), 443));
    let socket = lab.client().run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Reads until the other end closes, however it does that.
fn drain(socket: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sends anything over TLS and returns the head of the answer.
fn request_once(lab: &Lab, request: &[u8]) -> Result<String> {
    let mut line = PeerClient::line(lab, lab.client(), lab.site(), None)?;
    // The gateway may refuse before it has read all.
    let _ = line.send(request);
    Ok(line.receive_message()?.0)
}

/// The answer to a login: head and body.
fn log_in_as(lab: &Lab, user: &str, password: &str) -> Result<String> {
    let mut line = PeerClient::line(lab, lab.client(), lab.site(), None)?;
    let (head, body) = PeerClient::try_password(&mut line, user, password)?;
    Ok(head + &String::from_utf8_lossy(&body))
}
