//! Stops, crashes and what is owed: a client against a stub gateway, with a packet device in memory and a ledger on a real
//! disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use ledger::{Folder, Job, OpenRecord, Owed};
use lifecycle::{ACK_BUDGET, Origin, StopReason};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::books::{Books, FolderLedger, limits, open_ledger};
use crate::listener::ApiSocket;
use crate::testing::{Behaviour, PATIENCE, Pki, Seen, StubGateway, client_config};
use crate::{Client, ClientError, MemoryDevice, MemoryHost, Outcome, Place, Provider, Refused, Status, Stopped};

/// What a busy machine may add to a budget: these tests share two cores with others.
const SLACK: Duration = Duration::from_millis(400);

/// A daemon that runs, and its façade.
pub(crate) struct Daemon {
    pub(crate) provider: Provider,
    task: JoinHandle<Result<(), ClientError>>,
    status: watch::Receiver<Status>,
    pub(crate) books: Books,
    ledger: FolderLedger,
    root: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) host: MemoryHost,
}

impl Daemon {
    pub(crate) async fn open(pki: &Pki, port: u16, more: &str) -> Self {
        pki.write("password", "right\n", 0o600);
        let more = if more.contains("[housekeeping]") {
            more.to_owned()
        } else {
            format!("{more}\n[housekeeping]\nrun = \"unit\"")
        };
        let toml = format!(
            "[tunnel]\n{more}\n[gateway]\nurl = \"https://vpn.test:{port}\"\naddresses = [\"127.0.0.1\"]\n\
             [reconnect]\nfirst_s = 0.05\n[login]\nuser = \"alice\"\npassword_file = \"password\"\n"
        );
        let config = client_config(pki, &toml);
        let path = pki.write("client.toml", &toml, 0o644);
        let (device, host) = MemoryDevice::pair(64);
        let root = config.tunnel.state_dir.join(&config.tunnel.name);
        let socket = ApiSocket::path(&config);
        let ledger_limits = limits(&config.housekeeping);
        let (provider, client) = Client::open(config, path.into(), Place::Memory(device))
            .await
            .expect("opens");
        let books = client.shell.books.clone();
        Self {
            status: provider.watch(),
            provider,
            task: tokio::spawn(client.run()),
            books,
            ledger: open_ledger(&root, ledger_limits).expect("a ledger"),
            root,
            socket,
            host,
        }
    }

    pub(crate) async fn start(pki: &Pki, gateway: &StubGateway) -> Self {
        Self::open(pki, gateway.port, "").await
    }

    pub(crate) async fn until(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) {
        let reached = timeout(PATIENCE, self.status.wait_for(condition)).await;
        reached.unwrap_or_else(|_| panic!("not in time: {what}")).expect(what);
    }

    pub(crate) async fn up(&mut self) {
        self.until("up", |status| status.state == "up").await;
    }

    /// A stop of the tunnel, and how long its answer took.
    pub(crate) async fn down(&self) -> (Stopped, Duration) {
        let begin = Instant::now();
        let stopped = self.provider.stop(StopReason::User, false).await.expect("answered");
        (stopped, begin.elapsed())
    }

    pub(crate) async fn exits(self) -> Result<(), ClientError> {
        self.provider.stop(StopReason::User, true).await.expect("answered");
        timeout(PATIENCE, self.task).await.expect("ends").expect("no panic")
    }

    /// As SIGKILL: nothing more is done.
    pub(crate) async fn crashes(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn names(&self, folder: Folder) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root.join(folder.word()))
            .expect("a folder")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    fn due(&self) -> Vec<Job> {
        let names = self.names(Folder::Due);
        let read = |name: &String| {
            let bytes = fs::read(self.root.join("due").join(name)).expect("readable");
            // Magic, version, length and checksum.
            serde_json::from_slice(&bytes[13..]).expect("a job")
        };
        names.iter().map(read).collect()
    }

    fn open_records(&self) -> Vec<OpenRecord> {
        self.ledger.opens().expect("listed").0
    }
}

pub(crate) fn outcome(stopped: &Stopped) -> (&[String], &Owed) {
    match &stopped.outcome {
        Outcome::Down { residue, owed } => (residue, owed),
        other => panic!("not down: {other:?}"),
    }
}

pub(crate) async fn stub(pki: &Pki) -> StubGateway {
    StubGateway::start(pki, Behaviour::default()).await
}

#[tokio::test]
async fn a_session_is_on_the_disk_before_it_is_up_and_a_due_job_before_its_stop_is_acknowledged() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let [open] = daemon.open_records().try_into().expect("one record");
    assert_eq!(open.facts.session.as_deref(), Some("s1"));
    assert_eq!(open.facts.user.as_deref(), Some("alice"));
    assert!(daemon.names(Folder::Due).is_empty());

    let (stopped, took) = daemon.down().await;
    let (residue, owed) = outcome(&stopped);
    let Owed::Recorded(receipt) = owed else {
        panic!("{owed:?}")
    };
    assert_eq!((residue.len(), receipt.job()), (0, open.id));
    assert!(took < ACK_BUDGET + SLACK, "{took:?}");
    let [job] = daemon.due().try_into().expect("one job");
    let end = job.record.facts.end.expect("over");
    assert_eq!((job.record.id, end.reason.as_str()), (open.id, "user_stop"));
    assert!(daemon.open_records().is_empty());
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_second_stop_gets_its_own_acknowledgement() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let ((first, _), (second, _)) = tokio::join!(daemon.down(), daemon.down());
    assert!(matches!(outcome(&first).1, Owed::Recorded(_)));
    assert_eq!(outcome(&first).1, outcome(&second).1);
    let (third, _) = daemon.down().await;
    assert_eq!(third.outcome, Outcome::WasDown);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_hundred_stops_at_once_are_all_answered() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let mut stops = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let provider = daemon.provider.clone();
        stops.spawn(async move { provider.stop(StopReason::User, false).await });
    }
    let answers = timeout(PATIENCE, stops.join_all()).await.expect("answered");
    assert!(answers.iter().all(Result::is_ok));
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_stop_with_a_disk_that_stands_still_is_acknowledged_within_its_budget() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let stalled = daemon.books.stall();
    let (stopped, took) = daemon.down().await;
    assert!(matches!(outcome(&stopped).1, Owed::DiskTooSlow(_)), "{stopped:?}");
    assert!(took >= ACK_BUDGET && took < ACK_BUDGET + SLACK, "{took:?}");
    assert_eq!(daemon.open_records().len(), 1, "the next start finds it");

    drop(stalled);
    daemon
        .books
        .ask(|ledger| ledger.summary())
        .await
        .expect("behind the close");
    assert_eq!((daemon.open_records().len(), daemon.names(Folder::Due).len()), (0, 1));
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_daemon_whose_disk_stands_still_exits_when_it_is_told_to() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let stalled: mpsc::Sender<()> = daemon.books.stall();
    let begin = Instant::now();
    daemon.exits().await.expect("no error");
    assert!(
        begin.elapsed() < ACK_BUDGET + Duration::from_millis(100) + SLACK,
        "{:?}",
        begin.elapsed()
    );
    drop(stalled);
}

#[tokio::test]
async fn a_stop_while_a_dial_goes_nowhere_is_acknowledged_at_once_and_owes_nothing() {
    let pki = Pki::new("vpn.test");
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let daemon = Daemon::open(&pki, mute.local_addr().expect("address").port(), "").await;
    let (_held, _) = timeout(PATIENCE, mute.accept())
        .await
        .expect("called")
        .expect("accepted");
    let (stopped, took) = daemon.down().await;
    assert_eq!(outcome(&stopped), (&[][..], &Owed::Nothing));
    assert!(took < ACK_BUDGET, "{took:?}");
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_stop_while_the_record_waits_for_a_disk_that_stands_still_is_acknowledged_at_once() {
    let pki = Pki::new("vpn.test");
    let mut gateway = stub(&pki).await;
    let daemon = Daemon::open(&pki, gateway.port, "start = \"down\"").await;
    let started = daemon.provider.start(Origin::User).await;
    assert!(!started.expect("accepted").already);
    gateway.until(|seen| matches!(seen, Seen::Call).then_some(())).await;
    let stalled = daemon.books.stall();
    gateway.tunnel().await;
    let (stopped, took) = daemon.down().await;
    assert_eq!(outcome(&stopped).1, &Owed::Nothing);
    assert!(took < ACK_BUDGET + SLACK, "{took:?}");
    drop(stalled);
    // The session was granted, and the gateway hears that nobody wants it.
    gateway
        .until(|seen| matches!(seen, Seen::Closed(_)).then_some(()))
        .await;
    daemon
        .books
        .ask(|ledger| ledger.summary())
        .await
        .expect("behind the withdrawal");
    assert!(daemon.open_records().is_empty() && daemon.names(Folder::Due).is_empty());
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_start_is_accepted_within_50_ms_in_every_state() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, "start = \"down\"").await;
    let stalled = daemon.books.stall();
    let begin = Instant::now();
    assert!(!daemon.provider.start(Origin::User).await.expect("accepted").already);
    assert!(
        begin.elapsed() < Duration::from_millis(50) + SLACK,
        "{:?}",
        begin.elapsed()
    );
    assert!(daemon.provider.start(Origin::User).await.expect("accepted").already);
    drop(stalled);
    daemon.up().await;
    assert!(daemon.provider.start(Origin::User).await.expect("accepted").already);
    // While it stops, too.
    let stalled = daemon.books.stall();
    let stop = daemon.provider.clone();
    let stop = tokio::spawn(async move { stop.stop(StopReason::User, false).await });
    daemon.until("stopping", |status| status.state == "stopping").await;
    let begin = Instant::now();
    assert!(!daemon.provider.start(Origin::User).await.expect("accepted").already);
    assert!(
        begin.elapsed() < Duration::from_millis(50) + SLACK,
        "{:?}",
        begin.elapsed()
    );
    stop.await.expect("no panic").expect("answered");
    drop(stalled);
    daemon.until("a second session", |status| status.sessions == 2).await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn after_a_crash_the_next_start_makes_a_job_of_the_session() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let [open] = daemon.open_records().try_into().expect("one record");
    daemon.crashes().await;

    let mut daemon = Daemon::start(&pki, &gateway).await;
    let [job] = daemon.due().try_into().expect("one job");
    assert_eq!(job.record.id, open.id);
    assert_eq!(job.record.facts.end.expect("over").reason, "crash");
    daemon.up().await;
    assert_eq!(daemon.open_records().len(), 1);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn without_a_place_for_its_record_nobody_is_dialled_and_the_reason_is_told_until_there_is_one() {
    let pki = Pki::new("vpn.test");
    let mut gateway = stub(&pki).await;
    let in_the_way = pki.write("state", "a file in the way of the folder", 0o600);
    pki.write("password", "right\n", 0o600);
    let toml = format!(
        "[gateway]\nurl = \"https://vpn.test:{}\"\naddresses = [\"127.0.0.1\"]\n[reconnect]\nfirst_s = 0.05\n\
         [login]\nuser = \"alice\"\npassword_file = \"password\"\n",
        gateway.port
    );
    let config = client_config(&pki, &toml);
    let (device, _host) = MemoryDevice::pair(4);
    let (provider, client) = Client::open(config, "client.toml".into(), Place::Memory(device))
        .await
        .expect("opens");
    let (mut status, mut events) = (provider.watch(), provider.events());
    let client = tokio::spawn(client.run());
    // Twice in one process.
    for _ in 0..2 {
        let problem = loop {
            let event = timeout(PATIENCE, events.recv()).await.expect("in time").expect("told");
            if let api::Happening::Status { status } = event.what
                && let Some(problem) = status.problem.filter(|problem| problem.next_attempt_unix_ms.is_some())
            {
                assert_eq!(status.state, api::State::Starting);
                break problem.message;
            }
        };
        assert!(
            problem.starts_with("start refused: the undo record cannot be written: "),
            "{problem}"
        );
        assert!(problem.contains("state"), "{problem}");
    }
    assert!(gateway.rest().is_empty(), "nobody was dialled");

    fs::remove_file(in_the_way).expect("removed");
    provider.start(Origin::User).await.expect("accepted");
    let up = timeout(PATIENCE, status.wait_for(|status| status.state == "up")).await;
    assert!(up.expect("in time").expect("told").problem.is_none());
    provider.stop(StopReason::User, true).await.expect("answered");
    client.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_disk_that_takes_no_more_after_the_login_costs_one_login() {
    let pki = Pki::new("vpn.test");
    let mut gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, "start = \"down\"").await;
    daemon.provider.start(Origin::User).await.expect("accepted");
    gateway.until(|seen| matches!(seen, Seen::Call).then_some(())).await;
    let open = daemon.root().join(Folder::Open.word());
    fs::remove_dir(&open).expect("empty");
    fs::write(&open, "in the way").expect("written");
    daemon
        .until("refused", |status| {
            let problem = status.problem.as_ref();
            problem.is_some_and(|problem| problem.message.contains("the undo record cannot be written"))
        })
        .await;
    gateway
        .until(|seen| matches!(seen, Seen::Closed(_)).then_some(()))
        .await;
    // A person may try as often as he likes.
    let mut events = daemon.provider.events();
    for _ in 0..5 {
        daemon.provider.start(Origin::User).await.expect("accepted");
        timeout(PATIENCE, events.recv()).await.expect("in time").expect("told");
    }
    assert!(gateway.rest().is_empty(), "nobody was dialled again");
    fs::remove_file(&open).expect("removed");
    fs::create_dir(&open).expect("made");
    daemon.provider.start(Origin::User).await.expect("accepted");
    daemon.up().await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_daemon_that_starts_as_it_was_left_stays_down_after_a_down_and_comes_up_after_an_up() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let last = "start = \"last\"";
    let mut daemon = Daemon::open(&pki, gateway.port, last).await;
    daemon.up().await;
    daemon.down().await;
    daemon.exits().await.expect("no error");

    let daemon = Daemon::open(&pki, gateway.port, last).await;
    assert_eq!(daemon.down().await.0.outcome, Outcome::WasDown);
    daemon.provider.start(Origin::User).await.expect("accepted");
    daemon.crashes().await;

    let mut daemon = Daemon::open(&pki, gateway.port, last).await;
    daemon.up().await;
    // The end of the process says nothing about what is wanted.
    daemon.exits().await.expect("no error");
    let mut daemon = Daemon::open(&pki, gateway.port, last).await;
    daemon.up().await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_cancel_from_inside_records_the_session_and_its_error_is_the_end() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    daemon
        .provider
        .cancel("the app was removed".to_owned())
        .await
        .expect("taken");
    let Daemon { task, ledger, .. } = daemon;
    let error = timeout(PATIENCE, task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect_err("cancelled");
    assert_eq!(error.to_string(), "the tunnel was cancelled: the app was removed");
    assert_eq!(ledger.summary().expect("readable").due, 1);
}

#[tokio::test]
async fn a_tunnel_without_anybody_to_give_orders_stops_and_ends() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::open(&pki, gateway.port, "[api]\nenabled = false").await;
    daemon.up().await;
    let Daemon { provider, task, .. } = daemon;
    let late = provider.clone();
    drop(provider);
    assert!(!task.is_finished());
    drop(late);
    timeout(PATIENCE, task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect("no error");
}

#[tokio::test]
async fn orders_to_a_client_that_has_ended_are_refused() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let daemon = Daemon::start(&pki, &gateway).await;
    let provider = daemon.provider.clone();
    daemon.exits().await.expect("no error");
    assert_eq!(provider.start(Origin::User).await, Err(Refused::Ended));
    assert_eq!(provider.stop(StopReason::User, false).await, Err(Refused::Ended));
}

#[tokio::test]
async fn a_client_that_is_told_to_end_while_it_opens_ends_at_once() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    pki.write("password", "right\n", 0o600);
    let toml = format!(
        "[gateway]\nurl = \"https://vpn.test:{}\"\n[login]\nuser = \"alice\"\n",
        gateway.port
    );
    let (device, _host) = MemoryDevice::pair(4);
    let (signals, orders) = tokio::sync::mpsc::channel(1);
    let hooks = crate::Hooks {
        place: Place::Memory(device),
        signals: crate::SignalSource::Channel(orders),
        ..crate::Hooks::default()
    };
    drop(signals);
    let client = crate::run_with(client_config(&pki, &toml), "client.toml".into(), hooks);
    timeout(PATIENCE, client).await.expect("ends").expect("no error");
}

#[tokio::test]
async fn a_status_tells_what_goes_through_a_session_while_it_lives() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let mut packet = vec![0; 60];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    packet[12..20].copy_from_slice(&[10, 78, 0, 2, 10, 77, 0, 1]);
    daemon.host.to_tunnel.send(packet.into()).await.expect("room");
    daemon
        .until("told", |status| {
            status.session_traffic.packets_in == 1 && status.session_traffic.bytes_out == 60
        })
        .await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_restart_that_nobody_would_continue_is_a_stop() {
    let pki = Pki::new("vpn.test");
    let mut gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let stopped = daemon.provider.stop(StopReason::Restart, true).await.expect("answered");
    assert!(matches!(outcome(&stopped).1, Owed::Recorded(_)), "{stopped:?}");
    gateway
        .until(|seen| matches!(seen, Seen::Frame(wire::cstp::Kind::Disconnect, _)).then_some(()))
        .await;
    timeout(PATIENCE, daemon.task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect("no error");
}
