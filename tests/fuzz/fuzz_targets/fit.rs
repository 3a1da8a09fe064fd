//! Feeds arbitrary bytes to `fit` in `src/packets.rs`.
#![no_main]

#[path = "../src/packets.rs"]
mod packets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| packets::fit(data));
