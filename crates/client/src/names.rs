//! Who on this host is told of the tunnel's name servers: one task, that does one thing after the other.
//!
//! ```text
//!   install --- apply, waits a moment ---> task: Resolver --> status, log (applied, lost, back)
//!   release --- revert, waits a moment --> task               what comes late is residue, and done all the same
//! ```
//! A tunnel whose name servers nobody takes is a tunnel all the same: that is a warning, and stands in its status.

use std::time::Duration;

use config::DnsMode;
use plan::Dns;
use platform::PlatformError;
use platform::dns::{Applied, Mode, Places, Resolver, State, Way};
use platform::network::Restored;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::status::{DnsStatus, Status};

/// How long a tunnel waits for its name servers before it is up. They need some milliseconds, with a helper to be started some ten.
const APPLY_WITHIN: Duration = Duration::from_secs(3);

/// How long a stop waits: within the budget of its acknowledgement (250 ms), beside the rules and the link.
const REVERT_WITHIN: Duration = Duration::from_millis(150);

/// How long a start, or a clean-up, waits for what an earlier run left to be taken back. It may have to start the helper.
const CLEAR_WITHIN: Duration = Duration::from_secs(5);

/// Orders that wait: an apply, and the revert that overtakes it.
const ORDERS: usize = 4;

enum Order {
    /// The process before has applied them.
    Inherit {
        index: u32,
        dns: Dns,
    },
    Apply {
        index: u32,
        dns: Dns,
        done: oneshot::Sender<()>,
    },
    Revert {
        done: oneshot::Sender<Option<String>>,
    },
}

/// The name servers of a tunnel on this host.
#[derive(Debug)]
pub(crate) struct Names {
    interface: String,
    resolver: Resolver,
    orders: mpsc::Sender<Order>,
    /// Whoever waits for an apply goes on without it, also who comes to wait only now: until they are taken back.
    hurry: watch::Sender<bool>,
    status: watch::Receiver<Option<DnsStatus>>,
}

impl Names {
    /// Nothing is touched yet. `status` is told whatever becomes of them. Needs a runtime.
    pub(crate) fn new(config: &config::Dns, interface: &str, status: watch::Sender<Status>) -> Self {
        let mode = match config.mode {
            DnsMode::Auto => Some(Mode::Auto),
            DnsMode::Resolved => Some(Mode::Resolved),
            DnsMode::Resolvconf => Some(Mode::Resolvconf),
            DnsMode::File => Some(Mode::File),
            DnsMode::Off => None,
        };
        let places = Places {
            helper: config.helper.clone(),
            ..Places::default()
        };
        let resolver = Resolver::new(mode.unwrap_or_default(), places);
        let (orders, queue) = mpsc::channel(ORDERS);
        let (told, current) = watch::channel(None);
        let keeper = Keeper {
            interface: interface.to_owned(),
            resolver: resolver.clone(),
            tells_nobody: mode.is_none(),
            inherited: false,
            applied: None,
            told,
            status,
        };
        tokio::spawn(keeper.run(queue));
        Self {
            interface: interface.to_owned(),
            resolver,
            orders,
            hurry: watch::Sender::new(false),
            status: current,
        }
    }

    /// How they are now; `None` while there are none.
    pub(crate) fn status(&self) -> Option<DnsStatus> {
        self.status.borrow().clone()
    }

    /// Goes on with what the process before had put to use.
    pub(crate) fn inherit(&self, index: u32, dns: &Dns) {
        let dns = dns.clone();
        // The first order of all finds room.
        let _ = self.orders.try_send(Order::Inherit { index, dns });
    }

    /// Puts `dns` to use for the device with this index, in place of what there was; nothing is done if it is the same. What takes long goes on
    /// alone.
    pub(crate) async fn apply(&self, index: u32, dns: &Dns) {
        let (done, waits) = oneshot::channel();
        let order = Order::Apply {
            index,
            dns: dns.clone(),
            done,
        };
        let work = async {
            // It lives as long as we do.
            let _ = self.orders.send(order).await;
            let _ = waits.await;
        };
        let mut hurry = self.hurry.subscribe();
        let hurried = async { drop(hurry.wait_for(|hurried| *hurried).await) };
        tokio::select! {
            // The order goes out even if nobody may wait for it.
            biased;
            () = work => {}
            () = hurried => {}
            () = tokio::time::sleep(APPLY_WITHIN) => warn!("the resolver of this host takes its time; the tunnel is up without its name servers"),
        }
    }

    /// Has whoever waits for [`Names::apply`], or calls it before [`Names::revert`], go on: a stop must not wait.
    pub(crate) fn hurry(&self) {
        self.hurry.send_replace(true);
    }

    /// Takes them back. What is still there when it returns is named.
    pub(crate) async fn revert(&self) -> Option<String> {
        self.hurry.send_replace(false);
        let (done, waits) = oneshot::channel();
        let work = async {
            let _ = self.orders.send(Order::Revert { done }).await;
            waits.await.unwrap_or_default()
        };
        let late = || {
            Some(format!(
                "dns: the name servers of {} are still being taken back",
                self.interface
            ))
        };
        timeout(REVERT_WITHIN, work).await.unwrap_or_else(|_| late())
    }

    /// Takes back what a process that is gone left for the device `interface`; `recorded` says that a record has name servers.
    pub(crate) async fn clear(&self, interface: &str, recorded: bool) -> Restored {
        let cleared = timeout(CLEAR_WITHIN, self.resolver.clear(interface, recorded)).await;
        cleared.unwrap_or_else(|_| {
            Restored::unfinished(format!(
                "dns: the name servers of {interface} are still being taken back"
            ))
        })
    }
}

/// The other end.
struct Keeper {
    interface: String,
    resolver: Resolver,
    /// `[dns] mode = "off"`.
    tells_nobody: bool,
    /// The process before may have told somebody.
    inherited: bool,
    applied: Option<InUse>,
    told: watch::Sender<Option<DnsStatus>>,
    status: watch::Sender<Status>,
}

struct InUse {
    index: u32,
    dns: Dns,
    applied: Result<Applied, PlatformError>,
    state: watch::Receiver<State>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Inherit { index, dns }) => {
                        self.inherited = dns.is_usable();
                        self.apply(index, dns).await;
                    }
                    Some(Order::Apply { index, dns, done }) => {
                        self.apply(index, dns).await;
                        // Whoever does not wait any more is told by the status.
                        let _ = done.send(());
                    }
                    Some(Order::Revert { done }) => {
                        let residue = self.revert().await;
                        let _ = done.send(residue);
                    }
                    None => return,
                },
                state = changed(self.applied.as_mut()) => self.changed(&state),
            }
        }
    }

    async fn apply(&mut self, index: u32, dns: Dns) {
        let same = |in_use: &InUse| in_use.index == index && in_use.dns == dns && in_use.applied.is_ok();
        if self.applied.as_ref().is_some_and(same) {
            return;
        }
        if !dns.is_usable() {
            if let Some(residue) = self.revert().await {
                warn!("{residue}");
            }
            return;
        }
        if self.tells_nobody {
            let why = "[dns] mode is \"off\"".to_owned();
            return self.say(Some(DnsStatus::new(&dns, None, Some(why))));
        }
        let applied = self.resolver.apply(&self.interface, index, &dns).await;
        // One that was there is replaced by this one; its task ends.
        self.applied = None;
        let state = match &applied {
            Ok(applied) => {
                if let Some(note) = applied.note() {
                    warn!(way = applied.way().word(), "{note}");
                }
                applied.state()
            }
            Err(error) => watch::channel(State::Lost(error.to_string())).1,
        };
        let first = state.borrow().clone();
        self.applied = Some(InUse {
            index,
            dns,
            applied,
            state,
        });
        self.changed(&first);
    }

    fn changed(&self, state: &State) {
        let Some(in_use) = &self.applied else { return };
        let way = in_use.applied.as_ref().ok().map(Applied::way);
        let everything = in_use.dns.takes_everything() || way != Some(Way::Resolved);
        let problem = match state {
            State::Applied => {
                info!(
                    way = way.map(Way::word),
                    servers = crate::report::list(&in_use.dns.servers),
                    everything,
                    "name servers applied"
                );
                None
            }
            State::Lost(why) => {
                warn!(way = way.map(Way::word), "name servers are not applied: {why}");
                Some(why.clone())
            }
        };
        self.say(Some(DnsStatus::new(&in_use.dns, way, problem)));
    }

    async fn revert(&mut self) -> Option<String> {
        self.say(None);
        let inherited = std::mem::take(&mut self.inherited);
        let applied = match self.applied.take().map(|in_use| in_use.applied) {
            Some(Ok(applied)) => applied,
            None if !inherited => return None,
            // What was tried in vain, or by somebody else, may be there all the same.
            Some(Err(_)) | None => {
                let cleared = self.resolver.clear(&self.interface, true).await;
                return cleared.residue().first().map(|residue| format!("dns: {residue}"));
            }
        };
        match self.resolver.revert(&self.interface, applied).await {
            Ok(reverted) => {
                if let Some(note) = reverted.note {
                    warn!("{note}");
                }
                None
            }
            Err(error) => Some(format!("dns: {error}")),
        }
    }

    fn say(&self, dns: Option<DnsStatus>) {
        self.status.send_if_modified(|status| match &mut status.tunnel {
            Some(tunnel) if tunnel.dns != dns => {
                tunnel.dns.clone_from(&dns);
                true
            }
            Some(_) | None => false,
        });
        self.told.send_replace(dns);
    }
}

/// The next change of what is in use.
async fn changed(in_use: Option<&mut InUse>) -> State {
    if let Some(in_use) = in_use
        && in_use.state.changed().await.is_ok()
    {
        return in_use.state.borrow_and_update().clone();
    }
    std::future::pending().await
}
