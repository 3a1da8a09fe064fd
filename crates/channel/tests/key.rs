//! What TLS connections export, from both ends of real ones in memory.

use std::sync::Arc;

use channel::{data_channel_key, resume_binding_at_client, resume_binding_at_gateway};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection, SupportedProtocolVersion,
};

/// Flights of a handshake, at most; more would be a loop.
const FLIGHTS: usize = 8;

struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Ends {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec!["gw.test".to_owned()]).expect("name");
        let certificate = params.self_signed(&key).expect("certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .expect("version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("version")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("key"),
            )
            .expect("server");
        Self {
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }

    fn start(&self) -> (Connection, Connection) {
        let name = ServerName::try_from("gw.test").expect("name");
        let client = ClientConnection::new(self.client.clone(), name).expect("client");
        let server = ServerConnection::new(self.server.clone()).expect("server");
        (client.into(), server.into())
    }

    fn connect(&self) -> (Connection, Connection) {
        let (mut client, mut server) = self.start();
        for _ in 0..FLIGHTS {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        (client, server)
    }
}

/// Carries what one end has to say to the other.
fn carry(from: &mut Connection, to: &mut Connection) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).expect("memory");
    }
    let mut bytes = &bytes[..];
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).expect("memory");
        to.process_new_packets().expect("valid");
    }
}

fn both_get_the_same(version: &'static SupportedProtocolVersion, expected: ProtocolVersion) {
    let ends = Ends::new(version);
    let (client, server) = ends.connect();
    assert_eq!(client.protocol_version(), Some(expected));
    let key = data_channel_key(&client).expect("established");
    assert_eq!(key, data_channel_key(&server).expect("established"));
    assert_eq!(key, data_channel_key(&client).expect("established"));
    assert!(key.iter().any(|byte| *byte != 0));

    let binding = binding(&client, &server);

    let (again, server) = ends.connect();
    assert_eq!(again.handshake_kind(), Some(HandshakeKind::Resumed));
    let other = data_channel_key(&again).expect("established");
    assert_eq!(other, data_channel_key(&server).expect("established"));
    assert_ne!(key, other);
    assert_ne!(binding, self::binding(&again, &server));
}

/// What a proof over a connection is bound to, the same at both ends.
fn binding(client: &Connection, server: &Connection) -> [u8; 32] {
    let (Connection::Client(client), Connection::Server(server)) = (client, server) else {
        panic!("the ends are mixed up")
    };
    let binding = resume_binding_at_client(client).expect("established");
    assert_eq!(resume_binding_at_gateway(server), Ok(binding));
    binding
}

#[test]
fn both_ends_of_tls_1_2_get_the_same_key_and_every_connection_another() {
    both_get_the_same(&TLS12, ProtocolVersion::TLSv1_2);
}

#[test]
fn both_ends_of_tls_1_3_get_the_same_key_and_every_connection_another() {
    both_get_the_same(&TLS13, ProtocolVersion::TLSv1_3);
}

#[test]
fn there_is_no_key_before_the_handshake_is_done() {
    let (client, _) = Ends::new(&TLS13).start();
    assert_eq!(data_channel_key(&client), Err(Error::HandshakeNotComplete));
}
