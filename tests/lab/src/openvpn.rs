//! Debian's OpenVPN, both ends: TLS with the lab's certificates, data over UDP, two routes pushed.

use std::path::PathBuf;

use anyhow::Result;
use platform::netns::Namespace;
use rustix::process::Signal;

use crate::{Lab, PATIENCE, Process, Site};

/// Name of the client's TUN device.
pub const OPENVPN_INTERFACE: &str = "tun8";

/// What it says when its tunnel is up, at either end.
const UP: &str = "Initialization Sequence Completed";

/// The configurations of both ends.
#[derive(Debug)]
pub struct Openvpn<'a> {
    lab: &'a Lab,
    site: &'a Site,
    server: PathBuf,
    client: PathBuf,
}

impl<'a> Openvpn<'a> {
    /// Writes them for the gateway of `site`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn configure(lab: &'a Lab, site: &'a Site) -> Result<Self> {
        // Not the certificate of the other gateways: each call makes a new one in the same files.
        let (server, client) = (lab.pki().renewed_server()?, lab.pki().client("openvpn")?);
        let (ca, plan) = (lab.pki().ca(), site.plan);
        let identity = |identity: &crate::Identity| {
            format!(
                "ca {}\ncert {}\nkey {}\nverb 3\nproto udp4\n",
                ca.display(),
                identity.certificate.display(),
                identity.key.display()
            )
        };
        let (lan_v4, lan_v6) = (plan.lan_v4(), plan.lan_v6());
        let server = lab.file(
            "openvpn-server.conf",
            &format!(
                "{}dev tunovpn\ndev-type tun\nport 1194\ntopology subnet\nserver 10.98.0.0 255.255.255.0\n\
                 server-ipv6 fd00:98::/64\npush \"route {} {}\"\npush \"route-ipv6 {lan_v6}\"\ndh none\nkeepalive 10 60\n",
                identity(&server),
                lan_v4.addr(),
                lan_v4.netmask(),
            ),
        )?;
        let client = lab.file(
            "openvpn-client.conf",
            &format!(
                "{}client\ndev {OPENVPN_INTERFACE}\ndev-type tun\nremote {} 1194\nnobind\n\
                 remote-cert-eku \"TLS Web Server Authentication\"\n",
                identity(&client),
                plan.gateway_v4(),
            ),
        )?;
        Ok(Self {
            lab,
            site,
            server,
            client,
        })
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn serve(&self) -> Result<Process> {
        self.start(&self.site.gateway, "openvpn-server", &self.server)
    }

    /// Starts a client and waits until its tunnel is up. SIGTERM stops it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(&self, host: &Namespace, name: &str) -> Result<Process> {
        self.start(host, name, &self.client)
    }

    /// The signal by which its service stops it.
    pub const STOP: Signal = Signal::TERM;

    fn start(&self, host: &Namespace, name: &str, config: &PathBuf) -> Result<Process> {
        let mut command = self.lab.command(host, "openvpn")?;
        command.arg("--config").arg(config);
        let process = self.lab.spawn(name, command)?;
        process.wait_for(UP, PATIENCE)?;
        Ok(process)
    }
}
