//! The manager that services are tested under: a stand-in service runs in it, and nothing of it is left.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use lab::{Lab, PATIENCE, Systemd, until};

fn main() -> ExitCode {
    lab::run(
        &["systemctl"],
        lab::tests![
            a_service_starts_again_after_a_kill_and_not_after_a_stop,
            our_units_are_loaded,
            nothing_of_a_manager_is_left,
        ],
    )
}

const SERVICE: &str = "[Service]
ExecStart=/bin/sh -c 'echo it runs in $$; exec tail -f /dev/null'
StandardOutput=append:OUT
Restart=always
RestartSec=10ms
";

fn start(lab: &Lab) -> Result<Systemd> {
    let systemd = Systemd::start(lab, lab.client(), "systemd")?;
    let out = lab.folder().join("systemd/out/standin@.out").display().to_string();
    systemd.unit("standin.service", &SERVICE.replace("OUT", &out))?;
    systemd.systemctl(&["start", "standin.service"])?;
    Ok(systemd)
}

fn a_service_starts_again_after_a_kill_and_not_after_a_stop(lab: &Lab) -> Result<()> {
    let systemd = start(lab)?;
    let output = systemd.listen(lab, "standin")?;
    output.wait_for("it runs in", PATIENCE)?;
    let first = systemd.main_pid("standin.service")?;
    let mark = output.mark();
    systemd.systemctl(&["kill", "--signal=KILL", "standin.service"])?;
    output.wait_for_after(mark, "it runs in", PATIENCE)?;
    systemd.wait_for_state("standin.service", "active")?;
    ensure!(
        systemd.main_pid("standin.service")? != first,
        "the process is another one"
    );
    let (_, took) = systemd.systemctl(&["stop", "standin.service"])?;
    systemd.wait_for_state("standin.service", "inactive")?;
    lab.note(&format!("a stop of nearly nothing takes {} ms", took.as_millis()));
    Ok(())
}

fn our_units_are_loaded(lab: &Lab) -> Result<()> {
    let systemd = Systemd::start(lab, lab.client(), "systemd")?;
    for unit in [
        "marmot-client@site-a.service",
        "marmot-gateway.service",
        "marmot-housekeeping@site-a.service",
        "marmot-housekeeping@site-a.path",
        "marmot-housekeeping@site-a.timer",
        "marmot-housekeeping@_gateway.service",
    ] {
        let state = systemd.property(unit, "LoadState")?;
        ensure!(state == "loaded", "{unit} is {state}");
    }
    let command = systemd.property("marmot-housekeeping@_gateway.service", "ExecStart")?;
    ensure!(
        command.contains("/gateway.toml"),
        "the gateway's instance has its own: {command}"
    );
    Ok(())
}

fn nothing_of_a_manager_is_left(lab: &Lab) -> Result<()> {
    let systemd = start(lab)?;
    let pid = systemd.main_pid("standin.service")?;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(cgroup.contains("marmot-lab-"), "it is in a group of the lab: {cgroup}");
    drop(systemd);
    let gone = || Ok(!Path::new(&format!("/proc/{pid}")).exists());
    until("the service to be gone", PATIENCE, gone)?;
    let prefix = format!("marmot-lab-{}-", std::process::id());
    for folder in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let name = entry?.file_name();
            ensure!(
                !name.to_string_lossy().starts_with(&prefix),
                "{name:?} is left in {folder}"
            );
        }
    }
    Ok(())
}
