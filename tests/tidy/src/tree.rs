//! The files of the tree as the rules see them.

use std::fs;
use std::path::{Path, PathBuf};

/// One text file.
#[derive(Clone, Debug)]
pub struct File {
    /// Path from the top of the tree, with forward slashes.
    pub path: String,
    /// All of its text.
    pub text: String,
}

impl File {
    /// A file of a rule's test.
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// `path:line`, with lines counted from 1.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }

    /// Whether this is Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The crate of `crates/` to which this file belongs.
    pub fn product_crate(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }
}

/// What is built or found, not written: never read.
const SKIPPED: [&str; 4] = ["target", ".git", "artifacts", "corpus"];

/// The top of the tree.
///
/// # Panics
/// If this crate no longer lies two folders below the top.
pub fn top() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors()
        .nth(2)
        .expect("tests/tidy lies two folders below the top")
        .to_owned()
}

/// Every text file of the tree, sorted by path. What is not UTF-8 is not text.
///
/// # Panics
/// If a folder of the tree cannot be read.
pub fn files() -> Vec<File> {
    let top = top();
    let mut files = Vec::new();
    collect(&top, &top, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(top: &Path, folder: &Path, files: &mut Vec<File>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot list {}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a listed folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(top, &path, files);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(top).expect("the walk stays below the top");
            files.push(File {
                path: path.to_string_lossy().replace('\\', "/"),
                text,
            });
        }
    }
}
