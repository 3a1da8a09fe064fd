//! What a certificate says: the user name of a client's, the dates of our own.

use std::time::Duration;

use config::gateway::UserFrom;
use now::Wall;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::parse_x509_certificate;

/// The user id of RFC 4519 section 2.39.
const UID: Oid<'static> = oid!(0.9.2342.19200300.100.1.1);

/// The longest user name taken from a certificate, in bytes: the upper bound of a common name is 64 characters (RFC 5280,
/// appendix A.1), and an e-mail address is seldom longer.
const MAX_USER: usize = 256;

/// Why a certificate names no user. It has been verified, so the authority made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NameFault {
    /// Not X.509.
    #[error("the certificate cannot be parsed")]
    Unreadable,
    /// The wanted part is not there.
    #[error("the certificate has no {0}")]
    Missing(&'static str),
    /// The wanted part is there more than once, so it does not say who this is.
    #[error("the certificate has more than one {0}")]
    Ambiguous(&'static str),
    /// The name is empty, too long, or holds control characters.
    #[error("the {0} of the certificate cannot be a user name")]
    Unusable(&'static str),
}

/// The user that a verified client certificate belongs to.
///
/// # Errors
/// See [`NameFault`].
pub(crate) fn user_name(certificate: &CertificateDer<'_>, from: UserFrom) -> Result<String, NameFault> {
    let (_, certificate) = parse_x509_certificate(certificate).map_err(|_| NameFault::Unreadable)?;
    match from {
        UserFrom::Uid => subject_part(&certificate, &UID, "UID"),
        UserFrom::CommonName => subject_part(&certificate, &OID_X509_COMMON_NAME, "common name"),
        UserFrom::EmailSan => email(&certificate),
    }
}

/// The last instant at which a certificate is valid. `None` if it does not parse or lies before 1970.
pub(crate) fn valid_until(certificate: &CertificateDer<'_>) -> Option<Wall> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(Wall::from_origin(Duration::from_secs(seconds)))
}

fn subject_part(certificate: &X509Certificate<'_>, oid: &Oid<'_>, what: &'static str) -> Result<String, NameFault> {
    let mut parts = certificate
        .subject()
        .iter_attributes()
        .filter(|part| part.attr_type() == oid);
    let part = parts.next().ok_or(NameFault::Missing(what))?;
    if parts.next().is_some() {
        return Err(NameFault::Ambiguous(what));
    }
    checked(part.as_str().map_err(|_| NameFault::Unusable(what))?, what)
}

/// The first e-mail address, as the configuration promises.
fn email(certificate: &X509Certificate<'_>) -> Result<String, NameFault> {
    const WHAT: &str = "e-mail address";
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| NameFault::Unreadable)?;
    let names = names
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let email = names.iter().find_map(|name| match name {
        GeneralName::RFC822Name(email) => Some(*email),
        _ => None,
    });
    checked(email.ok_or(NameFault::Missing(WHAT))?, WHAT)
}

fn checked(name: &str, what: &'static str) -> Result<String, NameFault> {
    if name.is_empty() || name.len() > MAX_USER || name.chars().any(char::is_control) {
        return Err(NameFault::Unusable(what));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    const UID_ARCS: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];

    fn certificate(subject: &[(DnType, &str)], emails: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = emails
            .iter()
            .map(|email| SanType::Rfc822Name((*email).try_into().expect("ascii")))
            .collect();
        let key = KeyPair::generate().expect("key");
        params.self_signed(&key).expect("certificate").der().clone()
    }

    fn uid() -> DnType {
        DnType::CustomDnType(UID_ARCS.to_vec())
    }

    #[test]
    fn each_part_of_the_certificate_can_be_the_user() {
        let certificate = certificate(
            &[(DnType::CommonName, "Alice A"), (uid(), "alice")],
            &["alice@example.com", "b@example.com"],
        );
        assert_eq!(user_name(&certificate, UserFrom::Uid).as_deref(), Ok("alice"));
        assert_eq!(user_name(&certificate, UserFrom::CommonName).as_deref(), Ok("Alice A"));
        assert_eq!(
            user_name(&certificate, UserFrom::EmailSan).as_deref(),
            Ok("alice@example.com")
        );
    }

    #[test]
    fn a_part_that_is_not_there_is_named() {
        let certificate = certificate(&[(DnType::OrganizationName, "x")], &[]);
        assert_eq!(user_name(&certificate, UserFrom::Uid), Err(NameFault::Missing("UID")));
        assert_eq!(
            user_name(&certificate, UserFrom::CommonName),
            Err(NameFault::Missing("common name"))
        );
        assert_eq!(
            user_name(&certificate, UserFrom::EmailSan),
            Err(NameFault::Missing("e-mail address"))
        );
    }

    #[test]
    fn an_empty_name_or_one_with_controls_is_no_user() {
        for bad in ["", "al\nice", "\u{1b}[2J"] {
            let certificate = certificate(&[(uid(), bad)], &[]);
            assert_eq!(
                user_name(&certificate, UserFrom::Uid),
                Err(NameFault::Unusable("UID")),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn what_is_no_certificate_names_nobody_and_has_no_dates() {
        let junk = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert_eq!(user_name(&junk, UserFrom::Uid), Err(NameFault::Unreadable));
        assert_eq!(valid_until(&junk), None);
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let certificate = certificate(&[(uid(), "alice")], &[]);
        let year_2100 = Wall::from_origin(Duration::from_secs(4_102_444_800));
        assert!(valid_until(&certificate).expect("date") > year_2100);
    }
}
