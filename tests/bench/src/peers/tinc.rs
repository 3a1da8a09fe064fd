//! tinc 1.0, as a router, over UDP.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab::{PATIENCE, Process, Signal};
use platform::netns::Namespace;

use super::{Peer, Stop, ended, found};
use crate::rig::{Rig, run};

struct Tinc {
    server: PathBuf,
    client: PathBuf,
}

pub(super) fn make<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    let plan = rig.site().plan;
    let lan = plan.lan_v4();
    let server = end(
        rig,
        "server",
        "",
        &format!(
            "Address = {}\nSubnet = {lan}\nSubnet = 10.95.0.1/32\n",
            plan.gateway_v4()
        ),
        "ip address add 10.95.0.1/24 dev $INTERFACE",
    )?;
    let client = end(
        rig,
        "client",
        "ConnectTo = server\n",
        "Subnet = 10.95.0.2/32\n",
        &format!("ip address add 10.95.0.2/24 dev $INTERFACE\nip route add {lan} dev $INTERFACE"),
    )?;
    // Each knows the other's key.
    for (from, to, name) in [(&server, &client, "server"), (&client, &server, "client")] {
        let file = Path::new("hosts").join(name);
        fs::copy(from.join(&file), to.join(&file)).context("cannot copy a key")?;
    }
    Ok(Box::new(Tinc { server, client }))
}

/// One end's folder.
fn end(rig: &Rig<'_>, name: &str, more: &str, host: &str, up: &str) -> Result<PathBuf> {
    let folder = rig.lab.folder().join(format!("tinc-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("hosts")).context("cannot make a folder")?;
    let write = |file: &str, text: &str| fs::write(folder.join(file), text).context("cannot write a file of tinc");
    write(
        "tinc.conf",
        &format!("Name = {name}\nAddressFamily = ipv4\nInterface = tinc{name}\n{more}"),
    )?;
    write(&format!("hosts/{name}"), host)?;
    write("tinc-up", &format!("#!/bin/sh\nip link set $INTERFACE up\n{up}\n"))?;
    fs::set_permissions(folder.join("tinc-up"), Permissions::from_mode(0o700)).context("cannot change a mode")?;
    let mut keys = rig.lab.command(rig.lab.client(), found("tincd")?)?;
    run(keys
        .arg("-c")
        .arg(&folder)
        .args(["-K", "2048"])
        .stdin(std::process::Stdio::null()))?;
    Ok(folder)
}

fn start(rig: &Rig<'_>, host: &Namespace, name: &str, folder: &PathBuf) -> Result<Process> {
    let mut command = rig.lab.command(host, found("tincd")?)?;
    command
        .arg("-c")
        .arg(folder)
        .args(["-D", "-d1", "--pidfile"])
        .arg(folder.join("pid"));
    rig.lab.spawn(name, command)
}

impl Peer for Tinc {
    fn gateway(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let process = start(rig, &rig.site().gateway, "tinc-server", &self.server)?;
        process.wait_for("Ready", PATIENCE)?;
        Ok(vec![process])
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        Ok(vec![start(rig, rig.lab.client(), "tinc-client", &self.client)?])
    }

    fn stop(&self, _rig: &Rig<'_>, client: &[Process]) -> Result<Stop> {
        ended(client, Signal::TERM)
    }
}
