//! Feeds arbitrary bytes to [`fuzz::cstp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cstp(data));
