//! The folder of a ledger on disks that are full or cannot be written, and between processes.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ledger::{Disk, DiskError, End, FileName, Folder, JobId, Ledger, Limits, OpenRecord, Role, SessionFacts};
use platform::clock::stamp;
use platform::disk::FolderDisk;

use crate::children::again;
use crate::lab::{Test, full_plan};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("a_full_disk_says_so_and_keeps_what_it_has", full_disk),
        ("a_disk_without_inodes_is_full_too", no_inodes),
        ("a_read_only_disk_can_be_read_and_locked", read_only),
        ("another_user_is_denied", another_user),
        ("the_worker_lock_holds_between_processes", lock_of_another_process),
        ("a_record_is_durable_in_milliseconds", durable_record),
    ]
}

/// A small disk in memory, for as long as this lives. The mounts of this process are its own.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        mount(folder.path(), 0, options);
        Self { folder }
    }

    fn set_read_only(&self) {
        mount(self.folder.path(), libc::MS_REMOUNT | libc::MS_RDONLY, "");
    }

    fn ledger(&self) -> FolderDisk {
        FolderDisk::open(&self.folder.path().join("home")).expect("ledger")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = c_path(self.folder.path());
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }, 0);
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().expect("text")).expect("path")
}

fn mount(target: &Path, flags: libc::c_ulong, options: &str) {
    let (target, options) = (c_path(target), CString::new(options).expect("options"));
    let kind = c"tmpfs".as_ptr();
    // SAFETY: all strings live for the duration of the call.
    let result = unsafe { libc::mount(kind, target.as_ptr(), kind, flags, options.as_ptr().cast()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn name(text: &str) -> FileName {
    FileName::new(text).expect("name")
}

fn put(disk: &FolderDisk, text: &str, bytes: &[u8]) -> Result<(), DiskError> {
    disk.write_temporary(Folder::Due, &name(text), bytes)?;
    disk.sync_temporary(Folder::Due, &name(text))?;
    disk.publish(Folder::Due, &name(text))?;
    disk.sync_folder(Folder::Due)
}

fn full_disk() {
    let small = SmallDisk::new("size=64k,mode=0700");
    let disk = small.ledger();
    put(&disk, "a.job", b"kept").expect("room");
    // All but one page.
    let filler = small.folder.path().join("filler");
    let mut file = fs::File::create(&filler).expect("filler");
    let mut filled = 0;
    while file.write_all(&[0; 4096]).is_ok() {
        filled += 4096;
    }
    file.set_len(filled - 4096).expect("one page back");
    assert_eq!(put(&disk, "b.job", &[1; 20_000]), Err(DiskError::Full));
    assert_eq!(put(&disk, "a.job", &[1; 20_000]), Err(DiskError::Full));
    assert_eq!(disk.read(Folder::Due, &name("a.job")), Ok(b"kept".to_vec()));
    let left: Vec<_> = fs::read_dir(disk.root().join("due")).expect("list").collect();
    assert_eq!(left.len(), 1, "the torn file took no space with it: {left:?}");
    put(&disk, "b.job", b"short").expect("one page is enough");
    assert_eq!(put(&disk, "c.job", b"short"), Err(DiskError::Full));
    disk.rename((Folder::Due, &name("b.job")), (Folder::Done, &name("b.job")))
        .expect("renaming needs no space");
    disk.remove(Folder::Done, &name("b.job"))
        .expect("neither does removing");
    put(&disk, "c.job", b"short").expect("room again");
}

fn no_inodes() {
    let small = SmallDisk::new("nr_inodes=12,mode=0700");
    let disk = small.ledger();
    let full = (0..20).find_map(|n| put(&disk, &format!("{n}.job"), b"job").err());
    assert_eq!(full, Some(DiskError::Full));
    let error = FolderDisk::open(&small.folder.path().join("work")).expect_err("full");
    assert!(error.to_string().starts_with("cannot use the ledger "), "{error}");
}

fn read_only() {
    let small = SmallDisk::new("size=1m,mode=0700");
    let disk = small.ledger();
    put(&disk, "a.job", b"kept").expect("room");
    let without_lock_file = FolderDisk::open(&small.folder.path().join("work")).expect("ledger");
    drop(disk.lock_worker().expect("lock"));
    small.set_read_only();
    let disk = small.ledger();
    let job = name("a.job");
    assert_eq!(disk.list(Folder::Due), Ok(vec![job.clone()]));
    assert_eq!(disk.read(Folder::Due, &job), Ok(b"kept".to_vec()));
    assert!(disk.lock_worker().expect("lock").is_some());
    assert_eq!(put(&disk, "b.job", b"job"), Err(DiskError::ReadOnly));
    let renamed = disk.rename((Folder::Due, &job), (Folder::Done, &job));
    assert_eq!(renamed, Err(DiskError::ReadOnly));
    assert_eq!(disk.remove(Folder::Due, &job), Err(DiskError::ReadOnly));
    let lock = without_lock_file.lock_worker().map(|_| ());
    assert_eq!(lock, Err(DiskError::ReadOnly));
    let error = FolderDisk::open(&small.folder.path().join("new")).expect_err("read-only");
    assert!(error.to_string().contains("Read-only file system"), "{error}");
}

fn another_user() {
    let folder = tempfile::tempdir().expect("folder");
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let root = folder.path().join("home");
    let disk = FolderDisk::open(&root).expect("ledger");
    put(&disk, "a.job", b"kept").expect("written");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            const SOMEBODY: libc::uid_t = 12_345;
            // SAFETY: the raw call takes integers and changes this thread alone; the C library's would change all.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, SOMEBODY, SOMEBODY, SOMEBODY) };
            if changed != 0 {
                // A user namespace of one user.
                return;
            }
            assert_eq!(disk.read(Folder::Due, &name("a.job")), Err(DiskError::Denied));
            assert_eq!(put(&disk, "b.job", b"job"), Err(DiskError::Denied));
            assert_eq!(disk.list(Folder::Due), Err(DiskError::Denied));
            assert_eq!(disk.lock_worker().map(|_| ()), Err(DiskError::Denied));
            FolderDisk::open(&root).expect_err("denied");
        });
    });
}

/// Plays the other process: takes the lock, says so, and keeps it until it is killed.
pub(crate) fn hold_lock(root: &Path) {
    let _lock = FolderDisk::open(root)
        .expect("ledger")
        .lock_worker_waiting()
        .expect("lock");
    println!("held");
    std::io::stdin().read_line(&mut String::new()).expect("standard input");
}

fn lock_of_another_process() {
    let folder = tempfile::tempdir().expect("folder");
    let disk = FolderDisk::open(folder.path()).expect("ledger");
    let mut holder = again("lock-holder");
    holder.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("start again");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("output"))
        .read_line(&mut line)
        .expect("line");
    assert_eq!(line, "held\n");
    assert!(disk.lock_worker().expect("asked").is_none());
    // A crash gives it back.
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    assert!(disk.lock_worker().expect("asked").is_some());
}

/// Prints how long the two steps take that a start and a stop wait for.
fn durable_record() {
    const ROUNDS: usize = 21;
    let folder = tempfile::tempdir().expect("folder");
    let ledger = Ledger::new(FolderDisk::open(folder.path()).expect("ledger"), Limits::default());
    let mut times: Vec<(Duration, Duration)> = (0..ROUNDS as u64)
        .map(|n| {
            let record = record(n);
            let began = Instant::now();
            ledger.open(&record).expect("open");
            let opened = began.elapsed();
            let began = Instant::now();
            let receipt = ledger.close(record, End::new(stamp(), "user_stop")).expect("close");
            assert_eq!(receipt.job(), JobId::new(1_700_000_000, n));
            (opened, began.elapsed())
        })
        .collect();
    assert_eq!(ledger.disk().list(Folder::Due).expect("list").len(), ROUNDS);
    assert!(ledger.disk().list(Folder::Open).expect("list").is_empty());
    times.sort();
    let opened = times[ROUNDS / 2].0;
    times.sort_by_key(|(_, closed)| *closed);
    let (closed, worst) = (times[ROUNDS / 2].1, times[ROUNDS - 1].1);
    println!("record opened in {opened:?}, closed in {closed:?} (median of {ROUNDS}), worst {worst:?}");
}

fn record(n: u64) -> OpenRecord {
    OpenRecord {
        id: JobId::new(1_700_000_000, n),
        tunnel: "home".into(),
        role: Role::Client,
        generation: n,
        facts: SessionFacts {
            gateway: "gw.example".into(),
            started: stamp(),
            ..SessionFacts::default()
        },
        undo: Some(plan::Undo {
            slot: 0,
            interface: "marmot0".into(),
            plan: full_plan(),
        }),
        chores: Vec::new(),
    }
}
