//! UDP sockets on hosts whose addresses, links and routes change under them.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use packet::Ecn;
use platform::netns::Namespace;
use platform::network::Network;
use platform::udp::{Endpoint, Inbox, SendFault, Udp, UdpListener, route_source};

use crate::lab::{Lab, Test, block_in, full_plan, ip, net, slot, tun};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("what_a_send_says_after_the_network_changed", faults),
        ("a_host_that_moved_shows_in_the_source_of_the_next_socket", moved),
        ("a_marked_socket_goes_around_the_tunnel", marked),
        ("a_wildcard_socket_answers_from_the_address_it_was_asked_at", answers),
        ("a_dual_stack_socket_knows_ipv4_as_ipv4", dual_stack),
        ("a_link_local_client_is_answered_on_its_link", link_local),
        ("an_endpoint_whose_address_is_gone_is_told_alone", listener_moved),
        (
            "nothing_is_fragmented_and_no_icmp_message_shrinks_a_datagram",
            unfragmented,
        ),
        ("many_datagrams_of_a_call_arrive_whole_and_in_order", many),
        ("many_datagrams_that_are_too_large_are_refused", many_too_large),
        ("marks_arrive_with_datagrams_alone_and_together", marks),
        ("each_datagram_of_a_call_has_the_mark_that_it_came_with", marks_apart),
        ("a_closed_port_is_reported_and_the_next_datagram_is_sent", refused),
    ]
}

const PORT: u16 = 4433;

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(ip(address), PORT)
}

/// Runs ip(8) on a host.
fn run(host: &Namespace, words: &str) {
    let mut command = host.command("ip").expect("command");
    let status = command.args(words.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {words}: {status}");
}

/// Deleting an address must not delete those that were added to its network later, as everywhere but on a bare kernel.
fn keep_other_addresses() {
    fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "1").expect("sysctl");
}

/// What the next sending says: what it means and the number of the error.
fn verdict(socket: &Udp) -> Verdict {
    let number = |error: io::Error| error.raw_os_error().expect("a number");
    match socket.try_send(b"next") {
        Ok(()) => None,
        Err(SendFault::Unreachable(error)) => Some(("unreachable", number(error))),
        Err(SendFault::SourceGone(error)) => Some(("gone", number(error))),
        Err(other) => panic!("{other}"),
    }
}

type Verdict = Option<(&'static str, i32)>;

const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// The table in the documentation of [`SendFault`].
fn faults() {
    let (gone, unreachable) = (|number| Some(("gone", number)), |number| Some(("unreachable", number)));
    let table: [(&str, Verdict, Verdict); 7] = [
        ("address del {mine} dev eth0", gone(ENETUNREACH), None),
        ("link set eth0 down", unreachable(ENETUNREACH), gone(ENETUNREACH)),
        ("link delete eth0", gone(ENETUNREACH), gone(ENETUNREACH)),
        (
            "{family} route delete default",
            unreachable(ENETUNREACH),
            unreachable(ENETUNREACH),
        ),
        (
            "{family} route add unreachable {far}",
            unreachable(EHOSTUNREACH),
            unreachable(EHOSTUNREACH),
        ),
        (
            "{family} route add blackhole {far}",
            unreachable(EINVAL),
            unreachable(EINVAL),
        ),
        ("link set eth0 mtu 1400", None, None),
    ];
    let families = [
        ("-4", "192.0.2.2/24", "192.0.2.3/24", "203.0.113.1"),
        ("-6", "2001:db8::2/64", "2001:db8::3/64", "2001:db8:9::1"),
    ];
    for (change, v4, v6) in table {
        for ((family, mine, other, far), expected) in families.into_iter().zip([v4, v6]) {
            let lab = Lab::new();
            let change = change
                .replace("{family}", family)
                .replace("{mine}", mine)
                .replace("{far}", far);
            lab.on_host(|| async {
                keep_other_addresses();
                let socket = Udp::connect(at(far), None).expect("a way");
                lab.host.address("eth0", net(other)).expect("address");
                lab.host.settle().expect("settle");
                socket.try_send(b"first").expect("sent");
                run(&lab.host, &change);
                assert_eq!(verdict(&socket), expected, "{change}");
                assert_eq!(verdict(&socket), expected, "{change}, again");
            });
        }
    }
}

fn moved() {
    let lab = Lab::new();
    lab.on_host(|| async {
        keep_other_addresses();
        for (far, old, new) in [
            ("203.0.113.1", "192.0.2.2/24", "192.0.2.3/24"),
            ("2001:db8:9::1", "2001:db8::2/64", "2001:db8::3/64"),
        ] {
            let socket = Udp::connect(at(far), None).expect("a way");
            let source = || route_source(at(far), None).expect("a way");
            assert_eq!(source(), socket.local_addr().expect("bound").ip());
            assert_eq!(source(), net(old).addr());
            lab.host.address("eth0", net(new)).expect("address");
            lab.host.settle().expect("settle");
            run(&lab.host, &format!("address del {old} dev eth0"));
            assert_eq!(source(), net(new).addr());
            assert_eq!(socket.local_addr().expect("bound").ip(), net(old).addr());
            let fresh = Udp::connect(at(far), None).expect("a way");
            assert_ne!(
                fresh.local_addr().expect("bound").port(),
                socket.local_addr().expect("bound").port()
            );
        }
        run(&lab.host, "link set eth0 down");
        let error = route_source(at("203.0.113.1"), None).expect_err("no way");
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
    });
}

fn marked() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let slot = slot(0);
        network.apply(&slot, device.index(), &full_plan()).await.expect("apply");
        for (far, inside, outside) in [
            ("203.0.113.1", "10.78.0.5", "192.0.2.2"),
            ("2001:db8:7::7", "fd00:78::5", "2001:db8::2"),
        ] {
            let source = |mark| {
                let source = route_source(at(far), mark).expect("a way");
                let socket = Udp::connect(at(far), mark).expect("a way");
                assert_eq!(socket.local_addr().expect("bound").ip(), source);
                assert_eq!(socket.peer_addr().expect("connected"), at(far));
                source
            };
            assert_eq!(source(None), ip(inside));
            assert_eq!(source(Some(slot.mark())), ip(outside));
        }
    });
}

/// Takes one datagram and sends it back.
async fn echo(listener: &UdpListener) -> Endpoint {
    let mut inbox = Inbox::default();
    loop {
        listener.readable().await.expect("ready");
        match listener.try_recv(&mut inbox) {
            Ok(()) => {
                let from = inbox.arrivals()[0].from;
                listener.try_send(&datagrams(&inbox)[0], from).expect("answered");
                return from;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
}

/// Sends a datagram to `to`, where `listener` echoes. The answer reaches a connected socket only from `to`.
async fn asked(listener: &UdpListener, client: &Udp) -> Endpoint {
    client.try_send(b"who is there?").expect("sent");
    let endpoint = echo(listener).await;
    let mut inbox = Inbox::default();
    client.recv(&mut inbox).await.expect("answer");
    assert_eq!(datagrams(&inbox), [b"who is there?"]);
    endpoint
}

fn answers() {
    let lab = Lab::new();
    // Beyond the network that both share, so that the kernel's own choice would be another address.
    for address in ["198.51.100.1/32", "2001:db8:51::1/128"] {
        lab.world.address("eth0", net(address)).expect("address");
    }
    lab.world.settle().expect("settle");
    for (wildcard, addresses) in [
        ("0.0.0.0", ["192.0.2.1", "198.51.100.1"]),
        ("::", ["2001:db8::1", "2001:db8:51::1"]),
    ] {
        let listener = listener(&lab.world, wildcard, false);
        lab.on_host(|| async {
            let listener = listener();
            for address in addresses {
                let client = Udp::connect(at(address), None).expect("a way");
                let endpoint = asked(&listener, &client).await;
                let expected = Endpoint {
                    peer: client.local_addr().expect("bound"),
                    local: ip(address),
                    interface: 0,
                };
                assert_eq!(endpoint, expected);
            }
        });
    }
}

/// A socket of `host`, to be taken over by the runtime that uses it.
fn listener(host: &Namespace, address: &str, dual_stack: bool) -> impl FnOnce() -> UdpListener + Send {
    let socket = block_in(host, || async {
        let listener = UdpListener::bind(at(address), dual_stack).expect("bound");
        assert_eq!(listener.local_addr().expect("bound"), at(address));
        listener.into_std().expect("left")
    });
    || UdpListener::adopt(socket).expect("adopted")
}

fn dual_stack() {
    let lab = Lab::new();
    let listener = listener(&lab.world, "::", true);
    // Not dual, so that IPv4 is free for another socket.
    let twins = block_in(&lab.host, || async {
        let v6 = UdpListener::bind(at("::"), false).expect("IPv6");
        let v4 = UdpListener::bind(at("0.0.0.0"), false).expect("IPv4");
        let error = UdpListener::bind(at("0.0.0.0"), false).expect_err("taken");
        assert!(error.to_string().contains("0.0.0.0:4433"), "{error}");
        (v6.local_addr().is_ok(), v4.local_addr().is_ok())
    });
    assert_eq!(twins, (true, true));
    lab.on_host(|| async {
        let listener = listener();
        for address in ["192.0.2.1", "2001:db8::1"] {
            let client = Udp::connect(at(address), None).expect("a way");
            let endpoint = asked(&listener, &client).await;
            assert_eq!((endpoint.local, endpoint.interface), (ip(address), 0));
            assert_eq!(endpoint.peer, client.local_addr().expect("bound"));
        }
    });
}

fn link_local() {
    let lab = Lab::new();
    let state = lab.world.snapshot().expect("state");
    let own = |line: &str| line.strip_prefix("address ")?.split('/').next()?.parse::<IpAddr>().ok();
    let mut addresses = state.lines().filter(|line| line.ends_with("dev eth0")).filter_map(own);
    let Some(IpAddr::V6(address)) = addresses.find(|address| address.to_string().starts_with("fe80:")) else {
        panic!("no link-local address:\n{state}");
    };
    let listener = listener(&lab.world, "::", true);
    lab.on_host(|| async {
        let listener = listener();
        let network = Network::open().await.expect("network");
        let index = network.link("eth0").await.expect("eth0");
        let to = std::net::SocketAddrV6::new(address, PORT, 0, index);
        let client = Udp::connect(to.into(), None).expect("a way");
        let endpoint = asked(&listener, &client).await;
        assert_eq!(endpoint.local, IpAddr::from(address));
        assert_ne!(endpoint.interface, 0);
    });
}

fn listener_moved() {
    let lab = Lab::new();
    let listener = listener(&lab.world, "::", true);
    for address in ["192.0.2.7/24", "2001:db8::7/64"] {
        lab.world.address("eth0", net(address)).expect("address");
    }
    lab.world.settle().expect("settle");
    lab.on_host(|| async {
        let listener = listener();
        for (old, kept) in [("192.0.2.7", "192.0.2.1"), ("2001:db8::7", "2001:db8::1")] {
            let client = Udp::connect(at(old), None).expect("a way");
            let endpoint = asked(&listener, &client).await;
            let length = if ip(old).is_ipv4() { 24 } else { 64 };
            run(&lab.world, &format!("address del {old}/{length} dev eth0"));
            let fault = listener.try_send(b"late", endpoint).expect_err("not ours");
            assert!(matches!(&fault, SendFault::SourceGone(_)), "{fault:?}");
            let client = Udp::connect(at(kept), None).expect("a way");
            assert_eq!(asked(&listener, &client).await.local, ip(kept));
        }
    });
}

fn unfragmented() {
    let lab = Lab::new();
    let far = Namespace::create().expect("far");
    lab.world.veth(&far, "eth1", "eth0").expect("cable");
    for (host, name, v4, v6) in [
        (&lab.world, "eth1", "198.51.100.1/24", "2001:db8:51::1/64"),
        (&far, "eth0", "198.51.100.2/24", "2001:db8:51::2/64"),
    ] {
        host.address(name, net(v4)).expect("address");
        host.address(name, net(v6)).expect("address");
        host.up(name).expect("up");
    }
    for router in ["198.51.100.1", "2001:db8:51::1"] {
        far.default_route(ip(router)).expect("route");
    }
    lab.world.forwarding(true).expect("router");
    far.settle().expect("settle");
    for (name, host) in [("eth1", &lab.world), ("eth0", &far)] {
        host.set_mtu(name, 1300).expect("MTU");
    }
    for (wildcard, peer, headers) in [("0.0.0.0", "198.51.100.2", 28), ("::", "2001:db8:51::2", 48)] {
        let listener = listener(&far, wildcard, false);
        lab.on_host(|| async {
            let listener = listener();
            let client = Udp::connect(at(peer), None).expect("a way");
            let fault = client.try_send(&vec![0; 1501 - headers]).expect_err("beyond the link");
            assert!(matches!(fault, SendFault::TooBig), "{fault:?}");
            // The router says to the first of these that 1300 is the most. That is no reason not to send the others.
            for _ in 0..3 {
                client.try_send(&vec![1; 1500 - headers]).expect("sent");
                lab.world.settle().expect("the router had its turn");
            }
            client.try_send(&vec![2; 1300 - headers]).expect("sent");
            let mut inbox = Inbox::default();
            let (datagrams, endpoint) = taken(&listener, &mut inbox).await;
            assert_eq!(datagrams, [vec![2; 1300 - headers]], "what was too large is lost");
            let fault = listener
                .try_send(&vec![0; 1301 - headers], endpoint)
                .expect_err("beyond the link");
            assert!(matches!(fault, SendFault::TooBig), "{fault:?}");
        });
    }
}

/// What the next call brings.
async fn taken(listener: &UdpListener, inbox: &mut Inbox) -> (Vec<Vec<u8>>, Endpoint) {
    loop {
        match listener.try_recv(inbox) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.readable().await.expect("ready"),
            Err(error) => panic!("{error}"),
        }
    }
    (datagrams(inbox), inbox.arrivals()[0].from)
}

/// All datagrams of the last call.
fn datagrams(inbox: &Inbox) -> Vec<Vec<u8>> {
    let arrivals = inbox.arrivals().iter().zip(inbox.buffers());
    let all = arrivals.flat_map(|(arrival, buffer)| arrival.datagrams().map(|range| buffer[range].to_vec()));
    all.collect()
}

/// Datagrams of `length` bytes, numbered, and one of `last` bytes.
fn numbered(count: u8, length: usize, last: usize) -> Vec<Vec<u8>> {
    let all = (0..count).map(|number| vec![number; length]);
    all.chain((last > 0).then(|| vec![count; last])).collect()
}

fn many() {
    let lab = Lab::new();
    for (wildcard, peer) in [("0.0.0.0", "192.0.2.1"), ("::", "2001:db8::1")] {
        let listener = listener(&lab.world, wildcard, false);
        lab.on_host(|| async {
            let listener = listener();
            let client = Udp::connect(at(peer), None).expect("a way");
            let (mut here, mut there) = (Inbox::default(), Inbox::default());
            for (count, length, last) in [
                (1, 1200, 0),
                (2, 1, 0),
                (40, 1300, 7),
                (64, 1000, 0),
                (100, 100, 99),
                (130, 1400, 1),
            ] {
                let sent = numbered(count, length, last);
                client.try_send_many(&sent.concat(), length, Ecn::NotEct).expect("sent");
                let (mut received, mut endpoint) = (Vec::new(), None);
                while received.len() < sent.len() {
                    let (datagrams, from) = taken(&listener, &mut there).await;
                    received.extend(datagrams);
                    endpoint = Some(from);
                }
                assert_eq!(received, sent, "{count} of {length} and {last}");
                let endpoint = endpoint.expect("somebody");
                assert_eq!(endpoint.local, ip(peer));
                listener
                    .try_send_many(&sent.concat(), length, Ecn::NotEct, endpoint)
                    .expect("answered");
                let mut received = Vec::new();
                while received.len() < sent.len() {
                    client.recv(&mut here).await.expect("answer");
                    received.extend(datagrams(&here));
                    assert!(
                        here.arrivals().iter().all(|arrival| arrival.at.is_some()),
                        "time stamps"
                    );
                }
                assert_eq!(received, sent, "back");
            }
        });
    }
}

/// Both directions, single datagrams and many of a call, every mark, every kind of socket, and IPv4 at an IPv6 socket.
fn marks() {
    let lab = Lab::new();
    for (wildcard, dual_stack, peer) in [
        ("0.0.0.0", false, "192.0.2.1"),
        ("::", false, "2001:db8::1"),
        ("::", true, "192.0.2.1"),
        ("::", true, "2001:db8::1"),
    ] {
        let listener = listener(&lab.world, wildcard, dual_stack);
        lab.on_host(|| async {
            let listener = listener();
            let client = Udp::connect(at(peer), None).expect("a way");
            let (mut here, mut there) = (Inbox::default(), Inbox::default());
            for (count, length) in [(1, 100), (3, 1400), (40, 1200)] {
                for ecn in Ecn::ALL {
                    let what = format!("{wildcard} {peer}, {count} of {length}, {ecn:?}");
                    let sent = numbered(count, length, 0).concat();
                    client.try_send_many(&sent, length, ecn).expect("sent");
                    let (mut received, mut from) = (0, None);
                    while received < usize::from(count) {
                        received += taken(&listener, &mut there).await.0.len();
                        assert_eq!(marks_of(&there), [ecn], "{what}");
                        from = Some(there.arrivals()[0].from);
                    }
                    let from = from.expect("somebody");
                    assert_eq!(from.local, ip(peer), "{what}");
                    assert_eq!(from.peer, client.local_addr().expect("bound"), "{what}");
                    listener.try_send_many(&sent, length, ecn, from).expect("answered");
                    let mut received = 0;
                    while received < usize::from(count) {
                        client.recv(&mut here).await.expect("answer");
                        received += datagrams(&here).len();
                        assert_eq!(marks_of(&here), [ecn], "back: {what}");
                    }
                }
            }
            // What one end says for itself has none, whatever was sent before.
            client.try_send(b"mine").expect("sent");
            let (_, from) = taken(&listener, &mut there).await;
            assert_eq!(marks_of(&there), [Ecn::NotEct]);
            listener.try_send(b"mine", from).expect("answered");
            client.recv(&mut here).await.expect("answer");
            assert_eq!(marks_of(&here), [Ecn::NotEct]);
        });
    }
}

/// The marks of the last call, each once.
fn marks_of(inbox: &Inbox) -> Vec<Ecn> {
    let mut marks: Vec<Ecn> = inbox.arrivals().iter().map(|arrival| arrival.ecn).collect();
    marks.dedup();
    marks
}

fn marks_apart() {
    let lab = Lab::new();
    for (wildcard, peer) in [("0.0.0.0", "192.0.2.1"), ("::", "2001:db8::1")] {
        let listener = listener(&lab.world, wildcard, false);
        lab.on_host(|| async {
            let listener = listener();
            let client = Udp::connect(at(peer), None).expect("a way");
            let mut inbox = Inbox::default();
            let all = [Ecn::Ect0, Ecn::Ce, Ecn::Ect0, Ecn::NotEct, Ecn::Ect1, Ecn::Ce, Ecn::Ce];
            for (number, ecn) in (0..).zip(all) {
                client.try_send_many(&[number; 200], 100, ecn).expect("sent");
            }
            let mut found = Vec::new();
            while found.len() < 2 * all.len() {
                taken(&listener, &mut inbox).await;
                for (arrival, buffer) in inbox.arrivals().iter().zip(inbox.buffers()) {
                    found.extend(arrival.datagrams().map(|range| (buffer[range.start], arrival.ecn)));
                }
            }
            let expected: Vec<(u8, Ecn)> = (0..).zip(all).flat_map(|one| [one, one]).collect();
            assert_eq!(found, expected, "{peer}");
        });
    }
}

fn many_too_large() {
    let lab = Lab::new();
    let listener = listener(&lab.world, "0.0.0.0", false);
    lab.on_host(|| async {
        let listener = listener();
        let client = Udp::connect(at("192.0.2.1"), None).expect("a way");
        let unsent = client
            .try_send_many(&vec![0; 4 * 1473], 1473, Ecn::NotEct)
            .expect_err("beyond the link");
        assert!(matches!(unsent.fault, SendFault::TooBig), "{unsent:?}");
        assert_eq!(unsent.from, 0);
        client
            .try_send_many(&vec![3; 2 * 1472], 1472, Ecn::NotEct)
            .expect("as much as the link takes");
        let mut inbox = Inbox::default();
        let mut received = taken(&listener, &mut inbox).await.0;
        while received.len() < 2 {
            received.extend(taken(&listener, &mut inbox).await.0);
        }
        assert_eq!(received, [vec![3; 1472], vec![3; 1472]]);
    });
}

fn refused() {
    let lab = Lab::new();
    lab.on_host(|| async {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let client = Udp::connect(at(address), None).expect("a way");
            let fault = loop {
                match client.try_send(b"anybody?") {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(fault) => break fault,
                }
            };
            assert!(
                matches!(&fault, SendFault::Unreachable(error) if error.kind() == io::ErrorKind::ConnectionRefused)
            );
            client.try_send(b"again").expect("the report was about an earlier one");
        }
    });
}
