//! The same socket for a gateway: other paths, the same doors.

use std::future::Future;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::Method;
use tokio::net::UnixListener;
use tracing::info;

use crate::access::{Peer, Privilege};
use crate::client::{Client, ClientError};
use crate::daemon::Refused;
use crate::denied::Denied;
use crate::routes::{Caller, Nothing, administers, answer, in_time, read, wrong_method};
use crate::server::serve_routes;
use crate::types::{GatewaySessions, GatewayStatus, Kicked};

/// Digits of a session's id.
const ID_DIGITS: usize = 32;

/// A running gateway; a cheap handle, cloned for each request. Each method answers within 10 s: later the request is answered
/// for it with `too_slow`.
pub trait GatewayDaemon: Clone + Send + Sync + 'static {
    /// The gateway now.
    fn status(&self) -> impl Future<Output = Result<GatewayStatus, Refused>> + Send;

    /// Its sessions now: at most [`crate::MAX_SESSIONS`], those that began first.
    fn sessions(&self) -> impl Future<Output = Result<GatewaySessions, Refused>> + Send;

    /// Ends a session, and tells its client that the administrator did. `id` is 32 of `[0-9a-f]`. [`Refused::NotFound`] if
    /// there is none.
    fn kick(&self, id: String) -> impl Future<Output = Result<Kicked, Refused>> + Send;
}

/// As [`crate::serve`], for a gateway.
pub async fn serve_gateway<D, A, U>(listener: UnixListener, daemon: D, allow: A, until: U)
where
    D: GatewayDaemon,
    A: Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static,
    U: Future<Output = ()>,
{
    serve_routes(listener, |_| router(daemon), allow, until).await;
}

fn router<D: GatewayDaemon>(daemon: D) -> Router {
    Router::new()
        .route("/v1/status", get(status::<D>))
        .route("/v1/sessions", get(sessions::<D>))
        .route("/v1/sessions/{id}/kick", post(kick::<D>))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(daemon)
}

async fn status<D: GatewayDaemon>(State(daemon): State<D>) -> Result<Response, Denied> {
    let status: GatewayStatus = in_time(daemon.status()).await??;
    Ok(answer(&status))
}

async fn sessions<D: GatewayDaemon>(State(daemon): State<D>) -> Result<Response, Denied> {
    let sessions: GatewaySessions = in_time(daemon.sessions()).await??;
    Ok(answer(&sessions))
}

async fn kick<D: GatewayDaemon>(
    State(daemon): State<D>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Denied> {
    administers(&caller, "end a session")?;
    let Nothing {} = read(body).await?;
    if !is_session(&id) {
        let message = "there is no such session; `marmot sessions` names them";
        return Err(Denied::new(StatusCode::NOT_FOUND, "not_found", message));
    }
    info!(
        uid = caller.peer.uid,
        pid = caller.peer.pid,
        session = id.as_str(),
        "api.kick"
    );
    let kicked: Kicked = in_time(daemon.kick(id)).await??;
    Ok(answer(&kicked))
}

async fn unknown_path() -> Denied {
    let message = "there is no such path; the paths of a gateway are /v1/status, sessions and sessions/{id}/kick";
    Denied::new(StatusCode::NOT_FOUND, "unknown_path", message)
}

fn is_session(id: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    id.len() == ID_DIGITS && id.bytes().all(known)
}

impl Client {
    /// A gateway now.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn gateway_status(&self) -> Result<GatewayStatus, ClientError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// The sessions of a gateway.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn sessions(&self) -> Result<GatewaySessions, ClientError> {
        self.ask(Method::GET, "/v1/sessions").await
    }

    /// Ends a session of a gateway. `id` is one of [`Client::sessions`].
    ///
    /// # Errors
    /// As for [`Client::up`]; not for everybody.
    pub async fn kick(&self, id: &str) -> Result<Kicked, ClientError> {
        self.ask(Method::POST, &format!("/v1/sessions/{id}/kick")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_session_is_32_digits() {
        assert!(is_session("0123456789abcdef0123456789abcdef"));
        for wrong in [
            "",
            "..",
            &"a".repeat(31),
            &"a".repeat(33),
            &"A".repeat(32),
            &"g".repeat(32),
        ] {
            assert!(!is_session(wrong), "{wrong}");
        }
    }
}
