//! What the host's connection tracking knows of addresses that are given back: deleted, so that whoever gets one next gets nothing of the flows
//! of who had it before, and what a flow was translated to leads nowhere any more.
//!
//! ```text
//!   session over --forget()--> pending --one look through the kernel's table for all of them, on a thread that may wait--> gone
//!   new holder's grant --gone()--> waits for that, for its own addresses
//! ```

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use platform::conntrack;
use session::gateway::Lease;
use tokio::sync::Notify;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long a new holder waits for the flows of the last one to go. A table of 262,144 entries is looked through in a fraction of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the stop of a gateway waits for it.
const STOP: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Flows(Option<Rc<Desk>>);

#[derive(Debug, Default)]
struct Desk {
    /// Given back, and not looked for yet.
    pending: RefCell<BTreeSet<IpAddr>>,
    /// Being looked for; nothing if nobody looks.
    sought: RefCell<BTreeSet<IpAddr>>,
    changed: Notify,
}

impl Flows {
    /// Where nothing is tracked: a device in memory.
    pub(crate) fn nowhere() -> Self {
        Self::default()
    }

    /// Those of the network of this host. Needs a `LocalSet` from then on.
    pub(crate) fn of_this_host() -> Self {
        Self(Some(Rc::default()))
    }

    /// Begins to delete what is known of the addresses of a lease.
    pub(crate) fn forget(&self, lease: &Lease) {
        let Some(desk) = &self.0 else { return };
        let is_idle = desk.pending.borrow().is_empty() && desk.sought.borrow().is_empty();
        desk.pending.borrow_mut().extend(lease.addresses());
        if is_idle && !desk.pending.borrow().is_empty() {
            spawn_local(Rc::clone(desk).work());
        }
    }

    /// Waits until nothing is known any more of what others had under the addresses of this lease.
    pub(crate) async fn gone(&self, lease: &Lease) {
        let waits = |desk: &Desk| lease.addresses().any(|address| desk.has(address));
        self.wait(waits, PATIENCE).await;
    }

    /// Waits until all is deleted, as far as the stop of a gateway may wait.
    pub(crate) async fn all_gone(&self) {
        let waits = |desk: &Desk| !desk.pending.borrow().is_empty() || !desk.sought.borrow().is_empty();
        self.wait(waits, STOP).await;
    }

    async fn wait(&self, waits: impl Fn(&Desk) -> bool, limit: Duration) {
        let Some(desk) = &self.0 else { return };
        let done = async {
            loop {
                let changed = desk.changed.notified();
                if !waits(desk) {
                    return;
                }
                changed.await;
            }
        };
        if timeout(limit, done).await.is_err() {
            warn!("the flows of a released address are not deleted yet; the host's connection tracking is slow");
        }
    }
}

impl Desk {
    fn has(&self, address: IpAddr) -> bool {
        self.pending.borrow().contains(&address) || self.sought.borrow().contains(&address)
    }

    async fn work(self: Rc<Self>) {
        loop {
            let sought = std::mem::take(&mut *self.pending.borrow_mut());
            if sought.is_empty() {
                return;
            }
            *self.sought.borrow_mut() = sought.clone();
            match spawn_blocking(move || conntrack::forget(&sought)).await {
                Ok(Ok(0)) => {}
                Ok(Ok(deleted)) => debug!(deleted, "flows of released addresses deleted"),
                Ok(Err(error)) => warn!(%error, "cannot delete the flows of released addresses"),
                Err(_) => warn!("cannot delete the flows of released addresses: a panic"),
            }
            self.sought.borrow_mut().clear();
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Waker};
    use tokio::task::LocalSet;

    #[test]
    fn a_new_holder_waits_for_what_its_addresses_had() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let lease = |last: u8| Lease {
            v4: Some([10, 78, 0, last].into()),
            v6: None,
        };
        LocalSet::new().block_on(&runtime, async {
            let flows = Flows::of_this_host();
            let desk = Rc::clone(flows.0.as_ref().expect("a desk"));
            // Somebody looks.
            desk.sought.borrow_mut().extend(lease(2).addresses());
            flows.forget(&lease(3));
            flows.gone(&lease(4)).await;
            let taken = lease(3);
            let mut waits = Box::pin(flows.gone(&taken));
            let mut context = Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending(), "not looked for yet");
            desk.pending.borrow_mut().clear();
            desk.sought.borrow_mut().clear();
            desk.changed.notify_waiters();
            assert!(waits.as_mut().poll(&mut context).is_ready());
        });
    }
}
