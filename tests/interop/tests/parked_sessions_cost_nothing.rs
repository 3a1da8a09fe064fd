//! What sleeping clients cost those that are awake: throughput without and with 10,000 parked sessions. With MARMOT_LONG=1 only: it takes two minutes.
//!
//! ```text
//!   client  ==== a stream at full rate ====> gateway of site A, with many sessions beside it: lease, keys, data channel, no connection
//!           ==== in turns with another ====> gateway of site B, with none
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::data_channel;
use lab::{
    Control, Direction, Herd, Lab, Mark, PATIENCE, Site, Stream, Users, client_settings, gateway_settings,
    start_client, start_gateway, until, users_file,
};

/// How long a stream runs.
const LENGTH: Duration = Duration::from_secs(1);

/// Streams each way to each gateway, of which the middle one counts.
const ROUNDS: usize = 5;

/// Sessions that are made before memory is looked at: what the first logins and handshakes need is not what a session keeps.
const FIRST: u16 = 50;

/// What is left of the throughput at least; there is something else to do on this machine.
const LEFT: f64 = 0.7;

/// What a parked session costs the gateway at most, in KiB: 33 were measured.
const EACH_KIB: f64 = 48.0;

/// Sessions that are parked.
const COUNT: u16 = 10_000;

fn main() -> ExitCode {
    lab::run_long(&["ip"], lab::tests![parked_sessions_leave_throughput_as_it_was])
}

fn parked_sessions_leave_throughput_as_it_was(lab: &Lab) -> Result<()> {
    let count = COUNT;
    let full = lab.site();
    let empty = lab.add_site()?;
    let settings = Herd::room(
        lab,
        gateway_settings(lab, full)?.with("log.level", "info"),
        count + FIRST,
    );
    Users::alice()?
        .and(Herd::user(), "nobody types this", &[])?
        .write(&users_file(lab, full))?;
    let gateway = start_gateway(lab, full, "gateway", &settings)?;
    let settings = gateway_settings(lab, &empty)?.with("log.level", "info");
    let _other = start_gateway(lab, &empty, "other-gateway", &settings)?;
    let mut clients = Vec::new();
    for (site, name) in [(full, "client"), (&empty, "other-client")] {
        let client = start_client(lab, lab.client(), name, &client_settings(lab, site)?)?;
        data_channel(&client, Mark::default())?;
        clients.push(client);
    }
    let host = lab.add_client()?;
    let mut herd = Herd::new(lab, &host, full)?;
    herd.park(FIRST.into())?;
    let (before, began) = (gateway.resident_kib()?, Instant::now());
    herd.park(count.into())?;
    let took = began.elapsed();
    let all = u64::from(count + FIRST);
    until("parked sessions", PATIENCE, || Ok(parked(lab)? == all))?;
    let each = (gateway.resident_kib()?.saturating_sub(before)) as f64 / f64::from(count);
    let rates = rates(lab, [full, &empty])?;
    let ratios = rates.map(|[full, empty]| full / empty);
    lab.note(&format!(
        "{all} parked sessions, {each:.1} KiB and {:.1} ms to make each; up {:.0} MB/s beside {:.0} without them ({:.2}), \
         down {:.0} beside {:.0} ({:.2})",
        took.as_secs_f64() * 1e3 / f64::from(count),
        rates[0][0] / 1e6,
        rates[0][1] / 1e6,
        ratios[0],
        rates[1][0] / 1e6,
        rates[1][1] / 1e6,
        ratios[1],
    ));
    ensure!(ratios.iter().all(|ratio| *ratio >= LEFT), "{ratios:?}");
    ensure!(each <= EACH_KIB, "{each:.1} KiB for each");
    ensure!(parked(lab)? == all, "they sleep on");
    Ok(())
}

/// Bytes per second, up and down, to each of the sites, in turns: the middle of [`ROUNDS`].
fn rates(lab: &Lab, sites: [&Site; 2]) -> Result<[[f64; 2]; 2]> {
    let mut rates = [const { [const { Vec::new() }; 2] }; 2];
    for _ in 0..ROUNDS {
        for (direction, rates) in [Direction::Up, Direction::Down].into_iter().zip(&mut rates) {
            for (site, rates) in sites.into_iter().zip(rates) {
                let stream = Stream::start(lab.client(), &site.lan, site.plan.host_v4(), direction)?;
                let began = Instant::now();
                until("the end of a stream", LENGTH + PATIENCE, || {
                    Ok(began.elapsed() >= LENGTH)
                })?;
                rates.push(stream.end()?.rate());
            }
        }
    }
    Ok(rates.map(|rates| {
        rates.map(|mut rates| {
            rates.sort_unstable_by(f64::total_cmp);
            rates[ROUNDS / 2]
        })
    }))
}

/// Sessions of the first site that are parked.
fn parked(lab: &Lab) -> Result<u64> {
    let status = Control::of_gateway(lab, lab.site()).get("/v1/status")?;
    status["sessions"]["parked"].as_u64().context("they are counted")
}
