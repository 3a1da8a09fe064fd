//! `marmot history`: the sessions that are over, the last one at the bottom; also while no daemon runs.

use api::{Client, History, Session, Sleep};

use crate::cli::HistoryArgs;
use crate::control::trouble::Trouble;
use crate::control::{target, words};
use crate::exit::answer;

pub(super) async fn run(client: &Client, args: &HistoryArgs) -> Result<(), Trouble> {
    let last = args.last as usize;
    let history = match client.history(last).await {
        Err(error @ api::ClientError::NotRunning(_)) => {
            let Some(config) = target::config(&args.common.target) else {
                return Err(error.into());
            };
            ::client::history(&config, last).map_err(Trouble::ledger)?
        }
        answer => answer?,
    };
    answer(&if args.common.json {
        api::line(&history)
    } else {
        text(&history)
    });
    Ok(())
}

fn text(history: &History) -> String {
    if history.sessions.is_empty() {
        return "no session has ended yet\n".to_owned();
    }
    let mut table = row("BEGAN", "DURATION", "IN", "OUT", "SLEEPS", "END");
    for session in &history.sessions {
        table += &line(session);
        for sleep in &session.sleeps {
            table += &slept(sleep);
        }
    }
    table
}

fn line(session: &Session) -> String {
    let duration = session
        .seconds
        .map_or("?".to_owned(), |seconds| words::length(seconds.max(0.0) as u64));
    let mut end = session
        .end_reason
        .as_ref()
        .map_or("?".to_owned(), |reason| words::plain(reason));
    if let Some(detail) = &session.detail {
        end += &format!(": {}", words::plain(detail));
    }
    row(
        &words::moment(session.started_unix_ms),
        &duration,
        &words::bytes(session.traffic.bytes_in),
        &words::bytes(session.traffic.bytes_out),
        &session.wakes.to_string(),
        &end,
    )
}

/// One sleep, under the row of its session.
fn slept(sleep: &Sleep) -> String {
    format!(
        "  {}  asleep for {}, {}, resumed by {}\n",
        words::moment(sleep.at_unix_ms),
        words::length(sleep.gap_s),
        words::count(sleep.wakes.into(), "wake"),
        words::plain(&sleep.via)
    )
}

fn row(began: &str, duration: &str, inward: &str, outward: &str, sleeps: &str, end: &str) -> String {
    format!("{began:<20}  {duration:>11}  {inward:>9}  {outward:>9}  {sleeps:>6}  {end}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Traffic;

    #[test]
    fn each_session_has_its_row_and_an_unseen_end_is_a_question_mark() {
        let history = History {
            sessions: vec![
                Session {
                    started_unix_ms: 1_800_000_000_000,
                    seconds: Some(11_520.5),
                    traffic: Traffic {
                        bytes_in: 12_345_678,
                        bytes_out: 999,
                        ..Traffic::default()
                    },
                    wakes: 2,
                    sleeps: vec![Sleep {
                        at_unix_ms: 1_800_001_000_000,
                        gap_s: 7200,
                        wakes: 2,
                        via: "same_path".to_owned(),
                    }],
                    end_reason: Some("user_stop".to_owned()),
                    ..Session::default()
                },
                Session {
                    started_unix_ms: 1_800_020_000_000,
                    end_reason: Some("crash".to_owned()),
                    ..Session::default()
                },
            ],
        };
        let expected = "\
BEGAN                    DURATION         IN        OUT  SLEEPS  END
2027-01-15 08:00:00Z   3 h 12 min    12.3 MB      999 B       2  user_stop
  2027-01-15 08:16:40Z  asleep for 2 h, 2 wakes, resumed by same_path
2027-01-15 13:33:20Z            ?        0 B        0 B       0  crash
";
        assert_eq!(text(&history), expected);
        assert_eq!(text(&History::default()), "no session has ended yet\n");
    }
}
