//! What a listener can do without any state: tell datagrams apart, and make a stranger prove its address.
//!
//! ```text
//!   ClientHello --> HelloView --> Cookies::check --> Ask(HelloVerifyRequest)     nothing is kept
//!                       |               |
//!                       |               +----------> Proven(ProvenHello) --> Server::new
//!                       +--> without_cookie ------------^    (the session id is a secret of its own, as App-IDs are)
//! ```

use aws_lc_rs::hmac;

use crate::codec::Reader;
use crate::connection_id::MAX_LENGTH;
use crate::hello::{self, ClientHello};
use crate::inbox::MAX_MESSAGE;
use crate::message::{Fragment, Kind, Message};
use crate::record::{ContentType, DTLS_1_0, Header, MAX_SEQUENCE, put_plain};
use crate::{ConnectionId, Error, Misbehaviour};

/// Highest message sequence of a hello that is answered. A client counts one for each cookie it was asked for; without a
/// bound, the sequences of a handshake could overflow.
pub const MAX_HELLO_SEQUENCE: u16 = 16;

/// Length of our cookies. A HelloVerifyRequest with it has 60 bytes, and the shortest hello 67.
const COOKIE: usize = 32;

/// What a datagram is, as far as its first record tells.
#[derive(Clone, Copy, Debug)]
pub enum Peek<'a> {
    /// A ClientHello in one fragment.
    Hello(HelloView<'a>),
    /// Another record without connection id. Of epoch 0, it is a part of a handshake.
    Record {
        /// Its epoch; sealed records are of epoch 1.
        epoch: u16,
    },
    /// A record with this connection id.
    Identified(ConnectionId),
    /// No record of DTLS.
    Foreign,
}

/// Looks at the first record of a datagram. `connection_id_length` is that of our own ids: 4 to 8, or 0 for none.
pub fn peek(datagram: &[u8], connection_id_length: usize) -> Peek<'_> {
    let length = if connection_id_length > MAX_LENGTH {
        0
    } else {
        connection_id_length
    };
    let Some(header) = Header::parse(datagram, length) else {
        return Peek::Foreign;
    };
    match header.content {
        ContentType::Identified => {
            ConnectionId::new(&datagram[header.connection_id]).map_or(Peek::Foreign, Peek::Identified)
        }
        ContentType::Handshake if header.epoch == 0 => {
            HelloView::read(&header, datagram).map_or(Peek::Record { epoch: 0 }, Peek::Hello)
        }
        ContentType::ChangeCipherSpec | ContentType::Alert | ContentType::Handshake | ContentType::Data => {
            Peek::Record { epoch: header.epoch }
        }
    }
}

/// A ClientHello that has proven nothing yet.
#[derive(Clone, Copy, Debug)]
pub struct HelloView<'a> {
    record_sequence: u64,
    sequence: u16,
    body: &'a [u8],
    hello: ClientHello<'a>,
}

impl<'a> HelloView<'a> {
    fn read(header: &Header, datagram: &'a [u8]) -> Option<Self> {
        let fragment = Fragment::read(&mut Reader::new(&datagram[header.body.clone()]))?;
        if fragment.kind != Kind::ClientHello || !fragment.is_whole() || fragment.length > MAX_MESSAGE {
            return None;
        }
        Some(Self {
            record_sequence: header.sequence,
            sequence: fragment.sequence,
            body: fragment.bytes,
            hello: ClientHello::parse(fragment.bytes).ok()?,
        })
    }

    /// The session id: the App-ID of a session that was granted. At most 32 bytes, perhaps none.
    pub fn session_id(&self) -> &'a [u8] {
        self.hello.session_id
    }

    /// The cookie, empty in a first hello.
    pub fn cookie(&self) -> &'a [u8] {
        self.hello.cookie
    }

    /// Takes the hello as it is. Only for a hello that proves itself otherwise, by a session id that nobody can guess.
    pub fn without_cookie(&self) -> ProvenHello {
        ProvenHello {
            record_sequence: self.record_sequence,
            message: Message {
                kind: Kind::ClientHello,
                sequence: self.sequence,
                body: self.body.to_vec(),
            },
        }
    }
}

/// A ClientHello whose sender receives what is sent to its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenHello {
    record_sequence: u64,
    message: Message,
}

impl ProvenHello {
    /// The message and the sequence of its record, if there is room behind both for a handshake.
    pub(crate) fn into_parts(self) -> Result<(Message, u64), Error> {
        if self.message.sequence > MAX_HELLO_SEQUENCE || self.record_sequence > MAX_SEQUENCE / 2 {
            return Err(Misbehaviour::SequenceTooHigh.into());
        }
        Ok((self.message, self.record_sequence))
    }
}

/// What a listener does with a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CookieCheck {
    /// The cookie is ours, for this hello from this address.
    Proven(ProvenHello),
    /// Send this HelloVerifyRequest, which is never longer than the hello, and forget about it.
    Ask(Vec<u8>),
}

/// The keys of cookies: the current one and the one before. A cookie is an HMAC-SHA256 over source, random, session id and
/// suites (RFC 6347 section 4.2.1).
pub struct Cookies {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

impl Cookies {
    /// Starts with one random key.
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            current: hmac::Key::new(hmac::HMAC_SHA256, &key),
            previous: None,
        }
    }

    /// Makes new cookies with `key` from now on. Those of the key before are still good, until the next rotation.
    pub fn rotate(&mut self, key: [u8; 32]) {
        let next = hmac::Key::new(hmac::HMAC_SHA256, &key);
        self.previous = Some(std::mem::replace(&mut self.current, next));
    }

    /// Whether the hello carries a cookie of ours for it. `source` is address and port of its sender, in whatever form.
    pub fn check(&self, hello: &HelloView<'_>, source: &[u8]) -> CookieCheck {
        let input = input(hello, source);
        let keys = [Some(&self.current), self.previous.as_ref()];
        let proven = keys
            .into_iter()
            .flatten()
            .any(|key| hmac::verify(key, &input, hello.cookie()).is_ok());
        if proven {
            return CookieCheck::Proven(hello.without_cookie());
        }
        CookieCheck::Ask(request(hello, hmac::sign(&self.current, &input).as_ref()))
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[cookie keys]")
    }
}

/// What a cookie binds, each with its length so that no two hellos read the same.
fn input(hello: &HelloView<'_>, source: &[u8]) -> Vec<u8> {
    let parts = [source, &hello.hello.random, hello.hello.session_id, hello.hello.suites];
    let mut input = Vec::new();
    for part in parts {
        input.extend((part.len() as u64).to_be_bytes());
        input.extend(part);
    }
    input
}

/// A HelloVerifyRequest. It takes the sequences of the hello, so that a server without state repeats none (RFC 6347 section
/// 4.2.1).
fn request(hello: &HelloView<'_>, cookie: &[u8]) -> Vec<u8> {
    let message = Message {
        kind: Kind::HelloVerifyRequest,
        sequence: hello.sequence,
        body: hello::verify(&cookie[..COOKIE]),
    };
    let mut datagram = Vec::new();
    put_plain(
        &mut datagram,
        ContentType::Handshake,
        DTLS_1_0,
        hello.record_sequence,
        &message.to_bytes(),
    );
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::tests::hello;

    fn datagram(hello: ClientHello<'_>, sequence: u16) -> Vec<u8> {
        let message = Message {
            kind: Kind::ClientHello,
            sequence,
            body: hello.to_bytes(),
        };
        let mut datagram = Vec::new();
        put_plain(&mut datagram, ContentType::Handshake, DTLS_1_0, 3, &message.to_bytes());
        datagram
    }

    fn view(datagram: &[u8]) -> HelloView<'_> {
        let Peek::Hello(view) = peek(datagram, 8) else {
            panic!("not a hello");
        };
        view
    }

    fn asked(check: CookieCheck) -> Vec<u8> {
        let CookieCheck::Ask(request) = check else {
            panic!("proven");
        };
        let header = Header::parse(&request, 0).unwrap();
        assert_eq!((header.version, header.sequence), (DTLS_1_0, 3));
        let fragment = Fragment::read(&mut Reader::new(&request[header.body])).unwrap();
        assert_eq!((fragment.kind, fragment.sequence), (Kind::HelloVerifyRequest, 0));
        hello::parse_verify(fragment.bytes).unwrap().to_vec()
    }

    #[test]
    fn a_hello_is_seen_with_its_session_id() {
        let datagram = datagram(hello(), 0);
        assert_eq!(view(&datagram).session_id(), b"app-id");
        assert_eq!(view(&datagram).cookie(), b"");
    }

    #[test]
    fn a_hello_in_fragments_is_a_record_and_noise_is_foreign() {
        let mut fragment = datagram(hello(), 0);
        fragment[13 + 3] += 1;
        assert!(matches!(peek(&fragment, 0), Peek::Record { epoch: 0 }));
        assert!(matches!(peek(&[], 0), Peek::Foreign));
        assert!(matches!(peek(&[0xff; 40], 0), Peek::Foreign));
        let data = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 1, 0];
        assert!(matches!(peek(&data, 8), Peek::Record { epoch: 1 }));
    }

    #[test]
    fn a_record_with_a_connection_id_is_known_by_it() {
        let datagram = [25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4, 0, 1, 0];
        let Peek::Identified(id) = peek(&datagram, 4) else {
            panic!("not identified");
        };
        assert_eq!(id.as_bytes(), [1, 2, 3, 4]);
        assert!(matches!(peek(&datagram, 0), Peek::Foreign));
        assert!(matches!(peek(&datagram, 99), Peek::Foreign));
    }

    #[test]
    fn a_cookie_is_good_for_its_hello_from_its_source_only() {
        let cookies = Cookies::new([1; 32]);
        let cookie = asked(cookies.check(&view(&datagram(hello(), 0)), b"here"));
        let again = ClientHello {
            cookie: &cookie,
            ..hello()
        };
        let second = datagram(again, 1);
        assert!(matches!(cookies.check(&view(&second), b"here"), CookieCheck::Proven(_)));
        assert!(matches!(cookies.check(&view(&second), b"there"), CookieCheck::Ask(_)));
        for other in [
            ClientHello {
                random: [8; 32],
                ..again
            },
            ClientHello {
                session_id: b"app-ie",
                ..again
            },
            ClientHello {
                suites: &[0, 0xa9],
                ..again
            },
            ClientHello {
                cookie: &cookie[1..],
                ..again
            },
        ] {
            let other = datagram(other, 1);
            assert!(matches!(cookies.check(&view(&other), b"here"), CookieCheck::Ask(_)));
        }
    }

    #[test]
    fn a_cookie_outlives_one_rotation() {
        let mut cookies = Cookies::new([1; 32]);
        let cookie = asked(cookies.check(&view(&datagram(hello(), 0)), b"here"));
        let second = datagram(
            ClientHello {
                cookie: &cookie,
                ..hello()
            },
            1,
        );
        cookies.rotate([2; 32]);
        assert!(matches!(cookies.check(&view(&second), b"here"), CookieCheck::Proven(_)));
        cookies.rotate([3; 32]);
        assert!(matches!(cookies.check(&view(&second), b"here"), CookieCheck::Ask(_)));
    }

    #[test]
    fn the_answer_to_the_shortest_hello_is_shorter() {
        let shortest = ClientHello {
            session_id: b"",
            suites: &[0, 0xa8],
            extensions: hello::Extensions::default(),
            ..hello()
        };
        let datagram = datagram(shortest, 0);
        let CookieCheck::Ask(request) = Cookies::new([1; 32]).check(&view(&datagram), b"") else {
            panic!("proven");
        };
        assert_eq!((request.len(), datagram.len()), (60, 67));
    }

    #[test]
    fn sequences_without_room_for_a_handshake_are_refused() {
        for sequence in [MAX_HELLO_SEQUENCE + 1, u16::MAX] {
            let hello = view(&datagram(hello(), sequence)).without_cookie();
            assert_eq!(hello.into_parts(), Err(Misbehaviour::SequenceTooHigh.into()));
        }
        let mut late = datagram(hello(), 0);
        late[5..11].fill(0xff);
        let hello = view(&late).without_cookie();
        assert_eq!(hello.into_parts(), Err(Misbehaviour::SequenceTooHigh.into()));
    }
}
