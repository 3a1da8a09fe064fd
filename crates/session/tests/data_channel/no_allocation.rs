//! The way of packets through the pure crates, in both directions, asks the allocator for nothing once it runs.
//!
//! ```text
//!   read of a device -> Segments -> Fitter, Established -> Datagrams::seal -> Batch
//!     datagrams in a buffer -> Datagrams::received, opened in place -> Established -> Coalescer -> pieces of a write
//! ```

use std::sync::Arc;
use std::time::Duration;

use dtls::{Peek, peek};
use now::Now;
use packet::access::{Action, Protocol, Rule};
use packet::virtio::{Checksum, Gso, GsoKind, Offload};
use packet::{AccessList, Batch, Coalescer, Ecn, Place, Segments, Step};
use session::client::{Authenticated, Identity, Wants};
use session::gateway::{self, Lease};
use session::{Fit, Fitter, Received, client};
use wire::Secret;
use wire::http::parse_response;
use wire::offer::Grant;

use crate::net::{Address, Net};

/// Between two reads.
const TURN: Duration = Duration::from_micros(500);

/// Reads of each kind until everything has the memory that it needs.
const WARM_UP: u32 = 20;

/// Reads of each kind that are measured: some 40,000 packets each way.
const READS: u32 = 200;

const CLIENT_V4: [u8; 4] = [10, 78, 0, 2];
const LAN_V4: [u8; 4] = [10, 77, 0, 10];

/// The largest packet of the data channel in these tests.
const MTU: u16 = 1400;

/// Reads of a device: kind, bytes of payload, bytes in each packet.
const KINDS: [(Kind, usize, u16); 6] = [
    (Kind::TcpV4, 60_000, 1348),
    (Kind::TcpV6, 60_000, 1328),
    (Kind::Udp, 40_000, 1200),
    // More packets than a batch takes.
    (Kind::TcpV4, 20_000, 100),
    (Kind::Single, 1000, 0),
    (Kind::Single, 32, 0),
];

/// What the client may talk to: the other end of all reads, and many others. Port 2000 is the destination on both ways, port 1000 the source.
const RULES: [(u8, u16); 200] = {
    let mut rules = [(0, 0); 200];
    let mut number = 0;
    while number < rules.len() {
        rules[number] = (number as u8, 2000 - number as u16 * 5);
        number += 1;
    }
    rules
};

fn rule((net, port): (u8, u16)) -> Rule {
    Rule {
        action: Action::Allow,
        networks: vec![
            format!("10.77.{net}.0/24").parse().expect("net"),
            format!("fd00:{:x}::/32", 0x77 + u16::from(net)).parse().expect("net"),
        ],
        protocol: Protocol::Any,
        ports: vec![1000..=1000, port..=port],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TcpV4,
    TcpV6,
    Udp,
    Single,
}

#[test]
fn no_packet_asks_for_memory() {
    let mut ends = Ends::new();
    let mut reads: Vec<_> = KINDS
        .iter()
        .map(|kind| (Read::new(*kind, true), Read::new(*kind, false)))
        .collect();
    let mut turns = |ends: &mut Ends, count: u32| {
        for _ in 0..count {
            for (up, down) in &mut reads {
                ends.up(up);
                ends.down(down);
            }
        }
    };
    turns(&mut ends, WARM_UP);
    let before = ends.written;
    let counted = allocation_counter::measure(|| turns(&mut ends, READS));
    let packets = ends.written.packets - before.packets;
    println!(
        "{packets} packets in {} writes: {} allocations",
        ends.written.writes - before.writes,
        counted.count_total
    );
    let each: usize = KINDS
        .iter()
        .map(|(kind, payload, size)| packets_of(*kind, *payload, *size))
        .sum();
    assert_eq!(packets, 2 * each * READS as usize, "every packet arrives");
    assert_eq!(counted.count_total, 0, "{counted:?}");
    for drops in [ends.client.traffic().drops, ends.gateway.traffic().drops] {
        assert_eq!(drops.total(), 0);
    }
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(counted.count_total, 1);
}

fn packets_of(kind: Kind, payload: usize, size: u16) -> usize {
    match kind {
        Kind::Single => 1,
        Kind::TcpV4 | Kind::TcpV6 | Kind::Udp => payload.div_ceil(size.into()),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Written {
    packets: usize,
    writes: usize,
}

/// What a device gives again and again, with the sequence moved on.
struct Read {
    bytes: Vec<u8>,
    tcp_at: Option<usize>,
    payload: u32,
}

impl Read {
    fn new((kind, payload, size): (Kind, usize, u16), up: bool) -> Self {
        let tcp = matches!(kind, Kind::TcpV4 | Kind::TcpV6);
        let mut upper = if tcp { tcp_header() } else { udp_header(payload) };
        upper.resize(upper.len() + payload, 0x5a);
        let protocol = if tcp { 6 } else { 17 };
        let (packet, at) = match kind {
            Kind::TcpV6 => (v6(protocol, &upper, up), 40),
            Kind::TcpV4 | Kind::Udp | Kind::Single => (v4(protocol, &upper, up), 20),
        };
        let offload = Offload {
            checksum: Checksum::Partial {
                start: at,
                field: if tcp { 16 } else { 6 },
            },
            segments: match kind {
                Kind::TcpV4 => Some(GsoKind::TcpV4),
                Kind::TcpV6 => Some(GsoKind::TcpV6),
                Kind::Udp => Some(GsoKind::Udp),
                Kind::Single => None,
            }
            .map(|kind| Gso { kind, size }),
        };
        let header = offload.header(at);
        let start = header.len() + usize::from(at);
        Self {
            bytes: [&header[..], &packet].concat(),
            tcp_at: tcp.then_some(start),
            payload: u32::try_from(payload).expect("less than 64 KiB"),
        }
    }

    /// The next of its kind.
    fn go_on(&mut self) {
        if let Some(at) = self.tcp_at {
            let field = &mut self.bytes[at + 4..at + 8];
            let before = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&before.wrapping_add(self.payload).to_be_bytes());
        }
    }
}

fn tcp_header() -> Vec<u8> {
    vec![
        0x03,
        0xe8,
        0x07,
        0xd0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        77,
        5 << 4,
        0x10,
        0x20,
        0,
        0,
        0,
        0,
        0,
    ]
}

fn udp_header(payload: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload).expect("less than 64 KiB").to_be_bytes();
    vec![0x03, 0xe8, 0x07, 0xd0, length[0], length[1], 1, 1]
}

fn v4(protocol: u8, upper: &[u8], up: bool) -> Vec<u8> {
    let total = u16::try_from(20 + upper.len()).expect("less than 64 KiB").to_be_bytes();
    let (from, to) = if up { (CLIENT_V4, LAN_V4) } else { (LAN_V4, CLIENT_V4) };
    // May not be fragmented: no identification to count.
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(from.into_iter().chain(to));
    let sum = packet::checksum::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(upper);
    packet
}

fn v6(protocol: u8, upper: &[u8], up: bool) -> Vec<u8> {
    let length = u16::try_from(upper.len()).expect("less than 64 KiB").to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
    let address = |net: u8, host: u8| [0xfd, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
    let (near, far) = (address(0x78, 2), address(0x77, 0x10));
    let (from, to) = if up { (near, far) } else { (far, near) };
    packet.extend(from.into_iter().chain(to));
    packet.extend(upper);
    packet
}

/// Both ends and what their shells keep for them.
struct Ends {
    net: Net,
    address: Address,
    client: client::Established,
    gateway: gateway::Established,
    fitter: Fitter,
    scratch: Vec<u8>,
    batch: Batch,
    /// What is received.
    arena: [Box<[u8]>; 1],
    places: Vec<Place>,
    coalescer: Coalescer,
    written: Written,
}

impl Ends {
    fn new() -> Self {
        let mut net = Net::new(true);
        net.up();
        // The path has been measured, and both ends know that the other is there.
        net.run(Duration::from_secs(3));
        let path = net.client.path().expect("up");
        let address = net.sockets[&path];
        let grant = Grant {
            v4: Some("10.78.0.2/24".parse().expect("net")),
            v6: Some("fd00:78::2/128".parse().expect("net")),
            mtu: MTU,
            ..Grant::default()
        };
        let lease = Lease {
            v4: Some(CLIENT_V4.into()),
            v6: Some("fd00:78::2".parse().expect("address")),
        };
        let now = net.now;
        let mut gateway = gateway::Established::new(lease, MTU, None, now);
        gateway.set_access(Some(Arc::new(AccessList::compile(&RULES.map(rule), Action::Deny))));
        Self {
            net,
            address,
            client: connected(&grant, now),
            gateway,
            fitter: Fitter::new(true),
            scratch: Vec::new(),
            batch: Batch::default(),
            arena: [vec![0; 1 << 16].into_boxed_slice()],
            places: Vec::new(),
            coalescer: Coalescer::new(true),
            written: Written::default(),
        }
    }

    /// A read of the client's device, to a write at the gateway.
    fn up(&mut self, read: &mut Read) {
        let now = self.turn(read);
        let (offload, packet) = Offload::split(&read.bytes).expect("a header");
        let mut segments = Segments::new(&offload, packet).expect("what a device gives");
        let ecn = Ecn::of(segments.whole());
        let all = (segments.left(), segments.bytes());
        let longest = segments.longest();
        self.client
            .outgoing_many(segments.whole(), longest, all, now)
            .expect("it is ours");
        self.fits(&mut segments.clone(), now);
        while segments.left() > 0 {
            segments.each(|length, write| {
                let record = self.net.client.record_length(length).expect("up");
                if !self.batch.takes(record, ecn) {
                    return Step::Later;
                }
                self.net
                    .client
                    .seal((length, ecn), &mut self.batch, write, now)
                    .expect("sealed");
                Step::On
            });
            self.arrives_at_gateway(now);
        }
    }

    /// A read of the gateway's device, to a write at the client.
    fn down(&mut self, read: &mut Read) {
        let now = self.turn(read);
        let (offload, packet) = Offload::split(&read.bytes).expect("a header");
        let mut segments = Segments::new(&offload, packet).expect("what a device gives");
        let ecn = Ecn::of(segments.whole());
        let all = segments.left();
        self.gateway.may_go(segments.whole(), all).expect("it is allowed");
        self.fits(&mut segments.clone(), now);
        while segments.left() > 0 {
            segments.each(|length, write| {
                let (_, record) = self.net.gateway.record_length(length).expect("up");
                if !self.batch.takes(record, ecn) {
                    return Step::Later;
                }
                self.gateway.outgoing(length).expect("it fits");
                self.net
                    .gateway
                    .seal((length, ecn), &mut self.batch, write, now)
                    .expect("sealed");
                Step::On
            });
            self.arrives_at_client(now);
        }
    }

    fn turn(&mut self, read: &mut Read) -> Now {
        read.go_on();
        self.net.now = self.net.now.plus(TURN);
        self.net.now
    }

    /// What is done to single packets.
    fn fits(&mut self, segments: &mut Segments<'_>, now: Now) {
        if segments.left() > 1 {
            return;
        }
        self.scratch.resize(segments.next_length().unwrap_or(0), 0);
        segments.write_next(&mut self.scratch);
        assert_eq!(self.fitter.fit(&self.scratch, MTU, now.awake), Fit::AsIs);
    }

    fn arrives_at_gateway(&mut self, now: Now) {
        let (length, each) = self.receive();
        let mut from = 0;
        while from < length {
            let [buffer] = &mut self.arena;
            let start = buffer.as_ptr().addr();
            let datagram = &mut buffer[from..length.min(from + each)];
            let id = match peek(datagram, 8) {
                Peek::Identified(id) => Some(id),
                other => panic!("{other:?}"),
            };
            let (gateway, places) = (&mut self.gateway, &mut self.places);
            let deliver = &mut |packet: &mut [u8]| {
                assert_eq!(gateway.incoming_in(Ecn::default(), packet, now), Received::Packet);
                places.push(place(packet, start));
            };
            self.net
                .gateway
                .received(self.address, id, datagram, || [0; 8], now, deliver);
            from += each;
        }
        self.write();
    }

    fn arrives_at_client(&mut self, now: Now) {
        let (length, each) = self.receive();
        let path = self.net.client.path().expect("up");
        let mut from = 0;
        while from < length {
            let [buffer] = &mut self.arena;
            let start = buffer.as_ptr().addr();
            let datagram = &mut buffer[from..length.min(from + each)];
            let (client, places) = (&mut self.client, &mut self.places);
            let deliver = &mut |packet: &mut [u8]| {
                assert_eq!(client.incoming_in(Ecn::default(), packet), Received::Packet);
                places.push(place(packet, start));
            };
            self.net.client.received(path, datagram, now, deliver);
            from += each;
        }
        self.write();
    }

    /// What the network does: the batch is in the buffer of the other end. Bytes of all, and of each datagram but the last.
    fn receive(&mut self) -> (usize, usize) {
        let bytes = self.batch.bytes();
        self.arena[0][..bytes.len()].copy_from_slice(bytes);
        let all = (bytes.len(), self.batch.each());
        self.batch.clear();
        all
    }

    fn write(&mut self) {
        for place in self.places.drain(..) {
            self.coalescer.push(&self.arena, place);
        }
        let written = &mut self.written;
        self.coalescer.write(&self.arena, |pieces, packets| {
            assert!(pieces.len() >= 2, "a header and a packet");
            written.packets += packets;
            written.writes += 1;
        });
    }
}

/// A client that was granted this.
fn connected(grant: &Grant, now: Now) -> client::Established {
    let authenticated = Authenticated::from_cookie(Secret::new("cookie".to_owned()));
    let (requesting, _) = authenticated.request(&Identity::default(), &Wants::default(), None);
    let reply = grant.encode();
    let (head, _) = parse_response(&reply, reply.len()).expect("http").expect("whole head");
    requesting.reply(&head, now).expect("a grant")
}

fn place(packet: &[u8], start: usize) -> Place {
    let from = packet.as_ptr().addr() - start;
    Place {
        buffer: 0,
        range: from..from + packet.len(),
    }
}
