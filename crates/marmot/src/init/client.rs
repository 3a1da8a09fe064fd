//! `marmot init client`: `client.toml`, and beside it what it needs to know the gateway and to be known by it.

use anyhow::Context as _;
use config::client::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{CA, CA_KEY, Files, read_pem, service_access};
use crate::cli::InitClient;
use crate::exit::{Failure, answer};
use crate::password;
use crate::pki::Authority;
use crate::sample::{self, Value};

/// Writes the files and says what to do with them.
pub(crate) fn run(args: &InitClient) -> Result<(), Failure> {
    let name = &args.name;
    let config = format!("{name}.toml");
    let text = configuration(args);
    ClientConfig::parse(&text, &config, &args.dir)?;

    let mut files = Files::new(&args.dir);
    files.add(&config, &text);
    if let Some(path) = ca_source(args) {
        let pem = read_pem(&path)?;
        CertificateDer::from_pem_slice(pem.as_bytes())
            .with_context(|| format!("cannot use {}: no certificate in PEM", path.display()))?;
        files.add(CA, pem);
    }
    if let Some(dir) = &args.certificate_from {
        let (certificate, key) = (
            read_pem(&dir.join(CA))?,
            zeroize::Zeroizing::new(read_pem(&dir.join(CA_KEY))?),
        );
        let authority = Authority::read(&certificate, &key, platform::clock::now().wall)?;
        let pair = authority.user(args.user.as_deref().unwrap_or_default())?;
        files.add(&format!("{name}.pem"), &pair.certificate);
        files.add(&format!("{name}.key"), pair.key.as_bytes());
    }
    if let Some(path) = &args.password_file {
        let password = password::obtain(Some(path), args.user.as_deref().unwrap_or("the user"))?;
        files.add(&format!("{name}.password"), format!("{}\n", *password));
    }
    files.check(args.force)?;
    files.write()?;
    answer(&next_steps(args, &files, &config));
    Ok(())
}

/// The authority of the gateway: named, or the one that issues the user's certificate.
fn ca_source(args: &InitClient) -> Option<std::path::PathBuf> {
    args.ca
        .clone()
        .or_else(|| args.certificate_from.as_ref().map(|dir| dir.join(CA)))
}

fn configuration(args: &InitClient) -> String {
    let name = &args.name;
    let mut values: Vec<Value<'_>> = vec![("gateway", "url", sample::text(&args.gateway))];
    if name != "client" {
        values.push(("tunnel", "name", sample::text(name)));
    }
    if ca_source(args).is_some() {
        values.push(("trust", "ca_file", sample::text(CA)));
    }
    if !args.pins.is_empty() {
        values.push(("trust", "pins", sample::list(&args.pins)));
    }
    if let Some(user) = &args.user {
        values.push(("login", "user", sample::text(user)));
    }
    if let Some(group) = &args.group {
        values.push(("login", "group", sample::text(group)));
    }
    if args.password_file.is_some() {
        values.push(("login", "password_file", sample::text(format!("{name}.password"))));
    }
    if args.certificate_from.is_some() {
        values.push(("login", "certificate_file", sample::text(format!("{name}.pem"))));
        values.push(("login", "key_file", sample::text(format!("{name}.key"))));
    }
    sample::client(&values)
}

fn next_steps(args: &InitClient, files: &Files, config: &str) -> String {
    let (dir, name) = (args.dir.display(), &args.name);
    format!(
        "Written, readable by you only:\n{}\n\
         Next:\n  \
         1. marmot check {dir}/{config}\n  \
         2. marmot client -c {dir}/{config}\n     \
            (as a systemd service: {access};\n     \
            systemctl enable --now marmot-client@{name})\n",
        files.list(),
        access = service_access(&args.dir),
    )
}
