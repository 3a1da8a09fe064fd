//! Files with secrets, and files that must survive a crash whole.

pub use crate::os::files::{
    check_private, create_dir_private, is_executable, make_executable, replace_private, write_private,
};
