//! A night of maintenance wakes costs nothing, and a day offline fills no log.

use lifecycle::Source;
use sim::night::{Control, Figures, Policy, WAKES, day_offline, night};

fn told(what: &str, figures: Figures) -> Figures {
    println!("{what:<38} {figures}");
    figures
}

#[test]
fn forty_maintenance_wakes_cost_nothing_where_a_naive_client_connects_each_time() {
    for source in [Source::Facts, Source::Presence] {
        let kept = told(
            &format!("{source:?}, connection kept"),
            night(source, Policy::Ours, Control::Kept),
        );
        assert_eq!((kept.connects, kept.notices, kept.ends), (0, 0, 0));
        assert_eq!((kept.parks, kept.unparks, kept.full), (1, 1, 1));

        let reset = told(
            &format!("{source:?}, connection reset"),
            night(source, Policy::Ours, Control::Reset),
        );
        assert_eq!(
            (reset.connects, reset.notices, reset.ends),
            (1, 0, 0),
            "one, in the morning"
        );
        assert_eq!((reset.parks, reset.unparks, reset.full), (1, 1, 1));

        let naive = told(
            &format!("{source:?}, reset, every wake full"),
            night(source, Policy::Naive, Control::Reset),
        );
        assert!(naive.connects >= WAKES, "{naive}");
    }
}

#[test]
fn where_nobody_tells_a_connection_that_is_kept_costs_no_attempt_and_no_notice() {
    let kept = told(
        "None, connection kept",
        night(Source::None, Policy::Ours, Control::Kept),
    );
    assert_eq!((kept.connects, kept.notices, kept.ends), (0, 0, 0));
    let reset = told(
        "None, connection reset",
        night(Source::None, Policy::Ours, Control::Reset),
    );
    assert!(
        reset.connects <= WAKES + 1 && reset.notices == 0,
        "one at most for each wake: {reset}"
    );
}

#[test]
fn a_day_offline_comes_to_few_lines() {
    for sleeps in [false, true] {
        let day = day_offline(sleeps);
        println!(
            "a day offline, sleeping: {sleeps}: {} attempts, {} failures, {} notices, {} lines",
            day.connects, day.failures, day.notices, day.lines
        );
        assert!(day.lines <= 200 && day.notices == 1 && day.ends == 0, "{day:?}");
        assert!(day.connects <= 24 * 3600 / 20 + 8, "{day:?}");
    }
}
