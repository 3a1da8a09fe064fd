//! The hosts and cables of a test.
//!
//! ```text
//!   client ------- internet ------- site A: gateway ------- lan
//!   192.0.2.2   .1          .254    198.51.100.1   10.77.0.1   10.77.0.10
//!   2001:db8:1::2  ::1   2:: fe     2001:db8:2::1  fd00:77::1  fd00:77::10      pool 10.78.0.0/24, fd00:78::/64
//!                      \
//!                       ----------- site B: the same with 203.0.113.1, 2001:db8:3::1, 87 and 88   (on demand)
//! ```
//! Hosts reach each other only through `internet`; nothing leads to a LAN but the tunnel. For measurements there is another
//! one, without a router in between: see `direct`.

mod direct;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use platform::netns::{ChildView, Namespace};
use tempfile::TempDir;

use crate::marmot::PASSWORD;
use crate::peer::COOKIE;
use crate::process::{Log, Mark, Process};
use crate::{PATIENCE, Pki, harness, host, until};

/// Most lines of a program's output that a failure shows; the end tells the story.
const REPORT_LINES: usize = 80;

/// Everything a test stands on. Gone, with its programs, when dropped.
#[derive(Debug)]
pub struct Lab {
    test: String,
    folder: TempDir,
    pki: Pki,
    client: Namespace,
    internet: Namespace,
    site: Site,
    logs: Mutex<Vec<(String, Arc<Log>)>>,
}

/// A gateway's host and the LAN behind it.
#[derive(Debug)]
pub struct Site {
    /// The gateway's host, forwarding between `wan` and `lan`.
    pub gateway: Namespace,
    /// A host of the LAN, whose default route is the gateway.
    pub lan: Namespace,
    /// Addresses.
    pub plan: SitePlan,
}

/// Addresses of a [`Site`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SitePlan {
    wan: u8,
    wan_v4: [u8; 3],
    lan: u8,
}

/// The first site.
pub const SITE_A: SitePlan = SitePlan {
    wan: 2,
    wan_v4: [198, 51, 100],
    lan: 0x77,
};

/// Another one, with nothing in common.
pub const SITE_B: SitePlan = SitePlan {
    wan: 3,
    wan_v4: [203, 0, 113],
    lan: 0x87,
};

/// The name in every good server certificate.
pub const GATEWAY_NAME: &str = "gw.test";

impl SitePlan {
    /// A short name.
    pub fn name(self) -> &'static str {
        if self == SITE_A { "site-a" } else { "site-b" }
    }

    /// The gateway's public address.
    pub const fn gateway_v4(self) -> Ipv4Addr {
        self.wan_host_v4(1)
    }

    /// The gateway's public IPv6 address.
    pub const fn gateway_v6(self) -> Ipv6Addr {
        self.wan_host_v6(1)
    }

    /// The network behind the gateway.
    pub fn lan_v4(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, self.decimal(0), 0, 0), 24)
    }

    /// The IPv6 network behind the gateway.
    pub fn lan_v6(self) -> Ipv6Net {
        Ipv6Net::new_assert(local_v6(self.lan, 0), 64)
    }

    /// The host in the LAN.
    pub fn host_v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.decimal(0), 0, 10)
    }

    /// The same host.
    pub fn host_v6(self) -> Ipv6Addr {
        local_v6(self.lan, 0x10)
    }

    /// Addresses for tunnels.
    pub fn pool_v4(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, self.decimal(1), 0, 0), 24)
    }

    /// IPv6 addresses for tunnels.
    pub fn pool_v6(self) -> Ipv6Net {
        Ipv6Net::new_assert(local_v6(self.lan + 1, 0), 64)
    }

    const fn wan_host_v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.wan_v4[0], self.wan_v4[1], self.wan_v4[2], host)
    }

    const fn wan_host_v6(self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.wan as u16, 0, 0, 0, 0, host)
    }

    /// 0x77 reads 77 in IPv4 too.
    const fn decimal(self, plus: u8) -> u8 {
        (self.lan >> 4) * 10 + (self.lan & 15) + plus
    }
}

const fn local_v6(net: u8, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, net as u16, 0, 0, 0, 0, 0, host)
}

impl Lab {
    /// Builds the hosts of one test.
    pub(crate) fn build(test: &str) -> Result<Self> {
        let internet = host()?;
        internet.forwarding(true)?;
        let client = attach_client(&internet, "client", 1)?;
        let site = attach_site(&internet, "site-a", SITE_A)?;
        Self::of(test, client, internet, site)
    }

    fn of(test: &str, client: Namespace, internet: Namespace, site: Site) -> Result<Self> {
        let mut folder = tempfile::Builder::new()
            .prefix("marmot-lab-")
            .tempdir()
            .context("cannot make a folder")?;
        folder.disable_cleanup(std::env::var_os("MARMOT_LAB").is_some_and(|value| value == "keep"));
        let pki = Pki::new(folder.path())?;
        fs::write(folder.path().join("resolv.conf"), "# a test's own\n").context("cannot write resolv.conf")?;
        Ok(Self {
            test: test.to_owned(),
            folder,
            pki,
            client,
            internet,
            site,
            logs: Mutex::default(),
        })
    }

    /// Where the test may write. Readable by this user only.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in [`Lab::folder`], written.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        crate::pki::write_private(&path, content)?;
        Ok(path)
    }

    /// Certificates.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Has the devices on the way from the client to the first gateway cut what TCP hands them, as real ones do: single packets on the cable, but
    /// none in the stack. As the lab begins, TCP itself makes single packets, which holds its own connections to some 0.7 Gbit/s; for measurements.
    ///
    /// # Errors
    /// If a device cannot be set so.
    pub fn cut_at_the_devices(&self) -> Result<()> {
        let devices = [
            (&self.client, "eth0"),
            (&self.internet, "client"),
            (&self.internet, "site-a"),
            (&self.site.gateway, "wan"),
        ];
        for (host, name) in devices {
            for cutting in ["tx-udp-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation"] {
                set(host, "ethtool", &["-K", name, cutting, "off"])?;
            }
            set(host, "ethtool", &["-K", name, "gro", "on"])?;
            set(host, "ip", &["link", "set", "dev", name, "gso_max_segs", "65535"])?;
        }
        Ok(())
    }

    /// The client's host.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The router between all of them.
    pub fn internet(&self) -> &Namespace {
        &self.internet
    }

    /// The first site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Adds the second site.
    ///
    /// # Errors
    /// If it cannot be built, for example because it has been.
    pub fn add_site(&self) -> Result<Site> {
        attach_site(&self.internet, "site-b", SITE_B)
    }

    /// Adds another host of a client, with 198.18.0.2 and 2001:db8:4::2.
    ///
    /// # Errors
    /// If it cannot be built, for example because it has been.
    pub fn add_client(&self) -> Result<Namespace> {
        attach_client(&self.internet, "client-b", 4)
    }

    /// Adds this many more hosts of clients, at most 250: 198.18.1.2, 198.18.2.2 and so on.
    ///
    /// # Errors
    /// If they cannot be built, for example because some have been.
    pub fn add_clients(&self, count: u8) -> Result<Vec<Namespace>> {
        let host = |n: u8| attach_client(&self.internet, &format!("client-{n}"), 4 + n);
        (1..=count).map(host).collect()
    }

    /// A command to be run inside `host`, which sees a resolv.conf of the test.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn command(&self, host: &Namespace, program: impl AsRef<Path>) -> Result<Command> {
        let view = ChildView {
            resolv_conf: Some(self.folder().join("resolv.conf")),
            fresh_sysfs: false,
        };
        let mut command = host.command_with(program.as_ref(), &view)?;
        command.env("PATH", host::search_path()).current_dir(self.folder());
        for inherited in [
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "LISTEN_PID",
            "CREDENTIALS_DIRECTORY",
            "MARMOT_LOG",
        ] {
            command.env_remove(inherited);
        }
        Ok(command)
    }

    /// Starts a command under a name of its own.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        self.spawn_with_input(name, command, "")
    }

    /// The same with this standard input.
    ///
    /// # Errors
    /// As there.
    pub fn spawn_with_input(&self, name: &str, command: Command, input: &str) -> Result<Process> {
        let process = Process::spawn(name, command, input, self.folder())?;
        self.logs().push((name.to_owned(), process.log()));
        Ok(process)
    }

    /// Prints a figure or remark after the tests.
    pub fn note(&self, text: &str) {
        harness::note(&self.test, text);
    }

    /// Says why this test cannot show what it is there for: an error where nothing may be skipped.
    ///
    /// # Errors
    /// With `MARMOT_LAB=required`.
    pub fn skip(&self, reason: &str) -> Result<()> {
        harness::skip(&self.test, reason)
    }

    /// The programs that said a secret.
    pub(crate) fn told_secrets(&self) -> Vec<String> {
        let secrets = [PASSWORD, COOKIE];
        let told = |log: &Log| {
            let output = log.output_since(Mark::default());
            secrets.iter().any(|secret| output.contains(secret))
        };
        let logs = self.logs();
        logs.iter()
            .filter(|(_, log)| told(log))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What all programs said last.
    pub(crate) fn report(&self) -> String {
        let mut report = String::new();
        for (name, log) in self.logs().iter() {
            let output = log.output_since(Mark::default());
            let lines: Vec<&str> = output.lines().collect();
            let skipped = lines.len().saturating_sub(REPORT_LINES);
            report.push_str(&format!("--- {name}, {} lines\n", lines.len()));
            for line in &lines[skipped..] {
                // Escape sequences and other dirt must not reach the terminal.
                report.extend(line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }));
                report.push('\n');
            }
        }
        report
    }

    fn logs(&self) -> std::sync::MutexGuard<'_, Vec<(String, Arc<Log>)>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network without duplicate address detection: it would keep IPv6 from working for the first two seconds.
fn host() -> Result<Namespace> {
    let host = Namespace::create()?;
    let switched = host.run(|| {
        ["all", "default"]
            .into_iter()
            .try_for_each(|name| fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0"))
    })?;
    switched.context("cannot switch duplicate address detection off")?;
    Ok(host)
}

fn attach_client(internet: &Namespace, port: &str, number: u8) -> Result<Namespace> {
    let v4 = |host| match number {
        1 => Ipv4Addr::new(192, 0, 2, host),
        _ => Ipv4Addr::new(198, 18, number - 4, host),
    };
    let v6 = |host| Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, host);
    let client = host()?;
    wire(
        internet,
        port,
        &[net(v4(1), 24), net(v6(1), 64)],
        &client,
        "eth0",
        &[net(v4(2), 24), net(v6(2), 64)],
    )?;
    client.default_route(v4(1).into())?;
    client.default_route(v6(1).into())?;
    Ok(client)
}

fn attach_site(internet: &Namespace, port: &str, plan: SitePlan) -> Result<Site> {
    let (router_v4, router_v6) = (plan.wan_host_v4(254), plan.wan_host_v6(0xfe));
    let wan = [net(plan.gateway_v4(), 24), net(plan.gateway_v6(), 64)];
    let gateway = host()?;
    wire(
        internet,
        port,
        &[net(router_v4, 24), net(router_v6, 64)],
        &gateway,
        "wan",
        &wan,
    )?;
    gateway.default_route(router_v4.into())?;
    gateway.default_route(router_v6.into())?;
    with_lan(gateway, plan)
}

/// The LAN behind a gateway.
fn with_lan(gateway: Namespace, plan: SitePlan) -> Result<Site> {
    let lan = host()?;
    let first_v4 = Ipv4Addr::new(10, plan.decimal(0), 0, 1);
    let first_v6 = local_v6(plan.lan, 1);
    let hosts = [net(plan.host_v4(), 24), net(plan.host_v6(), 64)];
    cable(
        &gateway,
        "lan",
        &[net(first_v4, 24), net(first_v6, 64)],
        &lan,
        "eth0",
        &hosts,
    )?;
    lan.default_route(first_v4.into())?;
    lan.default_route(first_v6.into())?;
    gateway.forwarding(true)?;
    Ok(Site { gateway, lan, plan })
}

/// A cable between the internet and a host. It carries single packets, as real ones do, and the host puts together what arrives in one go, as one with a real
/// device does. By itself a pair of veth devices hands over super-packets whole: a rule of nftables that drops long packets, or a share
/// of them, would drop all of one. It puts together nothing that comes from a device with segmentation of its own.
pub(crate) fn wire(
    internet: &Namespace,
    port: &str,
    port_nets: &[IpNet],
    host: &Namespace,
    device: &str,
    nets: &[IpNet],
) -> Result<()> {
    cable(internet, port, port_nets, host, device, nets)?;
    for (end, name) in [(internet, port), (host, device)] {
        set(end, "ip", &["link", "set", "dev", name, "gso_max_segs", "1"])?;
    }
    set(internet, "ethtool", &["-K", port, "tso", "off"])?;
    set(host, "ethtool", &["-K", device, "gro", "on"])
}

fn set(host: &Namespace, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = host.command(program)?;
    let output = command.args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}

fn cable(a: &Namespace, a_name: &str, a_nets: &[IpNet], b: &Namespace, b_name: &str, b_nets: &[IpNet]) -> Result<()> {
    a.veth(b, a_name, b_name)?;
    for (end, name, nets) in [(a, a_name, a_nets), (b, b_name, b_nets)] {
        for net in nets {
            end.address(name, *net)?;
        }
        end.up(name)?;
    }
    // The kernel adds link-local addresses once both ends are up; a test must not see them come.
    for (end, name) in [(a, a_name), (b, b_name)] {
        until("a link-local address", PATIENCE, || {
            let state = end.snapshot()?;
            let found = state
                .lines()
                .any(|line| line.starts_with("address fe80:") && line.ends_with(&format!("dev {name}")));
            Ok(found)
        })?;
    }
    Ok(())
}

pub(crate) fn net(address: impl Into<IpAddr>, prefix: u8) -> IpNet {
    IpNet::new_assert(address.into(), prefix)
}
