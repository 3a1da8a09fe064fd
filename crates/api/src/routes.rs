//! From a request to a call of the daemon, and back.

use std::future::Future;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::body::Body as _;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tracing::info;

use crate::access::Peer;
use crate::daemon::Daemon;
use crate::denied::{Denied, JSON};
use crate::limits::{ANSWER_TIMEOUT, BODY_TIMEOUT, MAX_BODY, MAX_HISTORY};
use crate::stream;
use crate::types::{Down, History, Housekeeping, Status, Up, UpOrder, Versioned};

/// What `last` is if nobody says.
const LAST: usize = 10;

/// The longest name of a job that is looked for.
const MAX_JOB_NAME: usize = 64;

/// What all requests share.
#[derive(Clone, Debug)]
pub(crate) struct Desk<D> {
    pub(crate) daemon: D,
    /// Places for readers of events.
    pub(crate) readers: Arc<Semaphore>,
    /// Closes when the daemon ends.
    pub(crate) ending: watch::Receiver<()>,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    pub(crate) administers: bool,
    /// Ends the connection at once.
    pub(crate) hang_up: Arc<Notify>,
}

/// All paths.
pub(crate) fn router<D: Daemon>(desk: Desk<D>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<D>))
        .route("/v1/up", post(up::<D>))
        .route("/v1/down", post(down::<D>))
        .route("/v1/events", get(events::<D>))
        .route("/v1/history", get(history::<D>))
        .route("/v1/housekeeping", get(housekeeping::<D>))
        .route("/v1/housekeeping/{id}/retry", post(retry::<D>))
        .route("/v1/housekeeping/run", post(run::<D>))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(desk)
}

async fn status<D: Daemon>(State(desk): State<Desk<D>>) -> Result<Response, Denied> {
    let status: Status = in_time(desk.daemon.status()).await?;
    Ok(answer(&status))
}

async fn up<D: Daemon>(
    State(desk): State<Desk<D>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Denied> {
    let order: UpOrder = read(body).await?;
    info!(
        uid = caller.peer.uid,
        pid = caller.peer.pid,
        reconnect = order.reconnect,
        "api.up"
    );
    let up: Up = in_time(desk.daemon.up(order)).await??;
    Ok(answer(&up))
}

async fn down<D: Daemon>(
    State(desk): State<Desk<D>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Denied> {
    let Nothing {} = read(body).await?;
    info!(uid = caller.peer.uid, pid = caller.peer.pid, "api.down");
    let down: Down = in_time(desk.daemon.down()).await??;
    Ok(answer(&down))
}

async fn events<D: Daemon>(
    State(desk): State<Desk<D>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Denied> {
    let Ok(place) = Arc::clone(&desk.readers).try_acquire_owned() else {
        let message = "too many readers of events; end one, or ask for the status instead";
        return Err(Denied::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_readers",
            message,
        ));
    };
    let receiver = desk.daemon.events();
    let status = in_time(desk.daemon.status()).await?;
    let lines = stream::Reader {
        place,
        receiver,
        hang_up: caller.hang_up,
        ending: desk.ending,
    }
    .begin(status);
    Ok(([("content-type", "application/x-ndjson")], Body::new(lines)).into_response())
}

async fn history<D: Daemon>(State(desk): State<Desk<D>>, uri: Uri) -> Result<Response, Denied> {
    let last = last(uri.query().unwrap_or(""))?;
    let history: History = in_time(desk.daemon.history(last)).await??;
    Ok(answer(&history))
}

async fn housekeeping<D: Daemon>(State(desk): State<Desk<D>>) -> Result<Response, Denied> {
    let owed: Housekeeping = in_time(desk.daemon.housekeeping()).await??;
    Ok(answer(&owed))
}

async fn retry<D: Daemon>(
    State(desk): State<Desk<D>>,
    Extension(caller): Extension<Caller>,
    Path(job): Path<String>,
    body: Body,
) -> Result<Response, Denied> {
    administers(&caller, "repeat a job")?;
    let Nothing {} = read(body).await?;
    if !is_job_name(&job) {
        let message = "there is no such job; `marmot housekeep --list` names them";
        return Err(Denied::new(StatusCode::NOT_FOUND, "not_found", message));
    }
    info!(uid = caller.peer.uid, pid = caller.peer.pid, job, "api.retry");
    let owed: Housekeeping = in_time(desk.daemon.retry(job)).await??;
    Ok(answer(&owed))
}

async fn run<D: Daemon>(
    State(desk): State<Desk<D>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Denied> {
    administers(&caller, "start housekeeping")?;
    let Nothing {} = read(body).await?;
    info!(uid = caller.peer.uid, pid = caller.peer.pid, "api.run");
    let owed: Housekeeping = in_time(desk.daemon.run()).await??;
    Ok(answer(&owed))
}

async fn unknown_path() -> Denied {
    let message = "there is no such path; the paths begin with /v1/status, up, down, events, history, housekeeping";
    Denied::new(StatusCode::NOT_FOUND, "unknown_path", message)
}

pub(crate) async fn wrong_method(method: Method) -> Denied {
    let other = if method == Method::POST { "GET" } else { "POST" };
    let message = format!("this path wants {other}");
    Denied::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

/// The body of an order that says no more than its path.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

pub(crate) fn answer<T: Serialize>(body: &T) -> Response {
    ([("content-type", JSON)], Versioned::line(body)).into_response()
}

pub(crate) fn administers(caller: &Caller, what: &str) -> Result<(), Denied> {
    match caller.administers {
        true => Ok(()),
        false => {
            let message = format!("only root and the user of the daemon may {what}");
            Err(Denied::not_permitted(message))
        }
    }
}

/// What the daemon says, if it says it in time.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Denied> {
    timeout(ANSWER_TIMEOUT, work).await.map_err(|_| {
        let message = "the daemon did not answer in time";
        Denied::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", message)
    })
}

/// The JSON of a body; none at all stands for the default. The content type does not matter, for curl's sake.
pub(crate) async fn read<T: Default + serde::de::DeserializeOwned>(body: Body) -> Result<T, Denied> {
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY} bytes");
        Denied::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let bytes = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await.map_err(|_| {
        Denied::new(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            "the body did not arrive in time",
        )
    })?;
    let bytes = bytes.map_err(|error| match is_length_limit(&error) {
        true => too_large(),
        false => Denied::bad_request("the body did not arrive as a whole"),
    })?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    // A struct of serde would take an array, too.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        Denied::bad_request(format!("the body is not one JSON object: {at}"))
    })?;
    serde_json::from_value(object.into())
        .map_err(|_| Denied::bad_request("the body has a member that is not known, or a wrong value"))
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

fn is_job_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
    (1..=MAX_JOB_NAME).contains(&name.len()) && name.bytes().all(known)
}

/// The `last=N` of a query.
fn last(query: &str) -> Result<usize, Denied> {
    if query.is_empty() {
        return Ok(LAST);
    }
    let number = query.strip_prefix("last=").and_then(|number| number.parse().ok());
    match number {
        Some(last) if (1..=MAX_HISTORY).contains(&last) => Ok(last),
        Some(_) | None => Err(Denied::bad_request(format!("write ?last=N, from 1 to {MAX_HISTORY}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_number_within_its_limits_or_wrong() {
        assert_eq!(last(""), Ok(LAST));
        assert_eq!(last("last=1000"), Ok(1000));
        for wrong in [
            "last=0",
            "last=1001",
            "last=",
            "last=-1",
            "first=1",
            "last=1&last=2",
            "last=99999999999999999999",
        ] {
            assert_eq!(last(wrong).expect_err(wrong).code, "bad_request");
        }
    }

    #[test]
    fn the_name_of_a_job_cannot_leave_its_folder() {
        assert!(is_job_name("1800000000-0123456789abcdef"));
        for wrong in ["", "..", "a/b", ".a", "A", "a b", &"a".repeat(65)] {
            assert!(!is_job_name(wrong), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_body_is_empty_or_one_object_that_we_know() {
        for good in ["", " \n", "{}", r#"{"reconnect":false}"#] {
            assert_eq!(
                read::<UpOrder>(Body::from(good)).await,
                Ok(UpOrder::default()),
                "{good}"
            );
        }
        for bad in [
            "{",
            "null",
            "[]",
            "1",
            r#"{"speed":1}"#,
            "{} {}",
            r#"{"reconnect":1}"#,
            "\u{0}",
        ] {
            let denied = read::<UpOrder>(Body::from(bad)).await.expect_err(bad);
            assert_eq!(
                (denied.status, denied.code),
                (StatusCode::BAD_REQUEST, "bad_request"),
                "{bad}"
            );
        }
        let deep = "[".repeat(MAX_BODY);
        assert!(read::<UpOrder>(Body::from(deep)).await.is_err());
        let large = read::<UpOrder>(Body::from(" ".repeat(MAX_BODY + 1)))
            .await
            .expect_err("too large");
        assert_eq!(large.code, "too_large");
    }
}
