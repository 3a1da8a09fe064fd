//! One client as fast as it can be, and another with a modest stream: the gateway serves both.
//!
//! ```text
//!   client   -- flat out: TCP up, TCP down, small UDP up, UDP down --+
//!                                                                     gateway -- LAN
//!   client-b -- 1,000 datagrams a second each way --------------------+          how many arrive, and how late
//! ```
//! Both clients, both ends of each stream and the gateway share two processors, so what the flood costs the other is not the gateway's share alone.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{data_channel, second_settings, tunnel_address};
use lab::{
    Control, Direction, Fared, Lab, Mark, Numbered, PATIENCE, Process, Stream, client_interface, client_settings,
    gateway_settings, ms, start_client, start_gateway, until,
};
use platform::netns::Namespace;

/// How long two streams are looked at.
const LENGTH: Duration = Duration::from_secs(3);

/// Datagrams each way that are looked at.
const COUNT: u64 = 1500;

/// How long they may take: minutes on a machine with much else to do.
const SLOW: Duration = Duration::from_secs(120);

/// Between two datagrams of the modest stream: with [`SIZE`] some 10 Mbit/s.
const PACE: Duration = Duration::from_millis(1);

const SIZE: usize = 1200;

/// The device of the second client.
const SECOND: &str = "mm-second";

/// What of the modest stream arrives at least beside a flood, of what arrives without.
const SHARE: f64 = 0.5;

/// How late its datagrams are at most, in the middle: two processors serve the flood, too.
const LATE: Duration = Duration::from_millis(200);

/// What the gateway's memory may grow by under all floods together, in KiB: the queues of two sessions with 4 MiB each way, and the pool.
const GROWTH_KIB: u64 = 24 * 1024;

/// What two streams at full rate share: neither gets less than this of the other.
const EVEN: f64 = 0.25;

fn main() -> ExitCode {
    lab::run(
        &["ip"],
        lab::tests![
            a_modest_stream_goes_on_beside_a_flood,
            two_clients_at_full_rate_share_the_gateway,
        ],
    )
}

/// What the first client does meanwhile.
#[derive(Clone, Copy, Debug)]
enum Flood {
    Nothing,
    TcpUp,
    TcpDown,
    /// Single small packets.
    ThinUp,
    /// More than the tunnel takes: what the gateway queues for this client overflows.
    ThickDown,
}

fn a_modest_stream_goes_on_beside_a_flood(lab: &Lab) -> Result<()> {
    let ends = Ends::start(lab)?;
    let before = ends.gateway.resident_kib()?;
    let alone = ends.modest(Flood::Nothing)?;
    for flood in [Flood::TcpUp, Flood::TcpDown, Flood::ThinUp, Flood::ThickDown] {
        let beside = ends.modest(flood)?;
        for (way, alone, beside) in [("up", &alone.0, &beside.0), ("down", &alone.1, &beside.1)] {
            let share = beside.share() / alone.share();
            let late = beside.delays.median();
            ensure!(
                share >= SHARE,
                "{flood:?} leaves {share:.2} of the modest stream {way}: {beside}"
            );
            ensure!(late <= LATE, "{flood:?} makes the modest stream {way} late: {beside}");
        }
    }
    let after = ends.gateway.resident_kib()?;
    lab.note(&format!("memory of the gateway {before} to {after} KiB"));
    ensure!(after < before + GROWTH_KIB, "the gateway's queues have grown");
    Ok(())
}

fn two_clients_at_full_rate_share_the_gateway(lab: &Lab) -> Result<()> {
    let ends = Ends::start(lab)?;
    for direction in [Direction::Up, Direction::Down] {
        let site = lab.site();
        let first = Stream::start(lab.client(), &site.lan, site.plan.host_v4(), direction)?;
        let second = Stream::start(&ends.other, &site.lan, site.plan.host_v4(), direction)?;
        let begun = Instant::now();
        flows(LENGTH)?;
        let end = Instant::now();
        let rates = [first, second].map(|stream| Ok::<_, anyhow::Error>(stream.end()?.rate_between(begun, end)));
        let [first, second] = rates;
        let (first, second) = (first?, second?);
        lab.note(&format!(
            "{direction:?}: {:.0} and {:.0} MB/s",
            first / 1e6,
            second / 1e6
        ));
        let even = first.min(second) / first.max(second);
        ensure!(even >= EVEN, "one gets {even:.2} of the other");
    }
    Ok(())
}

struct Ends<'a> {
    lab: &'a Lab,
    gateway: Process,
    other: Namespace,
    _clients: [Process; 2],
}

impl<'a> Ends<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
        let other = lab.add_client()?;
        let clients = [
            start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?,
            start_client(lab, &other, "client-b", &second_settings(lab)?)?,
        ];
        for client in &clients {
            data_channel(client, Mark::default())?;
        }
        Ok(Self {
            lab,
            gateway,
            other,
            _clients: clients,
        })
    }

    /// How the modest stream fares, up and down, beside a flood.
    fn modest(&self, flood: Flood) -> Result<(Fared, Fared)> {
        let (lan, plan) = (&self.lab.site().lan, self.lab.site().plan);
        let dropped = self.dropped()?;
        let (first, at) = (self.lab.client(), self.lab.site());
        let (mut stream, mut datagrams) = (None, None);
        match flood {
            Flood::Nothing => {}
            Flood::TcpUp => stream = Some(Stream::start(first, lan, plan.host_v4(), Direction::Up)?),
            Flood::TcpDown => stream = Some(Stream::start(first, lan, plan.host_v4(), Direction::Down)?),
            Flood::ThinUp => datagrams = Some(Numbered::start((first, lan), plan.host_v4(), 100, None)?),
            Flood::ThickDown => {
                let to = tunnel_address(first, &client_interface(at))?;
                datagrams = Some(Numbered::start((lan, first), to, SIZE, None)?);
            }
        }
        let up = Numbered::start((&self.other, lan), plan.host_v4(), SIZE, Some(PACE))?;
        let own = tunnel_address(&self.other, SECOND)?;
        let down = Numbered::start((lan, &self.other), own, SIZE, Some(PACE))?;
        until("so many datagrams", SLOW, || {
            Ok(up.sent() >= COUNT && down.sent() >= COUNT)
        })?;
        let (up, down) = (up.end()?, down.end()?);
        let flooded = match (stream, datagrams) {
            (Some(stream), _) => format!("{:.0} MB/s", stream.end()?.rate() / 1e6),
            (None, Some(datagrams)) => datagrams.end()?.to_string(),
            (None, None) => "nothing".to_owned(),
        };
        let dropped = self.dropped()? - dropped;
        self.lab.note(&format!(
            "beside {flood:?} ({flooded}; the gateway dropped {dropped}): up {up}; down {down}"
        ));
        Ok((up, down))
    }

    /// Packets that the gateway dropped so far, as far as its tunnels have told.
    fn dropped(&self) -> Result<u64> {
        let status = Control::of_gateway(self.lab, self.lab.site()).get("/v1/status")?;
        let counts = status["counters"]["packets_dropped_total"].as_object();
        let counts = counts.context("the gateway counts what it drops")?;
        Ok(counts.values().filter_map(serde_json::Value::as_u64).sum())
    }
}

/// Lets packets flow for so long.
fn flows(length: Duration) -> Result<()> {
    let began = Instant::now();
    until(&format!("{} ms of packets", ms(length)), length + PATIENCE, || {
        Ok(began.elapsed() >= length)
    })
}
