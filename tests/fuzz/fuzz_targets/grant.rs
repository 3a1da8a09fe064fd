//! Feeds arbitrary bytes to [`fuzz::grant`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::grant(data));
