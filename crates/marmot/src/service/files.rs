//! The files of a service: what is in them, where they go, and how a later run knows its own.
//!
//! Every file starts with a seal, a comment with the hash of the rest:
//!
//! ```text
//!   # Written by `marmot install-service`: folders=2 sha256=1f0c...
//! ```
//! Only a file whose seal is right is replaced or removed; one that somebody has changed, or that came from elsewhere, never
//! is. `folders` says how many folders above it were made for it, so that they can go with it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};

use crate::cli::ServiceRole;

/// Where the units expect the program; [`render`] puts its real place there.
const PROGRAM: &str = "/usr/bin/marmot";

/// What a file is called while it is written; nobody reads names with a leading dot.
const TEMPORARY: &str = ".marmot-install-service.tmp";

const SEAL: &str = "Written by `marmot install-service`: ";

/// A file that belongs to a service.
#[derive(Debug)]
pub(super) struct File {
    /// Below the root.
    pub(super) path: &'static str,
    text: &'static str,
    /// The service it is for; both need the others.
    role: Option<ServiceRole>,
    comment: &'static str,
}

const fn unit(path: &'static str, text: &'static str, role: Option<ServiceRole>) -> File {
    let comment = "#";
    File {
        path,
        text,
        role,
        comment,
    }
}

/// All files, those first that others refer to.
#[rustfmt::skip]
const FILES: &[File] = &[
    unit("etc/sysusers.d/marmot.conf", include_str!("../../../../systemd/sysusers.d/marmot.conf"), None),
    unit("etc/tmpfiles.d/marmot.conf", include_str!("../../../../systemd/tmpfiles.d/marmot.conf"), None),
    File { path: "etc/polkit-1/rules.d/60-marmot.rules", text: include_str!("../../../../systemd/polkit-1/60-marmot.rules"), role: Some(ServiceRole::Client), comment: "//" },
    unit("etc/systemd/system/marmot-housekeeping@.service", include_str!("../../../../systemd/marmot-housekeeping@.service"), None),
    unit("etc/systemd/system/marmot-housekeeping@.path", include_str!("../../../../systemd/marmot-housekeeping@.path"), None),
    unit("etc/systemd/system/marmot-housekeeping@.timer", include_str!("../../../../systemd/marmot-housekeeping@.timer"), None),
    unit("etc/systemd/system/marmot-dns.socket", include_str!("../../../../systemd/marmot-dns.socket"), Some(ServiceRole::Client)),
    unit("etc/systemd/system/marmot-dns.service", include_str!("../../../../systemd/marmot-dns.service"), Some(ServiceRole::Client)),
    unit("etc/systemd/system/marmot-client@.service", include_str!("../../../../systemd/marmot-client@.service"), Some(ServiceRole::Client)),
    unit("etc/systemd/system/marmot-lockdown@.service", include_str!("../../../../systemd/marmot-lockdown@.service"), Some(ServiceRole::Client)),
    unit("etc/systemd/system/marmot-housekeeping@_gateway.service.d/gateway.conf", include_str!("../../../../systemd/marmot-housekeeping@_gateway.service.d/gateway.conf"), Some(ServiceRole::Gateway)),
    unit("etc/systemd/system/marmot-gateway.service", include_str!("../../../../systemd/marmot-gateway.service"), Some(ServiceRole::Gateway)),
];

/// The files that a service of this role needs.
pub(super) fn needed_by(role: ServiceRole) -> impl DoubleEndedIterator<Item = &'static File> {
    FILES
        .iter()
        .filter(move |file| file.role.is_none_or(|only| only == role))
}

/// The files that no service but one of this role needs.
pub(super) fn only_for(role: ServiceRole) -> impl DoubleEndedIterator<Item = &'static File> {
    FILES.iter().filter(move |file| file.role == Some(role))
}

/// What lies where a file goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// Ours, as we would write it.
    Same,
    /// Ours, from an earlier version or for a program elsewhere, with the folders that were made for it.
    Older {
        folders: usize,
    },
    /// Changed by hand, or not from us.
    Foreign,
}

impl File {
    /// The text for a program at `program`, without the seal.
    fn body(&self, program: &str) -> String {
        self.text.replace(PROGRAM, program)
    }

    /// Looks at what is there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn find(&self, root: &Path, program: &str) -> Result<Found> {
        let path = root.join(self.path);
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
        };
        if !kind.is_file() {
            return Ok(Found::Foreign);
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        Ok(match sealed(&text, self.comment) {
            None => Found::Foreign,
            Some((_, body)) if body == self.body(program) => Found::Same,
            Some((folders, _)) => Found::Older { folders },
        })
    }

    /// Writes it, as a whole or not at all, with the folders above it that are missing. `folders` were made for it before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, root: &Path, program: &str, folders: usize) -> Result<()> {
        let path = root.join(self.path);
        let folder = path.parent().unwrap_or(root);
        let missing = folder
            .ancestors()
            .take_while(|folder| *folder != root && !folder.exists())
            .count();
        let temporary = folder.join(TEMPORARY);
        let written = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            // Readable as the umask has it: for polkit and everybody, usually.
            let mut file = fs::File::create(&temporary)?;
            file.write_all(seal(&self.body(program), self.comment, folders + missing).as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes it if it is ours and unchanged, with the folders made for it, as far as they are empty. Returns whether there
    /// was anything of ours.
    ///
    /// # Errors
    /// If it was changed, is not ours, or cannot be removed.
    pub(super) fn remove(&self, root: &Path) -> Result<bool> {
        let path = root.join(self.path);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let text = String::from_utf8_lossy(&text);
        let Some((folders, _)) = sealed(&text, self.comment) else {
            bail!("{} was changed by hand or is not ours, and stays", path.display());
        };
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        for folder in path
            .ancestors()
            .skip(1)
            .take(folders)
            .take_while(|folder| *folder != root)
        {
            // Others may have put something there since.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(true)
    }

    /// Where it lies.
    pub(super) fn place(&self, root: &Path) -> PathBuf {
        root.join(self.path)
    }
}

fn seal(body: &str, comment: &str, folders: usize) -> String {
    format!("{comment} {SEAL}folders={folders} sha256={}\n{body}", hash(body))
}

/// The folders made for a file and its text behind the seal, if the seal is right.
fn sealed<'a>(text: &'a str, comment: &str) -> Option<(usize, &'a str)> {
    let (line, body) = text.split_once('\n')?;
    let claim = line.strip_prefix(comment)?.trim_start().strip_prefix(SEAL)?;
    let (folders, claimed) = claim.strip_prefix("folders=")?.split_once(" sha256=")?;
    (claimed == hash(body)).then_some((folders.parse().ok()?, body))
}

fn hash(body: &str) -> String {
    digest(&SHA256, body.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
