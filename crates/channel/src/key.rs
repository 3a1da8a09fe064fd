//! The key that the control channel lends to the data channel over UDP.

use rustls::{Connection, Error};
use zeroize::Zeroizing;

/// Length of the key, in bytes: what both stock peers export (measured).
const KEY_BYTES: usize = 32;

/// The exporter's label (draft-mavrogiannopoulos-openconnect, section on PSK-NEGOTIATE); stock peers use no context.
const LABEL: &[u8] = b"EXPORTER-openconnect-psk";

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
