//! The model gateway: sessions with their epochs, and what ended them.

/// A session as the gateway knows it.
#[derive(Clone, Copy, Debug)]
struct Session {
    epoch: u32,
    alive: bool,
}

/// One epoch of one session: what a logout token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Which session.
    pub session: u32,
    /// Which connection of it.
    pub epoch: u32,
}

/// The gateway.
#[derive(Debug, Default)]
pub struct Gateway {
    sessions: Vec<Session>,
}

impl Gateway {
    fn of(&mut self, session: u32) -> &mut Session {
        &mut self.sessions[session as usize]
    }

    /// Somebody logged in.
    pub fn log_in(&mut self) -> Epoch {
        self.sessions.push(Session { epoch: 1, alive: true });
        let session = u32::try_from(self.sessions.len() - 1).expect("a schedule has few sessions");
        Epoch { session, epoch: 1 }
    }

    /// Somebody came back with a cookie; none if the session is over.
    pub fn resume(&mut self, session: u32) -> Option<Epoch> {
        let known = self.of(session);
        if !known.alive {
            return None;
        }
        known.epoch += 1;
        let epoch = known.epoch;
        Some(Epoch { session, epoch })
    }

    /// Ends an epoch: a goodbye on its own connection, or a logout with its token. Nothing happens if the session is over
    /// or has a later epoch.
    pub fn end(&mut self, which: Epoch) {
        let known = self.of(which.session);
        if known.epoch == which.epoch {
            known.alive = false;
        }
    }

    /// Ends a session whatever its epoch.
    pub fn end_session(&mut self, session: u32) {
        self.of(session).alive = false;
    }

    /// The epoch of a session that lives.
    pub fn living(&self, session: u32) -> Option<Epoch> {
        let known = self.sessions[session as usize];
        known.alive.then_some(Epoch {
            session,
            epoch: known.epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_ends_its_own_epoch_and_no_later_one() {
        let mut gateway = Gateway::default();
        let first = gateway.log_in();
        let second = gateway.resume(first.session).expect("it lives");
        gateway.end(first);
        assert_eq!(gateway.living(first.session), Some(second));
        gateway.end(second);
        assert_eq!(gateway.resume(first.session), None);
    }
}
