//! Multicast messages of rtnetlink, of which only the heads are read.
//!
//! ```text
//!   anybody --RTM_NEWADDR, RTM_DELROUTE ...--> kernel --multicast groups--> our socket --> Changes
//! ```
//! What this program puts on the host is no change; what goes of it is, whoever took it. A socket whose buffer overflowed says so
//! (`ENOBUFS`): then anything may have changed.

use std::future::poll_fn;
use std::io;

use rtnetlink::constants::{
    RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_LINK,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};

use super::network::index_of;
use crate::PlatformError;
use crate::slot::PROTOCOL;
use crate::watch::{Change, Changes};

/// The group of IPv6 rules (`RTNLGRP_IPV6_RULE` is 19) as a bit, which rtnetlink has no name for.
const RTMGRP_IPV6_RULE: u32 = 1 << 18;

/// What is listened to.
const GROUPS: u32 = RTMGRP_LINK
    | RTMGRP_IPV4_IFADDR
    | RTMGRP_IPV6_IFADDR
    | RTMGRP_IPV4_ROUTE
    | RTMGRP_IPV6_ROUTE
    | RTMGRP_IPV4_RULE
    | RTMGRP_IPV6_RULE;

/// The largest message that is read whole; the kernel's own are a page or two (NLMSG_GOODSIZE). Of a longer one the rest is missing, which
/// nobody reads.
const MESSAGE: usize = 16 * 1024;

/// Messages that one call takes; the next one takes the rest. Others have their turn.
const MAX_MESSAGES: usize = 256;

/// `struct nlmsghdr`, `struct ifinfomsg`, `struct ifaddrmsg`; `struct rtmsg` and `struct fib_rule_hdr` are alike.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// Listens to what changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NetworkWatch {
    socket: Socket,
    buffer: Vec<u8>,
    own: Own,
}

/// The device of the tunnel.
#[derive(Debug)]
struct Own {
    interface: String,
    /// Its index, while it is there.
    index: Option<u32>,
}

struct Socket(TokioSocket);

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Socket")
    }
}

impl NetworkWatch {
    /// Begins to listen. What is done to the device `interface` is the tunnel's own doing, but for its end. Needs a tokio runtime with
    /// I/O.
    ///
    /// # Errors
    /// If there is no such socket.
    pub fn open(interface: &str) -> Result<Self, PlatformError> {
        let listening = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
            io::Result::Ok(socket)
        };
        let socket = listening().map_err(|source| PlatformError::io("listen to changes of the network", source))?;
        Ok(Self {
            socket: Socket(socket),
            buffer: Vec::with_capacity(MESSAGE),
            own: Own {
                interface: interface.to_owned(),
                index: index_of(interface).ok(),
            },
        })
    }

    /// Waits until something has changed, and takes all that has by then. Cancel safe.
    ///
    /// # Errors
    /// If the socket is of no use any more.
    pub async fn next(&mut self) -> io::Result<Changes> {
        loop {
            let mut changes = self.take().await?;
            for _ in 1..MAX_MESSAGES {
                match self.take_waiting() {
                    Some(more) => changes.join(more?),
                    None => break,
                }
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
            // A storm of what is none of our business.
            tokio::task::yield_now().await;
        }
    }

    async fn take(&mut self) -> io::Result<Changes> {
        let Self { socket, buffer, own } = self;
        buffer.clear();
        buffer.reserve(MESSAGE);
        let taken = poll_fn(|context| socket.0.poll_recv(context, buffer)).await;
        heard(taken, buffer, own)
    }

    /// As [`NetworkWatch::take`], if something waits.
    fn take_waiting(&mut self) -> Option<io::Result<Changes>> {
        let Self { socket, buffer, own } = self;
        buffer.clear();
        buffer.reserve(MESSAGE);
        match socket.0.socket_ref().recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            taken => Some(heard(taken.map(drop), buffer, own)),
        }
    }
}

fn heard(taken: io::Result<()>, buffer: &[u8], own: &mut Own) -> io::Result<Changes> {
    match taken {
        Ok(()) => Ok(own.changes(buffer)),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
            // Whether our device was among what was lost: look again.
            own.index = index_of(&own.interface).ok();
            Ok(Changes::ALL)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Changes::default()),
        Err(error) => Err(error),
    }
}

impl Own {
    /// What the messages in `bytes` say.
    fn changes(&mut self, mut bytes: &[u8]) -> Changes {
        let mut changes = Changes::default();
        while let Some(length) = u32_at(bytes, 0) {
            let length = (length as usize).max(HEADER);
            let message = &bytes[..length.min(bytes.len())];
            if let Some(change) = self.change(message) {
                changes.join(change.into());
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        changes
    }

    fn change(&mut self, message: &[u8]) -> Option<Change> {
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        let body = message.get(HEADER..)?;
        match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.link(body, kind == libc::RTM_NEWLINK),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.address(body, kind == libc::RTM_NEWADDR),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.route(body, kind == libc::RTM_NEWROUTE),
            libc::RTM_NEWRULE | libc::RTM_DELRULE => rule(body, kind == libc::RTM_NEWRULE),
            _ => None,
        }
    }

    fn link(&mut self, body: &[u8], new: bool) -> Option<Change> {
        let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
        let named = attribute(body.get(LINK_HEADER..)?, libc::IFLA_IFNAME)
            .is_some_and(|name| name.strip_suffix(&[0]).unwrap_or(name) == self.interface.as_bytes());
        if !named && self.index != Some(index) {
            return Some(Change::Link);
        }
        // A device that was renamed is not ours any more, and one that was given our name is.
        self.index = Some(index).filter(|_| named && new);
        let up = flags & libc::IFF_UP as u32 != 0;
        (!new || !up).then_some(Change::Ours)
    }

    fn address(&self, body: &[u8], new: bool) -> Option<Change> {
        if self.index != Some(u32_at(body, 4)?) || body.len() < ADDRESS_HEADER {
            return Some(Change::Address);
        }
        (!new).then_some(Change::Ours)
    }

    /// The local table follows the addresses, and says nothing new.
    fn route(&self, body: &[u8], new: bool) -> Option<Change> {
        let (table, protocol) = (*body.get(4)?, *body.get(5)?);
        if protocol == PROTOCOL {
            return (!new).then_some(Change::Ours);
        }
        let out = attribute(body.get(ROUTE_HEADER..)?, libc::RTA_OIF).and_then(|index| u32_at(index, 0));
        let own = out.is_some() && out == self.index;
        (table != libc::RT_TABLE_LOCAL && !own).then_some(Change::Route)
    }
}

fn rule(body: &[u8], new: bool) -> Option<Change> {
    /// `FRA_PROTOCOL` in linux/fib_rules.h.
    const FRA_PROTOCOL: u16 = 21;
    let protocol = attribute(body.get(ROUTE_HEADER..)?, FRA_PROTOCOL);
    if protocol.is_some_and(|protocol| protocol == [PROTOCOL]) {
        return (!new).then_some(Change::Ours);
    }
    Some(Change::Route)
}

/// The value of the first attribute of this kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// `struct rtattr`: length and kind, of which the two highest bits are flags.
    const HEAD: usize = 4;
    const FLAGS: u16 = 0xc000;
    while bytes.len() >= HEAD {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])).max(HEAD);
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & !FLAGS;
        if kind == wanted {
            return bytes.get(HEAD..length);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = (HEADER + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn with(mut body: Vec<u8>, kind: u16, value: &[u8]) -> Vec<u8> {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
        body
    }

    fn link(index: u32, up: bool, name: &str) -> Vec<u8> {
        let mut body = vec![0; LINK_HEADER];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8] = u8::from(up);
        let name = [name.as_bytes(), &[0]].concat();
        with(with(body, 99, &[1, 2, 3]), libc::IFLA_IFNAME, &name)
    }

    fn address(index: u32) -> Vec<u8> {
        let mut body = vec![0; ADDRESS_HEADER];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body
    }

    fn route(table: u8, protocol: u8, out: u32) -> Vec<u8> {
        let mut body = vec![0; ROUTE_HEADER];
        (body[4], body[5]) = (table, protocol);
        with(body, libc::RTA_OIF, &out.to_ne_bytes())
    }

    fn own() -> Own {
        Own {
            interface: "mm0".to_owned(),
            index: None,
        }
    }

    #[test]
    fn what_others_do_is_told_and_what_the_tunnel_does_is_not() {
        let mut own = own();
        let mut told = |kind, body: Vec<u8>| own.changes(&message(kind, &body)).iter().collect::<Vec<_>>();
        assert_eq!(told(libc::RTM_NEWLINK, link(3, true, "eth0")), [Change::Link]);
        assert_eq!(told(libc::RTM_NEWLINK, link(7, true, "mm0")), []);
        assert_eq!(told(libc::RTM_NEWADDR, address(7)), []);
        assert_eq!(told(libc::RTM_NEWADDR, address(3)), [Change::Address]);
        assert_eq!(told(libc::RTM_DELADDR, address(7)), [Change::Ours]);
        assert_eq!(told(libc::RTM_NEWROUTE, route(254, 2, 3)), [Change::Route]);
        assert_eq!(told(libc::RTM_NEWROUTE, route(255, 2, 3)), [], "the local table");
        assert_eq!(
            told(libc::RTM_NEWROUTE, route(254, 2, 7)),
            [],
            "of the kernel, on our device"
        );
        assert_eq!(told(libc::RTM_NEWROUTE, route(0, PROTOCOL, 7)), []);
        assert_eq!(told(libc::RTM_DELROUTE, route(0, PROTOCOL, 7)), [Change::Ours]);
        assert_eq!(told(libc::RTM_NEWRULE, vec![0; ROUTE_HEADER]), [Change::Route]);
        let ours = with(vec![0; ROUTE_HEADER], 21, &[PROTOCOL]);
        assert_eq!(told(libc::RTM_NEWRULE, ours.clone()), []);
        assert_eq!(told(libc::RTM_DELRULE, ours), [Change::Ours]);
        assert_eq!(told(libc::RTM_NEWLINK, link(7, false, "mm0")), [Change::Ours]);
        assert_eq!(told(libc::RTM_DELLINK, link(7, false, "mm0")), [Change::Ours]);
        assert_eq!(told(libc::RTM_NEWADDR, address(7)), [Change::Address], "it is gone");
        assert_eq!(told(libc::RTM_NEWNEIGH, address(3)), []);
    }

    #[test]
    fn several_messages_may_come_at_once_and_none_needs_to_be_whole() {
        let mut own = own();
        let mut bytes = message(libc::RTM_NEWADDR, &address(3));
        bytes.extend(message(libc::RTM_NEWLINK, &link(3, true, "eth0")));
        let both: Vec<_> = own.changes(&bytes).iter().collect();
        assert_eq!(both, [Change::Link, Change::Address]);
        for length in 0..bytes.len() {
            let _ = own.changes(&bytes[..length]);
        }
        let mut short = message(libc::RTM_NEWADDR, &address(3));
        short[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert!(
            own.changes(&short).is_empty(),
            "and no message is so short that it never ends"
        );
    }
}
