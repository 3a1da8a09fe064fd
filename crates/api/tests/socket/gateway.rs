//! The socket of a gateway: its paths, and who may end a session.

use std::sync::{Arc, Mutex};

use api::{
    Attendance, Client, ClientError, GatewayDaemon, GatewaySession, GatewaySessions, GatewayStatus, Kicked, Peer,
    Privilege, Refused,
};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};

use crate::fake::{Answer, get, post, within};

const ID: &str = "0123456789abcdef0123456789abcdef";

/// A gateway with one session.
#[derive(Clone, Default)]
struct Gateway(Arc<Mutex<Vec<String>>>);

impl GatewayDaemon for Gateway {
    async fn status(&self) -> Result<GatewayStatus, Refused> {
        Ok(GatewayStatus {
            listen: vec!["[::]:443".to_owned()],
            ..GatewayStatus::default()
        })
    }

    async fn sessions(&self) -> Result<GatewaySessions, Refused> {
        Ok(GatewaySessions {
            sessions: vec![GatewaySession {
                id: ID.to_owned(),
                state: Attendance::Parked,
                parked: Some("announced".to_owned()),
                ..GatewaySession::default()
            }],
            ..GatewaySessions::default()
        })
    }

    async fn kick(&self, id: String) -> Result<Kicked, Refused> {
        self.0.lock().expect("not poisoned").push(id.clone());
        match id == ID {
            true => Ok(Kicked {
                id,
                user: "alice".to_owned(),
            }),
            false => Err(Refused::NotFound("there is no such session".to_owned())),
        }
    }
}

/// A folder with the socket of a gateway.
fn serve(gateway: &Gateway, allow: impl Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join("_gateway.sock")).expect("a socket");
    tokio::spawn(api::serve_gateway(
        listener,
        gateway.clone(),
        allow,
        std::future::pending(),
    ));
    folder
}

async fn raw(folder: &TempDir, request: String) -> Answer {
    let socket = folder.path().join("_gateway.sock");
    let mut stream = within(UnixStream::connect(socket)).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("written");
    Answer::read(&mut stream).await
}

#[tokio::test]
async fn sessions_are_asked_for_and_ended() {
    let gateway = Gateway::default();
    let folder = serve(&gateway, |_, _| true);
    let client = Client::new(folder.path().join("_gateway.sock"));
    let sessions = client.sessions().await.expect("an answer");
    assert_eq!(sessions, gateway.sessions().await.expect("the same"));
    assert_eq!(client.gateway_status().await.expect("an answer").listen, ["[::]:443"]);
    assert_eq!(client.kick(ID).await.expect("ended").user, "alice");
    let unknown = client.kick(&"0".repeat(32)).await.expect_err("no such");
    assert!(matches!(unknown, ClientError::Refused { status: 404, .. }), "{unknown}");
}

#[tokio::test]
async fn who_only_uses_may_look_and_not_end() {
    let gateway = Gateway::default();
    let folder = serve(&gateway, |_, privilege| privilege == Privilege::Use);
    assert_eq!(raw(&folder, get("/v1/sessions")).await.status, 200);
    let answer = raw(&folder, post(&format!("/v1/sessions/{ID}/kick"), "")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "not_permitted"));
    assert!(gateway.0.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn what_is_no_session_never_reaches_the_gateway() {
    let gateway = Gateway::default();
    let folder = serve(&gateway, |_, _| true);
    for id in ["..", "0", &"G".repeat(32), &"0".repeat(33), "%2e%2e"] {
        let answer = raw(&folder, post(&format!("/v1/sessions/{id}/kick"), "")).await;
        assert_eq!(answer.status, 404, "{id}");
    }
    assert_eq!(raw(&folder, post("/v1/up", "")).await.code(), "unknown_path");
    assert_eq!(
        raw(&folder, get(&format!("/v1/sessions/{ID}/kick"))).await.code(),
        "wrong_method"
    );
    assert!(gateway.0.lock().expect("not poisoned").is_empty());
}
