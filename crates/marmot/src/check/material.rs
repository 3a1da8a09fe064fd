//! Certificates, keys and passwords that a configuration names.

use std::path::Path;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::report::Report;
use crate::load;

const DAY_S: i64 = 86_400;

/// A certificate that ends sooner gets a warning: two weeks are the time to renew it in peace.
const SOON_DAYS: i64 = 14;

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
    Authority,
}

/// Looks at a file of certificates. The chain comes back if it can be parsed at all.
pub(crate) fn certificates(
    report: &mut Report,
    key: &str,
    path: &Path,
    purpose: Purpose,
) -> Option<Vec<CertificateDer<'static>>> {
    let place = format!("{key} {}", path.display());
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = match chain {
        Ok(chain) if chain.is_empty() => {
            report.wrong(format!("{place}: there is no certificate in it (PEM)"));
            return None;
        }
        Ok(chain) => chain,
        Err(error) => {
            report.wrong(format!("{place}: {}", pem_fault(error)));
            return None;
        }
    };
    // Of an authority file every certificate counts; of a chain the first is the one that is shown.
    let looked_at = if purpose == Purpose::Authority {
        &chain[..]
    } else {
        &chain[..1]
    };
    for der in looked_at {
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => certificate_is(report, &place, &certificate, purpose),
            Err(error) => {
                report.wrong(format!("{place}: the certificate cannot be parsed: {error}"));
                return None;
            }
        }
    }
    Some(chain)
}

/// Looks at a private key, and whether it belongs to the first certificate of `chain`.
pub(crate) fn key(report: &mut Report, key: &str, path: &Path, chain: Option<Vec<CertificateDer<'static>>>) {
    let place = format!("{key} {}", path.display());
    let private_key = match PrivateKeyDer::from_pem_file(path) {
        Ok(private_key) => private_key,
        Err(pem::Error::NoItemsFound) => return report.wrong(format!("{place}: there is no private key in it (PEM)")),
        Err(error) => return report.wrong(format!("{place}: {}", pem_fault(error))),
    };
    if !report.private(key, path) {
        return;
    }
    let private_key = match any_supported_type(&private_key) {
        Ok(private_key) => private_key,
        Err(error) => return report.wrong(format!("{place}: the key cannot be used: {error}")),
    };
    let Some(chain) = chain else { return };
    match CertifiedKey::new(chain, private_key).keys_match() {
        Ok(()) => report.good(format!("{place}: belongs to the certificate")),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            report.wrong(format!(
                "{place}: does not belong to the certificate; name the files of one pair"
            ));
        }
        Err(_) => report.good(format!("{place}: readable")),
    }
}

/// Looks at a file with a password.
pub(crate) fn password(report: &mut Report, key: &str, path: &Path) {
    let place = format!("{key} {}", path.display());
    let content = match load::bytes(path) {
        Ok(content) => zeroize::Zeroizing::new(content),
        Err(error) => return report.wrong(format!("{place}: cannot be read: {error}")),
    };
    if content.trim_ascii().is_empty() {
        report.wrong(format!("{place}: is empty"));
    } else if report.private(key, path) {
        report.good(format!("{place}: readable by its owner only"));
    }
}

fn certificate_is(report: &mut Report, place: &str, certificate: &X509Certificate<'_>, purpose: Purpose) {
    let now = i64::try_from(platform::clock::now().wall.since_origin().as_secs()).unwrap_or(i64::MAX);
    let (from, to) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    if let Some(fault) = usage_fault(certificate, purpose) {
        report.wrong(format!("{place}: {fault}"));
    }
    if now < from {
        report.wrong(format!(
            "{place}: the certificate is not valid yet, but in {}",
            days(from - now)
        ));
    } else if now > to {
        report.wrong(format!("{place}: the certificate expired {} ago", days(now - to)));
    } else if to - now < SOON_DAYS * DAY_S {
        report.doubtful(format!("{place}: the certificate expires in {}", days(to - now)));
    } else {
        report.good(format!(
            "{place}: {}, expires in {}",
            names(certificate, purpose),
            days(to - now)
        ));
    }
}

fn usage_fault(certificate: &X509Certificate<'_>, purpose: Purpose) -> Option<&'static str> {
    let usage = certificate.extended_key_usage().ok().flatten().map(|usage| usage.value);
    match purpose {
        Purpose::Authority if !certificate.is_ca() => Some("the certificate is not that of an authority"),
        Purpose::Server if alternative_names(certificate).is_empty() => {
            Some("the certificate has no subject alternative name; clients accept no other name")
        }
        Purpose::Server if usage.is_some_and(|usage| !usage.server_auth && !usage.any) => {
            Some("the certificate is not for servers (extended key usage)")
        }
        Purpose::Client if usage.is_some_and(|usage| !usage.client_auth && !usage.any) => {
            Some("the certificate is not for clients (extended key usage)")
        }
        Purpose::Authority | Purpose::Server | Purpose::Client => None,
    }
}

fn names(certificate: &X509Certificate<'_>, purpose: Purpose) -> String {
    let names = match purpose {
        Purpose::Server => alternative_names(certificate).join(", "),
        Purpose::Client | Purpose::Authority => certificate.subject().to_string(),
    };
    names.escape_debug().to_string()
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_string()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    names.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    let six = <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
    four.or(six).ok()
}

fn pem_fault(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        // What the parser says would repeat bytes of the file.
        _ => "is damaged, or no PEM file".to_owned(),
    }
}

/// Rounded to the nearest day, so that what was made for 730 days does not lose one of them within a second.
fn days(seconds: i64) -> String {
    if seconds < DAY_S {
        return "less than a day".to_string();
    }
    match (seconds + DAY_S / 2) / DAY_S {
        1 => "1 day".to_string(),
        days => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_rounded_to_the_nearest() {
        let told = [0, DAY_S - 1, DAY_S, 2 * DAY_S - 1, 730 * DAY_S - 30, 730 * DAY_S].map(days);
        assert_eq!(
            told,
            [
                "less than a day",
                "less than a day",
                "1 day",
                "2 days",
                "730 days",
                "730 days"
            ]
        );
    }
}
