//! Changes of the network are told, and what somebody took off is put back.

use std::process::Command;

use platform::network::Network;
use platform::watch::{Change, Changes, NetworkWatch};

use crate::lab::{Lab, PATIENCE, Test, assert_same, full_plan, net, slot, tun};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("what_others_change_is_told_and_what_the_tunnel_does_is_not", told),
        (
            "a_watch_that_cannot_keep_up_says_that_anything_may_have_changed",
            overflow,
        ),
        ("what_somebody_took_off_is_put_back_and_nothing_else", mended),
    ]
}

/// What is told until this is among it.
async fn until(watch: &mut NetworkWatch, change: Change) -> Changes {
    let mut all = Changes::default();
    while !all.has(change) {
        let told = tokio::time::timeout(PATIENCE, watch.next()).await;
        all.join(told.expect("a word").expect("a socket"));
    }
    all
}

fn told() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let mut watch = NetworkWatch::open("marmot0").expect("watch");
        let device = tun("marmot0");
        let (slot, plan) = (slot(0), full_plan());
        network.apply(&slot, device.index(), &plan).await.expect("apply");
        let quieter = plan::NetworkPlan {
            routes: plan.routes.iter().skip(1).copied().collect(),
            mtu: 1300,
            ..plan.clone()
        };
        network
            .replace_plan(&slot, device.index(), &plan, &quieter)
            .await
            .expect("replace");
        lab.host.address("eth0", net("198.51.100.9/24")).expect("address");
        // The route to the network of the address comes last.
        let changes = until(&mut watch, Change::Route).await;
        assert!(changes.has(Change::Address), "{changes:?}");
        assert!(
            !changes.has(Change::Link),
            "the tunnel's device is the tunnel's own: {changes:?}"
        );

        lab.host.down("eth0").expect("down");
        let _ = until(&mut watch, Change::Link).await;
        ip(&lab, &["rule", "del", "pref", "10000"]);
        let _ = until(&mut watch, Change::Ours).await;
        ip(&lab, &["rule", "add", "pref", "77", "lookup", "main"]);
        let _ = until(&mut watch, Change::Route).await;
    });
}

fn overflow() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let mut watch = NetworkWatch::open("marmot0").expect("watch");
        for number in 0..2000_u16 {
            let [high, low] = number.to_be_bytes();
            let route = net(&format!("10.{high}.{low}.0/24"));
            lab.host.route(route, None, Some("eth0")).expect("route");
            if number % 500 == 499 {
                tokio::task::yield_now().await;
            }
        }
        let all = until(&mut watch, Change::Ours).await;
        assert_eq!(all, Changes::ALL, "nobody took anything of ours, but who knows");
    });
}

fn mended() {
    let lab = Lab::new();
    lab.on_host(|| async {
        let network = Network::open().await.expect("network");
        let device = tun("marmot0");
        let (slot, mut plan) = (slot(0), full_plan());
        plan.local = plan::LocalNetworks::Private;
        network.apply(&slot, device.index(), &plan).await.expect("apply");
        let before = network.snapshot().await.expect("state");
        let mend = async || network.mend(&slot, device.index(), &plan).await.expect("mend");
        assert!(mend().await.is_empty(), "nothing is missing");

        ip(&lab, &["rule", "del", "pref", "10000"]);
        ip(&lab, &["rule", "del", "pref", "11000", "to", "192.168.0.0/16"]);
        ip(&lab, &["-6", "rule", "del", "pref", "11001"]);
        ip(
            &lab,
            &["route", "del", "10.0.0.0/8", "table", &slot.table().to_string()],
        );
        ip(
            &lab,
            &[
                "-6",
                "route",
                "del",
                "throw",
                "2001:db8:9::/48",
                "table",
                &slot.table().to_string(),
            ],
        );
        let missing = mend().await;
        assert_eq!(missing.len(), 5, "{missing:?}");
        assert_same(&before, &network.snapshot().await.expect("state"));

        // The kernel takes the routes and the IPv6 address off with it.
        ip(&lab, &["link", "set", "dev", "marmot0", "down"]);
        let missing = mend().await;
        assert!(missing.contains(&"link marmot0 up".to_owned()), "{missing:?}");
        assert!(missing.contains(&"address fd00:78::5/128".to_owned()), "{missing:?}");
        assert_same(&before, &network.snapshot().await.expect("state"));
        ip(&lab, &["address", "del", "10.78.0.5/32", "dev", "marmot0"]);
        let _ = mend().await;
        assert_same(&before, &network.snapshot().await.expect("state"));
    });
}

fn ip(lab: &Lab, arguments: &[&str]) {
    let mut command: Command = lab.host.command("ip").expect("command");
    let status = command.args(arguments).status().expect("the program ip");
    assert!(status.success(), "ip {}", arguments.join(" "));
}
