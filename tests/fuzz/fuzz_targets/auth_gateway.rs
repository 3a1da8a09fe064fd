//! Feeds arbitrary bytes to [`fuzz::auth_gateway`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::auth_gateway(data));
