//! Documents a gateway sends: forms, the wish for a certificate, and the end.

use crate::error::AuthError;
use crate::secret::Secret;

/// A form to be answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// Id of the form, `main` or `success` for instance.
    pub id: String,
    /// The path its answer is posted to.
    pub method_action: String,
    /// What to tell the user; peer text.
    pub message: Option<String>,
    /// What went wrong before; peer text.
    pub error: Option<String>,
    /// A greeting; peer text.
    pub banner: Option<String>,
    /// What to ask for, in order.
    pub inputs: Vec<Input>,
    /// State of the gateway that goes back verbatim: the whole `opaque` element, tags included.
    pub opaque: Option<String>,
}

/// One input of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What kind of answer it takes.
    pub kind: InputKind,
    /// Name of the field in the reply.
    pub name: String,
    /// What to show the user; peer text.
    pub label: Option<String>,
}

/// What kind of answer an input takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKind {
    /// Text that may be shown while typed.
    Text,
    /// Text that may not.
    Password,
    /// Nothing: this value goes back.
    Hidden(Secret),
    /// Nothing: a button.
    Submit,
    /// One of these.
    Select {
        /// What there is to choose, in order; the first is the default.
        options: Vec<Choice>,
    },
}

/// One choice of a select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What goes into the reply.
    pub value: String,
    /// What to show the user; peer text.
    pub label: String,
}

/// Any document of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayDocument {
    /// Answer this.
    Form(Form),
    /// Start again on a new connection with a client certificate, or with [`super::Init::certificate_failed`].
    ClientCertificateRequested,
    /// Authenticated. The cookie is in the `Set-Cookie` header, or here.
    Complete {
        /// A cookie sent inside the document.
        session_token: Option<Secret>,
        /// What to tell the user; peer text.
        message: Option<String>,
        /// A greeting; peer text.
        banner: Option<String>,
    },
}

impl GatewayDocument {
    /// The document as XML.
    pub fn encode(&self) -> String {
        String::new()
    }
}

/// Reads a gateway's document from the body of its reply.
///
/// # Errors
/// [`AuthError::Refused`] for an empty form, any other if the document is broken.
pub fn parse_gateway(_body: &[u8]) -> Result<GatewayDocument, AuthError> {
    Err(AuthError::UnknownDocument)
}
