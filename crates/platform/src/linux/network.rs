//! Plans on the host and off again, through rtnetlink.

mod mend;
pub(super) mod message;
pub(super) mod netlink;
mod state;
mod tables;

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use plan::{NetworkPlan, Undo};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::rule::RuleMessage;

use self::netlink::Netlink;
use self::tables::clear_firewall;
use super::capabilities::NET_ADMIN_HINT;
use crate::PlatformError;
use crate::network::{ConnectedNetwork, HostState, Path, Restored};
use crate::slot::{PROTOCOL, Slot};
use crate::udp::{BYTES_MAX, SEGMENTS_MAX};

pub use self::state::{forward_ipv4_from, forwarding_enabled, ipv6_available, strict_reverse_path};

type Result<T> = std::result::Result<T, PlatformError>;

/// The kernel needs about a millisecond to make an IPv6 address usable.
const ADDRESS_WITHIN: Duration = Duration::from_millis(200);

/// Bytes around a packet in its datagram: header, connection id, nonce, two kinds and tag of a record of ours (docs/PROTOCOL.md).
const AROUND_A_PACKET: usize = 13 + 8 + 8 + 2 + 16;

/// A conversation with the kernel about the network of this host: of the network namespace of the thread that opened it.
///
/// No method is cancel safe: after dropping one halfway, [`Network::release`] clears up.
#[derive(Clone, Debug)]
pub struct Network {
    netlink: Netlink,
}

impl Network {
    /// Opens the conversation. Needs a tokio runtime with I/O and time.
    pub async fn open() -> Result<Self> {
        let netlink = Netlink::open().map_err(|source| PlatformError::io("open a netlink socket", source))?;
        Ok(Self { netlink })
    }

    /// Removes what a killed process left under this slot's numbers: its rules, the routes of its table, and its tables of the
    /// packet filter but for a lockdown, which is left to whoever knows its policy ([`crate::firewall::Nft::clear`]). To be called by
    /// whoever just locked the slot. What was found is in [`Restored::removed`].
    pub async fn sweep(&self, slot: &Slot) -> Restored {
        let mut clearing = Clearing::default();
        self.clear_rules(*slot, &mut clearing).await;
        self.clear_table(*slot, &mut clearing).await;
        clear_firewall(*slot, &mut clearing).await;
        clearing.into_restored()
    }

    /// The index of the interface `name`.
    pub async fn link(&self, name: &str) -> Result<u32> {
        index_of(name).map_err(|source| step(format!("find the interface {name}"), source))
    }

    /// Sets a link up or down, with a new MTU in bytes if one is given.
    pub async fn set_link(&self, index: u32, up: bool, mtu: Option<u16>) -> Result<()> {
        let what = format!(
            "set the interface {} {}",
            name_or_index(index),
            if up { "up" } else { "down" }
        );
        let link = LinkUnspec::new_with_index(index);
        let mut link = if up { link.up() } else { link.down() };
        if let Some(mtu) = mtu {
            link = link.mtu(u32::from(mtu));
        }
        self.change_link(link.build(), what).await
    }

    /// Puts `plan` on the host, in the order drawn at the top of [`crate::network`]. If a step fails, what was applied is
    /// taken off again and the error names the step.
    pub async fn apply(&self, slot: &Slot, tun_index: u32, plan: &NetworkPlan) -> Result<()> {
        let applied = self.apply_steps(*slot, tun_index, plan).await;
        if applied.is_err() {
            // The first error is the one to report; a later sweep finds what might be left.
            let _ = self.release(slot, tun_index).await;
            for net in &plan.addresses {
                let _ = self.remove_address(tun_index, *net).await;
            }
        }
        applied
    }

    async fn apply_steps(&self, slot: Slot, tun_index: u32, plan: &NetworkPlan) -> Result<()> {
        self.set_mtu(tun_index, plan.mtu).await?;
        self.read_one_batch(tun_index, plan.mtu).await;
        self.no_automatic_addresses(tun_index).await;
        for net in &plan.addresses {
            self.add_address(tun_index, *net, false).await?;
        }
        self.set_link(tun_index, true, None).await?;
        self.add_routes(slot, tun_index, &plan.routes, NLM_F_EXCL).await?;
        for rule in message::rules(slot, plan) {
            self.add_rule(rule).await?;
        }
        self.wait_for_addresses(&plan.addresses).await;
        Ok(())
    }

    /// Changes what is on the host from `old`, which was applied, to `new`. What is new comes before what is old goes, so
    /// that nothing slips past the tunnel meanwhile. After an error the host holds some of both: [`Network::release`] it.
    pub async fn replace_plan(&self, slot: &Slot, tun_index: u32, old: &NetworkPlan, new: &NetworkPlan) -> Result<()> {
        let slot = *slot;
        if new.mtu != old.mtu {
            self.set_mtu(tun_index, new.mtu).await?;
        }
        for net in new.addresses.iter().filter(|net| !old.addresses.contains(net)) {
            self.add_address(tun_index, *net, false).await?;
        }
        let added: Vec<_> = new
            .routes
            .iter()
            .filter(|route| !old.routes.contains(route))
            .copied()
            .collect();
        self.add_routes(slot, tun_index, &added, NLM_F_REPLACE).await?;
        let (old_rules, new_rules) = (message::rules(slot, old), message::rules(slot, new));
        for rule in new_rules.iter().filter(|rule| !old_rules.contains(rule)) {
            self.add_rule(rule.clone()).await?;
        }

        for rule in old_rules.into_iter().filter(|rule| !new_rules.contains(rule)) {
            let words = message::rule_in_words(&rule);
            self.netlink
                .command(RouteNetlinkMessage::DelRule(rule), 0)
                .await
                .or_else(ignore_absent)
                .map_err(|source| step(format!("remove {words}"), source))?;
        }
        for route in &old.routes {
            if new.routes.iter().any(|kept| kept.net == route.net) {
                continue;
            }
            let gone = message::route(slot, tun_index, route);
            self.netlink
                .command(RouteNetlinkMessage::DelRoute(gone), 0)
                .await
                .or_else(ignore_absent)
                .map_err(|source| {
                    step(
                        format!("remove route {} from table {}", route.net, slot.table()),
                        source,
                    )
                })?;
        }
        for net in old.addresses.iter().filter(|net| !new.addresses.contains(net)) {
            self.remove_address(tun_index, *net)
                .await
                .or_else(ignore_absent)
                .map_err(|source| step(format!("remove address {net}"), source))?;
        }
        self.wait_for_addresses(&new.addresses).await;
        Ok(())
    }

    /// Takes everything of this slot off the host: rules first, so that traffic goes its old way again, then the link,
    /// which takes the device's routes along, then what is left in the table. The addresses go with the device when its
    /// [`crate::tun::Tun`] is dropped.
    pub async fn release(&self, slot: &Slot, tun_index: u32) -> Restored {
        let mut clearing = Clearing::default();
        self.clear_rules(*slot, &mut clearing).await;
        let down = LinkUnspec::new_with_index(tun_index).down().build();
        let down = self.netlink.command(RouteNetlinkMessage::NewLink(down), 0).await;
        clearing.note(
            format!("link {} up", name_or_index(tun_index)),
            down.or_else(ignore_absent),
        );
        self.clear_table(*slot, &mut clearing).await;
        clearing.into_restored()
    }

    /// Removes the TUN device `name`, even if descriptors of it are still open somewhere, and says whether there was one. An
    /// interface of another kind is refused. The kernel needs about 20 ms, which hold up nobody else.
    pub async fn remove_link(&self, name: &str) -> Result<bool> {
        let what = || format!("remove the interface {name}");
        let Ok(index) = index_of(name) else {
            return Ok(false);
        };
        let mut question = LinkMessage::default();
        question.header.index = index;
        let answer = match self.netlink.question(RouteNetlinkMessage::GetLink(question)).await {
            Ok(RouteNetlinkMessage::NewLink(link)) => link,
            Ok(other) => {
                let unexpected = io::Error::other(format!("unexpected answer {other:?}"));
                return Err(step(what(), unexpected));
            }
            Err(error) => {
                return ignore_absent(error)
                    .map(|()| false)
                    .map_err(|source| step(what(), source));
            }
        };
        if message::name_of(&answer) != name || !message::is_tun(&answer) {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "it is no TUN device");
            return Err(step(what(), reason));
        }
        let mut gone = LinkMessage::default();
        gone.header.index = index;
        self.netlink
            .slow_command(RouteNetlinkMessage::DelLink(gone))
            .await
            .or_else(ignore_absent)
            .map_err(|source| step(what(), source))?;
        Ok(true)
    }

    /// Takes off the host what `undo` says was put there and is there still, whoever put it: the rules and routes of the slot,
    /// as [`Network::sweep`] does, and the device if it is a TUN of that name with one of the plan's addresses. To be called
    /// by whoever holds the slot's lock.
    pub async fn undo(&self, undo: &Undo) -> Restored {
        let mut clearing = Clearing::default();
        let slot = Slot::new(undo.slot);
        if let Some(slot) = slot {
            self.clear_rules(slot, &mut clearing).await;
        } else {
            clearing.residue.push(format!("slot {}: no such slot", undo.slot));
        }
        match self.is_tunnel_of(undo).await {
            Ok(false) => {}
            Ok(true) => {
                let removed = self.remove_link(&undo.interface).await;
                clearing.note_error(format!("link {}", undo.interface), removed.map(|_| ()));
            }
            Err(error) => clearing.residue.push(format!("link {}: {error}", undo.interface)),
        }
        if let Some(slot) = slot {
            self.clear_table(slot, &mut clearing).await;
            clear_firewall(slot, &mut clearing).await;
        }
        clearing.into_restored()
    }

    /// Whether the device in the record is still there and still the same: another program may have taken the name since.
    async fn is_tunnel_of(&self, undo: &Undo) -> io::Result<bool> {
        let Ok(index) = index_of(&undo.interface) else {
            return Ok(false);
        };
        let addresses = self.addresses_of(index).await?;
        Ok(undo.plan.addresses.iter().any(|net| addresses.contains(&net.addr())))
    }

    async fn addresses_of(&self, index: u32) -> io::Result<Vec<IpAddr>> {
        let mut request = AddressMessage::default();
        request.header.index = index;
        self.netlink
            .list(RouteNetlinkMessage::GetAddress(request), |item| match item {
                RouteNetlinkMessage::NewAddress(address) if address.header.index == index => {
                    message::given_address(&address)
                }
                _ => None,
            })
            .await
    }

    /// Gives the gateway's device its addresses with their prefixes, and sets it up. The connected routes belong to the
    /// device alone and vanish with it.
    pub async fn apply_gateway(&self, tun_index: u32, addresses: &[IpNet], mtu: u16) -> Result<()> {
        self.set_mtu(tun_index, mtu).await?;
        self.no_automatic_addresses(tun_index).await;
        for net in addresses {
            self.add_address(tun_index, *net, true).await?;
        }
        self.set_link(tun_index, true, None).await?;
        self.wait_for_addresses(addresses).await;
        Ok(())
    }

    /// The networks that the interfaces of this host reach without a gateway, but for those of `exclude_index`, the
    /// loopback and link-local ones.
    pub async fn connected_networks(&self, exclude_index: Option<u32>) -> Result<Vec<ConnectedNetwork>> {
        let mut networks = Vec::new();
        for family in message::FAMILIES {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.attributes.push(RouteAttribute::Table(message::MAIN_TABLE));
            let found = self
                .routes(request, |route| {
                    let index = message::interface_of(&route)?;
                    let wanted = message::table_of(&route) == message::MAIN_TABLE
                        && message::is_connected(&route)
                        && Some(index) != exclude_index;
                    wanted.then(|| message::net_of(&route).map(|net| (index, net)))?
                })
                .await
                .map_err(|source| step("list the routes of this host", source))?;
            networks.extend(found.into_iter().map(|(index, net)| ConnectedNetwork {
                interface: name_or_index(index),
                net,
            }));
        }
        networks.retain(|network| network.interface != "lo");
        networks.sort();
        networks.dedup();
        Ok(networks)
    }

    /// The routes that other tunnels on this host put into their tables, so that a message can name them.
    pub async fn other_tunnel_routes(&self, slot: &Slot) -> Result<Vec<(Slot, IpNet)>> {
        let mut routes = Vec::new();
        for family in message::FAMILIES {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.protocol = RouteProtocol::Other(PROTOCOL);
            let found = self
                .routes(request, |route| {
                    let owner = Slot::of_table(message::table_of(&route))?;
                    let theirs = owner != *slot && route.header.protocol == RouteProtocol::Other(PROTOCOL);
                    theirs.then(|| message::net_of(&route).map(|net| (owner, net)))?
                })
                .await
                .map_err(|source| step("list the routes of other tunnels", source))?;
            routes.extend(found);
        }
        Ok(routes)
    }

    /// Rules of others that come before those of this slot for default routes, and lead everything elsewhere: of the families in
    /// which `plan` takes everything. Whoever made them wins, and is not fought.
    pub async fn rivals(&self, slot: &Slot, plan: &NetworkPlan) -> Result<Vec<String>> {
        tables::rivals(&self.netlink, *slot, plan)
            .await
            .map_err(|source| step("list the rules of this host", source))
    }

    /// Where the kernel would send a packet to `to`, from a socket with this mark.
    pub async fn path_to(&self, to: IpAddr, mark: Option<u32>) -> Result<Path> {
        let mut request = message::route_lookup(to);
        if let Some(mark) = mark {
            request.attributes.push(RouteAttribute::Mark(mark));
        }
        let answer = self.netlink.question(RouteNetlinkMessage::GetRoute(request)).await;
        match answer.map_err(|source| step(format!("find the route to {to}"), source))? {
            RouteNetlinkMessage::NewRoute(route) => Ok(Path {
                interface: message::interface_of(&route).map_or_else(|| "none".to_owned(), name_or_index),
                table: message::table_of(&route),
                source: message::source_of(&route),
                gateway: message::gateway_of(&route),
            }),
            other => Err(step(
                format!("find the route to {to}"),
                io::Error::other(format!("unexpected answer {other:?}")),
            )),
        }
    }

    /// Links, addresses, routes of all tables and rules of this host, for comparing before and after.
    pub async fn snapshot(&self) -> Result<HostState> {
        state::snapshot(&self.netlink)
            .await
            .map_err(|source| step("list the network state of this host", source))
    }

    // Steps.

    /// Before any address: below 1280 bytes a device has no IPv6 at all (RFC 8200 section 5).
    async fn set_mtu(&self, index: u32, mtu: u16) -> Result<()> {
        let link = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).build();
        let what = format!("set the MTU of {} to {mtu}", name_or_index(index));
        self.change_link(link, what).await
    }

    /// What this host's TCP hands the device at once is to go as one batch of datagrams: 48 packets of a read would need two, and the
    /// second of three (measured: a fifth more of the processor's time for each byte, a third with four connections). A kernel that
    /// does not take this (before 5.19 it is not settable) hands over as many as before.
    async fn read_one_batch(&self, index: u32, mtu: u16) {
        let packets = SEGMENTS_MAX.min(BYTES_MAX / (usize::from(mtu) + AROUND_A_PACKET));
        let link = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(packets as u32))
            .build();
        if let Err(error) = self.netlink.command(RouteNetlinkMessage::NewLink(link), 0).await {
            tracing::debug!(index, %error, "the device hands over more than one batch at once");
        }
    }

    /// Without IPv6 there is nothing to switch off, so a refusal is no error.
    async fn no_automatic_addresses(&self, index: u32) {
        let mode = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])];
        let link = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(mode))
            .build();
        if let Err(error) = self.netlink.command(RouteNetlinkMessage::NewLink(link), 0).await {
            tracing::debug!(index, %error, "automatic IPv6 addresses stay on");
        }
    }

    async fn add_address(&self, index: u32, net: IpNet, prefix_route: bool) -> Result<()> {
        let message = message::address(index, net, prefix_route);
        self.netlink
            .command(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .await
            .map_err(|source| {
                let source = if net.addr().is_ipv6() && !ipv6_available() {
                    io::Error::other("IPv6 is switched off on this host (sysctl net.ipv6.conf.default.disable_ipv6)")
                } else {
                    source
                };
                step(format!("add address {net} to {}", name_or_index(index)), source)
            })
    }

    async fn remove_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        let message = message::address(index, net, false);
        self.netlink.command(RouteNetlinkMessage::DelAddress(message), 0).await
    }

    /// Waits until programs can use the addresses. An address that takes too long is none of our doing.
    async fn wait_for_addresses(&self, addresses: &[IpNet]) {
        for net in addresses {
            if !self.netlink.wait_for_address(net.addr(), ADDRESS_WITHIN).await {
                tracing::debug!(address = %net.addr(), "the address cannot be used yet");
            }
        }
    }

    async fn change_link(&self, link: LinkMessage, what: String) -> Result<()> {
        self.netlink
            .command(RouteNetlinkMessage::NewLink(link), 0)
            .await
            .map_err(|source| step(what, source))
    }

    async fn add_routes(&self, slot: Slot, tun_index: u32, routes: &[plan::Route], flags: u16) -> Result<()> {
        let messages = routes
            .iter()
            .map(|route| RouteNetlinkMessage::NewRoute(message::route(slot, tun_index, route)))
            .collect();
        self.netlink
            .commands(messages, NLM_F_CREATE | flags)
            .await
            .map_err(|(failed, source)| {
                let net = routes
                    .get(failed)
                    .map_or_else(String::new, |route| route.net.to_string());
                step(format!("add route {net} to table {}", slot.table()), source)
            })
    }

    async fn add_rule(&self, rule: RuleMessage) -> Result<()> {
        let words = message::rule_in_words(&rule);
        self.netlink
            .command(RouteNetlinkMessage::NewRule(rule), NLM_F_CREATE | NLM_F_EXCL)
            .await
            .map_err(|source| step(format!("add {words}"), source))
    }

    // Clearing.

    async fn clear_rules(&self, slot: Slot, clearing: &mut Clearing) {
        for family in message::FAMILIES {
            let mut request = RuleMessage::default();
            request.header.family = family;
            let rules = self
                .netlink
                .list(RouteNetlinkMessage::GetRule(request), |item| match item {
                    RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => Some(rule),
                    _ => None,
                })
                .await;
            let rules = clearing.found(rules, || format!("rules of slot {slot}"));
            for rule in rules {
                if message::is_ours(&rule) && slot.has_priority(message::priority_of(&rule)) {
                    let words = message::rule_in_words(&rule);
                    let removed = self.netlink.command(RouteNetlinkMessage::DelRule(rule), 0).await;
                    clearing.note(words, removed.or_else(ignore_absent));
                }
            }
        }
    }

    async fn clear_table(&self, slot: Slot, clearing: &mut Clearing) {
        for family in message::FAMILIES {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.attributes.push(RouteAttribute::Table(slot.table()));
            let routes = self
                .routes(request, |route| {
                    let of_table = message::table_of(&route) == slot.table() && route.header.address_family == family;
                    (of_table && route.header.protocol == RouteProtocol::Other(PROTOCOL)).then_some(route)
                })
                .await;
            for route in clearing.found(routes, || format!("routes of table {}", slot.table())) {
                let words = message::route_in_words(&route, &name_or_index);
                let identity = message::route_identity(&route);
                let removed = self.netlink.command(RouteNetlinkMessage::DelRoute(identity), 0).await;
                clearing.note(words, removed.or_else(ignore_absent));
            }
        }
    }

    async fn routes<T>(
        &self,
        request: RouteMessage,
        mut keep: impl FnMut(RouteMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.netlink
            .list(RouteNetlinkMessage::GetRoute(request), |item| match item {
                RouteNetlinkMessage::NewRoute(route) if !route.header.flags.contains(RouteFlags::Cloned) => keep(route),
                _ => None,
            })
            .await
    }
}

/// What clearing did and could not do.
#[derive(Default)]
struct Clearing {
    removed: Vec<String>,
    residue: Vec<String>,
}

impl Clearing {
    fn found<T>(&mut self, listed: io::Result<Vec<T>>, what: impl FnOnce() -> String) -> Vec<T> {
        listed.unwrap_or_else(|error| {
            self.residue.push(format!("{}: {error}", what()));
            Vec::new()
        })
    }

    fn note(&mut self, what: String, result: io::Result<()>) {
        match result {
            Ok(()) => self.removed.push(what),
            Err(error) => self.residue.push(format!("{what}: {error}")),
        }
    }

    fn note_error(&mut self, what: String, result: Result<()>) {
        match result {
            Ok(()) => self.removed.push(what),
            Err(error) => self.residue.push(format!("{what}: {error}")),
        }
    }

    fn into_restored(self) -> Restored {
        Restored::new(self.removed, self.residue)
    }
}

/// What is to be removed and is not there is removed.
fn ignore_absent(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        // ENXIO: no IPv6 left on the device.
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL | libc::ENXIO) => Ok(()),
        _ => Err(error),
    }
}

fn step(step: impl Into<String>, source: io::Error) -> PlatformError {
    let step = step.into();
    if source.raw_os_error() == Some(libc::EPERM) {
        return PlatformError::NotPermitted {
            what: step,
            hint: NET_ADMIN_HINT.to_owned(),
        };
    }
    PlatformError::Network { step, source }
}

/// The index of an interface in the network namespace of this thread.
pub(super) fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a valid C string for the duration of the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn name_or_index(index: u32) -> String {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return format!("#{index}");
    }
    let bytes: Vec<u8> = name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
