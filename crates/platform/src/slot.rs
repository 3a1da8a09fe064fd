//! Slots: what tells the tunnels of one host apart.
//!
//! ```text
//!   slot n (0..64)   routing table 27904 + n      mark 0x6d610000 + n
//!                    rule priorities 10000+10n ..= 10009+10n for routes to networks,
//!                                    11000+10n ..= 11009+10n for default routes
//! ```
//! Every tunnel locks one slot while it runs and puts everything on the host under the slot's numbers, so that it can be
//! found and removed by exact identity, by whoever holds the slot next. Slots belong to a network namespace: lock files
//! carry its number. All tunnels of a host must keep them in the same folder, or two would take one slot.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::PlatformError;
use crate::lock::{Holder, after_the_dead};

/// Number of slots. 64 tunnels are far beyond what one host runs, and keep tables and priorities in a short range.
pub const SLOTS: u8 = 64;

/// Routing table of slot 0; "m" twice would be 0x6d6d, we take 0x6d00 and count up.
pub const FIRST_TABLE: u32 = 0x6d00;

/// First rule priority of slot 0: before the main table (32766), after the local table (0).
pub const FIRST_RULE_PRIORITY: u32 = 10_000;

/// First rule priority of slot 0 for default routes: behind the networks of every tunnel, so that a tunnel for everything
/// leaves the others theirs, whichever slots they have.
pub const FIRST_DEFAULT_RULE_PRIORITY: u32 = 11_000;

/// First rule priority of slot 0 for flows that were chosen one by one: before what routes say, of whichever tunnel.
pub const FIRST_FLOW_RULE_PRIORITY: u32 = 9_000;

/// Rule priorities of one slot, of each kind.
pub const RULE_PRIORITIES_PER_SLOT: u32 = 10;

/// The part of a mark that all Marmot tunnels share ("ma"). The socket of one tunnel must not go through another either.
pub const MARK_FAMILY: u32 = 0x6d61_0000;

/// The bits of [`MARK_FAMILY`] that count.
pub const MARK_FAMILY_MASK: u32 = 0xffff_0000;

/// The rtnetlink protocol number that tags our routes and rules; "m", unused in iproute2's rt_protos.
pub const PROTOCOL: u8 = 109;

/// The most bytes read back from a lock file; we write less than 100.
const MAX_NOTE: u64 = 256;

/// The numbers of one tunnel on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// Slot `number`, if there is one.
    pub const fn new(number: u8) -> Option<Self> {
        if number < SLOTS { Some(Self(number)) } else { None }
    }

    /// The slot whose routing table this is.
    pub fn of_table(table: u32) -> Option<Self> {
        let number = table.checked_sub(FIRST_TABLE)?;
        Self::new(u8::try_from(number).ok()?)
    }

    /// 0..[`SLOTS`].
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The tunnel's own routing table.
    pub const fn table(self) -> u32 {
        FIRST_TABLE + self.0 as u32
    }

    /// Priorities of the tunnel's routing rules for networks.
    pub const fn rule_priorities(self) -> RangeInclusive<u32> {
        self.priorities_from(FIRST_RULE_PRIORITY)
    }

    /// Priorities of the tunnel's routing rules for default routes.
    pub const fn default_rule_priorities(self) -> RangeInclusive<u32> {
        self.priorities_from(FIRST_DEFAULT_RULE_PRIORITY)
    }

    /// Priorities of the tunnel's routing rules for chosen flows.
    pub const fn flow_rule_priorities(self) -> RangeInclusive<u32> {
        self.priorities_from(FIRST_FLOW_RULE_PRIORITY)
    }

    /// Whether a rule of this priority is one of the tunnel's, if it is one of ours.
    pub fn has_priority(self, priority: u32) -> bool {
        let ranges = [
            self.flow_rule_priorities(),
            self.rule_priorities(),
            self.default_rule_priorities(),
        ];
        ranges.iter().any(|range| range.contains(&priority))
    }

    const fn priorities_from(self, first: u32) -> RangeInclusive<u32> {
        let first = first + RULE_PRIORITIES_PER_SLOT * self.0 as u32;
        first..=first + RULE_PRIORITIES_PER_SLOT - 1
    }

    /// The mark of the tunnel's own sockets.
    pub const fn mark(self) -> u32 {
        MARK_FAMILY + self.0 as u32
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where the kernel puts a tunnel: a locked slot and a locked tunnel name. Both are free again when this is dropped, or the
/// process ends in any way.
#[derive(Debug)]
pub struct SlotLock {
    slot: Slot,
    /// Lock files of other slots have this and their number for a name.
    runtime_dir: PathBuf,
    network: String,
    _slot_file: File,
    _tunnel_file: File,
}

impl SlotLock {
    /// Locks `tunnel` and a slot in `runtime_dir`, which is made if missing. The slot this tunnel had last is taken if it is
    /// free, else one that no tunnel had yet, else any free one. `tunnel` becomes part of a file name.
    pub fn acquire(runtime_dir: &Path, tunnel: &str) -> Result<Self, PlatformError> {
        if tunnel.is_empty() || tunnel.contains(['/', '\\', '\n', '\0']) {
            return Err(PlatformError::io(
                format!("lock the tunnel name {tunnel:?}"),
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        let network = crate::os::slot::network_identity()
            .map_err(|source| PlatformError::io("identify the network of this process", source))?;
        let folder = || format!("use the folder {}", runtime_dir.display());
        fs::create_dir_all(runtime_dir).map_err(|source| PlatformError::io(folder(), source))?;

        let path = runtime_dir.join(format!("tunnel-{tunnel}.{network}.lock"));
        let tunnel_file = match lock_after_the_dead(&path)? {
            Attempt::Locked(mut file) => {
                write_note(&mut file, tunnel).map_err(|source| PlatformError::io(write_to(&path), source))?;
                file
            }
            Attempt::Held(note) => {
                return Err(PlatformError::TunnelRunning {
                    tunnel: tunnel.to_owned(),
                    pid: note.pid,
                });
            }
        };

        let path_of = |slot: Slot| slot_file(runtime_dir, &network, slot);
        for slot in candidates(tunnel, |slot| read_note(&path_of(slot))) {
            let path = path_of(slot);
            if let Attempt::Locked(mut file) = lock_after_the_dead(&path)? {
                write_note(&mut file, tunnel).map_err(|source| PlatformError::io(write_to(&path), source))?;
                return Ok(Self {
                    slot,
                    runtime_dir: runtime_dir.to_owned(),
                    network,
                    _slot_file: file,
                    _tunnel_file: tunnel_file,
                });
            }
        }
        Err(PlatformError::SlotsExhausted)
    }

    /// The slot, ours while this lives.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Locks another slot for a moment, to remove what a process that is gone left under it. `None` if somebody has it: then
    /// it was swept when that took it. Its note stays.
    pub fn borrow(&self, slot: Slot) -> Result<Option<BorrowedSlot>, PlatformError> {
        match lock(&slot_file(&self.runtime_dir, &self.network, slot))? {
            Attempt::Locked(file) => Ok(Some(BorrowedSlot { _file: file })),
            Attempt::Held(_) => Ok(None),
        }
    }
}

/// A slot that is nobody's, locked until this is dropped; see [`SlotLock::borrow`].
#[derive(Debug)]
pub struct BorrowedSlot {
    _file: File,
}

fn slot_file(runtime_dir: &Path, network: &str, slot: Slot) -> PathBuf {
    runtime_dir.join(format!("slot-{:02}.{network}.lock", slot.number()))
}

fn write_to(path: &Path) -> String {
    format!("write {}", path.display())
}

/// What a lock file says about its holder: tunnel and process number. Only a hint, the lock decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Note {
    tunnel: Option<String>,
    pid: Option<u32>,
}

/// All slots in the order in which `tunnel` tries them.
fn candidates(tunnel: &str, note: impl Fn(Slot) -> Note) -> Vec<Slot> {
    let mut slots: Vec<(u8, Slot)> = (0..SLOTS)
        .filter_map(Slot::new)
        .map(|slot| {
            let preference = match note(slot).tunnel {
                Some(name) if name == tunnel => 0,
                None => 1,
                Some(_) => 2,
            };
            (preference, slot)
        })
        .collect();
    slots.sort();
    slots.into_iter().map(|(_, slot)| slot).collect()
}

enum Attempt {
    Locked(File),
    Held(Note),
}

/// [`lock`], but waits for a holder that is dead. Another slot instead would leave what the dead put under the first.
fn lock_after_the_dead(path: &Path) -> Result<Attempt, PlatformError> {
    after_the_dead(
        || lock(path),
        |attempt| match attempt {
            Attempt::Locked(_) => Holder::Nobody,
            Attempt::Held(note) => Holder::of(note.pid),
        },
    )
}

/// Lock files are never deleted: a process that waits on a deleted file would hold a lock that nobody else sees.
fn lock(path: &Path) -> Result<Attempt, PlatformError> {
    let failed = |source| PlatformError::io(format!("lock {}", path.display()), source);
    let file = crate::os::files::open_lock(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Attempt::Locked(file)),
        Err(TryLockError::WouldBlock) => Ok(Attempt::Held(read_note(path))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn write_note(file: &mut File, tunnel: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{tunnel}\n{}\n", std::process::id())
}

fn read_note(path: &Path) -> Note {
    let mut text = String::new();
    let read = crate::os::files::open_plain(path).and_then(|file| file.take(MAX_NOTE).read_to_string(&mut text));
    if read.is_err() {
        return Note::default();
    }
    let mut lines = text.lines();
    Note {
        tunnel: lines.next().filter(|line| !line.is_empty()).map(str::to_owned),
        pid: lines.next().and_then(|line| line.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_lock_of_a_dead_process_is_waited_for() {
        let folder = tempfile::tempdir().expect("folder");
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("a process");
        let dead = child.id();
        child.wait().expect("its end");
        let held = SlotLock::acquire(folder.path(), "home").expect("first");
        let slot = held.slot();
        for entry in fs::read_dir(folder.path()).expect("folder") {
            fs::write(entry.expect("entry").path(), format!("home\n{dead}\n")).expect("write");
        }
        let (ready, begins) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let next = scope.spawn(|| {
                ready.send(()).expect("heard");
                SlotLock::acquire(folder.path(), "home")
            });
            begins.recv().expect("it begins");
            drop(held);
            assert_eq!(next.join().expect("no panic").expect("free").slot(), slot);
        });
    }

    #[test]
    fn the_numbers_of_neighbouring_slots_never_meet() {
        let slots: Vec<Slot> = (0..=255).filter_map(Slot::new).collect();
        assert_eq!(slots.len(), usize::from(SLOTS));
        for pair in slots.windows(2) {
            assert!(pair[0].rule_priorities().end() < pair[1].rule_priorities().start());
            assert!(pair[0].default_rule_priorities().end() < pair[1].default_rule_priorities().start());
            assert!(pair[0].flow_rule_priorities().end() < pair[1].flow_rule_priorities().start());
            assert!(pair[1].flow_rule_priorities().end() < pair[0].rule_priorities().start());
            assert!(pair[1].rule_priorities().end() < pair[0].default_rule_priorities().start());
            assert!(pair[0].table() < pair[1].table());
            assert_ne!(pair[0].mark(), pair[1].mark());
        }
        for slot in slots {
            assert_ne!(slot.mark(), plan::flows::OUTSIDE + u32::from(slot.number()));
            assert_eq!(slot.mark() & MARK_FAMILY_MASK, MARK_FAMILY);
            assert_eq!(Slot::of_table(slot.table()), Some(slot));
        }
        assert_eq!(Slot::of_table(254), None);
        assert_eq!(Slot::of_table(FIRST_TABLE + 64), None);
    }

    #[test]
    fn a_slot_is_borrowed_only_from_nobody_and_keeps_its_note() {
        let folder = tempfile::tempdir().expect("folder");
        let home = SlotLock::acquire(folder.path(), "home").expect("home");
        let work = SlotLock::acquire(folder.path(), "work").expect("work");
        let slot = work.slot();
        assert!(home.borrow(slot).expect("looked at").is_none(), "it is taken");
        drop(work);
        let borrowed = home.borrow(slot).expect("looked at").expect("it is free");
        let other = SlotLock::acquire(folder.path(), "work").expect("another slot");
        assert_ne!(other.slot(), slot);
        drop((borrowed, other));
    }

    #[test]
    fn a_tunnel_runs_once_and_says_by_whom() {
        let folder = tempfile::tempdir().expect("folder");
        let held = SlotLock::acquire(folder.path(), "home").expect("first");
        let error = SlotLock::acquire(folder.path(), "home").expect_err("second");
        assert_eq!(
            error.to_string(),
            format!("tunnel `home` is already run by process {}", std::process::id())
        );
        drop(held);
        SlotLock::acquire(folder.path(), "home").expect("free again");
    }

    #[test]
    fn two_tunnels_get_two_slots_and_keep_them() {
        let folder = tempfile::tempdir().expect("folder");
        let home = SlotLock::acquire(folder.path(), "home").expect("home");
        let work = SlotLock::acquire(folder.path(), "work").expect("work");
        assert_eq!((home.slot().number(), work.slot().number()), (0, 1));
        drop((home, work));
        let work = SlotLock::acquire(folder.path(), "work").expect("work");
        assert_eq!(work.slot().number(), 1);
        let other = SlotLock::acquire(folder.path(), "other").expect("other");
        assert_eq!(other.slot().number(), 2);
    }

    #[test]
    fn a_remembered_slot_is_given_away_only_when_no_fresh_one_is_left() {
        let order = candidates("me", |slot| Note {
            tunnel: match slot.number() {
                0 => Some("you".into()),
                9 => Some("me".into()),
                _ => None,
            },
            pid: None,
        });
        assert_eq!(order.first().map(|slot| slot.number()), Some(9));
        assert_eq!(order.get(1).map(|slot| slot.number()), Some(1));
        assert_eq!(order.last().map(|slot| slot.number()), Some(0));
    }

    #[test]
    fn the_sixty_fifth_tunnel_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let held: Vec<SlotLock> = (0..SLOTS)
            .map(|n| SlotLock::acquire(folder.path(), &format!("t{n}")).expect("slot"))
            .collect();
        let error = SlotLock::acquire(folder.path(), "last").expect_err("full");
        assert!(matches!(error, PlatformError::SlotsExhausted));
        drop(held);
    }

    #[test]
    fn a_garbled_lock_file_is_only_a_missing_hint() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("note");
        fs::write(&path, [0xff; 1000]).expect("write");
        assert_eq!(read_note(&path), Note::default());
        fs::write(&path, "home\nnot a number\n").expect("write");
        assert_eq!(
            read_note(&path),
            Note {
                tunnel: Some("home".into()),
                pid: None
            }
        );
    }
}
