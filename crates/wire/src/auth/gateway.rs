//! Documents a gateway sends: forms, the wish for a certificate, and the end.

use super::xml::{self, DECLARATION, Document, Element};
use crate::error::AuthError;
use crate::limits::{MAX_CHOICES, MAX_FIELD_VALUE, MAX_FIELDS};
use crate::secret::Secret;
use crate::text;

/// The version stock `ocserv` gives as a gateway's; stock clients do not look at it.
const VERSION: &str = "<version who=\"sg\">0.1(1)</version>";

/// A form to be answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// Id of the form, `main` for instance. `success` means something else.
    pub id: String,
    /// The path its answer is posted to; peer text, `/` if the gateway named none.
    pub method_action: String,
    /// What to tell the user; peer text.
    pub message: Option<String>,
    /// What went wrong before; peer text.
    pub error: Option<String>,
    /// A greeting; peer text.
    pub banner: Option<String>,
    /// What to ask for, in order; at least one that is no [`InputKind::Submit`].
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
        /// What there is to choose. The first is the default, whichever place the gateway gave it.
        options: Vec<Choice>,
    },
}

/// One choice of a select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What goes into the reply; peer text.
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
        let mut out = DECLARATION.to_owned();
        match self {
            Self::Form(form) => push_form(&mut out, form),
            Self::ClientCertificateRequested => {
                push_start(&mut out, "auth-request");
                out.push_str("<client-cert-request></client-cert-request>");
            }
            Self::Complete {
                session_token,
                message,
                banner,
            } => {
                push_start(&mut out, "complete");
                push_words(&mut out, "session-token", session_token.as_ref().map(Secret::expose));
                out.push_str("<auth id=\"success\">");
                push_words(&mut out, "banner", banner.as_deref());
                push_words(&mut out, "message", message.as_deref());
                out.push_str("</auth>");
            }
        }
        out.push_str("</config-auth>\n");
        out
    }
}

fn push_start(out: &mut String, kind: &str) {
    out.push_str(&format!(
        "<config-auth client=\"vpn\" type=\"{kind}\" aggregate-auth-version=\"2\">{VERSION}"
    ));
}

fn push_words(out: &mut String, name: &str, words: Option<&str>) {
    if let Some(words) = words {
        xml::push_element(out, name, words);
    }
}

fn push_form(out: &mut String, form: &Form) {
    push_start(out, "auth-request");
    out.push_str(form.opaque.as_deref().unwrap_or_default());
    out.push_str("<auth");
    xml::push_attribute(out, "id", &form.id);
    out.push('>');
    push_words(out, "banner", form.banner.as_deref());
    push_words(out, "message", form.message.as_deref());
    push_words(out, "error", form.error.as_deref());
    out.push_str("<form method=\"post\"");
    xml::push_attribute(out, "action", &form.method_action);
    out.push('>');
    for input in &form.inputs {
        push_input(out, input);
    }
    out.push_str("</form></auth>");
}

fn push_input(out: &mut String, input: &Input) {
    let (tag, kind) = match &input.kind {
        InputKind::Text => ("input", Some("text")),
        InputKind::Password => ("input", Some("password")),
        InputKind::Hidden(_) => ("input", Some("hidden")),
        InputKind::Submit => ("input", Some("submit")),
        InputKind::Select { .. } => ("select", None),
    };
    out.push('<');
    out.push_str(tag);
    if let Some(kind) = kind {
        xml::push_attribute(out, "type", kind);
    }
    xml::push_attribute(out, "name", &input.name);
    if let Some(label) = &input.label {
        xml::push_attribute(out, "label", label);
    }
    match &input.kind {
        InputKind::Text | InputKind::Password | InputKind::Submit => out.push_str("/>"),
        InputKind::Hidden(value) => {
            xml::push_attribute(out, "value", value.expose());
            out.push_str("/>");
        }
        InputKind::Select { options } => {
            out.push('>');
            for option in options {
                out.push_str("<option");
                xml::push_attribute(out, "value", &option.value);
                out.push('>');
                xml::push_text(out, &option.label);
                out.push_str("</option>");
            }
            out.push_str("</select>");
        }
    }
}

/// Reads a gateway's document from the body of its reply. Elements it does not know are passed over.
///
/// # Errors
/// [`AuthError::Refused`] for a form that asks for nothing, any other if the document is broken.
pub fn parse_gateway(body: &[u8]) -> Result<GatewayDocument, AuthError> {
    let document = Document::parse(body)?;
    let root = &document.root;
    let (auth, complete) = match root.name.as_str() {
        "config-auth" => (root.child("auth"), root.attribute("type") == Some("complete")),
        // The form of gateways before aggregate authentication.
        "auth" => (Some(root), false),
        _ => return Err(AuthError::UnknownDocument),
    };
    let words = |name| auth.and_then(|auth| auth.child_words(name));
    if complete || auth.is_some_and(|auth| auth.attribute("id") == Some("success")) {
        return Ok(GatewayDocument::Complete {
            session_token: root.child_words("session-token").map(Secret::new),
            message: words("message"),
            banner: words("banner"),
        });
    }
    if root.child("client-cert-request").is_some() {
        return Ok(GatewayDocument::ClientCertificateRequested);
    }
    let mut form = Form {
        message: words("message"),
        error: words("error").or_else(|| root.child_words("error")),
        banner: words("banner"),
        opaque: root.child("opaque").and_then(|opaque| document.verbatim(opaque)),
        ..Form::default()
    };
    match auth {
        Some(auth) => read_form(auth, &mut form)?,
        None if form.error.is_none() => return Err(AuthError::UnknownDocument),
        None => {}
    }
    if form.inputs.iter().all(|input| input.kind == InputKind::Submit) {
        let said = form.error.or(form.message).unwrap_or_else(|| "nothing".to_owned());
        return Err(AuthError::Refused(text::escape(&said)));
    }
    Ok(GatewayDocument::Form(form))
}

/// Id, action and inputs of the form inside `auth`.
fn read_form(auth: &Element, form: &mut Form) -> Result<(), AuthError> {
    form.id = auth.attribute("id").unwrap_or_default().to_owned();
    let Some(element) = auth.child("form") else {
        return Ok(());
    };
    let method = element.attribute("method").unwrap_or("post");
    let action = element.attribute("action").unwrap_or("/");
    if !method.eq_ignore_ascii_case("post") || action.is_empty() {
        return Err(AuthError::NotPosted);
    }
    form.method_action = action.to_owned();
    for child in &element.children {
        let Some(input) = read_input(child)? else { continue };
        if form.inputs.len() == MAX_FIELDS {
            return Err(AuthError::TooMuch("many inputs"));
        }
        form.inputs.push(input);
    }
    Ok(())
}

/// An input, `None` for what stock clients pass over: other elements, unknown types, nameless inputs.
fn read_input(element: &Element) -> Result<Option<Input>, AuthError> {
    let kind = match (element.name.as_str(), element.attribute("type")) {
        ("select", _) => InputKind::Select {
            options: read_options(element)?,
        },
        ("input", Some("text")) => InputKind::Text,
        ("input", Some("password")) => InputKind::Password,
        ("input", Some("hidden")) => InputKind::Hidden(read_hidden(element)?),
        ("input", Some("submit")) => InputKind::Submit,
        _ => return Ok(None),
    };
    let Some(name) = element.attribute("name") else {
        return Ok(None);
    };
    if !xml::is_field_name(name) {
        return if kind == InputKind::Submit {
            Ok(None)
        } else {
            Err(AuthError::FieldName)
        };
    }
    Ok(Some(Input {
        kind,
        name: name.to_owned(),
        label: element.attribute("label").map(str::to_owned),
    }))
}

fn read_hidden(element: &Element) -> Result<Secret, AuthError> {
    let value = element.attribute("value").unwrap_or_default();
    if value.len() > MAX_FIELD_VALUE {
        return Err(AuthError::TooMuch("long a field"));
    }
    Ok(Secret::from(value))
}

/// The choices of a select, the one marked as selected first.
fn read_options(select: &Element) -> Result<Vec<Choice>, AuthError> {
    let mut options = Vec::new();
    for option in select.children.iter().filter(|child| child.name == "option") {
        if options.len() == MAX_CHOICES {
            return Err(AuthError::TooMuch("many choices"));
        }
        let label = option.words().unwrap_or_default();
        let choice = Choice {
            value: option.attribute("value").unwrap_or(&label).to_owned(),
            label,
        };
        if option.attribute("selected") == Some("true") {
            options.insert(0, choice);
        } else {
            options.push(choice);
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(body: &str) -> Form {
        match parse_gateway(body.as_bytes()) {
            Ok(GatewayDocument::Form(form)) => form,
            other => panic!("{other:?} is no form"),
        }
    }

    fn in_form(inner: &str) -> String {
        format!("<config-auth><auth id='main'><form method='POST' action='/auth'>{inner}</form></auth></config-auth>")
    }

    #[test]
    fn the_inputs_of_a_form_are_read_in_order() {
        let form = form(&in_form(
            "<input type='text' name='username' label='User &amp; co:'/><input type='password' name='password'/>\
             <input type='hidden' name='state' value='x1'/><input type='submit' name='Login' value='Login'/>\
             <input type='reset' name='Clear'/><input type='text' label='nameless'/><p/>\
             <select name='group_list' label='GROUP:'><option>all</option>\
             <option value='s' selected='true'>Staff</option></select>",
        ));
        assert_eq!((form.id.as_str(), form.method_action.as_str()), ("main", "/auth"));
        let named = |kind, name: &str, label: Option<&str>| Input {
            kind,
            name: name.into(),
            label: label.map(str::to_owned),
        };
        let options = vec![
            Choice {
                value: "s".into(),
                label: "Staff".into(),
            },
            Choice {
                value: "all".into(),
                label: "all".into(),
            },
        ];
        let expected = [
            named(InputKind::Text, "username", Some("User & co:")),
            named(InputKind::Password, "password", None),
            named(InputKind::Hidden("x1".into()), "state", None),
            named(InputKind::Submit, "Login", None),
            named(InputKind::Select { options }, "group_list", Some("GROUP:")),
        ];
        assert_eq!(form.inputs, expected);
    }

    #[test]
    fn a_form_without_method_and_action_is_posted_to_the_root() {
        let form = form("<auth id='main'><form><input type='text' name='username'/></form></auth>");
        assert_eq!(form.method_action, "/");
    }

    #[test]
    fn a_form_that_is_not_posted_is_refused() {
        for attributes in ["method='get'", "method='post' action=''"] {
            let body = format!("<auth><form {attributes}><input type='text' name='a'/></form></auth>");
            assert_eq!(
                parse_gateway(body.as_bytes()),
                Err(AuthError::NotPosted),
                "{attributes}"
            );
        }
    }

    #[test]
    fn an_empty_form_is_a_refusal_with_its_reason() {
        let refused = |inner: &str| match parse_gateway(inner.as_bytes()) {
            Err(AuthError::Refused(said)) => said,
            other => panic!("{other:?} is no refusal"),
        };
        let body =
            "<config-auth><auth id='main'><message>No\x1b cert</message><form action='/'></form></auth></config-auth>";
        assert_eq!(refused(body), "No\\u{1b} cert");
        let body = "<config-auth><error id='1'>Unknown group</error></config-auth>";
        assert_eq!(refused(body), "Unknown group");
        let body = in_form("<input type='submit' name='Login'/>");
        assert_eq!(refused(&body), "nothing");
    }

    #[test]
    fn success_is_told_by_the_id_or_the_type() {
        let complete = |body: &str| parse_gateway(body.as_bytes());
        let expected = GatewayDocument::Complete {
            session_token: Some("abc".into()),
            message: None,
            banner: Some("Hello".into()),
        };
        let body = "<config-auth client='vpn' type='complete'><session-token>abc</session-token>\
                    <auth id='success'><title>SSL VPN Service</title><banner> H<b>ell</b>o </banner></auth></config-auth>";
        assert_eq!(complete(body), Ok(expected));
        let bare = GatewayDocument::Complete {
            session_token: None,
            message: None,
            banner: None,
        };
        assert_eq!(complete("<auth id='success'/>"), Ok(bare.clone()));
        assert_eq!(complete("<config-auth type='complete'/>"), Ok(bare));
    }

    #[test]
    fn the_wish_for_a_certificate_comes_before_the_form() {
        let body = "<config-auth type='auth-request'><client-cert-request></client-cert-request>\
                    <auth id='main'><form><input type='text' name='username'/></form></auth></config-auth>";
        assert_eq!(
            parse_gateway(body.as_bytes()),
            Ok(GatewayDocument::ClientCertificateRequested)
        );
        let encoded = GatewayDocument::ClientCertificateRequested.encode();
        assert_eq!(
            parse_gateway(encoded.as_bytes()),
            Ok(GatewayDocument::ClientCertificateRequested)
        );
    }

    #[test]
    fn an_opaque_element_is_kept_as_written() {
        let body = "<config-auth><opaque is-for='sg'><a>&amp;</a></opaque>\
                    <auth id='main'><form><input type='text' name='username'/></form></auth></config-auth>";
        assert_eq!(
            form(body).opaque.as_deref(),
            Some("<opaque is-for='sg'><a>&amp;</a></opaque>")
        );
    }

    #[test]
    fn a_form_that_would_open_elements_in_the_reply_is_refused() {
        let body = in_form("<input type='text' name='a&gt;&lt;b'/>");
        assert_eq!(parse_gateway(body.as_bytes()), Err(AuthError::FieldName));
    }

    #[test]
    fn inputs_and_choices_have_limits() {
        let body = in_form(&"<input type='text' name='a'/>".repeat(MAX_FIELDS + 1));
        assert_eq!(parse_gateway(body.as_bytes()), Err(AuthError::TooMuch("many inputs")));
        let options = "<option>a</option>".repeat(MAX_CHOICES + 1);
        let body = in_form(&format!("<select name='group_list'>{options}</select>"));
        assert_eq!(parse_gateway(body.as_bytes()), Err(AuthError::TooMuch("many choices")));
        let long = "x".repeat(MAX_FIELD_VALUE + 1);
        let body = in_form(&format!("<input type='hidden' name='a' value='{long}'/>"));
        assert_eq!(parse_gateway(body.as_bytes()), Err(AuthError::TooMuch("long a field")));
    }

    #[test]
    fn other_documents_are_not_ours() {
        for body in ["<html><body>It works!</body></html>", "<config-auth/>"] {
            assert_eq!(
                parse_gateway(body.as_bytes()),
                Err(AuthError::UnknownDocument),
                "{body}"
            );
        }
    }
}
