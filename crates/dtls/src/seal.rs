//! The sealing half of a connection: it owns its sequence, cannot be copied, and ends at its limit.
//!
//! ```text
//!   | header 13 | connection id 0, 4-8 | explicit nonce 8 or 0 | plaintext | type 1 or 0 | tag 16 |
//!   |<------------------- prefix() ------------------------->|             |<---- suffix() ---->|
//! ```

use thiserror::Error;

use crate::ConnectionId;
#[cfg(test)]
use crate::Suite;
use crate::connection_id::MAX_LENGTH;
use crate::protection::{Additional, EPOCH, Protection, TAG, numbered};
use crate::record::{ContentType, DTLS_1_2, HEADER, MAX_PLAINTEXT, MAX_SEQUENCE};

/// Level and description of close_notify (RFC 5246 section 7.2).
pub(crate) const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Why a record was not sealed. Its bytes are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The key has sealed as many records as it may, or the sequence is at its end.
    #[error("the key is used up: a new handshake is due")]
    Exhausted,
    /// The record has no room for prefix and suffix.
    #[error("the record is shorter than prefix and suffix")]
    TooShort,
    /// The plaintext is longer than 2^14 bytes (RFC 5246 section 6.2.1).
    #[error("the plaintext is longer than 16384 bytes")]
    TooLong,
}

/// Seals records, each with a sequence of its own.
pub struct SealHalf {
    protection: Protection,
    additional: Additional,
    /// The peer's connection id: our records carry it.
    connection_id: Option<ConnectionId>,
    next: u64,
    sealed: u64,
}

impl SealHalf {
    /// The largest [`SealHalf::prefix`] of any suite and connection id.
    pub const MAX_PREFIX: usize = HEADER + MAX_LENGTH + 8;

    /// The largest [`SealHalf::suffix`].
    pub const MAX_SUFFIX: usize = TAG + 1;

    pub(crate) fn new(protection: Protection, connection_id: Option<ConnectionId>) -> Self {
        Self {
            protection,
            additional: Additional::new(connection_id.as_ref()),
            connection_id,
            next: 0,
            sealed: 0,
        }
    }

    /// Bytes before the plaintext.
    pub fn prefix(&self) -> usize {
        self.header() + self.protection.suite().explicit_nonce()
    }

    /// Bytes behind the plaintext.
    pub fn suffix(&self) -> usize {
        TAG + usize::from(self.connection_id.is_some())
    }

    /// Bytes that a record is longer than its plaintext.
    pub fn overhead(&self) -> usize {
        self.prefix() + self.suffix()
    }

    /// Seals application data in place. `record` is [`SealHalf::prefix`] bytes, the plaintext and [`SealHalf::suffix`] bytes;
    /// what the first and the last hold before does not matter.
    pub fn seal(&mut self, record: &mut [u8]) -> Result<(), SealError> {
        self.seal_as(ContentType::Data, record)
    }

    /// Whether a plaintext of `length` bytes would be sealed.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, length: usize) -> Result<(), SealError> {
        if length > MAX_PLAINTEXT {
            return Err(SealError::TooLong);
        }
        if self.sealed >= self.protection.suite().seal_limit() || self.next > MAX_SEQUENCE {
            return Err(SealError::Exhausted);
        }
        Ok(())
    }

    /// A sealed close_notify; `None` if the key is used up.
    pub fn seal_close(&mut self) -> Option<Vec<u8>> {
        self.sealed_record(ContentType::Alert, &CLOSE_NOTIFY)
    }

    /// Whether half of what the key may seal is used: time for a new handshake.
    pub fn is_worn(&self) -> bool {
        self.sealed >= self.protection.suite().seal_limit() / 2 || self.next > MAX_SEQUENCE / 2
    }

    /// Leaves out sequences, after time in which this process may have been copied and run elsewhere. A jump past the end
    /// is refused and changes nothing.
    pub fn skip(&mut self, records: u64) -> Result<(), SealError> {
        let next = self.next.checked_add(records).ok_or(SealError::Exhausted)?;
        if next > MAX_SEQUENCE {
            return Err(SealError::Exhausted);
        }
        self.next = next;
        Ok(())
    }

    pub(crate) fn sealed_record(&mut self, content: ContentType, text: &[u8]) -> Option<Vec<u8>> {
        let mut record = vec![0; self.prefix()];
        record.extend(text);
        record.resize(record.len() + self.suffix(), 0);
        self.seal_as(content, &mut record).ok().map(|()| record)
    }

    fn seal_as(&mut self, content: ContentType, record: &mut [u8]) -> Result<(), SealError> {
        let length = record.len().checked_sub(self.overhead()).ok_or(SealError::TooShort)?;
        self.check(length)?;
        let sequence = self.next;
        let inner = length + usize::from(self.connection_id.is_some());
        let inner_length = u16::try_from(inner).expect("at most 2^14 + 1");
        self.write_prefix(content, sequence, record);
        let (text, tag) = record[self.prefix()..].split_at_mut(inner);
        if self.connection_id.is_some() {
            text[length] = content.code();
        }
        // Counted before it is tried: a sequence is never used twice.
        self.next += 1;
        self.sealed += 1;
        let additional = self.additional.of(sequence, content, inner_length);
        self.protection
            .seal(sequence, additional, text, tag)
            .ok_or(SealError::TooLong)
    }

    fn write_prefix(&self, content: ContentType, sequence: u64, record: &mut [u8]) {
        let header = self.header();
        let (head, rest) = record.split_at_mut(header);
        let length = u16::try_from(rest.len()).expect("at most 2^14 and the overhead");
        let (content, id) = match &self.connection_id {
            None => (content, &[][..]),
            Some(id) => (ContentType::Identified, id.as_bytes()),
        };
        head[0] = content.code();
        head[1..3].copy_from_slice(&DTLS_1_2.to_be_bytes());
        head[3..11].copy_from_slice(&numbered(sequence));
        head[11..header - 2].copy_from_slice(id);
        head[header - 2..].copy_from_slice(&length.to_be_bytes());
        let explicit = self.protection.suite().explicit_nonce();
        rest[..explicit].copy_from_slice(&numbered(sequence)[..explicit]);
    }

    fn header(&self) -> usize {
        HEADER + self.connection_id.map_or(0, |id| id.as_bytes().len())
    }
}

impl std::fmt::Debug for SealHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealHalf")
            .field("suite", &self.protection.suite())
            .field("epoch", &EPOCH)
            .field("next", &self.next)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl SealHalf {
    pub(crate) fn with_key(suite: Suite, key: &[u8], fixed_nonce: &[u8], connection_id: Option<ConnectionId>) -> Self {
        Self::new(Protection::new(suite, key, fixed_nonce), connection_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(suite: Suite, id: Option<ConnectionId>) -> SealHalf {
        SealHalf::with_key(
            suite,
            &vec![7; suite.aead().key_len()],
            &vec![9; suite.fixed_nonce()],
            id,
        )
    }

    fn sealed(half: &mut SealHalf, text: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut record = vec![0; half.prefix()];
        record.extend(text);
        record.resize(record.len() + half.suffix(), 0);
        half.seal(&mut record).map(|()| record)
    }

    #[test]
    fn a_half_may_go_to_a_thread_of_its_own() {
        fn is_send<T: Send>() {}
        is_send::<SealHalf>();
        is_send::<crate::OpenHalf>();
    }

    #[test]
    fn the_overhead_is_37_with_aes_and_29_with_chacha() {
        assert_eq!(half(Suite::Aes256GcmSha384, None).overhead(), 37);
        assert_eq!(half(Suite::Chacha20Poly1305Sha256, None).overhead(), 29);
        let id = ConnectionId::new(&[1; 8]);
        assert_eq!(
            half(Suite::Aes128GcmSha256, id).overhead(),
            SealHalf::MAX_PREFIX + SealHalf::MAX_SUFFIX
        );
    }

    #[test]
    fn a_record_begins_with_its_header_and_explicit_nonce() {
        let record = sealed(&mut half(Suite::Aes128GcmSha256, None), b"abc").unwrap();
        assert_eq!(record.len(), 40);
        assert_eq!(record[..13], [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 27]);
        assert_eq!(record[13..21], [0, 1, 0, 0, 0, 0, 0, 0]);
        let id = ConnectionId::new(&[5; 4]);
        let record = sealed(&mut half(Suite::Chacha20Poly1305Sha256, id), b"abc").unwrap();
        assert_eq!(
            record[..17],
            [25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 0, 20]
        );
    }

    #[test]
    fn a_key_is_worn_at_half_of_its_limit_and_stops_hard_at_it() {
        let mut half = half(Suite::Aes128GcmSha256, None);
        let limit = Suite::Aes128GcmSha256.seal_limit();
        half.sealed = limit / 2 - 1;
        assert!(!half.is_worn());
        sealed(&mut half, b"x").unwrap();
        assert!(half.is_worn());
        half.sealed = limit - 1;
        sealed(&mut half, b"x").unwrap();
        assert_eq!(sealed(&mut half, b"x"), Err(SealError::Exhausted));
        assert_eq!(half.seal_close(), None);
    }

    #[test]
    fn the_sequence_ends_and_never_comes_again() {
        let mut half = half(Suite::Chacha20Poly1305Sha256, None);
        assert_eq!(half.skip(u64::MAX), Err(SealError::Exhausted));
        assert_eq!(half.skip(MAX_SEQUENCE + 1), Err(SealError::Exhausted));
        half.skip(MAX_SEQUENCE).unwrap();
        assert_eq!(half.skip(1), Err(SealError::Exhausted));
        let record = sealed(&mut half, b"x").unwrap();
        assert_eq!(record[5..11], [0xff; 6]);
        assert_eq!(sealed(&mut half, b"x"), Err(SealError::Exhausted));
        assert_eq!(half.skip(0), Err(SealError::Exhausted));
    }

    #[test]
    fn records_without_room_and_plaintexts_that_are_too_long_are_refused() {
        let mut half = half(Suite::Aes128GcmSha256, None);
        assert_eq!(half.seal(&mut [0; 36]), Err(SealError::TooShort));
        assert_eq!(sealed(&mut half, &[0; 16_385]), Err(SealError::TooLong));
        assert!(sealed(&mut half, &[0; 16_384]).is_ok());
    }
}
