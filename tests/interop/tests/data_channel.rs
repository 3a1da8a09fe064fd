//! Packets over UDP: our ends together, and each with a stock peer; over IPv4 and IPv6, by every suite.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{SUITES, TO_DATA, channel_becomes, channel_in_status, data_channel, field, ping_both};
use lab::{
    Hole, Lab, Mark, Ocserv, Openconnect, PATIENCE, Ping, Process, Server, Settings, Signal, StockFigures, StockLogin,
    client_settings, gateway_settings, start_client, start_gateway, stock_channel, transfer, until,
};

/// Moved each way, in bytes.
const MOVED: u64 = 20_000_000;

fn main() -> ExitCode {
    lab::run(
        &["openconnect", "ocserv", "ocpasswd", "ip", "nft"],
        lab::tests![
            our_ends_agree_on_every_suite_over_ipv4,
            our_ends_agree_over_ipv6,
            either_end_can_do_without,
            our_client_and_ocserv_agree_over_ipv4,
            our_client_and_ocserv_agree_over_ipv6,
            openconnect_and_our_gateway_agree_over_ipv4,
            openconnect_and_our_gateway_agree_over_ipv6,
        ],
    )
}

fn our_ends_agree_on_every_suite_over_ipv4(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    for (word, name, _) in SUITES {
        // The client says which, and the gateway takes what it likes best of that.
        let gateway = gateway(lab, |settings| settings)?;
        let client = client(lab, |settings| settings.with("dtls.suites", vec![word]))?;
        carried(lab, &gateway, &client, name)?;
        ensure!(client.stop(Signal::TERM, PATIENCE)?.0.success());
        gateway.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

fn our_ends_agree_over_ipv6(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, |settings| settings)?;
    let client = client(lab, |settings| over_ipv6(lab, settings))?;
    let (_, first, _) = SUITES[0];
    carried(lab, &gateway, &client, first)
}

fn either_end_can_do_without(lab: &Lab) -> Result<()> {
    let off = |settings: Settings| settings.with("dtls.enabled", false);
    let both = [(true, false), (false, true)];
    for (gateway_off, client_off) in both {
        let gateway = gateway(lab, |settings| if gateway_off { off(settings) } else { settings })?;
        let client = client(lab, |settings| if client_off { off(settings) } else { settings })?;
        ping_both(lab.client(), lab.site().plan)?;
        ensure!(channel_in_status(lab)?.is_none(), "one of them does without");
        for end in [&gateway, &client] {
            ensure!(!end.output().contains(TO_DATA), "{} uses UDP", end.name());
        }
    }
    Ok(())
}

fn our_client_and_ocserv_agree_over_ipv4(lab: &Lab) -> Result<()> {
    with_ocserv(lab, |settings| settings)
}

fn our_client_and_ocserv_agree_over_ipv6(lab: &Lab) -> Result<()> {
    with_ocserv(lab, |settings| over_ipv6(lab, settings))
}

fn openconnect_and_our_gateway_agree_over_ipv4(lab: &Lab) -> Result<()> {
    with_openconnect(lab, |client| client)
}

fn openconnect_and_our_gateway_agree_over_ipv6(lab: &Lab) -> Result<()> {
    with_openconnect(lab, |client| client.over_ipv6(lab.site()))
}

/// Our ends agree on the suite, say so in every way they have, and carry traffic by it.
fn carried(lab: &Lab, gateway: &Process, client: &Process, suite: &str) -> Result<()> {
    let (ours, theirs) = (
        data_channel(client, Mark::default())?,
        data_channel(gateway, Mark::default())?,
    );
    ensure!(ours == suite && theirs == suite, "{ours} and {theirs}, not {suite}");
    channel_becomes(lab, Some(suite))?;
    for end in [client, gateway] {
        let facts = [("extended_master_secret", "true"), ("roams", "true")];
        for (name, value) in facts {
            ensure!(field(end, Mark::default(), &[TO_DATA], name)? == value, "{name}");
        }
    }
    let outer = field(client, Mark::default(), &["session.start"], "peer")?;
    ping_both(lab.client(), lab.site().plan)?;
    let rates = transfer(lab.client(), lab.site().plan.host_v4(), MOVED)?;
    transfer(lab.client(), lab.site().plan.host_v6(), MOVED / 10)?;
    stayed_up(client)?;
    lab.note(&format!("{suite} to {outer}, 20 MB each way: {rates}"));
    Ok(())
}

/// What one of our clients and ocserv agree on, and carry.
fn with_ocserv(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let mut stock = Ocserv::configure(lab, lab.site(), StockLogin::Password, StockFigures::Quick)?;
    let _gateway = stock.start()?;
    let client = client(lab, change)?;
    let suite = data_channel(&client, Mark::default())?;
    until("the gateway's word for it", PATIENCE, || Ok(stock.channel()?.is_some()))?;
    let theirs = stock.channel()?.context("it has just been there")?;
    same_suite(&suite, &theirs)?;
    channel_becomes(lab, Some(&suite))?;
    let outer = field(&client, Mark::default(), &["session.start"], "peer")?;
    ping_both(lab.client(), lab.site().plan)?;
    let rates = transfer(lab.client(), lab.site().plan.host_v4(), MOVED)?;
    stayed_up(&client)?;
    lab.note(&format!("{suite} and {theirs} to {outer}, 20 MB each way: {rates}"));
    Ok(())
}

/// What openconnect and our gateway agree on, and carry; and that openconnect finds out what the path carries.
fn with_openconnect(lab: &Lab, change: impl FnOnce(Openconnect<'_>) -> Openconnect<'_>) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, |settings| settings)?;
    let _hole = Hole::for_large_udp(lab, 1380)?;
    let stock = Openconnect::new(lab, lab.client(), lab.site(), "openconnect")?;
    let client = change(stock.good_password().with_dtls()).up()?;
    let theirs = stock_channel(&client)?;
    // The gateway sends over UDP once something has come that way.
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    let suite = data_channel(&gateway, Mark::default())?;
    same_suite(&suite, &theirs)?;
    let mtu = client.wait_for_line(Mark::default(), &["Detected MTU of"], PATIENCE)?;
    let mtu = mtu.split_once("Detected").map(|(_, rest)| rest).unwrap_or_default();
    ping_both(lab.client(), lab.site().plan)?;
    let rates = transfer(lab.client(), lab.site().plan.host_v4(), MOVED)?;
    lab.note(&format!("{suite} and {theirs}, 20 MB each way: {rates}; detected{mtu}"));
    ensure!(client.stop(Signal::INT, PATIENCE)?.0.success());
    interop::session_end(&gateway, "user_stop")?;
    Ok(())
}

/// The names of one suite in the IANA registry and in GnuTLS.
fn same_suite(ours: &str, stock: &str) -> Result<()> {
    let known = SUITES
        .iter()
        .any(|(_, name, words)| *name == ours && stock.contains(words));
    ensure!(known, "{ours} here, {stock} there");
    Ok(())
}

/// Packets took the data channel once, and from then on.
fn stayed_up(client: &Process) -> Result<()> {
    let said = client.output();
    ensure!(!said.contains(interop::TO_CONTROL), "{} fell back", client.name());
    ensure!(said.matches(TO_DATA).count() == 1, "{} began anew", client.name());
    Ok(())
}

fn gateway(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
    start_gateway(lab, lab.site(), "gateway", &change(gateway_settings(lab, lab.site())?))
}

fn client(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
    start_client(lab, lab.client(), "client", &change(client_settings(lab, lab.site())?))
}

fn over_ipv6(lab: &Lab, settings: Settings) -> Settings {
    settings.with("gateway.addresses", vec![lab.site().plan.gateway_v6().to_string()])
}
