//! Files that are not what they should be: kept as they are, named, never run.

use ledger::{Damaged, DiskError, Folder, JobId, LedgerError, Record, Recovered};

use super::{Desk, MemoryDisk, NOW, file, id, record};

fn recovered(desk: &Desk<'_>) -> Recovered {
    let lock = desk.ledger.lock_worker().expect("a healthy disk").expect("free");
    desk.ledger.recover(lock, NOW).expect("a healthy disk").1
}

fn nothing_is_claimed(desk: &Desk<'_>) {
    let mut work = desk.work();
    assert_eq!(desk.ledger.claim(&mut work), Ok(None));
}

#[test]
fn a_damaged_job_is_never_run_and_kept_unchanged_under_a_name_that_no_job_can_take() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut bytes = disk.bytes(Folder::Due, &file(1)).expect("a due job");
    bytes[40] ^= 1;
    disk.plant(Folder::Due, &file(1), &bytes);
    nothing_is_claimed(&desk);
    assert_eq!(desk.files(), ["failed/01.job.damaged"]);
    assert_eq!(disk.bytes(Folder::Failed, &format!("{}.damaged", file(1))), Some(bytes));
    let summary = desk.ledger.summary().expect("a healthy disk");
    let named: Vec<_> = summary.damaged.iter().map(ToString::to_string).collect();
    assert_eq!(named, [format!("{}.damaged", file(1))]);
}

#[test]
fn damaged_files_of_one_name_do_not_replace_each_other() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    for torn in ["one", "two", "three"] {
        disk.plant(Folder::Due, &file(1), torn.as_bytes());
        nothing_is_claimed(&desk);
    }
    assert_eq!(
        desk.files(),
        [
            "failed/01.job.damaged",
            "failed/01.job.damaged-2",
            "failed/01.job.damaged-3"
        ]
    );
}

#[test]
fn a_foreign_file_leaves_every_folder_that_a_worker_looks_into() {
    for folder in [
        Folder::Due,
        Folder::Running,
        Folder::Waiting,
        Folder::Done,
        Folder::Open,
    ] {
        let disk = MemoryDisk::new();
        let desk = Desk::new(&disk);
        disk.plant(folder, "README", b"do not delete");
        let found = recovered(&desk);
        let [damaged] = &found.damaged[..] else {
            panic!("one file: {found:?}");
        };
        assert_eq!((damaged.folder, damaged.name.as_str()), (folder, "README"));
        assert_eq!(desk.files(), ["failed/README.damaged"]);
        assert_eq!(recovered(&desk), Recovered::default(), "it is left alone from now on");
    }
}

#[test]
fn what_is_no_file_is_moved_as_well() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    disk.plant(Folder::Due, &file(1), b"");
    disk.spoil(Folder::Due, &file(1), DiskError::Foreign);
    disk.spoil(Folder::Running, &file(1), DiskError::Foreign);
    nothing_is_claimed(&desk);
    assert_eq!(desk.files(), ["failed/01.job.damaged"]);
}

#[test]
fn a_job_under_the_name_of_another_is_not_run() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let bytes = disk.bytes(Folder::Due, &file(1)).expect("a due job");
    disk.plant(Folder::Due, &file(2), &bytes);
    let mut work = desk.work();
    assert_eq!(desk.claim(&mut work).job().id(), id(1));
    assert_eq!(desk.ledger.claim(&mut work), Ok(None));
    assert_eq!(desk.files(), ["running/01.job", "failed/02.job.damaged"]);
}

#[test]
fn a_damaged_copy_does_not_win_over_a_good_one() {
    for folder in [Folder::Failed, Folder::Waiting, Folder::Running] {
        let disk = MemoryDisk::new();
        let desk = Desk::new(&disk);
        desk.close(1);
        disk.plant(folder, &file(1), b"torn");
        let mut work = desk.work();
        assert_eq!(desk.claim(&mut work).job().id(), id(1));
        assert_eq!(desk.files(), ["running/01.job", "failed/01.job.damaged"], "{folder}");
    }
}

#[test]
fn a_job_in_done_was_done_even_if_nobody_can_read_it() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    disk.plant(Folder::Done, &file(1), b"torn");
    nothing_is_claimed(&desk);
    assert_eq!(desk.files(), ["done/01.job"]);
}

#[test]
fn a_damaged_record_of_a_session_is_named_and_the_others_are_found() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    let mut torn = record(2).to_bytes().expect("it fits");
    torn.truncate(100);
    disk.plant(Folder::Open, &file(2), &torn);
    let (records, damaged) = desk.ledger.opens().expect("a healthy disk");
    assert_eq!(records, [record(1)]);
    let kept_as = format!("{}.damaged", file(2)).parse().ok();
    assert_eq!(
        damaged,
        [Damaged {
            folder: Folder::Open,
            name: id(2).file_name(),
            kept_as,
            why: "its length is wrong".to_owned(),
        }]
    );
}

#[test]
fn a_file_that_the_disk_does_not_give_stays_where_it_is_and_holds_up_no_other() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let broken = || DiskError::Io("input/output error".to_owned());
    for folder in [Folder::Open, Folder::Running, Folder::Waiting, Folder::Failed] {
        disk.plant(folder, &file(1), b"?");
        disk.spoil(folder, &file(1), broken());
    }
    let found = recovered(&desk);
    assert_eq!(
        found.damaged.iter().filter(|damaged| damaged.kept_as.is_some()).count(),
        0
    );
    desk.close(2);
    let mut work = desk.work();
    assert_eq!(desk.ledger.drain_waiting(&mut work, NOW), Ok(0));
    assert_eq!(desk.claim(&mut work).job().id(), id(2));
    let (records, damaged) = desk.ledger.opens().expect("a listing");
    assert_eq!((records.len(), damaged.len()), (0, 1));
    let files = desk.files();
    for place in ["open/01.job", "running/01.job", "waiting/01.job", "failed/01.job"] {
        assert!(files.iter().any(|file| file == place), "{files:?}");
    }
}

#[test]
fn a_damaged_file_that_a_drain_or_a_claim_comes_upon_is_named() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let mut work = desk.work();
    disk.plant(Folder::Waiting, &file(1), b"torn");
    disk.plant(Folder::Due, &file(2), b"torn");
    assert_eq!(desk.ledger.drain_waiting(&mut work, NOW), Ok(0));
    assert_eq!(desk.ledger.claim(&mut work), Ok(None));
    let named = work.take_damaged();
    let places: Vec<_> = named.iter().map(|file| (file.folder, file.name.to_string())).collect();
    assert_eq!(places, [(Folder::Waiting, file(1)), (Folder::Running, file(2))]);
    assert_eq!(desk.files(), ["failed/01.job.damaged", "failed/02.job.damaged"]);
    assert_eq!(desk.ledger.check_due(&work), Ok(()));
}

#[test]
fn what_cannot_be_moved_out_of_due_is_named_once_and_holds_up_no_job() {
    for foreign in ["0".to_owned(), file(1)] {
        let disk = MemoryDisk::new();
        let desk = Desk::new(&disk);
        disk.plant(Folder::Due, &foreign, b"");
        disk.pin(Folder::Due, &foreign);
        disk.spoil(Folder::Due, &foreign, DiskError::Foreign);
        let mut work = desk.work();
        for number in [2, 3] {
            desk.close(number);
            let claim = desk.claim(&mut work);
            assert_eq!(claim.job().id(), id(number));
            desk.ledger.finish(&work, claim, NOW).expect("a healthy disk");
        }
        assert_eq!(desk.ledger.claim(&mut work), Ok(None));
        let named = work.take_damaged();
        let [damaged] = &named[..] else {
            panic!("named once: {named:?}");
        };
        assert_eq!((damaged.name.as_str(), &damaged.kept_as), (foreign.as_str(), &None));
        let error = desk.ledger.check_due(&work).expect_err("due/ will never be empty");
        let text = format!("due/ holds {foreign}, which cannot be moved away; remove it");
        assert_eq!(error.to_string(), text);
        desk.close(4);
        assert_eq!(
            desk.ledger.check_due(&work),
            Err(error),
            "a job that has just become due is none of these"
        );
    }
}

#[test]
fn what_has_no_name_that_a_ledger_uses_is_counted() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    disk.plant(Folder::Due, "two\nlines", b"");
    disk.plant(Folder::Due, ".hidden", b"");
    let mut work = desk.work();
    assert_eq!(desk.ledger.claim(&mut work), Ok(None));
    let error = desk.ledger.check_due(&work).expect_err("due/ is not empty");
    let text = "due/ holds what has no usable name (1), which cannot be moved away; remove it";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_damaged_job_cannot_be_tried_again() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    disk.plant(Folder::Failed, &file(1), b"torn");
    let error = desk.ledger.retry(id(1), NOW).expect_err("it cannot be read");
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
    assert_eq!(error.to_string(), format!("job {} cannot be read: not a record", id(1)));
}

#[test]
fn temporary_files_of_a_crash_are_swept_away() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    for folder in Folder::ALL {
        disk.plant(folder, &format!(".{}.tmp", file(1)), b"half a rec");
    }
    assert_eq!(recovered(&desk), Recovered::default());
    assert_eq!(desk.files(), Vec::<String>::new());
}

#[test]
fn the_most_final_of_all_copies_stays() {
    let order = [
        Folder::Open,
        Folder::Due,
        Folder::Running,
        Folder::Waiting,
        Folder::Failed,
        Folder::Done,
    ];
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let job = disk.bytes(Folder::Due, &file(1)).expect("a due job");
    let open = record(1).to_bytes().expect("it fits");
    for most in 2..order.len() {
        let disk = MemoryDisk::new();
        let desk = Desk::new(&disk);
        disk.plant(Folder::Open, &file(1), &open);
        for folder in &order[1..=most] {
            disk.plant(*folder, &file(1), &job);
        }
        let found = recovered(&desk);
        assert_eq!(found.copies as usize, most);
        let stays = match order[most] {
            Folder::Running => Folder::Due,
            folder => folder,
        };
        assert_eq!(desk.files(), [format!("{stays}/01.job")]);
    }
}

#[test]
fn ids_of_files_are_exact() {
    for name in [
        "1699990000-0000000000000001.job.damaged",
        "1699990000-1.job",
        "x.job",
        ".job",
    ] {
        assert_eq!(name.parse().ok().and_then(|name| JobId::of_file(&name)), None, "{name}");
    }
}
