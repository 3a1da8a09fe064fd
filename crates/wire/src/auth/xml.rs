//! XML as authentication documents need it: a small tree with caps, read through quick-xml events, and escaping.
//!
//! No document types, no entities but the five of XML and character numbers, so nothing can grow. Two leniencies of
//! stock peers are kept: a byte order mark, and a lone `&` in a text that an administrator wrote.

use std::ops::Range;

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::error::AuthError;
use crate::limits::{MAX_BODY, MAX_FIELD_NAME, MAX_XML_ATTRIBUTES, MAX_XML_DEPTH, MAX_XML_ELEMENTS, MAX_XML_TEXT};

/// What every document of ours starts with.
pub(super) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// One element and what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    /// Its text and that of its children, in order: administrators write markup into banners.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
    /// Bytes of `text` that are not of its children; bounded.
    own_text: usize,
    /// Where it is in [`Document::source`], tags included.
    span: Range<usize>,
}

impl Element {
    /// Value of the attribute of this name.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text without spaces around it, if there is any.
    pub(super) fn words(&self) -> Option<String> {
        let words = self.text.trim();
        (!words.is_empty()).then(|| words.to_owned())
    }

    /// [`Element::words`] of the first child of this name.
    pub(super) fn child_words(&self, name: &str) -> Option<String> {
        self.child(name)?.words()
    }
}

/// A document's text and its root.
#[derive(Debug)]
pub(super) struct Document<'a> {
    source: &'a str,
    pub(super) root: Element,
}

impl<'a> Document<'a> {
    /// The tree of a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, AuthError> {
        if body.len() > MAX_BODY {
            return Err(AuthError::TooLong { limit: MAX_BODY });
        }
        let text = std::str::from_utf8(body).map_err(|_| AuthError::Encoding)?;
        // Some gateways end a document with a NUL, as their buffer did.
        let source = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
        if source.contains('\0') {
            return Err(AuthError::Xml("a NUL in it"));
        }
        Ok(Self {
            source,
            root: Builder::default().build(source)?,
        })
    }

    /// An element as it was written, tags included.
    pub(super) fn verbatim(&self, element: &Element) -> Option<String> {
        self.source.get(element.span.clone()).map(str::to_owned)
    }
}

/// The elements that are still open, and the root once it is closed.
#[derive(Default)]
struct Builder {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Builder {
    fn build(mut self, source: &str) -> Result<Element, AuthError> {
        let mut reader = Reader::from_str(source);
        reader.config_mut().allow_dangling_amp = true;
        loop {
            let start = position(&reader);
            let event = reader.read_event().map_err(what)?;
            match event {
                Event::Start(tag) => self.open(&tag, start)?,
                Event::Empty(tag) => {
                    self.open(&tag, start)?;
                    self.close(position(&reader));
                }
                Event::End(_) => self.close(position(&reader)),
                Event::Text(text) => self.text(&text.xml10_content())?,
                Event::CData(text) => self.text(&text.xml10_content())?,
                Event::GeneralRef(reference) => self.text(character(&reference)?.encode_utf8(&mut [0; 4]))?,
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::DocType(_) => return Err(AuthError::DocumentType),
                Event::Eof if !self.open.is_empty() => return Err(AuthError::Xml("an element that does not end")),
                Event::Eof => return self.root.ok_or(AuthError::Xml("no element at all")),
            }
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>, start: usize) -> Result<(), AuthError> {
        self.elements += 1;
        if self.root.is_some() {
            return Err(AuthError::Xml("more than one root"));
        }
        if self.open.len() == MAX_XML_DEPTH {
            return Err(AuthError::TooMuch("deep a nesting"));
        }
        if self.elements > MAX_XML_ELEMENTS {
            return Err(AuthError::TooMuch("many elements"));
        }
        let name = tag.name().as_ref().to_owned();
        self.open.push(Element {
            name,
            attributes: attributes(tag)?,
            span: start..start,
            ..Element::default()
        });
        Ok(())
    }

    /// Closes the innermost element; the reader has checked that there is one and that the names agree.
    fn close(&mut self, end: usize) {
        let Some(mut element) = self.open.pop() else { return };
        element.span.end = end;
        match self.open.last_mut() {
            Some(parent) => {
                parent.text.push_str(&element.text);
                parent.children.push(element);
            }
            None => self.root = Some(element),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), AuthError> {
        match self.open.last_mut() {
            Some(element) => {
                element.own_text += text.len();
                if element.own_text > MAX_XML_TEXT {
                    return Err(AuthError::TooMuch("long a text"));
                }
                element.text.push_str(text);
                Ok(())
            }
            None if text.trim().is_empty() => Ok(()),
            None => Err(AuthError::Xml("text outside of its root")),
        }
    }
}

/// Where the reader is, in bytes; documents are far shorter than any `usize`.
fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn attributes(tag: &BytesStart<'_>) -> Result<Vec<(String, String)>, AuthError> {
    let mut attributes = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_| AuthError::Xml("a bad attribute"))?;
        if attributes.len() == MAX_XML_ATTRIBUTES {
            return Err(AuthError::TooMuch("many attributes"));
        }
        if attribute.value.len() > MAX_XML_TEXT {
            return Err(AuthError::TooMuch("long an attribute"));
        }
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|_| AuthError::Entity)?;
        attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    Ok(attributes)
}

/// The character an `&name;` or `&#number;` stands for.
fn character(reference: &BytesRef<'_>) -> Result<char, AuthError> {
    let named = match reference.as_ref() {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => None,
    };
    match named {
        Some(character) => Ok(character),
        None => reference.resolve_char_ref().ok().flatten().ok_or(AuthError::Entity),
    }
}

/// What the reader did not like, in our words: its own may repeat the document.
fn what(error: quick_xml::Error) -> AuthError {
    match error {
        quick_xml::Error::Syntax(_) => AuthError::Xml("markup that does not end"),
        quick_xml::Error::IllFormed(_) => AuthError::Xml("tags that do not match"),
        quick_xml::Error::InvalidAttr(_) => AuthError::Xml("a bad attribute"),
        quick_xml::Error::Encoding(_) => AuthError::Encoding,
        quick_xml::Error::Escape(_) => AuthError::Entity,
        quick_xml::Error::Io(_) | quick_xml::Error::Namespace(_) => AuthError::Xml("something unreadable"),
    }
}

/// Appends text as the content of an element. Quotes stay, as stock peers write them.
pub(super) fn push_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\t' => out.push(c),
            '\0' => out.push('\u{fffd}'),
            _ if c.is_control() => out.push_str(&format!("&#{};", u32::from(c))),
            _ => out.push(c),
        }
    }
}

/// Appends ` name="value"`.
pub(super) fn push_attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push_str(&format!("&#{};", u32::from(c))),
            _ => push_text(out, c.encode_utf8(&mut [0; 4])),
        }
    }
    out.push('"');
}

/// Appends `<name>text</name>`, without attributes: stock `ocserv` looks for the bare tags.
pub(super) fn push_element(out: &mut String, name: &str, text: &str) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    push_text(out, text);
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// Whether a field of this name can be an element: ASCII, without the colon of name spaces.
pub(super) fn is_field_name(name: &str) -> bool {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && name.len() <= MAX_FIELD_NAME && name.bytes().all(is_name_byte)
}

/// A name that satisfies [`is_field_name`], made from one that may not.
pub(super) fn field_name(name: &str) -> String {
    if is_field_name(name) {
        return name.to_owned();
    }
    let safe = name
        .bytes()
        .take(MAX_FIELD_NAME - 1)
        .map(|byte| if is_name_byte(byte) { char::from(byte) } else { '_' });
    std::iter::once('_').chain(safe).collect()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Result<Element, AuthError> {
        Document::parse(text.as_bytes()).map(|document| document.root)
    }

    #[test]
    fn a_document_becomes_a_tree() {
        let root =
            root("<?xml version=\"1.0\"?>\n<!-- c --><a x='1' y=\"&lt;2&#10;\">t<b/>u<c>v</c></a>\n").expect("valid");
        assert_eq!((root.name.as_str(), root.text.as_str()), ("a", "tuv"));
        assert_eq!(
            (root.attribute("x"), root.attribute("y"), root.attribute("z")),
            (Some("1"), Some("<2\n"), None)
        );
        assert_eq!(root.child_words("c"), Some("v".to_owned()));
        assert_eq!(root.child("b").and_then(Element::words), None);
    }

    #[test]
    fn the_five_entities_and_numbers_are_characters() {
        let root = root("<a>&lt;&gt;&amp;&apos;&quot;&#65;&#x42;<![CDATA[&<]]></a>").expect("valid");
        assert_eq!(root.text, "<>&'\"AB&<");
    }

    #[test]
    fn any_other_entity_is_refused() {
        for text in [
            "<a>&nbsp;</a>",
            "<a x='&e;'/>",
            "<a>&#0;</a>",
            "<a>&#xd800;</a>",
            "<a>&#x110000;</a>",
        ] {
            assert_eq!(root(text), Err(AuthError::Entity), "{text}");
        }
    }

    #[test]
    fn a_lone_ampersand_stays() {
        assert_eq!(root("<a>R & D</a>").expect("valid").text, "R & D");
    }

    #[test]
    fn a_document_type_is_refused() {
        let bomb = "<!DOCTYPE a [<!ENTITY e \"eeee\"><!ENTITY f \"&e;&e;\">]><a>&f;</a>";
        assert_eq!(root(bomb), Err(AuthError::DocumentType));
    }

    #[test]
    fn a_byte_order_mark_and_a_last_nul_are_nothing() {
        assert_eq!(root("\u{feff}<?xml version=\"1.0\"?><a/>").expect("valid").name, "a");
        assert_eq!(root("<a/>\r\n\0").expect("valid").name, "a");
        assert_eq!(root("<a>\0</a>"), Err(AuthError::Xml("a NUL in it")));
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        assert_eq!(Document::parse(b"<a>\xff</a>").err(), Some(AuthError::Encoding));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for text in [
            "",
            "  ",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a",
            "<a/><b/>",
            "<a/>x",
            "<a x=1 x=2/>",
            "<a x/>",
        ] {
            assert!(
                matches!(root(text), Err(AuthError::Xml(_))),
                "{text:?} gave {:?}",
                root(text)
            );
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(root(&nested(MAX_XML_DEPTH)).is_ok());
        assert_eq!(
            root(&nested(MAX_XML_DEPTH + 1)),
            Err(AuthError::TooMuch("deep a nesting"))
        );
    }

    #[test]
    fn elements_attributes_and_texts_have_limits() {
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_XML_ELEMENTS));
        assert_eq!(root(&many), Err(AuthError::TooMuch("many elements")));
        let attributes: String = (0..=MAX_XML_ATTRIBUTES).map(|n| format!(" a{n}=''")).collect();
        assert_eq!(
            root(&format!("<a{attributes}/>")),
            Err(AuthError::TooMuch("many attributes"))
        );
        let long = "x".repeat(MAX_XML_TEXT + 1);
        assert_eq!(root(&format!("<a>{long}</a>")), Err(AuthError::TooMuch("long a text")));
        assert_eq!(
            root(&format!("<a x='{long}'/>")),
            Err(AuthError::TooMuch("long an attribute"))
        );
        let all = "x".repeat(MAX_BODY + 1);
        assert_eq!(root(&all), Err(AuthError::TooLong { limit: MAX_BODY }));
    }

    #[test]
    fn an_element_can_be_had_as_it_was_written() {
        let written = "<opaque is-for=\"sg\">\n <x>&amp;</x><!-- c --><y/></opaque>";
        let text = format!("\u{feff}<?xml version=\"1.0\"?>\n<a>é &amp; t{written} after<z/></a>");
        let document = Document::parse(text.as_bytes()).expect("valid");
        let verbatim = |name| document.verbatim(document.root.child(name).expect("there"));
        assert_eq!(verbatim("opaque").as_deref(), Some(written));
        assert_eq!(verbatim("z").as_deref(), Some("<z/>"));
    }

    #[test]
    fn what_is_written_reads_back() {
        let nasty = "a&b<c>\"d'\r\n\t\u{1}]]>é\u{85} ";
        let mut out = String::from("<a");
        push_attribute(&mut out, "x", nasty);
        out.push('>');
        push_element(&mut out, "b", nasty);
        out.push_str("</a>");
        let root = root(&out).expect("valid");
        assert_eq!(root.attribute("x"), Some(nasty));
        assert_eq!(root.child("b").map(|b| b.text.as_str()), Some(nasty));
    }

    #[test]
    fn a_field_name_can_be_an_element() {
        for good in ["username", "secondary_password", "_x", "a-b.c1"] {
            assert!(is_field_name(good), "{good}");
            assert_eq!(field_name(good), good);
        }
        let long = "x".repeat(MAX_FIELD_NAME + 1);
        for bad in ["", "1a", "a b", "a><b", "a:b", "é", "-a", &long] {
            assert!(!is_field_name(bad), "{bad}");
            assert!(is_field_name(&field_name(bad)), "{bad}");
        }
    }
}
