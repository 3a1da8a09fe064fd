//! A tunnel on a host as people have one: systemd is the first process, our units are installed by our own command, the
//! daemon is an ordinary user's, and the host's logind puts it to sleep.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::ping_both;
use lab::{
    Lab, Machine, PATIENCE, Process, client_interface, client_settings, gateway_settings, name_free, start_gateway,
    until,
};

/// The unit of the tunnel.
const CLIENT: &str = "marmot-client@site-a.service";

/// What logind gives whoever holds a sleep up, unless it is told otherwise (logind.conf(5)).
const INHIBIT_DELAY_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    lab::run(
        Machine::NEEDS,
        lab::tests![
            a_host_that_sleeps_waits_for_its_tunnel,
            a_service_is_installed_restarted_killed_and_stopped,
        ],
    )
}

/// A machine with an installed tunnel that is up.
struct Host {
    gateway: Process,
    machine: Machine,
    output: Process,
}

impl Host {
    /// Nothing, with a word about it, where no machine can run.
    fn with_a_tunnel(lab: &Lab) -> Result<Option<Self>> {
        if let Some(reason) = Machine::obstacle() {
            lab.skip(&reason)?;
            return Ok(None);
        }
        let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
        // Only what an administrator writes; the folders are those of the units.
        let settings = client_settings(lab, lab.site())?
            .without("tunnel.state_dir")
            .without("tunnel.runtime_dir")
            .with("trust.ca_file", "/etc/marmot/ca.pem")
            .with("login.password_file", "/etc/marmot/password");
        let config = fs::read(settings.write(&lab.folder().join("site-a.toml"))?)?;
        let authority = fs::read(lab.pki().ca())?;
        for (name, content) in [
            ("site-a.toml", config.as_slice()),
            ("ca.pem", authority.as_slice()),
            ("password", lab::PASSWORD.as_bytes()),
        ] {
            Machine::etc(lab, "machine", &format!("marmot/{name}"), content)?;
        }
        let machine = Machine::start(lab, lab.client(), "machine")?;
        machine.run("marmot", &["install-service", "client", "/etc/marmot/site-a.toml"])?;
        machine.run("sh", &["-c", "chgrp marmot /etc/marmot/* && chmod 640 /etc/marmot/*"])?;
        let output = machine.listen(lab, CLIENT)?;
        let mark = output.mark();
        machine.run("systemctl", &["enable", "--now", CLIENT])?;
        output.wait_for_line(mark, &["session.start"], PATIENCE)?;
        ping_both(lab.client(), lab.site().plan)?;
        Ok(Some(Self {
            gateway,
            machine,
            output,
        }))
    }

    fn main_pid(&self) -> Result<String> {
        let pid = self.machine.property(CLIENT, "MainPID")?;
        ensure!(pid != "0", "{CLIENT} does not run");
        Ok(pid)
    }

    fn device(&self, lab: &Lab) -> Result<String> {
        let name = client_interface(lab.site());
        let said = self.machine.run("ip", &["-oneline", "link", "show", "dev", &name])?;
        said.split(':').next().map(str::to_owned).context("a number")
    }

    fn held(&self) -> Result<bool> {
        let inhibitors = self.machine.inhibitors()?;
        ensure!(
            inhibitors
                .iter()
                .all(|lock| lock.who == "marmot" && lock.mode == "delay"),
            "ours alone: {inhibitors:?}"
        );
        Ok(!inhibitors.is_empty())
    }
}

fn a_host_that_sleeps_waits_for_its_tunnel(lab: &Lab) -> Result<()> {
    let Some(host) = Host::with_a_tunnel(lab)? else {
        return Ok(());
    };
    let now = || platform::clock::now().boot.since_origin();
    for nth in 1..=2 {
        until("a lock", PATIENCE, || host.held())?;
        let (mark, gateway) = (host.output.mark(), host.gateway.mark());
        let asked = now();
        host.machine.suspend()?;
        let sleep = host.machine.sleeps_now(nth)?;
        ensure!(sleep.state == "mem", "the host sleeps: {sleep:?}");
        // Both were there before the host slept: it waited for them, and not until logind's patience was over.
        host.output
            .wait_for_line(mark, &["the host speaks of sleep", "Sleeping"], PATIENCE)?;
        // A park right after a return is taken for one that was late, so the second sleep may be too soon for its own.
        if nth == 1 {
            host.gateway.wait_for_line(gateway, &["session.park"], PATIENCE)?;
        }
        let waited = sleep.began.saturating_sub(asked);
        ensure!(
            waited < INHIBIT_DELAY_MAX,
            "it slept without an acknowledgement: {waited:?}"
        );
        ensure!(
            host.output.count_since(mark, &["the host may sleep"]) == 1,
            "the lock was let go"
        );
        ensure!(!host.held()?, "and is not held in the sleep");
        lab.note(&format!("slept {} ms after it was asked to", waited.as_millis()));

        host.machine.wake()?;
        host.output
            .wait_for_line(mark, &["the host speaks of sleep", "Resumed"], PATIENCE)?;
        ping_both(lab.client(), lab.site().plan)?;
    }
    until("a lock for the next sleep", PATIENCE, || host.held())?;
    ensure!(host.output.count(&["session.start"]) == 1, "one session");
    Ok(())
}

fn a_service_is_installed_restarted_killed_and_stopped(lab: &Lab) -> Result<()> {
    let before = lab.client().snapshot()?;
    let Some(host) = Host::with_a_tunnel(lab)? else {
        return Ok(());
    };
    let device = host.device(lab)?;
    let status = host
        .machine
        .run("cat", &[&format!("/proc/{}/status", host.main_pid()?)])?;
    let user = host.machine.run("id", &["-u", "marmot"])?;
    for fact in [
        format!("Uid:\t{user}\t{user}\t{user}\t{user}"),
        // CAP_NET_ADMIN alone, which is number 12.
        "CapEff:\t0000000000001000".to_owned(),
        "CapBnd:\t0000000000001000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
        "Seccomp:\t2".to_owned(),
    ] {
        ensure!(status.contains(&fact), "{fact:?} is not in {status}");
    }
    for words in [
        ["restart", CLIENT].as_slice(),
        &["kill", "--signal=KILL", "--kill-who=main", CLIENT],
    ] {
        let (pid, mark) = (host.main_pid()?, host.output.mark());
        host.machine.run("systemctl", words)?;
        host.output.wait_for_line(mark, &["session.unpark"], PATIENCE)?;
        ping_both(lab.client(), lab.site().plan)?;
        ensure!(host.main_pid()? != pid, "the process is another one");
        ensure!(host.device(lab)? == device, "the device is the same: systemd kept it");
    }
    host.machine.run("systemctl", &["stop", CLIENT])?;
    name_free(lab.client(), &client_interface(lab.site()), PATIENCE)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "this is left on the host: {changes:#?}");
    let path = host
        .machine
        .property("marmot-housekeeping@site-a.path", "ActiveState")?;
    ensure!(
        path == "active",
        "what is left to be done is done without the daemon: {path}"
    );
    Ok(())
}
