//! The server: from a proven ClientHello to the Finished of the client.
//!
//! ```text
//!   Server::new (ServerHello, ServerHelloDone) --> AwaitKeyExchange -- ClientKeyExchange --> AwaitChange
//! ```

use std::time::Duration;

use now::{Awake, Deadline};

use crate::codec::Reader;
use crate::finish::{AwaitChange, Ending};
use crate::flight::{FinalFlight, Sender};
use crate::handshake::{Established, Facts, Handshake, Next, Plain};
use crate::hello::{ClientHello, Extensions, ServerHello};
use crate::inbox::Inbox;
use crate::message::{Kind, Message};
use crate::open::OpenHalf;
use crate::schedule::{MasterSecret, Randoms, Side, Transcript};
use crate::{ConnectionId, Counters, Error, Incompatibility, Misbehaviour, ProvenHello, Psk, SealHalf, Suite};

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The key.
    pub psk: Psk,
    /// In order of preference, which goes before that of the client.
    pub suites: Vec<Suite>,
    /// Whether to agree to RFC 7627.
    pub extended_master_secret: bool,
    /// The id that records to us shall carry, if the client offers RFC 9146.
    pub connection_id: Option<ConnectionId>,
    /// Largest datagram of a handshake, in bytes.
    pub mtu: usize,
}

/// A handshake in the role of the server.
pub struct Server(Handshake<AwaitKeyExchange>);

impl Server {
    /// Answers a hello; the first datagram is then in [`Server::poll`]. An error says why the hello cannot be answered, and
    /// nothing is sent.
    pub fn new(config: ServerConfig, hello: ProvenHello, random: [u8; 32], now: Awake) -> Result<Self, Error> {
        let (message, record_sequence) = hello.into_parts()?;
        let state = AwaitKeyExchange::new(&config, &message, random)?;
        // The first record has the sequence of the hello (RFC 6347 section 4.2.1).
        let sender = Sender::new(config.mtu, record_sequence, now);
        Ok(Self(Handshake::new(state, sender, now)))
    }

    /// Takes a datagram, which is opened in place. An error is the end of the handshake; [`Server::poll`] may still hold an
    /// alert for the peer.
    pub fn received(&mut self, datagram: &mut [u8], now: Awake) -> Result<(), Error> {
        self.0.received(datagram, now)
    }

    /// To be called at the deadline. An error is the end of the handshake.
    pub fn handle_timeout(&mut self, now: Awake) -> Result<(), Error> {
        self.0.handle_timeout(now)
    }

    /// When [`Server::handle_timeout`] is to be called; `None` when the handshake is complete or over.
    pub fn deadline(&self) -> Option<Deadline> {
        self.0.deadline()
    }

    /// Time in which the process did not run does not count.
    pub fn rebase(&mut self, by: Duration) {
        self.0.rebase(by);
    }

    /// The next datagram to send.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        self.0.poll()
    }

    /// The connection, exactly once, when the handshake is complete.
    pub fn established(&mut self) -> Option<Established> {
        self.0.established()
    }

    /// What was discarded up to now.
    pub fn discarded(&self) -> &Counters {
        self.0.discarded()
    }

    /// The last fatal alert of epoch 0. Anybody can send one, so it ends nothing; it may explain [`Error::TimedOut`].
    pub fn unproven_alert(&self) -> Option<u8> {
        self.0.unproven_alert()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// ServerHello and ServerHelloDone were sent.
struct AwaitKeyExchange {
    psk: Psk,
    flight: [Message; 2],
    inbox: Inbox,
    randoms: Randoms,
    transcript: Transcript,
    facts: Facts,
}

impl AwaitKeyExchange {
    fn new(config: &ServerConfig, message: &Message, random: [u8; 32]) -> Result<Self, Error> {
        let hello = ClientHello::parse(&message.body)?;
        hello.check()?;
        let suite = config.suites.iter().copied().find(|suite| hello.offers(suite.code()));
        let suite = suite.ok_or(Incompatibility::NoCommonSuite)?;
        let facts = agree(config, &hello, suite);
        let answer = ServerHello {
            random,
            suite,
            extensions: Extensions {
                extended_master_secret: facts.extended_master_secret,
                renegotiation_info: hello.asks_for_renegotiation_info(),
                connection_id: facts.own_connection_id.as_ref().map(ConnectionId::as_bytes),
                others: false,
            },
        };
        let flight = [
            Message {
                kind: Kind::ServerHello,
                sequence: message.sequence,
                body: answer.to_bytes(),
            },
            Message {
                kind: Kind::ServerHelloDone,
                sequence: message.sequence + 1,
                body: Vec::new(),
            },
        ];
        let mut transcript = Transcript::new(suite);
        transcript.add(message);
        flight.iter().for_each(|message| transcript.add(message));
        Ok(Self {
            psk: config.psk.clone(),
            flight,
            inbox: Inbox::starting_at(message.sequence + 1),
            randoms: Randoms {
                client: hello.random,
                server: random,
            },
            transcript,
            facts,
        })
    }
}

/// What both sides can do. Connection ids are for both directions or for none: an id of the client that we cannot carry
/// forbids ours as well.
fn agree(config: &ServerConfig, hello: &ClientHello<'_>, suite: Suite) -> Facts {
    let theirs = match hello.extensions.connection_id {
        None => None,
        Some([]) => Some(None),
        Some(id) => ConnectionId::new(id).map(Some),
    };
    let ids = config.connection_id.zip(theirs);
    Facts {
        suite,
        extended_master_secret: config.extended_master_secret && hello.extensions.extended_master_secret,
        peer_connection_id: ids.and_then(|(_, theirs)| theirs),
        own_connection_id: ids.map(|(ours, _)| ours),
        early: Vec::new(),
    }
}

impl Plain for AwaitKeyExchange {
    fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    fn flight(&self) -> &[Message] {
        &self.flight
    }

    fn id_length(&self) -> usize {
        self.facts.own_connection_id.map_or(0, |id| id.as_bytes().len())
    }

    /// ChangeCipherSpec and Finished follow in the same flight.
    fn is_last(&self) -> bool {
        true
    }

    fn message(mut self, message: Message, _: &mut Sender, _: Awake) -> Result<Next<Self>, Error> {
        if message.kind != Kind::ClientKeyExchange {
            return Err(Misbehaviour::UnexpectedMessage.into());
        }
        // Whoever has the key is known by the session id; the identity says nothing.
        let mut reader = Reader::new(&message.body);
        reader
            .vec16()
            .filter(|_| reader.is_empty())
            .ok_or(Misbehaviour::MalformedMessage)?;
        self.transcript.add(&message);
        Ok(Next::Change(Box::new(self.keys())))
    }
}

impl AwaitKeyExchange {
    /// Derives the keys. What the client must say in Finished is known, so our own Finished is too.
    fn keys(mut self) -> AwaitChange {
        let master = if self.facts.extended_master_secret {
            MasterSecret::extended(self.facts.suite, &self.psk, &self.transcript)
        } else {
            MasterSecret::from_randoms(self.facts.suite, &self.psk, &self.randoms)
        };
        let (theirs, ours) = master.protections(&self.randoms);
        let due = self.inbox.due();
        let expected = master.verify_data(Side::Client, &self.transcript);
        self.transcript.add(&Message {
            kind: Kind::Finished,
            sequence: due,
            body: expected.to_vec(),
        });
        let [hello, done] = self.flight;
        let finished = Message {
            kind: Kind::Finished,
            sequence: done.sequence + 1,
            body: master.verify_data(Side::Server, &self.transcript).to_vec(),
        };
        AwaitChange {
            due,
            expected,
            open: OpenHalf::new(theirs, self.facts.own_connection_id),
            ending: Ending::Server {
                sent: vec![hello, done],
                reply: FinalFlight {
                    plain: Vec::new(),
                    finished,
                    seal: SealHalf::new(ours, self.facts.peer_connection_id),
                },
            },
            facts: self.facts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::tests::hello;
    use crate::listener::{Peek, peek};
    use crate::record::{ContentType, DTLS_1_0, Header, put_plain};

    fn config() -> ServerConfig {
        ServerConfig {
            psk: Psk::new(&[7; 32]).unwrap(),
            suites: vec![Suite::Aes256GcmSha384, Suite::Aes128GcmSha256],
            extended_master_secret: true,
            connection_id: ConnectionId::new(&[9; 8]),
            mtu: 1200,
        }
    }

    fn message(hello: ClientHello<'_>) -> Message {
        Message {
            kind: Kind::ClientHello,
            sequence: 1,
            body: hello.to_bytes(),
        }
    }

    fn facts(config: &ServerConfig, hello: ClientHello<'_>) -> Result<Facts, Error> {
        AwaitKeyExchange::new(config, &message(hello), [2; 32]).map(|state| state.facts)
    }

    /// The first flight of a server that is asked by this hello.
    fn answer(config: ServerConfig, hello: ClientHello<'_>) -> Vec<u8> {
        let mut datagram = Vec::new();
        let bytes = message(hello).to_bytes();
        put_plain(&mut datagram, ContentType::Handshake, DTLS_1_0, 5, &bytes);
        let Peek::Hello(view) = peek(&datagram, 8) else {
            panic!("no hello");
        };
        let mut server = Server::new(config, view.without_cookie(), [2; 32], Awake::default()).unwrap();
        server.poll().unwrap()
    }

    #[test]
    fn the_session_id_is_never_echoed_and_the_sequences_go_on_from_the_hello() {
        let answer = answer(config(), hello());
        let header = Header::parse(&answer, 0).unwrap();
        assert_eq!(header.sequence, 5);
        let body = &answer[header.body];
        assert_eq!(body[..6], [2, 0, 0, 62, 0, 1]);
        assert_eq!(body[12 + 2 + 32], 0, "the length of the session id");
        assert!(!answer.windows(6).any(|window| window == b"app-id"));
    }

    #[test]
    fn the_suite_that_signals_renegotiation_info_is_answered_with_the_extension() {
        let info = [0xff, 1, 0, 1, 0];
        let has_info = |answer: Vec<u8>| answer.windows(5).any(|window| window == info);
        assert!(has_info(answer(config(), hello())));
        let silent = ClientHello {
            suites: &[0, 0xa8],
            ..hello()
        };
        assert!(!has_info(answer(config(), silent)));
        let mut extension = silent;
        extension.extensions.renegotiation_info = true;
        assert!(has_info(answer(config(), extension)));
    }

    #[test]
    fn the_preference_of_the_server_decides() {
        let both = ClientHello {
            suites: &[0, 0xa8, 0, 0xa9],
            ..hello()
        };
        assert_eq!(facts(&config(), both).unwrap().suite, Suite::Aes256GcmSha384);
        let none = ClientHello {
            suites: &[0xcc, 0xab],
            ..hello()
        };
        assert_eq!(facts(&config(), none), Err(Incompatibility::NoCommonSuite.into()));
    }

    #[test]
    fn connection_ids_are_for_both_directions_or_for_none() {
        let with = |id: Option<&'static [u8]>| {
            let mut hello = hello();
            hello.extensions.connection_id = id;
            let facts = facts(&config(), hello).unwrap();
            (facts.own_connection_id, facts.peer_connection_id)
        };
        assert_eq!(with(None), (None, None));
        assert_eq!(with(Some(b"")), (ConnectionId::new(&[9; 8]), None));
        assert_eq!(
            with(Some(b"12345")),
            (ConnectionId::new(&[9; 8]), ConnectionId::new(b"12345"))
        );
        assert_eq!(with(Some(b"twelve bytes")), (None, None));
    }

    #[test]
    fn the_extended_master_secret_needs_both() {
        let mut plain = hello();
        plain.extensions.extended_master_secret = false;
        assert!(!facts(&config(), plain).unwrap().extended_master_secret);
        let off = ServerConfig {
            extended_master_secret: false,
            ..config()
        };
        assert!(!facts(&off, hello()).unwrap().extended_master_secret);
        assert!(facts(&config(), hello()).unwrap().extended_master_secret);
    }
}
