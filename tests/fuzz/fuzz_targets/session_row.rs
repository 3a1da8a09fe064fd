//! Feeds arbitrary bytes to `session_row` in `src/rows.rs`. Rows are private to the gateway's crate, whose tree is not that of
//! a fuzzer: the file that reads them is taken alone.
#![no_main]

#[path = "../../../crates/gateway/src/state/row.rs"]
#[allow(dead_code, reason = "the gateway uses what the target does not")]
mod row;

#[path = "../src/rows.rs"]
mod rows;

/// What the file wants of its crate.
mod accounts {
    use ledger::{JobId, Stamp};
    use session::gateway::SessionId;

    pub(crate) fn job(_: SessionId, started: &Stamp) -> JobId {
        JobId::new(started.wall_ms / 1000, 1)
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| rows::session_row(data));
