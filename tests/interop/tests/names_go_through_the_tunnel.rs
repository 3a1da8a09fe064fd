//! The name servers that a gateway grants, by resolv.conf: nobody else is asked while the tunnel is up, and whatever ends it, what was in
//! the file comes back.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::Daemon;
use lab::{
    Capture, Lab, Mark, NameServer, PATIENCE, Process, Settings, Signal, client_settings, gateway_settings, is_long,
    look_up, marmot, spawn_client, start_client, start_gateway, status, until,
};

/// The server next to the client, and what it says of every name.
const OUTSIDE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(203, 0, 113, 66));

/// What the server behind the gateway says of every name.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);

/// What programs read before.
const BEFORE: &str = "# the administrator's own\nnameserver 192.0.2.1\nsearch old.test\noptions timeout:1 attempts:2\n";

/// Whatever looks like a question about names.
const QUESTIONS: &str = "port 53 or port 853 or port 5353 or port 5355";

/// Names that are looked up in each step.
const NAMES: usize = 20;

/// An ordinary user that every host has.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "tcpdump", "getent", "setpriv"],
        lab::tests![
            a_full_tunnel_asks_nobody_outside,
            a_kill_at_any_moment_gives_the_names_back,
            the_last_of_two_tunnels_gives_the_names_back,
            a_gateway_that_names_others_is_heard,
            a_reconnect_changes_nothing_and_somebody_else_has_the_last_word,
            a_file_that_cannot_be_written_is_a_warning,
            what_network_manager_writes_is_left_alone,
            a_user_is_helped_and_hears_if_nobody_helps,
            a_stop_waits_for_nobody_who_holds_the_names,
        ],
    )
}

/// A name server on each side, and a gateway that grants everything.
struct Sides {
    outside: NameServer,
    inside: NameServer,
    gateway: Process,
}

fn sides(lab: &Lab) -> Result<Sides> {
    resolv_conf(lab, BEFORE)?;
    Ok(Sides {
        outside: NameServer::serve(lab.internet(), OUTSIDE.0.into(), OUTSIDE.1)?,
        inside: NameServer::serve(&lab.site().lan, lab.site().plan.host_v4().into(), INSIDE)?,
        gateway: start_gateway(lab, lab.site(), "gateway", &everything(lab)?)?,
    })
}

/// A gateway through which everything goes, and which has addresses for many sessions.
fn everything(lab: &Lab) -> Result<Settings> {
    let settings = gateway_settings(lab, lab.site())?.without("network.routes");
    Ok(settings.with("pool.ipv4", "10.78.0.0/20"))
}

fn settings(lab: &Lab) -> Result<Settings> {
    Ok(client_settings(lab, lab.site())?.with("dns.mode", "auto"))
}

fn resolv_conf(lab: &Lab, text: &str) -> Result<()> {
    fs::write(lab.folder().join("resolv.conf"), text).context("cannot write resolv.conf")
}

fn read(lab: &Lab) -> Result<String> {
    fs::read_to_string(lab.folder().join("resolv.conf")).context("cannot read resolv.conf")
}

fn as_before(lab: &Lab) -> Result<()> {
    let now = read(lab)?;
    ensure!(now == BEFORE, "resolv.conf is {now:?}");
    Ok(())
}

/// Looks names up, each of which must have this address.
fn ask(lab: &Lab, word: &str, expected: Ipv4Addr) -> Result<()> {
    for number in 0..NAMES {
        let name = format!("{word}-{number}.example.org");
        let found = look_up(lab, lab.client(), &name)?;
        ensure!(found == Some(expected), "{name} is {found:?}, not {expected}");
    }
    Ok(())
}

fn a_full_tunnel_asks_nobody_outside(lab: &Lab) -> Result<()> {
    let sides = sides(lab)?;
    let capture = Capture::start(lab, lab.internet(), "client", QUESTIONS, "questions")?;
    ask(lab, "before", OUTSIDE.1)?;
    until("the questions before", PATIENCE, || {
        Ok(capture.packets()?.len() >= 2 * NAMES)
    })?;
    let daemon = Daemon::start(lab, "names", |settings| settings.with("dns.mode", "auto"))?;
    daemon.up()?;
    // Everything that was on its way before is in the capture: the outside answered it.
    let (before, asked) = (capture.packets()?.len(), sides.outside.asked().len());
    ask(lab, "during", INSIDE)?;
    // A name without a dot is searched where the gateway says.
    look_up(lab, lab.client(), "intranet")?;
    let heard = sides.inside.asked();
    ensure!(
        heard.iter().filter(|name| name.starts_with("during")).count() >= NAMES,
        "{heard:?}"
    );
    ensure!(heard.iter().any(|name| name == "intranet.corp.test"), "{heard:?}");
    let said = status(lab, lab.client(), "names")?;
    let dns = &said["tunnel"]["dns"];
    ensure!(dns["way"] == "file" && dns["problem"].is_null(), "{dns}");
    ensure!(
        dns["servers"][0] == "10.77.0.10" && dns["search"][0] == "corp.test",
        "{dns}"
    );

    let down = daemon.down()?;
    as_before(lab)?;
    ask(lab, "after", OUTSIDE.1)?;
    until("the questions afterwards", PATIENCE, || {
        Ok(capture.packets()?.len() >= before + 2 * NAMES)
    })?;
    let after: Vec<_> = sides.outside.asked().split_off(asked);
    let leaked: Vec<_> = after.iter().filter(|name| !name.starts_with("after")).collect();
    ensure!(leaked.is_empty(), "these names went outside: {leaked:?}");
    let questions = capture.datagrams()?;
    let leaked = questions
        .iter()
        .filter(|datagram| contains(&datagram.payload, b"during"))
        .count();
    ensure!(leaked == 0, "{leaked} questions on the cable");
    lab.note(&format!(
        "{NAMES} names through the tunnel, 0 questions on the cable; {} packets with questions before and after; down in {} ms",
        questions.len(),
        down.as_millis()
    ));
    daemon.process.stop(Signal::TERM, PATIENCE)?;
    as_before(lab)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

fn a_kill_at_any_moment_gives_the_names_back(lab: &Lab) -> Result<()> {
    let _sides = sides(lab)?;
    let settings = settings(lab)?.with("tunnel.name", "victim");
    let mut seed = RandomState::new().build_hasher().finish();
    let mut left = [0; 3];
    let rounds = if is_long() { 60 } else { 12 };
    for number in 0..rounds {
        let name = format!("victim-{number}");
        let client = spawn_client(lab, lab.client(), &name, &settings)?;
        let when = number % 3;
        // Around the moment at which the file changes, in microseconds.
        let (from, most) = match when {
            0 => (0, 120_000),
            1 => (0, 1),
            _ => (0, 12_000),
        };
        match when {
            // Half of the kills at a start are when the file has just been written, or is about to be.
            0 if number % 2 == 0 => drop(client.wait_for_line(Mark::default(), &["name servers applied"], PATIENCE)?),
            0 => {}
            _ => drop(client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?),
        }
        if when == 2 {
            client.signal(Signal::USR1)?;
        }
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let moment = Duration::from_micros(from + (seed >> 33) % most);
        ensure!(client.wait_exit(moment).is_err(), "the client ended by itself");
        client.stop(Signal::KILL, PATIENCE)?;
        left[when] += usize::from(read(lab)? != BEFORE);
        if number % 2 == 0 {
            cleanup(lab, &name)?;
        } else {
            let next = start_client(lab, lab.client(), &format!("next-{number}"), &settings)?;
            ensure!(
                read(lab)?.contains("nameserver 10.77.0.10\n"),
                "the next one has its own"
            );
            next.stop(Signal::TERM, PATIENCE)?;
        }
        as_before(lab).with_context(|| format!("after kill {number} at {moment:?}"))?;
    }
    lab.note(&format!(
        "{rounds} kills; the file was ours after {} at a start, {} of a tunnel that was up, {} during a stop; it came back {rounds} times",
        left[0], left[1], left[2]
    ));
    ensure!(left[1] == rounds / 3, "a kill while it is up leaves the file");
    Ok(())
}

fn cleanup(lab: &Lab, name: &str) -> Result<()> {
    let config = lab.folder().join(format!("{name}.toml"));
    let command = marmot(lab, lab.client(), &["cleanup", "-c", &config.display().to_string()])?;
    let ended = lab.spawn("cleanup", command)?.wait_exit(PATIENCE)?;
    ensure!(ended.success(), "cleanup ended with {ended}");
    Ok(())
}

fn the_last_of_two_tunnels_gives_the_names_back(lab: &Lab) -> Result<()> {
    let _sides = sides(lab)?;
    let site = lab.add_site()?;
    let _inside = NameServer::serve(&site.lan, site.plan.host_v4().into(), Ipv4Addr::new(10, 87, 0, 99))?;
    let _gateway = start_gateway(lab, &site, "gateway-b", &gateway_settings(lab, &site)?)?;
    let second = client_settings(lab, &site)?.with("dns.mode", "auto");
    for first_out in [0, 1] {
        let one = start_client(lab, lab.client(), &format!("one-{first_out}"), &settings(lab)?)?;
        let other = start_client(lab, lab.client(), &format!("other-{first_out}"), &second)?;
        let both = read(lab)?;
        ensure!(
            both.contains("nameserver 10.87.0.10\nnameserver 10.77.0.10\n"),
            "the last one first: {both}"
        );
        let (out, stays, server) = match first_out {
            0 => (one, other, "10.87.0.10"),
            _ => (other, one, "10.77.0.10"),
        };
        out.stop(Signal::TERM, PATIENCE)?;
        let left = read(lab)?;
        ensure!(
            left.matches("nameserver").count() == 1 && left.contains(server),
            "{left}"
        );
        stays.stop(Signal::TERM, PATIENCE)?;
        as_before(lab)?;
    }
    Ok(())
}

fn a_gateway_that_names_others_is_heard(lab: &Lab) -> Result<()> {
    let mut sides = sides(lab)?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    ask(lab, "first", INSIDE)?;
    let (mark, other) = (client.mark(), Ipv4Addr::new(10, 77, 0, 11));
    let mut address = lab.command(&lab.site().lan, "ip")?;
    address.args(["address", "add", "10.77.0.11/24", "dev", "eth0"]);
    ensure!(address.status()?.success(), "another address for the server");
    let _second = NameServer::serve(&lab.site().lan, other.into(), Ipv4Addr::new(10, 77, 0, 98))?;
    sides.gateway.stop(Signal::TERM, PATIENCE)?;
    let changed = everything(lab)?.with("network.dns", vec![other.to_string()]);
    sides.gateway = start_gateway(lab, lab.site(), "gateway-2", &changed)?;
    client.wait_for_line(mark, &["name servers applied", "10.77.0.11"], PATIENCE)?;
    until("the new server is asked", PATIENCE, || {
        Ok(look_up(lab, lab.client(), "second.example.org")? == Some(Ipv4Addr::new(10, 77, 0, 98)))
    })?;
    let text = read(lab)?;
    ensure!(!text.contains("10.77.0.10\n"), "in place of the old one: {text}");
    client.stop(Signal::TERM, PATIENCE)?;
    as_before(lab)
}

/// Whoever else writes the file while a tunnel is up has the last word.
fn a_reconnect_changes_nothing_and_somebody_else_has_the_last_word(lab: &Lab) -> Result<()> {
    let _sides = sides(lab)?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    let ours = read(lab)?;
    let mark = client.mark();
    client.signal(Signal::USR2)?;
    client.wait_for_line(mark, &["path.back"], PATIENCE)?;
    ensure!(read(lab)? == ours, "a reconnect changes nothing");
    let somebody = "nameserver 203.0.113.53\n";
    resolv_conf(lab, somebody)?;
    let mark = client.mark();
    client.stop(Signal::TERM, PATIENCE)?;
    client.wait_for_line(mark, &["somebody else has written"], PATIENCE)?;
    ensure!(read(lab)? == somebody, "what somebody else has written stays");
    Ok(())
}

fn a_file_that_cannot_be_written_is_a_warning(lab: &Lab) -> Result<()> {
    let sides = sides(lab)?;
    // The server of before is a neighbour with a public address, which a full tunnel would take.
    let config = settings(lab)?.with("session.local_networks", "all");
    let config = config.write(&lab.folder().join("client.toml"))?;
    let program = marmot(lab, lab.client(), &[])?.get_program().to_owned();
    let mut command = lab.command(lab.client(), "sh")?;
    command.args([
        "-c",
        "mount -o remount,bind,ro /etc/resolv.conf && exec \"$0\" client -c \"$1\"",
    ]);
    command.arg(program).arg(config);
    let client = lab.spawn("client", command)?;
    let said = client.wait_for_line(Mark::default(), &["name servers are not applied"], PATIENCE)?;
    ensure!(said.contains("read-only or immutable"), "{said}");
    client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    let dns = status(lab, lab.client(), "client")?["tunnel"]["dns"].clone();
    ensure!(
        dns["problem"].as_str().is_some_and(|why| why.contains("cannot write")),
        "{dns}"
    );
    as_before(lab)?;
    ask(lab, "outside", OUTSIDE.1)?;
    ensure!(sides.inside.asked().is_empty(), "nobody told anybody of it");
    let (ended, _) = client.stop(Signal::TERM, PATIENCE)?;
    ensure!(ended.success(), "the client ended with {ended}");
    as_before(lab)
}

fn what_network_manager_writes_is_left_alone(lab: &Lab) -> Result<()> {
    let _sides = sides(lab)?;
    let managed = "# Generated by NetworkManager\nnameserver 192.0.2.1\n";
    resolv_conf(lab, managed)?;
    let client = start_client(lab, lab.client(), "client", &settings(lab)?)?;
    let said = client.wait_for_line(Mark::default(), &["name servers are not applied"], PATIENCE)?;
    ensure!(
        said.contains("is NetworkManager's") && said.contains("dns=systemd-resolved"),
        "{said}"
    );
    ensure!(read(lab)? == managed, "it is left alone");
    client.stop(Signal::TERM, PATIENCE)?;
    ensure!(read(lab)? == managed, "and stays so");
    Ok(())
}

/// A client that is an ordinary user with one capability.
fn ordinary(lab: &Lab, name: &str, settings: &Settings) -> Result<Process> {
    let config = settings.write(&lab.folder().join(format!("{name}.toml")))?;
    fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o755))?;
    for path in ["password", "state", "run", &format!("{name}.toml")] {
        chown(lab.folder().join(path), Some(NOBODY), Some(NOBODY))?;
    }
    chown(lab.pki().ca(), Some(NOBODY), Some(NOBODY))?;
    let program = marmot(lab, lab.client(), &[])?.get_program().to_owned();
    // Where the ordinary user can reach it.
    let reachable = lab.folder().join("marmot");
    if !reachable.exists() && fs::hard_link(&program, &reachable).is_err() {
        fs::copy(&program, &reachable)?;
    }
    let mut command = lab.command(lab.client(), "setpriv")?;
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    command.args(["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]);
    command.arg(reachable).args(["client", "-c"]).arg(config);
    lab.spawn(name, command)
}

fn a_user_is_helped_and_hears_if_nobody_helps(lab: &Lab) -> Result<()> {
    if !has_other_users() {
        return lab.skip("another user is needed; run as root");
    }
    let _sides = sides(lab)?;
    let socket = lab.folder().join("dns.sock");
    let settings = settings(lab)?.with_path("dns.helper", &socket);
    let alone = ordinary(lab, "alone", &settings)?;
    let said = alone.wait_for_line(Mark::default(), &["name servers are not applied"], PATIENCE)?;
    ensure!(said.contains("marmot-dns.socket"), "{said}");
    alone.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    alone.stop(Signal::TERM, PATIENCE)?;
    as_before(lab)?;

    let words = ["dns-helper", "--socket", &socket.display().to_string()];
    let helper = lab.spawn("helper", marmot(lab, lab.client(), &words)?)?;
    until("the helper's socket", PATIENCE, || Ok(socket.exists()))?;
    // It lets him in, but is root's.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let refused = ordinary(lab, "refused", &settings)?;
    let said = refused.wait_for_line(Mark::default(), &["name servers are not applied"], PATIENCE)?;
    ensure!(said.contains("not permitted"), "{said}");
    refused.stop(Signal::TERM, PATIENCE)?;
    as_before(lab)?;

    // As systemd has it.
    chown(&socket, Some(NOBODY), Some(NOBODY))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    let helped = ordinary(lab, "helped", &settings)?;
    helped.wait_for_line(Mark::default(), &["name servers applied"], PATIENCE)?;
    ask(lab, "helped", INSIDE)?;
    helped.stop(Signal::TERM, PATIENCE)?;
    as_before(lab)?;
    // A helper that is gone when the tunnel goes down: residue, and whoever comes next sees to it.
    let left = ordinary(lab, "left", &settings)?;
    left.wait_for_line(Mark::default(), &["name servers applied"], PATIENCE)?;
    helper.stop(Signal::KILL, PATIENCE)?;
    fs::remove_file(&socket)?;
    let mark = left.mark();
    left.stop(Signal::TERM, PATIENCE)?;
    let said = left.wait_for_line(mark, &["stop.ack", "dns:"], PATIENCE)?;
    ensure!(read(lab)? != BEFORE, "nobody could take it back: {said}");
    cleanup(lab, "left")?;
    as_before(lab)
}

fn has_other_users() -> bool {
    // In a user namespace there is nobody else.
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().nth(2) == Some("4294967295"))
}

fn a_stop_waits_for_nobody_who_holds_the_names(lab: &Lab) -> Result<()> {
    let _sides = sides(lab)?;
    let daemon = Daemon::start(lab, "names", |settings| settings.with("dns.mode", "auto"))?;
    let mut plain = Vec::new();
    for _ in 0..5 {
        daemon.up()?;
        plain.push(daemon.down()?);
        as_before(lab)?;
    }
    daemon.up()?;
    // Somebody holds the lock of whoever writes.
    let lock = fs::OpenOptions::new().write(true).open("/var/lib/marmot-dns/lock")?;
    lock.lock()?;
    let mark = daemon.process.mark();
    let held = daemon.down()?;
    let said = daemon.process.wait_for_line(mark, &["stop.ack", "dns:"], PATIENCE)?;
    ensure!(held < Duration::from_secs(2), "it took {held:?}: {said}");
    ensure!(read(lab)? != BEFORE, "nobody could write");
    drop(lock);
    until("it is made good", PATIENCE, || Ok(read(lab)? == BEFORE))?;
    plain.sort();
    lab.note(&format!(
        "stop with names: median {} ms; with a held lock {} ms, named as residue and made good afterwards",
        plain[plain.len() / 2].as_millis(),
        held.as_millis()
    ));
    daemon.process.stop(Signal::TERM, PATIENCE)?;
    Ok(())
}
