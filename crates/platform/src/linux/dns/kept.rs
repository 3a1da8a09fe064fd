//! The changes of `/etc/resolv.conf`, and what was there before, kept until the last tunnel is down.
//!
//! ```text
//!   apply    book durable: what was here, what will be     file        (a kill before the file: it is as it was, the book says so)
//!   revert   file as it was                                no book     (a kill before the book goes: the file is as it was)
//! ```
//! There is a book for each file that processes of this host take for `/etc/resolv.conf`: the host's own, and those that are mounted over it
//! (`ip netns exec`). Whatever is in the file that no book explains is somebody else's: it stays when we go, and is what comes back if we
//! write again; the tunnels of such a book are forgotten then. One process at a time changes anything: a lock.

use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use plan::resolv_conf::{self, Keeper, Wish, torn};
use serde::{Deserialize, Serialize};

use super::file::{Content, Spot};
use super::order::{How, Order, What, wish};
use super::resolvconf;
use crate::PlatformError;
use crate::dns::{Places, Way};
use crate::files::{create_dir_private, write_private};
use crate::unix::files::open_lock;

/// The form of a book.
const VERSION: u8 = 1;

/// The largest book: a file and as many tunnels as a host has slots.
const MAX_BOOK: u64 = 1024 * 1024;

/// The most tunnels with name servers: each has a slot. Whoever may ask for changes could fill the disk otherwise.
const MAX_WISHES: usize = crate::slot::SLOTS as usize;

/// How the note of a record of resolvconf begins; the interface is behind it.
const RECORD: &str = "resolvconf-";

/// How long another process may hold the lock. It writes a few small files.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often the lock is tried.
const LOCK_LOOK: Duration = Duration::from_millis(2);

type Result<T> = std::result::Result<T, PlatformError>;

/// What an order came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) way: Option<Way>,
    pub(super) was_there: bool,
    pub(super) note: Option<String>,
}

/// What is known of a file that we write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    version: u8,
    /// What was there before any tunnel.
    original: Content,
    /// The tunnels, as they came.
    wishes: Vec<Wish>,
    /// What we write, or have written.
    written: String,
    /// What we had written before that.
    before: Option<String>,
}

impl Book {
    /// Whether the file holds what we have written, also if we were killed meanwhile.
    fn explains(&self, spot: &Spot) -> bool {
        if matches!(spot.content(), Ok(Content::Link { .. } | Content::Missing)) {
            return false;
        }
        let original = self.original.text();
        let ours = [Some(&self.written), self.before.as_ref()];
        ours.into_iter().flatten().any(|text| {
            let whole = spot.bytes == text.as_bytes();
            let from = self.before.as_deref().unwrap_or(original);
            whole
                || spot.mounted && [torn(from, text), torn(original, text), torn(text, original)].contains(&spot.bytes)
        })
    }

    /// Whether the file is as it was before.
    fn is_undone(&self, spot: &Spot) -> bool {
        spot.content().is_ok_and(|content| *content == self.original)
    }
}

/// The room of whoever may write to `/etc`: root.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    resolv_conf: PathBuf,
    folder: PathBuf,
}

impl Kept {
    pub(super) fn new(places: &Places) -> Self {
        Self {
            resolv_conf: places.resolv_conf.clone(),
            folder: places.kept.clone(),
        }
    }

    /// Does what an order says. Blocks: for its files, and for others at the same work.
    pub(super) fn carry_out(&self, order: &Order) -> Result<Done> {
        order.vet().map_err(|why| PlatformError::NameService(why.to_owned()))?;
        match &order.what {
            What::Apply { how, servers, search } => {
                create_dir_private(&self.folder)?;
                let _lock = self.lock()?;
                self.apply(*how, wish(&order.interface, servers, search))
            }
            // Nothing was ever applied.
            What::Revert if !self.folder.is_dir() => Ok(Done::default()),
            What::Revert => {
                let _lock = self.lock()?;
                self.revert(&order.interface)
            }
        }
    }

    fn apply(&self, how: How, wish: Wish) -> Result<Done> {
        let spot = self.look()?;
        let keeper = resolv_conf::keeper(&spot.text());
        match (how, keeper) {
            (How::Resolvconf, _) | (How::Auto, Keeper::Resolvconf) => return self.record(&wish),
            (How::Auto | How::File, Keeper::NetworkManager) => {
                return Err(self.refuse(
                    "is NetworkManager's, which writes it anew whenever the network changes; let it use systemd-resolved \
                     (`dns=systemd-resolved` in NetworkManager.conf), or keep it from the file (`rc-manager=unmanaged`)",
                ));
            }
            (How::Auto, Keeper::Resolved) => return Err(self.refuse("is systemd-resolved's, which is not there")),
            (How::File, Keeper::Resolved | Keeper::Resolvconf)
            | (How::Auto | How::File, Keeper::Marmot | Keeper::Nobody) => {}
        }
        self.write(&spot, keeper, wish)
    }

    fn write(&self, spot: &Spot, keeper: Keeper, wish: Wish) -> Result<Done> {
        let book = self.book(spot)?;
        let current = self.content(spot)?;
        let explaining = book.as_ref().filter(|book| book.explains(spot));
        let (original, before) = match explaining {
            Some(book) => (book.original.clone(), Some(spot.text())),
            None if keeper == Keeper::Marmot => {
                let what = format!(
                    "has our mark, but what was there before is not in {}",
                    self.folder.display()
                );
                return Err(self.refuse(&format!("{what}: write your own name servers into it first")));
            }
            None => (current.clone(), None),
        };
        // A book that does not explain the file may be from before a restart of the host, and its tunnels long gone.
        let mut wishes = explaining.map(|book| book.wishes.clone()).unwrap_or_default();
        let is_full = wishes.len() >= MAX_WISHES;
        match wishes.iter_mut().find(|known| known.interface == wish.interface) {
            Some(known) => *known = wish,
            None if is_full => return Err(too_many()),
            None => wishes.push(wish),
        }
        let written = resolv_conf::render(&wishes, original.text());
        let next = Book {
            version: VERSION,
            original,
            wishes,
            written,
            before,
        };
        let done = Done {
            way: Some(Way::File),
            was_there: true,
            note: None,
        };
        if spot.text() == next.written && book.as_ref().is_some_and(|book| book.wishes == next.wishes) {
            return Ok(done);
        }
        self.write_book(spot, &next)?;
        if let Err(error) = spot.put(&current.with_text(&next.written)) {
            // The file is what it was. So is the book then; where it cannot be, it tells of both.
            let _ = match &book {
                Some(book) => self.write_book(spot, book),
                None => self.remove_book(spot),
            };
            return Err(self.denied("write", error));
        }
        Ok(done)
    }

    fn revert(&self, interface: &str) -> Result<Done> {
        let mut done = Done::default();
        let record = self.record_of(interface);
        if record.exists() {
            done.was_there = true;
            done.way = Some(Way::Resolvconf);
            // A host that has it no more has no records either.
            if let Some(program) = resolvconf::find() {
                resolvconf::remove(&program, interface)
                    .map_err(|source| PlatformError::io("remove a record of resolvconf", source))?;
            }
            remove(&record).map_err(|source| PlatformError::io("forget a record of resolvconf", source))?;
        }
        let spot = self.look()?;
        let Some(mut book) = self.book(&spot)? else {
            return Ok(done);
        };
        let old = book.clone();
        book.wishes.retain(|wish| wish.interface != interface);
        if book.wishes.len() == old.wishes.len() {
            return Ok(done);
        }
        done.was_there = true;
        done.way = Some(Way::File);
        let ours = book.explains(&spot);
        if !ours && !book.is_undone(&spot) {
            let path = self.resolv_conf.display();
            done.note = Some(format!("somebody else has written {path} since, so it stays as it is"));
        }
        if book.wishes.is_empty() {
            if ours {
                spot.put(&book.original)
                    .map_err(|error| self.denied("restore", error))?;
            }
            self.remove_book(&spot)?;
            return Ok(done);
        }
        if ours {
            let current = self.content(&spot)?;
            book.before = Some(spot.text());
            book.written = resolv_conf::render(&book.wishes, book.original.text());
            self.write_book(&spot, &book)?;
            let content = current.with_text(&book.written);
            if let Err(error) = spot.put(&content) {
                // As in `write`: the tunnel is still in the file, and has to be found again.
                let _ = self.write_book(&spot, &old);
                return Err(self.denied("write", error));
            }
        } else {
            self.write_book(&spot, &book)?;
        }
        Ok(done)
    }

    fn record(&self, wish: &Wish) -> Result<Done> {
        let Some(program) = resolvconf::find() else {
            return Err(PlatformError::NameService(
                "there is no resolvconf on this host; install it, or choose another [dns] mode".to_owned(),
            ));
        };
        // First: whoever comes after a crash has to know of it.
        let record = self.record_of(&wish.interface);
        if !record.exists() && self.records()? >= MAX_WISHES {
            return Err(too_many());
        }
        write_private(&record, b"")?;
        resolvconf::add(&program, wish).map_err(|source| PlatformError::io("add a record of resolvconf", source))?;
        Ok(Done {
            way: Some(Way::Resolvconf),
            was_there: true,
            note: None,
        })
    }

    fn records(&self) -> Result<usize> {
        let listed =
            fs::read_dir(&self.folder).map_err(|source| PlatformError::io("list the records of resolvconf", source))?;
        let is_record = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(RECORD);
        Ok(listed.flatten().filter(is_record).count())
    }

    fn look(&self) -> Result<Spot> {
        Spot::find(&self.resolv_conf).map_err(|error| self.denied("read", error))
    }

    fn content(&self, spot: &Spot) -> Result<Content> {
        spot.content().cloned().map_err(|error| self.denied("read", error))
    }

    fn book(&self, spot: &Spot) -> Result<Option<Book>> {
        let path = self.book_of(spot);
        let broken = |why: String| PlatformError::NameService(format!("{} cannot be read: {why}", path.display()));
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(broken(error.to_string())),
            Ok(metadata) if metadata.len() > MAX_BOOK => return Err(broken("it is too large".to_owned())),
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(|error| broken(error.to_string()))?;
        let book: Book = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        match book.version {
            VERSION => Ok(Some(book)),
            other => Err(broken(format!("it has version {other}"))),
        }
    }

    fn write_book(&self, spot: &Spot, book: &Book) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(book)
            .map_err(|error| PlatformError::io("write down what was in resolv.conf", error.into()))?;
        // One that could not be read again would leave the file ours for ever.
        if bytes.len() as u64 > MAX_BOOK {
            let reason = "it would be too large to be read again";
            let source = io::Error::new(io::ErrorKind::InvalidData, reason);
            return Err(PlatformError::io("write down what was in resolv.conf", source));
        }
        write_private(&self.book_of(spot), &bytes)
    }

    fn remove_book(&self, spot: &Spot) -> Result<()> {
        remove(&self.book_of(spot)).map_err(|source| PlatformError::io("forget what was in resolv.conf", source))
    }

    fn book_of(&self, spot: &Spot) -> PathBuf {
        self.folder.join(format!("{}.json", spot.name()))
    }

    fn record_of(&self, interface: &str) -> PathBuf {
        self.folder.join(format!("{RECORD}{interface}"))
    }

    fn lock(&self) -> Result<fs::File> {
        let failed = |source| PlatformError::io(format!("lock {}", self.folder.display()), source);
        let file = open_lock(&self.folder.join("lock")).map_err(failed)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_LOOK),
                Err(TryLockError::WouldBlock) => return Err(failed(io::ErrorKind::TimedOut.into())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    fn refuse(&self, why: &str) -> PlatformError {
        PlatformError::NameService(format!("{} {why}", self.resolv_conf.display()))
    }

    fn denied(&self, verb: &str, source: io::Error) -> PlatformError {
        let what = format!("{verb} {}", self.resolv_conf.display());
        match source.raw_os_error() {
            Some(libc::EROFS | libc::EPERM | libc::EACCES) => PlatformError::NotPermitted {
                what,
                hint: format!(
                    "it is read-only or immutable ({source}); let it be written (`chattr -i`), or set [dns] mode = \"off\""
                ),
            },
            _ => PlatformError::io(what, source),
        }
    }
}

fn too_many() -> PlatformError {
    PlatformError::NameService(format!(
        "{MAX_WISHES} tunnels have name servers on this host already, which is the limit"
    ))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
