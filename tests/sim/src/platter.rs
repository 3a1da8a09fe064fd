//! The simulated disk below the ledger: what processes see, what a power loss leaves, and what lies between.
//!
//! ```text
//!   write, rename, remove ---> cached view (every process sees it at once; survives kill -9)
//!                                 |  changes of folders, in order, until sync_folder
//!                                 |  contents, until sync_temporary
//!                                 v
//!                              durable view (survives a power loss)
//! ```
//! At a power loss each change that no sync covers is kept or lost by chance, but a change that rests on a lost one is
//! lost with it. A rename within a folder is kept or lost as a whole; of one across folders, the file may also be found in
//! both, never in none. A content that was not synced is kept, empty or torn. A content whose sync failed counts as not synced for ever, as on Linux, where the kernel drops such pages and
//! says nothing the second time.

use std::rc::Rc;

use crate::chance::Chance;

/// Where a file lies: folder, name, and whether it is the temporary one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the folder.
    pub folder: u8,
    /// Index of the name.
    pub name: u8,
    /// `.name.tmp` instead of `name`.
    pub temporary: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Not,
    Done,
    /// A sync failed: a later one may say it is done, and is not.
    Failed,
}

#[derive(Clone, Debug)]
struct Content {
    bytes: Rc<[u8]>,
    sync: Sync,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    content: u16,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Create(Entry),
    Move { from: Place, to: Place },
    Remove(Place),
}

impl Change {
    fn places(self) -> [Place; 2] {
        match self {
            Self::Create(Entry { place, .. }) | Self::Remove(place) => [place, place],
            Self::Move { from, to } => [from, to],
        }
    }
}

/// A disk.
#[derive(Debug, Default)]
pub struct Platter {
    contents: Vec<Content>,
    durable: Vec<Entry>,
    cached: Vec<Entry>,
    /// Changes of folders that are not durable, in the order in which they were made.
    pending: Vec<Change>,
}

fn find(entries: &[Entry], place: Place) -> Option<usize> {
    entries.iter().position(|entry| entry.place == place)
}

fn apply(entries: &mut Vec<Entry>, change: Change) {
    match change {
        Change::Create(entry) => {
            entries.retain(|old| old.place != entry.place);
            entries.push(entry);
        }
        Change::Move { from, to } => {
            entries.retain(|old| old.place != to);
            if let Some(at) = find(entries, from) {
                entries[at].place = to;
            }
        }
        Change::Remove(place) => entries.retain(|old| old.place != place),
    }
}

impl Platter {
    /// A disk with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.cached, change);
        self.pending.push(change);
    }

    /// Whether processes see a file there.
    pub fn holds(&self, place: Place) -> bool {
        find(&self.cached, place).is_some()
    }

    /// The names that processes see in a folder, in no order, without temporary ones.
    pub fn names(&self, folder: u8) -> impl Iterator<Item = u8> {
        let here = move |entry: &&Entry| entry.place.folder == folder && !entry.place.temporary;
        self.cached.iter().filter(here).map(|entry| entry.place.name)
    }

    /// The content that processes see.
    pub fn read(&self, place: Place) -> Option<&Rc<[u8]>> {
        find(&self.cached, place).map(|at| &self.contents[usize::from(self.cached[at].content)].bytes)
    }

    /// Makes a file, or replaces one, with a content that is not synced.
    pub fn write(&mut self, place: Place, bytes: &[u8]) {
        let content = u16::try_from(self.contents.len()).expect("a schedule ends long before 65,536 writes");
        self.contents.push(Content {
            bytes: bytes.into(),
            sync: Sync::Not,
        });
        self.change(Change::Create(Entry { place, content }));
    }

    /// Makes the content of a file durable; false if there is no such file.
    pub fn sync(&mut self, place: Place) -> bool {
        self.set_sync(place, Sync::Done)
    }

    /// Fails to make it durable, now and for ever.
    pub fn fail_sync(&mut self, place: Place) -> bool {
        self.set_sync(place, Sync::Failed)
    }

    fn set_sync(&mut self, place: Place, sync: Sync) -> bool {
        let Some(at) = find(&self.cached, place) else {
            return false;
        };
        let content = &mut self.contents[usize::from(self.cached[at].content)];
        if content.sync != Sync::Failed {
            content.sync = sync;
        }
        true
    }

    /// Renames, also across folders, replacing what is there; false if there is no such file.
    pub fn rename(&mut self, from: Place, to: Place) -> bool {
        let there = self.holds(from);
        if there {
            self.change(Change::Move { from, to });
        }
        there
    }

    /// Removes; false if there is no such file.
    pub fn remove(&mut self, place: Place) -> bool {
        let there = self.holds(place);
        if there {
            self.change(Change::Remove(place));
        }
        there
    }

    /// Removes the temporary files of a folder.
    pub fn remove_temporaries(&mut self, folder: u8) {
        let here = |entry: &&Entry| entry.place.folder == folder && entry.place.temporary;
        while let Some(entry) = self.cached.iter().find(here) {
            self.change(Change::Remove(entry.place));
        }
    }

    /// Makes the changes of a folder durable, with those they rest on.
    pub fn sync_folder(&mut self, folder: u8) {
        let mut wanted: Vec<Place> = Vec::new();
        let mut covered = vec![false; self.pending.len()];
        for (change, covered) in self.pending.iter().zip(&mut covered).rev() {
            let places = change.places();
            *covered = places
                .iter()
                .any(|place| place.folder == folder || wanted.contains(place));
            if *covered {
                wanted.extend(places);
            }
        }
        let mut covered = covered.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let now = covered.next().unwrap_or(false);
            if now {
                apply(durable, *change);
            }
            !now
        });
    }

    /// Whether a file with a whole content is found there after a power loss, whatever the luck.
    pub fn is_durable(&self, place: Place) -> bool {
        let whole = |entry: &Entry| self.contents[usize::from(entry.content)].sync == Sync::Done;
        find(&self.durable, place).is_some_and(|at| whole(&self.durable[at]))
    }

    fn keep_both(&mut self, [from, to]: [Place; 2]) {
        if let Some(at) = find(&self.durable, from) {
            let content = self.durable[at].content;
            apply(&mut self.durable, Change::Create(Entry { place: to, content }));
        }
    }

    /// The power goes, and comes back.
    pub fn lose_power(&mut self, chance: &Chance) {
        let (kept, of) = chance.pick(&[(0, 1), (1, 1), (1, 2), (7, 8)]);
        let mut lost: Vec<Place> = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            let places = change.places();
            let rests_on_lost = places.iter().any(|place| lost.contains(place));
            let folders = places.map(|place| place.folder);
            if rests_on_lost || chance.below(of) >= kept {
                lost.extend(places);
            } else if folders[0] != folders[1] && chance.once_in(3) {
                self.keep_both(places);
            } else {
                apply(&mut self.durable, change);
            }
        }
        for entry in &self.durable {
            let content = &mut self.contents[usize::from(entry.content)];
            if content.sync != Sync::Done {
                tear(content, chance);
                content.sync = Sync::Done;
            }
        }
        self.cached.clone_from(&self.durable);
    }
}

fn tear(content: &mut Content, chance: &Chance) {
    let length = content.bytes.len();
    let cut = usize::try_from(chance.below(length as u64 + 1)).unwrap_or(0);
    content.bytes = match chance.below(4) {
        0 => return,
        1 => [].into(),
        2 => content.bytes[..cut].into(),
        // The length arrived, the rest of the blocks did not.
        _ => content.bytes[..cut]
            .iter()
            .copied()
            .chain(std::iter::repeat_n(0, length - cut))
            .collect(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPORARY: Place = Place {
        folder: 0,
        name: 0,
        temporary: true,
    };
    const HERE: Place = Place {
        temporary: false,
        ..TEMPORARY
    };
    const THERE: Place = Place { folder: 1, ..HERE };

    /// What a hundred power losses make of a disk.
    fn losses(make: impl Fn(&mut Platter)) -> Vec<Platter> {
        (0..100)
            .map(|seed| {
                let mut disk = Platter::new();
                make(&mut disk);
                disk.lose_power(&Chance::new(seed));
                disk
            })
            .collect()
    }

    fn whole(disk: &Platter, place: Place) -> bool {
        disk.read(place).is_some_and(|bytes| bytes[..] == b"content"[..])
    }

    #[test]
    fn what_was_synced_survives_every_power_loss() {
        let disks = losses(|disk| {
            disk.write(TEMPORARY, b"content");
            disk.sync(TEMPORARY);
            disk.rename(TEMPORARY, HERE);
            disk.sync_folder(0);
            assert!(disk.is_durable(HERE));
        });
        assert!(disks.iter().all(|disk| whole(disk, HERE) && !disk.holds(TEMPORARY)));
    }

    #[test]
    fn a_content_without_a_sync_may_be_whole_empty_or_torn() {
        let disks = losses(|disk| {
            disk.write(TEMPORARY, b"content");
            disk.rename(TEMPORARY, HERE);
            disk.sync_folder(0);
            assert!(!disk.is_durable(HERE));
        });
        assert!(disks.iter().all(|disk| disk.holds(HERE)), "its name is durable");
        assert!(disks.iter().any(|disk| whole(disk, HERE)));
        assert!(
            disks
                .iter()
                .any(|disk| disk.read(HERE).is_some_and(|bytes| bytes.is_empty()))
        );
        assert!(
            disks
                .iter()
                .any(|disk| disk.read(HERE).is_some_and(|bytes| bytes.len() == 7 && bytes[6] == 0))
        );
    }

    #[test]
    fn a_name_without_a_sync_of_its_folder_may_be_lost() {
        let disks = losses(|disk| {
            disk.write(TEMPORARY, b"content");
            disk.sync(TEMPORARY);
            disk.rename(TEMPORARY, HERE);
        });
        assert!(disks.iter().any(|disk| whole(disk, HERE)));
        assert!(disks.iter().any(|disk| !disk.holds(HERE)));
        assert!(
            disks.iter().any(|disk| disk.holds(TEMPORARY)),
            "the first change was kept, the second lost"
        );
    }

    #[test]
    fn a_file_renamed_across_folders_is_found_in_one_or_both() {
        let disks = losses(|disk| {
            disk.write(HERE, b"content");
            disk.sync(HERE);
            disk.sync_folder(0);
            disk.rename(HERE, THERE);
        });
        let found = |here: bool, there: bool| {
            let as_said = |disk: &&Platter| whole(disk, HERE) == here && whole(disk, THERE) == there;
            disks.iter().filter(as_said).count()
        };
        assert!(found(true, false) > 0 && found(false, true) > 0 && found(true, true) > 0);
        assert_eq!(found(false, false), 0);
    }

    #[test]
    fn a_sync_of_one_folder_covers_what_its_changes_rest_on_and_nothing_else() {
        let other = Place { name: 1, ..THERE };
        let disks = losses(|disk| {
            disk.write(HERE, b"content");
            disk.sync(HERE);
            disk.write(other, b"content");
            disk.sync(other);
            disk.rename(HERE, THERE);
            disk.sync_folder(0);
        });
        assert!(disks.iter().all(|disk| whole(disk, THERE)));
        assert!(disks.iter().any(|disk| !disk.holds(other)));
    }

    #[test]
    fn a_content_whose_sync_failed_is_never_durable() {
        let mut disk = Platter::new();
        disk.write(HERE, b"content");
        disk.fail_sync(HERE);
        disk.sync(HERE);
        disk.sync_folder(0);
        assert!(!disk.is_durable(HERE));
    }
}
