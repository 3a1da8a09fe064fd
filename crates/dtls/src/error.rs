//! Why a handshake ended without a connection, and whose fault it was.

use thiserror::Error;

/// The handshake is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    PeerMisbehaved(#[from] Misbehaviour),
    /// The peer does not offer what we need.
    #[error("the peer is incompatible: {0}")]
    PeerIncompatible(#[from] Incompatibility),
    /// The peer gave up with this authenticated alert (RFC 5246 section 7.2).
    #[error("the peer gave up with alert {0}")]
    PeerGaveUp(u8),
    /// The peer ended the connection before it began, authenticated.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// No handshake within [`crate::HANDSHAKE_LIMIT`] of waking time.
    #[error("no dtls handshake within 30 s; is udp blocked, or is the key another one?")]
    TimedOut,
    /// Our own configuration cannot be used.
    #[error("cannot begin a dtls handshake: {0}")]
    Unusable(#[from] Unusable),
}

/// How the peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misbehaviour {
    /// A message cannot be read.
    #[error("a message cannot be read")]
    MalformedMessage,
    /// A message that is not due.
    #[error("a message that is not due")]
    UnexpectedMessage,
    /// An extension twice.
    #[error("an extension twice")]
    RepeatedExtension,
    /// An extension with contents that make no sense.
    #[error("an extension that makes no sense")]
    MalformedExtension,
    /// The server answered an extension that was not offered.
    #[error("an extension that was not offered")]
    ExtensionNotOffered,
    /// The server chose a suite or compression that was not offered.
    #[error("a choice that was not offered")]
    ChoiceNotOffered,
    /// The client does not offer to leave data uncompressed.
    #[error("no null compression")]
    NoNullCompression,
    /// Renegotiation in a first handshake (RFC 5746 sections 3.4 and 3.6).
    #[error("renegotiation in a first handshake")]
    Renegotiation,
    /// Sequence numbers in the first message that leave no room for the handshake.
    #[error("sequence numbers without room for a handshake")]
    SequenceTooHigh,
    /// The server asked for a cookie again and again.
    #[error("asked for a cookie too often")]
    EndlessVerification,
    /// Finished does not fit what was said before: somebody changed a message on the way.
    #[error("finished does not fit the handshake")]
    FinishedMismatch,
}

/// What the peer does not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Incompatibility {
    /// DTLS 1.2.
    #[error("it does not speak dtls 1.2")]
    Version,
    /// A suite of ours.
    #[error("no suite in common")]
    NoCommonSuite,
    /// A connection id of 4 to 8 bytes.
    #[error("its connection id has not 4 to 8 bytes")]
    ConnectionIdLength,
}

/// What is wrong with our own configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// A session id has at most 32 bytes.
    #[error("the session id is longer than 32 bytes")]
    SessionIdLength,
    /// An identity has at most [`crate::MAX_IDENTITY`] bytes.
    #[error("the identity is longer than 128 bytes")]
    IdentityLength,
    /// At least one suite is needed, and none twice.
    #[error("no suites, or one twice")]
    Suites,
}

impl Error {
    /// The alert that tells the peer (RFC 5246 section 7.2), if it is to be told.
    pub(crate) fn alert(self) -> Option<u8> {
        const UNEXPECTED_MESSAGE: u8 = 10;
        const HANDSHAKE_FAILURE: u8 = 40;
        const ILLEGAL_PARAMETER: u8 = 47;
        const DECODE_ERROR: u8 = 50;
        const DECRYPT_ERROR: u8 = 51;
        const PROTOCOL_VERSION: u8 = 70;
        const UNSUPPORTED_EXTENSION: u8 = 110;
        match self {
            Self::PeerMisbehaved(how) => Some(match how {
                Misbehaviour::UnexpectedMessage | Misbehaviour::EndlessVerification => UNEXPECTED_MESSAGE,
                Misbehaviour::MalformedMessage | Misbehaviour::MalformedExtension => DECODE_ERROR,
                Misbehaviour::RepeatedExtension
                | Misbehaviour::ChoiceNotOffered
                | Misbehaviour::NoNullCompression
                | Misbehaviour::SequenceTooHigh => ILLEGAL_PARAMETER,
                Misbehaviour::ExtensionNotOffered => UNSUPPORTED_EXTENSION,
                Misbehaviour::Renegotiation => HANDSHAKE_FAILURE,
                Misbehaviour::FinishedMismatch => DECRYPT_ERROR,
            }),
            Self::PeerIncompatible(what) => Some(match what {
                Incompatibility::Version => PROTOCOL_VERSION,
                Incompatibility::NoCommonSuite | Incompatibility::ConnectionIdLength => HANDSHAKE_FAILURE,
            }),
            Self::PeerGaveUp(_) | Self::Closed | Self::TimedOut | Self::Unusable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_at_fault_is_told_and_a_silent_one_is_not() {
        assert_eq!(Error::from(Misbehaviour::FinishedMismatch).alert(), Some(51));
        assert_eq!(Error::from(Incompatibility::NoCommonSuite).alert(), Some(40));
        assert_eq!(Error::TimedOut.alert(), None);
        assert_eq!(Error::PeerGaveUp(40).alert(), None);
    }
}
