//! Facts about the ledger, on a disk in memory: what lies where after each operation, and in which order it got there.

mod closing;
mod damage;
#[path = "../disk/mod.rs"]
mod disk;
mod keeping;
mod working;

use std::time::Duration;

use disk::{Lock, MemoryDisk};
use ledger::{Chore, Claim, End, JobId, Ledger, Limits, OpenRecord, Receipt, Role, SessionFacts, Stamp, Work};
use now::Wall;

const NOW: Wall = Wall::from_origin(Duration::from_secs(1_700_000_000));

/// The ledger of most tests.
struct Desk<'a> {
    disk: &'a MemoryDisk,
    ledger: Ledger<&'a MemoryDisk>,
}

impl<'a> Desk<'a> {
    fn new(disk: &'a MemoryDisk) -> Self {
        Self::with(disk, Limits::default())
    }

    fn with(disk: &'a MemoryDisk, limits: Limits) -> Self {
        Self {
            disk,
            ledger: Ledger::new(disk, limits),
        }
    }

    fn close(&self, number: u64) -> Receipt {
        self.close_at(number, NOW)
    }

    fn close_at(&self, number: u64, at: Wall) -> Receipt {
        let end = End::new(stamp(at), "user_stop");
        self.ledger.close(record(number), end).expect("a healthy disk")
    }

    fn work(&self) -> Work<Lock> {
        let lock = self
            .ledger
            .lock_worker()
            .expect("a healthy disk")
            .expect("nobody works");
        self.ledger.recover(lock, NOW).expect("a healthy disk").0
    }

    fn claim(&self, work: &mut Work<Lock>) -> Claim {
        self.ledger.claim(work).expect("a healthy disk").expect("a job is due")
    }

    /// All files, as "folder/name" with ids cut to their last two digits.
    fn files(&self) -> Vec<String> {
        let all = ledger::Folder::ALL.iter();
        let names = all.flat_map(|folder| self.disk.names(*folder).into_iter().map(move |name| (folder, name)));
        names
            .map(|(folder, name)| format!("{folder}/{}", name.replace("1699990000-00000000000000", "")))
            .collect()
    }
}

fn id(number: u64) -> JobId {
    JobId::new(1_699_990_000, number)
}

fn file(number: u64) -> String {
    id(number).file_name().to_string()
}

fn stamp(wall: Wall) -> Stamp {
    Stamp {
        wall_ms: wall.since_origin().as_millis() as u64,
        ..Stamp::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn record(number: u64) -> OpenRecord {
    OpenRecord {
        id: id(number),
        tunnel: "office".to_owned(),
        role: Role::Client,
        generation: 3,
        facts: SessionFacts {
            gateway: "vpn.example".to_owned(),
            started: stamp(NOW),
            ..SessionFacts::default()
        },
        undo: None,
        chores: vec![Chore::Account, Chore::Hooks, Chore::Prune],
    }
}
