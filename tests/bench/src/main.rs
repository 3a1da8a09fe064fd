//! The program behind `cargo xtask bench`: everything in namespaces of its own, gone with it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use bench::peers::{ALL, Entry};
use bench::report::{self, Run};
use bench::rig::Rig;
use bench::{floors, plot, run};
use clap::Parser;

/// Packages of Debian whose versions are told.
const PACKAGES: &[&str] = &["openconnect", "ocserv", "openvpn", "wireguard-go", "tinc", "fastd"];

/// Measures tunnels beside each other.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// How often everybody takes a turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: u16,
    /// Whom to measure, by the names that a wrong one lists; everybody without this.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How long each load lasts, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// The document whose figures are replaced; the picture goes beside it. Without this nothing is written.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match measured() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measured() -> Result<()> {
    let arguments = Arguments::parse();
    let entries = chosen(&arguments.peers)?;
    let rounds = usize::from(arguments.rounds);
    // Before the host is left: there is no list of packages where we go.
    let versions = versions();
    let rows = lab::stage("bench", &["ip", "ethtool", "iperf3"], |lab| {
        let rig = Rig::new(lab, arguments.seconds)?;
        Ok(run::all(&rig, &entries, rounds))
    })?;
    let floors = floors::all(&rows);
    let plot = arguments.out.as_ref().map(|out| out.with_file_name("performance.svg"));
    let run = Run {
        command: command(&arguments),
        rounds,
        seconds: arguments.seconds,
        plot: "performance.svg".to_owned(),
        versions,
    };
    let text = report::text(&run, &rows, &floors);
    println!("\n{text}");
    if let (Some(out), Some(plot)) = (&arguments.out, &plot) {
        report::write(out, &text)?;
        plot::draw(plot, &rows)?;
        println!("Written: {} and {}", out.display(), plot.display());
    }
    Ok(())
}

fn chosen(ids: &[String]) -> Result<Vec<Entry>> {
    if ids.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |id: &String| match ALL.iter().find(|entry| entry.id == id) {
        Some(entry) => Ok(*entry),
        None => {
            let known: Vec<&str> = ALL.iter().map(|entry| entry.id).collect();
            bail!("nobody is called {id:?}; there are {}", known.join(", "))
        }
    };
    ids.iter().map(find).collect()
}

/// What makes the same tables again.
fn command(arguments: &Arguments) -> String {
    let mut command = format!("cargo xtask bench --rounds {}", arguments.rounds);
    if arguments.seconds != 2 {
        command += &format!(" --seconds {}", arguments.seconds);
    }
    if !arguments.peers.is_empty() {
        command += &format!(" --peers {}", arguments.peers.join(","));
    }
    if let Some(name) = arguments.out.as_deref().and_then(Path::file_name) {
        command += &format!(" --out docs/{}", name.to_string_lossy());
    }
    command
}

/// Of Debian's packages as they are installed, and of what cargo built for this.
fn versions() -> Vec<String> {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${Version}\n"])
        .args(PACKAGES)
        .output();
    let debian = query.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let folder = std::env::var_os("MARMOT_BENCH_BIN").map(PathBuf::from);
    let crates = folder.and_then(|folder| std::fs::read_to_string(folder.join(".crates.toml")).ok());
    let built = crates.iter().flat_map(|list| list.lines());
    let built = built.filter_map(|line| {
        line.strip_prefix('"')?
            .split_once(" (")
            .map(|(version, _)| version.to_owned())
    });
    let packages = debian.unwrap_or_default();
    packages.lines().map(str::to_owned).chain(built).collect()
}
