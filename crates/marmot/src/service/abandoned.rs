//! Whether a service that has ended will be started again. `marmot cleanup --if-abandoned UNIT` asks this: it is the unit's
//! ExecStopPost=, which systemd runs after every end, also amid a restart and before a restart after a crash. What it
//! would remove then is what systemd keeps for the next process: the device, and with it the interface and its routes.
//!
//! ```text
//!   SERVICE_RESULT=success                        the daemon has cleaned up itself, or handed over    nothing to do
//!   a job "stop" for the unit                     somebody stopped it, and it did not end well        abandoned
//!   any other job (restart, start)                the next process takes over, or cleans up           nothing to do
//!   no job, Restart= and the exit status say so   systemd starts it again by itself                   nothing to do
//!   no job otherwise                                                                                  abandoned
//! ```

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// What systemd tells an ExecStopPost= of how the service ended (systemd.exec(5)).
#[derive(Debug, Default)]
struct End {
    /// `SERVICE_RESULT`: success, exit-code, signal, core-dump, timeout, watchdog and so on.
    result: String,
    /// `EXIT_STATUS`, if `EXIT_CODE` is "exited".
    exited_with: Option<String>,
}

/// What systemd intends.
#[derive(Debug, Default)]
struct Plan {
    /// Type of the unit's job, if it has one.
    job: Option<String>,
    /// `Restart=`
    restart: String,
    /// `RestartPreventExitStatus=`
    never_after: Vec<String>,
}

/// What is to be done after the end of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: the daemon has cleaned up itself, or handed over.
    EndedWell,
    /// Nothing, for this reason: the next process takes over, or cleans up.
    ComesBack(&'static str),
    /// Nobody will come and clean up.
    Abandoned,
}

/// What is to be done after the end of `unit`.
///
/// # Errors
/// If systemd does not say.
pub(crate) fn judge(unit: &str) -> Result<Verdict> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let exited = variable("EXIT_CODE") == "exited";
    let end = End {
        result: variable("SERVICE_RESULT"),
        exited_with: exited.then(|| variable("EXIT_STATUS")),
    };
    if end.result == "success" {
        // Most ends are good ones; they shall cost no more than this.
        return Ok(Verdict::EndedWell);
    }
    Ok(after_failure(&end, &plan(unit)?))
}

fn after_failure(end: &End, plan: &Plan) -> Verdict {
    match plan.job.as_deref() {
        Some("stop") => return Verdict::Abandoned,
        Some(_) => return Verdict::ComesBack("the service is being restarted"),
        None => {}
    }
    let prevented = end
        .exited_with
        .as_ref()
        .is_some_and(|status| plan.never_after.contains(status));
    // As service_shall_restart() in systemd; a result of "success" is dealt with before.
    let restarts = match plan.restart.as_str() {
        "always" | "on-failure" => true,
        "on-abnormal" => end.result != "exit-code",
        "on-abort" => end.result == "signal" || end.result == "core-dump",
        "on-watchdog" => end.result == "watchdog",
        _ => false,
    };
    if restarts && !prevented {
        Verdict::ComesBack("systemd is about to start the service again")
    } else {
        Verdict::Abandoned
    }
}

fn plan(unit: &str) -> Result<Plan> {
    let shown = systemctl(&["show", "--property=Restart,RestartPreventExitStatus", "--", unit])?;
    let mut plan = Plan::default();
    for (key, value) in shown.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "Restart" => plan.restart = value.to_owned(),
            "RestartPreventExitStatus" => plan.never_after = value.split_whitespace().map(str::to_owned).collect(),
            _ => {}
        }
    }
    ensure!(!plan.restart.is_empty(), "systemd does not know {unit}");
    // "JOB UNIT TYPE STATE"
    let jobs = systemctl(&["list-jobs", "--plain", "--no-legend", "--", unit])?;
    plan.job = jobs.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&unit)).then(|| words.get(2).map(|kind| (*kind).to_owned()))?
    });
    Ok(plan)
}

fn systemctl(words: &[&str]) -> Result<String> {
    let mut command = Command::new("systemctl");
    // A user's manager says so to those whom it starts.
    if std::env::var_os("MANAGERPID").is_some() {
        command.arg("--user");
    }
    let output = command
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context("cannot start systemctl")?;
    ensure!(
        output.status.success(),
        "`systemctl {}` failed: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(result: &str, status: Option<&str>, job: Option<&str>, restart: &str) -> bool {
        let end = End {
            result: result.to_owned(),
            exited_with: status.map(str::to_owned),
        };
        let plan = Plan {
            job: job.map(str::to_owned),
            restart: restart.to_owned(),
            never_after: ["3", "4", "5", "6"].map(str::to_owned).to_vec(),
        };
        after_failure(&end, &plan) != Verdict::Abandoned
    }

    #[test]
    fn nothing_is_touched_while_somebody_will_come_and_take_over() {
        // A restart that was killed after its time; a crash; an exit that is tried again.
        assert!(kept("timeout", None, Some("restart"), "always"));
        assert!(kept("signal", None, None, "always"));
        assert!(kept("exit-code", Some("1"), None, "always"));
        assert!(kept("signal", None, None, "on-abort"));
        assert!(kept("signal", None, Some("start"), "no"));
    }

    #[test]
    fn what_nobody_will_come_back_for_is_abandoned() {
        assert!(!kept("timeout", None, Some("stop"), "always"));
        assert!(!kept("signal", None, Some("stop"), "always"));
        assert!(!kept("exit-code", Some("4"), None, "always"));
        assert!(!kept("signal", None, None, "no"));
        assert!(!kept("exit-code", Some("1"), None, "on-abnormal"));
        assert!(!kept("exit-code", Some("1"), None, "on-watchdog"));
    }
}
