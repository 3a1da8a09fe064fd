//! What the tests stand on.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use plan::{NetworkPlan, Route, RouteKind};
use platform::netns::Namespace;
use platform::network::HostState;
use platform::slot::Slot;
use platform::tun::{Tun, TunOptions};

/// A test by name.
pub(crate) type Test = (&'static str, fn());

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A host with one cable to the world.
pub(crate) struct Lab {
    pub(crate) host: Namespace,
    pub(crate) world: Namespace,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let host = Namespace::create().expect("host");
        let world = Namespace::create().expect("world");
        host.veth(&world, "eth0", "eth0").expect("cable");
        for (namespace, v4, v6) in [
            (&host, "192.0.2.2/24", "2001:db8::2/64"),
            (&world, "192.0.2.1/24", "2001:db8::1/64"),
        ] {
            namespace.address("eth0", net(v4)).expect("address");
            namespace.address("eth0", net(v6)).expect("address");
            namespace.up("eth0").expect("up");
        }
        host.default_route(ip("192.0.2.1")).expect("default route");
        host.default_route(ip("2001:db8::1")).expect("default route");
        host.settle().expect("settle");
        world.settle().expect("settle");
        wait_for_link_local(&host);
        wait_for_link_local(&world);
        Self { host, world }
    }

    /// Runs a test on the host, in a single thread with a current-thread runtime, with a limit.
    pub(crate) fn on_host<F, T>(&self, test: impl FnOnce() -> F + Send) -> T
    where
        F: Future<Output = T>,
        T: Send,
    {
        block_in(&self.host, test)
    }
}

/// Waits until the kernel has added what it adds by itself when a cable is plugged in, so that it changes nothing later.
fn wait_for_link_local(end: &Namespace) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let there = |state: &HostState| state.lines().any(|line| line.starts_with("route local fe80:"));
    while !there(&end.snapshot().expect("state")) {
        assert!(std::time::Instant::now() < deadline, "eth0 gets no link-local address");
        std::thread::yield_now();
    }
}

pub(crate) fn block_in<F, T>(namespace: &Namespace, test: impl FnOnce() -> F + Send) -> T
where
    F: Future<Output = T>,
    T: Send,
{
    namespace
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime
                .block_on(async { tokio::time::timeout(PATIENCE, test()).await })
                .expect("the test ends in time")
        })
        .expect("namespace")
}

pub(crate) fn assert_same(before: &HostState, after: &HostState) {
    let changes = before.changes(after);
    assert!(changes.is_empty(), "the host changed:\n{}", changes.join("\n"));
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("network")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn slot(number: u8) -> Slot {
    Slot::new(number).expect("slot")
}

pub(crate) fn tun(name: &str) -> Tun {
    Tun::create(&TunOptions {
        name: name.into(),
        mtu: 1400,
        offloads: false,
    })
    .expect("TUN")
}

/// A plan with addresses of both families.
pub(crate) fn plan(addresses: &[&str], into_tunnel: &[&str], thrown: &[&str]) -> NetworkPlan {
    let route = |kind| move |text: &&str| Route { net: net(text), kind };
    let tunnel = into_tunnel.iter().map(route(RouteKind::Tunnel));
    NetworkPlan {
        addresses: addresses.iter().map(|text| net(text)).collect(),
        mtu: 1380,
        routes: tunnel.chain(thrown.iter().map(route(RouteKind::Throw))).collect(),
        default_v4: into_tunnel.contains(&"0.0.0.0/0"),
        default_v6: into_tunnel.contains(&"::/0"),
        ..NetworkPlan::default()
    }
}

/// Everything goes into the tunnel, but for two networks.
pub(crate) fn full_plan() -> NetworkPlan {
    plan(
        &["10.78.0.5/32", "fd00:78::5/128"],
        &["0.0.0.0/0", "10.0.0.0/8", "::/0"],
        &["10.9.0.0/16", "2001:db8:9::/48"],
    )
}
