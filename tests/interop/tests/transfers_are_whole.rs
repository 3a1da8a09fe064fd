//! Nothing correct is lost for speed: with offload on and off at either end, and over a way that loses and reorders, what arrives is what was
//! sent. 25 MB each way, 1 GB with MARMOT_LONG=1.
//!
//! ```text
//!   client --1 % lost, each 50th packet overtakes others--> gateway --> LAN       SHA-256 at both ends
//! ```

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::{TO_CONTROL, data_channel, ping_both};
use lab::{
    Delay, Hole, Lab, Mark, Process, Server, client_settings, gateway_settings, is_long, start_client, start_gateway,
    transfer,
};
use platform::netns::Namespace;

/// Moved each way for each of the four, in bytes.
const SHORT: u64 = 10_000_000;

/// A way on which a packet that is twice as fast overtakes some others at the rate that 1 % of loss leaves.
const WAY: Duration = Duration::from_millis(4);

/// Each packet of this number overtakes.
const OVERTAKES: u32 = 50;

/// Packets are seen twice by the host that loses them: together 1 %.
const PERMILLE: u16 = 5;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft"],
        lab::tests![
            offload_may_be_off_at_either_end,
            loss_and_reordering_change_nothing,
            loss_and_reordering_change_nothing_without_offload,
        ],
    )
}

/// Moved each way over the way that loses, in bytes.
fn bulk() -> u64 {
    if is_long() { 1_000_000_000 } else { 25_000_000 }
}

fn offload_may_be_off_at_either_end(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let plan = lab.site().plan;
    for (client, gateway) in [(true, true), (true, false), (false, true), (false, false)] {
        let (gateway_process, client_process) = ends(lab, client, gateway)?;
        ping_both(lab.client(), plan)?;
        let v4 = transfer(lab.client(), plan.host_v4(), SHORT)?;
        let v6 = transfer(lab.client(), plan.host_v6(), SHORT)?;
        lab.note(&format!(
            "offload at the client {client}, at the gateway {gateway}: IPv4 {v4}; IPv6 {v6}"
        ));
        for end in [&client_process, &gateway_process] {
            ensure!(!end.output().contains(TO_CONTROL), "{} needed TLS", end.name());
        }
        for end in [client_process, gateway_process] {
            end.stop(lab::Signal::TERM, lab::PATIENCE)?;
        }
    }
    Ok(())
}

fn loss_and_reordering_change_nothing(lab: &Lab) -> Result<()> {
    over_a_bad_way(lab, true)
}

fn loss_and_reordering_change_nothing_without_offload(lab: &Lab) -> Result<()> {
    over_a_bad_way(lab, false)
}

fn over_a_bad_way(lab: &Lab, offload: bool) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let _ends = ends(lab, offload, offload)?;
    let _way = Delay::reordering(lab, WAY, OVERTAKES)?;
    let _hole = Hole::for_some_udp(lab, PERMILLE)?;
    let hosts = [&lab.site().lan, lab.client()];
    let before = hosts.map(Disorder::of);
    let to: IpAddr = lab.site().plan.host_v4().into();
    let rates = transfer(lab.client(), to, bulk())?;
    lab.note(&format!("{} MB each way: {rates}", bulk() / 1_000_000));
    // A way that neither loses nor reorders would show nothing.
    for ((host, before), name) in hosts.into_iter().zip(before).zip(["LAN", "client"]) {
        let (before, after) = (before?, Disorder::of(host)?);
        let (late, again) = (
            after.out_of_order - before.out_of_order,
            after.sent_again - before.sent_again,
        );
        lab.note(&format!("{name}: {late} segments out of order, {again} sent again"));
        ensure!(late > 20 && again > 20, "the way is too good");
    }
    Ok(())
}

/// What TCP of a host has seen so far.
struct Disorder {
    out_of_order: u64,
    sent_again: u64,
}

impl Disorder {
    fn of(host: &Namespace) -> Result<Self> {
        Ok(Self {
            out_of_order: counter(host, "netstat", "TcpExt", "TCPOFOQueue")?,
            sent_again: counter(host, "snmp", "Tcp", "RetransSegs")?,
        })
    }
}

/// A counter of the kernel: a line of names, and below it one of numbers.
fn counter(host: &Namespace, file: &str, table: &str, name: &str) -> Result<u64> {
    let text = host.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))?;
    let text = text.with_context(|| format!("cannot read {file}"))?;
    let mut rows = text.lines().filter(|line| line.split(':').next() == Some(table));
    let (names, numbers) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
    let at = names.split_whitespace().position(|word| word == name);
    let number = at.and_then(|at| numbers.split_whitespace().nth(at));
    number
        .with_context(|| format!("the kernel does not count {name}"))?
        .parse()
        .context("a counter is a number")
}

/// A gateway and a client whose packets take the data channel.
fn ends(lab: &Lab, client: bool, gateway: bool) -> Result<(Process, Process)> {
    let settings = gateway_settings(lab, lab.site())?.with("network.offload", gateway);
    let gateway = start_gateway(lab, lab.site(), &format!("gateway-{client}-{gateway}"), &settings)?;
    let settings = client_settings(lab, lab.site())?.with("tunnel.offload", client);
    let client = start_client(lab, lab.client(), &format!("client-{client}"), &settings)?;
    data_channel(&client, Mark::default())?;
    Ok((gateway, client))
}
