//! A public-key pin: SHA-256 over the SubjectPublicKeyInfo of a certificate (RFC 7469 section 2.4).

/// SHA-256 of a certificate's SubjectPublicKeyInfo in DER, written `sha256:` and then hex or base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);
