//! A small certificate authority: what `marmot init` and the demo need, P-256 throughout.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use config::Host;
use now::Wall;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(86_400);

/// How long an authority is valid.
const AUTHORITY_DAYS: u32 = 3650;

/// How long a certificate is valid: Apple's systems refuse servers with more than 825 days.
const CERTIFICATE_DAYS: u32 = 730;

/// Certificates are valid from a bit earlier, for hosts whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The longest common name (RFC 5280 appendix A.1).
const MAX_COMMON_NAME: usize = 64;

/// UID (RFC 4519 section 2.39), the user name in a client certificate.
const UID: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];

/// A certificate and its private key, both PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<String>,
}

/// An authority that can issue certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    now: Wall,
}

impl Authority {
    /// Makes a new authority.
    pub(crate) fn create(name: &str, now: Wall) -> anyhow::Result<(Self, Pair)> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = params(name, AUTHORITY_DAYS, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .context("cannot sign the certificate of the authority")?;
        let pair = Pair {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
        };
        Ok((
            Authority {
                issuer: Issuer::new(params, key),
                now,
            },
            pair,
        ))
    }

    /// Reads an authority that [`Authority::create`] made.
    pub(crate) fn read(certificate: &str, key: &str, now: Wall) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key).context("cannot read the key of the authority")?;
        let issuer =
            Issuer::from_ca_cert_pem(certificate, key).context("cannot read the certificate of the authority")?;
        Ok(Authority { issuer, now })
    }

    /// Issues the certificate of a server that is called by these names.
    pub(crate) fn server(&self, names: &[Host]) -> anyhow::Result<Pair> {
        let common_name = names.first().map(Host::to_string).unwrap_or_default();
        let mut params = params(&common_name, CERTIFICATE_DAYS, self.now);
        params.subject_alt_names = names.iter().map(alternative_name).collect::<anyhow::Result<_>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// Issues the certificate of a user.
    pub(crate) fn user(&self, name: &str) -> anyhow::Result<Pair> {
        let mut params = params(name, CERTIFICATE_DAYS, self.now);
        params.distinguished_name.push(DnType::CustomDnType(UID.to_vec()), name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> anyhow::Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("cannot sign the certificate")?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
        })
    }
}

fn params(common_name: &str, days: u32, now: Wall) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::CommonName,
        common_name.chars().take(MAX_COMMON_NAME).collect::<String>(),
    );
    let now = rcgen::date_time_ymd(1970, 1, 1) + now.since_origin();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + days * DAY;
    params
}

fn alternative_name(name: &Host) -> anyhow::Result<SanType> {
    Ok(match name {
        Host::Name(name) => SanType::DnsName(
            name.as_str()
                .try_into()
                .context("cannot put the name into a certificate")?,
        ),
        Host::Address(IpAddr::V4(address)) => SanType::IpAddress((*address).into()),
        Host::Address(IpAddr::V6(address)) => SanType::IpAddress((*address).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    const NOW: Wall = Wall::from_origin(Duration::from_secs(1_800_000_000));

    #[test]
    fn a_certificate_names_whom_it_is_for_and_can_be_issued_later() {
        let (_, pair) = Authority::create("Marmot test", NOW).expect("an authority");
        let authority = Authority::read(&pair.certificate, &pair.key, NOW).expect("the same authority");
        let names = ["vpn.example.com", "192.0.2.1", "2001:db8::1"].map(|name| name.parse().expect("a name"));
        let server = authority.server(&names).expect("a certificate");
        let der = CertificateDer::from_pem_slice(server.certificate.as_bytes()).expect("PEM");
        let ca = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
        let (_, server) = X509Certificate::from_der(&der).expect("X.509");
        let (_, ca) = X509Certificate::from_der(&ca).expect("X.509");
        assert_eq!(server.issuer(), ca.subject());
        assert!(ca.is_ca() && !server.is_ca());
        let names = server.subject_alternative_name().expect("readable").expect("there");
        assert_eq!(names.value.general_names.len(), 3);
        assert_eq!(server.validity().not_before.timestamp(), 1_800_000_000 - 3600);
        assert_eq!(server.validity().not_after.timestamp(), 1_800_000_000 + 730 * 86_400);
    }

    #[test]
    fn a_users_certificate_has_the_name_as_uid() {
        let (authority, _) = Authority::create("Marmot test", NOW).expect("an authority");
        let pair = authority.user("alice").expect("a certificate");
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
        let (_, certificate) = X509Certificate::from_der(&der).expect("X.509");
        let uid = certificate
            .subject()
            .iter_attributes()
            .find(|part| part.attr_type().to_id_string() == "0.9.2342.19200300.100.1.1");
        assert_eq!(uid.expect("a UID").as_str(), Ok("alice"));
        assert!(
            certificate
                .extended_key_usage()
                .expect("readable")
                .expect("there")
                .value
                .client_auth
        );
    }
}
