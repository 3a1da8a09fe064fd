//! `client.toml`: what one tunnel of a client needs to know.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::document::{Document, Key};
use crate::section::Section;
use crate::{
    Api, ConfigErrors, Dns, DtlsSuite, Flows, GatewayUrl, Host, Housekeeping, Keepalive, LocalNetworks, Lockdown, Log,
    OnDemand, Pin, Sleep, TlsVersion, api, dns, dtls, flows, housekeeping, lockdown, log, names, on_demand, sleep,
    transport,
};

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
    /// `[dtls]`
    pub dtls: Dtls,
    /// `[session]`
    pub session: Session,
    /// `[dns]`
    pub dns: Dns,
    /// `[lockdown]`
    pub lockdown: Lockdown,
    /// `[flows]`
    pub flows: Flows,
    /// `[sleep]`
    pub sleep: Sleep,
    /// `[on_demand]`
    pub on_demand: OnDemand,
    /// `[reconnect]`
    pub reconnect: Reconnect,
    /// `[api]`
    pub api: Api,
    /// `[housekeeping]`
    pub housekeeping: Housekeeping,
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
    /// Let the device hand over several packets of a flow at once, where the system can.
    pub offload: bool,
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
    /// Waits for the user (`marmot up`, SIGUSR2).
    Down,
    /// Does what was last asked for; connects if nothing was.
    Last,
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
    /// `password_file = "-"`: one line of standard input, read at the start.
    Stdin,
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

/// `[dtls]` of the client: packets over UDP instead of the control channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dtls {
    /// Carry packets over UDP where the gateway grants it.
    pub enabled: bool,
    /// What is offered, the best one first; 1 to 3, each once.
    pub suites: Vec<DtlsSuite>,
    /// Lower the maximum segment size of TCP handshakes in the tunnel to what fits through it.
    pub mss_clamp: bool,
    /// Find out how large a packet the path to the gateway takes, and size the tunnel's packets by it.
    pub path_mtu_discovery: bool,
    /// Let routers mark congestion on datagrams (ECN) instead of dropping them, where the gateway carries the marks.
    pub ecn: bool,
    /// Age of the keys at which a CONNECT in the background makes new ones, between our own ends. 60 s to 24 h; default
    /// 1 h; `None` (0) only when the gateway asks for it.
    pub rekey: Option<Duration>,
}

/// `[session]` of the client: what is taken over from the gateway's grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Interval of dead-peer detection, 1 s to 1 h; `None` takes what the gateway grants.
    pub dpd: Option<Duration>,
    /// Install the granted routes.
    pub accept_routes: bool,
    /// Install a granted default route (a grant without routes is one).
    pub accept_default_route: bool,
    /// Use the granted name servers, as `[dns]` says.
    pub accept_dns: bool,
    /// Which of the host's own, more specific routes go on working beside the tunnel.
    pub local_networks: LocalNetworks,
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
        let document = Document::parse(text, file, base)?;
        let config = read(&document);
        document.finish(config)
    }

    /// Every valid key, in the order of the sections, with its default and limit.
    pub fn keys() -> Vec<Key> {
        let document = Document::parse("", "", Path::new("")).expect("an empty text is TOML");
        read(&document);
        document.keys()
    }

    /// The same for the sections of which there can be many: `flows.rule` and `on_demand.rule`.
    pub fn list_keys() -> Vec<Key> {
        let document =
            Document::parse("[[flows.rule]]\n[[on_demand.rule]]\n", "", Path::new("")).expect("the text is TOML");
        read(&document);
        let mut keys = document.keys();
        keys.retain(|key| key.section.ends_with(".rule"));
        keys
    }
}

/// The limit of `login.user`, `login.group` and host names, in bytes.
const MAX_LINE_BYTES: usize = 256;

/// The limit of lists of addresses and pins.
const MAX_ENTRIES: usize = 16;

/// The largest MTU that a TUN device gets (protocol limit of our gateway).
const MAX_MTU: u32 = 9000;

fn read(document: &Document<'_>) -> Option<ClientConfig> {
    let tunnel = tunnel(document);
    let gateway = gateway(document);
    let trust = trust(document);
    let login = login(document);
    let tls = document.section("tls");
    let tls = Tls {
        post_quantum: tls.boolean("post_quantum", true),
        min_version: transport::min_version(&tls),
    };
    let tcp = document.section("tcp");
    let tcp = Tcp {
        keepalive: transport::keepalive(&tcp),
        send_buffer_bytes: tcp.integer_or_zero("send_buffer_bytes", 4096..=16_777_216),
    };
    let dtls = udp(document);
    let session = session(document);
    let dns = dns::read(document);
    let own = tunnel.as_ref().map(|tunnel| tunnel.interface.as_str());
    let local = session.as_ref().map(|session| session.local_networks);
    let lockdown = lockdown::read(document, own, local);
    let flows = flows::read(document);
    let sleep = sleep::sleep(document);
    let on_demand = on_demand::read(document);
    let reconnect = reconnect(document);
    let api = api::read(document);
    let housekeeping = housekeeping::read(document);
    let log = log::read(document);
    Some(ClientConfig {
        tunnel: tunnel?,
        gateway: gateway?,
        trust,
        login,
        tls,
        tcp,
        dtls,
        session: session?,
        dns: dns?,
        lockdown: lockdown?,
        flows: flows?,
        sleep: sleep?,
        on_demand,
        reconnect,
        api,
        housekeeping: housekeeping?,
        log,
    })
}

fn tunnel(document: &Document<'_>) -> Option<Tunnel> {
    let section = document.section("tunnel");
    let name = section.parsed("name", "marmot", names::TUNNEL, names::tunnel);
    let interface = section.optional("interface", names::INTERFACE, names::interface);
    let mtu = section.integer_or_zero("mtu", 576..=MAX_MTU);
    let offload = section.boolean("offload", true);
    let state_dir = section.path("state_dir", "/var/lib/marmot");
    let runtime_dir = section.path("runtime_dir", "/run/marmot");
    let starts = [("up", Start::Up), ("down", Start::Down), ("last", Start::Last)];
    let start = section.choice("start", "up", &starts);
    let name = name?;
    Some(Tunnel {
        interface: interface.unwrap_or_else(|| format!("mm-{name}")),
        name,
        mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
        offload,
        state_dir: state_dir?,
        runtime_dir: runtime_dir?,
        start: start?,
    })
}

fn gateway(document: &Document<'_>) -> Option<Gateway> {
    let section = document.section("gateway");
    let url = section.required("url", "https://host, with a port and a path if needed", str::parse);
    let addresses = section.list("addresses", &[], MAX_ENTRIES, "IP addresses", |text| {
        let address: IpAddr = text.parse().map_err(|_| "is not an IP address")?;
        let dialable = !address.is_unspecified() && !address.is_multicast();
        dialable
            .then_some(address)
            .ok_or_else(|| "is not an address that can be dialled".to_string())
    });
    let dial_timeout = section.seconds("dial_timeout_s", 10.0, 1.0..=120.0);
    let handshake_timeout = section.seconds("handshake_timeout_s", 15.0, 1.0..=120.0);
    Some(Gateway {
        url: url?,
        addresses,
        dial_timeout,
        handshake_timeout,
    })
}

fn trust(document: &Document<'_>) -> Trust {
    let section = document.section("trust");
    Trust {
        ca_file: section.optional_path("ca_file"),
        pins: section.list(
            "pins",
            &[],
            MAX_ENTRIES,
            "pins: sha256: and then hex or base64",
            str::parse,
        ),
        server_name: section.optional("server_name", "a host name or address", str::parse),
    }
}

fn login(document: &Document<'_>) -> Login {
    let section = document.section("login");
    let one_line = |text: &str| names::line(text, MAX_LINE_BYTES);
    let user = section.optional("user", "at most 256 bytes on one line", one_line);
    let password_file = section.password_source("password_file");
    let credential = section.optional("credential", "a file name without /", |text| {
        let name = !text.contains('/') && !text.starts_with('.') && text.len() <= MAX_LINE_BYTES;
        name.then(|| text.to_string())
            .ok_or_else(|| "is not the name of a credential".to_string())
    });
    let group = section.optional("group", "at most 256 bytes on one line", one_line);
    if password_file.is_some() && credential.is_some() {
        let help = "keep one of the two".to_string();
        section.wrong("credential", "conflicts with login.password_file", Some(help));
    }
    let password = password_file.or(credential.map(PasswordSource::Credential));
    Login {
        user,
        password,
        group,
        certificate: certificate(&section),
    }
}

/// The client certificate; half of it is a mistake.
fn certificate(section: &Section<'_, '_>) -> Option<CertificateFiles> {
    let certificate_file = section.optional_path("certificate_file");
    let key_file = section.optional_path("key_file");
    match (certificate_file, key_file) {
        (Some(certificate_file), Some(key_file)) => Some(CertificateFiles {
            certificate_file,
            key_file,
        }),
        (Some(_), None) => {
            section.wrong(
                "certificate_file",
                "is there without login.key_file",
                Some("set both or neither".into()),
            );
            None
        }
        (None, Some(_)) => {
            section.wrong(
                "key_file",
                "is there without login.certificate_file",
                Some("set both or neither".into()),
            );
            None
        }
        (None, None) => None,
    }
}

fn udp(document: &Document<'_>) -> Dtls {
    let section = document.section("dtls");
    Dtls {
        enabled: section.boolean("enabled", true),
        suites: dtls::suites(&section),
        mss_clamp: section.boolean("mss_clamp", true),
        path_mtu_discovery: section.boolean("path_mtu_discovery", true),
        ecn: section.boolean("ecn", true),
        rekey: section.default_seconds_or_zero("rekey_s", 3600.0, 60.0..=86_400.0),
    }
}

fn session(document: &Document<'_>) -> Option<Session> {
    let section = document.section("session");
    let dpd = section.seconds_or_zero("dpd_s", 1.0..=3600.0);
    let accept_routes = section.boolean("accept_routes", true);
    let accept_default_route = section.boolean("accept_default_route", true);
    let accept_dns = section.boolean("accept_dns", true);
    let local_networks = lockdown::local_networks(&section);
    let hostname = section.optional("hostname", "at most 256 bytes on one line", |text| {
        names::line(text, MAX_LINE_BYTES)
    });
    Some(Session {
        dpd,
        accept_routes,
        accept_default_route,
        accept_dns,
        local_networks: local_networks?,
        hostname,
    })
}

fn reconnect(document: &Document<'_>) -> Reconnect {
    let section = document.section("reconnect");
    let first = section.seconds("first_s", 0.25, 0.05..=30.0);
    let max = section.seconds("max_s", 30.0, 1.0..=3600.0);
    if first > max {
        section.wrong(
            "first_s",
            "is more than reconnect.max_s",
            Some("the wait grows from first_s to max_s".into()),
        );
    }
    Reconnect { first, max }
}
