//! The folder of a ledger on a file system that is there.

use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;

use super::*;

fn name(text: &str) -> FileName {
    FileName::new(text).expect("name")
}

fn new() -> (tempfile::TempDir, FolderDisk) {
    let folder = tempfile::tempdir().expect("folder");
    let disk = FolderDisk::open(&folder.path().join("state/home")).expect("disk");
    (folder, disk)
}

fn put(disk: &FolderDisk, folder: Folder, text: &str, bytes: &[u8]) {
    disk.write_temporary(folder, &name(text), bytes).expect("written");
    disk.sync_temporary(folder, &name(text)).expect("synced");
    disk.publish(folder, &name(text)).expect("published");
    disk.sync_folder(folder).expect("folder synced");
}

fn names(disk: &FolderDisk, folder: Folder) -> Vec<String> {
    disk.list(folder).expect("list").into_iter().map(String::from).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("metadata").mode() & 0o7777
}

#[test]
fn a_record_travels_through_the_folders() {
    let (_folder, disk) = new();
    put(&disk, Folder::Open, "b.job", b"second");
    put(&disk, Folder::Open, "a.job", b"first");
    assert_eq!(names(&disk, Folder::Open), ["a.job", "b.job"]);
    assert_eq!(disk.read(Folder::Open, &name("a.job")), Ok(b"first".to_vec()));
    put(&disk, Folder::Open, "a.job", b"again");
    assert_eq!(
        disk.read(Folder::Open, &name("a.job")),
        Ok(b"again".to_vec()),
        "replaced"
    );

    disk.rename((Folder::Open, &name("a.job")), (Folder::Due, &name("a.job")))
        .expect("renamed");
    assert_eq!(names(&disk, Folder::Open), ["b.job"]);
    disk.rename((Folder::Open, &name("b.job")), (Folder::Due, &name("a.job")))
        .expect("replaced");
    assert_eq!(disk.read(Folder::Due, &name("a.job")), Ok(b"second".to_vec()));
    disk.remove(Folder::Due, &name("a.job")).expect("removed");
    for folder in Folder::ALL {
        assert!(names(&disk, folder).is_empty(), "{folder}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let (folder, disk) = new();
    let missing = name("a.job");
    assert_eq!(disk.read(Folder::Due, &missing), Err(DiskError::NotFound));
    assert_eq!(disk.remove(Folder::Due, &missing), Err(DiskError::NotFound));
    assert_eq!(disk.publish(Folder::Due, &missing), Err(DiskError::NotFound));
    assert_eq!(disk.sync_temporary(Folder::Due, &missing), Err(DiskError::NotFound));
    let rename = disk.rename((Folder::Due, &missing), (Folder::Done, &missing));
    assert_eq!(rename, Err(DiskError::NotFound));

    // Somebody removed it all while we run: nothing is there, and the next record is kept.
    fs::remove_dir_all(folder.path().join("state")).expect("remove");
    assert!(names(&disk, Folder::Due).is_empty());
    assert_eq!(disk.remove_temporaries(Folder::Due), Ok(()));
    assert_eq!(disk.read(Folder::Due, &missing), Err(DiskError::NotFound));
    put(&disk, Folder::Open, "a.job", b"kept");
    assert_eq!(disk.read(Folder::Open, &missing), Ok(b"kept".to_vec()));
    assert_eq!(mode(disk.root()), 0o700);
}

#[test]
fn only_the_owner_gets_at_anything() {
    let (folder, disk) = new();
    put(&disk, Folder::Due, "a.job", b"job");
    drop(disk.lock_worker().expect("lock"));
    disk.write_temporary(Folder::Due, &name("b.job"), b"job")
        .expect("written");
    assert_eq!(mode(disk.root()), 0o700);
    for kind in Folder::ALL {
        assert_eq!(mode(&disk.root().join(kind.word())), 0o700, "{kind}");
    }
    for file in ["due/a.job", "due/.b.job.tmp", "worker.lock"] {
        assert_eq!(mode(&disk.root().join(file)), 0o600, "{file}");
    }

    let readable = folder.path().join("readable");
    fs::create_dir(&readable).expect("create");
    fs::set_permissions(&readable, Permissions::from_mode(0o755)).expect("chmod");
    FolderDisk::open(&readable).expect("mended");
    assert_eq!(mode(&readable), 0o700);
    let writable = folder.path().join("writable");
    fs::create_dir(&writable).expect("create");
    fs::set_permissions(&writable, Permissions::from_mode(0o775)).expect("chmod");
    let text = FolderDisk::open(&writable).expect_err("refused").to_string();
    assert!(text.contains("others may write there (mode 0775)"), "{text}");
}

#[test]
fn hidden_files_are_temporary_and_can_be_cleared() {
    let (_folder, disk) = new();
    put(&disk, Folder::Due, "a.job", b"job");
    disk.write_temporary(Folder::Due, &name("b.job"), b"torn")
        .expect("written");
    disk.write_temporary(Folder::Due, &name("b.job"), b"torn again")
        .expect("replaced");
    fs::write(disk.root().join("due/.other"), "not of our kind").expect("write");
    assert_eq!(names(&disk, Folder::Due), ["a.job"]);
    disk.remove_temporaries(Folder::Due).expect("cleared");
    assert_eq!(disk.publish(Folder::Due, &name("b.job")), Err(DiskError::NotFound));
    assert!(disk.root().join("due/.other").exists());
    assert_eq!(names(&disk, Folder::Due), ["a.job"]);
}

#[test]
fn a_listing_has_a_limit_and_keeps_the_first() {
    let (_folder, disk) = new();
    let due = disk.root().join("due");
    for n in (0..MAX_JOBS + 5).rev() {
        File::create(due.join(format!("{n:06}.job"))).expect("create");
    }
    let listed = disk.list(Folder::Due).expect("list");
    assert_eq!(listed.len(), MAX_JOBS);
    assert_eq!(listed.first().map(FileName::as_str), Some("000000.job"));
    assert!(listed.is_sorted());
}

#[test]
fn a_file_is_read_up_to_one_byte_too_many() {
    let (_folder, disk) = new();
    fs::write(disk.root().join("due/large.job"), vec![1; MAX_RECORD + 1000]).expect("write");
    let read = disk.read(Folder::Due, &name("large.job")).expect("read");
    assert_eq!(read.len(), MAX_RECORD + 1);
}

#[test]
fn links_and_other_strange_things_are_listed_and_not_followed() {
    let (folder, disk) = new();
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").expect("write");
    let due = disk.root().join("due");
    symlink(&secret, due.join("link.job")).expect("link");
    fs::create_dir(due.join("folder.job")).expect("create");
    let _socket = UnixListener::bind(due.join("socket.job")).expect("bind");
    let fifo = c_string(&due.join("fifo.job").display().to_string()).expect("path");
    // SAFETY: the path is a C string.
    check(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }).expect("mkfifo");
    let strange = ["fifo.job", "folder.job", "link.job", "socket.job"];
    assert_eq!(names(&disk, Folder::Due), strange);
    for text in strange {
        assert_eq!(disk.read(Folder::Due, &name(text)), Err(DiskError::Foreign), "{text}");
        disk.rename((Folder::Due, &name(text)), (Folder::Failed, &name(text)))
            .expect("set aside");
    }
    assert_eq!(names(&disk, Folder::Due), [""; 0]);

    // A planted temporary file is not written through.
    symlink(&secret, due.join(".a.job.tmp")).expect("link");
    put(&disk, Folder::Due, "a.job", b"job");
    assert_eq!(disk.read(Folder::Due, &name("a.job")), Ok(b"job".to_vec()));
    assert_eq!(fs::read(&secret).expect("read"), b"secret");
    fs::hard_link(&secret, due.join(".a.job.tmp")).expect("link");
    put(&disk, Folder::Due, "a.job", b"job");
    assert_eq!(fs::read(&secret).expect("read"), b"secret");
    fs::remove_file(disk.root().join("worker.lock")).ok();
    symlink(&secret, disk.root().join("worker.lock")).expect("link");
    assert_eq!(disk.lock_worker().map(|_| ()), Err(DiskError::Foreign));
}

#[test]
fn a_folder_that_is_a_link_is_refused() {
    let (folder, disk) = new();
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("create");
    let due = disk.root().join("due");
    fs::remove_dir(&due).expect("remove");
    symlink(&elsewhere, &due).expect("link");
    let job = name("a.job");
    assert_eq!(disk.write_temporary(Folder::Due, &job, b"job"), Err(DiskError::Foreign));
    assert_eq!(disk.list(Folder::Due), Err(DiskError::Foreign));
    FolderDisk::open(disk.root()).expect_err("refused");
    let link = folder.path().join("link");
    symlink(disk.root(), &link).expect("link");
    let text = FolderDisk::open(&link).expect_err("refused").to_string();
    assert!(text.starts_with("cannot use the ledger "), "{text}");
    assert_eq!(fs::read_dir(&elsewhere).expect("list").count(), 0);
}

#[test]
fn what_root_makes_by_hand_belongs_to_the_service() {
    const SERVICE: u32 = 12_345;
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().join("home");
    fs::create_dir(&root).expect("create");
    if chown(&root, Some(SERVICE), Some(SERVICE)).is_err() {
        // Not root, or root of a namespace without other users.
        return;
    }
    let disk = FolderDisk::open(&root).expect("root may");
    put(&disk, Folder::Due, "a.job", b"job");
    drop(disk.lock_worker().expect("lock"));
    for path in ["", "due", "history", "due/a.job", "worker.lock"] {
        let metadata = fs::metadata(root.join(path)).expect("metadata");
        assert_eq!((metadata.uid(), metadata.gid()), (SERVICE, SERVICE), "{path:?}");
    }
    // A file of a third user is none of the ledger's.
    fs::write(root.join("due/b.job"), "planted").expect("write");
    chown(root.join("due/b.job"), Some(SERVICE + 1), None).expect("chown");
    assert_eq!(disk.read(Folder::Due, &name("b.job")), Err(DiskError::Foreign));
}

#[test]
fn one_works_and_the_next_waits() {
    let (_folder, disk) = new();
    let first = disk.lock_worker().expect("lock").expect("free");
    assert!(disk.lock_worker().expect("asked").is_none());
    let other = disk.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        tell.send(()).expect("told");
        other.lock_worker_waiting().expect("lock")
    });
    told.recv().expect("it waits, or will in a moment");
    assert!(!waiting.is_finished());
    drop(first);
    let second = waiting.join().expect("no panic");
    assert!(disk.lock_worker().expect("asked").is_none());
    drop(second);
    assert!(disk.lock_worker().expect("asked").is_some());
}

#[test]
fn a_ledger_has_one_keeper_who_says_who_it_is() {
    let (_folder, disk) = new();
    let Keeper::Ours(held) = disk.lock_keeper().expect("lock") else {
        panic!("nobody else is there");
    };
    assert_eq!(mode(&disk.root().join("keeper.lock")), 0o600);
    let second = disk.lock_keeper().expect("asked");
    assert!(
        matches!(second, Keeper::Another { pid: Some(pid) } if pid == std::process::id()),
        "{second:?}"
    );
    assert!(
        disk.lock_worker().expect("asked").is_some(),
        "work goes on beside the keeper"
    );
    // What is no note is none; nobody waits for whom it might mean.
    fs::write(disk.root().join("keeper.lock"), [0xff; 100]).expect("write");
    let second = disk.lock_keeper().expect("asked");
    assert!(matches!(second, Keeper::Another { pid: None }), "{second:?}");
    drop(held);
    assert!(matches!(disk.lock_keeper(), Ok(Keeper::Ours(_))));
}

#[test]
fn the_ledger_of_a_dead_keeper_is_waited_for() {
    let (_folder, disk) = new();
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
        .arg("--list")
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a process");
    let dead = child.id();
    child.wait().expect("its end");
    let held = disk.lock_keeper().expect("lock");
    fs::write(disk.root().join("keeper.lock"), format!("{dead:10}\n")).expect("write");
    let (ready, begins) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| {
            ready.send(()).expect("heard");
            disk.lock_keeper()
        });
        begins.recv().expect("it begins");
        drop(held);
        assert!(matches!(next.join().expect("no panic"), Ok(Keeper::Ours(_))));
    });
}

#[test]
fn the_keepers_number_is_written_into_no_other_file() {
    let (folder, disk) = new();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").expect("write");
    let lock = disk.root().join("keeper.lock");
    symlink(&precious, &lock).expect("link");
    assert_eq!(disk.lock_keeper().map(|_| ()), Err(DiskError::Foreign));
    fs::remove_file(&lock).expect("remove");
    fs::hard_link(&precious, &lock).expect("link");
    assert!(matches!(disk.lock_keeper(), Ok(Keeper::Ours(_))));
    assert_eq!(fs::read(&precious).expect("read"), b"precious");
}
