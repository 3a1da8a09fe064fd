//! The arguments of the commands that speak with a running tunnel, or see to what it left.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(crate) const TARGET_HELP: &str = "\
Which tunnel: NAME is that of /run/marmot/NAME.sock. Without NAME, --config and --socket it is the tunnel of
/etc/marmot/client.toml, or if that cannot be read the only one in /run/marmot.
Root, the daemon's own user and the group of [api] may ask.";

pub(crate) const UP_HELP: &str = "\
Ends as soon as the tunnel is up; fails with the reason if it cannot come up, and with code 1 after --wait seconds. The
daemon goes on trying then. A tunnel that is up stays as it is.

Exit codes beside the common ones: 3 configuration, 4 login refused, 5 not permitted, 6 ended by the gateway, 7 no daemon.";

pub(crate) const DOWN_HELP: &str = "\
Ends when the host is as it was before and what is left to be done is on the disk; that is done afterwards. The daemon
stays. Something that could not be taken off the host is named, and the exit code is 1.";

pub(crate) const STATUS_HELP: &str = "\
Exit codes: 0 the tunnel is up, 8 it is not, 7 no daemon runs.";

pub(crate) const RUN_HELP: &str = "\
The tunnel must be up and have flow rules, or [flows] run = true. The command takes the place of marmot: its exit code and its signals are
its own. Whatever it opens is inside, also when rules say otherwise, and so is what it starts. Needs root; to go on as somebody else:
marmot run -- setpriv --reuid bob --regid bob --init-groups COMMAND

Exit codes: those of the command; before it starts 5 not permitted, 7 no daemon, 8 the tunnel is not up, 126 and 127 no such command.";

pub(crate) const WATCH_HELP: &str = "\
Shows the state, then everything that happens, one line each, until it is interrupted or the daemon ends (code 7).
With --json the lines are those of the local API: curl --no-buffer --unix-socket /run/marmot/NAME.sock http://marmot/v1/events";

pub(crate) const HOUSEKEEP_HELP: &str = "\
Works off what ended sessions left to be done: history, hooks, uploads, logouts. Ends when nothing is due; a job that fails
is put aside and tried again later, and is no failure of this command. Another worker at the same tunnel is no failure
either. The service does this by itself; by hand it is for hosts without one, and for --list and --retry.

Exit codes: 0 nothing is due any more, or another one works; 1 the ledger cannot be read or written.";

pub(crate) const CLEANUP_HELP: &str = "\
Takes off this host what a killed client left: its device, rules, routes and names. What is left to be done of its sessions
becomes due and is not done here. Refuses while a client runs for this tunnel. Doing it twice does no harm. Needs root.
A lockdown that lasts while the tunnel is up ends with it; one with mode \"always\" stays, unless --unlock is given.

Exit codes: 0 the host is clean; 1 something is left, and named; 5 not permitted; 9 the tunnel runs.";

pub(crate) const LOCKDOWN_HELP: &str = "\
Nothing leaves the host but through the tunnel, to its gateway, and for DHCP and neighbour discovery. `on` is what the unit
marmot-lockdown@NAME does at boot, before there is a network. A client that runs sees to its lockdown itself. Needs root.

Exit codes: 0 done, or nothing to do; 5 it cannot be put in place.";

pub(crate) const SESSIONS_HELP: &str = "\
STATE is connected; quiet, if its applications are; parked, with the kind and for how long; or waiting for its client. PATH names
the channels that live. IN, OUT and DROPPED count packets as the gateway sees them.

Exit codes: 0 it answered; 5 not permitted; 7 no gateway runs.";

pub(crate) const KICK_HELP: &str = "\
Ends the session at once, parked or not; its client hears why and does not come back by itself, and its ticket is refused. The
user may log in again: `marmot user remove` is for those who may not. For root and the gateway's own user.";

/// The file of a gateway when none is named.
pub(crate) const GATEWAY_FILE: &str = "/etc/marmot/gateway.toml";

/// The file of a client when none is named.
pub(crate) const CLIENT_FILE: &str = "/etc/marmot/client.toml";

/// Which running tunnel a command is about.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct Target {
    /// Name of the tunnel
    pub(crate) name: Option<String>,
    /// Configuration file of the tunnel
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Socket of the tunnel's daemon
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// What all of them take.
#[derive(Debug, Default, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Answer with JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Make a new connection if it is up
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// How long to wait for it to be up
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) wait: u64,
    /// Do not wait for it to be up
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Past every tunnel of marmot instead of inside
    #[arg(long)]
    pub(crate) outside: bool,
    /// Name of the tunnel
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tunnel: Option<String>,
    /// Configuration file of the tunnel
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["tunnel", "socket"])]
    pub(crate) config: Option<PathBuf>,
    /// Socket of the tunnel's daemon
    #[arg(long, value_name = "PATH", conflicts_with = "tunnel")]
    pub(crate) socket: Option<PathBuf>,
    /// How long to wait for the tunnel to be up
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) wait: u64,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How many sessions at most, the last ones
    #[arg(short = 'n', long = "last", value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=api::MAX_HISTORY as i64))]
    pub(crate) last: u32,
}

#[derive(Debug, Args)]
pub(crate) struct HousekeepArgs {
    /// Configuration file of the client or gateway
    #[arg(short, long, value_name = "FILE", default_value = CLIENT_FILE)]
    pub(crate) config: PathBuf,
    /// Wait for another worker to end, then work
    #[arg(long, conflicts_with_all = ["list", "retry"])]
    pub(crate) wait: bool,
    /// Only name what is not done
    #[arg(long)]
    pub(crate) list: bool,
    /// Make a failed or waiting job due again; asks the running daemon
    #[arg(long, value_name = "JOB", conflicts_with = "list")]
    pub(crate) retry: Option<String>,
    /// Answer with one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which running gateway a command is about.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct GatewayTarget {
    /// Configuration file of the gateway [default: /etc/marmot/gateway.toml]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Socket of the gateway
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) gateway: GatewayTarget,
    /// Answer with one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KickArgs {
    /// The session, as `marmot sessions` and the log name it
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) gateway: GatewayTarget,
    /// Answer with one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LockdownArgs {
    /// What is to be done
    pub(crate) order: LockdownOrder,
    /// Configuration file of the tunnel
    #[arg(short, long, value_name = "FILE", default_value = CLIENT_FILE)]
    pub(crate) config: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LockdownOrder {
    /// Put in place what [lockdown] mode = "always" asks for; does nothing with another mode
    On,
    /// Remove it, whatever its mode
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Configuration file of the tunnel
    #[arg(short, long, value_name = "FILE", default_value = CLIENT_FILE)]
    pub(crate) config: PathBuf,
    /// Remove the lockdown too, whatever its mode, and even if the tunnel runs
    #[arg(long, conflicts_with = "if_abandoned")]
    pub(crate) unlock: bool,
    /// Only if systemd will not start this unit again by itself; for the unit's ExecStopPost
    #[arg(long, value_name = "UNIT")]
    pub(crate) if_abandoned: Option<String>,
    /// Answer with one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
