//! `sessions` and `kick` as a shell sees them, with a gateway that only answers.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use api::{Attendance, GatewayDaemon, GatewaySession, GatewaySessions, GatewayStatus, Kicked, Peer, Refused, owner};
use tokio::sync::oneshot;

const ID: &str = "0123456789abcdef0123456789abcdef";

#[derive(Clone)]
struct Fake;

impl GatewayDaemon for Fake {
    async fn status(&self) -> Result<GatewayStatus, Refused> {
        Ok(GatewayStatus::default())
    }

    async fn sessions(&self) -> Result<GatewaySessions, Refused> {
        Ok(GatewaySessions {
            sessions: vec![GatewaySession {
                id: ID.to_owned(),
                user: "alice".to_owned(),
                state: Attendance::Connected,
                control: true,
                epoch: 2,
                ..GatewaySession::default()
            }],
            ..GatewaySessions::default()
        })
    }

    async fn kick(&self, id: String) -> Result<Kicked, Refused> {
        match id == ID {
            true => Ok(Kicked {
                id,
                user: "alice".to_owned(),
            }),
            false => Err(Refused::NotFound("there is no such session".to_owned())),
        }
    }
}

fn marmot(folder: &Path, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_marmot"))
        .args(words.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

#[track_caller]
fn ends(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// A gateway that listens in `folder` as long as what is returned lives.
fn serve(folder: &Path) -> oneshot::Sender<()> {
    let socket = folder.join("_gateway.sock");
    let (end, ended) = oneshot::channel::<()>();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
            tell.send(()).expect("the test waits");
            let own = Peer::own().expect("credentials").uid;
            api::serve_gateway(listener, Fake, owner(own), async {
                let _ = ended.await;
            })
            .await;
        });
    });
    told.recv().expect("it listens");
    end
}

#[test]
fn sessions_are_listed_and_kicked() {
    let folder = tempfile::tempdir().expect("a folder");
    let _gateway = serve(folder.path());
    let list = ends(&marmot(folder.path(), "sessions --socket _gateway.sock"), 0);
    assert!(
        list.starts_with("SESSION") && list.contains("alice") && list.contains("connected"),
        "{list}"
    );
    let json = ends(&marmot(folder.path(), "sessions --json --socket _gateway.sock"), 0);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["version"], &json["sessions"][0]["epoch"]),
        (&1.into(), &2.into())
    );
    let kicked = ends(&marmot(folder.path(), &format!("kick {ID} --socket _gateway.sock")), 0);
    assert_eq!(kicked, format!("session {ID} of alice has ended\n"));
    let none = ends(
        &marmot(
            folder.path(),
            &format!("kick {} --socket _gateway.sock", "0".repeat(32)),
        ),
        1,
    );
    assert!(none.contains("no such session"), "{none}");
}

#[test]
fn a_gateway_that_does_not_run_has_a_code_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = marmot(folder.path(), "sessions --json --socket _gateway.sock");
    assert!(ends(&output, 7).contains("not_running"));
    for words in [
        "sessions --socket _gateway.sock".to_owned(),
        format!("kick {ID} --socket _gateway.sock"),
    ] {
        let text = ends(&marmot(folder.path(), &words), 7);
        assert!(
            text.contains("at _gateway.sock") && text.contains("`marmot gateway`"),
            "{text}"
        );
        assert!(!text.contains("marmot client"), "{text}");
    }
}
