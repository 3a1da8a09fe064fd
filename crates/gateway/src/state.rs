//! Sessions that outlive the process: a file that is behind the table by one write, and the keys of tickets.
//!
//! ```text
//!   session room --put, ended--> newest state of each session that changed --thread, one commit a batch--> sessions.redb
//!   start: sessions.redb --open--> table: waiting or parked, for clients to come back to
//! ```
//! What waits for the disk is one state for each session, so that a slow disk makes batches larger and holds nobody up. There
//! are no cookies in the file, only their hashes, and no keys but public ones: who reads it can go on with no session. The
//! keys of tickets are in a file of their own, as they open tickets and seal them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use now::{Now, Wall};
use platform::files::write_private;
use redb::{Database, Durability, ReadableTable, TableDefinition};
use session::gateway::SessionId;
use session::ticket::{FRESH_BYTES, TicketKeys};
use tokio::sync::oneshot;
use tracing::{Dispatch, dispatcher, error, warn};
use zeroize::Zeroizing;

use crate::tally::Throttle;

mod row;

pub(crate) use row::{Memory, Row, until_of};

/// In the folder of the gateway's records.
const FILE: &str = "sessions.redb";
const KEYS_FILE: &str = "tickets.key";

/// Damaged files that are kept of each; one more replaces the last.
const MAX_DAMAGED: u32 = 8;

/// How long a disk that took nothing is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// Sessions that may wait for the disk: as many as there can be, and as many that ended. One takes about half a kilobyte.
const MAX_PENDING: usize = 2 * 65_536;

/// Of redb, in bytes. It reads the file once, at the start.
const CACHE: usize = 4 * 1024 * 1024;

/// The largest file of keys that is read: 32 keys of 90 bytes.
const MAX_KEYS_FILE: u64 = 16 * 1024;

/// [`Row`]s as JSON, by session.
const SESSIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("sessions");

/// Until when tickets of sessions that have ended are refused: a stamp as JSON, by session.
const REVOKED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("revoked");

/// What happened to a session since it was written last.
enum Change {
    Put(Vec<u8>),
    /// It is over; with the stamp until which its tickets are refused, if there are any.
    Ended(Option<Vec<u8>>),
}

type Changes = BTreeMap<SessionId, Change>;

#[derive(Default)]
struct Pending {
    changes: Changes,
    /// Of tickets, if they are new.
    keys: Option<Zeroizing<String>>,
    /// Nothing comes any more.
    closed: bool,
    /// Who wants to know when all of it is written and the file is closed.
    last: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Desk {
    pending: Mutex<Pending>,
    something: Condvar,
}

impl Desk {
    /// A thread that panicked left nothing half done: what is pending changes in single steps.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut Pending)) {
        what(&mut self.pending());
        self.something.notify_one();
    }

    /// Puts back what could not be written, behind what came meanwhile, and waits a while. `false`: there is no time left.
    fn put_back(&self, changes: Changes) -> bool {
        let mut pending = self.pending();
        for (id, change) in changes {
            pending.changes.entry(id).or_insert(change);
        }
        let closed = |pending: &mut Pending| !pending.closed;
        let waited = self.something.wait_timeout_while(pending, RETRY, closed);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Waits for something to write. `None` once nothing comes any more.
    fn take(&self) -> Option<(Changes, Option<Zeroizing<String>>)> {
        let mut pending = self.pending();
        loop {
            let idle = pending.changes.is_empty() && pending.keys.is_none();
            match (idle, pending.closed) {
                (false, _) => return Some((mem::take(&mut pending.changes), pending.keys.take())),
                (true, true) => return None,
                (true, false) => {
                    pending = self.something.wait(pending).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// Where sessions are kept, or nowhere.
pub(crate) struct Store(Option<Shelf>);

struct Shelf {
    desk: Arc<Desk>,
    boot_id: String,
    losses: Throttle,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.desk.tell(|pending| pending.closed = true);
    }
}

/// What the run before left.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) sessions: Vec<Row>,
    pub(crate) revoked: Vec<(SessionId, ledger::Stamp)>,
    /// There was a file, and it could not be read.
    pub(crate) is_lost: bool,
}

impl Store {
    /// Keeps nothing.
    pub(crate) fn nowhere() -> Self {
        Self(None)
    }

    /// Opens the file in `folder`, made if missing, and reads it. One that is damaged is set aside; without one that can be
    /// written the gateway runs all the same, and says so.
    pub(crate) fn open(folder: &Path) -> (Self, Left) {
        let path = folder.join(FILE);
        let mut is_lost = false;
        let opened = read(&path).or_else(|error| {
            if !is_damage(&error) {
                return Err(error);
            }
            is_lost = true;
            let kept_as = set_aside(&path);
            error!(%error, ?kept_as, "the sessions of the last run are lost; their clients come back with tickets, or log in");
            read(&path)
        });
        let started = opened.and_then(|(database, left)| {
            let desk = Arc::<Desk>::default();
            let ours = Arc::clone(&desk);
            let keys = folder.join(KEYS_FILE);
            let file = path.clone();
            // Lines of the thread go where those of its maker go.
            let log = dispatcher::get_default(Dispatch::clone);
            let thread = thread::Builder::new().name("state".to_owned());
            thread.spawn(move || dispatcher::with_default(&log, || write_all(database, (&file, &keys), &ours)))?;
            Ok((desk, left))
        });
        match started {
            Ok((desk, left)) => {
                let shelf = Shelf {
                    desk,
                    boot_id: platform::clock::boot_id(),
                    losses: Throttle::default(),
                };
                (Self(Some(shelf)), Left { is_lost, ..left })
            }
            Err(error) => {
                error!(%error, file = %path.display(), "sessions cannot be kept; they end with the gateway");
                (
                    Self::nowhere(),
                    Left {
                        // There may be sessions in it that nobody could read.
                        is_lost: is_lost || path.try_exists().unwrap_or(true),
                        ..Left::default()
                    },
                )
            }
        }
    }

    /// Whether sessions outlive the gateway.
    pub(crate) fn keeps(&self) -> bool {
        self.0.is_some()
    }

    /// Writes what a session is now.
    pub(crate) fn put(&self, memory: &Memory, now: Now) {
        let Some(shelf) = &self.0 else { return };
        let row = Row::new(memory, now, &shelf.boot_id);
        match serde_json::to_vec(&row) {
            Ok(json) => shelf.change(memory.kept.id, Change::Put(json), now),
            Err(error) => error!(%error, "a session cannot be kept"),
        }
    }

    /// Forgets a session that is over, but not that it is, as long as there may be tickets of it.
    pub(crate) fn ended(&self, id: SessionId, revoked_until: Option<now::Boot>, now: Now) {
        let Some(shelf) = &self.0 else { return };
        let stamp = revoked_until.map(|until| row::stamp_at(until, now, &shelf.boot_id));
        let json = stamp.and_then(|stamp| serde_json::to_vec(&stamp).ok());
        shelf.change(id, Change::Ended(json), now);
    }

    /// Writes the keys of tickets.
    pub(crate) fn keys(&self, keys: &TicketKeys) {
        if let Some(shelf) = &self.0 {
            shelf.desk.tell(|pending| pending.keys = Some(keys.encode()));
        }
    }

    /// Waits until all is written and the file is closed, at most `limit`. Nothing is kept any more.
    pub(crate) async fn finish(&self, limit: Duration) {
        let Some(shelf) = &self.0 else { return };
        let (told, written) = oneshot::channel();
        shelf.desk.tell(|pending| {
            pending.closed = true;
            pending.last = Some(told);
        });
        if tokio::time::timeout(limit, written).await.is_err() {
            let left = shelf.desk.pending().changes.len();
            error!(
                left,
                "not all sessions could be written; their clients come back with tickets, or log in"
            );
        }
    }
}

impl Shelf {
    fn change(&self, id: SessionId, change: Change, now: Now) {
        let mut lost = false;
        self.desk.tell(|pending| {
            lost = pending.changes.len() >= MAX_PENDING && !pending.changes.contains_key(&id);
            if !lost {
                pending.changes.insert(id, change);
            }
        });
        if lost && let Some(more) = self.losses.pass(now) {
            error!(more, "the disk is too slow for the sessions; changes are lost");
        }
    }
}

/// The keys in `folder`, or new ones; only in memory without a folder.
pub(crate) fn keys(folder: Option<&Path>, now: Wall) -> TicketKeys {
    let fresh = || TicketKeys::new(random(), now);
    let Some(path) = folder.map(|folder| folder.join(KEYS_FILE)) else {
        return fresh();
    };
    let read = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MAX_KEYS_FILE => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => fs::read_to_string(&path).map(Zeroizing::new),
        Err(error) => Err(error),
    };
    let parsed = read.and_then(|text| TicketKeys::parse(&text).map_err(io::Error::other));
    let mut keys = match parsed {
        Ok(keys) => keys,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                let kept_as = set_aside(&path);
                error!(%error, ?kept_as, "the keys of tickets are lost; clients of lost sessions log in");
            }
            fresh()
        }
    };
    keys.rotate(random, now);
    if let Err(error) = write_private(&path, keys.encode().as_bytes()) {
        error!(%error, "the keys of tickets cannot be kept; tickets end with the gateway");
    }
    keys
}

/// Random bytes of a new key.
fn random() -> [u8; FRESH_BYTES] {
    let mut bytes = [0; FRESH_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has randomness once it runs");
    bytes
}

/// Whether a file that cannot be read is to be set aside: not if it is the disk, or somebody else who has it open.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::DatabaseAlreadyOpen => false,
        redb::Error::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
        _ => true,
    }
}

/// Opens a file, which is checked as a whole, and reads it.
fn read(path: &Path) -> Result<(Database, Left), redb::Error> {
    if !path.exists() {
        write_private(path, b"").map_err(|error| redb::Error::Io(io::Error::other(error)))?;
    }
    let database = Database::builder()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create(path)?;
    let left = rows(&database)?;
    Ok((database, left))
}

fn rows(database: &Database) -> Result<Left, redb::Error> {
    let mut left = Left::default();
    let mut strange = 0_u64;
    {
        let begun = database.begin_write()?;
        {
            // Made if missing, so that they can be read.
            let sessions = begun.open_table(SESSIONS)?;
            for entry in sessions.iter()? {
                let (id, json) = entry?;
                match id
                    .value()
                    .try_into()
                    .ok()
                    .and_then(|id| Row::parse(SessionId(id), json.value()))
                {
                    Some(row) => left.sessions.push(row),
                    None => strange += 1,
                }
            }
            let revoked = begun.open_table(REVOKED)?;
            for entry in revoked.iter()? {
                let (id, json) = entry?;
                let stamp = serde_json::from_slice(json.value()).ok();
                match id.value().try_into().ok().zip(stamp) {
                    Some((id, stamp)) => left.revoked.push((SessionId(id), stamp)),
                    None => strange += 1,
                }
            }
        }
        begun.commit()?;
    }
    if strange > 0 {
        warn!(
            rows = strange,
            file = FILE,
            "not sessions as this version keeps them; passed over"
        );
    }
    Ok(left)
}

/// Gives a damaged file another name. `None` if that cannot be.
fn set_aside(path: &Path) -> Option<PathBuf> {
    let named = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        PathBuf::from(name)
    };
    let free = (1..MAX_DAMAGED).map(named).find(|name| !name.exists());
    let name = free.unwrap_or_else(|| named(MAX_DAMAGED));
    fs::rename(path, &name).ok().map(|()| name)
}

/// The thread that waits for the disk, until the gateway has said its last.
fn write_all(database: Database, (file, keys_file): (&Path, &Path), desk: &Desk) {
    let failures = Throttle::default();
    let mut database = Some(database);
    while let Some((changes, keys)) = desk.take() {
        if let Some(keys) = keys
            && let Err(error) = write_private(keys_file, keys.as_bytes())
        {
            error!(%error, "the keys of tickets cannot be kept; tickets end with the gateway");
        }
        if changes.is_empty() {
            continue;
        }
        // After an error redb writes nothing any more until the file is opened again.
        let written = match database.take() {
            Some(open) => Ok(open),
            None => Database::open(file).map_err(redb::Error::from),
        }
        .and_then(|open| write(&open, &changes).map(|()| open));
        match written {
            Ok(open) => database = Some(open),
            Err(error) => {
                if let Some(more) = failures.pass(platform::clock::now()) {
                    error!(%error, more, "sessions cannot be kept now; make room or repair the disk");
                }
                if !desk.put_back(changes) {
                    break;
                }
            }
        }
    }
    drop(database);
    if let Some(told) = desk.pending().last.take() {
        // Whoever asked may have lost patience.
        let _ = told.send(());
    }
}

fn write(database: &Database, changes: &Changes) -> Result<(), redb::Error> {
    let mut begun = database.begin_write()?;
    begun.set_durability(Durability::Immediate)?;
    {
        let mut sessions = begun.open_table(SESSIONS)?;
        let mut revoked = begun.open_table(REVOKED)?;
        for (id, change) in changes {
            match change {
                Change::Put(json) => {
                    sessions.insert(id.0.as_slice(), json.as_slice())?;
                    // What is there has not ended.
                    revoked.remove(id.0.as_slice())?;
                }
                Change::Ended(stamp) => {
                    sessions.remove(id.0.as_slice())?;
                    match stamp {
                        Some(stamp) => drop(revoked.insert(id.0.as_slice(), stamp.as_slice())?),
                        None => drop(revoked.remove(id.0.as_slice())?),
                    }
                }
            }
        }
    }
    begun.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
