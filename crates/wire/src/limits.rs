//! Every limit of the wire on one page. A peer that exceeds one gets an error, never more memory.

/// Longest HTTP head of a request, and of a reply before CONNECT, in bytes. Stock heads are below 2 KiB.
pub const MAX_HEAD: usize = 16 * 1024;

/// Longest head of a CONNECT reply, in bytes: [`MAX_ROUTES`] route lines of at most 60 bytes fit.
pub const MAX_CONNECT_HEAD: usize = 128 * 1024;

/// Most header lines of a request. Stock requests have about 20.
pub const MAX_HEADERS: usize = 128;

/// Most header lines of a reply: a CONNECT reply has one per route, so this is [`MAX_ROUTES`] and the rest.
pub const MAX_REPLY_HEADERS: usize = MAX_ROUTES + MAX_HEADERS;

/// Longest HTTP body, in bytes. Stock documents are below 8 KiB; a long list of groups is the largest.
pub const MAX_BODY: usize = 64 * 1024;

/// Longest chunk-size line of a chunked body, in bytes, extensions included.
pub const MAX_CHUNK_LINE: usize = 256;

/// Longest payload of a CSTP frame, in bytes: with the 8-byte header it fills one TLS record of 2^14 (RFC 8446, 5.1).
/// A frame is exactly one record for both stock peers (measured), so nothing longer can arrive.
pub const CSTP_MAX_PAYLOAD: usize = 16 * 1024 - crate::cstp::HEADER_LEN;

/// Longest text kept of a disconnect frame, in bytes.
pub const MAX_GOODBYE: usize = 1024;

/// Deepest nesting of an authentication document. Stock documents reach 6.
pub const MAX_XML_DEPTH: usize = 16;

/// Most elements in an authentication document; the options of a select are the bulk.
pub const MAX_XML_ELEMENTS: usize = 2_000;

/// Most attributes of one element.
pub const MAX_XML_ATTRIBUTES: usize = 32;

/// Longest text of one element and longest value of one attribute, in bytes.
pub const MAX_XML_TEXT: usize = 16 * 1024;

/// Most fields of a form, of a reply to it, and of a legacy reply.
pub const MAX_FIELDS: usize = 64;

/// Longest name of a field, in bytes.
pub const MAX_FIELD_NAME: usize = 64;

/// Longest value of a field, in bytes: passwords, one-time codes and hidden state are far below.
pub const MAX_FIELD_VALUE: usize = 4 * 1024;

/// Most choices of one select. Each is a group of the gateway.
pub const MAX_CHOICES: usize = 512;

/// Most routes taken from a grant, included and excluded together. More than a tunnel may use (1,000), so that the
/// plan can refuse them with a reason instead of the parser.
pub const MAX_ROUTES: usize = 2_000;

/// Most name servers, NBNS servers, default domains or split-DNS domains taken from a grant, each.
pub const MAX_NAMES: usize = 256;

/// Longest value of one grant header that is kept as text (banner, host name), in bytes.
pub const MAX_GRANT_TEXT: usize = 4 * 1024;

/// Longest DTLS application id, in bytes: it becomes a session id, which has at most 32 (RFC 5246, 7.4.1.2).
pub const MAX_APP_ID: usize = 32;

/// Longest id of a Marmot session, in characters.
pub const MAX_SESSION_ID: usize = 64;

/// Longest body of a logout, in bytes: session id, epoch (20 digits), token (32 digits) and two separators are 118.
pub const MAX_LOGOUT: usize = 200;

/// Longest time that a grant of parking is taken for. A login lives a day or a week; a month is longer than any.
pub const MAX_PARK: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

/// Longest ticket, in characters: about 300 bytes are sealed, and a cookie takes 4,096 (RFC 6265 section 6.1).
pub const MAX_TICKET: usize = 1024;

/// Longest peer text that [`crate::text::escape`] lets through, in characters.
pub const MAX_ESCAPED: usize = 256;
