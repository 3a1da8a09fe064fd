//! Private and durable files: the same as on every Unix.

pub use crate::unix::files::{check_private, create_dir_private, replace_private, write_private};
