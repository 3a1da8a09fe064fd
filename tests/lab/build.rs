//! Builds the library that shifts a program's clocks (`shim/clock.rs`), so that the lab can carry it.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "shim/clock.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let folder = env::var_os("OUT_DIR").expect("cargo gives a folder");
    let library = Path::new(&folder).join("libclock.so");
    let target = env::var("TARGET").expect("cargo gives a target");
    let status = Command::new(env::var_os("RUSTC").expect("cargo gives a compiler"))
        .args(["--crate-name", "clock", "--crate-type", "cdylib", "--edition", "2024"])
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
        .arg(SOURCE)
        .status()
        .expect("the compiler can be started: it built this");
    assert!(status.success(), "{SOURCE} cannot be built");
}
