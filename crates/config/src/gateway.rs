//! `gateway.toml`: what a gateway needs to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::document::{Document, Key};
use crate::{AccessAction, AccessRule, Api, ConfigErrors, DtlsSuite, Housekeeping, Keepalive, Log, Park, TlsVersion};

mod group;
mod read;

pub use group::{Access, Group, Pushed};

/// A checked `gateway.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`
    pub tls: Tls,
    /// `[auth]`
    pub auth: Auth,
    /// `[pool]`
    pub pool: Pool,
    /// `[network]`
    pub network: Network,
    /// `[[group]]`, at most 32
    pub groups: Vec<Group>,
    /// `[dtls]`
    pub dtls: Dtls,
    /// `[session]`
    pub session: Session,
    /// `[park]`
    pub park: Park,
    /// `[tcp]`
    pub tcp: Tcp,
    /// `[limits]`
    pub limits: Limits,
    /// `[storage]`
    pub storage: Storage,
    /// `[api]`
    pub api: Api,
    /// `[housekeeping]`
    pub housekeeping: Housekeeping,
    /// `[log]`
    pub log: Log,
}

/// `[listen]`: where clients arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses and ports, at most 16; empty means the listeners arrive as descriptors (systemd `LISTEN_FDS`).
    /// Default `[::]:443`, which takes IPv4 too.
    pub addresses: Vec<SocketAddr>,
    /// Connections the kernel keeps until they are accepted. 1 to 65535; default 1024.
    pub backlog: u32,
}

/// `[tls]` of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the server certificate first, then its intermediates. Required.
    pub certificate_file: PathBuf,
    /// PEM: the private key; must not be readable by others. Required.
    pub key_file: PathBuf,
    /// The oldest version that is accepted.
    pub min_version: TlsVersion,
    /// Accept the hybrid post-quantum groups.
    pub post_quantum: bool,
}

/// `[auth]`: who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// From the keys `methods` and `require_both`.
    pub methods: AuthMethods,
    /// The users file; always there when a password is accepted. When it is there, a user known by certificate must be in
    /// it too, and not disabled; without it every user with a good certificate may come in.
    pub users_file: Option<PathBuf>,
    /// PEM: authorities of client certificates; always there when a certificate is accepted.
    pub client_ca_file: Option<PathBuf>,
    /// Which part of a client certificate is the user name.
    pub user_from: UserFrom,
    /// Groups offered for choice, at most 32; a user may choose those that its entry in the users file names.
    pub groups: Vec<String>,
    /// Text shown after login, at most 1024 bytes.
    pub banner: Option<String>,
}

/// What a client must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethods {
    /// A password.
    Password,
    /// A client certificate.
    Certificate,
    /// A client certificate, or without one a password.
    Either,
    /// A client certificate and a password, both of the same user.
    Both,
}

impl AuthMethods {
    /// Whether a password is ever asked for.
    pub fn password(self) -> bool {
        match self {
            AuthMethods::Password | AuthMethods::Either | AuthMethods::Both => true,
            AuthMethods::Certificate => false,
        }
    }

    /// Whether a client certificate is ever looked at.
    pub fn certificate(self) -> bool {
        match self {
            AuthMethods::Certificate | AuthMethods::Either | AuthMethods::Both => true,
            AuthMethods::Password => false,
        }
    }
}

/// Which part of a client certificate is the user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserFrom {
    /// The UID of the subject (OID 0.9.2342.19200300.100.1.1, RFC 4519 section 2.39).
    Uid,
    /// The common name of the subject.
    CommonName,
    /// The first e-mail address of the subject alternative names.
    EmailSan,
}

/// `[pool]`: the addresses that are leased to clients. At least one family is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Prefix length 8 to 30; default `10.78.0.0/24`.
    pub ipv4: Option<Ipv4Net>,
    /// Prefix length 48 to 126; default none.
    pub ipv6: Option<Ipv6Net>,
    /// How long a released address rests before somebody else gets it, unless no other is left. 0 to 24 h; default 10 min.
    pub rest: Duration,
}

impl Pool {
    /// The gateway's own IPv4 address: the first host address of the pool.
    pub fn gateway_ipv4(&self) -> Option<Ipv4Addr> {
        self.ipv4
            .map(|net| Ipv4Addr::from_bits(net.network().to_bits().wrapping_add(1)))
    }

    /// The gateway's own IPv6 address: the first host address of the pool.
    pub fn gateway_ipv6(&self) -> Option<Ipv6Addr> {
        self.ipv6
            .map(|net| Ipv6Addr::from_bits(net.network().to_bits().wrapping_add(1)))
    }
}

/// `[network]`: the device, and what is pushed to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of the TUN device, 1 to 15 bytes; default `marmot-gw`.
    pub interface: String,
    /// MTU of the device and of grants, in bytes. 576 to 9000, at least 1280 with an IPv6 pool; default 1406.
    pub mtu: u16,
    /// Let the device hand over several packets of a flow at once, where the system can.
    pub offload: bool,
    /// Threads that carry packets, each with a queue of the device and a UDP socket of each address. 1 to 16; default 1.
    pub workers: usize,
    /// Clients reach what is behind the gateway by the gateway's own addresses, and nothing there reaches them by itself.
    pub nat: bool,
    /// The only interface towards which addresses are translated; `None` is all but the device itself.
    pub nat_interface: Option<String>,
    /// Networks pushed to clients, at most 1000; empty pushes a default route (the protocol says it by naming none).
    pub routes: Vec<IpNet>,
    /// Networks that clients keep outside of the tunnel, at most 1000.
    pub exclude_routes: Vec<IpNet>,
    /// Name servers pushed to clients, at most 3 (stock clients use no more).
    pub dns: Vec<IpAddr>,
    /// Search domains, at most 16.
    pub domains: Vec<String>,
    /// Domains for which the pushed name servers are asked, at most 64; empty means all.
    pub split_dns: Vec<String>,
    /// Forward packets between clients.
    pub client_to_client: bool,
    /// Tell clients to send no DNS query outside of the tunnel.
    pub tunnel_all_dns: bool,
    /// What becomes of a packet of a client, or for one, that no rule fits.
    pub acl_default: AccessAction,
    /// Rules for everybody, at most 1000; those of the group come first.
    pub acl: Vec<AccessRule>,
}

/// `[dtls]` of the gateway: packets over UDP instead of the control channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dtls {
    /// Grant it to clients that offer it.
    pub enabled: bool,
    /// The UDP port at the addresses of `[listen]`, granted to clients; `None` (0) is the port of each TCP listener.
    pub port: Option<u16>,
    /// What is accepted, the best one first; 1 to 3, each once.
    pub suites: Vec<DtlsSuite>,
    /// Dead-peer detection over UDP that clients are advised to do. 1 s to 1 h; default 20 s.
    pub dpd: Duration,
    /// Keepalive packets over UDP that clients are advised to send. 1 s to 1 h; default 20 s, below the 30 s after which
    /// Linux forgets a UDP mapping that never saw an answer.
    pub keepalive: Duration,
    /// Lower the maximum segment size of TCP handshakes in the tunnel to what fits through it.
    pub mss_clamp: bool,
    /// Find out how large a packet the path to a client takes, where the client is ours.
    pub path_mtu_discovery: bool,
    /// Let routers mark congestion on datagrams (ECN) instead of dropping them, where the client carries the marks.
    pub ecn: bool,
    /// Age of the keys at which clients are advised to make a new CONNECT (`X-CSTP-Rekey-Time`, method `new-tunnel`).
    /// 60 s to 30 d; `None` (0) advises nothing.
    pub rekey: Option<Duration>,
}

/// `[session]` of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Dead-peer detection advised to clients; the gateway itself never ends a session for a missing answer.
    /// 1 s to 1 h; default 90 s.
    pub dpd: Duration,
    /// Keepalive frames advised to clients. 1 s to 1 h; default 300 s.
    pub keepalive: Duration,
    /// A session without a packet from its client ends after this, not counting the time for which the client is parked under
    /// a grant. 1 s to 30 d; `None` (0) never.
    pub idle_timeout: Option<Duration>,
    /// A session ends this long after login. 1 s to 365 d; `None` (0) never.
    pub session_timeout: Option<Duration>,
    /// How long a session without a connection waits for its client to come back with the cookie. 1 s to 30 d;
    /// default 15 min.
    pub cookie_lifetime: Duration,
}

/// `[tcp]` of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Keepalive by the kernel.
    pub keepalive: Keepalive,
    /// TCP_USER_TIMEOUT: how long sent data may stay without acknowledgement; it overrides the probe count of the
    /// keepalive. 1 s to 24 h; default 2 h.
    pub user_timeout: Duration,
}

/// `[limits]`: everything a client can make the gateway keep or do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at the same time. 1 to 65536; default 1024.
    pub sessions: u32,
    /// Sessions of one user. 1 to `sessions`; default 8.
    pub sessions_per_user: u32,
    /// TCP connections at the same time. 1 to 262144; default 2048.
    pub connections: u32,
    /// TCP connections from one IPv4 address or IPv6 /64. 1 to `connections`; default 32.
    pub connections_per_address: u32,
    /// From accept to the end of the TLS handshake. 1 to 60 s; default 10 s.
    pub handshake_timeout: Duration,
    /// From the end of the TLS handshake to CONNECT. 1 s to 1 h; default 120 s.
    pub login_timeout: Duration,
    /// Bytes of one HTTP head. 1024 to 65536; default 16384.
    pub head_bytes: usize,
    /// Bytes of one HTTP body. 1024 to 1 MiB; default 65536.
    pub body_bytes: usize,
    /// HTTP requests on one connection before CONNECT. 4 to 1024; default 32.
    pub requests_per_connection: u32,
    /// Failed logins from one IPv4 address or IPv6 /64 within `login_window`. 1 to 10000; default 10.
    pub login_attempts_per_address: u32,
    /// 1 s to 24 h; default 10 min.
    pub login_window: Duration,
}

/// `[storage]`: what outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Folder for what must survive a restart; default `/var/lib/marmot`. `None` (empty) keeps nothing: no session, no record
    /// of one, no history, no housekeeping.
    pub state_dir: Option<PathBuf>,
    /// Folder for what must not survive a boot: the socket of `[api]`; default `/run/marmot`.
    pub runtime_dir: PathBuf,
}

impl GatewayConfig {
    /// Reads the text of a file. `file` is its name for messages; relative paths in it start from `base`.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Self, ConfigErrors> {
        let document = Document::parse(text, file, base)?;
        let config = read::all(&document);
        document.finish(config)
    }

    /// Every valid key, in the order of the sections, with its default and limit.
    pub fn keys() -> Vec<Key> {
        let document = Document::parse("", "", Path::new("")).expect("an empty text is TOML");
        read::all(&document);
        document.keys()
    }

    /// The same for the sections of which there can be many: `group`, `group.acl` and `network.acl`.
    pub fn list_keys() -> Vec<Key> {
        let one_each = "[[group]]\n[[group.acl]]\n[[network.acl]]\n";
        let document = Document::parse(one_each, "", Path::new("")).expect("the text is TOML");
        read::all(&document);
        let mut keys = document.keys();
        keys.retain(|key| key.section == "group" || key.section.ends_with(".acl"));
        keys
    }
}
