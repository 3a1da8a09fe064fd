//! Rules into ranges: which of them matter for an address, and what they come to for each port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{AccessList, Action, Ports, Protocol, Rule, Space, Table};

pub(super) fn list<'a>(rules: impl Iterator<Item = &'a Rule>, default: Action) -> AccessList {
    let rules: Vec<&Rule> = rules.collect();
    AccessList {
        v4: space(&rules, default, IpAddr::is_ipv4, u32::MAX.into()),
        v6: space(&rules, default, IpAddr::is_ipv6, u128::MAX),
    }
}

/// The addresses of a family, of which `last` is the highest.
fn space(rules: &[&Rule], default: Action, family: impl Fn(&IpAddr) -> bool, last: u128) -> Space {
    let ranges: Vec<Vec<RangeInclusive<u128>>> = rules.iter().map(|rule| addresses(rule, &family, last)).collect();
    let mut starts = BTreeSet::from([0]);
    for range in ranges.iter().flatten() {
        starts.insert(*range.start());
        starts.extend(range.end().checked_add(1).filter(|next| *next <= last));
    }
    let mut tables = Vec::new();
    // Rules that matter for the same addresses are compiled once.
    let mut known: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
    let mut of_range = Vec::new();
    for start in &starts {
        let fits = |of: &Vec<RangeInclusive<u128>>| of.iter().any(|range| range.contains(start));
        let mut fitting = Vec::new();
        for (index, _) in ranges.iter().enumerate().filter(|(_, of)| fits(of)) {
            fitting.push(index);
            if is_for_everything(rules[index]) {
                break;
            }
        }
        let table = *known.entry(fitting).or_insert_with_key(|fitting| {
            tables.push(table(fitting.iter().map(|index| rules[*index]), default));
            u32::try_from(tables.len() - 1).expect("fewer tables than ranges of addresses")
        });
        of_range.push(table);
    }
    Space {
        starts: starts.into_iter().collect(),
        of_range: of_range.into(),
        tables: tables.into(),
    }
}

/// What a rule says of a family: everything, its networks, or nothing.
fn addresses(rule: &Rule, family: impl Fn(&IpAddr) -> bool, last: u128) -> Vec<RangeInclusive<u128>> {
    if rule.networks.is_empty() {
        return vec![0..=last];
    }
    let of_family = rule.networks.iter().filter(|net| family(&net.addr()));
    of_family
        .map(|net| match net {
            IpNet::V4(net) => net.network().to_bits().into()..=net.broadcast().to_bits().into(),
            IpNet::V6(net) => net.network().to_bits()..=net.broadcast().to_bits(),
        })
        .collect()
}

fn is_for_everything(rule: &Rule) -> bool {
    rule.protocol == Protocol::Any && rule.ports.is_empty()
}

fn table<'a>(rules: impl DoubleEndedIterator<Item = &'a Rule> + Clone, default: Action) -> Table {
    let without_ports = |protocol: Protocol| {
        let mut rules = rules.clone();
        let first =
            rules.find(|rule| (rule.protocol == protocol || rule.protocol == Protocol::Any) && rule.ports.is_empty());
        first.map_or(default, |rule| rule.action) == Action::Allow
    };
    Table {
        tcp: ports(rules.clone(), Protocol::Tcp, default),
        udp: ports(rules.clone(), Protocol::Udp, default),
        icmp: without_ports(Protocol::Icmp),
        // Of what has no name here, a rule for any protocol alone speaks.
        other: without_ports(Protocol::Any),
    }
}

/// Later rules first, so that each is painted over by what goes before it.
fn ports<'a>(rules: impl DoubleEndedIterator<Item = &'a Rule>, protocol: Protocol, default: Action) -> Ports {
    let mut ranges = BTreeMap::from([(0, default)]);
    let of_protocol = |rule: &&Rule| rule.protocol == protocol || rule.protocol == Protocol::Any;
    for rule in rules.rev().filter(of_protocol) {
        if rule.ports.is_empty() {
            paint(&mut ranges, &(0..=u16::MAX), rule.action);
        }
        for range in &rule.ports {
            paint(&mut ranges, range, rule.action);
        }
    }
    let mut allowed: Vec<_> = ranges
        .into_iter()
        .map(|(start, action)| (start, action == Action::Allow))
        .collect();
    allowed.dedup_by_key(|(_, allowed)| *allowed);
    Ports {
        all: allowed.iter().all(|(_, allowed)| *allowed),
        ranges: allowed.into(),
    }
}

fn paint(ranges: &mut BTreeMap<u16, Action>, range: &RangeInclusive<u16>, action: Action) {
    let (start, end) = (*range.start(), *range.end());
    if start > end {
        return;
    }
    if let Some(next) = end.checked_add(1) {
        let (_, behind) = ranges.range(..=next).next_back().expect("a range begins with 0");
        let behind = *behind;
        ranges.insert(next, behind);
    }
    let covered: Vec<u16> = ranges.range(range.clone()).map(|(start, _)| *start).collect();
    for start in covered {
        ranges.remove(&start);
    }
    ranges.insert(start, action);
}
