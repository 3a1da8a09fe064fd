//! What comes from this host may be as wrong as what comes from a gateway: requests, files of the ledger, hooks, disks.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use interop::{Daemon, ping_both};
use lab::{
    Control, Lab, LongJob, Mark, PATIENCE, Process, Settings, Signal, Spool, client_settings, gateway_settings, marmot,
    ms, spawn_client, start_client, start_gateway, until, write_hook,
};

/// The budget of a stop.
const BUDGET: Duration = Duration::from_millis(250);

/// Connections of a flood: more than the daemon serves and turns away together.
const CROWD: usize = 100;

/// How many people give orders at the same time, and how often they stop a tunnel that is up.
const PEOPLE: usize = 8;
const STOPS: usize = 30;

fn main() -> ExitCode {
    lab::run(
        &["ip"],
        lab::tests![
            nonsense_on_the_socket_is_refused_and_the_tunnel_goes_on,
            a_crowd_on_the_socket_does_not_hold_a_stop_up,
            orders_from_many_at_once_are_all_answered_and_the_last_one_counts,
            damaged_files_of_the_ledger_are_named_and_hold_nothing_up,
            without_a_place_for_the_undo_record_the_host_is_not_touched,
            without_room_for_the_undo_record_the_host_is_not_touched,
            a_second_daemon_and_a_cleanup_leave_a_running_tunnel_alone_wherever_they_are,
            hooks_that_hang_flood_or_fork_are_ended_and_named,
        ],
    )
}

fn nonsense_on_the_socket_is_refused_and_the_tunnel_goes_on(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let daemon = Daemon::start(lab, "victim", |settings| settings)?;
    let control = &daemon.control;
    daemon.up()?;
    let large = format!("{{\"reconnect\":\"{}\"}}", "x".repeat(1 << 20));
    let long_path = format!("/v1/{}", "x".repeat(4000));
    let requests: [(&str, &str, &str, u16); 9] = [
        ("GET", "/v2/status", "", 404),
        ("GET", &long_path, "", 404),
        ("GET", "/v1/../../etc/shadow", "", 404),
        ("POST", "/v1/status", "", 405),
        ("GET", "/v1/down", "", 405),
        ("POST", "/v1/up", "{", 400),
        ("POST", "/v1/up", "{\"reconnekt\":true}", 400),
        ("POST", "/v1/up", &large, 413),
        ("POST", "/v1/housekeeping/..%2f..%2fopen/retry", "", 404),
    ];
    for (method, path, body, expected) in requests {
        let shown = &path[..path.len().min(40)];
        let (code, said) = control
            .ask(method, path, body)
            .with_context(|| format!("{method} {shown}"))?;
        ensure!(
            code == expected,
            "{method} {shown}: {code} instead of {expected}: {said}"
        );
        ensure!(
            said["version"] == 1 && said["error"]["message"].is_string(),
            "{method} {shown} is not answered as errors are: {said}"
        );
    }
    let noise: Vec<u8> = (0..64 * 1024_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let head = format!(
        "GET /v1/status HTTP/1.1\r\nHost: marmot\r\nX: {}\r\n\r\n",
        "y".repeat(64 * 1024)
    );
    for bytes in [
        &noise,
        head.as_bytes(),
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let mut stream = control.connect()?;
        // It may hang up in the middle.
        let _ = stream
            .write_all(bytes)
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        ensure!(!said.starts_with("HTTP/1.1 200"), "noise was taken: {said}");
    }
    ping_both(lab.client(), lab.site().plan)?;
    let status = control.get("/v1/status")?;
    ensure!(status["state"] == "up" && status["sessions"] == 1, "{status}");
    ensure!(!daemon.process.output().contains("ERROR"), "nothing broke");
    Ok(())
}

fn a_crowd_on_the_socket_does_not_hold_a_stop_up(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let daemon = Daemon::start(lab, "victim", |settings| settings)?;
    daemon.up()?;
    let mut crowd = crowd(&daemon.control)?;
    let acknowledged = daemon.down()?;
    ensure!(acknowledged <= BUDGET, "acknowledged after {} ms", ms(acknowledged));
    // Who is silent gives way to who has something to say.
    let began = Instant::now();
    until("a place among the crowd", PATIENCE, || {
        Ok(daemon
            .control
            .ask("GET", "/v1/status", "")
            .is_ok_and(|(code, _)| code == 200))
    })?;
    lab.note(&format!(
        "{CROWD} silent connections: stop acknowledged after {} ms, an answer after {} ms",
        ms(acknowledged),
        ms(began.elapsed())
    ));
    crowd.clear();
    daemon.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let (down, took) = daemon.control.down()?;
    ensure!(
        down["owed"] == "recorded" && took <= BUDGET,
        "{down} after {} ms",
        ms(took)
    );
    Ok(())
}

/// Connections that begin a request and never end it.
fn crowd(control: &Control) -> Result<Vec<UnixStream>> {
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = control.connect()?;
        if number % 2 == 0 {
            // It may be turned away at once.
            let _ = stream.write_all(b"GET /v1/sta");
        }
        crowd.push(stream);
    }
    Ok(crowd)
}

fn orders_from_many_at_once_are_all_answered_and_the_last_one_counts(lab: &Lab) -> Result<()> {
    let gateway = gateway_settings(lab, lab.site())?.with("pool.ipv4", "10.78.0.0/20");
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway)?;
    let daemon = Daemon::start(lab, "victim", |settings| settings)?;
    let before = lab.client().snapshot()?;
    let control = &daemon.control;
    let (stops, orders) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ordering = || -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        let mut number = 0;
        while stops.load(Ordering::Relaxed) < STOPS {
            let began = Instant::now();
            number += 1;
            if number % 2 == 1 {
                control.up()?;
            } else if control.get("/v1/status")?["state"] == "up" {
                stops.fetch_add(1, Ordering::Relaxed);
                control.down()?;
            }
            orders.fetch_add(1, Ordering::Relaxed);
            slowest = slowest.max(began.elapsed());
        }
        Ok(slowest)
    };
    let slowest = thread::scope(|scope| -> Result<Duration> {
        let people: Vec<_> = (0..PEOPLE).map(|_| scope.spawn(ordering)).collect();
        let mut slowest = Duration::ZERO;
        for person in people {
            slowest = slowest.max(person.join().map_err(|_| anyhow!("a person panicked"))??);
        }
        Ok(slowest)
    })?;
    lab.note(&format!(
        "{} orders by {PEOPLE} at once: {} sessions, the slowest answer took {} ms",
        orders.load(Ordering::Relaxed),
        daemon.sessions().len(),
        ms(slowest)
    ));
    control.down()?;
    until("the host as it was", PATIENCE, || {
        Ok(before.changes(&lab.client().snapshot()?).is_empty())
    })?;
    control.up()?;
    control.wait_state("up")?;
    ping_both(lab.client(), lab.site().plan)?;
    control.down()?;
    daemon.spool.wait_settled()?;
    let told = control.get("/v1/history?last=1000")?;
    let entries = told["sessions"].as_array().context("the history is a list")?.len();
    let sessions = daemon.sessions().len();
    ensure!(
        entries == sessions && sessions > 1,
        "{entries} of {sessions} sessions are in the history"
    );
    ensure!(!daemon.process.output().contains("ERROR"), "nothing broke");
    Ok(())
}

fn damaged_files_of_the_ledger_are_named_and_hold_nothing_up(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let job = LongJob::new(lab, "job")?;
    let settings = job.settings(client_settings(lab, lab.site())?.with("tunnel.name", "victim"));
    let spool = Spool::of(lab, "victim");
    // Four sessions, each with a job that waits.
    for number in 0..4 {
        let client = start_client(lab, lab.client(), &format!("before-{number}"), &settings)?;
        client.stop(Signal::TERM, PATIENCE)?;
    }
    let due = spool.jobs("due")?;
    ensure!(due.len() == 4, "{due:?}");
    let path = |name: &str| spool.folder().join("due").join(format!("{name}.job"));
    let whole = fs::read(path(&due[0])).context("cannot read a job")?;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(path(&due[0]), flipped)?;
    fs::write(path(&due[1]), &whole[..whole.len() / 2])?;
    fs::write(path(&due[2]), [])?;
    fs::write(spool.folder().join("due/README"), "not a job\n")?;
    fs::write(spool.folder().join("due/.half.tmp"), "torn")?;
    fs::write(path("9999999999-ffffffffffffffff"), b"MMLG\x01\xff\xff\xff\xff\0\0\0\0")?;
    fs::write(spool.folder().join("open/1000000000-0000000000000000.job"), "garbage")?;
    std::os::unix::fs::symlink(
        "/etc/passwd",
        spool.folder().join("due/1000000000-1111111111111111.job"),
    )?;
    fs::create_dir(spool.folder().join("due/1000000000-2222222222222222.job"))?;

    let before = lab.client().snapshot()?;
    let began = Instant::now();
    let client = start_client(lab, lab.client(), "after", &settings)?;
    lab.note(&format!(
        "up {} ms after the start, with a damaged ledger",
        ms(began.elapsed())
    ));
    ping_both(lab.client(), lab.site().plan)?;
    job.wait_begun(0)?;
    job.let_pass(10)?;
    let survivor = due[3].clone();
    until("the job that is not damaged", PATIENCE, || {
        Ok(job.ended()?.contains(&survivor))
    })?;
    let control = Control::of(lab, "victim");
    let owed = control.get("/v1/housekeeping")?;
    lab.note(&format!("status says: {}", owed["problem"]));
    ensure!(owed["problem"].is_string(), "damage is named: {owed}");
    for damaged in &due[..3] {
        ensure!(
            client.output().contains(damaged.as_str()),
            "the log does not name {damaged}"
        );
    }
    let kept = spool.jobs("failed")?;
    ensure!(
        due[..3]
            .iter()
            .all(|name| kept.iter().any(|kept| kept.contains(name.as_str()))),
        "damaged files are kept in failed/: {kept:?}"
    );
    ensure!(
        fs::read_to_string("/etc/passwd").is_ok(),
        "what a link leads to is nobody's job"
    );
    client.stop(Signal::TERM, PATIENCE)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}

fn without_a_place_for_the_undo_record_the_host_is_not_touched(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let settings = client_settings(lab, lab.site())?.with("tunnel.name", "victim");
    let client = on_disk(lab, "read-only", &settings, "ro,", ":")?;
    refuses_to_start(lab, &client)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "the host was touched: {changes:#?}");
    Ok(())
}

fn without_room_for_the_undo_record_the_host_is_not_touched(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let before = lab.client().snapshot()?;
    let settings = client_settings(lab, lab.site())?.with("tunnel.name", "victim");
    let fill = "head -c 1000000 /dev/zero >\"$place/ballast\"";
    let client = on_disk(lab, "full", &settings, "", fill)?;
    refuses_to_start(lab, &client)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "the host was touched: {changes:#?}");
    Ok(())
}

/// Starts a client whose state folder is a tiny disk of its own, mounted with `options` and prepared by `script`.
fn on_disk(lab: &Lab, name: &str, settings: &Settings, options: &str, script: &str) -> Result<Process> {
    let config = settings.write(&lab.folder().join(format!("{name}.toml")))?;
    let place = lab.folder().join("state");
    let all = format!(
        "place={}\nmount -t tmpfs -o {options}size=64k,mode=700 none \"$place\"\n{script}\nexec \"$@\"",
        place.display()
    );
    let ours = marmot(lab, lab.client(), &[])?;
    let mut command = lab.command(lab.client(), "unshare")?;
    command
        .args(["--mount", "sh", "-c", &all, "sh"])
        .arg(ours.get_program());
    command.args(["client", "-c"]).arg(config);
    lab.spawn(name, command)
}

/// It says why there is no tunnel, calls nobody, and tries again until it is told to end.
fn refuses_to_start(lab: &Lab, client: &Process) -> Result<()> {
    let said = client.wait_for_line(
        Mark::default(),
        &["trying again", "the undo record cannot be written"],
        PATIENCE,
    )?;
    ensure!(client.connections()?.is_empty(), "nobody is called");
    let (status, _) = client.stop(Signal::TERM, PATIENCE)?;
    lab.note(&format!("{status}: {said}"));
    ensure!(status.success(), "the client ended with {status}");
    ensure!(!client.output().contains("session.start"), "no tunnel came up");
    Ok(())
}

fn a_second_daemon_and_a_cleanup_leave_a_running_tunnel_alone_wherever_they_are(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let settings = client_settings(lab, lab.site())?.with("tunnel.name", "victim");
    let first = start_client(lab, lab.client(), "first", &settings)?;
    // What the daemon does at its start, it has done.
    first.wait_for("ledger recovered", PATIENCE)?;
    let (control, spool) = (Control::of(lab, "victim"), Spool::of(lab, "victim"));
    let (with_tunnel, files) = (lab.client().snapshot()?, spool.files()?);
    let second = spawn_client(lab, lab.client(), "second", &settings)?;
    let status = second.wait_exit(PATIENCE)?;
    ensure!(status.code() == Some(1), "the second daemon ended with {status}");
    let cleanup = ["cleanup", "-c", &lab.folder().join("first.toml").display().to_string()].map(str::to_owned);
    let cleanup: Vec<&str> = cleanup.iter().map(String::as_str).collect();
    let cleanup = lab.spawn("cleanup", marmot(lab, lab.client(), &cleanup)?)?;
    let status = cleanup.wait_exit(PATIENCE)?;
    ensure!(!status.success(), "a cleanup of a running tunnel ended with {status}");
    // Elsewhere on this host: in another network, and with another place for its locks.
    let elsewhere = lab.add_client()?;
    let runtime = lab.folder().join("elsewhere").display().to_string();
    let other = settings.with("tunnel.runtime_dir", runtime);
    let path = other.write(&lab.folder().join("elsewhere.toml"))?.display().to_string();
    for (name, words) in [
        ("cleanup-elsewhere", ["cleanup", "-c", &path]),
        ("client-elsewhere", ["client", "-c", &path]),
    ] {
        let process = lab.spawn(name, marmot(lab, &elsewhere, &words)?)?;
        let status = process.wait_exit(PATIENCE)?;
        let expected = if name.starts_with("cleanup") { 9 } else { 1 };
        ensure!(
            status.code() == Some(expected),
            "{name} of a running tunnel ended with {status}"
        );
        process.wait_for("is already run by process", PATIENCE)?;
    }
    ensure!(
        with_tunnel.changes(&lab.client().snapshot()?).is_empty(),
        "the host is as it was"
    );
    let now = spool.files()?;
    ensure!(now == files, "so is the ledger: {files:?} before, {now:?} now");
    ensure!(
        control.get("/v1/status")?["pid"] == first.pid().as_raw_nonzero().get(),
        "the first answers"
    );
    ping_both(lab.client(), lab.site().plan)
}

fn hooks_that_hang_flood_or_fork_are_ended_and_named(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let job = LongJob::without_hook(lab, "hooks")?;
    let place = job.hooks();
    let told = place.join("told.txt");
    write_hook(
        &place.join("10-hangs"),
        "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 86411; done\n",
    )?;
    write_hook(
        &place.join("20-floods"),
        "#!/bin/sh\nhead -c 50000000 /dev/zero | tr '\\0' x\necho the end of a flood\nexit 3\n",
    )?;
    let forks = "#!/bin/sh\n(while :; do sleep 86412; done) &\n(setsid sh -c 'exec sleep 86413' &)\necho forked\n";
    write_hook(&place.join("30-forks"), forks)?;
    write_hook(
        &place.join("40-works"),
        &format!("#!/bin/sh\nenv >{}\n", told.display()),
    )?;
    write_hook(&place.join("50-open-to-all"), "#!/bin/sh\nexit 0\n")?;
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(place.join("50-open-to-all"), all).context("cannot open a hook to all")?;
    let daemon = Daemon::start(lab, "victim", |settings| {
        job.settings(settings)
            .with("housekeeping.hook_timeout_s", 1)
            .with("housekeeping.retry_first_s", 3600)
    })?;
    let before = daemon.process.mark();
    daemon.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let acknowledged = daemon.down()?;
    // The next tunnel does not wait for any of them.
    let up = daemon.up()?;
    lab.note(&format!(
        "down after {} ms, up again after {} ms",
        ms(acknowledged),
        ms(up)
    ));
    daemon
        .process
        .wait_for_line(before, &["housekeeping failed"], PATIENCE * 2)?;
    let owed = daemon.control.get("/v1/housekeeping")?;
    let error = owed["jobs"][0]["last_error"].as_str().unwrap_or_default().to_owned();
    lab.note(&error);
    for word in ["10-hangs", "timed out", "20-floods", "50-open-to-all"] {
        ensure!(error.contains(word), "the error does not name {word}: {error}");
    }
    ensure!(!error.contains("40-works") && error.len() < 2000, "{error}");
    ensure!(owed["counts"]["waiting"] == 1, "{owed}");
    let env = fs::read_to_string(&told).context("the good hook ran")?;
    ensure!(env.contains("MARMOT_TUNNEL=victim"), "{env}");
    ensure!(!env.contains("PASSWORD") && !env.contains("HOME="), "{env}");
    for sleeper in ["sleep 86411", "sleep 86412", "sleep 86413"] {
        until(&format!("the end of {sleeper}"), PATIENCE, || Ok(!runs(sleeper)?))?;
    }
    ping_both(lab.client(), lab.site().plan)
}

/// Whether a process with this command line is there.
fn runs(line: &str) -> Result<bool> {
    for entry in fs::read_dir("/proc").context("cannot list processes")? {
        let path = entry.context("cannot list processes")?.path();
        let command = fs::read(Path::new(&path).join("cmdline")).unwrap_or_default();
        if command
            .split(|byte| *byte == 0)
            .collect::<Vec<_>>()
            .join(&b' ')
            .starts_with(line.as_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn gateway(lab: &Lab) -> Result<Process> {
    start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)
}
