//! Crashes at every step: whatever was acknowledged is done once all is over, and what was done never runs again.

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use disk::{Death, Lock, MemoryDisk};
use ledger::{
    Chore, DiskError, End, Folder, JobId, Ledger, LedgerError, Limits, OpenRecord, Role, SessionFacts, Stamp, Work,
};
use now::Wall;
use proptest::prelude::*;

/// What the processes around a ledger do.
#[derive(Clone, Debug)]
enum Step {
    /// A session comes up on this tunnel, or its record is replaced.
    Open(u8),
    /// The session ends.
    Close(u8),
    /// The session never came to life.
    Withdraw(u8),
    /// A worker runs: what becomes of the jobs it claims, in turn.
    Work(Vec<Deed>),
    /// Somebody tries every job again that failed or waits.
    Retry,
    /// A worker drops the past.
    Prune,
    /// Time passes.
    Wait(u16),
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Finish,
    /// One chore is done, the next fails.
    Fail,
    /// One chore is done, then a stop comes.
    Requeue,
    /// The worker ends.
    Abandon,
    /// The job is done, and the past is dropped.
    FinishAndPrune,
}

/// What was promised, and to be kept across any crash.
#[derive(Debug, Default)]
struct Promises {
    /// Sessions by tunnel, and whether their record is durable.
    alive: BTreeMap<u8, (JobId, bool)>,
    sessions: u64,
    /// Sessions whose end was not acknowledged, and whether their record was durable: left to the next start.
    limbo: Vec<(JobId, bool)>,
    /// Sessions whose end was acknowledged, or that lived when all ended.
    owed: BTreeSet<JobId>,
    withdrawn: BTreeSet<JobId>,
    /// Jobs whose chores were all done, whether that was recorded or not.
    carried_out: BTreeSet<JobId>,
    finished: BTreeSet<JobId>,
    /// Jobs that were given up and named when they were removed.
    named: BTreeSet<JobId>,
    /// Chores that were acknowledged as noted.
    noted: BTreeMap<JobId, Vec<String>>,
}

/// A broken promise, or an error of the disk that ends this process.
#[derive(Debug)]
enum Stopped {
    Broken(String),
    Disk(LedgerError),
}

impl From<LedgerError> for Stopped {
    fn from(error: LedgerError) -> Self {
        Self::Disk(error)
    }
}

const LIMITS: Limits = Limits {
    attempts: 3,
    interruptions: 1000,
    retry_first: Duration::from_secs(5),
    retry_max: Duration::from_secs(3600),
    give_up_after: Duration::from_secs(7 * 24 * 3600),
    keep_done: 0,
    keep_failed: 1,
    keep_history: 1,
    keep_for: Duration::from_secs(90 * 24 * 3600),
    keep_bytes: 1 << 20,
};

struct World<'a> {
    disk: &'a MemoryDisk,
    ledger: Ledger<&'a MemoryDisk>,
    now: Wall,
    promises: Promises,
}

impl<'a> World<'a> {
    fn new(disk: &'a MemoryDisk) -> Self {
        Self {
            disk,
            ledger: Ledger::new(disk, LIMITS),
            now: Wall::from_origin(Duration::from_secs(1_700_000_000)),
            promises: Promises::default(),
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            wall_ms: self.now.since_origin().as_millis() as u64,
            ..Stamp::default()
        }
    }

    fn record(&self, id: JobId) -> OpenRecord {
        OpenRecord {
            id,
            tunnel: "office".to_owned(),
            role: Role::Client,
            generation: 1,
            facts: SessionFacts {
                gateway: "vpn.example".to_owned(),
                started: self.stamp(),
                ..SessionFacts::default()
            },
            undo: None,
            chores: vec![Chore::Account, Chore::Hooks, Chore::Prune],
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Stopped> {
        match step {
            Step::Open(tunnel) => self.open(*tunnel),
            Step::Close(tunnel) => self.close(*tunnel),
            Step::Withdraw(tunnel) => self.withdraw(*tunnel),
            Step::Work(deeds) => self.work(deeds).map(drop),
            Step::Retry => self.retry_all(),
            Step::Prune => self.prune(),
            Step::Wait(minutes) => {
                self.now = self.now.plus(Duration::from_secs(60) * u32::from(*minutes));
                Ok(())
            }
        }
    }

    fn open(&mut self, tunnel: u8) -> Result<(), Stopped> {
        let promises = &mut self.promises;
        let (id, _) = *promises.alive.entry(tunnel).or_insert_with(|| {
            promises.sessions += 1;
            (JobId::new(1_700_000_000, promises.sessions), false)
        });
        self.ledger.open(&self.record(id))?;
        self.promises.alive.insert(tunnel, (id, true));
        Ok(())
    }

    fn close(&mut self, tunnel: u8) -> Result<(), Stopped> {
        let Some((id, durable)) = self.promises.alive.remove(&tunnel) else {
            return Ok(());
        };
        let end = End::new(self.stamp(), "user_stop");
        match self.ledger.close(self.record(id), end) {
            Ok(receipt) => self.promises.owed.insert(receipt.job()),
            Err(error) => {
                self.promises.limbo.push((id, durable));
                return Err(error.into());
            }
        };
        Ok(())
    }

    fn withdraw(&mut self, tunnel: u8) -> Result<(), Stopped> {
        let Some((id, _)) = self.promises.alive.remove(&tunnel) else {
            return Ok(());
        };
        self.ledger.withdraw(id)?;
        self.promises.withdrawn.insert(id);
        Ok(())
    }

    /// Works off what is due; how many jobs that were.
    fn work(&mut self, deeds: &[Deed]) -> Result<u32, Stopped> {
        let lock = self.ledger.lock_worker()?.expect("one worker at a time");
        let (mut work, _) = self.ledger.recover(lock, self.now)?;
        self.ledger.drain_waiting(&mut work, self.now)?;
        let mut claimed = 0;
        for deed in deeds {
            let Some(mut claim) = self.ledger.claim(&mut work)? else {
                break;
            };
            claimed += 1;
            let id = claim.job().id();
            if self.promises.finished.contains(&id) {
                return Err(Stopped::Broken(format!("{id} was finished and runs again")));
            }
            if self.promises.withdrawn.contains(&id) {
                return Err(Stopped::Broken(format!("{id} was withdrawn and runs")));
            }
            for word in self.promises.noted.get(&id).into_iter().flatten() {
                if !claim.job().has_done(word) {
                    return Err(Stopped::Broken(format!("{id} forgot that {word} is done")));
                }
            }
            let attempt = format!("hooks/{}", claim.job().done.len());
            match deed {
                Deed::Finish | Deed::FinishAndPrune => {}
                Deed::Fail | Deed::Requeue | Deed::Abandon => {
                    self.ledger.progress(&work, &mut claim, attempt.clone())?;
                    self.promises.noted.entry(id).or_default().push(attempt);
                }
            }
            match deed {
                Deed::Finish => {
                    self.promises.carried_out.insert(id);
                    self.ledger.finish(&work, claim, self.now)?;
                    self.promises.finished.insert(id);
                }
                Deed::Fail => {
                    self.ledger
                        .fail(&work, claim, "no route to the collector", self.now, 7)?;
                }
                Deed::Requeue => self.ledger.requeue(&work, claim)?,
                Deed::Abandon => break,
                Deed::FinishAndPrune => {
                    self.promises.carried_out.insert(id);
                    let finished = self.ledger.finish(&work, claim, self.now);
                    self.drop_the_past(&work)?;
                    finished?;
                    self.promises.finished.insert(id);
                }
            }
        }
        Ok(claimed)
    }

    fn retry_all(&mut self) -> Result<(), Stopped> {
        for listed in self.ledger.summary()?.jobs {
            if matches!(listed.folder, Folder::Waiting | Folder::Failed) {
                self.ledger.retry(listed.id, self.now)?;
            }
        }
        Ok(())
    }

    fn prune(&mut self) -> Result<(), Stopped> {
        let lock = self.ledger.lock_worker()?.expect("one worker at a time");
        let (work, _) = self.ledger.recover(lock, self.now)?;
        self.drop_the_past(&work)
    }

    fn drop_the_past(&mut self, work: &Work<Lock>) -> Result<(), Stopped> {
        // If it dies in the middle, nobody hears the names.
        let failed = self.disk.names(Folder::Failed);
        match self.ledger.prune(work, self.now) {
            Ok(pruned) => self.promises.named.extend(pruned.failed),
            Err(error) => {
                let ids = failed.iter().filter_map(|name| name.strip_suffix(".job")?.parse().ok());
                self.promises.named.extend(ids.collect::<Vec<JobId>>());
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// What the next start does: sessions that a crash ended are closed.
    fn start(&mut self) -> Result<(), Stopped> {
        let (left, damaged) = self.ledger.opens()?;
        if let Some(damaged) = damaged.first() {
            return Err(match damaged.kept_as {
                Some(_) => Stopped::Broken(format!("{damaged:?}")),
                None => Stopped::Disk(LedgerError::Lock(DiskError::Io(damaged.why.clone()))),
            });
        }
        let mut left: BTreeMap<JobId, OpenRecord> = left.into_iter().map(|record| (record.id, record)).collect();
        let alive = std::mem::take(&mut self.promises.alive).into_values();
        for (id, durable) in alive.chain(std::mem::take(&mut self.promises.limbo)) {
            let mut files = Folder::ALL.iter().flat_map(|folder| self.disk.names(*folder));
            let known = files.any(|name| name == id.file_name().as_str()) || self.promises.carried_out.contains(&id);
            if durable && !known {
                return Err(Stopped::Broken(format!("the record of {id} is lost")));
            }
            if durable {
                self.promises.owed.insert(id);
            }
        }
        if let Some(id) = left.keys().find(|id| self.promises.withdrawn.contains(id)) {
            return Err(Stopped::Broken(format!("{id} was withdrawn and is back")));
        }
        while let Some((id, record)) = left.pop_first() {
            self.ledger.close(record, End::new(self.stamp(), "crash"))?;
            self.promises.owed.insert(id);
        }
        Ok(())
    }

    /// All faults are over: everything owed gets done.
    fn settle(&mut self) -> Result<(), Stopped> {
        self.start()?;
        for _ in 0..4 {
            self.now = self.now.plus(LIMITS.retry_max);
            self.work(&[Deed::Finish; 64])?;
            self.retry_all()?;
        }
        let promises = &self.promises;
        let lost = |id: &&JobId| !promises.carried_out.contains(id) && !promises.named.contains(id);
        match promises.owed.iter().find(lost) {
            Some(id) => Err(Stopped::Broken(format!("{id} is lost"))),
            None => Ok(()),
        }
    }
}

/// Runs `steps`, dies at a step of the disk, and lives on; dies once more while it recovers, if that is wanted.
fn live(disk: &MemoryDisk, steps: &[Step], deaths: &[(u64, Death)]) -> Result<(), String> {
    let mut world = World::new(disk);
    let mut deaths = deaths.iter();
    let mut death = deaths.next();
    if let Some((at, _)) = death {
        disk.die_at(*at);
    }
    let mut ended = steps.iter().try_for_each(|step| world.step(step));
    loop {
        match (ended, death) {
            (Err(Stopped::Broken(promise)), _) => return Err(promise),
            (Err(Stopped::Disk(error)), _) if !disk.is_dead() => return Err(error.to_string()),
            (_, None) => break,
            (_, Some((_, how))) => disk.restart(*how),
        }
        death = deaths.next();
        if let Some((after, _)) = death {
            disk.die_at(disk.steps() + after);
        }
        ended = world.settle();
    }
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let deed = prop_oneof![
        3 => Just(Deed::Finish),
        1 => Just(Deed::FinishAndPrune),
        1 => Just(Deed::Fail),
        1 => Just(Deed::Requeue),
        1 => Just(Deed::Abandon)
    ];
    prop_oneof![
        4 => (0u8..3).prop_map(Step::Open),
        4 => (0u8..3).prop_map(Step::Close),
        1 => (0u8..3).prop_map(Step::Withdraw),
        5 => prop::collection::vec(deed, 1..4).prop_map(Step::Work),
        1 => Just(Step::Retry),
        2 => Just(Step::Prune),
        2 => (0u16..100).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_step_loses_no_acknowledged_job_and_repeats_no_finished_one(
        steps in prop::collection::vec(step(), 1..14),
        seed: u64,
        second in 1u64..60,
    ) {
        let whole = MemoryDisk::new();
        live(&whole, &steps, &[]).expect("without a crash");
        for at in 0..=whole.steps() {
            for how in [Death::Killed, Death::PowerLost, Death::PowerLostHalfway(seed.wrapping_add(at))] {
                let again = Death::PowerLostHalfway(seed ^ at);
                for deaths in [&[(at, how)][..], &[(at, how), (second, again)][..]] {
                    let disk = MemoryDisk::new();
                    let lived = live(&disk, &steps, deaths);
                    prop_assert!(lived.is_ok(), "{deaths:?}: {lived:?}\n{}", disk.take_log().join("\n"));
                }
            }
        }
    }

    #[test]
    fn a_step_that_fails_loses_no_acknowledged_job_and_repeats_no_finished_one(
        steps in prop::collection::vec(step(), 1..14),
    ) {
        let whole = MemoryDisk::new();
        live(&whole, &steps, &[]).expect("without a failure");
        for at in 0..whole.steps() {
            let disk = MemoryDisk::new();
            disk.fail_at(at);
            let mut world = World::new(&disk);
            for step in steps.iter() {
                match world.step(step) {
                    Ok(()) | Err(Stopped::Disk(_)) => {}
                    Err(Stopped::Broken(promise)) => prop_assert!(false, "{at}: {promise}"),
                }
            }
            let settled = match world.settle() {
                Err(Stopped::Disk(_)) => world.settle(),
                settled => settled,
            };
            prop_assert!(settled.is_ok(), "{at}: {settled:?}\n{}", disk.take_log().join("\n"));
        }
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let steps = [Step::Open(0), Step::Close(0), Step::Open(1)];
    let whole = MemoryDisk::new();
    live(&whole, &steps, &[]).expect("without a crash");
    let broken = (0..whole.steps()).filter(|at| {
        let disk = MemoryDisk::new();
        disk.lie();
        live(&disk, &steps, &[(*at, Death::PowerLost)]).is_err()
    });
    assert!(
        broken.count() > 0,
        "a job that was acknowledged and never written must be missed"
    );
}
