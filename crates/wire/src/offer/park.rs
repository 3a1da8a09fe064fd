//! Parking and going on: the headers by which our own ends keep a session through the client's silence.
//!
//! ```text
//! client                                        gateway
//!   CONNECT, X-Marmot-Park: v=1;key=K         -->
//!         <--  X-Marmot-Park: SECONDS, X-Marmot-Ticket: T        -- later, over another connection:
//!   CONNECT, cookie T, X-Marmot-Park: v=1;key=K,
//!            X-Marmot-Resume: ID;EPOCH;SIGNATURE -->
//!         <--  200, or 409 with X-Marmot-Session: ID;EPOCH       -- the proof is good, the epoch not higher than this one
//! ```
//! Who signs what is [`session::resume`]'s business; here are the words alone. See docs/decisions/0010.
//!
//! [`session::resume`]: ../../../session/resume/index.html

use std::time::Duration;

use super::MarmotSession;
use super::values::{self, Malformed};
use crate::limits::{MAX_PARK, MAX_TICKET};
use crate::secret::Secret;

/// Says that the client can park, and for how long the gateway lets it.
pub(super) const PARK: &str = "X-Marmot-Park";

/// What the client shows instead of its cookie at the next CONNECT.
pub(super) const TICKET: &str = "X-Marmot-Ticket";

/// The proof that whoever connects holds the session's key.
pub(super) const RESUME: &str = "X-Marmot-Resume";

/// Bytes of a public key and of a signature (Ed25519, RFC 8032 section 5.1).
pub const KEY_BYTES: usize = 32;
/// See [`KEY_BYTES`].
pub const SIGNATURE_BYTES: usize = 64;

/// A client's key for one session; public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkKey(pub [u8; KEY_BYTES]);

impl ParkKey {
    /// `v=1;key=K`, what follows is passed over; nothing for another version.
    pub(super) fn parse(value: &str) -> Result<Option<Self>, Malformed> {
        if !values::is_version_1(value) {
            return Ok(None);
        }
        let key = value.split(';').find_map(|word| word.strip_prefix("key="));
        array(key.ok_or(Malformed)?).map(|key| Some(Self(key)))
    }

    pub(super) fn write(&self) -> String {
        format!("{};key={}", values::VERSION_1, values::write_hex(&self.0))
    }
}

/// The proof of a CONNECT that goes on with a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Which session, and as which epoch.
    pub session: MarmotSession,
    /// Over exporter, id and epoch, by the session's key.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Resume {
    pub(super) fn parse(value: &str) -> Result<Self, Malformed> {
        let (session, signature) = value.rsplit_once(';').ok_or(Malformed)?;
        Ok(Self {
            session: MarmotSession::parse(session).ok_or(Malformed)?,
            signature: array(signature)?,
        })
    }

    pub(super) fn write(&self) -> String {
        let MarmotSession { id, epoch } = &self.session;
        format!("{id};{epoch};{}", values::write_hex(&self.signature))
    }
}

/// How long a session is kept. None is none; more than [`MAX_PARK`] is [`MAX_PARK`].
pub(super) fn read_park(value: &str) -> Result<Option<Duration>, Malformed> {
    Ok(values::seconds(value)?.map(|time| time.min(MAX_PARK)))
}

/// A ticket as a cookie can carry it.
pub(super) fn read_ticket(value: &str) -> Result<Secret, Malformed> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let valid = (1..=MAX_TICKET).contains(&value.len()) && value.bytes().all(plain);
    valid.then(|| Secret::from(value)).ok_or(Malformed)
}

fn array<const N: usize>(digits: &str) -> Result<[u8; N], Malformed> {
    values::hex(digits, N)?.try_into().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_of_version_1_only() {
        let key = ParkKey([0xa5; KEY_BYTES]);
        assert_eq!(ParkKey::parse(&key.write()), Ok(Some(key)));
        assert_eq!(ParkKey::parse(&format!("{};more=1", key.write())), Ok(Some(key)));
        assert_eq!(ParkKey::parse("v=2;key=00"), Ok(None));
        let short = format!("v=1;key={}", "a5".repeat(31));
        let long = format!("v=1;key={}", "a5".repeat(33));
        for bad in ["v=1", "v=1;key=", "v=1;key=xy", &short, &long] {
            assert_eq!(ParkKey::parse(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn a_proof_reads_back_and_nothing_else_is_one() {
        let resume = Resume {
            session: MarmotSession {
                id: "a1B2".to_owned(),
                epoch: u64::MAX,
            },
            signature: [7; SIGNATURE_BYTES],
        };
        assert_eq!(Resume::parse(&resume.write()), Ok(resume));
        let signature = "07".repeat(SIGNATURE_BYTES);
        for bad in [
            String::new(),
            signature.clone(),
            format!("a1;{signature}"),
            format!(";7;{signature}"),
            format!("a1;-7;{signature}"),
            format!("a1;7;{signature}07"),
            format!("a1;7;{}", &signature[2..]),
        ] {
            assert_eq!(Resume::parse(&bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn an_absurd_grant_is_cut_to_the_limit() {
        assert_eq!(read_park("28800"), Ok(Some(Duration::from_secs(28_800))));
        assert_eq!(read_park("99999999999999999999"), Ok(Some(MAX_PARK)));
        assert_eq!(read_park("0"), Ok(None));
        assert_eq!(read_park("-1"), Err(Malformed));
    }

    #[test]
    fn a_ticket_fits_a_cookie() {
        assert_eq!(read_ticket("aB3-_"), Ok(Secret::from("aB3-_")));
        for bad in ["", "a b", "a;b", "a=b", &"a".repeat(MAX_TICKET + 1)] {
            assert_eq!(read_ticket(bad), Err(Malformed), "{bad}");
        }
    }
}
