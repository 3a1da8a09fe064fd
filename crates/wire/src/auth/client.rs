//! Documents a client sends: the opening and its replies to forms.

use super::Field;
use super::xml::{self, DECLARATION, Document, Element};
use crate::error::AuthError;
use crate::limits::{MAX_FIELD_VALUE, MAX_FIELDS};
use crate::secret::Secret;

/// The first document of a dialogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Init {
    /// The address the client was told to go to: `https://gw.example/` or with a group as its path; peer text.
    pub group_access: String,
    /// The group it wants, if it knows already; peer text.
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
    /// The answered fields, in the order of the form. Names are ASCII XML names; in any other name each bad
    /// character is sent as `_`.
    pub fields: Vec<Field>,
    /// The chosen group; peer text.
    pub group_select: Option<String>,
    /// The form's `opaque` element, verbatim, tags included. It is sent as it is.
    pub opaque: Option<String>,
    /// As in [`Init`].
    pub version: String,
    /// As in [`Init`].
    pub device: String,
}

impl Reply {
    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&Secret> {
        self.fields
            .iter()
            .find(|field| field.name == name)
            .map(|field| &field.value)
    }
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
        match self {
            Self::Init(init) => encode_init(init),
            Self::Reply(reply) => encode_reply(reply),
        }
    }
}

fn encode_init(init: &Init) -> String {
    let mut out = start("init", &init.version, &init.device);
    xml::push_element(&mut out, "group-access", &init.group_access);
    push_group(&mut out, init.group_select.as_deref());
    if init.certificate_failed {
        out.push_str("<client-cert-fail/>");
    }
    out.push_str("</config-auth>\n");
    out
}

fn encode_reply(reply: &Reply) -> String {
    let mut out = start("auth-reply", &reply.version, &reply.device);
    out.push_str(reply.opaque.as_deref().unwrap_or_default());
    out.push_str("<auth>");
    for field in &reply.fields {
        xml::push_element(&mut out, &xml::field_name(&field.name), field.value.expose());
    }
    out.push_str("</auth>");
    push_group(&mut out, reply.group_select.as_deref());
    out.push_str("</config-auth>\n");
    out
}

/// The head that both kinds share.
fn start(kind: &str, version: &str, device: &str) -> String {
    let mut out = format!("{DECLARATION}<config-auth client=\"vpn\" type=\"{kind}\" aggregate-auth-version=\"2\">");
    out.push_str("<version who=\"vpn\">");
    xml::push_text(&mut out, version);
    out.push_str("</version>");
    xml::push_element(&mut out, "device-id", device);
    out
}

fn push_group(out: &mut String, group: Option<&str>) {
    if let Some(group) = group {
        xml::push_element(out, "group-select", group);
    }
}

/// Reads a client's document from the body of its POST. Elements it does not know are passed over.
///
/// # Errors
/// Any [`AuthError`] but [`AuthError::Refused`] and [`AuthError::NotPosted`].
pub fn parse_client(body: &[u8]) -> Result<ClientDocument, AuthError> {
    let document = Document::parse(body)?;
    let root = &document.root;
    if root.name != "config-auth" {
        return Err(AuthError::UnknownDocument);
    }
    let words = |name| root.child_words(name).unwrap_or_default();
    match root.attribute("type") {
        Some("init") => Ok(ClientDocument::Init(Init {
            group_access: words("group-access"),
            group_select: root.child_words("group-select"),
            certificate_failed: root.child("client-cert-fail").is_some(),
            version: words("version"),
            device: words("device-id"),
        })),
        Some("auth-reply") => Ok(ClientDocument::Reply(Reply {
            fields: fields(root)?,
            group_select: root.child_words("group-select"),
            opaque: root.child("opaque").and_then(|opaque| document.verbatim(opaque)),
            version: words("version"),
            device: words("device-id"),
        })),
        _ => Err(AuthError::UnknownDocument),
    }
}

/// The answers inside `auth`. Their texts count to the last space.
fn fields(root: &Element) -> Result<Vec<Field>, AuthError> {
    let answers = root.child("auth").map_or(&[][..], |auth| auth.children.as_slice());
    if answers.len() > MAX_FIELDS {
        return Err(AuthError::TooMuch("many fields"));
    }
    answers.iter().map(field).collect()
}

fn field(answer: &Element) -> Result<Field, AuthError> {
    if !xml::is_field_name(&answer.name) {
        return Err(AuthError::FieldName);
    }
    if answer.text.len() > MAX_FIELD_VALUE {
        return Err(AuthError::TooMuch("long a field"));
    }
    Ok(Field {
        name: answer.name.clone(),
        value: Secret::from(answer.text.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As openconnect 9.01 sends it, but for the line breaks.
    const INIT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<config-auth client="vpn" type="init" aggregate-auth-version="2">
<version who="vpn">v9.01-3</version><device-id>linux-64</device-id>
<capabilities><auth-method>single-sign-on-v2</auth-method><auth-method>single-sign-on-external-browser</auth-method></capabilities>
<group-access>https://gw.test/staff?x=1&amp;y=2</group-access><client-cert-fail/></config-auth>
"#;

    fn reply(body: &str) -> Result<Reply, AuthError> {
        match parse_client(body.as_bytes())? {
            ClientDocument::Reply(reply) => Ok(reply),
            other => panic!("{other:?} is no reply"),
        }
    }

    #[test]
    fn the_stock_opening_is_understood() {
        let expected = Init {
            group_access: "https://gw.test/staff?x=1&y=2".into(),
            group_select: None,
            certificate_failed: true,
            version: "v9.01-3".into(),
            device: "linux-64".into(),
        };
        assert_eq!(parse_client(INIT.as_bytes()), Ok(ClientDocument::Init(expected)));
    }

    #[test]
    fn fields_are_sent_in_tags_without_attributes_for_ocserv_finds_no_others() {
        let fields = vec![
            Field {
                name: "username".into(),
                value: "alice".into(),
            },
            Field {
                name: "password".into(),
                value: " a&b<\"c' ".into(),
            },
        ];
        let reply = Reply {
            fields,
            group_select: Some("staff".into()),
            ..Reply::default()
        };
        let body = ClientDocument::Reply(reply.clone()).encode();
        assert!(body.starts_with("<?xml"));
        assert!(body.contains("<username>alice</username>"));
        assert!(body.contains("<password> a&amp;b&lt;\"c' </password>"));
        assert!(body.contains("<group-select>staff</group-select>"));
        assert_eq!(parse_client(body.as_bytes()), Ok(ClientDocument::Reply(reply)));
    }

    #[test]
    fn an_opaque_element_comes_back_verbatim() {
        let opaque = "<opaque is-for=\"sg\"><tunnel-group>a</tunnel-group> <x/></opaque>";
        let sent = Reply {
            opaque: Some(opaque.into()),
            ..Reply::default()
        };
        let body = ClientDocument::Reply(sent).encode();
        assert!(body.contains(opaque));
        assert_eq!(reply(&body).expect("valid").opaque.as_deref(), Some(opaque));
    }

    #[test]
    fn spaces_of_a_password_count() {
        let body = "<config-auth type='auth-reply'><auth>\n<password> p </password>\n</auth></config-auth>";
        assert_eq!(
            reply(body).expect("valid").field("password"),
            Some(&Secret::from(" p "))
        );
        assert_eq!(reply(body).expect("valid").field("username"), None);
    }

    #[test]
    fn a_field_name_cannot_open_an_element() {
        let field = Field {
            name: "a><group-select>root</group-select><b".into(),
            value: "x".into(),
        };
        let body = ClientDocument::Reply(Reply {
            fields: vec![field],
            ..Reply::default()
        })
        .encode();
        let read = reply(&body).expect("valid");
        assert_eq!((read.fields.len(), read.group_select), (1, None));
    }

    #[test]
    fn fields_have_limits() {
        let with = |inner: String| {
            reply(&format!(
                "<config-auth type='auth-reply'><auth>{inner}</auth></config-auth>"
            ))
        };
        assert_eq!(
            with("<a>1</a>".repeat(MAX_FIELDS)).map(|reply| reply.fields.len()),
            Ok(MAX_FIELDS)
        );
        assert_eq!(
            with("<a>1</a>".repeat(MAX_FIELDS + 1)),
            Err(AuthError::TooMuch("many fields"))
        );
        let long = "x".repeat(MAX_FIELD_VALUE + 1);
        assert_eq!(with(format!("<a>{long}</a>")), Err(AuthError::TooMuch("long a field")));
        assert_eq!(with("<a:b>1</a:b>".into()), Err(AuthError::FieldName));
    }

    #[test]
    fn other_documents_are_not_ours() {
        for body in [
            "<auth/>",
            "<config-auth/>",
            "<config-auth type='logout'/>",
            "<config-auth type='complete'/>",
        ] {
            assert_eq!(parse_client(body.as_bytes()), Err(AuthError::UnknownDocument), "{body}");
        }
    }
}
