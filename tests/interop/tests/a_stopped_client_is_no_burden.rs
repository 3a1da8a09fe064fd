//! A client that does not run while the LAN sends to it: the gateway drops, and neither loses the connection nor its memory.
//!
//! ```text
//!   A10  100 Mbit/s towards a stopped client, 10 s (60 s in the long run)
//!        on DTLS   at most 4 KiB wait on the control connection
//!        on TLS    what waits is limited, and the connection lives
//! ```
//! A busy host may send less: half of it must have arrived at the gateway.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{Sleeping, addresses, only_connection, ping_both};
use lab::{Lab, Meter, Signal, is_long, send_queue};

/// What may wait on the control connection of a client that does not run, in bytes.
const OUTSTANDING: u64 = 4 << 10;

/// On the TLS fallback: the limit of what is unsent (16 KiB), a window of what is sent, and records on the way.
const OUTSTANDING_TLS: u64 = 1 << 20;

/// What the gateway may grow by for one parked session and a flood, in KiB; the figure is 16 KiB for each of many.
const GROWTH_KIB: u64 = 1 << 10;

/// Bytes of a datagram, and how many make 100 Mbit/s in a millisecond.
const DATAGRAM: usize = 1250;
const PER_MS: u32 = 10;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft"],
        lab::tests![
            a_flood_towards_a_stopped_client_leaves_its_control_connection_empty,
            a_flood_towards_a_stopped_client_on_tls_does_not_end_it,
        ],
    )
}

fn a_flood_towards_a_stopped_client_leaves_its_control_connection_empty(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    flooded(lab, &ends, OUTSTANDING)
}

fn a_flood_towards_a_stopped_client_on_tls_does_not_end_it(lab: &Lab) -> Result<()> {
    // A user timeout that would kill it within the flood, were it to see a full window.
    let ends = Sleeping::start(
        lab,
        |settings| settings,
        |settings| settings.with("dtls.enabled", false),
    )?;
    flooded(lab, &ends, OUTSTANDING_TLS)
}

fn flooded(lab: &Lab, ends: &Sleeping<'_>, most: u64) -> Result<()> {
    let length = Duration::from_secs(if is_long() { 60 } else { 10 });
    let addresses = addresses(&ends.client)?;
    let to: Ipv4Addr = addresses
        .split(['/', ',', ' ', '[', ']'])
        .find_map(|word| word.parse().ok())
        .context("the client has an address")?;
    let connection = only_connection(&ends.client)?;
    let before = ends.gateway.resident_kib()?;
    ends.client.stand_still()?;
    let socket = lab.site().lan.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let flood = Meter::start(
        lab,
        &lab.site().gateway,
        &[format!("iifname lan ip daddr {to} udp dport 9")],
    )?;
    let (began, mut sent, mut outstanding, mut looked) = (Instant::now(), 0_u64, 0, Instant::now());
    while began.elapsed() < length {
        let due = began.elapsed().as_millis() as u64 * u64::from(PER_MS);
        while sent < due {
            // What the host cannot send is part of the flood that was not.
            let _ = socket.send_to(&[0; DATAGRAM], SocketAddr::from((to, 9)));
            sent += 1;
        }
        if looked.elapsed() > Duration::from_millis(100) {
            looked = Instant::now();
            outstanding = outstanding.max(send_queue(&lab.site().gateway, 443)?);
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    let grown = ends.gateway.resident_kib()?.saturating_sub(before);
    let arrived = flood.packets()?[0];
    lab.note(&format!(
        "{arrived} of {sent} datagrams in {} s: at most {outstanding} bytes outstanding, the gateway grew by {grown} KiB",
        length.as_secs()
    ));
    let wanted = length.as_millis() as u64 * u64::from(PER_MS);
    ensure!(arrived >= wanted / 2, "{arrived} datagrams are no flood of {wanted}");
    ensure!(outstanding <= most, "{outstanding} bytes outstanding");
    ensure!(grown <= GROWTH_KIB, "{grown} KiB");
    ends.client.signal(Signal::CONT)?;
    ping_both(lab.client(), lab.site().plan)?;
    ensure!(only_connection(&ends.client)? == connection, "the same TCP connection");
    ends.same_session()
}
