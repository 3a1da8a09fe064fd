//! The programs of others that tests run, and how they come onto the machine.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::policy::{self, NoDaemons};

/// A program that some tests need.
struct Tool {
    program: &'static str,
    /// Debian's package.
    package: &'static str,
    /// Which tests are skipped without it.
    used_by: &'static str,
}

#[rustfmt::skip]
const TOOLS: &[Tool] = &[
    Tool { program: "openconnect", package: "openconnect", used_by: "interop: the stock client against our gateway" },
    Tool { program: "ocserv", package: "ocserv", used_by: "interop: our client against the stock gateway" },
    Tool { program: "certtool", package: "gnutls-bin", used_by: "interop: certificates as stock peers make them" },
    Tool { program: "openssl", package: "openssl", used_by: "interop: the bare dtls crate beside OpenSSL" },
    Tool { program: "gnutls-cli", package: "gnutls-bin", used_by: "interop: the bare dtls crate beside GnuTLS" },
    Tool { program: "gnutls-serv", package: "gnutls-bin", used_by: "interop: the bare dtls crate beside GnuTLS" },
    Tool { program: "setpriv", package: "util-linux", used_by: "interop: a client that is an ordinary user, and a resolver" },
    Tool { program: "getent", package: "libc-bin", used_by: "interop: names as programs look them up" },
    Tool { program: "ip", package: "iproute2", used_by: "lab and interop: the host's addresses, routes and rules before and after" },
    Tool { program: "ethtool", package: "ethtool", used_by: "lab and interop: devices that put packets together, as real ones do" },
    Tool { program: "nft", package: "nftables", used_by: "lab: lost packets, translated addresses" },
    Tool { program: "conntrack", package: "conntrack", used_by: "interop: flows that the kernel remembers" },
    Tool { program: "iperf3", package: "iperf3", used_by: "lab: throughput" },
    Tool { program: "curl", package: "curl", used_by: "api: the local socket as people ask it" },
    Tool { program: "tcpdump", package: "tcpdump", used_by: "lab: what crosses the wire" },
    Tool { program: "systemctl", package: "systemd", used_by: "interop: units checked, and run by a real manager" },
    Tool { program: "/usr/lib/systemd/system/dbus.service", package: "dbus", used_by: "lab and interop: a machine with a systemd and a logind of its own" },
    Tool { program: "/usr/lib/systemd/system/polkit.service", package: "polkitd", used_by: "lab and interop: a machine with a systemd and a logind of its own" },
    Tool { program: "dbus-daemon", package: "dbus-daemon", used_by: "lab: a bus for a logind that tests speak for" },
    Tool { program: "/usr/lib/python3/dist-packages/dbusmock/__main__.py", package: "python3-dbusmock", used_by: "lab: a logind that tests speak for" },
    Tool { program: "valgrind", package: "valgrind", used_by: "counts: instructions of the hot functions" },
    Tool { program: "strace", package: "strace", used_by: "crash: system calls killed and failed one by one" },
    Tool { program: "openvpn", package: "openvpn", used_by: "interop: how long others take to stop" },
    Tool { program: "wireguard-go", package: "wireguard-go", used_by: "interop: how long others take to stop" },
    Tool { program: "wg-quick", package: "wireguard-tools", used_by: "interop: how long others take to stop" },
];

/// What must not be installed, because its script changes the machine: it is unpacked into a folder of the tree.
#[rustfmt::skip]
const EXTRACTED: &[Tool] = &[
    Tool { program: "lib/systemd/systemd-resolved", package: "systemd-resolved", used_by: "interop: a systemd-resolved that takes a tunnel's name servers" },
    Tool { program: "sbin/resolvconf", package: "resolvconf", used_by: "interop: a resolv.conf that is made from records" },
    Tool { program: "sbin/resolvconf", package: "openresolv", used_by: "interop: a resolv.conf that is made from records, by the other program of that name" },
];

/// Where those are unpacked, below the target folder; each package in a folder of its name. Tests look there, or where this variable says.
const EXTRACTED_FOLDER: (&str, &str) = ("MARMOT_EXTRACTED", "extracted");

/// What only the measurements beside other tunnels need. CI does not.
#[rustfmt::skip]
const BENCH_TOOLS: &[Tool] = &[
    Tool { program: "tincd", package: "tinc", used_by: "bench: a tunnel to compare with" },
    Tool { program: "fastd", package: "fastd", used_by: "bench: a tunnel to compare with" },
];

/// Packages that enable services of their own, with those.
const STARTING_AT_BOOT: &[(&str, &[&str])] = &[
    ("ocserv", &["ocserv.service", "ocserv.socket"]),
    ("openvpn", &["openvpn.service"]),
    ("tinc", &["tinc.service"]),
];

/// Makes the tools available: installs them as root on Debian, otherwise says what will be skipped.
///
/// # Errors
/// If one is missing in the end although MARMOT_LAB=required forbids skipping.
pub(crate) fn provide() -> Result<()> {
    let missing = provided(&[TOOLS]) + extracted();
    let required = env::var_os("MARMOT_LAB").is_some_and(|value| value == "required");
    ensure!(
        missing == 0 || !required,
        "MARMOT_LAB=required forbids skipping, and tools are missing; install them, or unset it"
    );
    Ok(())
}

/// The same for the measurements, which name what is missing themselves.
pub(crate) fn provide_for_bench() {
    provided(&[TOOLS, BENCH_TOOLS]);
}

/// Installs what is missing if that is possible, names what is missing then, and counts it.
fn provided(lists: &[&'static [Tool]]) -> usize {
    let missing = missing(lists);
    if missing.is_empty() {
        return 0;
    }
    match obstacle() {
        None => {
            if let Err(e) = install(&missing) {
                eprintln!("{e:#}");
            }
        }
        Some(obstacle) => println!("Some tools are missing and {obstacle}."),
    }
    let missing = self::missing(lists);
    for tool in &missing {
        println!(
            "WITHOUT {} (Debian: {}) these tests are skipped: {}",
            tool.program, tool.package, tool.used_by
        );
    }
    missing.len()
}

/// Unpacks what is missing if that is possible, names what is missing then, and counts it. Tests are told where it is.
fn extracted() -> usize {
    let (variable, name) = EXTRACTED_FOLDER;
    let folder = match env::var_os(variable) {
        Some(folder) => PathBuf::from(folder),
        None => target_folder().join(name),
    };
    let is_there = |tool: &&Tool| folder.join(tool.package).join(tool.program).is_file();
    let mut missing: Vec<&Tool> = EXTRACTED.iter().filter(|tool| !is_there(tool)).collect();
    if !missing.is_empty() && obstacle().is_none() {
        for tool in &missing {
            println!("Unpacking what the tests need: {}", tool.package);
            if let Err(e) = extract(tool.package, &folder) {
                eprintln!("{e:#}");
            }
        }
        missing.retain(|tool| !is_there(tool));
    }
    for tool in &missing {
        println!(
            "WITHOUT {} (Debian: {}, unpacked into {}) these tests are skipped: {}",
            tool.program,
            tool.package,
            folder.display(),
            tool.used_by
        );
    }
    missing.len()
}

fn target_folder() -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    env::var_os("CARGO_TARGET_DIR").map_or(tree, PathBuf::from)
}

/// Downloads a package and unpacks it, without a script of its own being run.
fn extract(package: &str, folder: &Path) -> Result<()> {
    let downloads = folder.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| format!("cannot make {}", downloads.display()))?;
    let download = || -> Result<bool> {
        let status = Command::new("apt-get")
            .args(["--quiet", "--quiet", "download", package])
            .current_dir(&downloads)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cannot start apt-get")?;
        Ok(status.success())
    };
    if !download()? {
        // On a fresh machine there are no package lists yet.
        apt_get(&["update"])?;
        ensure!(download()?, "`apt-get download {package}` failed");
    }
    let prefix = format!("{package}_");
    let files = fs::read_dir(&downloads).context("cannot list the downloads")?;
    let archive = files
        .filter_map(|file| file.ok().map(|file| file.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
        .with_context(|| format!("{package} was not downloaded"))?;
    let status = Command::new("dpkg-deb")
        .arg("--extract")
        .arg(&archive)
        .arg(folder.join(package))
        .status()
        .context("cannot start dpkg-deb")?;
    ensure!(status.success(), "cannot unpack {}", archive.display());
    Ok(())
}

/// PATH with the folders of system programs, which Debian leaves out for ordinary users.
pub(crate) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    for folder in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !folders.iter().any(|known| known == Path::new(folder)) {
            folders.push(folder.into());
        }
    }
    env::join_paths(folders).unwrap_or(path)
}

fn missing(lists: &[&'static [Tool]]) -> Vec<&'static Tool> {
    let path = search_path();
    let found = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    lists
        .iter()
        .copied()
        .flatten()
        .filter(|tool| !found(tool.program))
        .collect()
}

/// Why nothing can be installed here, if so.
fn obstacle() -> Option<&'static str> {
    if !Path::new("/etc/debian_version").exists() || !Path::new("/usr/bin/apt-get").exists() {
        Some("this is not Debian, so they must come by hand")
    } else if !is_root() {
        Some("only root can install them: run `cargo xtask test` as root once, or install the packages named here")
    } else {
        None
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn install(tools: &[&Tool]) -> Result<()> {
    let packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    println!("Installing what the tests need: {}", packages.join(" "));
    let _no_daemons = NoDaemons::declare(Path::new(policy::PLACE))?;
    // On a fresh machine there are no package lists yet.
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat())?;
    for (package, units) in STARTING_AT_BOOT {
        if packages.contains(package) {
            keep_from_starting_at_boot(units);
        }
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["--quiet", "--quiet", "--option", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start apt-get")?;
    ensure!(
        status.success(),
        "`apt-get {}` failed with {status}",
        arguments.join(" ")
    );
    Ok(())
}

/// We wanted the program only. Without systemd there is nothing to undo.
fn keep_from_starting_at_boot(units: &[&str]) {
    if Path::new("/run/systemd/system").exists() {
        let status = Command::new("systemctl")
            .args(["disable", "--quiet"])
            .args(units)
            .status();
        if !status.is_ok_and(|status| status.success()) {
            let units = units.join(" ");
            eprintln!("cannot disable {units}; `systemctl disable {units}` keeps it from starting at boot");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_folders_are_searched_after_those_of_the_user() {
        let path = search_path();
        let folders: Vec<PathBuf> = env::split_paths(&path).collect();
        assert!(folders.contains(&PathBuf::from("/usr/sbin")));
        let before = env::split_paths(&env::var_os("PATH").unwrap_or_default()).count();
        assert!(folders.len() >= before);
    }
}
