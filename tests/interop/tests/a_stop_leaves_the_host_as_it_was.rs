//! Links, addresses, routes and rules before the start and after the end, whatever the end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{no_way, ping_both, session_end};
use lab::{
    Lab, Mark, PASSWORD, PATIENCE, Process, Settings, Signal, Users, client_interface, client_settings,
    gateway_settings, spawn_client, start_client, start_gateway, until, users_file,
};
use platform::netns::Namespace;
use platform::network::HostState;

/// Far beyond the 250 ms that a stop may take: only a hang fails the test, the figure is printed.
const STOP: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    lab::run(
        &["ip"],
        lab::tests![
            sigterm_and_sigint_stop_cleanly,
            sigusr1_takes_the_tunnel_down_and_sigusr2_up_again,
            a_client_told_to_wait_touches_nothing,
            a_stop_while_connecting_is_clean,
            a_stop_does_not_wait_for_a_gateway_that_is_gone,
            an_end_by_the_gateway_is_clean,
            a_device_removed_by_somebody_ends_cleanly,
            what_a_killed_client_leaves_is_swept_at_the_next_start,
            a_reload_touches_nothing,
            a_gateway_leaves_nothing_however_it_ends,
        ],
    )
}

fn sigterm_and_sigint_stop_cleanly(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    for (name, signal) in [("term", Signal::TERM), ("int", Signal::INT)] {
        // With a default route too: that one has more to undo.
        let client = start_client(lab, lab.client(), name, &settings(lab)?)?;
        ping_both(lab.client(), lab.site().plan)?;
        ensure!(
            !before.changes(&lab.client().snapshot()?).is_empty(),
            "a tunnel is on the host"
        );
        let (status, time) = client.stop(signal, STOP)?;
        ensure!(status.success(), "the client ended with {status}");
        restored(lab.client(), &before)?;
        no_way(lab.client(), lab.site().plan)?;
        let acknowledged = client.wait_for_line(Mark::default(), &["stop.ack"], PATIENCE)?;
        lab.note(&format!(
            "SIG{}: exit after {} ms; {}",
            name.to_uppercase(),
            time.as_millis(),
            tail(&acknowledged)
        ));
    }
    session_end(&gateway, "user_stop")?;
    Ok(())
}

fn sigusr1_takes_the_tunnel_down_and_sigusr2_up_again(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    for round in 1..=3 {
        ping_both(lab.client(), lab.site().plan)?;
        let mark = client.mark();
        let began = Instant::now();
        client.signal(Signal::USR1)?;
        let acknowledged = client.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
        let time = began.elapsed();
        // The device itself goes after the acknowledgement.
        until("the host to be as it was", STOP, || {
            Ok(before.changes(&lab.client().snapshot()?).is_empty())
        })?;
        no_way(lab.client(), lab.site().plan)?;
        lab.note(&format!(
            "down {round}: {} ms; {}",
            time.as_millis(),
            tail(&acknowledged)
        ));
        session_end(&gateway, "user_stop")?;
        ensure!(client.is_running(), "the daemon stays");
        let mark = client.mark();
        client.signal(Signal::USR2)?;
        client.wait_for_line(mark, &["session.start"], PATIENCE)?;
    }
    ping_both(lab.client(), lab.site().plan)?;
    // Down, and then the end of a daemon that is down already.
    let mark = client.mark();
    client.signal(Signal::USR1)?;
    client.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
    let (status, _) = client.stop(Signal::TERM, STOP)?;
    ensure!(status.success(), "the client ended with {status}");
    restored(lab.client(), &before)
}

fn a_client_told_to_wait_touches_nothing(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let client = spawn_client(
        lab,
        lab.client(),
        "client",
        &settings(lab)?.with("tunnel.start", "down"),
    )?;
    client.wait_for("SIGUSR2 to bring the tunnel up", PATIENCE)?;
    restored(lab.client(), &before)?;
    client.signal(Signal::USR2)?;
    client.wait_for("session.start", PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    client.stop(Signal::TERM, STOP)?;
    restored(lab.client(), &before)
}

fn a_stop_while_connecting_is_clean(lab: &Lab) -> Result<()> {
    let mute = lab
        .site()
        .gateway
        .run(|| std::net::TcpListener::bind("0.0.0.0:443"))??;
    let before = lab.client().snapshot()?;
    let client = spawn_client(lab, lab.client(), "client", &settings(lab)?)?;
    until("a connection", PATIENCE, || Ok(!client.connections()?.is_empty()))?;
    let (status, time) = client.stop(Signal::TERM, STOP)?;
    ensure!(status.success(), "the client ended with {status}");
    lab.note(&format!("stopped in {} ms while connecting", time.as_millis()));
    drop(mute);
    restored(lab.client(), &before)
}

fn a_stop_does_not_wait_for_a_gateway_that_is_gone(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    ping_both(lab.client(), lab.site().plan)?;
    lab.internet().down("site-a")?;
    let (status, time) = client.stop(Signal::TERM, STOP)?;
    ensure!(status.success(), "the client ended with {status}");
    lab.note(&format!("stopped in {} ms with the cable cut", time.as_millis()));
    restored(lab.client(), &before)
}

fn an_end_by_the_gateway_is_clean(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    Users::default()
        .and("bob", PASSWORD, &[])?
        .write(&users_file(lab, lab.site()))?;
    gateway.signal(Signal::HUP)?;
    let status = client.wait_exit(PATIENCE)?;
    ensure!(status.code() == Some(6), "the client ended with {status}");
    restored(lab.client(), &before)
}

fn a_device_removed_by_somebody_ends_cleanly(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    ping_both(lab.client(), lab.site().plan)?;
    let mut delete = lab.command(lab.client(), "ip")?;
    delete.args(["link", "delete", &client_interface(lab.site())]);
    ensure!(
        lab.spawn("ip", delete)?.wait_exit(PATIENCE)?.success(),
        "the device is deleted"
    );
    let status = client.wait_exit(PATIENCE)?;
    ensure!(status.code() == Some(1), "the client ended with {status}");
    client.wait_for("the device of the tunnel is gone", PATIENCE)?;
    restored(lab.client(), &before)
}

fn what_a_killed_client_leaves_is_swept_at_the_next_start(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let client = start_client(lab, lab.client(), "killed", &settings(lab)?)?;
    ping_both(lab.client(), lab.site().plan)?;
    client.stop(Signal::KILL, STOP)?;
    let left = before.changes(&lab.client().snapshot()?);
    ensure!(
        left.iter().any(|line| line.starts_with("+ rule")),
        "nobody could remove the rules: {left:#?}"
    );
    ensure!(
        !left.iter().any(|line| line.starts_with("+ link")),
        "the device goes with its process: {left:#?}"
    );

    let next = start_client(lab, lab.client(), "next", &settings(lab)?)?;
    next.wait_for("removed what an earlier run left", PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    next.stop(Signal::TERM, STOP)?;
    restored(lab.client(), &before)
}

fn a_reload_touches_nothing(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let settings = settings(lab)?;
    let client = start_client(lab, lab.client(), "client", &settings)?;
    ping_both(lab.client(), lab.site().plan)?;
    let with_tunnel = lab.client().snapshot()?;
    let path = lab.folder().join("client.toml");
    let changes: [(Settings, &str); 4] = [
        (settings.clone(), "configuration read again"),
        (settings.clone().with("reconnect.max_s", 7), "configuration read again"),
        (settings.clone().with("reconnect.maximum", 7), "the old one goes on"),
        (settings.with("tunnel.mtu", 1000), "the old configuration goes on"),
    ];
    for (changed, said) in changes {
        changed.write(&path)?;
        let mark = client.mark();
        client.signal(Signal::HUP)?;
        client.wait_for_after(mark, said, PATIENCE)?;
        restored(lab.client(), &with_tunnel)?;
    }
    ensure!(!client.output().contains("path.lost"), "the connection goes on");
    Ok(())
}

fn a_gateway_leaves_nothing_however_it_ends(lab: &Lab) -> Result<()> {
    let before = lab.site().gateway.snapshot()?;
    for (name, signal) in [("term", Signal::TERM), ("int", Signal::INT), ("kill", Signal::KILL)] {
        let gateway = start_gateway(lab, lab.site(), name, &gateway_settings(lab, lab.site())?)?;
        let client = start_client(lab, lab.client(), &format!("client-{name}"), &settings(lab)?)?;
        ping_both(lab.client(), lab.site().plan)?;
        let (status, time) = gateway.stop(signal, STOP)?;
        ensure!(
            status.success() || signal == Signal::KILL,
            "the gateway ended with {status}"
        );
        lab.note(&format!(
            "gateway, SIG{}: exit after {} ms",
            name.to_uppercase(),
            time.as_millis()
        ));
        restored(&lab.site().gateway, &before)?;
        client.stop(Signal::TERM, STOP)?;
    }
    Ok(())
}

fn gateway(lab: &Lab) -> Result<Process> {
    // Everything through the tunnel, so that there are as many rules and routes as there can be.
    let settings = gateway_settings(lab, lab.site())?.without("network.routes");
    start_gateway(lab, lab.site(), "gateway", &settings)
}

fn settings(lab: &Lab) -> Result<Settings> {
    client_settings(lab, lab.site())
}

fn restored(host: &Namespace, before: &HostState) -> Result<()> {
    let changes = before.changes(&host.snapshot().context("cannot look at the host")?);
    ensure!(changes.is_empty(), "this is different now: {changes:#?}");
    Ok(())
}

/// A line of the log from its word on.
fn tail(line: &str) -> &str {
    line.find("stop.ack").map_or(line, |at| &line[at..])
}
