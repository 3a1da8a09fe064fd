//! The ledger's disk on the simulated one: before and after each call others may run, the call may fail, and the process
//! or the host may die.

use std::fmt;
use std::rc::Rc;

use ledger::{Disk, DiskError, FileName, Folder, MAX_RECORD};

use crate::planted::Planted;
use crate::platter::{Place, Platter};
use crate::process::Process;
use crate::world::World;

/// One process's sight of the disk.
#[derive(Clone)]
pub(crate) struct SimDisk {
    world: Rc<World>,
    process: Process,
}

/// The worker lock: given back when dropped, or when its process dies.
pub(crate) struct SimLock {
    world: Rc<World>,
    number: u32,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if self.world.lock.get().is_some_and(|(_, number)| number == self.number) {
            self.world.lock.set(None);
        }
    }
}

/// What a call does to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Looks,
    /// Needs space.
    Writes,
    Syncs,
    Moves,
}

/// A call, for the trace.
struct Call<'a>(&'static str, Folder, Option<&'a FileName>);

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, folder, name) = self;
        write!(f, "{what} {folder}/")?;
        name.map_or(Ok(()), |name| write!(f, "{name}"))
    }
}

impl SimDisk {
    pub(crate) fn new(world: &Rc<World>, process: Process) -> Self {
        Self {
            world: world.clone(),
            process,
        }
    }

    fn has(&self, planted: Planted) -> bool {
        self.world.has(planted)
    }

    /// Takes one step, if fate allows it.
    fn call<T: fmt::Debug>(
        &self,
        kind: Kind,
        what: Call<'_>,
        step: impl FnOnce(&mut Platter) -> Result<T, DiskError>,
        spoil: impl FnOnce(&mut Platter),
    ) -> Result<T, DiskError> {
        let world = &self.world;
        world.counts.borrow_mut().disk_calls += 1;
        self.alive()?;
        world.let_others_run(self.process);
        self.alive()?;
        let weather = world.weather.get();
        let error = if weather.full && kind == Kind::Writes {
            Some(DiskError::Full)
        } else if weather.disk_errors > 0 && world.chance.once_in(weather.disk_errors) {
            Some(DiskError::Io("input/output error".to_owned()))
        } else {
            None
        };
        if let Some(error) = error {
            world.counts.borrow_mut().disk_errors += 1;
            world.say(|| format!("disk: {error}"));
            // An error says nothing about what happened.
            if kind == Kind::Moves && world.chance.once_in(4) {
                drop(step(&mut world.disk.borrow_mut()));
            } else {
                spoil(&mut world.disk.borrow_mut());
            }
            return Err(error);
        }
        let dies = weather.crashes > 0 && world.chance.once_in(weather.crashes);
        if dies && world.chance.once_in(2) {
            world.counts.borrow_mut().kills_in_disk += 1;
            world.crash(self.process);
            return Err(dead());
        }
        let result = step(&mut world.disk.borrow_mut());
        if kind != Kind::Looks {
            world.say(|| format!("  {} {what}: {result:?}", self.process));
        }
        if dies {
            world.counts.borrow_mut().kills_in_disk += 1;
            world.crash(self.process);
            return Err(dead());
        }
        result
    }

    fn alive(&self) -> Result<(), DiskError> {
        if self.world.is_alive(self.process) {
            Ok(())
        } else {
            Err(dead())
        }
    }

    fn place(&self, folder: Folder, name: &FileName) -> Place {
        Place {
            folder: number(folder),
            name: self.world.number_of(name),
            temporary: false,
        }
    }

    fn temporary(&self, folder: Folder, name: &FileName) -> Place {
        Place {
            temporary: true,
            ..self.place(folder, name)
        }
    }
}

/// What a dead process hears. Nobody listens.
fn dead() -> DiskError {
    DiskError::Io("killed".to_owned())
}

/// The number of a folder on the simulated disk.
pub(crate) fn number(folder: Folder) -> u8 {
    folder as u8
}

fn found(there: bool) -> Result<(), DiskError> {
    if there { Ok(()) } else { Err(DiskError::NotFound) }
}

impl Disk for SimDisk {
    type Lock = SimLock;

    fn list(&self, folder: Folder) -> Result<Vec<FileName>, DiskError> {
        let world = &self.world;
        if folder == Folder::Running && self.has(Planted::RunningIgnored) {
            return Ok(Vec::new());
        }
        let look = |disk: &mut Platter| {
            let names = world.names.borrow();
            let mut found: Vec<FileName> = disk
                .names(number(folder))
                .map(|name| names[usize::from(name)].clone())
                .collect();
            found.sort_unstable();
            Ok(found)
        };
        self.call(Kind::Looks, Call("list", folder, None), look, |_| {})
    }

    fn read(&self, folder: Folder, name: &FileName) -> Result<Vec<u8>, DiskError> {
        let place = self.place(folder, name);
        let look = |disk: &mut Platter| {
            let bytes = disk.read(place).ok_or(DiskError::NotFound)?;
            Ok(bytes[..bytes.len().min(MAX_RECORD + 1)].to_vec())
        };
        self.call(Kind::Looks, Call("read", folder, Some(name)), look, |_| {})
    }

    fn write_temporary(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> Result<(), DiskError> {
        let place = self.temporary(folder, name);
        let write = |disk: &mut Platter| {
            disk.write(place, bytes);
            Ok(())
        };
        self.call(
            Kind::Writes,
            Call("write temporary", folder, Some(name)),
            write,
            |disk| disk.write(place, &bytes[..bytes.len() / 2]),
        )
    }

    fn sync_temporary(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        let place = self.temporary(folder, name);
        let skipped = self.has(Planted::NoSyncOfFile);
        let sync = |disk: &mut Platter| found(if skipped { disk.holds(place) } else { disk.sync(place) });
        self.call(Kind::Syncs, Call("sync temporary", folder, Some(name)), sync, |disk| {
            disk.fail_sync(place);
        })
    }

    fn publish(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        let (from, to) = (self.temporary(folder, name), self.place(folder, name));
        let what = Call("publish", folder, Some(name));
        self.call(Kind::Moves, what, |disk| found(disk.rename(from, to)), |_| {})
    }

    fn sync_folder(&self, folder: Folder) -> Result<(), DiskError> {
        let open = folder == Folder::Open;
        let skipped = self.has(Planted::NoSyncOfFolder) || open && self.has(Planted::NoSyncOfOpen);
        let sync = |disk: &mut Platter| {
            if !skipped {
                disk.sync_folder(number(folder));
            }
            Ok(())
        };
        self.call(Kind::Syncs, Call("sync", folder, None), sync, |_| {})
    }

    fn rename(&self, from: (Folder, &FileName), to: (Folder, &FileName)) -> Result<(), DiskError> {
        let moved = || Call("move to", to.0, Some(to.1));
        let (from, to) = (self.place(from.0, from.1), self.place(to.0, to.1));
        if self.has(Planted::RenameByCopy) {
            let copy = |disk: &mut Platter| {
                let bytes = disk.read(from).cloned().ok_or(DiskError::NotFound)?;
                disk.write(to, &bytes);
                Ok(())
            };
            self.call(Kind::Moves, moved(), copy, |_| {})?;
            return self.call(Kind::Moves, moved(), |disk| found(disk.remove(from)), |_| {});
        }
        self.call(Kind::Moves, moved(), |disk| found(disk.rename(from, to)), |_| {})
    }

    fn remove(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        let place = self.place(folder, name);
        let what = Call("remove", folder, Some(name));
        self.call(Kind::Moves, what, |disk| found(disk.remove(place)), |_| {})
    }

    fn remove_temporaries(&self, folder: Folder) -> Result<(), DiskError> {
        let remove = |disk: &mut Platter| {
            disk.remove_temporaries(number(folder));
            Ok(())
        };
        self.call(Kind::Moves, Call("remove temporaries", folder, None), remove, |_| {})
    }

    fn lock_worker(&self) -> Result<Option<SimLock>, DiskError> {
        let world = &self.world;
        self.call(Kind::Looks, Call("lock", Folder::Running, None), |_| Ok(()), |_| {})?;
        if world.lock.get().is_some() && !self.has(Planted::NoLock) {
            return Ok(None);
        }
        let number = world.next_number();
        world.lock.set(Some((self.process, number)));
        Ok(Some(SimLock {
            world: world.clone(),
            number,
        }))
    }
}
