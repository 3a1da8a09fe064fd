//! What the outside world remembers of each session: what was promised for it, and what was done.

use ledger::{Chore, JobId, OpenRecord, Role, SessionFacts, Stamp, Token};
use plan::{NetworkPlan, Undo};

use crate::gateway::Epoch;
use crate::host::Mark;
use crate::process::Process;

/// One session's record, and what became of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: OpenRecord,
    pub(crate) mark: Mark,
    /// The epoch that the record was last made for.
    pub(crate) epoch: Epoch,
    /// There is no session: an armed tunnel's record, which says how to clean the host and nothing else.
    pub(crate) bare: bool,
    /// The ledger said that the record is durable.
    pub(crate) opened: bool,
    /// The ledger was asked to take the record back.
    pub(crate) withdrawn: bool,
    /// The ledger gave a receipt for these facts.
    pub(crate) receipt: Option<u64>,
    /// Its stop waits for its acknowledgement.
    pub(crate) unacknowledged: bool,
    /// Who has the job in hand.
    pub(crate) at_work: Option<Process>,
    pub(crate) logouts: u32,
    pub(crate) hooks: u32,
}

impl Entry {
    /// Whether its work must be done.
    pub(crate) fn is_promised(&self) -> bool {
        !self.bare && (self.receipt.is_some() || self.opened && !self.withdrawn)
    }
}

/// All sessions of a schedule.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Whether jobs end with pruning.
    pub(crate) prunes: bool,
    pub(crate) entries: Vec<Entry>,
}

impl Books {
    /// Makes the record of a new session, and returns its number.
    pub(crate) fn add(&mut self, mark: Mark, epoch: Epoch, generation: u64, random: u64, started: Stamp) -> usize {
        let mut chores = vec![
            Chore::Account,
            Chore::Logout {
                token_expires_ms: None,
                token: token(epoch),
            },
            Chore::Hooks,
        ];
        if self.prunes {
            chores.push(Chore::Prune);
        }
        let record = OpenRecord {
            id: JobId::new(started.wall_ms / 1000, random),
            tunnel: "t".to_owned(),
            role: Role::Client,
            generation,
            facts: SessionFacts {
                gateway: "g".to_owned(),
                started,
                ..SessionFacts::default()
            },
            undo: Some(Undo {
                slot: 1,
                interface: mark.0.to_string(),
                plan: NetworkPlan::default(),
            }),
            chores,
        };
        self.entries.push(Entry {
            record,
            mark,
            epoch,
            bare: false,
            opened: false,
            withdrawn: false,
            receipt: None,
            unacknowledged: false,
            at_work: None,
            logouts: 0,
            hooks: 0,
        });
        self.entries.len() - 1
    }

    /// Makes the record of a tunnel without a session, and returns its number.
    pub(crate) fn add_bare(&mut self, mark: Mark, generation: u64, random: u64, started: Stamp) -> usize {
        let nobody = Epoch { session: 0, epoch: 0 };
        let number = self.add(mark, nobody, generation, random, started);
        let entry = &mut self.entries[number];
        entry.bare = true;
        entry.record.chores.clear();
        number
    }

    /// The record again, for a later epoch.
    pub(crate) fn renew(&mut self, number: usize, epoch: Epoch) {
        let entry = &mut self.entries[number];
        entry.epoch = epoch;
        for chore in &mut entry.record.chores {
            if let Chore::Logout { token: old, .. } = chore {
                *old = token(epoch);
            }
        }
    }

    /// The number of a session by its record's name.
    pub(crate) fn find(&self, id: JobId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.record.id == id)
    }
}

fn token(epoch: Epoch) -> Token {
    Token::new(format!("{}.{}", epoch.session, epoch.epoch))
}

/// The epoch that a token is good for.
pub(crate) fn epoch_of(token: &Token) -> Option<Epoch> {
    let (session, epoch) = token.reveal().split_once('.')?;
    Some(Epoch {
        session: session.parse().ok()?,
        epoch: epoch.parse().ok()?,
    })
}

/// The instance whose traces a record undoes.
pub(crate) fn mark_of(record: &OpenRecord) -> Option<Mark> {
    record.undo.as_ref()?.interface.parse().ok().map(Mark)
}
