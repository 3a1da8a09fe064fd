//! Private and durable files: the same as on every Unix.

pub(crate) use crate::unix::files::give_to_folder_owner;
pub use crate::unix::files::{check_private, create_dir_private, replace_private, write_private};
