//! Control groups of version 2, in their own file system; inotify says when one appears or goes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::{MAX_CHILDREN, NFT_ROOT};

/// Room for a hundred events; what they are is not read, so a flood of them costs a few reads.
const EVENTS: usize = 4096;

/// The hierarchy of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// Finds it: alone, or beside those of version 1.
    ///
    /// # Errors
    /// It is not mounted.
    pub fn find() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mount_point(&mounts).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "control groups of version 2 are not mounted (mount -t cgroup2)",
            )
        })?;
        Ok(Self { mount })
    }

    /// The way from [`NFT_ROOT`] to the root of the hierarchy: empty, or with a slash at its end.
    pub fn nft_root(&self) -> String {
        match self.mount.strip_prefix(NFT_ROOT) {
            Ok(below) if below.as_os_str().is_empty() => String::new(),
            Ok(below) => format!("{}/", below.display()),
            Err(_) => format!("../../..{}/", self.mount.display()),
        }
    }

    /// The folder of a group.
    pub fn folder(&self, group: &str) -> PathBuf {
        self.mount.join(group)
    }

    /// The groups in `group`, with their numbers; `None` if there is no such group.
    ///
    /// # Errors
    /// They cannot be listed, or are more than [`MAX_CHILDREN`].
    pub fn children(&self, group: &str) -> io::Result<Option<BTreeMap<String, u64>>> {
        let entries = match fs::read_dir(self.folder(group)) {
            Ok(entries) => entries,
            Err(error) => return absent(error).map(|()| None),
        };
        let mut children = BTreeMap::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return absent(error).map(|()| None),
            };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if children.len() >= MAX_CHILDREN {
                let what = format!("/{group} has more than {MAX_CHILDREN} control groups");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
            }
            if let Ok(name) = entry.file_name().into_string() {
                children.insert(name, entry.ino());
            }
        }
        Ok(Some(children))
    }

    /// Makes a group, unless it is there.
    ///
    /// # Errors
    /// This process may not.
    pub fn make(&self, group: &str) -> io::Result<()> {
        match fs::create_dir(self.folder(group)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Puts this process into a group. Its sockets stay where they were made.
    ///
    /// # Errors
    /// This process may not: it must be root, or own both groups and the one above them.
    pub fn enter(&self, group: &str) -> io::Result<()> {
        fs::write(self.folder(group).join("cgroup.procs"), "0")
    }

    /// Removes a group, if it is there and nobody is in it.
    pub fn remove_empty(&self, group: &str) {
        // Another run is in it, or it is not ours to remove; an empty group does no harm.
        let _ = fs::remove_dir(self.folder(group));
    }
}

/// A group that goes while it is listed is gone.
fn absent(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR) => Ok(()),
        _ => Err(error),
    }
}

/// proc(5): the place is the fifth field, the kind of file system the first behind the dash.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let unified = mounts.lines().filter_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let place = fields.split(' ').nth(4)?;
        // nft takes no path with what is escaped here.
        (kind.starts_with("cgroup2 ") && !place.contains(['\\', '"'])).then(|| PathBuf::from(place))
    });
    let found: Vec<PathBuf> = unified.collect();
    let usual = found.iter().find(|place| place.starts_with(NFT_ROOT));
    usual.or(found.first()).cloned()
}

/// Waits for groups to appear and to go.
#[derive(Debug)]
pub struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Watches nothing yet. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// This user has too many of these (fs.inotify.max_user_instances).
    pub fn new() -> io::Result<Self> {
        // SAFETY: inotify_init1 takes flags and touches no memory.
        let raw = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let events = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: the descriptor is owned by the `AsyncFd`, so it stays open and the same for as long as that lives.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
        Ok(Self { events: events? })
    }

    /// Watches what is made and removed in `folder`, too. Doing it again does nothing; one that is not there is not watched.
    ///
    /// # Errors
    /// This user watches too much already (fs.inotify.max_user_watches).
    pub fn add(&self, folder: &Path) -> io::Result<()> {
        let path = CString::new(folder.as_os_str().as_bytes())?;
        let mask = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_ONLYDIR;
        // SAFETY: the descriptor is open and `path` is a C string for the duration of the call.
        let added = unsafe { libc::inotify_add_watch(self.events.as_raw_fd(), path.as_ptr(), mask) };
        if added < 0 {
            return absent(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits until something has changed since this returned last. Cancel safe.
    ///
    /// # Errors
    /// The kernel takes the descriptor back; nothing more will be told.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable_mut().await?;
            let mut any = false;
            loop {
                let mut buffer = [0u8; EVENTS];
                // SAFETY: the buffer has the length that is given, and the descriptor is open.
                let read =
                    unsafe { libc::read(ready.get_inner().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
                if read > 0 {
                    any = true;
                    continue;
                }
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                }
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: &str) -> Hierarchy {
        Hierarchy { mount: place.into() }
    }

    #[test]
    fn the_hierarchy_is_found_alone_and_beside_the_old_ones() {
        let alone = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_point(alone), Some(PathBuf::from("/sys/fs/cgroup")));
        let beside = "\
30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
31 24 0:27 / /mnt/other rw - cgroup2 cgroup2 rw
32 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        assert_eq!(mount_point(beside), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("30 24 0:26 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn nft_finds_its_way_to_the_root() {
        assert_eq!(at("/sys/fs/cgroup").nft_root(), "");
        assert_eq!(at("/sys/fs/cgroup/unified").nft_root(), "unified/");
        assert_eq!(at("/mnt/groups").nft_root(), "../../../mnt/groups/");
    }

    #[test]
    fn what_is_made_in_a_watched_folder_is_told_and_listed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let groups = at(&folder.path().display().to_string());
            let mut watch = Watch::new().expect("a watch");
            watch.add(folder.path()).expect("watched");
            watch.add(&groups.folder("nowhere")).expect("nothing to watch");
            assert_eq!(groups.children("nowhere").expect("looked"), None);
            groups.make("a").expect("made");
            groups.make("a").expect("there already");
            watch.changed().await.expect("told");
            let first = groups.children("").expect("looked").expect("there");
            assert_eq!(first.keys().collect::<Vec<_>>(), ["a"]);
            groups.remove_empty("a");
            watch.changed().await.expect("told");
            assert_eq!(groups.children("").expect("looked").expect("there").len(), 0);
        });
    }
}
