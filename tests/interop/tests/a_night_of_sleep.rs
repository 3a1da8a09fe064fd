//! A night on a sleeping host: 40 maintenance wakes in ten hours of its clock, then somebody opens the lid.
//!
//! ```text
//!   |-- asleep, 14 minutes on the host's clocks --|- wake, 1 s (25 s in the long run) -|-- asleep ... x 40 --|  full wake
//! ```
//! Three clients side by side on one schedule: ours; one that reconnects at every wake, as many do; and the stock one with a
//! stock gateway. The gateways' hosts stay awake, in real time: no session of theirs is too old when the client comes back,
//! so that what is counted is what the clients do. What stock gateways make of silence is in
//! `first_packet_after_a_wake`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{Wires, first_answer, second_settings};
use lab::{
    Clock, Lab, Mark, Ocserv, Openconnect, PASSWORD, PATIENCE, Ping, Process, Server, Signal, Sleeper, StockFigures,
    StockLogin, Users, client_settings, gateway_settings, is_long, ms, start_gateway, stock_channel, until, users_file,
};

/// Maintenance wakes of the night.
const WAKES: u32 = 40;

/// From one wake to the next, on the host's clocks.
const PERIOD: Duration = Duration::from_secs(900);

/// The user of the second tunnel.
const OTHER: &str = "bob";

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft", "openconnect", "ocserv", "ocpasswd"],
        lab::tests![a_night_costs_us_nothing_and_others_a_reconnect_per_wake],
    )
}

/// How long a wake lasts: in the long run long enough to be taken for a full one where nobody says what it is (20 s).
fn wake() -> Duration {
    Duration::from_secs(if is_long() { 25 } else { 1 })
}

/// A client, its gateway, and how they speak of an end and a beginning.
struct Row<'a> {
    name: &'static str,
    client: &'a Process,
    clock: &'a Clock,
    gateway: &'a Process,
    /// What to ping.
    host: std::net::Ipv4Addr,
    /// Words of a lost connection, at the client and at the gateway.
    lost: [&'static [&'static str]; 2],
    /// Words at the gateway for a session that begins; the stock one also says them at a reconnect.
    login: &'static [&'static str],
}

fn a_night_costs_us_nothing_and_others_a_reconnect_per_wake(lab: &Lab) -> Result<()> {
    let (site_a, site_b, second_host) = (lab.site(), lab.add_site()?, lab.add_client()?);
    let _servers = [Server::start(&site_a.lan)?, Server::start(&site_b.lan)?];
    let settings = gateway_settings(lab, site_a)?;
    Users::alice()?
        .and(OTHER, PASSWORD, &[])?
        .write(&users_file(lab, site_a))?;
    let gateway = start_gateway(lab, site_a, "gateway", &settings)?;
    let clocks = [Clock::new(lab)?, Clock::new(lab)?, Clock::new(lab)?];
    let ours = clocks[0].start_client(lab, lab.client(), "ours", &client_settings(lab, site_a)?)?;
    let settings = second_settings(lab)?.with("login.user", OTHER);
    let naive = clocks[1].start_client(lab, &second_host, "naive", &settings)?;
    // A cookie that lasts, as an administrator sets it whose users sleep.
    let mut stock = Ocserv::configure(lab, &site_b, StockLogin::Password, StockFigures::DebianSample)?
        .with("cookie-timeout = 86400\nmax-ban-score = 0")?;
    let ocserv = stock.start()?;
    let openconnect = Openconnect::new(lab, lab.client(), &site_b, "openconnect")?
        .with_dtls()
        .good_password()
        .under(&clocks[2])
        .up()?;
    stock_channel(&openconnect)?;
    let rows = [
        Row {
            name: "ours",
            client: &ours,
            clock: &clocks[0],
            gateway: &gateway,
            host: site_a.plan.host_v4(),
            lost: [&["path.lost", "session.end"], &["session detached", "session.end"]],
            login: &["session.start", "alice"],
        },
        Row {
            name: "naive",
            client: &naive,
            clock: &clocks[1],
            gateway: &gateway,
            host: site_a.plan.host_v4(),
            lost: [&["path.lost", "session.end"], &["session detached", "session.end"]],
            login: &["session.start", "bob"],
        },
        Row {
            name: "stock",
            client: &openconnect,
            clock: &clocks[2],
            gateway: &ocserv,
            host: site_b.plan.host_v4(),
            lost: [
                &["dead peer", "Failed to reconnect"],
                &["user disconnected", "disconnecting"],
            ],
            login: &["user logged in"],
        },
    ];
    let hosts = [lab.client(), &second_host, lab.client()];
    for (row, host) in rows.iter().zip(hosts) {
        Ping::new(host, row.host).answered(PATIENCE).context(row.name)?;
    }

    let wires = Wires::watch(
        lab,
        &[
            ("client", site_a.plan.gateway_v4()),
            ("client-b", site_a.plan.gateway_v4()),
            ("client", site_b.plan.gateway_v4()),
        ],
    )?;
    let marks: Vec<[Mark; 2]> = rows.iter().map(|row| [row.client.mark(), row.gateway.mark()]).collect();
    let sleepers = rows.each_ref().map(|row| Sleeper::new(row.client, row.clock));
    for _ in 0..WAKES {
        for sleeper in &sleepers {
            sleeper.fall_asleep()?;
        }
        for sleeper in &sleepers {
            sleeper.wake(PERIOD - wake())?;
        }
        naive.signal(Signal::USR2)?;
        let began = Instant::now();
        until("the end of a wake", wake() + PATIENCE, || Ok(began.elapsed() >= wake()))?;
    }
    let night = wires.counts()?;

    lab.note(&format!(
        "{:>6} {:>9} {:>7} {:>8} {:>16} {:>16} {:>10} {:>12}",
        "", "connects", "hellos", "packets", "lost: client", "lost: gateway", "logged in", "first packet"
    ));
    for (((row, counts), [at_client, at_gateway]), host) in rows.iter().zip(&night).zip(&marks).zip(hosts) {
        let at = Sleeper::new(row.client, row.clock).night(PERIOD)?;
        let first = first_answer(host, row.host, at, || !row.client.is_running())?;
        let lost = |process: &Process, mark, words: &[&str]| -> usize {
            words.iter().map(|word| process.count_since(mark, &[word])).sum()
        };
        lab.note(&format!(
            "{:>6} {:>9} {:>7} {:>8} {:>16} {:>16} {:>10} {:>12}",
            row.name,
            counts.connects,
            counts.hellos,
            counts.packets,
            lost(row.client, *at_client, row.lost[0]),
            lost(row.gateway, *at_gateway, row.lost[1]),
            row.gateway.count(row.login),
            first
                .as_ref()
                .map_or("never".to_owned(), |time| format!("{} ms", ms(*time))),
        ));
    }
    let [us, naive, stock] = night[..] else {
        anyhow::bail!("three rows");
    };
    ensure!(us.connects == 0 && us.hellos == 0, "{us:?}");
    ensure!(
        naive.connects >= u64::from(WAKES),
        "the schedule must cost a client without our policy: {naive:?}"
    );
    ensure!(stock.connects > 0, "{stock:?}");
    Ok(())
}
