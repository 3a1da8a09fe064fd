//! Sessions over a restart: what is written of each that changed, and what comes back.

use std::time::Duration;

use now::Now;
use session::gateway::{Reservation, SessionId};
use tracing::{debug, info};
use wire::text::escape;

use super::{Record, STOPPING, SessionRoom};
use crate::state::{Left, Memory, until_of};

impl SessionRoom {
    /// Writes what a session is now. Nothing of a login that never had a connection.
    pub(super) fn keep(&self, id: SessionId, now: Now) {
        if !self.store.keeps() {
            return;
        }
        let Some(kept) = self.table.borrow().kept(id) else {
            return;
        };
        let records = self.records.borrow();
        let Some(record) = records.get(&id) else { return };
        let memory = Memory {
            kept,
            started: record.account.started().clone(),
            peer: record.account.peer,
            connections: record.connections,
            traffic: record.traffic,
        };
        self.store.put(&memory, now);
    }

    /// Writes what all sessions are, because the gateway stops: their clients have been heard of until now.
    pub(super) fn keep_all(&self, now: Now) {
        let all: Vec<_> = {
            let table = self.table.borrow();
            table
                .iter()
                .map(|(id, entry)| (id, entry.epoch(), entry.has_tunnel()))
                .collect()
        };
        for (id, epoch, has_tunnel) in all {
            // Of tunnels that did not report in time.
            if has_tunnel {
                self.detach(id, epoch, STOPPING, now);
            }
        }
    }

    /// Forgets sessions whose last ticket is over, some at a time, in the file too.
    pub(super) fn forget_revoked(&self, now: Now) {
        let forgotten = self.table.borrow_mut().forget_revoked(now);
        for id in forgotten {
            self.store.ended(id, None, now);
            // One that was pushed out may have come back with its ticket meanwhile.
            self.keep(id, now);
        }
    }

    /// Waits until all sessions are written, at most `limit`.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.store.finish(limit).await;
    }

    /// Puts back what the run before has left, to wait for the clients. Those whose time is over end now, and so do those of
    /// users who may not be here any more.
    pub(crate) fn restore(
        &self,
        left: &Left,
        reserved: impl Fn(&str) -> Reservation,
        may_stay: impl Fn(&str, Option<&str>) -> bool,
        now: Now,
    ) {
        let boot_id = platform::clock::boot_id();
        if left.is_lost {
            self.table.borrow_mut().state_is_lost(now);
        }
        for (id, until) in &left.revoked {
            let until = until_of(until, now, &boot_id);
            if until > now.boot {
                self.table.borrow_mut().revoke(*id, until);
            } else {
                self.store.ended(*id, None, now);
            }
        }
        let mut parked = 0_u64;
        for memory in left.sessions.iter().filter_map(|row| row.memory(now, &boot_id)) {
            parked += u64::from(memory.kept.parked.is_some());
            self.put_back(memory, &reserved, now);
        }
        let restored = self.len();
        let gone = self.table.borrow_mut().retain_users(may_stay, now);
        self.all_over(gone, now);
        let over = self.table.borrow_mut().expire(now);
        self.all_over(over, now);
        if restored > 0 {
            let ended = restored - self.len();
            info!(sessions = restored, parked, ended, "sessions.restored");
        }
        self.changed.notify_one();
    }

    fn put_back(&self, memory: Memory, reserved: impl Fn(&str) -> Reservation, now: Now) {
        let Memory {
            kept,
            started,
            peer,
            connections,
            traffic,
        } = memory;
        let (id, epoch, had, user) = (kept.id, kept.epoch, kept.lease, kept.user.clone());
        let lease = self.table.borrow_mut().restore(kept, reserved(&user), now);
        if lease != had {
            debug!(session = %id, "an address of before is not free any more; its session gets another");
        }
        let account = self.accounts.resumed(id, &user, started, peer);
        let record = Record {
            epoch,
            connections,
            traffic,
            ..Record::new(escape(&user), account, lease)
        };
        // For the counters of what comes for it while it waits.
        self.crew.waits(id, &lease, &record.losses);
        self.records.borrow_mut().insert(id, record);
    }
}
