//! Private and durable files: the same as on every Unix. Never run on this system yet.

pub use crate::unix::files::{
    check_private, create_dir_private, is_executable, make_executable, replace_private, write_private,
};
pub(crate) use crate::unix::files::{open_lock, open_plain};
