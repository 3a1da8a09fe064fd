//! Whom we believe and who we are: the TLS configuration, and what its failures mean.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use config::client::{CertificateFiles, ClientConfig};
use config::{Host, TlsVersion};
use lifecycle::FailClass;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{
    AlertDescription, CertificateError, Error, InconsistentKeys, RootCertStore, SupportedProtocolVersion, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use wire::text::{escape, escape_within};

use crate::ClientError;
use crate::verify::{GatewayVerifier, PinMismatch, Presented};

/// Names of a certificate that a message repeats.
const SHOWN_NAMES: usize = 4;

/// Certificates of a `ca_file` or a client chain. More is a bundle put in the wrong place.
const MAX_CERTIFICATES: usize = 4096;

/// P-256 first: stock gateways on GnuTLS prefer it, and a share for another group costs a round trip (measured). Each
/// hybrid group brings the share of its classical half along.
const POST_QUANTUM: [&dyn SupportedKxGroup; 4] = [
    kx_group::SECP256R1MLKEM768,
    kx_group::SECP256R1,
    kx_group::X25519MLKEM768,
    kx_group::X25519,
];
const CLASSICAL: [&dyn SupportedKxGroup; 2] = [kx_group::SECP256R1, kx_group::X25519];

const BOTH_VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const ONLY_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// When an error of TLS came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before the gateway has proved who it is. An alert may be anybody's on the path and proves nothing, so it never
    /// counts as the gateway's refusal.
    Handshake,
    /// After the handshake: every record is the gateway's. TLS 1.3 refuses client certificates here (RFC 8446 section 4.4.2.4).
    Conversation,
}

/// How TLS connections to the gateway are made.
#[derive(Clone)]
pub(crate) struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// The gateway as messages call it.
    host: String,
    presented: Presented,
    has_certificate: bool,
}

impl Trust {
    /// Reads the files that the configuration names.
    pub(crate) fn load(config: &ClientConfig) -> Result<Self, ClientError> {
        let mut provider = default_provider();
        provider.kx_groups = if config.tls.post_quantum {
            POST_QUANTUM.to_vec()
        } else {
            CLASSICAL.to_vec()
        };
        let provider = Arc::new(provider);
        let versions = match config.tls.min_version {
            TlsVersion::V1_2 => BOTH_VERSIONS,
            TlsVersion::V1_3 => ONLY_1_3,
        };

        let presented = Presented::default();
        let verifier = GatewayVerifier::new(
            authorities(config, &provider)?,
            config.trust.pins.clone(),
            provider.signature_verification_algorithms,
            Arc::clone(&presented),
        );
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| ClientError::Local(format!("cannot set tls up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let tls = match &config.login.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = client_certificate(files)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| key_problem(files, &error))?
            }
        };

        let host = config.trust.server_name.as_ref().unwrap_or(&config.gateway.url.host);
        Ok(Self {
            connector: TlsConnector::from(Arc::new(tls)),
            name: server_name(host)?,
            host: config.gateway.url.authority(),
            presented,
            has_certificate: config.login.certificate.is_some(),
        })
    }

    /// What makes TLS connections.
    pub(crate) fn connector(&self) -> &TlsConnector {
        &self.connector
    }

    /// The name the certificate must carry.
    pub(crate) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// What an error of TLS means, by when it came.
    pub(crate) fn explain(&self, error: &Error, when: When) -> ClientError {
        let host = self.host.clone();
        let tls = |problem: String, class| ClientError::Tls {
            host: self.host.clone(),
            problem,
            class,
        };
        match error {
            Error::InvalidCertificate(fault) => ClientError::Untrusted {
                host,
                problem: self.certificate_problem(fault),
            },
            Error::AlertReceived(alert) if concerns_client_certificate(*alert) => {
                let problem = self.client_certificate_problem(*alert);
                match when {
                    When::Handshake => tls(problem, FailClass::Fatal),
                    When::Conversation => ClientError::LoginRefused(problem),
                }
            }
            Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
            | Error::PeerIncompatible(_) => tls(
                format!("{error}; the gateway speaks no version or cipher that we do, see [tls]"),
                FailClass::Fatal,
            ),
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => tls(
                "what answers there does not speak tls; check the port in gateway.url".to_owned(),
                FailClass::Fatal,
            ),
            other => tls(other.to_string(), FailClass::Network),
        }
    }

    fn certificate_problem(&self, fault: &CertificateError) -> String {
        match fault {
            CertificateError::ExpiredContext { time, not_after } => format!(
                "its certificate expired {} ago; renew it at the gateway, or set the clock of this host",
                in_words(*not_after, *time)
            ),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "its certificate is not valid for another {}; set the clock of this host",
                in_words(*time, *not_before)
            ),
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names: Vec<_> = presented.iter().take(SHOWN_NAMES).map(|name| bare_name(name)).collect();
                let names = if names.is_empty() {
                    "no name at all".to_owned()
                } else {
                    names.join(", ")
                };
                format!(
                    "its certificate is for {names}, not for {}; correct gateway.url, or set trust.server_name",
                    expected.to_str()
                )
            }
            CertificateError::UnknownIssuer => format!(
                "its certificate comes from nobody this host trusts; set trust.ca_file, or {}",
                self.pin_hint()
            ),
            CertificateError::Other(other) if other.0.is::<PinMismatch>() => format!(
                "its key is none of trust.pins; if the gateway got a new key, {}; if it did not, somebody is in between",
                self.pin_hint()
            ),
            other => {
                let words = escape(&other.to_string());
                format!(
                    "its certificate cannot be used ({words}); set trust.ca_file, or {}",
                    self.pin_hint()
                )
            }
        }
    }

    fn pin_hint(&self) -> String {
        let seen = *self.presented.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = seen.map_or_else(|| "the pin of its key".to_owned(), |pin| format!("\"{pin}\""));
        format!("trust.pins = [{pin}] after comparing it with the gateway's own")
    }

    fn client_certificate_problem(&self, alert: AlertDescription) -> String {
        if self.has_certificate {
            let words = Error::AlertReceived(alert);
            format!("the gateway refused the client certificate ({words}); check login.certificate_file")
        } else {
            "the gateway wants a client certificate; set login.certificate_file and login.key_file".to_owned()
        }
    }
}

fn concerns_client_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// The check by authorities: the configured file, else the system's store unless pins replace it.
fn authorities(
    config: &ClientConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ServerCertVerifier>>, ClientError> {
    let Some(path) = &config.trust.ca_file else {
        if !config.trust.pins.is_empty() {
            return Ok(None);
        }
        let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider)).map_err(|error| {
            ClientError::Local(format!(
                "cannot use the certificate authorities of this system ({error}); install them (package \
                 ca-certificates), or set trust.ca_file or trust.pins"
            ))
        })?;
        return Ok(Some(Arc::new(verifier)));
    };
    const WHAT: &str = "trust.ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(WHAT, path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(WHAT, path, error.to_string()))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(WHAT, path, error.to_string()))?;
    Ok(Some(verifier))
}

fn client_certificate(
    files: &CertificateFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ClientError> {
    let chain = read_certificates("login.certificate_file", &files.certificate_file)?;
    const KEY: &str = "login.key_file";
    let path = &files.key_file;
    let pem = zeroize::Zeroizing::new(read(KEY, path)?);
    platform::files::check_private(path)?;
    // The parser's own words may repeat a line of the file.
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        unusable(
            KEY,
            path,
            "it holds no PEM private key (PKCS#8, PKCS#1 or SEC1, unencrypted)".into(),
        )
    })?;
    Ok((chain, key))
}

fn key_problem(files: &CertificateFiles, error: &Error) -> ClientError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => unusable(
            "login.key_file",
            &files.key_file,
            format!("it is not the key of {}", files.certificate_file.display()),
        ),
        other => unusable("login.key_file", &files.key_file, other.to_string()),
    }
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let pem = read(what, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).take(MAX_CERTIFICATES).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(unusable(
            what,
            path,
            "it holds no PEM certificate (-----BEGIN CERTIFICATE-----)".into(),
        )),
        Err(_) => Err(unusable(what, path, "it is not a PEM file".into())),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|source| ClientError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })
}

fn unusable(what: &'static str, path: &Path, problem: String) -> ClientError {
    ClientError::Unusable {
        what,
        path: path.to_owned(),
        problem,
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, ClientError> {
    match host {
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| ClientError::Local(format!("cannot use the host name {name}: it is no DNS name"))),
    }
}

/// A name as webpki shows it, `DnsName("vpn.example.com")`, without the wrapping.
fn bare_name(presented: &str) -> String {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    escape_within(inner.unwrap_or(presented).trim_matches('"'), 80)
}

/// The time between two instants: whole days, hours or minutes.
fn in_words(from: UnixTime, to: UnixTime) -> String {
    let seconds = Duration::from_secs(to.as_secs().saturating_sub(from.as_secs())).as_secs();
    let (count, unit) = match seconds {
        0..3_600 => (seconds / 60 + 1, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config, handshake};

    fn refusal(pki: &Pki, config: &ClientConfig) -> String {
        let trust = Trust::load(config).expect("usable");
        let error = handshake(trust.connector().config(), trust.name(), pki.server_config()).expect_err("refused");
        let error = trust.explain(&error, When::Handshake);
        assert_eq!(error.class(), FailClass::Fatal);
        error.to_string()
    }

    fn accepted(pki: &Pki, config: &ClientConfig) -> rustls::ClientConnection {
        let trust = Trust::load(config).expect("usable");
        match handshake(trust.connector().config(), trust.name(), pki.server_config()) {
            Ok(connection) => connection,
            Err(error) => panic!("{}", trust.explain(&error, When::Handshake)),
        }
    }

    #[test]
    fn a_gateway_of_the_configured_authority_is_believed() {
        let pki = Pki::new("vpn.test");
        accepted(&pki, &client_config(&pki, ""));
    }

    #[test]
    fn the_wrong_name_is_named_with_the_right_one() {
        let pki = Pki::new("other.test");
        let text = refusal(&pki, &client_config(&pki, ""));
        assert!(
            text.contains("is for other.test, not for vpn.test; correct gateway.url"),
            "{text}"
        );
        accepted(&pki, &client_config(&pki, "[trust]\nserver_name = \"other.test\""));
    }

    #[test]
    fn an_expired_certificate_says_since_when_also_with_a_pin_alone() {
        let pki = Pki::expired("vpn.test");
        let text = refusal(&pki, &client_config(&pki, ""));
        assert!(text.contains("expired 10 days ago; renew it"), "{text}");
        let text = refusal(
            &pki,
            &client_config(&pki, &format!("[trust]\nca_file = \"\"\npins = [\"{}\"]", pki.pin())),
        );
        assert!(text.contains("expired 10 days ago"), "{text}");
    }

    #[test]
    fn an_unknown_issuer_comes_with_the_pin_to_compare() {
        let (pki, stranger) = (Pki::new("vpn.test"), Pki::new("vpn.test"));
        let text = refusal(&stranger, &client_config(&pki, ""));
        assert!(text.contains("nobody this host trusts"), "{text}");
        assert!(text.contains(&stranger.pin().to_string()), "{text}");
    }

    #[test]
    fn a_self_signed_gateway_is_refused_and_believed_by_its_pin() {
        let pki = Pki::self_signed("vpn.test");
        let other = Pki::new("vpn.test");
        let text = refusal(&pki, &client_config(&other, ""));
        assert!(text.contains(&pki.pin().to_string()), "{text}");
        let pins = format!("[trust]\nca_file = \"\"\npins = [\"{}\"]", pki.pin());
        accepted(&pki, &client_config(&other, &pins));
    }

    #[test]
    fn a_pin_mismatch_is_refused_with_and_without_an_authority() {
        let (pki, other) = (Pki::new("vpn.test"), Pki::new("vpn.test"));
        for ca_file in ["", "ca_file = \"\"\n"] {
            let text = refusal(
                &pki,
                &client_config(&pki, &format!("[trust]\n{ca_file}pins = [\"{}\"]", other.pin())),
            );
            assert!(text.contains("none of trust.pins"), "{text}");
            assert!(text.contains(&pki.pin().to_string()), "{text}");
        }
    }

    #[test]
    fn a_pin_with_an_authority_does_not_excuse_the_wrong_name() {
        let pki = Pki::new("other.test");
        let text = refusal(
            &pki,
            &client_config(&pki, &format!("[trust]\npins = [\"{}\"]", pki.pin())),
        );
        assert!(text.contains("not for vpn.test"), "{text}");
    }

    #[test]
    fn an_alert_is_the_gateways_refusal_only_once_the_gateway_has_proved_who_it_is() {
        let pki = Pki::new("vpn.test");
        let trust = Trust::load(&client_config(&pki, "")).expect("usable");
        for alert in [
            AlertDescription::AccessDenied,
            AlertDescription::BadCertificate,
            AlertDescription::UnknownCA,
            AlertDescription::CertificateRequired,
        ] {
            let outcome = |when| {
                let error = trust.explain(&Error::AlertReceived(alert), when);
                assert!(error.to_string().contains("wants a client certificate; set"), "{error}");
                (error.class(), error.exit_code())
            };
            assert_eq!(outcome(When::Handshake), (FailClass::Fatal, 1), "{alert:?}");
            assert_eq!(outcome(When::Conversation), (FailClass::AuthRefused, 4), "{alert:?}");
        }
    }

    #[test]
    fn p256_comes_first_and_post_quantum_can_be_switched_off() {
        let pki = Pki::new("vpn.test");
        let group = |tls: &str| {
            let connection = accepted(&pki, &client_config(&pki, tls));
            format!(
                "{:?}",
                connection.negotiated_key_exchange_group().expect("tls 1.3").name()
            )
        };
        assert_eq!(group(""), "secp256r1MLKEM768");
        assert_eq!(group("[tls]\npost_quantum = false"), "secp256r1");
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_their_fault() {
        let pki = Pki::new("vpn.test");
        let fault = |more: &str| Trust::load(&client_config(&pki, more)).err().expect("unusable");
        let text = fault("[trust]\nca_file = \"missing.pem\"").to_string();
        assert!(
            text.starts_with("cannot read trust.ca_file ") && text.contains("missing.pem"),
            "{text}"
        );

        let key = pki.write("key.pem", &pki.client_key(), 0o600);
        let chain = pki.write("chain.pem", &pki.client_chain(), 0o644);
        let login = |chain: &str, key: &str| format!("[login]\ncertificate_file = \"{chain}\"\nkey_file = \"{key}\"");
        let text = fault(&format!("[trust]\nca_file = \"{key}\"")).to_string();
        assert!(text.contains("it holds no PEM certificate"), "{text}");

        Trust::load(&client_config(&pki, &login(&chain, &key)))
            .map(|_| ())
            .expect("usable");
        let stranger = pki.write("stranger.pem", &Pki::new("x.test").client_key(), 0o600);
        let error = fault(&login(&chain, &stranger));
        assert!(error.to_string().contains("it is not the key of"), "{error}");
        assert_eq!(error.exit_code(), 3);
        let open = pki.write("open.pem", &pki.client_key(), 0o644);
        let error = fault(&login(&chain, &open));
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert_eq!(error.exit_code(), 3);
        let text = fault(&login(&chain, &chain)).to_string();
        assert!(
            text.contains("mode 0644") || text.contains("no PEM private key"),
            "{text}"
        );
    }

    #[test]
    fn spans_of_time_are_in_words() {
        let words = |seconds| {
            in_words(
                UnixTime::since_unix_epoch(Duration::ZERO),
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            )
        };
        assert_eq!(
            [words(30), words(7200), words(86_400 * 10)],
            ["1 minute", "2 hours", "10 days"]
        );
    }
}
