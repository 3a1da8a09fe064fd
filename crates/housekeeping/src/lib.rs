//! Works off what is owed after a tunnel: history, hooks, uploads.
#![forbid(unsafe_code)]
