//! Real processes killed, and refused by their disk, at every durable call.
#![forbid(unsafe_code)]
