//! Leaving the host: whatever a test does to networks and mounts happens in namespaces of its process.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

/// Moves this process out of the host's network, and where it is not root out of the host's users; to be called before any
/// thread starts. Returns what forbids it, if so.
pub(crate) fn leave() -> Result<(), String> {
    let root = rustix::process::geteuid().is_root();
    // Root in a container often has no capabilities, but may have user namespaces.
    let left = match platform::netns::unshare_process(!root) {
        Err(_) if root => platform::netns::unshare_process(true),
        outcome => outcome,
    };
    left.map_err(|e| e.to_string())?;
    if !Path::new("/dev/net/tun").exists() {
        return Err(platform::PlatformError::TunMissing.to_string());
    }
    // Where programs leave what they keep: by default ours too.
    for folder in ["/run", "/var/lib"] {
        mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None)
            .map_err(|e| format!("cannot cover {folder}: {e}"))?;
    }
    Ok(())
}

/// Whether setgroups(2) is denied, as it is in a user namespace that an ordinary user made (user_namespaces(7)).
pub(crate) fn groups_are_fixed() -> bool {
    fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// PATH with the folders of system programs, which Debian leaves out for ordinary users.
pub(crate) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::join_paths(env::split_paths(&path).chain(system)).unwrap_or(path)
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
