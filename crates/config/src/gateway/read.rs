//! Reads `gateway.toml`, and checks its keys against each other.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Auth, AuthMethods, Dtls, GatewayConfig, Limits, Listen, Network, Pool, Session, Storage, Tcp, Tls, UserFrom, group,
};
use crate::document::Document;
use crate::section::Section;
use crate::{access, api, dtls, housekeeping, log, names, routes, sleep, transport, url};

/// Sockets to listen on.
const MAX_LISTENERS: usize = 16;

/// Routes of a grant; more are refused by our client, and stock clients run out of patience.
const MAX_ROUTES: usize = 1000;

/// Name servers that stock clients use.
const MAX_DNS: usize = 3;

/// The smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;

const DAY_S: f64 = 86_400.0;

pub(super) fn all(document: &Document<'_>) -> Option<GatewayConfig> {
    let listen = listen(document);
    let tls = tls(document);
    let auth = auth(document);
    let pool = pool(document, &listen);
    let network_section = document.section("network");
    let network = network(document, &network_section, &pool, &listen);
    let groups = group::read(document, &pool, &listen);
    if let (Some(auth), Some(network)) = (&auth, &network) {
        group::check(&groups, auth, (network, &network_section), &pool);
    }
    let groups = groups.into_iter().map(|(group, _)| group).collect();
    let dtls = udp(document);
    let session = session(document);
    let park = sleep::park(document);
    let tcp = document.section("tcp");
    let tcp = Tcp {
        keepalive: transport::keepalive(&tcp),
        user_timeout: tcp.whole_seconds("user_timeout_s", 7200, 1..=86_400),
    };
    let limits = limits(document);
    let storage = storage(document);
    let api = api::read(document);
    let housekeeping = housekeeping::read(document);
    let log = log::read(document);
    Some(GatewayConfig {
        listen,
        tls: tls?,
        auth: auth?,
        pool,
        network: network?,
        groups,
        dtls,
        session,
        park,
        tcp,
        limits,
        storage: storage?,
        api,
        housekeeping: housekeeping?,
        log,
    })
}

fn listen(document: &Document<'_>) -> Listen {
    let section = document.section("listen");
    let what = "addresses with port, such as 0.0.0.0:443 or [::]:443";
    let addresses = section.list("addresses", &["[::]:443"], MAX_LISTENERS, what, |text| {
        text.parse::<SocketAddr>().map_err(|_| match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("has no port; write {address}:443"),
            Ok(IpAddr::V6(address)) => format!("has no port; write [{address}]:443"),
            Err(_) => "is not an IP address with a port".to_string(),
        })
    });
    let placed = section
        .length("addresses")
        .is_none_or(|length| length == addresses.len());
    for (index, address) in addresses.iter().enumerate().filter(|_| placed) {
        if address.port() != 0 && addresses[..index].contains(address) {
            section.wrong_item("addresses", index, format!("{address} is there twice"), None);
        }
    }
    Listen {
        addresses,
        backlog: section.integer("backlog", 1024, 1..=65_535),
    }
}

fn tls(document: &Document<'_>) -> Option<Tls> {
    let section = document.section("tls");
    let certificate_file = section.required_path("certificate_file");
    let key_file = section.required_path("key_file");
    let min_version = transport::min_version(&section);
    let post_quantum = section.boolean("post_quantum", true);
    Some(Tls {
        certificate_file: certificate_file?,
        key_file: key_file?,
        min_version,
        post_quantum,
    })
}

fn auth(document: &Document<'_>) -> Option<Auth> {
    let section = document.section("auth");
    let methods = methods(&section);
    let users_file = section.optional_path("users_file");
    let client_ca_file = section.optional_path("client_ca_file");
    let from = [
        ("uid", UserFrom::Uid),
        ("cn", UserFrom::CommonName),
        ("email-san", UserFrom::EmailSan),
    ];
    let user_from = section.choice("user_from", "uid", &from);
    let groups = section.list("groups", &[], 32, names::GROUPS, names::user);
    let banner = section.optional("banner", "at most 1024 bytes", |text| names::text(text, 1024));
    let methods = methods?;
    let unset = |key| !section.has(key) || section.is_empty(key);
    if methods.password() && users_file.is_none() && unset("users_file") {
        section.missing("users_file", "passwords are in it; `marmot user add` makes one");
    }
    if methods.certificate() && client_ca_file.is_none() && unset("client_ca_file") {
        section.missing("client_ca_file", "client certificates are checked against it");
    }
    if !methods.certificate() && client_ca_file.is_some() {
        let help = "add \"certificate\" to auth.methods, or remove this key";
        section.wrong(
            "client_ca_file",
            "has no effect without the method \"certificate\"",
            Some(help.into()),
        );
    }
    let placed = section.length("groups").is_some_and(|length| length == groups.len());
    for (index, group) in groups.iter().enumerate().filter(|_| placed) {
        if groups[..index].contains(group) {
            section.wrong_item("groups", index, format!("{group} is there twice"), None);
        }
    }
    Some(Auth {
        methods,
        users_file,
        client_ca_file,
        user_from: user_from?,
        groups,
        banner,
    })
}

fn methods(section: &Section<'_, '_>) -> Option<AuthMethods> {
    let methods = section.list(
        "methods",
        &["password"],
        2,
        "methods: \"password\", \"certificate\"",
        |text| match text {
            "password" => Ok(AuthMethods::Password),
            "certificate" => Ok(AuthMethods::Certificate),
            _ => Err("is not a method".into()),
        },
    );
    let require_both = section.boolean("require_both", false);
    let both = methods.contains(&AuthMethods::Password) && methods.contains(&AuthMethods::Certificate);
    if section.length("methods") == Some(0) {
        section.wrong(
            "methods",
            "is empty, so nobody could log in",
            Some("list \"password\" or \"certificate\"".into()),
        );
    } else if require_both && !both {
        let help = "list both in auth.methods, or set this to false";
        section.wrong(
            "require_both",
            "needs the methods \"password\" and \"certificate\"",
            Some(help.into()),
        );
    }
    match (both, require_both) {
        (true, true) => Some(AuthMethods::Both),
        (true, false) => Some(AuthMethods::Either),
        (false, _) => methods.first().copied(),
    }
}

fn pool(document: &Document<'_>, listen: &Listen) -> Pool {
    let section = document.section("pool");
    let ipv4 = section.default_or_none(
        "ipv4",
        "10.78.0.0/24",
        "an IPv4 network, prefix length 8 to 30",
        |text| {
            let net: Ipv4Net = text.parse().map_err(|_| "is not an IPv4 network")?;
            pool_network(net.into(), 8, 30).map(|()| net)
        },
    );
    let ipv6 = section.optional("ipv6", "an IPv6 network, prefix length 48 to 126", |text| {
        let net: Ipv6Net = text.parse().map_err(|_| "is not an IPv6 network")?;
        pool_network(net.into(), 48, 126).map(|()| net)
    });
    let rest = section.seconds("rest_s", 600.0, 0.0..=DAY_S);
    let written = |key| section.has(key) && !section.is_empty(key);
    if ipv4.is_none() && ipv6.is_none() && !written("ipv4") && !written("ipv6") {
        section.wrong(
            "ipv4",
            "there is no pool at all",
            Some("set pool.ipv4, pool.ipv6 or both".into()),
        );
    }
    for address in listen.addresses.iter().map(SocketAddr::ip) {
        let inside = ipv4.is_some_and(|net| IpNet::from(net).contains(&address));
        let inside6 = ipv6.is_some_and(|net| IpNet::from(net).contains(&address));
        if inside || inside6 {
            let message = format!("contains {address}, on which the gateway listens");
            let help = "clients would look for the gateway inside of the tunnel".to_string();
            section.wrong(if inside { "ipv4" } else { "ipv6" }, message, Some(help));
        }
    }
    Pool { ipv4, ipv6, rest }
}

fn pool_network(net: IpNet, shortest: u8, longest: u8) -> Result<(), String> {
    routes::network(&net.to_string())?;
    if net.prefix_len() < shortest {
        return Err(format!("is too large; the prefix length is at least {shortest}"));
    }
    if net.prefix_len() > longest {
        return Err(format!("is too small; the prefix length is at most {longest}"));
    }
    Ok(())
}

fn network<'d>(document: &'d Document<'_>, section: &Section<'d, '_>, pool: &Pool, listen: &Listen) -> Option<Network> {
    let interface = section.parsed("interface", "marmot-gw", names::INTERFACE, names::interface);
    let mtu = section.integer("mtu", 1406, 576..=9000);
    let offload = section.boolean("offload", true);
    let workers = section.integer("workers", 1, 1..=16);
    let nat = section.boolean("nat", false);
    let nat_interface = section.optional("nat_interface", names::INTERFACE, names::interface);
    let (routes, exclude_routes) = (networks(section, "routes"), networks(section, "exclude_routes"));
    let (dns, domains, split_dns) = (name_servers(section), domains(section), split_dns(section));
    let client_to_client = section.boolean("client_to_client", false);
    let tunnel_all_dns = section.boolean("tunnel_all_dns", false);
    let acl_default = access::default_action(section);
    let families = (pool.ipv4.is_some(), pool.ipv6.is_some());
    let acl = access::rules(document, section, "network.acl", families);
    if pool.ipv6.is_some() && mtu < IPV6_MIN_MTU {
        let help = "IPv6 needs 1280; raise it or remove pool.ipv6".to_string();
        section.wrong("mtu", format!("{mtu} is too small for an IPv6 pool"), Some(help));
    }
    if nat_interface.is_some() && !nat {
        section.wrong("nat_interface", "has no effect without network.nat = true", None);
    }
    if nat_interface.is_some() && nat_interface == interface {
        let help = "name the one that leads to the networks behind the gateway".to_string();
        section.wrong("nat_interface", "is the tunnel's own device", Some(help));
    }
    if dns.is_empty() && !split_dns.is_empty() && !section.has("dns") {
        section.wrong("split_dns", "has no effect without network.dns", None);
    }
    check_routes(section, &routes, pool, listen);
    check_excludes(section, &exclude_routes, &routes, pool);
    Some(Network {
        interface: interface?,
        offload,
        workers: usize::try_from(workers).ok()?,
        mtu: u16::try_from(mtu).ok()?,
        nat,
        nat_interface,
        routes,
        exclude_routes,
        dns,
        domains,
        split_dns,
        client_to_client,
        tunnel_all_dns,
        acl_default: acl_default?,
        acl,
    })
}

pub(super) fn networks(section: &Section<'_, '_>, key: &'static str) -> Vec<IpNet> {
    section.list(key, &[], MAX_ROUTES, "networks, such as 10.0.0.0/8", routes::network)
}

pub(super) fn name_servers(section: &Section<'_, '_>) -> Vec<IpAddr> {
    section.list("dns", &[], MAX_DNS, "IP addresses", |text| {
        let address: IpAddr = text.parse().map_err(|_| "is not an IP address")?;
        let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        usable
            .then_some(address)
            .ok_or_else(|| "is not an address that clients can reach".to_string())
    })
}

pub(super) fn domains(section: &Section<'_, '_>) -> Vec<String> {
    section.list("domains", &[], 16, "domains", url::dns_name)
}

pub(super) fn split_dns(section: &Section<'_, '_>) -> Vec<String> {
    section.list("split_dns", &[], 64, "domains", url::dns_name)
}

pub(super) fn check_routes(section: &Section<'_, '_>, nets: &[IpNet], pool: &Pool, listen: &Listen) {
    routes::report_covered(section, "routes", nets);
    if section.length("routes") != Some(nets.len()) {
        return;
    }
    for (index, net) in nets.iter().enumerate() {
        let pooled = if matches!(net, IpNet::V4(_)) {
            pool.ipv4.is_some()
        } else {
            pool.ipv6.is_some()
        };
        let family = if matches!(net, IpNet::V4(_)) { "ipv4" } else { "ipv6" };
        if !pooled {
            let help = format!("set pool.{family}, or remove the route");
            section.wrong_item(
                "routes",
                index,
                format!("{net} is useless to clients without pool.{family}"),
                Some(help),
            );
        }
        let host_route = net.prefix_len() == net.max_prefix_len();
        if host_route && listen.addresses.iter().any(|address| address.ip() == net.network()) {
            let message = format!("{net} is the gateway's own address");
            section.wrong_item("routes", index, message, Some("clients refuse such a route".into()));
        }
    }
}

pub(super) fn check_excludes(section: &Section<'_, '_>, excludes: &[IpNet], included: &[IpNet], pool: &Pool) {
    routes::report_covered(section, "exclude_routes", excludes);
    if section.length("exclude_routes") != Some(excludes.len()) {
        return;
    }
    let pools: Vec<IpNet> = pool
        .ipv4
        .map(IpNet::from)
        .into_iter()
        .chain(pool.ipv6.map(IpNet::from))
        .collect();
    let whose = if section.has("routes") {
        format!("{}.routes", section.path)
    } else {
        "network.routes".to_string()
    };
    for (index, net) in excludes.iter().enumerate() {
        let fault = |message: String, help: &str| {
            section.wrong_item("exclude_routes", index, message, Some(help.to_string()));
        };
        if let Some(route) = included.iter().find(|route| net.contains(*route)) {
            fault(
                format!("{net} takes back all of {route} in {whose}"),
                "a network is either in or out",
            );
        } else if !included.is_empty() && !included.iter().any(|route| route.contains(net)) {
            fault(
                format!("{net} is in no network of {whose}"),
                "it is outside already; remove it",
            );
        } else if let Some(pool) = pools.iter().find(|pool| routes::overlap(**pool, *net)) {
            fault(
                format!("{net} overlaps the pool {pool}"),
                "clients could not reach the gateway in the tunnel",
            );
        }
    }
}

fn udp(document: &Document<'_>) -> Dtls {
    let section = document.section("dtls");
    Dtls {
        enabled: section.boolean("enabled", true),
        port: section
            .integer_or_zero("port", 1..=65_535)
            .and_then(|port| u16::try_from(port).ok()),
        suites: dtls::suites(&section),
        dpd: section.seconds("dpd_s", 20.0, 1.0..=3600.0),
        keepalive: section.seconds("keepalive_s", 20.0, 1.0..=3600.0),
        mss_clamp: section.boolean("mss_clamp", true),
        path_mtu_discovery: section.boolean("path_mtu_discovery", true),
        ecn: section.boolean("ecn", true),
        rekey: section.seconds_or_zero("rekey_s", 60.0..=30.0 * DAY_S),
    }
}

fn session(document: &Document<'_>) -> Session {
    let section = document.section("session");
    Session {
        dpd: section.seconds("dpd_s", 90.0, 1.0..=3600.0),
        keepalive: section.seconds("keepalive_s", 300.0, 1.0..=3600.0),
        idle_timeout: section.seconds_or_zero("idle_timeout_s", 1.0..=30.0 * DAY_S),
        session_timeout: section.seconds_or_zero("session_timeout_s", 1.0..=365.0 * DAY_S),
        cookie_lifetime: section.seconds("cookie_lifetime_s", 900.0, 1.0..=30.0 * DAY_S),
    }
}

fn storage(document: &Document<'_>) -> Option<Storage> {
    let section = document.section("storage");
    let state_dir = section.path_or_none("state_dir", "/var/lib/marmot");
    let runtime_dir = section.path("runtime_dir", "/run/marmot");
    Some(Storage {
        state_dir,
        runtime_dir: runtime_dir?,
    })
}

fn limits(document: &Document<'_>) -> Limits {
    let section = document.section("limits");
    let sessions = section.integer("sessions", 1024, 1..=65_536);
    let connections = section.integer("connections", 2048, 1..=262_144);
    Limits {
        sessions,
        sessions_per_user: at_most(&section, "sessions_per_user", 8, 65_536, ("sessions", sessions)),
        connections,
        connections_per_address: at_most(
            &section,
            "connections_per_address",
            32,
            262_144,
            ("connections", connections),
        ),
        handshake_timeout: section.seconds("handshake_timeout_s", 10.0, 1.0..=60.0),
        login_timeout: section.seconds("login_timeout_s", 120.0, 1.0..=3600.0),
        head_bytes: section.integer("head_bytes", 16_384, 1024..=65_536) as usize,
        body_bytes: section.integer("body_bytes", 65_536, 1024..=1_048_576) as usize,
        requests_per_connection: section.integer("requests_per_connection", 32, 4..=1024),
        login_attempts_per_address: section.integer("login_attempts_per_address", 10, 1..=10_000),
        login_window: section.seconds("login_window_s", 600.0, 1.0..=DAY_S),
    }
}

/// A limit that makes no sense above another one. The default gives way; a written value is a mistake.
fn at_most(section: &Section<'_, '_>, key: &'static str, default: u32, limit: u32, (whole, most): (&str, u32)) -> u32 {
    let value = section.integer(key, default, 1..=limit);
    if value > most && section.has(key) {
        section.wrong(key, format!("{value} is more than limits.{whole} = {most}"), None);
    }
    value.min(most)
}
