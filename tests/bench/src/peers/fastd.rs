//! fastd in tun mode, with the method that its documentation recommends.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::{PATIENCE, Process, Signal};
use platform::netns::Namespace;

use super::{Peer, Stop, ended, found};
use crate::rig::{Rig, run};

struct Fastd {
    server: PathBuf,
    client: PathBuf,
}

pub(super) fn make<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    let ([server_key, server_public], [client_key, client_public]) = (keys(rig)?, keys(rig)?);
    let plan = rig.site().plan;
    let config = |name: &str, secret: &str, peer: &str, up: &str| {
        let text = format!(
            "mode tun;\ninterface \"fastd{name}\";\nmethod \"salsa2012+umac\";\nmtu 1406;\nsecret \"{secret}\";\n\
             {peer}\non up \"ip link set $INTERFACE up; {up}\";\n"
        );
        rig.lab.file(&format!("fastd-{name}.conf"), &text)
    };
    let server = config(
        "srv",
        &server_key,
        &format!(
            "bind {}:10000;\npeer \"client\" {{ key \"{client_public}\"; }}",
            plan.gateway_v4()
        ),
        "ip address add 10.94.0.1/24 dev $INTERFACE",
    )?;
    let client = config(
        "cli",
        &client_key,
        &format!(
            "peer \"server\" {{ key \"{server_public}\"; remote {}:10000; }}",
            plan.gateway_v4()
        ),
        &format!(
            "ip address add 10.94.0.2/24 dev $INTERFACE; ip route add {} dev $INTERFACE",
            plan.lan_v4()
        ),
    )?;
    Ok(Box::new(Fastd { server, client }))
}

/// A secret key and its public one.
fn keys(rig: &Rig<'_>) -> Result<[String; 2]> {
    let said = run(rig
        .lab
        .command(rig.lab.client(), found("fastd")?)?
        .arg("--generate-key"))?;
    let key = |what: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
        line.map(|line| line.trim().to_owned()).context("fastd makes keys")
    };
    Ok([key("Secret:")?, key("Public:")?])
}

fn start(rig: &Rig<'_>, host: &Namespace, name: &str, config: &PathBuf) -> Result<Process> {
    let mut command = rig.lab.command(host, found("fastd")?)?;
    command.arg("--config").arg(config);
    rig.lab.spawn(name, command)
}

impl Peer for Fastd {
    fn gateway(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let process = start(rig, &rig.site().gateway, "fastd-server", &self.server)?;
        process.wait_for("bound to", PATIENCE)?;
        Ok(vec![process])
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        Ok(vec![start(rig, rig.lab.client(), "fastd-client", &self.client)?])
    }

    fn stop(&self, _rig: &Rig<'_>, client: &[Process]) -> Result<Stop> {
        ended(client, Signal::TERM)
    }
}
