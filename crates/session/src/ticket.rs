//! Sealed tickets: what a gateway needs to go on with a session that it has forgotten, kept by the client.
//!
//! ```text
//!   text    = base64url( key id (4) | nonce (12) | AES-256-GCM( plain ) | tag (16) )
//!   plain   = version, flags (1 each) | session (16) | epoch, began, expires (8 each) | public key (32)
//!             | v4 (4)? | v6 (16)? | user, group? (length 2, text)
//! ```
//! A ticket opens nothing by itself: whoever shows it must prove that it has the private half of the key in it, too
//! ([`crate::resume`]). Keys rotate daily; the newest seals, and the older ones open what they have sealed until that is over.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use now::Wall;
use thiserror::Error;
use wire::Secret;
use wire::limits::{MAX_PARK, MAX_TICKET};
use wire::offer::{KEY_BYTES, ParkKey};
use zeroize::Zeroizing;

use crate::gateway::{Lease, SessionId};

/// Random bytes of a new key: its name, and the key itself.
pub const FRESH_BYTES: usize = ID_BYTES + SECRET_BYTES;

/// Random bytes of one sealing. 2^32 of one key would be too many (NIST SP 800-38D section 8.3); in a day there are far fewer.
pub const NONCE_BYTES: usize = NONCE_LEN;

/// How long a ticket outlives the park that was granted with it: its connection may live that long before it parks. Keys of
/// the data channel are renewed sooner, and each renewal brings a new ticket.
pub const BEYOND_PARK: Duration = ROTATION;

/// How long a key seals.
const ROTATION: Duration = Duration::from_secs(86_400);

/// Keys that are kept: those of the longest life of a ticket, and one that was begun meanwhile.
pub const MAX_KEYS: usize = (MAX_PARK.as_secs() / ROTATION.as_secs()) as usize + 2;

const ID_BYTES: usize = 4;
const SECRET_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// Nothing else that is ever sealed with such a key stands for a ticket.
const CONTEXT: &[u8] = b"marmot ticket v1";

const VERSION: u8 = 1;

const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
const HAS_GROUP: u8 = 4;
const CERTIFIED: u8 = 8;

/// The first line of a file of keys.
const FILE_HEAD: &str = "marmot ticket keys v1";

/// What is not a ticket of these keys. It is not said which part of it is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a ticket of this gateway")]
pub struct WrongTicket;

/// What is not a file of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a file of ticket keys")]
pub struct WrongKeys;

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Which session.
    pub session: SessionId,
    /// The connection that it was granted to.
    pub epoch: u64,
    /// Whose.
    pub user: String,
    /// Logged in to which group.
    pub group: Option<String>,
    /// Whether the user's certificate was needed for that.
    pub certified: bool,
    /// Its addresses.
    pub lease: Lease,
    /// Whose private half goes on with it.
    pub key: ParkKey,
    /// When the user logged in, in whole seconds.
    pub began: Wall,
    /// From when on it is worth nothing to a gateway that has forgotten the session, in whole seconds.
    pub expires: Wall,
}

impl Ticket {
    /// Whether its time is over.
    pub fn is_expired(&self, now: Wall) -> bool {
        self.expires <= now
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let Lease { v4, v6 } = self.lease;
        let flags = [
            (v4.is_some(), HAS_V4),
            (v6.is_some(), HAS_V6),
            (self.group.is_some(), HAS_GROUP),
            (self.certified, CERTIFIED),
        ];
        let flags = flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag);
        let mut plain = vec![VERSION, flags];
        plain.extend(self.session.0);
        for number in [
            self.epoch,
            self.began.since_origin().as_secs(),
            self.expires.since_origin().as_secs(),
        ] {
            plain.extend(number.to_be_bytes());
        }
        plain.extend(self.key.0);
        plain.extend(v4.iter().flat_map(Ipv4Addr::octets));
        plain.extend(v6.iter().flat_map(Ipv6Addr::octets));
        for text in [Some(&self.user), self.group.as_ref()].into_iter().flatten() {
            plain.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
            plain.extend(text.as_bytes());
        }
        Some(plain)
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let mut rest = Reader(plain);
        let [VERSION, flags] = rest.array()? else { return None };
        if flags & !(HAS_V4 | HAS_V6 | HAS_GROUP | CERTIFIED) != 0 {
            return None;
        }
        let session = SessionId(rest.array()?);
        let [epoch, began, expires] = [rest.number()?, rest.number()?, rest.number()?];
        let key = ParkKey(rest.array::<KEY_BYTES>()?);
        let v4 = if flags & HAS_V4 != 0 {
            Some(rest.array::<4>()?)
        } else {
            None
        };
        let v6 = if flags & HAS_V6 != 0 {
            Some(rest.array::<16>()?)
        } else {
            None
        };
        let user = rest.text()?;
        let group = if flags & HAS_GROUP != 0 {
            Some(rest.text()?)
        } else {
            None
        };
        rest.0.is_empty().then(|| Self {
            session,
            epoch,
            user,
            group,
            certified: flags & CERTIFIED != 0,
            lease: Lease {
                v4: v4.map(Ipv4Addr::from),
                v6: v6.map(Ipv6Addr::from),
            },
            key,
            began: Wall::from_origin(Duration::from_secs(began)),
            expires: Wall::from_origin(Duration::from_secs(expires)),
        })
    }
}

/// What is left to read of a plain text.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

struct TicketKey {
    id: [u8; ID_BYTES],
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    made: Wall,
}

/// The keys of a gateway's tickets, the newest first; never printed.
pub struct TicketKeys(Vec<TicketKey>);

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.len())
    }
}

impl TicketKeys {
    /// A first key, of random bytes.
    pub fn new(fresh: [u8; FRESH_BYTES], now: Wall) -> Self {
        Self(vec![TicketKey::new(fresh, now)])
    }

    /// Makes a new key of random bytes, if the newest has sealed for a day or is of a day that has yet to come, and forgets
    /// those that opened the last of theirs. `true` if anything changed.
    pub fn rotate(&mut self, fresh: impl FnOnce() -> [u8; FRESH_BYTES], now: Wall) -> bool {
        let due = |key: &TicketKey| now.since(key.made) >= ROTATION || key.made.since(now) >= ROTATION;
        if !self.0.first().is_none_or(due) {
            return false;
        }
        self.0.insert(0, TicketKey::new(fresh(), now));
        self.0.truncate(MAX_KEYS);
        let longest = MAX_PARK + BEYOND_PARK + ROTATION;
        self.0.retain(|key| now.since(key.made) < longest);
        true
    }

    /// Seals a ticket with the newest key. `nonce` is random. Nothing if it would be longer than [`MAX_TICKET`].
    pub fn seal(&self, ticket: &Ticket, nonce: [u8; NONCE_BYTES]) -> Option<Secret> {
        let key = self.0.first()?;
        let mut sealed = ticket.encode()?;
        let tag = key
            .aead()
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), key.bound_to(), &mut sealed)
            .ok()?;
        let text = URL_SAFE_NO_PAD.encode([&key.id, &nonce[..], &sealed, tag.as_ref()].concat());
        (text.len() <= MAX_TICKET).then(|| Secret::new(text))
    }

    /// Opens what one of the keys has sealed, expired or not.
    ///
    /// # Errors
    /// [`WrongTicket`], whatever is wrong with it.
    pub fn open(&self, text: &str) -> Result<Ticket, WrongTicket> {
        if text.len() > MAX_TICKET {
            return Err(WrongTicket);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| WrongTicket)?;
        let (id, rest) = bytes.split_first_chunk::<ID_BYTES>().ok_or(WrongTicket)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(WrongTicket)?;
        if sealed.len() < TAG_BYTES {
            return Err(WrongTicket);
        }
        let key = self.0.iter().find(|key| key.id == *id).ok_or(WrongTicket)?;
        let mut sealed = sealed.to_vec();
        let plain = key
            .aead()
            .open_in_place(Nonce::assume_unique_for_key(*nonce), key.bound_to(), &mut sealed)
            .map_err(|_| WrongTicket)?;
        Ticket::decode(plain).ok_or(WrongTicket)
    }

    /// The keys as a file has them.
    pub fn encode(&self) -> Zeroizing<String> {
        // All at once: a text that grows leaves copies of itself behind.
        let mut text = Zeroizing::new(String::with_capacity(64 + self.0.len() * 128));
        text.push_str(FILE_HEAD);
        text.push('\n');
        for key in &self.0 {
            push_hex(&mut text, &key.id);
            text.push_str(&format!(" {} ", key.made.since_origin().as_secs()));
            push_hex(&mut text, key.secret.as_slice());
            text.push('\n');
        }
        text
    }

    /// Reads what [`TicketKeys::encode`] wrote.
    ///
    /// # Errors
    /// [`WrongKeys`].
    pub fn parse(text: &str) -> Result<Self, WrongKeys> {
        let mut lines = text.lines();
        if lines.next() != Some(FILE_HEAD) {
            return Err(WrongKeys);
        }
        let keys: Vec<_> = lines.map(TicketKey::parse).collect::<Option<_>>().ok_or(WrongKeys)?;
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(WrongKeys);
        }
        Ok(Self(keys))
    }
}

impl TicketKey {
    fn new(fresh: [u8; FRESH_BYTES], made: Wall) -> Self {
        let fresh = Zeroizing::new(fresh);
        let (id, secret) = fresh.split_first_chunk().expect("a name is shorter than it all");
        Self {
            id: *id,
            secret: Zeroizing::new(secret.try_into().expect("the rest is the key")),
            made: Wall::from_origin(Duration::from_secs(made.since_origin().as_secs())),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, made, secret) = (words.next()?, words.next()?, words.next()?);
        let made = made.parse().ok().filter(|_| words.next().is_none())?;
        let mut key = Self {
            id: [0; ID_BYTES],
            secret: Zeroizing::new([0; SECRET_BYTES]),
            made: Wall::from_origin(Duration::from_secs(made)),
        };
        read_hex(id, &mut key.id)?;
        read_hex(secret, key.secret.as_mut_slice())?;
        Some(key)
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, self.secret.as_slice()).expect("32 bytes are a key of AES-256");
        LessSafeKey::new(key)
    }

    fn bound_to(&self) -> Aad<Vec<u8>> {
        Aad::from([CONTEXT, &self.id].concat())
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit"));
        }
    }
}

fn read_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wall(seconds: u64) -> Wall {
        Wall::from_origin(Duration::from_secs(seconds))
    }

    fn keys() -> TicketKeys {
        TicketKeys::new([7; FRESH_BYTES], wall(1_000_000))
    }

    prop_compose! {
        fn ticket()(
            session in any::<[u8; 16]>(),
            numbers in any::<[u64; 3]>(),
            user in "[a-z\u{e4}]{1,30}",
            group in proptest::option::of("[a-z]{1,30}"),
            certified in any::<bool>(),
            v4 in proptest::option::of(any::<[u8; 4]>()),
            v6 in proptest::option::of(any::<[u8; 16]>()),
            key in any::<[u8; KEY_BYTES]>(),
        ) -> Ticket {
            let [epoch, began, expires] = numbers;
            Ticket {
                session: SessionId(session),
                epoch,
                user,
                group,
                certified,
                lease: Lease { v4: v4.map(Ipv4Addr::from), v6: v6.map(Ipv6Addr::from) },
                key: ParkKey(key),
                began: wall(began),
                expires: wall(expires),
            }
        }
    }

    proptest! {
        #[test]
        fn a_ticket_opens_to_what_was_sealed(ticket in ticket(), nonce in any::<[u8; NONCE_BYTES]>()) {
            let text = keys().seal(&ticket, nonce).expect("it fits");
            prop_assert!(text.expose().len() <= MAX_TICKET);
            prop_assert_eq!(keys().open(text.expose()), Ok(ticket));
        }

        #[test]
        fn a_ticket_with_any_bit_flipped_is_none(ticket in ticket(), at in any::<proptest::sample::Index>(), bit in 0..8u8) {
            let text = keys().seal(&ticket, [1; NONCE_BYTES]).expect("it fits");
            let mut bytes = URL_SAFE_NO_PAD.decode(text.expose()).expect("base64");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(keys().open(&URL_SAFE_NO_PAD.encode(&bytes)), Err(WrongTicket));
        }

        #[test]
        fn what_is_no_ticket_is_refused(text in ".{0,2000}", bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
            prop_assert_eq!(keys().open(&text), Err(WrongTicket));
            prop_assert_eq!(keys().open(&URL_SAFE_NO_PAD.encode(&bytes)), Err(WrongTicket));
            let _ = TicketKeys::parse(&text);
            let _ = Ticket::decode(&bytes);
        }
    }

    fn alice() -> Ticket {
        Ticket {
            session: SessionId([3; 16]),
            epoch: 1,
            user: "alice".to_owned(),
            group: None,
            certified: false,
            lease: Lease::default(),
            key: ParkKey([5; KEY_BYTES]),
            began: wall(10),
            expires: wall(20),
        }
    }

    #[test]
    fn a_ticket_is_over_at_its_expiry() {
        assert!(!alice().is_expired(wall(19)));
        assert!(alice().is_expired(wall(20)));
    }

    #[test]
    fn a_name_that_does_not_fit_gets_no_ticket() {
        let long = |length| Ticket {
            user: "u".repeat(length),
            ..alice()
        };
        assert!(keys().seal(&long(500), [0; NONCE_BYTES]).is_some());
        for length in [800, 70_000] {
            assert_eq!(keys().seal(&long(length), [0; NONCE_BYTES]), None);
        }
    }

    #[test]
    fn keys_rotate_daily_and_open_what_they_sealed_until_that_is_over() {
        let mut keys = keys();
        let start = 1_000_000;
        let old = keys.seal(&alice(), [0; NONCE_BYTES]).expect("it fits");
        assert!(!keys.rotate(|| [8; FRESH_BYTES], wall(start + 86_399)));
        for day in 1..=32 {
            let name = u8::try_from(100 + day).expect("small");
            assert!(keys.rotate(|| [name; FRESH_BYTES], wall(start + day * 86_400)));
            assert!(keys.0.len() <= MAX_KEYS);
            assert_eq!(keys.open(old.expose()).is_ok(), day < 32, "day {day}");
        }
        let new = keys.seal(&alice(), [0; NONCE_BYTES]).expect("it fits");
        assert_eq!(keys.open(new.expose()), Ok(alice()));
    }

    #[test]
    fn a_clock_that_is_set_by_an_hour_rotates_nothing() {
        let mut keys = keys();
        let old = keys.seal(&alice(), [0; NONCE_BYTES]).expect("it fits");
        for seconds in [1_000_000 - 3600, 1_000_000 + 3600] {
            assert!(!keys.rotate(|| [8; FRESH_BYTES], wall(seconds)));
        }
        assert!(
            keys.rotate(|| [8; FRESH_BYTES], wall(1_000_000 - 86_400)),
            "it was a day ahead"
        );
        assert_eq!(keys.open(old.expose()), Ok(alice()));
    }

    #[test]
    fn a_file_of_keys_reads_back_and_nothing_else_is_one() {
        let mut keys = keys();
        keys.rotate(|| [8; FRESH_BYTES], wall(2_000_000));
        let sealed = keys.seal(&alice(), [0; NONCE_BYTES]).expect("it fits");
        let text = keys.encode();
        let read = TicketKeys::parse(&text).expect("as written");
        assert_eq!(read.open(sealed.expose()), Ok(alice()));
        assert_eq!(read.encode(), text);
        assert_eq!(format!("{read:?}"), "TicketKeys(2)");
        let cut = &text[..text.len() - 3];
        for bad in ["", "marmot ticket keys v1\n", "marmot ticket keys v2\n00 0 00\n", cut] {
            assert_eq!(TicketKeys::parse(bad).err(), Some(WrongKeys));
        }
    }
}
