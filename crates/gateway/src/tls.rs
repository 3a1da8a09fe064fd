//! The TLS side of the gateway: certificate, key, and what clients must show.
//!
//! ```text
//!   certificate_file, key_file, client_ca_file --load--> ServerConfig --one swap--> every later handshake
//! ```
//! A reload builds a whole new `ServerConfig` and swaps it, so certificate, key, client authorities and versions change
//! together or not at all; running sessions keep the connection they have. Nothing is resumed across connections (no
//! tickets, no session storage): a resumed handshake would skip the client certificate, which a reload may just have made
//! unacceptable, and our sessions live in cookies anyway.
//!
//! The key itself is only ever reached through [`rustls::sign::SigningKey`]: one request to sign, one answer. A key in a
//! process of its own is another implementation of that trait and changes nothing else here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::TlsVersion;
use config::gateway::{Auth, Tls};
use platform::PlatformError;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// The largest file with certificates or a key, in bytes; a system's whole bundle of authorities is below 300 KiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What is wrong with a certificate or key file, by name.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read the {role} {}: {source}", .path.display())]
    Unreadable {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key could be read by others.
    #[error("cannot use the private key: {0}")]
    NotPrivate(#[source] PlatformError),
    /// The file is not PEM, or is damaged. What the parser says of it would repeat bytes of the file.
    #[error("cannot use the {role} {}: it is damaged, or no PEM file", .path.display())]
    NotPem {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is PEM, but what is wanted is not in it.
    #[error("cannot use the {role} {}: it holds no {wanted} in PEM", .path.display())]
    Empty {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// The PEM section that was looked for.
        wanted: &'static str,
    },
    /// The content of the file is not usable.
    #[error("cannot use the {role} {}: {reason}", .path.display())]
    Unusable {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What rustls said.
        reason: String,
    },
    /// Certificate and key are not a pair.
    #[error("the private key {} does not belong to the certificate {}; name the files of one pair", .key.display(), .certificate.display())]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The pieces do not make a configuration.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// Reads the files that the configuration names and makes of them what every handshake needs.
///
/// # Errors
/// See [`TlsError`]; each names the file.
pub(crate) fn load(tls: &Tls, auth: &Auth) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider(tls.post_quantum));
    let key = load_pair(&tls.certificate_file, &tls.key_file, &provider)?;
    let verifier = match &auth.client_ca_file {
        Some(path) if auth.methods.certificate() => load_verifier(path, &provider)?,
        _ => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(tls.min_version))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The server certificate of a file, for looking at its dates.
///
/// # Errors
/// As [`load`], for this one file.
pub(crate) fn leaf(path: &Path) -> Result<CertificateDer<'static>, TlsError> {
    Ok(certificates("certificate", path)?.swap_remove(0))
}

/// The groups in the order of preference. Both hybrids are there because a peer that prefers P-256 offers only that one's.
fn provider(post_quantum: bool) -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP256R1MLKEM768, SECP384R1, X25519, X25519MLKEM768};
    let hybrid: &[&dyn SupportedKxGroup] = if post_quantum {
        &[X25519MLKEM768, SECP256R1MLKEM768]
    } else {
        &[]
    };
    let classic: &[&dyn SupportedKxGroup] = &[X25519, SECP256R1, SECP384R1];
    CryptoProvider {
        kx_groups: [hybrid, classic].concat(),
        ..aws_lc_rs::default_provider()
    }
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    match min {
        TlsVersion::V1_2 => ALL,
        TlsVersion::V1_3 => &ALL[..1],
    }
}

fn load_pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("certificate", certificate)?;
    let pair = CertifiedKey::new(chain, load_key(key, provider)?);
    match pair.keys_match() {
        // A key that does not tell its public half is taken at its word.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
        Err(reason) => Err(unusable("certificate", certificate, reason)),
    }
}

fn load_key(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, TlsError> {
    const ROLE: &str = "private key";
    let bytes = zeroize::Zeroizing::new(read(ROLE, path)?);
    platform::files::check_private(path).map_err(TlsError::NotPrivate)?;
    let der = PrivateKeyDer::from_pem_slice(&bytes).map_err(|reason| match reason {
        pem::Error::NoItemsFound => TlsError::Empty {
            role: ROLE,
            path: path.to_owned(),
            wanted: "private key",
        },
        _ => TlsError::NotPem {
            role: ROLE,
            path: path.to_owned(),
        },
    })?;
    provider
        .key_provider
        .load_private_key(der)
        .map_err(|reason| unusable(ROLE, path, reason))
}

/// A verifier that also lets clients in without a certificate: whether one is needed is a matter of the login, which can
/// say so in words, and stock clients with a password come to the same port.
fn load_verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const ROLE: &str = "client authority";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ROLE, path)? {
        roots.add(certificate).map_err(|reason| unusable(ROLE, path, reason))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|reason| unusable(ROLE, path, reason))
}

/// At least one certificate.
fn certificates(role: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(role, path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::NotPem {
            role,
            path: path.to_owned(),
        })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            role,
            path: path.to_owned(),
            wanted: "certificate",
        });
    }
    Ok(certificates)
}

fn read(role: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        role,
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE {
        return Err(unusable(role, path, format!("it is larger than {MAX_FILE} bytes")));
    }
    fs::read(path).map_err(unreadable)
}

fn unusable(role: &'static str, path: &Path, reason: impl ToString) -> TlsError {
    TlsError::Unusable {
        role,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::gateway::{AuthMethods, UserFrom};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    struct Files {
        folder: TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().expect("folder"),
            }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, text).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
            path
        }

        fn pair(&self, name: &str) -> Tls {
            let made = rcgen::generate_simple_self_signed(vec!["vpn.example.com".to_owned()]).expect("certificate");
            Tls {
                certificate_file: self.write(&format!("{name}.crt"), &made.cert.pem()),
                key_file: self.write(&format!("{name}.key"), &made.signing_key.serialize_pem()),
                min_version: TlsVersion::V1_2,
                post_quantum: true,
            }
        }
    }

    fn password_only() -> Auth {
        Auth {
            methods: AuthMethods::Password,
            users_file: None,
            client_ca_file: None,
            user_from: UserFrom::Uid,
            groups: Vec::new(),
            banner: None,
        }
    }

    fn refusal(tls: &Tls) -> String {
        load(tls, &password_only()).expect_err("refused").to_string()
    }

    #[test]
    fn a_pair_loads_and_nothing_is_resumed() {
        let files = Files::new();
        let config = load(&files.pair("a"), &password_only()).expect("loaded");
        assert_eq!(config.send_tls13_tickets, 0);
        assert!(!config.session_storage.can_cache());
        assert!(config.alpn_protocols.is_empty());
    }

    #[test]
    fn the_post_quantum_switch_removes_both_hybrids() {
        let names = |on| {
            provider(on)
                .kx_groups
                .iter()
                .map(|group| group.name())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(true).len(), 5);
        assert_eq!(
            names(false),
            [
                rustls::NamedGroup::X25519,
                rustls::NamedGroup::secp256r1,
                rustls::NamedGroup::secp384r1
            ]
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_with_both_names() {
        let files = Files::new();
        let (one, other) = (files.pair("one"), files.pair("other"));
        let mixed = Tls {
            key_file: other.key_file,
            ..one
        };
        let message = refusal(&mixed);
        assert!(
            message.contains("other.key") && message.contains("one.crt"),
            "{message}"
        );
    }

    #[test]
    fn each_bad_file_is_named_with_its_cause() {
        let files = Files::new();
        let good = files.pair("good");
        let missing = Tls {
            certificate_file: files.folder.path().join("gone.crt"),
            ..good.clone()
        };
        assert!(refusal(&missing).contains("gone.crt"));
        let empty = Tls {
            certificate_file: files.write("empty.crt", ""),
            ..good.clone()
        };
        assert!(refusal(&empty).contains("holds no certificate"));
        let swapped = Tls {
            key_file: good.certificate_file.clone(),
            ..good.clone()
        };
        assert!(refusal(&swapped).contains("holds no private key"));
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = Tls {
            certificate_file: files.write("broken.crt", junk),
            ..good
        };
        assert!(refusal(&broken).contains("broken.crt"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let files = Files::new();
        let tls = files.pair("open");
        fs::set_permissions(&tls.key_file, fs::Permissions::from_mode(0o644)).expect("permissions");
        assert!(refusal(&tls).contains("open.key"));
    }

    #[test]
    fn a_client_authority_file_without_a_certificate_is_refused() {
        let files = Files::new();
        let tls = files.pair("a");
        let auth = Auth {
            methods: AuthMethods::Certificate,
            client_ca_file: Some(files.write("ca.crt", "nothing")),
            ..password_only()
        };
        let message = load(&tls, &auth).expect_err("refused").to_string();
        assert!(
            message.contains("client authority") && message.contains("ca.crt"),
            "{message}"
        );
    }
}
