//! `marmot init`, `check` and `user`: from nothing to a tunnel without an editor.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{fails, ping_both};
use lab::{Identity, Lab, Mark, Openconnect, PATIENCE, Process, Signal, marmot};
use platform::netns::Namespace;

fn main() -> ExitCode {
    lab::run(
        &["openconnect", "ip"],
        lab::tests![
            from_nothing_to_a_tunnel_with_a_password_and_with_a_certificate,
            users_come_and_go,
            what_is_there_is_not_overwritten,
            a_check_says_what_is_wrong_and_where,
        ],
    )
}

fn from_nothing_to_a_tunnel_with_a_password_and_with_a_certificate(lab: &Lab) -> Result<()> {
    let gateway_files = init_gateway(lab)?;
    let ca = gateway_files.join("ca.pem");
    checked(lab, &gateway_files.join("gateway.toml"))?;
    let gateway = run(lab, &lab.site().gateway, "gateway", &gateway_files.join("gateway.toml"))?;
    gateway.wait_for("gateway ready on", PATIENCE)?;

    let url = format!("https://{}", lab.site().plan.gateway_v4());
    let password = lab.file("the-password", "secret of the test\n")?;
    for (name, how) in [("by-password", "--password-file"), ("by-cert", "--certificate-from")] {
        let source = if how == "--password-file" {
            &password
        } else {
            &gateway_files
        };
        let folder = lab.folder().join(name);
        let arguments = ["init", "client", "--name", name, "--gateway", &url, "--user", "alice"];
        done(
            lab,
            &[
                &arguments[..],
                &["--dir", text(&folder), "--ca", text(&ca), how, text(source)],
            ]
            .concat(),
        )?;
        let config = folder.join(format!("{name}.toml"));
        checked(lab, &config)?;
        let client = run(lab, lab.client(), name, &config)?;
        client.wait_for("session.start", PATIENCE)?;
        ping_both(lab.client(), lab.site().plan)?;
        ensure!(client.stop(Signal::TERM, PATIENCE)?.0.success());
    }

    // The stock client takes the same authority and certificate.
    let folder = lab.folder().join("by-cert");
    let identity = Identity {
        certificate: folder.join("by-cert.pem"),
        key: folder.join("by-cert.key"),
        pin: String::new(),
    };
    let stock = Openconnect::new(lab, lab.client(), lab.site(), "openconnect")?.trusting(&ca);
    let _stock = stock.certificate(&identity).up()?;
    ping_both(lab.client(), lab.site().plan)
}

fn users_come_and_go(lab: &Lab) -> Result<()> {
    let folder = init_gateway(lab)?;
    let users = folder.join("users.toml");
    let gateway = run(lab, &lab.site().gateway, "gateway", &folder.join("gateway.toml"))?;
    gateway.wait_for("gateway ready on", PATIENCE)?;
    let password = lab.file("bobs-password", "bob's own secret\n")?;
    let list = ["user", "list", "--users", text(&users)];
    let bob = ["--users", text(&users), "bob"];

    done(
        lab,
        &[
            &[
                "user",
                "add",
                "--ipv4",
                "10.78.0.42",
                "--password-file",
                text(&password),
            ],
            &bob[..],
        ]
        .concat(),
    )?;
    ensure!(done(lab, &list)?.contains("bob"));
    let mark = gateway.mark();
    gateway.signal(Signal::HUP)?;
    gateway.wait_for_after(mark, "configuration reloaded", PATIENCE)?;
    let stock = || -> Result<Openconnect<'_>> {
        let stock = Openconnect::new(lab, lab.client(), lab.site(), "openconnect")?.trusting(&folder.join("ca.pem"));
        Ok(stock.login_as("bob", "bob's own secret"))
    };
    let client = stock()?.up()?;
    ensure!(
        lab::stock_addresses(&client)?.contains("10.78.0.42"),
        "the reserved address"
    );
    ping_both(lab.client(), lab.site().plan)?;

    done(lab, &[&["user", "remove"], &bob[..]].concat())?;
    let mark = gateway.mark();
    gateway.signal(Signal::HUP)?;
    gateway.wait_for_line(mark, &["session.end", "admin"], PATIENCE)?;
    client.wait_exit(PATIENCE)?;
    ensure!(!stock()?.spawn()?.wait_exit(PATIENCE)?.success(), "bob is gone");
    Ok(())
}

fn what_is_there_is_not_overwritten(lab: &Lab) -> Result<()> {
    let folder = init_gateway(lab)?;
    let key = fs::read(folder.join("ca.key")).context("there is a key")?;
    let command = marmot(
        lab,
        lab.client(),
        &["init", "gateway", "--dir", text(&folder), "--name", "gw.test"],
    )?;
    fails(lab, "again", command, 1, &["--force"])?;
    ensure!(fs::read(folder.join("ca.key")).context("the key is still there")? == key);
    Ok(())
}

fn a_check_says_what_is_wrong_and_where(lab: &Lab) -> Result<()> {
    let folder = init_gateway(lab)?;
    let path = folder.join("gateway.toml");
    let good = fs::read_to_string(&path).context("there is a configuration")?;
    let line = good
        .lines()
        .position(|line| line.starts_with("users_file"))
        .context("it names the users")?
        + 1;
    fs::write(&path, good.replace("users_file", "user_file")).context("cannot write")?;
    let said = format!("gateway.toml:{line}:1: auth.user_file: unknown key in [auth]; did you mean `users_file`?");
    fails(
        lab,
        "typo",
        marmot(lab, lab.client(), &["check", text(&path)])?,
        3,
        &[&said],
    )?;
    fs::write(&path, good).context("cannot write")?;
    fs::remove_file(folder.join("server.key")).context("cannot remove the key")?;
    fails(
        lab,
        "no-key",
        marmot(lab, lab.client(), &["check", text(&path)])?,
        3,
        &["tls.key_file", "No such file"],
    )
}

fn init_gateway(lab: &Lab) -> Result<std::path::PathBuf> {
    let folder = lab.folder().join("gateway");
    let plan = lab.site().plan;
    let password = lab.file("the-password", "secret of the test\n")?;
    let (address, lan_v4, lan_v6) = (
        plan.gateway_v4().to_string(),
        plan.lan_v4().to_string(),
        plan.lan_v6().to_string(),
    );
    let pool = plan.pool_v6().to_string();
    let arguments = [
        "init",
        "gateway",
        "--name",
        "gw.test",
        "--address",
        &address,
        "--ipv6-pool",
        &pool,
    ];
    let routes = [
        "--route",
        &lan_v4,
        "--route",
        &lan_v6,
        "--password-file",
        text(&password),
        "--dir",
        text(&folder),
    ];
    done(lab, &[&arguments[..], &routes[..]].concat())?;
    Ok(folder)
}

/// Runs a command that must succeed, and returns what it says.
fn done(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let name = arguments
        .iter()
        .take(2)
        .map(|word| word.replace('/', "_"))
        .collect::<Vec<_>>()
        .join("-");
    let process = lab.spawn(&name, marmot(lab, lab.client(), arguments)?)?;
    let status = process.wait_exit(PATIENCE)?;
    ensure!(status.success(), "`marmot {}` ended with {status}", arguments.join(" "));
    Ok(process.output())
}

fn checked(lab: &Lab, path: &Path) -> Result<()> {
    let said = done(lab, &["check", text(path)])?;
    ensure!(said.contains("no mistakes"), "{said}");
    Ok(())
}

fn run(lab: &Lab, host: &Namespace, name: &str, config: &Path) -> Result<Process> {
    let what = if name == "gateway" { "gateway" } else { "client" };
    let process = lab.spawn(name, marmot(lab, host, &[what, "-c", text(config)])?)?;
    process.wait_for_line(Mark::default(), &[""], PATIENCE)?;
    Ok(process)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
