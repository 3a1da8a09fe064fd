//! One datagram, and what the kernel is told about it beside its bytes: control data (cmsg(3)).

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;
use std::ptr;

use packet::Ecn;
use socket2::SockAddr;

/// Room for the longest address (40 bytes with its header) and a mark (24).
type Room = [u64; 8];

/// Control data of one datagram.
#[derive(Default)]
pub(super) struct Control {
    /// Aligned as headers must be.
    room: Room,
    length: usize,
}

impl Control {
    /// The datagram leaves from `local`, on the interface with this index if it is not 0. `v6` says what the socket is.
    pub(super) fn from(&mut self, local: IpAddr, interface: u32, v6: bool) {
        match local {
            IpAddr::V4(local) if !v6 => {
                let data = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(local.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, data);
            }
            local => {
                let data = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: as_v6(local).octets(),
                    },
                    ipi6_ifindex: interface,
                };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data);
            }
        }
    }

    /// It has this mark. `v4` says what it travels over, whatever the socket is.
    pub(super) fn marked(&mut self, ecn: Ecn, v4: bool) {
        let (level, kind) = match v4 {
            true => (libc::IPPROTO_IP, libc::IP_TOS),
            false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.push(level, kind, libc::c_int::from(ecn.bits()));
    }

    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, data: T) {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: both only compute.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
        assert!(
            self.length + space <= size_of::<Room>(),
            "there is room for one of each kind"
        );
        // SAFETY: `space` bytes from here are in the room, which is aligned for a header, as is every multiple of what CMSG_SPACE says; the data
        // lies behind the header, within them.
        unsafe {
            let header = self.room.as_mut_ptr().byte_add(self.length).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), data);
        }
        self.length += space;
    }
}

/// Sends a datagram to `peer`, or to whom the socket is connected. Returns its length.
pub(super) fn send(
    number: RawFd,
    datagram: &[u8],
    peer: Option<&SockAddr>,
    control: &mut Control,
) -> io::Result<usize> {
    let mut part = libc::iovec {
        // The kernel does not write there.
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    // SAFETY: integers and pointers, for which zero is valid; some systems have padding between them.
    let mut message: libc::msghdr = unsafe { zeroed() };
    if let Some(peer) = peer {
        message.msg_name = peer.as_ptr().cast_mut().cast();
        message.msg_namelen = peer.len();
    }
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if control.length > 0 {
        debug_assert!(control.length <= size_of_val(&control.room));
        message.msg_control = control.room.as_mut_ptr().cast();
        message.msg_controllen = control.length as _;
    }
    // SAFETY: all that `message` points to outlives the call, in the lengths it says; the kernel only reads.
    let length = unsafe { libc::sendmsg(number, &message, 0) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// As an IPv6 socket wants it.
pub(super) fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
