//! The client: from ClientHello to its Finished.
//!
//! ```text
//!   AwaitHello -- HelloVerifyRequest --> AwaitHello (with cookie, at most 4 times)
//!       |
//!       +-- ServerHello --> AwaitDone -- ServerHelloDone --> AwaitChange
//!                               +-- ServerKeyExchange (a hint, ignored, once)
//! ```

use std::time::Duration;

use now::{Awake, Deadline};

use crate::codec::{Reader, put_vec16};
use crate::finish::{AwaitChange, Ending};
use crate::flight::{FinalFlight, Flight, Sender};
use crate::handshake::{Established, Facts, Handshake, Next, Plain};
use crate::hello::{self, ClientHello, Extensions, MAX_SESSION_ID, ServerHello};
use crate::inbox::Inbox;
use crate::message::{Kind, Message};
use crate::open::OpenHalf;
use crate::record::DTLS_1_2;
use crate::schedule::{MasterSecret, Randoms, Side, Transcript};
use crate::{ConnectionId, Counters, Error, Incompatibility, Misbehaviour, Psk, SealHalf, Suite, Unusable};

/// Longest identity, in bytes (RFC 4279 section 5.3 asks for 128); ours is `psk`.
pub const MAX_IDENTITY: usize = 128;

/// Cookies that a client lets itself be asked for. One is usual, two happen when the key of a listener changes.
const MAX_VERIFICATIONS: u16 = 4;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The key.
    pub psk: Psk,
    /// What the client calls itself; the gateways we know ignore it.
    pub identity: Vec<u8>,
    /// The App-ID: what a gateway finds the session by. At most 32 bytes.
    pub session_id: Vec<u8>,
    /// In order of preference; at least one, and none twice.
    pub suites: Vec<Suite>,
    /// Whether to offer RFC 7627.
    pub extended_master_secret: bool,
    /// Whether to offer RFC 9146. Our records then carry the id of the server, and its records none.
    pub connection_ids: bool,
    /// Largest datagram of a handshake, in bytes.
    pub mtu: usize,
}

impl ClientConfig {
    fn check(&self) -> Result<(), Unusable> {
        let twice = |(at, suite)| self.suites[..at].contains(suite);
        if self.session_id.len() > MAX_SESSION_ID {
            Err(Unusable::SessionIdLength)
        } else if self.identity.len() > MAX_IDENTITY {
            Err(Unusable::IdentityLength)
        } else if self.suites.is_empty() || self.suites.iter().enumerate().any(twice) {
            Err(Unusable::Suites)
        } else {
            Ok(())
        }
    }

    fn hello(&self, random: [u8; 32], cookie: &[u8], sequence: u16) -> Message {
        let suites: Vec<u8> = self
            .suites
            .iter()
            .flat_map(|suite| suite.code().to_be_bytes())
            .collect();
        let hello = ClientHello {
            version: DTLS_1_2,
            random,
            session_id: &self.session_id,
            cookie,
            suites: &suites,
            compressions: &[0],
            extensions: Extensions {
                extended_master_secret: self.extended_master_secret,
                renegotiation_info: true,
                connection_id: self.connection_ids.then_some(&[]),
                others: false,
            },
        };
        Message {
            kind: Kind::ClientHello,
            sequence,
            body: hello.to_bytes(),
        }
    }
}

/// A handshake in the role of the client.
pub struct Client(Handshake<State>);

impl Client {
    /// Begins a handshake; the first datagram is then in [`Client::poll`]. With a configuration that cannot be used, the
    /// handshake is over before it began, and every call says why.
    pub fn new(config: ClientConfig, random: [u8; 32], now: Awake) -> Self {
        let sender = Sender::new(config.mtu, 0, now);
        if let Err(wrong) = config.check() {
            return Self(Handshake::over(wrong.into(), sender, now));
        }
        let hello = AwaitHello {
            flight: [config.hello(random, &[], 0)],
            inbox: Inbox::starting_at(0),
            random,
            config: Box::new(config),
        };
        Self(Handshake::new(State::Hello(hello), sender, now))
    }

    /// Takes a datagram, which is opened in place. An error is the end of the handshake; [`Client::poll`] may still hold an
    /// alert for the peer.
    pub fn received(&mut self, datagram: &mut [u8], now: Awake) -> Result<(), Error> {
        self.0.received(datagram, now)
    }

    /// To be called at the deadline. An error is the end of the handshake.
    pub fn handle_timeout(&mut self, now: Awake) -> Result<(), Error> {
        self.0.handle_timeout(now)
    }

    /// When [`Client::handle_timeout`] is to be called; `None` when the handshake is complete or over.
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

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

enum State {
    Hello(AwaitHello),
    Done(AwaitDone),
}

impl Plain for State {
    fn inbox(&mut self) -> &mut Inbox {
        match self {
            Self::Hello(state) => &mut state.inbox,
            Self::Done(state) => &mut state.inbox,
        }
    }

    fn flight(&self) -> &[Message] {
        match self {
            Self::Hello(state) => &state.flight,
            Self::Done(state) => &state.flight,
        }
    }

    /// A client asks for none.
    fn id_length(&self) -> usize {
        0
    }

    /// The server seals nothing before our Finished.
    fn is_last(&self) -> bool {
        false
    }

    fn message(self, message: Message, sender: &mut Sender, now: Awake) -> Result<Next<Self>, Error> {
        match self {
            Self::Hello(state) => state.message(&message, sender, now).map(Next::Plain),
            Self::Done(state) => state.message(&message, sender, now),
        }
    }
}

/// A ClientHello was sent.
struct AwaitHello {
    config: Box<ClientConfig>,
    random: [u8; 32],
    flight: [Message; 1],
    inbox: Inbox,
}

impl AwaitHello {
    fn message(self, message: &Message, sender: &mut Sender, now: Awake) -> Result<State, Error> {
        match message.kind {
            Kind::HelloVerifyRequest => self.verify(message, sender, now).map(State::Hello),
            Kind::ServerHello => self.answer(message).map(State::Done),
            Kind::ClientHello
            | Kind::ServerKeyExchange
            | Kind::ServerHelloDone
            | Kind::ClientKeyExchange
            | Kind::Finished
            | Kind::Other(_) => Err(Misbehaviour::UnexpectedMessage.into()),
        }
    }

    /// Says the same again, with the cookie. The transcript begins with the last hello.
    fn verify(mut self, message: &Message, sender: &mut Sender, now: Awake) -> Result<Self, Error> {
        let cookie = hello::parse_verify(&message.body)?;
        let sequence = self.flight[0].sequence + 1;
        if sequence > MAX_VERIFICATIONS {
            return Err(Misbehaviour::EndlessVerification.into());
        }
        self.flight = [self.config.hello(self.random, cookie, sequence)];
        sender.begin(Flight::Plain(&self.flight), now);
        Ok(self)
    }

    fn answer(self, message: &Message) -> Result<AwaitDone, Error> {
        let hello = ServerHello::parse(&message.body, &self.config.suites)?;
        let chosen = hello.extensions;
        let unasked = (chosen.extended_master_secret && !self.config.extended_master_secret)
            || (chosen.connection_id.is_some() && !self.config.connection_ids)
            || chosen.others;
        if unasked {
            return Err(Misbehaviour::ExtensionNotOffered.into());
        }
        let peer_connection_id = match chosen.connection_id {
            None | Some([]) => None,
            Some(id) => Some(ConnectionId::new(id).ok_or(Incompatibility::ConnectionIdLength)?),
        };
        let mut transcript = Transcript::new(hello.suite);
        transcript.add(&self.flight[0]);
        transcript.add(message);
        Ok(AwaitDone {
            randoms: Randoms {
                client: self.random,
                server: hello.random,
            },
            facts: Facts {
                suite: hello.suite,
                extended_master_secret: chosen.extended_master_secret,
                peer_connection_id,
                own_connection_id: None,
                early: Vec::new(),
            },
            config: self.config,
            flight: self.flight,
            inbox: self.inbox,
            transcript,
            hint: Hint::Possible,
        })
    }
}

/// Whether a ServerKeyExchange may still come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Possible,
    Seen,
}

/// The ServerHello came.
struct AwaitDone {
    config: Box<ClientConfig>,
    flight: [Message; 1],
    inbox: Inbox,
    randoms: Randoms,
    transcript: Transcript,
    facts: Facts,
    hint: Hint,
}

impl AwaitDone {
    fn message(mut self, message: &Message, sender: &mut Sender, now: Awake) -> Result<Next<State>, Error> {
        self.transcript.add(message);
        match message.kind {
            Kind::ServerKeyExchange if self.hint == Hint::Possible => {
                let mut reader = Reader::new(&message.body);
                reader
                    .vec16()
                    .filter(|_| reader.is_empty())
                    .ok_or(Misbehaviour::MalformedMessage)?;
                self.hint = Hint::Seen;
                Ok(Next::Plain(State::Done(self)))
            }
            Kind::ServerHelloDone if message.body.is_empty() => Ok(Next::Change(Box::new(self.finish(sender, now)))),
            Kind::ServerHelloDone => Err(Misbehaviour::MalformedMessage.into()),
            Kind::ServerKeyExchange
            | Kind::ClientHello
            | Kind::ServerHello
            | Kind::HelloVerifyRequest
            | Kind::ClientKeyExchange
            | Kind::Finished
            | Kind::Other(_) => Err(Misbehaviour::UnexpectedMessage.into()),
        }
    }

    /// Derives the keys and sends the last flight.
    fn finish(mut self, sender: &mut Sender, now: Awake) -> AwaitChange {
        let mut body = Vec::new();
        put_vec16(&mut body, &self.config.identity);
        let exchange = Message {
            kind: Kind::ClientKeyExchange,
            sequence: self.flight[0].sequence + 1,
            body,
        };
        self.transcript.add(&exchange);
        let master = if self.facts.extended_master_secret {
            MasterSecret::extended(self.facts.suite, &self.config.psk, &self.transcript)
        } else {
            MasterSecret::from_randoms(self.facts.suite, &self.config.psk, &self.randoms)
        };
        let (ours, theirs) = master.protections(&self.randoms);
        let finished = Message {
            kind: Kind::Finished,
            sequence: exchange.sequence + 1,
            body: master.verify_data(Side::Client, &self.transcript).to_vec(),
        };
        self.transcript.add(&finished);
        let mut last = FinalFlight {
            plain: vec![exchange],
            finished,
            seal: SealHalf::new(ours, self.facts.peer_connection_id),
        };
        sender.begin(Flight::Final(&mut last), now);
        AwaitChange {
            due: self.inbox.due(),
            expected: master.verify_data(Side::Server, &self.transcript),
            open: OpenHalf::new(theirs, None),
            facts: self.facts,
            ending: Ending::Client(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ContentType, DTLS_1_0, Header, put_plain};

    fn config() -> ClientConfig {
        ClientConfig {
            psk: Psk::new(&[7; 32]).unwrap(),
            identity: b"psk".to_vec(),
            session_id: b"app-id".to_vec(),
            suites: vec![Suite::Aes128GcmSha256, Suite::Aes256GcmSha384],
            extended_master_secret: true,
            connection_ids: true,
            mtu: 1200,
        }
    }

    fn client(config: ClientConfig) -> Client {
        Client::new(config, [1; 32], Awake::default())
    }

    /// What the server of a test says, in one record.
    fn say(client: &mut Client, kind: Kind, sequence: u16, body: Vec<u8>) -> Result<(), Error> {
        let message = Message { kind, sequence, body };
        let mut datagram = Vec::new();
        put_plain(&mut datagram, ContentType::Handshake, DTLS_1_0, 0, &message.to_bytes());
        client.received(&mut datagram, Awake::default())
    }

    fn server_hello(suite: Suite, extensions: Extensions<'_>) -> Vec<u8> {
        let hello = ServerHello {
            random: [2; 32],
            suite,
            extensions,
        };
        hello.to_bytes()
    }

    /// Kind and sequence of the first message that is sent next.
    fn next(client: &mut Client) -> (u8, u8) {
        let datagram = client.poll().unwrap();
        let body = Header::parse(&datagram, 0).unwrap().body;
        (datagram[body.start], datagram[body.start + 5])
    }

    #[test]
    fn the_first_hello_is_of_dtls_1_0_outside_and_1_2_inside_with_the_session_id() {
        let datagram = client(config()).poll().unwrap();
        assert_eq!(datagram[..11], [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        let hello = ClientHello::parse(&datagram[25..]).unwrap();
        assert_eq!((hello.version, hello.session_id), (DTLS_1_2, &b"app-id"[..]));
        assert_eq!(hello.suites, [0, 0xa8, 0, 0xa9]);
        let extensions = hello.extensions;
        assert!(extensions.renegotiation_info && extensions.extended_master_secret);
        assert_eq!(extensions.connection_id, Some(&[][..]));
    }

    #[test]
    fn a_hint_and_a_session_id_of_the_server_are_ignored() {
        let mut client = client(config());
        assert_eq!(next(&mut client), (1, 0));
        let mut hello = server_hello(Suite::Aes256GcmSha384, Extensions::default());
        hello[34] = 4;
        hello.splice(35..35, [9; 4]);
        say(&mut client, Kind::ServerHello, 0, hello).unwrap();
        say(&mut client, Kind::ServerKeyExchange, 1, vec![0, 2, b'h', b'i']).unwrap();
        assert_eq!(client.poll(), None);
        say(&mut client, Kind::ServerHelloDone, 2, Vec::new()).unwrap();
        assert_eq!(next(&mut client), (16, 1));
    }

    #[test]
    fn what_was_not_offered_is_refused_with_an_alert() {
        let id = Extensions {
            connection_id: Some(b"1234"),
            ..Extensions::default()
        };
        let secret = Extensions {
            extended_master_secret: true,
            ..Extensions::default()
        };
        let none = ClientConfig {
            extended_master_secret: false,
            connection_ids: false,
            ..config()
        };
        for extensions in [id, secret] {
            let mut client = client(none.clone());
            let said = say(
                &mut client,
                Kind::ServerHello,
                0,
                server_hello(Suite::Aes128GcmSha256, extensions),
            );
            assert_eq!(said, Err(Misbehaviour::ExtensionNotOffered.into()));
            assert_eq!(client.poll().unwrap()[13..], [2, 110]);
            assert_eq!(client.poll(), None);
        }
        let mut client = client(none);
        let chosen = server_hello(Suite::Chacha20Poly1305Sha256, Extensions::default());
        assert_eq!(
            say(&mut client, Kind::ServerHello, 0, chosen),
            Err(Misbehaviour::ChoiceNotOffered.into())
        );
    }

    #[test]
    fn messages_that_are_not_due_end_the_handshake() {
        for kind in [Kind::Finished, Kind::ServerHelloDone, Kind::ClientHello, Kind::Other(0)] {
            let mut client = client(config());
            let said = say(&mut client, kind, 0, vec![0; 12]);
            assert_eq!(said, Err(Misbehaviour::UnexpectedMessage.into()));
            assert_eq!(client.handle_timeout(Awake::default()), said);
            assert!(client.deadline().is_none() && client.established().is_none());
        }
    }

    #[test]
    fn a_cookie_is_given_back_and_not_for_ever() {
        let mut client = client(config());
        for sequence in 0..4 {
            assert_eq!(next(&mut client), (1, sequence));
            let request = hello::verify(b"cookie");
            say(&mut client, Kind::HelloVerifyRequest, sequence.into(), request).unwrap();
        }
        let last = client.poll().unwrap();
        assert_eq!(ClientHello::parse(&last[25..]).unwrap().cookie, b"cookie");
        assert_eq!(
            say(&mut client, Kind::HelloVerifyRequest, 4, hello::verify(b"cookie")),
            Err(Misbehaviour::EndlessVerification.into())
        );
    }

    #[test]
    fn a_connection_id_of_one_byte_is_refused_and_an_empty_one_is_none() {
        let answer = |id: &'static [u8]| {
            let extensions = Extensions {
                connection_id: Some(id),
                ..Extensions::default()
            };
            let hello = server_hello(Suite::Aes128GcmSha256, extensions);
            say(&mut client(config()), Kind::ServerHello, 0, hello)
        };
        assert_eq!(answer(b"1"), Err(Incompatibility::ConnectionIdLength.into()));
        assert_eq!(answer(b""), Ok(()));
        assert_eq!(answer(b"12345678"), Ok(()));
    }

    #[test]
    fn a_configuration_that_cannot_be_used_is_over_at_once() {
        let long = ClientConfig {
            session_id: vec![0; 33],
            ..config()
        };
        let talkative = ClientConfig {
            identity: vec![0; 129],
            ..config()
        };
        let mute = ClientConfig {
            suites: Vec::new(),
            ..config()
        };
        let twice = ClientConfig {
            suites: vec![Suite::Aes128GcmSha256; 2],
            ..config()
        };
        let errors = [
            (long, Unusable::SessionIdLength),
            (talkative, Unusable::IdentityLength),
            (mute, Unusable::Suites),
            (twice, Unusable::Suites),
        ];
        for (config, wrong) in errors {
            let mut client = client(config);
            assert_eq!(client.poll(), None);
            assert_eq!(client.handle_timeout(Awake::default()), Err(wrong.into()));
        }
    }
}
