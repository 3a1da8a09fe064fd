//! What every attempt to connect needs: the configuration, and what was read because of it. Replaced as a whole by a reload.

use std::fs;
use std::path::Path;

use config::ConfigErrors;
use config::client::ClientConfig;
use lifecycle::{Backoff, WakeLimits};
use plan::Flows;
use session::client::Identity;

use crate::ClientError;
use crate::flows;
use crate::secrets::Secrets;
use crate::trust::Trust;

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The machine's own name on Linux; elsewhere the gateway gets none unless it is configured.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";

/// One generation of settings.
pub(crate) struct Setup {
    pub(crate) config: ClientConfig,
    pub(crate) trust: Trust,
    pub(crate) identity: Identity,
    pub(crate) secrets: Secrets,
    /// What `[flows]` comes to on this host.
    pub(crate) flows: Option<Flows>,
}

impl Setup {
    /// Reads the files that `config` names.
    pub(crate) fn new(config: ClientConfig, secrets: Secrets) -> Result<Self, ClientError> {
        let trust = Trust::load(&config)?;
        // Read again at each login; here only so that a mistake shows at once.
        secrets.password(&config.login)?;
        let identity = identity(&config);
        Ok(Self {
            flows: flows::resolve(&config)?,
            config,
            trust,
            identity,
            secrets,
        })
    }

    /// For chores, which need no password.
    pub(crate) fn without_secrets(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self {
            trust: Trust::load(&config)?,
            identity: identity(&config),
            secrets: Secrets::default(),
            flows: None,
            config,
        })
    }

    /// Whether a cookie made under `self` may be shown under `other`: to the same gateway, believed for the same reason,
    /// for the same user.
    pub(crate) fn same_login(&self, other: &Self) -> bool {
        let (old, new) = (&self.config, &other.config);
        old.gateway.url == new.gateway.url
            && old.gateway.addresses == new.gateway.addresses
            && old.trust == new.trust
            && old.login == new.login
    }

    /// Waits between attempts.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.config.reconnect.first, self.config.reconnect.max)
    }

    /// How long a wake must last to count as a full one.
    pub(crate) fn wake_limits(&self) -> WakeLimits {
        WakeLimits {
            unknown: self.config.sleep.unknown_wake,
            maintenance: self.config.sleep.maintenance_limit,
        }
    }
}

fn identity(config: &ClientConfig) -> Identity {
    let version = env!("CARGO_PKG_VERSION");
    let own_name = || {
        let name = fs::read_to_string(HOSTNAME_FILE).ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    };
    Identity {
        host: config.gateway.url.authority(),
        path: config.gateway.url.path.clone(),
        user_agent: wire::offer::user_agent(&format!("marmot {version}")),
        device: "linux-64".to_owned(),
        version: version.to_owned(),
        hostname: config.session.hostname.clone().or_else(own_name),
        group: config.login.group.clone(),
    }
}

/// Reads a configuration file.
pub(crate) fn read_config(path: &Path) -> Result<ClientConfig, ConfigErrors> {
    let file = path.display().to_string();
    let unreadable = |problem: String| ConfigErrors::unreadable(&file, problem);
    let size = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(unreadable(format!("it is larger than {MAX_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    ClientConfig::parse(&text, &file, config::folder(path))
}

/// The sections in which two configurations differ.
pub(crate) fn changed_sections(old: &ClientConfig, new: &ClientConfig) -> Vec<&'static str> {
    let sections = [
        ("tunnel", old.tunnel != new.tunnel),
        ("gateway", old.gateway != new.gateway),
        ("trust", old.trust != new.trust),
        ("login", old.login != new.login),
        ("tls", old.tls != new.tls),
        ("tcp", old.tcp != new.tcp),
        ("dtls", old.dtls != new.dtls),
        ("session", old.session != new.session),
        ("dns", old.dns != new.dns),
        ("lockdown", old.lockdown != new.lockdown),
        ("flows", old.flows != new.flows),
        ("sleep", old.sleep != new.sleep),
        ("on_demand", old.on_demand != new.on_demand),
        ("reconnect", old.reconnect != new.reconnect),
        ("api", old.api != new.api),
        ("housekeeping", old.housekeeping != new.housekeeping),
        ("log", old.log != new.log),
    ];
    sections
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    #[test]
    fn changes_are_named_by_section() {
        let pki = Pki::new("vpn.test");
        let old = client_config(&pki, "");
        let new = client_config(
            &pki,
            "[login]\nuser = \"bob\"\n[sleep]\nstale_s = 5\n[reconnect]\nmax_s = 60",
        );
        assert_eq!(changed_sections(&old, &new), ["login", "sleep", "reconnect"]);
        assert!(changed_sections(&old, &old).is_empty());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read_config(Path::new("/does/not/exist.toml")).expect_err("missing");
        assert!(error.to_string().starts_with("/does/not/exist.toml: "), "{error}");
    }

    #[test]
    fn the_gateway_is_called_as_the_user_calls_it() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "[gateway]\nurl = \"https://vpn.test:8443/staff\"\n");
        let identity = identity(&config);
        assert_eq!(
            (identity.host.as_str(), identity.path.as_str()),
            ("vpn.test:8443", "/staff")
        );
    }
}
