//! A planted fault for the fence of the pure crates: clippy must see each of these lines.
//!
//! Whether clippy reads a package's own `clippy.toml` is clippy's habit, not ours, so it is tried.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use tidy::tree::top;

/// One breach a line.
const BREACHES: &[&str] = &[
    "let _ = std::time::Instant::now();",
    "let _: Option<std::time::SystemTime> = None;",
    "let _ = std::fs::read(\"x\");",
    "let _ = std::path::Path::new(\"x\").exists();",
    "let _ = std::net::TcpStream::connect(\"x:1\");",
    "let _ = std::net::UdpSocket::bind(\"x:1\");",
    "let _ = std::net::ToSocketAddrs::to_socket_addrs(\"x:1\");",
    "let _ = std::thread::spawn(|| ());",
    "let _ = std::env::var(\"x\");",
    "let _ = std::process::Command::new(\"x\");",
    "let _: std::collections::HashMap<u8, u8> = Default::default();",
    "println!(\"x\");",
];

#[test]
fn clippy_sees_every_breach_planted_behind_the_fence() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted");
    plant(&folder);
    let output = Command::new(env!("CARGO"))
        .args([
            "clippy",
            "--offline",
            "--quiet",
            "--message-format",
            "short",
            "--",
            "-D",
            "warnings",
        ])
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("CLIPPY_CONF_DIR")
        .current_dir(&folder)
        .output()
        .expect("cargo can be started: it started this test");
    let seen = String::from_utf8_lossy(&output.stderr).into_owned();
    if seen.contains("is not installed") || seen.contains("no such command") {
        // Past the harness, which would keep it to itself.
        writeln!(
            std::io::stdout(),
            "SKIPPED clippy_sees_every_breach_planted_behind_the_fence: clippy is not installed (rustup component add clippy)"
        )
        .expect("standard output is open");
        return;
    }
    for (index, breach) in BREACHES.iter().enumerate() {
        let place = format!("lib.rs:{}:", index + 2);
        let found = seen
            .lines()
            .any(|line| line.contains(&place) && line.contains("disallowed"));
        assert!(found, "clippy let `{breach}` pass; it said:\n{seen}");
    }
}

/// A package of one file, fenced like the pure crates.
fn plant(folder: &Path) {
    fs::create_dir_all(folder.join("src")).expect("cargo's folder for tests is writable");
    let manifest = "[package]\nname = \"planted\"\nedition = \"2024\"\n\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), manifest).expect("the planted folder is writable");
    let source = format!("pub fn planted() {{\n{}\n}}\n", BREACHES.join("\n"));
    fs::write(folder.join("src/lib.rs"), source).expect("the planted folder is writable");
    fs::copy(top().join("crates/now/clippy.toml"), folder.join("clippy.toml")).expect("the fence exists");
}
