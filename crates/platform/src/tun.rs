//! The virtual device through which the host hands us its packets.
//!
//! ```text
//!   without offloads   | IP packet |                              one packet a call
//!   with offloads      | virtio header 10 | IP packet |           several segments of one flow in a call, checksums left to be made
//! ```
//! Without packet information in both cases. What stands in the header is the business of `packet::virtio`.

pub use crate::os::tun::{Tun, TunQueue, identify, is_gone};

/// The longest interface name in bytes (`IFNAMSIZ` of the kernel is 16 with the closing zero).
pub const MAX_NAME: usize = 15;

/// How to make a TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunOptions {
    /// Name of the interface, 1..=[`MAX_NAME`] bytes.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Make a device with offloads, if the system has them.
    pub offloads: bool,
}

/// What a device with offloads takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Several UDP datagrams of one flow at once, beside TCP segments (Linux 6.2).
    pub udp: bool,
}

/// Which device a descriptor belongs to ([`identify`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of the interface just now; somebody may rename it.
    pub name: String,
    /// Whether it is in the network namespace of this thread, as far as the kernel can say: a name means nothing elsewhere.
    pub here: bool,
}

/// Why the kernel would refuse this interface name (`dev_valid_name` in net/core/dev.c; `%` would be a pattern).
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty")
    } else if name.len() > MAX_NAME {
        Some("the name is longer than 15 bytes")
    } else if name == "." || name == ".." {
        Some("the name is a directory")
    } else if name
        .chars()
        .any(|c| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control())
    {
        Some("the name holds a slash, colon, percent sign, space or control character")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_the_kernel_does() {
        assert_eq!(name_fault("mm-home"), None);
        assert_eq!(name_fault("exactly15bytes_"), None);
        for bad in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a b", "tun%d", "a:1", "a\n"] {
            assert!(name_fault(bad).is_some(), "{bad:?}");
        }
    }
}
