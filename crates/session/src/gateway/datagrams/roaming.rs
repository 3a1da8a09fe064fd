//! The client somewhere else: an address counts once it has shown that it can hear us.

use std::time::Duration;

use now::Awake;
use wire::cstp::Kind;

use super::presence::Owed;
use super::{Datagrams, GatewayData, Key};
use crate::datagrams::sealed;
use crate::park::Via;
use crate::path_mtu::parse_probe;

/// A new address is challenged at most this often: whoever forwards a withheld record gets no more than that out of us.
const BETWEEN_CHALLENGES: Duration = Duration::from_millis(100);

/// What an address that has proven nothing is sent, in bytes for each byte that came from it (RFC 9000 section 8 has the same).
const AMPLIFICATION: usize = 3;

/// An address that has shown a fresh record, and nothing more.
#[derive(Debug)]
pub(super) struct Candidate<E> {
    pub(super) endpoint: E,
    pub(super) challenge: [u8; 8],
    pub(super) received: usize,
    pub(super) sent: usize,
    pub(super) at: Awake,
    /// What came from there and is answered once the address is proven.
    pub(super) owed: Option<Owed>,
}

impl<E: Copy + Eq> Datagrams<E> {
    /// Asks an address that a fresh record came from whether it can hear us.
    pub(super) fn challenge(&mut self, endpoint: E, received: usize, challenge: [u8; 8], now: Awake) {
        let Some(link) = self.links.first_mut().filter(|link| link.id.is_some()) else {
            return;
        };
        let candidate = match &mut link.candidate {
            Some(known) if known.endpoint == endpoint => {
                known.received += received;
                known
            }
            Some(other) if now.since(other.at) < BETWEEN_CHALLENGES => return,
            slot => slot.insert(Candidate {
                endpoint,
                challenge,
                received,
                sent: 0,
                at: Awake::default(),
                owed: None,
            }),
        };
        let due = candidate.sent == 0 || now.since(candidate.at) >= BETWEEN_CHALLENGES;
        let length = link.seal.overhead() + 1 + candidate.challenge.len();
        if !due || candidate.sent + length > candidate.received * AMPLIFICATION {
            return;
        }
        if let Some(record) = sealed(&mut link.seal, Kind::DpdRequest, &candidate.challenge) {
            candidate.sent += record.len();
            candidate.at = now;
            self.outputs.push_back(GatewayData::Send(endpoint, record));
        }
    }

    pub(super) fn answered(&mut self, endpoint: E, payload: &[u8], now: Awake) {
        let Some(link) = self.links.first_mut() else { return };
        let proves =
            |candidate: &mut Candidate<E>| candidate.endpoint == endpoint && candidate.challenge[..] == *payload;
        if let Some(Candidate { owed, .. }) = link.candidate.take_if(proves) {
            let from = std::mem::replace(&mut link.endpoint, endpoint);
            if let Some(mtu) = &mut link.mtu {
                mtu.suspect(now);
            }
            self.outputs.push_back(GatewayData::Claim(Key::From(endpoint)));
            self.outputs.push_back(GatewayData::Moved { from, to: endpoint });
            self.release_endpoint(from);
            match owed {
                Some(owed) => self.settle(0, owed, Via::Rebind),
                None => self.word = Some(Via::Rebind),
            }
            return self.look_at_mtu(now);
        }
        if let (Some(id), Some(mtu)) = (parse_probe(payload), &mut link.mtu) {
            mtu.answered(id, u16::try_from(payload.len()).unwrap_or(u16::MAX), now);
            self.look_at_mtu(now);
        }
    }
}
