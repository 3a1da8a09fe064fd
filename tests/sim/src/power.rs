//! The host's sleep: nights with maintenance wakes, and the words that tell of them, any of which may be missing, doubled or
//! late. What is really so is known here, and the machine is held to it as far as it could know.

use std::rc::Rc;
use std::time::Duration;

use lifecycle::{
    Generation, Input, MAINTENANCE_DOUBTED_AFTER, Mode, NOTICE_AFTER, Origin, PowerWord, SLEEP_ACK_BUDGET,
    SLEEP_DOUBTED_AFTER, Source, State, Surroundings, Trigger, UNSURE_FOR,
};
use now::{Gap, GapKind};

use crate::broken::Promise;
use crate::chance::Chance;
use crate::planted::Planted;
use crate::world::{Event, World};

const SECOND_US: u64 = 1_000_000;

/// What is so, and what is told of it.
#[derive(Debug)]
pub(crate) struct Nights {
    source: Source,
    /// A night is one sleep job with several sleeps: the host prepares all the while.
    one_job: bool,
    /// Suspend-to-idle: the awake clock goes on in sleep.
    idle: bool,
    /// Odds of words that are not said, said twice, or late, and of facts that cannot be read; "once in so many", 0 is never.
    missing: u64,
    doubled: u64,
    late: u64,
    unread: u64,

    preparing: bool,
    lid_closed: bool,
    /// Maintenance wakes to come, of the night that goes on.
    wakes_left: Option<u32>,
    /// The host is awake for its own purposes.
    dark: bool,
    wake: Wake,
    /// A sleep waits for its acknowledgement, since then.
    asked: Option<u64>,
    /// Nobody answers, since then.
    silent: Option<u64>,
    /// What may run, since then; gaps begin it anew.
    mode: (Mode, u64),
    /// When the machine was fully awake again last.
    awake: u64,
    /// The input that is being handled is the time.
    by_deadline: bool,
}

/// A wake, while it lasts.
#[derive(Clone, Copy, Debug, Default)]
struct Wake {
    began: u64,
    /// The machine could know its kind: it was told nothing false, and what can be read was read.
    fair: bool,
    /// Something asked for the tunnel.
    asked_for: bool,
    connects: u32,
}

impl Nights {
    pub(crate) fn draw(chance: &Chance) -> Self {
        Self {
            source: chance.pick(&[Source::None, Source::Facts, Source::Presence]),
            one_job: chance.once_in(2),
            idle: chance.once_in(6),
            missing: chance.pick(&[0, 6, 2]),
            doubled: chance.pick(&[0, 4]),
            late: chance.pick(&[0, 0, 4]),
            unread: chance.pick(&[0, 0, 6]),
            preparing: false,
            lid_closed: false,
            wakes_left: None,
            dark: false,
            wake: Wake::default(),
            asked: None,
            silent: None,
            mode: (Mode::Awake, 0),
            awake: 0,
            by_deadline: false,
        }
    }

    /// The host starts anew.
    fn reboot(&mut self) {
        self.preparing = false;
        self.wakes_left = None;
        self.dark = false;
    }

    /// Why something that is not a user's wish must not run at `at`.
    fn forbids(&self, at: u64) -> Option<&'static str> {
        let lasted = at - self.wake.began;
        let told = self.source != Source::None;
        (self.dark && told && self.wake.fair && lasted < micros(MAINTENANCE_DOUBTED_AFTER))
            .then_some("in a maintenance wake")
    }
}

impl World {
    /// Awake time in which the process ran.
    pub(crate) fn run_time(&self) -> u64 {
        self.at.get() - self.held.get()
    }

    // What befalls.

    /// A night begins, with some maintenance wakes or none.
    pub(crate) fn begin_night(self: &Rc<Self>) {
        let wakes = self.chance.pick(&[0, 0, 1, 2, 4]);
        let lid = self.chance.once_in(2);
        let begins = {
            let mut nights = self.nights.borrow_mut();
            let begins = nights.wakes_left.is_none();
            if begins {
                nights.wakes_left = Some(wakes);
                nights.lid_closed = lid;
            }
            begins
        };
        if begins {
            self.goes_to_sleep();
        }
    }

    /// Whoever is told may say within half a second that it may; the host does not wait for ever.
    pub(crate) fn goes_to_sleep(self: &Rc<Self>) {
        if self.nights.borrow().wakes_left.is_none() {
            return;
        }
        let announced = {
            let mut nights = self.nights.borrow_mut();
            let again = std::mem::replace(&mut nights.preparing, true) && nights.one_job;
            nights.source != Source::None && !again
        };
        if announced {
            self.tell(PowerWord::Sleeping);
        }
        self.after(self.chance.below(700_000), Event::Sleeps);
    }

    /// The host sleeps, and wakes.
    pub(crate) fn sleeps(self: &Rc<Self>) {
        let Some(wakes) = self.nights.borrow().wakes_left else {
            return;
        };
        self.counts.borrow_mut().sleeps += 1;
        let dark = wakes > 0;
        self.counts.borrow_mut().dark_wakes += u32::from(dark);
        let us = self.chance.between(10 * SECOND_US, 3 * 3600 * SECOND_US);
        let (source, one_job, idle) = {
            let mut nights = self.nights.borrow_mut();
            nights.dark = dark;
            nights.wakes_left = wakes.checked_sub(1);
            nights.preparing = dark && nights.one_job;
            nights.lid_closed &= dark;
            (nights.source, nights.one_job, nights.idle)
        };
        self.say(|| format!("asleep for {} s, dark: {dark}", us / SECOND_US));
        let gap = self.pass_asleep(us, idle);
        self.new_wake(gap);
        let words_first = self.chance.once_in(3);
        if !words_first {
            self.wakes_up(gap);
        }
        if source != Source::None && !(dark && one_job && source == Source::Facts) {
            self.tell(PowerWord::Resumed);
        }
        if source == Source::Presence && !dark {
            self.tell(PowerWord::UserPresent);
        }
        if words_first {
            self.wakes_up(gap);
        }
        if dark {
            let long = self.chance.once_in(12);
            let seconds = if long { (130, 300) } else { (30, 55) };
            let us = self.chance.between(seconds.0 * SECOND_US, seconds.1 * SECOND_US);
            self.after(us, Event::Drowsy);
        }
        self.after(self.chance.between(100_000, 60 * SECOND_US), Event::Look);
    }

    fn pass_asleep(&self, us: u64, idle: bool) -> Gap {
        let length = Duration::from_micros(us);
        if idle {
            self.pass_held(us);
            return Gap {
                length,
                awake: length,
                kind: GapKind::Freeze,
            };
        }
        self.slept.set(self.slept.get() + us);
        Gap {
            length,
            awake: Duration::ZERO,
            kind: GapKind::Sleep,
        }
    }

    /// The process is stopped while the awake clock goes on.
    pub(crate) fn pass_held(&self, us: u64) {
        self.at.set(self.at.get() + us);
        self.held.set(self.held.get() + us);
        self.start_by.set(self.start_by.get().map(|by| by + us));
    }

    fn new_wake(&self, gap: Gap) {
        let began = self.run_time();
        let ready = self.with(|daemon| daemon.ready) == Some(true);
        // A sleep of which nobody told and that looks like a freeze is one.
        let known = self.mode() != Some(Mode::Awake) || gap.kind == GapKind::Sleep;
        let mut nights = self.nights.borrow_mut();
        let told = match nights.source {
            Source::None | Source::Presence => true,
            Source::Facts => nights.preparing || nights.lid_closed,
        };
        nights.wake = Wake {
            began,
            fair: ready && known && told,
            asked_for: false,
            connects: 0,
        };
    }

    /// The process runs again: it reads what can be read, and only then says that there was a gap.
    fn wakes_up(self: &Rc<Self>, gap: Gap) {
        self.look();
        self.tell_gap(gap);
        if self.has(Planted::DialInDark) && self.mode() == Some(Mode::Maintenance) {
            self.feed(Input::Wake(lifecycle::WakeKind::Full));
        }
    }

    /// Whatever ran before is not in this wake's stretch.
    pub(crate) fn tell_gap(self: &Rc<Self>, gap: Gap) {
        let at = self.run_time();
        {
            let mut nights = self.nights.borrow_mut();
            // After an announcement a gap is a sleep, whatever the clocks make of it, and what follows another wake.
            if nights.mode.0 == Mode::Asleep {
                nights.wake.connects = 0;
            }
            nights.mode.1 = at;
            nights.wake.began = at;
        }
        // What waited through it is old.
        self.drop_held();
        self.feed(Input::ClockGap(gap));
    }

    /// Reads what can be read.
    pub(crate) fn look(self: &Rc<Self>) {
        let (source, unread, preparing, lid_closed) = {
            let nights = self.nights.borrow();
            (nights.source, nights.unread, nights.preparing, nights.lid_closed)
        };
        let read = unread == 0 || !self.chance.once_in(unread);
        let facts = match source {
            Source::None => return,
            Source::Facts | Source::Presence if !read => Surroundings::default(),
            Source::Facts => Surroundings {
                source,
                preparing: Some(preparing),
                lid_closed: Some(lid_closed),
                docked: Some(false),
            },
            Source::Presence => Surroundings {
                source,
                ..Surroundings::default()
            },
        };
        if !read {
            // Who cannot tell is not asked: the next gap is one of unknown kind.
            self.nights.borrow_mut().wake.fair = false;
        }
        self.feed(Input::Power(PowerWord::Surroundings(facts)));
    }

    /// Says a word: once, twice, later, or not at all.
    fn tell(self: &Rc<Self>, word: PowerWord) {
        let (missing, doubled, late) = {
            let nights = self.nights.borrow();
            (nights.missing, nights.doubled, nights.late)
        };
        if missing > 0 && self.chance.once_in(missing) {
            return;
        }
        if doubled > 0 && self.chance.once_in(doubled) {
            self.after(self.chance.below(2 * SECOND_US), Event::Word(word));
        }
        if late > 0 && self.chance.once_in(late) {
            self.after(self.chance.below(90 * SECOND_US), Event::Word(word));
        } else {
            self.word(word);
        }
    }

    /// A word arrives. What is false by now excuses the machine.
    pub(crate) fn word(self: &Rc<Self>, word: PowerWord) {
        let false_now = {
            let nights = self.nights.borrow();
            match word {
                PowerWord::Sleeping | PowerWord::Surroundings(_) => false,
                PowerWord::Resumed => nights.dark && nights.source == Source::Facts && nights.one_job,
                PowerWord::UserPresent => nights.dark || nights.source == Source::None,
            }
        };
        if false_now {
            self.excuse();
        }
        if word == PowerWord::Resumed {
            self.look();
        }
        // A machine that wants words in pairs.
        let unpaired = self.mode() == Some(Mode::Awake) && word != PowerWord::Sleeping;
        if !(self.has(Planted::WordsInPairs) && unpaired) {
            self.feed(Input::Power(word));
        }
    }

    /// A user gave an order, or something false was said: of this wake the machine cannot know the kind.
    pub(crate) fn excuse(&self) {
        self.nights.borrow_mut().wake.fair = false;
    }

    /// Traffic asks for the tunnel, or the network is another one.
    pub(crate) fn ask_for_tunnel(self: &Rc<Self>, input: Input<crate::shell::Shell>) {
        self.nights.borrow_mut().wake.asked_for = true;
        if matches!(input, Input::Demand) {
            let at = self.run_time();
            self.demand.borrow_mut().asked = Some(at);
        }
        self.feed(input);
    }

    pub(crate) fn nights_reboot(&self) {
        self.nights.borrow_mut().reboot();
    }

    /// The night is over, and somebody uses the host. Nobody may have told, and what can be read may be wrong for ever.
    pub(crate) fn wake_for_good(self: &Rc<Self>) {
        self.forget_nights();
        let stuck = self.chance.once_in(4);
        {
            let mut nights = self.nights.borrow_mut();
            nights.reboot();
            nights.preparing = stuck;
            nights.wake.fair = false;
        }
        if self.chance.once_in(2) {
            self.feed(Input::Power(PowerWord::UserPresent));
        }
    }

    // The pump.

    /// The tunnel's pump asks for a proof of life, and gets one or not.
    pub(crate) fn ask_for_proof(&self, g: Generation) {
        let Some(life) = self.with(|daemon| daemon.process.life) else {
            return;
        };
        let heard = !self.is_stormy() || !self.chance.once_in(4);
        let us = self.chance.between(20_000, 400_000);
        self.after(us, Event::Pump { life, g, heard });
    }

    pub(crate) fn pump_says(self: &Rc<Self>, life: u32, g: Generation, heard: bool) {
        if !self.is_life(life) {
            return;
        }
        let up = matches!(self.state(), Some(State::Up { g: up, .. } | State::Reasserting { g: up, .. }) if up == g);
        if heard {
            if up {
                self.nights.borrow_mut().silent = None;
            }
            return self.feed(Input::ProofOfLife(g));
        }
        if up {
            self.went_silent();
        }
        self.feed(Input::PathSilent(g));
        let heard = true;
        self.after(
            self.chance.between(100_000, 60 * SECOND_US),
            Event::Pump { life, g, heard },
        );
    }

    pub(crate) fn went_silent(&self) {
        let at = self.run_time();
        self.nights.borrow_mut().silent.get_or_insert(at);
    }

    pub(crate) fn was_heard(&self) {
        self.nights.borrow_mut().silent = None;
    }

    /// The gateway is told of the sleep, and may answer.
    pub(crate) fn park(&self, g: Generation) {
        self.counts.borrow_mut().parks += 1;
        let Some(life) = self.with(|daemon| daemon.process.life) else {
            return;
        };
        if !self.chance.once_in(3) {
            self.after(self.chance.between(500, 400_000), Event::Parked { life, g });
        }
    }

    // What is held to what is so.

    pub(crate) fn is_handled(&self, input: &Input<crate::shell::Shell>) {
        let at = self.run_time();
        let person = matches!(input, Input::Reconnect | Input::Start { origin: Origin::User });
        self.demand.borrow_mut().person |= person;
        let mut nights = self.nights.borrow_mut();
        nights.by_deadline = matches!(input, Input::DeadlineReached);
        if matches!(input, Input::Power(PowerWord::Sleeping)) {
            nights.asked.get_or_insert(at);
        }
    }

    pub(crate) fn sleep_acknowledged(&self) {
        self.nights.borrow_mut().asked = None;
    }

    /// A process that starts in the middle of a wake cannot know its kind, and the one before waits for nothing.
    pub(crate) fn daemon_is_new(&self) {
        let at = self.run_time();
        let mut nights = self.nights.borrow_mut();
        nights.wake.fair = false;
        nights.asked = None;
        nights.silent = None;
        nights.mode = (Mode::Awake, at);
        nights.awake = at;
    }

    pub(crate) fn check_sleep_ack(&self) {
        let Some(asked) = self.nights.borrow().asked else {
            return;
        };
        let waits = self.run_time() - asked;
        if waits > micros(SLEEP_ACK_BUDGET) {
            self.broke(Promise::L6SleepAcknowledged, || format!("a sleep waits for {waits} us"));
        }
    }

    pub(crate) fn check_connect(&self, g: Generation, trigger: Trigger) {
        if trigger == Trigger::User {
            return;
        }
        let at = self.run_time();
        let (forbidden, wake) = {
            let mut nights = self.nights.borrow_mut();
            nights.wake.connects += 1;
            let unknown = nights.source == Source::None && nights.wake.fair;
            (nights.forbids(at), unknown.then_some(nights.wake))
        };
        if let Some(why) = forbidden {
            self.broke(Promise::L5NoDialAsleep, || format!("an attempt of {g} {why}"));
        }
        let Some(wake) = wake.filter(|wake| at - wake.began < micros(UNSURE_FOR)) else {
            return;
        };
        if !wake.asked_for || wake.connects > 1 {
            self.broke(Promise::L5NoDialAsleep, || {
                format!("{} attempts of {g} in a wake of unknown kind", wake.connects)
            });
        }
    }

    /// The attempt that runs has left this host no more than one that was not made.
    pub(crate) fn never_left(&self, trigger: Trigger) {
        let mut nights = self.nights.borrow_mut();
        if trigger != Trigger::User {
            nights.wake.connects = nights.wake.connects.saturating_sub(1);
        }
    }

    pub(crate) fn check_awake_chore(&self) {
        if let Some(why) = self.nights.borrow().forbids(self.run_time()) {
            self.broke(Promise::L4ChoresLater, || format!("a chore {why}"));
        }
    }

    /// What may run has changed.
    pub(crate) fn mode_changed(self: &Rc<Self>, mode: Mode) {
        let at = self.run_time();
        let (old, since, by_deadline) = {
            let mut nights = self.nights.borrow_mut();
            let (old, since) = nights.mode;
            // What is known better of a wake does not make it a new one.
            let same =
                matches!(old, Mode::Maintenance | Mode::Unsure) && matches!(mode, Mode::Maintenance | Mode::Unsure);
            nights.mode = (mode, if same { since } else { at });
            if mode == Mode::Awake {
                nights.awake = at;
            }
            (old, since, nights.by_deadline)
        };
        let least = match old {
            Mode::Awake => Duration::ZERO,
            Mode::Asleep => SLEEP_DOUBTED_AFTER,
            Mode::Maintenance => MAINTENANCE_DOUBTED_AFTER,
            Mode::Unsure => UNSURE_FOR,
        };
        if by_deadline && at - since < micros(least) {
            self.broke(Promise::L12NoTimeAcrossGaps, || {
                format!("{old} ends after {} us of running", at - since)
            });
        }
        if mode == Mode::Maintenance && self.has(Planted::ChoreInDark) {
            self.housekeep();
        }
    }

    pub(crate) fn woke(&self, g: Generation) {
        let at = self.run_time();
        {
            let mut nights = self.nights.borrow_mut();
            nights.awake = at;
            nights.silent = Some(at);
        }
        self.ask_for_proof(g);
    }

    pub(crate) fn check_notice(&self, g: Generation) {
        self.counts.borrow_mut().notices += 1;
        let at = self.run_time();
        let since = {
            let nights = self.nights.borrow();
            nights.silent.unwrap_or(0).max(nights.awake)
        };
        if self.mode() != Some(Mode::Awake) || at - since < micros(NOTICE_AFTER) {
            self.broke(Promise::L12NoTimeAcrossGaps, || {
                format!("a notice of {g} after {} us of running", at - since)
            });
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
