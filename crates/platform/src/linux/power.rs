//! logind, over the system bus (org.freedesktop.login1(5)).
//!
//! ```text
//!   no bus ---> bus ---> logind there: signals heard, delay lock held
//!     ^  wait    |  ^       |  PrepareForSleep(true):  Sleeping; acknowledged: the lock is let go
//!     +----------+  +-------+  PrepareForSleep(false): Resumed; a new lock
//!      bus lost     restarted
//! ```
//! The bus is the one of `DBUS_SYSTEM_BUS_ADDRESS`, else the usual one. logind is spoken to by the unique name of whoever owns
//! its name now, so that no call of ours ever starts it.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};
use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::names::{BusName, OwnedUniqueName};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedFd};

use crate::power::{Feed, LOOK_TIMEOUT, Look, PowerEvent, PowerSource, Promise, Surroundings};

/// A local bus answers within a millisecond; one that has not let us in after this time is not there.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Less than logind waits for a delay lock (5 s), so that a call that hangs does not eat the time that it should give.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The wait before a lost bus is looked for again, or a lock that was refused is asked for; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Where there is no bus there will hardly be one soon, and nobody should wake for it.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// A bus that was there for so long is worth a look after [`RETRY_FIRST`]. One that lets us in and drops us is not.
const STEADY: Duration = Duration::from_secs(60);

const LOGIND: &str = "org.freedesktop.login1";

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_path = "/org/freedesktop/login1",
    assume_defaults = false
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;

    // logind tells nobody when one of these changes.
    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_sleep(&self) -> zbus::Result<bool>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn lid_closed(&self) -> zbus::Result<bool>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn docked(&self) -> zbus::Result<bool>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn on_external_power(&self) -> zbus::Result<bool>;
}

pub(crate) fn open(address: Option<String>) -> PowerSource {
    let (feed, looks, source) = PowerSource::looked_up();
    let task = tokio::spawn(serve(address, feed, looks));
    source.served_by(task.abort_handle())
}

/// Why a bus is not listened to any more.
enum End {
    /// The source is dropped.
    NotWanted,
    Lost,
}

async fn serve(address: Option<String>, mut feed: Feed, mut looks: mpsc::Receiver<Look>) {
    let mut waits = Waits::default();
    loop {
        match timeout(JOIN_TIMEOUT, Bus::join(address.as_deref())).await {
            Ok(Ok(bus)) => {
                let joined = Instant::now();
                match bus.listen(&mut feed, &mut looks).await {
                    End::NotWanted => return,
                    End::Lost => info!("the system bus is lost; sleep is seen by the clocks alone until it is back"),
                }
                if joined.elapsed() >= STEADY {
                    waits = Waits::default();
                }
            }
            Ok(Err(error)) => debug!(%error, "no system bus"),
            Err(_) => debug!("the system bus does not answer"),
        }
        feed.know(Surroundings::default());
        let over = sleep(waits.take());
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                look = looks.recv() => match look {
                    // Whoever does not wait any longer gets no answer.
                    Some(look) => drop(look.send(Surroundings::default())),
                    None => return,
                },
            }
        }
    }
}

/// Waits between tries, of which each is twice the one before.
#[derive(Debug)]
struct Waits(Duration);

impl Default for Waits {
    fn default() -> Self {
        Self(RETRY_FIRST)
    }
}

impl Waits {
    fn take(&mut self) -> Duration {
        let next = (self.0 * 2).min(RETRY_MAX);
        std::mem::replace(&mut self.0, next)
    }
}

/// A bus, and logind if it is there.
struct Bus {
    connection: Connection,
    owners: NameOwnerChangedStream,
    logind: Option<Logind>,
}

impl Bus {
    async fn join(address: Option<&str>) -> zbus::Result<Self> {
        let builder = match address {
            Some(address) => Builder::address(address),
            None => Builder::system(),
        };
        let connection = builder.method_timeout(CALL_TIMEOUT).build().await?;
        let names = DBusProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let owners = names.receive_name_owner_changed_with_args(&[(0, LOGIND)]).await?;
        let owner = names.get_name_owner(BusName::try_from(LOGIND)?).await.ok();
        let logind = match owner {
            Some(owner) => Logind::meet(&connection, owner).await,
            None => None,
        };
        if logind.is_none() {
            debug!("there is no logind on the system bus");
        }
        Ok(Self {
            connection,
            owners,
            logind,
        })
    }

    async fn listen(mut self, feed: &mut Feed, looks: &mut mpsc::Receiver<Look>) -> End {
        let connection = self.connection.clone();
        loop {
            feed.know(Logind::known(self.logind.as_ref()));
            let ask_at = self.logind.as_ref().and_then(Logind::asks_at);
            tokio::select! {
                biased;
                () = connection.closed() => return End::Lost,
                change = self.owners.next() => {
                    let Some(change) = change else { return End::Lost };
                    let owner = change.args().ok().and_then(|args| args.new_owner().as_ref().map(|name| OwnedUniqueName::from(name.to_owned())));
                    self.logind = match owner {
                        Some(owner) => Logind::meet(&connection, owner).await,
                        None => None,
                    };
                    debug!(there = self.logind.is_some(), "logind came or went");
                }
                preparing = Logind::next(self.logind.as_mut()) => {
                    let Some(logind) = &mut self.logind else { continue };
                    logind.prepare(preparing, feed).await;
                }
                () = feed.acknowledgement() => {
                    if let Some(logind) = &mut self.logind {
                        logind.let_sleep();
                    }
                }
                () = sleep_until(ask_at.unwrap_or_else(Instant::now)), if ask_at.is_some() => {
                    if let Some(logind) = &mut self.logind {
                        logind.take_lock().await;
                    }
                }
                look = looks.recv() => {
                    let Some(look) = look else { return End::NotWanted };
                    if look.is_closed() {
                        continue;
                    }
                    let Some(logind) = &mut self.logind else {
                        let _ = look.send(Surroundings::default());
                        continue;
                    };
                    logind.read(LOOK_TIMEOUT).await;
                    // Whoever does not wait any longer gets no answer.
                    let _ = look.send(logind.seen);
                    logind.make_up_for_a_lost_word(feed).await;
                }
            }
        }
    }
}

/// One run of logind.
struct Logind {
    proxy: ManagerProxy<'static>,
    preparations: PrepareForSleepStream,
    /// What was read last.
    seen: Surroundings,
    /// Between the two words about a sleep, as far as they were heard.
    preparing: bool,
    /// logind waits before a sleep while this is open. zbus makes it a copy that programs we start do not inherit.
    lock: Option<OwnedFd>,
    /// When to ask for a lock that was refused.
    ask_at: Option<Instant>,
    waits: Waits,
}

impl Logind {
    /// Nothing if it is gone again.
    async fn meet(connection: &Connection, owner: OwnedUniqueName) -> Option<Self> {
        let proxy = ManagerProxy::builder(connection)
            .destination(owner)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .ok()?;
        let preparations = proxy.receive_prepare_for_sleep().await.ok()?;
        let mut logind = Self {
            proxy,
            preparations,
            seen: Surroundings::default(),
            preparing: false,
            lock: None,
            ask_at: None,
            waits: Waits::default(),
        };
        // Nobody waits for this one.
        logind.read(CALL_TIMEOUT).await;
        logind.preparing = logind.seen.preparing == Some(true);
        if !logind.preparing {
            logind.take_lock().await;
        }
        Some(logind)
    }

    /// What is known of a host with or without logind.
    fn known(this: Option<&Self>) -> Surroundings {
        this.map(|logind| logind.seen).unwrap_or_default()
    }

    /// Whether a sleep is prepared, when that changes; never where there is no logind.
    async fn next(this: Option<&mut Self>) -> bool {
        let Some(logind) = this else {
            return std::future::pending().await;
        };
        loop {
            match logind.preparations.next().await {
                Some(signal) => {
                    if let Ok(args) = signal.args() {
                        return *args.start();
                    }
                }
                // The bus is gone, which others see too.
                None => return std::future::pending().await,
            }
        }
    }

    /// When to ask again for a lock; not during a sleep that is prepared, which would not wait for it.
    fn asks_at(&self) -> Option<Instant> {
        self.ask_at.filter(|_| !self.preparing)
    }

    async fn prepare(&mut self, preparing: bool, feed: &Feed) {
        debug!(preparing, "logind prepares for sleep");
        self.seen.preparing = Some(preparing);
        self.preparing = preparing;
        if preparing {
            if !feed.say(PowerEvent::Sleeping) {
                self.lock = None;
            }
        } else {
            feed.say(PowerEvent::Resumed);
            self.take_lock().await;
        }
    }

    /// An acknowledgement that comes after the sleep is not one for the next.
    fn let_sleep(&mut self) {
        if self.preparing && self.lock.take().is_some() {
            debug!("the host may sleep");
        }
    }

    /// The end of a sleep that logind did not tell (systemd issue 30666), or told later than it could be read.
    async fn make_up_for_a_lost_word(&mut self, feed: &Feed) {
        if self.seen.preparing != Some(false) {
            return;
        }
        if std::mem::take(&mut self.preparing) {
            feed.say(PowerEvent::Resumed);
        }
        self.take_lock().await;
    }

    /// What cannot be read in time is not known.
    async fn read(&mut self, limit: Duration) {
        let proxy = &self.proxy;
        let read = async {
            let (preparing, lid_closed, docked, on_external_power) = tokio::join!(
                proxy.preparing_for_sleep(),
                proxy.lid_closed(),
                proxy.docked(),
                proxy.on_external_power(),
            );
            Surroundings {
                promise: Promise::Facts,
                preparing: preparing.ok(),
                lid_closed: lid_closed.ok(),
                docked: docked.ok(),
                on_external_power: on_external_power.ok(),
            }
        };
        self.seen = timeout(limit, read).await.unwrap_or(Surroundings {
            promise: Promise::Facts,
            ..Surroundings::default()
        });
    }

    /// Without the lock the word of a sleep still comes; only nobody waits for us.
    async fn take_lock(&mut self) {
        if self.lock.is_some() {
            return;
        }
        let why = "tells the gateway before the host sleeps";
        match self.proxy.inhibit("sleep", "marmot", why, "delay").await {
            Ok(lock) => {
                self.lock = Some(lock);
                self.ask_at = None;
                self.waits = Waits::default();
            }
            Err(error) => {
                // Ordinary users need polkit for it. Said once.
                match self.ask_at {
                    None => {
                        info!(%error, "logind grants no delay before a sleep: the gateway may not hear of it in time")
                    }
                    Some(_) => debug!(%error, "logind still grants no delay before a sleep"),
                }
                self.ask_at = Some(Instant::now() + self.waits.take());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let mut waits = Waits::default();
        let taken: Vec<u64> = std::iter::repeat_with(|| waits.take().as_secs()).take(11).collect();
        assert_eq!(taken, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}
