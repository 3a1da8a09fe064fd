//! What the control channel lends to others: the key of the data channel over UDP, and a value that names this connection.

use rustls::{ClientConnection, Connection, Error, ServerConnection};
use zeroize::Zeroizing;

/// Length of the key, in bytes: what both stock peers export (measured).
const KEY_BYTES: usize = 32;

/// The exporter's label (draft-mavrogiannopoulos-openconnect, section on PSK-NEGOTIATE); stock peers use no context.
const LABEL: &[u8] = b"EXPORTER-openconnect-psk";

/// The label of what a proof of possession is bound to (docs/decisions/0010).
const RESUME_LABEL: &[u8] = b"EXPORTER-marmot-resume";

/// The pre-shared key of the DTLS channel that belongs to `tls`, the connection that carried CONNECT (RFC 5705, RFC 8446
/// section 7.5). Both ends get the same bytes, as often as they ask; every connection has others, also after a resumption.
///
/// # Errors
/// [`Error::HandshakeNotComplete`] before the end of the handshake.
pub fn data_channel_key(tls: &Connection) -> Result<Zeroizing<[u8; KEY_BYTES]>, Error> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    match tls {
        Connection::Client(tls) => tls.export_keying_material(key.as_mut_slice(), LABEL, None)?,
        Connection::Server(tls) => tls.export_keying_material(key.as_mut_slice(), LABEL, None)?,
    };
    Ok(key)
}

/// What a client signs to prove that it holds the key of the session that it goes on with: no other connection has the same,
/// so that a proof is good for this one alone. This is its end of it; see [`resume_binding_at_gateway`].
///
/// # Errors
/// [`Error::HandshakeNotComplete`] before the end of the handshake.
pub fn resume_binding_at_client(tls: &ClientConnection) -> Result<[u8; KEY_BYTES], Error> {
    tls.export_keying_material([0; KEY_BYTES], RESUME_LABEL, None)
}

/// The gateway's end of [`resume_binding_at_client`].
///
/// # Errors
/// [`Error::HandshakeNotComplete`] before the end of the handshake.
pub fn resume_binding_at_gateway(tls: &ServerConnection) -> Result<[u8; KEY_BYTES], Error> {
    tls.export_keying_material([0; KEY_BYTES], RESUME_LABEL, None)
}
