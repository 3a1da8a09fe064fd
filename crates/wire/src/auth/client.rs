//! Documents a client sends: the opening and its replies to forms.

use super::Field;
use crate::error::AuthError;

/// The first document of a dialogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Init {
    /// The address the client was told to go to: `https://gw.example/` or with a group as its path.
    pub group_access: String,
    /// The group it wants, if it knows already.
    pub group_select: Option<String>,
    /// It was asked for a client certificate and has none that works.
    pub certificate_failed: bool,
    /// Its version; peer text.
    pub version: String,
    /// Its platform, `linux-64` for instance; peer text.
    pub device: String,
}

/// The answer to a form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The answered fields, in the order of the form. Names are XML names.
    pub fields: Vec<Field>,
    /// The chosen group.
    pub group_select: Option<String>,
    /// The form's `opaque` element, verbatim, tags included.
    pub opaque: Option<String>,
    /// As in [`Init`].
    pub version: String,
    /// As in [`Init`].
    pub device: String,
}

/// Any document of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientDocument {
    /// It wants to authenticate.
    Init(Init),
    /// It answers a form.
    Reply(Reply),
}

impl ClientDocument {
    /// The document as XML.
    pub fn encode(&self) -> String {
        String::new()
    }
}

/// Reads a client's document from the body of its POST.
///
/// # Errors
/// Any [`AuthError`] but [`AuthError::Refused`].
pub fn parse_client(_body: &[u8]) -> Result<ClientDocument, AuthError> {
    Err(AuthError::UnknownDocument)
}
