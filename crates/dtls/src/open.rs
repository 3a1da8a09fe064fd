//! The opening half of a connection: each record of the peer once, whatever else the network delivers.
//!
//! ```text
//!   header -> epoch -> connection id -> replay window -> open -> note in the window -> by type
//!      |        |            |               |            |                             |
//!      +--------+------------+---------------+------------+-----> counted, forgotten    data, alert, Finished again
//! ```

use std::ops::Range;

#[cfg(test)]
use crate::Suite;
use crate::message::{self, Kind};
use crate::protection::{Additional, EPOCH, Protection, TAG};
use crate::record::{ContentType, DTLS_1_2, Header};
use crate::replay::ReplayWindow;
use crate::{ConnectionId, Counters, Discard};

/// Failed attempts on one key, of any suite, after which nothing is opened any more: 2^36 (RFC 9147 section 4.5.3).
pub const INTEGRITY_LIMIT: u64 = 1 << 36;

/// What the first record of a datagram was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes of the datagram that the record took. What follows is the next record.
    pub consumed: usize,
    /// What it held.
    pub content: Content,
}

/// The contents of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Application data.
    Data {
        /// Where the plaintext stands in the datagram.
        range: Range<usize>,
        /// Whether its sequence is above all that were opened before.
        newest: bool,
    },
    /// A part of the handshake came again: our last flight may be lost. To be answered with [`crate::Tail::resend`].
    /// Not always authenticated.
    Retransmission,
    /// The peer ended the connection, authenticated.
    Closed,
    /// Nothing.
    Discarded(Discard),
}

/// What a record turned out to be, once opened.
pub(crate) struct Opened {
    pub(crate) content: ContentType,
    /// Where the plaintext stands in the record.
    pub(crate) range: Range<usize>,
    pub(crate) newest: bool,
}

/// Opens records.
pub struct OpenHalf {
    protection: Protection,
    additional: Additional,
    /// Our connection id: records to us must carry it.
    connection_id: Option<ConnectionId>,
    window: ReplayWindow,
    failed: u64,
    discarded: Counters,
}

impl OpenHalf {
    pub(crate) fn new(protection: Protection, connection_id: Option<ConnectionId>) -> Self {
        Self {
            protection,
            additional: Additional::new(connection_id.as_ref()),
            connection_id,
            window: ReplayWindow::new(),
            failed: 0,
            discarded: Counters::default(),
        }
    }

    /// Opens the first record of a datagram in place. What it consumed is never nothing, unless the datagram is empty.
    pub fn open(&mut self, datagram: &mut [u8]) -> Record {
        let Some(header) = Header::parse(datagram, self.id_length()) else {
            self.discarded.add(Discard::Malformed);
            return Record {
                consumed: datagram.len(),
                content: Content::Discarded(Discard::Malformed),
            };
        };
        let consumed = header.body.end;
        let content = self
            .contents(&header, &mut datagram[..consumed])
            .unwrap_or_else(Content::Discarded);
        if let Content::Discarded(reason) = content {
            self.discarded.add(reason);
        }
        Record { consumed, content }
    }

    /// What was discarded here.
    pub fn discarded(&self) -> &Counters {
        &self.discarded
    }

    pub(crate) fn id_length(&self) -> usize {
        self.connection_id.map_or(0, |id| id.as_bytes().len())
    }

    fn contents(&mut self, header: &Header, record: &mut [u8]) -> Result<Content, Discard> {
        if header.epoch == 0 {
            return repeated(header.content, &record[header.body.clone()]);
        }
        let opened = self.unseal(header, record)?;
        let text = &record[opened.range.clone()];
        match opened.content {
            ContentType::Data => Ok(Content::Data {
                range: opened.range,
                newest: opened.newest,
            }),
            ContentType::Alert => match Alert::parse(text).ok_or(Discard::Malformed)? {
                Alert::Close | Alert::Fatal(_) => Ok(Content::Closed),
                Alert::Warning => Err(Discard::Alert),
            },
            ContentType::Handshake if message::kind(text) == Some(Kind::Finished) => Ok(Content::Retransmission),
            ContentType::Handshake | ContentType::ChangeCipherSpec | ContentType::Identified => {
                Err(Discard::Unexpected)
            }
        }
    }

    /// Opens a record of which the header is known; `record` ends where the header says.
    pub(crate) fn unseal(&mut self, header: &Header, record: &mut [u8]) -> Result<Opened, Discard> {
        if header.epoch != EPOCH || header.version != DTLS_1_2 {
            return Err(Discard::WrongEpoch);
        }
        self.check_id(header, record)?;
        let overhead = self.protection.suite().explicit_nonce() + TAG;
        let length = header.body.len().checked_sub(overhead).ok_or(Discard::Malformed)?;
        if !self.window.admits(header.sequence) {
            return Err(Discard::Replayed);
        }
        if self.failed >= INTEGRITY_LIMIT {
            return Err(Discard::Exhausted);
        }
        let text_length = u16::try_from(length).expect("a record has less than 2^16 bytes");
        let additional = self.additional.of(header.sequence, header.content, text_length);
        let body = &mut record[header.body.clone()];
        if self.protection.open(header.sequence, additional, body).is_none() {
            self.failed += 1;
            return Err(Discard::Forged);
        }
        let newest = self.window.note(header.sequence);
        let start = header.body.start + self.protection.suite().explicit_nonce();
        let (content, length) = match self.connection_id {
            None => (header.content, length),
            Some(_) => inner(&record[start..start + length]).ok_or(Discard::Malformed)?,
        };
        Ok(Opened {
            content,
            range: start..start + length,
            newest,
        })
    }

    /// With a connection id agreed on, sealed records have it; without one, none has any.
    fn check_id(&self, header: &Header, record: &[u8]) -> Result<(), Discard> {
        let carried = (header.content == ContentType::Identified).then(|| &record[header.connection_id.clone()]);
        if carried == self.connection_id.as_ref().map(ConnectionId::as_bytes) {
            Ok(())
        } else {
            Err(Discard::WrongConnectionId)
        }
    }
}

impl std::fmt::Debug for OpenHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenHalf")
            .field("suite", &self.protection.suite())
            .field("connection_id", &self.connection_id)
            .field("discarded", &self.discarded)
            .finish_non_exhaustive()
    }
}

/// The true type behind the contents, and the length of these: zeros behind it are padding (RFC 9146 section 5).
fn inner(text: &[u8]) -> Option<(ContentType, usize)> {
    let at = text.iter().rposition(|byte| *byte != 0)?;
    let content = ContentType::from_code(text[at])?;
    Some((content, at))
}

/// A record of epoch 0 on an established connection: at most a part of the flight before our last.
fn repeated(content: ContentType, body: &[u8]) -> Result<Content, Discard> {
    match content {
        ContentType::ChangeCipherSpec => Ok(Content::Retransmission),
        ContentType::Handshake if message::kind(body) == Some(Kind::ClientKeyExchange) => Ok(Content::Retransmission),
        ContentType::Alert => Err(Discard::Alert),
        ContentType::Handshake | ContentType::Data | ContentType::Identified => Err(Discard::WrongEpoch),
    }
}

/// An alert, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alert {
    Close,
    Fatal(u8),
    Warning,
}

impl Alert {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        match body {
            [_, 0] => Some(Self::Close),
            [2, description] => Some(Self::Fatal(*description)),
            [1, _] => Some(Self::Warning),
            _ => None,
        }
    }
}

#[cfg(test)]
impl OpenHalf {
    pub(crate) fn with_key(suite: Suite, key: &[u8], fixed_nonce: &[u8], connection_id: Option<ConnectionId>) -> Self {
        Self::new(Protection::new(suite, key, fixed_nonce), connection_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SealHalf;
    use crate::record::put_plain;

    fn pair(suite: Suite, id: Option<ConnectionId>) -> (SealHalf, OpenHalf) {
        let (key, fixed) = (vec![3; suite.aead().key_len()], vec![4; suite.fixed_nonce()]);
        (
            SealHalf::with_key(suite, &key, &fixed, id),
            OpenHalf::with_key(suite, &key, &fixed, id),
        )
    }

    fn data(seal: &mut SealHalf, text: &[u8]) -> Vec<u8> {
        seal.sealed_record(ContentType::Data, text).unwrap()
    }

    fn every_pair() -> impl Iterator<Item = (SealHalf, OpenHalf)> {
        let ids = [None, ConnectionId::new(&[6; 4]), ConnectionId::new(&[7; 8])];
        Suite::ALL
            .into_iter()
            .flat_map(move |suite| ids.into_iter().map(move |id| pair(suite, id)))
    }

    #[test]
    fn what_was_sealed_is_opened_once() {
        for (mut seal, mut open) in every_pair() {
            for text in [&b""[..], b"\0", b"abc", &[0; 1400]] {
                let record = data(&mut seal, text);
                let mut first = record.clone();
                let Record {
                    consumed,
                    content: Content::Data { range, newest },
                } = open.open(&mut first)
                else {
                    panic!("not opened");
                };
                assert_eq!((consumed, &first[range], newest), (record.len(), text, true));
                let again = open.open(&mut record.clone());
                assert_eq!(again.content, Content::Discarded(Discard::Replayed));
            }
        }
    }

    #[test]
    fn a_changed_bit_anywhere_is_no_data_and_harms_nothing() {
        for (mut seal, mut open) in every_pair() {
            let record = data(&mut seal, b"abc");
            for bit in 0..record.len() * 8 {
                let mut changed = record.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let content = open.open(&mut changed).content;
                assert!(!matches!(content, Content::Data { .. } | Content::Closed), "bit {bit}");
            }
            assert!(matches!(
                open.open(&mut record.clone()).content,
                Content::Data { newest: true, .. }
            ));
        }
    }

    #[test]
    fn several_records_of_a_datagram_are_opened_one_by_one() {
        let (mut seal, mut open) = pair(Suite::Aes128GcmSha256, None);
        let (first, second) = (data(&mut seal, b"one"), data(&mut seal, b"two"));
        let mut datagram = [second.clone(), first.clone(), vec![0xff; 5]].concat();
        let one = open.open(&mut datagram);
        assert_eq!(one.consumed, second.len());
        let two = open.open(&mut datagram[one.consumed..]);
        assert!(matches!(two.content, Content::Data { newest: false, .. }));
        let rest = open.open(&mut datagram[one.consumed + two.consumed..]);
        assert_eq!(
            (rest.consumed, rest.content),
            (5, Content::Discarded(Discard::Malformed))
        );
        assert_eq!(open.open(&mut []).consumed, 0);
        assert_eq!(open.discarded().count(Discard::Malformed), 2);
    }

    #[test]
    fn only_authenticated_alerts_close() {
        let (mut seal, mut open) = pair(Suite::Chacha20Poly1305Sha256, None);
        let mut plain = Vec::new();
        put_plain(&mut plain, ContentType::Alert, DTLS_1_2, 1, &[2, 40]);
        assert_eq!(open.open(&mut plain).content, Content::Discarded(Discard::Alert));
        let mut warning = seal.sealed_record(ContentType::Alert, &[1, 90]).unwrap();
        assert_eq!(open.open(&mut warning).content, Content::Discarded(Discard::Alert));
        assert_eq!(open.open(&mut seal.seal_close().unwrap()).content, Content::Closed);
        let mut fatal = seal.sealed_record(ContentType::Alert, &[2, 20]).unwrap();
        assert_eq!(open.open(&mut fatal).content, Content::Closed);
    }

    #[test]
    fn renegotiation_is_not_answered_and_finished_is() {
        let (mut seal, mut open) = pair(Suite::Aes256GcmSha384, None);
        let hello = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut request = seal.sealed_record(ContentType::Handshake, &hello).unwrap();
        assert_eq!(open.open(&mut request).content, Content::Discarded(Discard::Unexpected));
        let mut finished = vec![20, 0, 0, 12, 0, 3, 0, 0, 0, 0, 0, 12];
        finished.extend([0; 12]);
        let mut again = seal.sealed_record(ContentType::Handshake, &finished).unwrap();
        assert_eq!(open.open(&mut again).content, Content::Retransmission);
    }

    #[test]
    fn without_its_connection_id_a_record_is_discarded() {
        let (mut seal, _) = pair(Suite::Aes128GcmSha256, ConnectionId::new(&[1; 4]));
        let (mut bare, _) = pair(Suite::Aes128GcmSha256, None);
        let (_, mut open) = pair(Suite::Aes128GcmSha256, ConnectionId::new(&[2; 4]));
        for mut record in [data(&mut seal, b"a"), data(&mut bare, b"a")] {
            assert_eq!(
                open.open(&mut record).content,
                Content::Discarded(Discard::WrongConnectionId)
            );
        }
    }

    #[test]
    fn padding_behind_the_true_type_is_taken_off() {
        assert_eq!(inner(&[1, 2, 23, 0, 0]), Some((ContentType::Data, 2)));
        assert_eq!(inner(&[23]), Some((ContentType::Data, 0)));
        assert_eq!(inner(&[0, 0]), None);
        assert_eq!(inner(&[]), None);
    }

    #[test]
    fn after_the_last_failed_attempt_nothing_is_opened() {
        let (mut seal, mut open) = pair(Suite::Aes128GcmSha256, None);
        open.failed = INTEGRITY_LIMIT - 1;
        let mut forged = data(&mut seal, b"abc");
        forged[30] ^= 1;
        assert_eq!(open.open(&mut forged).content, Content::Discarded(Discard::Forged));
        let mut good = data(&mut seal, b"abc");
        assert_eq!(open.open(&mut good).content, Content::Discarded(Discard::Exhausted));
    }
}
