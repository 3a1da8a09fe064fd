//! Is a silent client's process stopped, its host asleep, or the way to it cut? Judged without disturbing it.
//!
//! ```text
//!            60 s without a word            15 s without an answer, then its kernel says which
//!   Active ----------------------> Quiet ---------------------------------> Parked{frozen | unreachable} --+
//!     ^ ^  asks the client once      |                                          looked at every 15 s       |
//!     | '--------- any word ---------'                                                                     |
//!     +---------------------------------------- any word --------------------------------------------------+
//!     +-- "awake" -- Parked{announced} <-- "park", from any state; other words pass, and open the downlink for 10 s
//! ```
//! A word is an authentic record or frame of the client's own: packets, answers and keepalives alike. What its kernel does
//! for a stopped process is none, and what is sent to the client is none either. Times are of the awake clock.

use std::collections::VecDeque;
use std::time::Duration;

use now::{Awake, Deadline, Gap, Now};

use super::{ParkKind, Via};

/// Between a question and the verdict, and between two looks at the socket: the kernel repeats an unanswered keepalive probe
/// as often, and no path that is of use takes longer for an answer.
const LOOK: Duration = Duration::from_secs(15);

/// How long a word opens the downlink of a client that said it sleeps: enough for what a maintenance wake fetches. As often
/// is told that one goes on, so that its session lives as long as the client does.
const STIR: Duration = Duration::from_secs(10);

/// Keepalive probes or repetitions of a segment without an answer that make a client unreachable. One is lost now and then.
const UNANSWERED: u8 = 2;

/// Looks that show nothing before a silent client counts as unreachable, where the kernel tells nothing.
const BLIND_LOOKS: u8 = 2;

/// Between a return and the next announcement of a sleep. No host wakes and sleeps again so fast; a client that says both over
/// and over would cost two lines and two rows on the disk each time.
const SETTLED: Duration = Duration::from_secs(1);

/// What the kernel knows of the control connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Both directions are open. Where they are not, the end of the connection says so itself.
    pub established: bool,
    /// Keepalive or zero-window probes without an answer.
    pub probes: u8,
    /// Repetitions of the oldest segment in flight.
    pub retransmits: u8,
    /// Segments in flight.
    pub unacked: u32,
    /// Since the client's kernel acknowledged anything, probes included.
    pub last_ack: Duration,
}

/// What is to be done about a client's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attend {
    /// Ask the client once for a word: over the data channel if that is up, else over the control connection.
    Ask,
    /// Look at the control connection's socket, and tell [`Attendance::sampled`].
    Look,
    /// The client is parked: drop what waits for it.
    Park(ParkKind),
    /// It still is, for another reason.
    Kind(ParkKind),
    /// It said something, sleeps all the same, and may get answers for a while.
    Stir,
    /// It still does, some time later.
    StillStirs,
    /// It is back.
    Unpark(Via),
    /// Switch the kernel's keepalive on or off: a host that sleeps is not to be woken by it.
    Keepalive(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Quiet { look: Awake, blind: u8 },
    Announced { open: Option<Open> },
    Parked { kind: ParkKind, look: Option<Awake> },
}

/// The downlink of a client that said it sleeps and says something all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    until: Awake,
    /// When that was told last.
    told: Awake,
}

/// The presence of one client. See the module.
#[derive(Debug)]
pub struct Attendance {
    quiet: Duration,
    /// An acknowledgement younger than this says that the client's kernel lives.
    recent: Duration,
    /// The last word.
    heard: Awake,
    /// There is a control connection.
    connected: bool,
    state: State,
    /// When it came back last.
    returned: Option<Awake>,
    /// At most three are added by a call, and the caller takes all after each.
    outputs: VecDeque<Attend>,
}

impl Attendance {
    /// A client that connected at `now`. It is asked after `quiet` without a word. `recent` is how old the last
    /// acknowledgement of a living kernel can be: keepalive's idle time and one interval.
    pub fn new(quiet: Duration, recent: Duration, now: Now) -> Self {
        Self {
            quiet,
            recent,
            heard: now.awake,
            connected: true,
            state: State::Active,
            returned: None,
            outputs: VecDeque::new(),
        }
    }

    /// Whether the client was heard of lately. Towards one that was not, at most one control record may be outstanding.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// Why the client is parked, if it is.
    pub fn parked(&self) -> Option<ParkKind> {
        match self.state {
            State::Active | State::Quiet { .. } => None,
            State::Announced { .. } => Some(ParkKind::Announced),
            State::Parked { kind, .. } => Some(kind),
        }
    }

    /// Whether packets may go to the client.
    pub fn downlink_open(&self, now: Now) -> bool {
        match self.state {
            State::Active | State::Quiet { .. } => true,
            State::Announced { open } => open.is_some_and(|open| now.awake < open.until),
            State::Parked { .. } => false,
        }
    }

    /// The client said something, other than that it sleeps or is awake: from where it was (`Via::SamePath`) or not.
    pub fn heard(&mut self, via: Via, now: Now) {
        self.heard = now.awake;
        match &mut self.state {
            State::Active => {}
            State::Quiet { .. } => self.state = State::Active,
            State::Announced { open } => {
                let still = open.filter(|open| now.awake < open.until);
                let told = still.map(|open| open.told).filter(|told| now.awake.since(*told) < STIR);
                if told.is_none() {
                    let word = still.map_or(Attend::Stir, |_| Attend::StillStirs);
                    self.outputs.push_back(word);
                }
                *open = Some(Open {
                    until: now.awake.plus(STIR),
                    told: told.unwrap_or(now.awake),
                });
            }
            State::Parked { .. } => self.unpark(via),
        }
    }

    /// The client said that it is about to sleep.
    pub fn park(&mut self, now: Now) {
        self.heard = now.awake;
        if self.returned.is_some_and(|at| now.awake.since(at) < SETTLED) {
            return;
        }
        let before = std::mem::replace(&mut self.state, State::Announced { open: None });
        match before {
            State::Active | State::Quiet { .. } => self.outputs.push_back(Attend::Park(ParkKind::Announced)),
            State::Parked { .. } => self.outputs.push_back(Attend::Kind(ParkKind::Announced)),
            State::Announced { .. } => return,
        }
        self.outputs.push_back(Attend::Keepalive(false));
    }

    /// The client said that it is awake for good, from an address that is proven to be its own.
    pub fn awake(&mut self, via: Via, now: Now) {
        self.heard = now.awake;
        match self.state {
            State::Active => {}
            State::Quiet { .. } => self.state = State::Active,
            State::Announced { .. } => {
                self.outputs.push_back(Attend::Keepalive(true));
                self.unpark(via);
            }
            State::Parked { .. } => self.unpark(via),
        }
    }

    /// What a look at the socket showed; `None` if the kernel does not tell.
    pub fn sampled(&mut self, sample: Option<Sample>, now: Now) {
        let verdict = sample.map(|sample| self.judge(sample));
        match &mut self.state {
            State::Active | State::Announced { .. } => {}
            State::Quiet { blind, .. } => match verdict {
                Some(Some(kind)) => self.silent(kind, now.awake),
                Some(None) => {}
                None if *blind + 1 >= BLIND_LOOKS => self.silent(ParkKind::Unreachable, now.awake),
                None => *blind += 1,
            },
            State::Parked { kind, .. } => match verdict.flatten() {
                Some(other) if other != *kind => {
                    *kind = other;
                    self.outputs.push_back(Attend::Kind(other));
                }
                Some(_) | None => {}
            },
        }
    }

    /// The control connection is gone. That says nothing about the client, but takes away what is known of its kernel.
    pub fn control_gone(&mut self, now: Now) {
        self.connected = false;
        match &mut self.state {
            State::Active | State::Announced { .. } => {}
            State::Quiet { look, .. } => {
                // The question may be lost with the connection.
                *look = now.awake.plus(LOOK);
                self.outputs.push_back(Attend::Ask);
            }
            State::Parked { kind, look } => {
                *look = None;
                if *kind != ParkKind::Unreachable {
                    *kind = ParkKind::Unreachable;
                    self.outputs.push_back(Attend::Kind(ParkKind::Unreachable));
                }
            }
        }
    }

    /// When to call [`Attendance::handle_timeout`].
    pub fn deadline(&self) -> Option<Deadline> {
        let (at, reason) = match self.state {
            State::Active => (self.heard.plus(self.quiet), "quiet of the client"),
            State::Quiet { look, .. } => (look, "verdict on a quiet client"),
            State::Announced { .. } => return None,
            State::Parked { look, .. } => (look?, "look at a parked client"),
        };
        Some(Deadline { at, reason })
    }

    /// Handles what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.deadline().is_none_or(|deadline| now.awake < deadline.at) {
            return;
        }
        let next = now.awake.plus(LOOK);
        match &mut self.state {
            State::Active => {
                self.state = State::Quiet { look: next, blind: 0 };
                self.outputs.push_back(Attend::Ask);
            }
            State::Quiet { look, .. } if self.connected => {
                *look = next;
                self.outputs.push_back(Attend::Look);
            }
            State::Quiet { .. } => self.silent(ParkKind::Unreachable, now.awake),
            State::Announced { .. } => {}
            State::Parked { look, .. } => {
                *look = Some(next);
                self.outputs.push_back(Attend::Look);
            }
        }
    }

    /// Time in which the gateway did not run is nobody's silence: answers may wait to be read, so that no verdict comes before
    /// another [`LOOK`] has passed.
    pub fn rebase(&mut self, gap: &Gap, now: Now) {
        let later = |at: Awake| at.plus(gap.awake).max(now.awake.plus(LOOK));
        self.heard = self.heard.plus(gap.awake);
        match &mut self.state {
            State::Active => {}
            State::Quiet { look, blind } => {
                *look = later(*look);
                *blind = 0;
            }
            State::Announced { open } => {
                *open = open.map(|Open { until, told }| Open {
                    until: until.plus(gap.awake),
                    told: told.plus(gap.awake),
                });
            }
            State::Parked { look, .. } => *look = look.map(later),
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Attend> {
        self.outputs.pop_front()
    }

    fn judge(&self, sample: Sample) -> Option<ParkKind> {
        let repeated = sample.unacked > 0 && sample.retransmits >= UNANSWERED;
        if !sample.established {
            None
        } else if sample.probes >= UNANSWERED || repeated {
            Some(ParkKind::Unreachable)
        } else {
            (sample.last_ack <= self.recent).then_some(ParkKind::Frozen)
        }
    }

    /// The client did not answer the question.
    fn silent(&mut self, kind: ParkKind, now: Awake) {
        let look = self.connected.then(|| now.plus(LOOK));
        self.state = State::Parked { kind, look };
        self.outputs.push_back(Attend::Park(kind));
    }

    fn unpark(&mut self, via: Via) {
        // Whoever is unparked has just been heard.
        self.returned = Some(self.heard);
        self.state = State::Active;
        self.outputs.push_back(Attend::Unpark(via));
    }
}

#[cfg(test)]
mod tests;
