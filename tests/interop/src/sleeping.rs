//! Our two ends in a lab where time and sleep are a test's: quick to look, and everything counted.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Clock, Lab, Mark, PATIENCE, Ping, Process, Server, Settings, Signal, Sleeper, client_settings, gateway_settings,
};

use crate::{Counts, TO_DATA, Wires, field, first_answer, ping_both};

/// How long a gateway takes to call a silent client parked: the quiet of [`Sleeping::quick_gateway`], a look every 15 s, and
/// some patience.
pub const PARKED_WITHIN: Duration = Duration::from_secs(60);

/// What a figure of lifecycle.md allows beside round trips, on two busy cores: ten times the 20 ms of an idle machine.
pub const BESIDE: Duration = Duration::from_millis(200);

/// A client and a gateway, up, with a server in the LAN.
#[derive(Debug)]
pub struct Sleeping<'a> {
    lab: &'a Lab,
    /// In the LAN.
    pub server: Server,
    /// The gateway.
    pub gateway: Process,
    /// The gateway's clocks.
    pub gateway_clock: Clock,
    /// The client.
    pub client: Process,
    /// The client's clocks.
    pub clock: Clock,
    wires: Wires<'a>,
    before: Cell<Counts>,
    marks: Cell<[Mark; 2]>,
}

impl<'a> Sleeping<'a> {
    /// Both ends with quick settings, changed.
    ///
    /// # Errors
    /// If they do not come up.
    pub fn start(
        lab: &'a Lab,
        gateway: impl FnOnce(Settings) -> Settings,
        client: impl FnOnce(Settings) -> Settings,
    ) -> Result<Self> {
        let (clock, gateway_clock) = (Clock::new(lab)?, Clock::new(lab)?);
        let server = Server::start(&lab.site().lan)?;
        let settings = gateway(Self::quick_gateway(gateway_settings(lab, lab.site())?));
        let gateway = gateway_clock.start_gateway(lab, lab.site(), "gateway", &settings)?;
        let settings = client(Self::quick_client(client_settings(lab, lab.site())?));
        let client = clock.start_client(lab, lab.client(), "client", &settings)?;
        let sleeping = Self {
            lab,
            server,
            gateway,
            gateway_clock,
            client,
            clock,
            wires: Wires::of_client(lab)?,
            before: Cell::default(),
            marks: Cell::default(),
        };
        ping_both(lab.client(), lab.site().plan)?;
        sleeping.begin()?;
        Ok(sleeping)
    }

    /// The same with the data channel in use.
    ///
    /// # Errors
    /// As [`Sleeping::start`].
    pub fn on_datagrams(lab: &'a Lab) -> Result<Self> {
        let sleeping = Self::start(lab, |settings| settings, |settings| settings)?;
        sleeping.client.wait_for(TO_DATA, PATIENCE)?;
        ping_both(lab.client(), lab.site().plan)?;
        sleeping.begin()?;
        Ok(sleeping)
    }

    /// A gateway that looks often.
    pub fn quick_gateway(settings: Settings) -> Settings {
        settings
            .with("tcp.keepalive_idle_s", 1)
            .with("tcp.keepalive_interval_s", 1)
            .with("park.quiet_s", 5)
    }

    /// A client whose kernel asks often and does not give up.
    pub fn quick_client(settings: Settings) -> Settings {
        settings
            .with("tcp.keepalive_idle_s", 1)
            .with("tcp.keepalive_interval_s", 1)
            .with("tcp.keepalive_count", 30)
    }

    /// Counts and words begin here.
    ///
    /// # Errors
    /// If nft does not say.
    pub fn begin(&self) -> Result<()> {
        self.before.set(self.wires.count()?);
        self.marks.set([self.client.mark(), self.gateway.mark()]);
        Ok(())
    }

    /// The client on its sleeping host.
    pub fn sleeper(&self) -> Sleeper<'_> {
        Sleeper::new(&self.client, &self.clock)
    }

    /// So much time goes by for the gateway, awake.
    ///
    /// # Errors
    /// If it has ended.
    pub fn gateway_waits(&self, length: Duration) -> Result<()> {
        self.gateway.stand_still()?;
        self.gateway_clock.pass(length)?;
        // Waits that a stop has interrupted are looked at again.
        self.gateway.signal(Signal::CONT)
    }

    /// What the client sent since [`Sleeping::begin`].
    ///
    /// # Errors
    /// If nft does not say.
    pub fn sent(&self) -> Result<Counts> {
        let (now, before) = (self.wires.count()?, self.before.get());
        Ok(Counts {
            connects: now.connects - before.connects,
            hellos: now.hellos - before.hellos,
            heartbeats: now.heartbeats - before.heartbeats,
            packets: now.packets - before.packets,
        })
    }

    /// Lines with all these words since then, of the client and of the gateway.
    pub fn said(&self, texts: &[&str]) -> (usize, usize) {
        let [client, gateway] = self.marks.get();
        (
            self.client.count_since(client, texts),
            self.gateway.count_since(gateway, texts),
        )
    }

    /// Waits until the gateway has parked the session since then, as this kind. Returns the line.
    ///
    /// # Errors
    /// If it does not.
    pub fn parked(&self, kind: &str) -> Result<String> {
        self.gateway
            .wait_for_line(self.marks.get()[1], &["session.park", kind], PARKED_WITHIN)
    }

    /// Waits until the gateway has unparked the session since then. Returns the way.
    ///
    /// # Errors
    /// If it does not.
    pub fn unparked(&self) -> Result<String> {
        field(&self.gateway, self.marks.get()[1], &["session.unpark"], "via")
    }

    /// The first answer from the LAN; counted from the end of the sleep.
    ///
    /// # Errors
    /// If there is none.
    pub fn first_packet(&self, woken: Instant) -> Result<Duration> {
        let to = self.lab.site().plan.host_v4();
        let ended = || !self.client.is_running();
        first_answer(self.lab.client(), to, woken, ended)?.context("the client has ended")
    }

    /// A round trip now: the longest of several, as the machine is busy.
    ///
    /// # Errors
    /// If there is none.
    pub fn round_trip(&self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            longest = longest.max(Ping::new(self.lab.client(), self.lab.site().plan.host_v4()).answered(PATIENCE)?);
        }
        Ok(longest)
    }

    /// Makes sure that the session is the same, that nobody speaks of an end, and that nobody logged in.
    ///
    /// # Errors
    /// If it is not so.
    pub fn same_session(&self) -> Result<()> {
        let ends = self.said(&["session.end"]);
        ensure!(ends == (0, 0), "ends of sessions, client and gateway: {ends:?}");
        let (_, logins) = self.said(&["logged in"]);
        ensure!(logins == 0, "{logins} logins");
        let starts = self.said(&["session.start"]);
        ensure!(starts == (0, 0), "starts of sessions, client and gateway: {starts:?}");
        Ok(())
    }

    /// Makes sure that the client began nothing: no connection, no handshake.
    ///
    /// # Errors
    /// If it did.
    pub fn nothing_begun(&self) -> Result<()> {
        let sent = self.sent()?;
        ensure!(sent.connects == 0 && sent.hellos == 0, "{sent:?}");
        Ok(())
    }
}
