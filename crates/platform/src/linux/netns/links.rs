//! Cables, addresses and routes of a namespace, spoken in netlink by a helper thread inside it.

use std::fs;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::super::network::netlink::Netlink;
use super::super::network::{index_of, message};
use super::{Namespace, Result};
use crate::PlatformError;
use crate::network::{HostState, Network};

/// Linux delays reports of a plugged cable by up to a second (LW_RSEC in net/core/link_watch.c).
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

impl Namespace {
    /// Lays a cable from here to `peer`: a pair of interfaces, both down.
    pub fn veth(&self, peer: &Self, name: &str, peer_name: &str) -> Result<()> {
        let mut far = LinkMessage::default();
        far.attributes.push(LinkAttribute::IfName(peer_name.to_owned()));
        far.attributes.push(LinkAttribute::NetNsFd(peer.descriptor.as_raw_fd()));
        let pair = LinkVeth::new(name, peer_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        self.speak(format!("lay the cable {name} to {peer_name}"), |netlink| async move {
            netlink
                .command(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL)
                .await
        })
    }

    /// Adds an address with its connected route, usable at once (no duplicate address detection).
    pub fn address(&self, interface: &str, net: IpNet) -> Result<()> {
        self.speak_of(
            interface,
            format!("add address {net} to {interface}"),
            move |netlink, index| async move {
                let address = message::address(index, net, true);
                netlink
                    .command(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_EXCL)
                    .await
            },
        )
    }

    /// Sets an interface up.
    pub fn up(&self, interface: &str) -> Result<()> {
        self.change(interface, format!("set {interface} up"), |index| {
            LinkUnspec::new_with_index(index).up().build()
        })
    }

    /// Sets an interface down: pulls the cable.
    pub fn down(&self, interface: &str) -> Result<()> {
        self.change(interface, format!("set {interface} down"), |index| {
            LinkUnspec::new_with_index(index).down().build()
        })
    }

    /// Sets the MTU of an interface, in bytes.
    pub fn set_mtu(&self, interface: &str, mtu: u16) -> Result<()> {
        self.change(
            interface,
            format!("set the MTU of {interface} to {mtu}"),
            move |index| LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).build(),
        )
    }

    /// Removes an interface, whoever holds it.
    pub fn delete(&self, interface: &str) -> Result<()> {
        self.speak_of(interface, format!("remove {interface}"), |netlink, index| async move {
            let link = LinkUnspec::new_with_index(index).build();
            netlink.command(RouteNetlinkMessage::DelLink(link), 0).await
        })
    }

    /// Adds a route to the main table: by way of the next hop `via`, out of `interface`, or both.
    pub fn route(&self, net: IpNet, via: Option<IpAddr>, interface: Option<&str>) -> Result<()> {
        let mut route = message::route_to(net, None);
        route.header.kind = RouteType::Unicast;
        route.header.protocol = RouteProtocol::Static;
        match via {
            Some(gateway) => route.attributes.push(RouteAttribute::Gateway(gateway.into())),
            None if net.addr().is_ipv4() => route.header.scope = RouteScope::Link,
            None => {}
        }
        let what = format!("add route {net}");
        let interface = interface.map(str::to_owned);
        self.speak(what, move |netlink| async move {
            if let Some(interface) = interface {
                let index = index_of(&interface)?;
                route.attributes.push(RouteAttribute::Oif(index));
            }
            netlink
                .command(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
                .await
        })
    }

    /// Adds the default route of `via`'s family.
    pub fn default_route(&self, via: IpAddr) -> Result<()> {
        let everything = IpNet::new_assert(
            match via {
                IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            },
            0,
        );
        self.route(everything, Some(via), None)
    }

    /// Makes this host a router for IPv4 and IPv6, or stops that. A new namespace does not inherit the host's setting.
    pub fn forwarding(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.run(|| {
            for path in [
                "/proc/sys/net/ipv4/ip_forward",
                "/proc/sys/net/ipv6/conf/all/forwarding",
            ] {
                match fs::write(path, value) {
                    // A kernel without IPv6.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result.map_err(|source| PlatformError::io(format!("write {path}"), source))?,
                }
            }
            Ok(())
        })?
    }

    /// Waits until all addresses that were given with [`Namespace::address`] can be used. IPv6 addresses need both ends of
    /// their cable up, and a moment after that.
    pub fn settle(&self) -> Result<()> {
        self.speak("wait for the addresses of a namespace".into(), |netlink| async move {
            let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            let given = netlink
                .list(all, |item| match item {
                    RouteNetlinkMessage::NewAddress(address) => message::given_address(&address),
                    _ => None,
                })
                .await?;
            for address in given {
                if !netlink.wait_for_address(address, SETTLED_WITHIN).await {
                    let text = format!("{address} cannot be used; is its interface up, and the other end?");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
            Ok(())
        })
    }

    /// Saves a test the second in which IPv6 looks for duplicates of its link-local addresses. Without IPv6, or where
    /// sysctls are not writable, all stays as it is.
    pub(super) fn without_address_detection(&self) -> Result<()> {
        self.run(|| {
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        })
    }

    /// The state of this host, for comparing before and after.
    pub fn snapshot(&self) -> Result<HostState> {
        self.block_on("list the network state of a namespace", || async {
            Network::open().await?.snapshot().await
        })?
    }

    fn change(&self, interface: &str, what: String, link: impl FnOnce(u32) -> LinkMessage + Send) -> Result<()> {
        self.speak_of(interface, what, move |netlink, index| async move {
            netlink.command(RouteNetlinkMessage::NewLink(link(index)), 0).await
        })
    }

    fn speak_of<F>(&self, interface: &str, what: String, talk: impl FnOnce(Netlink, u32) -> F + Send) -> Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        let interface = interface.to_owned();
        self.speak(what, move |netlink| async move {
            let index = index_of(&interface)?;
            talk(netlink, index).await
        })
    }

    fn speak<F>(&self, what: String, talk: impl FnOnce(Netlink) -> F + Send) -> Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        let outcome = self.block_on(&what, || async { talk(Netlink::open()?).await })?;
        outcome.map_err(|source| PlatformError::Network { step: what, source })
    }

    /// Runs a future inside, on a runtime of its own.
    pub(crate) fn block_on<F, T>(&self, what: &str, future: impl FnOnce() -> F + Send) -> Result<T>
    where
        F: Future<Output = T>,
        T: Send,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(future()))
        })?
        .map_err(|source: io::Error| PlatformError::io(what, source))
    }
}
