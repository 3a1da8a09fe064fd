//! The API over a real socket, with a daemon that only answers.

mod access;
mod crowd;
mod events;
mod fake;
mod knocking;
mod requests;
