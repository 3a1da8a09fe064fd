//! Which way packets really take.

use std::net::{SocketAddr, UdpSocket};

use platform::network::Network;
use platform::tcp;
use platform::tun::Tun;

use crate::lab::{Lab, PATIENCE, Test, block_in, full_plan, ip, plan, slot, tun};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("unmarked_traffic_takes_the_tunnel_and_marked_does_not", decisions),
        ("packets_follow_the_decisions", packets),
        ("two_tunnels_never_carry_each_other", two_tunnels),
        ("a_split_tunnel_takes_only_its_routes", split_tunnel),
        ("a_host_forwards_only_when_told", forwarding),
        ("a_strict_reverse_path_filter_drops_answers_and_is_named", strict_filter),
    ]
}

fn decisions() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let slot = slot(0);
        network.apply(&slot, device.index(), &full_plan()).await.expect("apply");
        let path = async |to: &str, mark| network.path_to(ip(to), mark).await.expect("path");

        for to in ["203.0.113.7", "2001:db8:7::7", "10.1.2.3"] {
            let unmarked = path(to, None).await;
            assert_eq!((unmarked.interface.as_str(), unmarked.table), ("marmot0", slot.table()));
            assert!(
                unmarked
                    .source
                    .is_some_and(|source| full_plan().addresses.contains(&source.into()))
            );
            let marked = path(to, Some(slot.mark())).await;
            assert_eq!((marked.interface.as_str(), marked.table), ("eth0", 254), "{to}");
        }
        // The host's own network, and what was excluded, stay outside.
        for to in ["192.0.2.77", "2001:db8::77", "10.9.1.1", "2001:db8:9::1"] {
            assert_eq!(path(to, None).await.interface, "eth0", "{to}");
        }
        drop(device);
        let _ = network.release(&slot, 0).await;
        assert_eq!(path("203.0.113.7", None).await.gateway, Some(ip("192.0.2.1")));
    });
}

fn packets() {
    let lab = Lab::new();
    for (far, near) in [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8:51::1")] {
        // The world answers to an address beyond the host's own network, too.
        let prefix = if ip(near).is_ipv4() { 32 } else { 128 };
        let beyond = ipnet::IpNet::new(ip(near), prefix).expect("prefix");
        lab.world.address("eth0", beyond).expect("address");
        let receiver = lab
            .world
            .run(|| UdpSocket::bind(SocketAddr::new(ip(near), 0)).expect("bind"))
            .expect("world");
        receiver.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let to = receiver.local_addr().expect("address");

        lab.on_host(|| async {
            let network = Network::open().await.expect("network");
            let device = tun("marmot0");
            network
                .apply(&slot(0), device.index(), &full_plan())
                .await
                .expect("apply");
            let wildcard = SocketAddr::new(if to.is_ipv4() { ip("0.0.0.0") } else { ip("::") }, 0);

            let plain = UdpSocket::bind(wildcard).expect("bind");
            plain.send_to(b"through the tunnel", to).expect("send");
            let packet = packet_with(&device, b"through the tunnel").await;
            assert_eq!(
                packet.first().map(|byte| byte >> 4),
                Some(if to.is_ipv4() { 4 } else { 6 })
            );

            let own = UdpSocket::bind(wildcard).expect("bind");
            tcp::set_mark(&own, slot(0).mark()).expect("mark");
            own.send_to(b"around the tunnel", to).expect("send");
            let restored = network.release(&slot(0), device.index()).await;
            assert!(restored.is_complete(), "{restored:?}");
        });
        let mut buffer = [0; 100];
        let (length, from) = receiver
            .recv_from(&mut buffer)
            .expect("the marked packet, and only that");
        assert_eq!(&buffer[..length], b"around the tunnel");
        assert_ne!(from.ip(), ip(far));
    }
}

/// Reads the device until a packet ends with `payload` (the kernel sends some of its own).
async fn packet_with(device: &Tun, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 1500];
    loop {
        let length = device.recv(&mut buffer).await.expect("packet");
        if buffer[..length].ends_with(payload) {
            buffer.truncate(length);
            return buffer;
        }
    }
}

fn two_tunnels() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let (home, work) = (tun("home"), tun("work"));
        network
            .apply(&slot(0), home.index(), &full_plan())
            .await
            .expect("apply");
        let split = plan(&["10.99.0.9/32"], &["172.20.0.0/16"], &[]);
        network.apply(&slot(1), work.index(), &split).await.expect("apply");
        // The control connection of one tunnel, to a gateway that the other's routes cover.
        for mark in [slot(0).mark(), slot(1).mark()] {
            for to in ["172.20.1.1", "203.0.113.7"] {
                let path = network.path_to(ip(to), Some(mark)).await.expect("path");
                assert_eq!(path.interface, "eth0", "{to} with mark {mark:#x}");
            }
        }
        // A tunnel for everything leaves the other its networks, though it has the lower slot.
        for (to, interface) in [("172.20.1.1", "work"), ("203.0.113.7", "home")] {
            let path = network.path_to(ip(to), None).await.expect("path");
            assert_eq!(path.interface, interface, "{to}");
        }
    });
}

fn split_tunnel() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let split = plan(&["10.99.0.9/32"], &["172.20.0.0/16"], &["172.20.5.0/24"]);
        network.apply(&slot(0), device.index(), &split).await.expect("apply");
        for (to, interface) in [
            ("172.20.1.1", "marmot0"),
            ("172.20.5.1", "eth0"),
            ("203.0.113.7", "eth0"),
            ("2001:db8:7::7", "eth0"),
        ] {
            let path = network.path_to(ip(to), None).await.expect("path");
            assert_eq!(path.interface, interface, "{to}");
        }
        let state = network.snapshot().await.expect("state");
        let rules = state.lines().filter(|line| line.contains("proto 109 ("));
        assert_eq!(
            rules.count(),
            1,
            "no rule of the unused family, none for a default route:\n{state}"
        );
    });
}

fn forwarding() {
    let lab = Lab::new();
    let seen = || block_in(&lab.host, || async { platform::network::forwarding_enabled() });
    lab.host.forwarding(true).expect("on");
    assert_eq!(seen(), (true, true));
    lab.host.forwarding(false).expect("off");
    assert_eq!(seen(), (false, false));
}

/// Why [`platform::network::strict_reverse_path`] exists: the answer to a marked packet comes in on eth0, and strict mode
/// looks up the way back without the mark, which leads into the tunnel.
fn strict_filter() {
    let lab = Lab::new();
    let far = ipnet::IpNet::new(ip("198.51.100.1"), 32).expect("prefix");
    lab.world.address("eth0", far).expect("address");
    let echo = lab
        .world
        .run(|| UdpSocket::bind("198.51.100.1:0").expect("bind"))
        .expect("world");
    let to = echo.local_addr().expect("address");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect("apply");
        let own = UdpSocket::bind("0.0.0.0:0").expect("bind");
        tcp::set_mark(&own, slot(0).mark()).expect("mark");
        own.set_read_timeout(Some(std::time::Duration::from_millis(200)))
            .expect("timeout");
        let answered = |mode: &str| {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/rp_filter", mode).expect("sysctl");
            own.send_to(b"ping", to).expect("send");
            let mut buffer = [0; 10];
            let (length, from) = echo.recv_from(&mut buffer).expect("ping");
            echo.send_to(&buffer[..length], from).expect("pong");
            own.recv_from(&mut buffer).is_ok()
        };
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").expect("sysctl");
        assert!(answered("0"));
        assert_eq!(platform::network::strict_reverse_path(), Vec::<String>::new());
        assert!(
            !answered("1"),
            "the kernel has changed: strict mode lets answers through"
        );
        assert_eq!(platform::network::strict_reverse_path(), ["eth0"]);
        assert!(answered("2"));
        assert_eq!(platform::network::strict_reverse_path(), Vec::<String>::new());
    });
}
