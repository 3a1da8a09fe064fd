//! How often our ends ask their allocator for memory while packets flow: both as programs, with their devices, sockets, timers and logs.
//!
//! ```text
//!   bulk    TCP, both ways, in super-packets and in batches of datagrams
//!   thin    single small packets, both ways
//!   TLS     the same over the control channel, where the records of the TLS library cost memory: printed only
//! ```

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{data_channel, tunnel_address};
use lab::{
    Allocated, Allocations, Control, Direction, Lab, Mark, Numbered, PATIENCE, Process, Settings, Stream,
    client_interface, client_settings, eventually, gateway_settings, until,
};

/// How often a packet may ask, in the mean: timers, ticks, answers to probes and lines of the log do.
const OFTEN: f64 = 0.05;

/// Bytes of a stream: some 30,000 packets.
const BULK: u64 = 40_000_000;

/// Small packets.
const THIN: u64 = 4000;

/// Between two of them: few enough that each is read by itself.
const PACE: Duration = Duration::from_micros(200);

/// How long they may take: minutes on a machine with much else to do.
const SLOW: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    lab::run(
        &["ip"],
        lab::tests![a_packet_asks_for_no_memory, a_packet_over_tls_has_its_price],
    )
}

fn a_packet_asks_for_no_memory(lab: &Lab) -> Result<()> {
    let ends = Ends::start(lab, |settings| settings)?;
    data_channel(&ends.client, Mark::default())?;
    let (up, down) = (ends.bulk(Direction::Up)?, ends.bulk(Direction::Down)?);
    for (what, figures) in [("up", &up), ("down", &down)] {
        lab.note(&format!("bulk {what}: {figures}"));
        ensure!(figures.packets > BULK / 1400, "{figures}");
        ensure!(
            figures.client() < OFTEN && figures.gateway() < OFTEN,
            "{what}: {figures}"
        );
    }
    for direction in [Direction::Up, Direction::Down] {
        let thin = ends.thin(direction)?;
        lab.note(&format!("single packets of 128 bytes, {direction:?}: {thin}"));
        ensure!(thin.packets >= THIN / 2, "{thin}");
        ensure!(thin.client() < OFTEN && thin.gateway() < OFTEN, "{direction:?}: {thin}");
    }
    Ok(())
}

fn a_packet_over_tls_has_its_price(lab: &Lab) -> Result<()> {
    let ends = Ends::start(lab, |settings| settings.with("dtls.enabled", false))?;
    for direction in [Direction::Up, Direction::Down] {
        let bulk = ends.bulk(direction)?;
        lab.note(&format!("bulk over TLS, {direction:?}: {bulk}"));
        ensure!(bulk.packets > BULK / 1400, "{bulk}");
    }
    Ok(())
}

/// Both ends, each with its count.
struct Ends<'a> {
    lab: &'a Lab,
    client: Process,
    of_client: Allocations,
    of_gateway: Allocations,
    _gateway: Process,
}

/// What packets cost.
struct Figures {
    packets: u64,
    client: Allocated,
    gateway: Allocated,
}

impl Figures {
    fn client(&self) -> f64 {
        self.client.calls as f64 / self.packets.max(1) as f64
    }

    fn gateway(&self) -> f64 {
        self.gateway.calls as f64 / self.packets.max(1) as f64
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} packets; client {:.4} allocations each ({} in all, {} bytes), gateway {:.4} ({} in all, {} bytes)",
            self.packets,
            self.client(),
            self.client.calls,
            self.client.bytes,
            self.gateway(),
            self.gateway.calls,
            self.gateway.bytes
        )
    }
}

impl<'a> Ends<'a> {
    fn start(lab: &'a Lab, change: impl Fn(Settings) -> Settings) -> Result<Self> {
        let (of_client, of_gateway) = (Allocations::new(lab)?, Allocations::new(lab)?);
        // As they are used: a line for each packet would not be written at this level, nor one for each probe.
        let quiet = |settings: Settings| change(settings.with("log.level", "info"));
        let settings = quiet(gateway_settings(lab, lab.site())?);
        let gateway = of_gateway.start_gateway(lab, lab.site(), "gateway", &settings)?;
        let settings = quiet(client_settings(lab, lab.site())?);
        let client = of_client.start_client(lab, lab.client(), "client", &settings)?;
        ensure!(
            of_client.so_far()?.calls > 100 && of_gateway.so_far()?.calls > 100,
            "a program is not counted"
        );
        Ok(Self {
            lab,
            client,
            of_client,
            of_gateway,
            _gateway: gateway,
        })
    }

    /// Inner packets of both directions that the client has told its status of so far.
    fn packets(&self) -> Result<u64> {
        let status = Control::of(self.lab, self.lab.site().plan.name()).get("/v1/status")?;
        let traffic = &status["traffic"];
        let of = |name: &str| traffic[name].as_u64().with_context(|| format!("no {name}: {status}"));
        Ok(of("packets_in")? + of("packets_out")?)
    }

    /// The count once it stands still: the client tells it twice a second.
    fn all_packets(&self) -> Result<u64> {
        let mut last = (self.packets()?, Instant::now());
        eventually("a count that stands still", PATIENCE, || {
            let now = self.packets()?;
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok((last.1.elapsed() > Duration::from_secs(1)).then_some(now))
        })
    }

    /// A stream at full rate, after a shorter one that has everybody get what he needs.
    fn bulk(&self, direction: Direction) -> Result<Figures> {
        let (client, site) = (self.lab.client(), self.lab.site());
        self.measured(|part| {
            let stream = Stream::start(client, &site.lan, site.plan.host_v4(), direction)?;
            until("the bytes of a stream", SLOW, || Ok(stream.received() >= BULK / part))?;
            stream.end().map(drop)
        })
    }

    /// Small packets one by one, after some others.
    fn thin(&self, direction: Direction) -> Result<Figures> {
        let (client, lan, plan) = (self.lab.client(), &self.lab.site().lan, self.lab.site().plan);
        self.measured(|part| {
            let numbered = match direction {
                Direction::Up => Numbered::start((client, lan), plan.host_v4(), 100, Some(PACE))?,
                Direction::Down => Numbered::start((lan, client), address(self.lab)?, 100, Some(PACE))?,
            };
            until("so many packets", SLOW, || Ok(numbered.sent() >= THIN / part))?;
            let fared = numbered.end()?;
            ensure!(fared.share() > 0.5, "{fared}");
            Ok(())
        })
    }

    /// What a flow costs, after the fourth part of it.
    fn measured(&self, flow: impl Fn(u64) -> Result<()>) -> Result<Figures> {
        flow(4)?;
        // What asks for the count costs something, too: it is asked before.
        let packets = self.all_packets()?;
        let before = (self.of_client.so_far()?, self.of_gateway.so_far()?);
        flow(1)?;
        let (client, gateway) = (self.of_client.since(before.0)?, self.of_gateway.since(before.1)?);
        Ok(Figures {
            packets: self.all_packets()? - packets,
            client,
            gateway,
        })
    }
}

/// The client's in the tunnel.
fn address(lab: &Lab) -> Result<Ipv4Addr> {
    tunnel_address(lab.client(), &client_interface(lab.site()))
}
