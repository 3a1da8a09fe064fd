//! Handshake messages and their fragments (RFC 6347 section 4.2.2).
//!
//! ```text
//!   | type 1 | length 3 | message_seq 2 | fragment offset 3 | fragment length 3 | fragment |
//! ```

use crate::codec::{Reader, put_u16, put_u24};

/// Length of the header of a fragment.
pub(crate) const MESSAGE_HEADER: usize = 12;

/// The messages of a plain-PSK handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ClientHello,
    ServerHello,
    HelloVerifyRequest,
    ServerKeyExchange,
    ServerHelloDone,
    ClientKeyExchange,
    Finished,
    /// Anything else, by its code.
    Other(u8),
}

impl Kind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::ClientHello => 1,
            Self::ServerHello => 2,
            Self::HelloVerifyRequest => 3,
            Self::ServerKeyExchange => 12,
            Self::ServerHelloDone => 14,
            Self::ClientKeyExchange => 16,
            Self::Finished => 20,
            Self::Other(code) => code,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::ClientHello,
            2 => Self::ServerHello,
            3 => Self::HelloVerifyRequest,
            12 => Self::ServerKeyExchange,
            14 => Self::ServerHelloDone,
            16 => Self::ClientKeyExchange,
            20 => Self::Finished,
            other => Self::Other(other),
        }
    }
}

/// The kind of the message that a handshake record begins with.
pub(crate) fn kind(body: &[u8]) -> Option<Kind> {
    body.first().copied().map(Kind::from_code)
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) sequence: u16,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The header as it stands in the transcript: that of a message in one fragment.
    pub(crate) fn header(&self) -> [u8; MESSAGE_HEADER] {
        self.fragment_header(0, self.body.len())
    }

    /// The header of the fragment of this length at this offset.
    pub(crate) fn fragment_header(&self, offset: usize, length: usize) -> [u8; MESSAGE_HEADER] {
        let mut header = Vec::with_capacity(MESSAGE_HEADER);
        header.push(self.kind.code());
        put_u24(&mut header, self.body.len());
        put_u16(&mut header, self.sequence);
        put_u24(&mut header, offset);
        put_u24(&mut header, length);
        header.try_into().expect("1 + 3 + 2 + 3 + 3 bytes")
    }

    /// The message in one fragment.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.header()[..], &self.body].concat()
    }
}

/// A fragment that lies inside its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    pub(crate) kind: Kind,
    /// Length of the whole message.
    pub(crate) length: usize,
    pub(crate) sequence: u16,
    pub(crate) offset: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads one fragment; a record may hold several. `None` means that the rest of the record makes no sense.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let kind = Kind::from_code(reader.u8()?);
        let length = reader.u24()?;
        let sequence = reader.u16()?;
        let offset = reader.u24()?;
        let fragment = reader.u24()?;
        let bytes = reader.take(fragment)?;
        // Three bytes each: the sum cannot overflow.
        (offset + fragment <= length).then_some(Self {
            kind,
            length,
            sequence,
            offset,
            bytes,
        })
    }

    /// Whether it is all of its message.
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            kind: Kind::Finished,
            sequence: 0x0102,
            body: b"abcdef".to_vec(),
        }
    }

    #[test]
    fn a_message_is_its_own_whole_fragment() {
        let bytes = message().to_bytes();
        let mut reader = Reader::new(&bytes);
        let fragment = Fragment::read(&mut reader).unwrap();
        assert!(fragment.is_whole() && reader.is_empty());
        assert_eq!(
            (fragment.kind, fragment.sequence, fragment.bytes),
            (Kind::Finished, 0x0102, &b"abcdef"[..])
        );
    }

    #[test]
    fn a_fragment_beyond_its_message_is_refused() {
        let mut bytes = message().fragment_header(4, 3).to_vec();
        bytes.extend(b"xyz");
        assert_eq!(Fragment::read(&mut Reader::new(&bytes)), None);
        let mut bytes = vec![20];
        bytes.extend([0xff; 11]);
        assert_eq!(Fragment::read(&mut Reader::new(&bytes)), None);
    }

    #[test]
    fn every_code_is_the_code_of_its_kind() {
        for code in 0..=u8::MAX {
            assert_eq!(Kind::from_code(code).code(), code);
        }
    }
}
