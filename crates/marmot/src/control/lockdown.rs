//! `marmot lockdown`: closes this host before there is a client, and opens it again.

use client::LockdownReport;

use crate::cli::{LockdownArgs, LockdownOrder};
use crate::control::cleanup::failed;
use crate::control::trouble::Trouble;
use crate::exit::answer;
use crate::load;

pub(super) fn run(args: &LockdownArgs) -> Result<(), Trouble> {
    let config = load::client(&args.config)?;
    let name = &config.tunnel.name;
    let said = match args.order {
        LockdownOrder::On => match client::lock(&config).map_err(failed)? {
            LockdownReport::On => format!("nothing leaves this host beside {name}\n"),
            LockdownReport::NotAlways => "nothing is done: lockdown.mode is not \"always\"\n".to_owned(),
            LockdownReport::Running => format!("nothing is done: {name} runs, and sees to it itself\n"),
        },
        LockdownOrder::Off => match client::unlock(&config).map_err(failed)?.as_slice() {
            [] => format!("there is no lockdown of {name}\n"),
            removed => format!("removed {}\n", removed.join(", ")),
        },
    };
    answer(&said);
    Ok(())
}
