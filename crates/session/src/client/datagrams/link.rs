//! What a handshake is and what it leaves.

use dtls::{Client, Established, OpenHalf, SealHalf, Suite};
use now::Awake;

use super::{DataOutput, PathId};
use crate::datagrams::{Downlink, PathWatch};
use crate::path_mtu::PathMtu;

/// Which keys opened a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Current,
    Fading,
}

/// A handshake that is under way.
#[derive(Debug)]
pub(super) enum Attempt {
    Opening(PathId),
    Shaking(PathId, Box<Client>),
}

impl Attempt {
    pub(super) fn path(&self) -> PathId {
        match self {
            Self::Opening(path) | Self::Shaking(path, _) => *path,
        }
    }
}

/// What a handshake left.
#[derive(Debug)]
pub(super) struct LinkKeys {
    pub(super) seal: SealHalf,
    pub(super) open: OpenHalf,
    pub(super) suite: Suite,
    pub(super) extended_master_secret: bool,
    pub(super) roams: bool,
}

impl LinkKeys {
    pub(super) fn up(&self) -> DataOutput {
        DataOutput::Up {
            suite: self.suite,
            extended_master_secret: self.extended_master_secret,
            roams: self.roams,
        }
    }
}

impl From<Established> for LinkKeys {
    fn from(established: Established) -> Self {
        let Established { seal, open, facts, .. } = established;
        Self {
            seal,
            open,
            suite: facts.suite,
            extended_master_secret: facts.extended_master_secret,
            roams: facts.peer_connection_id.is_some(),
        }
    }
}

/// Keys and the path they are used on.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: PathId,
    pub(super) keys: LinkKeys,
    pub(super) watch: PathWatch,
    pub(super) downlink: Downlink,
    pub(super) sent: Awake,
    pub(super) alive: bool,
    pub(super) mtu: Option<PathMtu>,
}

impl Link {
    /// When the gateway is to be asked because a download has fallen silent. Only a link that can move to another port gains by it.
    pub(super) fn falls_silent_at(&self) -> Option<Awake> {
        self.downlink.deadline().filter(|_| self.alive && self.keys.roams)
    }
}
