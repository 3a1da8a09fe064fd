//! A question to a name server for the addresses of one host, and its answer (RFC 1035, RFC 3596).
//!
//! ```text
//!   12 bytes: id, flags, four counts | name, type, class (the question) | name, type, class, ttl, length, data | ...
//! ```
//! For the one look-up that a lockdown may let pass; everything else asks the system's resolver. Only answers are read, not
//! what a server adds unasked, and whatever name an answer has: the server is free to lead from one name to the next (CNAME),
//! and it is the certificate that decides who the gateway is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name on the wire, its lengths and the final zero included (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;

/// The longest part of a name.
const MAX_LABEL: usize = 63;

/// Addresses that are taken from an answer; as many as are dialled.
pub const MAX_ADDRESSES: usize = 16;

/// Answers that are looked at: aliases and addresses. A datagram of 512 bytes has room for 28.
const MAX_RECORDS: usize = 64;

const HEADER: usize = 12;
const RESPONSE: u16 = 0x8000;
const RECURSION_DESIRED: u16 = 0x0100;
const RCODE: u16 = 0x000f;
const INTERNET: u16 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

/// A question, which knows its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    message: Vec<u8>,
    kind: Kind,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses; none if the name has none of this kind.
    Addresses(Vec<IpAddr>),
    /// The server does not know, or does not want to say: its code.
    Refused(u8),
}

impl Question {
    /// Asks for `name`, with this id, which nobody must be able to guess. `None` if no host can have that name.
    pub fn new(name: &str, kind: Kind, id: u16) -> Option<Self> {
        let mut message = Vec::with_capacity(HEADER + name.len() + 6);
        for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
        for label in name.strip_suffix('.').unwrap_or(name).split('.') {
            let length = u8::try_from(label.len()).ok()?;
            if length == 0 || label.len() > MAX_LABEL || !label.is_ascii() {
                return None;
            }
            message.push(length);
            message.extend(label.bytes());
        }
        message.push(0);
        if message.len() - HEADER > MAX_NAME {
            return None;
        }
        for word in [kind.number(), INTERNET] {
            message.extend(word.to_be_bytes());
        }
        Some(Self { message, kind })
    }

    /// The datagram to be sent.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Reads a datagram. `None` if it is no answer to this question: whoever waits goes on waiting.
    pub fn answer(&self, message: &[u8]) -> Option<Answer> {
        let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
        let flags = word(2)?;
        if message.get(..2) != self.message.get(..2) || flags & RESPONSE == 0 || word(4) != Some(1) {
            return None;
        }
        let (asked, question) = (self.message.get(HEADER..)?, message.get(HEADER..self.message.len())?);
        if !asked.eq_ignore_ascii_case(question) {
            return None;
        }
        let code = (flags & RCODE) as u8;
        if code != 0 {
            return Some(Answer::Refused(code));
        }
        let mut addresses = Vec::new();
        let mut at = self.message.len();
        for _ in 0..usize::from(word(6)?).min(MAX_RECORDS) {
            // An answer that was cut short has what came before.
            let Some(record) = record(message, &mut at) else { break };
            let address = match (self.kind, record) {
                (Kind::A, (1, data)) => <[u8; 4]>::try_from(data)
                    .ok()
                    .map(|octets| Ipv4Addr::from(octets).into()),
                (Kind::Aaaa, (28, data)) => <[u8; 16]>::try_from(data)
                    .ok()
                    .map(|octets| Ipv6Addr::from(octets).into()),
                (Kind::A | Kind::Aaaa, _) => None,
            };
            let new = address.filter(|address| !addresses.contains(address));
            addresses.extend(new.filter(|_| addresses.len() < MAX_ADDRESSES));
        }
        Some(Answer::Addresses(addresses))
    }
}

/// Type and data of the record at `at`, which is moved behind it; of a class that is not the internet's type 0.
fn record<'a>(message: &'a [u8], at: &mut usize) -> Option<(u16, &'a [u8])> {
    let mut name = *at;
    loop {
        match *message.get(name)? {
            0 => {
                name += 1;
                break;
            }
            // A pointer ends the name; where it leads is of no interest.
            0xc0..=0xff => {
                name += 2;
                break;
            }
            length @ 1..=63 => name += 1 + usize::from(length),
            64..=0xbf => return None,
        }
    }
    let fixed: [u8; 10] = message.get(name..name + 10)?.try_into().ok()?;
    let [kind_1, kind_2, class_1, class_2, _, _, _, _, length_1, length_2] = fixed;
    let start = name + 10;
    let end = start + usize::from(u16::from_be_bytes([length_1, length_2]));
    let data = message.get(start..end)?;
    *at = end;
    let class = u16::from_be_bytes([class_1, class_2]);
    let kind = u16::from_be_bytes([kind_1, kind_2]);
    Some((if class == INTERNET { kind } else { 0 }, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question(kind: Kind) -> Question {
        Question::new("vpn.example.com", kind, 0x1234).expect("a name")
    }

    fn reply(question: &Question, flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut message = question.message().to_vec();
        message[2..4].copy_from_slice(&(RESPONSE | flags).to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        records.iter().for_each(|record| message.extend(*record));
        message
    }

    /// A record whose name is a pointer to the question.
    fn pointed(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut record = vec![0xc0, 12, 0, kind, 0, 1, 0, 0, 1, 0, 0, data.len() as u8];
        record.extend(data);
        record
    }

    #[test]
    fn a_question_is_what_servers_know() {
        let asked = Question::new("a.bc.", Kind::Aaaa, 0xbeef).expect("a name");
        let expected = b"\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x1c\x00\x01";
        assert_eq!(asked.message(), expected);
        let long = "x".repeat(64);
        let far = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(63)].join(".");
        for name in ["", ".", "a..b", &long, &far, "ä.example"] {
            assert_eq!(Question::new(name, Kind::A, 1), None, "{name}");
        }
    }

    #[test]
    fn addresses_are_taken_from_behind_aliases() {
        let asked = question(Kind::A);
        let alias = pointed(5, b"\x03gw2\xc0\x10");
        let named = [b"\x03gw2\xc0\x10".as_slice(), &pointed(1, &[192, 0, 2, 1])[2..]].concat();
        let message = reply(&asked, 0, &[&alias, &named, &named, &pointed(1, &[192, 0, 2, 2])]);
        let found = vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        assert_eq!(asked.answer(&message), Some(Answer::Addresses(found)));
        let six = question(Kind::Aaaa);
        let address: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let message = reply(
            &six,
            0,
            &[&pointed(1, &[192, 0, 2, 1]), &pointed(28, &address.octets())],
        );
        assert_eq!(six.answer(&message), Some(Answer::Addresses(vec![address.into()])));
    }

    #[test]
    fn a_refusal_and_an_answer_cut_short_are_answers_and_a_strangers_word_is_none() {
        let asked = question(Kind::A);
        assert_eq!(asked.answer(&reply(&asked, 3, &[])), Some(Answer::Refused(3)));
        let mut cut = reply(&asked, 0, &[&pointed(1, &[192, 0, 2, 1]), &pointed(1, &[192, 0, 2, 2])]);
        cut.truncate(cut.len() - 1);
        let first = vec![IpAddr::from([192, 0, 2, 1])];
        assert_eq!(asked.answer(&cut), Some(Answer::Addresses(first)));
        let other = Question::new("vpn.example.com", Kind::A, 0x4321).expect("a name");
        assert_eq!(asked.answer(&reply(&other, 0, &[])), None);
        let other = Question::new("vpn.example.net", Kind::A, 0x1234).expect("a name");
        assert_eq!(asked.answer(&reply(&other, 0, &[])), None);
        assert_eq!(asked.answer(asked.message()), None, "a question is no answer");
    }

    proptest! {
        #[test]
        fn no_datagram_panics_or_gives_more_than_is_taken(flags in any::<u16>(), count in any::<u16>(), rest in proptest::collection::vec(any::<u8>(), 0..600)) {
            let asked = question(Kind::A);
            let mut message = reply(&asked, flags, &[]);
            message[6..8].copy_from_slice(&count.to_be_bytes());
            message.extend(rest);
            if let Some(Answer::Addresses(found)) = asked.answer(&message) {
                prop_assert!(found.len() <= MAX_ADDRESSES);
            }
        }
    }
}
