//! Which service is meant: its unit, and whether its configuration fits what the unit expects.

use std::path::{Path, PathBuf};

use config::LockdownMode;
use config::client::ClientConfig;
use config::gateway::GatewayConfig;

use crate::cli::{ServiceName, ServiceRole};
use crate::exit::{Exit, Failure};
use crate::load;

/// Where the units look for configurations.
const CONFIG_DIR: &str = "/etc/marmot";

/// Where they keep state; the path unit of the jobs watches it.
const STATE_DIR: &str = "/var/lib/marmot";

/// Where they keep sockets and locks.
const RUNTIME_DIR: &str = "/run/marmot";

const GATEWAY_FILE: &str = "/etc/marmot/gateway.toml";

/// A service of this host.
#[derive(Debug)]
pub(super) struct Target {
    /// For which its name is valid; `/` or an image's root.
    pub(super) root: PathBuf,
    pub(super) role: ServiceRole,
    /// As `systemctl` calls it.
    pub(super) unit: String,
    /// The configuration file as the unit sees it.
    pub(super) file: PathBuf,
}

impl Target {
    /// Reads the arguments; no file is looked at.
    pub(super) fn named(name: &ServiceName) -> Result<Self, Failure> {
        let file = match (&name.file, name.role) {
            (Some(file), _) => std::path::absolute(file).map_err(anyhow::Error::from)?,
            (None, _) => PathBuf::from(GATEWAY_FILE),
        };
        let unit = match name.role {
            ServiceRole::Client => format!("marmot-client@{}.service", stem(&file)?),
            ServiceRole::Gateway => "marmot-gateway.service".to_owned(),
        };
        let root = name.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        let root = std::path::absolute(root).map_err(anyhow::Error::from)?;
        let role = name.role;
        Ok(Self { root, role, unit, file })
    }

    /// Reads the configuration: it must be where the unit looks for it and name the folders that the unit may write to, or
    /// the service would fail at every start, or its jobs would never be found. Returns the unit that holds its lockdown from boot on, if
    /// the configuration asks for one.
    pub(super) fn check(&self) -> Result<Option<String>, Failure> {
        let place = self.file.strip_prefix("/").unwrap_or(&self.file);
        let found = self.root.join(place);
        match self.role {
            ServiceRole::Client => {
                let config = load::client(&found)?;
                self.check_client(&config)?;
                let always = config.lockdown.mode == LockdownMode::Always;
                Ok(always.then(|| lockdown_unit(&config.tunnel.name)))
            }
            ServiceRole::Gateway => self.check_gateway(&load::gateway(&found)?).map(|()| None),
        }
    }

    fn check_client(&self, config: &ClientConfig) -> Result<(), Failure> {
        let stem = stem(&self.file)?;
        let tunnel = &config.tunnel;
        if tunnel.name != stem {
            return Err(self.wrong(&format!(
                "[tunnel] name is \"{}\", but the service finds the tunnel's jobs by the name of the file: write \
                 name = \"{stem}\", or call the file {}.toml",
                tunnel.name, tunnel.name
            )));
        }
        if self.file.parent() != Some(Path::new(CONFIG_DIR)) {
            return Err(self.wrong(&format!("the service reads {CONFIG_DIR}/{stem}.toml: move it there")));
        }
        self.check_folder("[tunnel] state_dir", Some(&tunnel.state_dir), STATE_DIR)?;
        self.check_folder("[tunnel] runtime_dir", Some(&tunnel.runtime_dir), RUNTIME_DIR)
    }

    fn check_gateway(&self, config: &GatewayConfig) -> Result<(), Failure> {
        if self.file != Path::new(GATEWAY_FILE) {
            return Err(self.wrong(&format!("the service reads {GATEWAY_FILE}: move it there")));
        }
        if let Some(state_dir) = &config.storage.state_dir {
            self.check_folder("[storage] state_dir", Some(state_dir), STATE_DIR)?;
        }
        self.check_folder("[storage] runtime_dir", Some(&config.storage.runtime_dir), RUNTIME_DIR)
    }

    fn check_folder(&self, key: &str, folder: Option<&PathBuf>, expected: &str) -> Result<(), Failure> {
        match folder {
            Some(folder) if folder != Path::new(expected) => Err(self.wrong(&format!(
                "{key} is {}, but the service may write to {expected} only and finds its jobs there: leave the key out",
                folder.display()
            ))),
            _ => Ok(()),
        }
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::new(Exit::Config, format!("{}: {what}", self.file.display()))
    }
}

/// The unit that holds a tunnel's lockdown from boot on.
pub(super) fn lockdown_unit(tunnel: &str) -> String {
    format!("marmot-lockdown@{tunnel}.service")
}

/// The name of a tunnel by its file's.
fn stem(file: &Path) -> Result<&str, Failure> {
    let fault = || {
        Failure::new(
            Exit::Config,
            format!("{}: a configuration is called NAME.toml", file.display()),
        )
    };
    if file.extension().is_none_or(|extension| extension != "toml") {
        return Err(fault());
    }
    file.file_stem().and_then(|stem| stem.to_str()).ok_or_else(fault)
}
