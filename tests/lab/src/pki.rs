//! Certificates of a test: an authority, and good and bad ones it signed or did not.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};

use crate::{GATEWAY_NAME, SITE_A, SITE_B};

/// UID of a subject (RFC 4519 section 2.39), in which Debian's sample configuration finds the user.
const UID: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];

/// An authority, and the folder its products go to.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key, readable by its owner only.
    pub key: PathBuf,
    /// The public key's pin, as the client's configuration takes it: `sha256:` and hex.
    pub pin: String,
}

impl Pki {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let mut params = params(&[], "lab authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write_private(&folder.join("ca.pem"), &issuer.pem())?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
        })
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A server certificate for [`GATEWAY_NAME`] and the addresses of both sites.
    ///
    /// # Errors
    /// If it cannot be written; so for all others here.
    pub fn server(&self) -> Result<Identity> {
        self.sign("server", server_params(&gateway_names())?)
    }

    /// Another one, with another key.
    ///
    /// # Errors
    /// See [`Pki::server`].
    pub fn renewed_server(&self) -> Result<Identity> {
        self.sign("server-renewed", server_params(&gateway_names())?)
    }

    /// One that ended in 2021.
    ///
    /// # Errors
    /// See [`Pki::server`].
    pub fn expired_server(&self) -> Result<Identity> {
        let mut params = server_params(&gateway_names())?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign("server-expired", params)
    }

    /// One for somebody else.
    ///
    /// # Errors
    /// See [`Pki::server`].
    pub fn wrong_name_server(&self) -> Result<Identity> {
        self.sign("server-wrong-name", server_params(&["somebody-else.test".to_owned()])?)
    }

    /// One that nobody but itself vouches for.
    ///
    /// # Errors
    /// See [`Pki::server`].
    pub fn self_signed_server(&self) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = server_params(&gateway_names())?.self_signed(&key)?;
        self.store("server-self-signed", &certificate.pem(), &key)
    }

    /// A client certificate whose subject has `UID=user`.
    ///
    /// # Errors
    /// See [`Pki::server`].
    pub fn client(&self, user: &str) -> Result<Identity> {
        let mut params = params(&[], &format!("{user}'s device"))?;
        params.distinguished_name.push(DnType::from_oid(&UID), user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&format!("client-{user}"), params)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.store(name, &certificate.pem(), &key)
    }

    fn store(&self, name: &str, certificate: &str, key: &KeyPair) -> Result<Identity> {
        let file = |kind| self.folder.join(format!("{name}.{kind}"));
        let spki = digest(&SHA256, &key.subject_public_key_info());
        let mut pin = "sha256:".to_owned();
        for byte in spki.as_ref() {
            write!(pin, "{byte:02x}")?;
        }
        let identity = Identity {
            certificate: file("pem"),
            key: file("key"),
            pin,
        };
        write_private(&identity.certificate, certificate)?;
        write_private(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

/// Writes a file that only this user can read, as our programs demand of keys and passwords.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(content.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn gateway_names() -> Vec<String> {
    let mut names = vec![GATEWAY_NAME.to_owned()];
    for plan in [SITE_A, SITE_B] {
        names.push(plan.gateway_v4().to_string());
        names.push(plan.gateway_v6().to_string());
    }
    names
}

fn server_params(names: &[String]) -> Result<CertificateParams> {
    let common = names.first().context("a server has a name")?;
    let mut params = params(names, common)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn params(names: &[String], common: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common);
    params.distinguished_name = subject;
    Ok(params)
}
