//! `marmot install-service` and `marmot uninstall-service`: systemd units, user and folders of a tunnel or of the gateway.
//!
//! ```text
//!   files   what is written where, and how it is known again     target  which service, and does its configuration fit
//!   system  the programs of systemd                               report  what was done
//!   abandoned  whether systemd will start a service that has ended again
//! ```
//! Nothing is written before everything has been checked. Both commands may be repeated.

pub(crate) mod abandoned;
mod files;
mod report;
mod system;
mod target;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::{InstallService, ServiceRole, UninstallService};
use crate::exit::{Exit, Failure};

use self::files::{File, Found};
use self::report::{Report, named};
use self::system::{Reach, run};
use self::target::Target;

/// Where a package puts the program; units for another root expect it there.
const PACKAGED: &str = "/usr/bin/marmot";

/// Folders that the units hide from the program (ProtectHome, PrivateTmp).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Writes the units, and enables them if asked.
pub(crate) fn install(args: &InstallService) -> Result<(), Failure> {
    let target = Target::named(&args.service)?;
    let lockdown = target.check()?;
    let root = target.root.as_path();
    let program = program(root)?;
    let mut found = Vec::new();
    for file in files::needed_by(target.role) {
        found.push((file, file.find(root, &program)?));
    }
    refuse_foreign(root, &found)?;

    let mut report = Report::default();
    for (file, state) in found {
        let folders = match state {
            Found::Same => {
                report.unchanged.push(named(&file.place(root)));
                continue;
            }
            Found::Older { folders } => folders,
            Found::Nothing | Found::Foreign => 0,
        };
        file.write(root, &program, folders)?;
        report.written.push(named(&file.place(root)));
    }
    introduce(&target, args.enable, lockdown.as_deref(), &mut report)?;
    report.print(&target.unit, args.service.json);
    Ok(())
}

/// Takes away what [`install`] wrote, as far as no other tunnel needs it. Configuration, history and jobs stay.
pub(crate) fn uninstall(args: &UninstallService) -> Result<(), Failure> {
    let target = Target::named(&args.service)?;
    let root = target.root.as_path();
    let mut report = Report::default();
    retire(&target, &mut report)?;

    let others = others(&target, &mut report)?;
    let doomed: Vec<&File> = match (others.of_this_role.is_empty(), others.of_the_other_role) {
        (false, _) => Vec::new(),
        (true, true) => files::only_for(target.role).collect(),
        (true, false) => files::needed_by(target.role).collect(),
    };
    if !doomed.is_empty() && target.role == ServiceRole::Client && system::reach(root) == Reach::Running {
        let helper = ["systemctl", "stop", "marmot-dns.socket", "marmot-dns.service"];
        run(&helper, root, &mut report.ran)?;
    }
    for name in &others.of_this_role {
        report.kept.push(format!("the units, because {name} needs them"));
    }
    for file in doomed.into_iter().rev() {
        match file.remove(root) {
            Ok(true) => report.removed.push(named(&file.place(root))),
            Ok(false) => {}
            Err(error) => report.kept.push(format!("{error:#}")),
        }
    }
    if !report.removed.is_empty() {
        if system::reach(root) == Reach::Running {
            run(&["systemctl", "daemon-reload"], root, &mut report.ran)?;
        }
        let remark = "configuration (/etc/marmot), history and jobs (/var/lib/marmot) and the user marmot stay";
        report.remarks.push(remark.to_owned());
    }
    report.print(&target.unit, args.service.json);
    Ok(())
}

fn refuse_foreign(root: &Path, found: &[(&File, Found)]) -> Result<(), Failure> {
    let foreign: Vec<String> = found
        .iter()
        .filter(|(_, state)| *state == Found::Foreign)
        .map(|(file, _)| named(&file.place(root)))
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let list = foreign.join(", ");
    let message = format!(
        "{list}: changed by hand or not from us, so nothing was written; move it away, and keep changes in a drop-in \
         (`systemctl edit`)"
    );
    Err(Failure::new(Exit::Error, message))
}

/// Tells systemd: user, folders, units.
fn introduce(target: &Target, enable: bool, lockdown: Option<&str>, report: &mut Report) -> Result<(), Failure> {
    let root = target.root.as_path();
    let reach = system::reach(root);
    if root == Path::new("/") {
        run(
            &["systemd-sysusers", "/etc/sysusers.d/marmot.conf"],
            root,
            &mut report.ran,
        )?;
        run(
            &["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/marmot.conf"],
            root,
            &mut report.ran,
        )?;
        report.remarks.push(format!(
            "the service runs as user marmot: `chgrp marmot FILE; chmod 640 FILE` for {} and the files it names",
            target.file.display()
        ));
    } else {
        report
            .remarks
            .push("systemd makes the user marmot and its folders when this root boots".to_owned());
    }
    if reach == Reach::Running {
        run(&["systemctl", "daemon-reload"], root, &mut report.ran)?;
    }
    if let Some(unit) = lockdown {
        match (enable, reach) {
            (true, Reach::Running) => drop(run(&["systemctl", "enable", "--now", unit], root, &mut report.ran)?),
            (true, Reach::Files) => drop(run(&["systemctl", "enable", unit], root, &mut report.ran)?),
            (false, _) => report.remarks.push(format!(
                "[lockdown] mode is \"always\": `systemctl enable --now {unit}` has it hold from boot on"
            )),
        }
    }
    match (enable, reach) {
        (true, Reach::Running) => run(&["systemctl", "enable", "--now", &target.unit], root, &mut report.ran)?,
        (true, Reach::Files) => run(&["systemctl", "enable", &target.unit], root, &mut report.ran)?,
        (false, _) => {
            let remark = format!(
                "`systemctl enable --now {}` starts it, now and at every boot",
                target.unit
            );
            report.remarks.push(remark);
            String::new()
        }
    };
    Ok(())
}

/// Stops the service and its housekeeping and takes them out of the boot.
fn retire(target: &Target, report: &mut Report) -> Result<(), Failure> {
    let root = target.root.as_path();
    let installed = files::only_for(target.role).any(|file| file.place(root).is_file());
    let running = system::reach(root) == Reach::Running;
    if !installed || (!running && !enabled(root)?.contains(&target.unit)) {
        return Ok(());
    }
    let instance = match target.role {
        ServiceRole::Client => target
            .unit
            .trim_start_matches("marmot-client@")
            .trim_end_matches(".service"),
        ServiceRole::Gateway => "_gateway",
    };
    let housekeeping = ["path", "timer"].map(|kind| format!("marmot-housekeeping@{instance}.{kind}"));
    let lockdown = target::lockdown_unit(instance);
    let mut units = vec![target.unit.as_str(), housekeeping[0].as_str(), housekeeping[1].as_str()];
    if target.role == ServiceRole::Client && enabled(root)?.contains(&lockdown) {
        units.push(&lockdown);
        report
            .remarks
            .push("a lockdown that is in place stays: `marmot cleanup --unlock` lifts it".to_owned());
    }
    let mut words = vec!["systemctl", "disable"];
    if running {
        words.push("--now");
    }
    words.extend(units);
    run(&words, root, &mut report.ran)?;
    Ok(())
}

/// Who else needs the files.
struct Others {
    of_this_role: BTreeSet<String>,
    of_the_other_role: bool,
}

fn others(target: &Target, report: &mut Report) -> Result<Others, Failure> {
    let root = target.root.as_path();
    let mut names = enabled(root)?;
    if system::reach(root) == Reach::Running {
        let words = ["systemctl", "list-units", "--plain", "--no-legend", "marmot-*.service"];
        let listed = run(&words, root, &mut report.ran)?;
        names.extend(
            listed
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_owned),
        );
    }
    let (prefix, other) = match target.role {
        ServiceRole::Client => ("marmot-client@", ServiceRole::Gateway),
        ServiceRole::Gateway => ("marmot-gateway.", ServiceRole::Client),
    };
    names.retain(|name| name.starts_with(prefix) && *name != target.unit);
    Ok(Others {
        of_this_role: names,
        of_the_other_role: files::only_for(other).any(|file| file.place(root).is_file()),
    })
}

/// Names of units that are started at boot.
fn enabled(root: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut names = BTreeSet::new();
    for folder in folder(&root.join("etc/systemd/system"))? {
        if folder
            .extension()
            .is_some_and(|extension| extension == "wants" || extension == "requires")
        {
            let links = self::folder(&folder)?;
            names.extend(
                links
                    .iter()
                    .filter_map(|link| Some(link.file_name()?.to_str()?.to_owned())),
            );
        }
    }
    Ok(names)
}

/// What is in a folder; one that is not there is empty.
fn folder(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", path.display())),
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths
                .collect::<Result<_, _>>()
                .with_context(|| format!("cannot list {}", path.display()))
        }
    }
}

/// Where the units shall find the program.
fn program(root: &Path) -> Result<String, Failure> {
    if root != Path::new("/") {
        return Ok(PACKAGED.to_owned());
    }
    let path = std::env::current_exe().context("cannot find this program")?;
    let path = path.canonicalize().context("cannot find this program")?;
    usable(&path).map_err(|reason| Failure::new(Exit::Error, reason))
}

/// The path as a unit can have it, or why a service could not start it.
fn usable(path: &Path) -> Result<String, String> {
    let text = path.display().to_string();
    let advice = "copy it to /usr/local/bin and call it there";
    if HIDDEN.iter().any(|folder| path.starts_with(folder)) {
        return Err(format!("{text} is hidden from services: {advice}"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    if path.to_str().is_none() || !text.chars().all(plain) {
        return Err(format!(
            "{text} has characters that mean something else in a unit: {advice}"
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
