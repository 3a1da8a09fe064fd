//! The network around a client that is up changes: its ways out, its addresses, the networks it is in, its rules, and where the gateway is.
//!
//! ```text
//!   client eth0 192.0.2.2     ----+
//!          eth1 198.18.250.2  ----+---- internet ---- gateway        roaming: at most 1 s without an answer, and one session
//! ```

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{BESIDE, Counts, MOVED, TO_DATA, Wires, data_channel, field};
use lab::{
    Direction, Lab, Mark, Names, PATIENCE, Ping, Process, Pulse, Settings, Stream, Times, Translator, UPLINK, Uplink,
    Uplinks, client_settings, gateway_settings, is_long, ms, start_client, start_gateway, synthesized, until,
};
use platform::netns::Namespace;

/// Packets are answered again within this long of a change of the address.
const OUTAGE: Duration = Duration::from_secs(1);

/// The kernel may tell of a cable this much later (linkwatch tells once a second).
const LINKWATCH: Duration = Duration::from_secs(1);

/// What the client says of each look at the network.
const LOOKED: &str = "the network of this host has changed";

/// What it says when it puts back what is its own.
const PUT_BACK: &str = "it was put back";

/// What it says of another plan.
const REPLANNED: &str = "the networks of this host have changed, and the routes of the tunnel with them";

/// A gateway that is gone is looked for elsewhere within this long: ten seconds until nobody believes in it any more, one until its name is asked
/// for, and what a busy machine takes.
const FOUND: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft"],
        lab::tests![
            a_session_roams_with_the_default_route,
            a_session_roams_when_its_address_is_taken,
            a_session_roams_when_its_cable_is_pulled,
            a_session_of_tls_alone_roams_too,
            a_route_that_flaps_costs_a_bounded_number_of_looks,
            a_network_that_is_back_is_used_at_once,
            a_network_inside_a_granted_one_is_reached_while_it_is_there,
            what_somebody_takes_off_the_host_is_put_back,
            a_gateway_that_has_moved_is_found_by_its_name,
            a_host_that_loses_ipv4_goes_on_over_ipv6,
            a_gateway_of_ipv4_is_reached_through_a_translator,
        ],
    )
}

fn a_session_roams_with_the_default_route(lab: &Lab) -> Result<()> {
    roams(lab, ("default route", OUTAGE), &|uplinks, to| {
        let at = Instant::now();
        match to {
            Uplink::Second => uplinks.prefer_second()?,
            Uplink::First => uplinks.prefer_first()?,
        }
        Ok(at)
    })
}

fn a_session_roams_when_its_address_is_taken(lab: &Lab) -> Result<()> {
    roams(lab, ("address", OUTAGE), &|uplinks, to| {
        let at = Instant::now();
        match to {
            Uplink::Second => uplinks.take_address(Uplink::First)?,
            Uplink::First => uplinks.give_address(Uplink::First)?,
        }
        Ok(at)
    })
}

fn a_session_roams_when_its_cable_is_pulled(lab: &Lab) -> Result<()> {
    roams(lab, ("cable", OUTAGE + LINKWATCH), &|uplinks, to| match to {
        Uplink::Second => {
            let at = Instant::now();
            uplinks.pull(Uplink::First)?;
            Ok(at)
        }
        Uplink::First => uplinks.plug(Uplink::First),
    })
}

/// Both ends with the data channel in use, on a client's host with two ways out.
fn ends<'a>(lab: &'a Lab) -> Result<(Uplinks<'a>, Process, Process)> {
    let uplinks = Uplinks::lay(lab)?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    data_channel(&client, Mark::default())?;
    Ok((uplinks, gateway, client))
}

/// There and back under load, again and again: one session, no login, and hardly an outage.
fn roams(
    lab: &Lab,
    (what, longest): (&str, Duration),
    change: &dyn Fn(&Uplinks<'_>, Uplink) -> Result<Instant>,
) -> Result<()> {
    let (uplinks, gateway, client) = ends(lab)?;
    let site = lab.site();
    let wires = wires(lab)?;
    let before = total(&wires)?;
    let up = Stream::start(lab.client(), &site.lan, site.plan.host_v4(), Direction::Up)?;
    let down = Stream::start(lab.client(), &site.lan, site.plan.host_v4(), Direction::Down)?;
    let (mut outages, mut told) = (Times::default(), Vec::new());
    let switches = if is_long() { 10 } else { 4 };
    for switch in 0..switches {
        let to = if switch % 2 == 0 { Uplink::Second } else { Uplink::First };
        let pulse = Pulse::start(lab.client(), site.plan.host_v4())?;
        pulse.wait_answered(20)?;
        let mark = gateway.mark();
        let at = change(&uplinks, to)?;
        let moved = gateway.wait_for_line(mark, &[MOVED], PATIENCE)?;
        ensure!(moved.contains(&to.address().to_string()), "{moved}");
        // What goes wrong later is part of it.
        until("two seconds", PATIENCE, || Ok(at.elapsed() >= Duration::from_secs(2)))?;
        let outage = pulse.outage_since(at);
        told.push(ms(outage));
        outages.push(outage);
    }
    let moved = (up.received(), down.received());
    let after = total(&wires)?;
    lab.note(&format!(
        "{what}, {switches} times under load: outage median {} ms, longest {} ms ({}); {} MB up, {} MB down; {} connections, {} hellos",
        ms(outages.median()),
        ms(outages.longest()),
        told.join(", "),
        moved.0 / 1_000_000,
        moved.1 / 1_000_000,
        after.connects - before.connects,
        after.hellos - before.hellos
    ));
    ensure!(
        outages.median() <= OUTAGE,
        "{what}: {} ms in the middle",
        ms(outages.median())
    );
    ensure!(
        outages.longest() <= longest,
        "{what}: {} ms without an answer",
        ms(outages.longest())
    );
    // Each switch has the control connection made anew, and with it the keys; no more. A hello is said twice, because of the cookie.
    let connects = after.connects - before.connects;
    ensure!(connects <= switches + 2, "{connects} connections");
    ensure!(
        after.hellos - before.hellos <= 3 * (switches + 2),
        "{} hellos",
        after.hellos - before.hellos
    );
    up.end()?;
    down.end()?;
    one_session(&client, &gateway)
}

fn wires(lab: &Lab) -> Result<Wires<'_>> {
    let gateway = lab.site().plan.gateway_v4();
    Wires::watch(lab, &[("client", gateway), (UPLINK, gateway)])
}

fn total(wires: &Wires<'_>) -> Result<Counts> {
    let sum = |sum: Counts, one: Counts| Counts {
        connects: sum.connects + one.connects,
        hellos: sum.hellos + one.hellos,
        heartbeats: sum.heartbeats + one.heartbeats,
        packets: sum.packets + one.packets,
    };
    Ok(wires.counts()?.into_iter().fold(Counts::default(), sum))
}

/// The session that was there is there, and no other ever was.
fn one_session(client: &Process, gateway: &Process) -> Result<()> {
    for (end, name) in [(client, "client"), (gateway, "gateway")] {
        let (starts, ends) = (end.count(&["session.start"]), end.count(&["session.end"]));
        ensure!(
            (starts, ends) == (1, 0),
            "{name}: {starts} sessions began, {ends} ended"
        );
    }
    Ok(())
}

fn a_session_of_tls_alone_roams_too(lab: &Lab) -> Result<()> {
    let uplinks = Uplinks::lay(lab)?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let settings = client_settings(lab, lab.site())?.with("dtls.enabled", false);
    let client = start_client(lab, lab.client(), "client", &settings)?;
    let mut outages = Times::default();
    for to in [Uplink::Second, Uplink::First] {
        let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
        pulse.wait_answered(20)?;
        let mark = client.mark();
        let mut at = Instant::now();
        match to {
            Uplink::Second => uplinks.pull(Uplink::First)?,
            Uplink::First => at = uplinks.plug(Uplink::First)?,
        }
        client.wait_for_line(mark, &["path.back"], PATIENCE)?;
        pulse.wait_answered(20)?;
        outages.push(pulse.outage_since(at));
    }
    lab.note(&format!("outage of TLS alone: longest {} ms", ms(outages.longest())));
    // A handshake takes longer than a datagram, on a busy machine more so.
    ensure!(outages.longest() <= OUTAGE + BESIDE, "{} ms", ms(outages.longest()));
    one_session(&client, &gateway)
}

fn a_route_that_flaps_costs_a_bounded_number_of_looks(lab: &Lab) -> Result<()> {
    const FLAPS: usize = 50;
    let (uplinks, gateway, client) = ends(lab)?;
    let wires = wires(lab)?;
    let before = total(&wires)?;
    let (mark, began) = (client.mark(), Instant::now());
    for flap in 0..FLAPS {
        match flap % 2 {
            0 => uplinks.prefer_second()?,
            _ => uplinks.prefer_first()?,
        }
        let next = Duration::from_millis(100) * (flap as u32 + 1);
        until("the next flap", PATIENCE, || Ok(began.elapsed() >= next))?;
    }
    let took = began.elapsed();
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    pulse.wait_answered(50)?;
    until("a last look", PATIENCE, || {
        Ok(began.elapsed() >= took + Duration::from_secs(1))
    })?;
    let (looks, after) = (client.count_since(mark, &[LOOKED]), total(&wires)?);
    let connects = after.connects - before.connects;
    lab.note(&format!(
        "{FLAPS} flaps in {} ms: {looks} looks, {connects} connections",
        ms(took)
    ));
    // Four a second, and a little more in the beginning.
    let most = (took.as_secs_f64() * 4.0) as usize + 8;
    ensure!(looks > 0 && looks <= most, "{looks} looks");
    // The budget of connections has eight.
    ensure!(connects <= 9, "{connects} connections");
    one_session(&client, &gateway)
}

fn a_network_that_is_back_is_used_at_once(lab: &Lab) -> Result<()> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let settings = client_settings(lab, lab.site())?
        .with("dtls.enabled", false)
        .with("log.level", "debug");
    let client = start_client(lab, lab.client(), "client", &settings)?;
    let mark = client.mark();
    lab.client().down("eth0")?;
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    // Long enough that waits between attempts have grown.
    client.wait_for_line(mark, &["trying again"], Duration::from_secs(60))?;
    let down = Instant::now();
    until("some attempts", PATIENCE, || {
        Ok(down.elapsed() >= Duration::from_secs(8))
    })?;
    let answered = pulse.answered();
    lab.client().up("eth0")?;
    lab.client().settle()?;
    let back = Instant::now();
    lab.client().default_route("192.0.2.1".parse()?)?;
    until("an answer", PATIENCE, || Ok(pulse.answered() > answered))?;
    let took = back.elapsed();
    lab.note(&format!("answered {} ms after the network is back", ms(took)));
    ensure!(took <= OUTAGE + BESIDE, "{} ms", ms(took));
    one_session(&client, &gateway)
}

fn a_network_inside_a_granted_one_is_reached_while_it_is_there(lab: &Lab) -> Result<()> {
    let routes = vec!["10.77.0.0/24".to_owned(), "10.99.0.0/16".to_owned()];
    let settings = gateway_settings(lab, lab.site())?.with("network.routes", routes);
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    data_channel(&client, Mark::default())?;
    let before = lab.client().snapshot()?;
    let neighbour = Namespace::create()?;
    let mut times = Times::default();
    for _ in 0..3 {
        let mark = client.mark();
        lab.client().veth(&neighbour, "near", "near")?;
        neighbour.address("near", "10.99.5.2/24".parse()?)?;
        neighbour.up("near")?;
        lab.client().up("near")?;
        let came = Instant::now();
        lab.client().address("near", "10.99.5.1/24".parse()?)?;
        Ping::new(lab.client(), "10.99.5.2".parse::<std::net::IpAddr>()?).answered(PATIENCE)?;
        times.push(came.elapsed());
        client.wait_for_line(mark, &[REPLANNED], PATIENCE)?;
        ensure!(
            recorded(lab)?.contains("10.99.5.0/24"),
            "what it takes to undo it is written down"
        );

        let mark = client.mark();
        lab.client().delete("near")?;
        client.wait_for_line(mark, &[REPLANNED], PATIENCE)?;
        until("the exception gone", PATIENCE, || {
            Ok(before.changes(&lab.client().snapshot()?).is_empty())
        })?;
        ensure!(!recorded(lab)?.contains("10.99.5.0/24"), "and that it is gone");
    }
    lab.note(&format!(
        "a network that came was reached {} ms later, {} ms at most",
        ms(times.median()),
        ms(times.longest())
    ));
    one_session(&client, &gateway)
}

/// The records of sessions that are up.
fn recorded(lab: &Lab) -> Result<String> {
    fn read(folder: &std::path::Path, all: &mut String) -> Result<()> {
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, all)?;
            } else if path.parent().is_some_and(|parent| parent.ends_with("open")) {
                all.push_str(&String::from_utf8_lossy(&fs::read(&path)?));
            }
        }
        Ok(())
    }
    let mut all = String::new();
    read(&lab.folder().join("state"), &mut all).context("cannot read the records")?;
    ensure!(!all.is_empty(), "there is no record");
    Ok(all)
}

fn what_somebody_takes_off_the_host_is_put_back(lab: &Lab) -> Result<()> {
    let (uplinks, gateway, client) = ends(lab)?;
    let before = lab.client().snapshot()?;
    let device = lab::client_interface(lab.site());
    let same = |what: &str| {
        until(what, PATIENCE, || {
            Ok(before.changes(&lab.client().snapshot()?).is_empty())
        })
    };
    let mark = client.mark();
    let at = Instant::now();
    for family in ["-4", "-6"] {
        uplinks.ip(&[family, "rule", "delete", "pref", "10000"])?;
    }
    same("the rules")?;
    let took = at.elapsed();
    client.wait_for_line(mark, &[PUT_BACK], PATIENCE)?;
    uplinks.ip(&["route", "flush", "table", "27904"])?;
    same("the routes")?;
    uplinks.ip(&["link", "set", "dev", &device, "down"])?;
    same("the device")?;
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;

    // Somebody who does it again and again has the last word.
    let mark = client.mark();
    let gave_up = || client.count_since(mark, &["again and again"]) > 0;
    let began = Instant::now();
    let mut taken = 0;
    while !gave_up() && began.elapsed() < PATIENCE {
        same("the rules").or_else(|error| if gave_up() { Ok(()) } else { Err(error) })?;
        if !gave_up() && uplinks.ip(&["rule", "delete", "pref", "10000"]).is_ok() {
            taken += 1;
            until("the rule back", PATIENCE, || {
                Ok(gave_up() || before.changes(&lab.client().snapshot()?).is_empty())
            })?;
        }
    }
    lab.note(&format!(
        "put back after {} ms; after {taken} more times not at once",
        ms(took)
    ));
    ensure!(gave_up() && taken <= 12, "it was taken {taken} times");
    one_session(&client, &gateway)
}

fn a_gateway_that_has_moved_is_found_by_its_name(lab: &Lab) -> Result<()> {
    let names = Names::serve(lab)?;
    let plan = lab.site().plan;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let settings = client_settings(lab, lab.site())?.without("gateway.addresses");
    let client = start_client(lab, lab.client(), "client", &settings)?;
    data_channel(&client, Mark::default())?;
    let pulse = Pulse::every(Duration::from_millis(50), lab.client(), plan.host_v4())?;
    pulse.wait_answered(5)?;
    let [a, b, c, _] = plan.gateway_v4().octets();
    let new = std::net::Ipv4Addr::new(a, b, c, 77);
    let mark = client.mark();
    names.point_to(new);
    lab.site().gateway.address("wan", format!("{new}/24").parse()?)?;
    let at = Instant::now();
    let old = format!("{}/24", plan.gateway_v4());
    // Or the kernel would take the new address away with the old one, and the routes with both.
    let promoted = lab
        .site()
        .gateway
        .run(|| fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "1"))?;
    promoted.context("cannot have the new address stay")?;
    let mut command = lab.command(&lab.site().gateway, "ip")?;
    let status = command.args(["address", "delete", &old, "dev", "wan"]).status();
    ensure!(status.context("run ip")?.success(), "the gateway cannot leave");
    client.wait_for_line(mark, &["path.back", &new.to_string()], PATIENCE + FOUND)?;
    let found = at.elapsed();
    pulse.wait_answered(5)?;
    lab.note(&format!("found at its other address {} ms after it left", ms(found)));
    ensure!(found <= FOUND, "{} ms", ms(found));
    one_session(&client, &gateway)
}

fn a_host_that_loses_ipv4_goes_on_over_ipv6(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let addresses = vec![plan.gateway_v4().to_string(), plan.gateway_v6().to_string()];
    let settings = client_settings(lab, lab.site())?.with("gateway.addresses", addresses);
    let client = start_client(lab, lab.client(), "client", &settings)?;
    data_channel(&client, Mark::default())?;
    let pulse = Pulse::start(lab.client(), plan.host_v4())?;
    pulse.wait_answered(20)?;
    let mark = client.mark();
    let at = Instant::now();
    ipv6_alone(lab)?;
    client.wait_for_line(mark, &["path.back", &plan.gateway_v6().to_string()], PATIENCE)?;
    pulse.wait_answered(20)?;
    let outage = pulse.outage_since(at);
    lab.note(&format!("outage from the loss of IPv4 to IPv6: {} ms", ms(outage)));
    // Another address of the gateway is another data channel, whose packets take TLS until its handshake is over.
    ensure!(outage <= OUTAGE + BESIDE, "{} ms", ms(outage));
    one_session(&client, &gateway)
}

/// Takes all of IPv4 off the client's cable.
fn ipv6_alone(lab: &Lab) -> Result<()> {
    let mut command = lab.command(lab.client(), "ip")?;
    let status = command.args(["-4", "address", "flush", "dev", "eth0"]).status();
    ensure!(status.context("run ip")?.success(), "IPv4 stays");
    Ok(())
}

fn a_gateway_of_ipv4_is_reached_through_a_translator(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    let well_known = synthesized("192.0.0.170".parse()?);
    let _names = Names::serve_behind_translator(lab, well_known)?;
    let translator = Translator::start(lab)?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    ipv6_alone(lab)?;
    // By a name that has IPv4 alone, then by an address.
    let by_name: Settings = client_settings(lab, lab.site())?.without("gateway.addresses");
    let by_address = client_settings(lab, lab.site())?;
    for (name, settings) in [("by-name", by_name), ("by-address", by_address)] {
        let before = translator.carried();
        let client = start_client(lab, lab.client(), name, &settings)?;
        let peer = field(&client, Mark::default(), &["session.start"], "peer")?;
        ensure!(peer == synthesized(plan.gateway_v4()).to_string(), "{peer}");
        client.wait_for(TO_DATA, PATIENCE)?;
        Ping::new(lab.client(), plan.host_v4()).answered(PATIENCE)?;
        let carried = translator.carried();
        lab.note(&format!(
            "{name}: {} connections and {} datagrams through the translator",
            carried.0 - before.0,
            carried.1 - before.1
        ));
        ensure!(carried.0 > before.0 && carried.1 > before.1, "it went another way");
        client.stop(lab::Signal::TERM, PATIENCE)?;
    }
    ensure!(gateway.is_running(), "the gateway ended");
    Ok(())
}
