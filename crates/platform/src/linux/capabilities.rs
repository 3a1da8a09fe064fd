//! What this process lacks, found by looking, not by guessing from the user number.

use std::fs;
use std::io;

/// Number of CAP_NET_ADMIN in include/uapi/linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// Number of CAP_SYS_ADMIN.
const CAP_SYS_ADMIN: u32 = 21;

pub(super) const TUN_DEVICE: &str = "/dev/net/tun";

pub(super) const NET_ADMIN_HINT: &str =
    "CAP_NET_ADMIN is needed; run as root, or give the service `AmbientCapabilities=CAP_NET_ADMIN`";

/// Says in one sentence each what keeps this process from running a tunnel or from making namespaces; empty if nothing does.
pub fn explain_missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !has_net_admin() {
        missing.push(format!("no permission to configure the network: {NET_ADMIN_HINT}"));
    }
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(TUN_DEVICE) {
        missing.push(tun_device_fault(&error));
    }
    if !has(CAP_SYS_ADMIN)
        && let Some(reason) = user_namespaces_forbidden()
    {
        missing.push(format!("cannot make namespaces without root: {reason}"));
    }
    missing
}

/// Whether this thread has CAP_NET_ADMIN over its network namespace's owner, as far as its effective set tells.
pub fn has_net_admin() -> bool {
    has(CAP_NET_ADMIN)
}

pub(super) fn has_sys_admin() -> bool {
    has(CAP_SYS_ADMIN)
}

/// Why /dev/net/tun cannot be opened.
pub(super) fn tun_device_fault(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => crate::PlatformError::TunMissing.to_string(),
        Some(libc::ENODEV | libc::ENXIO) => {
            format!("{TUN_DEVICE} has no driver: load the tun module (`modprobe tun`)")
        }
        Some(libc::EPERM | libc::EACCES) => format!(
            "{TUN_DEVICE} may not be opened ({error}): check its file mode, and that the container or service is allowed the \
             device (`DeviceAllow={TUN_DEVICE} rw`, `--device {TUN_DEVICE}`)"
        ),
        _ => format!("{TUN_DEVICE} cannot be opened: {error}"),
    }
}

/// Why a process without privileges cannot make a user namespace here, if a known switch says so.
pub(super) fn user_namespaces_forbidden() -> Option<String> {
    if fs::metadata("/proc/self/ns/user").is_err() {
        return Some("this kernel has no user namespaces (CONFIG_USER_NS)".into());
    }
    let switched = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
        text.trim().parse::<u64>().ok()
    };
    for (name, forbidding) in [
        ("kernel.unprivileged_userns_clone", 0),
        ("user.max_user_namespaces", 0),
        ("user.max_net_namespaces", 0),
        ("kernel.apparmor_restrict_unprivileged_userns", 1),
    ] {
        if switched(name) == Some(forbidding) {
            return Some(format!("user namespaces are disabled: {name}={forbidding}"));
        }
    }
    None
}

/// Whether a system call filter (as in containers) watches this process: it may forbid what no switch tells.
pub(super) fn is_filtered() -> bool {
    status_field("Seccomp:").is_some_and(|mode| mode == "2")
}

fn has(capability: u32) -> bool {
    status_field("CapEff:")
        .and_then(|text| u64::from_str_radix(&text, 16).ok())
        .is_some_and(|set| set & (1 << capability) != 0)
}

/// A field of this thread's status.
pub(super) fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_the_device_has_its_own_sentence() {
        let sentence = |number| tun_device_fault(&io::Error::from_raw_os_error(number));
        assert!(sentence(libc::ENOENT).contains("is missing"));
        assert!(sentence(libc::ENXIO).contains("modprobe tun"));
        assert!(sentence(libc::EPERM).contains("--device /dev/net/tun"));
    }

    #[test]
    fn the_status_of_this_thread_is_read() {
        assert_eq!(status_field("Name:").map(|name| name.is_empty()), Some(false));
        assert_eq!(status_field("NoSuchField:"), None);
    }
}
