//! The samples in `config/` say exactly what the code does: every key, its default, its limit.

use std::path::Path;
use std::time::Duration;

use config::client::ClientConfig;
use config::gateway::GatewayConfig;
use config::{DtlsSuite, Key, MaintenanceTraffic, PowerSource};

/// One `key = value` of a sample with its section and the comment above it.
struct Entry {
    section: String,
    name: String,
    value: String,
    comment: String,
}

const CLIENT: &str = include_str!("../../../config/client.toml");
const GATEWAY: &str = include_str!("../../../config/gateway.toml");

fn entries(text: &str) -> Vec<Entry> {
    let (mut section, mut comment, mut entries) = (String::new(), String::new(), Vec::new());
    for line in text.lines() {
        // What is commented out without a blank is an example, with the text above it.
        let line = line
            .strip_prefix("#")
            .filter(|rest| !rest.starts_with(' '))
            .unwrap_or(line);
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_start_matches('[').trim_end_matches(']').to_string();
            comment.clear();
        } else if let Some(words) = line.strip_prefix("# ") {
            comment.push_str(words);
            comment.push(' ');
        } else if let Some((name, value)) = line.split_once(" = ") {
            let comment = std::mem::take(&mut comment);
            entries.push(Entry {
                section: section.clone(),
                name: name.into(),
                value: value.into(),
                comment,
            });
        }
    }
    entries
}

/// Keys without a default of their own: required, or required by another key's default.
const EXAMPLES: [&str; 4] = ["gateway.url", "tls.certificate_file", "tls.key_file", "auth.users_file"];

fn compare(text: &str, keys: &[Key]) {
    let entries = entries(text);
    for key in keys {
        let path = format!("{}.{}", key.section, key.name);
        let found = entries
            .iter()
            .find(|entry| entry.section == key.section && entry.name == key.name);
        let entry = found.unwrap_or_else(|| panic!("{path} is not in the sample"));
        if !EXAMPLES.contains(&path.as_str()) && key.section != "flows.rule" {
            assert_eq!(Some(&entry.value), key.default.as_ref(), "default of {path}");
        }
        let limit = format!(": {}. ", key.limit);
        assert!(
            entry.comment.ends_with(&limit),
            "{path}: {:?} does not end with {limit:?}",
            entry.comment
        );
        let sentence = entry.comment.len() - limit.len();
        assert!(sentence > 10, "{path} has no sentence");
    }
    assert_eq!(
        entries.len(),
        keys.len(),
        "the sample has a key that does not exist, or one twice"
    );
}

#[test]
fn the_client_sample_has_every_key_with_its_default_and_limit() {
    compare(CLIENT, &ClientConfig::keys());
}

#[test]
fn the_gateway_sample_has_every_key_with_its_default_and_limit() {
    compare(GATEWAY, &GatewayConfig::keys());
}

#[test]
fn the_samples_are_the_defaults() {
    let base = Path::new("/etc/marmot");
    let short = "[gateway]\nurl = \"https://vpn.example.com\"\n";
    let client = ClientConfig::parse(CLIENT, "client.toml", base);
    assert_eq!(client, ClientConfig::parse(short, "client.toml", base));
    assert!(client.is_ok());

    let short =
        "[tls]\ncertificate_file = \"server.pem\"\nkey_file = \"server.key\"\n[auth]\nusers_file = \"users.toml\"\n";
    let gateway = GatewayConfig::parse(GATEWAY, "gateway.toml", base);
    assert_eq!(gateway, GatewayConfig::parse(short, "gateway.toml", base));
    assert!(gateway.is_ok());
}

#[test]
fn zero_is_a_value_where_the_sample_says_what_it_means() {
    let base = Path::new("/etc/marmot");
    let client = |keys: &str| {
        let text = format!("[gateway]\nurl = \"https://vpn.example.com\"\n[dtls]\n{keys}\n");
        ClientConfig::parse(&text, "client.toml", base).expect("valid").dtls
    };
    assert_eq!(client("rekey_s = 0").rekey, None);
    assert_eq!(client("").rekey, Some(Duration::from_secs(3600)));
    assert_eq!(client("suites = [\"aes-256-gcm\"]").suites, [DtlsSuite::Aes256Gcm]);
    let gateway = GatewayConfig::parse(GATEWAY, "gateway.toml", base).expect("valid").dtls;
    assert_eq!((gateway.port, gateway.rekey), (None, None));
    assert_eq!(gateway.suites, DtlsSuite::DEFAULT);
}

#[test]
fn a_sleeping_client_is_kept_for_a_working_day_unless_the_gateway_says_otherwise() {
    let base = Path::new("/etc/marmot");
    let gateway = |ttl: &str| {
        let text = GATEWAY.replace("ttl_s = 28800", ttl);
        GatewayConfig::parse(&text, "gateway.toml", base).expect("valid").park
    };
    assert_eq!(gateway("").ttl, Some(Duration::from_secs(8 * 3600)));
    assert_eq!(gateway("ttl_s = 0").ttl, None);
    let sleep = ClientConfig::parse(CLIENT, "client.toml", base).expect("valid").sleep;
    assert_eq!(sleep.maintenance_traffic, MaintenanceTraffic::Pass);
    assert_eq!(sleep.power_source, PowerSource::Auto);
    assert_eq!(sleep.unknown_wake, Duration::from_secs(20));
}

#[test]
fn no_line_of_a_sample_is_cut_by_a_terminal_of_usual_width() {
    for line in CLIENT.lines().chain(GATEWAY.lines()) {
        assert!(line.chars().count() <= 140, "{line}");
    }
}
