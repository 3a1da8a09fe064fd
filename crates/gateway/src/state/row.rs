//! One session as the file has it: JSON, with moments that can be compared after another boot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ledger::{JobId, Stamp};
use now::{Boot, Now};
use serde::{Deserialize, Serialize};
use session::Traffic;
use session::gateway::{CookieHash, Kept, Lease, SessionId, Since, TokenHash};
use session::park::ParkKind;
use wire::offer::ParkKey;

use crate::accounts;

/// What the gateway knows of a session, table and records together.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) kept: Kept,
    /// When it had its first connection.
    pub(crate) started: Stamp,
    /// Where its newest connection came from.
    pub(crate) peer: IpAddr,
    /// How many it has had.
    pub(crate) connections: u64,
    /// What connections that are over have carried.
    pub(crate) traffic: Traffic,
}

/// The same, as written. Members may be added; what an older version does not know it passes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    #[serde(skip)]
    id: Option<SessionId>,
    user: String,
    group: Option<String>,
    certified: bool,
    cookie_sha256: Option<String>,
    public_key: Option<String>,
    logout_sha256: Option<String>,
    epoch: u64,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    began: Stamp,
    parked: Option<(Kind, Stamp)>,
    last_word: Option<Stamp>,
    tickets_until: Option<Stamp>,
    started: Stamp,
    peer: IpAddr,
    connections: u64,
    /// Packets and bytes in, packets and bytes out.
    carried: [u64; 4],
}

/// [`ParkKind`], in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Announced,
    Frozen,
    Unreachable,
}

impl From<ParkKind> for Kind {
    fn from(kind: ParkKind) -> Self {
        match kind {
            ParkKind::Announced => Self::Announced,
            ParkKind::Frozen => Self::Frozen,
            ParkKind::Unreachable => Self::Unreachable,
        }
    }
}

impl From<Kind> for ParkKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Announced => Self::Announced,
            Kind::Frozen => Self::Frozen,
            Kind::Unreachable => Self::Unreachable,
        }
    }
}

impl Row {
    pub(super) fn new(memory: &Memory, now: Now, boot_id: &str) -> Self {
        let Memory {
            kept,
            started,
            peer,
            connections,
            traffic,
        } = memory;
        let since = |since: Since| stamp_before(since.age(now.boot), now, boot_id);
        Self {
            id: Some(kept.id),
            user: kept.user.clone(),
            group: kept.group.clone(),
            certified: kept.certified,
            cookie_sha256: kept.cookie.map(|hash| hex::encode(hash.0)),
            public_key: kept.key.map(|key| hex::encode(key.0)),
            logout_sha256: kept.token.map(|token| hex::encode(token.0)),
            epoch: kept.epoch,
            v4: kept.lease.v4,
            v6: kept.lease.v6,
            began: since(kept.began),
            parked: kept.parked.map(|(kind, at)| (kind.into(), since(at))),
            last_word: kept.last_word.map(since),
            tickets_until: kept.tickets_until.map(|until| stamp_at(until, now, boot_id)),
            started: started.clone(),
            peer: *peer,
            connections: *connections,
            carried: [
                traffic.packets_in,
                traffic.bytes_in,
                traffic.packets_out,
                traffic.bytes_out,
            ],
        }
    }

    /// The name of its record in the ledger.
    pub(crate) fn job(&self) -> Option<JobId> {
        Some(accounts::job(self.id?, &self.started))
    }

    pub(super) fn parse(id: SessionId, json: &[u8]) -> Option<Self> {
        let mut row: Self = serde_json::from_slice(json).ok()?;
        let digits = |text: &Option<String>| text.as_deref().is_none_or(|text| bytes_of(text).is_some());
        row.id = Some(id);
        (digits(&row.cookie_sha256) && digits(&row.public_key) && digits(&row.logout_sha256)).then_some(row)
    }

    /// What it means now.
    pub(crate) fn memory(&self, now: Now, boot_id: &str) -> Option<Memory> {
        let present = stamp_at(now.boot, now, boot_id);
        let since = |stamp: &Stamp| Since::ago(Duration::from_millis(present.ms_since(stamp)), now.boot);
        let array = |text: &Option<String>| text.as_deref().and_then(bytes_of);
        let [packets_in, bytes_in, packets_out, bytes_out] = self.carried;
        Some(Memory {
            kept: Kept {
                id: self.id?,
                user: self.user.clone(),
                group: self.group.clone(),
                certified: self.certified,
                cookie: array(&self.cookie_sha256).map(CookieHash),
                key: array(&self.public_key).map(ParkKey),
                token: array(&self.logout_sha256).map(TokenHash),
                epoch: self.epoch,
                lease: Lease {
                    v4: self.v4,
                    v6: self.v6,
                },
                began: since(&self.began),
                parked: self.parked.as_ref().map(|(kind, at)| ((*kind).into(), since(at))),
                last_word: self.last_word.as_ref().map(since),
                tickets_until: self.tickets_until.as_ref().map(|until| until_of(until, now, boot_id)),
            },
            started: self.started.clone(),
            peer: self.peer,
            connections: self.connections,
            traffic: Traffic {
                packets_in,
                bytes_in,
                packets_out,
                bytes_out,
                ..Traffic::default()
            },
        })
    }
}

/// The stamp of a moment of the boot clock that may be yet to come.
pub(super) fn stamp_at(at: Boot, now: Now, boot_id: &str) -> Stamp {
    let wall = match at.since(now.boot) {
        Duration::ZERO => now.wall.since_origin().saturating_sub(now.boot.since(at)),
        ahead => now.wall.since_origin().saturating_add(ahead),
    };
    Stamp {
        wall_ms: ms(wall),
        boot_ms: ms(at.since_origin()),
        boot_id: boot_id.to_owned(),
    }
}

/// The moment of this boot that a stamp stands for; now, if it is past.
pub(crate) fn until_of(until: &Stamp, now: Now, boot_id: &str) -> Boot {
    let present = stamp_at(now.boot, now, boot_id);
    now.boot.plus(Duration::from_millis(until.ms_since(&present)))
}

/// The stamp of a moment `age` ago, which may be before the host booted: the boot it names is then none, and the wall clock
/// counts.
fn stamp_before(age: Duration, now: Now, boot_id: &str) -> Stamp {
    let of_this_boot = now.boot.since_origin().checked_sub(age);
    Stamp {
        wall_ms: ms(now.wall.since_origin().saturating_sub(age)),
        boot_ms: of_this_boot.map_or(0, ms),
        boot_id: of_this_boot.map_or("", |_| boot_id).to_owned(),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}
