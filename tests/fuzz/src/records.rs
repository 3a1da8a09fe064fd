//! What the target for files of the ledger does with its bytes: whatever lies in a folder, it is a record or it is not, and
//! one that is read is written the same again.
//!
//! `crates/ledger/tests/corpus.rs` includes this file and replays the corpus on every `cargo test`.

use std::fmt::Debug;

use ledger::{HistoryEntry, Job, LedgerError, OpenRecord, Record};

/// Length of what stands before the payload.
const HEADER: usize = 13;

/// A file as it is; and with a header that fits, because no fuzzer finds a checksum.
pub fn ledger_record(data: &[u8]) {
    read(data);
    read(&framed(data.get(HEADER..).unwrap_or(data)));
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"MMLG\x01".to_vec();
    let length = u32::try_from(payload.len()).expect("inputs are short");
    bytes.extend(length.to_be_bytes());
    bytes.extend(crc32c::crc32c(payload).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn read(bytes: &[u8]) {
    survives::<OpenRecord>(bytes);
    survives::<HistoryEntry>(bytes);
    if let Some(job) = survives::<Job>(bytes) {
        assert!(job.owed().count() <= job.record.chores.len());
        let _ = (job.record.facts.lasted_ms(), format!("{job:?}"));
    }
}

fn survives<T: Record + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let record = match T::from_bytes(bytes) {
        Ok(record) => record,
        Err(damage) => {
            assert!(!damage.to_string().contains(char::is_control));
            return None;
        }
    };
    match record.to_bytes() {
        Ok(again) => assert_eq!(T::from_bytes(&again).as_ref(), Ok(&record)),
        // What was at the limit may be longer when all is spelled out.
        Err(error) => assert!(matches!(error, LedgerError::TooLarge(_)), "{error}"),
    }
    Some(record)
}
