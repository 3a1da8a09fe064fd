//! The device, and plans put on a host and taken off again.

use platform::PlatformError;
use platform::network::Network;
use platform::slot::SlotLock;
use platform::tun::{Tun, TunOptions, is_gone};

use crate::lab::{Lab, Test, assert_same, full_plan, ip, net, plan, slot, tun};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("a_device_comes_down_and_goes_without_a_trace", device_leaves_no_trace),
        ("a_name_in_use_is_told_and_nobodys_device_is_taken", name_in_use),
        ("a_removed_device_is_noticed_as_such", removed_device),
        (
            "a_missing_device_file_and_a_missing_capability_are_told_apart",
            missing_things,
        ),
        ("a_released_plan_leaves_the_host_as_it_was", released_plan),
        ("release_without_a_device_still_clears_the_rest", release_after_device),
        ("release_of_one_slot_leaves_the_other_alone", two_slots),
        ("a_sweep_finds_what_a_crash_left_and_nothing_else", sweep_after_crash),
        ("a_failed_step_is_named_and_undone", failed_step),
        (
            "without_ipv6_a_plan_of_ipv4_works_and_one_of_ipv6_says_why_not",
            without_ipv6,
        ),
        ("a_new_plan_replaces_the_old_one_exactly", replaced_plan),
        (
            "a_running_device_gets_another_mtu_and_nothing_else_changes",
            running_mtu,
        ),
        ("a_thousand_routes_come_and_go", many_routes),
        ("a_gateway_has_its_pool_on_the_device_and_nowhere_else", gateway_pool),
        (
            "slots_of_two_networks_do_not_fight_over_one_folder",
            slots_of_two_networks,
        ),
    ]
}

fn device_leaves_no_trace() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let device = tun("marmot0");
        assert_eq!(device.name(), "marmot0");
        let network = Network::open().await.expect("network");
        assert_eq!(network.link("marmot0").await.expect("index"), device.index());
        let state = network.snapshot().await.expect("state");
        assert_eq!(before.changes(&state), ["+ link marmot0 down mtu 1400"]);
        device.set_mtu(1300).expect("MTU");
        drop(device);
    });
    assert_same(&before, &lab.host.snapshot().expect("state"));
}

fn name_in_use() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let _first = tun("marmot0");
        for name in ["marmot0", "eth0"] {
            let error = Tun::create(&TunOptions {
                name: name.into(),
                mtu: 1400,
                offloads: false,
            })
            .expect_err("in use");
            assert!(matches!(error, PlatformError::InterfaceInUse { .. }), "{error}");
        }
        let error = Tun::create(&TunOptions {
            name: "much-too-long-a-name".into(),
            mtu: 1400,
            offloads: false,
        });
        let error = error.expect_err("too long");
        assert!(error.to_string().contains("longer than 15 bytes"), "{error}");
    });
}

fn removed_device() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let device = tun("marmot0");
        let mut packet = [0; 100];
        let waiting = device.recv(&mut packet);
        lab.host.delete("marmot0").expect("delete");
        let error = waiting.await.expect_err("gone");
        assert!(is_gone(&error), "{error}");
    });
}

fn missing_things() {
    let lab = Lab::new();
    let create = || {
        let options = TunOptions {
            name: "marmot0".into(),
            mtu: 1400,
            offloads: false,
        };
        Tun::create(&options).expect_err("something is missing").to_string()
    };
    lab.on_host(|| async {
        without_device_file();
        let text = create();
        assert!(text.starts_with("/dev/net/tun is missing"), "{text}");
        let missing = platform::capabilities::explain_missing();
        assert!(missing.iter().any(|line| line.contains("/dev/net/tun")), "{missing:?}");
    });
    lab.on_host(|| async {
        without_capabilities();
        let text = create();
        assert!(
            text.starts_with("cannot create the TUN device marmot0: not permitted: CAP_NET_ADMIN is needed"),
            "{text}"
        );
        assert!(!platform::capabilities::has_net_admin());
        let network = Network::open().await.expect("network");
        let error = network.set_link(1, false, None).await.expect_err("not permitted");
        assert!(matches!(error, PlatformError::NotPermitted { .. }), "{error}");
    });
}

fn released_plan() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        network
            .apply(&slot(3), device.index(), &full_plan())
            .await
            .expect("apply");
        let state = network.snapshot().await.expect("state");
        let changes = before.changes(&state);
        for line in [
            "+ address 10.78.0.5/32 dev marmot0 noprefixroute",
            "+ address fd00:78::5/128 dev marmot0 noprefixroute",
            "+ link marmot0 up mtu 1380",
            "+ route unicast 0.0.0.0/0 table 27907 dev marmot0 proto 109 scope link",
            "+ route throw 10.9.0.0/16 table 27907 proto 109",
            "+ rule 11030: from all lookup 254 suppress_prefixlength 0 proto 109 (IPv4)",
            "+ rule 11031: not from all fwmark 0x6d610000/0xffff0000 lookup 27907 proto 109 (IPv4)",
        ] {
            assert!(
                changes.iter().any(|change| change == line),
                "{line} not in {changes:#?}"
            );
        }
        // Of the host's own tables only the kernel's table of local addresses (255) knows the device.
        let stray = changes
            .iter()
            .find(|change| change.starts_with("- ") || change.contains("fe80:") || change.contains(" table 254"));
        assert_eq!(stray, None);

        let restored = network.release(&slot(3), device.index()).await;
        assert!(restored.is_complete(), "{restored:?}");
        assert!(
            restored.removed().iter().any(|line| line.contains("throw 10.9.0.0/16")),
            "{restored:?}"
        );
        assert!(
            restored
                .removed()
                .iter()
                .any(|line| line.contains("throw 2001:db8:9::/48")),
            "{restored:?}"
        );
        drop(device);
        assert_same(&before, &network.snapshot().await.expect("state"));
    });
}

fn release_after_device() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let index = device.index();
        network.apply(&slot(0), index, &full_plan()).await.expect("apply");
        drop(device);
        let restored = network.release(&slot(0), index).await;
        assert!(restored.is_complete(), "{restored:?}");
        let again = network.release(&slot(0), index).await;
        assert!(again.is_complete(), "{again:?}");
    });
    assert_same(&before, &lab.host.snapshot().expect("state"));
}

fn two_slots() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let (home, work) = (tun("home"), tun("work"));
        let split = plan(&["10.99.0.9/32"], &["172.20.0.0/16"], &["172.20.5.0/24"]);
        network.apply(&slot(1), work.index(), &split).await.expect("apply");
        let only_work = network.snapshot().await.expect("state");

        network
            .apply(&slot(0), home.index(), &full_plan())
            .await
            .expect("apply");
        let theirs = network.other_tunnel_routes(&slot(0)).await.expect("routes");
        assert!(theirs.contains(&(slot(1), net("172.20.0.0/16"))), "{theirs:?}");
        assert!(theirs.iter().all(|(owner, _)| *owner == slot(1)), "{theirs:?}");

        let restored = network.release(&slot(0), home.index()).await;
        assert!(restored.is_complete(), "{restored:?}");
        for net in full_plan().addresses {
            let left = network.snapshot().await.expect("state");
            assert!(!left.lines().any(|line| line.contains(&format!(" {net} table 254"))));
        }
        drop(home);
        let left = network.snapshot().await.expect("state");
        let changes = only_work.changes(&left);
        assert_eq!(changes, ["- link home down mtu 1400"]);
        assert_eq!(
            network.path_to(ip("172.20.1.1"), None).await.expect("path").interface,
            "work"
        );
    });
}

fn sweep_after_crash() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let neighbour = tun("work");
        let split = plan(&["10.99.0.9/32"], &["172.20.0.0/16"], &["172.20.5.0/24"]);
        network.apply(&slot(1), neighbour.index(), &split).await.expect("apply");
        // An administrator's route that happens to lie in the slot's table.
        let foreign = ["route", "add", "throw", "192.0.2.0/24", "table", "27904"];
        let added = std::process::Command::new("ip")
            .args(foreign)
            .status()
            .expect("ip of iproute2");
        assert!(added.success());
        let before = network.snapshot().await.expect("state");

        // A killed process: its descriptors close, and nothing else happens.
        let device = tun("marmot0");
        network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect("apply");
        drop(device);
        let left = before.changes(&network.snapshot().await.expect("state"));
        assert!(left.iter().any(|line| line.starts_with("+ rule ")), "{left:?}");
        assert!(left.iter().any(|line| line.starts_with("+ route throw ")), "{left:?}");

        let swept = network.sweep(&slot(0)).await;
        assert!(swept.is_complete(), "{swept:?}");
        assert_eq!(swept.removed().len(), left.len(), "{swept:?}\n{left:?}");
        assert_same(&before, &network.snapshot().await.expect("state"));
        assert!(network.sweep(&slot(0)).await.removed().is_empty());
    });
}

fn failed_step() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let before = network.snapshot().await.expect("state");
        let mut twice = full_plan();
        twice.routes.push(twice.routes[1]);
        let error = network
            .apply(&slot(2), device.index(), &twice)
            .await
            .expect_err("the same route twice");
        assert!(
            error
                .to_string()
                .starts_with("cannot add route 10.0.0.0/8 to table 27906: "),
            "{error}"
        );
        network
            .set_link(device.index(), false, Some(1400))
            .await
            .expect("MTU as before");
        assert_same(&before, &network.snapshot().await.expect("state"));
    });
}

fn without_ipv6() {
    let lab = Lab::new();
    lab.on_host(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("sysctl");
        assert!(!platform::network::ipv6_available());
        let network = Network::open().await.expect("network");
        let before = network.snapshot().await.expect("state");
        let device = tun("marmot0");
        let error = network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect_err("IPv6");
        assert_eq!(
            error.to_string(),
            "cannot add address fd00:78::5/128 to marmot0: IPv6 is switched off on this host (sysctl \
             net.ipv6.conf.default.disable_ipv6)"
        );
        let v4 = plan(&["10.78.0.5/32"], &["0.0.0.0/0"], &["10.9.0.0/16"]);
        network.apply(&slot(0), device.index(), &v4).await.expect("IPv4");
        let restored = network.release(&slot(0), device.index()).await;
        assert!(restored.is_complete(), "{restored:?}");
        drop(device);
        assert_same(&before, &network.snapshot().await.expect("state"));
    });
}

fn replaced_plan() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let old = full_plan();
        let mut new = plan(
            &["10.78.0.6/32", "fd00:78::5/128"],
            &["10.9.0.0/16", "172.16.0.0/12", "fd00:1::/32", "2001:db8:9::/48"],
            &["10.0.0.0/8"],
        );
        new.mtu = 1290;

        network.apply(&slot(5), device.index(), &new).await.expect("apply");
        let wanted = network.snapshot().await.expect("state");
        let restored = network.release(&slot(5), device.index()).await;
        assert!(restored.is_complete(), "{restored:?}");
        drop(device);

        let device = tun("marmot0");
        network.apply(&slot(5), device.index(), &old).await.expect("apply");
        network
            .replace_plan(&slot(5), device.index(), &old, &new)
            .await
            .expect("replace");
        assert_same(&wanted, &network.snapshot().await.expect("state"));
        network
            .replace_plan(&slot(5), device.index(), &new, &new)
            .await
            .expect("nothing to do");
        assert_same(&wanted, &network.snapshot().await.expect("state"));
    });
}

fn running_mtu() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect("apply");
        let before = network.snapshot().await.expect("state");
        device.set_mtu(1280).expect("MTU");
        let smaller = network.snapshot().await.expect("state");
        let changes = ["- link marmot0 up mtu 1380", "+ link marmot0 up mtu 1280"];
        assert_eq!(before.changes(&smaller), changes);
        device.set_mtu(1380).expect("MTU");
        assert_same(&before, &network.snapshot().await.expect("state"));

        // What the documentation warns of.
        device.set_mtu(1279).expect("MTU");
        device.set_mtu(1380).expect("MTU");
        let after = network.snapshot().await.expect("state");
        let has = |address: &str| {
            after
                .lines()
                .any(|line| line.starts_with(&format!("address {address}")))
        };
        assert_eq!((has("10.78.0.5"), has("fd00:78::5")), (true, false), "{after}");
    });
}

fn many_routes() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let mut large = plan(&["10.78.0.5/32", "fd00:78::5/128"], &[], &[]);
        for n in 0..1000_u32 {
            let kind = if n % 4 == 0 {
                plan::RouteKind::Throw
            } else {
                plan::RouteKind::Tunnel
            };
            let text = if n % 2 == 0 {
                format!("10.{}.{}.0/24", n / 200, n % 200)
            } else {
                format!("fd00:{n:x}::/48")
            };
            large.routes.push(plan::Route { net: net(&text), kind });
        }
        network.apply(&slot(0), device.index(), &large).await.expect("apply");
        let restored = network.release(&slot(0), device.index()).await;
        assert!(restored.is_complete(), "{restored:?}");
    });
    assert_same(&before, &lab.host.snapshot().expect("state"));
}

fn gateway_pool() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot-gw");
        let addresses = [net("10.78.0.1/24"), net("fd00:78::1/64")];
        network
            .apply_gateway(device.index(), &addresses, 1406)
            .await
            .expect("apply");
        let connected = network.connected_networks(None).await.expect("networks");
        let of = |interface: &str| -> Vec<String> {
            let mine = connected.iter().filter(|network| network.interface == interface);
            mine.map(|network| network.net.to_string()).collect()
        };
        assert_eq!(of("marmot-gw"), ["10.78.0.0/24", "fd00:78::/64"]);
        assert_eq!(of("eth0"), ["192.0.2.0/24", "2001:db8::/64"]);
        let others = network
            .connected_networks(Some(device.index()))
            .await
            .expect("networks");
        assert!(others.iter().all(|network| network.interface == "eth0"), "{others:?}");
        assert_eq!(
            network.path_to(ip("10.78.0.7"), None).await.expect("path").interface,
            "marmot-gw"
        );
        assert_eq!(
            network.path_to(ip("fd00:78::7"), None).await.expect("path").interface,
            "marmot-gw"
        );
    });
    assert_same(&before, &lab.host.snapshot().expect("state"));
}

fn slots_of_two_networks() {
    let lab = Lab::new();
    let folder = tempfile::tempdir().expect("folder");
    let lock = || SlotLock::acquire(folder.path(), "home").expect("slot");
    let here = lab.host.run(lock).expect("host");
    let there = lab.world.run(lock).expect("world");
    assert_eq!((here.slot(), there.slot()), (slot(0), slot(0)));
    let error = lab
        .host
        .run(|| SlotLock::acquire(folder.path(), "home").expect_err("running"))
        .expect("host");
    assert!(matches!(error, PlatformError::TunnelRunning { .. }), "{error}");
}

/// Covers /dev/net for this thread.
fn without_device_file() {
    // SAFETY: flags only; this thread leaves the mount namespace of the process.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    let (kind, target) = (c"tmpfs", c"/dev/net");
    // SAFETY: all strings are literals, and null is allowed for data.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Drops all capabilities of this thread.
fn without_capabilities() {
    /// `_LINUX_CAPABILITY_VERSION_3` and this thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: capset reads a header of two and data of six 32-bit numbers (include/uapi/linux/capability.h).
    let result = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
