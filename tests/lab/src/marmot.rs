//! Our own ends: their configuration, start and signs of life.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, SaltString};
use platform::netns::Namespace;
use serde_json::Value;

use crate::pki::write_private;
use crate::{Allocations, Clock, GATEWAY_NAME, Lab, Mark, PATIENCE, Process, Settings, Site};

/// The user that every gateway of the lab knows.
pub const USER: &str = "alice";

/// That user's password.
pub const PASSWORD: &str = "correct horse battery staple";

/// Users of a gateway, in its own file.
#[derive(Clone, Debug, Default)]
pub struct Users(toml::Table);

impl Users {
    /// [`USER`] alone.
    ///
    /// # Errors
    /// If the password cannot be hashed.
    pub fn alice() -> Result<Self> {
        Self::default().and(USER, PASSWORD, &[])
    }

    /// Adds a user with a password, in these groups.
    ///
    /// # Errors
    /// If the password cannot be hashed.
    pub fn and(mut self, name: &str, password: &str, groups: &[&str]) -> Result<Self> {
        let mut user = toml::Table::new();
        user.insert("password".to_owned(), hash(password)?.into());
        user.insert("groups".to_owned(), groups.to_vec().into());
        self.0.insert(name.to_owned(), user.into());
        Ok(self)
    }

    /// Sets a key of a user, such as `ipv4` or `disabled`.
    #[must_use]
    pub fn with(mut self, name: &str, key: &str, value: impl Into<toml::Value>) -> Self {
        if let Some(toml::Value::Table(user)) = self.0.get_mut(name) {
            user.insert(key.to_owned(), value.into());
        }
        self
    }

    /// Removes a user.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Writes them to a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = toml::Table::new();
        file.insert("users".to_owned(), self.0.clone().into());
        write_private(path, &toml::to_string(&file).context("users are TOML")?)
    }
}

fn hash(password: &str) -> Result<String> {
    static GOOD: OnceLock<String> = OnceLock::new();
    let make = || {
        let salt = SaltString::from_b64("bGFiIHNhbHQgb25seQ").map_err(|e| anyhow::anyhow!("{e}"))?;
        let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
        anyhow::Ok(hash.map_err(|e| anyhow::anyhow!("{e}"))?.to_string())
    };
    if password != PASSWORD {
        return make();
    }
    match GOOD.get() {
        Some(hash) => Ok(hash.clone()),
        None => Ok(GOOD.get_or_init(|| make().unwrap_or_default()).clone()),
    }
}

/// The product.
///
/// # Errors
/// If it was not built.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = match env::var_os("MARMOT_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = env::current_exe().context("this program has a path")?;
            // target/debug/deps/test -> target/debug/marmot
            test.ancestors().nth(2).unwrap_or(Path::new(".")).join("marmot")
        }
    };
    ensure!(
        path.is_file(),
        "{} is missing: `cargo build -p marmot`, or set MARMOT_BIN",
        path.display()
    );
    path.canonicalize().context("cannot resolve a path")
}

/// A command of the product, to be run on `host`.
///
/// # Errors
/// If it was not built.
pub fn marmot(lab: &Lab, host: &Namespace, arguments: &[&str]) -> Result<Command> {
    let mut command = lab.command(host, binary()?)?;
    command.args(arguments);
    Ok(command)
}

/// A gateway of `site` that knows [`USER`] by password: quiet figures, debug log.
///
/// # Errors
/// If its certificate or users cannot be written.
pub fn gateway_settings(lab: &Lab, site: &Site) -> Result<Settings> {
    let plan = site.plan;
    let identity = lab.pki().server()?;
    let users = lab.folder().join(format!("users-{}.toml", plan.name()));
    Users::alice()?.write(&users)?;
    let settings = match env::var(WORKERS) {
        Ok(workers) => Settings::default().with("network.workers", workers.parse::<i64>().context(WORKERS)?),
        Err(_) => Settings::default(),
    };
    Ok(settings
        .with("listen.addresses", vec!["[::]:443"])
        .with_path("tls.certificate_file", &identity.certificate)
        .with_path("tls.key_file", &identity.key)
        .with_path("auth.users_file", &users)
        .with("pool.ipv4", plan.pool_v4().to_string())
        .with("pool.ipv6", plan.pool_v6().to_string())
        .with(
            "network.routes",
            vec![plan.lan_v4().to_string(), plan.lan_v6().to_string()],
        )
        .with("network.dns", vec![plan.host_v4().to_string()])
        .with("network.domains", vec!["corp.test"])
        .with_path(
            "storage.state_dir",
            &lab.folder().join(format!("gateway-{}", plan.name())),
        )
        .with_path(
            "storage.runtime_dir",
            &lab.folder().join(format!("gateway-run-{}", plan.name())),
        )
        .with("log.level", "debug"))
}

/// A variable of the environment: the number of workers of every gateway that asks for none itself.
const WORKERS: &str = "MARMOT_LAB_WORKERS";

/// The users file of [`gateway_settings`].
pub fn users_file(lab: &Lab, site: &Site) -> PathBuf {
    lab.folder().join(format!("users-{}.toml", site.plan.name()))
}

/// A client of the gateway of `site` with [`USER`]'s password, over IPv4, that trusts the lab's authority.
///
/// # Errors
/// If a file cannot be written.
pub fn client_settings(lab: &Lab, site: &Site) -> Result<Settings> {
    let name = site.plan.name();
    let (state, run) = (lab.folder().join("state"), lab.folder().join("run"));
    for folder in [&state, &run] {
        fs::create_dir_all(folder).context("cannot make a folder")?;
    }
    Ok(Settings::default()
        .with("tunnel.name", name)
        .with_path("tunnel.state_dir", &state)
        .with_path("tunnel.runtime_dir", &run)
        .with("gateway.url", format!("https://{GATEWAY_NAME}"))
        .with("gateway.addresses", vec![site.plan.gateway_v4().to_string()])
        .with_path("trust.ca_file", &lab.pki().ca())
        .with("login.user", USER)
        // Names are the business of their own tests.
        .with("dns.mode", "off")
        .with_path("login.password_file", &lab.file("password", PASSWORD)?)
        .with("log.level", "debug"))
}

/// What `marmot status --json` says of a client that was started under this name.
///
/// # Errors
/// If it says nothing.
pub fn status(lab: &Lab, host: &Namespace, name: &str) -> Result<Value> {
    let config = lab.folder().join(format!("{name}.toml"));
    let mut command = marmot(lab, host, &["status", "--json", "-c"])?;
    let output = command.arg(config).output().context("cannot ask for the status")?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("this is no status: {output:?}"))
}

/// Name of the TUN device that a client of `site` makes.
pub fn client_interface(site: &Site) -> String {
    format!("mm-{}", site.plan.name())
}

/// Starts a gateway and waits until it listens.
///
/// # Errors
/// If it does not.
pub fn start_gateway(lab: &Lab, site: &Site, name: &str, settings: &Settings) -> Result<Process> {
    listening(spawn_gateway(lab, site, name, settings)?)
}

/// Starts a gateway.
///
/// # Errors
/// If it cannot be started.
pub fn spawn_gateway(lab: &Lab, site: &Site, name: &str, settings: &Settings) -> Result<Process> {
    spawn(lab, &site.gateway, "gateway", name, settings)
}

/// Starts a client and waits until its tunnel is up.
///
/// # Errors
/// If it does not come up.
pub fn start_client(lab: &Lab, host: &Namespace, name: &str, settings: &Settings) -> Result<Process> {
    up(spawn_client(lab, host, name, settings)?)
}

/// Starts a client.
///
/// # Errors
/// If it cannot be started.
pub fn spawn_client(lab: &Lab, host: &Namespace, name: &str, settings: &Settings) -> Result<Process> {
    spawn(lab, host, "client", name, settings)
}

/// A gateway, once it listens.
fn listening(gateway: Process) -> Result<Process> {
    gateway.wait_for("gateway ready on", PATIENCE)?;
    Ok(gateway)
}

/// A client, once its tunnel is up.
fn up(client: Process) -> Result<Process> {
    client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    Ok(client)
}

impl Clock {
    /// Starts a client under these clocks and waits until its tunnel is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_client(&self, lab: &Lab, host: &Namespace, name: &str, settings: &Settings) -> Result<Process> {
        up(self.spawn(lab, host, "client", name, settings)?)
    }

    /// Starts a gateway under these clocks and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_gateway(&self, lab: &Lab, site: &Site, name: &str, settings: &Settings) -> Result<Process> {
        listening(self.spawn(lab, &site.gateway, "gateway", name, settings)?)
    }

    fn spawn(&self, lab: &Lab, host: &Namespace, what: &str, name: &str, settings: &Settings) -> Result<Process> {
        let mut command = configured(lab, host, what, name, settings)?;
        self.rule(&mut command);
        lab.spawn(name, command)
    }
}

impl Allocations {
    /// Starts a client whose allocations are counted, and waits until its tunnel is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_client(&self, lab: &Lab, host: &Namespace, name: &str, settings: &Settings) -> Result<Process> {
        up(self.spawn(lab, host, "client", name, settings)?)
    }

    /// Starts a gateway whose allocations are counted, and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_gateway(&self, lab: &Lab, site: &Site, name: &str, settings: &Settings) -> Result<Process> {
        listening(self.spawn(lab, &site.gateway, "gateway", name, settings)?)
    }

    fn spawn(&self, lab: &Lab, host: &Namespace, what: &str, name: &str, settings: &Settings) -> Result<Process> {
        let mut command = configured(lab, host, what, name, settings)?;
        self.watch(&mut command);
        lab.spawn(name, command)
    }
}

fn spawn(lab: &Lab, host: &Namespace, what: &str, name: &str, settings: &Settings) -> Result<Process> {
    lab.spawn(name, configured(lab, host, what, name, settings)?)
}

fn configured(lab: &Lab, host: &Namespace, what: &str, name: &str, settings: &Settings) -> Result<Command> {
    let config = settings.write(&lab.folder().join(format!("{name}.toml")))?;
    let mut command = marmot(lab, host, &[what, "-c"])?;
    command.arg(config);
    Ok(command)
}
