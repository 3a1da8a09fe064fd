//! ClientHello, ServerHello and HelloVerifyRequest (RFC 5246 section 7.4.1, RFC 6347 section 4.2.1).

use crate::codec::{Reader, put_u16, put_vec8, put_vec16};
use crate::record::{DTLS_1_0, DTLS_1_2};
use crate::{Error, Incompatibility, Misbehaviour, Suite};

/// Longest session id (RFC 5246 section 7.4.1.2).
pub(crate) const MAX_SESSION_ID: usize = 32;

const EXTENDED_MASTER_SECRET: u16 = 23;
const CONNECTION_ID: u16 = 54;
const RENEGOTIATION_INFO: u16 = 0xff01;

/// The suite that stands for an empty renegotiation_info (RFC 5746 section 3.3).
const RENEGOTIATION_SUITE: u16 = 0x00ff;

/// The extensions that mean something here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions<'a> {
    pub(crate) extended_master_secret: bool,
    pub(crate) renegotiation_info: bool,
    pub(crate) connection_id: Option<&'a [u8]>,
    /// Whether there were others.
    pub(crate) others: bool,
}

impl<'a> Extensions<'a> {
    /// Reads what is left of a hello, which may be nothing at all.
    fn read(reader: &mut Reader<'a>) -> Result<Self, Misbehaviour> {
        let mut known = Self::default();
        if reader.is_empty() {
            return Ok(known);
        }
        let mut list = Reader::new(reader.vec16().ok_or(Misbehaviour::MalformedMessage)?);
        while !list.is_empty() {
            let kind = list.u16().ok_or(Misbehaviour::MalformedMessage)?;
            let contents = list.vec16().ok_or(Misbehaviour::MalformedMessage)?;
            known.note(kind, contents)?;
        }
        Ok(known)
    }

    fn note(&mut self, kind: u16, contents: &'a [u8]) -> Result<(), Misbehaviour> {
        let again = match kind {
            EXTENDED_MASTER_SECRET if contents.is_empty() => std::mem::replace(&mut self.extended_master_secret, true),
            EXTENDED_MASTER_SECRET => return Err(Misbehaviour::MalformedExtension),
            RENEGOTIATION_INFO if contents == [0] => std::mem::replace(&mut self.renegotiation_info, true),
            RENEGOTIATION_INFO => return Err(Misbehaviour::Renegotiation),
            CONNECTION_ID => {
                let mut reader = Reader::new(contents);
                let id = reader.vec8().filter(|_| reader.is_empty());
                self.connection_id
                    .replace(id.ok_or(Misbehaviour::MalformedExtension)?)
                    .is_some()
            }
            _ => {
                self.others = true;
                false
            }
        };
        if again {
            return Err(Misbehaviour::RepeatedExtension);
        }
        Ok(())
    }

    /// Writes the known ones, with the length of the list; nothing at all if there are none.
    fn write(&self, out: &mut Vec<u8>) {
        let mut list = Vec::new();
        if self.renegotiation_info {
            put_u16(&mut list, RENEGOTIATION_INFO);
            put_vec16(&mut list, &[0]);
        }
        if self.extended_master_secret {
            put_u16(&mut list, EXTENDED_MASTER_SECRET);
            put_vec16(&mut list, &[]);
        }
        if let Some(id) = self.connection_id {
            let mut contents = Vec::new();
            put_vec8(&mut contents, id);
            put_u16(&mut list, CONNECTION_ID);
            put_vec16(&mut list, &contents);
        }
        if !list.is_empty() {
            put_vec16(out, &list);
        }
    }
}

/// A ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello<'a> {
    pub(crate) version: u16,
    pub(crate) random: [u8; 32],
    pub(crate) session_id: &'a [u8],
    pub(crate) cookie: &'a [u8],
    /// Two bytes each.
    pub(crate) suites: &'a [u8],
    pub(crate) compressions: &'a [u8],
    pub(crate) extensions: Extensions<'a>,
}

impl<'a> ClientHello<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Misbehaviour> {
        let mut reader = Reader::new(body);
        Self::read(&mut reader)?.ok_or(Misbehaviour::MalformedMessage)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Option<Self>, Misbehaviour> {
        let Some(mut hello) = Self::fields(reader) else {
            return Ok(None);
        };
        hello.extensions = Extensions::read(reader)?;
        Ok(reader.is_empty().then_some(hello))
    }

    fn fields(reader: &mut Reader<'a>) -> Option<Self> {
        let hello = Self {
            version: reader.u16()?,
            random: reader.array()?,
            session_id: reader.vec8()?,
            cookie: reader.vec8()?,
            suites: reader.vec16()?,
            compressions: reader.vec8()?,
            extensions: Extensions::default(),
        };
        let suites = !hello.suites.is_empty() && hello.suites.len().is_multiple_of(2);
        (suites && hello.session_id.len() <= MAX_SESSION_ID && !hello.compressions.is_empty()).then_some(hello)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u16(&mut out, self.version);
        out.extend(self.random);
        put_vec8(&mut out, self.session_id);
        put_vec8(&mut out, self.cookie);
        put_vec16(&mut out, self.suites);
        put_vec8(&mut out, self.compressions);
        self.extensions.write(&mut out);
        out
    }

    /// Whether it offers a suite of this code.
    pub(crate) fn offers(&self, code: u16) -> bool {
        self.suites.chunks_exact(2).any(|suite| suite == code.to_be_bytes())
    }

    /// Whether the server must answer with renegotiation_info (RFC 5746 section 3.6).
    pub(crate) fn asks_for_renegotiation_info(&self) -> bool {
        self.extensions.renegotiation_info || self.offers(RENEGOTIATION_SUITE)
    }

    /// What every hello must have that is to be answered.
    pub(crate) fn check(&self) -> Result<(), Error> {
        // Versions of DTLS count downwards; a client that speaks a later one speaks 1.2 as well.
        let [major, minor] = self.version.to_be_bytes();
        if major != 0xfe || minor > 0xfd {
            return Err(Incompatibility::Version.into());
        }
        if !self.compressions.contains(&0) {
            return Err(Misbehaviour::NoNullCompression.into());
        }
        Ok(())
    }
}

/// A ServerHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerHello<'a> {
    pub(crate) random: [u8; 32],
    pub(crate) suite: Suite,
    pub(crate) extensions: Extensions<'a>,
}

impl<'a> ServerHello<'a> {
    /// Reads one that chose among `offered`. Its session id means nothing to us.
    pub(crate) fn parse(body: &'a [u8], offered: &[Suite]) -> Result<Self, Error> {
        let mut reader = Reader::new(body);
        let fields = Self::fields(&mut reader).ok_or(Misbehaviour::MalformedMessage)?;
        let (version, random, suite, compression) = fields;
        if version != DTLS_1_2 {
            return Err(Incompatibility::Version.into());
        }
        let suite = Suite::from_code(suite)
            .filter(|suite| offered.contains(suite) && compression == 0)
            .ok_or(Misbehaviour::ChoiceNotOffered)?;
        let extensions = Extensions::read(&mut reader)?;
        if !reader.is_empty() {
            return Err(Misbehaviour::MalformedMessage.into());
        }
        Ok(Self {
            random,
            suite,
            extensions,
        })
    }

    fn fields(reader: &mut Reader<'a>) -> Option<(u16, [u8; 32], u16, u8)> {
        let version = reader.u16()?;
        let random = reader.array()?;
        reader.vec8().filter(|id| id.len() <= MAX_SESSION_ID)?;
        Some((version, random, reader.u16()?, reader.u8()?))
    }

    /// Writes it with an empty session id: to echo the one of the client would promise a resumption, and OpenSSL then fails
    /// (measured).
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u16(&mut out, DTLS_1_2);
        out.extend(self.random);
        put_vec8(&mut out, &[]);
        put_u16(&mut out, self.suite.code());
        out.push(0);
        self.extensions.write(&mut out);
        out
    }
}

/// The cookie of a HelloVerifyRequest. It may call itself DTLS 1.0 or 1.2.
pub(crate) fn parse_verify(body: &[u8]) -> Result<&[u8], Misbehaviour> {
    let mut reader = Reader::new(body);
    let version = reader.u16();
    let cookie = reader.vec8().filter(|_| reader.is_empty());
    match (version, cookie) {
        (Some(DTLS_1_0 | DTLS_1_2), Some(cookie)) => Ok(cookie),
        _ => Err(Misbehaviour::MalformedMessage),
    }
}

/// A HelloVerifyRequest; RFC 6347 section 4.2.1 asks for the version of DTLS 1.0 here.
pub(crate) fn verify(cookie: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_u16(&mut out, DTLS_1_0);
    put_vec8(&mut out, cookie);
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SUITES: [u8; 4] = [0, 0xa8, 0, 0xff];

    pub(crate) fn hello() -> ClientHello<'static> {
        ClientHello {
            version: DTLS_1_2,
            random: [7; 32],
            session_id: b"app-id",
            cookie: b"",
            suites: &SUITES,
            compressions: &[0],
            extensions: Extensions {
                extended_master_secret: true,
                renegotiation_info: false,
                connection_id: Some(b""),
                others: false,
            },
        }
    }

    fn with_extensions(list: &[u8]) -> Vec<u8> {
        let mut bare = hello();
        bare.extensions = Extensions::default();
        let mut body = bare.to_bytes();
        put_vec16(&mut body, list);
        body
    }

    #[test]
    fn a_client_hello_that_was_written_is_read() {
        let body = hello().to_bytes();
        assert_eq!(ClientHello::parse(&body), Ok(hello()));
        assert!(hello().asks_for_renegotiation_info() && hello().check().is_ok());
        for length in 0..body.len() {
            let _ = ClientHello::parse(&body[..length]);
        }
    }

    #[test]
    fn a_server_hello_that_was_written_is_read() {
        let hello = ServerHello {
            random: [9; 32],
            suite: Suite::Aes256GcmSha384,
            extensions: Extensions {
                renegotiation_info: true,
                connection_id: Some(b"1234"),
                ..Extensions::default()
            },
        };
        assert_eq!(ServerHello::parse(&hello.to_bytes(), &Suite::ALL), Ok(hello));
        assert_eq!(
            ServerHello::parse(&hello.to_bytes(), &[Suite::Aes128GcmSha256]),
            Err(Misbehaviour::ChoiceNotOffered.into())
        );
    }

    #[test]
    fn extensions_that_come_twice_or_make_no_sense_are_refused() {
        let parse = |list: &[u8]| ClientHello::parse(&with_extensions(list)).map(|_| ());
        assert_eq!(parse(&[0, 23, 0, 0, 0, 23, 0, 0]), Err(Misbehaviour::RepeatedExtension));
        assert_eq!(parse(&[0, 23, 0, 1, 0]), Err(Misbehaviour::MalformedExtension));
        assert_eq!(parse(&[0, 54, 0, 1, 5]), Err(Misbehaviour::MalformedExtension));
        assert_eq!(parse(&[0xff, 1, 0, 2, 1, 9]), Err(Misbehaviour::Renegotiation));
        assert_eq!(parse(&[0, 23, 0]), Err(Misbehaviour::MalformedMessage));
        assert_eq!(parse(&[0, 99, 0, 1, 5]), Ok(()));
    }

    #[test]
    fn a_hello_of_dtls_1_0_or_without_null_compression_is_not_answered() {
        let old = ClientHello {
            version: DTLS_1_0,
            ..hello()
        };
        assert_eq!(old.check(), Err(Incompatibility::Version.into()));
        let compressed = ClientHello {
            compressions: &[1],
            ..hello()
        };
        assert_eq!(compressed.check(), Err(Misbehaviour::NoNullCompression.into()));
    }

    #[test]
    fn both_versions_of_a_verify_request_are_read() {
        let mut body = verify(b"cookie");
        assert_eq!(parse_verify(&body), Ok(&b"cookie"[..]));
        body[1] = 0xfd;
        assert_eq!(parse_verify(&body), Ok(&b"cookie"[..]));
        body.push(0);
        assert!(parse_verify(&body).is_err());
    }
}
