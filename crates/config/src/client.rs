//! `client.toml`: what one tunnel of a client needs to know.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{ConfigErrors, GatewayUrl, Host, Keepalive, Log, Pin, TlsVersion};

/// A checked `client.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// `[tunnel]`
    pub tunnel: Tunnel,
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[trust]`
    pub trust: Trust,
    /// `[login]`
    pub login: Login,
    /// `[tls]`
    pub tls: Tls,
    /// `[tcp]`
    pub tcp: Tcp,
    /// `[session]`
    pub session: Session,
    /// `[reconnect]`
    pub reconnect: Reconnect,
    /// `[log]`
    pub log: Log,
}

/// `[tunnel]`: the tunnel on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of the tunnel, 1 to 12 of `[a-z0-9-]`; default `marmot`.
    pub name: String,
    /// Name of the TUN device, 1 to 15 bytes; default `mm-<name>`.
    pub interface: String,
    /// Upper bound for the device MTU in bytes, 576 to 9000; `None` takes what the gateway grants.
    pub mtu: Option<u16>,
    /// Folder for what must survive a restart.
    pub state_dir: PathBuf,
    /// Folder for locks and sockets of running tunnels.
    pub runtime_dir: PathBuf,
    /// What the daemon does after it has started.
    pub start: Start,
}

/// What the daemon does after it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Connects at once.
    Up,
    /// Waits for the user (SIGUSR2).
    Down,
}

/// `[gateway]`: whom to call, and how long to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where the gateway is.
    pub url: GatewayUrl,
    /// Addresses to dial instead of resolving the host of `url`, in this order; at most 16.
    pub addresses: Vec<IpAddr>,
    /// Limit for a TCP connection to be made, all addresses together. 1 to 120 s; default 10 s.
    pub dial_timeout: Duration,
    /// Limit for the TLS handshake, and for each answer of the login dialogue. 1 to 120 s; default 15 s.
    pub handshake_timeout: Duration,
}

/// `[trust]`: which server certificate is good. With neither `ca_file` nor `pins` the platform's verifier decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// PEM file; only these certificate authorities are trusted.
    pub ca_file: Option<PathBuf>,
    /// The server's public key must match one; at most 16. Without `ca_file` a match replaces the check of issuer and
    /// name (expiry is still checked); with `ca_file` both must hold.
    pub pins: Vec<Pin>,
    /// Name that the certificate must carry, and that is sent as SNI, instead of the host of the URL.
    pub server_name: Option<Host>,
}

/// `[login]`: who we are. With no password source and no certificate the user is asked on the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// User name, at most 256 bytes; `None` asks on the terminal if the gateway wants one.
    pub user: Option<String>,
    /// Where the password comes from; `None` asks on the terminal.
    pub password: Option<PasswordSource>,
    /// Group to choose if the gateway offers several.
    pub group: Option<String>,
    /// Client certificate.
    pub certificate: Option<CertificateFiles>,
}

/// Where a password is read from; trailing line ends are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// `password_file`: a file that only its owner can read.
    File(PathBuf),
    /// `credential`: name of a file under `$CREDENTIALS_DIRECTORY` (systemd `LoadCredential=`).
    Credential(String),
}

/// A certificate chain and its private key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate first, then its intermediates.
    pub certificate_file: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1 key; must not be readable by others.
    pub key_file: PathBuf,
}

/// `[tls]` of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tls {
    /// Offer the hybrid post-quantum groups. The ClientHello grows to about 1.5 kB; some middleboxes break on it.
    pub post_quantum: bool,
    /// The oldest version that is accepted.
    pub min_version: TlsVersion,
}

/// `[tcp]` of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Keepalive by the kernel.
    pub keepalive: Keepalive,
    /// Size of the send buffer in bytes, 4096 to 16 MiB; `None` leaves it to the kernel.
    pub send_buffer_bytes: Option<u32>,
}

/// `[session]` of the client: what is taken over from the gateway's grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Interval of dead-peer detection, 2 s to 1 h; `None` takes what the gateway grants.
    pub dpd: Option<Duration>,
    /// Install the granted routes.
    pub accept_routes: bool,
    /// Install a granted default route (a grant without routes is one).
    pub accept_default_route: bool,
    /// Use the granted name servers. Recorded; applied in a later release.
    pub accept_dns: bool,
    /// Host name told to the gateway (`X-CSTP-Hostname`); `None` sends the machine's own.
    pub hostname: Option<String>,
}

/// `[reconnect]`: waits between attempts, doubling from `first` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// 0.05 s to `max`; default 0.25 s.
    pub first: Duration,
    /// 1 s to 1 h; default 30 s.
    pub max: Duration,
}

impl ClientConfig {
    /// Reads the text of a file. `file` is its name for messages; relative paths in it start from `base`.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Self, ConfigErrors> {
        let _ = (text, base);
        Err(ConfigErrors::unreadable(file, "the parser is not written yet"))
    }
}
