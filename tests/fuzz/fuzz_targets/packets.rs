//! Feeds arbitrary bytes to `packets` in `src/offloads.rs`.
#![no_main]

#[path = "../src/offloads.rs"]
mod offloads;

libfuzzer_sys::fuzz_target!(|data: &[u8]| offloads::packets(data));
