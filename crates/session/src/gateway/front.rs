//! The HTTP part of one TLS connection: login dialogue and CONNECT.
//!
//! A single form asks for name and password, which stock clients understand (measured), so no state outlives the
//! connection: a client may send every request over a new one.

use std::sync::Arc;

use wire::Secret;
use wire::auth::{
    self, COOKIE, Choice, ClientDocument, Field, Form, GROUP_LIST, GatewayDocument, Input, InputKind, parse_client,
};
use wire::http::{Headers, Method, RequestHead, ResponseHead};
use wire::offer::{LOGOUT_PATH, Logout, Offer, Refusal};

use super::LoginRefused;

/// Wrong answers on one connection before it is closed. Across connections the shell's admission counts.
pub const MAX_TRIES: u32 = 3;

/// Longest user name in bytes.
const MAX_USER: usize = 128;

/// Where forms are posted to; any path is accepted.
const ACTION: &str = "/auth";

/// How users log in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontPolicy {
    /// With name and password.
    pub password: bool,
    /// With a client certificate.
    pub certificate: bool,
    /// With both together; the names must be the same.
    pub require_both: bool,
    /// Groups to choose from; the first is the default. None: no group is asked for.
    pub groups: Vec<String>,
    /// What the form says above its inputs.
    pub title: String,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum FrontOutput {
    /// Send this whole reply; then close the connection or read the next request.
    Reply {
        /// Head and body.
        message: Vec<u8>,
        /// Close afterwards.
        close: bool,
    },
    /// Check this password and answer with [`Front::verdict`].
    Verify {
        /// The claimed name; peer text, of at most 128 bytes.
        user: String,
        /// The password.
        password: Secret,
        /// The chosen group, one of the policy's.
        group: Option<String>,
    },
    /// The user is authenticated: open a session and answer with [`Front::logged_in`].
    Login {
        /// Who.
        user: String,
        /// The chosen group.
        group: Option<String>,
    },
    /// End this session, if the token is right, and answer with [`Front::logged_out`].
    Logout(Logout),
    /// A tunnel is asked for. What follows on this connection are frames, if it is granted.
    Connect(Box<Offer>),
}

/// The outcome of a check of a password or of a logout token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Right password, user and group.
    Granted,
    /// Wrong, whatever of it.
    Denied,
    /// Too many tries from there, or for that user.
    TooMany,
    /// Too many checks are waiting.
    Busy,
}

/// One TLS connection's dialogue.
#[derive(Debug)]
pub struct Front {
    policy: Arc<FrontPolicy>,
    certificate_user: Option<String>,
    pending: Option<(String, Option<String>)>,
    tries: u32,
}

impl Front {
    /// A new connection. `certificate_user` is the name in the client certificate that TLS has verified.
    pub fn new(policy: Arc<FrontPolicy>, certificate_user: Option<String>) -> Self {
        Self {
            policy,
            certificate_user,
            pending: None,
            tries: 0,
        }
    }

    /// Takes a request.
    pub fn request(&mut self, head: &RequestHead, body: &[u8]) -> FrontOutput {
        match &head.method {
            Method::Connect => match Offer::parse(head) {
                Ok(offer) => FrontOutput::Connect(Box::new(offer)),
                Err(_) => refuse(400, "Bad Request"),
            },
            Method::Post if head.target == LOGOUT_PATH => match Logout::parse(body) {
                Some(logout) => FrontOutput::Logout(logout),
                None => refuse(400, "Bad Request"),
            },
            Method::Get => self.begin(None),
            Method::Post => self.post(head, body),
            Method::Other(_) => refuse(405, "Method Not Allowed"),
        }
    }

    /// Takes the outcome of the last [`FrontOutput::Verify`].
    pub fn verdict(&mut self, verdict: Verdict) -> FrontOutput {
        let Some((user, group)) = self.pending.take() else {
            return refuse(500, "Internal Server Error");
        };
        match verdict {
            Verdict::Granted => FrontOutput::Login { user, group },
            Verdict::Busy => unavailable("too many logins at once, try again"),
            Verdict::TooMany => refuse(401, "Too many login attempts"),
            Verdict::Denied => {
                self.tries += 1;
                if self.tries >= MAX_TRIES {
                    return refuse(401, "Login failed");
                }
                self.ask(group.as_deref(), Some("Login failed."))
            }
        }
    }

    /// Takes the outcome of the last [`FrontOutput::Login`]: the cookie, or why there is none.
    pub fn logged_in(&mut self, outcome: Result<Secret, LoginRefused>) -> FrontOutput {
        match outcome {
            Ok(cookie) => {
                let document = GatewayDocument::Complete {
                    session_token: None,
                    message: None,
                    banner: None,
                };
                let set_cookie = format!("{COOKIE}={}; Secure; HttpOnly", cookie.expose());
                reply_with(200, "OK", &[("Set-Cookie", &set_cookie)], &document.encode(), false)
            }
            Err(refused) => unavailable(&refused.to_string()),
        }
    }

    /// Takes the outcome of a [`FrontOutput::Logout`]. Whether there was a session to end is not said.
    pub fn logged_out(&self, verdict: Verdict) -> FrontOutput {
        match verdict {
            Verdict::Granted => refuse(204, "No Content"),
            Verdict::Denied => refuse(403, "Forbidden"),
            Verdict::TooMany | Verdict::Busy => unavailable("too many logins at once, try again"),
        }
    }

    fn post(&mut self, head: &RequestHead, body: &[u8]) -> FrontOutput {
        let content_type = head.headers.get("Content-Type").unwrap_or_default();
        if content_type.starts_with("application/x-www-form-urlencoded") {
            return match auth::legacy::parse(body) {
                Ok(mut fields) => {
                    let group = fields.iter().find(|field| field.name == GROUP_LIST);
                    let group = group.map(|field| field.value.expose().to_owned());
                    fields.retain(|field| field.name != GROUP_LIST);
                    self.answered(fields, group)
                }
                Err(_) => refuse(400, "Bad Request"),
            };
        }
        match parse_client(body) {
            Ok(ClientDocument::Init(init)) => self.begin(init.group_select.as_deref()),
            Ok(ClientDocument::Reply(reply)) => self.answered(reply.fields, reply.group_select),
            Err(_) => refuse(400, "Bad Request"),
        }
    }

    /// The start of a dialogue, or a change of group within it.
    fn begin(&mut self, group: Option<&str>) -> FrontOutput {
        let by_certificate = self.policy.certificate && !self.policy.require_both;
        match &self.certificate_user {
            Some(user) if by_certificate => match self.choose(group) {
                Ok(group) => FrontOutput::Login {
                    user: user.clone(),
                    group,
                },
                Err(()) => self.ask(None, Some("No such group.")),
            },
            Some(_) => self.ask(group, None),
            None if self.policy.require_both || !self.policy.password => certificate_wanted(),
            None => self.ask(group, None),
        }
    }

    fn answered(&mut self, fields: Vec<Field>, group: Option<String>) -> FrontOutput {
        let mut user = None;
        let mut password = None;
        for field in fields {
            match field.name.as_str() {
                "username" => user = Some(field.value.expose().to_owned()),
                "password" => password = Some(field.value),
                _ => {}
            }
        }
        let (Some(user), Some(password)) = (user, password) else {
            return self.begin(group.as_deref());
        };
        let Ok(group) = self.choose(group.as_deref()) else {
            return self.ask(None, Some("No such group."));
        };
        let certificate_fits = match &self.certificate_user {
            Some(name) => *name == user,
            None => false,
        };
        if !self.policy.password || (self.policy.require_both && self.certificate_user.is_none()) {
            return certificate_wanted();
        }
        self.pending = Some((user.clone(), group.clone()));
        if user.len() > MAX_USER || (self.policy.require_both && !certificate_fits) {
            return self.verdict(Verdict::Denied);
        }
        FrontOutput::Verify { user, password, group }
    }

    /// The group that was asked for, the first one if none was.
    fn choose(&self, wanted: Option<&str>) -> Result<Option<String>, ()> {
        let groups = &self.policy.groups;
        match wanted.filter(|name| !name.is_empty()) {
            None => Ok(groups.first().cloned()),
            Some(_) if groups.is_empty() => Ok(None),
            Some(name) => groups.iter().find(|group| *group == name).cloned().map(Some).ok_or(()),
        }
    }

    fn ask(&self, group: Option<&str>, error: Option<&str>) -> FrontOutput {
        let mut inputs = Vec::new();
        if !self.policy.groups.is_empty() {
            let mut names = self.policy.groups.clone();
            // The chosen one comes first: that is what a client shows as chosen.
            names.sort_by_key(|name| Some(name.as_str()) != group);
            let options = names
                .into_iter()
                .map(|name| Choice {
                    value: name.clone(),
                    label: name,
                })
                .collect();
            inputs.push(input(InputKind::Select { options }, GROUP_LIST, "Group:"));
        }
        inputs.push(input(InputKind::Text, "username", "Username:"));
        inputs.push(input(InputKind::Password, "password", "Password:"));
        reply(&GatewayDocument::Form(Form {
            id: "main".to_owned(),
            method_action: ACTION.to_owned(),
            message: Some(self.policy.title.clone()).filter(|title| !title.is_empty()),
            error: error.map(str::to_owned),
            inputs,
            ..Form::default()
        }))
    }
}

fn input(kind: InputKind, name: &str, label: &str) -> Input {
    Input {
        kind,
        name: name.to_owned(),
        label: Some(label.to_owned()),
    }
}

/// A form without inputs: how stock gateways say that only a certificate would have helped.
fn certificate_wanted() -> FrontOutput {
    reply(&GatewayDocument::Form(Form {
        id: "main".to_owned(),
        method_action: ACTION.to_owned(),
        message: Some("A client certificate is needed.".to_owned()),
        ..Form::default()
    }))
}

fn reply(document: &GatewayDocument) -> FrontOutput {
    reply_with(200, "OK", &[], &document.encode(), false)
}

/// A refusal: no body, the reason in the status line, and the connection closed.
fn refuse(status: u16, reason: &str) -> FrontOutput {
    reply_with(status, reason, &[], "", true)
}

fn unavailable(reason: &str) -> FrontOutput {
    reply_with(503, "Service Unavailable", &[("X-Reason", reason)], "", true)
}

fn reply_with(status: u16, reason: &str, extra: &[(&str, &str)], body: &str, close: bool) -> FrontOutput {
    let mut headers = Headers::new();
    headers.push("Connection", if close { "close" } else { "Keep-Alive" });
    if !body.is_empty() {
        headers.push("Content-Type", "text/xml; charset=utf-8");
    }
    if status != 204 {
        headers.push("Content-Length", body.len().to_string());
    }
    headers.push("X-Transcend-Version", "1");
    for (name, value) in extra {
        headers.push(*name, *value);
    }
    // Refusals of CONNECT are wire::offer's; these answer the dialogue.
    let head = ResponseHead {
        status,
        reason: reason.to_owned(),
        headers,
    };
    FrontOutput::Reply {
        message: head.encode(body.as_bytes()),
        close,
    }
}

/// The reply to a CONNECT that is refused.
impl From<&Refusal> for FrontOutput {
    fn from(refusal: &Refusal) -> Self {
        Self::Reply {
            message: refusal.encode(),
            close: true,
        }
    }
}
