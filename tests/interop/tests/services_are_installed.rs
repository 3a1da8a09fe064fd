//! The units as systemd sees them, and how they come onto a host and go again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, ensure};
use lab::{Lab, marmot};

/// Where the units come from.
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd");

/// The highest exposure, in tenths, of `systemd-analyze security`: "OK" ends at 4.9, most services of a host have 9.
const EXPOSURE_MAX: u32 = 20;

/// Directives that systemd before 254 does not know and leaves out.
const SINCE_254: [&str; 2] = ["RestartSteps", "RestartMaxDelaySec"];

fn main() -> ExitCode {
    lab::run(
        &["systemctl", "systemd-analyze"],
        lab::tests![
            systemd_finds_no_fault_with_the_units,
            the_units_are_hardly_exposed,
            a_tunnel_and_a_gateway_are_installed_and_removed_one_by_one,
            the_whole_installation_works_on_a_host_that_systemd_does_not_run,
        ],
    )
}

fn systemd_finds_no_fault_with_the_units(lab: &Lab) -> Result<()> {
    let program = marmot(lab, lab.client(), &[])?.get_program().to_owned();
    let program = Path::new(&program).display().to_string();
    // A unit is only checked with its program in place.
    let folder = lab.folder().join("units");
    let mut services = Vec::new();
    copy_units(Path::new(UNITS), &folder, &program, &mut services)?;
    ensure!(services.len() >= 5, "these are all units: {services:?}");
    let mut verify = Command::new("systemd-analyze");
    verify
        .arg("verify")
        .arg("--man=no")
        .args(&services)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    let output = verify.output().context("cannot start systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| {
            !SINCE_254
                .iter()
                .any(|key| line.contains(&format!("Unknown key '{key}'")))
        })
        .filter(|line| {
            !SINCE_254
                .iter()
                .any(|key| line.contains(&format!("Unknown key name '{key}'")))
        })
        // Units of the machine that tests run on are not ours to judge.
        .filter(|line| line.contains("marmot") || line.contains(&folder.display().to_string()))
        .collect();
    ensure!(faults.is_empty(), "systemd-analyze verify: {faults:#?}");
    Ok(())
}

fn the_units_are_hardly_exposed(lab: &Lab) -> Result<()> {
    for unit in [
        "marmot-client@.service",
        "marmot-gateway.service",
        "marmot-housekeeping@.service",
        "marmot-dns.service",
    ] {
        let path = Path::new(UNITS).join(unit);
        let mut security = Command::new("systemd-analyze");
        security
            .args([
                "security",
                "--offline=yes",
                "--no-pager",
                &format!("--threshold={EXPOSURE_MAX}"),
            ])
            .arg(&path);
        let output = security.output().context("cannot start systemd-analyze")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let verdict = said
            .lines()
            .find(|line| line.contains("Overall exposure level"))
            .unwrap_or_default();
        ensure!(
            output.status.success(),
            "{unit} is above {EXPOSURE_MAX} tenths: {verdict} {output:?}"
        );
        lab.note(verdict.trim_matches(|c: char| !c.is_ascii()));
    }
    Ok(())
}

fn a_tunnel_and_a_gateway_are_installed_and_removed_one_by_one(lab: &Lab) -> Result<()> {
    let root = lab.folder().join("root");
    let config = root.join("etc/marmot");
    fs::create_dir_all(&config)?;
    for name in ["home", "work"] {
        let text =
            format!("[gateway]\nurl = \"https://gw.test\"\n[tunnel]\nname = \"{name}\"\n[login]\nuser = \"alice\"\n");
        // One of them is locked down for good, which takes a unit of its own.
        let mode = if name == "home" { "always" } else { "off" };
        fs::write(
            config.join(format!("{name}.toml")),
            format!("{text}[lockdown]\nmode = \"{mode}\"\n"),
        )?;
    }
    fs::write(config.join("gateway.toml"), GATEWAY)?;
    let before = files(&root)?;

    let install = |role: &[&str]| service(lab, "install-service", role, &root);
    let uninstall = |role: &[&str]| service(lab, "uninstall-service", role, &root);
    let said = install(&["client", "/etc/marmot/home.toml", "--enable", "--json"])?;
    ensure!(
        said.starts_with('{') && said.contains("\"unit\":\"marmot-client@home.service\""),
        "{said}"
    );
    let systemctl = |words: &[&str]| -> Result<Output> {
        let command = Command::new("systemctl")
            .arg(format!("--root={}", root.display()))
            .args(words)
            .output();
        command.context("cannot start systemctl")
    };
    for unit in [
        "marmot-client@home.service",
        "marmot-housekeeping@home.path",
        "marmot-housekeeping@home.timer",
        "marmot-lockdown@home.service",
    ] {
        let state = systemctl(&["is-enabled", unit])?;
        ensure!(state.stdout.starts_with(b"enabled"), "{unit}: {state:?}");
    }
    install(&["client", "/etc/marmot/work.toml", "--enable"])?;
    let state = systemctl(&["is-enabled", "marmot-lockdown@work.service"])?;
    ensure!(!state.stdout.starts_with(b"enabled"), "nobody asked for it: {state:?}");
    install(&["gateway", "--enable"])?;

    // The units stay as long as one tunnel needs them, and what both roles need as long as one is there.
    uninstall(&["client", "/etc/marmot/home.toml"])?;
    ensure!(
        systemctl(&["is-enabled", "marmot-client@work.service"])?
            .status
            .success(),
        "the other tunnel stays"
    );
    ensure!(
        !systemctl(&["is-enabled", "marmot-client@home.service"])?
            .status
            .success(),
        "this one is gone"
    );
    uninstall(&["client", "/etc/marmot/work.toml"])?;
    ensure!(
        !root.join("etc/systemd/system/marmot-client@.service").exists(),
        "no tunnel needs it"
    );
    ensure!(
        systemctl(&["is-enabled", "marmot-gateway.service"])?.status.success(),
        "the gateway stays"
    );
    uninstall(&["gateway"])?;
    // `systemctl enable` makes the folder of a target and leaves it.
    let left = files(&root)?;
    ensure!(left == before, "this is left: {left:#?}");
    Ok(())
}

fn the_whole_installation_works_on_a_host_that_systemd_does_not_run(lab: &Lab) -> Result<()> {
    // With /etc, /var/lib and /run of its own, in a mount namespace that ends with the command.
    let config = lab.folder().join("home.toml");
    fs::write(
        &config,
        "[gateway]\nurl = \"https://gw.test\"\n[tunnel]\nname = \"home\"\n[login]\nuser = \"alice\"\n",
    )?;
    let script = r#"
set -e
mkdir "$DIR/etc" "$DIR/bin" && cp -r /etc/passwd /etc/group /etc/ld.so.cache "$DIR/etc/"
for file in shadow gshadow; do [ ! -e /etc/$file ] || cp /etc/$file "$DIR/etc/"; done
cp "$MARMOT" "$DIR/bin/marmot"
mount --make-rprivate /
mount --bind "$DIR/bin" /opt
mount --bind "$DIR/etc" /etc
mount -t tmpfs none /var/lib && mount -t tmpfs none /run
mkdir /etc/marmot && cp "$DIR/home.toml" /etc/marmot/
/opt/marmot install-service client /etc/marmot/home.toml --enable
/opt/marmot install-service client /etc/marmot/home.toml --enable
stat -c '%n %U:%G %a' /etc/marmot /etc/marmot/housekeeping.d /var/lib/marmot /run/marmot
grep ExecStart= /etc/systemd/system/marmot-client@.service
id marmot
/opt/marmot uninstall-service client /etc/marmot/home.toml
find /etc -name '*marmot*' ! -path '/etc/marmot*'
"#;
    let program = marmot(lab, lab.client(), &[])?.get_program().to_owned();
    let mut command = lab.command(lab.client(), "unshare")?;
    command
        .args(["--mount", "sh", "-c", script])
        .env("DIR", lab.folder())
        .env("MARMOT", program);
    let process = lab.spawn("install", command)?;
    let status = process.wait_exit(lab::PATIENCE)?;
    let said = process.output();
    ensure!(status.success(), "the installation ended with {status}");
    for words in [
        "/etc/marmot root:marmot 750",
        "/etc/marmot/housekeeping.d root:marmot 750",
        "/var/lib/marmot marmot:marmot 700",
        "/run/marmot marmot:marmot 750",
        "ExecStart=/opt/marmot client",
        "(marmot)",
        "removed /etc/systemd/system/marmot-client@.service",
    ] {
        ensure!(said.contains(words), "it did not say {words:?}");
    }
    ensure!(
        said.trim_end().ends_with("stay"),
        "this is left: {}",
        said.lines().last().unwrap_or_default()
    );
    Ok(())
}

const GATEWAY: &str = "[tls]\ncertificate_file = \"cert.pem\"\nkey_file = \"key.pem\"\n[auth]\nusers_file = \"users.toml\"\n[pool]\nipv4 = \"10.78.0.0/24\"\n";

/// Runs one of our two commands for an image at `root`. Returns what it says.
fn service(lab: &Lab, command: &str, words: &[&str], root: &Path) -> Result<String> {
    let mut command = marmot(lab, lab.client(), &[command])?;
    command.args(words).arg("--root").arg(root);
    let output = command.output().context("cannot start marmot")?;
    ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies what systemd reads as a unit, for a program at another place.
fn copy_units(from: &Path, to: &Path, program: &str, units: &mut Vec<PathBuf>) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if name.to_string_lossy().ends_with(".service.d") {
            copy_units(&path, &to.join(name), program, &mut Vec::new())?;
        } else if path.is_file() {
            let text = fs::read_to_string(&path)?.replace("/usr/bin/marmot", program);
            fs::write(to.join(&name), text)?;
            units.push(to.join(name));
        }
    }
    Ok(())
}

/// Every file and link below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            files.extend(self::files(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
