//! The bytes of a record: enough around the JSON to know that it is whole.
//!
//! ```text
//!   "MMLG"  version (1)  length of the payload (u32 BE)  CRC32C of the payload (u32 BE)  payload (JSON)
//!   0       4            5                               9                               13
//! ```
//! A file is exactly one record: what is cut short or goes on is damaged.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::{HistoryEntry, Job, JobId, LedgerError, OpenRecord};

/// Largest file in bytes. A thousand routes of IPv6, the most a gateway may push, take 70 KiB as JSON.
pub const MAX_RECORD: usize = 128 * 1024;

/// The version that is written and read.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"MMLG";
const HEADER: usize = 13;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// It does not begin as a record does, or is not even that long.
    #[error("not a record")]
    Foreign,
    /// Written by another version of the program.
    #[error("version {0} is not known to this program")]
    Version(u8),
    /// Torn off, or something was appended.
    #[error("its length is wrong")]
    Length,
    /// Bytes have changed.
    #[error("its checksum is wrong")]
    Checksum,
    /// Whole, but not what is expected in this folder.
    #[error("its content is not understood")]
    Content,
    /// Whole, but the record of another file.
    #[error("its name is not that of the record inside")]
    Name,
}

/// What a file can hold: [`crate::OpenRecord`], [`crate::Job`] and [`crate::HistoryEntry`].
pub trait Record: Serialize + DeserializeOwned + sealed::Sealed {
    /// The id that the file is named for.
    fn id(&self) -> JobId;

    /// The bytes of the file.
    ///
    /// # Errors
    /// [`LedgerError::TooLarge`].
    fn to_bytes(&self) -> Result<Vec<u8>, LedgerError> {
        encode(self)
    }

    /// The record in the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with them.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Damage> {
        serde_json::from_slice(payload(bytes)?).map_err(|_| Damage::Content)
    }
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for OpenRecord {}
impl sealed::Sealed for Job {}
impl sealed::Sealed for HistoryEntry {}

impl Record for OpenRecord {
    fn id(&self) -> JobId {
        self.id
    }
}

impl Record for Job {
    fn id(&self) -> JobId {
        self.record.id
    }
}

impl Record for HistoryEntry {
    fn id(&self) -> JobId {
        self.id
    }
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, LedgerError> {
    let mut bytes = vec![0; HEADER];
    // Our own types have neither maps with odd keys nor failing serializers; a writer into memory does not fail either.
    serde_json::to_writer(&mut bytes, record).map_err(|_| LedgerError::TooLarge(usize::MAX))?;
    let length = u32::try_from(bytes.len() - HEADER).map_err(|_| LedgerError::TooLarge(bytes.len()))?;
    if bytes.len() > MAX_RECORD {
        return Err(LedgerError::TooLarge(bytes.len()));
    }
    let checksum = crc32c::crc32c(&bytes[HEADER..]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5..9].copy_from_slice(&length.to_be_bytes());
    bytes[9..HEADER].copy_from_slice(&checksum.to_be_bytes());
    Ok(bytes)
}

/// What is inside the frame, if that is whole.
fn payload(bytes: &[u8]) -> Result<&[u8], Damage> {
    let (header, payload) = bytes.split_first_chunk::<HEADER>().ok_or(Damage::Foreign)?;
    let [m0, m1, m2, m3, version, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(Damage::Foreign);
    }
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if usize::try_from(length) != Ok(payload.len()) || bytes.len() > MAX_RECORD {
        return Err(Damage::Length);
    }
    if crc32c::crc32c(payload) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err(Damage::Checksum);
    }
    Ok(payload)
}
