//! The gateway's table in the host's packet filter, for as long as it serves.
//!
//! ```text
//!   put_up()     note in the runtime folder -> table, while the device is down
//!   take_down()  what it dropped -> the log;   table -> note
//! ```
//! Who is killed leaves both. The next start makes the table anew, or removes it if it is to have none: the note tells that there may be one,
//! so that a gateway which never translated anything never touches the packet filter. It also removes those of other devices that are gone:
//! a table without its device still drops and translates what has an address of its pools.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use config::gateway::GatewayConfig;
use ipnet::IpNet;
use plan::Translation;
use platform::firewall::Nft;
use tracing::{debug, info, warn};

use crate::GatewayError;

/// How a note is called, around the name of the device.
const NOTE: (&str, &str) = ("_gateway-", ".nat");

/// The devices of the network namespace of this thread, in which `nft` works too. /sys may be of another one.
const DEVICES: &str = "/proc/thread-self/net/dev";

/// The longest name of a device (IFNAMSIZ less its end).
const MAX_DEVICE: usize = 15;

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

    /// Puts the table up, if the configuration wants one; otherwise removes what a killed gateway has left. What those with other devices have
    /// left goes in any case.
    ///
    /// # Errors
    /// There is no `nft`, or it could not do it.
    pub(crate) async fn put_up(config: &GatewayConfig) -> Result<Option<Self>, GatewayError> {
        let network = &config.network;
        let table = Translation::table(&network.interface);
        let note = note(&config.storage.runtime_dir, &network.interface);
        Self::remove_others(&config.storage.runtime_dir, &network.interface).await;
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
        let nat = Self { nft, table, note };
        let loaded = nat
            .nft
            .load(&translation.script(), "translate the addresses of clients")
            .await;
        if let Err(error) = loaded {
            // It may be there all the same: from before, or because nft was too slow to say so.
            nat.remove().await;
            return Err(error.into());
        }
        info!(table = nat.table, "clients go out by the addresses of this host");
        Ok(Some(nat))
    }

    /// Nobody else may ever come for what a gateway with another device has left.
    async fn remove_others(folder: &Path, own: &str) {
        let noted = noted(folder, own);
        if noted.is_empty() {
            return;
        }
        // Who cannot tell whether a gateway is still there takes nothing from it.
        let Ok(devices) = fs::read_to_string(DEVICES) else {
            return;
        };
        for (device, note) in noted {
            if !is_listed(&devices, &device) {
                Self::remove_left(Translation::table(&device), note).await;
            }
        }
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
    let (begin, end) = NOTE;
    folder.join(format!("{begin}{interface}{end}"))
}

/// The devices other than `own` that have a note, with it.
fn noted(folder: &Path, own: &str) -> Vec<(String, PathBuf)> {
    // Where there is no folder there are no notes.
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let (begin, end) = NOTE;
    let notes = entries.flatten().filter_map(|entry| {
        let file = entry.file_name().into_string().ok()?;
        let device = file.strip_prefix(begin)?.strip_suffix(end)?;
        (device != own && is_device(device)).then(|| (device.to_owned(), entry.path()))
    });
    notes.collect()
}

/// Whether a device can have this name. It goes into a script of nft.
fn is_device(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=MAX_DEVICE).contains(&name.len()) && name.bytes().all(good)
}

/// Whether a device is in the kernel's list.
fn is_listed(devices: &str, name: &str) -> bool {
    let mut listed = devices.lines().filter_map(|line| line.trim_start().split_once(':'));
    listed.any(|(device, _)| device == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_other_devices_are_found_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let other = note(folder.path(), "gw1");
        for path in [
            other.clone(),
            note(folder.path(), "gw0"),
            note(folder.path(), "a;b"),
            note(folder.path(), "a234567890123456"),
            note(folder.path(), ""),
            folder.path().join("_gateway-gw2.lock"),
        ] {
            write(&path).expect("written");
        }
        assert_eq!(noted(folder.path(), "gw0"), [("gw1".to_owned(), other)]);
        assert!(noted(&folder.path().join("none"), "gw0").is_empty());
    }

    #[test]
    fn a_device_is_listed_by_its_whole_name() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes    packets|bytes\n    lo: 1 2 3\n   gw10: 0 0 0\n";
        assert!(is_listed(devices, "lo") && is_listed(devices, "gw10"));
        assert!(!is_listed(devices, "gw1") && !is_listed(devices, "0") && !is_listed("", "lo"));
        assert!(is_listed(&fs::read_to_string(DEVICES).expect("readable"), "lo"));
    }
}
