//! Quincy: packets in QUIC datagrams, TLS with certificates at both ends.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::{PATIENCE, Process, Signal, USER};
use platform::netns::Namespace;

use super::{Peer, Stop, ended, found};
use crate::rig::{Rig, run};

struct Quincy {
    server: PathBuf,
    client: PathBuf,
}

pub(super) fn make<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    let (lab, plan) = (rig.lab, rig.site().plan);
    let (server, alice) = (lab.pki().renewed_server()?, lab.pki().client(USER)?);
    let mut openssl = lab.command(lab.client(), "openssl")?;
    openssl
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&alice.certificate);
    let said = run(&mut openssl)?;
    let fingerprint = said.trim().split_once('=').context("openssl names a fingerprint")?.1;
    let fingerprint = fingerprint.replace(':', "").to_lowercase();
    let users = lab.file(
        "quincy-users.toml",
        &format!("[users.{USER}]\nauthorized_certs = [\"sha256:{fingerprint}\"]\n"),
    )?;
    let server = format!(
        "name = \"bench\"\ninterface_name = \"quincysrv\"\ntunnel_network = \"10.96.0.1/24\"\nusers_file = {users:?}\n\
         [protocol]\nmode = \"tls\"\ncertificate_file = {:?}\ncertificate_key_file = {:?}\n[log]\nlevel = \"info\"\n",
        server.certificate, server.key
    );
    let client = format!(
        "connection_string = \"{}:55555\"\n\
         [protocol]\nmode = \"tls\"\ntrusted_certificate_paths = [{:?}]\nclient_certificate_file = {:?}\n\
         client_certificate_key_file = {:?}\n\
         [network]\nroutes = [\"{}\"]\ninterface_name = \"quincycli\"\n[log]\nlevel = \"info\"\n",
        plan.gateway_v4(),
        lab.pki().ca(),
        alice.certificate,
        alice.key,
        plan.lan_v4()
    );
    Ok(Box::new(Quincy {
        server: lab.file("quincy-server.toml", &server)?,
        client: lab.file("quincy-client.toml", &client)?,
    }))
}

fn start(rig: &Rig<'_>, host: &Namespace, program: &str, config: &PathBuf) -> Result<Process> {
    let mut command = rig.lab.command(host, found(program)?)?;
    command.arg("--config-path").arg(config);
    rig.lab.spawn(program, command)
}

impl Peer for Quincy {
    fn gateway(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let process = start(rig, &rig.site().gateway, "quincy-server", &self.server)?;
        process.wait_for("Starting connection handler", PATIENCE)?;
        Ok(vec![process])
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        Ok(vec![start(rig, rig.lab.client(), "quincy-client", &self.client)?])
    }

    fn stop(&self, _rig: &Rig<'_>, client: &[Process]) -> Result<Stop> {
        ended(client, Signal::INT)
    }
}
