//! `marmot up`: the order, and the wait for what becomes of it.

use std::time::{Duration, Instant};

use api::{Client, ClientError, Happening, State, Status, UpOrder};
use tokio::time::timeout;

use crate::cli::UpArgs;
use crate::control::trouble::Trouble;
use crate::control::words;
use crate::exit::{Exit, answer};

/// What a status means for somebody who waits for the tunnel.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Up,
    /// It goes on.
    Wait,
    /// It failed for good, or somebody stopped it.
    Over,
}

pub(super) async fn run(client: &Client, args: &UpArgs) -> Result<(), Trouble> {
    let began = Instant::now();
    let order = UpOrder {
        reconnect: args.reconnect,
    };
    let up = client.up(order).await?;
    if args.no_wait || (up.already && up.state == State::Up) {
        let status = client.status().await?;
        report(&status, up.already, began.elapsed(), args.common.json);
        return Ok(());
    }
    let mut latest = None;
    let wait = Duration::from_secs(args.wait);
    match timeout(wait, settled(client, up.generation, &mut latest)).await {
        Ok(settled) => {
            let status = settled?;
            if verdict(&status, up.generation) == Verdict::Over {
                return Err(over(&status));
            }
            report(&status, up.already, began.elapsed(), args.common.json);
            Ok(())
        }
        Err(_) => Err(not_yet(latest.as_ref(), wait)),
    }
}

/// The first status that is no reason to wait. `latest` gets each one that is.
async fn settled(client: &Client, generation: u64, latest: &mut Option<Status>) -> Result<Status, Trouble> {
    loop {
        let mut stream = client.events().await?;
        loop {
            let event = match stream.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Err(ClientError::Closed.into()),
                // We were too slow: the next stream begins with the status.
                Err(ClientError::Closed) => break,
                Err(error) => return Err(error.into()),
            };
            if let Happening::Status { status } = event.what {
                match verdict(&status, generation) {
                    Verdict::Wait => *latest = Some(*status),
                    Verdict::Up | Verdict::Over => return Ok(*status),
                }
            }
        }
    }
}

fn verdict(status: &Status, generation: u64) -> Verdict {
    if status.generation < generation {
        return Verdict::Wait;
    }
    match status.state {
        State::Up => Verdict::Up,
        State::Idle | State::Failed => Verdict::Over,
        // Reasserting, asleep and unverified are up as far as an order goes, but nobody can use them yet.
        State::Starting
        | State::Reasserting
        | State::Dormant
        | State::Asleep
        | State::Parked
        | State::Unverified
        | State::Armed
        | State::StayDown
        | State::Stopping
        | State::Unknown => Verdict::Wait,
    }
}

fn over(status: &Status) -> Trouble {
    let name = &status.name;
    match (&status.problem, status.state) {
        (Some(problem), State::Failed) => {
            let exit = if problem.exit_code == 0 {
                Exit::Error as u8
            } else {
                problem.exit_code
            };
            let message = format!("{name} cannot come up: {}", words::plain(&problem.message));
            Trouble::new(exit, "failed", message)
        }
        (None, State::Failed) => Trouble::new(Exit::Error, "failed", format!("{name} cannot come up")),
        _ => Trouble::new(Exit::Error, "stopped", format!("{name} was taken down meanwhile")),
    }
}

fn not_yet(latest: Option<&Status>, waited: Duration) -> Trouble {
    let name = latest.map_or("the tunnel", |status| &status.name);
    let problem = latest.and_then(|status| status.problem.as_ref());
    let why = problem.map_or(String::new(), |problem| format!(": {}", words::plain(&problem.message)));
    let help = "it goes on trying; `marmot watch` shows how, `marmot down` ends it";
    let message = format!("{name} is not up after {} s{why}; {help}", waited.as_secs());
    Trouble::new(Exit::Error, "not_yet", message)
}

fn report(status: &Status, already: bool, took: Duration, json: bool) {
    let ms = took.as_secs_f64() * 1000.0;
    if json {
        let ms = (ms * 10.0).round() / 10.0;
        answer(&api::line(
            &serde_json::json!({ "already": already, "ms": ms, "status": status }),
        ));
    } else {
        answer(&text(status, already, ms));
    }
}

fn text(status: &Status, already: bool, ms: f64) -> String {
    let name = &status.name;
    let mut line = match (status.state, already) {
        (State::Up, true) => format!("{name} is up already"),
        (State::Up, false) => format!("{name} is up after {}", words::milliseconds(ms)),
        (state, _) => format!("{name} is {}", state.word()),
    };
    if let Some(tunnel) = &status.tunnel {
        line += &format!(": {}", tunnel.addresses.join(", "));
        if let Some(interface) = &tunnel.interface {
            line += &format!(" on {interface}");
        }
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Problem, Tunnel};

    fn status(state: State, generation: u64) -> Status {
        Status {
            name: "work".to_owned(),
            state,
            generation,
            ..Status::default()
        }
    }

    #[test]
    fn what_an_earlier_instance_came_to_is_no_answer() {
        for state in [State::Up, State::Idle, State::Failed] {
            assert_eq!(verdict(&status(state, 4), 5), Verdict::Wait);
        }
        assert_eq!(verdict(&status(State::Up, 5), 5), Verdict::Up);
        assert_eq!(verdict(&status(State::Failed, 5), 5), Verdict::Over);
        assert_eq!(verdict(&status(State::Idle, 6), 5), Verdict::Over);
        assert_eq!(verdict(&status(State::Stopping, 5), 5), Verdict::Wait);
    }

    #[test]
    fn a_tunnel_that_failed_says_why_and_with_the_code_of_the_reason() {
        let mut failed = status(State::Failed, 1);
        failed.problem = Some(Problem {
            message: "the gateway refused the login\u{1b}[2J".to_owned(),
            exit_code: 4,
            ..Problem::default()
        });
        let trouble = over(&failed);
        assert_eq!((trouble.exit, trouble.code.as_str()), (4, "failed"));
        assert!(
            trouble.message.starts_with("work cannot come up: the gateway refused"),
            "{}",
            trouble.message
        );
        assert!(!trouble.message.contains('\u{1b}'));
        assert_eq!(over(&status(State::Idle, 2)).code, "stopped");
    }

    #[test]
    fn a_wait_that_was_too_short_names_the_last_problem() {
        let mut starting = status(State::Starting, 1);
        starting.problem = Some(Problem {
            message: "connection refused".to_owned(),
            ..Problem::default()
        });
        let trouble = not_yet(Some(&starting), Duration::from_secs(30));
        assert!(
            trouble
                .message
                .starts_with("work is not up after 30 s: connection refused; it goes on"),
            "{}",
            trouble.message
        );
        assert_eq!(trouble.exit, 1);
    }

    #[test]
    fn the_line_for_people_has_addresses_and_device() {
        let mut up = status(State::Up, 1);
        up.tunnel = Some(Tunnel {
            interface: Some("mm-work".to_owned()),
            addresses: vec!["10.78.0.2/32".to_owned()],
            ..Tunnel::default()
        });
        assert_eq!(
            text(&up, false, 212.0),
            "work is up after 212 ms: 10.78.0.2/32 on mm-work\n"
        );
        assert_eq!(text(&up, true, 1.0), "work is up already: 10.78.0.2/32 on mm-work\n");
        assert_eq!(text(&status(State::Starting, 1), false, 1.0), "work is starting\n");
    }
}
