//! A second way out of the client's host, and what happens to ways out.
//!
//! ```text
//!   client  eth0 192.0.2.2     ---- .1  internet      the first one, metric 100
//!           eth1 198.18.250.2  ---- .1  internet      the second one, metric 200
//! ```

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;

use crate::topology::{net, wire};
use crate::{Lab, PATIENCE, until};

/// The name of the second cable at the router.
pub const UPLINK: &str = "uplink";

/// One of the two ways out of the client's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// By `eth0`, which is there from the beginning.
    First,
    /// By `eth1`.
    Second,
}

/// The client's host with two ways out.
#[derive(Clone, Copy, Debug)]
pub struct Uplinks<'a> {
    lab: &'a Lab,
}

impl Uplink {
    /// The interface of the client's host.
    pub fn device(self) -> &'static str {
        match self {
            Self::First => "eth0",
            Self::Second => "eth1",
        }
    }

    /// The client's address on it.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::First => Ipv4Addr::new(192, 0, 2, 2),
            Self::Second => Ipv4Addr::new(198, 18, 250, 2),
        }
    }

    fn router(self) -> Ipv4Addr {
        let [a, b, c, _] = self.address().octets();
        Ipv4Addr::new(a, b, c, 1)
    }

    fn metric(self) -> &'static str {
        match self {
            Self::First => "100",
            Self::Second => "200",
        }
    }
}

impl<'a> Uplinks<'a> {
    /// Lays the second cable. The first way out stays the better one.
    ///
    /// # Errors
    /// If it cannot be laid.
    pub fn lay(lab: &'a Lab) -> Result<Self> {
        let (router, client) = (Uplink::Second.router(), Uplink::Second.address());
        let (router, address) = (net(router, 24), net(client, 24));
        wire(
            lab.internet(),
            UPLINK,
            &[router],
            lab.client(),
            Uplink::Second.device(),
            &[address],
        )?;
        let this = Self { lab };
        this.lead(Uplink::Second)?;
        this.lead(Uplink::First)?;
        this.ip(&["route", "delete", "default", "via", "192.0.2.1", "metric", "0"])?;
        Ok(this)
    }

    /// The client's host.
    pub fn host(&self) -> &Namespace {
        self.lab.client()
    }

    /// Everything goes by the second way from now on, which is better than the first.
    ///
    /// # Errors
    /// If the route cannot be added.
    pub fn prefer_second(&self) -> Result<()> {
        let router = Uplink::Second.router().to_string();
        self.ip(&["route", "add", "default", "via", &router, "metric", "50"])
    }

    /// And by the first one again.
    ///
    /// # Errors
    /// If it was not preferred.
    pub fn prefer_first(&self) -> Result<()> {
        self.ip(&["route", "delete", "default", "metric", "50"])
    }

    /// Takes the address of a way out off, as at the end of a lease.
    ///
    /// # Errors
    /// If it has none.
    pub fn take_address(&self, uplink: Uplink) -> Result<()> {
        let address = format!("{}/24", uplink.address());
        self.ip(&["address", "delete", &address, "dev", uplink.device()])
    }

    /// Gives it back, and the default route that went with it.
    ///
    /// # Errors
    /// If it cannot be added.
    pub fn give_address(&self, uplink: Uplink) -> Result<()> {
        self.host().address(uplink.device(), net(uplink.address(), 24))?;
        self.lead(uplink)
    }

    /// Pulls the cable of a way out.
    ///
    /// # Errors
    /// If there is none.
    pub fn pull(&self, uplink: Uplink) -> Result<()> {
        Ok(self.host().down(uplink.device())?)
    }

    /// Plugs it in again, and adds the default route that went with it once the kernel has noticed (which takes it up to a second, in which the
    /// interface swallows what is sent): so does a network manager. Returns when it was added.
    ///
    /// # Errors
    /// If there is none.
    pub fn plug(&self, uplink: Uplink) -> Result<Instant> {
        self.host().up(uplink.device())?;
        until("a carrier", PATIENCE, || {
            let mut command = self.lab.command(self.host(), "ip")?;
            let output = command.args(["-o", "link", "show", "dev", uplink.device()]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).contains("state UP"))
        })?;
        let at = Instant::now();
        self.lead(uplink)?;
        Ok(at)
    }

    /// No way out by it any more, and nothing else changes.
    ///
    /// # Errors
    /// If there is none.
    pub fn mislead(&self, uplink: Uplink) -> Result<()> {
        self.ip(&["route", "delete", "default", "metric", uplink.metric()])
    }

    /// The default route by it.
    ///
    /// # Errors
    /// If it cannot be added.
    pub fn lead(&self, uplink: Uplink) -> Result<()> {
        let (router, device, metric) = (uplink.router().to_string(), uplink.device(), uplink.metric());
        self.ip(&[
            "route", "add", "default", "via", &router, "dev", device, "metric", metric,
        ])
    }

    /// Runs `ip` on the client's host.
    ///
    /// # Errors
    /// If it fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let output = self
            .lab
            .command(self.host(), "ip")?
            .args(arguments)
            .output()
            .context("run ip")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {}: {said}", arguments.join(" "));
        Ok(())
    }
}
