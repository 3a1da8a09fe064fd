//! What others have on this host beside us, and what of our own lies in the packet filter.

use std::io;

use plan::NetworkPlan;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::{Clearing, message};
use crate::firewall::{Nft, Purpose, Table};
use crate::slot::Slot;

/// The table of this host's own addresses (`RT_TABLE_LOCAL`), which comes first of all.
const LOCAL_TABLE: u32 = 255;

/// Removes the tables of a slot, but for a lockdown. Without nft there are none of ours.
pub(super) async fn clear_firewall(slot: Slot, clearing: &mut Clearing) {
    let Ok(nft) = Nft::find() else { return };
    let left = |table: &Table| match table.purpose {
        Purpose::Guard | Purpose::Flows => table.slot == slot,
        Purpose::Lockdown => false,
    };
    let listed = match nft.tables().await {
        Ok(listed) => listed,
        Err(error) => {
            // A kernel without nftables has no tables either.
            return tracing::debug!(%error, "cannot look for firewall tables");
        }
    };
    let left: Vec<_> = listed.into_iter().filter(left).collect();
    let removed = nft.remove(&left).await;
    for table in left {
        let removed = match &removed {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        clearing.note(format!("firewall table {table}"), removed);
    }
}

/// See [`super::Network::rivals`].
pub(super) async fn rivals(netlink: &Netlink, slot: Slot, plan: &NetworkPlan) -> io::Result<Vec<String>> {
    let ours = *slot.default_rule_priorities().start();
    let mut rivals = Vec::new();
    for (family, everything) in [
        (AddressFamily::Inet, plan.default_v4),
        (AddressFamily::Inet6, plan.default_v6),
    ] {
        if !everything {
            continue;
        }
        let mut request = RuleMessage::default();
        request.header.family = family;
        let before = netlink
            .list(RouteNetlinkMessage::GetRule(request), |item| match item {
                RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => {
                    let before = message::priority_of(&rule) < ours && !message::is_ours(&rule);
                    let table = message::takes_everything(&rule).filter(|table| *table != LOCAL_TABLE);
                    table.filter(|_| before).map(|table| (table, rule))
                }
                _ => None,
            })
            .await?;
        for (table, rule) in before {
            if leads_everywhere(netlink, family, table).await? {
                rivals.push(message::rule_in_words(&rule));
            }
        }
    }
    Ok(rivals)
}

/// Whether a table has a default route, whole or in halves.
async fn leads_everywhere(netlink: &Netlink, family: AddressFamily, table: u32) -> io::Result<bool> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.attributes.push(RouteAttribute::Table(table));
    let routes = netlink
        .list(RouteNetlinkMessage::GetRoute(request), |item| match item {
            RouteNetlinkMessage::NewRoute(route)
                if message::table_of(&route) == table
                    && route.header.address_family == family
                    && route.header.destination_prefix_length <= 1 =>
            {
                Some(())
            }
            _ => None,
        })
        .await?;
    Ok(!routes.is_empty())
}
