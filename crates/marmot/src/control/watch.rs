//! `marmot watch`: what happens, one line each.

use api::{Client, ClientError, Event, Happening, State, Status};

use crate::control::trouble::Trouble;
use crate::control::{down, words};
use crate::exit::{Exit, answer};

/// What has been shown of the state, so that only changes are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    state: Option<State>,
    problem: Option<String>,
}

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Trouble> {
    let mut shown = Shown::default();
    loop {
        let mut stream = client.events().await?;
        let end = loop {
            let event = if json {
                stream
                    .next_line()
                    .await
                    .map(|line| line.map(|line| String::from_utf8_lossy(&line).into_owned() + "\n"))
            } else {
                stream
                    .next()
                    .await
                    .map(|event| event.map(|event| text(&event, &mut shown)))
            };
            match event {
                Ok(Some(line)) => answer(&line),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match end {
            Ok(()) => return Err(Trouble::new(Exit::NoDaemon, "ended", "the daemon has ended")),
            // Dropped because we did not keep up, or it was killed; the next connection tells which.
            Err(ClientError::Closed) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The line of an event; empty if it says nothing new.
fn text(event: &Event, shown: &mut Shown) -> String {
    let words = match &event.what {
        Happening::Status { status } => match changed(status, shown) {
            Some(words) => words,
            None => return String::new(),
        },
        other => happening(other),
    };
    if words.is_empty() {
        return words;
    }
    format!("{} {words}\n", words::clock(event.at_unix_ms))
}

/// What of a status is new.
fn changed(status: &Status, shown: &mut Shown) -> Option<String> {
    let now = Shown {
        state: Some(status.state),
        problem: status.problem.as_ref().map(|problem| problem.message.clone()),
    };
    if now == *shown {
        return None;
    }
    let mut line = format!("{} is {}", words::plain(&status.name), status.state.word());
    if let Some(problem) = now.problem.as_ref().filter(|_| status.state != State::Up) {
        line += &format!(": {}", words::plain(problem));
    }
    *shown = now;
    Some(line)
}

fn happening(what: &Happening) -> String {
    let detail = |detail: &Option<String>| {
        detail
            .as_ref()
            .map_or(String::new(), |text| format!(": {}", words::plain(text)))
    };
    match what {
        Happening::Status { .. } | Happening::Unknown => String::new(),
        Happening::SessionStart {
            interface,
            addresses,
            session,
            ..
        } => {
            let on = interface
                .as_ref()
                .map_or(String::new(), |name| format!(" on {}", words::plain(name)));
            let name = session
                .as_ref()
                .map_or(String::new(), |name| format!(" {}", words::plain(name)));
            format!("session{name} begins: {}{on}", words::plain(&addresses.join(", ")))
        }
        Happening::SessionEnd {
            reason,
            detail: more,
            seconds,
        } => {
            let reason = words::plain(reason);
            format!(
                "session ends after {}: {reason}{}",
                words::length(*seconds),
                detail(more)
            )
        }
        Happening::SessionPark { kind } => format!("parked ({}): the session waits", words::plain(kind)),
        Happening::SessionUnpark { gap_s, wakes, via } => format!(
            "awake after {}, {}: the session goes on ({})",
            words::length(*gap_s),
            words::count((*wakes).into(), "wake"),
            words::plain(via)
        ),
        Happening::PathLost { detail: more } => format!("the connection is lost, the session goes on{}", detail(more)),
        Happening::PathBack { after_ms } => format!("connected again after {}", words::milliseconds(*after_ms as f64)),
        Happening::ClockGap { seconds, kind } => {
            let (kind, length) = (words::plain(kind), words::milliseconds(seconds * 1000.0));
            format!("did not run for {length} ({kind})")
        }
        Happening::StopAck(stop) => down::text(stop).trim_end().to_owned(),
        Happening::DeviceGone { interface, ms } => {
            format!("{} is gone {} later", words::plain(interface), words::milliseconds(*ms))
        }
        Happening::HousekeepingDone { job, ms, tries } => {
            let (job, took) = (words::plain(job), words::milliseconds(*ms as f64));
            format!(
                "housekeeping {job} done in {took}, {}",
                words::count((*tries).into(), "attempt")
            )
        }
        Happening::HousekeepingFailed {
            job,
            error,
            tries,
            given_up,
        } => {
            let (job, error) = (words::plain(job), words::plain(error));
            let end = if *given_up { ", given up" } else { "" };
            format!(
                "housekeeping {job} failed: {error}, {}{end}",
                words::count((*tries).into(), "attempt")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Down, Problem};

    fn at_nine(what: Happening) -> Event {
        Event {
            at_unix_ms: 9 * 3_600_000 + 35_000,
            what,
        }
    }

    fn status(state: State, problem: Option<&str>) -> Event {
        let problem = problem.map(|message| Problem {
            message: message.to_owned(),
            ..Problem::default()
        });
        let status = Status {
            name: "work".to_owned(),
            state,
            problem,
            ..Status::default()
        };
        at_nine(Happening::Status {
            status: Box::new(status),
        })
    }

    #[test]
    fn a_status_is_shown_when_the_state_or_the_problem_changes() {
        let mut shown = Shown::default();
        assert_eq!(
            text(&status(State::Starting, None), &mut shown),
            "09:00:35 work is starting\n"
        );
        assert_eq!(text(&status(State::Starting, None), &mut shown), "");
        let refused = status(State::Starting, Some("connection refused"));
        assert_eq!(
            text(&refused, &mut shown),
            "09:00:35 work is starting: connection refused\n"
        );
        assert_eq!(text(&refused, &mut shown), "");
        assert_eq!(text(&status(State::Up, None), &mut shown), "09:00:35 work is up\n");
    }

    #[test]
    fn what_happens_is_one_line_without_control_characters() {
        let mut shown = Shown::default();
        let lines = [
            Happening::SessionStart {
                session: Some("s1".to_owned()),
                epoch: Some(1),
                interface: Some("mm-work".to_owned()),
                addresses: vec!["10.78.0.2/32".to_owned()],
            },
            Happening::SessionEnd {
                reason: "admin".to_owned(),
                detail: Some("bye\n\u{1b}[31m".to_owned()),
                seconds: 250,
            },
            Happening::PathBack { after_ms: 40 },
            Happening::StopAck(Down {
                ms: 2.4,
                ..Down::default()
            }),
            Happening::DeviceGone {
                interface: "mm-work".to_owned(),
                ms: 23.0,
            },
            Happening::HousekeepingFailed {
                job: "j".to_owned(),
                error: "no".to_owned(),
                tries: 12,
                given_up: true,
            },
        ];
        let text: String = lines.into_iter().map(|what| text(&at_nine(what), &mut shown)).collect();
        let expected = "\
09:00:35 session s1 begins: 10.78.0.2/32 on mm-work
09:00:35 session ends after 4 min 10 s: admin: bye\\u{a}\\u{1b}[31m
09:00:35 connected again after 40 ms
09:00:35 down after 2.4 ms
09:00:35 mm-work is gone 23 ms later
09:00:35 housekeeping j failed: no, 12 attempts, given up
";
        assert_eq!(text, expected);
        assert_eq!(super::text(&at_nine(Happening::Unknown), &mut shown), "");
    }
}
