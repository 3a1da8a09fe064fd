//! Where the gateway was, for when nobody may be asked; and the one look-up that a lockdown lets pass.
//!
//! ```text
//!   configured addresses > addresses of this run > of the last good connection (file) > one marked query, if allowed
//! ```
//! A lockdown lets no program ask for names, the system's resolver included. So the names of gateways that were reached are kept
//! with their addresses in a file, and whoever finds nobody there asks the host's name servers himself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::client::ClientConfig;
use config::{GatewayUrl, Host};
use platform::files::write_private;
use platform::tcp::set_mark;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};
use wire::dns::{Answer, Kind, MAX_ADDRESSES, Question};

use crate::ClientError;
use crate::gate::Gate;

/// Below the folder of the tunnel's state.
const FILE: &str = "gateways";

/// The largest such file that is read: 16 gateways with 16 addresses each have 16 kB.
const MAX_FILE: u64 = 64 * 1024;

/// Gateways that are remembered; a tunnel has one, and a few over the years.
const MAX_GATEWAYS: usize = 16;

/// Name servers that are asked; the system's resolver takes as many (resolv.conf(5)).
const MAX_SERVERS: usize = 3;

/// How long one server may take. It is asked twice, as datagrams get lost.
const SERVER_PATIENCE: Duration = Duration::from_secs(2);

/// Where the host's name servers stand: the usual place, and where those are that a resolver of this host asks in turn, which may not do so under a
/// lockdown (systemd-resolved, NetworkManager).
const RESOLV_CONF: [&str; 3] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
];

type Gateways = BTreeMap<String, Vec<IpAddr>>;

fn file(config: &ClientConfig) -> PathBuf {
    config.tunnel.state_dir.join(&config.tunnel.name).join(FILE)
}

/// Whether the gateway has to be looked up at all.
fn is_named(config: &ClientConfig) -> bool {
    config.gateway.addresses.is_empty() && matches!(config.gateway.url.host, Host::Name(_))
}

/// Addresses of the last good connection to the gateway of `config`. None is no error.
pub(crate) async fn remembered(config: &ClientConfig) -> Vec<SocketAddr> {
    if !is_named(config) {
        return Vec::new();
    }
    let (path, url) = (file(config), config.gateway.url.clone());
    let read = tokio::task::spawn_blocking(move || addresses(&read(&path), &url));
    read.await.unwrap_or_default()
}

fn addresses(gateways: &Gateways, url: &GatewayUrl) -> Vec<SocketAddr> {
    let found = gateways.get(&url.authority()).into_iter().flatten();
    let with_port = |address: &IpAddr| SocketAddr::new(*address, url.port);
    found.map(with_port).take(MAX_ADDRESSES).collect()
}

/// Keeps the addresses of a gateway that was reached. Nobody waits for the disk, and what it does not take is looked up.
pub(crate) fn remember(config: &ClientConfig, known: &[SocketAddr]) {
    if !is_named(config) {
        return;
    }
    let (path, name) = (file(config), config.gateway.url.authority());
    let addresses: Vec<_> = known.iter().map(SocketAddr::ip).take(MAX_ADDRESSES).collect();
    drop(tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&path, name, addresses) {
            debug!("the gateway's addresses are not kept: {error}");
        }
    }));
}

fn read(path: &Path) -> Gateways {
    let short = fs::metadata(path).is_ok_and(|file| file.len() <= MAX_FILE);
    let text = fs::read(path).ok().filter(|_| short).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn write(path: &Path, name: String, addresses: Vec<IpAddr>) -> Result<(), ClientError> {
    let mut gateways = read(path);
    if gateways.get(&name) == Some(&addresses) {
        return Ok(());
    }
    if gateways.len() >= MAX_GATEWAYS && !gateways.contains_key(&name) {
        gateways.clear();
    }
    gateways.insert(name, addresses);
    let text = serde_json::to_vec(&gateways).unwrap_or_default();
    Ok(write_private(path, &text)?)
}

/// Addresses of `name`, by one look-up that the gate lets pass: every family at one name server after the other, from marked
/// sockets.
///
/// # Errors
/// [`ClientError::Resolve`].
pub(crate) async fn look_up(
    gate: &Gate,
    name: &str,
    port: u16,
    (mark, deadline): (Option<u32>, Instant),
) -> Result<Vec<SocketAddr>, ClientError> {
    let failed = |problem: &str, offline| ClientError::Resolve {
        host: name.to_owned(),
        problem: problem.to_owned(),
        offline,
    };
    let questions = [Kind::A, Kind::Aaaa].map(|kind| Question::new(name, kind, id()));
    let [Some(v4), Some(v6)] = questions else {
        return Err(failed("no host can have that name", false));
    };
    let servers = tokio::task::spawn_blocking(name_servers).await.unwrap_or_default();
    if servers.is_empty() {
        return Err(failed(
            "the lockdown lets nobody ask, and there is no name server",
            false,
        ));
    }
    info!(
        name,
        servers = servers.len(),
        "one query for the gateway's name leaves the lockdown"
    );
    let asked = servers.clone();
    let patience = deadline.saturating_duration_since(Instant::now());
    let asking = async move { timeout(patience, ask(&asked, [v4, v6], mark)).await };
    match gate.ask(&servers, asking).await? {
        Ok(Ok(found)) if found.is_empty() => Err(failed("the name has no address", false)),
        Ok(Ok(found)) => Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
        Ok(Err(Unanswered { offline: true })) => Err(failed("no name server can be reached", true)),
        Ok(Err(Unanswered { offline: false })) | Err(_) => Err(failed("no name server answered in time", false)),
    }
}

struct Unanswered {
    /// Nothing left this host.
    offline: bool,
}

/// The addresses of the first server that knows any, or that there are none.
async fn ask(servers: &[IpAddr], questions: [Question; 2], mark: Option<u32>) -> Result<Vec<IpAddr>, Unanswered> {
    let mut answered = false;
    let mut offline = true;
    for server in servers {
        let [v4, v6] = &questions;
        let (v4, v6) = tokio::join!(ask_one(*server, v4, mark), ask_one(*server, v6, mark));
        let mut found = Vec::new();
        for answer in [v4, v6] {
            match answer {
                Ok(Some(addresses)) => {
                    answered = true;
                    found.extend(addresses);
                }
                Ok(None) => offline = false,
                Err(error) => offline &= crate::route::is_local(&error),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    if answered {
        Ok(Vec::new())
    } else {
        Err(Unanswered { offline })
    }
}

/// One question to one server; nothing if it does not answer, or does not know.
async fn ask_one(server: IpAddr, question: &Question, mark: Option<u32>) -> io::Result<Option<Vec<IpAddr>>> {
    let any = match server {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    if let Some(mark) = mark {
        set_mark(&socket, mark)?;
    }
    socket.connect((server, 53)).await?;
    for _ in 0..2 {
        socket.send(question.message()).await?;
        let mut buffer = [0; 4096];
        let answer = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                match question.answer(&buffer[..length]) {
                    Some(Answer::Addresses(found)) => return io::Result::Ok(Some(found)),
                    Some(Answer::Refused(_)) => return Ok(None),
                    None => {}
                }
            }
        };
        if let Ok(answer) = timeout(SERVER_PATIENCE, answer).await {
            return answer;
        }
    }
    Ok(None)
}

/// An id that nobody can guess.
fn id() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness a liar still needs the port, and the gateway's key.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u16::from_be_bytes(bytes)
}

fn name_servers() -> Vec<IpAddr> {
    let texts = RESOLV_CONF.iter().filter_map(|path| fs::read_to_string(path).ok());
    for text in texts {
        let found = servers_in(&text);
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// The servers of a resolv.conf that are not on this host.
fn servers_in(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    servers
        .filter(|server| !server.is_loopback())
        .take(MAX_SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    #[test]
    fn a_resolver_of_this_host_is_not_asked() {
        let text = "# x\nnameserver 127.0.0.53\n nameserver 192.0.2.53 # y\nnameserver ::1\nnameserver 2001:db8::53\nsearch a\nnameserver x\n";
        let servers: Vec<_> = servers_in(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53", "2001:db8::53"]);
    }

    #[tokio::test]
    async fn the_addresses_of_a_gateway_are_kept_for_its_name_and_port() {
        let pki = Pki::new("vpn.test");
        let config = |url: &str| client_config(&pki, &format!("[gateway]\nurl = \"{url}\"\naddresses = []\n"));
        let (first, other) = (config("https://vpn.test:4443"), config("https://other.test"));
        let path = file(&first);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        assert_eq!(remembered(&first).await, []);
        let known = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().expect("an address"));
        write(&path, "vpn.test:4443".to_owned(), known.to_vec()).expect("written");
        let found: Vec<_> = remembered(&first).await.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:4443", "[2001:db8::1]:4443"]);
        assert_eq!(remembered(&other).await, []);
        fs::write(&path, "garbage").expect("written");
        assert_eq!(remembered(&first).await, [], "garbage is as good as nothing");
    }
}
