//! The login dialogue from the client's side: any number of forms, then a cookie.

use thiserror::Error;
use wire::Secret;
use wire::auth::{
    self, CONTEXT_COOKIE, COOKIE, ClientDocument, Form, GatewayDocument, Init, Input, InputKind, parse_gateway,
};
use wire::http::{Headers, Method, RequestHead, ResponseHead};
use wire::text::escape;

use super::{Authenticated, Identity};

/// Forms answered before the dialogue is given up. Stock gateways need two; second factors add one or two.
const MAX_ROUNDS: u32 = 10;

/// Why there is no cookie.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The gateway said no. Trying the same again is pointless, and gateways ban who does.
    #[error("the gateway refused the login: {message}")]
    Rejected {
        /// The gateway's words, escaped.
        message: String,
    },
    /// The gateway wants a client certificate.
    #[error("the gateway wants a client certificate; set certificate_file and key_file in [login]")]
    CertificateWanted,
    /// The gateway sent us elsewhere. Credentials are never taken to another host.
    #[error("the gateway redirects to {to}, which is not followed; set that url in [gateway] if you trust it")]
    Redirect {
        /// Where to, escaped.
        to: String,
    },
    /// Not now.
    #[error("the gateway cannot take logins now: {reason}")]
    Unavailable {
        /// The gateway's words, escaped.
        reason: String,
    },
    /// A form asks for something there is no answer to.
    #[error("the gateway asks for `{field}`, for which there is no answer in [login]")]
    Unanswered {
        /// The field's name, escaped.
        field: String,
    },
    /// The configured group is none of the gateway's.
    #[error("the gateway has no such group; correct group in [login]")]
    NoSuchGroup,
    /// The gateway does not understand the XML dialogue; the legacy form may work on a new connection.
    #[error("the gateway answered the login with status {status}")]
    NotUnderstood {
        /// The HTTP status.
        status: u16,
    },
    /// The gateway's reply makes no sense.
    #[error("the gateway's login reply cannot be used: {0}")]
    Protocol(String),
    /// More than `MAX_ROUNDS` forms.
    #[error("the gateway asked {MAX_ROUNDS} times without an end")]
    TooManyRounds,
}

/// What the gateway's reply led to.
pub enum Step {
    /// A form to answer.
    Ask(Asking),
    /// Logged in.
    Done(Authenticated),
    /// The certificate request was understood; send this without one, on a new connection.
    Again(Authenticating, Vec<u8>),
}

/// A request is on its way.
pub struct Authenticating {
    identity: Identity,
    legacy: bool,
    rounds: u32,
    context: Option<Secret>,
    password_given: bool,
    certificate_failed: bool,
}

impl Authenticating {
    /// Starts the XML dialogue.
    pub fn start(identity: &Identity) -> (Self, Vec<u8>) {
        let this = Self::new(identity, false);
        let request = this.init();
        (this, request)
    }

    /// Starts the form of gateways that do not speak the XML dialogue.
    pub fn start_legacy(identity: &Identity) -> (Self, Vec<u8>) {
        let this = Self::new(identity, true);
        let request = this.head(Method::Get, &this.identity.path).encode(&[]);
        (this, request)
    }

    fn new(identity: &Identity, legacy: bool) -> Self {
        Self {
            identity: identity.clone(),
            legacy,
            rounds: 0,
            context: None,
            password_given: false,
            certificate_failed: false,
        }
    }

    /// Takes the gateway's reply.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub fn reply(mut self, head: &ResponseHead, body: &[u8]) -> Result<Step, AuthError> {
        match head.status {
            200 => {}
            401 | 403 => {
                return Err(AuthError::Rejected {
                    message: escape(&head.reason),
                });
            }
            301..=308 => {
                let to = head.headers.get("Location").unwrap_or("nowhere");
                return Err(AuthError::Redirect { to: escape(to) });
            }
            503 => {
                let reason = head.headers.get("X-Reason").unwrap_or(&head.reason);
                return Err(AuthError::Unavailable { reason: escape(reason) });
            }
            status => return Err(AuthError::NotUnderstood { status }),
        }
        if let Some(context) = head.headers.set_cookie(CONTEXT_COOKIE) {
            self.context = Some(context);
        }
        match parse_gateway(body) {
            Ok(GatewayDocument::Form(form)) => self.ask(form),
            Ok(GatewayDocument::ClientCertificateRequested) if self.certificate_failed => {
                Err(AuthError::CertificateWanted)
            }
            Ok(GatewayDocument::ClientCertificateRequested) => {
                self.certificate_failed = true;
                let request = self.init();
                Ok(Step::Again(self, request))
            }
            Ok(GatewayDocument::Complete { session_token, .. }) => {
                let cookie = head.headers.set_cookie(COOKIE).or(session_token);
                let cookie = cookie.filter(|cookie| !cookie.is_empty());
                let missing = || AuthError::Protocol("the login succeeded, but no cookie came with it".to_owned());
                Ok(Step::Done(Authenticated::from_cookie(cookie.ok_or_else(missing)?)))
            }
            Err(wire::AuthError::Refused(message)) if self.password_given => {
                let message = if message.is_empty() {
                    "no reason given".to_owned()
                } else {
                    message
                };
                Err(AuthError::Rejected { message })
            }
            // Asked nothing, answered nothing, refused: only a certificate could have helped.
            Err(wire::AuthError::Refused(_)) => Err(AuthError::CertificateWanted),
            Err(error) => Err(AuthError::Protocol(error.to_string())),
        }
    }

    fn ask(mut self, form: Form) -> Result<Step, AuthError> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(AuthError::TooManyRounds);
        }
        Ok(Step::Ask(Asking { dialogue: self, form }))
    }

    fn init(&self) -> Vec<u8> {
        let init = Init {
            group_access: format!("https://{}{}", self.identity.host, self.identity.path),
            group_select: self.identity.group.clone(),
            certificate_failed: self.certificate_failed,
            version: self.identity.version.clone(),
            device: self.identity.device.clone(),
        };
        self.post(&self.identity.path, XML, ClientDocument::Init(init).encode().as_bytes())
    }

    fn post(&self, target: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
        let mut head = self.head(Method::Post, target);
        head.headers.push("Content-Type", content_type);
        head.headers.push("Content-Length", body.len().to_string());
        head.encode(body)
    }

    /// Header names are written in the case that stock `ocserv` compares with.
    fn head(&self, method: Method, target: &str) -> RequestHead {
        let mut headers = Headers::new();
        headers.push("Host", self.identity.host.as_str());
        headers.push("User-Agent", self.identity.user_agent.as_str());
        headers.push("Accept", "*/*");
        headers.push("Accept-Encoding", "identity");
        headers.push("X-Transcend-Version", "1");
        if !self.legacy {
            headers.push("X-Aggregate-Auth", "1");
        }
        headers.push("X-Support-HTTP-Auth", "true");
        if let Some(context) = &self.context {
            headers.push("Cookie", format!("{CONTEXT_COOKIE}={}", context.expose()));
        }
        RequestHead {
            method,
            target: target.to_owned(),
            headers,
        }
    }
}

const XML: &str = "application/xml; charset=utf-8";
const URLENCODED: &str = "application/x-www-form-urlencoded";

/// The gateway asks.
pub struct Asking {
    dialogue: Authenticating,
    form: Form,
}

impl Asking {
    /// What it asks.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// What it says beside, escaped: the error of the last answer, or a message.
    pub fn message(&self) -> Option<String> {
        self.form.error.as_deref().or(self.form.message.as_deref()).map(escape)
    }

    /// Whether it asks for a password after one was given already. With a fixed password that means it was wrong.
    pub fn asked_before(&self) -> bool {
        self.dialogue.password_given && self.form.inputs.iter().any(|input| input.kind == InputKind::Password)
    }

    /// Answers. `pick` is asked for every input that needs a person or a file; hidden inputs and the group answer
    /// themselves.
    ///
    /// # Errors
    /// [`AuthError::Unanswered`] for the first field `pick` has nothing for, [`AuthError::Protocol`] if the form cannot be
    /// answered at all.
    pub fn answer(
        mut self,
        mut pick: impl FnMut(&Input) -> Option<Secret>,
    ) -> Result<(Authenticating, Vec<u8>), AuthError> {
        let group = self.dialogue.identity.group.clone();
        let mut reply = self
            .form
            .answer(&mut pick, group.as_deref())
            .map_err(|unanswered| match group {
                Some(_) if unanswered.name == auth::GROUP_LIST => AuthError::NoSuchGroup,
                _ => AuthError::Unanswered {
                    field: escape(&unanswered.name),
                },
            })?;
        reply.version = self.dialogue.identity.version.clone();
        reply.device = self.dialogue.identity.device.clone();
        self.dialogue.password_given |= self.form.inputs.iter().any(|input| input.kind == InputKind::Password);

        let target = local_target(&self.form.method_action, &self.dialogue.identity)?;
        let request = if self.dialogue.legacy {
            let mut fields: Vec<(&str, &str)> = reply
                .fields
                .iter()
                .map(|field| (field.name.as_str(), field.value.expose()))
                .collect();
            if let Some(group) = &reply.group_select {
                fields.push((auth::GROUP_LIST, group));
            }
            let body = auth::legacy::encode(&fields);
            self.dialogue.post(&target, URLENCODED, body.as_bytes())
        } else {
            self.dialogue
                .post(&target, XML, ClientDocument::Reply(reply).encode().as_bytes())
        };
        Ok((self.dialogue, request))
    }
}

/// The path a form is posted to. A form that names another host gets nothing.
fn local_target(action: &str, identity: &Identity) -> Result<String, AuthError> {
    let own = format!("https://{}", identity.host);
    let path = match action.strip_prefix(&own) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => action,
    };
    if path.is_empty() {
        return Ok(identity.path.clone());
    }
    let absolute = path.contains("://") || path.starts_with("//");
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    match (absolute, printable) {
        (true, _) => Err(AuthError::Redirect { to: escape(action) }),
        (false, false) => Err(AuthError::Protocol("the form's action is not a path".to_owned())),
        (false, true) if path.starts_with('/') => Ok(path.to_owned()),
        (false, true) => Ok(format!("/{path}")),
    }
}
