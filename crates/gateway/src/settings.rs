//! What the configuration and the files it names come to, loaded as a whole.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::gateway::{AuthMethods, GatewayConfig};
use config::users::Users;
use now::Wall;
use rustls::ServerConfig;
use session::gateway::{FrontPolicy, Limits, Reservation, Standing};
use tracing::warn;

use crate::access::Access;
use crate::authentication::may_enter;
use crate::{GatewayError, certificate, tls};

/// How long before the end of our own certificate we begin to warn at every start and reload.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// Everything a reload replaces, in one piece: a connection works with the settings it began with.
pub(crate) struct Settings {
    pub(crate) config: GatewayConfig,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) policy: Arc<FrontPolicy>,
    /// `None`: everybody with a good certificate may come in.
    pub(crate) users: Option<Arc<Users>>,
    /// What clients may talk to.
    pub(crate) access: Arc<Access>,
}

impl Settings {
    /// Reads the files that the configuration names.
    pub(crate) fn load(config: GatewayConfig) -> Result<Self, GatewayError> {
        let tls = tls::load(&config.tls, &config.auth)?;
        let users = match &config.auth.users_file {
            Some(path) => Some(Arc::new(read_users(path, &config)?)),
            None => None,
        };
        warn_of_expiry(&config)?;
        Ok(Self {
            tls,
            policy: Arc::new(policy(&config)),
            users,
            access: Arc::new(Access::new(&config)),
            config,
        })
    }

    /// Reads the configuration file again, and the files it names now.
    ///
    /// # Errors
    /// As [`Settings::load`], and [`GatewayError::NeedsRestart`] for a change that only a start can make.
    pub(crate) fn again(&self, path: &Path) -> Result<Self, GatewayError> {
        let text = read("the configuration", path)?;
        let base = config::folder(path);
        let config = GatewayConfig::parse(&text, &path.display().to_string(), base)?;
        self.compare(&config)?;
        Self::load(config)
    }

    /// The limits of the session table.
    pub(crate) fn session_limits(&self) -> Limits {
        Limits {
            sessions: self.config.limits.sessions as usize,
            per_user: self.config.limits.sessions_per_user as usize,
            cookie_lifetime: self.config.session.cookie_lifetime,
            session_timeout: self.config.session.session_timeout,
            park_ttl: self.config.park.ttl,
            quiet: self.config.park.quiet,
            parked_per_user: self.config.park.per_user as usize,
        }
    }

    /// All addresses set aside, by user.
    pub(crate) fn reservations(&self) -> Vec<(String, Reservation)> {
        let users = self.users.iter().flat_map(|users| &users.0);
        users
            .map(|(name, user)| {
                let reservation = Reservation {
                    v4: user.ipv4,
                    v6: user.ipv6,
                };
                (name.clone(), reservation)
            })
            .collect()
    }

    /// Whether a user who is in, in that group, may stay. Without its group it would be under rules that are not meant for it.
    pub(crate) fn may_stay(&self, user: &str, group: Option<&str>) -> bool {
        let admitted = match &self.users {
            Some(users) => users.0.get(user).is_some_and(|user| may_enter(user, group)),
            None => true,
        };
        admitted && self.is_group(group)
    }

    /// Whether there is such a group, or none is meant.
    fn is_group(&self, group: Option<&str>) -> bool {
        group.is_none_or(|group| self.config.auth.groups.iter().any(|known| known == group))
    }

    /// What is known of a user who comes back with a session of that group. The users file has been read as a whole, so it can
    /// always be said.
    pub(crate) fn standing(&self, user: &str, group: Option<&str>) -> Standing {
        if !self.is_group(group) {
            return Standing::Bad;
        }
        let Some(users) = &self.users else {
            return Standing::Good(Reservation::default());
        };
        match users.0.get(user) {
            Some(user) if may_enter(user, group) => Standing::Good(Reservation {
                v4: user.ipv4,
                v6: user.ipv6,
            }),
            Some(_) | None => Standing::Bad,
        }
    }

    /// What other parts of this process hold on to cannot change under them.
    fn compare(&self, new: &GatewayConfig) -> Result<(), GatewayError> {
        let old = &self.config;
        let fixed = [
            ("[listen]", old.listen == new.listen),
            ("[pool]", old.pool == new.pool),
            ("network.interface", old.network.interface == new.network.interface),
            ("network.mtu", old.network.mtu == new.network.mtu),
            ("network.nat", old.network.nat == new.network.nat),
            (
                "network.nat_interface",
                old.network.nat_interface == new.network.nat_interface,
            ),
            ("network.workers", old.network.workers == new.network.workers),
            ("dtls.enabled", old.dtls.enabled == new.dtls.enabled),
            ("dtls.port", old.dtls.port == new.dtls.port),
            ("[storage]", old.storage == new.storage),
            ("[api]", old.api == new.api),
            ("[housekeeping]", old.housekeeping == new.housekeeping),
            ("[log]", old.log == new.log),
        ];
        match fixed.into_iter().find(|(_, same)| !same) {
            Some((name, _)) => Err(GatewayError::NeedsRestart(name)),
            None => Ok(()),
        }
    }
}

fn policy(config: &GatewayConfig) -> FrontPolicy {
    let methods = config.auth.methods;
    FrontPolicy {
        password: methods.password(),
        certificate: methods.certificate(),
        require_both: methods == AuthMethods::Both,
        groups: config.auth.groups.clone(),
        title: "Please enter your username and password.".to_owned(),
    }
}

fn read_users(path: &Path, config: &GatewayConfig) -> Result<Users, GatewayError> {
    let text = read("the users file", path)?;
    if let Err(fault) = platform::files::check_private(path) {
        // Not refused: the hashes are made to withstand being seen, for a while.
        warn!(%fault, "others can read or change the users file");
    }
    Ok(Users::parse_for(&text, &path.display().to_string(), config)?)
}

fn read(what: &'static str, path: &Path) -> Result<String, GatewayError> {
    fs::read_to_string(path).map_err(|source| GatewayError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })
}

fn warn_of_expiry(config: &GatewayConfig) -> Result<(), GatewayError> {
    let path = &config.tls.certificate_file;
    let leaf = tls::leaf(path)?;
    match certificate::valid_until(&leaf).map(|until| days_left(until, platform::clock::now().wall)) {
        Some(None) => warn!(file = %path.display(), "the server certificate has expired; clients will refuse it"),
        Some(Some(left)) if left < WARN_BEFORE => {
            warn!(file = %path.display(), days = left.as_secs() / 86_400, "the server certificate expires soon");
        }
        Some(Some(_)) | None => {}
    }
    Ok(())
}

/// The time from `now` to `until`, `None` if that is past.
fn days_left(until: Wall, now: Wall) -> Option<Duration> {
    (until > now).then(|| until.since(now))
}
