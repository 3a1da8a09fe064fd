//! Feeds arbitrary bytes to [`fuzz::auth_client`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::auth_client(data));
