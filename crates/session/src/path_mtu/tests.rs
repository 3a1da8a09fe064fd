//! Searches over a path in virtual time: it has an MTU, a round trip and loss, and drops what is too long without a word.

use super::*;
use proptest::prelude::*;

const FLOOR: u16 = 1214;
const CEILING: u16 = 1434;
const HUNDRED_MS: Duration = Duration::from_millis(100);

fn at(millis: u64) -> Awake {
    Awake::from_origin(Duration::from_millis(millis))
}

struct World {
    search: PathMtu,
    now: Awake,
    mtu: u16,
    round_trip: Duration,
    /// Of 100 datagrams, in either direction.
    loss: u32,
    chance: u64,
    /// Does the host know the path MTU, and refuse what is longer?
    is_refusing: bool,
    under_way: Vec<(Awake, Probe)>,
    sent: Vec<(Awake, Probe)>,
    changes: Vec<(u64, u16)>,
}

impl World {
    fn new(floor: u16, ceiling: u16, mtu: u16) -> Self {
        Self {
            search: PathMtu::new(floor, ceiling, at(0)),
            now: at(0),
            mtu,
            round_trip: HUNDRED_MS,
            loss: 0,
            chance: 1,
            is_refusing: false,
            under_way: Vec::new(),
            sent: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn settled(mtu: u16) -> Self {
        let mut world = Self::new(FLOOR, CEILING, mtu);
        world.settle(2000);
        world.run(10_000);
        world.sent.clear();
        world.changes.clear();
        world
    }

    /// SplitMix64.
    fn is_lost(&mut self) -> bool {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100 < u64::from(self.loss)
    }

    fn send(&mut self) {
        while let Some(probe) = self.search.poll(self.now) {
            self.sent.push((self.now, probe));
            if probe.size > self.mtu && self.is_refusing {
                self.search.refused(probe.size);
            } else if probe.size <= self.mtu && !self.is_lost() && !self.is_lost() {
                self.under_way.push((self.now.plus(self.round_trip), probe));
            }
        }
    }

    fn check(&mut self) {
        self.send();
        let millis = u64::try_from(self.now.since_origin().as_millis()).expect("a short test");
        self.changes.extend(self.search.changed().map(|size| (millis, size)));
        let current = self.search.current();
        let (floor, ceiling) = (self.search.ladder.floor, self.search.ladder.ceiling);
        assert!(
            (floor..=ceiling).contains(&current),
            "{current} outside {floor}..={ceiling}"
        );
        // The end of one search and all of the next may fall into one gap, and no more than that.
        let window = 2 * usize::from(PathMtu::PROBES_MAX);
        if let [.., first] = self.sent[..self.sent.len().saturating_sub(window)] {
            let last = self.sent[self.sent.len() - 1];
            assert!(last.0.since(first.0) >= PathMtu::SEARCH_GAP, "the budget");
        }
    }

    /// One event, unless it is later than `until`; false then.
    fn step(&mut self, until: Awake) -> bool {
        self.check();
        let answer = self.under_way.iter().map(|(at, _)| *at).min();
        let deadline = self.search.deadline().map(|deadline| deadline.at.max(self.now));
        let Some(next) = answer.into_iter().chain(deadline).min().filter(|next| *next <= until) else {
            self.now = until;
            return false;
        };
        self.now = next;
        if let Some(index) = self.under_way.iter().position(|(at, _)| *at <= next) {
            let (_, probe) = self.under_way.remove(index);
            self.search.answered(probe.id, probe.size, next);
        } else {
            self.search.handle_timeout(next);
        }
        true
    }

    fn run(&mut self, millis: u64) {
        let until = self.now.plus(Duration::from_millis(millis));
        let steps = (0..100_000).take_while(|_| self.step(until)).count();
        assert!(steps < 100_000, "it turns in a circle at {:?}", self.now);
        self.check();
    }

    /// Runs until the search has settled, at most `millis`.
    fn settle(&mut self, millis: u64) {
        let until = self.now.plus(Duration::from_millis(millis));
        while self.search.search() == Search::Probing && self.step(until) {}
        self.check();
        assert_eq!(self.search.search(), Search::Settled, "not settled after {millis} ms");
    }

    /// Seconds with a packet in each.
    fn use_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.search.traffic(self.now);
            self.run(1000);
        }
    }

    fn assert_found(&self) {
        let found = self.search.current();
        assert_eq!(self.search.search(), Search::Settled);
        assert!(
            found <= self.mtu && found + 8 > self.mtu,
            "{found} on a path of {}",
            self.mtu
        );
    }
}

#[test]
fn a_path_that_carries_all_is_known_after_one_round_trip() {
    let mut world = World::new(FLOOR, CEILING, 1500);
    world.settle(100);
    assert_eq!((world.search.current(), world.changes.len()), (CEILING, 0));
    assert_eq!(world.sent.len(), 9, "one ladder");
    assert_eq!(world.search.deadline(), None);
}

#[test]
fn the_ceiling_is_assumed_until_it_lost_three_tries() {
    let mut world = World::new(FLOOR, CEILING, 1300);
    world.run(899);
    assert_eq!(world.search.current(), CEILING);
    world.run(1);
    assert_eq!(world.changes.first(), Some(&(900, 1294)));
    let full: Vec<_> = world.sent.iter().filter(|(_, probe)| probe.size == CEILING).collect();
    assert_eq!(full.len(), 3);
    world.settle(1100);
    world.assert_found();
}

#[test]
fn a_common_path_is_found_exactly() {
    for less in [8, 20, 48, 68, 80, 100, 140] {
        let mut world = World::new(FLOOR, CEILING, CEILING - less);
        world.settle(2000);
        assert_eq!(world.search.current(), CEILING - less);
    }
}

#[test]
fn the_search_is_not_misled_by_a_lost_burst() {
    let mut world = World::new(FLOOR, CEILING, 1500);
    world.loss = 100;
    world.send();
    world.loss = 0;
    world.settle(2000);
    assert_eq!((world.search.current(), world.changes.len()), (CEILING, 0));
}

#[test]
fn a_dead_path_is_asked_little_and_again_soon() {
    let mut world = World::new(FLOOR, CEILING, 0);
    world.settle(1000);
    assert_eq!(world.search.current(), FLOOR);
    assert_eq!(world.sent.len(), 13, "a ladder, and two more tries of either end");
    world.mtu = 1434;
    world.run(31_000);
    assert_eq!(world.search.current(), CEILING);
}

#[test]
fn a_long_round_trip_is_learned() {
    for millis in [250, 600, 1000, 2500] {
        let mut world = World::new(FLOOR, CEILING, 1350);
        world.round_trip = Duration::from_millis(millis);
        world.run(60_000);
        world.assert_found();
    }
}

#[test]
fn refusal_by_the_host_needs_no_second_try() {
    let mut world = World::new(FLOOR, CEILING, 1350);
    world.is_refusing = true;
    world.send();
    assert_eq!(world.search.current(), FLOOR);
    world.settle(2000);
    world.assert_found();
    assert!(world.changes.iter().all(|(_, size)| *size <= 1350));
}

#[test]
fn refusal_of_the_confirmed_size_lowers_it_at_once_and_searches_below() {
    let mut world = World::settled(1434);
    world.mtu = 1380;
    world.search.refused(1434);
    assert_eq!(world.search.changed(), Some(FLOOR));
    world.run(2000);
    world.assert_found();
}

#[test]
fn refusal_within_the_gap_waits_for_its_end() {
    let mut world = World::new(FLOOR, CEILING, 1434);
    world.run(1000);
    world.sent.clear();
    world.mtu = 1380;
    world.search.refused(1434);
    world.run(1999);
    assert_eq!((world.search.current(), world.sent.len()), (FLOOR, 0));
    world.run(2000);
    world.assert_found();
}

#[test]
fn refusals_below_the_floor_and_above_the_ceiling_change_nothing_but_the_size() {
    let mut world = World::settled(1434);
    world.search.refused(CEILING + 1);
    assert_eq!(world.search.changed(), None);
    world.search.refused(1);
    assert_eq!(world.search.changed(), Some(FLOOR));
    let mut world = World::new(FLOOR, FLOOR, FLOOR);
    world.search.refused(FLOOR);
    world.settle(2000);
    assert_eq!(world.search.current(), FLOOR);
}

#[test]
fn a_path_that_grows_is_noticed_after_ten_minutes() {
    let mut world = World::settled(1300);
    world.mtu = 1420;
    world.run(580_000);
    assert_eq!((world.changes.len(), world.sent.len()), (0, 0));
    world.run(15_000);
    world.assert_found();
}

#[test]
fn confirmation_does_not_put_off_the_raise() {
    let mut world = World::settled(1300);
    world.mtu = 1420;
    world.use_for(595);
    world.assert_found();
}

#[test]
fn a_path_that_shrinks_is_noticed_when_it_is_used() {
    let mut world = World::settled(1434);
    world.run(120_000);
    assert_eq!(world.sent.len(), 0, "an idle channel is silent");
    world.mtu = 1350;
    world.use_for(3);
    world.assert_found();
}

#[test]
fn a_used_path_is_confirmed_with_one_probe_each_time() {
    let mut world = World::settled(1434);
    world.use_for(600);
    // From the answer of each to the next.
    let times = 600 / usize::try_from(PathMtu::CONFIRM_AFTER.as_secs()).expect("small");
    assert!(
        (times - times / 10..=times).contains(&world.sent.len()),
        "{}",
        world.sent.len()
    );
    assert!(world.sent.iter().all(|(_, probe)| probe.size == CEILING));
}

#[test]
fn a_doubt_costs_one_probe_and_finds_a_path_that_shrank() {
    let mut world = World::settled(1434);
    world.search.doubt(world.now);
    world.settle(100);
    assert_eq!(world.sent.len(), 0, "an idle channel has no doubts");
    world.use_for(1);
    world.search.doubt(world.now);
    world.settle(200);
    assert_eq!((world.sent.len(), world.changes.len()), (1, 0));
    world.run(10_000);
    world.mtu = 1350;
    world.search.traffic(world.now);
    world.search.doubt(world.now);
    world.settle(3000);
    world.assert_found();
}

#[test]
fn suspicion_is_settled_within_two_seconds() {
    let mut world = World::settled(1420);
    world.mtu = 1280;
    world.search.suspect(world.now);
    world.settle(2000);
    world.assert_found();
    assert!(world.changes.iter().all(|(_, size)| *size <= 1280));
}

#[test]
fn false_suspicion_costs_a_round_trip_and_changes_nothing() {
    let mut world = World::settled(1434);
    world.search.suspect(world.now);
    world.settle(100);
    assert_eq!((world.search.current(), world.changes.len()), (1434, 0));
}

#[test]
fn suspicion_is_heard_every_three_seconds() {
    let mut world = World::settled(1434);
    for _ in 0..300 {
        world.search.suspect(world.now);
        world.run(100);
    }
    assert_eq!(world.sent.len(), 10 * 12);
}

#[test]
fn an_answer_to_nothing_or_of_another_length_is_ignored() {
    let mut world = World::new(FLOOR, CEILING, 1434);
    let probe = world.search.poll(at(0)).expect("a probe");
    world.search.answered(probe.id, 1, at(10));
    world.search.answered(probe.id + 1, probe.size, at(10));
    assert_eq!(world.search.search(), Search::Probing);
    world.search.answered(probe.id, probe.size, at(10));
    assert_eq!(world.search.search(), Search::Settled);
}

#[test]
fn an_answer_that_proves_the_verdict_wrong_counts_unless_it_is_too_old() {
    for (late, expected) in [(LATE_MAX, CEILING), (LATE_MAX + HUNDRED_MS, FLOOR)] {
        let mut world = World::new(FLOOR, CEILING, 0);
        world.settle(1000);
        let (_, first) = world.sent[0];
        world.search.answered(first.id, first.size, at(0).plus(late));
        assert_eq!((first.size, world.search.current()), (CEILING, expected));
    }
}

#[test]
fn time_in_a_gap_does_not_count() {
    let mut world = World::new(FLOOR, CEILING, 1434);
    world.send();
    world.search.rebase(Duration::from_secs(3600));
    let later = at(3_600_100);
    world.search.handle_timeout(later);
    assert_eq!(world.search.poll(later), None, "nothing timed out");
    let (_, probe) = world.sent[0];
    world.search.answered(probe.id, probe.size, later);
    assert_eq!(world.search.current(), CEILING);
    assert_eq!(world.search.round_trip, Some(HUNDRED_MS));
}

fn paths() -> impl Strategy<Value = (u16, u16, u16)> {
    (576u16..=1280)
        .prop_flat_map(|floor| (Just(floor), floor..=9000))
        .prop_flat_map(|(floor, ceiling)| (Just(floor), Just(ceiling), floor..=ceiling))
}

proptest! {
    #[test]
    fn any_black_hole_is_found_within_two_seconds(
        (floor, ceiling, mtu) in paths(), round_trip in 1u64..=100,
    ) {
        let mut world = World::new(floor, ceiling, mtu);
        world.round_trip = Duration::from_millis(round_trip);
        world.settle(2000);
        world.assert_found();
        prop_assert!(world.sent.len() <= 48, "{} probes", world.sent.len());
    }

    #[test]
    fn loss_never_leads_above_the_path(
        (floor, ceiling, mtu) in paths(), round_trip in 1u64..=100, loss in 0u32..=20, chance: u64,
    ) {
        let mut world = World::new(floor, ceiling, mtu);
        world.round_trip = Duration::from_millis(round_trip);
        (world.loss, world.chance) = (loss, chance);
        world.settle(10_000);
        prop_assert!(world.search.current() <= mtu);
    }

    #[test]
    fn a_path_that_changes_is_followed(
        mtus in proptest::collection::vec(FLOOR..=CEILING, 1..4), is_refusing: bool, is_suspected: bool,
    ) {
        let mut world = World::settled(CEILING);
        world.is_refusing = is_refusing;
        for mtu in mtus {
            let is_less = mtu < world.mtu;
            world.mtu = mtu;
            world.run(5000);
            if is_less && is_suspected {
                world.search.suspect(world.now);
                world.run(2000);
                world.assert_found();
            }
            world.use_for(if is_less { 65 } else { 610 });
            world.assert_found();
        }
    }

    #[test]
    fn loss_on_a_path_that_changes_never_leads_above_it_for_long(
        mtus in proptest::collection::vec(FLOOR..=CEILING, 1..4), loss in 0u32..=20, chance: u64,
    ) {
        let mut world = World::settled(CEILING);
        (world.loss, world.chance) = (loss, chance);
        for mtu in mtus {
            world.mtu = mtu;
            world.use_for(75);
            prop_assert!(world.search.current() <= mtu);
        }
    }

    #[test]
    fn no_order_of_events_breaks_bounds_or_budget(
        (floor, ceiling, mtu) in paths(), chance: u64,
        events in proptest::collection::vec((0u8..8, any::<u16>(), 0u64..4000), 1..150),
    ) {
        let mut world = World::new(floor, ceiling, mtu);
        (world.loss, world.chance) = (30, chance);
        for (event, size, millis) in events {
            let within = floor + size % (ceiling - floor + 1);
            let millis = if event == 0 { millis * 200 } else { millis / 4 };
            match event {
                1 => world.search.refused(size),
                2 => world.search.refused(within),
                3 => world.search.suspect(world.now),
                4 => world.search.traffic(world.now),
                5 => world.mtu = within,
                6 => {
                    let id = u32::from(size) % (world.search.next_id + 1);
                    world.search.answered(id, within, world.now);
                }
                7 => world.search.handle_timeout(world.now),
                _ => {}
            }
            world.run(millis);
        }
        world.mtu = ceiling;
        world.loss = 0;
        world.run(700_000);
        prop_assert_eq!(world.search.current(), ceiling, "it comes back");
    }
}
