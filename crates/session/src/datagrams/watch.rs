//! Is the datagram path alive? Traffic asks, not a clock: a path that nobody needs may be as dead as it likes.
//!
//! ```text
//!   first packet sent      + 750 ms    + 1250 ms     + 1750 ms   + 2500 ms
//!   since anything came in     |            |             |           |
//!         |--------------------|------------|-------------|-----------|
//!                            probe    probe, suspect    probe       dead
//! ```
//! Anything authentic that comes in begins the story anew. A path on which nothing is sent is asked after its idle time.
//! The figures leave a path of 700 ms round trip alone, and tell of a dead one within 3 s of the first packet it swallowed.

use std::time::Duration;

use now::Awake;

/// From the first unanswered packet to each probe, and from there to the end.
const STEPS: [Duration; 4] = [
    Duration::from_millis(750),
    Duration::from_millis(1250),
    Duration::from_millis(1750),
    Duration::from_millis(2500),
];

/// What is to be done about a path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathVerdict {
    /// Nothing yet.
    Wait,
    /// Send a probe.
    Probe,
    /// Send a probe, and begin to try another path.
    Suspect,
    /// It carries nothing.
    Dead,
}

/// The state of one path.
#[derive(Clone, Copy, Debug)]
pub struct PathWatch {
    idle: Option<Duration>,
    heard: Awake,
    /// The first packet sent since anything was heard.
    asked: Option<Awake>,
    /// Steps taken since.
    steps: usize,
}

impl PathWatch {
    /// Watches a path that was heard from at `now`. It is asked after `idle` of silence, or only by traffic with `None`.
    pub fn new(idle: Option<Duration>, now: Awake) -> Self {
        Self {
            idle,
            heard: now,
            asked: None,
            steps: 0,
        }
    }

    /// Something was sent that a living peer answers sooner or later: a packet or a probe.
    pub fn sent(&mut self, now: Awake) {
        if self.asked.is_none() {
            self.asked = Some(now);
        }
    }

    /// Something authentic arrived. Whether it took a probe: what was sent before had brought nothing back.
    pub fn heard(&mut self, now: Awake) -> bool {
        self.heard = now;
        self.asked = None;
        std::mem::take(&mut self.steps) > 0
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<Awake> {
        match self.asked {
            Some(asked) => STEPS.get(self.steps).map(|step| asked.plus(*step)),
            None => self.idle.map(|idle| self.heard.plus(idle)),
        }
    }

    /// Looks at the clock. A probe that this asks for counts as sent. A look that comes late moves all that follows: each probe has its
    /// time to be answered, however little this process runs.
    pub fn look(&mut self, now: Awake) -> PathVerdict {
        let Some(deadline) = self.deadline().filter(|deadline| now >= *deadline) else {
            return PathVerdict::Wait;
        };
        self.asked = match self.asked {
            Some(asked) => Some(asked.plus(now.since(deadline))),
            None => Some(now),
        };
        self.steps += 1;
        match self.steps {
            1 | 3 => PathVerdict::Probe,
            2 => PathVerdict::Suspect,
            _ => PathVerdict::Dead,
        }
    }

    /// Time in which this process did not run does not count.
    pub fn rebase(&mut self, by: Duration) {
        self.heard = self.heard.plus(by);
        self.asked = self.asked.map(|asked| asked.plus(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Awake {
        Awake::from_origin(Duration::from_millis(ms))
    }

    fn story(watch: &mut PathWatch, until: u64) -> Vec<(u64, PathVerdict)> {
        let mut told = Vec::new();
        for ms in 0..=until {
            match watch.look(at(ms)) {
                PathVerdict::Wait => {}
                verdict => told.push((ms, verdict)),
            }
        }
        told
    }

    #[test]
    fn a_path_that_swallows_packets_is_dead_within_three_seconds() {
        let mut watch = PathWatch::new(None, at(0));
        watch.sent(at(100));
        watch.sent(at(700));
        assert_eq!(
            story(&mut watch, 10_000),
            [
                (850, PathVerdict::Probe),
                (1350, PathVerdict::Suspect),
                (1850, PathVerdict::Probe),
                (2600, PathVerdict::Dead)
            ]
        );
    }

    #[test]
    fn a_path_that_nobody_uses_is_asked_after_its_idle_time() {
        let idle = Some(Duration::from_secs(20));
        let mut watch = PathWatch::new(idle, at(0));
        assert_eq!(story(&mut watch, 20_000), [(20_000, PathVerdict::Probe)]);
        watch.heard(at(20_040));
        assert_eq!(watch.deadline(), Some(at(40_040)));
        assert_eq!(PathWatch::new(None, at(0)).deadline(), None);
    }

    #[test]
    fn an_answer_begins_the_story_anew() {
        let mut watch = PathWatch::new(None, at(0));
        watch.sent(at(0));
        assert_eq!(watch.look(at(750)), PathVerdict::Probe);
        assert_eq!(watch.look(at(1250)), PathVerdict::Suspect);
        watch.heard(at(1300));
        assert_eq!(watch.deadline(), None);
        watch.sent(at(1400));
        assert_eq!(watch.deadline(), Some(at(2150)));
    }

    #[test]
    fn a_look_that_comes_late_leaves_each_probe_its_time() {
        let mut watch = PathWatch::new(None, at(0));
        watch.sent(at(0));
        assert_eq!(watch.look(at(2700)), PathVerdict::Probe);
        assert_eq!(watch.look(at(2700)), PathVerdict::Wait);
        assert_eq!(watch.deadline(), Some(at(3200)));
        assert_eq!(watch.look(at(5000)), PathVerdict::Suspect);
        assert_eq!(watch.look(at(5499)), PathVerdict::Wait);
        assert_eq!(watch.look(at(5500)), PathVerdict::Probe);
        assert_eq!(watch.look(at(6250)), PathVerdict::Dead);
    }

    #[test]
    fn a_gap_shifts_the_story() {
        let mut watch = PathWatch::new(None, at(0));
        watch.sent(at(0));
        watch.rebase(Duration::from_secs(60));
        assert_eq!(watch.look(at(60_000)), PathVerdict::Wait);
        assert_eq!(watch.look(at(60_750)), PathVerdict::Probe);
    }
}
