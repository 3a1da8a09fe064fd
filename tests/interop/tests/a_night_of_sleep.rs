//! A night on a sleeping host: 40 maintenance wakes in ten hours of its clock, then somebody opens the lid.
//!
//! ```text
//!   |-- asleep, 14 minutes on the host's clocks --|- wake, 1.5 s (25 s in the long run) -|-- asleep ... x 40 --|  full wake
//! ```
//! Three clients side by side on one schedule: ours; a naive one, which asks its gateway every 20 s whether it is there (every
//! second in the short run) and connects anew at every wake, as many do; and the stock one with a stock gateway. The naive one
//! is ours at a gateway without parking, and is told of each wake by a signal. The gateways' hosts stay awake, in real time: no
//! session of theirs is too old when the client comes back, so that what is counted is what the clients do. What stock
//! gateways make of silence is in `first_packet_after_a_wake`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{Wires, first_answer};
use lab::{
    Clock, GATEWAY_NAME, Lab, Mark, Ocserv, Openconnect, PATIENCE, Ping, Process, Server, Settings, Signal, Site,
    Sleeper, StockFigures, StockLogin, client_settings, gateway_settings, is_long, ms, start_gateway, stock_channel,
    until,
};

/// Maintenance wakes of the night.
const WAKES: u32 = 40;

/// From one wake to the next, on the host's clocks.
const PERIOD: Duration = Duration::from_secs(900);

/// Where the naive client's gateway listens, beside the stock one.
const NAIVE_PORT: u16 = 4443;

/// The naive client's place in the table.
const NAIVE: usize = 1;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft", "openconnect", "ocserv", "ocpasswd"],
        lab::tests![a_night_costs_us_nothing_and_others_a_reconnect_per_wake],
    )
}

/// How long a wake lasts: in the long run long enough to be taken for a full one where nobody says what it is (20 s).
fn wake() -> Duration {
    Duration::from_millis(if is_long() { 25_000 } else { 1500 })
}

/// From one heartbeat of the naive client to the next, in seconds.
fn heartbeat_s() -> i64 {
    if is_long() { 20 } else { 1 }
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
    let gateway = start_gateway(lab, site_a, "gateway", &gateway_settings(lab, site_a)?)?;
    let without_parking = start_gateway(lab, &site_b, "naive-gateway", &naive_gateway(lab, &site_b)?)?;
    let clocks = [Clock::new(lab)?, Clock::new(lab)?, Clock::new(lab)?];
    let ours = clocks[0].start_client(lab, lab.client(), "ours", &client_settings(lab, site_a)?)?;
    let settings = client_settings(lab, &site_b)?
        .with("tunnel.name", "naive")
        .with("gateway.url", format!("https://{GATEWAY_NAME}:{NAIVE_PORT}"));
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
            gateway: &without_parking,
            host: site_b.plan.host_v4(),
            lost: [&["path.lost", "session.end"], &["session detached", "session.end"]],
            login: &["session.start", "alice"],
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
            ("client-b", site_b.plan.gateway_v4()),
            ("client", site_b.plan.gateway_v4()),
        ],
    )?;
    let marks: Vec<[Mark; 2]> = rows.iter().map(|row| [row.client.mark(), row.gateway.mark()]).collect();
    let sleepers = rows.each_ref().map(|row| Sleeper::new(row.client, row.clock));
    let heartbeats = || anyhow::Ok(wires.counts()?[NAIVE].heartbeats);
    for _ in 0..WAKES {
        for sleeper in &sleepers {
            sleeper.fall_asleep()?;
        }
        for sleeper in &sleepers {
            sleeper.wake(PERIOD - wake())?;
        }
        let (mark, began) = (naive.mark(), Instant::now());
        naive.signal(Signal::USR2)?;
        naive.wait_for_line(mark, &["path.back"], PATIENCE)?;
        let beats = heartbeats()?;
        until("the end of a wake", wake() + PATIENCE, || Ok(began.elapsed() >= wake()))?;
        // A connection that took long to make leaves it little time for one.
        until("a heartbeat", wake() + PATIENCE, || Ok(heartbeats()? > beats))?;
    }
    let night = wires.counts()?;

    lab.note(&format!(
        "{:>6} {:>9} {:>7} {:>10} {:>8} {:>16} {:>16} {:>10} {:>12}",
        "", "connects", "hellos", "heartbeats", "packets", "lost: client", "lost: gateway", "logged in", "first packet"
    ));
    let mut notices = Vec::new();
    for (((row, counts), [at_client, at_gateway]), host) in rows.iter().zip(&night).zip(&marks).zip(hosts) {
        let at = Sleeper::new(row.client, row.clock).night(PERIOD)?;
        let first = first_answer(host, row.host, at, || !row.client.is_running())?;
        let lost = |process: &Process, mark, words: &[&str]| -> usize {
            words.iter().map(|word| process.count_since(mark, &[word])).sum()
        };
        let lost = [
            lost(row.client, *at_client, row.lost[0]),
            lost(row.gateway, *at_gateway, row.lost[1]),
        ];
        notices.push(lost);
        lab.note(&format!(
            "{:>6} {:>9} {:>7} {:>10} {:>8} {:>16} {:>16} {:>10} {:>12}",
            row.name,
            counts.connects,
            counts.hellos,
            match row.name {
                // It asks within TLS 1.2 and DTLS, which is not counted.
                "stock" => "-".to_owned(),
                _ => counts.heartbeats.to_string(),
            },
            counts.packets,
            lost[0],
            lost[1],
            row.gateway.count(row.login),
            first
                .as_ref()
                .map_or("never".to_owned(), |time| format!("{} ms", ms(*time))),
        ));
    }
    let [us, naive, stock] = night[..] else {
        anyhow::bail!("three rows");
    };
    // In the long form each wake lasts long enough to count as a full one, and new keys are due each hour.
    ensure!(us.connects == 0 && us.hellos == 0, "{us:?}");
    ensure!(notices[0] == [0, 0], "ours spoke of an end: {notices:?}");
    ensure!(gateway.count(rows[0].login) == 1, "ours has one session");
    ensure!(
        naive.connects >= u64::from(WAKES) && naive.heartbeats >= u64::from(WAKES),
        "the schedule must cost a client without our policy: {naive:?}"
    );
    ensure!(stock.connects > 0, "{stock:?}");
    Ok(())
}

/// A gateway that keeps nothing for sleepers and advises a heartbeat, on a host where another one has the usual port.
fn naive_gateway(lab: &Lab, site: &Site) -> Result<Settings> {
    Ok(gateway_settings(lab, site)?
        .with("listen.addresses", vec![format!("[::]:{NAIVE_PORT}")])
        .with("pool.ipv4", "10.99.0.0/24")
        .with("pool.ipv6", "fd00:99::/64")
        .with("park.ttl_s", 0)
        .with("session.dpd_s", heartbeat_s())
        // What is counted is its questions.
        .with("session.keepalive_s", 3600))
}
