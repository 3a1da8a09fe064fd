//! Feeds arbitrary bytes to `bundle` in `src/offloads.rs`.
#![no_main]

#[path = "../src/offloads.rs"]
mod offloads;

libfuzzer_sys::fuzz_target!(|data: &[u8]| offloads::bundle(data));
