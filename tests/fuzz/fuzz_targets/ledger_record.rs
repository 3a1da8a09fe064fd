//! Feeds arbitrary bytes to `ledger_record` in `src/records.rs`.
#![no_main]

#[path = "../src/records.rs"]
mod records;

libfuzzer_sys::fuzz_target!(|data: &[u8]| records::ledger_record(data));
