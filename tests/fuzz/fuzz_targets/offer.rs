//! Feeds arbitrary bytes to [`fuzz::offer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::offer(data));
