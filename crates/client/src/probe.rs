//! Whether a server is there that has a key: how a network proves to be the one that a rule means.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use config::Pin;
use platform::tcp::{ClientTcp, Keepalive};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::ClientError;
use crate::dial::dial;
use crate::verify::{GatewayVerifier, Presented};

/// Nothing is kept alive for so short a visit.
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_secs(45),
    interval: Duration::from_secs(15),
    count: 1,
};

/// Makes a TLS connection, from a socket with this mark, and closes it: the handshake proves that the server has a pinned key.
/// No longer than `patience`.
pub(crate) async fn reach_pinned(
    address: SocketAddr,
    pins: Vec<Pin>,
    mark: u32,
    patience: Duration,
) -> Result<(), ClientError> {
    let local = |error: &dyn std::fmt::Display| ClientError::Local(format!("cannot set tls up: {error}"));
    let provider = Arc::new(default_provider());
    let verifier = GatewayVerifier::new(
        None,
        pins,
        provider.signature_verification_algorithms,
        Presented::default(),
    );
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| local(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let options = ClientTcp {
        keepalive: KEEPALIVE,
        mark: Some(mark),
        send_buffer: None,
    };
    let deadline = Instant::now() + patience;
    let visit = async {
        let stream = dial(&[address], &options, deadline).await?;
        let name = ServerName::IpAddress(address.ip().into());
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        handshake
            .map(drop)
            .map_err(|error| ClientError::Local(format!("the server at {address} is not the one: {error}")))
    };
    match tokio::time::timeout_at(deadline, visit).await {
        Ok(visited) => visited,
        Err(_) => Err(ClientError::Local(format!("the server at {address} does not answer"))),
    }
}
