//! What outlives a process: devices kept by a descriptor elsewhere, records of plans, and how fast a plan is gone.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::plan::{Route, RouteKind, Undo};
use platform::network::Network;
use platform::tun::{Identity, Tun, TunOptions, identify, is_gone};

use crate::lab::{Lab, Test, assert_same, full_plan, ip, net, plan, slot, tun};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("a_kept_device_goes_on_with_routes_and_packets", kept_device),
        ("only_the_expected_device_is_adopted", wrong_descriptors),
        ("a_descriptor_tells_its_device_whatever_its_name", identified_devices),
        ("a_device_is_removed_under_open_descriptors", removed_under_descriptors),
        ("only_a_tun_device_is_removed", nobodys_link),
        ("undo_cleans_up_after_a_crash", undone_after_crash),
        ("undo_of_a_kept_device_leaves_the_host_as_it_was", undone_kept_device),
        ("undo_leaves_the_devices_of_others_alone", undo_of_somebody_elses_name),
        ("undo_twice_is_undo_once", undone_twice),
        ("release_is_fast", release_is_fast),
    ]
}

fn undo(number: u8, plan: ::plan::NetworkPlan) -> Undo {
    Undo {
        slot: number,
        interface: "marmot0".into(),
        plan,
    }
}

fn kept_device() {
    for offloads in [false, true] {
        let lab = Lab::new();
        lab.on_host(|| kept_with(offloads));
    }
}

async fn kept_with(offloads: bool) {
    let network = Network::open().await.expect("network");
    let options = TunOptions {
        name: "marmot0".into(),
        mtu: 1400,
        offloads,
    };
    let device = Tun::create(&options).expect("TUN");
    let (index, made) = (device.index(), device.offloads());
    assert_eq!(made.is_some(), offloads);
    network.apply(&slot(0), index, &full_plan()).await.expect("apply");
    let state = network.snapshot().await.expect("state");
    let kept = device.descriptor().expect("descriptor");
    drop(device);
    assert_same(&state, &network.snapshot().await.expect("state"));

    let device = Tun::adopt(kept, "marmot0").expect("adopted");
    assert_eq!(
        (device.name(), device.index(), device.offloads()),
        ("marmot0", index, made)
    );
    let socket = tokio::net::UdpSocket::bind("10.78.0.5:0").await.expect("socket");
    socket.send_to(b"hello", "10.1.2.3:9").await.expect("sent");
    let header = if offloads { packet::virtio::LENGTH } else { 0 };
    let mut read = [0; 1500];
    let sent = loop {
        // The kernel speaks too (router solicitations).
        let length = device.recv(&mut read).await.expect("packet");
        if read[header] >> 4 == 4 {
            break &read[..length];
        }
    };
    assert!(sent.ends_with(b"hello"), "{sent:?}");
    // And back: the kernel gets its own packet, and has no use for it.
    device.try_send(sent).expect("taken");
    device.set_mtu(1350).expect("an mtu");
    let restored = network.release(&slot(0), index).await;
    assert!(restored.is_complete(), "{restored:?}");
}

fn wrong_descriptors() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let refused = |descriptor: OwnedFd, name: &str| Tun::adopt(descriptor, name).expect_err("refused").to_string();
        let null = || OwnedFd::from(File::open("/dev/null").expect("null"));
        assert!(refused(null(), "marmot0").starts_with("cannot keep the TUN device marmot0: "));

        let device = tun("marmot0");
        let text = refused(device.descriptor().expect("descriptor"), "marmot1");
        assert!(text.ends_with("the descriptor belongs to marmot0"), "{text}");
        // The name may have gone to a device of somebody else.
        let kept = device.descriptor().expect("descriptor");
        drop(device);
        lab.host.delete("marmot0").expect("delete");
        let _other = tun("marmot0");
        refused(kept, "marmot0");
    });
    let elsewhere = lab.on_host(|| async { tun("marmot0").descriptor().expect("descriptor") });
    crate::lab::block_in(&lab.world, || async {
        let _namesake = tun("marmot0");
        let text = Tun::adopt(elsewhere, "marmot0").expect_err("refused").to_string();
        assert!(text.ends_with("it is in another network namespace"), "{text}");
    });
}

/// A stored device is removed by what its descriptor says: its name in the configuration may be somebody else's by now.
fn identified_devices() {
    let lab = Lab::new();
    let of_host = lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let kept = device.descriptor().expect("descriptor");
        drop(device);
        let here = |name: &str| Identity {
            name: name.to_owned(),
            here: true,
        };
        assert_eq!(identify(&kept).expect("a TUN device"), here("marmot0"));
        rename("marmot0", "elsewhat");
        let other = tun("marmot0");
        assert_eq!(identify(&kept).expect("a TUN device"), here("elsewhat"));
        assert!(network.remove_link("elsewhat").await.expect("removed"));
        let error = identify(&kept).expect_err("gone");
        assert!(is_gone(&error), "{error}");
        let other = other.descriptor().expect("descriptor");
        assert_eq!(identify(&other).expect("still there"), here("marmot0"));
        identify(&File::open("/dev/null").expect("null").into()).expect_err("no TUN device");
        other
    });
    crate::lab::block_in(&lab.world, || async {
        let found = identify(&of_host).expect("a TUN device");
        assert!(!found.here, "{found:?}");
    });
}

fn rename(from: &str, to: &str) {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let copy = |target: &mut [libc::c_char], name: &str| {
        for (target, byte) in target.iter_mut().zip(name.bytes()) {
            *target = byte as libc::c_char;
        }
    };
    copy(&mut request.ifr_name, from);
    let mut name = [0; libc::IFNAMSIZ];
    copy(&mut name, to);
    request.ifr_ifru.ifru_newname = name;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
    // SAFETY: SIOCSIFNAME reads one ifreq, and `request` is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNAME as _, &request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn removed_under_descriptors() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect("apply");
        let kept = device.descriptor().expect("descriptor");
        let restored = network.release(&slot(0), device.index()).await;
        assert!(restored.is_complete(), "{restored:?}");
        let began = Instant::now();
        assert!(network.remove_link("marmot0").await.expect("removed"));
        println!("remove_link: {:?}", began.elapsed());
        assert_same(&before, &network.snapshot().await.expect("state"));
        let error = device.recv(&mut [0; 100]).await.expect_err("gone");
        assert!(is_gone(&error), "{error}");
        Tun::adopt(kept, "marmot0").expect_err("gone");
        assert!(!network.remove_link("marmot0").await.expect("nothing there"));
    });
}

fn nobodys_link() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        for name in ["eth0", "lo"] {
            let text = network.remove_link(name).await.expect_err("refused").to_string();
            assert_eq!(text, format!("cannot remove the interface {name}: it is no TUN device"));
        }
    });
}

fn undone_after_crash() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let index = device.index();
        network.apply(&slot(7), index, &full_plan()).await.expect("apply");
        drop(device);
        let restored = network.undo(&undo(7, full_plan())).await;
        assert!(restored.is_complete(), "{restored:?}");
        assert!(
            restored.removed().iter().any(|line| line.starts_with("rule 11070: ")),
            "{restored:?}"
        );
    });
    assert_same(&before, &lab.host.snapshot().expect("state"));
}

fn undone_kept_device() {
    let lab = Lab::new();
    let before = lab.host.snapshot().expect("state");
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect("apply");
        let restored = network.undo(&undo(0, full_plan())).await;
        assert!(restored.is_complete(), "{restored:?}");
        assert!(restored.removed().contains(&"link marmot0".to_owned()), "{restored:?}");
        assert_same(&before, &network.snapshot().await.expect("state"));
    });
}

fn undo_of_somebody_elses_name() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        // Another tunnel in another slot, which took the name of the record since; and rules of a third one.
        let other = plan(&["10.99.0.9/32"], &["172.20.0.0/16"], &["172.20.5.0/24"]);
        let device = tun("marmot0");
        network.apply(&slot(1), device.index(), &other).await.expect("apply");
        let third = tun("third");
        let everything = plan(&["10.98.0.9/32"], &["0.0.0.0/0"], &[]);
        network
            .apply(&slot(2), third.index(), &everything)
            .await
            .expect("apply");
        let before = network.snapshot().await.expect("state");
        let restored = network.undo(&undo(0, full_plan())).await;
        assert!(restored.is_complete() && restored.removed().is_empty(), "{restored:?}");
        assert_same(&before, &network.snapshot().await.expect("state"));
        assert_eq!(
            network.path_to(ip("172.20.1.1"), None).await.expect("path").interface,
            "marmot0"
        );

        let mut wrong = undo(200, full_plan());
        wrong.interface = "eth0".into();
        let restored = network.undo(&wrong).await;
        assert_eq!(restored.residue(), ["slot 200: no such slot"]);
        assert_same(&before, &network.snapshot().await.expect("state"));
        // Not even with an address of the plan: it is no TUN device.
        wrong.slot = 0;
        wrong.plan.addresses = vec![net("192.0.2.2/32")];
        let restored = network.undo(&wrong).await;
        assert!(restored.removed().is_empty(), "{restored:?}");
        assert_same(&before, &network.snapshot().await.expect("state"));
    });
}

fn undone_twice() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        network
            .apply(&slot(0), device.index(), &full_plan())
            .await
            .expect("apply");
        let (one, two) = (undo(0, full_plan()), undo(0, full_plan()));
        let (first, second) = tokio::join!(network.undo(&one), network.undo(&two));
        assert!(first.is_complete() && second.is_complete(), "{first:?} {second:?}");
        let third = network.undo(&undo(0, full_plan())).await;
        assert!(third.is_complete() && third.removed().is_empty(), "{third:?}");
    });
}

/// How long something may take that happens at once on an idle machine.
const SOON: Duration = Duration::from_secs(10);

/// What a whole stop may take (lifecycle.md section 2).
const BUDGET: Duration = Duration::from_millis(250);

/// Prints how long a release takes until the host is as before, with this many routes, idle and under traffic.
fn release_is_fast() {
    let lab = Lab::new();
    for (routes, traffic) in [(2, false), (100, false), (1000, false), (2, true), (1000, true)] {
        let (mut times, mut applied) = lab.on_host(|| releases(routes, traffic));
        times.sort();
        applied.sort();
        let apply = applied[applied.len() / 2];
        let (median, worst, count) = (times[times.len() / 2], times[times.len() - 1], times.len());
        let load = if traffic { " under traffic" } else { "" };
        println!("release with {routes} routes{load}: median {median:?}, worst {worst:?} of {count}; apply {apply:?}");
        // A tenth of what a stop may take, or as long as applying the same took. What is slow by itself is slow each time; what a
        // busy machine adds is not there each time.
        let (best, bound) = (times[0], (BUDGET / 10).max(applied[0]));
        assert!(best < bound && median < BUDGET, "{best:?}, applied in {:?}", applied[0]);
    }
}

/// How long each release took, and each application before it.
async fn releases(routes: u32, traffic: bool) -> (Vec<Duration>, Vec<Duration>) {
    const ROUNDS: usize = 11;
    let network = Network::open().await.expect("network");
    let (mut times, mut applied) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let device = tun("marmot0");
        let flood = traffic.then(Flood::start);
        let plan = many(routes);
        let began = Instant::now();
        network.apply(&slot(0), device.index(), &plan).await.expect("apply");
        applied.push(began.elapsed());
        let began = Instant::now();
        let restored = network.release(&slot(0), device.index()).await;
        times.push(began.elapsed());
        assert!(restored.is_complete(), "{restored:?}");
        drop(flood);
        drop(device);
        // The kernel lets go of a name a little later.
        let began = Instant::now();
        while network.link("marmot0").await.is_ok() {
            assert!(began.elapsed() < SOON, "the device stays");
            tokio::task::yield_now().await;
        }
    }
    (times, applied)
}

/// A program that sends as fast as it can, whether anybody takes it or not; in the namespace of the thread that starts it.
struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let sender = std::thread::spawn(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("socket");
            while !stopped.load(Ordering::Relaxed) {
                // Into the tunnel, and when that is gone, to nobody.
                let _ = socket.send_to(&[0; 1200], "10.1.2.3:9");
                let _ = tell.try_send(());
            }
        });
        told.recv().expect("the first packet");
        Self {
            stop,
            sender: Some(sender),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            sender.join().expect("no panic");
        }
    }
}

/// A plan of both families with this many routes, one of eight thrown.
fn many(routes: u32) -> ::plan::NetworkPlan {
    let mut many = plan(&["10.78.0.5/32", "fd00:78::5/128"], &["0.0.0.0/0", "::/0"], &[]);
    many.routes.extend((2..routes).map(|n| {
        let text = if n % 2 == 0 {
            format!("10.{}.{}.0/24", n / 200, n % 200)
        } else {
            format!("fd00:{n:x}::/48")
        };
        let kind = if n % 8 < 2 { RouteKind::Throw } else { RouteKind::Tunnel };
        Route { net: net(&text), kind }
    }));
    many
}
