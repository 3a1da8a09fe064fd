//! Putting back what somebody took off the host: a network manager that removes rules it does not know, say, or a hand.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use plan::{NetworkPlan, RouteKind};
use rtnetlink::packet_core::NLM_F_REPLACE;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Network, Result, message, name_or_index, step};
use crate::slot::{PROTOCOL, Slot};

impl Network {
    /// Looks for what is missing of `plan`, which was applied, and puts it back, in the order of [`Network::apply`]. Returns what was
    /// missing, in words.
    pub async fn mend(&self, slot: &Slot, tun_index: u32, plan: &NetworkPlan) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        if !self.is_up(tun_index).await? {
            self.set_link(tun_index, true, None).await?;
            missing.push(format!("link {} up", name_or_index(tun_index)));
        }
        let addresses = self.every_address_of(tun_index).await?;
        for net in plan.addresses.iter().filter(|net| !addresses.contains(&net.addr())) {
            self.add_address(tun_index, *net, false).await?;
            missing.push(format!("address {net}"));
        }
        missing.extend(self.mend_routes(*slot, tun_index, plan).await?);
        missing.extend(self.mend_rules(*slot, plan).await?);
        if !missing.is_empty() {
            self.wait_for_addresses(&plan.addresses).await;
        }
        Ok(missing)
    }

    async fn is_up(&self, index: u32) -> Result<bool> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let answer = self.netlink.question(RouteNetlinkMessage::GetLink(question)).await;
        match answer.map_err(|source| step("look at the device of the tunnel", source))? {
            RouteNetlinkMessage::NewLink(link) => Ok(link.header.flags.contains(LinkFlags::Up)),
            _ => Ok(true),
        }
    }

    async fn every_address_of(&self, index: u32) -> Result<Vec<IpAddr>> {
        let mut request = AddressMessage::default();
        request.header.index = index;
        let addresses = self
            .netlink
            .list(RouteNetlinkMessage::GetAddress(request), |item| match item {
                RouteNetlinkMessage::NewAddress(address) if address.header.index == index => {
                    message::local_of(&address)
                }
                _ => None,
            })
            .await;
        addresses.map_err(|source| step("list the addresses of the tunnel", source))
    }

    async fn mend_routes(&self, slot: Slot, tun_index: u32, plan: &NetworkPlan) -> Result<Vec<String>> {
        let mut found: HashSet<(IpNet, bool)> = HashSet::new();
        for family in message::FAMILIES {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.attributes.push(RouteAttribute::Table(slot.table()));
            let routes = self
                .routes(request, |route| {
                    let ours = message::table_of(&route) == slot.table()
                        && route.header.protocol == RouteProtocol::Other(PROTOCOL)
                        && route.header.address_family == family;
                    let net = message::net_of(&route).filter(|_| ours)?;
                    Some((net, route.header.kind == RouteType::Throw))
                })
                .await;
            found.extend(routes.map_err(|source| step("list the routes of the tunnel", source))?);
        }
        let is_there = |route: &&plan::Route| found.contains(&(route.net, route.kind == RouteKind::Throw));
        let missing: Vec<plan::Route> = plan.routes.iter().filter(|route| !is_there(route)).copied().collect();
        self.add_routes(slot, tun_index, &missing, NLM_F_REPLACE).await?;
        Ok(missing.iter().map(|route| format!("route {}", route.net)).collect())
    }

    /// A rule is known by its family and priority, which are its tunnel's alone, and by where it is for: those for private networks share one.
    async fn mend_rules(&self, slot: Slot, plan: &NetworkPlan) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for family in message::FAMILIES {
            let mut request = RuleMessage::default();
            request.header.family = family;
            let rules = self
                .netlink
                .list(RouteNetlinkMessage::GetRule(request), |item| match item {
                    RouteNetlinkMessage::NewRule(rule) if message::is_ours(&rule) => Some(identity(&rule)),
                    _ => None,
                })
                .await;
            found.extend(rules.map_err(|source| step("list the rules of the tunnel", source))?);
        }
        let mut missing = Vec::new();
        for rule in message::rules(slot, plan) {
            if !found.contains(&identity(&rule)) {
                missing.push(message::rule_in_words(&rule));
                self.add_rule(rule).await?;
            }
        }
        Ok(missing)
    }
}

fn identity(rule: &RuleMessage) -> (AddressFamily, u32, u8, Option<IpAddr>) {
    let destination = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Destination(address) => Some(*address),
        _ => None,
    });
    (
        rule.header.family,
        message::priority_of(rule),
        rule.header.dst_len,
        destination,
    )
}
