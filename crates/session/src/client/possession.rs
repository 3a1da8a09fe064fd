//! What a client holds of its session: the cookie of the login, and what makes a stolen cookie worthless.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wire::Secret;
use wire::offer::{Grant, MarmotSession, ParkKey, Resume};

use crate::resume::{BINDING_BYTES, SessionKey};

/// The holder of a cookie. Whoever has the cookie owns the session, unless a key was registered with it; so it is never
/// printed.
#[derive(Clone, Debug)]
pub struct Authenticated {
    cookie: Secret,
    possession: Option<Possession>,
}

/// The key of a session, and how far the session has come.
#[derive(Clone, Debug)]
struct Possession {
    key: Arc<SessionKey>,
    /// What is shown instead of the cookie, once the gateway has given it.
    ticket: Option<Secret>,
    /// The session that the gateway keeps for the key; none before its first grant.
    session: Option<String>,
    /// The highest epoch that was shown or heard of. Clones share it: the request of an attempt that was dropped may have
    /// arrived all the same.
    epoch: Arc<AtomicU64>,
}

impl Authenticated {
    /// Holds a cookie that came from a login.
    pub fn from_cookie(cookie: Secret) -> Self {
        Self {
            cookie,
            possession: None,
        }
    }

    /// Will register `key`, which must be new, with the session that the cookie is for.
    #[must_use]
    pub fn with_key(self, key: SessionKey) -> Self {
        Self {
            possession: Some(Possession {
                key: Arc::new(key),
                ticket: None,
                session: None,
                epoch: Arc::new(AtomicU64::new(0)),
            }),
            ..self
        }
    }

    /// Goes on where another process of the same client was.
    #[must_use]
    pub fn going_on(mut self, session: Option<MarmotSession>, ticket: Option<Secret>) -> Self {
        if let Some(possession) = &mut self.possession {
            possession.ticket = ticket;
            if let Some(session) = session {
                possession.epoch.fetch_max(session.epoch, Ordering::Relaxed);
                possession.session = Some(session.id);
            }
        }
        self
    }

    /// The cookie, to be handed to another process of the same client and to nobody else.
    pub fn cookie(&self) -> &Secret {
        &self.cookie
    }

    /// The key, for the same process.
    pub fn key(&self) -> Option<&SessionKey> {
        self.possession.as_ref().map(|possession| &*possession.key)
    }

    /// The ticket, for the same process.
    pub fn ticket(&self) -> Option<&Secret> {
        self.possession.as_ref()?.ticket.as_ref()
    }

    /// The session that the key was registered with, and the highest epoch that was shown or heard of.
    pub fn session(&self) -> Option<MarmotSession> {
        let possession = self.possession.as_ref()?;
        Some(MarmotSession {
            id: possession.session.clone()?,
            epoch: possession.epoch.load(Ordering::Relaxed),
        })
    }

    /// Takes what a grant says about the next time.
    pub fn granted(&mut self, grant: &Grant) {
        let Some(possession) = &mut self.possession else { return };
        // A gateway that has kept the key once wants the proof, also when it grants no parking any more.
        let keeps = grant.park.is_some() || possession.session.is_some();
        match grant.session.as_ref().filter(|_| keeps) {
            Some(session) => {
                possession.epoch.fetch_max(session.epoch, Ordering::Relaxed);
                possession.session = Some(session.id.clone());
                possession.ticket = grant.ticket.clone().or(possession.ticket.take());
            }
            // It keeps no key, so there is nothing to prove.
            None => (possession.session, possession.ticket) = (None, None),
        }
    }

    /// The gateway knows a connection of this epoch: the next request has a higher one.
    pub fn outdated(&self, epoch: u64) {
        if let Some(possession) = &self.possession {
            possession.epoch.fetch_max(epoch, Ordering::Relaxed);
        }
    }

    /// What a request shows.
    pub(super) fn shown(&self) -> Secret {
        self.ticket().unwrap_or(&self.cookie).clone()
    }

    pub(super) fn public_key(&self) -> Option<ParkKey> {
        self.key().map(SessionKey::public)
    }

    /// Proof for one connection, as an epoch that was never shown.
    pub(super) fn proof(&self, binding: &[u8; BINDING_BYTES]) -> Option<Resume> {
        let possession = self.possession.as_ref()?;
        let id = possession.session.clone()?;
        let next = |epoch: u64| Some(epoch.saturating_add(1));
        let (Ok(before) | Err(before)) = possession
            .epoch
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let epoch = before.saturating_add(1);
        Some(possession.key.sign(binding, MarmotSession { id, epoch }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::http::{parse_request, parse_response};
    use wire::offer::Offer;

    use super::*;
    use crate::client::{ConnectError, Identity, Wants};
    use crate::resume::verify;

    const BINDING: [u8; BINDING_BYTES] = [9; BINDING_BYTES];

    fn holder() -> Authenticated {
        Authenticated::from_cookie(Secret::from("cookie")).with_key(SessionKey::from_seed([7; 32]))
    }

    fn grant(epoch: u64) -> Grant {
        Grant {
            v4: Some("10.78.0.2/24".parse().expect("net")),
            mtu: 1400,
            session: Some(MarmotSession {
                id: "s1".to_owned(),
                epoch,
            }),
            park: Some(Duration::from_secs(28_800)),
            ticket: Some(Secret::from("ticket")),
            ..Grant::default()
        }
    }

    fn offer(holder: &Authenticated) -> Offer {
        let wants = Wants {
            v4: true,
            ..Wants::default()
        };
        let (_, request) = holder.request(&Identity::default(), &wants, Some(&BINDING));
        let (head, _) = parse_request(&request, request.len())
            .expect("a request")
            .expect("whole");
        Offer::parse(&head).expect("an offer")
    }

    #[test]
    fn the_first_request_registers_the_key_and_proves_nothing() {
        let offer = offer(&holder());
        assert_eq!(offer.park, Some(SessionKey::from_seed([7; 32]).public()));
        assert_eq!((offer.resume, offer.cookie.expose()), (None, "cookie"));
    }

    #[test]
    fn every_further_request_shows_the_ticket_and_a_higher_epoch_whatever_became_of_the_last() {
        let mut holder = holder();
        holder.granted(&grant(1));
        let key = SessionKey::from_seed([7; 32]).public();
        for epoch in 2..5 {
            // The attempt is dropped: nobody knows whether its request arrived.
            let offer = offer(&holder.clone());
            let resume = offer.resume.expect("a proof");
            assert_eq!((resume.session.epoch, offer.cookie.expose()), (epoch, "ticket"));
            assert_eq!(verify(&key, &BINDING, &resume), Ok(()));
        }
        holder.outdated(17);
        assert_eq!(offer(&holder).resume.map(|resume| resume.session.epoch), Some(18));
    }

    #[test]
    fn another_process_goes_on_with_the_same_key_and_a_higher_epoch() {
        let mut old = holder();
        old.granted(&grant(4));
        let seed = *old.key().expect("a key").seed();
        let new = Authenticated::from_cookie(old.cookie().clone())
            .with_key(SessionKey::from_seed(seed))
            .going_on(old.session(), old.ticket().cloned());
        assert_eq!(offer(&new).resume.map(|resume| resume.session.epoch), Some(5));
    }

    #[test]
    fn a_gateway_that_keeps_no_key_gets_the_cookie_and_no_proof() {
        let mut holder = holder();
        holder.granted(&Grant { park: None, ..grant(1) });
        let offer = offer(&holder);
        assert_eq!((offer.resume, offer.cookie.expose()), (None, "cookie"));
        assert!(!format!("{holder:?}").contains("cookie\""));
    }

    #[test]
    fn a_gateway_that_has_kept_the_key_gets_the_proof_although_it_grants_no_parking_any_more() {
        let mut holder = holder();
        holder.granted(&grant(1));
        holder.granted(&Grant { park: None, ..grant(2) });
        let resume = offer(&holder).resume.expect("a proof");
        assert_eq!(resume.session.epoch, 3);
    }

    #[test]
    fn a_newer_epoch_is_heard_of_from_the_refusal() {
        let refusal = b"HTTP/1.1 409 Conflict\r\nX-Marmot-Session: s1;12\r\n\r\n";
        let (head, _) = parse_response(refusal, refusal.len()).expect("a reply").expect("whole");
        let (requesting, _) = holder().request(&Identity::default(), &Wants::default(), None);
        let error = requesting.reply(&head, now::Now::default()).expect_err("refused");
        assert_eq!(error, ConnectError::Stale(12));
    }
}
