//! The way to the gateway, as the routes of this host have it: looked at now and then, because nobody tells of a change.

use std::io;
use std::net::{IpAddr, SocketAddr};

#[cfg(not(test))]
pub(crate) use platform::udp::route_source;

#[cfg(test)]
pub(crate) use moved::{move_to, route_source};

/// What became of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Packets leave from another address now.
    Moved,
    /// There was none, and there is the same one again.
    Back,
}

/// The way from which a connection in use was made.
#[derive(Debug)]
pub(crate) struct RouteWatch {
    gateway: SocketAddr,
    /// Mark of the tunnel's slot for its sockets.
    mark: Option<u32>,
    source: IpAddr,
    gone: bool,
}

impl RouteWatch {
    /// Watches the way to `gateway`, which a connection from `source` has.
    pub(crate) fn new(gateway: SocketAddr, mark: Option<u32>, source: IpAddr) -> Self {
        Self {
            gateway,
            mark,
            source: source.to_canonical(),
            gone: false,
        }
    }

    /// Looks at the routes. Each change is told once.
    pub(crate) fn look(&mut self) -> Option<Change> {
        self.found(route_source(self.gateway, self.mark))
    }

    fn found(&mut self, source: io::Result<IpAddr>) -> Option<Change> {
        let Ok(source) = source else {
            self.gone = true;
            return None;
        };
        let was_gone = std::mem::take(&mut self.gone);
        if std::mem::replace(&mut self.source, source) != source {
            return Some(Change::Moved);
        }
        was_gone.then_some(Change::Back)
    }
}

/// Whether this host has any way to hosts elsewhere: without one no name server can be asked. Sends nothing.
pub(crate) fn has_network(mark: Option<u32>) -> bool {
    // Addresses of nobody (RFC 5737, RFC 3849): what leads there leads anywhere.
    let anywhere = [
        SocketAddr::from(([192, 0, 2, 1], 53)),
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 53)),
    ];
    anywhere.into_iter().any(|address| route_source(address, mark).is_ok())
}

/// Whether an attempt to connect failed before anything left this host: no way, no address, no such socket.
pub(crate) fn is_local(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            // A route that swallows everything, and an address that means nothing without an interface.
            | io::ErrorKind::InvalidInput
    )
}

/// In tests this host can be moved.
#[cfg(test)]
mod moved {
    use std::cell::Cell;
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    thread_local! {
        static SOURCE: Cell<Option<IpAddr>> = const { Cell::new(None) };
    }

    pub(crate) fn route_source(peer: SocketAddr, mark: Option<u32>) -> io::Result<IpAddr> {
        match SOURCE.get() {
            Some(source) => Ok(source),
            None => platform::udp::route_source(peer, mark),
        }
    }

    /// The gateway is reached from `source` from now on.
    pub(crate) fn move_to(source: IpAddr) {
        SOURCE.set(Some(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_way_is_told_once() {
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut route = RouteWatch::new(SocketAddr::from(([203, 0, 113, 1], 443)), None, here);
        let no_way = || Err(io::ErrorKind::NetworkUnreachable.into());
        let looks = [
            (Ok(here), None),
            (Ok(there), Some(Change::Moved)),
            (Ok(there), None),
            (no_way(), None),
            (no_way(), None),
            (Ok(there), Some(Change::Back)),
            (Ok(there), None),
            (no_way(), None),
            (Ok(here), Some(Change::Moved)),
        ];
        for (found, change) in looks {
            assert_eq!(route.found(found), change);
        }
    }

    #[test]
    fn what_never_left_this_host_is_told_from_what_did() {
        let local = |kind: io::ErrorKind| is_local(&kind.into());
        assert!(local(io::ErrorKind::NetworkUnreachable) && local(io::ErrorKind::AddrNotAvailable));
        assert!(!local(io::ErrorKind::ConnectionRefused) && !local(io::ErrorKind::TimedOut));
    }
}
