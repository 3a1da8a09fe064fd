//! Name servers of a tunnel: systemd-resolved, resolvconf, or `/etc/resolv.conf`.

mod file;
mod helper;
mod kept;
mod order;
mod resolvconf;
mod resolved;

use std::fs;
use std::time::Duration;

use plan::Dns;
use plan::resolv_conf::{self, Keeper};
use tokio::sync::watch;
use tokio::time::timeout;

use self::kept::{Done, Kept};
use self::order::{How, Order};
use self::resolved::Link;
use crate::PlatformError;
use crate::dns::{Mode, Places, Reverted, State, Way};
use crate::network::Restored;

pub use self::helper::serve;

type Result<T> = std::result::Result<T, PlatformError>;

/// How long a change of files may take: the helper has to be started for the first one, resolvconf has its scripts, and others may hold the
/// lock.
const PATIENCE: Duration = Duration::from_secs(12);

/// Name servers that are in use, or will be as soon as their resolver is there.
#[derive(Debug)]
pub struct Applied {
    told: Told,
    note: Option<String>,
}

#[derive(Debug)]
enum Told {
    Link(Link),
    Files(Way, watch::Sender<State>),
}

impl Applied {
    /// Who was told.
    pub fn way(&self) -> Way {
        match &self.told {
            Told::Link(_) => Way::Resolved,
            Told::Files(way, _) => *way,
        }
    }

    /// What is worth a word.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether they are in use now, and every change of that.
    pub fn state(&self) -> watch::Receiver<State> {
        match &self.told {
            Told::Link(link) => link.state(),
            Told::Files(_, state) => state.subscribe(),
        }
    }
}

/// Who tells the resolver of this host.
#[derive(Clone, Debug)]
pub struct Resolver {
    mode: Mode,
    places: Places,
}

impl Resolver {
    /// Nothing is touched yet.
    pub fn new(mode: Mode, places: Places) -> Self {
        Self { mode, places }
    }

    /// Sets the name servers of the tunnel whose device has this name and index, in place of any before. Where systemd-resolved looks after the
    /// names, its absence is no error, but a [`State`]: it is told when it comes. Needs a tokio runtime with I/O and time; what was begun goes
    /// on when the future is dropped.
    ///
    /// # Errors
    /// [`PlatformError::NameService`] if somebody else looks after the names, [`PlatformError::Io`] if there is no helper; or what the disk says.
    pub async fn apply(&self, interface: &str, index: u32, dns: &Dns) -> Result<Applied> {
        let how = match self.mode {
            Mode::Resolved => return Ok(Self::told(Link::begin(index, dns).await)),
            Mode::Auto if self.is_resolved() => return Ok(Self::told(Link::begin(index, dns).await)),
            Mode::Auto => How::Auto,
            Mode::Resolvconf => How::Resolvconf,
            Mode::File => How::File,
        };
        let done = self.order(Order::apply(interface, how, dns)).await?;
        let way = done.way.unwrap_or(Way::File);
        let note = (!dns.split.is_empty()).then(|| {
            "the gateway names domains for its name servers; a file knows no domains, so they are asked for every name".to_owned()
        });
        Ok(Applied {
            told: Told::Files(way, watch::Sender::new(State::Applied)),
            note: note.or(done.note),
        })
    }

    fn told(link: Link) -> Applied {
        Applied {
            told: Told::Link(link),
            note: None,
        }
    }

    /// Takes the name servers of a tunnel back.
    ///
    /// # Errors
    /// They are, or may be, still in use.
    pub async fn revert(&self, interface: &str, applied: Applied) -> Result<Reverted> {
        match applied.told {
            Told::Link(link) => link.revert().await.map(|()| Reverted {
                was_there: true,
                note: None,
            }),
            Told::Files(..) => {
                let done = self.order(Order::revert(interface)).await?;
                Ok(Reverted {
                    was_there: done.was_there,
                    note: done.note,
                })
            }
        }
    }

    /// Takes back what a process that is gone may have left of the tunnel with this device; `recorded` says that there is a record of
    /// it. What systemd-resolved was told has gone with the device.
    pub async fn clear(&self, interface: &str, recorded: bool) -> Restored {
        let named =
            || fs::read_to_string(&self.places.resolv_conf).is_ok_and(|text| resolv_conf::names(&text, interface));
        let is_asked = is_root() || named() || recorded;
        if !is_asked {
            return Restored::new(Vec::new(), Vec::new());
        }
        match self.order(Order::revert(interface)).await {
            Ok(done) => {
                if let Some(note) = done.note {
                    tracing::warn!(interface, "{note}");
                }
                let removed = done.was_there.then(|| format!("name servers of {interface}"));
                Restored::new(removed.into_iter().collect(), Vec::new())
            }
            // Without a helper there was none when it was recorded, most likely; the mark in the file tells. Whatever else went wrong
            // proves nothing.
            Err(error) if !named() && (is_absent(&error) || !(is_root() || recorded)) => {
                tracing::debug!(%error, interface, "nobody can say whether there were name servers");
                Restored::new(Vec::new(), Vec::new())
            }
            Err(error) => Restored::new(Vec::new(), vec![format!("name servers of {interface}: {error}")]),
        }
    }

    /// Whether what programs read is systemd-resolved's.
    fn is_resolved(&self) -> bool {
        fs::read_to_string(&self.places.resolv_conf).is_ok_and(|text| resolv_conf::keeper(&text) == Keeper::Resolved)
    }

    async fn order(&self, order: Order) -> Result<Done> {
        if !is_root() {
            return helper::ask(&self.places.helper, &order, PATIENCE).await;
        }
        let kept = Kept::new(&self.places);
        let work = tokio::task::spawn_blocking(move || kept.carry_out(&order));
        let late = || PlatformError::NameService("the disk does not answer".to_owned());
        let done = timeout(PATIENCE, work).await.map_err(|_| late())?;
        done.map_err(|_| PlatformError::NameService("the change failed".to_owned()))?
    }
}

/// Whether nobody was there to carry an order out. Root does it alone: its errors are of the disk.
fn is_absent(error: &PlatformError) -> bool {
    !is_root() && matches!(error, PlatformError::Io { source, .. } if helper::is_absent(source))
}

fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
