//! Why a request was refused, as an answer.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::daemon::Refused;
use crate::types::{Denial, DenialWords, Versioned};

/// The type of our answers; what curl users see is one line.
pub(crate) const JSON: &str = "application/json";

/// A refusal: HTTP status, word for programs, sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Denied {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// The request is not one of ours.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// All connections are in use.
    pub(crate) fn busy() -> Self {
        let message = "too many connections; try again in a second";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    /// The peer may not do this.
    pub(crate) fn not_permitted(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "not_permitted", message)
    }

    /// The body of the answer.
    fn line(&self) -> Vec<u8> {
        Versioned::line(Denial {
            error: DenialWords {
                code: self.code.to_owned(),
                message: self.message.clone(),
            },
        })
    }

    /// The whole answer, for a connection that gets no other.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let line = self.line();
        let mut answer = format!(
            "HTTP/1.1 {}\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.status,
            line.len()
        )
        .into_bytes();
        answer.extend(line);
        answer
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        (self.status, [("content-type", JSON)], self.line()).into_response()
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            Refused::Conflict(_) => Self::new(StatusCode::CONFLICT, "conflict", message),
            Refused::Failed(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message),
            Refused::Ending => Self::new(StatusCode::SERVICE_UNAVAILABLE, "ending", message),
        }
    }
}
