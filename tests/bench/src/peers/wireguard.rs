//! Userspace WireGuard of several makes. They all take their configuration from `wg` over a socket in /var/run/wireguard.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lab::{PATIENCE, Process, Signal, until};
use platform::netns::Namespace;

use super::{Peer, Stop, ended, found};
use crate::rig::{Rig, run};

const SERVER: &str = "wgserver";
const CLIENT: &str = "wgclient";

/// The MTU that `wg-quick` chooses for a way of 1,500 bytes.
const MTU: u32 = 1420;

struct Wireguard {
    program: PathBuf,
    arguments: &'static [&'static str],
    server: PathBuf,
    client: PathBuf,
}

pub(super) fn debian<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    make(rig, "wireguard-go", &["-f"])
}

pub(super) fn newest<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    make(rig, "wireguard-go-new", &["-f"])
}

pub(super) fn boringtun<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    make(rig, "boringtun-cli", &["--foreground", "--disable-drop-privileges"])
}

fn make<'a>(rig: &Rig<'a>, program: &str, arguments: &'static [&'static str]) -> Result<Box<dyn Peer + 'a>> {
    let ([server_key, server_public], [client_key, client_public]) = (keys(rig)?, keys(rig)?);
    let plan = rig.site().plan;
    let server = format!(
        "[Interface]\nPrivateKey = {server_key}\nListenPort = 51820\n\
         [Peer]\nPublicKey = {client_public}\nAllowedIPs = 10.99.0.2/32\n"
    );
    let client = format!(
        "[Interface]\nPrivateKey = {client_key}\n\
         [Peer]\nPublicKey = {server_public}\nAllowedIPs = {}\nEndpoint = {}:51820\n",
        plan.lan_v4(),
        plan.gateway_v4()
    );
    Ok(Box::new(Wireguard {
        program: found(program)?,
        arguments,
        server: rig.lab.file("wg-server.conf", &server)?,
        client: rig.lab.file("wg-client.conf", &client)?,
    }))
}

impl Wireguard {
    fn end(&self, rig: &Rig<'_>, host: &Namespace, device: &str, config: &Path, rest: &str) -> Result<Vec<Process>> {
        let mut command = rig.lab.command(host, &self.program)?;
        command.args(self.arguments).arg(device);
        let process = rig.lab.spawn(device, command)?;
        let socket = PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
        until("the socket of a WireGuard daemon", PATIENCE, || {
            ensure!(process.is_running(), "it ended: {}", process.output());
            Ok(socket.exists())
        })?;
        let script = format!(
            "wg setconf {device} {}\nip link set {device} mtu {MTU} up\n{rest}",
            config.display()
        );
        run(rig.lab.command(host, "sh")?.args(["-e", "-c", &script]))?;
        Ok(vec![process])
    }
}

impl Peer for Wireguard {
    fn gateway(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let rest = format!("ip address add 10.99.0.1/24 dev {SERVER}");
        self.end(rig, &rig.site().gateway, SERVER, &self.server, &rest)
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let lan = rig.site().plan.lan_v4();
        let rest = format!("ip address add 10.99.0.2/24 dev {CLIENT}\nip route add {lan} dev {CLIENT}");
        self.end(rig, rig.lab.client(), CLIENT, &self.client, &rest)
    }

    fn stop(&self, _rig: &Rig<'_>, client: &[Process]) -> Result<Stop> {
        ended(client, Signal::TERM)
    }
}

/// A private key and its public one.
fn keys(rig: &Rig<'_>) -> Result<[String; 2]> {
    let script = "key=$(wg genkey); echo $key; echo $key | wg pubkey";
    let both = run(rig.lab.command(rig.lab.client(), "sh")?.args(["-e", "-c", script]))?;
    let mut lines = both.lines().map(str::to_owned);
    match (lines.next(), lines.next()) {
        (Some(private), Some(public)) => Ok([private, public]),
        _ => anyhow::bail!("wg made no keys"),
    }
}
