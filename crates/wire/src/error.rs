//! What can be wrong with a message, and whose fault it is. None of these carries a secret or unescaped peer text.

use thiserror::Error;

use crate::limits::{CSTP_MAX_PAYLOAD, MAX_ROUTES};

/// Who has to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The peer broke the protocol or a limit.
    PeerMisbehaved,
    /// The peer keeps to the protocol but needs or offers something we do not speak.
    PeerIncompatible,
    /// Our own side: something that cannot be sent, or credentials that are not good.
    Caller,
}

/// A CSTP frame that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CstpError {
    /// The first bytes of a frame are not `STF`, version 1, and a zero last byte.
    #[error("peer sent something that is not a CSTP frame; end the session and connect again")]
    NotCstp,
    /// The header announces more than one TLS record holds.
    #[error("peer announced a CSTP payload of {length} bytes, more than the {CSTP_MAX_PAYLOAD} of one TLS record")]
    FrameTooLong {
        /// Announced payload, in bytes.
        length: usize,
    },
    /// The caller wants to send more than one TLS record holds.
    #[error("cannot send a CSTP payload of {length} bytes: one TLS record holds {CSTP_MAX_PAYLOAD}")]
    PayloadTooLong {
        /// Offered payload, in bytes.
        length: usize,
    },
}

impl CstpError {
    /// Who has to change something.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotCstp | Self::FrameTooLong { .. } => Fault::PeerMisbehaved,
            Self::PayloadTooLong { .. } => Fault::Caller,
        }
    }
}

/// An HTTP message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HttpError {
    /// No end of the head within the limit.
    #[error("peer sent an HTTP head longer than {limit} bytes")]
    HeadTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Too many header lines.
    #[error("peer sent more than {limit} HTTP header lines")]
    TooManyHeaders {
        /// The limit, in lines.
        limit: usize,
    },
    /// The head is not HTTP; the text says which part.
    #[error("peer sent an HTTP head with {0}")]
    Syntax(&'static str),
    /// A request that is not HTTP/1.1.
    #[error("peer speaks an HTTP version other than 1.1")]
    Version,
    /// `Content-Length` beside `Transfer-Encoding`, or two lengths that differ: nobody can say where the body ends.
    #[error("peer sent contradicting lengths of an HTTP body")]
    Ambiguous,
    /// A `Content-Length` that is not a number.
    #[error("peer sent a Content-Length that is not a number")]
    Length,
    /// A transfer coding other than `chunked` alone.
    #[error("peer sent an HTTP body in a transfer coding other than chunked")]
    TransferCoding,
    /// A body longer than the limit, or announced to be.
    #[error("peer sent an HTTP body longer than {limit} bytes")]
    BodyTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A chunked body whose framing is broken; the text says where.
    #[error("peer sent a chunked HTTP body with {0}")]
    Chunk(&'static str),
    /// The connection ended inside the body.
    #[error("peer closed the connection inside an HTTP body")]
    Truncated,
}

impl HttpError {
    /// Who has to change something.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Version | Self::TransferCoding => Fault::PeerIncompatible,
            Self::HeadTooLong { .. }
            | Self::TooManyHeaders { .. }
            | Self::Syntax(_)
            | Self::Ambiguous
            | Self::Length
            | Self::BodyTooLong { .. }
            | Self::Chunk(_)
            | Self::Truncated => Fault::PeerMisbehaved,
        }
    }
}

/// An authentication document or legacy form that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    /// Longer than a document may be.
    #[error("peer sent an authentication document longer than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("peer sent an authentication document that is not UTF-8")]
    Encoding,
    /// Not well-formed XML; the text says what is wrong.
    #[error("peer sent an authentication document with {0}")]
    Xml(&'static str),
    /// A document type declaration, which no honest peer sends.
    #[error("peer sent an authentication document with a document type declaration")]
    DocumentType,
    /// An entity other than the five of XML and character numbers.
    #[error("peer sent an authentication document with an entity we do not expand")]
    Entity,
    /// A cap of [`crate::limits`] was reached; the text says which.
    #[error("peer sent an authentication document with too {0}")]
    TooMuch(&'static str),
    /// The root is not `config-auth`, or its type is not one we know.
    #[error("peer sent an authentication document of a kind we do not know")]
    UnknownDocument,
    /// A form that asks for nothing: how gateways say no. Holds what the gateway said about it, escaped.
    #[error("gateway sent an empty form, which ends the login; it says: {0}")]
    Refused(String),
    /// A form that is not to be posted to a path.
    #[error("gateway sent a form that is not to be posted")]
    NotPosted,
    /// A field whose name cannot be the name of an element.
    #[error("peer sent a form field with an unusable name")]
    FieldName,
    /// A field with a bad escape or character.
    #[error("peer sent a form field with a bad escape or character")]
    Field,
}

impl AuthError {
    /// Who has to change something.
    pub fn fault(&self) -> Fault {
        match self {
            Self::UnknownDocument | Self::NotPosted => Fault::PeerIncompatible,
            Self::Refused(_) => Fault::Caller,
            Self::TooLong { .. }
            | Self::Encoding
            | Self::Xml(_)
            | Self::DocumentType
            | Self::Entity
            | Self::TooMuch(_)
            | Self::FieldName
            | Self::Field => Fault::PeerMisbehaved,
        }
    }
}

/// A CONNECT request that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OfferError {
    /// Not `CONNECT /CSCOSSLC/tunnel`.
    #[error("peer asked for something other than a tunnel")]
    NotATunnel,
    /// No `webvpn` cookie.
    #[error("peer asked for a tunnel without a cookie")]
    NoCookie,
    /// A header that does not parse.
    #[error("peer asked for a tunnel with a malformed {0}")]
    Header(&'static str),
    /// The peer accepts neither IPv4 nor IPv6.
    #[error("peer asked for a tunnel without any address family")]
    NoFamily,
}

impl OfferError {
    /// Who has to change something.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotATunnel | Self::NoCookie | Self::Header(_) => Fault::PeerMisbehaved,
            Self::NoFamily => Fault::PeerIncompatible,
        }
    }
}

/// A CONNECT reply that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    /// Neither an IPv4 nor an IPv6 address.
    #[error("gateway granted no address; ask its administrator for a pool")]
    NoAddress,
    /// No `X-CSTP-MTU` and no `X-DTLS-MTU`.
    #[error("gateway granted no MTU")]
    NoMtu,
    /// A compression we did not ask for.
    #[error("gateway chose a compression in {0} that we did not offer")]
    ContentEncoding(&'static str),
    /// A header whose value does not parse.
    #[error("gateway sent a malformed {0}")]
    Header(&'static str),
    /// More routes than we keep.
    #[error("gateway granted more than {MAX_ROUTES} routes")]
    TooManyRoutes,
    /// More entries of a list than we keep.
    #[error("gateway sent too many {0}")]
    TooMany(&'static str),
}

impl GrantError {
    /// Who has to change something.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ContentEncoding(_) => Fault::PeerIncompatible,
            Self::NoAddress | Self::NoMtu | Self::Header(_) | Self::TooManyRoutes | Self::TooMany(_) => {
                Fault::PeerMisbehaved
            }
        }
    }
}
