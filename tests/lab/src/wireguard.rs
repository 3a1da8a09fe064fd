//! wg-quick with the userspace WireGuard (wireguard-go), both ends: no kernel module, one route each family.
//!
//! ```text
//!   wg-quick up --> our wrapper --> setsid wireguard-go -f      stays when wg-quick ends; its number is written down
//!   wg-quick down --> deletes the device --> wireguard-go ends by itself
//! ```

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use crate::{Lab, PATIENCE, Process, Site};

/// Name of the client's TUN device.
pub const WIREGUARD_INTERFACE: &str = "wgclient";

const SERVER_INTERFACE: &str = "wgserver";

/// Started by wg-quick in place of wireguard-go. That puts itself into the background, but stays in wg-quick's process group,
/// which the lab ends together with its leader.
const WRAPPER: &str = r#"#!/bin/sh
setsid wireguard-go -f "$1" </dev/null >"FOLDER/wireguard-go-$1.log" 2>&1 &
echo $! >"FOLDER/$1.pid"
until [ -S "/var/run/wireguard/$1.sock" ]; do
  kill -0 $! || exit 1
  sleep 0.01
done
"#;

/// One end.
#[derive(Debug)]
pub struct WgQuick<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    interface: &'static str,
    config: PathBuf,
    wrapper: PathBuf,
    calls: AtomicU32,
}

impl<'a> WgQuick<'a> {
    /// The ends at the gateway of `site` and on the client's host.
    ///
    /// # Errors
    /// If keys or files cannot be made.
    pub fn pair(lab: &'a Lab, site: &'a Site) -> Result<[Self; 2]> {
        let wrapper = lab.file(
            "wireguard-go",
            &WRAPPER.replace("FOLDER", &lab.folder().display().to_string()),
        )?;
        fs::set_permissions(&wrapper, Permissions::from_mode(0o700)).context("cannot make a script executable")?;
        let ([server_key, server_public], [client_key, client_public]) = (keys(lab, "server")?, keys(lab, "client")?);
        let plan = site.plan;
        let end = |host: &'a Namespace, interface: &'static str, text: String| {
            anyhow::Ok(Self {
                lab,
                host,
                interface,
                config: lab.file(&format!("{interface}.conf"), &text)?,
                wrapper: wrapper.clone(),
                calls: AtomicU32::new(1),
            })
        };
        let server = format!(
            "[Interface]\nPrivateKey = {server_key}\nListenPort = 51820\nAddress = 10.99.0.1/24, fd00:99::1/64\n\
             [Peer]\nPublicKey = {client_public}\nAllowedIPs = 10.99.0.2/32, fd00:99::2/128\n"
        );
        let client = format!(
            "[Interface]\nPrivateKey = {client_key}\nAddress = 10.99.0.2/32, fd00:99::2/128\n\
             [Peer]\nPublicKey = {server_public}\nAllowedIPs = {}, {}\nEndpoint = {}:51820\n",
            plan.lan_v4(),
            plan.lan_v6(),
            plan.gateway_v4()
        );
        Ok([
            end(&site.gateway, SERVER_INTERFACE, server)?,
            end(lab.client(), WIREGUARD_INTERFACE, client)?,
        ])
    }

    /// `wg-quick up`, to its end.
    ///
    /// # Errors
    /// If it fails.
    pub fn up(&self) -> Result<()> {
        let status = self.call("up")?.wait_exit(PATIENCE)?;
        ensure!(status.success(), "wg-quick up ended with {status}");
        Ok(())
    }

    /// `wg-quick down`, begun.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn down(&self) -> Result<Process> {
        self.call("down")
    }

    fn call(&self, what: &str) -> Result<Process> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut command = self.lab.command(self.host, "wg-quick")?;
        command.arg(what).arg(&self.config);
        command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", &self.wrapper);
        let name = format!("wg-quick-{}-{what}-{number}", self.interface);
        self.lab.spawn(&name, command)
    }
}

impl Drop for WgQuick<'_> {
    /// The daemon that `wg-quick up` left, if it still runs.
    fn drop(&mut self) {
        let folder = self.lab.folder();
        let Ok(text) = fs::read_to_string(folder.join(format!("{}.pid", self.interface))) else {
            return;
        };
        let ours =
            fs::read_to_string(format!("/proc/{}/comm", text.trim())).is_ok_and(|name| name.trim() == "wireguard-go");
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && ours
        {
            // It may have ended just now.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// A private key and its public one.
fn keys(lab: &Lab, name: &str) -> Result<[String; 2]> {
    let run = |what: &str, input: &str| {
        let mut command = lab.command(lab.client(), "wg")?;
        command.arg(what);
        let process = lab.spawn_with_input(&format!("wg-{what}-{name}"), command, input)?;
        ensure!(process.wait_exit(PATIENCE)?.success(), "wg {what} failed");
        Ok(process.output().trim().to_owned())
    };
    let private = run("genkey", "")?;
    let public = run("pubkey", &format!("{private}\n"))?;
    Ok([private, public])
}
