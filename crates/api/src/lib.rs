//! The local API of a running daemon: versioned JSON over a Unix socket, both ends of it.
#![forbid(unsafe_code)]
