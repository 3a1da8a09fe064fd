//! The lab for measurements: nothing between client and gateway but a cable, as nothing else is to be measured.
//!
//! ```text
//!   client ------------------ site A: gateway ------- lan
//!   198.51.100.2         198.51.100.1   10.77.0.1   10.77.0.10
//!   2001:db8:2::2      2001:db8:2::1   fd00:77::1   fd00:77::10      pool 10.78.0.0/24, fd00:78::/64
//! ```

use anyhow::Result;

use super::{Lab, SITE_A, cable, host, net, with_lan};

impl Lab {
    /// Builds them. What the cables carry is up to the measurement: by itself a veth device hands super-packets over whole.
    pub(crate) fn direct(name: &str) -> Result<Self> {
        let (client, gateway, plan) = (host()?, host()?, SITE_A);
        let here = [net(plan.wan_host_v4(2), 24), net(plan.wan_host_v6(2), 64)];
        let there = [net(plan.gateway_v4(), 24), net(plan.gateway_v6(), 64)];
        cable(&client, "eth0", &here, &gateway, "wan", &there)?;
        let site = with_lan(gateway, plan)?;
        Self::of(name, client, host()?, site)
    }
}
