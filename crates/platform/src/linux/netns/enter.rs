//! Leaving the host: one unshare before any thread starts, and words for why it failed.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::ptr;

use super::super::capabilities::{has_sys_admin, is_filtered, status_field, user_namespaces_forbidden};
use super::{Namespace, Result, check};
use crate::PlatformError;

/// Moves this process into a network and a mount namespace of its own, with `lo` up and nothing else; without CAP_SYS_ADMIN,
/// or if `user` says so, into a user namespace as well, in which it is root. Nothing it does to the network or to mounts
/// reaches the host any more.
///
/// To be called while the process has a single thread: the kernel refuses user namespaces to others, and other threads would
/// stay behind.
pub fn unshare_process(user: bool) -> Result<()> {
    const WHAT: &str = "move into namespaces of our own";
    if status_field("Threads:").as_deref() != Some("1") {
        return Err(PlatformError::Namespace {
            step: WHAT.into(),
            missing: "threads were started already; this has to come first".into(),
        });
    }
    let with_user = user || !has_sys_admin();
    unshare(with_user).map_err(|error| explain(WHAT, error))?;
    Namespace::current()?.up("lo")
}

/// One system call for all namespaces: it succeeds or fails as a whole.
fn unshare(with_user: bool) -> io::Result<()> {
    // SAFETY: the two calls take nothing, touch no memory and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let user = if with_user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(user | libc::CLONE_NEWNET | libc::CLONE_NEWNS) })?;
    if with_user {
        // Without CAP_SETGID in the parent, a group map needs setgroups denied first (user_namespaces(7)).
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    make_mounts_private()
}

/// Cuts the mounts of this mount namespace off from the host's. Only system calls: it also runs between fork and exec.
pub(super) fn make_mounts_private() -> io::Result<()> {
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)
}

/// mount(2) without options.
pub(super) fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: all strings live for the duration of the call, and null is allowed for source, type and data.
    check(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, ptr::null()) })
}

/// Puts into words why namespaces are refused.
pub(super) fn explain(step: &str, error: io::Error) -> PlatformError {
    let missing = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => user_namespaces_forbidden().unwrap_or_else(|| {
            if is_filtered() {
                "a system call filter forbids namespaces, as in most containers (run the container with \
                 `--cap-add SYS_ADMIN --security-opt seccomp=unconfined`, or the program outside)"
                    .into()
            } else {
                format!("not permitted ({error}); a security module (AppArmor, SELinux) may forbid it")
            }
        }),
        Some(libc::ENOSPC) => user_namespaces_forbidden().unwrap_or_else(|| {
            "too many namespaces: raise user.max_user_namespaces or user.max_net_namespaces, or nest less".into()
        }),
        Some(libc::EUSERS) => "user namespaces are nested too deeply (32 at most)".into(),
        Some(libc::EINVAL) => "this kernel lacks network or user namespaces (CONFIG_NET_NS, CONFIG_USER_NS)".into(),
        _ => error.to_string(),
    };
    PlatformError::Namespace {
        step: step.into(),
        missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_told_to_start_earlier() {
        // The test harness runs us on a thread.
        let error = std::thread::scope(|scope| {
            scope
                .spawn(|| unshare_process(false).expect_err("two threads"))
                .join()
                .expect("no panic")
        });
        assert!(error.to_string().contains("threads were started already"), "{error}");
    }

    #[test]
    fn a_full_host_and_an_old_kernel_are_told_apart() {
        let text = |number| explain("x", io::Error::from_raw_os_error(number)).to_string();
        assert!(text(libc::EINVAL).contains("CONFIG_USER_NS"));
        assert!(text(libc::ENOSPC).contains("max_user_namespaces"));
    }
}
