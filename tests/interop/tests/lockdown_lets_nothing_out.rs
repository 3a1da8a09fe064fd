//! A lockdown, with a program that tries to get out every 10 ms and a capture behind the cable: whatever becomes of the tunnel, no clear
//! packet leaves; and nobody is locked out for ever.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{fails, ping_both};
use lab::{
    Clear, Lab, Mark, Names, PASSWORD, PATIENCE, Ping, Prober, Settings, Signal, Users, client_settings,
    gateway_settings, is_long, marmot, move_client, spawn_client, start_client, start_gateway, status, until,
    users_file,
};

/// Rounds of the prober that must pass in each state: 0.2 s.
const ROUNDS: u64 = 20;

/// A stop opens the host within 0.1 s on a quiet machine; only a hang fails the test, the figure is printed.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let scaled = lab::tests![no_clear_packet_leaves_through_any_transition];
    let once = lab::tests![
        a_stop_opens_the_host_at_once,
        a_reload_counts_for_the_lockdown_at_once,
        a_flow_that_a_rule_sends_past_the_tunnel_goes_nowhere,
        a_tunnel_that_ends_by_itself_leaves_the_lockdown,
        always_stays_until_it_is_unlocked,
        without_nft_nothing_starts_that_claims_protection,
        a_gateway_is_looked_up_once_and_then_remembered,
        the_local_network_is_allowed_only_where_it_is_private,
    ];
    let tests: Vec<_> = if is_long() {
        scaled.into()
    } else {
        scaled.into_iter().chain(once).collect()
    };
    lab::run_scaled(&["ip", "nft", "tcpdump", "unshare"], tests)
}

/// What happens to a tunnel and its network.
#[derive(Clone, Copy, Debug)]
enum Transition {
    /// The client makes a new connection.
    Reconnect,
    /// The gateway dies, and with it the connection.
    Drop,
    /// The host gets other addresses.
    Roam,
    /// The client stands still for a while.
    Sleep,
    /// The client is killed, and started again.
    Kill,
    /// The tunnel is taken down, and up again.
    DownAndUp,
    /// The daemon is stopped, and started again.
    Restart,
    /// The configuration is read again.
    Reload,
}

const TRANSITIONS: [Transition; 8] = [
    Transition::Reconnect,
    Transition::Drop,
    Transition::Roam,
    Transition::Sleep,
    Transition::Kill,
    Transition::DownAndUp,
    Transition::Restart,
    Transition::Reload,
];

fn no_clear_packet_leaves_through_any_transition(lab: &Lab) -> Result<()> {
    let settings = settings(lab)?.with("lockdown.mode", "always");
    let gateway_settings = full(lab)?;
    let mut gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings)?;
    let prober = Prober::start(lab.client(), &outside(lab))?;
    let open = watch(lab, "open")?;
    open.wait_for_all().context("without a lockdown all of it gets out")?;

    let first = spawn_client(lab, lab.client(), "client", &settings)?;
    first.wait_for("lockdown: nothing leaves", PATIENCE)?;
    let clear = watch(lab, "closed")?;
    first.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    let mut client = first;
    let began = prober.rounds();
    let (count, mut address) = (if is_long() { 1000 } else { 50 }, 2);
    for number in 0..count {
        let transition = TRANSITIONS[number % TRANSITIONS.len()];
        let mark = client.mark();
        let told = (|| -> Result<()> {
            match transition {
                Transition::Reconnect => {
                    client.signal(Signal::USR2)?;
                    client.wait_for_after(mark, "path.back", PATIENCE)?;
                }
                Transition::Drop => {
                    gateway.stop(Signal::KILL, PATIENCE)?;
                    prober.wait_rounds(ROUNDS)?;
                    gateway = start_gateway(lab, lab.site(), &format!("gateway-{number}"), &gateway_settings)?;
                }
                Transition::Roam => {
                    let next = if address == 2 { 3 } else { 2 };
                    move_client(lab, address, next)?;
                    address = next;
                    client.signal(Signal::USR2)?;
                }
                Transition::Sleep => {
                    client.signal(Signal::STOP)?;
                    prober.wait_rounds(ROUNDS)?;
                    client.signal(Signal::CONT)?;
                }
                Transition::Kill | Transition::Restart => {
                    let signal = match transition {
                        Transition::Kill => Signal::KILL,
                        _ => Signal::TERM,
                    };
                    client.stop(signal, PATIENCE)?;
                    prober.wait_rounds(ROUNDS)?;
                    client = start_client(lab, lab.client(), &format!("client-{number}"), &settings)?;
                }
                Transition::DownAndUp => {
                    client.signal(Signal::USR1)?;
                    client.wait_for_after(mark, "stop.ack", PATIENCE)?;
                    prober.wait_rounds(ROUNDS)?;
                    client.signal(Signal::USR2)?;
                    client.wait_for_after(mark, "session.start", PATIENCE)?;
                }
                Transition::Reload => {
                    client.signal(Signal::HUP)?;
                    client.wait_for_after(mark, "configuration read again", PATIENCE)?;
                }
            }
            ping_both(lab.client(), lab.site().plan)
        })();
        told.with_context(|| format!("transition {number}, {transition:?}"))?;
        let tally = clear.tally()?;
        ensure!(
            tally.is_empty(),
            "after transition {number}, {transition:?}: {tally:#?}"
        );
    }
    let name = client.name().to_owned();
    ensure!(status(lab, lab.client(), &name)?["lockdown"] == "on");
    lab.note(&format!(
        "{count} transitions, {} rounds of {} packets: 0 clear packets",
        prober.rounds() - began,
        4 * outside(lab).len()
    ));
    prober.end()?;
    Ok(())
}

fn a_stop_opens_the_host_at_once(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let before = lab.client().snapshot()?;
    let prober = Prober::start(lab.client(), &outside(lab))?;
    for mode in ["off", "while_up"] {
        let settings = settings(lab)?.with("lockdown.mode", mode);
        let client = start_client(lab, lab.client(), &format!("client-{mode}"), &settings)?;
        ping_both(lab.client(), lab.site().plan)?;
        let clear = watch(lab, mode)?;
        prober.wait_rounds(ROUNDS)?;
        ensure!(clear.tally()?.is_empty(), "{mode}: {:#?}", clear.tally()?);
        let (mark, began) = (client.mark(), Instant::now());
        client.signal(Signal::USR1)?;
        until("a clear packet", OPEN_WITHIN, || Ok(!clear.tally()?.is_empty()))?;
        let open = began.elapsed();
        let acknowledged = client.wait_for_after(mark, "stop.ack", PATIENCE)?;
        clear.wait_for_all()?;
        lab.note(&format!(
            "{mode}: direct traffic {} ms after the stop; {}",
            open.as_millis(),
            acknowledged.rsplit("stop.ack").next().unwrap_or_default().trim()
        ));
        // And the lockdown comes back with the next start.
        let mark = client.mark();
        client.signal(Signal::USR2)?;
        client.wait_for_after(mark, "session.start", PATIENCE)?;
        let wanted = if mode == "off" { "off" } else { "on" };
        ensure!(status(lab, lab.client(), client.name())?["lockdown"] == wanted);
        client.stop(Signal::TERM, PATIENCE)?;
        let changes = before.changes(&lab.client().snapshot()?);
        ensure!(changes.is_empty(), "{mode}: this is different now: {changes:#?}");
    }
    Ok(())
}

fn a_reload_counts_for_the_lockdown_at_once(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let settings = settings(lab)?;
    let client = start_client(lab, lab.client(), "client", &settings)?;
    for mode in ["while_up", "always", "off"] {
        let changed = settings.clone().with("lockdown.mode", mode);
        changed.write(&lab.folder().join("client.toml"))?;
        client.signal(Signal::HUP)?;
        let wanted = if mode == "off" { "off" } else { "on" };
        until("the lockdown of the new configuration", PATIENCE, || {
            Ok(status(lab, lab.client(), "client")?["lockdown"] == wanted)
        })?;
        let tables = lab.command(lab.client(), "nft")?.args(["list", "tables"]).output()?;
        let there = String::from_utf8_lossy(&tables.stdout).contains("marmot_lockdown_");
        ensure!(there == (mode != "off"), "{mode}: {tables:?}");
    }
    client.stop(Signal::TERM, PATIENCE)?;
    Ok(())
}

/// A lockdown is stronger than a rule: what is to go past the tunnel carries a mark that looks much like that of the tunnel's own sockets.
fn a_flow_that_a_rule_sends_past_the_tunnel_goes_nowhere(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let prober = Prober::start(lab.client(), &outside(lab))?;
    for (mode, leaves) in [("off", true), ("while_up", false)] {
        let rules = "[[flows.rule]]\naction = \"direct\"\nnetworks = [\"0.0.0.0/0\", \"::/0\"]\n";
        let settings = settings(lab)?.with("lockdown.mode", mode).with_text(rules)?;
        let client = start_client(lab, lab.client(), &format!("client-{mode}"), &settings)?;
        let clear = watch(lab, mode)?;
        if leaves {
            clear
                .wait_for_all()
                .context("without a lockdown the rule sends them past the tunnel")?;
        } else {
            prober.wait_rounds(5 * ROUNDS)?;
            ensure!(clear.tally()?.is_empty(), "{:#?}", clear.tally()?);
        }
        client.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

fn a_tunnel_that_ends_by_itself_leaves_the_lockdown(lab: &Lab) -> Result<()> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let before = lab.client().snapshot()?;
    let settings = settings(lab)?.with("lockdown.mode", "while_up");
    let client = start_client(lab, lab.client(), "client", &settings)?;
    let prober = Prober::start(lab.client(), &outside(lab))?;
    Users::default()
        .and("bob", PASSWORD, &[])?
        .write(&users_file(lab, lab.site()))?;
    gateway.signal(Signal::HUP)?;
    let exit = client.wait_exit(PATIENCE)?;
    ensure!(exit.code() == Some(6), "the client ended with {exit}");
    let clear = watch(lab, "kicked")?;
    prober.wait_rounds(ROUNDS)?;
    ensure!(clear.tally()?.is_empty(), "{:#?}", clear.tally()?);

    let said = order(lab, &["cleanup", "-c"], "client")?;
    ensure!(said.contains("firewall table marmot_lockdown_"), "{said}");
    clear.wait_for_all()?;
    drop(prober);
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "this is different now: {changes:#?}");
    Ok(())
}

fn always_stays_until_it_is_unlocked(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let before = lab.client().snapshot()?;
    let settings = settings(lab)?.with("lockdown.mode", "always");
    settings.write(&lab.folder().join("client.toml"))?;
    let prober = Prober::start(lab.client(), &outside(lab))?;
    // As the unit does at boot.
    order(lab, &["lockdown", "on", "-c"], "client")?;
    let clear = watch(lab, "always")?;
    let client = start_client(lab, lab.client(), "client", &settings)?;
    ping_both(lab.client(), lab.site().plan)?;
    client.stop(Signal::TERM, PATIENCE)?;
    prober.wait_rounds(ROUNDS)?;
    let said = order(lab, &["cleanup", "-c"], "client")?;
    ensure!(said.contains("`marmot cleanup --unlock` lifts it"), "{said}");
    prober.wait_rounds(ROUNDS)?;
    ensure!(clear.tally()?.is_empty(), "{:#?}", clear.tally()?);
    order(lab, &["cleanup", "--unlock", "-c"], "client")?;
    clear.wait_for_all()?;

    // Whoever is locked out is let out, also by a tunnel that runs; which does not claim then what is not there.
    let client = start_client(lab, lab.client(), "client", &settings)?;
    ensure!(status(lab, lab.client(), "client")?["lockdown"] == "on");
    order(lab, &["cleanup", "--unlock", "-c"], "client")?;
    ensure!(status(lab, lab.client(), "client")?["lockdown"] == "failed");
    let mark = client.mark();
    client.signal(Signal::USR2)?;
    client.wait_for_after(mark, "path.back", PATIENCE)?;
    ensure!(status(lab, lab.client(), "client")?["lockdown"] == "on");
    client.stop(Signal::KILL, PATIENCE)?;
    // A tunnel that is configured otherwise now leaves nothing of what was.
    let open = settings.with("lockdown.mode", "off");
    let client = start_client(lab, lab.client(), "client", &open)?;
    client.stop(Signal::TERM, PATIENCE)?;
    drop(prober);
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "this is different now: {changes:#?}");
    Ok(())
}

fn without_nft_nothing_starts_that_claims_protection(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let before = lab.client().snapshot()?;
    for mode in ["while_up", "always"] {
        let name = format!("client-{mode}");
        let settings = settings(lab)?.with("lockdown.mode", mode);
        settings.write(&lab.folder().join(format!("{name}.toml")))?;
        fails(
            lab,
            &name,
            without_nft(lab, &name)?,
            5,
            &["the lockdown cannot be put in place", "install the package nftables"],
        )?;
    }
    settings(lab)?.write(&lab.folder().join("bare.toml"))?;
    let client = lab.spawn("bare", without_nft(lab, "bare")?)?;
    client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    client.wait_for("answer on every interface", PATIENCE)?;
    ensure!(status(lab, lab.client(), "bare")?["lockdown"] == "off");
    client.stop(Signal::TERM, PATIENCE)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "this is different now: {changes:#?}");
    Ok(())
}

fn a_gateway_is_looked_up_once_and_then_remembered(lab: &Lab) -> Result<()> {
    let names = Names::serve(lab)?;
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    let settings = settings(lab)?
        .without("gateway.addresses")
        .with("lockdown.mode", "always");
    let clear = watch(lab, "names")?;
    let client = start_client(lab, lab.client(), "first", &settings)?;
    ping_both(lab.client(), lab.site().plan)?;
    let query = "dns over IPv4 to 192.0.2.1".to_owned();
    let asked = clear.tally()?;
    ensure!(asked.keys().all(|what| *what == query), "{asked:#?}");
    let packets = asked.get(&query).copied().unwrap_or_default();
    ensure!(packets == 2, "one query for each family, not {packets} packets");
    client.stop(Signal::TERM, PATIENCE)?;
    drop(names);

    let client = start_client(lab, lab.client(), "second", &settings)?;
    ensure!(clear.tally()? == asked, "nobody was asked again");
    client.stop(Signal::TERM, PATIENCE)?;
    fs::remove_file(lab.folder().join("state/site-a/gateways")).context("the addresses were kept")?;
    let silent = settings.with("lockdown.allow_dns_lookup", false);
    let client = spawn_client(lab, lab.client(), "third", &silent)?;
    client.wait_for("the lockdown lets nobody ask", PATIENCE)?;
    ensure!(clear.tally()? == asked, "nobody was asked at all");
    Ok(())
}

fn the_local_network_is_allowed_only_where_it_is_private(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &full(lab)?)?;
    for (host, device, address) in [(lab.internet(), "client", 1), (lab.client(), "eth0", 2)] {
        host.address(device, format!("192.168.7.{address}/24").parse()?)?;
    }
    let (private, public): (IpAddr, IpAddr) = ([192, 168, 7, 1].into(), [192, 0, 2, 1].into());
    let moment = Duration::from_millis(200);
    for (allowed, name) in [(true, "lenient"), (false, "strict")] {
        let settings = settings(lab)?
            .with("lockdown.mode", "while_up")
            .with("lockdown.allow_lan", allowed);
        let client = start_client(lab, lab.client(), name, &settings)?;
        if allowed {
            Ping::new(lab.client(), private).answered(PATIENCE)?;
        } else {
            Ping::new(lab.client(), private).unanswered(moment)?;
        }
        let clear = watch(lab, name)?;
        let prober = Prober::start(lab.client(), &[public])?;
        prober.wait_rounds(ROUNDS)?;
        ensure!(clear.tally()?.is_empty(), "{name}: {:#?}", clear.tally()?);
        client.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

/// A gateway that takes everything.
fn full(lab: &Lab) -> Result<Settings> {
    Ok(gateway_settings(lab, lab.site())?.without("network.routes"))
}

fn settings(lab: &Lab) -> Result<Settings> {
    client_settings(lab, lab.site())
}

/// Hosts that nobody reaches but through the tunnel; the gateway's own address is one of them.
fn outside(lab: &Lab) -> Vec<IpAddr> {
    let plan = lab.site().plan;
    vec![
        [203, 0, 113, 77].into(),
        plan.gateway_v4().into(),
        IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x77]),
        plan.gateway_v6().into(),
    ]
}

fn watch(lab: &Lab, name: &str) -> Result<Clear> {
    let gateway = SocketAddr::new(lab.site().plan.gateway_v4().into(), 443);
    Clear::watch(lab, name, &[gateway])
}

/// Runs `marmot` with these words and the settings of a client of this name; it must succeed.
fn order(lab: &Lab, words: &[&str], name: &str) -> Result<String> {
    let mut command = marmot(lab, lab.client(), words)?;
    let output = command.arg(lab.folder().join(format!("{name}.toml"))).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "marmot {}: {said}", words.join(" "));
    Ok(said)
}

/// A client where there is no nft.
fn without_nft(lab: &Lab, name: &str) -> Result<std::process::Command> {
    let ours = marmot(lab, lab.client(), &["client", "-c"])?;
    let script = "for file in /usr/sbin/nft /usr/bin/nft /usr/local/sbin/nft; do \
                  if [ -e $file ]; then mount --bind /dev/null $file || exit 77; fi; done; exec \"$@\"";
    let mut command = lab.command(lab.client(), "unshare")?;
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(ours.get_program())
        .args(ours.get_args())
        .arg(lab.folder().join(format!("{name}.toml")));
    Ok(command)
}
