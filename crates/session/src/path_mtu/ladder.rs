//! Which sizes to try next: a search with many tries under way at once.
//!
//! ```text
//!   floor ...... confirmed ....... doubtful ...... lost ........ ceiling
//!                    |   rungs: first tries  |  timed out  |  not tried any more
//! ```
//! What passes, passes at all smaller sizes; so one answer settles every rung below it, and a rung that lost all its tries
//! every rung above. A rung that timed out once is doubtful: it may have met ordinary loss. It is tried again while finer
//! rungs between it and what is confirmed are tried already, so that the round trips of the levels overlap.

use std::time::Duration;

use now::Awake;

/// Tries until a size counts as too large (RFC 8899 section 5.1.2, MAX_PROBES).
pub(super) const TRIES: u8 = 3;

/// The search ends when the confirmed size and one that does not pass are this close.
pub(super) const STEP: u16 = 8;

/// Rungs put between two sizes at once. With the floor and the aim they are a burst of at most 12 packets, about the
/// initial window of TCP (ten, RFC 6928), which every path takes.
const WIDTH: u16 = 10;

/// What common links take away from the 1500 bytes of Ethernet, for which the ceiling was most likely reckoned: PPPoE 8,
/// IP in IP 20, PPPoE and a tunnel 48, PPPoE and WireGuard 68 (over IPv4), WireGuard 80, and the customary 1400, 1360 and
/// 1280.
const COMMON: [u16; 9] = [0, 8, 20, 48, 68, 80, 100, 140, 220];

/// A size under trial.
#[derive(Clone, Copy, Debug)]
struct Rung {
    size: u16,
    /// Tries that timed out.
    lost: u8,
    /// When the try on its way times out.
    due: Option<Awake>,
}

/// The sizes between floor and ceiling. At most five levels of [`WIDTH`] rungs: each level lies between two neighbours of
/// the one before, and [`STEP`] times the fifth power of eleven is more than there are sizes.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    pub(super) floor: u16,
    pub(super) ceiling: u16,
    /// The largest size that was answered.
    low: Option<u16>,
    /// The smallest size that did not pass.
    high: Option<u16>,
    /// The size that is hoped for, and tried again although smaller ones are doubtful.
    aim: u16,
    rungs: Vec<Rung>,
}

impl Ladder {
    pub(super) fn new(floor: u16, ceiling: u16) -> Self {
        Self {
            floor: floor.min(ceiling),
            ceiling,
            low: None,
            high: None,
            aim: ceiling,
            rungs: Vec::new(),
        }
    }

    /// The largest size that was answered; `None` if none was.
    pub(super) fn confirmed(&self) -> Option<u16> {
        self.low
    }

    /// Did `size` turn out not to pass?
    pub(super) fn excludes(&self, size: u16) -> bool {
        self.high.is_some_and(|high| high <= size)
    }

    /// Looks for more than is confirmed; up to what was refused, if nothing is.
    pub(super) fn climb(&mut self) {
        if self.low.is_some() {
            self.high = None;
        }
        self.aim = self.ceiling;
        self.fill();
    }

    /// Tries the confirmed size again, and looks below when that times out.
    pub(super) fn verify(&mut self) {
        if let Some(size) = self.low.take() {
            self.aim = size;
            self.rungs = vec![Rung::new(size)];
        }
    }

    /// Tries the confirmed size again, and looks below at the same time.
    pub(super) fn descend(&mut self) {
        self.verify();
        self.insert_below(self.aim);
    }

    pub(super) fn answered(&mut self, size: u16) {
        self.low = self.low.max(Some(size));
        if self.excludes(size) {
            self.high = None;
        }
        self.prune();
    }

    /// The host knows that `size` does not pass, whatever was answered before.
    pub(super) fn refused(&mut self, size: u16) {
        self.high = Some(self.high.map_or(size, |high| high.min(size)));
        self.low = self.low.filter(|low| *low < size);
        self.prune();
    }

    /// Forgets what did not pass: nothing passed, so the reason was not the size.
    pub(super) fn absolve(&mut self) {
        self.high = None;
    }

    /// Takes note of tries that were not answered in time.
    pub(super) fn time_out(&mut self, now: Awake) {
        for rung in &mut self.rungs {
            if rung.due.is_some_and(|due| due <= now) {
                rung.due = None;
                rung.lost += 1;
            }
        }
        let lost = self
            .rungs
            .iter()
            .filter(|rung| rung.lost >= TRIES)
            .map(|rung| rung.size);
        self.high = lost.chain(self.high).min();
        self.prune();
    }

    /// When the next try times out.
    pub(super) fn due(&self) -> Option<Awake> {
        self.rungs.iter().filter_map(|rung| rung.due).min()
    }

    /// Is there nothing left to learn? Without any answer only when the floor, too, lost all its tries.
    pub(super) fn is_done(&self) -> bool {
        match (self.low, self.high) {
            (Some(low), _) if low >= self.ceiling => true,
            (Some(low), Some(high)) => high - low <= STEP,
            (None, Some(high)) => high <= self.floor,
            (_, None) => false,
        }
    }

    /// Drops the rungs: the search is over.
    pub(super) fn clear(&mut self) {
        self.rungs.clear();
    }

    /// Adds rungs where all first tries are in and the gap is still too wide.
    pub(super) fn fill(&mut self) {
        let doubtful = self.doubtful();
        let is_first_try_open = |rung: &Rung| doubtful.is_none_or(|doubtful| rung.size < doubtful);
        if self.rungs.iter().any(is_first_try_open) {
            return;
        }
        match doubtful {
            Some(doubtful) => self.insert_below(doubtful),
            None => self.insert_common(),
        }
    }

    /// The size to send now. Its try times out `timeout` from `now`.
    pub(super) fn take(&mut self, now: Awake, timeout: Duration) -> Option<u16> {
        let doubtful = self.doubtful();
        let is_wanted = |rung: &&mut Rung| {
            let is_retried = Some(rung.size) == doubtful || rung.size == self.aim;
            rung.due.is_none() && (rung.lost == 0 || is_retried)
        };
        // The largest first: if it passes, the others need not have been sent.
        let rung = self.rungs.iter_mut().filter(is_wanted).max_by_key(|rung| rung.size)?;
        rung.due = Some(now.plus(timeout));
        Some(rung.size)
    }

    pub(super) fn rebase(&mut self, by: Duration) {
        for due in self.rungs.iter_mut().filter_map(|rung| rung.due.as_mut()) {
            *due = due.plus(by);
        }
    }

    /// The smallest size that at least one try was lost of.
    fn doubtful(&self) -> Option<u16> {
        let timed_out = self.rungs.iter().filter(|rung| rung.lost > 0).map(|rung| rung.size);
        timed_out.chain(self.high).min()
    }

    fn prune(&mut self) {
        let (low, high) = (self.low, self.high);
        self.rungs
            .retain(|rung| Some(rung.size) > low && high.is_none_or(|high| rung.size < high));
    }

    /// Evenly spaced, at most [`STEP`] apart if [`WIDTH`] rungs do it. The floor is one of them until something was
    /// answered: it tells a path that is narrow from one that is dead.
    fn insert_below(&mut self, high: u16) {
        let low = self.low.unwrap_or(self.floor);
        let gap = u32::from(high.saturating_sub(low));
        if self.low.is_none() && gap > 0 {
            self.rungs.push(Rung::new(self.floor));
        }
        let rungs = gap.div_ceil(u32::from(STEP)).saturating_sub(1).min(u32::from(WIDTH));
        for index in 1..=rungs {
            let above = u16::try_from(gap * index / (rungs + 1)).expect("less than the gap");
            self.rungs.push(Rung::new(low + above));
        }
    }

    fn insert_common(&mut self) {
        let low = self.low.unwrap_or(self.floor);
        if self.low.is_none() {
            self.rungs.push(Rung::new(self.floor));
        }
        for less in COMMON {
            let size = self.ceiling.saturating_sub(less);
            if size > low {
                self.rungs.push(Rung::new(size));
            }
        }
    }
}

impl Rung {
    fn new(size: u16) -> Self {
        Self {
            size,
            lost: 0,
            due: None,
        }
    }
}
