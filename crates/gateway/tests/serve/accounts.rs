//! What is left of a session when it is over.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use gateway::{Device, Gateway, MemoryDevice};
use ledger::{Chore, Folder, HistoryEntry, JobId, Ledger, Limits, OpenRecord, Role, SessionFacts};
use platform::disk::FolderDisk;
use wire::cstp::Kind;

use crate::client::{Client, packet, soon, tunnel_of};
use crate::house::{House, Wishes};

/// The gateway's ledger under its folder.
fn ledger(folder: &Path) -> Ledger<FolderDisk> {
    let disk = FolderDisk::open(&folder.join("state/_gateway")).expect("a ledger");
    Ledger::new(disk, Limits::default())
}

fn history(folder: &Path) -> Vec<HistoryEntry> {
    ledger(folder).history(100).expect("readable").entries
}

/// Puts a shell script into the gateway's folder of hooks. `{}` in it stands for the gateway's folder.
fn hook(folder: &Path, script: &str) {
    let hooks = folder.join("hooks");
    fs::create_dir(&hooks).expect("folder");
    fs::set_permissions(&hooks, Permissions::from_mode(0o755)).expect("permissions");
    let script = script.replace("{}", &folder.display().to_string());
    let path = hooks.join("10-hook");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("permissions");
}

/// Files in a folder of the ledger.
fn count(folder: &Path, which: Folder) -> usize {
    fs::read_dir(folder.join("state/_gateway").join(which.word()))
        .expect("a folder")
        .count()
}

#[tokio::test]
async fn the_end_of_a_session_becomes_a_record_in_the_history() {
    let mut house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    house.logged(&["record of a session opened"]);
    assert_eq!(count(house.folder(), Folder::Open), 1);
    let up = packet(tunnel.address, std::net::Ipv4Addr::new(192, 168, 7, 7), b"up");
    tunnel.send(Kind::Data, &up).await;
    house.packet().await;
    tunnel.send(Kind::Disconnect, b"\xb0bye").await;
    house.logged(&["housekeeping.done"]);

    let [entry] = &history(house.folder())[..] else {
        panic!("one session, one entry")
    };
    assert_eq!((entry.role, entry.tunnel.as_str()), (Role::Gateway, "_gateway"));
    let facts = &entry.facts;
    assert_eq!(facts.user.as_deref(), Some("alice"));
    assert_eq!(facts.addresses[0].addr().to_string(), tunnel.address.to_string());
    assert_eq!(facts.peer.map(|peer| peer.to_string()).as_deref(), Some("127.0.0.1"));
    assert_eq!((facts.packets_in, facts.bytes_in, facts.epoch), (1, 30, Some(1)));
    let end = facts.end.as_ref().expect("it is over");
    assert_eq!(end.reason, "user_stop");
    assert_eq!(count(house.folder(), Folder::Open), 0);
    assert_eq!(count(house.folder(), Folder::Done), 1);
}

#[tokio::test]
async fn a_session_that_comes_back_has_one_record() {
    let house = House::new();
    let (first, cookie) = tunnel_of(&house, "alice").await;
    let mut second = Client::connect(&house).await.tunnel(&cookie).await.expect("a tunnel");
    first.end().await;
    second.send(Kind::Disconnect, b"\xb0bye").await;
    house.logged(&["housekeeping.done"]);
    let folder = house.stop_and_look();
    let entries = history(folder.path());
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].facts.epoch, entries[0].facts.path_losses), (Some(2), 1));
}

#[tokio::test]
async fn a_stop_leaves_every_session_open_for_the_next_gateway() {
    let house = House::with(Wishes {
        housekeeping: "run = \"unit\"",
        ..Wishes::default()
    });
    let mut tunnels = Vec::new();
    for user in ["alice", "bob", "alice"] {
        tunnels.push(tunnel_of(&house, user).await);
    }
    let folder = house.stop_and_look();
    assert_eq!(count(folder.path(), Folder::Due), 0);
    assert_eq!(count(folder.path(), Folder::Open), 3);
}

#[tokio::test]
async fn what_a_unit_works_off_is_done_once() {
    let house = House::with(Wishes {
        housekeeping: "run = \"unit\"",
        ..Wishes::default()
    });
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    tunnel.send(Kind::Disconnect, b"\xb0bye").await;
    house.logged(&["session.end"]);
    let config = house.config();
    let folder = house.stop_and_look();
    assert_eq!(count(folder.path(), Folder::Due), 1, "nobody but a unit works it off");
    let work_off = move || gateway::housekeep(&config, false).expect("a ledger");
    let (first, second) = tokio::task::spawn_blocking(move || (work_off(), work_off()))
        .await
        .expect("no panic");
    assert_eq!((first.done.len(), first.failed.len()), (1, 0));
    assert_eq!(second.done, []);
    let entries = history(folder.path());
    assert_eq!(entries.len(), 1);
    let end = entries[0].facts.end.as_ref().expect("it is over");
    assert_eq!(end.reason, "user_stop");
}

#[tokio::test]
async fn sessions_of_a_gateway_that_was_killed_are_closed_by_the_next() {
    fn leave_a_record(folder: &Path) {
        let record = OpenRecord {
            id: JobId::new(1_700_000_000, 7),
            tunnel: "_gateway".to_owned(),
            role: Role::Gateway,
            generation: 1,
            facts: SessionFacts {
                user: Some("alice".to_owned()),
                ..SessionFacts::default()
            },
            undo: None,
            chores: vec![Chore::Account],
        };
        ledger(folder).open(&record).expect("written");
    }
    let house = House::with(Wishes {
        before: Some(leave_a_record),
        ..Wishes::default()
    });
    house.logged(&["never closed"]);
    house.logged(&["housekeeping.done"]);
    let entries = history(house.folder());
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].facts.user.as_deref(), Some("alice"));
    let end = entries[0].facts.end.as_ref().expect("closed");
    assert_eq!(end.reason, "gateway_restart");
}

#[tokio::test]
async fn files_that_nobody_can_read_are_named_in_the_log() {
    fn leave_them(folder: &Path) {
        let ledger = ledger(folder);
        let now = platform::clock::now().wall.since_origin().as_secs();
        let torn = |folder: Folder, number| {
            let name = JobId::new(now, number).file_name();
            fs::write(ledger.disk().root().join(folder.word()).join(name.as_str()), "torn").expect("written");
        };
        torn(Folder::Waiting, 1);
        torn(Folder::Failed, 2);
        let record = OpenRecord {
            id: JobId::new(now, 3),
            tunnel: "_gateway".to_owned(),
            role: Role::Gateway,
            generation: 1,
            facts: SessionFacts::default(),
            undo: None,
            chores: vec![Chore::Prune],
        };
        ledger.open(&record).expect("written");
    }
    let house = House::with(Wishes {
        before: Some(leave_them),
        ..Wishes::default()
    });
    house.logged(&["WARN", "not a record", "folder=waiting", "0000000000000001.job"]);
    let line = house.logged(&["WARN", "cannot be read; look at them"]);
    assert!(line.contains("count=2"), "{line}");
    for name in ["0000000000000001.job.damaged", "0000000000000002.job"] {
        assert!(line.contains(name), "{line}");
    }
}

#[tokio::test]
async fn two_gateways_do_not_keep_their_records_in_one_folder() {
    let house = House::new();
    let (near, _far) = MemoryDevice::pair(1);
    let error = Gateway::open(house.config(), None, Device::Memory(near)).expect_err("the folder is taken");
    assert!(error.to_string().contains("storage.state_dir"), "{error}");
    assert_eq!(error.exit_code(), 3);
}

#[tokio::test]
async fn a_disk_that_fails_costs_the_record_and_not_the_session() {
    let house = House::with(Wishes {
        housekeeping: "run = \"unit\"",
        ..Wishes::default()
    });
    let root = house.folder().join("state/_gateway");
    fs::rename(&root, house.folder().join("state/elsewhere")).expect("moved");
    fs::write(&root, "not a folder").expect("written");
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    house.logged(&["ERROR", "cannot be written"]);
    tunnel.send(Kind::DpdRequest, b"").await;
    assert_eq!(tunnel.next().await.kind, Kind::DpdResponse);
}

#[tokio::test]
async fn a_gateway_without_a_folder_keeps_nothing() {
    let house = House::with(Wishes {
        change: Some(|config| config.storage.state_dir = None),
        ..Wishes::default()
    });
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    tunnel.send(Kind::Disconnect, b"\xb0bye").await;
    house.logged(&["session.end"]);
    assert!(!house.folder().join("state").exists());
}

#[tokio::test]
async fn a_hook_of_the_gateway_hears_who_had_which_address() {
    let house = House::with(Wishes {
        before: Some(|folder| {
            hook(
                folder,
                "echo $MARMOT_ROLE $MARMOT_TUNNEL $MARMOT_USER $MARMOT_ADDRESSES $MARMOT_PEER > {}/heard",
            )
        }),
        ..Wishes::default()
    });
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    let address = tunnel.address;
    tunnel.send(Kind::Disconnect, b"\xb0bye").await;
    house.logged(&["housekeeping.done"]);
    let heard = fs::read_to_string(house.folder().join("heard")).expect("it ran");
    assert_eq!(heard, format!("gateway _gateway alice {address} 127.0.0.1\n"));
}

#[tokio::test]
async fn a_gateway_that_stops_puts_the_job_of_a_running_hook_back() {
    let house = House::with(Wishes {
        before: Some(|folder| {
            let made = std::process::Command::new("mkfifo")
                .arg(folder.join("started"))
                .status();
            assert!(made.expect("mkfifo runs").success());
            hook(folder, "echo $$ > {}/started; exec sleep 1000");
        }),
        ..Wishes::default()
    });
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    tunnel.send(Kind::Disconnect, b"\xb0bye").await;
    let started = house.folder().join("started");
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(started).expect("a pipe"));
    let pid = soon(read).await.expect("no panic");
    let begun = std::time::Instant::now();
    let folder = house.stop_and_look();
    assert!(
        begun.elapsed() < platform::children::GRACE,
        "a hook that heeds SIGTERM holds nobody up"
    );
    assert!(!Path::new("/proc").join(pid.trim()).exists());
    assert_eq!(count(folder.path(), Folder::Due), 1);
    let summary = ledger(folder.path()).summary().expect("readable");
    assert_eq!(summary.jobs[0].attempts, 0);
}
