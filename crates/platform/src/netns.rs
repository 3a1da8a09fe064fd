//! Network namespaces: hosts and cables for `marmot demo` and the test lab, without the `ip` program.
//!
//! ```text
//!   unshare_process()   before any thread: the process leaves the host's network (and, without root, its users)
//!   Namespace::create   one more network, held by a descriptor; gone when the last descriptor and process is
//!   a.veth(&b, ..)      a cable between two of them
//! ```
//! [`Namespace::command`] starts a program inside a namespace from whichever thread calls it; [`Namespace::run`] runs a
//! function there on a helper thread.

use std::path::PathBuf;

pub use crate::os::netns::{Namespace, die_with_parent, unshare_process};

/// What a child started by [`Namespace::command_with`] sees differently, in a mount namespace of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildView {
    /// This file stands in place of `/etc/resolv.conf`, so that scripts cannot touch the host's.
    pub resolv_conf: Option<PathBuf>,
    /// A sysfs of the namespace at `/sys`, so that `/sys/class/net` shows its interfaces. Left out where not permitted.
    pub fresh_sysfs: bool,
}
