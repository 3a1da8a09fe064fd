//! `marmot`: a packet tunnel that sleeps well. Arguments in, exit code out; see `cli.rs` for both.
//!
//! No thread is started here: the demo moves this process into namespaces of its own, which only works while it has one
//! thread. Each command builds the runtime it needs.

mod check;
mod cli;
mod control;
mod demo;
mod dns_helper;
mod exit;
mod init;
mod load;
mod logging;
mod password;
mod pki;
mod run;
mod sample;
mod service;
mod user;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, InitCommand, UserCommand};
use crate::exit::{Exit, Failure};

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit)
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Client { config } => run::client(&config)?,
        Command::Gateway { config } => run::gateway(&config)?,
        Command::Up(args) => control::up(&args)?,
        Command::Down(args) => control::down(&args)?,
        Command::Status(args) => control::status(&args)?,
        Command::Run(args) => match control::run(&args)? {},
        Command::Watch(args) => control::watch(&args)?,
        Command::History(args) => control::history(&args)?,
        Command::Sessions(args) => control::sessions(&args)?,
        Command::Kick(args) => control::kick(&args)?,
        Command::Housekeep(args) => control::housekeep(&args)?,
        Command::Cleanup(args) => control::cleanup(&args)?,
        Command::DnsHelper(args) => dns_helper::run(&args)?,
        Command::Lockdown(args) => control::lockdown(&args)?,
        Command::Init(InitCommand::Gateway(args)) => init::gateway::run(&args)?,
        Command::Init(InitCommand::Client(args)) => init::client::run(&args)?,
        Command::Check { file, kind } => check::run(&file, kind)?,
        Command::User(UserCommand::Add(args)) => user::add(&args)?,
        Command::User(UserCommand::Passwd(args)) => user::passwd(&args)?,
        Command::User(UserCommand::Remove(args)) => user::remove(&args)?,
        Command::User(UserCommand::List { users }) => user::list(&users)?,
        Command::InstallService(args) => service::install(&args)?,
        Command::UninstallService(args) => service::uninstall(&args)?,
        Command::Demo(args) => return Ok(demo::run(args)?),
    }
    Ok(Exit::Ok.into())
}
