//! Feeds arbitrary bytes to `sealed_ticket` in `src/sessions.rs`.
#![no_main]

#[path = "../src/sessions.rs"]
mod sessions;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sessions::sealed_ticket(data));
