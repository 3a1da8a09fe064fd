//! Is the peer there? Dead-peer detection as the client of a stock gateway must do it.
//!
//! ```text
//!   last frame received      + dpd          + dpd/2 ...       + 2 x dpd
//!         |-------------------|--------------|-----------------|
//!                          probe           probe              dead
//! ```
//! The schedule is the one of stock `openconnect` (measured). It counts waking time only, and a gap shifts it: a verdict
//! never uses time in which this process did not run.

use std::time::Duration;

use now::Awake;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Send a probe.
    Probe,
    /// No frame in spite of probes.
    Dead,
}

/// The state of dead-peer detection on one channel.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    interval: Duration,
    heard: Awake,
    probed: Option<Awake>,
}

impl Liveness {
    /// Watches a channel that was heard from at `now`. `interval` is the granted dead-peer detection time.
    pub fn new(interval: Duration, now: Awake) -> Self {
        Self {
            interval,
            heard: now,
            probed: None,
        }
    }

    /// The granted dead-peer detection time.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// A frame arrived.
    pub fn heard(&mut self, now: Awake) {
        self.heard = now;
        self.probed = None;
    }

    /// When to look again.
    pub fn deadline(&self) -> Awake {
        match self.probed {
            None => self.heard.plus(self.interval),
            Some(probed) => probed.plus(self.interval / 2).min(self.condemned_at()),
        }
    }

    /// Looks at the clock. A [`Verdict::Probe`] counts as sent. The peer is dead only if it was probed first and had half
    /// an interval to answer.
    pub fn look(&mut self, now: Awake) -> Verdict {
        if now < self.deadline() {
            return Verdict::Wait;
        }
        if self.probed.is_some() && now >= self.condemned_at() {
            return Verdict::Dead;
        }
        self.probed = Some(now);
        Verdict::Probe
    }

    /// Time in which this process did not run does not count.
    pub fn rebase(&mut self, by: Duration) {
        self.heard = self.heard.plus(by);
        self.probed = self.probed.map(|probed| probed.plus(by));
    }

    fn condemned_at(&self) -> Awake {
        let after_silence = self.heard.plus(self.interval * 2);
        self.probed.map_or(after_silence, |probed| {
            after_silence.max(probed.plus(self.interval / 2))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DPD: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Awake {
        Awake::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_silent_peer_is_probed_twice_and_then_dead() {
        let mut liveness = Liveness::new(DPD, at(0));
        let verdicts: Vec<_> = (0..=50)
            .map(|second| (second, liveness.look(at(second))))
            .filter(|(_, verdict)| *verdict != Verdict::Wait)
            .take(3)
            .collect();
        assert_eq!(
            verdicts,
            [(20, Verdict::Probe), (30, Verdict::Probe), (40, Verdict::Dead)]
        );
    }

    #[test]
    fn an_answer_starts_over() {
        let mut liveness = Liveness::new(DPD, at(0));
        assert_eq!(liveness.look(at(20)), Verdict::Probe);
        liveness.heard(at(21));
        assert_eq!(liveness.deadline(), at(41));
        assert_eq!(liveness.look(at(40)), Verdict::Wait);
    }

    #[test]
    fn a_late_look_probes_before_it_condemns() {
        let mut liveness = Liveness::new(DPD, at(0));
        assert_eq!(liveness.look(at(3600)), Verdict::Probe);
        assert_eq!(liveness.look(at(3609)), Verdict::Wait);
        assert_eq!(liveness.look(at(3610)), Verdict::Dead);
    }

    #[test]
    fn time_in_a_gap_does_not_count() {
        let mut liveness = Liveness::new(DPD, at(0));
        assert_eq!(liveness.look(at(20)), Verdict::Probe);
        liveness.rebase(Duration::from_secs(3600));
        assert_eq!(liveness.look(at(3621)), Verdict::Wait);
        assert_eq!(liveness.look(at(3630)), Verdict::Probe);
    }
}
