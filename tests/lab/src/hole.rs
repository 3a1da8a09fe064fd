//! Packets that vanish: tables of nftables on a host that forwards or receives them, gone when dropped.
//!
//! ```text
//!   Hole::dig             whatever is told             one at a time on a host
//!   Hole::for_udp         the UDP of one address       \
//!   Hole::for_large_udp   a path MTU without a word     >  on the internet, beside each other if wanted
//!   Hole::for_some_udp    a share by chance            /
//! ```

use std::net::IpAddr;

use anyhow::{Result, ensure};
use platform::netns::Namespace;

use crate::{Lab, PATIENCE};

/// A host that swallows something.
#[derive(Debug)]
pub struct Hole<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    table: &'static str,
}

impl<'a> Hole<'a> {
    /// From now on `host` drops what it forwards or receives and `matches`, in the words of nft(8), such as
    /// `ip daddr 198.51.100.1`. One at a time on a host.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn dig(lab: &'a Lab, host: &'a Namespace, matches: &[String]) -> Result<Self> {
        Self::dig_as("hole", lab, host, matches)
    }

    /// From now on the internet drops all UDP from and to `address`, as a firewall does that lets only TCP through.
    ///
    /// # Errors
    /// If nft refuses, for example because the last one is still there.
    pub fn for_udp(lab: &'a Lab, address: impl Into<IpAddr>) -> Result<Self> {
        let address = address.into();
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let ends = ["saddr", "daddr"];
        let rules = ends.map(|end| format!("{family} {end} {address} meta l4proto udp"));
        Self::dig_as("hole_udp", lab, lab.internet(), &rules)
    }

    /// From now on the internet drops UDP packets of both families of more than `bytes`, IP header included, and tells nobody:
    /// a path MTU that no ICMP message reports. TCP passes, as through the routers that lower its segment size.
    ///
    /// # Errors
    /// As [`Hole::for_udp`].
    pub fn for_large_udp(lab: &'a Lab, bytes: u16) -> Result<Self> {
        let rule = format!("meta l4proto udp meta length > {bytes}");
        Self::dig_as("hole_large", lab, lab.internet(), &[rule])
    }

    /// From now on the internet drops this share of all UDP packets by chance, each way.
    ///
    /// # Errors
    /// As [`Hole::for_udp`].
    pub fn for_some_udp(lab: &'a Lab, permille: u16) -> Result<Self> {
        let rule = format!("meta l4proto udp numgen random mod 1000 < {permille}");
        Self::dig_as("hole_some", lab, lab.internet(), &[rule])
    }

    fn dig_as(table: &'static str, lab: &'a Lab, host: &'a Namespace, matches: &[String]) -> Result<Self> {
        // A second `table` would add to the first; `create` refuses.
        let mut script = format!("create table inet {table}\ntable inet {table} {{\n");
        for hook in ["forward", "input"] {
            script.push_str(&format!("chain {hook} {{ type filter hook {hook} priority 0;\n"));
            for rule in matches {
                script.push_str(&format!("{rule} drop\n"));
            }
            script.push_str("}\n");
        }
        script.push_str("}\n");
        nft(lab, host, &script)?;
        Ok(Self { lab, host, table })
    }
}

impl Drop for Hole<'_> {
    fn drop(&mut self) {
        if let Err(e) = nft(self.lab, self.host, &format!("delete table inet {}\n", self.table)) {
            eprintln!("{e:#}");
        }
    }
}

/// Has nft(8) carry out a script on `host`.
pub(crate) fn nft(lab: &Lab, host: &Namespace, script: &str) -> Result<()> {
    let mut command = lab.command(host, "nft")?;
    command.args(["-f", "-"]);
    let status = lab.spawn_with_input("nft", command, script)?.wait_exit(PATIENCE)?;
    ensure!(status.success(), "nft ended with {status}");
    Ok(())
}
