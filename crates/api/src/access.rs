//! Who asks, and what he may.

use std::io;

use tokio::net::UnixStream;

/// Who is at the other end of a connection, as the kernel says (`SO_PEERCRED`, at the time of `connect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, where the system tells it.
    pub pid: Option<i32>,
}

impl Peer {
    /// Who is at the other end of `stream`.
    ///
    /// # Errors
    /// The system does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid(),
        })
    }

    /// This process, as a peer would see it. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The system has no sockets left.
    pub fn own() -> io::Result<Self> {
        let (_one, other) = UnixStream::pair()?;
        Self::of(&other)
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// To ask anything, to order up and down: whoever can open the socket.
    Use,
    /// To start and repeat housekeeping, and to get one of the reserved connections.
    Administer,
}

/// The usual rule: root and `own_uid`, as whom the daemon runs, administer; everybody who got here uses.
pub fn owner(own_uid: u32) -> impl Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static {
    move |peer, privilege| match privilege {
        Privilege::Use => true,
        Privilege::Administer => peer.uid == 0 || peer.uid == own_uid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_user_administer_and_everybody_uses() {
        let allow = owner(990);
        for (uid, administers) in [(0, true), (990, true), (1000, false)] {
            let peer = Peer {
                uid,
                gid: 1000,
                pid: None,
            };
            assert!(allow(peer, Privilege::Use));
            assert_eq!(allow(peer, Privilege::Administer), administers, "{uid}");
        }
    }
}
