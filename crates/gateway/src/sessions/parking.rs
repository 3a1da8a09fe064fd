//! What is said and counted of clients that are silent, and what tunnels report while they carry.

use std::collections::BTreeMap;

use now::Now;
use packet::DropCounters;
use session::gateway::{Entrance, Parked, SessionId};
use session::park::{ParkKind, Via};
use session::{EndReason, Traffic};
use tracing::{debug, info};

use super::SessionRoom;

/// What became of sessions since the gateway started, by the words of logs and metrics. Never larger than those are many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// By kind; a session whose kind changes is counted once.
    pub(crate) parks: BTreeMap<&'static str, u64>,
    /// By the way back.
    pub(crate) unparks: BTreeMap<&'static str, u64>,
    /// Sessions that ended, by reason, but those that their users stopped.
    pub(crate) disconnects: BTreeMap<&'static str, u64>,
    /// Packets of sessions that are over.
    pub(crate) drops: DropCounters,
}

impl Counters {
    pub(super) fn ended(&mut self, reason: &EndReason, drops: &DropCounters) {
        self.drops.add(drops);
        match reason {
            EndReason::UserStop => {}
            EndReason::Admin(_)
            | EndReason::AuthExpired
            | EndReason::Idle
            | EndReason::ParkTtl
            | EndReason::Replaced
            | EndReason::Fatal(_) => *self.disconnects.entry(reason.word()).or_default() += 1,
        }
    }
}

/// What a tunnel reports from time to time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// What it has carried so far.
    pub(crate) traffic: Traffic,
    /// Whether the data channel carries packets.
    pub(crate) data_channel: bool,
    /// Whether the client's applications are silent, but not for so long that it is parked.
    pub(crate) quiet: bool,
}

impl SessionRoom {
    /// The client of this connection is silent, for this reason. Says so if it was not parked yet.
    pub(crate) fn parked(&self, id: SessionId, epoch: u64, kind: ParkKind, now: Now) {
        let Some(gave_way) = self.table.borrow_mut().park(id, epoch, kind, now) else {
            return;
        };
        *self.counters.borrow_mut().parks.entry(kind.word()).or_default() += 1;
        let user = self.user_for_logs(id);
        info!(session = %id, %kind, user = user.as_str(), "session.park");
        self.all_over(gave_way, now);
        self.keep(id, now);
        self.changed.notify_one();
    }

    /// The client of this connection is back without a new one. Says so if it was parked.
    pub(crate) fn unparked(&self, id: SessionId, epoch: u64, via: Via, now: Now) {
        let parked = self.table.borrow_mut().unpark(id, epoch, now);
        if let Some(parked) = parked {
            self.back(id, parked, (via, None), now);
            self.keep(id, now);
            self.changed.notify_one();
        }
    }

    /// A parked client said something and stays parked: a maintenance wake, that begins if it `is_new` or else goes on. Its
    /// time begins anew.
    pub(crate) fn stirred(&self, id: SessionId, epoch: u64, is_new: bool, now: Now) {
        if self.table.borrow_mut().stirred(id, epoch, is_new, now) {
            self.keep(id, now);
            self.changed.notify_one();
        }
    }

    /// The control connection is gone; the tunnel goes on with the data channel. Its packets still come to its queue.
    pub(crate) fn control_lost(&self, id: SessionId, epoch: u64, why: &str, _now: Now) {
        if self.table.borrow_mut().control_lost(id, epoch) {
            debug!(session = %id, epoch, why, "path.lost");
        }
    }

    /// What became of sessions so far.
    pub(crate) fn counters(&self) -> Counters {
        self.counters.borrow().clone()
    }

    /// What the tunnel of this connection has done so far; for status alone.
    pub(crate) fn report(&self, id: SessionId, epoch: u64, report: Report) {
        if let Some(record) = self
            .records
            .borrow_mut()
            .get_mut(&id)
            .filter(|record| record.epoch == epoch)
        {
            record.report = report;
        }
    }

    /// Nothing of the connection is left; the session waits.
    pub(super) fn detach(&self, id: SessionId, epoch: u64, why: &str, now: Now) {
        if !self.table.borrow_mut().detach(id, epoch, now) {
            return;
        }
        if let Some(record) = self.records.borrow().get(&id) {
            self.crew.unplug(id, &record.lease);
        }
        self.keep(id, now);
        debug!(session = %id, epoch, why, "session detached");
    }

    /// Parks the sessions that have waited for so long that it is worth a line.
    pub(super) fn park_the_unreachable(&self, now: Now) {
        let due = self.table.borrow().unreachable(now);
        for (id, epoch) in due {
            self.parked(id, epoch, ParkKind::Unreachable, now);
        }
    }

    /// Says that a parked session is not parked any more, and by what a new connection got it.
    pub(super) fn back(&self, id: SessionId, parked: Parked, (via, entrance): (Via, Option<Entrance>), now: Now) {
        *self.counters.borrow_mut().unparks.entry(via.word()).or_default() += 1;
        let user = self.user_for_logs(id);
        info!(
            session = %id,
            gap_s = parked.since.age(now.boot).as_secs(),
            wakes = parked.wakes,
            %via,
            by = entrance.map(tracing::field::display),
            user = user.as_str(),
            "session.unpark"
        );
    }

    fn user_for_logs(&self, id: SessionId) -> String {
        let records = self.records.borrow();
        records.get(&id).map(|record| record.user.clone()).unwrap_or_default()
    }
}
