//! `marmot run`: one command inside the tunnel, or outside, by the control group that it starts in.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use api::{Client, ClientError, Flows, Status};
use platform::cgroup::Hierarchy;
use tokio::time::{Instant, sleep};

use crate::cli::{RunArgs, Target};
use crate::control::trouble::Trouble;
use crate::control::{block_on, target, words};
use crate::exit::Exit;

/// How often a tunnel that is waited for is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What the daemon gets to see a control group that was made for it; until then its packets are dropped.
const SEEN_WITHIN: Duration = Duration::from_millis(100);

/// The daemon may remove an empty group between its making and our entering, and that once.
const ATTEMPTS: usize = 3;

/// The shells' codes for a command that cannot be run, and one that is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Ends only if the command does not start.
pub(super) fn run(args: &RunArgs) -> Result<Infallible, Trouble> {
    let target = Target {
        name: args.tunnel.clone(),
        config: args.config.clone(),
        socket: args.socket.clone(),
    };
    let client = Client::new(target::socket(&target)?);
    let status = block_on(up(&client, Duration::from_secs(args.wait)))?;
    enter(&group(&status, args.outside)?)?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Trouble::new(Exit::Usage, "usage", "there is no command"));
    };
    let error = Command::new(program).args(arguments).exec();
    let mut trouble = Trouble::error(format!("cannot run {}: {error}", program.display()));
    trouble.exit = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    };
    Err(trouble)
}

/// The status of a tunnel that has its rules on this host.
async fn up(client: &Client, patience: Duration) -> Result<Status, Trouble> {
    let deadline = Instant::now() + patience;
    loop {
        let status = client.status().await;
        let waits = Instant::now() < deadline;
        match status {
            Ok(status) if status.tunnel.is_some() && (status.flows.is_some() || !waits) => return Ok(status),
            Ok(_) | Err(ClientError::NotRunning(_)) if waits => sleep(ASK_EVERY).await,
            Ok(status) => {
                let (name, state) = (words::plain(&status.name), status.state.word());
                let message = format!("{name} is {state}: bring it up, or use --wait");
                return Err(Trouble::new(Exit::NotUp, "not_up", message));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The control group of this side.
fn group(status: &Status, outside: bool) -> Result<String, Trouble> {
    let name = words::plain(&status.name);
    let Some(Flows {
        inside, outside: past, ..
    }) = &status.flows
    else {
        let message = format!("{name} has no flow rules; set [flows] run = true and reload it");
        return Err(Trouble::error(message));
    };
    let group = if outside { past } else { inside };
    group.clone().ok_or_else(|| {
        Trouble::error(format!(
            "{name} cannot tell programs apart: this host has no control groups of version 2 that nft could match (see its log)"
        ))
    })
}

fn enter(group: &str) -> Result<(), Trouble> {
    let failed = |error: io::Error| {
        let message = format!(
            "cannot go into the control group /{group}: {error}; root may, or whoever owns that group, the one this process is in, and the one \
             above both"
        );
        match error.kind() {
            io::ErrorKind::PermissionDenied => Trouble::new(Exit::NotPermitted, "not_permitted", message),
            _ => Trouble::error(message),
        }
    };
    let hierarchy = Hierarchy::find().map_err(failed)?;
    let mut attempt = 1;
    loop {
        let new = !hierarchy.folder(group).is_dir();
        hierarchy.make(group).map_err(failed)?;
        if new {
            std::thread::sleep(SEEN_WITHIN);
        }
        match hierarchy.enter(group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => attempt += 1,
            entered => return entered.map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let mut status = Status {
            name: "work".to_owned(),
            ..Status::default()
        };
        assert!(
            group(&status, false)
                .expect_err("no rules")
                .message
                .contains("[flows] run = true")
        );
        status.flows = Some(Flows::default());
        assert!(
            group(&status, false)
                .expect_err("no groups")
                .message
                .contains("version 2")
        );
        status.flows = Some(Flows {
            inside: Some("in".to_owned()),
            outside: Some("out".to_owned()),
            ..Flows::default()
        });
        assert_eq!(group(&status, false).expect("a group"), "in");
        assert_eq!(group(&status, true).expect("a group"), "out");
    }
}
