//! `marmot housekeep`: works off what is owed, here and now; or asks the daemon about it.

use api::{Client, Housekeeping};
use config::Kind;
use housekeeping::{Ended, Outcome};
use now::Wall;
use serde_json::json;

use crate::cli::HousekeepArgs;
use crate::control::trouble::Trouble;
use crate::control::{block_on, status, target, words};
use crate::exit::{Exit, Failure, answer};
use crate::{load, logging};

pub(super) fn run(args: &HousekeepArgs) -> Result<(), Trouble> {
    if args.list || args.retry.is_some() {
        return ask(args);
    }
    let outcome = match Kind::guess(&load::text(&args.config).map_err(Failure::from)?) {
        Some(Kind::Gateway) => {
            let config = load::gateway(&args.config)?;
            logging::start(config.log)?;
            gateway::housekeep(&config, args.wait)
                .map_err(|error| Trouble::new(error.exit_code(), "error", error.to_string()))?
        }
        // What is no gateway's is read as a client's: a mistake in it is named then.
        Some(Kind::Client | Kind::Users) | None => {
            let config = load::client(&args.config)?;
            logging::start(config.log)?;
            client::housekeep(&config, args.wait)
                .map_err(|error| Trouble::new(error.exit_code(), "error", error.to_string()))?
        }
    };
    answer(&if args.json {
        line(&outcome)
    } else {
        text(&outcome, words::now_unix_ms())
    });
    match &outcome.ended {
        Ended::NothingDue | Ended::Stopped | Ended::Busy => Ok(()),
        Ended::Disk(error) => Err(Trouble::new(
            Exit::Error,
            "disk",
            format!("the ledger cannot be used: {error}"),
        )),
    }
}

fn ask(args: &HousekeepArgs) -> Result<(), Trouble> {
    let client = Client::new(target::configured(&args.config)?);
    let owed = match &args.retry {
        Some(job) => block_on(async { Ok(client.retry(job).await?) })?,
        None => block_on(list(&client, args))?,
    };
    answer(&if args.json {
        api::line(&owed)
    } else {
        status::housekeeping(&owed, words::now_unix_ms())
    });
    Ok(())
}

/// What is owed, also while no daemon runs.
async fn list(client: &Client, args: &HousekeepArgs) -> Result<Housekeeping, Trouble> {
    match client.housekeeping().await {
        Err(api::ClientError::NotRunning(_)) => {
            let config = load::client(&args.config)?;
            ::client::owed(&config).map_err(Trouble::ledger)
        }
        answer => Ok(answer?),
    }
}

fn line(outcome: &Outcome) -> String {
    let ended = match outcome.ended {
        Ended::NothingDue => "nothing_due",
        Ended::Stopped => "stopped",
        Ended::Busy => "busy",
        Ended::Disk(_) => "disk",
    };
    let done: Vec<String> = outcome.done.iter().map(ToString::to_string).collect();
    let failed: Vec<_> = outcome
        .failed
        .iter()
        .map(|failure| {
            let again = failure.again.map(unix_ms);
            json!({ "job": failure.job.to_string(), "error": failure.error, "next_unix_ms": again })
        })
        .collect();
    let next = outcome.next.map(unix_ms);
    api::line(&json!({
        "ended": ended, "done": done, "failed": failed, "damaged": outcome.damaged.len(), "next_unix_ms": next
    }))
}

fn text(outcome: &Outcome, now_unix_ms: u64) -> String {
    let (done, failed) = (outcome.done.len() as u64, outcome.failed.len() as u64);
    let mut text = match (&outcome.ended, done, failed) {
        (Ended::Busy, ..) => "another worker is at it\n".to_owned(),
        (Ended::NothingDue, 0, 0) => "nothing is due\n".to_owned(),
        (Ended::Stopped, 0, 0) => "stopped; what was begun is due again\n".to_owned(),
        (_, done, 0) => format!("{} done\n", words::count(done, "job")),
        (_, done, failed) => format!("{} done, {failed} failed\n", words::count(done, "job")),
    };
    for failure in &outcome.failed {
        let again = failure.again.map_or("given up".to_owned(), |again| {
            format!(
                "next in {}",
                words::between(unix_ms(again).max(now_unix_ms), now_unix_ms)
            )
        });
        text += &format!("  {}: {}, {again}\n", failure.job, words::plain(&failure.error));
    }
    for damaged in &outcome.damaged {
        text += &format!(
            "  {}/{}: {}\n",
            damaged.folder.word(),
            damaged.name,
            words::plain(&damaged.why)
        );
    }
    if let (Some(next), true) = (outcome.next, outcome.failed.is_empty()) {
        text += &format!(
            "the next one is due in {}\n",
            words::between(unix_ms(next).max(now_unix_ms), now_unix_ms)
        );
    }
    text
}

fn unix_ms(wall: Wall) -> u64 {
    u64::try_from(wall.since_origin().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000_000;
    const JOB: &str = "1800000000-0123456789abcdef";

    fn failed() -> Outcome {
        let again = Some(Wall::from_origin(Duration::from_millis(NOW + 5000)));
        let job = JOB.parse().expect("a job");
        Outcome {
            done: vec![job],
            failed: vec![housekeeping::Failure {
                job,
                error: "hooks: 10-report: exit status 1".to_owned(),
                again,
            }],
            next: again,
            ..Outcome::new(Ended::NothingDue)
        }
    }

    #[test]
    fn what_was_done_and_what_was_not_is_named() {
        let expected = format!("1 job done, 1 failed\n  {JOB}: hooks: 10-report: exit status 1, next in 5 s\n");
        assert_eq!(text(&failed(), NOW), expected);
        assert_eq!(text(&Outcome::new(Ended::NothingDue), NOW), "nothing is due\n");
        assert_eq!(text(&Outcome::new(Ended::Busy), NOW), "another worker is at it\n");
    }

    #[test]
    fn a_program_reads_the_same() {
        let json: serde_json::Value = serde_json::from_str(&line(&failed())).expect("json");
        assert_eq!((&json["version"], &json["ended"]), (&1.into(), &"nothing_due".into()));
        assert_eq!(json["done"], json!([JOB]));
        assert_eq!(json["failed"][0]["next_unix_ms"], NOW + 5000);
    }
}
