//! Whether an executable is the administrator's.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Writing by group or others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The bit that keeps users from replacing each other's files in a common folder (`S_ISVTX`).
const STICKY: u32 = 0o1000;

/// Checks that nobody but root (or ourselves, if we are a person and no system user) can have put this executable there:
/// it, its folder, and every folder on the way to it. A symbolic link is judged with what it leads to. Returns the path of
/// what was judged, without links: that is what may be executed, since a link on the way may lead elsewhere a moment later.
///
/// # Errors
/// The reason, as the end of a sentence that begins with the path.
pub fn trusted_executable(path: &Path) -> Result<PathBuf, String> {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let own = unsafe { libc::geteuid() };
    judge(path, own)
}

fn judge(path: &Path, own: u32) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err("is no absolute path".into());
    }
    let file = path
        .canonicalize()
        .map_err(|error| format!("cannot be found: {error}"))?;
    let metadata = fs::metadata(&file).map_err(|error| format!("cannot be looked at: {error}"))?;
    if !metadata.is_file() {
        return Err("is no regular file".into());
    }
    if metadata.mode() & 0o111 == 0 {
        return Err("is not executable; run `chmod 755` on it, or move it elsewhere".into());
    }
    if let Some(fault) = fault(&metadata, own) {
        return Err(fault);
    }
    judge_folders(&file, own)?;
    // The folder with the link decides where it leads.
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder = folder
        .canonicalize()
        .map_err(|error| format!("cannot be found: {error}"))?;
    judge_folders(&folder.join("name"), own)?;
    Ok(file)
}

fn judge_folders(file: &Path, own: u32) -> Result<(), String> {
    let unknown_owner = unknown_owner();
    for (distance, folder) in file.ancestors().skip(1).enumerate() {
        let metadata = fs::metadata(folder)
            .map_err(|error| format!("cannot be judged: the folder {}: {error}", folder.display()))?;
        let further_up = distance > 0;
        // What lies further down in a folder like /tmp cannot be replaced by others.
        let sticky = further_up && metadata.mode() & STICKY != 0;
        let closed = sticky || metadata.mode() & WRITABLE_BY_OTHERS == 0;
        let unknown = further_up && Some(metadata.uid()) == unknown_owner;
        match fault(&metadata, own) {
            Some(_) if sticky && is_trusted_owner(metadata.uid(), own) => {}
            Some(_) if unknown && closed => {}
            Some(fault) => return Err(format!("is not safe: its folder {} {fault}", folder.display())),
            None => {}
        }
    }
    Ok(())
}

fn fault(metadata: &Metadata, own: u32) -> Option<String> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !is_trusted_owner(owner, own) {
        return Some(format!("belongs to the user number {owner}, not to root"));
    }
    (mode & WRITABLE_BY_OTHERS != 0)
        .then(|| format!("can be changed by others (mode {mode:04o}); run `chmod go-w` on it"))
}

fn is_trusted_owner(owner: u32, own: u32) -> bool {
    owner == 0 || (owner == own && is_person(own))
}

/// The number that stands for every user whom this user namespace does not know, the system's root among them. Where there is
/// such a number and even `/` seems to be owned by it, folders further up cannot be held against it. We are no privileged
/// process of the system there; what we run runs with the rights of whoever made the namespace. Where `/` has a known owner,
/// as in a service with `PrivateUsers=`, an unknown one is simply somebody else.
fn unknown_owner() -> Option<u32> {
    let top = fs::metadata("/").ok()?.uid();
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    unmapped(&map, overflow.trim().parse().ok()?).filter(|unknown| *unknown == top)
}

/// `overflow`, if `map` (user_namespaces(7)) has no user of that number.
fn unmapped(map: &str, overflow: u32) -> Option<u32> {
    let holds = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>());
        let (Some(Ok(first)), _, Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return true;
        };
        (first..first.saturating_add(count)).contains(&u64::from(overflow))
    };
    (!map.lines().any(holds)).then_some(overflow)
}

/// A service's own user must not be able to leave itself something to run: user numbers below 1000, those that systemd gives
/// away dynamically (61184 to 65519), and nobody.
fn is_person(user: u32) -> bool {
    user >= 1000 && !(61_184..=65_535).contains(&user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn script(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        path
    }

    fn own() -> u32 {
        // SAFETY: geteuid takes nothing and cannot fail.
        unsafe { libc::geteuid() }
    }

    #[test]
    fn an_executable_that_others_cannot_change_is_trusted() {
        let folder = tempfile::tempdir().expect("folder");
        let hook = script(folder.path(), "hook", 0o755);
        let real = hook.canonicalize().expect("there");
        assert_eq!(judge(&hook, own()), Ok(real.clone()));
        let link = folder.path().join("link");
        symlink(&hook, &link).expect("link");
        assert_eq!(judge(&link, own()), Ok(real), "a link of the same folder");
        if fs::metadata("/").expect("metadata").uid() == 0 {
            let judged = judge(Path::new("/bin/sh"), own());
            let real = Path::new("/bin/sh").canonicalize().expect("there");
            assert_eq!(judged, Ok(real), "through links of the system");
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        let folder = tempfile::tempdir().expect("folder");
        let reason = |path: &Path| judge(path, own()).expect_err("not trusted");
        assert_eq!(reason(Path::new("hook")), "is no absolute path");
        assert!(reason(&folder.path().join("none")).starts_with("cannot be found: "));
        assert_eq!(reason(folder.path()), "is no regular file");
        let plain = script(folder.path(), "plain", 0o644);
        assert!(reason(&plain).starts_with("is not executable"));
        for mode in [0o775, 0o757, 0o777] {
            let hook = script(folder.path(), "open", mode);
            assert_eq!(
                reason(&hook),
                format!("can be changed by others (mode {mode:04o}); run `chmod go-w` on it")
            );
        }
    }

    #[test]
    fn a_folder_that_others_can_change_makes_its_executables_unsafe() {
        let folder = tempfile::tempdir().expect("folder");
        let inner = folder.path().join("hooks.d");
        fs::create_dir(&inner).expect("create");
        let hook = script(&inner, "hook", 0o755);
        let reason = |path: &Path| judge(path, own()).expect_err("not trusted");
        // Even a sticky one: anybody could put a hard link there.
        for mode in [0o775, 0o777, 0o1777] {
            fs::set_permissions(&inner, Permissions::from_mode(mode)).expect("chmod");
            assert!(reason(&hook).contains("hooks.d can be changed by others"), "{mode:o}");
        }
        // A link there is as unsafe as a file.
        let safe = script(folder.path(), "safe", 0o755);
        let link = inner.join("link");
        symlink(&safe, &link).expect("link");
        assert!(reason(&link).contains("hooks.d can be changed by others"));
        // So is one on the way; what it leads to now is trusted, wherever it leads later.
        let way = inner.join("way");
        symlink(folder.path(), &way).expect("link");
        let judged = judge(&way.join("safe"), own());
        assert_eq!(judged, Ok(safe.canonicalize().expect("there")));
        // Further up, sticky is enough, and group-writable is not.
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).expect("chmod");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("chmod");
        assert_eq!(judge(&hook, own()), Ok(hook.canonicalize().expect("there")));
        fs::set_permissions(folder.path(), Permissions::from_mode(0o770)).expect("chmod");
        assert!(reason(&hook).contains("can be changed by others"));
    }

    #[test]
    fn a_number_stands_for_unknown_users_only_where_nobody_has_it() {
        assert_eq!(unmapped("         0          0 4294967295\n", 65_534), None);
        assert_eq!(unmapped("         0       1000          1\n", 65_534), Some(65_534));
        assert_eq!(unmapped("0 1000 1\n1 100000 65536\n", 65_534), None);
        assert_eq!(unmapped("65534 1000 1\n", 65_534), None);
        assert_eq!(unmapped("what is this\n", 65_534), None);
    }

    #[test]
    fn only_a_person_may_own_what_it_runs() {
        assert!(is_trusted_owner(0, 0) && is_trusted_owner(0, 1000) && is_trusted_owner(0, 105));
        assert!(is_trusted_owner(1000, 1000));
        for (owner, own) in [(1000, 0), (1001, 1000), (105, 105), (65_534, 65_534), (62_000, 62_000)] {
            assert!(!is_trusted_owner(owner, own), "{owner} {own}");
        }
        let folder = tempfile::tempdir().expect("folder");
        let hook = script(folder.path(), "hook", 0o755);
        // Only root may, where there are other users.
        if chown(&hook, Some(1234), None).is_ok() {
            assert_eq!(
                judge(&hook, 0),
                Err("belongs to the user number 1234, not to root".into())
            );
        }
    }
}
