//! Private and durable files: the same as on every Unix. Never run on this system yet.

pub use crate::unix::files::{check_private, create_dir_private, replace_private, write_private};
