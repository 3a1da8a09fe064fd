//! The gateway's table in the host's packet filter, for as long as it serves.
//!
//! ```text
//!   put_up()     note in the runtime folder -> table, while the device is down
//!   take_down()  what it dropped -> the log;   table -> note
//! ```
//! Who is killed leaves both. The next start makes the table anew, or removes it if it is to have none: the note tells that there may be one,
//! so that a gateway which never translated anything never touches the packet filter.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use config::gateway::GatewayConfig;
use ipnet::IpNet;
use plan::Translation;
use platform::firewall::Nft;
use tracing::{debug, info, warn};

use crate::GatewayError;

/// See the module.
pub(crate) struct Nat {
    nft: Nft,
    table: String,
    note: PathBuf,
}

impl Nat {
    /// Whether the table that the configuration wants can be put up at all, before anything is changed.
    ///
    /// # Errors
    /// There is no `nft`.
    pub(crate) fn is_possible(config: &GatewayConfig) -> Result<(), GatewayError> {
        if config.network.nat {
            Nft::find()?;
        }
        Ok(())
    }

    /// Puts the table up, if the configuration wants one; otherwise removes what a killed gateway has left.
    ///
    /// # Errors
    /// There is no `nft`, or it could not do it.
    pub(crate) async fn put_up(config: &GatewayConfig) -> Result<Option<Self>, GatewayError> {
        let network = &config.network;
        let table = Translation::table(&network.interface);
        let note = note(&config.storage.runtime_dir, &network.interface);
        if !network.nat {
            if note.exists() {
                Self::remove_left(table, note).await;
            }
            return Ok(None);
        }
        let nft = Nft::find()?;
        if let Err(error) = write(&note) {
            warn!(%error, note = %note.display(), "cannot note the table of the packet filter; if this gateway is killed, only one that translates removes it");
        }
        let translation = Translation {
            device: network.interface.clone(),
            pools: pools(config),
            towards: network.nat_interface.clone(),
            mss_clamp: config.dtls.mss_clamp,
        };
        let loaded = nft
            .load(&translation.script(), "translate the addresses of clients")
            .await;
        if let Err(error) = loaded {
            let _ = fs::remove_file(&note);
            return Err(error.into());
        }
        info!(table, "clients go out by the addresses of this host");
        Ok(Some(Self { nft, table, note }))
    }

    async fn remove_left(table: String, note: PathBuf) {
        info!(table, "a killed gateway has left something in the packet filter");
        match Nft::find() {
            Ok(nft) => Self { nft, table, note }.remove().await,
            Err(error) => warn!(%error, table, "it stays there"),
        }
    }

    /// Takes the table away, and tells what it dropped.
    pub(crate) async fn take_down(self) {
        match self.nft.counters_named(&self.table).await {
            Ok(counters) => {
                let of = |name: &str| {
                    counters
                        .iter()
                        .find(|counter| counter.name == name)
                        .map(|counter| counter.packets)
                };
                info!(
                    foreign_inside = of("foreign_inside"),
                    foreign_outside = of("foreign_outside"),
                    untracked = of("untracked"),
                    unasked = of("unasked"),
                    "packets that the packet filter dropped"
                );
            }
            Err(error) => debug!(%error, "what the packet filter dropped is not known"),
        }
        self.remove().await;
    }

    async fn remove(self) {
        match self.nft.remove_named(std::slice::from_ref(&self.table)).await {
            Ok(()) => drop(fs::remove_file(&self.note)),
            Err(error) => warn!(%error, "`nft delete table inet {}` as root removes it", self.table),
        }
    }
}

fn note(folder: &Path, interface: &str) -> PathBuf {
    folder.join(format!("_gateway-{interface}.nat"))
}

fn write(note: &Path) -> io::Result<()> {
    if let Some(folder) = note.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(note, "")
}

fn pools(config: &GatewayConfig) -> Vec<IpNet> {
    let pool = &config.pool;
    let (v4, v6) = (pool.ipv4.map(IpNet::from), pool.ipv6.map(IpNet::from));
    v4.into_iter().chain(v6).collect()
}
