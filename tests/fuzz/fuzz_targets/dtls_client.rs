//! Feeds arbitrary bytes to `dtls_client` in `src/datagrams.rs`.
#![no_main]
#![allow(dead_code, reason = "the file holds the other targets as well")]

#[path = "../src/datagrams.rs"]
mod datagrams;

libfuzzer_sys::fuzz_target!(|data: &[u8]| datagrams::dtls_client(data));
