//! Headers of records (RFC 6347 section 4.1, RFC 9146 section 4).
//!
//! ```text
//!   | type | version | epoch | sequence |              | length |  plain and, in epoch 1, sealed
//!   |  1   |    2    |   2   |    6     |              |   2    |
//!   |  25  |    2    |   2   |    6     | cid, 4 to 8  |   2    |  sealed, to a peer that asked for it
//! ```

use std::ops::Range;

use crate::codec::{Reader, put_u16, put_u48};

/// Length of a header without connection id.
pub(crate) const HEADER: usize = 13;

/// The highest record sequence: six bytes.
pub(crate) const MAX_SEQUENCE: u64 = (1 << 48) - 1;

/// The longest plaintext of a record (RFC 5246 section 6.2.1).
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;

/// DTLS 1.0, in records of ClientHello and HelloVerifyRequest: whoever sends them does not know yet what the other speaks.
pub(crate) const DTLS_1_0: u16 = 0xfeff;

/// DTLS 1.2.
pub(crate) const DTLS_1_2: u16 = 0xfefd;

/// What a record says it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    Data,
    /// The true type is sealed, and the header has a connection id.
    Identified,
}

impl ContentType {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
            Self::Identified => 25,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            25 => Some(Self::Identified),
            _ => None,
        }
    }
}

/// The header of the first record of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) content: ContentType,
    pub(crate) version: u16,
    pub(crate) epoch: u16,
    pub(crate) sequence: u64,
    /// Where the connection id stands; empty without one.
    pub(crate) connection_id: Range<usize>,
    /// Where the payload stands. The record ends with it.
    pub(crate) body: Range<usize>,
}

impl Header {
    /// Reads the first record. `None` means that the datagram holds none, so that nothing behind it can be found either.
    pub(crate) fn parse(datagram: &[u8], connection_id_length: usize) -> Option<Self> {
        let mut reader = Reader::new(datagram);
        let content = ContentType::from_code(reader.u8()?)?;
        let version = reader.u16()?;
        let epoch = reader.u16()?;
        let sequence = reader.u48()?;
        let id_length = match content {
            ContentType::Identified if connection_id_length == 0 => return None,
            ContentType::Identified => connection_id_length,
            ContentType::ChangeCipherSpec | ContentType::Alert | ContentType::Handshake | ContentType::Data => 0,
        };
        reader.take(id_length)?;
        let length = usize::from(reader.u16()?);
        reader.take(length)?;
        let body = HEADER + id_length;
        matches!(version, DTLS_1_0 | DTLS_1_2).then_some(Self {
            content,
            version,
            epoch,
            sequence,
            connection_id: HEADER - 2..body - 2,
            body: body..body + length,
        })
    }
}

/// Writes a record of epoch 0.
pub(crate) fn put_plain(out: &mut Vec<u8>, content: ContentType, version: u16, sequence: u64, body: &[u8]) {
    out.push(content.code());
    put_u16(out, version);
    put_u16(out, 0);
    put_u48(out, sequence);
    put_u16(
        out,
        u16::try_from(body.len()).expect("datagrams are shorter than 64 KiB"),
    );
    out.extend(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_written_is_read() {
        let mut datagram = Vec::new();
        put_plain(&mut datagram, ContentType::Alert, DTLS_1_2, 77, &[2, 40]);
        datagram.extend([1, 2, 3]);
        let header = Header::parse(&datagram, 0).unwrap();
        assert_eq!(
            (header.content, header.epoch, header.sequence),
            (ContentType::Alert, 0, 77)
        );
        assert_eq!(datagram[header.body], [2, 40]);
    }

    #[test]
    fn a_record_with_a_connection_id_is_read_only_where_its_length_is_known() {
        let datagram = [25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4, 0, 1, 0xaa];
        assert_eq!(Header::parse(&datagram, 0), None);
        let header = Header::parse(&datagram, 4).unwrap();
        assert_eq!(datagram[header.connection_id], [1, 2, 3, 4]);
        assert_eq!(datagram[header.body], [0xaa]);
    }

    #[test]
    fn cut_records_and_strange_versions_are_none() {
        let mut datagram = Vec::new();
        put_plain(&mut datagram, ContentType::Data, DTLS_1_2, 1, &[1, 2, 3]);
        for length in 0..datagram.len() {
            assert_eq!(Header::parse(&datagram[..length], 0), None);
        }
        datagram[2] = 0xfc;
        assert_eq!(Header::parse(&datagram, 0), None);
    }
}
