//! systemd-resolved, over the system bus (org.freedesktop.resolve1(5)): servers and domains of one link.
//!
//! ```text
//!   no bus ---> bus ---> resolved there: told                       revert: told to forget, and the end
//!     ^  wait    |  ^       |  refused: asked again after a while   dropped: the end; the link takes all along when it goes
//!     +----------+  +-------+  restarted: told again
//!      bus lost
//! ```
//! The bus is the one of `DBUS_SYSTEM_BUS_ADDRESS`, else the usual one. resolved is spoken to by the unique name of whoever owns its name
//! now, so that no call of ours ever starts it.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use plan::Dns;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::names::{BusName, OwnedUniqueName};
use zbus::proxy::CacheProperties;

use crate::PlatformError;
use crate::dns::State;

/// A local bus answers within a millisecond; one that has not let us in after this time is not there.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time for one answer of resolved, which may ask polkit.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The wait before a lost bus is looked for again, or a resolved that refused is asked again; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Whoever does not have a bus by now will hardly get one soon.
const RETRY_MAX: Duration = Duration::from_secs(60);

const RESOLVED: &str = "org.freedesktop.resolve1";

/// Families as resolved takes them: those of the kernel.
const FAMILIES: (i32, i32) = (libc::AF_INET, libc::AF_INET6);

#[zbus::proxy(
    interface = "org.freedesktop.resolve1.Manager",
    default_path = "/org/freedesktop/resolve1",
    assume_defaults = false
)]
trait Manager {
    #[zbus(name = "SetLinkDNS")]
    fn set_link_dns(&self, index: i32, servers: &[(i32, Vec<u8>)]) -> zbus::Result<()>;

    fn set_link_domains(&self, index: i32, domains: &[(String, bool)]) -> zbus::Result<()>;

    fn set_link_default_route(&self, index: i32, everything: bool) -> zbus::Result<()>;

    fn revert_link(&self, index: i32) -> zbus::Result<()>;
}

/// What a link is to have.
#[derive(Debug)]
struct Settings {
    index: i32,
    servers: Vec<(i32, Vec<u8>)>,
    domains: Vec<(String, bool)>,
    everything: bool,
}

impl Settings {
    fn new(index: u32, dns: &Dns) -> Self {
        let octets = |server: &IpAddr| match server {
            IpAddr::V4(v4) => (FAMILIES.0, v4.octets().to_vec()),
            IpAddr::V6(v6) => (FAMILIES.1, v6.octets().to_vec()),
        };
        let domains = dns.domains();
        Self {
            // Indices of the kernel are positive ints.
            index: i32::try_from(index).unwrap_or(0),
            servers: dns.servers.iter().map(octets).collect(),
            domains: domains
                .iter()
                .map(|domain| (domain.name.to_owned(), domain.only_routes))
                .collect(),
            everything: dns.takes_everything(),
        }
    }

    async fn tell(&self, manager: &ManagerProxy<'_>) -> zbus::Result<()> {
        // Where they are asked for comes first: no name may go there that should not.
        manager.set_link_domains(self.index, &self.domains).await?;
        manager.set_link_default_route(self.index, self.everything).await?;
        manager.set_link_dns(self.index, &self.servers).await
    }
}

type Done = oneshot::Sender<zbus::Result<()>>;

/// A link whose settings are kept in resolved as long as this is there.
#[derive(Debug)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    reverts: mpsc::Sender<Done>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Tells resolved, or finds out that it is not there.
    pub(super) async fn begin(index: u32, dns: &Dns) -> Self {
        let settings = Settings::new(index, dns);
        let (told, mut state) = watch::channel(State::Lost("systemd-resolved has not answered yet".to_owned()));
        // One that reverts is the last.
        let (reverts, orders) = mpsc::channel(1);
        let task = tokio::spawn(keep(settings, told, orders)).abort_handle();
        let link = Self {
            state: state.clone(),
            reverts,
            task,
        };
        // Two calls may need their time. It goes on without us.
        let _ = timeout(JOIN_TIMEOUT + CALL_TIMEOUT, state.changed()).await;
        link
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Has resolved forget the link, if it is there.
    pub(super) async fn revert(self) -> Result<(), PlatformError> {
        let (done, answer) = oneshot::channel();
        // A task that has ended holds nothing.
        let _ = self.reverts.send(done).await;
        match timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(Err(error))) if !is_gone(&error) => Err(PlatformError::NameService(format!(
                "systemd-resolved does not forget the link: {error}"
            ))),
            Ok(_) => Ok(()),
            Err(_) => Err(PlatformError::NameService(
                "systemd-resolved does not answer".to_owned(),
            )),
        }
    }
}

/// Whether there was nothing to forget any more: the link, resolved itself, or the bus.
fn is_gone(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::MethodError(name, ..) => ["NoSuchLink", "NameHasNoOwner", "ServiceUnknown", "NoReply"]
            .iter()
            .any(|word| name.ends_with(word)),
        other => matches!(other, zbus::Error::InputOutput(_)),
    }
}

/// Why a bus is not listened to any more.
enum End {
    NotWanted,
    Lost(String),
}

async fn keep(settings: Settings, state: watch::Sender<State>, mut reverts: mpsc::Receiver<Done>) {
    let mut wait = RETRY_FIRST;
    loop {
        let why = match timeout(JOIN_TIMEOUT, Bus::join()).await {
            Ok(Ok(bus)) => match bus.keep(&settings, &state, &mut reverts).await {
                End::NotWanted => return,
                End::Lost(why) => {
                    wait = RETRY_FIRST;
                    why
                }
            },
            Ok(Err(error)) => format!("there is no system bus, and without it no systemd-resolved: {error}"),
            Err(_) => "the system bus does not answer".to_owned(),
        };
        say(&state, State::Lost(why));
        tokio::select! {
            () = sleep_until(Instant::now() + wait) => {}
            done = reverts.recv() => {
                if let Some(done) = done {
                    // Nobody to tell. Whoever comes back later sees a link that is down.
                    let _ = done.send(Ok(()));
                }
                return;
            }
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}

fn say(state: &watch::Sender<State>, new: State) {
    state.send_if_modified(|old| {
        let other = *old != new;
        *old = new;
        other
    });
}

struct Bus {
    connection: Connection,
    owners: NameOwnerChangedStream,
    manager: Option<ManagerProxy<'static>>,
}

impl Bus {
    async fn join() -> zbus::Result<Self> {
        let connection = Builder::system().method_timeout(CALL_TIMEOUT).build().await?;
        let names = DBusProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let owners = names.receive_name_owner_changed_with_args(&[(0, RESOLVED)]).await?;
        let owner = names.get_name_owner(BusName::try_from(RESOLVED)?).await.ok();
        let manager = manager(&connection, owner).await;
        Ok(Self {
            connection,
            owners,
            manager,
        })
    }

    async fn keep(
        mut self,
        settings: &Settings,
        state: &watch::Sender<State>,
        reverts: &mut mpsc::Receiver<Done>,
    ) -> End {
        let connection = self.connection.clone();
        let mut wait = RETRY_FIRST;
        loop {
            let new = match &self.manager {
                None => State::Lost("systemd-resolved is not on the system bus".to_owned()),
                Some(manager) => match settings.tell(manager).await {
                    Ok(()) => State::Applied,
                    Err(error) => State::Lost(format!("systemd-resolved does not take the name servers: {error}")),
                },
            };
            let again = (self.manager.is_some() && new != State::Applied).then(|| Instant::now() + wait);
            wait = (wait * 2).min(RETRY_MAX);
            say(state, new);
            tokio::select! {
                biased;
                done = reverts.recv() => {
                    let Some(done) = done else { return End::NotWanted };
                    let result = match &self.manager {
                        Some(manager) => manager.revert_link(settings.index).await,
                        None => Ok(()),
                    };
                    let _ = done.send(result);
                    return End::NotWanted;
                }
                () = connection.closed() => return End::Lost("the system bus is gone, and systemd-resolved with it".to_owned()),
                change = self.owners.next() => {
                    let Some(change) = change else { return End::Lost("the system bus is gone".to_owned()) };
                    let owner = change.args().ok().and_then(|args| args.new_owner().as_ref().map(|name| OwnedUniqueName::from(name.to_owned())));
                    self.manager = manager(&connection, owner).await;
                    wait = RETRY_FIRST;
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    }
}

async fn manager(connection: &Connection, owner: Option<OwnedUniqueName>) -> Option<ManagerProxy<'static>> {
    let builder = ManagerProxy::builder(connection).destination(owner?);
    builder.cache_properties(CacheProperties::No).build().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_plan() {
        let dns = Dns {
            servers: vec![
                "10.77.0.1".parse().expect("address"),
                "fd00::1".parse().expect("address"),
            ],
            search: vec!["corp.test".to_owned()],
            split: vec!["lab.test".to_owned()],
        };
        let settings = Settings::new(7, &dns);
        assert_eq!((settings.index, settings.everything), (7, false));
        assert_eq!(settings.servers[0], (2, vec![10, 77, 0, 1]));
        assert_eq!((settings.servers[1].0, settings.servers[1].1.len()), (10, 16));
        let domains = [("corp.test".to_owned(), false), ("lab.test".to_owned(), true)];
        assert_eq!(settings.domains, domains);
    }
}
