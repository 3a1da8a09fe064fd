//! A `policy-rc.d` for the time of an installation: Debian's packages ask it before they start their daemons.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where `invoke-rc.d` looks.
pub(crate) const PLACE: &str = "/usr/sbin/policy-rc.d";

/// Exit code 101 is "action forbidden by policy" (invoke-rc.d(8)).
const DENY: &str = "#!/bin/sh
# Placed by `cargo xtask test` while it installs packages, so that their daemons do not start. Safe to delete.
exit 101
";

/// While it lives, no package starts a daemon. A policy that somebody else made stays as it is, in force or not.
#[derive(Debug)]
pub(crate) struct NoDaemons {
    ours: Option<PathBuf>,
}

impl NoDaemons {
    /// Puts the policy at `place` unless there is one. One that an interrupted run left behind is taken over.
    pub(crate) fn declare(place: &Path) -> Result<Self> {
        let created = OpenOptions::new().write(true).create_new(true).mode(0o755).open(place);
        let ours = match created {
            Ok(mut file) => {
                file.write_all(DENY.as_bytes())
                    .with_context(|| format!("cannot write {}", place.display()))?;
                true
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => fs::read_to_string(place).is_ok_and(|text| text == DENY),
            Err(e) => return Err(e).with_context(|| format!("cannot create {}", place.display())),
        };
        Ok(Self {
            ours: ours.then(|| place.to_owned()),
        })
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        let Some(place) = &self.ours else { return };
        if let Err(e) = fs::remove_file(place) {
            eprintln!(
                "cannot remove {}: {e}; delete it, or no daemon will start when installed",
                place.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_policy_goes_when_the_installation_ends() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("policy-rc.d");
        let policy = NoDaemons::declare(&place).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), DENY);
        drop(policy);
        assert!(!place.exists());
    }

    #[test]
    fn the_policy_of_somebody_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("policy-rc.d");
        fs::write(&place, "#!/bin/sh\nexit 0\n").unwrap();
        drop(NoDaemons::declare(&place).unwrap());
        assert_eq!(fs::read_to_string(&place).unwrap(), "#!/bin/sh\nexit 0\n");
    }

    #[test]
    fn what_an_interrupted_run_left_is_cleared_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("policy-rc.d");
        fs::write(&place, DENY).unwrap();
        drop(NoDaemons::declare(&place).unwrap());
        assert!(!place.exists());
    }
}
