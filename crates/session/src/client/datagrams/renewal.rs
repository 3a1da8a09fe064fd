//! When keys are renewed.

use std::time::Duration;

use now::Awake;

use super::{DataOutput, Datagrams, RenewalBy};

/// How long to wait for a new CONNECT before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Keys that became too old in a sleep are renewed this long after it: what the user waits for goes first.
const AFTER_WAKE: Duration = Duration::from_secs(5);

impl Datagrams {
    /// Keys age while the host sleeps, and the clock of deadlines stands still.
    pub(super) fn grow_older(&mut self, asleep: Duration) {
        for (at, _) in &mut self.renewals {
            *at = Awake::from_origin(at.since_origin().saturating_sub(asleep));
        }
    }

    /// What is due at a wake comes a little later.
    pub(super) fn renew_soon(&mut self, now: Awake) {
        for (at, _) in &mut self.renewals {
            *at = (*at).max(now.plus(AFTER_WAKE));
        }
    }

    /// Whoever is asked may fail, or may not be able to just now: it is asked again, unless a new CONNECT comes first.
    pub(super) fn ask_for_renewal(&mut self, why: &'static str, now: Awake) {
        if self.is_quiet() {
            self.owed = Some(why);
            return;
        }
        self.outputs.push_back(DataOutput::Renew(why));
        self.renewals.retain(|(_, by)| *by != RenewalBy::Connect);
        self.renewals.push((now.plus(ASK_AGAIN), RenewalBy::Connect));
    }

    pub(super) fn renew(&mut self, now: Awake) {
        let due: Vec<RenewalBy> = self
            .renewals
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, by)| by)
            .collect();
        for by in due {
            match by {
                RenewalBy::Connect => self.ask_for_renewal("new keys are due", now),
                RenewalBy::Handshake => {
                    self.begin(now);
                    let after = self.terms.renewals.iter().find(|renewal| renewal.by == by);
                    if let Some(renewal) = after {
                        self.renewals.push((now.plus(renewal.after), by));
                    }
                }
            }
        }
    }
}
