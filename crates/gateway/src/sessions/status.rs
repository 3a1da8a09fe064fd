//! Sessions as the local socket shows them, and the order to end one.

use std::time::Duration;

use api::{Attendance, GatewayCounters, GatewaySession, GatewaySessions, Kicked, MAX_SESSIONS, SessionCounts};
use now::Now;
use packet::{DropCounters, DropReason};
use session::EndReason;
use session::gateway::{Entry, Presence, SessionId, Since};

use super::{Record, SessionRoom};

/// Why a session ends that the administrator ended.
const KICKED: &str = "ended by the administrator";

impl SessionRoom {
    /// All sessions, those that began first first, as many as fit into one answer.
    pub(crate) fn describe(&self, now: Now) -> GatewaySessions {
        let table = self.table.borrow();
        let records = self.records.borrow();
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(id, entry)| (std::cmp::Reverse(entry.began().age(now.boot)), *id));
        GatewaySessions {
            sessions: entries
                .iter()
                .take(MAX_SESSIONS)
                .map(|(id, entry)| session(*id, entry, records.get(id), now))
                .collect(),
            left_out: entries.len().saturating_sub(MAX_SESSIONS) as u64,
            counters: self.totals(),
        }
    }

    /// How many sessions are in which state.
    pub(crate) fn counts(&self) -> SessionCounts {
        let records = self.records.borrow();
        let mut counts = SessionCounts::default();
        for (id, entry) in self.table.borrow().iter() {
            *match attendance(entry, records.get(&id)) {
                Attendance::Connected => &mut counts.connected,
                Attendance::Quiet => &mut counts.quiet,
                Attendance::Parked => &mut counts.parked,
                Attendance::Waiting => &mut counts.waiting,
            } += 1;
        }
        counts
    }

    /// What became of sessions, and of packets, since the start.
    pub(crate) fn totals(&self) -> GatewayCounters {
        let counters = self.counters();
        let mut drops = counters.drops;
        drops.add(&self.crew.drops());
        for record in self.records.borrow().values() {
            drops.add(&record.drops());
        }
        let words = |counts: std::collections::BTreeMap<&'static str, u64>| {
            counts
                .into_iter()
                .map(|(word, count)| (word.to_owned(), count))
                .collect()
        };
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| (reason.word().to_owned(), drops.of(*reason)));
        GatewayCounters {
            parks_total: words(counters.parks),
            unparks_total: words(counters.unparks),
            disconnects_total: words(counters.disconnects),
            packets_dropped_total: dropped.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Ends a session by order of the administrator, and refuses its tickets.
    pub(crate) fn kick(&self, id: SessionId, now: Now) -> Option<Kicked> {
        let reason = EndReason::Admin(KICKED.to_owned());
        let ended = self.table.borrow_mut().end(id, None, reason, now)?;
        let kicked = Kicked {
            id: id.to_string(),
            user: ended.user.clone(),
        };
        self.all_over([ended], now);
        self.changed.notify_one();
        Some(kicked)
    }
}

impl Record {
    /// Of all its connections, the one that lives as far as it has reported.
    fn drops(&self) -> DropCounters {
        let mut drops = self.traffic.drops;
        drops.add(&self.report.traffic.drops);
        drops.add(&self.losses.read());
        drops
    }
}

fn attendance(entry: &Entry, record: Option<&Record>) -> Attendance {
    match (entry.parked(), entry.presence()) {
        (Some(_), _) => Attendance::Parked,
        (None, Presence::Connected | Presence::DataOnly) => match record.is_some_and(|record| record.report.quiet) {
            true => Attendance::Quiet,
            false => Attendance::Connected,
        },
        (None, Presence::Waiting(_)) => Attendance::Waiting,
    }
}

fn session(id: SessionId, entry: &Entry, record: Option<&Record>, now: Now) -> GatewaySession {
    let unix_ms = |since: Since| ms(now.wall.since_origin().saturating_sub(since.age(now.boot)));
    let mut traffic = record.map(|record| record.traffic).unwrap_or_default();
    traffic.add(&record.map(|record| record.report.traffic).unwrap_or_default());
    GatewaySession {
        id: id.to_string(),
        user: entry.user().to_owned(),
        group: entry.group().map(str::to_owned),
        addresses: entry.lease().addresses().collect(),
        peer: record.map(|record| record.account.peer),
        state: attendance(entry, record),
        parked: entry.parked().map(|parked| parked.kind.word().to_owned()),
        parked_since_unix_ms: entry.parked().map(|parked| unix_ms(parked.since)),
        wakes: entry.parked().map_or(0, |parked| parked.wakes.into()),
        began_unix_ms: unix_ms(entry.began()),
        epoch: entry.epoch(),
        entrance: record.and_then(|record| Some(record.entrance?.word().to_owned())),
        control: entry.presence() == Presence::Connected,
        data_channel: match entry.presence() {
            Presence::Connected => record.is_some_and(|record| record.report.data_channel),
            Presence::DataOnly => true,
            Presence::Waiting(_) => false,
        },
        can_park: entry.can_park(),
        traffic: api::Traffic {
            packets_in: traffic.packets_in,
            bytes_in: traffic.bytes_in,
            packets_out: traffic.packets_out,
            bytes_out: traffic.bytes_out,
            dropped: traffic.drops.total(),
        },
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
