//! A device with several queues: which of them a packet of the host comes out of.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Instant;

use packet::checksum::checksum;
use platform::tun::{Tun, TunOptions, TunQueue};

use crate::lab::{Lab, PATIENCE, Test, assert_same};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("an_answer_comes_out_of_the_queue_that_was_asked", answers),
        ("a_device_goes_with_its_last_queue", last_queue),
    ]
}

const QUEUES: usize = 3;

fn queues(offloads: bool) -> Vec<TunQueue> {
    let options = TunOptions {
        name: "queues".into(),
        mtu: 1400,
        offloads,
    };
    TunQueue::create(&options, QUEUES).expect("queues")
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {words}: {status}");
}

/// A datagram from 10.9.0.2 to the host, behind a header for a device with offloads.
fn question(from: u16, to: u16, offloads: bool) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1];
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0, 12, 0, 0, b'a', b's', b'k', b'?']);
    let mut written = vec![0; if offloads { 10 } else { 0 }];
    written.extend(packet);
    written
}

/// The queue that gives what the host says to this port.
fn asked(queues: &[Tun], port: u16, offloads: bool) -> usize {
    let header = if offloads { 10 } else { 0 };
    let mut buffer = vec![0; 2000];
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "an answer in time");
        for (number, queue) in queues.iter().enumerate() {
            // Anything else is what the host says by itself.
            if let Ok(length) = queue.try_recv(&mut buffer)
                && buffer[..length].get(header + 22..header + 24) == Some(&port.to_be_bytes())
            {
                return number;
            }
        }
        std::thread::yield_now();
    }
}

fn answers() {
    for offloads in [false, true] {
        let lab = Lab::new();
        lab.on_host(|| async {
            let queues: Vec<_> = queues(offloads)
                .into_iter()
                .map(|queue| queue.open().expect("watched"))
                .collect();
            assert!(queues.iter().all(|queue| queue.offloads().is_some() == offloads));
            ip("addr add 10.9.0.1/24 dev queues");
            ip("link set queues up");
            let host = UdpSocket::bind("10.9.0.1:0").expect("a socket");
            host.set_read_timeout(Some(PATIENCE)).expect("an option");
            let to = host.local_addr().expect("an address").port();
            for round in 0..10 {
                for (number, queue) in queues.iter().enumerate() {
                    let from = 2000 + round;
                    queue.try_send(&question(from, to, offloads)).expect("written");
                    let mut buffer = [0; 16];
                    let (length, client) = host.recv_from(&mut buffer).expect("asked");
                    assert_eq!(&buffer[..length], b"ask?");
                    host.send_to(b"yes", client).expect("answered");
                    assert_eq!(asked(&queues, from, offloads), number, "round {round}");
                }
            }
        });
    }
}

fn last_queue() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let mut queues = queues(true);
        queues.truncate(1);
        let tun = queues.remove(0).open().expect("watched");
        assert!(
            std::fs::exists("/proc/sys/net/ipv4/conf/queues").expect("a file"),
            "one is left"
        );
        drop(tun);
    });
    assert_same(&before, &lab.host.snapshot().expect("state"));
}
