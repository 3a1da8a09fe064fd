//! What the tests of this crate share: a little PKI, configurations, and handshakes without sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::Pin;
use config::client::ClientConfig;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tempfile::TempDir;

use crate::verify::pin_of;

mod gateway;

pub(crate) use gateway::{Behaviour, Order, Seen, StubGateway};

/// How long a test waits for what must happen. Long, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate authority, a gateway with a certificate, and a client with one.
pub(crate) struct Pki {
    folder: TempDir,
    authority: Certificate,
    server: Certificate,
    server_key: KeyPair,
    client: Certificate,
    client_key: KeyPair,
}

impl Pki {
    pub(crate) fn new(name: &str) -> Self {
        Self::build(name, false, |_| {})
    }

    /// The gateway's certificate expired ten days ago.
    pub(crate) fn expired(name: &str) -> Self {
        Self::build(name, false, |params| {
            let now = SystemTime::now();
            params.not_before = (now - 30 * DAY).into();
            params.not_after = (now - 10 * DAY - Duration::from_secs(60)).into();
        })
    }

    pub(crate) fn self_signed(name: &str) -> Self {
        Self::build(name, true, |_| {})
    }

    fn build(name: &str, self_signed: bool, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let authority_key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name_of_authority = format!("authority {:02x?}", &authority_key.public_key_raw()[..8]);
        params.distinguished_name.push(DnType::CommonName, name_of_authority);
        let authority = params.self_signed(&authority_key).expect("authority");
        let issuer = Issuer::new(params, authority_key);

        let server_key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        change(&mut params);
        let server = if self_signed {
            params.self_signed(&server_key)
        } else {
            params.signed_by(&server_key, &issuer)
        };

        let client_key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, "alice");
        let client = params.signed_by(&client_key, &issuer).expect("client");
        let this = Self {
            folder: tempfile::tempdir().expect("folder"),
            authority,
            server: server.expect("server"),
            server_key,
            client,
            client_key,
        };
        this.write("ca.pem", &this.authority.pem(), 0o644);
        this
    }

    /// Writes a file beside the configuration; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        path.to_str().expect("utf-8").to_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pin(&self) -> Pin {
        pin_of(self.server.der()).expect("pin")
    }

    pub(crate) fn client_chain(&self) -> String {
        self.client.pem()
    }

    pub(crate) fn client_key(&self) -> String {
        self.client_key.serialize_pem()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.server_key.serialize_pem().as_bytes()).expect("key")
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.server.der().clone()], self.key())
            .expect("certificate");
        Arc::new(config)
    }

    /// As [`Pki::server_config`], and a client certificate is demanded.
    pub(crate) fn demanding_server_config(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .expect("verifier");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.server.der().clone()], self.key())
            .expect("certificate");
        Arc::new(config)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = default_provider();
    provider.kx_groups = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS.to_vec();
    Arc::new(provider)
}

/// A configuration for `https://vpn.test` that trusts the authority of `pki`, and has its folders beside it. `more` is TOML;
/// a `[trust]` section in it replaces ours, with its `ca_file` defaulting to the authority.
pub(crate) fn client_config(pki: &Pki, more: &str) -> ClientConfig {
    let text = client_toml(more);
    ClientConfig::parse(&text, "client.toml", pki.folder()).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The text of [`client_config`].
pub(crate) fn client_toml(more: &str) -> String {
    let text = with_keys(
        more,
        "tunnel",
        "state_dir",
        "state_dir = \"state\"\nruntime_dir = \"run\"\n",
    );
    let text = with_keys(&text, "trust", "ca_file", "ca_file = \"ca.pem\"\n");
    let text = with_keys(&text, "housekeeping", "hooks_dir", "hooks_dir = \"hooks\"\n");
    with_keys(&text, "gateway", "url", "url = \"https://vpn.test\"\n")
}

/// `text` with `keys` in its section, unless `sign` is there.
fn with_keys(text: &str, section: &str, sign: &str, keys: &str) -> String {
    let head = format!("[{section}]\n");
    match text.split_once(&head) {
        Some((_, after)) if after.contains(sign) => text.to_owned(),
        Some((before, after)) => format!("{before}{head}{keys}{after}"),
        None => format!("{head}{keys}{text}"),
    }
}

/// A whole handshake in memory.
pub(crate) fn handshake(
    client: &Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> Result<ClientConnection, rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        while !wire.is_empty() {
            let taken = client.read_tls(&mut wire.as_slice()).expect("memory");
            wire.drain(..taken);
            client.process_new_packets()?;
        }
    }
    Ok(client)
}
