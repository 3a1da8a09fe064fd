//! A ledger and a folder of hooks of one test's own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use housekeeping::{Collector, Office, Outcome, Settings, Worker};
use ledger::{Chore, End, JobId, Ledger, Limits, Listed, OpenRecord, Role, SessionFacts, Stamp, Summary, Token};
use platform::disk::FolderDisk;
use tempfile::TempDir;
use tokio::sync::watch;

/// Long enough for the slowest machine; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Desk {
    pub(crate) folder: TempDir,
    pub(crate) ledger: Arc<Ledger<FolderDisk>>,
    pub(crate) settings: Settings,
    pub(crate) office: Desktop,
    jobs: u64,
}

/// What the office was asked for, and what it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desktop {
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) refuses: bool,
    pub(crate) hangs: bool,
}

impl Office for Desktop {
    async fn logout(&self, record: &OpenRecord, token: &Token) -> Result<(), String> {
        let asked = format!("logout {} {}", record.id, token.reveal());
        self.asked.lock().expect("no panic").push(asked);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        match self.refuses {
            true => Err("the gateway is not there".to_owned()),
            false => Ok(()),
        }
    }

    async fn forget(&self, record: &OpenRecord) -> Result<(), String> {
        let asked = format!("forget {}", record.id);
        self.asked.lock().expect("no panic").push(asked);
        Ok(())
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let hooks_dir = folder.path().join("housekeeping.d");
        fs::create_dir(&hooks_dir).expect("folder");
        fs::set_permissions(&hooks_dir, Permissions::from_mode(0o755)).expect("permissions");
        let disk = FolderDisk::open(&folder.path().join("ledger")).expect("a ledger");
        Self {
            ledger: Arc::new(Ledger::new(disk, limits)),
            settings: Settings {
                hooks_dir,
                hook_timeout: PATIENCE,
                hook_output: 4096,
                collector: None,
            },
            office: Desktop::default(),
            folder,
            jobs: 0,
        }
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The text of a file of the test's folder; empty if there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Puts a shell script into the folder of hooks. `{}` in it stands for the test's folder.
    pub(crate) fn hook(&self, name: &str, script: &str) -> PathBuf {
        let path = self.settings.hooks_dir.join(name);
        let script = script.replace("{}", &self.folder.path().display().to_string());
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("permissions");
        path
    }

    /// A pipe with a name, on which a hook can tell the test something, or wait for it.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        path
    }

    /// Owes these chores for a session of alice's that has just ended.
    pub(crate) fn owe(&mut self, chores: &[Chore]) -> JobId {
        self.jobs += 1;
        let id = JobId::new(1_700_000_000, self.jobs);
        let stamp = |wall_ms| Stamp {
            wall_ms,
            boot_ms: wall_ms,
            boot_id: "boot".to_owned(),
        };
        let record = OpenRecord {
            id,
            tunnel: "work".to_owned(),
            role: Role::Client,
            generation: 3,
            facts: SessionFacts {
                session: Some("0a0b".to_owned()),
                epoch: Some(2),
                gateway: "vpn.example.com".to_owned(),
                user: Some("alice\nroot".to_owned()),
                peer: Some([192, 0, 2, 1].into()),
                addresses: vec!["10.78.0.2/24".parse().expect("net"), "fd00::2/64".parse().expect("net")],
                started: stamp(1_700_000_000_000),
                packets_in: 1,
                packets_out: 2,
                bytes_in: 30,
                bytes_out: 40,
                ..SessionFacts::default()
            },
            undo: None,
            chores: chores.to_vec(),
        };
        // 90.5 s later on the boot clock, and now on the wall clock: from there the job's time is counted.
        let wall = platform::clock::now().wall.since_origin();
        let ended = Stamp {
            wall_ms: u64::try_from(wall.as_millis()).expect("not yet"),
            ..stamp(1_700_000_090_500)
        };
        self.ledger
            .close(record, End::new(ended, "user_stop"))
            .expect("written");
        id
    }

    pub(crate) fn worker(&self) -> Worker<Desktop> {
        Worker::new(Arc::clone(&self.ledger), self.settings.clone(), self.office.clone())
    }

    /// Works off all that is due, once nobody else holds the lock: what other tests of this process fork has a copy of it until
    /// its exec.
    pub(crate) async fn work_off(&self) -> Outcome {
        self.nobody_works().await;
        self.try_work_off().await
    }

    /// Works off all that is due unless somebody else does.
    pub(crate) async fn try_work_off(&self) -> Outcome {
        let (_stopper, stop) = watch::channel(false);
        soon(self.worker().work_off(stop)).await
    }

    /// Waits until the worker lock is free.
    pub(crate) async fn nobody_works(&self) {
        let ledger = Arc::clone(&self.ledger);
        let lock = tokio::task::spawn_blocking(move || ledger.disk().lock_worker_waiting().map(drop));
        soon(lock).await.expect("no panic").expect("a lock");
    }

    /// Makes a job that waits or was given up due at once.
    pub(crate) fn retry(&self, job: JobId) {
        self.ledger
            .retry(job, platform::clock::now().wall)
            .expect("it failed before");
    }

    pub(crate) fn summary(&self) -> Summary {
        self.ledger.summary().expect("readable")
    }

    /// The only job that is not done.
    pub(crate) fn listed(&self) -> Listed {
        let mut jobs = self.summary().jobs;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.remove(0)
    }

    pub(crate) fn collector(&mut self, port: u16) {
        self.settings.collector = Some(Collector {
            host: "127.0.0.1".to_owned(),
            port,
            authority: format!("127.0.0.1:{port}"),
            path: "/sessions".to_owned(),
            tls: None,
            timeout: PATIENCE,
        });
    }
}

/// Waits for something that must happen soon.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// Reads a pipe until its writer closes it.
pub(crate) async fn told(fifo: &Path) -> String {
    let fifo = fifo.to_owned();
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(fifo).expect("a pipe"));
    soon(read).await.expect("no panic")
}

/// Lets go whoever reads the pipe.
pub(crate) async fn tell(fifo: &Path) {
    let fifo = fifo.to_owned();
    let written = tokio::task::spawn_blocking(move || fs::write(fifo, "go\n").expect("a pipe"));
    soon(written).await.expect("no panic");
}
