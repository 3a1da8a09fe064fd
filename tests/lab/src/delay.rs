//! A long way to the gateway: every packet between the client and the first site arrives later than it was sent.
//!
//! ```text
//!   internet:   client --rule--> delay-out  =wait half a round trip=>  delay-back --> site-a
//!               client <-------- delay-out <=wait half a round trip=   delay-back <--rule-- site-a
//! ```
//! Two TUN devices on the host `internet`, and a thread that carries packets from one to the other. What the cables, the
//! firewall and [`Nat`](crate::Nat) do is as without; [`Meter`](crate::Meter) and [`Hole`](crate::Hole) see forwarded packets
//! twice. What the internet itself answers comes at once. Kernels without `netem` have no other way.

use std::collections::VecDeque;
use std::fs;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;
use platform::tun::{Tun, TunOptions};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::hole::nft;
use crate::{Lab, PATIENCE};

const OUT: &str = "delay-out";
const BACK: &str = "delay-back";

/// That of the lab's cables.
const MTU: u16 = 1500;

/// Packets on the way, in one direction: 100 ms of 1 Gbit/s. More are lost, as in a router.
const MAX_UNDER_WAY: usize = 10_000;

/// Rules: everything from the client, and everything for it from the site.
const RULES: [&str; 2] = ["iif client lookup 101", "iif site-a lookup 102"];

/// The way is long until this is dropped.
#[derive(Debug)]
pub struct Delay<'a> {
    lab: &'a Lab,
    over: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<'a> Delay<'a> {
    /// From now on a round trip from the client to the first site takes this much longer. One at a time.
    ///
    /// # Errors
    /// If devices or rules cannot be made.
    pub fn on(lab: &'a Lab, round_trip: Duration) -> Result<Self> {
        Self::start(lab, round_trip, None)
    }

    /// The same, and each packet of this number is twice as fast, so that it overtakes.
    ///
    /// # Errors
    /// As [`Delay::on`].
    pub fn reordering(lab: &'a Lab, round_trip: Duration, every: u32) -> Result<Self> {
        Self::start(lab, round_trip, Some(every))
    }

    fn start(lab: &'a Lab, round_trip: Duration, every: Option<u32>) -> Result<Self> {
        let internet = lab.internet();
        let (over, bell) = oneshot::channel();
        let (told, ready) = mpsc::channel();
        let host = internet.try_clone().context("cannot hold a namespace")?;
        let work = move || {
            let (runtime, out, back) = match devices(&host) {
                Ok(ready) => ready,
                Err(e) => return drop(told.send(Err(e))),
            };
            // Who does not wait for it any more has its reasons.
            let _ = told.send(Ok(()));
            runtime.block_on(async {
                tokio::select! {
                    _ = bell => {}
                    () = carry(&out, &back, Way::new(round_trip / 2, every)) => {}
                    () = carry(&back, &out, Way::new(round_trip / 2, every)) => {}
                }
            });
        };
        let thread = thread::Builder::new().name("delay".into()).spawn(work);
        let delay = Self {
            lab,
            over: Some(over),
            thread: Some(thread.context("cannot start a thread")?),
        };
        ready.recv_timeout(PATIENCE).context("no devices for a delay")??;
        delay.lead()?;
        Ok(delay)
    }

    /// Leads packets through the devices.
    fn lead(&self) -> Result<()> {
        let internet = self.lab.internet();
        let unchecked = internet.run(|| {
            ["all", OUT, BACK]
                .iter()
                .try_for_each(|name| fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0"))
        })?;
        unchecked.context("cannot have packets come from anywhere")?;
        for device in [OUT, BACK] {
            internet.up(device)?;
        }
        // What is translated is translated once: where the long way meets the client, nothing is tracked.
        let untracked = format!(
            "table inet delay {{ }}\nflush table inet delay\ntable inet delay {{\n\
             chain near {{ type filter hook prerouting priority -400; iifname {{ \"client\", \"{OUT}\" }} notrack; }}\n}}\n"
        );
        nft(self.lab, internet, &untracked)?;
        let mut script = String::from("set -e\n");
        for (family, all, client) in [("-4", "0.0.0.0/0", "192.0.2.0/24"), ("-6", "::/0", "2001:db8:1::/64")] {
            script.push_str(&format!(
                "ip {family} route replace {all} dev {OUT} table 101\nip {family} route replace {client} dev {BACK} table 102\n"
            ));
            for rule in RULES {
                script.push_str(&format!("ip {family} rule add {rule} priority 100\n"));
            }
        }
        self.script(&script)
    }

    fn script(&self, script: &str) -> Result<()> {
        let mut command = self.lab.command(self.lab.internet(), "sh")?;
        command.args(["-c", script]);
        let status = self.lab.spawn("delay", command)?.wait_exit(PATIENCE)?;
        ensure!(status.success(), "ip ended with {status}");
        Ok(())
    }
}

impl Drop for Delay<'_> {
    fn drop(&mut self) {
        let mut script = String::new();
        for family in ["-4", "-6"] {
            for rule in RULES {
                script.push_str(&format!("ip {family} rule delete {rule} priority 100\n"));
            }
        }
        let removed = self
            .script(&script)
            .and_then(|()| nft(self.lab, self.lab.internet(), "delete table inet delay\n"));
        if let Err(e) = removed {
            eprintln!("{e:#}");
        }
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn devices(host: &Namespace) -> Result<(tokio::runtime::Runtime, Tun, Tun)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot make a runtime")?;
    let make = |name: &str| {
        let options = TunOptions {
            name: name.to_owned(),
            mtu: MTU,
            offloads: false,
        };
        let made = host.run(|| {
            let _inside = runtime.enter();
            Tun::create(&options)
        })?;
        made.with_context(|| format!("cannot make {name}"))
    };
    let (out, back) = (make(OUT)?, make(BACK)?);
    Ok((runtime, out, back))
}

/// How packets go in one direction.
struct Way {
    takes: Duration,
    every: Option<u32>,
    count: u32,
    /// In the order in which they arrive.
    under_way: VecDeque<(Instant, Vec<u8>)>,
}

impl Way {
    fn new(takes: Duration, every: Option<u32>) -> Self {
        Self {
            takes,
            every,
            count: 0,
            under_way: VecDeque::new(),
        }
    }

    fn enter(&mut self, packet: &[u8], now: Instant) {
        self.count = self.count.wrapping_add(1);
        let fast = self.every.is_some_and(|every| self.count.is_multiple_of(every.max(1)));
        let arrives = now + if fast { self.takes / 2 } else { self.takes };
        if self.under_way.len() < MAX_UNDER_WAY {
            let at = self.under_way.partition_point(|(other, _)| *other <= arrives);
            self.under_way.insert(at, (arrives, packet.to_vec()));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.under_way.front().map(|(arrives, _)| *arrives)
    }

    fn arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next().filter(|arrives| *arrives <= now)?;
        self.under_way.pop_front().map(|(_, packet)| packet)
    }
}

/// Carries packets until the device is gone.
async fn carry(from: &Tun, to: &Tun, mut way: Way) {
    let mut packet = [0; 2 * MTU as usize];
    loop {
        let due = way.next();
        tokio::select! {
            came = from.recv(&mut packet) => match came {
                Ok(length) => way.enter(&packet[..length], Instant::now()),
                Err(e) if platform::tun::is_gone(&e) => return,
                // It costs one packet.
                Err(_) => {}
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        while let Some(packet) = way.arrived(Instant::now()) {
            // A full device loses it, as a router does.
            let _ = to.try_send(&packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: Duration = Duration::from_millis(50);

    #[test]
    fn packets_arrive_late_and_in_order() {
        let (mut way, now) = (Way::new(TAKES, None), Instant::now());
        way.enter(b"one", now);
        way.enter(b"two", now);
        assert_eq!(way.arrived(now + TAKES - Duration::from_millis(1)), None);
        assert_eq!(way.arrived(now + TAKES).as_deref(), Some(&b"one"[..]));
        assert_eq!(way.arrived(now + TAKES).as_deref(), Some(&b"two"[..]));
        assert_eq!((way.arrived(now + TAKES), way.next()), (None, None));
    }

    #[test]
    fn each_third_packet_overtakes_if_wanted() {
        let (mut way, now) = (Way::new(TAKES, Some(3)), Instant::now());
        for packet in [b"1", b"2", b"3"] {
            way.enter(packet, now);
        }
        assert_eq!(way.arrived(now + TAKES / 2).as_deref(), Some(&b"3"[..]));
        assert_eq!(way.arrived(now + TAKES / 2), None);
    }
}
