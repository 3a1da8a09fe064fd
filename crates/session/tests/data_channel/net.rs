//! Both ends of a data channel and the network between them, in virtual time.
//!
//! The network has one rule at a time: what it loses, and which address a path of the client is seen at.

use std::collections::BTreeMap;
use std::time::Duration;

use dtls::{ConnectionId, CookieCheck, Cookies, Peek, Psk, Suite, peek};
use now::{Gap, GapKind, Now};
use packet::{Batch, Ecn};
use session::client::{Ask, DataOutput, Datagrams, PathId, Renewal, Terms};
use session::gateway::{self, DatagramTerms, GatewayData, Key};

/// One way.
pub(crate) const DELAY: Duration = Duration::from_millis(20);

/// Where a datagram comes from, as the gateway sees it.
pub(crate) type Address = u32;

#[derive(Debug)]
enum Flight {
    ToGateway(Address, Vec<u8>),
    ToClient(Address, Vec<u8>),
}

/// Both ends.
pub(crate) struct Net {
    pub(crate) now: Now,
    pub(crate) client: Datagrams,
    pub(crate) gateway: gateway::Datagrams<Address>,
    cookies: Cookies,
    terms: Terms,
    flights: Vec<(Duration, u64, Flight)>,
    sent: u64,
    random: u64,
    next_address: Address,
    /// Datagrams that the client sent.
    pub(crate) client_sent: u64,
    /// Open sockets of the client, with the address that each is seen at.
    pub(crate) sockets: BTreeMap<PathId, Address>,
    /// Keys that the gateway claimed.
    pub(crate) claimed: Vec<Key<Address>>,
    /// Nothing passes.
    pub(crate) blocked: bool,
    /// Nothing longer passes.
    pub(crate) longest: usize,
    /// A record of the client that is withheld, if it is to be.
    pub(crate) withhold: bool,
    pub(crate) withheld: Option<Vec<u8>>,
    pub(crate) at_gateway: Vec<Vec<u8>>,
    pub(crate) at_client: Vec<Vec<u8>>,
    pub(crate) told: Vec<String>,
    batch: Batch,
}

pub(crate) fn terms(ours: bool, key: u8) -> Terms {
    Terms {
        psk: Psk::new(&[key; 32]).expect("a key"),
        app_id: vec![key; 32],
        suites: vec![Suite::Aes128GcmSha256],
        ours,
        ecn: ours,
        parks: ours,
        dpd: Some(Duration::from_secs(20)),
        keepalive: None,
        mtu: 1400,
        floor: 576,
        path_mtu_discovery: true,
        renewals: Vec::new(),
    }
}

fn gateway_terms(terms: &Terms) -> DatagramTerms {
    DatagramTerms {
        psk: terms.psk.clone(),
        suites: terms.suites.clone(),
        ours: terms.ours,
        ecn: terms.ecn,
        mtu: terms.mtu,
        floor: terms.floor,
        path_mtu_discovery: true,
        parks: terms.ours,
    }
}

impl Net {
    pub(crate) fn new(ours: bool) -> Self {
        Self::with(terms(ours, 1))
    }

    pub(crate) fn with_renewals(ours: bool, renewals: Vec<Renewal>) -> Self {
        Self::with(Terms {
            renewals,
            ..terms(ours, 1)
        })
    }

    fn with(terms: Terms) -> Self {
        let now = Now::default().plus(Duration::from_secs(1000));
        let mut this = Self {
            now,
            client: Datagrams::new(terms.clone(), now),
            gateway: gateway::Datagrams::new(gateway_terms(&terms)),
            cookies: Cookies::new([7; 32]),
            terms,
            flights: Vec::new(),
            sent: 0,
            random: 1,
            next_address: 100,
            client_sent: 0,
            sockets: BTreeMap::new(),
            claimed: Vec::new(),
            blocked: false,
            longest: usize::MAX,
            withhold: false,
            withheld: None,
            at_gateway: Vec::new(),
            at_client: Vec::new(),
            told: Vec::new(),
            batch: Batch::default(),
        };
        this.settle();
        this
    }

    /// Lets `time` pass, event by event.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.clock() + time;
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(
                turns < 100_000,
                "no end: {:?} {:?}",
                self.client.deadline(),
                self.gateway.deadline()
            );
            self.settle();
            let flight = self.flights.iter().map(|(at, _, _)| *at).min();
            let timers = [self.client.deadline(), self.gateway.deadline()];
            let timer = timers
                .into_iter()
                .flatten()
                .map(|deadline| deadline.at.since_origin())
                .min();
            let next = flight.into_iter().chain(timer).min().unwrap_or(end).max(self.clock());
            if next > end {
                break;
            }
            self.now = self.now.plus(next - self.clock());
            self.arrive();
            self.client.handle_timeout(self.now);
            self.gateway.handle_timeout(self.now);
            if next >= end {
                break;
            }
        }
        self.now = self.now.plus(end - self.clock());
        self.settle();
    }

    /// Lets time pass until both ends use the data channel.
    pub(crate) fn up(&mut self) {
        self.run(Duration::from_secs(1));
        assert!(self.client.path().is_some() && self.gateway.is_up(), "{:?}", self.told);
    }

    /// A packet of the client. Whether it took the data channel.
    pub(crate) fn up_packet(&mut self, packet: &[u8]) -> bool {
        self.batch.clear();
        let write = |place: &mut [u8]| place.copy_from_slice(packet);
        match self
            .client
            .seal((packet.len(), Ecn::NotEct), &mut self.batch, write, self.now)
        {
            Some(path) => {
                self.uplink(path, self.batch.bytes().to_vec());
                true
            }
            None => false,
        }
    }

    /// A packet for the client. Whether it took the data channel.
    pub(crate) fn down_packet(&mut self, packet: &[u8]) -> bool {
        self.batch.clear();
        let write = |place: &mut [u8]| place.copy_from_slice(packet);
        match self
            .gateway
            .seal((packet.len(), Ecn::NotEct), &mut self.batch, write, self.now)
        {
            Some(to) => {
                self.launch(Flight::ToClient(to, self.batch.bytes().to_vec()));
                true
            }
            None => false,
        }
    }

    /// The network sees the client's current path at another address.
    pub(crate) fn renumber(&mut self) -> Address {
        let path = self.client.path().expect("up");
        self.next_address += 1;
        self.sockets.insert(path, self.next_address);
        self.next_address
    }

    /// The client's own address changed, and it noticed.
    pub(crate) fn roam(&mut self) {
        if let Some(path) = self.client.roam(self.now) {
            self.next_address += 1;
            self.sockets.insert(path, self.next_address);
        }
        self.settle();
    }

    /// Somebody at `address` sends this.
    pub(crate) fn inject(&mut self, address: Address, datagram: Vec<u8>) {
        self.launch(Flight::ToGateway(address, datagram));
    }

    /// A CONNECT takes the session over.
    pub(crate) fn take_over(&mut self, key: u8) {
        let terms = Terms {
            ours: self.terms.ours,
            ..terms(self.terms.ours, key)
        };
        self.gateway.renew(gateway_terms(&terms));
        let blank = Datagrams::new(terms.clone(), self.now);
        let old = std::mem::replace(&mut self.client, blank);
        self.client = Datagrams::after(old, terms.clone(), self.now);
        self.terms = terms;
        self.settle();
    }

    /// Both ends did not run for a while.
    pub(crate) fn freeze_client(&mut self, length: Duration) {
        self.now = self.now.plus(length);
        let gap = Gap {
            length,
            awake: length,
            kind: GapKind::Freeze,
        };
        self.client.rebase(&gap, 1 << 24, self.now);
    }

    /// The same, and a jump over so many records.
    pub(crate) fn freeze_and_jump(&mut self, length: Duration, jump: u64) {
        self.now = self.now.plus(length);
        let gap = Gap {
            length,
            awake: length,
            kind: GapKind::Freeze,
        };
        self.client.rebase(&gap, jump, self.now);
        self.settle();
    }

    /// The client's host slept.
    pub(crate) fn sleep_client(&mut self, length: Duration) {
        self.now = self.now.plus_asleep(length);
        let gap = Gap {
            length,
            awake: Duration::ZERO,
            kind: GapKind::Sleep,
        };
        self.client.rebase(&gap, 1 << 24, self.now);
        self.client.be_quiet();
    }

    /// The client's host has a way to the gateway again.
    pub(crate) fn ask_anew(&mut self) {
        self.client.ask_anew(self.now);
        self.settle();
    }

    /// The client's host is about to sleep. Whether the gateway was told.
    pub(crate) fn park(&mut self) -> bool {
        let said = self.client.park([1; 8], self.now);
        self.settle();
        said
    }

    /// The client's host is fully awake. Whether the gateway is asked over this channel.
    pub(crate) fn wake(&mut self, ask: Ask) -> bool {
        let asked = self.client.wake([2; 8], ask, self.now);
        self.settle();
        asked
    }

    pub(crate) fn clock(&self) -> Duration {
        self.now.awake.since_origin()
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.random.to_be_bytes()[0]
        })
    }

    fn settle(&mut self) {
        loop {
            if let Some(output) = self.client.poll() {
                self.client_output(output);
            } else if let Some(output) = self.gateway.poll() {
                self.gateway_output(output);
            } else {
                return;
            }
        }
    }

    fn client_output(&mut self, output: DataOutput) {
        match output {
            DataOutput::Open(path) => {
                self.next_address += 1;
                self.sockets.insert(path, self.next_address);
                let random = self.random();
                self.client.opened(path, random, self.now);
            }
            DataOutput::Rebind(path) => {
                self.next_address += 1;
                self.sockets.insert(path, self.next_address);
            }
            DataOutput::Parked => self.told.push("parked".to_owned()),
            DataOutput::Unparked(via) => self.told.push(format!("unparked {via}")),
            DataOutput::Alive => self.told.push("alive".to_owned()),
            DataOutput::Silent => self.told.push("silent".to_owned()),
            DataOutput::Close(path) => _ = self.sockets.remove(&path),
            DataOutput::Send(path, datagram) => self.uplink(path, datagram),
            DataOutput::Up { suite, roams, .. } => self.told.push(format!("client up {} {roams}", suite.name())),
            DataOutput::Down(why) => self.told.push(format!("client down: {why}")),
            DataOutput::Mtu(size) => self.told.push(format!("client mtu {size}")),
            DataOutput::Renew(why) => self.told.push(format!("renew: {why}")),
        }
    }

    fn gateway_output(&mut self, output: GatewayData<Address>) {
        match output {
            GatewayData::Send(to, datagram) => self.launch(Flight::ToClient(to, datagram)),
            GatewayData::Claim(key) => {
                self.claimed.retain(|claimed| *claimed != key);
                self.claimed.push(key);
            }
            GatewayData::Release(key) => self.claimed.retain(|claimed| *claimed != key),
            GatewayData::Up { .. } => self.told.push("gateway up".to_owned()),
            GatewayData::Down(why) => self.told.push(format!("gateway down: {why}")),
            GatewayData::Silent(why) => self.told.push(format!("gateway silent: {why}")),
            GatewayData::Park => self.told.push("park".to_owned()),
            GatewayData::Awake(via) => self.told.push(format!("awake {via}")),
            GatewayData::Moved { .. } => self.told.push("moved".to_owned()),
        }
    }

    fn uplink(&mut self, path: PathId, datagram: Vec<u8>) {
        self.client_sent += 1;
        let Some(address) = self.sockets.get(&path).copied() else {
            return;
        };
        if self.withhold && self.withheld.is_none() {
            self.withheld = Some(datagram);
            return;
        }
        self.launch(Flight::ToGateway(address, datagram));
    }

    fn launch(&mut self, flight: Flight) {
        self.sent += 1;
        let (Flight::ToGateway(_, datagram) | Flight::ToClient(_, datagram)) = &flight;
        if self.blocked || datagram.len() > self.longest {
            return;
        }
        self.flights.push((self.clock() + DELAY, self.sent, flight));
    }

    fn arrive(&mut self) {
        let clock = self.clock();
        self.flights.sort_by_key(|(at, number, _)| (*at, *number));
        let later = self
            .flights
            .iter()
            .position(|(at, _, _)| *at > clock)
            .unwrap_or(self.flights.len());
        let due: Vec<_> = self.flights.drain(..later).collect();
        for (_, _, flight) in due {
            match flight {
                Flight::ToGateway(from, mut datagram) => self.at_gateway(from, &mut datagram),
                Flight::ToClient(to, mut datagram) => {
                    let path = self
                        .sockets
                        .iter()
                        .find(|(_, address)| **address == to)
                        .map(|(path, _)| *path);
                    if let Some(path) = path {
                        let packets = &mut self.at_client;
                        let deliver = &mut |packet: &mut [u8]| packets.push(packet.to_vec());
                        self.client.received(path, &mut datagram, self.now, deliver);
                    }
                }
            }
            self.settle();
        }
    }

    /// What the room of datagrams does.
    fn at_gateway(&mut self, from: Address, datagram: &mut [u8]) {
        let (id, hello) = match peek(datagram, 8) {
            Peek::Hello(hello) if hello.session_id() == self.terms.app_id => {
                (None, Some(self.cookies.check(&hello, &from.to_be_bytes())))
            }
            Peek::Hello(_) | Peek::Foreign => return,
            Peek::Identified(id) => (Some(id), None),
            Peek::Record { .. } => (None, None),
        };
        match hello {
            Some(CookieCheck::Ask(question)) => self.launch(Flight::ToClient(from, question)),
            Some(CookieCheck::Proven(proven)) => {
                let random = self.random();
                let id = ConnectionId::new(&self.random::<8>()).expect("an id");
                self.gateway.hello(proven, datagram, from, (random, id), self.now);
            }
            None => {
                let key = id.map_or(Key::From(from), Key::Id);
                if !self.claimed.contains(&key) {
                    return;
                }
                let challenge = self.random();
                let packets = &mut self.at_gateway;
                let deliver = &mut |packet: &mut [u8]| packets.push(packet.to_vec());
                self.gateway
                    .received(from, id, datagram, || challenge, self.now, deliver);
            }
        }
    }
}
