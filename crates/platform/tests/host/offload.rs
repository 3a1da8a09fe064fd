//! What the kernel makes of packets that a device with offloads takes, beside what `packet` makes of them.
//!
//! ```text
//!   test --several packets at once--> in0, offloads ~~ forwarded, cut by the kernel ~~> out0, none --one by one--> test
//! ```

use std::fs;
use std::io::{self, IoSlice};

use packet::checksum::{Sum, checksum};
use packet::virtio::{Checksum, Gso, GsoKind, Offload};
use packet::{Coalescer, Place, Segments};
use platform::netns::Namespace;
use platform::tun::{Tun, TunOptions};

use crate::lab::{Lab, Test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("segments_are_the_kernels_to_the_byte", segments),
        ("packets_put_together_come_out_of_the_kernel_as_they_were", coalesced),
        ("what_a_device_gives_can_be_cut", given),
        ("a_header_that_says_nonsense_costs_its_packet_only", nonsense),
    ]
}

const KINDS: [GsoKind; 3] = [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp];

/// Hop limit of what is written; the kernel takes one off.
const HOPS: u8 = 64;

fn run(host: &Namespace, words: &str) {
    let mut command = host.command("ip").expect("command");
    let status = command.args(words.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {words}: {status}");
}

fn device(name: &str, offloads: bool) -> Tun {
    let options = TunOptions {
        name: name.into(),
        mtu: 1500,
        offloads,
    };
    Tun::create(&options).expect("TUN")
}

/// A host that forwards from one device to the other.
fn forwarding(lab: &Lab) -> (Tun, Tun) {
    let (within, out) = (device("in0", true), device("out0", false));
    for (file, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
    ] {
        fs::write(format!("/proc/sys/net/{file}"), value).expect("sysctl");
    }
    for words in [
        "link set in0 up",
        "link set out0 up",
        "addr add 10.9.0.1/24 dev in0",
        "addr add fd00:9::1/64 dev in0 nodad",
        "route add 10.8.0.0/24 dev out0",
        "route add fd00:8::/64 dev out0",
    ] {
        run(&lab.host, words);
    }
    (within, out)
}

/// Hands a device something, once the runtime knows that it takes anything.
async fn write(device: &Tun, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match device.try_send_pieces(pieces) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
            outcome => return outcome,
        }
    }
}

/// The next packet that a device gives, but for those that the host sends by itself.
async fn next(device: &Tun) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    loop {
        let length = device.recv(&mut buffer).await.expect("a packet");
        let packet = &buffer[..length];
        let is_ours = match packet[0] >> 4 {
            4 => packet[12..15] == [10, 9, 0],
            _ => packet[8..12] == [0xfd, 0, 0, 9],
        };
        if is_ours {
            return packet.to_vec();
        }
    }
}

/// A packet to be cut into pieces of `size` bytes, with the sum of its pseudo header, and with `hops` to go.
fn whole(kind: GsoKind, payload: &[u8], size: u16, hops: u8) -> (Offload, Vec<u8>) {
    let (protocol, field, mut upper) = match kind {
        GsoKind::TcpV4 | GsoKind::TcpV6 => {
            let mut tcp = vec![0x03, 0xe8, 0x07, 0xd0, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 77];
            tcp.extend([8 << 4, 0x18, 0x20, 0, 0, 0, 0, 0]);
            tcp.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
            (6_u8, 16, tcp)
        }
        GsoKind::Udp => {
            let length = u16::try_from(8 + payload.len()).expect("short");
            let mut udp = vec![0x03, 0xe8, 0x07, 0xd0];
            udp.extend(length.to_be_bytes());
            udp.extend([0, 0]);
            (17, 6, udp)
        }
    };
    upper.extend(payload);
    let length = u16::try_from(upper.len()).expect("short");
    let (mut packet, addresses) = match kind {
        GsoKind::TcpV4 => {
            let mut ip = vec![0x45, 0x02];
            ip.extend((length + 20).to_be_bytes());
            ip.extend([0x12, 0x34, 0x40, 0, hops, protocol, 0, 0, 10, 9, 0, 2, 10, 8, 0, 2]);
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            (ip, 12..20)
        }
        GsoKind::TcpV6 | GsoKind::Udp => {
            let mut ip = vec![0x60, 0x20, 0, 7];
            ip.extend(length.to_be_bytes());
            ip.extend([protocol, hops]);
            for network in [9, 8] {
                ip.extend([0xfd, 0, 0, network]);
                ip.extend([0; 11]);
                ip.push(2);
            }
            (ip, 8..40)
        }
    };
    let start = packet.len();
    let pseudo = Sum::default()
        .plus(&packet[addresses])
        .plus_word(protocol.into())
        .plus_word(length);
    upper[field..field + 2].copy_from_slice(&pseudo.partial().to_be_bytes());
    packet.extend(upper);
    let offload = Offload {
        checksum: Checksum::Partial {
            start: u16::try_from(start).expect("short"),
            field: u16::try_from(field).expect("short"),
        },
        segments: Some(Gso { kind, size }),
    };
    (offload, packet)
}

/// Bytes of all headers of [`whole`].
fn headers(kind: GsoKind) -> u16 {
    match kind {
        GsoKind::TcpV4 => 52,
        GsoKind::TcpV6 => 72,
        GsoKind::Udp => 48,
    }
}

fn cut(offload: &Offload, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(offload, packet).expect("a packet to be cut");
    let mut all = Vec::new();
    while let Some(length) = segments.next_length() {
        all.push(vec![0; length]);
        segments.write_next(all.last_mut().expect("just pushed"));
    }
    all
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Which kinds this kernel takes.
fn kinds(device: &Tun) -> impl Iterator<Item = GsoKind> + use<> {
    let udp = device.offloads().expect("offloads").udp;
    if !udp {
        println!("this kernel takes no UDP datagrams together (Linux 6.2 does)");
    }
    KINDS.into_iter().filter(move |kind| udp || *kind != GsoKind::Udp)
}

const SHAPES: [(usize, u16); 5] = [(50, 8), (1000, 400), (5001, 1000), (14_600, 1428), (60_000, 1400)];

fn segments() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let (within, out) = forwarding(&lab);
        for kind in kinds(&within) {
            for (length, size) in SHAPES {
                let payload = payload(length);
                let (offload, packet) = whole(kind, &payload, size, HOPS);
                let header = offload.header(headers(kind));
                let pieces = [IoSlice::new(&header), IoSlice::new(&packet)];
                write(&within, &pieces).await.expect("taken");
                let (offload, packet) = whole(kind, &payload, size, HOPS - 1);
                for (index, ours) in cut(&offload, &packet).iter().enumerate() {
                    assert_eq!(next(&out).await, *ours, "{kind:?}, {length} by {size}, number {index}");
                }
            }
        }
    });
}

fn coalesced() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let (within, out) = forwarding(&lab);
        let mut coalescer = Coalescer::new(within.offloads().expect("offloads").udp);
        for kind in kinds(&within) {
            for (length, size) in SHAPES {
                let payload = payload(length);
                let (offload, packet) = whole(kind, &payload, size, HOPS);
                let arena = cut(&offload, &packet);
                for (buffer, packet) in arena.iter().enumerate() {
                    let range = 0..packet.len();
                    coalescer.push(&arena, Place { buffer, range });
                }
                let mut writes = Vec::new();
                coalescer.write(&arena, |pieces, _| {
                    writes.push(pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>());
                });
                let at_once = if kind == GsoKind::Udp { 64 } else { 128 };
                assert_eq!(
                    writes.len(),
                    arena.len().div_ceil(at_once),
                    "{kind:?}, {length} by {size}"
                );
                for bytes in &writes {
                    write(&within, &[IoSlice::new(bytes)]).await.expect("taken");
                }
                let (offload, packet) = whole(kind, &payload, size, HOPS - 1);
                for (index, before) in cut(&offload, &packet).iter().enumerate() {
                    assert_eq!(
                        next(&out).await,
                        *before,
                        "{kind:?}, {length} by {size}, number {index}"
                    );
                }
            }
        }
    });
}

/// What comes in by a device without offloads is put together by nobody; what a program sends may be.
fn given() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let with = device("with0", true);
        for words in [
            "link set with0 up",
            "addr add 10.9.0.1/24 dev with0",
            "addr add fd00:9::1/64 dev with0 nodad",
        ] {
            run(&lab.host, words);
        }
        for to in ["10.9.0.2:4711", "[fd00:9::2]:4711"] {
            let sender = std::net::UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
            let sender = sender.expect("a socket");
            sender.send_to(&payload(700), to).expect("sent");
            let (offload, packet) = loop {
                let read = raw(&with).await;
                let (offload, packet) = Offload::split(&read).expect("a header");
                if packet.len() > 700 {
                    break (offload, packet.to_vec());
                }
            };
            assert!(
                matches!(offload.checksum, Checksum::Partial { .. }),
                "left to us: {offload:?}"
            );
            let packets = cut(&offload, &packet);
            let at = if packets[0][0] >> 4 == 4 { 20 } else { 40 };
            let addresses = if at == 20 { 12..20 } else { 8..40 };
            let length = u16::try_from(packets[0].len() - at).expect("short");
            let sum = Sum::default()
                .plus(&packets[0][addresses])
                .plus_word(17)
                .plus_word(length);
            assert_eq!(sum.plus(&packets[0][at..]).checksum(), 0, "completed");
        }
    });
}

async fn raw(device: &Tun) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let length = device.recv(&mut buffer).await.expect("a packet");
    buffer.truncate(length);
    buffer
}

fn nonsense() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let (within, out) = forwarding(&lab);
        let (offload, packet) = whole(GsoKind::TcpV4, &payload(3000), 1000, HOPS);
        let header = offload.header(52);
        let mut refused = 0;
        for at in 0..header.len() {
            for value in [0xff, 0x7f, 6] {
                let mut wrong = header;
                wrong[at] = value;
                let pieces = [IoSlice::new(&wrong), IoSlice::new(&packet)];
                refused += usize::from(write(&within, &pieces).await.is_err());
            }
        }
        println!("{refused} of 30 were refused");
        let (offload, packet) = whole(GsoKind::TcpV6, &payload(3000), 1000, HOPS);
        let header = offload.header(72);
        let pieces = [IoSlice::new(&header), IoSlice::new(&packet)];
        write(&within, &pieces).await.expect("the next one is taken");
        while next(&out).await[0] >> 4 != 6 {}
    });
}
