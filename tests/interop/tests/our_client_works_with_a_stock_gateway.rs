//! Our client with Debian's ocserv, TLS only.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use interop::{Failing, addresses, bulk, field, no_way, only_connection, ping_both};
use lab::{
    Flow, Lab, Mark, Ocserv, PATIENCE, Process, Server, Settings, Signal, StockFigures, StockLogin, USER,
    client_settings, start_client, stop_ocserv,
};

fn main() -> ExitCode {
    lab::run(
        &["ocserv", "ocpasswd"],
        lab::tests![
            a_password_in_two_rounds_carries_bulk_traffic_both_ways,
            a_certificate_gets_in_over_ipv6,
            debians_sample_figures_are_served,
            a_reconnect_keeps_addresses_and_flows,
            a_restart_of_the_gateway_is_survived,
            a_crash_of_the_gateway_is_survived,
            a_wrong_password_is_named,
            a_missing_certificate_is_named,
        ],
    )
}

fn a_password_in_two_rounds_carries_bulk_traffic_both_ways(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = stock(lab, StockLogin::Password, StockFigures::Quick)?.start()?;
    let before = lab.client().snapshot()?;
    no_way(lab.client(), lab.site().plan)?;
    let client = up(lab, |settings| settings)?;
    let state = lab.client().snapshot()?;
    let pushed = site_routes(&state, lab);
    ensure!(
        pushed,
        "the granted routes, and no others, must lead into the tunnel:\n{state}"
    );
    ping_both(lab.client(), lab.site().plan)?;
    bulk(lab, lab.client(), lab.site().plan)?;

    let (status, time) = client.stop(Signal::TERM, PATIENCE)?;
    ensure!(status.success(), "the client ended with {status}");
    lab.note(&format!("client stopped in {} ms", time.as_millis()));
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    gateway.wait_for("user disconnected", PATIENCE)?;
    Ok(())
}

fn a_certificate_gets_in_over_ipv6(lab: &Lab) -> Result<()> {
    let _gateway = stock(lab, StockLogin::Certificate, StockFigures::Quick)?.start()?;
    let alice = lab.pki().client(USER)?;
    let client = up(lab, |settings| {
        settings
            .with("gateway.addresses", vec![lab.site().plan.gateway_v6().to_string()])
            .without("login.user")
            .without("login.password_file")
            .with_path("login.certificate_file", &alice.certificate)
            .with_path("login.key_file", &alice.key)
    })?;
    let peer = field(&client, Mark::default(), &["session.start"], "peer")?;
    ensure!(peer == lab.site().plan.gateway_v6().to_string(), "{peer}");
    ping_both(lab.client(), lab.site().plan)
}

fn debians_sample_figures_are_served(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let _gateway = stock(lab, StockLogin::Password, StockFigures::DebianSample)?.start()?;
    let client = up(lab, |settings| settings)?;
    let start = client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    ensure!(
        start.contains("1.2") || start.contains("1_2"),
        "the sample allows TLS 1.2 only: {start}"
    );
    ping_both(lab.client(), lab.site().plan)?;
    bulk(lab, lab.client(), lab.site().plan)
}

fn a_reconnect_keeps_addresses_and_flows(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let _gateway = stock(lab, StockLogin::Password, StockFigures::Quick)?.start()?;
    let client = up(lab, |settings| settings)?;
    let first = only_connection(&client)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v4())?;
    let mut flow_v6 = Flow::open(lab.client(), lab.site().plan.host_v6())?;

    let mark = client.mark();
    client.signal(Signal::USR2)?;
    let without = field(&client, mark, &["path.back"], "after_ms")?;
    let time = flow.echo(PATIENCE)?;
    flow_v6.echo(PATIENCE)?;
    lab.note(&format!(
        "reconnected after {without} ms; a flow answered {} ms later",
        time.as_millis()
    ));
    ensure!(only_connection(&client)? != first, "it must be another connection");
    ensure!(
        !client.output_since(mark).contains("other addresses"),
        "the addresses must stay"
    );
    ping_both(lab.client(), lab.site().plan)
}

fn a_restart_of_the_gateway_is_survived(lab: &Lab) -> Result<()> {
    let mut stock = stock(lab, StockLogin::Password, StockFigures::Quick)?;
    let gateway = stock.start()?;
    let client = up(lab, |settings| settings)?;
    let granted = addresses(&client)?;
    ping_both(lab.client(), lab.site().plan)?;
    let mark = client.mark();
    stop_ocserv(&gateway)?;
    client.wait_for_after(mark, "path.lost", PATIENCE)?;
    let _gateway = stock.start()?;
    ping_both(lab.client(), lab.site().plan)?;
    ensure!(client.is_running(), "the same client must carry on");
    lab.note(&format!(
        "addresses before {granted:?}; log since: {}",
        words(&client.output_since(mark))
    ));
    Ok(())
}

fn a_crash_of_the_gateway_is_survived(lab: &Lab) -> Result<()> {
    let mut stock = stock(lab, StockLogin::Password, StockFigures::Quick)?;
    let gateway = stock.start()?;
    let client = up(lab, |settings| settings)?;
    let mark = client.mark();
    // With its whole group: workers would otherwise live a moment longer.
    gateway.stop(Signal::KILL, PATIENCE)?;
    client.wait_for_after(mark, "path.lost", PATIENCE)?;
    let _gateway = stock.start()?;
    ping_both(lab.client(), lab.site().plan)
}

fn a_wrong_password_is_named(lab: &Lab) -> Result<()> {
    let _gateway = stock(lab, StockLogin::Password, StockFigures::Quick)?.start()?;
    let wrong = lab.file("wrong", "not the password")?;
    let settings = client_settings(lab, lab.site())?.with_path("login.password_file", &wrong);
    Failing::new(lab, lab.client(), "client", "client", &settings)?.ends_with(4, &["the gateway refused the login"])
}

fn a_missing_certificate_is_named(lab: &Lab) -> Result<()> {
    let _gateway = stock(lab, StockLogin::Certificate, StockFigures::Quick)?.start()?;
    let settings = client_settings(lab, lab.site())?;
    Failing::new(lab, lab.client(), "client", "client", &settings)?.ends_with(4, &["certificate"])
}

fn stock(lab: &Lab, login: StockLogin, figures: StockFigures) -> Result<Ocserv<'_>> {
    Ocserv::configure(lab, lab.site(), login, figures)
}

fn up(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
    let settings = change(client_settings(lab, lab.site())?);
    start_client(lab, lab.client(), "client", &settings)
}

/// The words of lifecycle.md in a log, in order.
fn words(log: &str) -> String {
    let words = ["path.lost", "path.back", "session.start", "session.end", "trying again"];
    let found = log
        .lines()
        .filter_map(|line| words.iter().find(|word| line.contains(**word)));
    found.copied().collect::<Vec<_>>().join(", ")
}

/// Whether the networks that the gateway names, and no default route, lead into the tunnel.
fn site_routes(state: &platform::network::HostState, lab: &Lab) -> bool {
    let plan = lab.site().plan;
    let device = format!("dev {}", lab::client_interface(lab.site()));
    let into: Vec<&str> = state
        .lines()
        .filter(|line| line.starts_with("route") && line.contains(&device))
        .collect();
    let has = |net: String| into.iter().any(|line| line.contains(&format!(" {net} ")));
    has(plan.lan_v4().to_string())
        && has(plan.lan_v6().to_string())
        && !has("::/0".to_owned())
        && !has("default".to_owned())
}
