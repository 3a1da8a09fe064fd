//! The state of this host in lines, and switches of the kernel that matter to a tunnel.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteFlags, RouteMessage};
use rtnetlink::packet_route::rule::RuleMessage;

use super::message;
use super::netlink::Netlink;
use crate::firewall::Nft;
use crate::network::HostState;

pub(super) async fn snapshot(netlink: &Netlink) -> io::Result<HostState> {
    let mut lines = BTreeSet::new();
    let mut names: HashMap<u32, String> = HashMap::new();
    let links = netlink
        .list(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            |item| match item {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            },
        )
        .await?;
    for link in &links {
        names.insert(link.header.index, message::name_of(link));
        lines.insert(message::link_in_words(link));
    }
    let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"));

    let addresses = netlink
        .list(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            |item| match item {
                RouteNetlinkMessage::NewAddress(address) => Some(message::address_in_words(&address, &name)),
                _ => None,
            },
        )
        .await?;
    lines.extend(addresses);

    for family in message::FAMILIES {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let routes = netlink
            .list(RouteNetlinkMessage::GetRoute(request), |item| match item {
                RouteNetlinkMessage::NewRoute(route)
                    if route.header.address_family == family && !route.header.flags.contains(RouteFlags::Cloned) =>
                {
                    Some(message::route_in_words(&route, &name))
                }
                _ => None,
            })
            .await?;
        lines.extend(routes);
        let mut request = RuleMessage::default();
        request.header.family = family;
        let rules = netlink
            .list(RouteNetlinkMessage::GetRule(request), |item| match item {
                RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => {
                    Some(message::rule_in_words(&rule))
                }
                _ => None,
            })
            .await?;
        lines.extend(rules);
    }
    lines.extend(packet_filter().await);
    Ok(HostState::new(lines))
}

/// The packet filter in lines that begin with their table, as far as it can be listed.
async fn packet_filter() -> Vec<String> {
    let Ok(nft) = Nft::find() else { return Vec::new() };
    let listed = match nft.ruleset().await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::debug!(%error, "the packet filter is not part of the state");
            return Vec::new();
        }
    };
    let mut table = "";
    let mut lines = Vec::new();
    for line in listed.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        }
        lines.push(format!("firewall {table}: {}", line.trim()));
    }
    lines
}

/// Whether this host forwards IPv4, and IPv6.
pub fn forwarding_enabled() -> (bool, bool) {
    let on = |path: &str| switch(path) == Some(1);
    (
        on("/proc/sys/net/ipv4/ip_forward"),
        on("/proc/sys/net/ipv6/conf/all/forwarding"),
    )
}

/// Lets this host forward IPv4 packets that come in on `interface`, whatever it does with others. For a device of our own: the setting goes with
/// it. IPv6 has no such switch.
///
/// # Errors
/// Without the privilege, or where `/proc/sys` is read-only.
pub fn forward_ipv4_from(interface: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net/ipv4/conf").join(interface).join("forwarding");
    match switch(&path) {
        Some(1) => Ok(()),
        Some(_) | None => fs::write(path, "1"),
    }
}

/// Whether new interfaces of this host can have IPv6 addresses.
pub fn ipv6_available() -> bool {
    switch("/proc/sys/net/ipv6/conf/default/disable_ipv6") == Some(0)
}

/// Interfaces whose strict reverse path filter (`rp_filter` 1) drops the gateway's answers once a default route goes into
/// the tunnel: the filter looks up the way back without our mark. Loose mode (2) is fine.
pub fn strict_reverse_path() -> Vec<String> {
    let conf = Path::new("/proc/sys/net/ipv4/conf");
    let of = |name: &str| switch(conf.join(name).join("rp_filter")).unwrap_or(0);
    let all = of("all");
    let Ok(entries) = fs::read_dir(conf) else {
        return Vec::new();
    };
    let mut strict: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        // The kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst).
        .filter(|name| of(name).max(all) == 1)
        .collect();
    strict.sort();
    strict
}

fn switch(path: impl AsRef<Path>) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
