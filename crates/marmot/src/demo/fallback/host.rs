//! A host in memory: smoltcp on top of two queues of IP packets.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address, Ipv6Address};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::sleep;

/// Packets taken from the queue before the stack works on them.
const BATCH: usize = 64;

/// The longest the stack sleeps without being asked; its own deadlines are usually earlier.
const IDLE: Duration = Duration::from_secs(1);

/// A host with its sockets.
pub(crate) struct Host {
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    wire: Wire,
    started: Instant,
}

impl Host {
    /// A host with these addresses, at the end of a cable made of two queues. Everything else is behind the cable.
    pub(crate) fn new(addresses: &[IpAddr], cable: (Receiver<Bytes>, Sender<Bytes>), mtu: u16) -> Result<Self> {
        let mut wire = Wire {
            arrived: VecDeque::new(),
            incoming: cable.0,
            outgoing: cable.1,
            mtu: usize::from(mtu),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed()?;
        let mut interface = Interface::new(config, &mut wire, StackInstant::ZERO);
        interface.update_ip_addrs(|list| {
            for address in addresses {
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                // More than the stack has room for are left out; two is what we have.
                let _ = list.push(IpCidr::new((*address).into(), prefix));
            }
        });
        // The next hop is never asked for: there are no neighbours on this kind of cable.
        let routes = interface.routes_mut();
        routes
            .add_default_ipv4_route(Ipv4Address::new(192, 0, 2, 1))
            .and_then(|_| routes.add_default_ipv6_route(Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)))
            .map_err(|_| anyhow!("no room for two routes"))?;
        Ok(Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            started: Instant::now(),
        })
    }

    /// Lets the stack work, waits until there is something new for it to do, and lets it do that. Returns as soon as a socket
    /// may have changed.
    ///
    /// # Errors
    /// The other end of the cable is gone.
    pub(crate) async fn turn(&mut self) -> Result<()> {
        if !self.work() {
            self.wait().await?;
            self.work();
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<()> {
        let now = self.now();
        let delay = self
            .interface
            .poll_delay(now, &self.sockets)
            .map_or(IDLE, |delay| delay.into());
        let full = self.wire.outgoing.capacity() == 0;
        tokio::select! {
            packet = self.wire.incoming.recv() => match packet {
                Some(packet) => self.wire.arrived.push_back(packet),
                None => bail!("the packet device is gone"),
            },
            room = self.wire.outgoing.reserve(), if full => {
                room.map_err(|_| anyhow!("the packet device is gone"))?;
            }
            () = sleep(delay.min(IDLE)), if !full => {}
        }
        Ok(())
    }

    /// Takes turns until `step` gives something, at most for `limit`. `step` is asked before each turn.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut step: impl FnMut(&mut Interface, &mut SocketSet<'static>) -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        loop {
            if let Some(found) = step(&mut self.interface, &mut self.sockets)? {
                // What the last step queued must still go out.
                self.work();
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {:.1} s in vain for {what}", limit.as_secs_f64());
            }
            match tokio::time::timeout(left, self.turn()).await {
                Ok(turned) => turned?,
                Err(_) => continue,
            }
        }
    }

    /// `true` if a socket may have changed.
    fn work(&mut self) -> bool {
        let now = self.now();
        for _ in 0..BATCH {
            match self.wire.incoming.try_recv() {
                Ok(packet) => self.wire.arrived.push_back(packet),
                Err(_) => break,
            }
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets) == PollResult::SocketStateChanged
    }

    fn now(&self) -> StackInstant {
        StackInstant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// For port and sequence numbers: two runs must not look alike to each other.
fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("no random numbers from the system"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// The cable, as the stack sees it. When the queue is full, the stack waits instead of losing packets.
struct Wire {
    arrived: VecDeque<Bytes>,
    incoming: Receiver<Bytes>,
    outgoing: Sender<Bytes>,
    mtu: usize,
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Arrived, Leaving<'_>)> {
        if self.outgoing.capacity() == 0 {
            return None;
        }
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&self.outgoing)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Leaving<'_>> {
        (self.outgoing.capacity() > 0).then_some(Leaving(&self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Arrived(Bytes);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Leaving<'a>(&'a Sender<Bytes>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        // There was room, and this is the only sender; if the other end is gone the next turn says so.
        let _ = self.0.try_send(packet.into());
        result
    }
}
