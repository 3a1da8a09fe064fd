//! What kind of wake it is: told from the clocks, and from what the host says of its sleep, of which anything may be missing.
//!
//! ```text
//!                  Sleeping                                     Sleeping: it is about to sleep
//!      Awake ---------------------> Asleep                      Full: UserPresent, or facts that say so
//!      ^ ^ ^                          | |
//!      | | +---- Full, or 20 s -------+ |  a gap, or Resumed    a gap while awake goes the same ways
//!      | |                              v
//!      | +-- Full, or 120 s -- Maintenance                      provisional: every gap begins the 120 s anew
//!      +---- Full, Demand, PathChange, or 20 s -- Unsure        nobody can tell
//! ```
//! | source | a gap, or `Resumed`, without a user | how a maintenance wake ends |
//! |---|---|---|
//! | [`Source::Presence`] | maintenance | `UserPresent` |
//! | [`Source::Facts`] | maintenance while a sleep is prepared, or the lid is closed and not docked; else full | facts that say otherwise |
//! | [`Source::None`] | unknown | |
//!
//! A gap in which the clocks agree is a freeze. It says nothing of a wake, unless a sleep was announced or the host was not known
//! to be awake: under suspend-to-idle a sleep can look like one. Nothing relies on words in pairs: each may be missing, doubled or late, and every state but
//! Awake ends by itself.

use std::fmt;
use std::time::Duration;

use now::{Awake, Boot, Deadline, Gap, GapKind, Now};

use crate::machine::{Shift, Turn};
use crate::{Effect, Machine, Proofs, Report};

/// Awake for this long without a word after a sleep was announced: it did not come, or its end was not told. As long as a
/// maintenance wake where one is likely: it was announced in one, or the host says that it still prepares.
pub const SLEEP_DOUBTED_AFTER: Duration = Duration::from_secs(20);

/// Awake for this long in a maintenance wake: somebody uses the host. The event that should say so may never come. The
/// maintenance wakes of laptops last 30 to 55 s.
pub const MAINTENANCE_DOUBTED_AFTER: Duration = Duration::from_secs(120);

/// Awake for this long in a wake of which nobody can tell the kind: as good as full.
pub const UNSURE_FOR: Duration = Duration::from_secs(20);

/// A sleep this long or longer is one: the two clocks are read one after the other.
const UNTOLD: Duration = Duration::from_millis(500);

/// How long a wake must last, awake without a break, until it counts as a full one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeLimits {
    /// One of which nobody can tell the kind. Default [`UNSURE_FOR`].
    pub unknown: Duration,
    /// A maintenance wake. Default [`MAINTENANCE_DOUBTED_AFTER`].
    pub maintenance: Duration,
}

impl Default for WakeLimits {
    fn default() -> Self {
        Self {
            unknown: UNSURE_FOR,
            maintenance: MAINTENANCE_DOUBTED_AFTER,
        }
    }
}

/// What kind of wake it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeKind {
    /// Somebody uses the host.
    Full,
    /// The host looks after itself and sleeps again soon.
    Maintenance,
    /// Nobody can tell.
    Unknown,
}

impl WakeKind {
    /// The word of `wakes_total{kind}`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Maintenance => "maintenance",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for WakeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a source of power words can be relied on for, as long as it speaks at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// There is none: containers, servers.
    #[default]
    None,
    /// What it knows can be read at any time (logind): a sleep that is prepared, lid and dock. Its `Resumed` comes at the end
    /// of a sleep job, which may have slept several times.
    Facts,
    /// It says when a user is there (macOS `HasPoweredOn`, Windows `RESUMESUSPEND`): a wake without that word is one without
    /// a user.
    Presence,
}

/// What can be read of the host. To be read again at each look at the clocks, before a gap is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Who says so.
    pub source: Source,
    /// A sleep is being prepared or goes on (logind's `PreparingForSleep`).
    pub preparing: Option<bool>,
    /// The lid is closed; nothing where there is no lid.
    pub lid_closed: Option<bool>,
    /// The host is in a dock, or has another screen.
    pub docked: Option<bool>,
}

impl Surroundings {
    /// The kind of a wake in which no user has shown himself.
    pub fn kind(self) -> WakeKind {
        let closed = self.lid_closed == Some(true) && self.docked != Some(true);
        match (self.source, self.preparing) {
            (Source::None, _) => WakeKind::Unknown,
            (Source::Presence, _) | (Source::Facts, Some(true)) => WakeKind::Maintenance,
            (Source::Facts, Some(false) | None) if closed => WakeKind::Maintenance,
            (Source::Facts, Some(false)) => WakeKind::Full,
            (Source::Facts, None) => WakeKind::Unknown,
        }
    }

    /// What a word of a source of facts says besides.
    fn preparing_is(&mut self, preparing: bool) {
        match self.source {
            Source::Facts => self.preparing = Some(preparing),
            Source::None | Source::Presence => {}
        }
    }
}

/// What a source of power words says. Each may come twice, late, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerWord {
    /// The host is about to sleep. Answered with [`Effect::AckSleep`].
    Sleeping,
    /// It woke by itself, or its sleep job ended; nothing about a user.
    Resumed,
    /// A user is there.
    UserPresent,
    /// The facts, as just read.
    Surroundings(Surroundings),
}

/// What may run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Awake,
    /// A sleep was announced: nothing.
    Asleep,
    /// The host is awake for its own purposes: nothing of our own. A user's packets may go out on the old keys.
    Maintenance,
    /// Nobody can tell what kind of wake it is: nothing, until traffic asks for the tunnel ([`crate::Input::Demand`]).
    Unsure,
}

impl Mode {
    /// The word used in status and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Asleep => "asleep",
            Self::Maintenance => "maintenance",
            Self::Unsure => "unsure",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether the host is awake, and since when, on the clock that stands still in sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    Awake,
    Asleep {
        since: Awake,
        /// It was announced in a maintenance wake, and is doubted no sooner than that.
        dark: bool,
    },
    Maintenance {
        since: Awake,
    },
    Unsure {
        since: Awake,
    },
}

impl Power {
    pub(crate) const fn mode(self) -> Mode {
        match self {
            Self::Awake => Mode::Awake,
            Self::Asleep { .. } => Mode::Asleep,
            Self::Maintenance { .. } => Mode::Maintenance,
            Self::Unsure { .. } => Mode::Unsure,
        }
    }

    fn later(self, shift: Shift) -> Self {
        match self {
            Self::Awake => self,
            Self::Asleep { since, dark } => Self::Asleep {
                since: shift.since(since),
                dark,
            },
            Self::Maintenance { since } => Self::Maintenance {
                since: shift.since(since),
            },
            Self::Unsure { since } => Self::Unsure {
                since: shift.since(since),
            },
        }
    }
}

/// What is known of the host's sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    power: Power,
    limits: WakeLimits,
    surroundings: Surroundings,
    /// When a user showed himself last.
    present: Option<Boot>,
    /// When a gap was seen last.
    seen: Option<Boot>,
    /// How far the clock that counts sleep was ahead at the last input.
    ahead: Duration,
    /// The wake that was reported last.
    reported: Option<(WakeKind, Boot)>,
    /// How long the process did not run since the last proof of life, and how often the host woke.
    pub(crate) gap: Duration,
    pub(crate) wakes: u32,
    trial: Option<Trial>,
}

/// A wake of which nobody knows the kind, taken for a full one early: it may make one connection.
#[derive(Clone, Copy, Debug)]
struct Trial {
    since: Awake,
    spent: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            power: Power::Awake,
            limits: WakeLimits::default(),
            surroundings: Surroundings::default(),
            present: None,
            seen: None,
            ahead: Duration::MAX,
            reported: None,
            gap: Duration::ZERO,
            wakes: 0,
            trial: None,
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.power.mode()
    }

    /// When the host is taken for awake although nobody said so.
    pub(crate) fn doubt(&self) -> Option<Deadline> {
        let (at, reason) = match self.power {
            Power::Awake => return None,
            Power::Asleep { since, dark } => {
                // What can be read may say that it goes on.
                let after = if dark || self.surroundings.preparing == Some(true) {
                    self.limits.maintenance
                } else {
                    SLEEP_DOUBTED_AFTER
                };
                (since.plus(after), "end of a sleep that nobody told")
            }
            Power::Maintenance { since } => (since.plus(self.limits.maintenance), "end of a maintenance wake"),
            Power::Unsure { since } => (since.plus(self.limits.unknown), "end of a wake of unknown kind"),
        };
        Some(Deadline { at, reason })
    }

    /// When a trial may connect again, if it has used up what it may.
    pub(crate) fn tried_until(&self, now: Awake) -> Option<Awake> {
        let spent = self.trial.filter(|trial| trial.spent)?;
        Some(spent.since.plus(self.limits.unknown)).filter(|until| now < *until)
    }

    /// A sleep was announced.
    pub(crate) fn announced(&mut self, now: Awake) -> Power {
        self.trial = None;
        let dark = match self.power {
            Power::Awake | Power::Unsure { .. } => false,
            Power::Asleep { dark, .. } => dark,
            Power::Maintenance { .. } => true,
        };
        Power::Asleep { since: now, dark }
    }

    /// A connection is being made.
    pub(crate) fn tried(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.spent = true;
        }
    }

    /// None was made: nothing left this host.
    pub(crate) fn not_tried(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.spent = false;
        }
    }

    /// After each input.
    pub(crate) fn was_called(&mut self, now: Now) {
        self.ahead = ahead(now.awake, now.boot);
    }

    /// The host slept since the last input, and nobody told yet.
    fn slept_untold(&self, awake: Awake, boot: Boot) -> bool {
        ahead(awake, boot) > self.ahead.saturating_add(UNTOLD)
    }

    /// A gap was seen. False if it is one that was told before: both the shell's timer and the pump's may see it.
    fn saw(&mut self, begun: Boot, now: Boot) -> bool {
        let new = self.seen.is_none_or(|seen| seen <= begun);
        self.seen = Some(now);
        new
    }

    /// No verdict counts time in which the process did not run.
    fn rebase(&mut self, shift: Shift) {
        self.power = self.power.later(shift);
        if let Some(trial) = &mut self.trial {
            trial.since = shift.since(trial.since);
        }
    }
}

impl<P: Proofs> Machine<P> {
    /// What may run now.
    pub fn mode(&self) -> Mode {
        self.watch.mode()
    }

    /// Changes how long a wake must last to count as a full one, from now on.
    pub fn set_wake_limits(&mut self, limits: WakeLimits) {
        self.watch.limits = limits;
    }

    pub(crate) fn power_word(&mut self, word: PowerWord, turn: &mut Turn<P>) {
        match word {
            PowerWord::Sleeping => {
                self.watch.surroundings.preparing_is(true);
                self.sleep(turn);
            }
            PowerWord::Resumed => {
                self.watch.surroundings.preparing_is(false);
                self.resumed(turn);
            }
            PowerWord::UserPresent => self.user_present(turn),
            PowerWord::Surroundings(surroundings) => self.look_around(surroundings, turn),
        }
    }

    /// A person is there, or gave an order.
    pub(crate) fn user_present(&mut self, turn: &mut Turn<P>) {
        self.watch.present = Some(turn.boot);
        self.watch.trial = None;
        self.renewals.certain();
        self.wake(WakeKind::Full, turn);
    }

    fn resumed(&mut self, turn: &mut Turn<P>) {
        let kind = self.watch.surroundings.kind();
        match (self.watch.power, kind) {
            // Said twice; or its gap was not seen yet, and decides then.
            (Power::Awake, _) | (Power::Maintenance { .. } | Power::Unsure { .. }, WakeKind::Unknown) => {}
            (Power::Asleep { .. } | Power::Maintenance { .. } | Power::Unsure { .. }, _) => self.wake(kind, turn),
        }
    }

    fn look_around(&mut self, new: Surroundings, turn: &mut Turn<P>) {
        let old = std::mem::replace(&mut self.watch.surroundings, new);
        // The gap is told next, and decides by these.
        if self.watch.slept_untold(turn.now, turn.boot) {
            return;
        }
        let turned = |to| new.preparing == Some(to) && old.preparing != Some(to);
        match (self.watch.power, new.source) {
            (Power::Awake, _) if turned(true) => self.sleep(turn),
            (Power::Asleep { .. }, _) if turned(false) && old.preparing == Some(true) => self.resumed(turn),
            (Power::Maintenance { .. } | Power::Unsure { .. }, Source::Facts) => self.resumed(turn),
            // A lid may be closed for ever: only a gap makes something of it.
            (Power::Awake | Power::Asleep { .. } | Power::Maintenance { .. } | Power::Unsure { .. }, _) => {}
        }
    }

    /// Says what kind of wake it is, with or without a gap.
    pub(crate) fn wake(&mut self, kind: WakeKind, turn: &mut Turn<P>) {
        // What is known better of a wake does not make it a new one.
        let since = match self.watch.power {
            Power::Maintenance { since } | Power::Unsure { since } => since,
            Power::Awake | Power::Asleep { .. } => turn.now,
        };
        let to = match kind {
            WakeKind::Full => Power::Awake,
            WakeKind::Maintenance => Power::Maintenance { since },
            WakeKind::Unknown => Power::Unsure { since },
        };
        if to.mode() != self.mode() {
            self.report_wake(kind, turn.boot, turn);
            self.enter(to, turn);
        }
    }

    fn enter(&mut self, power: Power, turn: &mut Turn<P>) {
        match power {
            Power::Awake => self.awake(turn),
            Power::Asleep { .. } | Power::Maintenance { .. } | Power::Unsure { .. } => {
                self.watch.trial = None;
                self.hold(power.mode(), turn);
                self.set_power(power, turn);
            }
        }
    }

    pub(crate) fn set_power(&mut self, power: Power, turn: &mut Turn<P>) {
        let changed = power.mode() != self.mode();
        self.watch.power = power;
        if changed {
            turn.push(Effect::Mode(power.mode()));
        }
    }

    /// The process did not run for a while: every deadline comes later by what the clock of deadlines counted of it.
    pub(crate) fn clock_gap(&mut self, gap: Gap, turn: &mut Turn<P>) {
        let begun = Boot::from_origin(turn.boot.since_origin().saturating_sub(gap.length));
        if !self.watch.saw(begun, turn.boot) {
            return;
        }
        let shift = Shift {
            begun: Awake::from_origin(turn.now.since_origin().saturating_sub(gap.awake)),
            by: gap.awake,
        };
        self.watch.rebase(shift);
        self.rebase(shift, turn.now);
        let heard = self.unverify(begun);
        if !heard {
            self.watch.gap = self.watch.gap.saturating_add(gap.length);
        }
        match (gap.kind, self.watch.power) {
            (GapKind::Freeze, Power::Awake) if self.watch.surroundings.preparing != Some(true) => {}
            // Awake without a break is what ends them.
            (GapKind::Freeze, Power::Maintenance { .. }) => {
                self.watch.power = Power::Maintenance { since: turn.now };
            }
            (GapKind::Freeze, Power::Unsure { .. }) if self.watch.surroundings.kind() == WakeKind::Unknown => {
                self.watch.power = Power::Unsure { since: turn.now };
            }
            (GapKind::Freeze, Power::Awake | Power::Asleep { .. } | Power::Unsure { .. }) | (GapKind::Sleep, _) => {
                self.slept(begun, heard, turn)
            }
        }
    }

    /// The host slept since `begun`, and woke.
    fn slept(&mut self, begun: Boot, heard: bool, turn: &mut Turn<P>) {
        if !heard {
            self.watch.wakes = self.watch.wakes.saturating_add(1);
        }
        self.watch.trial = None;
        // Nothing runs within a gap: a word that came in its stretch came at its end, before the gap was seen.
        let present = self.watch.present.is_some_and(|present| present > begun);
        let kind = if present {
            WakeKind::Full
        } else {
            self.watch.surroundings.kind()
        };
        let known = self.report_wake(kind, begun, turn);
        let since = turn.now;
        match kind {
            // A word came before the gap was seen, and all is done.
            WakeKind::Full if known && self.mode() == Mode::Awake => self.listen_again(turn),
            WakeKind::Full => self.enter(Power::Awake, turn),
            WakeKind::Maintenance => self.enter(Power::Maintenance { since }, turn),
            WakeKind::Unknown => self.enter(Power::Unsure { since }, turn),
        }
    }

    /// Reports a wake, unless it was since `begun`. Returns whether it was.
    fn report_wake(&mut self, kind: WakeKind, begun: Boot, turn: &mut Turn<P>) -> bool {
        let again = |(reported, at)| reported == kind && at > begun;
        let known = self.watch.reported.is_some_and(again);
        if !known {
            turn.report(Report::Wake(kind, self.watch.gap));
        }
        self.watch.reported = Some((kind, turn.boot));
        known
    }

    /// The deadline of a doubt has come.
    pub(crate) fn end_of_doubt(&mut self, turn: &mut Turn<P>) {
        if let Power::Maintenance { .. } = self.watch.power {
            self.report_wake(WakeKind::Full, turn.boot, turn);
        }
        let WakeLimits { unknown, maintenance } = self.watch.limits;
        let doubtful = matches!(self.watch.power, Power::Unsure { .. });
        self.watch.trial = None;
        self.awake(turn);
        if doubtful {
            // Long enough for packets. A maintenance wake can be longer.
            self.renewals.doubt(maintenance.saturating_sub(unknown), turn.now);
        }
    }

    /// Traffic asks for the tunnel.
    pub(crate) fn demand(&mut self, turn: &mut Turn<P>) {
        // Before a wake that it makes a full one asks whether anybody still waits.
        self.asked = self.asked.map(|_| turn.boot);
        self.try_unsure(turn);
        self.ask(turn);
    }

    /// Something says that somebody may use the host.
    pub(crate) fn try_unsure(&mut self, turn: &mut Turn<P>) {
        if let Power::Unsure { since } = self.watch.power {
            self.watch.trial = Some(Trial { since, spent: false });
            self.awake(turn);
        }
    }
}

/// How far the clock that counts sleep is ahead.
fn ahead(awake: Awake, boot: Boot) -> Duration {
    boot.since_origin().saturating_sub(awake.since_origin())
}
