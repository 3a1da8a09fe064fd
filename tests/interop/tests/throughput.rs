//! How fast packets go through the tunnel, beside the stock ends on the same hosts in the same run. Ratios count; the figures are printed.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Ocserv, Openconnect, PATIENCE, Settings, Signal, StockFigures, StockLogin, client_settings, gateway_settings,
    start_client, start_gateway, stock_channel,
};
use platform::netns::Namespace;

/// What each measurement takes.
const SECONDS: &str = "2";

/// Bytes of a segment, about.
const SEGMENT: f64 = 1350.0;

/// The share of segments that may be sent again. A gateway that lost what it had no time for lost 8 %.
const LOST: f64 = 0.03;

fn main() -> ExitCode {
    lab::run(
        &["iperf3", "openconnect", "ocserv", "ip"],
        lab::tests![our_ends_carry_more_than_the_stock_ends],
    )
}

/// Bits per second of one measurement.
#[derive(Clone, Copy)]
struct Rates {
    up: f64,
    down: f64,
    four: f64,
    /// The larger share of segments that one stream sent again, up or down.
    sent_again: f64,
}

fn our_ends_carry_more_than_the_stock_ends(lab: &Lab) -> Result<()> {
    lab.cut_at_the_devices()?;
    let (stock, stock_tls) = {
        let mut ocserv = Ocserv::configure(lab, lab.site(), StockLogin::Password, StockFigures::Quick)?;
        let gateway = ocserv.start()?;
        let openconnect =
            || Openconnect::new(lab, lab.client(), lab.site(), "openconnect").map(Openconnect::good_password);
        let client = openconnect()?.with_dtls().up()?;
        stock_channel(&client)?;
        let rates = measure(lab, "openconnect and ocserv, DTLS")?;
        client.stop(Signal::INT, PATIENCE)?;
        let client = openconnect()?.up()?;
        let tls = measure(lab, "openconnect and ocserv, TLS")?;
        client.stop(Signal::INT, PATIENCE)?;
        lab::stop_ocserv(&gateway)?;
        (rates, tls)
    };
    let dtls = ours(lab, "ours, DTLS", |settings| settings)?;
    let tls = ours(lab, "ours, TLS", |settings| settings.with("dtls.enabled", false))?;
    let ratio = |ours: f64, stock: f64| ours / stock;
    lab.note(&format!(
        "ours over stock: DTLS {:.1} up, {:.1} down, {:.1} with four streams; TLS {:.1} up, {:.1} down",
        ratio(dtls.up, stock.up),
        ratio(dtls.down, stock.down),
        ratio(dtls.four, stock.four),
        ratio(tls.up, stock_tls.up),
        ratio(tls.down, stock_tls.down),
    ));
    lab.note(&format!(
        "our TLS over our DTLS: {:.2} up, {:.2} down, {:.2} with four streams",
        ratio(tls.up, dtls.up),
        ratio(tls.down, dtls.down),
        ratio(tls.four, dtls.four),
    ));
    for (what, ours, theirs) in [
        ("up", dtls.up, stock.up),
        ("down", dtls.down, stock.down),
        ("with four streams", dtls.four, stock.four),
        ("up over TLS", tls.up, stock_tls.up),
        ("down over TLS", tls.down, stock_tls.down),
    ] {
        ensure!(ours > 2.0 * theirs, "{what}: {ours:.2e} against {theirs:.2e} bits/s");
    }
    ensure!(
        dtls.sent_again < LOST,
        "{:.1} % was sent again",
        dtls.sent_again * 100.0
    );
    Ok(())
}

fn ours(lab: &Lab, what: &str, change: impl Fn(Settings) -> Settings) -> Result<Rates> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &change(gateway_settings(lab, lab.site())?))?;
    let client = start_client(lab, lab.client(), "client", &change(client_settings(lab, lab.site())?))?;
    if what.contains("DTLS") {
        client.wait_for("packets take the data channel", PATIENCE)?;
    }
    let before = (client.processor_time()?, gateway.processor_time()?);
    let rates = measure(lab, what)?;
    lab.note(&format!(
        "{what}: processor time {:.2} s and {:.2} s",
        client.processor_time()? - before.0,
        gateway.processor_time()? - before.1
    ));
    client.stop(Signal::TERM, PATIENCE)?;
    gateway.stop(Signal::TERM, PATIENCE)?;
    Ok(rates)
}

fn measure(lab: &Lab, what: &str) -> Result<Rates> {
    let up = iperf(lab, lab.client(), &[])?;
    let down = iperf(lab, lab.client(), &["-R"])?;
    let four = iperf(lab, lab.client(), &["-P", "4"])?;
    lab.note(&format!(
        "{what}: {:.2} Gbit/s up, {:.2} down, {:.2} with four streams; sent again {:.2} % up, {:.2} % down",
        up.rate / 1e9,
        down.rate / 1e9,
        four.rate / 1e9,
        up.sent_again * 100.0,
        down.sent_again * 100.0,
    ));
    Ok(Rates {
        up: up.rate,
        down: down.rate,
        four: four.rate,
        sent_again: up.sent_again.max(down.sent_again),
    })
}

/// One measurement.
struct Figures {
    /// Bits per second.
    rate: f64,
    /// Segments that were sent again, of all.
    sent_again: f64,
}

/// One measurement from `client` to the host of the LAN.
fn iperf(lab: &Lab, client: &Namespace, more: &[&str]) -> Result<Figures> {
    let host = lab.site().plan.host_v4().to_string();
    let mut server = lab.command(&lab.site().lan, "iperf3")?;
    server.args(["-s", "-1", "--forceflush"]);
    let server = lab.spawn("iperf3-server", server)?;
    server.wait_for("Server listening", PATIENCE)?;
    let mut command = lab.command(client, "iperf3")?;
    let output = command
        .args(["-c", &host, "-t", SECONDS, "-J"])
        .args(more)
        .output()
        .context("run iperf3")?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("read what iperf3 says")?;
    server.wait_exit(PATIENCE)?;
    let figure = |of: &str, what: &str| {
        let figure = report["end"][of][what].as_f64();
        figure.with_context(|| format!("iperf3 says no {what}: {report}"))
    };
    Ok(Figures {
        rate: figure("sum_received", "bits_per_second")?,
        sent_again: figure("sum_sent", "retransmits")? * SEGMENT / figure("sum_sent", "bytes")?,
    })
}
