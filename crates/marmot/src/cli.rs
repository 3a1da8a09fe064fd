//! The command line.

mod control;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use config::{GatewayUrl, Host, Pin};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::demo::DemoArgs;

use self::control::{
    CLEANUP_HELP, DOWN_HELP, HOUSEKEEP_HELP, KICK_HELP, LOCKDOWN_HELP, RUN_HELP, SESSIONS_HELP, STATUS_HELP,
    TARGET_HELP, UP_HELP, WATCH_HELP,
};
pub(crate) use self::control::{
    CLIENT_FILE, CleanupArgs, Common, GATEWAY_FILE, GatewayTarget, HistoryArgs, HousekeepArgs, KickArgs, LockdownArgs,
    LockdownOrder, RunArgs, SessionsArgs, Target, UpArgs,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  it did not work
  2  the arguments make no sense
  3  a configuration file, or a file that it names, is wrong
  4  the gateway refused the login; trying again does not help
  5  this host does not allow it: a privilege or a device is missing
  6  the gateway ended the session: kicked, idle, or its time was over
  7  no daemon runs for this tunnel
  8  the tunnel is not up (marmot status)
  9  the tunnel runs (marmot cleanup)

Environment:
  MARMOT_LOG  what is logged, instead of [log] level: \"debug\", \"info,client=trace\"";

const SERVICE_HELP: &str = "\
Examples:
  marmot install-service client /etc/marmot/work.toml --enable
  marmot install-service gateway";

/// A packet tunnel that sleeps well.
#[derive(Debug, Parser)]
#[command(name = "marmot", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a tunnel to a gateway, in the foreground
    #[command(after_help = "Signals: TERM and INT stop, USR1 tunnel down, USR2 tunnel up or reconnect, HUP reload.")]
    Client {
        /// Configuration file
        #[arg(short, long, value_name = "FILE", default_value = "/etc/marmot/client.toml")]
        config: PathBuf,
    },
    /// Run a gateway, in the foreground
    #[command(after_help = "Signals: TERM and INT stop, HUP reloads configuration, certificates and users.")]
    Gateway {
        /// Configuration file
        #[arg(short, long, value_name = "FILE", default_value = "/etc/marmot/gateway.toml")]
        config: PathBuf,
    },
    /// Bring a tunnel up, and wait for it
    #[command(after_help = UP_HELP, before_long_help = TARGET_HELP)]
    Up(UpArgs),
    /// Take a tunnel down
    #[command(after_help = DOWN_HELP)]
    Down(Common),
    /// Say how a tunnel is, and what is owed
    #[command(after_help = STATUS_HELP)]
    Status(Common),
    /// Run a command inside the tunnel, or outside, whatever its flow rules say
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Show what happens to a tunnel, as it happens
    #[command(after_help = WATCH_HELP)]
    Watch(Common),
    /// List the last sessions of a tunnel
    History(HistoryArgs),
    /// List the sessions of a gateway on this host
    #[command(after_help = SESSIONS_HELP)]
    Sessions(SessionsArgs),
    /// End a session of a gateway on this host
    #[command(after_help = KICK_HELP)]
    Kick(KickArgs),
    /// Do what ended sessions left to be done
    #[command(after_help = HOUSEKEEP_HELP)]
    Housekeep(HousekeepArgs),
    /// Take off this host what a killed client left
    #[command(after_help = CLEANUP_HELP)]
    Cleanup(CleanupArgs),
    /// Write resolv.conf for the tunnels of this host; started by marmot-dns.socket
    #[command(hide = true)]
    DnsHelper(DnsHelperArgs),
    /// Let nothing leave this host beside a tunnel, without a client
    #[command(after_help = LOCKDOWN_HELP)]
    Lockdown(LockdownArgs),
    /// Write a working configuration with keys and certificates
    #[command(subcommand)]
    Init(InitCommand),
    /// Say what is wrong with a configuration file and the files it names
    Check {
        /// Configuration file of a client or gateway, or users file
        file: PathBuf,
        /// What the file is, if its sections do not tell
        #[arg(long)]
        kind: Option<KindArg>,
    },
    /// Change the users of a gateway
    #[command(subcommand)]
    User(UserCommand),
    /// Install the service of a tunnel or of the gateway, with its housekeeping
    #[command(after_help = SERVICE_HELP)]
    InstallService(InstallService),
    /// Remove what `marmot install-service` has installed; configuration and what is owed stay
    UninstallService(UninstallService),
    /// Show the whole story on this machine: tunnel, download, freeze, stop
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DnsHelperArgs {
    /// Listen here, where the service manager hands no socket over; whoever owns the socket may ask
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindArg {
    Client,
    Gateway,
    Users,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InitCommand {
    /// A certificate authority, a server certificate, a first user and gateway.toml
    Gateway(InitGateway),
    /// client.toml, with a password or a certificate
    Client(InitClient),
}

#[derive(Debug, Args)]
pub(crate) struct InitGateway {
    /// Folder to write to
    #[arg(long, default_value = "/etc/marmot")]
    pub(crate) dir: PathBuf,
    /// Name by which clients call the gateway; may be repeated
    #[arg(long = "name", value_name = "NAME", required = true)]
    pub(crate) names: Vec<Host>,
    /// Address by which clients may call it too; may be repeated
    #[arg(long = "address", value_name = "IP")]
    pub(crate) addresses: Vec<IpAddr>,
    /// Address and port to listen on [default: [::]:443]; may be repeated
    #[arg(long = "listen", value_name = "IP:PORT")]
    pub(crate) listen: Vec<std::net::SocketAddr>,
    /// First user
    #[arg(long, value_name = "NAME", default_value = "alice", value_parser = user_name)]
    pub(crate) user: String,
    /// Password of the first user: a file, or - for standard input [default: a random one, which is printed]
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// IPv4 addresses for clients [default: 10.78.0.0/24]
    #[arg(long, value_name = "NET")]
    pub(crate) ipv4_pool: Option<Ipv4Net>,
    /// IPv6 addresses for clients [default: none]
    #[arg(long, value_name = "NET")]
    pub(crate) ipv6_pool: Option<Ipv6Net>,
    /// Network that clients reach through the tunnel [default: everything]; may be repeated
    #[arg(long = "route", value_name = "NET")]
    pub(crate) routes: Vec<IpNet>,
    /// Name server for clients; may be repeated
    #[arg(long = "dns", value_name = "IP")]
    pub(crate) dns: Vec<IpAddr>,
    /// Overwrite what is there, certificate authority included
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitClient {
    /// Folder to write to
    #[arg(long, default_value = "/etc/marmot")]
    pub(crate) dir: PathBuf,
    /// Name of the tunnel; the file is called NAME.toml
    #[arg(long, value_name = "NAME", default_value = "client", value_parser = user_name)]
    pub(crate) name: String,
    /// The gateway, as in https://vpn.example.com
    #[arg(long, value_name = "URL")]
    pub(crate) gateway: GatewayUrl,
    /// The gateway's certificate authority, PEM; it is copied [default: the system decides whom to trust]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The gateway's public key, as in sha256:...; may be repeated
    #[arg(long = "pin", value_name = "PIN")]
    pub(crate) pins: Vec<Pin>,
    /// User name
    #[arg(long, value_name = "NAME", value_parser = user_name)]
    pub(crate) user: Option<String>,
    /// Group to choose at login
    #[arg(long, value_name = "NAME", value_parser = user_name)]
    pub(crate) group: Option<String>,
    /// Password to keep beside the configuration: a file, or - for standard input [default: ask at every start]
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Issue a certificate for the user with the authority of this folder, made by `marmot init gateway`
    #[arg(long, value_name = "DIR", requires = "user")]
    pub(crate) certificate_from: Option<PathBuf>,
    /// Overwrite what is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user; the password is asked for, or read from standard input
    Add(UserAdd),
    /// Change a user's password
    Passwd(UserPasswd),
    /// Remove a user
    Remove(UserName),
    /// List the users
    List {
        /// Users file
        #[arg(long, value_name = "FILE", default_value = "/etc/marmot/users.toml")]
        users: PathBuf,
    },
}

/// Whom a command is about.
#[derive(Debug, Args)]
pub(crate) struct UserName {
    /// Users file
    #[arg(long, value_name = "FILE", default_value = "/etc/marmot/users.toml")]
    pub(crate) users: PathBuf,
    /// User name
    #[arg(value_parser = user_name)]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct UserAdd {
    #[command(flatten)]
    pub(crate) user: UserName,
    /// Group the user may choose; may be repeated
    #[arg(long = "group", value_name = "NAME", value_parser = user_name)]
    pub(crate) groups: Vec<String>,
    /// Address that only this user gets
    #[arg(long, value_name = "IP")]
    pub(crate) ipv4: Option<std::net::Ipv4Addr>,
    /// Address that only this user gets
    #[arg(long, value_name = "IP")]
    pub(crate) ipv6: Option<std::net::Ipv6Addr>,
    /// Password: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// No password: the user comes with a certificate
    #[arg(long, conflicts_with = "password_file")]
    pub(crate) no_password: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UserPasswd {
    #[command(flatten)]
    pub(crate) user: UserName,
    /// New password: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

/// Whose service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceRole {
    /// A tunnel of this host to a gateway
    Client,
    /// The gateway
    Gateway,
}

/// Which service a command is about.
#[derive(Debug, Args)]
pub(crate) struct ServiceName {
    /// What the service runs
    pub(crate) role: ServiceRole,
    /// Configuration file, needed for a client: the tunnel's name is the file's name without .toml
    /// [default for a gateway: /etc/marmot/gateway.toml]
    #[arg(required_if_eq("role", "client"))]
    pub(crate) file: Option<PathBuf>,
    /// Work in this folder as if it were /; nothing is started
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Answer with one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InstallService {
    #[command(flatten)]
    pub(crate) service: ServiceName,
    /// Start it now and at every boot
    #[arg(long)]
    pub(crate) enable: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallService {
    #[command(flatten)]
    pub(crate) service: ServiceName,
}

fn user_name(text: &str) -> Result<String, String> {
    config::users::check_name(text).map(|()| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_password_is_no_argument() {
        for words in [
            "user add alice --password x",
            "user passwd alice secret",
            "init gateway --name a --password x",
        ] {
            let words = ["marmot"].into_iter().chain(words.split(' '));
            assert!(Cli::try_parse_from(words).is_err());
        }
    }
}
