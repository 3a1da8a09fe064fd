//! Times, sizes and numbers for people. Times are UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock in milliseconds since 1970.
pub(super) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `4 s`, `4 min 10 s`, `3 h 12 min`, `5 d 3 h`: the two units that matter.
pub(super) fn length(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |many: u64, unit: &str, rest: u64, small: &str| match rest {
        0 => format!("{many} {unit}"),
        rest => format!("{many} {unit} {rest} {small}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(minutes, "min", seconds % 60, "s"),
        3600..86_400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// How long ago something was, or how long it is until then.
pub(super) fn between(one_unix_ms: u64, other_unix_ms: u64) -> String {
    length(one_unix_ms.abs_diff(other_unix_ms) / 1000)
}

/// `0.4 ms`, `12 ms`, `1.2 s`
pub(super) fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// `17 B`, `1.2 kB`, `12.3 MB`: powers of 1,000.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1000.0;
    let mut units = UNITS.into_iter().peekable();
    // 999.95 is written as 1000.0.
    while size >= 999.95 && units.len() > 1 {
        units.next();
        size /= 1000.0;
    }
    format!("{size:.1} {}", units.next().unwrap_or("PB"))
}

/// `1 session`, `2 sessions`
pub(super) fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// `2026-11-22 09:10:35Z`
pub(super) fn moment(unix_ms: u64) -> String {
    let (year, month, day) = date(unix_ms / 86_400_000);
    format!("{year:04}-{month:02}-{day:02} {}Z", clock(unix_ms))
}

/// `09:10:35`
pub(super) fn clock(unix_ms: u64) -> String {
    let second = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let day = days + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// Text of others on one line: no control character reaches the terminal.
pub(super) fn plain(text: &str) -> String {
    wire::text::escape(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_at_most_two_units() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (250, "4 min 10 s"),
            (3600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d"),
            (442_800, "5 d 3 h"),
        ] {
            assert_eq!(length(seconds), words);
        }
        assert_eq!(between(5_000, 1_000), "4 s");
        assert_eq!(
            (milliseconds(0.44), milliseconds(12.4), milliseconds(1234.0)),
            ("0.4 ms".into(), "12 ms".into(), "1.2 s".into())
        );
    }

    #[test]
    fn sizes_never_say_a_thousand_of_a_unit() {
        for (count, words) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(count), words);
        }
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (unix_ms, words) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_800_000_000_999, "2027-01-15 08:00:00Z"),
            (4_107_542_399_000, "2100-02-28 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(moment(unix_ms), words);
        }
    }
}
