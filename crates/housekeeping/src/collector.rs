//! Sending a summary to an HTTP collector: one POST, over TLS where the address says so.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one upload may take, from the look-up of the name to the status line. A summary is about 1 KB.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Where summaries go.
#[derive(Clone, Debug)]
pub struct Collector {
    /// A name or an address, without brackets; a certificate must carry it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Host and port as the `Host` header has them.
    pub authority: String,
    /// With its leading slash.
    pub path: String,
    /// How TLS is done; `None` is plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
    /// [`UPLOAD_TIMEOUT`], or what a test can wait for.
    pub timeout: Duration,
}

/// Why no TLS configuration can be made for a collector.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The file with the authorities is not PEM, or has no certificate.
    #[error("collector_ca_file has no usable certificate: {0}")]
    Authorities(String),
    /// The system's own store cannot be used.
    #[error("cannot use the system's certificate store: {0}; set collector_ca_file")]
    System(String),
    /// TLS itself cannot be set up.
    #[error("cannot set tls up: {0}")]
    Tls(rustls::Error),
}

/// How TLS is done with a collector: only these authorities (PEM) are trusted, or those of the system.
///
/// # Errors
/// See [`TrustError`].
pub fn collector_tls(authorities: Option<&[u8]>) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match authorities {
        Some(pem) => {
            let bad = |error: &dyn std::fmt::Display| TrustError::Authorities(error.to_string());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| bad(&error))?;
                roots.add(certificate).map_err(|error| bad(&error))?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| bad(&error))?
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider));
            Arc::new(verifier.map_err(|error| TrustError::System(error.to_string()))?)
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Tls)?;
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Collector {
    /// Posts `body` (JSON). `key` is the same for every try at the same summary, so that the collector can tell.
    ///
    /// # Errors
    /// What went wrong, in words: any status but 2xx (a redirect is not followed), the network, TLS.
    pub(crate) async fn post(&self, key: &str, body: String) -> Result<(), String> {
        let status = self.try_post(key, body).await?;
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("the collector answered {status}")),
        }
    }

    async fn try_post(&self, key: &str, body: String) -> Result<StatusCode, String> {
        let socket = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| format!("cannot connect to the collector: {error}"))?;
        match &self.tls {
            None => self.exchange(socket, key, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|_| "the collector's host is not a name that a certificate can have".to_owned())?;
                let stream = TlsConnector::from(Arc::clone(tls))
                    .connect(name, socket)
                    .await
                    .map_err(|error| format!("no TLS with the collector: {error}"))?;
                self.exchange(stream, key, body).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, key: &str, body: String) -> Result<StatusCode, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: hyper::Error| format!("the collector broke the connection: {error}");
        let request = Request::post(&self.path)
            .header("Host", &self.authority)
            .header("User-Agent", concat!("marmot/", env!("CARGO_PKG_VERSION")))
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", format!("\"{key}\""))
            .header("Connection", "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| format!("cannot ask the collector: {error}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let moving = async {
            // How it ends is seen by the request.
            let _ = connection.await;
            pending().await
        };
        tokio::select! {
            response = sender.send_request(request) => Ok(response.map_err(broken)?.status()),
            () = moving => unreachable!("it waits for ever"),
        }
    }
}
