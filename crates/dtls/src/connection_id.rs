//! Connection ids (RFC 9146): what finds a session when the address of its peer changed.

use std::fmt;

/// Longest id, in bytes. More would not help to find a session, and costs every record.
pub(crate) const MAX_LENGTH: usize = 8;

/// Shortest id, in bytes: with fewer, strangers hit live sessions by chance.
const MIN_LENGTH: usize = 4;

/// A connection id of 4 to 8 bytes. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    length: u8,
    /// Zeros behind `length`, so that the derived comparisons are those of the ids.
    bytes: [u8; MAX_LENGTH],
}

impl ConnectionId {
    /// An id of these 4 to 8 bytes; `None` for any other length.
    pub fn new(id: &[u8]) -> Option<Self> {
        if !(MIN_LENGTH..=MAX_LENGTH).contains(&id.len()) {
            return None;
        }
        let mut bytes = [0; MAX_LENGTH];
        bytes[..id.len()].copy_from_slice(id);
        Some(Self {
            length: u8::try_from(id.len()).expect("at most 8"),
            bytes,
        })
    }

    /// The bytes as they stand in records.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_4_to_8_bytes() {
        assert!(ConnectionId::new(&[1; 3]).is_none() && ConnectionId::new(&[1; 9]).is_none());
        let id = ConnectionId::new(&[1, 2, 3, 0xff]).unwrap();
        assert_eq!(id.as_bytes(), [1, 2, 3, 0xff]);
        assert_eq!(format!("{id:?}"), "010203ff");
    }

    #[test]
    fn ids_of_different_lengths_differ() {
        assert_ne!(ConnectionId::new(&[0; 4]), ConnectionId::new(&[0; 5]));
    }
}
