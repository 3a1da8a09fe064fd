//! A client whose process is stopped keeps its session, because its kernel goes on answering: seen in the gateway's own
//! socket, not assumed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{BULK, only_connection, ping_both};
use lab::{
    Connection, Flow, Lab, PATIENCE, Process, Server, Settings, Signal, client_settings, eventually, gateway_settings,
    start_client, start_gateway, transfer, until,
};

/// Dead-peer detection, in seconds: whoever judged by it would give a silent client up after three times as long.
const DPD_S: i64 = 2;

/// Silence before the kernel's first probe, and between two, in seconds.
const KEEPALIVE_S: i64 = 1;

fn main() -> ExitCode {
    lab::run(
        &[],
        lab::tests![
            a_stopped_client_keeps_session_and_connection,
            a_stop_in_the_middle_of_a_transfer_costs_no_byte,
            a_host_out_of_reach_is_seen_by_its_unanswered_probes,
        ],
    )
}

fn a_stopped_client_keeps_session_and_connection(lab: &Lab) -> Result<()> {
    let (_server, gateway, client) = ends(lab, DPD_S)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v4())?;
    let before = only_connection(&client)?;
    let seen = gateways_end(&gateway)?;
    let mark = client.mark();

    client.signal(Signal::STOP)?;
    let stopped = Instant::now();
    let condemned = Duration::from_secs(4 * DPD_S as u64);
    let (mut answers, mut last_ack) = (0, 0);
    let info = eventually("four times the dead-peer detection in silence", PATIENCE, || {
        let info = seen.info()?;
        if stopped.elapsed() > Duration::from_secs(3) {
            // Each probe was answered before the next but one.
            ensure!(
                info.probes <= 1 && info.last_ack_recv_ms <= 2_500,
                "the kernel does not answer: {info:?}"
            );
        }
        answers += u32::from(info.last_ack_recv_ms < last_ack);
        last_ack = info.last_ack_recv_ms;
        Ok((u128::from(info.last_data_recv_ms) >= condemned.as_millis()).then_some(info))
    })?;
    ensure!(answers >= 3, "only {answers} probes were answered");
    lab.note(&format!(
        "stopped for {:.1} s: last data {} ms ago, last acknowledgement {} ms ago, {answers} probes answered, {} open",
        stopped.elapsed().as_secs_f64(),
        info.last_data_recv_ms,
        info.last_ack_recv_ms,
        info.probes
    ));
    client.signal(Signal::CONT)?;

    let time = flow.echo(PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    lab.note(&format!("the first echo took {} ms", time.as_millis()));
    ensure!(
        only_connection(&client)? == before,
        "it must be the same TCP connection"
    );
    client.wait_for_after(mark, "clock.gap", PATIENCE)?;
    let since = client.output_since(mark);
    ensure!(
        !since.contains("path.lost") && !since.contains("connecting"),
        "the client lost nothing"
    );
    let gateways = gateway.output();
    ensure!(
        !gateways.contains("session detached") && !gateways.contains("session.end"),
        "nor did the gateway"
    );
    Ok(())
}

fn a_stop_in_the_middle_of_a_transfer_costs_no_byte(lab: &Lab) -> Result<()> {
    let (server, gateway, client) = ends(lab, DPD_S)?;
    let before = only_connection(&client)?;
    let seen = gateways_end(&gateway)?;
    let rates = std::thread::scope(|scope| {
        let transfer = scope.spawn(|| transfer(lab.client(), lab.site().plan.host_v4(), BULK));
        // Once on the way up, once on the way down.
        for moved in [BULK / 4, BULK + BULK / 4] {
            until("a part of the transfer", PATIENCE, || Ok(server.moved() > moved))?;
            client.signal(Signal::STOP)?;
            until("silence", PATIENCE, || Ok(seen.info()?.last_data_recv_ms >= 2_500))?;
            client.signal(Signal::CONT)?;
        }
        transfer.join().ok().context("the transfer panicked")?
    })?;
    lab.note(&format!("100 MB each way with a stop of 2.5 s on each: {rates}"));
    ensure!(
        only_connection(&client)? == before,
        "it must be the same TCP connection"
    );
    Ok(())
}

fn a_host_out_of_reach_is_seen_by_its_unanswered_probes(lab: &Lab) -> Result<()> {
    // The client must not judge by itself here.
    let (_server, gateway, client) = ends(lab, 600)?;
    let before = only_connection(&client)?;
    let seen = gateways_end(&gateway)?;
    // With data in flight the kernel repeats that, and sends no probes.
    until("an idle connection", PATIENCE, || {
        let info = seen.info()?;
        Ok(info.unacked == 0 && info.last_data_recv_ms > 300)
    })?;
    lab.internet().down("client")?;
    until("two unanswered probes", PATIENCE, || Ok(seen.info()?.probes >= 2))?;
    ensure!(
        !gateway.output().contains("session detached"),
        "the gateway only watches"
    );
    lab.internet().up("client")?;
    until("an answered probe", PATIENCE, || Ok(seen.info()?.probes == 0))?;
    ping_both(lab.client(), lab.site().plan)?;
    ensure!(
        only_connection(&client)? == before,
        "it must be the same TCP connection"
    );
    Ok(())
}

fn ends(lab: &Lab, client_dpd_s: i64) -> Result<(Server, Process, Process)> {
    let server = Server::start(&lab.site().lan)?;
    let quick = |settings: Settings| {
        settings
            .with("tcp.keepalive_idle_s", KEEPALIVE_S)
            .with("tcp.keepalive_interval_s", KEEPALIVE_S)
    };
    let settings = quick(gateway_settings(lab, lab.site())?).with("session.dpd_s", DPD_S);
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let settings = quick(client_settings(lab, lab.site())?).with("tcp.keepalive_count", 30);
    let settings = settings.with("session.dpd_s", client_dpd_s);
    let client = start_client(lab, lab.client(), "client", &settings)?;
    ping_both(lab.client(), lab.site().plan)?;
    Ok((server, gateway, client))
}

/// The gateway's end of the client's connection.
fn gateways_end(gateway: &Process) -> Result<Connection> {
    let mut connections = gateway.connections()?;
    ensure!(
        connections.len() == 1,
        "{} connections at the gateway instead of one",
        connections.len()
    );
    connections.pop().context("there is one")
}
