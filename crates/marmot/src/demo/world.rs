//! Four hosts on one machine, each a network namespace, with cables between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use platform::netns::{Namespace, unshare_process};
use platform::tun::{Tun, TunOptions};

/// The client on its home network (TEST-NET-1, RFC 5737).
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The gateway on the internet (TEST-NET-2).
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const GATEWAY_ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The private network behind the gateway.
pub(crate) const LAN_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 20, 0, 0), 24);
pub(crate) const LAN_NET_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 0), 64);
const GATEWAY_ON_LAN: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const GATEWAY_ON_LAN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1);

/// The host on the LAN.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2);

/// The four hosts. They are gone when this and the processes in them are.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) client: Namespace,
    pub(crate) internet: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) lan: Namespace,
}

impl World {
    /// Leaves the host's network and builds the four hosts. To be called while the process has a single thread.
    ///
    /// ```text
    ///   client                  internet                        gateway                 LAN host
    ///   wan 192.0.2.2 -- 192.0.2.1 home|cloud 198.51.100.1 -- 198.51.100.2 wan|lan 10.20.0.1 -- 10.20.0.2 eth
    /// ```
    pub(crate) fn build() -> Result<Self> {
        unshare_process(false)?;
        let world = Self {
            client: Namespace::create()?,
            internet: Namespace::create()?,
            gateway: Namespace::create()?,
            lan: Namespace::create()?,
        };
        world.lay_cables()?;
        world.set_routes()?;
        Ok(world)
    }

    /// Builds the four hosts and a TUN device, to find out whether that is permitted.
    pub(crate) fn probe() -> Result<()> {
        let world = Self::build()?;
        world.client.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let _guard = runtime.enter();
            let options = TunOptions {
                name: "probe".into(),
                mtu: 1400,
                offloads: false,
            };
            Tun::create(&options)?;
            Ok(())
        })?
    }

    fn lay_cables(&self) -> Result<()> {
        cable((&self.client, "wan", CLIENT), (&self.internet, "home", CLIENT_ROUTER))?;
        cable(
            (&self.internet, "cloud", GATEWAY_ROUTER),
            (&self.gateway, "wan", GATEWAY),
        )?;
        cable((&self.gateway, "lan", GATEWAY_ON_LAN), (&self.lan, "eth", HOST))?;
        if platform::network::ipv6_available() {
            self.gateway.address("lan", net(GATEWAY_ON_LAN_V6, 64))?;
            self.lan.address("eth", net(HOST_V6, 64))?;
        }
        Ok(())
    }

    fn set_routes(&self) -> Result<()> {
        self.internet.forwarding(true)?;
        self.gateway.forwarding(true)?;
        self.client.default_route(CLIENT_ROUTER.into())?;
        self.gateway.default_route(GATEWAY_ROUTER.into())?;
        self.lan.default_route(GATEWAY_ON_LAN.into())?;
        if platform::network::ipv6_available() {
            self.lan.default_route(GATEWAY_ON_LAN_V6.into())?;
        }
        Ok(())
    }
}

/// Opens a listening socket inside a namespace.
pub(crate) fn listen(namespace: &Namespace, address: SocketAddr) -> Result<TcpListener> {
    namespace
        .run(|| TcpListener::bind(address))?
        .with_context(|| format!("cannot listen on {address}"))
}

fn cable(near: (&Namespace, &str, Ipv4Addr), far: (&Namespace, &str, Ipv4Addr)) -> Result<()> {
    near.0.veth(far.0, near.1, far.1)?;
    for (namespace, interface, address) in [near, far] {
        namespace.address(interface, net(address, 24))?;
        namespace.up(interface)?;
    }
    Ok(())
}

fn net(address: impl Into<IpAddr>, prefix: u8) -> IpNet {
    IpNet::new_assert(address.into(), prefix)
}
