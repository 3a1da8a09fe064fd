//! The files of the demo: an authority, a certificate, a user and two configurations, made fresh for every run by what
//! `marmot init` uses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use config::Host;
use config::users::{User, Users};
use platform::files::{create_dir_private, make_executable, write_private};

use super::world;
use crate::password;
use crate::pki::Authority;
use crate::sample::{self, Value};

/// Names of the configuration files in the folder.
pub(crate) const GATEWAY_CONFIG: &str = "gateway.toml";
pub(crate) const CLIENT_CONFIG: &str = "client.toml";

/// Dead-peer detection that the gateway advises.
pub(crate) const DPD: Duration = Duration::from_secs(1);

/// How the gateway's kernel looks after a silent connection: after 1 s of silence a probe every second, and the connection
/// is dropped when nothing was answered for 5 s.
pub(crate) const PROBE_EVERY_S: u64 = 1;
pub(crate) const GIVE_UP_AFTER_S: u64 = 5;

/// What both programs log: decisions too, which the story reads.
pub(crate) const LOG_FILTER: &str = "info,client=debug,gateway=debug";

/// The name that the gateway's certificate carries. Nobody asks a name server for it.
const GATEWAY_NAME: &str = "gateway.example";

/// The user, and the addresses that only this user gets.
const USER: &str = "walker";
pub(crate) const TUNNEL_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 10);
pub(crate) const TUNNEL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 0x10);

/// Name of the tunnel and of its device.
const TUNNEL: &str = "demo";
pub(crate) const DEVICE: &str = "mm-demo";

/// The MTU inside the tunnel, in bytes.
pub(crate) const MTU: u16 = 1400;

const CA: &str = "ca.pem";
const CERTIFICATE: &str = "gateway.pem";
const KEY: &str = "gateway.key";
const USERS: &str = "users.toml";
const PASSWORD: &str = "password";

/// Folder of the executables that the client runs after each session.
const HOOKS: &str = "housekeeping.d";

/// Writes everything for the gateway, and the client's secrets. The private key of the authority is forgotten.
pub(crate) fn gateway(folder: &Path, listen: SocketAddr, ipv6: bool) -> Result<()> {
    let (authority, ca) = Authority::create("Marmot demo", platform::clock::now().wall)?;
    let name: Host = GATEWAY_NAME
        .parse()
        .map_err(|error| anyhow!("the gateway's name: {error}"))?;
    let server = authority.server(&[name])?;
    let password = password::random()?;
    let user = User {
        password: Some(::gateway::password::hash(&password)?),
        ipv4: Some(TUNNEL_V4),
        ipv6: ipv6.then_some(TUNNEL_V6),
        ..User::default()
    };
    let users = Users(BTreeMap::from([(USER.to_owned(), user)]));

    let mut routes = vec![world::LAN_NET.to_string()];
    let mut values: Vec<Value<'_>> = vec![
        ("listen", "addresses", sample::list(&[listen])),
        ("tls", "certificate_file", sample::text(CERTIFICATE)),
        ("tls", "key_file", sample::text(KEY)),
        ("auth", "users_file", sample::text(USERS)),
        ("network", "mtu", MTU.to_string()),
        ("session", "dpd_s", DPD.as_secs().to_string()),
        ("tcp", "keepalive_idle_s", PROBE_EVERY_S.to_string()),
        ("tcp", "keepalive_interval_s", PROBE_EVERY_S.to_string()),
        ("tcp", "user_timeout_s", GIVE_UP_AFTER_S.to_string()),
        (
            "storage",
            "state_dir",
            sample::text(folder.join("gateway-state").display()),
        ),
        (
            "storage",
            "runtime_dir",
            sample::text(folder.join("gateway-run").display()),
        ),
        ("log", "format", sample::text("json")),
    ];
    if ipv6 {
        values.push(("pool", "ipv6", sample::text("fd00:78::/64")));
        routes.push(world::LAN_NET_V6.to_string());
    }
    values.push(("network", "routes", sample::list(&routes)));

    write(folder, GATEWAY_CONFIG, &sample::gateway(&values))?;
    write(folder, USERS, &users.to_toml())?;
    write(folder, CA, &ca.certificate)?;
    write(folder, CERTIFICATE, &server.certificate)?;
    write(folder, KEY, &server.key)?;
    write(folder, PASSWORD, &format!("{}\n", *password))
}

/// Writes the client's configuration for a gateway at `gateway`.
pub(crate) fn client(folder: &Path, gateway: SocketAddr) -> Result<()> {
    let path = |name: &str| sample::text(folder.join(name).display());
    let values: Vec<Value<'_>> = vec![
        ("tunnel", "name", sample::text(TUNNEL)),
        ("tunnel", "interface", sample::text(DEVICE)),
        ("tunnel", "state_dir", path("state")),
        ("tunnel", "runtime_dir", path("run")),
        (
            "gateway",
            "url",
            sample::text(format!("https://{GATEWAY_NAME}:{}", gateway.port())),
        ),
        ("gateway", "addresses", sample::list(&[gateway.ip()])),
        ("trust", "ca_file", sample::text(CA)),
        ("login", "user", sample::text(USER)),
        ("login", "password_file", sample::text(PASSWORD)),
        ("housekeeping", "hooks_dir", path(HOOKS)),
        ("log", "format", sample::text("json")),
    ];
    LongHook::of(folder).write()?;
    write(folder, CLIENT_CONFIG, &sample::client(&values))
}

/// An executable of the administrator that the client runs after each session, and that takes as long as the story wants.
pub(crate) struct LongHook {
    program: PathBuf,
    begun: PathBuf,
    may_end: PathBuf,
    ended: PathBuf,
}

impl LongHook {
    /// That of the demo with this folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let file = |name: &str| folder.join(name);
        Self {
            program: file(HOOKS).join("report"),
            begun: file("hook-begun"),
            may_end: file("hook-may-end"),
            ended: file("hook-ended"),
        }
    }

    fn write(&self) -> Result<()> {
        let script = format!(
            "#!/bin/sh\n: >'{}'\nuntil [ -e '{}' ]; do sleep 0.05; done\n: >'{}'\n",
            self.begun.display(),
            self.may_end.display(),
            self.ended.display()
        );
        if let Some(folder) = self.program.parent() {
            create_dir_private(folder)?;
        }
        write_private(&self.program, script.as_bytes())?;
        Ok(make_executable(&self.program)?)
    }

    /// Whether the client runs it.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.exists()
    }

    /// Whether it came to its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.exists()
    }

    /// Lets it end.
    pub(crate) fn let_go(&self) -> Result<()> {
        Ok(write_private(&self.may_end, b"")?)
    }
}

fn write(folder: &Path, name: &str, content: &str) -> Result<()> {
    Ok(write_private(&folder.join(name), content.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::client::ClientConfig;
    use config::gateway::GatewayConfig;

    #[test]
    fn the_configurations_are_valid_and_say_what_the_story_says() {
        let folder = tempfile::tempdir().expect("folder");
        let listen = SocketAddr::from((world::GATEWAY, 443));
        gateway(folder.path(), listen, true).expect("gateway");
        client(folder.path(), listen).expect("client");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("written");

        let config = GatewayConfig::parse(&read(GATEWAY_CONFIG), GATEWAY_CONFIG, folder.path()).expect("gateway.toml");
        assert_eq!(config.listen.addresses, [listen]);
        assert_eq!(config.session.dpd, DPD);
        assert_eq!(config.tcp.keepalive.idle, Duration::from_secs(PROBE_EVERY_S));
        assert_eq!(config.tcp.user_timeout, Duration::from_secs(GIVE_UP_AFTER_S));
        assert_eq!(config.network.routes.len(), 2);
        Users::parse_for(&read(USERS), USERS, &config).expect("users.toml");

        let config = ClientConfig::parse(&read(CLIENT_CONFIG), CLIENT_CONFIG, folder.path()).expect("client.toml");
        assert_eq!(config.tunnel.interface, DEVICE);
        assert_eq!(config.gateway.addresses, [listen.ip()]);
        assert!(config.login.password.is_some() && config.trust.ca_file.is_some());
    }
}
