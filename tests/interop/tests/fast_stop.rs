//! A stop is acknowledged at once whatever is owed, a start never waits for it, and one tunnel's end is no matter of another's.
//!
//! The housekeeping of these tests waits at a gate for as long as the test wants: it stands for the job of a minute. The figures
//! of the design are printed; what is asserted is what must hold on a machine that has other things to do.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{Daemon, only_connection, ping_both};
use lab::{
    Hole, Lab, LongJob, Meter, Names, PATIENCE, Ping, Process, Settings, Signal, Steady, Times, client_settings,
    gateway_settings, is_long, marmot, ms, start_client, start_gateway, until,
};

/// The budget of a stop.
const BUDGET: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    lab::run_scaled(
        &["nft", "ip"],
        lab::tests![
            a_stop_is_acknowledged_at_once_whatever_is_owed_and_whoever_is_silent,
            a_start_never_waits_for_what_is_owed,
            a_tunnel_that_loses_its_device_restores_the_host_and_says_why,
            the_end_of_one_tunnel_costs_another_nothing,
        ],
    )
}

/// How often something is repeated: in CI, or with MARMOT_LONG=1.
fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

fn a_stop_is_acknowledged_at_once_whatever_is_owed_and_whoever_is_silent(lab: &Lab) -> Result<()> {
    let names = Names::serve(lab)?;
    let _gateway = gateway(lab)?;
    let (busy, idle) = (LongJob::new(lab, "busy-job")?, LongJob::without_hook(lab, "idle-job")?);
    let by_name = |settings: Settings| settings.without("gateway.addresses");
    let daemons = [
        Daemon::start(lab, "busy", |settings| busy.settings(by_name(settings)))?,
        Daemon::start(lab, "idle", |settings| idle.settings(by_name(settings)))?,
    ];
    // The first session leaves the job that all the others find.
    for daemon in &daemons {
        daemon.up()?;
        daemon.down()?;
        daemon.gone()?;
    }
    busy.wait_begun(0)?;

    let stops = times(40, 200);
    let silent = silence(lab);
    let mut acknowledged: [Times; 2] = Default::default();
    for _ in 0..stops {
        for (daemon, times) in daemons.iter().zip(&mut acknowledged) {
            daemon.up()?;
            through(lab)?;
            let hole = Hole::dig(lab, lab.internet(), &silent)?;
            times.push(daemon.down()?);
            drop(hole);
            daemon.gone()?;
        }
    }
    let [with, without] = &acknowledged;
    let ratio = with.ratio_to(without);
    lab.note(&format!("acknowledged with a job under way: {with}"));
    lab.note(&format!("without: {without}; ratio of the medians {ratio:.2}"));

    let mut exits = Times::default();
    drop(daemons);
    let settings = busy.settings(by_name(client_settings(lab, lab.site())?.with("tunnel.name", "busy")));
    for number in 0..times(10, 50) {
        let begun = busy.began()?.len();
        let client = start_client(lab, lab.client(), &format!("exit-{number}"), &settings)?;
        busy.wait_begun(begun)?;
        through(lab)?;
        let hole = Hole::dig(lab, lab.internet(), &silent)?;
        let (status, time) = client.stop(Signal::TERM, PATIENCE)?;
        ensure!(status.success(), "the client ended with {status}");
        exits.push(time);
        drop(hole);
    }
    lab.note(&format!("to process exit: {exits}"));
    drop(names);
    ensure!(busy.ended()?.is_empty(), "the job was under way all the time");
    ensure!(with.p99() <= BUDGET, "{} ms are over the budget", ms(with.p99()));
    ensure!(exits.p99() <= BUDGET * 2, "an exit took {} ms", ms(exits.p99()));
    ensure!(ratio <= 2.0, "a stop with a job takes {ratio:.2} times as long");
    Ok(())
}

fn a_start_never_waits_for_what_is_owed(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let (busy, idle) = (LongJob::new(lab, "busy-job")?, LongJob::without_hook(lab, "idle-job")?);
    let daemons = [
        Daemon::start(lab, "busy", |settings| busy.settings(settings))?,
        Daemon::start(lab, "idle", |settings| idle.settings(settings))?,
    ];
    let cycles = times(12, 100);
    let mut starts: [Times; 2] = Default::default();
    for cycle in 0..cycles {
        for (daemon, times) in daemons.iter().zip(&mut starts) {
            times.push(daemon.up()?);
            through(lab)?;
            daemon.down()?;
            daemon.gone()?;
        }
        if cycle == 0 {
            busy.wait_begun(0)?;
        }
    }
    // The last generation carries packets while the jobs of all the others run.
    let [busy_daemon, idle_daemon] = &daemons;
    busy_daemon.up()?;
    let flow = Steady::start(lab.client(), lab.site().plan.host_v4())?;
    ensure!(busy.ended()?.is_empty(), "no job has ended yet");
    busy.let_pass(cycles)?;
    until("the jobs of all that ended", PATIENCE * 3, || {
        Ok(busy_daemon.spool.owed()? == 1)
    })?;
    let tally = flow.end()?;
    ensure!(tally.lost == 0, "{tally:?}: jobs of earlier sessions hurt this one");
    ensure!(
        !busy_daemon.process.output().contains("path.lost"),
        "jobs of earlier sessions cut this one's path"
    );
    busy_daemon.down()?;
    busy.let_pass(1)?;
    busy_daemon.spool.wait_settled()?;

    let sessions = busy_daemon.sessions();
    ensure!(sessions.len() == cycles + 1, "{} sessions", sessions.len());
    effects_are_complete(busy_daemon, &busy)?;
    ensure!(
        gateway.output().matches("session.end").count() >= 2 * cycles,
        "each session ended"
    );
    idle_daemon.spool.wait_settled()?;

    let [with, cold] = &starts;
    let ratio = with.ratio_to(cold);
    lab.note(&format!(
        "{cycles} starts with jobs of all earlier sessions pending: {with}"
    ));
    lab.note(&format!("with none: {cold}; ratio of the medians {ratio:.2}"));
    ensure!(ratio <= 1.5, "a start with jobs pending takes {ratio:.2} times as long");
    Ok(())
}

/// Each session is in the history once, and its hook came to its end at least once.
fn effects_are_complete(daemon: &Daemon<'_>, job: &LongJob) -> Result<()> {
    let history = daemon.control.get("/v1/history?last=1000")?;
    let entries = history["sessions"].as_array().context("the history is a list")?;
    let mut told: Vec<String> = entries
        .iter()
        .map(|entry| format!("{};{}", entry["session"].as_str().unwrap_or_default(), entry["epoch"]))
        .collect();
    told.sort();
    let mut sessions = daemon.sessions();
    sessions.sort();
    ensure!(told == sessions, "history {told:#?}, sessions {sessions:#?}");
    let ended = job.ended()?;
    for entry in entries {
        let id = entry["job"].as_str().context("an entry names its job")?;
        ensure!(ended.iter().any(|job| job == id), "the hook of {id} never ended");
    }
    Ok(())
}

fn a_tunnel_that_loses_its_device_restores_the_host_and_says_why(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(
        lab,
        lab.site(),
        "gateway",
        // Everything through the tunnel, so that there are as many rules and routes as there can be.
        &gateway_settings(lab, lab.site())?.without("network.routes"),
    )?;
    let job = LongJob::new(lab, "job")?;
    let daemon = Daemon::start(lab, "victim", |settings| job.settings(settings))?;
    let before = lab.client().snapshot()?;
    daemon.up()?;
    through(lab)?;
    let events = daemon.control.events()?;
    let mut delete = lab.command(lab.client(), "ip")?;
    delete.args(["link", "delete", &daemon.device()]);
    let began = Instant::now();
    let deleted = lab.spawn("ip", delete)?;
    ensure!(deleted.wait_exit(PATIENCE)?.success(), "the device is deleted");
    until("the host as it was", PATIENCE, || {
        Ok(before.changes(&lab.client().snapshot()?).is_empty())
    })?;
    let restored = began.elapsed();
    let status = daemon.process.wait_exit(PATIENCE)?;
    lab.note(&format!(
        "restored {} ms after somebody began to delete the device; {status}",
        ms(restored)
    ));
    ensure!(status.code() == Some(1), "the client ended with {status}");
    daemon.process.wait_for("the device of the tunnel is gone", PATIENCE)?;
    let told = events.rest()?;
    ensure!(
        told.contains("the device of the tunnel is gone"),
        "status and events do not say why: {told}"
    );
    ensure!(restored <= BUDGET, "{} ms are over the budget", ms(restored));
    // What was owed is not lost with the process.
    ensure!(daemon.spool.owed()? == 1, "the session's job is written down");
    Ok(())
}

fn the_end_of_one_tunnel_costs_another_nothing(lab: &Lab) -> Result<()> {
    let b = lab.add_site()?;
    let _gateway_a = gateway(lab)?;
    let _gateway_b = start_gateway(lab, &b, "gateway-b", &gateway_settings(lab, &b)?)?;
    let b_client = start_client(lab, lab.client(), "client-b", &client_settings(lab, &b)?)?;
    ping_both(lab.client(), b.plan)?;
    let without_a = lab.client().snapshot()?;
    let connection = only_connection(&b_client)?;
    // What comes out of the client's cable, either way round; what is meant for it comes encrypted, from the gateway.
    let clear = Meter::start(
        lab,
        lab.internet(),
        &[
            format!("iifname client ip daddr {}", b.plan.lan_v4()),
            format!("iifname client ip6 daddr {}", b.plan.lan_v6()),
            format!("iifname client ip saddr {}", b.plan.pool_v4()),
            format!("iifname client ip6 saddr {}", b.plan.pool_v6()),
            format!("iifname client ip daddr {}", b.plan.gateway_v4()),
        ],
    )?;
    let flows = [
        Steady::start(lab.client(), b.plan.host_v4())?,
        Steady::start(lab.client(), b.plan.host_v6())?,
    ];

    let job = LongJob::new(lab, "job")?;
    let a = job.settings(client_settings(lab, lab.site())?);
    for round in 0..times(3, 20) {
        let stopped = start_client(lab, lab.client(), &format!("stopped-{round}"), &a)?;
        ping_both(lab.client(), lab.site().plan)?;
        stopped.stop(Signal::TERM, PATIENCE)?;
        let killed = start_client(lab, lab.client(), &format!("killed-{round}"), &a)?;
        ping_both(lab.client(), lab.site().plan)?;
        killed.stop(Signal::KILL, PATIENCE)?;
        let config = lab.folder().join(format!("killed-{round}.toml"));
        let cleanup = marmot(lab, lab.client(), &["cleanup", "-c", &config.display().to_string()])?;
        let status = lab.spawn("cleanup", cleanup)?.wait_exit(PATIENCE)?;
        ensure!(status.success(), "cleanup ended with {status}");
        let changes = without_a.changes(&lab.client().snapshot()?);
        ensure!(changes.is_empty(), "left of A: {changes:#?}");
    }

    for (family, flow) in ["IPv4", "IPv6"].into_iter().zip(flows) {
        let tally = flow.end()?;
        lab.note(&format!(
            "B over {family}: {} packets, {} lost, the slowest took {} ms",
            tally.sent,
            tally.lost,
            ms(tally.longest)
        ));
        ensure!(tally.lost == 0 && tally.sent > 100, "{tally:?}");
    }
    let [clear @ .., encrypted] = &clear.packets()?[..] else {
        anyhow::bail!("the meter counts");
    };
    lab.note(&format!(
        "on the cable: {encrypted} packets to B's gateway, {clear:?} clear ones"
    ));
    ensure!(
        clear.len() == 4 && clear.iter().all(|packets| *packets == 0),
        "outside the tunnel: {clear:?}"
    );
    ensure!(*encrypted > 100, "the meter sees the cable");
    ensure!(only_connection(&b_client)? == connection, "B kept its connection");
    ensure!(!b_client.output().contains("path.lost"), "B noticed nothing");
    Ok(())
}

fn gateway(lab: &Lab) -> Result<Process> {
    // A released address rests for minutes; these tests have hundreds of sessions.
    let settings = gateway_settings(lab, lab.site())?.with("pool.ipv4", "10.78.0.0/20");
    start_gateway(lab, lab.site(), "gateway", &settings)
}

/// What makes gateway and name server vanish.
fn silence(lab: &Lab) -> Vec<String> {
    let gateway = lab.site().plan.gateway_v4();
    vec![
        format!("ip daddr {gateway}"),
        format!("ip saddr {gateway}"),
        "udp dport 53".to_owned(),
    ]
}

/// A packet through the tunnel.
fn through(lab: &Lab) -> Result<()> {
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    Ok(())
}
