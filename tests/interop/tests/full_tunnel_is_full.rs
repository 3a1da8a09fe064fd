//! Full and split tunnels over both families; and what somebody who runs the local network, or shares it, can do about them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::tunnel_address;
use lab::{
    Capture, Clear, Lab, PATIENCE, Ping, Prober, Process, Settings, Signal, client_interface, client_settings,
    gateway_settings, start_client, start_gateway, until,
};
use platform::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

/// Rounds of the prober that must pass in each state: 0.2 s.
const ROUNDS: u64 = 20;

/// A network that is nobody's here (RFC 5737), and a host in it.
const PUBLIC: &str = "203.0.113.0/24";
const VICTIM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft", "tcpdump"],
        lab::tests![
            full_and_split_over_each_family_leave_the_host_as_it_was,
            tunnelcrack_local_net_a_public_network_on_the_cable_gets_nothing,
            tunnelcrack_server_ip_no_destination_is_an_exception,
            cve_2019_14899_a_stranger_at_the_tunnels_address_gets_no_answer,
            dhcp_option_121_an_injected_route_carries_nothing,
            another_vpns_rule_is_reported_and_left_alone,
        ],
    )
}

fn full_and_split_over_each_family_leave_the_host_as_it_was(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    let before = lab.client().snapshot()?;
    // What is inside, and what it is carried over: every family in the other one, and both in each.
    let cases = [
        (true, false, plan.gateway_v6().into()),
        (false, true, plan.gateway_v4().into()),
        (true, true, IpAddr::from(plan.gateway_v4())),
        (true, true, plan.gateway_v6().into()),
    ];
    for (v4, v6, over) in cases {
        for full in [true, false] {
            let name = format!("{}{}-{}", i32::from(v4), i32::from(v6), i32::from(full));
            let name = format!("{name}-over-{}", if over.is_ipv4() { "4" } else { "6" });
            let mut settings = gateway_settings(lab, lab.site())?.without("network.dns");
            let mut routes = Vec::new();
            if v4 {
                routes.push(plan.lan_v4().to_string());
            } else {
                settings = settings.with("pool.ipv4", "");
            }
            if v6 {
                routes.push(plan.lan_v6().to_string());
            } else {
                settings = settings.with("pool.ipv6", "");
            }
            settings = if full {
                settings.without("network.routes")
            } else {
                settings.with("network.routes", routes)
            };
            let gateway = start_gateway(lab, lab.site(), &format!("gateway-{name}"), &settings)?;
            let ours = client_settings(lab, lab.site())?.with("gateway.addresses", vec![over.to_string()]);
            let client = start_client(lab, lab.client(), &name, &ours)?;
            let inside: Vec<IpAddr> = [(v4, plan.host_v4().into()), (v6, plan.host_v6().into())]
                .into_iter()
                .filter_map(|(there, host)| there.then_some(host))
                .collect();
            for host in inside {
                Ping::new(lab.client(), host)
                    .answered(PATIENCE)
                    .with_context(|| name.clone())?;
            }
            // The address of the gateway itself is one like any other to programs of this host.
            for (there, address) in [(v4, plan.gateway_v4().into()), (v6, IpAddr::from(plan.gateway_v6()))] {
                let device = leaves_by(lab, address)?;
                let tunnelled = device == client_interface(lab.site());
                ensure!(tunnelled == (there && full), "{name}: {address} leaves by {device}");
            }
            client.stop(Signal::TERM, PATIENCE)?;
            let changes = before.changes(&lab.client().snapshot()?);
            ensure!(changes.is_empty(), "{name}: this is different now: {changes:#?}");
            gateway.stop(Signal::TERM, PATIENCE)?;
        }
    }
    Ok(())
}

fn tunnelcrack_local_net_a_public_network_on_the_cable_gets_nothing(lab: &Lab) -> Result<()> {
    let _gateway = full_gateway(lab)?;
    for (host, device, number) in [(lab.internet(), "client", 1), (lab.client(), "eth0", 5)] {
        host.address(device, format!("203.0.113.{number}/24").parse()?)?;
        host.address(device, format!("192.168.7.{number}/24").parse()?)?;
    }
    let home = Ipv4Addr::new(192, 168, 7, 1);
    for (local, public, private) in [("all", true, true), ("private", false, true), ("never", false, false)] {
        let settings = client_settings(lab, lab.site())?.with("session.local_networks", local);
        let client = start_client(lab, lab.client(), local, &settings)?;
        let clear = watch(lab, &format!("{local}-clear"))?;
        let prober = Prober::start(lab.client(), &[Ipv4Addr::new(203, 0, 113, 1).into(), home.into()])?;
        prober.wait_rounds(ROUNDS)?;
        for (network, leaves) in [("203.0.113.1", public), ("192.168.7.1", private)] {
            let count = || -> Result<usize> {
                let tally = clear.tally()?;
                Ok(tally
                    .iter()
                    .filter(|(what, _)| what.ends_with(network))
                    .map(|(_, count)| count)
                    .sum())
            };
            if leaves {
                until("clear packets", PATIENCE, || Ok(count()? > 0))?;
            } else {
                ensure!(count()? == 0, "{local}: {:#?}", clear.tally()?);
            }
        }
        if private {
            Ping::new(lab.client(), home).answered(PATIENCE)?;
        }
        drop(prober);
        client.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

fn tunnelcrack_server_ip_no_destination_is_an_exception(lab: &Lab) -> Result<()> {
    let _gateway = full_gateway(lab)?;
    let plan = lab.site().plan;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    Ping::new(lab.client(), plan.host_v4()).answered(PATIENCE)?;
    let clear = watch(lab, "clear")?;
    // A name server that lies makes the gateway's address that of a victim. What programs send there is not the tunnel's own.
    let prober = Prober::start(lab.client(), &[plan.gateway_v4().into(), plan.gateway_v6().into()])?;
    prober.wait_rounds(2 * ROUNDS)?;
    ensure!(clear.tally()?.is_empty(), "{:#?}", clear.tally()?);
    ensure!(leaves_by(lab, plan.gateway_v4().into())? == client_interface(lab.site()));
    drop(prober);
    client.stop(Signal::TERM, PATIENCE)?;
    Ok(())
}

fn cve_2019_14899_a_stranger_at_the_tunnels_address_gets_no_answer(lab: &Lab) -> Result<()> {
    let _gateway = full_gateway(lab)?;
    let device = client_interface(lab.site());
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    let inside = tunnel_address(lab.client(), &device)?;
    let router = Ipv4Addr::new(192, 0, 2, 1);
    lab.internet().route(
        format!("{inside}/32").parse()?,
        Some(Ipv4Addr::new(192, 0, 2, 2).into()),
        None,
    )?;
    // A reset goes to the prober, whichever way: the tunnel is where the attack of 2019 hears of it, by the length of what is sealed.
    let resets = format!("tcp[tcpflags] & tcp-rst != 0 and src host {inside}");
    let wires = [
        Capture::start(lab, lab.client(), &device, &resets, "in-the-tunnel")?,
        Capture::start(lab, lab.client(), "eth0", &resets, "on-the-cable")?,
    ];
    let heard = || -> Result<usize> { Ok(wires[0].packets()?.len() + wires[1].packets()?.len()) };
    let probe = || syn_ack(lab.internet(), router, inside);

    for _ in 0..50 {
        probe()?;
    }
    until("the guard to see the probes", PATIENCE, || Ok(strangers(lab)? >= 50))?;
    ensure!(heard()? == 0, "a probe was answered");
    // Without the guard the kernel answers, so this test can fail.
    nft(lab, &["delete", "table", "inet", "marmot_guard_0"])?;
    until("an answer", PATIENCE, || {
        probe()?;
        Ok(heard()? > 0)
    })?;
    client.stop(Signal::TERM, PATIENCE)?;
    Ok(())
}

fn dhcp_option_121_an_injected_route_carries_nothing(lab: &Lab) -> Result<()> {
    let _gateway = full_gateway(lab)?;
    for (local, leaks) in [("private", false), ("all", true)] {
        let settings = client_settings(lab, lab.site())?.with("session.local_networks", local);
        let client = start_client(lab, lab.client(), local, &settings)?;
        let clear = watch(lab, &format!("{local}-clear"))?;
        // What a lease may carry: one network, or half of everything twice.
        for net in [PUBLIC, "0.0.0.0/1", "128.0.0.0/1"] {
            ip(
                lab,
                &["route", "add", net, "via", "192.0.2.1", "dev", "eth0", "proto", "dhcp"],
            )?;
        }
        let prober = Prober::start(lab.client(), &[VICTIM.into()])?;
        prober.wait_rounds(ROUNDS)?;
        if leaks {
            until("clear packets", PATIENCE, || Ok(!clear.tally()?.is_empty()))?;
        } else {
            ensure!(clear.tally()?.is_empty(), "{:#?}", clear.tally()?);
        }
        drop(prober);
        for net in [PUBLIC, "0.0.0.0/1", "128.0.0.0/1"] {
            ip(lab, &["route", "delete", net, "proto", "dhcp"])?;
        }
        client.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

fn another_vpns_rule_is_reported_and_left_alone(lab: &Lab) -> Result<()> {
    let _gateway = full_gateway(lab)?;
    ip(lab, &["route", "add", "default", "via", "192.0.2.1", "table", "1000"])?;
    ip(
        lab,
        &[
            "rule", "add", "not", "fwmark", "0x1", "table", "1000", "priority", "5000",
        ],
    )?;
    // One that does not take everything is no rival.
    ip(
        lab,
        &[
            "rule",
            "add",
            "to",
            "198.18.0.0/15",
            "table",
            "1000",
            "priority",
            "5001",
        ],
    )?;
    let before = lab.client().snapshot()?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    client.wait_for("a rule that is not ours comes first", PATIENCE)?;
    ensure!(client.count(&["a rule that is not ours", "rule 5000"]) == 1);
    ensure!(client.count(&["a rule that is not ours", "rule 5001"]) == 0);
    client.stop(Signal::TERM, PATIENCE)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "this is different now: {changes:#?}");
    Ok(())
}

/// A gateway that takes everything.
fn full_gateway(lab: &Lab) -> Result<Process> {
    let settings: Settings = gateway_settings(lab, lab.site())?.without("network.routes");
    start_gateway(lab, lab.site(), "gateway", &settings)
}

fn watch(lab: &Lab, name: &str) -> Result<Clear> {
    let gateway = SocketAddr::new(lab.site().plan.gateway_v4().into(), 443);
    Clear::watch(lab, name, &[gateway])
}

/// The device by which an ordinary program's packet to `address` leaves the client's host.
fn leaves_by(lab: &Lab, address: IpAddr) -> Result<String> {
    let said = ip(lab, &["route", "get", &address.to_string()])?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "dev").skip(1);
    Ok(words.next().context("a route names its device")?.to_owned())
}

fn ip(lab: &Lab, arguments: &[&str]) -> Result<String> {
    said(lab, "ip", arguments)
}

fn nft(lab: &Lab, arguments: &[&str]) -> Result<String> {
    said(lab, "nft", arguments)
}

fn said(lab: &Lab, program: &str, arguments: &[&str]) -> Result<String> {
    let output = lab.command(lab.client(), program)?.args(arguments).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(said)
}

/// Packets that the guard has dropped.
fn strangers(lab: &Lab) -> Result<u64> {
    let said = nft(lab, &["list", "counter", "inet", "marmot_guard_0", "strangers"])?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().context("a counter counts")?.parse().context("a number")
}

/// Sends a SYN-ACK that belongs to no connection of the host there.
fn syn_ack(from: &Namespace, source: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    let socket = from.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)))?;
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&443_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&40_000_u16.to_be_bytes());
    // Any sequence numbers; five words of header, SYN and ACK, a window.
    segment[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    segment[12..16].copy_from_slice(&[0x50, 0x12, 0x20, 0]);
    let mut sum: u32 = 6 + 20;
    let pseudo = [source.octets(), to.octets()].concat();
    for pair in pseudo.chunks(2).chain(segment.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    socket?.send_to(&segment, &SocketAddr::new(to.into(), 0).into())?;
    Ok(())
}
