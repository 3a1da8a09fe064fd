//! What sessions leave is worked off behind the daemon's back: never before an acknowledgement, and nobody waits for it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use api::Happening;
use ledger::{Folder, Owed};
use lifecycle::Origin;
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};

use crate::stop_stories::{Daemon, outcome, stub};
use crate::testing::{Behaviour, Order, PATIENCE, Pki, Seen, StubGateway};

const IN_DAEMON: &str = "[housekeeping]\nrun = \"daemon\"";

/// An executable that says on one FIFO that it runs, and waits for a word on another one.
struct SlowHook {
    runs: PathBuf,
    go: PathBuf,
}

impl SlowHook {
    fn install(pki: &Pki) -> Self {
        let [runs, go] = ["runs", "go"].map(|name| pki.folder().join(name));
        for fifo in [&runs, &go] {
            let made = Command::new("mkfifo").arg(fifo).status().expect("mkfifo");
            assert!(made.success());
        }
        let text = format!(
            "#!/bin/sh\necho $MARMOT_JOB > {}\nread word < {}\n",
            runs.display(),
            go.display()
        );
        install(pki, "slow", &text);
        Self { runs, go }
    }

    /// Waits until it runs; returns the job.
    async fn runs(&self) -> String {
        let path = self.runs.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut job = String::new();
            fs::File::open(path)
                .expect("a fifo")
                .read_to_string(&mut job)
                .expect("readable");
            job.trim().to_owned()
        });
        timeout(PATIENCE, read).await.expect("it runs").expect("no panic")
    }

    /// Lets it end.
    async fn go(&self) {
        let path = self.go.clone();
        let write = tokio::task::spawn_blocking(move || {
            let mut fifo = fs::OpenOptions::new().write(true).open(path).expect("a fifo");
            fifo.write_all(b"go\n").expect("taken");
        });
        timeout(PATIENCE, write).await.expect("it listens").expect("no panic");
    }
}

fn install(pki: &Pki, name: &str, text: &str) {
    let folder = pki.folder().join("hooks");
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

async fn event<T>(events: &mut broadcast::Receiver<api::Event>, mut pick: impl FnMut(Happening) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("no event missed").what) {
                return found;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("in time")
}

async fn done(events: &mut broadcast::Receiver<api::Event>) -> (String, u32) {
    event(events, |what| match what {
        Happening::HousekeepingDone { job, tries, .. } => Some((job, tries)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_start_and_a_stop_never_wait_for_the_housekeeping_of_the_session_before() {
    let pki = Pki::new("vpn.test");
    let hook = SlowHook::install(&pki);
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, IN_DAEMON).await;
    let mut events = daemon.provider.events();
    daemon.up().await;
    let (first, _) = daemon.down().await;
    let Owed::Recorded(receipt) = outcome(&first).1 else {
        panic!("{first:?}")
    };
    assert_eq!(hook.runs().await, receipt.job().to_string());

    daemon.provider.start(Origin::User).await.expect("accepted");
    daemon.up().await;
    let begin = Instant::now();
    let (second, _) = daemon.down().await;
    assert!(begin.elapsed() < Duration::from_millis(650), "{:?}", begin.elapsed());
    assert!(matches!(outcome(&second).1, Owed::Recorded(_)));
    // What was in hand went on all the while; the other one is done after it.
    hook.go().await;
    assert_eq!(done(&mut events).await, (receipt.job().to_string(), 1));
    let job = hook.runs().await;
    hook.go().await;
    assert_eq!(done(&mut events).await, (job, 1));
    let history = api::Client::new(&daemon.socket).history(10).await.expect("history");
    assert_eq!(history.sessions.len(), 2);
    let jobs: Vec<_> = history.sessions.iter().map(|session| session.job.clone()).collect();
    assert!(jobs.contains(&receipt.job().to_string()), "{jobs:?}");
    assert_eq!(history.sessions[0].end_reason.as_deref(), Some("user_stop"));
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn no_chore_runs_before_the_acknowledgement() {
    let pki = Pki::new("vpn.test");
    install(&pki, "quick", "#!/bin/sh\nexit 0\n");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, IN_DAEMON).await;
    let mut events = daemon.provider.events();
    daemon.up().await;
    daemon.down().await;
    let mut acknowledged = false;
    event(&mut events, |what| {
        acknowledged |= matches!(what, Happening::StopAck(_));
        match what {
            Happening::HousekeepingDone { .. } => {
                assert!(acknowledged);
                Some(())
            }
            _ => None,
        }
    })
    .await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_job_whose_hook_runs_when_the_daemon_exits_is_done_by_the_next_one() {
    let pki = Pki::new("vpn.test");
    let hook = SlowHook::install(&pki);
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, IN_DAEMON).await;
    daemon.up().await;
    daemon.down().await;
    let job = hook.runs().await;
    let begin = Instant::now();
    daemon.exits().await.expect("no error");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    let more = format!("start = \"down\"\n{IN_DAEMON}");
    let daemon = Daemon::open(&pki, gateway.port, &more).await;
    let mut events = daemon.provider.events();
    assert_eq!(hook.runs().await, job);
    hook.go().await;
    assert_eq!(done(&mut events).await, (job, 1));
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_job_that_fails_is_named_and_tried_again_on_order() {
    let pki = Pki::new("vpn.test");
    install(&pki, "picky", "#!/bin/sh\necho no paper >&2\nexit 3\n");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, IN_DAEMON).await;
    let mut events = daemon.provider.events();
    daemon.up().await;
    daemon.down().await;
    let (job, error, given_up) = event(&mut events, |what| match what {
        Happening::HousekeepingFailed {
            job, error, given_up, ..
        } => Some((job, error, given_up)),
        _ => None,
    })
    .await;
    assert!(error.contains("picky") && !given_up, "{error}");
    let client = api::Client::new(&daemon.socket);
    let status = client.status().await.expect("status");
    let [waiting] = status.housekeeping.jobs.try_into().expect("one job");
    assert_eq!((waiting.id.as_str(), waiting.attempts), (job.as_str(), 1));
    assert!(waiting.last_error.expect("why").contains("picky"));
    install(&pki, "picky", "#!/bin/sh\nexit 0\n");
    client.retry(&job).await.expect("there is such a job");
    assert_eq!(done(&mut events).await, (job, 2));
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_session_that_could_not_say_goodbye_is_logged_out_behind_the_stop() {
    let pki = Pki::new("vpn.test");
    let token = "00112233445566778899aabbccddeeff";
    let mut behaviour = Behaviour::default();
    behaviour.grant.logout = Some(wire::Secret::from(token));
    let mut gateway = StubGateway::start(&pki, behaviour).await;
    let mut daemon = Daemon::open(&pki, gateway.port, IN_DAEMON).await;
    let mut events = daemon.provider.events();
    let (_, orders) = gateway.tunnel().await;
    daemon.up().await;
    gateway.change(|behaviour| behaviour.refusal = Some(wire::offer::Refusal::Unavailable(None)));
    orders.send(Order::Close).expect("the tunnel lives");
    daemon.until("lost", |status| status.state == "reasserting").await;
    daemon.down().await;
    let (epoch, told) = gateway
        .until(|seen| match seen {
            Seen::Logout(epoch, token) => Some((epoch, token)),
            _ => None,
        })
        .await;
    assert_eq!((epoch, told.expose()), (1, token));
    done(&mut events).await;
    let shown = daemon.names(Folder::Done);
    let text = fs::read(daemon.root().join("done").join(&shown[0])).expect("readable");
    assert!(
        !String::from_utf8_lossy(&text).contains("cookie"),
        "no cookie on the disk"
    );
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn with_a_unit_for_housekeeping_the_daemon_leaves_the_jobs_alone() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    daemon.down().await;
    api::Client::new(&daemon.socket).run().await.expect("taken");
    assert_eq!(daemon.names(Folder::Due).len(), 1);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_host_that_is_about_to_sleep_sees_no_connection_and_no_chore_until_it_wakes() {
    let pki = Pki::new("vpn.test");
    let mut gateway = stub(&pki).await;
    let more = format!("start = \"down\"\n{IN_DAEMON}");
    let mut daemon = Daemon::open(&pki, gateway.port, &more).await;
    let mut events = daemon.provider.events();
    daemon.provider.start(Origin::User).await.expect("accepted");
    daemon.up().await;
    daemon.provider.sleep().await.expect("taken");
    let (stopped, took) = daemon.down().await;
    assert!(matches!(outcome(&stopped).1, Owed::Recorded(_)) && took < Duration::from_millis(650));
    daemon.provider.start(Origin::Boot).await.expect("accepted");
    daemon
        .provider
        .wake(lifecycle::WakeKind::Maintenance)
        .await
        .expect("taken");
    assert_eq!(daemon.names(Folder::Due).len(), 1, "nobody works");
    let calls = |seen: Vec<Seen>| seen.iter().filter(|seen| matches!(seen, Seen::Call)).count();
    assert_eq!(calls(gateway.rest()), 1, "the first connection only");

    daemon.provider.wake(lifecycle::WakeKind::Full).await.expect("taken");
    done(&mut events).await;
    daemon.up().await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_job_that_the_disk_refused_is_offered_to_it_again() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let due = daemon.root().join("due");
    let away = daemon.root().join("away");
    fs::rename(&due, &away).expect("moved");
    fs::write(&due, "in the way").expect("written");
    let (stopped, _) = daemon.down().await;
    let Owed::DiskTooSlow(why) = outcome(&stopped).1 else {
        panic!("{stopped:?}")
    };
    assert!(why.contains("due"), "{why}");
    assert_eq!(daemon.names(Folder::Open).len(), 1, "a next start would find it");

    fs::remove_file(&due).expect("removed");
    fs::rename(&away, &due).expect("moved back");
    daemon.provider.work_now().await.expect("taken");
    // Taken in order: the answer to this comes behind the work of that.
    daemon.provider.start(Origin::Boot).await.expect("accepted");
    daemon.books.ask(|ledger| ledger.summary()).await.expect("behind it");
    assert_eq!(
        (daemon.names(Folder::Open).len(), daemon.names(Folder::Due).len()),
        (0, 1)
    );
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_job_that_the_disk_takes_after_the_acknowledgement_is_done_too() {
    let pki = Pki::new("vpn.test");
    install(&pki, "quick", "#!/bin/sh\nexit 0\n");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, IN_DAEMON).await;
    let mut events = daemon.provider.events();
    daemon.up().await;
    let stalled = daemon.books.stall();
    let lock = daemon.root().join("worker.lock");
    let _ = fs::remove_file(&lock);
    let (stopped, _) = daemon.down().await;
    assert!(matches!(outcome(&stopped).1, Owed::DiskTooSlow(_)), "{stopped:?}");
    // The worker that the stop started has looked, and found nothing.
    let deadline = Instant::now() + PATIENCE;
    while !lock.exists() {
        assert!(Instant::now() < deadline, "no worker came");
        tokio::task::yield_now().await;
    }
    drop(stalled);
    done(&mut events).await;
    daemon.exits().await.expect("no error");
}
