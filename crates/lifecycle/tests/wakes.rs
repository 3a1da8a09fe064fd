//! Sleeping and waking, told as stories: what each kind of host says, and what a tunnel does then.

use std::time::Duration;

use lifecycle::{
    Backoff, Cause, DIALS, Effect, FailClass, Generation, How, Input, Jitter, LossKind, MAINTENANCE_DOUBTED_AFTER,
    Machine, Mode, NOTICE_AFTER, OnFailure, Origin, PARK_WAIT, PowerWord, Proofs, Report, SLEEP_ACK_BUDGET,
    SLEEP_DOUBTED_AFTER, Settings, Source, Stage, State, Surroundings, UNSURE_FOR, WakeKind, WakeLimits,
};
use now::{Gap, GapKind, Now};

const G1: Generation = Generation::FIRST;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const LOST: Input<Words> = Input::ControlLost {
    g: G1,
    kind: LossKind::Reset,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words;

impl Proofs for Words {
    type Restored = &'static str;
    type Owed = &'static str;
}

/// A tunnel that is up, on a host.
struct Host {
    machine: Machine<Words>,
    now: Now,
}

impl Host {
    fn with(disconnect_on_sleep: bool) -> Self {
        let mut host = Self {
            machine: Machine::new(Settings {
                backoff: Backoff::default(),
                on_failure: OnFailure::Exit,
                disconnect_on_sleep,
                on_demand: false,
            }),
            now: Now::default().plus(HOUR),
        };
        host.feed(Input::Start { origin: Origin::Boot });
        host.feed(Input::Connected(G1));
        host
    }

    fn up() -> Self {
        Self::with(false)
    }

    /// One that says when a user is there.
    fn of_presence() -> Self {
        let mut host = Self::up();
        host.say(PowerWord::Surroundings(Surroundings {
            source: Source::Presence,
            ..Surroundings::default()
        }));
        host
    }

    fn feed(&mut self, input: Input<Words>) -> Vec<Effect<Words>> {
        self.machine.handle(input, self.now, Jitter::new(32_768))
    }

    fn say(&mut self, word: PowerWord) -> Vec<Effect<Words>> {
        self.feed(Input::Power(word))
    }

    /// What logind says.
    fn read(&mut self, preparing: bool, lid_closed: bool, docked: bool) -> Vec<Effect<Words>> {
        self.say(PowerWord::Surroundings(Surroundings {
            source: Source::Facts,
            preparing: Some(preparing),
            lid_closed: Some(lid_closed),
            docked: Some(docked),
        }))
    }

    /// Waking time, with every deadline in it.
    fn pass(&mut self, time: Duration) -> Vec<Effect<Words>> {
        let end = self.now.awake.plus(time);
        let mut effects = Vec::new();
        while let Some(deadline) = self.machine.deadline().filter(|deadline| deadline.at <= end) {
            self.now = self.now.plus(deadline.at.since(self.now.awake));
            effects.extend(self.feed(Input::DeadlineReached));
        }
        self.now = self.now.plus(end.since(self.now.awake));
        effects
    }

    fn sleep(&mut self) -> Vec<Effect<Words>> {
        self.now = self.now.plus_asleep(HOUR);
        self.slept()
    }

    fn slept(&mut self) -> Vec<Effect<Words>> {
        self.feed(Input::ClockGap(Gap {
            length: HOUR,
            awake: Duration::ZERO,
            kind: GapKind::Sleep,
        }))
    }

    fn freeze(&mut self, length: Duration) -> Vec<Effect<Words>> {
        self.now = self.now.plus(length);
        self.feed(Input::ClockGap(Gap {
            length,
            awake: length,
            kind: GapKind::Freeze,
        }))
    }
}

fn connects(effects: &[Effect<Words>]) -> usize {
    let connect = |effect: &&Effect<Words>| matches!(effect, Effect::Connect { .. });
    effects.iter().filter(connect).count()
}

fn notices(effects: &[Effect<Words>]) -> usize {
    let notice = |effect: &&Effect<Words>| matches!(effect, Effect::Report(Report::Reconnecting(_)));
    effects.iter().filter(notice).count()
}

fn woke(gap: Duration, wakes: u32) -> Effect<Words> {
    Effect::Woke { g: G1, gap, wakes }
}

#[test]
fn a_sleep_is_announced_to_the_gateway_and_acknowledged_behind_its_answer() {
    let mut host = Host::up();
    assert_eq!(
        host.say(PowerWord::Sleeping),
        [Effect::Park { g: G1 }, Effect::Mode(Mode::Asleep)]
    );
    assert_eq!(host.machine.word(), "asleep");
    assert_eq!(host.feed(Input::Parked(G1)), [Effect::AckSleep]);
    assert_eq!(host.machine.word(), "parked");
}

#[test]
fn a_gateway_that_does_not_answer_does_not_keep_a_host_awake() {
    let mut host = Host::up();
    host.say(PowerWord::Sleeping);
    assert_eq!(host.pass(PARK_WAIT - Duration::from_millis(1)), []);
    assert_eq!(host.pass(Duration::from_millis(1)), [Effect::AckSleep]);
    assert_eq!(host.machine.word(), "asleep", "nobody knows whether it heard");
}

#[test]
fn a_second_announcement_shares_the_acknowledgement_and_parks_no_more() {
    let mut host = Host::up();
    host.say(PowerWord::Sleeping);
    assert_eq!(host.say(PowerWord::Sleeping), []);
    assert_eq!(host.pass(PARK_WAIT), [Effect::AckSleep]);
    assert_eq!(host.say(PowerWord::Sleeping), [Effect::AckSleep]);
}

#[test]
fn without_a_tunnel_a_sleep_is_acknowledged_at_once() {
    let mut host = Host::up();
    host.feed(LOST);
    let effects = host.say(PowerWord::Sleeping);
    assert_eq!(effects.last(), Some(&Effect::AckSleep), "{effects:?}");
    assert!(!effects.contains(&Effect::Park { g: G1 }));
}

#[test]
fn a_wake_without_a_user_is_quiet_where_presence_is_told() {
    let mut host = Host::of_presence();
    host.say(PowerWord::Sleeping);
    host.feed(Input::Parked(G1));
    for _ in 0..40 {
        let mut effects = host.sleep();
        effects.extend(host.say(PowerWord::Resumed));
        effects.extend(host.feed(LOST));
        effects.extend(host.feed(Input::Demand));
        effects.extend(host.feed(Input::PathChange));
        effects.extend(host.feed(Input::Renew(G1)));
        effects.extend(host.pass(Duration::from_secs(55)));
        assert_eq!((connects(&effects), notices(&effects)), (0, 0), "{effects:?}");
        assert_eq!(
            (host.machine.mode(), host.machine.word()),
            (Mode::Maintenance, "parked")
        );
    }
    let effects = host.say(PowerWord::UserPresent);
    assert!(effects.contains(&woke(40 * HOUR, 40)), "{effects:?}");
    assert_eq!(connects(&effects), 1);
}

#[test]
fn a_gap_while_a_sleep_is_prepared_is_a_maintenance_wake() {
    let mut host = Host::up();
    host.read(false, false, false);
    host.read(true, false, false);
    host.sleep();
    assert_eq!(host.machine.mode(), Mode::Maintenance);
    // What ends it may be read where it was not told.
    host.pass(SECOND);
    let effects = host.read(false, false, false);
    assert_eq!(effects[1..], [Effect::Mode(Mode::Awake), woke(HOUR, 1)]);
}

#[test]
fn a_closed_lid_makes_a_wake_one_of_maintenance_and_a_dock_makes_it_full() {
    for (docked, mode) in [(false, Mode::Maintenance), (true, Mode::Awake)] {
        let mut host = Host::up();
        host.read(false, true, docked);
        host.sleep();
        assert_eq!(host.machine.mode(), mode, "docked: {docked}");
        host.say(PowerWord::Resumed);
        assert_eq!(host.machine.mode(), mode, "docked: {docked}");
    }
}

#[test]
fn a_lid_that_is_closed_for_ever_holds_nothing_back_for_longer_than_two_minutes() {
    let mut host = Host::up();
    host.read(false, true, false);
    host.sleep();
    host.pass(MAINTENANCE_DOUBTED_AFTER - SECOND);
    assert_eq!(host.machine.mode(), Mode::Maintenance);
    host.pass(SECOND);
    assert_eq!(host.machine.mode(), Mode::Awake);
    // Reading it again changes nothing.
    for _ in 0..100 {
        assert_eq!(host.read(false, true, false), []);
    }
}

#[test]
fn the_limits_of_wakes_can_be_set() {
    let mut host = Host::of_presence();
    host.machine.set_wake_limits(WakeLimits {
        unknown: SECOND,
        maintenance: 10 * SECOND,
    });
    host.sleep();
    host.pass(9 * SECOND);
    assert_eq!(host.machine.mode(), Mode::Maintenance);
    host.pass(SECOND);
    assert_eq!(host.machine.mode(), Mode::Awake);
    host.say(PowerWord::Surroundings(Surroundings::default()));
    host.sleep();
    assert_eq!(host.machine.mode(), Mode::Unsure);
    host.pass(SECOND);
    assert_eq!(host.machine.mode(), Mode::Awake);
}

#[test]
fn every_gap_begins_the_two_minutes_anew() {
    let mut host = Host::of_presence();
    host.sleep();
    for _ in 0..5 {
        host.pass(MAINTENANCE_DOUBTED_AFTER - SECOND);
        host.freeze(Duration::from_secs(60));
        assert_eq!(host.machine.mode(), Mode::Maintenance);
    }
    host.pass(MAINTENANCE_DOUBTED_AFTER);
    assert_eq!(host.machine.mode(), Mode::Awake);
}

#[test]
fn a_word_that_comes_before_its_gap_is_seen_counts_for_this_wake() {
    let mut host = Host::of_presence();
    host.say(PowerWord::Sleeping);
    host.now = host.now.plus_asleep(HOUR);
    assert!(host.say(PowerWord::UserPresent).contains(&Effect::Mode(Mode::Awake)));
    assert_eq!(host.slept(), [], "all is done");
    assert_eq!(host.machine.mode(), Mode::Awake);
    // Of the next one it says nothing.
    host.pass(SECOND);
    host.sleep();
    assert_eq!(host.machine.mode(), Mode::Maintenance);
}

#[test]
fn a_gap_that_two_timers_tell_counts_once() {
    let mut host = Host::of_presence();
    let first = host.sleep();
    assert!(first.contains(&Effect::Report(Report::Wake(WakeKind::Maintenance, HOUR))));
    assert_eq!(host.slept(), []);
}

#[test]
fn where_nobody_tells_a_wake_waits_for_the_first_that_asks() {
    let asks = [Input::Demand, Input::PathChange, Input::Power(PowerWord::UserPresent)];
    for ask in asks {
        let mut host = Host::up();
        let effects = host.sleep();
        assert_eq!(effects[1..], [Effect::Mode(Mode::Unsure)]);
        assert_eq!(host.machine.word(), "unverified");
        host.pass(SECOND);
        let effects = host.feed(ask.clone());
        assert!(effects.contains(&woke(HOUR, 1)), "{ask:?}: {effects:?}");
    }
    let mut host = Host::up();
    host.sleep();
    let effects = host.pass(UNSURE_FOR);
    assert!(effects.contains(&woke(HOUR, 1)), "{effects:?}");
}

#[test]
fn a_wake_of_unknown_kind_may_connect_once_until_it_has_lasted() {
    let mut host = Host::up();
    host.feed(LOST);
    host.sleep();
    let failed = Input::ConnectFailed {
        g: G1,
        class: FailClass::Network,
        stage: Stage::Connect,
    };
    assert_eq!(connects(&host.feed(Input::Demand)), 1);
    host.feed(failed.clone());
    host.feed(Input::PathChange);
    let effects = host.pass(UNSURE_FOR - SECOND);
    assert_eq!(connects(&effects), 0);
    let suppressed =
        |effect: &Effect<Words>| matches!(effect, Effect::Report(Report::Suppressed(Cause::Unsure, Some(_))));
    assert_eq!(effects.iter().filter(|effect| suppressed(effect)).count(), 1);
    assert_eq!(connects(&host.pass(2 * SECOND)), 1);
}

#[test]
fn a_freeze_connects_nothing_and_asks_for_proof_only_when_somebody_speaks() {
    let mut host = Host::up();
    assert_eq!(host.freeze(8 * HOUR), []);
    assert_eq!((host.machine.mode(), host.machine.word()), (Mode::Awake, "unverified"));
    host.feed(Input::ProofOfLife(G1));
    assert_eq!(host.machine.word(), "up");
}

#[test]
fn a_sleep_that_looks_like_a_freeze_is_one_if_it_was_announced() {
    let mut host = Host::of_presence();
    host.say(PowerWord::Sleeping);
    host.pass(PARK_WAIT);
    host.freeze(8 * HOUR);
    assert_eq!(host.machine.mode(), Mode::Maintenance);
}

#[test]
fn a_sleep_that_does_not_come_is_doubted() {
    let mut host = Host::up();
    host.say(PowerWord::Sleeping);
    let effects = host.pass(SLEEP_DOUBTED_AFTER);
    assert!(
        effects.contains(&woke(Duration::ZERO, 0)),
        "the gateway was told: {effects:?}"
    );
    assert_eq!(host.machine.mode(), Mode::Awake);
}

#[test]
fn a_silent_path_is_told_once_after_ten_seconds_and_again_only_after_a_proof() {
    let mut host = Host::up();
    host.feed(Input::PathSilent(G1));
    host.pass(5 * SECOND);
    host.feed(Input::PathSilent(G1));
    host.freeze(HOUR);
    assert_eq!(
        notices(&host.pass(NOTICE_AFTER - 5 * SECOND)),
        1,
        "the first silence counts"
    );
    host.feed(Input::PathSilent(G1));
    host.feed(LOST);
    assert_eq!(notices(&host.pass(SECOND)), 0);
    host.feed(Input::Connected(G1));
    assert_eq!(host.machine.word(), "up");
    host.feed(Input::PathSilent(G1));
    assert_eq!(notices(&host.pass(NOTICE_AFTER)), 1);
}

#[test]
fn whoever_goes_on_over_the_data_channel_sees_no_notice_of_a_lost_control_connection() {
    let mut host = Host::up();
    host.feed(LOST);
    host.pass(SECOND);
    host.feed(Input::ProofOfLife(G1));
    assert_eq!(notices(&host.pass(HOUR)), 0);
    assert!(matches!(host.machine.state(), State::Reasserting { .. }));
    host.feed(Input::Connected(G1));
    assert_eq!(host.machine.word(), "up");
}

#[test]
fn keys_are_not_renewed_while_the_host_is_not_fully_awake() {
    let mut host = Host::of_presence();
    host.sleep();
    let refused = Effect::Report(Report::Suppressed(Cause::Maintenance, None));
    assert_eq!(host.feed(Input::Renew(G1)), [refused]);
    host.say(PowerWord::UserPresent);
    assert_eq!(connects(&host.feed(Input::Renew(G1))), 1);
}

#[test]
fn keys_are_not_renewed_in_a_wake_that_is_full_by_its_length_alone_until_it_is_longer_than_any_other() {
    let mut host = Host::up();
    for _ in 0..10 {
        host.sleep();
        host.pass(UNSURE_FOR);
        assert_eq!(host.machine.mode(), Mode::Awake);
        assert_eq!(connects(&host.feed(Input::Renew(G1))), 0);
        assert_eq!(connects(&host.pass(10 * SECOND)), 0);
    }
    assert_eq!(connects(&host.pass(MAINTENANCE_DOUBTED_AFTER)), 1, "it stays awake");
    let mut host = Host::up();
    host.sleep();
    host.pass(UNSURE_FOR);
    host.say(PowerWord::UserPresent);
    assert_eq!(connects(&host.feed(Input::Renew(G1))), 1, "somebody is there");
}

/// Why attempts were put off.
fn suppressed(effects: &[Effect<Words>], why: Cause) -> usize {
    let for_it =
        |effect: &&Effect<Words>| matches!(effect, Effect::Report(Report::Suppressed(cause, _)) if *cause == why);
    effects.iter().filter(for_it).count()
}

/// The attempt that runs fails.
fn fails(class: FailClass) -> Input<Words> {
    let stage = Stage::Connect;
    Input::ConnectFailed { g: G1, class, stage }
}

/// Answers every attempt of `effects`, and those that come of it, until none runs.
fn answer_all(host: &mut Host, mut effects: Vec<Effect<Words>>, answer: impl Fn(How) -> FailClass) -> Vec<How> {
    let mut made = Vec::new();
    while let Some(how) = effects.iter().find_map(|effect| match effect {
        Effect::Connect { how, .. } => Some(*how),
        _ => None,
    }) {
        made.push(how);
        effects = host.feed(fails(answer(how)));
    }
    made
}

#[test]
fn attempts_that_leave_this_host_never_use_up_no_budget_and_wait_for_a_network() {
    let mut host = Host::of_presence();
    host.feed(LOST);
    let mut tried = 0;
    for _ in 0..60 {
        let effects = host.pass(10 * SECOND);
        assert_eq!(suppressed(&effects, Cause::Budget), 0);
        tried += answer_all(&mut host, effects, |_| FailClass::Offline).len();
    }
    assert!((10..60).contains(&tried), "{tried} attempts of no cost in ten minutes");
    host.feed(Input::PathChange);
    assert_eq!(connects(&host.pass(SECOND)), 1, "at once when there is a network");
}

#[test]
fn questions_without_an_answer_and_without_a_network_leave_the_budget_as_it_was() {
    let mut host = Host::of_presence();
    host.sleep();
    host.say(PowerWord::UserPresent);
    for _ in 0..60 {
        let mut effects = host.feed(Input::Renew(G1));
        assert_eq!(suppressed(&effects, Cause::Budget), 0);
        effects.extend(host.pass(SECOND));
        answer_all(&mut host, effects, |_| FailClass::Offline);
    }
    host.feed(Input::PathChange);
    let mut effects = host.feed(Input::Renew(G1));
    effects.extend(host.pass(SECOND));
    assert_eq!(connects(&effects), 1);
    let mut again = 0;
    for _ in 0..20 {
        host.feed(fails(FailClass::Network));
        host.feed(Input::PathChange);
        again += connects(&host.feed(Input::Renew(G1)));
    }
    let allowed = usize::try_from(DIALS).expect("few") - 1;
    assert_eq!(again, allowed, "and those that leave it are counted");
}

#[test]
fn a_wake_of_unknown_kind_without_a_network_still_has_its_one_connection() {
    let mut host = Host::up();
    host.feed(LOST);
    host.sleep();
    assert_eq!(connects(&host.feed(Input::Demand)), 1);
    for _ in 0..3 {
        host.feed(fails(FailClass::Offline));
        host.feed(Input::PathChange);
        assert_eq!(connects(&host.pass(SECOND)), 1);
    }
    host.feed(fails(FailClass::Network));
    host.feed(Input::PathChange);
    assert_eq!(connects(&host.pass(10 * SECOND)), 0);
}

#[test]
fn a_renewal_whose_cookie_is_refused_logs_in_within_the_budget_and_ever_more_rarely() {
    let mut host = Host::up();
    let mut made = Vec::new();
    for _ in 0..240 {
        let mut effects = host.feed(Input::Renew(G1));
        effects.extend(host.pass(60 * SECOND));
        made.extend(answer_all(&mut host, effects, |how| match how {
            How::Cookie => FailClass::CookieRefused,
            How::Login => FailClass::Unavailable,
        }));
    }
    assert_eq!(made[..2], [How::Cookie, How::Login]);
    assert!(made[1..].iter().all(|how| *how == How::Login), "the refusal is known");
    assert!(
        (6..=12).contains(&made.len()),
        "{} connections in four hours",
        made.len()
    );
    assert_eq!(host.machine.word(), "up", "the old connection goes on");
}

#[test]
fn a_login_in_the_background_waits_for_the_budget() {
    let mut host = Host::up();
    host.feed(Input::Renew(G1));
    host.feed(Input::Dialled(DIALS));
    assert_eq!(connects(&host.feed(fails(FailClass::CookieRefused))), 0);
    assert_eq!(connects(&host.pass(19 * SECOND)), 0);
    assert_eq!(connects(&host.pass(2 * SECOND)), 1);
    host.feed(Input::Connected(G1));
    assert_eq!(connects(&host.pass(HOUR)), 0);
}

#[test]
fn credentials_that_were_refused_in_the_background_are_shown_again_when_a_person_says_so() {
    let mut host = Host::up();
    host.feed(Input::Renew(G1));
    host.feed(fails(FailClass::CookieRefused));
    host.feed(fails(FailClass::AuthRefused));
    for _ in 0..1440 {
        let mut effects = host.feed(Input::Renew(G1));
        effects.extend(host.pass(60 * SECOND));
        assert_eq!(connects(&effects), 0);
    }
    assert_eq!(connects(&host.feed(Input::Reconnect)), 1);
}

#[test]
fn a_renewal_that_waits_is_not_made_in_a_maintenance_wake() {
    let mut host = Host::of_presence();
    host.feed(Input::Renew(G1));
    host.feed(Input::Dialled(DIALS));
    host.feed(fails(FailClass::CookieRefused));
    host.sleep();
    assert_eq!(host.machine.mode(), Mode::Maintenance);
    assert_eq!(connects(&host.feed(Input::Renew(G1))), 0);
    assert_eq!(connects(&host.pass(100 * SECOND)), 0);
}

#[test]
fn a_new_network_begins_the_waits_from_the_start_and_floods_nobody() {
    let mut host = Host::up();
    host.feed(LOST);
    let mut effects = Vec::new();
    for _ in 0..10_000 {
        effects.extend(host.feed(Input::PathChange));
        effects.extend(host.pass(Duration::from_millis(10)));
        if let State::Reasserting {
            attempt: lifecycle::Attempt::Running(..),
            ..
        } = host.machine.state()
        {
            host.feed(Input::ConnectFailed {
                g: G1,
                class: FailClass::Network,
                stage: Stage::Connect,
            });
        }
    }
    let allowed = usize::try_from(DIALS).expect("few") + 100 / 20;
    assert!(
        connects(&effects) > 3 && connects(&effects) <= allowed,
        "{}",
        connects(&effects)
    );
}

#[test]
fn a_tunnel_that_is_to_be_down_in_sleep_comes_up_again_when_somebody_is_there() {
    let mut host = Host::with(true);
    host.say(PowerWord::Surroundings(Surroundings {
        source: Source::Presence,
        ..Surroundings::default()
    }));
    let effects = host.say(PowerWord::Sleeping);
    assert!(effects.contains(&Effect::Release { g: G1 }) && !effects.contains(&Effect::AckSleep));
    host.feed(Input::Released {
        g: G1,
        restored: "clean",
    });
    let effects = host.feed(Input::Recorded { g: G1, owed: "nothing" });
    assert_eq!(effects.last(), Some(&Effect::AckSleep), "{effects:?}");
    assert_eq!(connects(&host.sleep()), 0);
    assert_eq!(connects(&host.pass(Duration::from_secs(55))), 0);
    assert_eq!(connects(&host.say(PowerWord::UserPresent)), 1);
}

#[test]
fn a_host_that_cannot_be_restored_in_time_does_not_keep_a_sleep_waiting() {
    let mut host = Host::with(true);
    let before = host.now.awake;
    host.say(PowerWord::Sleeping);
    let effects = host.pass(SLEEP_ACK_BUDGET);
    assert!(effects.contains(&Effect::AckSleep), "{effects:?}");
    assert!(host.now.awake.since(before) <= SLEEP_ACK_BUDGET);
}
