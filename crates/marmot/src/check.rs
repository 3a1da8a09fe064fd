//! `marmot check`: what is wrong with a configuration file, and with the files it names.

mod material;
mod report;

use std::path::Path;

use config::Kind;
use config::client::{ClientConfig, PasswordSource};
use config::gateway::GatewayConfig;
use config::users::Users;

use self::material::Purpose;
use self::report::Report;
use crate::cli::KindArg;
use crate::exit::{Exit, Failure, answer};
use crate::load;

/// Checks a file, and says so if it is good.
pub(crate) fn run(path: &Path, kind: Option<KindArg>) -> Result<(), Failure> {
    let report = check(path, kind)?;
    answer(&report.text());
    match report.mistakes() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Config, format!("{}: one mistake", path.display()))),
        more => Err(Failure::new(
            Exit::Config,
            format!("{}: {more} mistakes", path.display()),
        )),
    }
}

fn check(path: &Path, kind: Option<KindArg>) -> Result<Report, Failure> {
    let name = path.display().to_string();
    let kind = match kind {
        Some(KindArg::Client) => Kind::Client,
        Some(KindArg::Gateway) => Kind::Gateway,
        Some(KindArg::Users) => Kind::Users,
        None => Kind::guess(&load::text(path)?).ok_or_else(|| {
            let help = "name it with --kind client, gateway or users";
            Failure::new(
                Exit::Config,
                format!("{name}: its sections do not tell what it is; {help}"),
            )
        })?,
    };
    match kind {
        Kind::Client => Ok(client(&name, &load::client(path)?)),
        Kind::Gateway => Ok(gateway(&name, &load::gateway(path)?)),
        Kind::Users => {
            let users = Users::parse(&load::text(path)?, &name)?;
            let mut report = Report::new(format!("{name}: users of a gateway"));
            report.good(count_users(&users));
            report.private("users", path);
            Ok(report)
        }
    }
}

fn client(name: &str, config: &ClientConfig) -> Report {
    let mut report = Report::new(format!("{name}: configuration of a client for {}", config.gateway.url));
    if let Some(path) = &config.trust.ca_file {
        material::certificates(&mut report, "trust.ca_file", path, Purpose::Authority);
    }
    match &config.login.password {
        Some(PasswordSource::File(path)) => material::password(&mut report, "login.password_file", path),
        // Both are there at the start only.
        Some(PasswordSource::Stdin | PasswordSource::Credential(_)) | None => {}
    }
    if let Some(files) = &config.login.certificate {
        let chain = material::certificates(
            &mut report,
            "login.certificate_file",
            &files.certificate_file,
            Purpose::Client,
        );
        material::key(&mut report, "login.key_file", &files.key_file, chain);
    }
    report
}

fn gateway(name: &str, config: &GatewayConfig) -> Report {
    let mut report = Report::new(format!("{name}: configuration of a gateway"));
    let chain = material::certificates(
        &mut report,
        "tls.certificate_file",
        &config.tls.certificate_file,
        Purpose::Server,
    );
    material::key(&mut report, "tls.key_file", &config.tls.key_file, chain);
    if let Some(path) = &config.auth.client_ca_file {
        material::certificates(&mut report, "auth.client_ca_file", path, Purpose::Authority);
    }
    if let Some(path) = &config.auth.users_file {
        users(&mut report, path, config);
    }
    report
}

fn users(report: &mut Report, path: &Path, config: &GatewayConfig) {
    let key = "auth.users_file";
    let read = load::text(path).and_then(|text| Users::parse_for(&text, &path.display().to_string(), config));
    match read {
        Err(errors) => errors
            .0
            .iter()
            .for_each(|error| report.wrong(format!("{key}: {error}"))),
        Ok(users) => {
            report.good(format!("{key} {}: {}", path.display(), count_users(&users)));
            let can_log_in = users.0.values().any(|user| !user.disabled && user.password.is_some());
            if config.auth.methods.password() && !config.auth.methods.certificate() && !can_log_in {
                report.doubtful(format!("{key}: no user has a password; `marmot user add` adds one"));
            }
            report.private(key, path);
        }
    }
}

fn count_users(users: &Users) -> String {
    match users.0.len() {
        1 => "one user".to_string(),
        count => format!("{count} users"),
    }
}
