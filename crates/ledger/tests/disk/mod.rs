//! A disk in memory that can die at any step, and that loses on a loss of power all that a disk may lose.
//!
//! ```text
//!   process killed   what was done stays done: names and contents as they were seen
//!   power lost       contents that were not synced are torn; of each folder's changes of names since its last sync only
//!                    a beginning is left, each folder for itself; a rename between folders may leave the file in both
//! ```
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ledger::{Disk, DiskError, FileName, Folder, MAX_JOBS, MAX_RECORD};

/// How a machine dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    /// The process ends, the machine lives.
    Killed,
    /// The power fails and everything that was not synced is gone.
    PowerLost,
    /// The power fails, and chance decides how much of what was not synced is there.
    PowerLostHalfway(u64),
}

/// What a step that fails answers when nobody dies.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// This step and all after it fail: the machine is dead.
    DiesAt(u64),
    /// This step fails, and life goes on.
    FailsAt(u64),
}

#[derive(Clone, Debug)]
struct Content {
    bytes: Vec<u8>,
    synced: bool,
}

type Inode = usize;
type Place = (Folder, String);

/// A change of a folder's names that is not on the disk yet.
#[derive(Clone, Debug)]
struct Pending {
    place: Place,
    /// The file that gets the name; none if the name goes away.
    becomes: Option<Inode>,
    /// The change without which this one must not survive.
    after: Option<u64>,
}

#[derive(Debug)]
struct State {
    contents: Vec<Content>,
    seen: BTreeMap<Place, Inode>,
    durable: BTreeMap<Place, Inode>,
    pending: BTreeMap<u64, Pending>,
    changes: u64,
    steps: u64,
    trouble: Trouble,
    lies: bool,
    spoilt: BTreeMap<Place, DiskError>,
    pinned: BTreeSet<Place>,
    log: Vec<String>,
}

/// The disk.
pub(crate) struct MemoryDisk {
    state: RefCell<State>,
    locked: Rc<Cell<bool>>,
    between: RefCell<Option<(u64, Intruder)>>,
}

/// What another process does between two steps of this one.
type Intruder = Box<dyn FnOnce(&MemoryDisk)>;

/// The worker lock.
#[derive(Debug)]
pub(crate) struct Lock(Rc<Cell<bool>>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl MemoryDisk {
    pub(crate) fn new() -> Self {
        Self {
            state: RefCell::new(State {
                contents: Vec::new(),
                seen: BTreeMap::new(),
                durable: BTreeMap::new(),
                pending: BTreeMap::new(),
                changes: 0,
                steps: 0,
                trouble: Trouble::None,
                lies: false,
                spoilt: BTreeMap::new(),
                pinned: BTreeSet::new(),
                log: Vec::new(),
            }),
            locked: Rc::default(),
            between: RefCell::default(),
        }
    }

    /// Lets another process act just before a step of this one.
    pub(crate) fn before(&self, step: u64, act: impl FnOnce(&Self) + 'static) {
        *self.between.borrow_mut() = Some((step, Box::new(act)));
    }

    /// Steps taken so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state.borrow().steps
    }

    /// The steps taken since the last call, in words.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().log)
    }

    /// From this step on nothing works, until the machine starts again.
    pub(crate) fn die_at(&self, step: u64) {
        self.state.borrow_mut().trouble = Trouble::DiesAt(step);
    }

    /// This step fails for want of space.
    pub(crate) fn fail_at(&self, step: u64) {
        self.state.borrow_mut().trouble = Trouble::FailsAt(step);
    }

    /// From now on syncs are acknowledged and not carried out.
    pub(crate) fn lie(&self) {
        self.state.borrow_mut().lies = true;
    }

    /// The step at which the machine dies was reached.
    pub(crate) fn is_dead(&self) -> bool {
        let state = self.state.borrow();
        matches!(state.trouble, Trouble::DiesAt(step) if state.steps > step)
    }

    /// Starts again after a death.
    pub(crate) fn restart(&self, death: Death) {
        let state = &mut *self.state.borrow_mut();
        state.trouble = Trouble::None;
        self.locked.set(false);
        let mut chance = match death {
            Death::Killed => return,
            Death::PowerLost => {
                state.lose_power(&mut |_| 0);
                return;
            }
            Death::PowerLostHalfway(seed) => seed | 1,
        };
        state.lose_power(&mut |below| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            (chance >> 11) % (below + 1)
        });
    }

    /// Puts a file there as something else than a ledger would: whole and durable at once.
    pub(crate) fn plant(&self, folder: Folder, name: &str, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        let inode = state.create(bytes, true);
        state.seen.insert((folder, name.to_owned()), inode);
        state.durable.insert((folder, name.to_owned()), inode);
    }

    /// From now on a file of this name cannot be read.
    pub(crate) fn spoil(&self, folder: Folder, name: &str, error: DiskError) {
        self.state.borrow_mut().spoilt.insert((folder, name.to_owned()), error);
    }

    /// From now on a file of this name cannot be moved: it is a folder of somebody else's.
    pub(crate) fn pin(&self, folder: Folder, name: &str) {
        self.state.borrow_mut().pinned.insert((folder, name.to_owned()));
    }

    /// The bytes of a file, without a step.
    pub(crate) fn bytes(&self, folder: Folder, name: &str) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let inode = *state.seen.get(&(folder, name.to_owned()))?;
        Some(state.contents[inode].bytes.clone())
    }

    /// All names of a folder, without a step, temporary files too.
    pub(crate) fn names(&self, folder: Folder) -> Vec<String> {
        let state = self.state.borrow();
        let here = state.seen.keys().filter(|place| place.0 == folder);
        here.map(|place| place.1.clone()).collect()
    }

    fn step(&self, what: &str, folder: Folder, name: &str) -> Result<(), DiskError> {
        let now = self.state.borrow().steps;
        let act = self.between.borrow_mut().take_if(|(at, _)| *at == now);
        if let Some((_, act)) = act {
            act(self);
        }
        let state = &mut *self.state.borrow_mut();
        let step = state.steps;
        state.steps += 1;
        state.log.push(format!("{what} {folder}/{name}"));
        match state.trouble {
            Trouble::DiesAt(at) if step >= at => Err(DiskError::Io("the machine is dead".to_owned())),
            Trouble::FailsAt(at) if step == at => Err(DiskError::Full),
            Trouble::None | Trouble::DiesAt(_) | Trouble::FailsAt(_) => Ok(()),
        }
    }
}

impl State {
    fn create(&mut self, bytes: &[u8], synced: bool) -> Inode {
        self.contents.push(Content {
            bytes: bytes.to_vec(),
            synced,
        });
        self.contents.len() - 1
    }

    /// Changes a name as everybody sees it; on the disk it is when the folder is synced.
    fn change(&mut self, place: Place, becomes: Option<Inode>, after: Option<u64>) -> u64 {
        match becomes {
            Some(inode) => self.seen.insert(place.clone(), inode),
            None => self.seen.remove(&place),
        };
        self.changes += 1;
        self.pending.insert(self.changes, Pending { place, becomes, after });
        self.changes
    }

    /// Brings the changes of a folder to the disk, up to the given one.
    fn harden(&mut self, folder: Folder, last: u64) {
        let here = |(_, change): &(&u64, &Pending)| change.place.0 == folder;
        let changes: Vec<u64> = self
            .pending
            .range(..=last)
            .filter(here)
            .map(|(number, _)| *number)
            .collect();
        for number in changes {
            let Some(change) = self.pending.remove(&number) else {
                continue;
            };
            let before = change.after.filter(|before| self.pending.contains_key(before));
            if let Some(before) = before {
                let folder = self.pending[&before].place.0;
                self.harden(folder, before);
            }
            match change.becomes {
                Some(inode) => self.durable.insert(change.place, inode),
                None => self.durable.remove(&change.place),
            };
        }
    }

    /// `chance(n)` is a number from 0 to n: how much of n things survives.
    fn lose_power(&mut self, chance: &mut dyn FnMut(u64) -> u64) {
        for folder in Folder::ALL {
            let here = self.pending.iter().filter(|(_, change)| change.place.0 == folder);
            let changes: Vec<u64> = here.map(|(number, _)| *number).collect();
            let survive = chance(changes.len() as u64);
            if let Some(last) = survive.checked_sub(1).and_then(|last| changes.get(last as usize)) {
                self.harden(folder, *last);
            }
        }
        self.pending.clear();
        self.seen = self.durable.clone();
        for content in self.contents.iter_mut().filter(|content| !content.synced) {
            let left = chance(content.bytes.len() as u64);
            content.bytes.truncate(left as usize);
            content.synced = true;
        }
    }
}

fn temporary(name: &FileName) -> String {
    format!(".{name}.tmp")
}

impl Disk for MemoryDisk {
    type Lock = Lock;

    fn list(&self, folder: Folder) -> Result<Vec<FileName>, DiskError> {
        self.step("list", folder, "")?;
        let names = self.names(folder).into_iter().filter_map(FileName::new);
        Ok(names.take(MAX_JOBS).collect())
    }

    fn nameless(&self, folder: Folder) -> Result<usize, DiskError> {
        self.step("count", folder, "")?;
        let names = self.names(folder).into_iter();
        let counts = |name: &String| !name.starts_with('.') && FileName::new(name.as_str()).is_none();
        Ok(names.filter(counts).count())
    }

    fn read(&self, folder: Folder, name: &FileName) -> Result<Vec<u8>, DiskError> {
        self.step("read", folder, name.as_str())?;
        if let Some(error) = self.state.borrow().spoilt.get(&(folder, name.as_str().to_owned())) {
            return Err(error.clone());
        }
        let mut bytes = self.bytes(folder, name.as_str()).ok_or(DiskError::NotFound)?;
        bytes.truncate(MAX_RECORD + 1);
        Ok(bytes)
    }

    fn write_temporary(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> Result<(), DiskError> {
        self.step("write", folder, &temporary(name))?;
        let state = &mut *self.state.borrow_mut();
        let inode = state.create(bytes, false);
        state.change((folder, temporary(name)), Some(inode), None);
        Ok(())
    }

    fn sync_temporary(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        self.step("sync", folder, &temporary(name))?;
        let state = &mut *self.state.borrow_mut();
        let inode = *state.seen.get(&(folder, temporary(name))).ok_or(DiskError::NotFound)?;
        state.contents[inode].synced = !state.lies;
        Ok(())
    }

    fn publish(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        self.step("publish", folder, name.as_str())?;
        let state = &mut *self.state.borrow_mut();
        let from = (folder, temporary(name));
        let inode = *state.seen.get(&from).ok_or(DiskError::NotFound)?;
        let added = state.change((folder, name.as_str().to_owned()), Some(inode), None);
        state.change(from, None, Some(added));
        Ok(())
    }

    fn sync_folder(&self, folder: Folder) -> Result<(), DiskError> {
        self.step("sync", folder, "")?;
        let state = &mut *self.state.borrow_mut();
        if !state.lies {
            state.harden(folder, u64::MAX);
        }
        Ok(())
    }

    fn rename(&self, from: (Folder, &FileName), to: (Folder, &FileName)) -> Result<(), DiskError> {
        self.step("rename", from.0, &format!("{} -> {}/{}", from.1, to.0, to.1))?;
        let state = &mut *self.state.borrow_mut();
        let old = (from.0, from.1.as_str().to_owned());
        if state.pinned.contains(&old) {
            return Err(DiskError::Denied);
        }
        let inode = *state.seen.get(&old).ok_or(DiskError::NotFound)?;
        let added = state.change((to.0, to.1.as_str().to_owned()), Some(inode), None);
        state.change(old, None, Some(added));
        Ok(())
    }

    fn remove(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        self.step("remove", folder, name.as_str())?;
        let state = &mut *self.state.borrow_mut();
        let place = (folder, name.as_str().to_owned());
        if !state.seen.contains_key(&place) {
            return Err(DiskError::NotFound);
        }
        state.change(place, None, None);
        Ok(())
    }

    fn remove_temporaries(&self, folder: Folder) -> Result<(), DiskError> {
        self.step("remove temporaries", folder, "")?;
        let hidden = self.names(folder).into_iter().filter(|name| name.starts_with('.'));
        for name in hidden {
            self.state.borrow_mut().change((folder, name), None, None);
        }
        Ok(())
    }

    fn lock_worker(&self) -> Result<Option<Lock>, DiskError> {
        Ok((!self.locked.replace(true)).then(|| Lock(Rc::clone(&self.locked))))
    }
}
