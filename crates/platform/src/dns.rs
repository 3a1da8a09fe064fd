//! Which resolver of this host is told of a tunnel's name servers, and how it forgets them again.
//!
//! ```text
//!   Resolver::apply --- systemd-resolved runs this host ------------> its bus: servers and domains of the tunnel's link
//!                  \                                                   (gone with the link, whoever dies)
//!                   \-- root ----------------------> Keeping --------> resolvconf, where that makes the file
//!                    \- anybody else --> helper ------^    \---------> /etc/resolv.conf, with a backup that comes first
//! ```
//! A host's name service is everybody's: what somebody else looks after (NetworkManager) is left alone, and what somebody else has written
//! over ours stays.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::os::dns::{Applied, Resolver, serve};

/// Who is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Whoever looks after the names of this host.
    #[default]
    Auto,
    /// systemd-resolved.
    Resolved,
    /// resolvconf or openresolv.
    Resolvconf,
    /// `/etc/resolv.conf` itself.
    File,
}

/// Who was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// systemd-resolved.
    Resolved,
    /// resolvconf or openresolv.
    Resolvconf,
    /// `/etc/resolv.conf` itself.
    File,
}

impl Way {
    /// The word for it, in configuration, log and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Resolvconf => "resolvconf",
            Self::File => "file",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether a tunnel's name servers are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// They are.
    Applied,
    /// They are not, for this reason; the resolver is looked for.
    Lost(String),
}

/// Where things are on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// What programs read.
    pub resolv_conf: PathBuf,
    /// Where what was in it before is kept; root's.
    pub kept: PathBuf,
    /// The socket of the helper.
    pub helper: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            kept: "/var/lib/marmot-dns".into(),
            helper: "/run/marmot-dns.sock".into(),
        }
    }
}

/// What taking name servers off this host came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reverted {
    /// Something of the tunnel was there.
    pub was_there: bool,
    /// What is worth a word.
    pub note: Option<String>,
}
