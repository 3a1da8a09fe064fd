//! Nothing but its tests: see `tests/openssl.rs`.
