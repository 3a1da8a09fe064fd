//! Feeds arbitrary bytes to `park_words` in `src/sessions.rs`.
#![no_main]

#[path = "../src/sessions.rs"]
mod sessions;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sessions::park_words(data));
