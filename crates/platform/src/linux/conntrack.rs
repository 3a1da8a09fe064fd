//! Connection tracking of the kernel, over netlink (linux/netfilter/nfnetlink_conntrack.h).
//!
//! ```text
//!   request   | nlmsghdr 16 | nfgenmsg: family 1, version 1, id 2 | attributes
//!   entry     the same, with   TUPLE_ORIG { TUPLE_IP { source, destination }, ... }   TUPLE_REPLY { ... }   ID   [ZONE]
//! ```
//! The kernel deletes one entry, named by its original tuple, or all (before 6.8). So the table is looked through once for all addresses, and
//! what is found is deleted one by one, by the attributes that the kernel itself wrote.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::sys::{Socket, SocketAddr};

use super::capabilities::NET_ADMIN_HINT;
use crate::PlatformError;

/// `NETLINK_NETFILTER`.
const NETFILTER: isize = 12;

/// `NFNL_SUBSYS_CTNETLINK << 8`, with the kinds of messages in it.
const NEW: u16 = 0x0100;
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;

/// Bytes of `nlmsghdr`, and of `nfgenmsg` behind it.
const HEADER: usize = 16;
const FAMILY: usize = 4;

/// The flags of an attribute's type: nested, and in network order.
const TYPE_MASK: u16 = 0x3fff;

/// Says how many flows there are; not there where nothing tracks any.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Deletes all flows from or to one of these addresses, before or after translation, and says how many. May take a while: not for a thread that
/// carries packets. Of the network namespace of this thread.
///
/// # Errors
/// What the kernel has against it, first of all. What else was found is deleted, unless the socket itself failed.
pub fn forget(addresses: &BTreeSet<IpAddr>) -> Result<usize, PlatformError> {
    let tracked = fs::read_to_string(COUNT).ok();
    if tracked.is_none_or(|count| count.trim() == "0") {
        return Ok(0);
    }
    delete_all(addresses).map_err(|source| {
        let what = "delete flows of released addresses";
        match source.raw_os_error() {
            Some(libc::EPERM) => PlatformError::NotPermitted {
                what: what.to_owned(),
                hint: NET_ADMIN_HINT.to_owned(),
            },
            _ => PlatformError::io(what, source),
        }
    })
}

fn delete_all(addresses: &BTreeSet<IpAddr>) -> io::Result<usize> {
    let socket = Socket::new(NETFILTER)?;
    let found = look_for(&socket, addresses)?;
    let (mut deleted, mut refused) = (0, None);
    for (number, entry) in (1..).zip(found) {
        send(&socket, (DELETE, REQUEST | ACK), number, &entry)?;
        match acknowledged(&socket)? {
            0 => deleted += 1,
            // Over by itself meanwhile.
            libc::ENOENT => {}
            // The others must not stay for its sake.
            code => refused = refused.or(Some(code)),
        }
    }
    match refused {
        None => Ok(deleted),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The requests, without their headers, that delete what is found.
fn look_for(socket: &Socket, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    send(socket, (GET, REQUEST | DUMP), 0, &[0; FAMILY])?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for (kind, payload) in messages(&bytes) {
            match kind {
                NEW => found.extend(of_one(payload, addresses)),
                DONE => return Ok(found),
                ERROR => match code(payload) {
                    0 => {}
                    code => return Err(io::Error::from_raw_os_error(code)),
                },
                _ => {}
            }
        }
    }
}

fn acknowledged(socket: &Socket) -> io::Result<i32> {
    let (bytes, _) = socket.recv_from_full()?;
    let answer = messages(&bytes).find(|(kind, _)| *kind == ERROR);
    let answer = answer.map(|(_, payload)| code(payload));
    answer.ok_or_else(|| io::Error::other("the kernel gave no answer"))
}

fn send(socket: &Socket, (kind, flags): (u16, u16), number: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0).map(drop)
}

/// Kind and payload of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Type, value and all bytes of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let (value, whole) = (bytes.get(4..length)?, bytes.get(..length)?);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value, whole))
    })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The error in an answer, as a positive number; 0 is none.
fn code(payload: &[u8]) -> i32 {
    let code = payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
    code.unwrap_or_default().saturating_neg()
}

/// What deletes this entry, if it is of one of the addresses.
fn of_one(entry: &[u8], addresses: &BTreeSet<IpAddr>) -> Option<Vec<u8>> {
    let (header, rest) = entry.split_at_checked(FAMILY)?;
    let tuples = attributes(rest).filter(|(kind, ..)| matches!(*kind, TUPLE_ORIG | TUPLE_REPLY));
    let mut ends = tuples
        .flat_map(|(_, tuple, _)| attributes(tuple).filter(|(kind, ..)| *kind == TUPLE_IP))
        .flat_map(|(_, ip, _)| attributes(ip).filter_map(|(_, value, _)| address(value)));
    if !ends.any(|end| addresses.contains(&end)) {
        return None;
    }
    // Version and id are those of a request.
    let mut request = vec![header[0], 0, 0, 0];
    for (kind, _, whole) in attributes(rest) {
        if matches!(kind, TUPLE_ORIG | ID | ZONE) {
            request.extend(whole);
            request.resize(aligned(request.len()), 0);
        }
    }
    Some(request)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn tuple(kind: u16, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let ip = [attribute(1, &from), attribute(2, &to)].concat();
        let protocol = attribute(2 | 0x8000, &attribute(1, &[17]));
        attribute(kind | 0x8000, &[attribute(TUPLE_IP | 0x8000, &ip), protocol].concat())
    }

    #[test]
    fn an_entry_is_found_by_each_of_its_addresses_and_deleted_by_what_names_it() {
        let (client, lan, gateway) = ([10, 78, 0, 2], [10, 77, 0, 10], [10, 77, 0, 1]);
        let (orig, reply) = (tuple(TUPLE_ORIG, client, lan), tuple(TUPLE_REPLY, lan, gateway));
        let (status, id) = (attribute(3, &[0; 4]), attribute(ID | 0x4000, &[1, 2, 3, 4]));
        let entry = [&[2, 0, 0, 7][..], &orig, &reply, &status, &id].concat();
        for address in [client, lan, gateway] {
            let request = of_one(&entry, &BTreeSet::from([address.into()])).expect("found");
            assert_eq!(request, [&[2, 0, 0, 0][..], &orig, &id].concat());
        }
        assert_eq!(of_one(&entry, &BTreeSet::from([[10, 78, 0, 3].into()])), None);
    }

    #[test]
    fn messages_are_taken_apart_and_damaged_ones_lead_nowhere() {
        let message = |kind: u16, payload: &[u8]| {
            let length = u32::try_from(HEADER + payload.len()).expect("short");
            let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat();
            bytes.resize(aligned(bytes.len()), 0);
            bytes
        };
        let refused = (-libc::EPERM).to_ne_bytes();
        let bytes = [message(NEW, b"abcde"), message(ERROR, &refused)].concat();
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!(found, [(NEW, &b"abcde"[..]), (ERROR, &refused[..])]);
        assert_eq!(code(found[1].1), libc::EPERM);
        for cut in 0..bytes.len() {
            for (_, payload) in messages(&bytes[..cut]) {
                let _ = (code(payload), of_one(payload, &BTreeSet::new()));
            }
        }
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0, "shorter than its own header");
    }
}
