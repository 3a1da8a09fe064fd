//! What is owed after a tunnel: one durable file for each session, over a disk that is an argument.
#![forbid(unsafe_code)]
