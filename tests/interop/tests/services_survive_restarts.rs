//! Our units under a real systemd: what a stop, a restart and a crash leave of a tunnel, and when its housekeeping is done.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use interop::{CLIENT, Service, ping_both, session_end};
use lab::{
    Lab, LongJob, PATIENCE, Pulse, Spool, Systemd, Tally, Times, client_settings, gateway_settings, ms, start_client,
    until, write_hook,
};

/// A14: from the call of `systemctl stop` to its return, in the median, where the machine has nothing else to do.
const STOP: Duration = Duration::from_millis(100);

/// Where it has, the stop of a service that does nothing takes longer too: this many times as long as that one is as good.
const BESIDE_IDLE: u32 = 4;

/// As many processes as a stop of ours has, none of which does anything.
const IDLE: &str = "idle.service";
const IDLE_UNIT: &str = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\nExecStopPost=/bin/true\n";

/// Stops of one test while jobs that fail pile up.
const STOPS: usize = 100;

/// Stops of one test while the first job hangs.
const PENDING: usize = 20;

/// Restarts or kills of one test.
const ROUNDS: u64 = 3;

/// Packets of a flow that sends one every 10 ms which may be lost over a restart; counted over all rounds, as a program
/// that gets no processor for a while has more than one packet in its hands.
const LOST_MAX: u64 = 1;

/// Answers before and after each.
const AROUND: u64 = 20;

const PATH: &str = "marmot-housekeeping@site-a.path";
const TIMER: &str = "marmot-housekeeping@site-a.timer";
const HOUSEKEEPING: &str = "marmot-housekeeping@site-a.service";

fn main() -> ExitCode {
    lab::run(
        &["systemctl", "ip"],
        lab::tests![
            a_stop_does_not_wait_for_its_housekeeping,
            a_job_that_always_fails_and_100_stops_leave_the_path_unit_active,
            a_restart_keeps_the_interface_and_its_packets,
            a_kill_keeps_the_interface_and_its_packets,
            a_stop_after_restarts_and_kills_leaves_nothing,
            what_nobody_will_start_again_is_cleaned_up_behind,
            a_refused_login_is_not_tried_again,
            a_killed_worker_is_replaced_and_its_job_done,
            a_gateways_jobs_are_done_beside_it,
        ],
    )
}

fn a_stop_does_not_wait_for_its_housekeeping(lab: &Lab) -> Result<()> {
    let service = Service::new(lab)?;
    let before = lab.client().snapshot()?;
    service.systemd.unit(IDLE, IDLE_UNIT)?;
    let (mut stops, mut idle) = (Times::default(), Times::default());
    for stop in 1..=PENDING {
        service.up()?;
        ping_both(lab.client(), lab.site().plan)?;
        let (_, took) = service.systemd.systemctl(&["stop", CLIENT])?;
        stops.push(took);
        idle.push(stop_of_nothing(&service)?);
        service.restored(&before)?;
        ensure!(service.job.ended()?.is_empty(), "no hook has ended after {stop} stops");
    }
    session_end(&service.gateway, "user_stop")?;

    // The first hook waits at its gate, in a service of its own, and the others behind it.
    service.job.wait_begun(0)?;
    let state = |unit: &str| service.systemd.property(unit, "ActiveState");
    ensure!(state(CLIENT)? == "inactive", "the tunnel is stopped");
    ensure!(state(HOUSEKEEPING)? == "activating", "its housekeeping works");
    let group = service.systemd.property(HOUSEKEEPING, "ControlGroup")?;
    ensure!(group.contains("marmot-housekeeping"), "the hook's group is {group}");
    service.job.let_pass(PENDING)?;
    service.spool.wait_settled()?;
    service.systemd.wait_for_state(HOUSEKEEPING, "inactive")?;
    let (began, ended) = (service.job.began()?, service.job.ended()?);
    ensure!(
        ended.len() == PENDING && ended == began,
        "each hook runs once: {began:?}, {ended:?}"
    );
    lab.note(&format!(
        "stop under systemd with a hook that hangs, systemctl included: {stops}"
    ));
    is_fast(lab, &stops, &idle)
}

fn a_job_that_always_fails_and_100_stops_leave_the_path_unit_active(lab: &Lab) -> Result<()> {
    let service = Service::new(lab)?;
    write_hook(&service.job.hooks().join("long"), "#!/bin/sh\nexit 1\n")?;
    // A unit that nobody refers to is forgotten when it stops, with the times of its stop.
    let keeper = format!("[Unit]\nDefaultDependencies=no\nAfter={CLIENT}\n");
    service.systemd.unit("keeper.target", &keeper)?;
    service.systemd.systemctl(&["start", "keeper.target"])?;
    service.systemd.unit(IDLE, IDLE_UNIT)?;
    let (mut stops, mut daemon, mut afterwards) = (Times::default(), Times::default(), Times::default());
    let mut idle = Times::default();
    for _ in 0..STOPS {
        service.up()?;
        let (_, took) = service.systemd.systemctl(&["stop", CLIENT])?;
        stops.push(took);
        let [asked, exited, over] = ["ActiveExit", "ExecMainExit", "InactiveEnter"].map(|event| service.time_of(event));
        let (asked, exited, over) = (asked?, exited?, over?);
        daemon.push(exited.saturating_sub(asked));
        afterwards.push(over.saturating_sub(exited));
        idle.push(stop_of_nothing(&service)?);
    }
    for unit in [PATH, TIMER] {
        let state = service.systemd.property(unit, "ActiveState")?;
        ensure!(state == "active", "{unit} is {state}");
    }
    // All have been tried, and wait for their next time.
    until("all jobs to be tried", PATIENCE, || {
        Ok(service.spool.jobs("due")?.is_empty() && service.spool.jobs("running")?.is_empty())
    })?;
    let waiting = service.spool.jobs("waiting")?.len();
    ensure!(waiting == STOPS, "{waiting} jobs wait, none is lost");
    service.systemd.wait_for_state(HOUSEKEEPING, "inactive")?;
    let result = service.systemd.property(HOUSEKEEPING, "Result")?;
    ensure!(
        result == "success",
        "a failing hook is no failure of the service: {result}"
    );
    lab.note(&format!(
        "stop under systemd with failing jobs, systemctl included: {stops}"
    ));
    lab.note(&format!("of which the daemon: {daemon}"));
    lab.note(&format!("of which ExecStopPost= and systemd: {afterwards}"));
    is_fast(lab, &stops, &idle)
}

/// How long the same manager takes to stop a service that does nothing, now.
fn stop_of_nothing(service: &Service<'_>) -> Result<Duration> {
    service.systemd.systemctl(&["start", IDLE])?;
    let (_, took) = service.systemd.systemctl(&["stop", IDLE])?;
    Ok(took)
}

fn is_fast(lab: &Lab, stops: &Times, idle: &Times) -> Result<()> {
    lab.note(&format!("a service that does nothing, in turn with it: {idle}"));
    ensure!(
        stops.median() <= STOP.max(idle.median() * BESIDE_IDLE),
        "a stop takes {} ms in the median, that of a service that does nothing {} ms",
        ms(stops.median()),
        ms(idle.median())
    );
    Ok(())
}

fn a_restart_keeps_the_interface_and_its_packets(lab: &Lab) -> Result<()> {
    keeps_the_tunnel(lab, "restart", |service| {
        service.systemd.systemctl(&["restart", CLIENT]).map(drop)
    })
}

fn a_kill_keeps_the_interface_and_its_packets(lab: &Lab) -> Result<()> {
    keeps_the_tunnel(lab, "kill -9", |service| {
        service
            .systemd
            .systemctl(&["kill", "--signal=KILL", "--kill-who=main", CLIENT])
            .map(drop)
    })
}

/// Ends the process in some way after which systemd starts it again, several times.
fn keeps_the_tunnel(lab: &Lab, name: &str, end: impl Fn(&Service<'_>) -> Result<()>) -> Result<()> {
    let service = Service::new(lab)?;
    let before = lab.client().snapshot()?;
    service.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let with_tunnel = lab.client().snapshot()?;
    let index = service.interface_index()?;
    let mut lost_in_all = 0;
    for round in 1..=ROUNDS {
        let pid = service.systemd.main_pid(CLIENT)?;
        let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
        pulse.wait_answered(AROUND)?;
        let mark = service.output.mark();
        end(&service)?;
        service.output.wait_for_line(mark, &["session.unpark"], PATIENCE)?;
        pulse.wait_answered(AROUND)?;
        ping_both(lab.client(), lab.site().plan)?;
        let Tally {
            sent, lost, longest, ..
        } = pulse.end()?;
        lab.note(&format!(
            "{name} {round}: {lost} of {sent} packets lost, one took {} ms",
            ms(longest)
        ));
        ensure!(service.systemd.main_pid(CLIENT)? != pid, "it is another process");
        ensure!(service.interface_index()? == index, "the interface is another one");
        let changes = with_tunnel.changes(&lab.client().snapshot()?);
        ensure!(changes.is_empty(), "this changed on the host: {changes:#?}");
        lost_in_all += lost;
    }
    ensure!(
        lost_in_all <= LOST_MAX * ROUNDS,
        "{lost_in_all} packets were lost over {ROUNDS} times"
    );
    ensure!(!service.gateway.output().contains("session.end"), "the session goes on");
    service.systemd.systemctl(&["stop", CLIENT])?;
    service.restored(&before)
}

fn a_stop_after_restarts_and_kills_leaves_nothing(lab: &Lab) -> Result<()> {
    let service = Service::new(lab)?;
    let before = lab.client().snapshot()?;
    service.up()?;
    let cases: [(&[&str], &str); 4] = [
        (&["restart", CLIENT], "session.unpark"),
        (&["kill", "--signal=KILL", "--kill-who=main", CLIENT], "session.unpark"),
        // Somebody ends the process beside systemd, which starts another one: this is a stop and a start.
        (&["kill", "--signal=TERM", "--kill-who=main", CLIENT], "session.start"),
        (&["restart", CLIENT], "session.unpark"),
    ];
    for (words, said) in cases {
        let mark = service.output.mark();
        service.systemd.systemctl(words)?;
        service.output.wait_for_line(mark, &[said], PATIENCE)?;
    }
    let stored = service.systemd.property(CLIENT, "NFileDescriptorStore")?;
    service.systemd.systemctl(&["stop", CLIENT])?;
    service.restored(&before)?;
    let left = service.systemd.property(CLIENT, "NFileDescriptorStore")?;
    ensure!(left == "0", "systemd still keeps {left} descriptors");
    ensure!(
        matches!(stored.as_str(), "2" | "3"),
        "systemd kept {stored} descriptors"
    );
    let state = service.systemd.property(CLIENT, "ActiveState")?;
    ensure!(state == "inactive", "a stop is no failure, but the service is {state}");
    Ok(())
}

fn what_nobody_will_start_again_is_cleaned_up_behind(lab: &Lab) -> Result<()> {
    let service = Service::new(lab)?;
    let before = lab.client().snapshot()?;
    // A stop that kills at once, as one that hangs would in the end; and a crash of a service that is not started again.
    let cases: [(&str, &[&str]); 2] = [
        ("[Service]\nKillSignal=SIGKILL\n", &["stop", CLIENT]),
        (
            "[Service]\nRestart=no\n",
            &["kill", "--signal=KILL", "--kill-who=main", CLIENT],
        ),
    ];
    for (change, words) in cases {
        service.systemd.unit(&format!("{CLIENT}.d/change.conf"), change)?;
        service.up()?;
        service.systemd.systemctl(words)?;
        service.systemd.wait_for_state(CLIENT, "failed")?;
        service.restored(&before)?;
        service.job.let_pass(1)?;
        service.spool.wait_settled()?;
    }
    ensure!(service.job.ended()?.len() == 2, "what both sessions owed is done");
    Ok(())
}

fn a_refused_login_is_not_tried_again(lab: &Lab) -> Result<()> {
    let service = Service::with(lab, |settings| settings.with("login.user", "mallory"))?;
    // The start itself succeeds: the daemon is there before its tunnel is.
    service.systemd.systemctl(&["start", CLIENT])?;
    service.systemd.wait_for_state(CLIENT, "failed")?;
    let status = service.systemd.property(CLIENT, "ExecMainStatus")?;
    ensure!(status == "4", "it ended with {status}");
    let restarts = service.systemd.property(CLIENT, "NRestarts")?;
    ensure!(restarts == "0", "it was started again {restarts} times");
    Ok(())
}

fn a_killed_worker_is_replaced_and_its_job_done(lab: &Lab) -> Result<()> {
    let service = Service::new(lab)?;
    // Only the wait is changed, which is 30 s.
    let change = "marmot-housekeeping@.service.d/change.conf";
    service.systemd.unit(change, "[Service]\nRestartSec=10ms\n")?;
    service.up()?;
    service.systemd.systemctl(&["stop", CLIENT])?;
    service.job.wait_begun(0)?;
    // The worker and its hook.
    service.systemd.systemctl(&["kill", "--signal=KILL", HOUSEKEEPING])?;
    service.job.wait_begun(1)?;
    service.job.let_pass(1)?;
    service.spool.wait_settled()?;
    service.systemd.wait_for_state(HOUSEKEEPING, "inactive")?;
    ensure!(service.job.ended()?.len() == 1, "the hook has ended once");
    ensure!(
        service.systemd.property(PATH, "ActiveState")? == "active",
        "the path unit works on"
    );
    Ok(())
}

fn a_gateways_jobs_are_done_beside_it(lab: &Lab) -> Result<()> {
    let job = LongJob::new(lab, "gateway-job")?;
    let settings = job.settings(gateway_settings(lab, lab.site())?);
    let settings = settings.with_path("storage.state_dir", &lab.folder().join("state"));
    settings.write(&lab.folder().join("gateway.toml"))?;
    let systemd = Systemd::start(lab, &lab.site().gateway, "systemd")?;
    let output = systemd.listen(lab, "marmot-gateway")?;
    systemd.systemctl(&["start", "marmot-gateway.service"])?;
    // Ready means that it listens: a client needs no second try.
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    ping_both(lab.client(), lab.site().plan)?;
    client.stop(lab::Signal::TERM, PATIENCE)?;
    session_end(&output, "user_stop")?;
    job.wait_begun(0)?;
    let housekeeping = "marmot-housekeeping@_gateway.service";
    ensure!(
        systemd.property(housekeeping, "ActiveState")? == "activating",
        "its housekeeping works"
    );
    let (_, took) = systemd.systemctl(&["stop", "marmot-gateway.service"])?;
    job.let_pass(1)?;
    Spool::of(lab, "_gateway").wait_settled()?;
    systemd.wait_for_state(housekeeping, "inactive")?;
    ensure!(job.ended()?.len() == 1, "the hook has run once");
    lab.note(&format!("a gateway's stop: {} ms", ms(took)));
    Ok(())
}
