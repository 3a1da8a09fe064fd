//! The check of the gateway's certificate: certificate authorities, pins, or both.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use config::Pin;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The gateway's key is none of the pinned ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinMismatch;

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key is none of the pinned ones")
    }
}

impl std::error::Error for PinMismatch {}

/// The pin of the certificate that a gateway showed last, for messages.
pub(crate) type Presented = Arc<Mutex<Option<Pin>>>;

/// Checks a gateway's certificate.
///
/// With authorities: path, name, purpose and expiry by them. With pins: the key must be one of them; without authorities
/// a pin replaces path and name, because whoever holds the pinned key is the gateway. Expiry is checked in any case.
#[derive(Debug)]
pub(crate) struct GatewayVerifier {
    authorities: Option<Arc<dyn ServerCertVerifier>>,
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
    presented: Presented,
}

impl GatewayVerifier {
    pub(crate) fn new(
        authorities: Option<Arc<dyn ServerCertVerifier>>,
        pins: Vec<Pin>,
        algorithms: WebPkiSupportedAlgorithms,
        presented: Presented,
    ) -> Self {
        debug_assert!(authorities.is_some() || !pins.is_empty(), "nothing would be checked");
        Self {
            authorities,
            pins,
            algorithms,
            presented,
        }
    }
}

/// The pin of a certificate: SHA-256 of its SubjectPublicKeyInfo.
pub(crate) fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let hash = digest(&SHA256, &parsed.subject_public_key_info());
    let bytes = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok(Pin(bytes))
}

/// Expiry alone, for pins without authorities.
fn check_expiry(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let time = |at: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.try_into().unwrap_or(0)));
    let validity = parsed.validity();
    let (not_before, not_after) = (
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    );
    if now < not_before {
        Err(CertificateError::NotValidYetContext { time: now, not_before })
    } else if now > not_after {
        Err(CertificateError::ExpiredContext { time: now, not_after })
    } else {
        Ok(())
    }
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = pin_of(end_entity)?;
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
        if !self.pins.is_empty() && !self.pins.contains(&pin) {
            return Err(CertificateError::Other(OtherError(Arc::new(PinMismatch))).into());
        }
        match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => {
                check_expiry(end_entity, now)?;
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
