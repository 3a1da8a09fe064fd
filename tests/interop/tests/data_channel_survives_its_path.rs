//! What happens to the way of the datagrams: blocked, translated anew, from another address, too narrow; and new keys.
//!
//! ```text
//!                        our gateway                              ocserv
//!   UDP blocked          TLS within 3 s                           TLS within 3 s
//!   another port         the same link, after a challenge: 1 s    a handshake from a fresh port: 4 s
//!   another address      the same; TLS follows in the background  the same, and TLS follows
//! ```

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use interop::{
    MOVED, TO_CONTROL, TO_DATA, channel_becomes, channel_in_status, data_channel, field, only_connection, ping_both,
};
use lab::{
    Hole, Lab, Mark, Nat, Ocserv, PATIENCE, Ping, Process, Pulse, Server, Settings, Signal, StockFigures, StockLogin,
    Tally, client_interface, client_settings, eventually, gateway_settings, move_client, ms, start_client,
    start_gateway, transfer, until,
};

/// Between two requests of a train of them.
const INTERVAL: Duration = Duration::from_millis(20);

/// A blocked path is left for the control channel within this long.
const TO_TLS: Duration = Duration::from_secs(3);

/// A client that comes from elsewhere is answered by a gateway of ours within this long.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// And by ocserv within this long, after another handshake.
const ELSEWHERE_STOCK: Duration = Duration::from_secs(4);

/// The data channel is taken up again within this long: the longest wait between handshakes is 30 s.
const AGAIN: Duration = Duration::from_secs(40);

/// What a path without a word carries, IP header included, in bytes.
const NARROW: u16 = 1400;

/// What headers of IP, UDP and DTLS take of it: at least this with IPv4 and a short connection id.
const HEADERS: u16 = 66;

/// And at most this with IPv6 and a long one.
const MORE_HEADERS: u16 = 100;

/// It is found out within this long once packets take the data channel.
const MEASURED: Duration = Duration::from_secs(2);

/// Moved each way, in bytes.
const BULK: u64 = 20_000_000;

/// Moved each way again and again while keys are renewed, in bytes.
const LOAD: u64 = 2_000_000;

/// New keys in a row.
const RENEWALS: u64 = 30;

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft", "ocserv", "ocpasswd"],
        lab::tests![
            where_udp_is_blocked_tls_carries_everything,
            our_gateways_packets_go_over_tls_while_udp_is_blocked,
            ocservs_packets_go_over_tls_while_udp_is_blocked,
            another_port_costs_our_gateway_a_challenge,
            another_port_costs_ocserv_a_handshake,
            another_address_costs_our_gateway_a_challenge,
            another_address_costs_ocserv_a_handshake,
            a_narrow_path_is_found_out_over_ipv4,
            a_narrow_path_is_found_out_over_ipv6,
            a_path_that_becomes_narrow_is_found_out_by_the_client,
            a_path_that_becomes_narrow_is_found_out_by_the_gateway,
            thirty_new_keys_cost_no_packet,
        ],
    )
}

fn where_udp_is_blocked_tls_carries_everything(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let _hole = Hole::for_udp(lab, lab.site().plan.gateway_v4())?;
    let gateway = gateway(lab)?;
    let client = client(lab)?;
    ping_both(lab.client(), lab.site().plan)?;
    let rates = transfer(lab.client(), lab.site().plan.host_v4(), BULK)?;
    lab.note(&format!("20 MB each way over TLS: {rates}"));
    ensure!(channel_in_status(lab)?.is_none());
    for end in [&gateway, &client] {
        ensure!(!end.output().contains(TO_DATA), "{} uses UDP", end.name());
    }
    Ok(())
}

fn our_gateways_packets_go_over_tls_while_udp_is_blocked(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    blocked_in_the_middle(lab)
}

fn ocservs_packets_go_over_tls_while_udp_is_blocked(lab: &Lab) -> Result<()> {
    let mut stock = stock(lab)?;
    let _gateway = stock.start()?;
    blocked_in_the_middle(lab)
}

fn blocked_in_the_middle(lab: &Lab) -> Result<()> {
    let client = client(lab)?;
    let connection = only_connection(&client)?;
    let suite = data_channel(&client, Mark::default())?;
    let pulse = train(lab)?;

    let mark = client.mark();
    let hole = Hole::for_udp(lab, lab.site().plan.gateway_v4())?;
    client.wait_for_line(mark, &[TO_CONTROL], PATIENCE)?;
    channel_becomes(lab, None)?;
    pulse.wait_answered(50)?;
    let tally = pulse.end()?;
    lab.note(&format!("blocked: {tally}"));
    within(&tally, TO_TLS)?;

    let pulse = train(lab)?;
    let mark = client.mark();
    let began = Instant::now();
    drop(hole);
    client.wait_for_line(mark, &[TO_DATA], AGAIN)?;
    let again = began.elapsed();
    channel_becomes(lab, Some(&suite))?;
    pulse.wait_answered(50)?;
    let tally = pulse.end()?;
    lab.note(&format!("let through: UDP again after {} ms; {tally}", ms(again)));
    ensure!(tally.lost == 0, "the way back must cost nothing: {tally}");
    ensure!(
        only_connection(&client)? == connection,
        "the same connection all the time"
    );
    Ok(())
}

fn another_port_costs_our_gateway_a_challenge(lab: &Lab) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    let gateway = gateway(lab)?;
    let client = client(lab)?;
    let connection = only_connection(&client)?;
    data_channel(&client, Mark::default())?;
    let pulse = train(lab)?;
    for change in [Nat::rebind, Nat::renumber] {
        let mark = gateway.mark();
        change(&mut nat)?;
        let moved = gateway.wait_for_line(mark, &[MOVED], PATIENCE)?;
        ensure!(moved.contains(&nat.address().to_string()), "{moved}");
        pulse.wait_answered(50)?;
    }
    let tally = pulse.end()?;
    lab.note(&format!("a new port, then a new address of the router: {tally}"));
    within(&tally, ELSEWHERE)?;
    ensure!(client.output().matches(TO_DATA).count() == 1, "no handshake was needed");
    ensure!(!client.output().contains(TO_CONTROL), "nor TLS");
    ensure!(
        only_connection(&client)? == connection,
        "the same connection all the time"
    );
    Ok(())
}

fn another_port_costs_ocserv_a_handshake(lab: &Lab) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    let mut stock = stock(lab)?;
    let _gateway = stock.start()?;
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    let pulse = train(lab)?;
    let mark = client.mark();
    nat.rebind()?;
    client.wait_for_line(mark, &[TO_DATA], AGAIN)?;
    pulse.wait_answered(50)?;
    let tally = pulse.end()?;
    lab.note(&format!("a new port of the router: {tally}"));
    within(&tally, ELSEWHERE_STOCK)
}

fn another_address_costs_our_gateway_a_challenge(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let (client, tally) = moved(lab)?;
    gateway.wait_for(MOVED, PATIENCE)?;
    within(&tally, ELSEWHERE)?;
    let session = field(&client, Mark::default(), &["path.back"], "session")?;
    ensure!(session.ends_with(";2"), "{session}: the next epoch of the same session");
    let first = field(&client, Mark::default(), &["session.start"], "session")?;
    ensure!(
        session.split(';').next() == first.split(';').next(),
        "{session} after {first}"
    );
    Ok(())
}

fn another_address_costs_ocserv_a_handshake(lab: &Lab) -> Result<()> {
    let mut stock = stock(lab)?;
    let _gateway = stock.start()?;
    let (_client, tally) = moved(lab)?;
    within(&tally, ELSEWHERE_STOCK)
}

/// A client that moves while packets flow: they go on, and the control channel follows. Returns how the packets fared.
fn moved(lab: &Lab) -> Result<(Process, Tally)> {
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    let pulse = train(lab)?;
    let mark = client.mark();
    let (address, _) = move_client(lab, 2, 3)?;
    pulse.wait_answered(20)?;
    client.wait_for_line(mark, &["path.back"], PATIENCE)?;
    let suite = data_channel(&client, mark)?;
    pulse.wait_answered(50)?;
    let tally = pulse.end()?;
    lab.note(&format!("another address: {tally}"));
    channel_becomes(lab, Some(&suite))?;
    eventually("one connection from the new address", PATIENCE, || {
        Ok(only_connection(&client).ok().filter(|(own, _)| own.ip() == address))
    })?;
    Ok((client, tally))
}

fn a_narrow_path_is_found_out_over_ipv4(lab: &Lab) -> Result<()> {
    narrow(lab, |settings| settings)
}

fn a_narrow_path_is_found_out_over_ipv6(lab: &Lab) -> Result<()> {
    narrow(lab, |settings| {
        settings.with("gateway.addresses", vec![lab.site().plan.gateway_v6().to_string()])
    })
}

fn narrow(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let _hole = Hole::for_large_udp(lab, NARROW)?;
    let _gateway = gateway(lab)?;
    let client = start_client(lab, lab.client(), "client", &change(client_settings(lab, lab.site())?))?;
    data_channel(&client, Mark::default())?;
    let began = Instant::now();
    let mtu = eventually("a device as narrow as the path", PATIENCE, || {
        Ok(Some(device_mtu(lab)?).filter(|mtu| *mtu <= NARROW - HEADERS))
    })?;
    let took = began.elapsed();
    let plan = lab.site().plan;
    // A search is content with less than 16 bytes too few.
    ensure!(mtu >= NARROW - MORE_HEADERS - 16, "{mtu} of {NARROW}");
    ensure!(took <= MEASURED, "found out after {} ms", ms(took));
    Ping::new(lab.client(), plan.host_v4())
        .packet_size(mtu.into())
        .answered(PATIENCE)?;
    let v4 = transfer(lab.client(), plan.host_v4(), BULK)?;
    let v6 = transfer(lab.client(), plan.host_v6(), BULK)?;
    lab.note(&format!(
        "{NARROW} bytes carry {mtu}, found out after {} ms; 20 MB each way: IPv4 {v4}, IPv6 {v6}",
        ms(took)
    ));
    ensure!(!client.output().contains(TO_CONTROL), "packets must not need TLS");
    Ok(())
}

fn a_path_that_becomes_narrow_is_found_out_by_the_client(lab: &Lab) -> Result<()> {
    let mtu = becomes_narrow(lab, lab.site().plan.host_v4().into(), BULK / 4)?;
    ensure!(mtu <= NARROW - HEADERS, "the device must know: {mtu}");
    Ok(())
}

fn a_path_that_becomes_narrow_is_found_out_by_the_gateway(lab: &Lab) -> Result<()> {
    // Nothing large goes up meanwhile, so that the client's device may stay as it is.
    becomes_narrow(lab, lab.site().plan.host_v6().into(), BULK + BULK / 4).map(drop)
}

/// A transfer under which the path becomes narrow after so many bytes, of which the first [`BULK`] go up. Returns what the
/// client's device takes in the end.
fn becomes_narrow(lab: &Lab, to: IpAddr, after: u64) -> Result<u16> {
    let server = Server::start(&lab.site().lan)?;
    let _gateway = gateway(lab)?;
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    let wide = device_mtu(lab)?;
    let (hole, rates) = thread::scope(|scope| -> Result<_> {
        let rates = scope.spawn(|| transfer(lab.client(), to, BULK));
        until("a part of the transfer", PATIENCE, || Ok(server.moved() > after))?;
        let hole = Hole::for_large_udp(lab, NARROW)?;
        ensure!(server.moved() < after + BULK / 2, "the transfer must be under way");
        let rates = rates.join().unwrap_or_else(|_| Err(anyhow!("the transfer panicked")))?;
        Ok((hole, rates))
    })?;
    let narrow = device_mtu(lab)?;
    ensure!(!client.output().contains(TO_CONTROL), "packets must not need TLS");
    drop(hole);
    lab.note(&format!(
        "narrow after {} MB of 40: {rates}; the client's device takes {narrow} bytes after {wide}",
        after / 1_000_000
    ));
    Ok(narrow)
}

fn thirty_new_keys_cost_no_packet(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    let server = Server::start(&lab.site().lan)?;
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    let began = Instant::now();
    let over = AtomicBool::new(false);
    let moved = thread::scope(|scope| -> Result<u64> {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                transfer(lab.client(), lab.site().plan.host_v6(), LOAD)?;
            }
            anyhow::Ok(())
        });
        let renewed = renew_keys(&client);
        over.store(true, Ordering::Relaxed);
        let moved = server.moved();
        load.join().unwrap_or_else(|_| Err(anyhow!("the load panicked")))?;
        renewed.map(|()| moved)
    })?;
    let took = began.elapsed();
    let tally = pulse.end()?;
    lab.note(&format!(
        "{RENEWALS} times new keys in {} ms, {} MB meanwhile: {tally}",
        ms(took),
        moved / 1_000_000
    ));
    ensure!(tally.lost == 0, "{tally}");
    for end in [&client, &gateway] {
        ensure!(!end.output().contains(TO_CONTROL), "{} needed TLS", end.name());
    }
    Ok(())
}

fn renew_keys(client: &Process) -> Result<()> {
    for epoch in 2..RENEWALS + 2 {
        let mark = client.mark();
        client.signal(Signal::USR2)?;
        let session = field(client, mark, &["path.back"], "session")?;
        ensure!(session.ends_with(&format!(";{epoch}")), "{session}");
        data_channel(client, mark)?;
    }
    Ok(())
}

/// A train of requests that is under way.
fn train(lab: &Lab) -> Result<Pulse> {
    let pulse = Pulse::every(INTERVAL, lab.client(), lab.site().plan.host_v4())?;
    pulse.wait_answered(20)?;
    Ok(pulse)
}

fn within(tally: &Tally, limit: Duration) -> Result<()> {
    ensure!(tally.silence <= limit, "at most {} ms of silence: {tally}", ms(limit));
    Ok(())
}

/// What the tunnel's device takes, in bytes.
fn device_mtu(lab: &Lab) -> Result<u16> {
    let mut command = lab.command(lab.client(), "ip")?;
    command.args(["-o", "link", "show", "dev", &client_interface(lab.site())]);
    let output = command.output().context("cannot start ip")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mtu = text.split_once(" mtu ").and_then(|(_, rest)| rest.split(' ').next());
    mtu.context("a device has an mtu")?
        .parse()
        .context("an mtu is a number")
}

fn gateway(lab: &Lab) -> Result<Process> {
    start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)
}

fn client(lab: &Lab) -> Result<Process> {
    start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)
}

fn stock(lab: &Lab) -> Result<Ocserv<'_>> {
    Ocserv::configure(lab, lab.site(), StockLogin::Password, StockFigures::Quick)
}
