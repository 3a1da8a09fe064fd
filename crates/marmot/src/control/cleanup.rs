//! `marmot cleanup`: takes off this host what a killed client left.

use client::{Cleaning, CleanupReport, ClientError};
use platform::PlatformError;
use serde_json::json;

use crate::cli::CleanupArgs;
use crate::control::trouble::Trouble;
use crate::control::words;
use crate::exit::{Exit, answer};
use crate::load;
use crate::service::abandoned::{self, Verdict};

pub(super) fn run(args: &CleanupArgs) -> Result<(), Trouble> {
    let reason = match verdict(args)? {
        Verdict::EndedWell if args.json => Some("the service ended as it should"),
        // Nearly every end is a good one, and nobody wants a line about it in the journal.
        Verdict::EndedWell => return Ok(()),
        Verdict::ComesBack(reason) => Some(reason),
        Verdict::Abandoned => None,
    };
    if let Some(reason) = reason {
        answer(&kept(reason, args.json));
        return Ok(());
    }
    let config = load::client(&args.config)?;
    let who = match (&args.if_abandoned, args.unlock) {
        (Some(_), _) => Cleaning::Automatic,
        (None, false) => Cleaning::Asked,
        (None, true) => Cleaning::Unlock,
    };
    let report = client::cleanup(&config, who).map_err(failed)?;
    let name = &config.tunnel.name;
    answer(&if args.json { line(&report) } else { text(name, &report) });
    match report.is_clean() {
        true => Ok(()),
        false => Err(Trouble::new(
            Exit::Error,
            "residue",
            format!("{name} is not clean: see above"),
        )),
    }
}

/// Whether anybody else will come and see to it; without a unit nobody will.
fn verdict(args: &CleanupArgs) -> Result<Verdict, Trouble> {
    match &args.if_abandoned {
        None => Ok(Verdict::Abandoned),
        Some(unit) => abandoned::judge(unit).map_err(|error| Trouble::error(format!("{error:#}"))),
    }
}

fn kept(reason: &str, json: bool) -> String {
    if json {
        api::line(&json!({ "kept": reason }))
    } else {
        format!("nothing is cleaned up: {reason}\n")
    }
}

pub(super) fn failed(error: ClientError) -> Trouble {
    match &error {
        ClientError::Platform(PlatformError::TunnelRunning { .. }) => {
            let message = format!("{error}; `marmot down` restores the host of a tunnel that runs");
            Trouble::new(Exit::Running, "running", message)
        }
        _ => Trouble::new(error.exit_code(), "error", error.to_string()),
    }
}

fn line(report: &CleanupReport) -> String {
    let jobs: Vec<String> = report.jobs.iter().map(ToString::to_string).collect();
    api::line(&json!({
        "removed": report.removed, "residue": report.residue, "kept": report.kept, "jobs": jobs, "problems": report.problems
    }))
}

fn text(name: &str, report: &CleanupReport) -> String {
    let mut text = match (report.removed.is_empty(), report.is_clean()) {
        (true, true) if report.kept.is_empty() => format!("nothing of {name} was left on this host\n"),
        (true, true) => format!("nothing of {name} was removed from this host\n"),
        (false, true) => format!("this host is clean of {name}\n"),
        (_, false) => format!("this host is not clean of {name}\n"),
    };
    let lists = [
        ("removed", &report.removed),
        ("left", &report.residue),
        ("kept", &report.kept),
        ("problem", &report.problems),
    ];
    for (title, items) in lists {
        for item in items {
            text += &format!("  {title}: {}\n", words::plain(item));
        }
    }
    for job in &report.jobs {
        text += &format!("  due now: {job}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_and_what_is_left_is_named() {
        assert_eq!(
            text("work", &CleanupReport::default()),
            "nothing of work was left on this host\n"
        );
        let report = CleanupReport {
            removed: vec!["device mm-work".to_owned()],
            residue: vec!["rule 18123: permission denied".to_owned()],
            kept: Vec::new(),
            jobs: vec!["1800000000-0123456789abcdef".parse().expect("a job")],
            problems: Vec::new(),
        };
        let expected = "\
this host is not clean of work
  removed: device mm-work
  left: rule 18123: permission denied
  due now: 1800000000-0123456789abcdef
";
        assert_eq!(text("work", &report), expected);
        let json: serde_json::Value = serde_json::from_str(&line(&report)).expect("json");
        assert_eq!(json["jobs"], json!(["1800000000-0123456789abcdef"]));
        assert_eq!(
            (&json["version"], &json["residue"][0]),
            (&1.into(), &"rule 18123: permission denied".into())
        );
    }
}
