//! Private and durable files: the same as on every Unix. Never run on this system yet.

pub(crate) use crate::unix::files::give_to_folder_owner;
pub use crate::unix::files::{check_private, create_dir_private, replace_private, write_private};
