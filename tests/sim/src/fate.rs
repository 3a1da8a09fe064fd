//! What befalls the tunnel while faults last: orders of the user, moods of host and gateway, crashes.

use std::rc::Rc;
use std::time::Duration;

use lifecycle::{EndReason, Input, LossKind, Mode, Origin, PowerWord, State, StopReason, WakeKind};
use now::{Gap, GapKind};

use crate::planted::Planted;
use crate::process::Who;
use crate::shell::Shell;
use crate::tasks::Kind;
use crate::weather::Weather;
use crate::world::{Event, World};

const SECOND_US: u64 = 1_000_000;

impl World {
    /// When the next thing befalls, in microseconds: much of it at once, some of it while a stop is under way, little of it
    /// after hours.
    fn pause(&self) -> u64 {
        match self.chance.below(20) {
            0..7 => self.chance.below(5_000),
            7..14 => self.chance.below(400_000),
            14..19 => self.chance.below(30 * SECOND_US),
            _ => self.chance.below(3 * 3600 * SECOND_US),
        }
    }

    pub(crate) fn fate(self: &Rc<Self>) {
        if !self.is_stormy() {
            return;
        }
        self.after(self.pause(), Event::Fate);
        match self.chance.below(72) {
            0..10 => self.order_start(),
            10..20 => self.stop(StopReason::User, false),
            20..24 => self.stop(StopReason::User, true),
            24..27 => self.stop(StopReason::Restart, true),
            27..29 => self.reconnect(),
            29 => self.order(Input::Cancel),
            30..34 => self.lose_control(),
            34..36 => self.end_session_at_gateway(),
            36 => self.word(PowerWord::Sleeping),
            37..39 => self.say_what_wake(),
            39..43 => self.begin_night(),
            43 => self.freeze(),
            44..46 => self.set_wall_clock(),
            46..49 => self
                .running(Who::Daemon)
                .into_iter()
                .for_each(|daemon| self.kill(daemon)),
            49 => self.running(Who::Unit).into_iter().for_each(|unit| self.kill(unit)),
            50 => self.lose_power(),
            51..54 => self.change(|weather| weather.full = !weather.full),
            54..57 => self.change(|weather| weather.stuck = !weather.stuck),
            57..59 => self.change(|weather| weather.slow_host = !weather.slow_host),
            59..61 => self.start_unit(self.chance.pick(&[Who::Unit, Who::SecondUnit])),
            61 => self.order(Input::JobsDue),
            62..64 => self.ask_for_tunnel(Input::Demand),
            64..66 => self.ask_for_tunnel(Input::PathChange),
            66..68 => self.fall_silent(),
            68 => self.renew(),
            69 => self.freeze(),
            _ => {
                if let Some(daemon) = self.running(Who::Daemon) {
                    self.spawn(daemon, Kind::Retry, 0);
                }
            }
        }
    }

    /// The user, or the service manager on their behalf, wants the tunnel.
    pub(crate) fn order_start(self: &Rc<Self>) {
        self.counts.borrow_mut().starts += 1;
        self.wanted.set(true);
        self.say(|| "ordered: start".to_owned());
        match self.with(|daemon| daemon.ready) {
            None => self.start_daemon(),
            Some(false) => {}
            Some(true) => {
                self.desired.set(true);
                self.excuse();
                self.start_by.set(Some(self.at.get() + 50_000));
                self.feed(Input::Start { origin: Origin::User });
            }
        }
    }

    pub(crate) fn stop(self: &Rc<Self>, reason: StopReason, exit: bool) {
        if self.running(Who::Daemon).is_none() {
            return;
        }
        self.counts.borrow_mut().stops += 1;
        if reason == StopReason::User {
            self.wanted.set(false);
            self.desired.set(false);
        }
        self.say(|| format!("ordered: stop, {reason:?}, exit: {exit}"));
        self.order_stop(reason, exit);
    }

    /// A person wants it up, or connected afresh.
    fn reconnect(self: &Rc<Self>) {
        if self.with(|daemon| daemon.ready) == Some(true) {
            self.wanted.set(true);
            self.desired.set(true);
            self.excuse();
        }
        self.order(Input::Reconnect);
    }

    /// What comes over the local socket, which is there when the host has been looked at.
    fn order(self: &Rc<Self>, input: Input<Shell>) {
        if self.with(|daemon| daemon.ready) == Some(true) {
            self.feed(input);
        }
    }

    fn lose_control(self: &Rc<Self>) {
        if let Some(State::Up { g, .. }) = self.state() {
            let kind = self.chance.pick(&[LossKind::Eof, LossKind::Reset, LossKind::Timeout]);
            self.went_silent();
            self.feed(Input::ControlLost { g, kind });
        }
    }

    fn end_session_at_gateway(self: &Rc<Self>) {
        if let Some(State::Up { g, .. }) = self.state() {
            let epoch = self.with(|daemon| daemon.of(g)?.epoch).flatten();
            if let Some(epoch) = epoch {
                self.gateway.borrow_mut().end_session(epoch.session);
            }
            let reason = self
                .chance
                .pick(&[EndReason::Admin, EndReason::AuthExpired, EndReason::Replaced]);
            self.went_silent();
            self.feed(Input::SessionEnded { g, reason });
        }
    }

    /// Whoever believes to know says what kind of wake it is.
    fn say_what_wake(self: &Rc<Self>) {
        let kind = self
            .chance
            .pick(&[WakeKind::Full, WakeKind::Maintenance, WakeKind::Unknown]);
        if kind != WakeKind::Maintenance {
            self.excuse();
        }
        self.feed(Input::Wake(kind));
    }

    fn fall_silent(self: &Rc<Self>) {
        if let Some(State::Up { g, .. }) = self.state()
            && let Some(life) = self.with(|daemon| daemon.process.life)
        {
            self.pump_says(life, g, false);
        }
    }

    fn renew(self: &Rc<Self>) {
        if let Some(State::Up { g, .. }) = self.state() {
            self.feed(Input::Renew(g));
        }
    }

    /// Nothing of the host's processes runs for a while, and the awake clock goes on.
    fn freeze(self: &Rc<Self>) {
        self.counts.borrow_mut().sleeps += 1;
        let us = self.chance.between(2 * SECOND_US, 120 * SECOND_US);
        self.say(|| format!("frozen for {} s", us / SECOND_US));
        self.pass_held(us);
        // It says nothing of a wake that was found full already.
        if self.mode() == Some(Mode::Awake) {
            self.excuse();
        }
        let length = Duration::from_micros(us);
        if !self.has(Planted::VerdictAcrossGap) {
            self.tell_gap(Gap {
                length,
                awake: length,
                kind: GapKind::Freeze,
            });
        }
    }

    fn set_wall_clock(&self) {
        self.counts.borrow_mut().sleeps += 1;
        let hour = 3600 * 1_000_000_i64;
        let by = self
            .chance
            .pick(&[-hour, hour, -24 * hour, 24 * hour, -9000 * hour, 9000 * hour]);
        self.say(|| format!("the wall clock is set by {} h", by / hour));
        self.set.set((self.set.get() + by).clamp(-20_000 * hour, 20_000 * hour));
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        let mut weather = self.weather.get();
        change(&mut weather);
        self.say(|| {
            format!(
                "full: {}, stuck: {}, slow host: {}",
                weather.full, weather.stuck, weather.slow_host
            )
        });
        self.weather.set(weather);
    }
}
