//! `up`, `down`, `status`, `watch`, `history` and `housekeep` as a shell sees them, with a daemon that only answers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use api::{
    Counts, Daemon, Down, EVENT_QUEUE, Event, Happening, History, Housekeeping, Job, JobState, Owed, Problem, Refused,
    Session, State, Status, Tunnel, Up, UpOrder, Wanted,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{broadcast, oneshot};

/// A daemon whose tunnel goes through `course` after each `up`.
#[derive(Clone)]
struct Fake(Arc<Inner>);

struct Inner {
    now: Mutex<Status>,
    course: Vec<Status>,
    down: Down,
    orders: Mutex<Vec<String>>,
    events: broadcast::Sender<Event>,
}

impl Fake {
    fn set(&self, status: &Status) {
        *self.0.now.lock().expect("not poisoned") = status.clone();
        let what = Happening::Status {
            status: Box::new(status.clone()),
        };
        let _ = self.0.events.send(Event {
            at_unix_ms: 1_800_000_000_000,
            what,
        });
    }

    fn note(&self, order: &str) {
        self.0.orders.lock().expect("not poisoned").push(order.to_owned());
    }
}

impl Daemon for Fake {
    async fn status(&self) -> Status {
        self.0.now.lock().expect("not poisoned").clone()
    }

    async fn up(&self, order: UpOrder) -> Result<Up, Refused> {
        self.note(if order.reconnect { "reconnect" } else { "up" });
        let now = self.status().await;
        if now.state == State::Up {
            return Ok(Up {
                state: State::Up,
                generation: now.generation,
                already: true,
            });
        }
        for status in &self.0.course {
            self.set(status);
        }
        Ok(Up {
            state: State::Starting,
            generation: 1,
            already: false,
        })
    }

    async fn down(&self) -> Result<Down, Refused> {
        self.note("down");
        Ok(self.0.down.clone())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    async fn housekeeping(&self) -> Result<Housekeeping, Refused> {
        let job = Job {
            id: "1800000000-0123456789abcdef".to_owned(),
            state: JobState::Failed,
            attempts: 12,
            last_error: Some("10-report: exit status 1".to_owned()),
            ..Job::default()
        };
        Ok(Housekeeping {
            counts: Counts {
                failed: 1,
                ..Counts::default()
            },
            jobs: vec![job],
            ..Housekeeping::default()
        })
    }

    async fn retry(&self, job: String) -> Result<Housekeeping, Refused> {
        self.note(&format!("retry {job}"));
        match job.starts_with('1') {
            true => self.housekeeping().await,
            false => Err(Refused::NotFound(format!("there is no job {job}"))),
        }
    }

    async fn run(&self) -> Result<Housekeeping, Refused> {
        self.housekeeping().await
    }

    async fn history(&self, last: usize) -> Result<History, Refused> {
        let session = Session {
            started_unix_ms: 1_800_000_000_000,
            seconds: Some(250.0),
            end_reason: Some("user_stop".to_owned()),
            ..Session::default()
        };
        Ok(History {
            sessions: vec![session; last.min(3)],
        })
    }
}

fn status(state: State, generation: u64) -> Status {
    Status {
        name: "work".to_owned(),
        state,
        generation,
        wanted: Wanted::Up,
        pid: std::process::id(),
        gateway: "vpn.example.com:443".to_owned(),
        ..Status::default()
    }
}

fn up() -> Status {
    Status {
        tunnel: Some(Tunnel {
            interface: Some("mm-work".to_owned()),
            addresses: vec!["10.78.0.2/32".to_owned()],
            mtu: 1400,
            ..Tunnel::default()
        }),
        ..status(State::Up, 1)
    }
}

fn failed(message: &str, exit_code: u8) -> Status {
    Status {
        problem: Some(Problem {
            message: message.to_owned(),
            exit_code,
            ..Problem::default()
        }),
        ..status(State::Failed, 1)
    }
}

/// A folder with a configuration and the socket it leads to.
struct Site {
    folder: TempDir,
    fake: Fake,
    end: Option<oneshot::Sender<()>>,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Site {
    fn new(now: Status, course: Vec<Status>, down: Down) -> Self {
        let folder = configured();
        let fake = Fake(Arc::new(Inner {
            now: Mutex::new(now),
            course,
            down,
            orders: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE),
        }));
        let (end, ended) = oneshot::channel::<()>();
        let (listening, listens) = std::sync::mpsc::channel();
        let (daemon, socket) = (fake.clone(), folder.path().join("work.sock"));
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
                listening.send(()).expect("waited for");
                api::serve(listener, daemon, |_, _| true, async {
                    let _ = ended.await;
                })
                .await;
            });
        });
        listens.recv().expect("it listens");
        Self {
            folder,
            fake,
            end: Some(end),
            server: Some(server),
        }
    }

    fn idle(course: Vec<Status>) -> Self {
        Self::new(status(State::Idle, 0), course, Down::default())
    }

    fn orders(&self) -> Vec<String> {
        self.fake.0.orders.lock().expect("not poisoned").clone()
    }

    fn marmot(&self, words: &str) -> Output {
        marmot(self.folder.path(), words)
    }

    fn end(&mut self) {
        self.end.take().expect("not ended yet").send(()).expect("it runs");
        self.server.take().expect("not ended yet").join().expect("no panic");
    }
}

fn configured() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "[tunnel]\nname = \"work\"\nruntime_dir = \"{0}\"\nstate_dir = \"{0}\"\n[gateway]\nurl = \"https://vpn.example.com\"\n",
        folder.path().display()
    );
    std::fs::write(folder.path().join("work.toml"), text).expect("written");
    folder
}

fn command(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marmot"));
    command
        .args(words.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn marmot(folder: &Path, words: &str) -> Output {
    command(folder, words).output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn ends(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    text(output)
}

/// Standard output as one JSON object of our version.
#[track_caller]
fn json(output: &Output) -> Value {
    let json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)));
    assert_eq!(json["version"], 1, "{json}");
    json
}

#[test]
fn up_waits_until_the_tunnel_is_up() {
    let site = Site::idle(vec![status(State::Starting, 1), up()]);
    let said = ends(&site.marmot("up -c work.toml"), 0);
    assert!(
        said.starts_with("work is up after ") && said.ends_with(": 10.78.0.2/32 on mm-work\n"),
        "{said}"
    );
    assert_eq!(
        ends(&site.marmot("up -c work.toml"), 0),
        "work is up already: 10.78.0.2/32 on mm-work\n"
    );

    let json = json(&site.marmot("up --socket work.sock --json"));
    assert_eq!(
        (&json["already"], &json["status"]["state"]),
        (&true.into(), &"up".into())
    );
    assert_eq!(site.orders(), ["up", "up", "up"]);
}

#[test]
fn up_ends_with_the_reason_and_its_exit_code_if_the_tunnel_cannot_come_up() {
    let site = Site::idle(vec![
        status(State::Starting, 1),
        failed("the gateway refused the login", 4),
    ]);
    let output = site.marmot("up -c work.toml");
    assert_eq!(
        ends(&output, 4),
        "marmot: work cannot come up: the gateway refused the login\n"
    );

    let site = Site::idle(vec![failed("no device", 5)]);
    let output = site.marmot("up -c work.toml --json");
    ends(&output, 5);
    let error = &json(&output)["error"];
    assert_eq!((&error["code"], &error["exit_code"]), (&"failed".into(), &5.into()));
}

#[test]
fn up_does_not_wait_for_ever_and_not_at_all_if_told_so() {
    let site = Site::idle(vec![status(State::Starting, 1)]);
    let output = site.marmot("up -c work.toml --wait 1");
    assert!(
        ends(&output, 1).starts_with("marmot: work is not up after 1 s; it goes on trying"),
        "{output:?}"
    );
    assert_eq!(ends(&site.marmot("up -c work.toml --no-wait"), 0), "work is starting\n");
    ends(&site.marmot("up -c work.toml --reconnect --no-wait"), 0);
    assert_eq!(site.orders(), ["up", "up", "reconnect"]);
}

#[test]
fn down_says_how_fast_it_was_and_fails_only_if_something_is_left() {
    let down = Down {
        ms: 2.4,
        owed: Owed::Recorded,
        job: Some("j1".to_owned()),
        ..Down::default()
    };
    let site = Site::new(up(), vec![], down.clone());
    assert_eq!(
        ends(&site.marmot("down -c work.toml"), 0),
        "down after 2.4 ms; housekeeping j1 follows\n"
    );
    assert_eq!(json(&site.marmot("down -c work.toml --json"))["ms"], 2.4);

    let residue = vec!["dns".to_owned()];
    let site = Site::new(up(), vec![], Down { residue, ..down });
    let said = ends(&site.marmot("down -c work.toml"), 1);
    assert!(
        said.contains("residue: dns") && said.contains("marmot cleanup"),
        "{said}"
    );
}

#[test]
fn status_has_a_code_for_up_for_not_up_and_for_no_daemon() {
    let mut site = Site::new(up(), vec![], Down::default());
    let said = ends(&site.marmot("status -c work.toml"), 0);
    assert!(
        said.starts_with("work is up") && said.contains("mm-work, mtu 1400"),
        "{said}"
    );
    site.fake.set(&status(State::Reasserting, 1));
    let output = site.marmot("status -c work.toml --json");
    ends(&output, 8);
    assert_eq!(json(&output)["state"], "reasserting");
    site.end();
    let output = site.marmot("status -c work.toml --json");
    assert!(ends(&output, 7).contains("no daemon listens"));
    let json = json(&output);
    assert_eq!(json["error"]["code"], "not_running");
    assert_eq!(json["housekeeping"]["counts"]["failed"], 0);
    let said = ends(&site.marmot("status -c work.toml"), 7);
    assert!(
        said.starts_with("no daemon listens") && said.contains("nothing owed"),
        "{said}"
    );
}

#[test]
fn watch_shows_what_happens_until_the_daemon_ends() {
    let mut site = Site::new(status(State::Starting, 1), vec![], Down::default());
    let mut watch = command(site.folder.path(), "watch -c work.toml")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().ends_with("work is starting"));
    site.fake.set(&up());
    assert_eq!(next(), "08:00:00 work is up");
    site.end();
    assert_eq!(watch.wait().expect("it ends").code(), Some(7));
}

#[test]
fn watch_passes_on_the_lines_of_the_api_as_json() {
    let mut site = Site::new(up(), vec![], Down::default());
    let mut watch = command(site.folder.path(), "watch -c work.toml --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("json");
    assert_eq!((&first["version"], &first["event"]), (&1.into(), &"status".into()));
    site.end();
    assert_eq!(watch.wait().expect("it ends").code(), Some(7));
}

#[test]
fn history_is_a_table_or_json() {
    let site = Site::new(up(), vec![], Down::default());
    let said = ends(&site.marmot("history -c work.toml -n 2"), 0);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(
        said.contains("2027-01-15 08:00:00Z") && said.contains("user_stop"),
        "{said}"
    );
    let json = json(&site.marmot("history -c work.toml --json"));
    assert_eq!(json["sessions"].as_array().map(Vec::len), Some(3));
}

#[test]
fn failed_jobs_are_named_and_can_be_tried_again() {
    let site = Site::new(up(), vec![], Down::default());
    let said = ends(&site.marmot("housekeep -c work.toml --list"), 0);
    assert!(
        said.contains("1800000000-0123456789abcdef failed, 12 attempts, 10-report: exit status 1"),
        "{said}"
    );
    ends(
        &site.marmot("housekeep -c work.toml --retry 1800000000-0123456789abcdef"),
        0,
    );
    let output = site.marmot("housekeep -c work.toml --retry 2 --json");
    assert!(ends(&output, 1).contains("there is no job 2"));
    assert_eq!(json(&output)["error"]["code"], "not_found");
    assert_eq!(site.orders(), ["retry 1800000000-0123456789abcdef", "retry 2"]);
}

#[test]
fn what_is_over_and_what_is_owed_can_be_read_without_a_daemon() {
    let folder = configured();
    assert_eq!(
        ends(&marmot(folder.path(), "history -c work.toml"), 0),
        "no session has ended yet\n"
    );
    assert_eq!(
        json(&marmot(folder.path(), "history -c work.toml --json"))["sessions"],
        Value::Array(Vec::new())
    );
    let said = ends(&marmot(folder.path(), "housekeep -c work.toml --list"), 0);
    assert_eq!(said, "  housekeeping nothing owed\n");
    ends(&marmot(folder.path(), "history --socket work.sock"), 7);
    ends(&marmot(folder.path(), "housekeep -c work.toml --retry 1"), 7);
    assert!(!folder.path().join("work").exists(), "looking made a ledger");
}

#[test]
fn housekeeping_with_nothing_due_says_so_for_client_and_gateway() {
    let folder = configured();
    assert!(ends(&marmot(folder.path(), "housekeep -c work.toml"), 0).starts_with("nothing is due\n"));
    let output = marmot(folder.path(), "housekeep --wait --json -c work.toml");
    ends(&output, 0);
    let json = json(&output);
    assert_eq!(
        (&json["ended"], &json["done"]),
        (&"nothing_due".into(), &Value::Array(Vec::new()))
    );

    let words = "init gateway --dir gw --name vpn.example.com";
    ends(&marmot(folder.path(), words), 0);
    let file = folder.path().join("gw/gateway.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    let state = format!("state_dir = {:?}", folder.path().join("state"));
    let text: String = text
        .lines()
        .map(|line| if line.starts_with("state_dir = ") { &state } else { line })
        .map(|line| line.to_owned() + "\n")
        .collect();
    std::fs::write(&file, text).expect("written");
    assert!(ends(&marmot(folder.path(), "housekeep -c gw/gateway.toml"), 0).starts_with("nothing is due\n"));
}

#[test]
fn arguments_that_make_no_sense_are_told_from_files_that_are_wrong() {
    let folder = configured();
    for words in [
        "up a b",
        "up -c work.toml --socket x",
        "up --wait 0",
        "up --no-wait --wait 3",
        "status work --config work.toml",
        "history -n 0",
        "history -n 1001",
        "housekeep --list --retry 1",
        "down --force",
        "status ../work",
        "cleanup work",
    ] {
        ends(&marmot(folder.path(), words), 2);
    }
    for words in [
        "status -c missing.toml",
        "cleanup -c missing.toml",
        "housekeep -c missing.toml",
    ] {
        ends(&marmot(folder.path(), words), 3);
    }
    let output = marmot(folder.path(), "status -c missing.toml --json");
    assert_eq!(json(&output)["error"]["code"], "config");
}

#[test]
fn each_command_explains_itself() {
    let folder = configured();
    for command in ["up", "down", "status", "watch", "history", "housekeep", "cleanup"] {
        let said = ends(&marmot(folder.path(), &format!("{command} --help")), 0);
        assert!(said.contains("--json") && said.contains("--config"), "{said}");
        assert!(said.lines().all(|line| line.len() <= 140), "{said}");
    }
    let common = ends(&marmot(folder.path(), "--help"), 0);
    assert!(common.contains("no daemon runs for this tunnel"), "{common}");
}

#[test]
fn a_file_in_the_place_of_the_socket_is_no_daemon() {
    let folder = configured();
    std::fs::write(folder.path().join("work.sock"), "").expect("written");
    let said = ends(&marmot(folder.path(), "down -c work.toml"), 7);
    assert!(said.contains("no daemon listens"), "{said}");
}
