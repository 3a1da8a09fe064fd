//! `/etc/resolv.conf` as it lies there: a file, a link, or a mount of somebody; and how it becomes another one.
//!
//! ```text
//!   a file, a link, nothing     a new file beside it takes its place in one step
//!   a mount point               (a container, `ip netns exec`) cannot be replaced: it is written where it lies, longer things first
//! ```

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The largest file that is taken for one of a resolver; they have some hundred bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The access of a file that was not there before: everybody reads it.
const MODE: u32 = 0o644;

/// What a new file is called until it takes the place.
const TEMPORARY: &str = ".resolv.conf.marmot";

/// What can lie there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub(super) enum Content {
    /// A file.
    File {
        /// What is in it.
        text: String,
        /// Its access.
        mode: u32,
        /// Its owner.
        user: u32,
        /// Its group.
        group: u32,
    },
    /// A link.
    Link {
        /// Where to.
        target: String,
    },
    /// Nothing.
    Missing,
}

impl Content {
    /// The text, if it is in a file of its own.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::File { text, .. } => text,
            Self::Link { .. } | Self::Missing => "",
        }
    }

    /// A file with another text, open to the same people.
    pub(super) fn with_text(&self, new: &str) -> Self {
        let (mode, user, group) = match self {
            Self::File { mode, user, group, .. } => (*mode, *user, *group),
            Self::Link { .. } | Self::Missing => (MODE, 0, 0),
        };
        Self::File {
            text: new.to_owned(),
            mode,
            user,
            group,
        }
    }
}

/// The place, as it was found.
#[derive(Debug)]
pub(super) struct Spot {
    path: PathBuf,
    /// It is a mount point, written where it lies.
    pub(super) mounted: bool,
    /// What programs read there.
    pub(super) bytes: Vec<u8>,
    content: io::Result<Content>,
    /// Which file it is, if it is not the host's.
    identity: Option<(u64, u64)>,
}

impl Spot {
    /// Looks at `path`.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    path: path.to_owned(),
                    mounted: false,
                    bytes: Vec::new(),
                    content: Ok(Content::Missing),
                    identity: None,
                });
            }
            Err(error) => return Err(error),
        };
        // A link may lead nowhere yet.
        let opened = File::open(path);
        let mounted = opened.is_ok() && is_mount(path)?;
        if found.is_symlink() && !mounted {
            let target = fs::read_link(path)?.into_os_string().into_string();
            return Ok(Self {
                path: path.to_owned(),
                mounted,
                bytes: opened.and_then(read).unwrap_or_default(),
                content: target.map(|target| Content::Link { target }).map_err(|_| no_text()),
                identity: None,
            });
        }
        let file = opened?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let bytes = read(file)?;
        let content = String::from_utf8(bytes.clone()).map(|text| Content::File {
            text,
            mode: metadata.mode() & 0o7777,
            user: metadata.uid(),
            group: metadata.gid(),
        });
        Ok(Self {
            path: path.to_owned(),
            mounted,
            bytes,
            content: content.map_err(|_| no_text()),
            identity: mounted.then(|| (metadata.dev(), metadata.ino())),
        })
    }

    /// What lies there.
    pub(super) fn content(&self) -> io::Result<&Content> {
        match &self.content {
            Ok(content) => Ok(content),
            Err(_) => Err(no_text()),
        }
    }

    /// What programs read there, as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A name for the file, among those that processes of this host take for theirs.
    pub(super) fn name(&self) -> String {
        match self.identity {
            None => "host".to_owned(),
            Some((device, inode)) => format!("{device:x}-{inode:x}"),
        }
    }

    /// Puts `content` there. Durable when it returns; afterwards it is the one or the other, or torn if it is a mount point.
    pub(super) fn put(&self, content: &Content) -> io::Result<()> {
        if self.mounted {
            return self.write_where_it_lies(content);
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let temporary = folder.join(TEMPORARY);
        // What a killed predecessor left; whoever writes holds the lock.
        remove(&temporary)?;
        let put = match content {
            Content::File { .. } => make(&temporary, content).and_then(|()| fs::rename(&temporary, &self.path)),
            Content::Link { target } => symlink(target, &temporary).and_then(|()| fs::rename(&temporary, &self.path)),
            Content::Missing => remove(&self.path),
        };
        if let Err(error) = put {
            let _ = remove(&temporary);
            // A mount that no kernel before 5.8 tells of.
            return match error.raw_os_error() {
                Some(libc::EBUSY) => self.write_where_it_lies(content),
                _ => Err(error),
            };
        }
        File::open(folder)?.sync_all()
    }

    fn write_where_it_lies(&self, content: &Content) -> io::Result<()> {
        let Content::File { text, .. } = content else {
            let reason = "a mount point cannot become a link, or nothing";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        };
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    }
}

fn make(path: &Path, content: &Content) -> io::Result<()> {
    let Content::File {
        text,
        mode,
        user,
        group,
    } = content
    else {
        return Ok(());
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    // First: a sandbox may let nobody but the owner do it.
    file.set_permissions(Permissions::from_mode(*mode))?;
    let metadata = file.metadata()?;
    if (metadata.uid(), metadata.gid()) != (*user, *group) {
        // A sandbox may forbid it. Everybody reads such a file, whoever owns it.
        let _ = fchown(&file, Some(*user), Some(*group));
    }
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    Ok(bytes)
}

fn no_text() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not text")
}

/// Whether something is mounted at `path`, or where a link there leads.
fn is_mount(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statx is valid: it has integers only.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and the buffer is a statx.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_NO_AUTOMOUNT, 0, &mut found) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Content {
        Content::Missing.with_text(text)
    }

    #[test]
    fn a_file_a_link_and_nothing_come_back_as_they_were() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("resolv.conf");
        let other = folder.path().join("other");
        fs::write(&other, "nameserver 192.0.2.53\n").expect("write");
        let prepare: [&dyn Fn(); 3] = [
            &|| {
                fs::write(&path, "nameserver 192.0.2.1\n").expect("write");
                fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
            },
            &|| symlink("other", &path).expect("link"),
            &|| {},
        ];
        for prepare in prepare {
            remove(&path).expect("removed");
            prepare();
            let before = Spot::find(&path).expect("found");
            let content = before.content().expect("text").clone();
            before.put(&file("ours\n")).expect("written");
            let ours = Spot::find(&path).expect("found");
            assert_eq!(ours.text(), "ours\n");
            assert!(!fs::symlink_metadata(&path).expect("there").is_symlink());
            ours.put(&content).expect("written");
            let after = Spot::find(&path).expect("found");
            assert_eq!(after.content().expect("text"), &content);
            assert_eq!(after.bytes, before.bytes);
        }
        assert_eq!(fs::read_to_string(&other).expect("read"), "nameserver 192.0.2.53\n");
        assert_eq!(
            fs::read_dir(folder.path()).expect("list").count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_link_that_leads_nowhere_is_one_all_the_same() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("resolv.conf");
        symlink("/nonexistent/stub", &path).expect("link");
        let spot = Spot::find(&path).expect("found");
        assert!(matches!(spot.content(), Ok(Content::Link { target }) if target == "/nonexistent/stub"));
    }

    #[test]
    fn what_is_too_large_or_no_text_is_no_file_of_a_resolver() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("resolv.conf");
        fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).expect("write");
        Spot::find(&path).expect_err("too large");
        fs::write(&path, [0xff, 0xfe]).expect("write");
        Spot::find(&path).expect("found").content().expect_err("no text");
        Spot::find(folder.path()).expect_err("a folder");
    }

    #[test]
    fn a_mount_point_is_known() {
        assert!(is_mount(Path::new("/proc")).expect("there"));
        assert!(!is_mount(Path::new("/proc/self")).expect("there"));
        assert!(is_mount(Path::new("/nonexistent")).is_err());
    }
}
