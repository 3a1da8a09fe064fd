//! Who is measured: each with a gateway, a client, and the way it is stopped; all with the figures that their packages come with.

mod connect;
mod fastd;
mod nothing;
mod openvpn;
mod quincy;
mod tinc;
mod wireguard;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{PATIENCE, Process, Signal};

use crate::rig::Rig;

/// One tunnel, not yet started.
pub(crate) trait Peer {
    /// Starts the gateway and waits until it can be connected to.
    fn gateway(&self, rig: &Rig<'_>) -> Result<Vec<Process>>;

    /// Carries out what a user would, to bring the tunnel up.
    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>>;

    /// Waits until packets go the way that is to be measured.
    fn settle(&self, _client: &[Process]) -> Result<()> {
        Ok(())
    }

    /// Stops the client.
    fn stop(&self, rig: &Rig<'_>, client: &[Process]) -> Result<Stop>;
}

/// How long a stop took, from its signal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Until it was said to be done.
    pub(crate) told: Duration,
    /// Until the process was gone.
    pub(crate) gone: Duration,
}

/// A row of the tables.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What `--peers` calls it.
    pub id: &'static str,
    /// What the tables call it.
    pub name: &'static str,
    /// Programs that it needs; each may be named by an environment variable, see [`find`].
    needs: &'static [&'static str],
    /// Where they come from.
    source: &'static str,
    make: for<'a> fn(&Rig<'a>) -> Result<Box<dyn Peer + 'a>>,
}

/// All of them, in the order of the tables.
#[rustfmt::skip]
pub const ALL: &[Entry] = &[
    Entry { id: "none", name: "no tunnel", needs: &[], source: "", make: nothing::make },
    Entry { id: "marmot", name: "marmot, DTLS", needs: &["marmot"], source: "", make: connect::ours_dtls },
    Entry { id: "marmot-tls", name: "marmot, TLS", needs: &["marmot"], source: "", make: connect::ours_tls },
    Entry { id: "marmot+ocserv", name: "marmot client, ocserv, DTLS", needs: &["marmot", "ocserv"], source: DEBIAN, make: connect::our_client_dtls },
    Entry { id: "marmot+ocserv-tls", name: "marmot client, ocserv, TLS", needs: &["marmot", "ocserv"], source: DEBIAN, make: connect::our_client_tls },
    Entry { id: "openconnect+marmot", name: "openconnect, marmot gateway, DTLS", needs: &["marmot", "openconnect"], source: DEBIAN, make: connect::our_gateway_dtls },
    Entry { id: "openconnect+marmot-tls", name: "openconnect, marmot gateway, TLS", needs: &["marmot", "openconnect"], source: DEBIAN, make: connect::our_gateway_tls },
    Entry { id: "openconnect", name: "openconnect, ocserv, DTLS", needs: &["openconnect", "ocserv"], source: DEBIAN, make: connect::stock_dtls },
    Entry { id: "openconnect-tls", name: "openconnect, ocserv, TLS", needs: &["openconnect", "ocserv"], source: DEBIAN, make: connect::stock_tls },
    Entry { id: "openvpn", name: "openvpn, UDP", needs: &["openvpn"], source: DEBIAN, make: openvpn::make },
    Entry { id: "wireguard-go", name: "wireguard-go (Debian)", needs: &["wireguard-go", "wg"], source: DEBIAN, make: wireguard::debian },
    Entry { id: "wireguard-go-new", name: "wireguard-go (newest)", needs: &["wireguard-go-new", "wg"], source: "it is in no registry but Go's own, and needs a newer Go than Debian's; name a build of it in MARMOT_BENCH_WIREGUARD_GO_NEW", make: wireguard::newest },
    Entry { id: "boringtun", name: "boringtun-cli", needs: &["boringtun-cli", "wg"], source: CRATES, make: wireguard::boringtun },
    Entry { id: "quincy", name: "quincy (QUIC)", needs: &["quincy-client", "quincy-server", "openssl"], source: CRATES, make: quincy::make },
    Entry { id: "tinc", name: "tinc", needs: &["tincd"], source: DEBIAN, make: tinc::make },
    Entry { id: "fastd", name: "fastd", needs: &["fastd"], source: DEBIAN, make: fastd::make },
];

const DEBIAN: &str = "Debian's package of that name, which `cargo xtask bench` installs as root";
const CRATES: &str = "`cargo xtask bench` builds it";

impl Entry {
    /// Why it cannot be measured here, if so.
    pub fn obstacle(&self) -> Option<String> {
        let missing = self.needs.iter().find(|program| find(program).is_none())?;
        Some(format!("{missing} is not there: {}", self.source))
    }

    pub(crate) fn make<'a>(&self, rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
        (self.make)(rig)
    }
}

/// Where a program is: as `MARMOT_BENCH_NAME` says, in `MARMOT_BENCH_BIN`, or in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let variable = format!("MARMOT_BENCH_{}", program.to_uppercase().replace('-', "_"));
    let named = match program {
        "marmot" => std::env::var_os("MARMOT_BIN"),
        _ => std::env::var_os(variable),
    };
    let folders = std::env::var_os("MARMOT_BENCH_BIN").map(|root| PathBuf::from(root).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let searched = folders.into_iter().chain(std::env::split_paths(&path)).chain(system);
    let candidates = named
        .map(PathBuf::from)
        .into_iter()
        .chain(searched.map(|folder| folder.join(program)));
    candidates.into_iter().find(|path| path.is_file())
}

/// [`find`], which the entry's `needs` has asked before.
pub(crate) fn found(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not there any more"))
}

/// Stops the one process of a client by a signal.
pub(crate) fn ended(client: &[Process], signal: Signal) -> Result<Stop> {
    let began = Instant::now();
    for process in client {
        process.signal(signal)?;
    }
    for process in client {
        process.wait_exit(PATIENCE)?;
    }
    let gone = began.elapsed();
    Ok(Stop { told: gone, gone })
}
