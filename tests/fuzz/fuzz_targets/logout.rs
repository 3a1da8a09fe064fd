//! Feeds arbitrary bytes to [`fuzz::logout`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::logout(data));
