//! rtnetlink messages in our terms: made from a plan, read back, and put into words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use plan::flows::{Action, INSIDE, MARK_MASK};
use plan::{LocalNetworks, NetworkPlan, Route, RouteKind, private_networks};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::slot::{MARK_FAMILY, MARK_FAMILY_MASK, PROTOCOL, Slot};

/// The table of the host's own routes (`RT_TABLE_MAIN`).
pub(in super::super) const MAIN_TABLE: u32 = 254;

pub(in super::super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

// Made from a plan.

/// An address without duplicate address detection; `prefix_route`: with the connected route that the kernel adds.
pub(in super::super) fn address(index: u32, net: IpNet, prefix_route: bool) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message.attributes.push(AddressAttribute::Local(net.addr()));
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
    }
    let mut flags = AddressFlags::Nodad;
    if !prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

/// A route of the slot's table.
pub(in super::super) fn route(slot: Slot, tun_index: u32, route: &Route) -> RouteMessage {
    let mut message = route_to(route.net, Some(slot.table()));
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    match route.kind {
        RouteKind::Tunnel => {
            message.header.kind = RouteType::Unicast;
            if route.net.addr().is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            message.attributes.push(RouteAttribute::Oif(tun_index));
        }
        RouteKind::Throw => message.header.kind = RouteType::Throw,
    }
    message
}

/// The beginning of any route: destination, and table if it is not the main one.
pub(in super::super) fn route_to(net: IpNet, table: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(net.addr());
    message.header.destination_prefix_length = net.prefix_len();
    match table {
        Some(table) => message.attributes.push(RouteAttribute::Table(table)),
        None => message.header.table = MAIN_TABLE as u8,
    }
    if net.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(net.network().into()));
    }
    message
}

/// The question where a packet to `to` would go.
pub(in super::super) fn route_lookup(to: IpAddr) -> RouteMessage {
    let mut message = route_to(IpNet::from(to), None);
    message.header.table = 0;
    if to.is_ipv4() {
        // IPv6 tells the table unasked, and refuses the flag.
        message.header.flags = RouteFlags::LookupTable;
    }
    message
}

/// The rules of a client tunnel, for each family in use. All but the packets of tunnels themselves ask its table:
/// ```text
///   networks+0   not from all fwmark 0x6d610000/0xffff0000 lookup TABLE suppress_prefixlength 0    routes to networks
///   default+0    from all to 10.0.0.0/8 lookup main suppress_prefixlength 0      and so on: the host's own, more specific
///                                                                          routes into private networks go on working
///   default+1    not from all fwmark 0x6d610000/0xffff0000 lookup TABLE                            a default route
/// ```
/// The first is there only with a route to a network, the others only with a default route. Which local networks go on working
/// is said by [`LocalNetworks`]: with `All` there is one rule without a destination, with `Never` none. With flow rules those for chosen flows come
/// first; where nothing else is to enter, they are the only ones.
pub(in super::super) fn rules(slot: Slot, plan: &NetworkPlan) -> Vec<RuleMessage> {
    let chosen = plan.flows.as_ref().map(|_| flow_rules(slot));
    if let Some(flows) = &plan.flows
        && flows.default == Action::Direct
    {
        return chosen.unwrap_or_default();
    }
    let mut rules = chosen.unwrap_or_default();
    let (networks, default) = (*slot.rule_priorities().start(), *slot.default_rule_priorities().start());
    for (v4, family) in [(true, AddressFamily::Inet), (false, AddressFamily::Inet6)] {
        let of_family = |net: &IpNet| net.addr().is_ipv4() == v4;
        if !plan.addresses.iter().any(of_family) {
            continue;
        }
        let to_network =
            |route: &Route| route.kind == RouteKind::Tunnel && route.net.prefix_len() > 0 && of_family(&route.net);
        if plan.routes.iter().any(to_network) {
            rules.push(without_default(into_tunnel(family, networks, slot)));
        }
        if if v4 { plan.default_v4 } else { plan.default_v6 } {
            let local = lookup(family, default, MAIN_TABLE);
            match plan.local {
                LocalNetworks::All => rules.push(without_default(local)),
                LocalNetworks::Private => {
                    let nets = private_networks().filter(of_family);
                    rules.extend(nets.map(|net| without_default(to(local.clone(), net))));
                }
                LocalNetworks::Never => {}
            }
            rules.push(into_tunnel(family, default + 1, slot));
        }
    }
    rules
}

/// The rules for flows that were chosen one by one, for each family whether or not the tunnel has it: what the table has no way for
/// does not go past the tunnel.
/// ```text
///   flows+0   from all fwmark 0x6d620000+N/0xffff00ff lookup TABLE
///   flows+1   from all fwmark 0x6d620000+N/0xffff00ff unreachable
/// ```
fn flow_rules(slot: Slot) -> Vec<RuleMessage> {
    let first = *slot.flow_rule_priorities().start();
    let mark = INSIDE + u32::from(slot.number());
    let families = FAMILIES
        .into_iter()
        .filter(|family| *family == AddressFamily::Inet || has_ipv6());
    families
        .flat_map(|family| {
            let mut refused = lookup(family, first + 1, 0);
            refused.header.action = RuleAction::Unreachable;
            refused
                .attributes
                .retain(|attribute| !matches!(attribute, RuleAttribute::Table(_)));
            [lookup(family, first, slot.table()), refused]
        })
        .map(|mut rule| {
            rule.attributes.push(RuleAttribute::FwMark(mark));
            rule.attributes.push(RuleAttribute::FwMask(MARK_MASK));
            rule
        })
        .collect()
}

/// Whether this kernel speaks IPv6 at all.
fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

fn into_tunnel(family: AddressFamily, priority: u32, slot: Slot) -> RuleMessage {
    let mut rule = lookup(family, priority, slot.table());
    rule.header.flags = RuleFlags::Invert;
    rule.attributes.push(RuleAttribute::FwMark(MARK_FAMILY));
    rule.attributes.push(RuleAttribute::FwMask(MARK_FAMILY_MASK));
    rule
}

fn to(mut rule: RuleMessage, net: IpNet) -> RuleMessage {
    rule.header.dst_len = net.prefix_len();
    rule.attributes.push(RuleAttribute::Destination(net.addr()));
    rule
}

fn without_default(mut rule: RuleMessage) -> RuleMessage {
    rule.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    rule
}

fn lookup(family: AddressFamily, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(priority));
    message.attributes.push(RuleAttribute::Table(table));
    message
        .attributes
        .push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message
}

/// What it takes to delete a listed route and no other.
pub(in super::super) fn route_identity(listed: &RouteMessage) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = listed.header.address_family;
    message.header.destination_prefix_length = listed.header.destination_prefix_length;
    message.header.protocol = listed.header.protocol;
    message.header.kind = listed.header.kind;
    message.header.scope = match listed.header.address_family {
        AddressFamily::Inet => listed.header.scope,
        _ => RouteScope::Universe,
    };
    message.attributes = listed
        .attributes
        .iter()
        .filter(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Destination(_) | RouteAttribute::Table(_) | RouteAttribute::Priority(_)
            )
        })
        .cloned()
        .collect();
    message
}

// Read back.

/// The table of a listed route.
pub(in super::super) fn table_of(route: &RouteMessage) -> u32 {
    let attribute = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(route.header.table))
}

/// The destination of a listed route.
pub(in super::super) fn net_of(route: &RouteMessage) -> Option<IpNet> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let address = match (destination, route.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (None, AddressFamily::Inet6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (None, _) => return None,
    };
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// The outgoing interface of a listed route.
pub(in super::super) fn interface_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The next hop of a listed route.
pub(in super::super) fn gateway_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

/// The source address that a listed route prefers.
pub(in super::super) fn source_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => ip(address),
        _ => None,
    })
}

/// Whether a listed route leads straight to a network: no gateway, no list of next hops, not the default route, and not
/// the link-local network that every interface has.
pub(in super::super) fn is_connected(route: &RouteMessage) -> bool {
    let indirect = route.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    });
    let link_local = matches!(net_of(route), Some(IpNet::V6(net)) if net.addr().is_unicast_link_local());
    route.header.kind == RouteType::Unicast && route.header.destination_prefix_length > 0 && !indirect && !link_local
}

/// The priority of a listed rule.
pub(in super::super) fn priority_of(rule: &RuleMessage) -> u32 {
    let attribute = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    attribute.unwrap_or(0)
}

/// Whether a listed rule is tagged as ours.
pub(in super::super) fn is_ours(rule: &RuleMessage) -> bool {
    rule.attributes
        .contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
}

/// The table that a listed rule sends everything to, if it does: whatever destination, source and interface a packet has. A mark
/// that does not count may be asked for, as other tunnels do for their own packets.
pub(in super::super) fn takes_everything(rule: &RuleMessage) -> Option<u32> {
    let inverted = rule.header.flags.contains(RuleFlags::Invert);
    let mut table = u32::from(rule.header.table);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::FwMark(mark) if *mark != 0 && !inverted => return None,
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => return None,
            RuleAttribute::Destination(_)
            | RuleAttribute::Source(_)
            | RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::L3MDev(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return None,
            _ => {}
        }
    }
    (rule.header.action == RuleAction::ToTable).then_some(table)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// A listed address that somebody gave (`nodad` is how we do it), not one that the kernel made up.
pub(in super::super) fn given_address(address: &AddressMessage) -> Option<IpAddr> {
    let given = address
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Nodad)));
    local_of(address).filter(|_| given)
}

/// A listed address, whoever gave it.
pub(in super::super) fn local_of(address: &AddressMessage) -> Option<IpAddr> {
    address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

// Put into words. Only what somebody configured; nothing that changes by itself.

/// `link eth0 up mtu 1500`
pub(in super::super) fn link_in_words(link: &LinkMessage) -> String {
    let up = link.header.flags.contains(LinkFlags::Up);
    let mut words = format!("link {} {}", name_of(link), if up { "up" } else { "down" });
    for attribute in &link.attributes {
        if let LinkAttribute::Mtu(mtu) = attribute {
            words += &format!(" mtu {mtu}");
        }
    }
    words
}

/// The name of a listed link.
pub(in super::super) fn name_of(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| format!("#{}", link.header.index))
}

/// Whether a listed link is a TUN (or TAP) device, by what the kernel says it is.
pub(in super::super) fn is_tun(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().any(|info| *info == LinkInfo::Kind(InfoKind::Tun))
}

/// `address 10.0.0.5/32 dev marmot0 noprefixroute`
pub(in super::super) fn address_in_words(address: &AddressMessage, name: &dyn Fn(u32) -> String) -> String {
    let mut local = None;
    let mut peer = None;
    let mut flags = AddressFlags::empty();
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(bits) => flags = *bits,
            _ => {}
        }
    }
    let shown = local
        .or(peer)
        .map_or_else(|| "none".to_owned(), |ip: IpAddr| ip.to_string());
    let mut words = format!(
        "address {shown}/{} dev {}",
        address.header.prefix_len,
        name(address.header.index)
    );
    if let (Some(local), Some(peer)) = (local, peer)
        && local != peer
    {
        words += &format!(" peer {peer}");
    }
    if flags.contains(AddressFlags::Noprefixroute) {
        words += " noprefixroute";
    }
    words
}

/// `route throw 10.1.0.0/16 table 27904 proto 109`
pub(in super::super) fn route_in_words(route: &RouteMessage, name: &dyn Fn(u32) -> String) -> String {
    let net = net_of(route).map_or_else(|| "none".to_owned(), |net| net.to_string());
    let mut words = format!(
        "route {} {net} table {}",
        kind_in_words(route.header.kind),
        table_of(route)
    );
    words += &next_hop_in_words(&route.attributes, interface_of(route), name);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    words += " nexthop";
                    words += &next_hop_in_words(&hop.attributes, Some(hop.interface_index), name);
                }
            }
            RouteAttribute::Priority(metric) => words += &format!(" metric {metric}"),
            RouteAttribute::Source(address) => {
                if let Some(ip) = ip(address) {
                    words += &format!(" from {ip}/{}", route.header.source_prefix_length);
                }
            }
            RouteAttribute::PrefSource(address) => {
                if let Some(ip) = ip(address) {
                    words += &format!(" src {ip}");
                }
            }
            RouteAttribute::NhId(id) => words += &format!(" nhid {id}"),
            _ => {}
        }
    }
    words += &format!(" proto {}", u8::from(route.header.protocol));
    if route.header.scope != RouteScope::Universe {
        words += &format!(" scope {}", route.header.scope);
    }
    words
}

fn next_hop_in_words(attributes: &[RouteAttribute], interface: Option<u32>, name: &dyn Fn(u32) -> String) -> String {
    let mut words = String::new();
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(address) => {
                if let Some(ip) = ip(address) {
                    words += &format!(" via {ip}");
                }
            }
            RouteAttribute::Via(via) => words += &format!(" via {via:?}"),
            _ => {}
        }
    }
    if let Some(index) = interface {
        words += &format!(" dev {}", name(index));
    }
    words
}

fn kind_in_words(kind: RouteType) -> String {
    match kind {
        RouteType::Unicast => "unicast".into(),
        RouteType::Local => "local".into(),
        RouteType::Broadcast => "broadcast".into(),
        RouteType::Anycast => "anycast".into(),
        RouteType::Multicast => "multicast".into(),
        RouteType::BlackHole => "blackhole".into(),
        RouteType::Unreachable => "unreachable".into(),
        RouteType::Prohibit => "prohibit".into(),
        RouteType::Throw => "throw".into(),
        other => format!("type {}", u8::from(other)),
    }
}

/// `rule 10001: not from all fwmark 0x6d610000/0xffff0000 lookup 27904 proto 109 (IPv4)`
pub(in super::super) fn rule_in_words(rule: &RuleMessage) -> String {
    let not = if rule.header.flags.contains(RuleFlags::Invert) {
        "not "
    } else {
        ""
    };
    let mut from = "all".to_owned();
    let mut table = u32::from(rule.header.table);
    let mut mark = None;
    let mut mask = None;
    let mut rest = String::new();
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(_) => {}
            RuleAttribute::Source(ip) => from = format!("{ip}/{}", rule.header.src_len),
            RuleAttribute::Destination(ip) => rest += &format!(" to {ip}/{}", rule.header.dst_len),
            RuleAttribute::Iifname(name) => rest += &format!(" iif {name}"),
            RuleAttribute::Oifname(name) => rest += &format!(" oif {name}"),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::SuppressPrefixLen(length) => rest += &format!(" suppress_prefixlength {length}"),
            RuleAttribute::Protocol(protocol) => rest += &format!(" proto {}", u8::from(*protocol)),
            other => rest += &format!(" {other:?}"),
        }
    }
    let mark = match (mark, mask) {
        (Some(mark), Some(mask)) => format!(" fwmark {mark:#x}/{mask:#x}"),
        (Some(mark), None) => format!(" fwmark {mark:#x}"),
        (None, _) => String::new(),
    };
    let action = match rule.header.action {
        RuleAction::ToTable => format!("lookup {table}"),
        RuleAction::Unreachable => "unreachable".to_owned(),
        other => format!("action {}", u8::from(other)),
    };
    let family = match rule.header.family {
        AddressFamily::Inet => "IPv4".to_owned(),
        AddressFamily::Inet6 => "IPv6".to_owned(),
        other => format!("family {}", u8::from(other)),
    };
    let priority = priority_of(rule);
    format!("rule {priority}: {not}from {from}{mark} {action}{rest} ({family})")
}
