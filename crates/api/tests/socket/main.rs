//! The API over a real socket, with a daemon that only answers.

mod access;
mod crowd;
mod events;
mod fake;
mod gateway;
mod knocking;
mod requests;
