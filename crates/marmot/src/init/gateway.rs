//! `marmot init gateway`: authority, server certificate, users file and `gateway.toml`.

use std::collections::BTreeMap;

use config::Host;
use config::gateway::GatewayConfig;
use config::users::{User, Users};

use super::{CA, CA_KEY, Files, service_access};
use crate::cli::InitGateway;
use crate::exit::{Failure, answer};
use crate::password;
use crate::pki::Authority;
use crate::sample::{self, Value};

const CONFIG: &str = "gateway.toml";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";
const USERS: &str = "users.toml";

/// Writes the files and says what to do with them.
pub(crate) fn run(args: &InitGateway) -> Result<(), Failure> {
    let text = configuration(args);
    GatewayConfig::parse(&text, CONFIG, &args.dir)?;
    let password = match &args.password_file {
        Some(path) => password::obtain(Some(path), &args.user)?,
        None => password::random()?,
    };

    let mut files = Files::new(&args.dir);
    let names: Vec<Host> = args
        .names
        .iter()
        .cloned()
        .chain(args.addresses.iter().copied().map(Host::Address))
        .collect();
    let common_name = format!("Marmot CA of {}", names[0]);
    let (authority, ca) = Authority::create(&common_name, platform::clock::now().wall)?;
    let server = authority.server(&names)?;
    files.add(CONFIG, &text);
    files.add(CA, &ca.certificate);
    files.add(CA_KEY, ca.key.as_bytes());
    files.add(CERTIFICATE, &server.certificate);
    files.add(KEY, server.key.as_bytes());
    files.add(USERS, users(&args.user, &password)?.to_toml());
    files.check(args.force)?;
    files.write()?;
    answer(&next_steps(args, &files, &password));
    Ok(())
}

fn configuration(args: &InitGateway) -> String {
    let mut values: Vec<Value<'_>> = vec![
        ("tls", "certificate_file", sample::text(CERTIFICATE)),
        ("tls", "key_file", sample::text(KEY)),
        ("auth", "methods", sample::list(&["password", "certificate"])),
        ("auth", "users_file", sample::text(USERS)),
        ("auth", "client_ca_file", sample::text(CA)),
    ];
    if !args.listen.is_empty() {
        values.push(("listen", "addresses", sample::list(&args.listen)));
    }
    if let Some(net) = args.ipv4_pool {
        values.push(("pool", "ipv4", sample::text(net)));
    }
    if let Some(net) = args.ipv6_pool {
        values.push(("pool", "ipv6", sample::text(net)));
    }
    if !args.routes.is_empty() {
        values.push(("network", "routes", sample::list(&args.routes)));
    }
    if !args.dns.is_empty() {
        values.push(("network", "dns", sample::list(&args.dns)));
    }
    sample::gateway(&values)
}

fn users(name: &str, password: &str) -> Result<Users, Failure> {
    let hash = ::gateway::password::hash(password).map_err(anyhow::Error::from)?;
    let user = User {
        password: Some(hash),
        ..User::default()
    };
    Ok(Users(BTreeMap::from([(name.to_string(), user)])))
}

fn next_steps(args: &InitGateway, files: &Files, password: &str) -> String {
    let dir = args.dir.display();
    let shown = match args.password_file {
        Some(_) => String::new(),
        None => format!("\nPassword of {}, shown this once: {password}\n", args.user),
    };
    format!(
        "Written, readable by you only:\n{}{shown}\n\
         Next:\n  \
         1. marmot check {dir}/{CONFIG}\n  \
         2. marmot gateway -c {dir}/{CONFIG}\n     \
            (as a systemd service: {access};\n     \
            systemctl enable --now marmot-gateway)\n  \
         3. Give each client {dir}/{CA}, and there: marmot init client --gateway {url} --ca {CA} --user {user}\n  \
         4. Keep {dir}/{CA_KEY} safe; the gateway does not need it, only `marmot init client --certificate-from` does.\n",
        files.list(),
        access = service_access(&args.dir),
        url = url(args),
        user = args.user,
    )
}

/// The URL by which clients call the gateway, if it listens on one port.
fn url(args: &InitGateway) -> String {
    let host = args.names[0].clone();
    let port = args.listen.first().map_or(443, std::net::SocketAddr::port);
    config::GatewayUrl {
        host,
        port,
        path: "/".into(),
    }
    .to_string()
}
