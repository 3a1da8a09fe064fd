//! What both ends of the DTLS data channel share: the word on each record, and the watch over a path.
//!
//! ```text
//!   application record = kind (1 byte, as in a CSTP frame) | payload
//!   0 one IP packet   3 "are you there?"   4 its answer   7 keepalive   others are ignored
//! ```
//! There is no length: a datagram carries one record, a record one packet (protocol draft, measured with both stock peers).

mod downlink;
mod watch;

use dtls::{SealError, SealHalf};
use packet::{Batch, Ecn};
use wire::cstp::Kind;

pub(crate) use downlink::Downlink;
pub use watch::{PathVerdict, PathWatch};

/// Longest payload of a probe that is answered. An echo is never longer than what asked for it.
pub(crate) const MAX_ECHO: usize = 16_384;

/// Seals one application record into `record`, whose old content is lost.
pub(crate) fn seal_into(
    seal: &mut SealHalf,
    kind: Kind,
    payload: &[u8],
    record: &mut Vec<u8>,
) -> Result<(), SealError> {
    let (prefix, suffix) = (seal.prefix(), seal.suffix());
    record.clear();
    record.resize(prefix, 0);
    record.push(kind.byte());
    record.extend_from_slice(payload);
    record.resize(prefix + 1 + payload.len() + suffix, 0);
    seal.seal(record)
}

/// Seals one packet of `length` bytes, which `write` puts into its place, at the end of `batch`, which has to take a record of this
/// length ([`record_length`]) and mark. On failure the batch is what it was, and `write` was not called.
pub(crate) fn seal_at_the_end(
    seal: &mut SealHalf,
    (length, ecn): (usize, Ecn),
    batch: &mut Batch,
    write: impl FnOnce(&mut [u8]),
) -> Result<(), SealError> {
    seal.check(length + 1)?;
    let whole = record_length(seal, length);
    let start = seal.prefix() + 1;
    let record = batch.add(whole, ecn);
    record[start - 1] = Kind::Data.byte();
    write(&mut record[start..start + length]);
    let sealed = seal.seal(record);
    if sealed.is_err() {
        batch.take_back(whole);
    }
    sealed
}

/// Bytes of the record of a packet.
pub(crate) fn record_length(seal: &SealHalf, packet: usize) -> usize {
    seal.overhead() + 1 + packet
}

/// One application record of its own.
pub(crate) fn sealed(seal: &mut SealHalf, kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
    let mut record = Vec::new();
    seal_into(seal, kind, payload, &mut record).ok()?;
    Some(record)
}

/// The kind and the payload of an opened record; `None` for an empty one, which both stock peers ignore.
pub(crate) fn split(plaintext: &mut [u8]) -> Option<(Kind, &mut [u8])> {
    let (kind, payload) = plaintext.split_first_mut()?;
    Some((Kind::from_byte(*kind), payload))
}
