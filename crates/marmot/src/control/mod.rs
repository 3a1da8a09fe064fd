//! `marmot up`, `down`, `status`, `watch`, `history`, `housekeep`, `cleanup`: orders and questions to a running tunnel, and
//! what is left to do after it. `marmot run`: a command of its own, inside or outside. `marmot sessions`, `kick`: the same for a gateway.
//!
//! ```text
//!   target  which socket        up, down, status, watch, history --api::Client--> daemon
//!   words   times, sizes        housekeep, cleanup --> client, gateway            (no daemon needed)
//!   trouble exit codes, JSON
//! ```

mod cleanup;
mod down;
mod history;
mod housekeep;
mod lockdown;
mod run;
mod sessions;
mod status;
mod target;
mod trouble;
mod up;
mod watch;
mod words;

use std::convert::Infallible;
use std::future::Future;

use api::Client;

use self::trouble::Trouble;
use crate::cli::{
    CleanupArgs, Common, HistoryArgs, HousekeepArgs, KickArgs, LockdownArgs, RunArgs, SessionsArgs, UpArgs,
};
use crate::exit::Failure;

/// `marmot up`
pub(crate) fn up(args: &UpArgs) -> Result<(), Failure> {
    told(
        args.common.json,
        ask(&args.common, async |client| up::run(&client, args).await),
    )
}

/// `marmot down`
pub(crate) fn down(args: &Common) -> Result<(), Failure> {
    told(args.json, ask(args, async |client| down::run(&client, args.json).await))
}

/// `marmot status`
pub(crate) fn status(args: &Common) -> Result<(), Failure> {
    told(args.json, ask(args, async |client| status::run(&client, args).await))
}

/// `marmot run`
pub(crate) fn run(args: &RunArgs) -> Result<Infallible, Failure> {
    run::run(args).map_err(Failure::from)
}

/// `marmot watch`
pub(crate) fn watch(args: &Common) -> Result<(), Failure> {
    told(
        args.json,
        ask(args, async |client| watch::run(&client, args.json).await),
    )
}

/// `marmot history`
pub(crate) fn history(args: &HistoryArgs) -> Result<(), Failure> {
    told(
        args.common.json,
        ask(&args.common, async |client| history::run(&client, args).await),
    )
}

/// `marmot housekeep`
pub(crate) fn housekeep(args: &HousekeepArgs) -> Result<(), Failure> {
    told(args.json, housekeep::run(args))
}

/// `marmot cleanup`
pub(crate) fn cleanup(args: &CleanupArgs) -> Result<(), Failure> {
    told(args.json, cleanup::run(args))
}

/// `marmot lockdown`
pub(crate) fn lockdown(args: &LockdownArgs) -> Result<(), Failure> {
    told(false, lockdown::run(args))
}

/// `marmot sessions`
pub(crate) fn sessions(args: &SessionsArgs) -> Result<(), Failure> {
    let work = || {
        let client = Client::new(sessions::socket(&args.gateway)?);
        block_on(sessions::list(&client, args))
    };
    told(args.json, work())
}

/// `marmot kick`
pub(crate) fn kick(args: &KickArgs) -> Result<(), Failure> {
    let work = || {
        let client = Client::new(sessions::socket(&args.gateway)?);
        block_on(sessions::kick(&client, args))
    };
    told(args.json, work())
}

/// Who reads JSON hears of a failure in JSON, too; everybody else on standard error only.
fn told(json: bool, result: Result<(), Trouble>) -> Result<(), Failure> {
    result.map_err(|trouble| {
        if json && trouble.speaks() {
            crate::exit::answer(&trouble.line());
        }
        trouble.into()
    })
}

fn ask(args: &Common, work: impl AsyncFnOnce(Client) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let client = Client::new(target::socket(&args.target)?);
    block_on(work(client))
}

fn block_on<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Trouble::error(format!("cannot start the runtime: {error}")))?
        .block_on(work)
}
