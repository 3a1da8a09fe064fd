//! Builds the libraries that are preloaded into programs (`shim/`), so that the lab can carry them.

use std::env;
use std::path::Path;
use std::process::Command;

/// What shifts a program's clocks, and what counts its allocations.
const LIBRARIES: [&str; 2] = ["clock", "allocations"];

fn main() {
    for name in LIBRARIES {
        build(name);
    }
}

fn build(name: &str) {
    let source = format!("shim/{name}.rs");
    println!("cargo::rerun-if-changed={source}");
    let folder = env::var_os("OUT_DIR").expect("cargo gives a folder");
    let library = Path::new(&folder).join(format!("lib{name}.so"));
    let target = env::var("TARGET").expect("cargo gives a target");
    let status = Command::new(env::var_os("RUSTC").expect("cargo gives a compiler"))
        .args(["--crate-name", name, "--crate-type", "cdylib", "--edition", "2024"])
        .args([
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
            "-D",
            "warnings",
        ])
        .args(["--target", &target, "-o"])
        .arg(&library)
        .arg(&source)
        .status()
        .expect("the compiler can be started: it built this");
    assert!(status.success(), "{source} cannot be built");
}
