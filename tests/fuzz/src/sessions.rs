//! What the targets for sleeping and resuming do with their bytes: what nobody has sealed or signed opens nothing, and words of
//! sleep are believed only if they answer what was said.
//!
//! `crates/session/tests/corpus.rs` includes this file and replays the corpora on every `cargo test`.

use std::cell::RefCell;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use now::{Now, Wall};
use session::client::{Authenticated, Identity, Wants, Word};
use session::gateway::{
    Claim, ConnectRefused, CookieHash, Leases, Limits, Login, Proof, Reservation, SessionId, Sessions, Shown, Standing,
};
use session::park::{Attend, Attendance, ParkKind, Sample, Via};
use session::resume::{BINDING_BYTES, SEED_BYTES, SessionKey};
use session::ticket::{FRESH_BYTES, NONCE_BYTES, TicketKeys};
use wire::Secret;
use wire::cstp::{Frame, Kind};
use wire::http::{parse_request, parse_response};
use wire::limits::{MAX_CONNECT_HEAD, MAX_HEAD, MAX_TICKET};
use wire::offer::{MarmotSession, Offer, ParkKey, parse_connect_reply};

/// What a key is made from: its name, and the key.
const FRESH: [u8; FRESH_BYTES] = {
    let mut fresh = [7; FRESH_BYTES];
    fresh[0] = 1;
    fresh
};

const BINDING: [u8; BINDING_BYTES] = [9; BINDING_BYTES];

/// Text that claims to be a ticket; a plain text that was sealed although no gateway would; and a ticket that was changed.
pub fn sealed_ticket(data: &[u8]) {
    let keys = TicketKeys::new(FRESH, Wall::default());
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(keys.open(text).is_err(), "nobody guesses a seal");
    }
    let sealed = seal(data);
    let Ok(ticket) = keys.open(&sealed) else {
        if sealed.len() <= MAX_TICKET {
            changed(&keys, &sealed, data);
        }
        return;
    };
    let again = keys.seal(&ticket, [5; NONCE_BYTES]).expect("as long as before");
    assert_eq!(keys.open(again.expose()), Ok(ticket));
    changed(&keys, again.expose(), data);
}

/// Any plain text, as a ticket of these keys is sealed.
fn seal(plain: &[u8]) -> String {
    let (name, secret) = FRESH.split_at(FRESH_BYTES - 32);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).expect("32 bytes"));
    let (nonce, aad) = ([3; NONCE_BYTES], [b"marmot ticket v1", name].concat());
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed)
        .expect("short");
    URL_SAFE_NO_PAD.encode([name, &nonce, &sealed].concat())
}

/// Changes one character, or cuts the text, as `data` says.
fn changed(keys: &TicketKeys, text: &str, data: &[u8]) {
    let [at_high, at_low, byte, ..] = *data else { return };
    let at = usize::from(u16::from_be_bytes([at_high, at_low])) % text.len();
    assert!(keys.open(&text[..at]).is_err());
    let mut bytes = text.as_bytes().to_vec();
    if bytes[at] != byte {
        bytes[at] = byte;
        if let Ok(other) = std::str::from_utf8(&bytes) {
            assert!(keys.open(other).is_err(), "another text opens as well");
        }
    }
}

/// Lines that are the values of headers: of a CONNECT its key, its proof and its cookie, and of the reply its park, its ticket
/// and its session. Nobody gets a session by them whose key they do not have.
pub fn park_headers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default().trim_end_matches('\r');
    let (park, resume, cookie) = (next(), next(), next());
    let request = format!(
        "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: gw.test\r\nCookie: webvpn={cookie}\r\nX-CSTP-Version: 1\r\n\
         X-CSTP-Address-Type: IPv4\r\nX-Marmot-Session: 1\r\nX-Marmot-Park: {park}\r\nX-Marmot-Resume: {resume}\r\n\r\n"
    );
    if let Ok(Some((head, _))) = parse_request(request.as_bytes(), MAX_HEAD)
        && let Ok(offer) = Offer::parse(&head)
    {
        if let Ok(Some((again, _))) = parse_request(&offer.encode(), MAX_HEAD) {
            assert_eq!(Offer::parse(&again).as_ref(), Ok(&offer));
        }
        resumes_nothing(&offer);
    }
    let (park, ticket, session) = (next(), next(), next());
    let reply = format!(
        "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Address: 10.78.0.2\r\nX-CSTP-Netmask: 255.255.255.0\r\n\
         X-CSTP-MTU: 1400\r\nX-Marmot-Park: {park}\r\nX-Marmot-Ticket: {ticket}\r\nX-Marmot-Session: {session}\r\n\r\n"
    );
    if let Ok(Some((head, _))) = parse_response(reply.as_bytes(), MAX_CONNECT_HEAD)
        && let Ok(grant) = parse_connect_reply(&head)
    {
        let mut holder = Authenticated::from_cookie(Secret::from("cookie")).with_key(key());
        holder.granted(&grant);
        let (before, _) = (holder.session(), holder.ticket().cloned());
        let (_, request) = holder.request(&Identity::default(), &wants(), Some(&BINDING));
        let (head, _) = parse_request(&request, usize::MAX).expect("valid").expect("whole");
        let offer = Offer::parse(&head).expect("our own");
        assert_eq!(offer.resume.is_some(), before.is_some());
        if let (Some(resume), Some(before)) = (offer.resume, before) {
            assert!(resume.session.epoch > before.epoch || before.epoch == u64::MAX);
        }
    }
}

fn wants() -> Wants {
    Wants {
        v4: true,
        ..Wants::default()
    }
}

fn key() -> SessionKey {
    SessionKey::from_seed([7; SEED_BYTES])
}

thread_local! {
    /// A table with one session of a client that can park; nothing here may change it.
    static TABLE: RefCell<Sessions> = RefCell::new(table());
}

const HERS: CookieHash = CookieHash([1; 32]);

fn table() -> Sessions {
    let limits = Limits {
        sessions: 4,
        per_user: 2,
        cookie_lifetime: Duration::from_secs(900),
        session_timeout: None,
        park_ttl: Some(Duration::from_secs(28_800)),
        quiet: Duration::from_secs(60),
        parked_per_user: 2,
    };
    let pool = "10.78.0.0/29".parse().expect("a network");
    let mut table = Sessions::new(limits, Leases::new(Some(pool), None, Duration::ZERO));
    let login = Login {
        user: "alice",
        group: None,
        certified: false,
        reserved: Reservation::default(),
        // A corpus can name it.
        id: SessionId([0xaa; 16]),
        cookie: HERS,
    };
    table.login(&login, Now::default()).expect("room");
    table
        .connect(&claim(HERS, Some(key().public()), None), welcome, Now::default())
        .expect("her first");
    table
}

fn welcome(_: &str, _: Option<&str>) -> Standing {
    Standing::Good(Reservation::default())
}

fn claim(cookie: CookieHash, key: Option<ParkKey>, proof: Option<Proof<'_>>) -> Claim<'_> {
    Claim {
        shown: Shown::Cookie(cookie),
        families: (true, true),
        key,
        proof,
        certificate_user: None,
    }
}

fn resumes_nothing(offer: &Offer) {
    let proof = offer.resume.as_ref().map(|resume| Proof {
        resume,
        binding: BINDING,
    });
    TABLE.with_borrow_mut(|table| {
        let stolen = table.connect(&claim(HERS, offer.park, proof), welcome, Now::default());
        assert_eq!(stolen, Err(ConnectRefused::NoProof));
        let named = table.connect(&claim(CookieHash([2; 32]), offer.park, proof), welcome, Now::default());
        assert_eq!(named, Err(ConnectRefused::UnknownCookie), "whatever it names");
    });
}

/// Frames at both ends, and time: kind, length and payload of each, behind what is done.
pub fn park_words(data: &[u8]) {
    let mut ends = Ends::new();
    let mut rest = data;
    while let Some((what, more)) = rest.split_first() {
        let (length, more) = more
            .split_first()
            .map_or((0, more), |(length, more)| (usize::from(*length), more));
        let (payload, more) = more.split_at(length.min(more.len()));
        rest = more;
        ends.step(*what, payload);
    }
}

/// A client and a gateway that do not hear each other: each hears what the bytes say.
struct Ends {
    now: Now,
    client: session::client::Established,
    gateway: session::gateway::Established,
    attendance: Attendance,
    parked: Option<ParkKind>,
    /// What the client has said last, while it waits for the answer.
    said: Option<(Kind, [u8; 8])>,
}

impl Ends {
    fn new() -> Self {
        let now = Now::default();
        let mut holder = Authenticated::from_cookie(Secret::from("cookie")).with_key(key());
        let reply = b"HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Address: 10.78.0.2\r\n\
            X-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-MTU: 1400\r\nX-Marmot-Park: 28800\r\nX-Marmot-Session: a1;1\r\n\r\n";
        let (head, _) = parse_response(reply, reply.len()).expect("valid").expect("whole");
        let (requesting, _) = holder.request(&Identity::default(), &wants(), None);
        let client = requesting.reply(&head, now).expect("granted");
        holder.granted(client.grant());
        assert!(
            client.parks()
                && holder.session()
                    == Some(MarmotSession {
                        id: "a1".to_owned(),
                        epoch: 1
                    })
        );
        let lease = session::gateway::Lease {
            v4: Some([10, 78, 0, 2].into()),
            v6: None,
        };
        Self {
            now,
            client,
            gateway: session::gateway::Established::new(lease, 1400, Some(Duration::from_secs(600)), now),
            attendance: Attendance::new(Duration::from_secs(60), Duration::from_secs(60), now),
            parked: None,
            said: None,
        }
    }

    fn step(&mut self, what: u8, payload: &[u8]) {
        let token = <[u8; 8]>::try_from(payload).unwrap_or([what; 8]);
        match what {
            0xf0 => {
                self.client.park(token);
                self.said = Some((Kind::ParkAnswer, token));
            }
            0xf1 => {
                self.client.wake(Some(token), self.now);
                self.said = Some((Kind::AwakeAnswer, token));
            }
            0xf2 => {
                self.client.be_quiet();
                self.said = self.said.filter(|(kind, _)| *kind == Kind::ParkAnswer);
            }
            0xf3 => {
                self.client.wake(None, self.now);
                self.said = None;
            }
            0xf4 => self
                .attendance
                .sampled(payload.first().map(|byte| sample(*byte)), self.now),
            0xf5 => self.attendance.control_gone(self.now),
            0xf6..=0xff => self.wait(u64::from(what - 0xf5) * (1 + payload.first().map_or(0, |byte| u64::from(*byte)))),
            _ => self.frame(Kind::from_byte(what & 0x7f), what & 0x80 != 0, payload),
        }
        self.attend();
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
        self.attendance.handle_timeout(self.now);
        self.gateway.handle_timeout(self.now);
        self.client.handle_timeout(self.now);
        while self.gateway.poll().is_some() || self.client.poll().is_some() {}
        while let Some(word) = self.client.word() {
            assert!(!matches!(word, Word::Parked | Word::Unparked), "nobody has said so");
        }
    }

    fn frame(&mut self, kind: Kind, to_client: bool, payload: &[u8]) {
        let frame = Frame {
            kind,
            payload: payload.into(),
        };
        if to_client {
            let _ = self.client.received(&frame, self.now);
            while let Some(word) = self.client.word() {
                let answered = self
                    .said
                    .is_some_and(|(answer, token)| answer == kind && token == payload);
                match word {
                    Word::Parked => assert!(answered && kind == Kind::ParkAnswer),
                    Word::Unparked => assert!(answered && kind == Kind::AwakeAnswer),
                    Word::Alive | Word::Silent | Word::Renew(_) => continue,
                }
                self.said = None;
            }
            return;
        }
        let _ = self.gateway.received(&frame, self.now);
        match (kind, payload.len()) {
            (Kind::Park, 8) => self.attendance.park(self.now),
            (Kind::Awake, 8) => self.attendance.awake(Via::SamePath, self.now),
            (_, _) => self.attendance.heard(Via::SamePath, self.now),
        }
    }

    fn attend(&mut self) {
        while let Some(attend) = self.attendance.poll() {
            match attend {
                Attend::Park(kind) => {
                    assert_eq!(self.parked.replace(kind), None);
                    self.gateway.rest(self.now);
                    assert_eq!(self.gateway.deadline(), None, "a parked client is not idle");
                }
                Attend::Kind(kind) => assert!(self.parked.replace(kind).is_some_and(|before| before != kind)),
                Attend::Unpark(_) => {
                    assert!(self.parked.take().is_some());
                    self.gateway.wake(self.now);
                }
                Attend::Stir | Attend::StillStirs => assert_eq!(self.parked, Some(ParkKind::Announced)),
                Attend::Ask | Attend::Look | Attend::Keepalive(_) => {}
            }
        }
        assert_eq!(self.attendance.parked(), self.parked);
    }
}

fn sample(byte: u8) -> Sample {
    Sample {
        established: byte & 1 == 0,
        probes: byte >> 1 & 3,
        retransmits: byte >> 3 & 3,
        unacked: u32::from(byte >> 5 & 1),
        last_ack: Duration::from_secs(u64::from(byte >> 6) * 40),
    }
}
