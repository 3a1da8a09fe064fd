//! A router that translates addresses, as between most clients and the internet; and that forgets, as they do.
//!
//! ```text
//!   client 192.0.2.2:p  ---->  internet  ---->  198.51.100.254:q  gateway of site A
//!                              TCP: any q, kept as long as the connection
//!                              UDP: q in 20000 + 100 g .. + 99 for generation g
//! ```
//! The host `internet` does it itself. Each generation of UDP flows is in a connection tracking zone of its own, so that a new
//! generation forgets all of the last one and no TCP connection; so is each of TCP. What comes to a forgotten UDP port is
//! dropped without a word; with TCP either is seen in the field, a reset too. IPv6 passes as it is.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::hole::nft;
use crate::{Lab, Site};

/// Generations: as many as there are ports above 20000 by the hundred, less a few.
const GENERATIONS: u16 = 400;

/// The zone of the first TCP connections that follow forgotten ones: behind those of UDP.
const TCP_ZONES: u16 = 1000;

/// What it does with segments of a TCP connection that it has forgotten, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetting {
    /// Nothing: they vanish.
    Silence,
    /// It answers with a reset.
    Reset,
}

/// The translation under way. It ends with the lab.
#[derive(Debug)]
pub struct Nat<'a> {
    lab: &'a Lab,
    generation: u16,
    address: Ipv4Addr,
    tcp_zone: u16,
    forgetting: Option<Forgetting>,
}

impl<'a> Nat<'a> {
    /// From now on the gateway of the first site sees one address of the internet instead of the client's. To be called
    /// before anything is connected; once.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        let mut nat = Self {
            lab,
            generation: 0,
            address: router(lab.site(), 254),
            tcp_zone: 0,
            forgetting: None,
        };
        nat.next_generation()?;
        Ok(nat)
    }

    /// The client's public address for UDP.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Forgets all UDP flows, as after a pause that was too long: the next packet of the client comes from another port, and
    /// what is sent to the last one is lost. TCP connections stay.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn rebind(&mut self) -> Result<()> {
        self.next_generation()
    }

    /// The same, and UDP comes from another address too, as after a change of the provider.
    ///
    /// # Errors
    /// If nft refuses, or the second time: there is one other address.
    pub fn renumber(&mut self) -> Result<()> {
        let other = router(self.lab.site(), 253);
        ensure!(self.address != other, "it has the other address already");
        self.lab
            .internet()
            .address(self.lab.site().plan.name(), format!("{other}/32").parse()?)?;
        self.address = other;
        self.next_generation()
    }

    /// Forgets all TCP connections now. To be called once packets have passed that are to be forgotten.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn forget_tcp(&mut self, forgetting: Forgetting) -> Result<()> {
        self.tcp_zone = self.tcp_zone.max(TCP_ZONES) + 1;
        self.remember_begun(forgetting)
    }

    /// From now on it forgets a TCP connection that was silent for this long, in whole seconds.
    ///
    /// # Errors
    /// If the kernel or nft refuse.
    pub fn tcp_timeout(&mut self, after: Duration, forgetting: Forgetting) -> Result<()> {
        self.set("nf_conntrack_tcp_timeout_established", &after.as_secs().to_string())?;
        self.remember_begun(forgetting)
    }

    /// Only a connection whose beginning was seen is translated.
    fn remember_begun(&mut self, forgetting: Forgetting) -> Result<()> {
        self.set("nf_conntrack_tcp_loose", "0")?;
        self.forgetting = Some(forgetting);
        self.apply()
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let set = self.lab.internet().run(|| fs::write(&path, value))?;
        set.with_context(|| format!("cannot set {name}"))
    }

    fn next_generation(&mut self) -> Result<()> {
        self.generation += 1;
        ensure!(self.generation <= GENERATIONS, "no ports are left");
        self.apply()
    }

    fn apply(&self) -> Result<()> {
        let first = 20_000 + 100 * self.generation;
        let (generation, last, address) = (self.generation, first + 99, self.address);
        let out = format!("oifname {} ip saddr 192.0.2.0/24", self.lab.site().plan.name());
        let back = format!("iifname {} ip daddr {address}", self.lab.site().plan.name());
        let tcp_zone = match self.tcp_zone {
            0 => String::new(),
            zone => format!("meta l4proto tcp ct zone set {zone};"),
        };
        let tcp = match self.forgetting {
            None => String::new(),
            Some(forgetting) => {
                let verdict = match forgetting {
                    Forgetting::Silence => "drop",
                    Forgetting::Reset => "reject with tcp reset",
                };
                format!(
                    "chain leaving {{ type filter hook forward priority 0; {out} meta l4proto tcp ct state invalid {verdict}; }}
chain coming {{ type filter hook input priority 0; {back} meta l4proto tcp {verdict}; }}
"
                )
            }
        };
        // The chains stay, so that TCP notices nothing; their rules are replaced in one step.
        let script = format!(
            "table ip translation {{ }}
flush table ip translation
table ip translation {{
chain zones {{ type filter hook prerouting priority -300; meta l4proto udp ct zone set {generation}; {tcp_zone} }}
chain sources {{ type nat hook postrouting priority 100;
{out} meta l4proto udp snat to {address}:{first}-{last}
{out} masquerade
}}
chain strays {{ type filter hook input priority 0; {back} meta l4proto udp drop; }}
{tcp}}}
"
        );
        nft(self.lab, self.lab.internet(), &script)
    }
}

/// An address of the internet on the network of the site's gateway.
fn router(site: &Site, host: u8) -> Ipv4Addr {
    let [a, b, c, _] = site.plan.gateway_v4().octets();
    Ipv4Addr::new(a, b, c, host)
}
