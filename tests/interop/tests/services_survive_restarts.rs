//! Our units under a real systemd: what a stop, a restart and a crash leave of a tunnel, and when its housekeeping is done.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::{ping_both, session_end};
use lab::{
    Lab, LongJob, PATIENCE, Process, Pulse, Settings, Spool, Systemd, Tally, Times, client_interface, client_settings,
    gateway_settings, ms, name_free, start_client, start_gateway, until, users_file, write_hook,
};
use platform::network::HostState;

/// A14: from the call of `systemctl stop` to its return, in the median.
const STOP: Duration = Duration::from_millis(100);

/// Far more than that: one stop may meet two busy cores.
const ONE_STOP: Duration = Duration::from_millis(500);

/// Stops of one test.
const STOPS: usize = 100;

/// Restarts or kills of one test.
const ROUNDS: u64 = 3;

/// Packets of a flow that sends one every 10 ms which may be lost over a restart; counted over all rounds, as a program
/// that gets no processor for a while has more than one packet in its hands.
const LOST_MAX: u64 = 1;

/// Answers before and after each.
const AROUND: u64 = 20;

/// An ordinary user that every host has.
const NOBODY: u32 = 65534;

const CLIENT: &str = "marmot-client@site-a.service";
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
            a_gateways_jobs_are_done_beside_it,
            an_ordinary_user_with_one_capability_is_enough,
            what_root_cleans_up_stays_the_users,
            an_ordinary_user_with_two_capabilities_is_enough_for_a_gateway,
        ],
    )
}

fn a_stop_does_not_wait_for_its_housekeeping(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    let before = lab.client().snapshot()?;
    stage.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let (_, took) = stage.systemd.systemctl(&["stop", CLIENT])?;
    ensure!(took <= ONE_STOP, "the stop took {} ms", ms(took));
    stage.restored(&before)?;
    session_end(&stage.gateway, "user_stop")?;

    // The hook waits at its gate, in a service of its own.
    stage.job.wait_begun(0)?;
    ensure!(stage.job.ended()?.is_empty(), "the hook still waits");
    ensure!(
        stage.systemd.property(CLIENT, "ActiveState")? == "inactive",
        "the tunnel is stopped"
    );
    ensure!(
        stage.systemd.property(HOUSEKEEPING, "ActiveState")? == "activating",
        "its housekeeping works"
    );
    let group = stage.systemd.property(HOUSEKEEPING, "ControlGroup")?;
    ensure!(group.contains("marmot-housekeeping"), "the hook's group is {group}");
    stage.job.let_pass(1)?;
    stage.spool.wait_settled()?;
    stage.systemd.wait_for_state(HOUSEKEEPING, "inactive")?;
    let (began, ended) = (stage.job.began()?, stage.job.ended()?);
    ensure!(
        ended.len() == 1 && ended == began,
        "the hook runs once: {began:?}, {ended:?}"
    );
    lab.note(&format!(
        "stop with a hook that hangs: {} ms, and the hook ended behind it",
        ms(took)
    ));
    Ok(())
}

fn a_job_that_always_fails_and_100_stops_leave_the_path_unit_active(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    write_hook(&stage.job.hooks().join("long"), "#!/bin/sh\nexit 1\n")?;
    // A unit that nobody refers to is forgotten when it stops, with the times of its stop.
    let keeper = format!("[Unit]\nDefaultDependencies=no\nAfter={CLIENT}\n");
    stage.systemd.unit("keeper.target", &keeper)?;
    stage.systemd.systemctl(&["start", "keeper.target"])?;
    let (mut stops, mut daemon, mut afterwards) = (Times::default(), Times::default(), Times::default());
    for _ in 0..STOPS {
        stage.up()?;
        let (_, took) = stage.systemd.systemctl(&["stop", CLIENT])?;
        stops.push(took);
        let [asked, exited, over] = ["ActiveExit", "ExecMainExit", "InactiveEnter"].map(|event| stage.time_of(event));
        let (asked, exited, over) = (asked?, exited?, over?);
        daemon.push(exited.saturating_sub(asked));
        afterwards.push(over.saturating_sub(exited));
    }
    for unit in [PATH, TIMER] {
        let state = stage.systemd.property(unit, "ActiveState")?;
        ensure!(state == "active", "{unit} is {state}");
    }
    // All have been tried, and wait for their next time.
    until("all jobs to be tried", PATIENCE, || {
        Ok(stage.spool.jobs("due")?.is_empty() && stage.spool.jobs("running")?.is_empty())
    })?;
    let waiting = stage.spool.jobs("waiting")?.len();
    ensure!(waiting == STOPS, "{waiting} jobs wait, none is lost");
    stage.systemd.wait_for_state(HOUSEKEEPING, "inactive")?;
    let result = stage.systemd.property(HOUSEKEEPING, "Result")?;
    ensure!(
        result == "success",
        "a failing hook is no failure of the service: {result}"
    );
    lab.note(&format!(
        "stop under systemd with failing jobs, systemctl included: {stops}"
    ));
    lab.note(&format!("of which the daemon: {daemon}"));
    lab.note(&format!("of which ExecStopPost= and systemd: {afterwards}"));
    ensure!(
        stops.median() <= STOP,
        "a stop takes {} ms in the median",
        ms(stops.median())
    );
    Ok(())
}

fn a_restart_keeps_the_interface_and_its_packets(lab: &Lab) -> Result<()> {
    keeps_the_tunnel(lab, "restart", |stage| {
        stage.systemd.systemctl(&["restart", CLIENT]).map(drop)
    })
}

fn a_kill_keeps_the_interface_and_its_packets(lab: &Lab) -> Result<()> {
    keeps_the_tunnel(lab, "kill -9", |stage| {
        stage
            .systemd
            .systemctl(&["kill", "--signal=KILL", "--kill-who=main", CLIENT])
            .map(drop)
    })
}

/// Ends the process in some way after which systemd starts it again, several times.
fn keeps_the_tunnel(lab: &Lab, name: &str, end: impl Fn(&Stage<'_>) -> Result<()>) -> Result<()> {
    let stage = Stage::set(lab)?;
    let before = lab.client().snapshot()?;
    stage.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let with_tunnel = lab.client().snapshot()?;
    let index = stage.interface_index()?;
    let mut lost_in_all = 0;
    for round in 1..=ROUNDS {
        let pid = stage.systemd.main_pid(CLIENT)?;
        let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
        pulse.wait_answered(AROUND)?;
        let mark = stage.output.mark();
        end(&stage)?;
        stage.output.wait_for_line(mark, &["session.unpark"], PATIENCE)?;
        pulse.wait_answered(AROUND)?;
        ping_both(lab.client(), lab.site().plan)?;
        let Tally { sent, lost, longest } = pulse.end()?;
        lab.note(&format!(
            "{name} {round}: {lost} of {sent} packets lost, one took {} ms",
            ms(longest)
        ));
        ensure!(stage.systemd.main_pid(CLIENT)? != pid, "it is another process");
        ensure!(stage.interface_index()? == index, "the interface is another one");
        let changes = with_tunnel.changes(&lab.client().snapshot()?);
        ensure!(changes.is_empty(), "this changed on the host: {changes:#?}");
        lost_in_all += lost;
    }
    ensure!(
        lost_in_all <= LOST_MAX * ROUNDS,
        "{lost_in_all} packets were lost over {ROUNDS} times"
    );
    ensure!(!stage.gateway.output().contains("session.end"), "the session goes on");
    stage.systemd.systemctl(&["stop", CLIENT])?;
    stage.restored(&before)
}

fn a_stop_after_restarts_and_kills_leaves_nothing(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    let before = lab.client().snapshot()?;
    stage.up()?;
    let cases: [(&[&str], &str); 4] = [
        (&["restart", CLIENT], "session.unpark"),
        (&["kill", "--signal=KILL", "--kill-who=main", CLIENT], "session.unpark"),
        // Somebody ends the process beside systemd, which starts another one: this is a stop and a start.
        (&["kill", "--signal=TERM", "--kill-who=main", CLIENT], "session.start"),
        (&["restart", CLIENT], "session.unpark"),
    ];
    for (words, said) in cases {
        let mark = stage.output.mark();
        stage.systemd.systemctl(words)?;
        stage.output.wait_for_line(mark, &[said], PATIENCE)?;
    }
    let stored = stage.systemd.property(CLIENT, "NFileDescriptorStore")?;
    stage.systemd.systemctl(&["stop", CLIENT])?;
    stage.restored(&before)?;
    let left = stage.systemd.property(CLIENT, "NFileDescriptorStore")?;
    ensure!(left == "0", "systemd still keeps {left} descriptors");
    ensure!(
        matches!(stored.as_str(), "2" | "3"),
        "systemd kept {stored} descriptors"
    );
    let state = stage.systemd.property(CLIENT, "ActiveState")?;
    ensure!(state == "inactive", "a stop is no failure, but the service is {state}");
    Ok(())
}

fn what_nobody_will_start_again_is_cleaned_up_behind(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
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
        stage.systemd.unit(&format!("{CLIENT}.d/change.conf"), change)?;
        stage.up()?;
        stage.systemd.systemctl(words)?;
        stage.systemd.wait_for_state(CLIENT, "failed")?;
        stage.restored(&before)?;
        stage.job.let_pass(1)?;
        stage.spool.wait_settled()?;
    }
    ensure!(stage.job.ended()?.len() == 2, "what both sessions owed is done");
    Ok(())
}

fn a_refused_login_is_not_tried_again(lab: &Lab) -> Result<()> {
    let stage = Stage::set_with(lab, |settings| settings.with("login.user", "mallory"))?;
    // The start itself succeeds: the daemon is there before its tunnel is.
    stage.systemd.systemctl(&["start", CLIENT])?;
    stage.systemd.wait_for_state(CLIENT, "failed")?;
    let status = stage.systemd.property(CLIENT, "ExecMainStatus")?;
    ensure!(status == "4", "it ended with {status}");
    let restarts = stage.systemd.property(CLIENT, "NRestarts")?;
    ensure!(restarts == "0", "it was started again {restarts} times");
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

fn an_ordinary_user_with_one_capability_is_enough(lab: &Lab) -> Result<()> {
    let (stage, told) = ordinary(lab)?;
    let before = lab.client().snapshot()?;
    stage.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let status = fs::read_to_string(format!("/proc/{}/status", stage.systemd.main_pid(CLIENT)?))?;
    // CAP_NET_ADMIN is number 12.
    has_rights(&status, "0000000000001000").context("the daemon")?;
    let mark = stage.output.mark();
    stage.systemd.systemctl(&["restart", CLIENT])?;
    stage.output.wait_for_line(mark, &["session.unpark"], PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    stage.systemd.systemctl(&["stop", CLIENT])?;
    stage.restored(&before)?;

    until("the hook", PATIENCE, || Ok(told.exists()))?;
    has_rights(&fs::read_to_string(told)?, "0000000000000000").context("the hook")?;
    stage.spool.wait_settled()
}

fn an_ordinary_user_with_two_capabilities_is_enough_for_a_gateway(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?.with_path("storage.state_dir", &lab.folder().join("state"));
    settings.write(&lab.folder().join("gateway.toml"))?;
    fs::set_permissions(lab.folder(), Permissions::from_mode(0o755))?;
    fs::create_dir_all(lab.folder().join("state"))?;
    let identity = lab.pki().server()?;
    let named = ["gateway.toml", "state"].map(|name| lab.folder().join(name));
    for path in named
        .iter()
        .chain([&identity.certificate, &identity.key, &users_file(lab, lab.site())])
    {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    let systemd = Systemd::start(lab, &lab.site().gateway, "systemd")?;
    let output = systemd.listen(lab, "marmot-gateway")?;
    let user = format!("[Service]\nUser={NOBODY}\nGroup={NOBODY}\n");
    systemd.unit("marmot-gateway.service.d/user.conf", &user)?;
    systemd.systemctl(&["start", "marmot-gateway.service"])?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    ping_both(lab.client(), lab.site().plan)?;
    let status = fs::read_to_string(format!("/proc/{}/status", systemd.main_pid("marmot-gateway.service")?))?;
    // CAP_NET_ADMIN and CAP_NET_BIND_SERVICE, numbers 12 and 10.
    has_rights(&status, "0000000000001400").context("the gateway")?;
    client.stop(lab::Signal::TERM, PATIENCE)?;
    session_end(&output, "user_stop")?;
    Ok(())
}

fn what_root_cleans_up_stays_the_users(lab: &Lab) -> Result<()> {
    let (stage, _) = ordinary(lab)?;
    let before = lab.client().snapshot()?;
    let change = format!("{CLIENT}.d/change.conf");
    stage.systemd.unit(&change, "[Service]\nKillSignal=SIGKILL\n")?;
    stage.up()?;
    stage.systemd.systemctl(&["stop", CLIENT])?;
    stage.restored(&before)?;
    stage.spool.wait_settled()?;
    for path in stage.spool.files()?.into_keys() {
        let path = stage.spool.folder().join(path);
        let owner = fs::metadata(&path).map(|about| about.uid());
        // What is pruned meanwhile needs no owner.
        ensure!(
            owner.as_ref().map_or(true, |uid| *uid == NOBODY),
            "{} is of {owner:?}",
            path.display()
        );
    }
    stage.systemd.unit(&change, "[Service]\n")?;
    stage.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    stage.systemd.systemctl(&["stop", CLIENT])?;
    stage.restored(&before)?;
    stage.spool.wait_settled()
}

/// A stage whose services run as shipped but for the user's name: that one exists where the services are installed. Also
/// returns the file in which a hook tells what it may.
fn ordinary(lab: &Lab) -> Result<(Stage<'_>, PathBuf)> {
    let hooks = lab.folder().join("hooks");
    let told = lab.folder().join("told");
    for (folder, mode) in [(lab.folder(), 0o755), (&hooks, 0o755), (&told, 0o777)] {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
    }
    let hook = format!(
        "#!/bin/sh\nset -e\ncat /proc/self/status >{0}/new\nmv {0}/new {0}/hook\n",
        told.display()
    );
    write_hook(&hooks.join("tell"), &hook)?;
    fs::set_permissions(hooks.join("tell"), Permissions::from_mode(0o755))?;
    let stage = Stage::set_with(lab, |settings| settings.with_path("housekeeping.hooks_dir", &hooks))?;
    for name in ["site-a.toml", "password", "state", "run"] {
        chown(lab.folder().join(name), Some(NOBODY), Some(NOBODY))?;
    }
    chown(lab.pki().ca(), Some(NOBODY), Some(NOBODY))?;
    for template in ["marmot-client@", "marmot-housekeeping@"] {
        let user = format!("[Service]\nUser={NOBODY}\nGroup={NOBODY}\n");
        stage.systemd.unit(&format!("{template}.service.d/user.conf"), &user)?;
    }
    Ok((stage, told.join("hook")))
}

/// Whether a process is [`NOBODY`]'s, with these capabilities and no way to get more, and system calls are filtered.
fn has_rights(status: &str, capabilities: &str) -> Result<()> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default()
    };
    ensure!(field("Uid:") == NOBODY.to_string(), "it is user {}", field("Uid:"));
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        ensure!(field(set) == capabilities, "{set} {}", field(set));
    }
    ensure!(
        field("NoNewPrivs:") == "1" && field("Seccomp:") == "2",
        "it is not locked in"
    );
    Ok(())
}

/// A gateway, a systemd on the client's host, and a tunnel whose hook waits.
struct Stage<'a> {
    lab: &'a Lab,
    gateway: Process,
    systemd: Systemd,
    output: Process,
    /// What the housekeeping says, for the report of a failure.
    _worker: Process,
    job: LongJob,
    spool: Spool,
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        Self::set_with(lab, |settings| settings)
    }

    fn set_with(lab: &'a Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Self> {
        let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
        let job = LongJob::new(lab, "job")?;
        let settings = change(job.settings(client_settings(lab, lab.site())?));
        settings.write(&lab.folder().join("site-a.toml"))?;
        let systemd = Systemd::start(lab, lab.client(), "systemd")?;
        let output = systemd.listen(lab, "marmot-client@site-a")?;
        let worker = systemd.listen(lab, "marmot-housekeeping@site-a")?;
        Ok(Self {
            lab,
            gateway,
            systemd,
            output,
            _worker: worker,
            job,
            spool: Spool::of(lab, "site-a"),
        })
    }

    /// Starts the service and waits until the tunnel is up.
    fn up(&self) -> Result<()> {
        let mark = self.output.mark();
        self.systemd.systemctl(&["start", CLIENT])?;
        self.output.wait_for_line(mark, &["session.start"], PATIENCE)?;
        Ok(())
    }

    /// When something happened to the tunnel's service, by the manager's clock.
    fn time_of(&self, event: &str) -> Result<Duration> {
        let time = self.systemd.property(CLIENT, &format!("{event}TimestampMonotonic"))?;
        Ok(Duration::from_micros(time.parse().context("a time in microseconds")?))
    }

    fn interface_index(&self) -> Result<u32> {
        let name = client_interface(self.lab.site());
        let mut command = self.lab.command(self.lab.client(), "ip")?;
        let output = command.args(["-oneline", "link", "show", "dev", &name]).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let index = said.split(':').next().and_then(|number| number.trim().parse().ok());
        index.with_context(|| format!("there is no {name}: {output:?}"))
    }

    /// The device goes within 100 ms of the acknowledgement; what is left then is left for good.
    fn restored(&self, before: &HostState) -> Result<()> {
        name_free(self.lab.client(), &client_interface(self.lab.site()), PATIENCE)?;
        let changes = before.changes(&self.lab.client().snapshot()?);
        ensure!(changes.is_empty(), "this is left on the host: {changes:#?}");
        Ok(())
    }
}
