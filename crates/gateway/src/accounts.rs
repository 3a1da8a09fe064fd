//! What outlives a session: its record while it lives, and the job that the record becomes.
//!
//! ```text
//!   session room --opened, closed--> queues (bounded) --> writers --fsync--> open/, due/ --> worker, or a unit's
//!                                                            '-- when idle: records of the last run --> due/
//! ```
//! Writers are threads, the only ones that wait for the disk; packets never do. If they fall behind by [`MAX_OPENINGS`]
//! openings, or by as many closings as there may be sessions, the next are lost, counted and logged: an opening that is lost
//! matters only to a crash, and a closing that is lost is made up for by the next start, without its counters.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use config::gateway::GatewayConfig;
use ipnet::IpNet;
use ledger::{Chore, DiskError, End, JobId, Ledger, LedgerError, Limits, OpenRecord, Role, SessionFacts, Stamp};
use now::Now;
use platform::disk::{FolderDisk, Keeper, KeeperLock};
use session::gateway::{Ended, Lease, SessionId};
use session::{EndReason, Traffic};
use tokio::sync::{Notify, oneshot};
use tracing::{Dispatch, debug, dispatcher, error, info, warn};

use crate::GatewayError;
use crate::tally::Throttle;

/// Openings that may wait for the disk: as many sessions as begin in the time of one fsync, which on a bad disk is a second.
/// Of closings, all sessions' may wait: a reload or a lost pool ends them at once. One takes about a kilobyte.
pub(crate) const MAX_OPENINGS: usize = 256;

/// Threads that write. File systems make many waiting writers' records durable in one go: a thousand take 1.4 to 6.8 s with
/// one writer, 0.3 to 0.9 s with four, and no less with more (measured, ext4). A session's records are one writer's, so that
/// they keep their order.
const WRITERS: usize = 4;

/// The gateway's ledger beside those of tunnels; no tunnel can have this name.
const LEDGER: &str = "_gateway";

/// The end of a session that nobody saw.
const UNSEEN_END: &str = "gateway_restart";

const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";

pub(crate) type FolderLedger = Ledger<FolderDisk>;

/// The ledger of a configuration, if it wants one.
///
/// # Errors
/// The folder cannot be made or is not safe to use.
pub(crate) fn ledger(config: &GatewayConfig) -> Result<Option<Arc<FolderLedger>>, GatewayError> {
    let Some(state_dir) = &config.storage.state_dir else {
        return Ok(None);
    };
    let disk = FolderDisk::open(&state_dir.join(LEDGER))?;
    Ok(Some(Arc::new(Ledger::new(disk, limits(&config.housekeeping)))))
}

fn limits(config: &config::Housekeeping) -> Limits {
    Limits {
        attempts: config.attempts,
        retry_first: config.retry_first,
        retry_max: config.retry_max,
        give_up_after: config.give_up_after,
        keep_done: config.keep_done,
        keep_failed: config.keep_failed,
        keep_history: config.keep_history,
        keep_for: config.keep,
        ..Limits::default()
    }
}

/// The right to keep records in a ledger: two gateways would take each other's live sessions for left over.
#[derive(Debug)]
pub(crate) struct Shelf {
    ledger: Arc<FolderLedger>,
    _lock: KeeperLock,
}

impl Shelf {
    /// Makes the ledger ours. Blocks for at most two seconds, if what is left of a dead gateway has it.
    ///
    /// # Errors
    /// [`GatewayError::RecordsInUse`] while another gateway has it.
    pub(crate) fn take(ledger: Arc<FolderLedger>) -> Result<Self, GatewayError> {
        let failed = |error| GatewayError::Io {
            what: "lock the folder of the records",
            source: match error {
                DiskError::Denied => io::ErrorKind::PermissionDenied.into(),
                error => io::Error::other(error),
            },
        };
        match ledger.disk().lock_keeper().map_err(failed)? {
            Keeper::Ours(lock) => Ok(Self { ledger, _lock: lock }),
            Keeper::Another { .. } => Err(GatewayError::RecordsInUse(ledger.disk().root().to_owned())),
        }
    }

    /// The ledger.
    pub(crate) fn ledger(&self) -> Arc<FolderLedger> {
        Arc::clone(&self.ledger)
    }
}

/// What is kept of a session from its first connection on, for its record.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    id: JobId,
    session: SessionId,
    user: String,
    started: Stamp,
    /// Where its newest connection came from.
    pub(crate) peer: IpAddr,
}

impl Account {
    /// When the session had its first connection.
    pub(crate) fn started(&self) -> &Stamp {
        &self.started
    }
}

/// The name of a session's record.
pub(crate) fn job(session: SessionId, started: &Stamp) -> JobId {
    let [random, _] = session.0.as_chunks::<8>().0 else {
        unreachable!("16 bytes are two times 8")
    };
    JobId::new(started.wall_ms / 1000, u64::from_be_bytes(*random))
}

/// Keeps the records of sessions, or none at all.
pub(crate) struct Accounts(Option<Book>);

struct Book {
    /// One for each writer.
    entries: Vec<mpsc::Sender<Note>>,
    queued: Arc<Queued>,
    /// The most sessions there could be since the start; when the gateway stops, there is no limit.
    most_closings: Cell<usize>,
    /// Records that were lost since the start.
    lost: Cell<u64>,
    losses: Throttle,
    boot_id: String,
    gateway: String,
}

/// Records that wait for the disk.
#[derive(Default)]
struct Queued {
    openings: AtomicUsize,
    closings: AtomicUsize,
}

enum Entry {
    Opened(OpenRecord),
    Closed(OpenRecord, End),
}

enum Note {
    Of(Box<Entry>),
    /// All before it is written.
    Last(oneshot::Sender<()>),
}

impl Queued {
    fn all(&self) -> usize {
        self.openings.load(Ordering::Relaxed) + self.closings.load(Ordering::Relaxed)
    }
}

impl Accounts {
    /// Keeps nothing.
    pub(crate) fn nowhere() -> Self {
        Self(None)
    }

    /// Keeps records of at most `sessions` at a time in a ledger; `due` hears of each new job. The records of `kept` sessions
    /// of the run before stay open.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn in_ledger(
        shelf: Shelf,
        due: Arc<Notify>,
        sessions: usize,
        kept: HashSet<JobId>,
    ) -> Result<Self, GatewayError> {
        // The whole shelf goes with the thread, and its lock with it.
        Self::kept_by(sessions, move |entries, queued| {
            keep(&shelf, &due, &queued, entries, &kept)
        })
    }

    fn kept_by(
        sessions: usize,
        keep: impl FnOnce(Vec<mpsc::Receiver<Note>>, Arc<Queued>) + Send + 'static,
    ) -> Result<Self, GatewayError> {
        let (senders, entries) = (0..WRITERS).map(|_| mpsc::channel()).unzip();
        let queued = Arc::<Queued>::default();
        let count = Arc::clone(&queued);
        // Lines of the thread go where those of its maker go.
        let log = dispatcher::get_default(Dispatch::clone);
        let thread = thread::Builder::new().name("accounts".to_owned());
        thread
            .spawn(move || dispatcher::with_default(&log, || keep(entries, count)))
            .map_err(|source| GatewayError::Io {
                what: "start the thread that keeps records",
                source,
            })?;
        let hostname = std::fs::read_to_string(HOSTNAME_FILE).unwrap_or_default();
        Ok(Self(Some(Book {
            entries: senders,
            queued,
            most_closings: Cell::new(sessions),
            lost: Cell::new(0),
            losses: Throttle::default(),
            boot_id: platform::clock::boot_id(),
            gateway: hostname.trim().to_owned(),
        })))
    }

    /// A session begins.
    pub(crate) fn begin(&self, session: SessionId, user: &str, peer: IpAddr, now: Now) -> Account {
        self.resumed(session, user, self.stamp(now), peer)
    }

    /// A session of the run before goes on; its record is open still.
    pub(crate) fn resumed(&self, session: SessionId, user: &str, started: Stamp, peer: IpAddr) -> Account {
        Account {
            id: job(session, &started),
            session,
            user: user.to_owned(),
            started,
            peer: peer.to_canonical(),
        }
    }

    /// Writes the record of a session that has begun.
    pub(crate) fn opened(&self, account: &Account, lease: &Lease, now: Now) {
        let Some(book) = &self.0 else { return };
        let record = book.record(account, lease, 1);
        book.put(record.id, Entry::Opened(record), now);
    }

    /// Makes a job of the record of a session that is over.
    pub(crate) fn closed(
        &self,
        account: &Account,
        ended: &Ended,
        (epoch, connections): (u64, u64),
        traffic: &Traffic,
        now: Now,
    ) {
        let Some(book) = &self.0 else { return };
        let mut record = book.record(account, &ended.lease, epoch);
        let facts = &mut record.facts;
        facts.packets_in = traffic.packets_in;
        facts.packets_out = traffic.packets_out;
        facts.bytes_in = traffic.bytes_in;
        facts.bytes_out = traffic.bytes_out;
        facts.dropped = traffic.drops.total();
        facts.path_losses = connections.saturating_sub(1);
        let mut end = End::new(self.stamp(now), ended.reason.word());
        if let EndReason::Admin(words) | EndReason::Fatal(words) = &ended.reason {
            end.detail = Some(words.clone()).filter(|words| !words.is_empty());
        }
        book.put(record.id, Entry::Closed(record, end), now);
    }

    /// From now on nothing is lost: all sessions are about to end, and nobody waits for packets any more.
    pub(crate) fn expect_the_rest(&self) {
        if let Some(book) = &self.0 {
            book.most_closings.set(usize::MAX);
        }
    }

    /// From now on there may be so many sessions; those that are there may be more.
    pub(crate) fn expect_sessions(&self, sessions: usize) {
        if let Some(book) = &self.0 {
            book.most_closings.set(book.most_closings.get().max(sessions));
        }
    }

    /// Waits until all records are written, at most `limit`.
    pub(crate) async fn finish(&self, limit: Duration) {
        let Some(book) = &self.0 else { return };
        let written = async {
            let (told, all): (Vec<_>, Vec<_>) = (0..WRITERS).map(|_| oneshot::channel()).unzip();
            for (writer, told) in book.entries.iter().zip(told) {
                // A writer that is gone answers by dropping it.
                let _ = writer.send(Note::Last(told));
            }
            for one in all {
                let _ = one.await;
            }
        };
        if tokio::time::timeout(limit, written).await.is_err() {
            let left = book.queued.all();
            error!(
                left,
                "not all records of sessions could be written; the next start closes them"
            );
        }
    }

    /// Records lost so far.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |book| book.lost.get())
    }

    fn stamp(&self, now: Now) -> Stamp {
        stamp(now, self.0.as_ref().map_or("", |book| &book.boot_id))
    }
}

impl Book {
    fn record(&self, account: &Account, lease: &Lease, epoch: u64) -> OpenRecord {
        let addresses = [lease.v4.map(IpAddr::V4), lease.v6.map(IpAddr::V6)];
        OpenRecord {
            id: account.id,
            tunnel: LEDGER.to_owned(),
            role: Role::Gateway,
            generation: 1,
            facts: SessionFacts {
                session: Some(account.session.to_string()),
                epoch: Some(epoch),
                gateway: self.gateway.clone(),
                user: Some(account.user.clone()),
                peer: Some(account.peer),
                addresses: addresses.into_iter().flatten().map(IpNet::from).collect(),
                started: account.started.clone(),
                ..SessionFacts::default()
            },
            undo: None,
            chores: vec![
                Chore::Account,
                Chore::ReleaseLease,
                Chore::Hooks,
                Chore::Upload,
                Chore::Prune,
            ],
        }
    }

    fn put(&self, id: JobId, entry: Entry, now: Now) {
        let (queued, most) = match &entry {
            Entry::Opened(_) => (&self.queued.openings, MAX_OPENINGS),
            Entry::Closed(..) => (&self.queued.closings, self.most_closings.get()),
        };
        if queued.load(Ordering::Relaxed) < most {
            queued.fetch_add(1, Ordering::Relaxed);
            if self.entries[writer_of(id)].send(Note::Of(Box::new(entry))).is_ok() {
                return;
            }
        }
        self.lost.set(self.lost.get() + 1);
        if let Some(more) = self.losses.pass(now) {
            let lost = self.lost.get();
            error!(
                lost,
                more, "the disk is too slow for the records of sessions; some are lost"
            );
        }
    }
}

fn stamp(now: Now, boot_id: &str) -> Stamp {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Stamp {
        wall_ms: ms(now.wall.since_origin()),
        boot_ms: ms(now.boot.since_origin()),
        boot_id: boot_id.to_owned(),
    }
}

/// Which writer has a session's records: by the last digit of their name, which is random.
fn writer_of(id: JobId) -> usize {
    let name = id.to_string();
    usize::from(name.as_bytes().last().copied().unwrap_or_default()) % WRITERS
}

/// The other end of the queues, until all of them are closed.
fn keep(shelf: &Shelf, due: &Notify, queued: &Queued, entries: Vec<mpsc::Receiver<Note>>, kept: &HashSet<JobId>) {
    let ledger: &FolderLedger = &shelf.ledger;
    let mut left_over: Vec<_> = (0..WRITERS).map(|_| Vec::new()).collect();
    for record in look_back(ledger, kept) {
        left_over[writer_of(record.id)].push(record);
    }
    let log = dispatcher::get_default(Dispatch::clone);
    thread::scope(|scope| {
        for (entries, left_over) in entries.into_iter().zip(left_over) {
            let writer = Writer {
                ledger,
                due,
                queued,
                left_over,
                failures: Throttle::default(),
            };
            let log = log.clone();
            scope.spawn(move || dispatcher::with_default(&log, || writer.write(&entries)));
        }
    });
}

/// What the last run left and nobody goes on with, newest first: looked for before anything of this run is written, or its sessions would be found.
fn look_back(ledger: &FolderLedger, kept: &HashSet<JobId>) -> Vec<OpenRecord> {
    let (mut records, damaged) = match ledger.opens() {
        Ok(found) => found,
        Err(error) => {
            error!(%error, "cannot look for sessions that the last run left");
            return Vec::new();
        }
    };
    for file in damaged {
        warn!(file = %file.name, kept_as = ?file.kept_as, why = %file.why, "not a record of a session");
    }
    records.retain(|record| !kept.contains(&record.id));
    if !records.is_empty() {
        info!(
            sessions = records.len(),
            "sessions of the last run were never closed; they are now"
        );
    }
    records.reverse();
    records
}

/// One of the threads that wait for the disk.
struct Writer<'a> {
    ledger: &'a FolderLedger,
    due: &'a Notify,
    queued: &'a Queued,
    /// Records of the last run that are still to be closed.
    left_over: Vec<OpenRecord>,
    failures: Throttle,
}

impl Writer<'_> {
    fn write(mut self, entries: &mpsc::Receiver<Note>) {
        loop {
            let entry = match entries.try_recv() {
                Ok(entry) => entry,
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => match self.left_over.pop() {
                    Some(record) => {
                        let boot_id = platform::clock::boot_id();
                        let end = End::new(stamp(platform::clock::now(), &boot_id), UNSEEN_END);
                        self.close(record, end);
                        continue;
                    }
                    None => match entries.recv() {
                        Ok(entry) => entry,
                        Err(mpsc::RecvError) => return,
                    },
                },
            };
            match entry {
                Note::Of(entry) => self.take_down(*entry),
                // Whoever asked may have lost patience.
                Note::Last(told) => drop(told.send(())),
            }
        }
    }

    fn take_down(&self, entry: Entry) {
        let queue = match entry {
            Entry::Opened(record) => {
                match self.ledger.open(&record) {
                    Ok(()) => debug!(job = %record.id, "record of a session opened"),
                    Err(error) => self.complain(&error),
                }
                &self.queued.openings
            }
            Entry::Closed(record, end) => {
                self.close(record, end);
                &self.queued.closings
            }
        };
        queue.fetch_sub(1, Ordering::Relaxed);
    }

    fn close(&self, record: OpenRecord, end: End) {
        match self.ledger.close(record, end) {
            Ok(_) => self.due.notify_one(),
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&self, error: &LedgerError) {
        if let Some(more) = self.failures.pass(platform::clock::now()) {
            error!(%error, more, "a record of a session cannot be written; make room or repair the disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::ConfigErrors;
    use ledger::MAX_KEPT;
    use std::fs;
    use std::net::Ipv4Addr;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;

    fn ended(reason: EndReason) -> Ended {
        Ended {
            id: SessionId([7; 16]),
            user: "alice".to_owned(),
            reason,
            lease: Lease::default(),
            connected: None,
            age: Duration::ZERO,
            parked: None,
            revoked_until: None,
        }
    }

    fn account(accounts: &Accounts) -> Account {
        let now = platform::clock::now();
        accounts.begin(SessionId([7; 16]), "alice", Ipv4Addr::LOCALHOST.into(), now)
    }

    /// Whatever is kept waits for a disk that does not answer before `release`; then `told` hears how much it was.
    fn stuck(sessions: usize) -> (Accounts, mpsc::Sender<()>, mpsc::Receiver<usize>) {
        let (release, held) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let accounts = Accounts::kept_by(sessions, move |notes, _| {
            held.recv().expect("the test goes on");
            tell.send(notes.iter().flatten().count()).expect("the test waits");
        });
        (accounts.expect("a thread"), release, told)
    }

    fn close(accounts: &Accounts, account: &Account, times: usize) {
        for _ in 0..times {
            let ended = ended(EndReason::UserStop);
            accounts.closed(account, &ended, (1, 1), &Traffic::default(), platform::clock::now());
        }
    }

    #[test]
    fn a_full_queue_costs_openings_that_are_counted_and_holds_nobody_up() {
        let (accounts, release, told) = stuck(1);
        let account = account(&accounts);
        for _ in 0..MAX_OPENINGS + 44 {
            accounts.opened(&account, &Lease::default(), platform::clock::now());
        }
        assert_eq!(accounts.lost(), 44);
        close(&accounts, &account, 1);
        assert_eq!(accounts.lost(), 44, "closings have places of their own");
        release.send(()).expect("the thread waits");
        drop(accounts);
        assert_eq!(told.recv().expect("the thread ends"), MAX_OPENINGS + 1);
    }

    #[test]
    fn all_sessions_may_end_at_once_and_none_is_lost() {
        let (accounts, release, told) = stuck(1000);
        let account = account(&accounts);
        close(&accounts, &account, 1000);
        assert_eq!(accounts.lost(), 0);
        close(&accounts, &account, 3);
        assert_eq!(accounts.lost(), 3, "there are not so many sessions");
        accounts.expect_sessions(2000);
        close(&accounts, &account, 1000);
        assert_eq!(accounts.lost(), 3, "after a reload there may be");
        accounts.expect_the_rest();
        close(&accounts, &account, 500);
        assert_eq!(accounts.lost(), 3, "at the end nothing is lost");
        release.send(()).expect("the thread waits");
        drop(accounts);
        assert_eq!(told.recv().expect("the thread ends"), 2500);
    }

    #[test]
    fn only_one_gateway_keeps_its_records_in_a_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let ledger = || {
            let disk = FolderDisk::open(&folder.path().join(LEDGER)).expect("a folder");
            Arc::new(Ledger::new(disk, Limits::default()))
        };
        let first = Shelf::take(ledger()).expect("free");
        let error = Shelf::take(ledger()).expect_err("taken");
        assert!(error.to_string().contains("another gateway"), "{error}");
        assert_eq!(error.exit_code(), 3);
        drop(first);
        Shelf::take(ledger()).expect("free again");
    }

    #[test]
    fn as_much_of_the_past_can_be_configured_as_a_ledger_keeps() {
        let limits = |keep: usize| {
            let text = format!(
                "[tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n[auth]\nusers_file = \"u\"\n[pool]\n\
                 ipv4 = \"10.78.0.0/24\"\n[housekeeping]\nkeep_done = {keep}\nkeep_failed = {keep}\nkeep_history = {keep}"
            );
            let config = GatewayConfig::parse(&text, "gateway.toml", Path::new("/"))?;
            Ok::<_, ConfigErrors>(limits(&config.housekeeping))
        };
        let most = limits(MAX_KEPT).expect("in range");
        assert_eq!([most.keep_done, most.keep_failed, most.keep_history], [MAX_KEPT; 3]);
        let error = limits(MAX_KEPT + 1).expect_err("out of range").to_string();
        assert_eq!(error.matches("out of range").count(), 3, "{error}");
    }

    #[test]
    fn what_is_left_of_a_killed_gateway_does_not_keep_the_next_from_its_records() {
        let folder = tempfile::tempdir().expect("folder");
        let disk = || FolderDisk::open(folder.path()).expect("a folder");
        let ledger = || Arc::new(Ledger::new(disk(), Limits::default()));
        let left = Shelf::take(ledger()).expect("free");
        let mut child = Command::new("true").spawn().expect("a process");
        child.wait().expect("its end");
        fs::write(folder.path().join("keeper.lock"), format!("{:10}\n", child.id())).expect("written");
        thread::scope(|scope| {
            let next = scope.spawn(|| Shelf::take(ledger()).map(drop));
            drop(left);
            next.join().expect("no panic").expect("ours");
        });
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_leads_nowhere() {
        let folder = tempfile::tempdir().expect("folder");
        let ledger = Arc::new(Ledger::new(
            FolderDisk::open(&folder.path().join(LEDGER)).expect("a folder"),
            Limits::default(),
        ));
        let secret = folder.path().join("secret");
        fs::write(&secret, "nobody's business").expect("written");
        symlink(&secret, ledger.disk().root().join("keeper.lock")).expect("a link");
        let error = Shelf::take(ledger).expect_err("not ours");
        assert!(error.to_string().contains("not a file of this ledger"), "{error}");
        assert_eq!(fs::read_to_string(&secret).expect("readable"), "nobody's business");
    }

    #[test]
    fn the_name_of_a_record_is_that_of_its_session_wherever_it_is_made() {
        let accounts = Accounts::nowhere();
        let (one, again) = (account(&accounts), account(&accounts));
        assert_eq!(
            one.id.to_string().split_once('-').map(|(_, id)| id.to_owned()),
            Some("07".repeat(8))
        );
        assert_eq!(one.id.to_string().len(), again.id.to_string().len());
        accounts.opened(&one, &Lease::default(), Now::default());
        assert_eq!(accounts.lost(), 0, "nothing is lost where nothing is kept");
    }
}
