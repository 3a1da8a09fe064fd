//! `marmot init`: a working configuration with keys and certificates, in a folder that only its owner can enter.

pub(crate) mod client;
pub(crate) mod gateway;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use platform::files::{create_dir_private, write_private};

use crate::exit::{Exit, Failure};
use crate::load;

/// The names of the files, in the folder of a gateway or client.
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// What will be written: all of it, or nothing if some of it is there already.
struct Files {
    dir: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Files {
    fn new(dir: &Path) -> Self {
        Files {
            dir: dir.to_path_buf(),
            files: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, content: impl AsRef<[u8]>) {
        self.files.push((self.dir.join(name), content.as_ref().to_vec()));
    }

    /// Refuses to replace files with others, unless told to. A file that is there with the same content does not count.
    fn check(&self, force: bool) -> Result<(), Failure> {
        let other = |(path, content): &&(PathBuf, Vec<u8>)| match load::bytes(path) {
            Ok(found) => found != *content,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        let in_the_way: Vec<String> = self
            .files
            .iter()
            .filter(other)
            .map(|(path, _)| path.display().to_string())
            .collect();
        if force || in_the_way.is_empty() {
            return Ok(());
        }
        let message = format!(
            "nothing was written, because this is there already: {}; --force overwrites",
            in_the_way.join(", ")
        );
        Err(Failure::new(Exit::Error, message))
    }

    /// Writes everything, readable by the owner only.
    fn write(&self) -> Result<(), Failure> {
        create_dir_private(&self.dir)?;
        for (path, content) in &self.files {
            write_private(path, content)?;
        }
        Ok(())
    }

    /// The paths, one a line, for the answer.
    fn list(&self) -> String {
        self.files
            .iter()
            .map(|(path, _)| format!("  {}\n", path.display()))
            .collect()
    }
}

/// What lets the systemd units, which run as user marmot, read the folder.
fn service_access(dir: &Path) -> String {
    let dir = dir.display();
    format!("chown root:marmot {dir} {dir}/*; chmod 750 {dir}; chmod 640 {dir}/*; chmod -f 600 {dir}/{CA_KEY}")
}

/// Reads a PEM file that the user named.
fn read_pem(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
