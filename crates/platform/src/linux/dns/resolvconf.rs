//! resolvconf and openresolv: programs that make `/etc/resolv.conf` from a record for each interface. The one takes its arguments as the
//! other does.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use plan::resolv_conf::{self, Wish};

/// Where distributions put it. PATH is not asked: root runs no program that its environment names.
const PROGRAMS: [&str; 4] = [
    "/usr/sbin/resolvconf",
    "/sbin/resolvconf",
    "/usr/bin/resolvconf",
    "/usr/local/sbin/resolvconf",
];

/// What its scripts find.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How long it may take: it runs a script for each resolver of the host.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at whether it has ended.
const LOOK: Duration = Duration::from_millis(2);

/// The program, if it is one of the two: systemd-resolved has a third, which knows no records.
pub(super) fn find() -> Option<PathBuf> {
    let is_own = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|path| !path.ends_with("resolvectl"));
    PROGRAMS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file() && is_own(path))
}

/// Adds the record of a tunnel, or replaces it.
pub(super) fn add(program: &PathBuf, wish: &Wish) -> io::Result<()> {
    // The first line is a comment, which tells whose the record is.
    let record = resolv_conf::render(std::slice::from_ref(wish), "");
    // openresolv: the first of all, and nobody else's servers beside them. The other one passes that over.
    run(program, &["-a", &name(&wish.interface), "-m", "0", "-x"], &record)
}

/// Removes the record of a tunnel; one that is not there is no error.
pub(super) fn remove(program: &PathBuf, interface: &str) -> io::Result<()> {
    run(program, &["-d", &name(interface), "-f"], "")
}

/// Records that begin with `tun` come before those of cables, by the order that Debian ships.
fn name(interface: &str) -> String {
    format!("tun.{interface}")
}

fn run(program: &PathBuf, arguments: &[&str], input: &str) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A daemon that one of its scripts starts may keep a pipe open for ever, so its words are not read.
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early fails by its status. A record is smaller than a pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "resolvconf does not come to an end",
            ));
        }
        thread::sleep(LOOK);
    };
    if status.success() {
        return Ok(());
    }
    let program = program.display();
    Err(io::Error::other(format!("{program} failed: {status}")))
}
