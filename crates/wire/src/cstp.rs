//! CSTP: the frames on the TLS connection after CONNECT.
//!
//! ```text
//!  0    1    2    3    4        6      7     8
//! +----+----+----+----+--------+------+-----+----------
//! | 53 | 54 | 46 | 01 | length | kind | 00  | payload     length: payload only, big endian
//! +----+----+----+----+--------+------+-----+----------
//! ```
//! Both stock peers want exactly one frame per TLS record (measured), so [`encode`] appends whole frames and the
//! caller writes each on its own. [`Decoder`] goes by length and does not care where records end.

use bytes::{Buf, BufMut, BytesMut};

use crate::error::CstpError;
use crate::limits::{CSTP_MAX_PAYLOAD, MAX_GOODBYE};

/// Length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 8;

/// First byte of a disconnect that ends the session for good and destroys the cookie.
const LOGOUT: u8 = 0xb0;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One IP packet, version 4 or 6 by its first nibble.
    Data,
    /// "Are you there?" A gateway echoes the payload, the stock client answers with an empty response.
    DpdRequest,
    /// The answer to [`Kind::DpdRequest`].
    DpdResponse,
    /// The sender ends the connection; see [`Goodbye`].
    Disconnect,
    /// Keeps middleboxes awake; has no answer.
    Keepalive,
    /// A compressed packet; nobody may send it, since we never offer compression.
    Compressed,
    /// The gateway ends the session.
    Terminate,
    /// The client is about to sleep: eight bytes, which the answer repeats. With the three below one of our own, sent only
    /// after a grant of parking ([`crate::offer::Grant::park`]).
    Park,
    /// The answer to [`Kind::Park`]; the gateway is silent from now on.
    ParkAnswer,
    /// The client is awake for good: eight bytes, which the answer repeats.
    Awake,
    /// The answer to [`Kind::Awake`], to an address that has proven to be the client's.
    AwakeAnswer,
    /// Several IP packets of one flow as one (`packet::bundle`), in place of as many of [`Kind::Data`]. One of our own, sent only after a
    /// grant of it ([`crate::offer::Grant::marmot_bundle`]).
    Bundle,
    /// Anything else. Stock `ocserv` ignores it, stock `openconnect` quits: never send one unasked.
    Unknown(u8),
}

impl Kind {
    /// The type byte.
    pub fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::DpdRequest => 3,
            Self::DpdResponse => 4,
            Self::Disconnect => 5,
            Self::Keepalive => 7,
            Self::Compressed => 8,
            Self::Terminate => 9,
            Self::Park => 0x41,
            Self::ParkAnswer => 0x42,
            Self::Awake => 0x43,
            Self::AwakeAnswer => 0x44,
            Self::Bundle => 0x45,
            Self::Unknown(byte) => byte,
        }
    }

    /// The kind a type byte stands for.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            3 => Self::DpdRequest,
            4 => Self::DpdResponse,
            5 => Self::Disconnect,
            7 => Self::Keepalive,
            8 => Self::Compressed,
            9 => Self::Terminate,
            0x41 => Self::Park,
            0x42 => Self::ParkAnswer,
            0x43 => Self::Awake,
            0x44 => Self::AwakeAnswer,
            0x45 => Self::Bundle,
            other => Self::Unknown(other),
        }
    }
}

/// The header of a frame with `payload_len` bytes of payload, for callers that keep room in front of a packet.
/// `payload_len` must not exceed [`CSTP_MAX_PAYLOAD`].
pub fn header(kind: Kind, payload_len: u16) -> [u8; HEADER_LEN] {
    let [high, low] = payload_len.to_be_bytes();
    [b'S', b'T', b'F', 1, high, low, kind.byte(), 0]
}

/// Appends one whole frame to `out`.
///
/// # Errors
/// [`CstpError::PayloadTooLong`] beyond [`CSTP_MAX_PAYLOAD`]; `out` is then unchanged.
pub fn encode(kind: Kind, payload: &[u8], out: &mut BytesMut) -> Result<(), CstpError> {
    encode_with(kind, payload.len(), |place| place.copy_from_slice(payload), out)
}

/// Appends one whole frame with a payload of `length` bytes, which `write` puts into its place.
///
/// # Errors
/// As [`encode`].
pub fn encode_with(
    kind: Kind,
    length: usize,
    write: impl FnOnce(&mut [u8]),
    out: &mut BytesMut,
) -> Result<(), CstpError> {
    let announced = u16::try_from(length)
        .ok()
        .filter(|_| length <= CSTP_MAX_PAYLOAD)
        .ok_or(CstpError::PayloadTooLong { length })?;
    out.reserve(HEADER_LEN + length);
    out.put_slice(&header(kind, announced));
    let start = out.len();
    out.resize(start + length, 0);
    write(&mut out[start..]);
    Ok(())
}

/// One frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// What it carries, at most [`CSTP_MAX_PAYLOAD`] bytes. Split off the decoder's buffer, not copied.
    pub payload: BytesMut,
}

/// Cuts a stream of plaintext into frames.
///
/// Append what TLS delivered to [`Decoder::buffer`], then call [`Decoder::next`] until it returns `None`: what is left
/// then is less than one frame, so the buffer holds at most that and what the caller appends next.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// A broken frame leaves no way to find the next one.
    broken: Option<CstpError>,
}

impl Decoder {
    /// A decoder with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the caller appends plaintext.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`CstpError::NotCstp`] and [`CstpError::FrameTooLong`], from the first complete header on, and the same again
    /// on every later call.
    #[expect(
        clippy::should_implement_trait,
        reason = "fallible, and not done when it returns None"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, CstpError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let parsed = parse_header(&self.buffer);
        match parsed {
            Err(error) => {
                self.broken = Some(error.clone());
                self.buffer.clear();
                Err(error)
            }
            Ok(Some((kind, length))) if self.buffer.len() >= HEADER_LEN + length => {
                self.buffer.advance(HEADER_LEN);
                Ok(Some(Frame {
                    kind,
                    payload: self.buffer.split_to(length),
                }))
            }
            Ok(_) => Ok(None),
        }
    }
}

/// Kind and payload length of the frame that starts at `bytes`, `None` if the header is not complete.
fn parse_header(bytes: &[u8]) -> Result<Option<(Kind, usize)>, CstpError> {
    let Some((&[s, t, f, version, high, low, kind, zero], _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    if [s, t, f, version, zero] != [b'S', b'T', b'F', 1, 0] {
        return Err(CstpError::NotCstp);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > CSTP_MAX_PAYLOAD {
        return Err(CstpError::FrameTooLong { length });
    }
    Ok(Some((Kind::from_byte(kind), length)))
}

/// What a [`Kind::Disconnect`] means. Stock `ocserv` sends an empty one when an administrator disconnects a user, and often
/// when it stops: a client that is to survive a restart of its gateway takes it as [`Goodbye::Temporary`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goodbye {
    /// A deliberate end: the gateway forgets the session and its cookie. The text says why; it is peer text, at most
    /// [`MAX_GOODBYE`] bytes, to be escaped before it is shown.
    Logout(String),
    /// An empty payload: the connection ends, the session may come back with its cookie.
    Temporary,
    /// Any other first byte, which stock peers treat as an error.
    Other(u8),
}

/// The payload that says this goodbye.
pub fn goodbye_payload(goodbye: &Goodbye) -> Vec<u8> {
    match goodbye {
        Goodbye::Logout(text) => [&[LOGOUT], cut(text.as_bytes())].concat(),
        Goodbye::Temporary => Vec::new(),
        Goodbye::Other(code) => vec![*code],
    }
}

/// The goodbye a disconnect frame's payload says. Text that is not UTF-8 gets replacement characters.
pub fn parse_goodbye(payload: &[u8]) -> Goodbye {
    match payload.split_first() {
        None => Goodbye::Temporary,
        Some((&LOGOUT, text)) => {
            let text = String::from_utf8_lossy(cut(text));
            Goodbye::Logout(text.trim_end_matches('\0').to_owned())
        }
        Some((&code, _)) => Goodbye::Other(code),
    }
}

/// At most [`MAX_GOODBYE`] bytes.
fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(MAX_GOODBYE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder_with(bytes: &[u8]) -> Decoder {
        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(bytes);
        decoder
    }

    #[test]
    fn a_frame_looks_as_in_the_drawing() {
        let mut out = BytesMut::new();
        encode(Kind::DpdRequest, b"abc", &mut out).expect("short payload");
        assert_eq!(&out[..], b"STF\x01\x00\x03\x03\x00abc");
    }

    #[test]
    fn every_type_byte_survives() {
        for byte in 0..=u8::MAX {
            assert_eq!(Kind::from_byte(byte).byte(), byte);
        }
        assert_eq!(Kind::from_byte(6), Kind::Unknown(6));
    }

    #[test]
    fn a_frame_in_pieces_comes_out_whole() {
        let mut out = BytesMut::new();
        encode(Kind::Data, b"hello", &mut out).expect("short payload");
        let mut decoder = Decoder::new();
        for (index, byte) in out.iter().enumerate() {
            assert_eq!(decoder.next(), Ok(None), "after {index} bytes");
            decoder.buffer().put_u8(*byte);
        }
        let frame = decoder.next().expect("valid").expect("complete");
        assert_eq!((frame.kind, &frame.payload[..]), (Kind::Data, &b"hello"[..]));
        assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn two_frames_in_one_record_come_out_as_two() {
        let mut decoder = decoder_with(b"STF\x01\x00\x00\x07\x00STF\x01\x00\x01\x00\x00xST");
        assert_eq!(
            decoder.next().expect("valid").map(|frame| frame.kind),
            Some(Kind::Keepalive)
        );
        assert_eq!(decoder.next().expect("valid").map(|frame| frame.kind), Some(Kind::Data));
        assert_eq!(decoder.next(), Ok(None));
        assert_eq!(&decoder.buffer()[..], b"ST");
    }

    #[test]
    fn the_largest_frame_fills_one_record_and_no_more() {
        let mut out = BytesMut::new();
        encode(Kind::Data, &vec![7; CSTP_MAX_PAYLOAD], &mut out).expect("fits");
        assert_eq!(out.len(), 16_384);
        let mut decoder = decoder_with(&out);
        assert_eq!(
            decoder.next().expect("valid").map(|frame| frame.payload.len()),
            Some(CSTP_MAX_PAYLOAD)
        );

        let length = CSTP_MAX_PAYLOAD + 1;
        let before = out.clone();
        assert_eq!(
            encode(Kind::Data, &vec![7; length], &mut out),
            Err(CstpError::PayloadTooLong { length })
        );
        assert_eq!(
            encode(Kind::Data, &vec![7; 70_000], &mut out),
            Err(CstpError::PayloadTooLong { length: 70_000 })
        );
        assert_eq!(out, before);
    }

    #[test]
    fn a_frame_longer_than_a_record_is_refused_by_its_header() {
        let mut decoder = decoder_with(&header(Kind::Data, 16_377));
        assert_eq!(decoder.next(), Err(CstpError::FrameTooLong { length: 16_377 }));
    }

    #[test]
    fn every_fixed_byte_of_the_header_counts() {
        let good = header(Kind::Data, 0);
        for index in [0, 1, 2, 3, 7] {
            let mut bad = good;
            bad[index] ^= 1;
            let mut decoder = decoder_with(&bad);
            assert_eq!(decoder.next(), Err(CstpError::NotCstp), "byte {index}");
        }
    }

    #[test]
    fn a_broken_stream_stays_broken() {
        let mut decoder = decoder_with(b"HTTP/1.1 200 OK\r\n");
        assert_eq!(decoder.next(), Err(CstpError::NotCstp));
        decoder.buffer().extend_from_slice(&header(Kind::Keepalive, 0));
        assert_eq!(decoder.next(), Err(CstpError::NotCstp));
    }

    #[test]
    fn goodbyes_mean_what_stock_peers_mean() {
        let logout = Goodbye::Logout("Aborted by caller".to_owned());
        assert_eq!(parse_goodbye(b"\xb0Aborted by caller"), logout);
        assert_eq!(goodbye_payload(&logout), b"\xb0Aborted by caller");
        assert_eq!(parse_goodbye(b"\xb0bye\0"), Goodbye::Logout("bye".to_owned()));
        assert_eq!(parse_goodbye(b""), Goodbye::Temporary);
        assert_eq!(parse_goodbye(b"\x01restart"), Goodbye::Other(1));
        assert_eq!(parse_goodbye(b"\xb0\xff"), Goodbye::Logout("\u{fffd}".to_owned()));
    }

    #[test]
    fn the_text_of_a_goodbye_is_bounded() {
        let long = [&[LOGOUT][..], &[b'x'; 5_000]].concat();
        assert_eq!(parse_goodbye(&long), Goodbye::Logout("x".repeat(MAX_GOODBYE)));
        assert_eq!(
            goodbye_payload(&Goodbye::Logout("x".repeat(5_000))).len(),
            1 + MAX_GOODBYE
        );
    }

    #[test]
    fn faults_are_attributed() {
        use crate::error::Fault;
        assert_eq!(CstpError::NotCstp.fault(), Fault::PeerMisbehaved);
        assert_eq!(CstpError::PayloadTooLong { length: 1 }.fault(), Fault::Caller);
    }
}
