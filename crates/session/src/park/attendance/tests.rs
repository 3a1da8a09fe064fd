//! A client in every state, whatever happens to it, and nights that take no time.

use super::*;
use now::GapKind;
use proptest::prelude::*;

const QUIET: Duration = Duration::from_secs(60);
const RECENT: Duration = Duration::from_secs(60);
const ALIVE: Sample = Sample {
    established: true,
    probes: 0,
    retransmits: 0,
    unacked: 0,
    last_ack: Duration::from_secs(30),
};
const SILENT: Sample = Sample {
    probes: 3,
    last_ack: Duration::from_secs(75),
    ..ALIVE
};
const DOUBTFUL: Sample = Sample {
    probes: 1,
    last_ack: Duration::from_secs(75),
    ..ALIVE
};

fn at(seconds: u64) -> Now {
    Now::default().plus(Duration::from_secs(seconds))
}

fn gap(seconds: u64) -> Gap {
    let length = Duration::from_secs(seconds);
    Gap {
        length,
        awake: length,
        kind: GapKind::Freeze,
    }
}

fn polled(attendance: &mut Attendance) -> Vec<Attend> {
    std::iter::from_fn(|| attendance.poll()).collect()
}

/// The word of a state, as in the drawing.
fn word(attendance: &Attendance) -> &'static str {
    match (attendance.parked(), attendance.is_active()) {
        (Some(kind), _) => kind.word(),
        (None, true) => "active",
        (None, false) => "quiet",
    }
}

/// A client in each state, at 1,000 s.
fn client(state: &str) -> Attendance {
    let mut client = Attendance::new(QUIET, RECENT, at(900));
    match state {
        "active" => client.heard(Via::SamePath, at(1000)),
        "announced" => client.park(at(1000)),
        _ => {
            client.handle_timeout(at(985));
            if state != "quiet" {
                client.handle_timeout(at(1000));
                let sample = if state == "frozen" { ALIVE } else { SILENT };
                client.sampled(Some(sample), at(1000));
            }
        }
    }
    polled(&mut client);
    assert_eq!(word(&client), state);
    client
}

const STATES: [&str; 5] = ["active", "quiet", "announced", "frozen", "unreachable"];

/// What a thing that happens does to a client, by state: the state after it, and what is to be done.
fn table() -> String {
    type Happening = fn(&mut Attendance, Now);
    let happenings: [(&str, Happening); 8] = [
        ("word", |client, now| client.heard(Via::SamePath, now)),
        ("word from elsewhere", |client, now| client.heard(Via::Rebind, now)),
        ("\"park\"", |client, now| client.park(now)),
        ("\"awake\"", |client, now| client.awake(Via::Rebind, now)),
        ("kernel answers", |client, now| client.sampled(Some(ALIVE), now)),
        ("kernel is silent", |client, now| client.sampled(Some(SILENT), now)),
        ("kernel may answer", |client, now| client.sampled(Some(DOUBTFUL), now)),
        ("connection gone", Attendance::control_gone),
    ];
    let mut table = String::new();
    for (name, happens) in happenings {
        for state in STATES {
            let mut client = client(state);
            happens(&mut client, at(1001));
            let done = polled(&mut client);
            table += &format!("{name:<19} {state:<11} -> {:<11} {done:?}\n", word(&client));
        }
    }
    table
}

#[test]
fn every_transition_is_in_the_table() {
    let golden = include_str!("table.txt");
    assert_eq!(table(), golden, "\n{}", table());
}

#[test]
fn a_client_that_says_a_word_now_and_then_is_never_asked() {
    let mut client = Attendance::new(QUIET, RECENT, at(0));
    for seconds in (20..100_000).step_by(20) {
        client.handle_timeout(at(seconds));
        client.heard(Via::SamePath, at(seconds));
    }
    assert_eq!(polled(&mut client), []);
}

#[test]
fn a_running_client_that_is_idle_answers_and_is_not_parked() {
    let mut client = Attendance::new(QUIET, RECENT, at(0));
    for round in 1..100 {
        client.handle_timeout(at(round * 60));
        assert_eq!(polled(&mut client), [Attend::Ask]);
        client.heard(Via::SamePath, at(round * 60));
        assert!(client.is_active());
    }
}

#[test]
fn a_stopped_process_is_parked_once_through_a_night() {
    let mut client = Attendance::new(QUIET, RECENT, at(0));
    let mut told = Vec::new();
    while let Some(deadline) = client.deadline().filter(|deadline| deadline.at < at(8 * 3600).awake) {
        let now = at(deadline.at.since_origin().as_secs());
        client.handle_timeout(now);
        while let Some(attend) = client.poll() {
            match attend {
                Attend::Look => client.sampled(Some(ALIVE), now),
                other => told.push((now.awake.since_origin().as_secs(), other)),
            }
        }
    }
    client.heard(Via::SamePath, at(8 * 3600));
    assert_eq!(told, [(60, Attend::Ask), (75, Attend::Park(ParkKind::Frozen))]);
    assert_eq!(polled(&mut client), [Attend::Unpark(Via::SamePath)]);
}

#[test]
fn a_maintenance_wake_opens_the_downlink_for_ten_seconds_and_counts_once() {
    let mut client = client("announced");
    assert!(!client.downlink_open(at(1001)));
    for second in 2000..2005 {
        client.heard(Via::SamePath, at(second));
    }
    assert_eq!(polled(&mut client), [Attend::Stir]);
    assert!(client.downlink_open(at(2013)) && !client.downlink_open(at(2014)));
    assert_eq!(client.parked(), Some(ParkKind::Announced));
    assert_eq!(client.deadline(), None, "nobody looks at a client that said it sleeps");
}

#[test]
fn a_maintenance_wake_that_never_ends_is_told_every_ten_seconds() {
    let mut client = client("announced");
    let mut told = Vec::new();
    for second in (2000..2100).step_by(4) {
        client.heard(Via::SamePath, at(second));
        told.extend(std::iter::from_fn(|| client.poll()).map(|attend| (second, attend)));
    }
    let (first, again) = told.split_first().expect("it stirs");
    assert_eq!(*first, (2000, Attend::Stir));
    let expected = [2012, 2024, 2036, 2048, 2060, 2072, 2084, 2096].map(|second| (second, Attend::StillStirs));
    assert_eq!(again, expected);
    assert_eq!(client.parked(), Some(ParkKind::Announced));
}

#[test]
fn a_segment_that_is_repeated_in_vain_is_no_answer() {
    let mut client = client("quiet");
    let in_flight = Sample {
        retransmits: 4,
        unacked: 1,
        ..ALIVE
    };
    client.sampled(Some(in_flight), at(1001));
    assert_eq!(client.parked(), Some(ParkKind::Unreachable));
}

#[test]
fn a_socket_that_is_not_whole_and_a_kernel_that_does_not_tell_decide_nothing_at_once() {
    let mut client = client("quiet");
    let closing = Sample {
        established: false,
        ..SILENT
    };
    client.sampled(Some(closing), at(1000));
    client.sampled(None, at(1001));
    assert_eq!(word(&client), "quiet");
    client.sampled(None, at(1015));
    assert_eq!(client.parked(), Some(ParkKind::Unreachable));
}

#[test]
fn without_a_control_connection_only_the_data_channel_is_asked() {
    let mut client = Attendance::new(QUIET, RECENT, at(0));
    client.control_gone(at(10));
    assert_eq!(polled(&mut client), []);
    client.handle_timeout(at(60));
    assert_eq!(polled(&mut client), [Attend::Ask]);
    client.heard(Via::SamePath, at(61));
    assert!(client.is_active(), "the session outlives its socket");
    client.handle_timeout(at(121));
    client.handle_timeout(at(136));
    assert_eq!(polled(&mut client), [Attend::Ask, Attend::Park(ParkKind::Unreachable)]);
    assert_eq!(client.deadline(), None);
}

#[test]
fn a_gap_of_the_gateway_condemns_nobody() {
    for state in ["active", "quiet"] {
        let mut client = client(state);
        client.rebase(&gap(3600), at(4600));
        client.handle_timeout(at(4600));
        client.handle_timeout(at(4614));
        assert!(!polled(&mut client).contains(&Attend::Look), "{state}");
        client.heard(Via::SamePath, at(4614));
        assert!(client.is_active());
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Due,
    Word(bool),
    Park,
    Awake,
    Sample(Option<Sample>),
    Gone,
    Gap(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..200_u64).prop_map(Step::Wait),
        Just(Step::Due),
        Just(Step::Due),
        Just(Step::Due),
        any::<bool>().prop_map(Step::Word),
        Just(Step::Park),
        Just(Step::Awake),
        prop_oneof![Just(Some(ALIVE)), Just(Some(SILENT)), Just(Some(DOUBTFUL)), Just(None)].prop_map(Step::Sample),
        Just(Step::Gone),
        (2..10_000_u64).prop_map(Step::Gap),
    ]
}

proptest! {
    #[test]
    fn parks_and_unparks_take_turns_whatever_happens(steps in prop::collection::vec(step(), 0..200)) {
        let mut now = at(1000);
        let mut client = Attendance::new(QUIET, RECENT, now);
        let (mut parked, mut keepalive) = (None, true);
        let mut quiet_since = now;
        for step in steps {
            let before = client.deadline();
            match step {
                Step::Wait(seconds) => now = now.plus(Duration::from_secs(seconds)),
                Step::Due => {
                    if let Some(deadline) = before {
                        now = now.plus(deadline.at.since(now.awake));
                    }
                    client.handle_timeout(now);
                    let after = client.deadline();
                    prop_assert!(after.is_none_or(|after| after.at > now.awake), "no deadline comes twice");
                }
                Step::Word(same) => client.heard(if same { Via::SamePath } else { Via::Rebind }, now),
                Step::Park => client.park(now),
                Step::Awake => client.awake(Via::SamePath, now),
                Step::Sample(sample) => client.sampled(sample, now),
                Step::Gone => client.control_gone(now),
                Step::Gap(seconds) => {
                    now = now.plus(Duration::from_secs(seconds));
                    client.rebase(&gap(seconds), now);
                    quiet_since = quiet_since.plus(Duration::from_secs(seconds));
                }
            }
            let mut count = 0;
            while let Some(attend) = client.poll() {
                count += 1;
                match attend {
                    Attend::Ask | Attend::Look | Attend::Stir | Attend::StillStirs => {}
                    Attend::Park(kind) => {
                        prop_assert_eq!(parked.replace(kind), None);
                        if kind != ParkKind::Announced {
                            prop_assert!(now.awake.since(quiet_since.awake) >= QUIET, "not before it was quiet for long");
                        }
                    }
                    Attend::Kind(kind) => {
                        let before = parked.replace(kind);
                        prop_assert!(before.is_some() && before != Some(kind));
                    }
                    Attend::Unpark(_) => {
                        let before = parked.take();
                        prop_assert!(before.is_some());
                        let explicit = matches!(step, Step::Awake);
                        prop_assert!(explicit || before != Some(ParkKind::Announced));
                    }
                    Attend::Keepalive(on) => {
                        prop_assert_ne!(std::mem::replace(&mut keepalive, on), on);
                    }
                }
            }
            prop_assert!(count <= 3);
            if matches!(step, Step::Word(_) | Step::Park | Step::Awake) {
                quiet_since = now;
            }
            prop_assert_eq!(client.parked(), parked);
            prop_assert_eq!(keepalive, parked != Some(ParkKind::Announced));
            prop_assert!(parked.is_none() || !client.is_active());
        }
    }
}
