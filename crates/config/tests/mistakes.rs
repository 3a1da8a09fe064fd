//! What people get to read when a file is wrong: the whole text, as on their terminal.

use std::path::Path;

use config::client::ClientConfig;
use config::gateway::GatewayConfig;

/// The keys that a client must have.
const URL: &str = "[gateway]\nurl = \"https://vpn.example.com\"\n";

/// The keys that a gateway must have.
const REQUIRED: &str = "[tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n[auth]\nusers_file = \"u\"\n";

#[track_caller]
fn client(text: &str, rest: &str, expected: &str) {
    let text = format!("{}{rest}", text.trim_start());
    let found = ClientConfig::parse(&text, "client.toml", Path::new("/etc/marmot"))
        .expect_err(&text)
        .to_string();
    assert_eq!(found, expected.trim_matches('\n'), "\n--- found:\n{found}\n---");
}

#[track_caller]
fn gateway(text: &str, rest: &str, expected: &str) {
    let text = format!("{}{rest}", text.trim_start());
    let found = GatewayConfig::parse(&text, "gateway.toml", Path::new("/etc/marmot"))
        .expect_err(&text)
        .to_string();
    assert_eq!(found, expected.trim_matches('\n'), "\n--- found:\n{found}\n---");
}

#[test]
fn several_mistakes_are_told_at_once() {
    client(
        r#"
[tunnel]
name = "Work"
mtu = 70000
start = "left"
state_dir = ""
"#,
        URL,
        r#"
client.toml:2:8: tunnel.name: `Work` is not a tunnel name; expected: 1 to 12 of a-z, 0-9 and -
  2 | name = "Work"
    |        ^^^^^^
client.toml:3:7: tunnel.mtu: out of range; allowed: 0, or 576 to 9000
  3 | mtu = 70000
    |       ^^^^^
client.toml:4:9: tunnel.start: `left` is not known here; expected: "up", "down", "last"
  4 | start = "left"
    |         ^^^^^^
client.toml:5:13: tunnel.state_dir: is empty; expected: a path
  5 | state_dir = ""
    |             ^^
"#,
    );
}

#[test]
fn the_url_is_required() {
    client(
        r#"
"#,
        "",
        r#"
client.toml: gateway.url: is missing; it is required: https://host, with a port and a path if needed
"#,
    );
}

#[test]
fn a_key_outside_of_its_section_is_sent_home() {
    client(
        r#"
url = "https://vpn.example.com"
"#,
        "",
        r#"
client.toml: gateway.url: is missing; it is required: https://host, with a port and a path if needed
client.toml:1:1: url: a key outside of any section; it belongs to [gateway]
  1 | url = "https://vpn.example.com"
    | ^^^
"#,
    );
}

#[test]
fn only_https_is_spoken() {
    client(
        r#"
[gateway]
url = "http://vpn.example.com"
dial_timeout = 3
"#,
        "",
        r#"
client.toml:2:7: gateway.url: `http://vpn.example.com` has a scheme other than https; the control channel is always TLS; expected: https://host, with a port and a path if needed
  2 | url = "http://vpn.example.com"
    |       ^^^^^^^^^^^^^^^^^^^^^^^^
client.toml:3:1: gateway.dial_timeout: unknown key in [gateway]; did you mean `dial_timeout_s`?
  3 | dial_timeout = 3
    | ^^^^^^^^^^^^
"#,
    );
}

#[test]
fn a_pin_is_a_digest() {
    client(
        r#"
[trust]
pins = ["sha256:abc", ""]
"#,
        URL,
        r#"
client.toml:2:9: trust.pins: `sha256:abc` has 3 characters behind `sha256:`; hex has 64, base64 44; expected: pins: sha256: and then hex or base64
  2 | pins = ["sha256:abc", ""]
    |         ^^^^^^^^^^^^
client.toml:2:23: trust.pins: an empty entry
  2 | pins = ["sha256:abc", ""]
    |                       ^^
"#,
    );
}

#[test]
fn a_password_in_the_file_is_refused_and_not_repeated() {
    client(
        r#"
[login]
password = "hunter2"
"#,
        URL,
        r#"
client.toml:2:1: login.password: unknown key in [login]; did you mean `password_file`?
  2 | password = ***
    | ^^^^^^^^
"#,
    );
}

#[test]
fn half_a_certificate_and_two_passwords_are_refused() {
    client(
        r#"
[login]
password_file = "p"
credential = "p"
certificate_file = "c"
"#,
        URL,
        r#"
client.toml:3:14: login.credential: conflicts with login.password_file; keep one of the two
  3 | credential = "p"
    |              ^^^
client.toml:4:20: login.certificate_file: is there without login.key_file; set both or neither
  4 | certificate_file = "c"
    |                    ^^^
"#,
    );
}

#[test]
fn the_kernel_takes_whole_seconds() {
    client(
        r#"
[tcp]
keepalive_idle_s = 0.5
keepalive_count = "8"
"#,
        URL,
        r#"
client.toml:2:20: tcp.keepalive_idle_s: expected a whole number, found a fraction
  2 | keepalive_idle_s = 0.5
    |                    ^^^
client.toml:3:19: tcp.keepalive_count: expected a whole number, found a string
  3 | keepalive_count = "8"
    |                   ^^^
"#,
    );
}

#[test]
fn a_key_of_another_section_is_sent_there() {
    client(
        r#"
[tcp]
post_quantum = false
[log]
level = "verbose"
"#,
        URL,
        r#"
client.toml:2:1: tcp.post_quantum: unknown key in [tcp]; it belongs to [tls]
  2 | post_quantum = false
    | ^^^^^^^^^^^^
client.toml:4:9: log.level: `verbose` is not known here; expected: "error", "warn", "info", "debug", "trace"
  4 | level = "verbose"
    |         ^^^^^^^^^
"#,
    );
}

#[test]
fn words_and_limits_of_sleep_are_told() {
    client(
        r#"
[sleep]
maintenance_traffic = "block"
power_source = "logind"
unknown_wake_s = 0
maintenance_limit = 60
"#,
        URL,
        r#"
client.toml:2:23: sleep.maintenance_traffic: `block` is not known here; expected: "pass", "hold", "drop"
  2 | maintenance_traffic = "block"
    |                       ^^^^^^^
client.toml:3:16: sleep.power_source: `logind` is not known here; expected: "auto", "off"
  3 | power_source = "logind"
    |                ^^^^^^^^
client.toml:4:18: sleep.unknown_wake_s: out of range; allowed: 1 to 600
  4 | unknown_wake_s = 0
    |                  ^
client.toml:5:1: sleep.maintenance_limit: unknown key in [sleep]; did you mean `maintenance_limit_s`?
  5 | maintenance_limit = 60
    | ^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn parking_lasts_a_minute_to_thirty_days() {
    gateway(
        r#"
[park]
ttl_s = 2592001
per_user = 0
"#,
        REQUIRED,
        r#"
gateway.toml:2:9: park.ttl_s: out of range; allowed: 0, or 60 to 2592000
  2 | ttl_s = 2592001
    |         ^^^^^^^
gateway.toml:3:12: park.per_user: out of range; allowed: 1 to 65536
  3 | per_user = 0
    |            ^
"#,
    );
}

#[test]
fn the_first_wait_is_not_above_the_longest() {
    client(
        r#"
[reconnect]
first_s = 20
max_s = 2
"#,
        URL,
        r#"
client.toml:2:11: reconnect.first_s: is more than reconnect.max_s; the wait grows from first_s to max_s
  2 | first_s = 20
    |           ^^
"#,
    );
}

#[test]
fn housekeeping_waits_grow_and_a_collector_is_a_url() {
    client(
        r#"
[housekeeping]
retry_first_s = 20
retry_max_s = 2
collector = "stats.example.com"
collector_ca_file = "ca.pem"
keep_failed = 0
[api]
group = "a b"
"#,
        URL,
        r#"
client.toml:2:17: housekeeping.retry_first_s: is more than housekeeping.retry_max_s; the wait grows from retry_first_s to retry_max_s
  2 | retry_first_s = 20
    |                 ^^
client.toml:4:13: housekeeping.collector: `stats.example.com` has no scheme; it starts with http:// or https://; expected: http://host or https://host, with a port and a path if needed
  4 | collector = "stats.example.com"
    |             ^^^^^^^^^^^^^^^^^^^
client.toml:5:21: housekeeping.collector_ca_file: has no effect without an https address in housekeeping.collector
  5 | collector_ca_file = "ca.pem"
    |                     ^^^^^^^^
client.toml:6:15: housekeeping.keep_failed: out of range; allowed: 1 to 5000
  6 | keep_failed = 0
    |               ^
client.toml:8:9: api.group: `a b` is not a name; expected: 1 to 64 of A-Z, a-z, 0-9, _, ., @, + and -
  8 | group = "a b"
    |         ^^^^^
"#,
    );
}

#[test]
fn suites_of_the_udp_channel_are_known_and_there_once() {
    client(
        r#"
[dtls]
suites = ["aes-128-gcm", "aes-128-cbc"]
rekey_s = 59
"#,
        URL,
        r#"
client.toml:2:26: dtls.suites: `aes-128-cbc` is not a suite; expected: suites: "aes-128-gcm", "chacha20-poly1305", "aes-256-gcm"
  2 | suites = ["aes-128-gcm", "aes-128-cbc"]
    |                          ^^^^^^^^^^^^^
client.toml:3:11: dtls.rekey_s: out of range; allowed: 0, or 60 to 86400
  3 | rekey_s = 59
    |           ^^
"#,
    );
    gateway(
        r#"
[dtls]
suites = ["aes-256-gcm", "aes-256-gcm"]
port = 65536
"#,
        REQUIRED,
        r#"
gateway.toml:2:26: dtls.suites: aes-256-gcm is there twice
  2 | suites = ["aes-256-gcm", "aes-256-gcm"]
    |                          ^^^^^^^^^^^^^
gateway.toml:3:8: dtls.port: out of range; allowed: 0, or 1 to 65535
  3 | port = 65536
    |        ^^^^^
"#,
    );
    client(
        "[dtls]\nsuites = []\n",
        URL,
        r#"
client.toml:2:10: dtls.suites: is empty, so no packet could go over UDP; list one, or set dtls.enabled to false
  2 | suites = []
    |          ^^
"#,
    );
}

#[test]
fn what_is_not_toml_is_told_alone() {
    client(
        r#"
[session]
max_s = 3
max_s = 4
"#,
        URL,
        r#"
client.toml:3:1: not TOML: duplicate key
  3 | max_s = 4
    | ^^^^^
"#,
    );
}

#[test]
fn a_section_is_not_a_value() {
    client(
        r#"
trust = 1
[trusts]
"#,
        URL,
        r#"
client.toml:1:1: trust: expected a section, found an integer; write [trust] and its keys below
  1 | trust = 1
    | ^^^^^
client.toml:2:2: trusts: unknown section; did you mean [trust]?
  2 | [trusts]
    |  ^^^^^^
"#,
    );
}

#[test]
fn the_certificate_is_required() {
    gateway(
        r#"
"#,
        "",
        r#"
gateway.toml: tls.certificate_file: is missing; it is required: a path
gateway.toml: tls.key_file: is missing; it is required: a path
gateway.toml: auth.users_file: is missing; passwords are in it; `marmot user add` makes one
"#,
    );
}

#[test]
fn a_misspelt_key_meets_its_neighbour() {
    gateway(
        r#"
[listen]
adress = ["[::]:443"]
"#,
        REQUIRED,
        r#"
gateway.toml:2:1: listen.adress: unknown key in [listen]; did you mean `addresses`?
  2 | adress = ["[::]:443"]
    | ^^^^^^
"#,
    );
}

#[test]
fn an_address_to_listen_on_has_a_port() {
    gateway(
        r#"
[listen]
addresses = ["0.0.0.0", "[::]:443"]
"#,
        REQUIRED,
        r#"
gateway.toml:2:14: listen.addresses: `0.0.0.0` has no port; write 0.0.0.0:443; expected: addresses with port, such as 0.0.0.0:443 or [::]:443
  2 | addresses = ["0.0.0.0", "[::]:443"]
    |              ^^^^^^^^^
"#,
    );
}

#[test]
fn the_gateway_does_not_listen_inside_of_its_pool() {
    gateway(
        r#"
[listen]
addresses = ["10.1.0.5:443"]
[pool]
ipv4 = "10.1.0.0/24"
"#,
        REQUIRED,
        r#"
gateway.toml:4:8: pool.ipv4: contains 10.1.0.5, on which the gateway listens; clients would look for the gateway inside of the tunnel
  4 | ipv4 = "10.1.0.0/24"
    |        ^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn pools_are_networks_of_a_usable_size() {
    gateway(
        r#"
[pool]
ipv4 = "10.0.0.1/24"
ipv6 = "fd00::/32"
"#,
        REQUIRED,
        r#"
gateway.toml:2:8: pool.ipv4: `10.0.0.1/24` has host bits set; the network is 10.0.0.0/24; expected: an IPv4 network, prefix length 8 to 30
  2 | ipv4 = "10.0.0.1/24"
    |        ^^^^^^^^^^^^^
gateway.toml:3:8: pool.ipv6: `fd00::/32` is too large; the prefix length is at least 48; expected: an IPv6 network, prefix length 48 to 126
  3 | ipv6 = "fd00::/32"
    |        ^^^^^^^^^^^
"#,
    );
}

#[test]
fn some_pool_is_needed() {
    gateway(
        r#"
[pool]
ipv4 = ""
"#,
        REQUIRED,
        r#"
gateway.toml:2:8: pool.ipv4: there is no pool at all; set pool.ipv4, pool.ipv6 or both
  2 | ipv4 = ""
    |        ^^
"#,
    );
}

#[test]
fn ipv6_needs_its_smallest_mtu() {
    gateway(
        r#"
[pool]
ipv6 = "fd00:78::/64"
[network]
mtu = 1200
"#,
        REQUIRED,
        r#"
gateway.toml:4:7: network.mtu: 1200 is too small for an IPv6 pool; IPv6 needs 1280; raise it or remove pool.ipv6
  4 | mtu = 1200
    |       ^^^^
"#,
    );
}

#[test]
fn overlapping_routes_are_refused() {
    gateway(
        r#"
[network]
routes = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32"]
"#,
        REQUIRED,
        r#"
gateway.toml:2:25: network.routes: 10.1.0.0/16 overlaps 10.0.0.0/8, which already has it
  2 | routes = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32"]
    |                         ^^^^^^^^^^^^^
gateway.toml:2:40: network.routes: 10.0.0.0/8 is there twice
  2 | routes = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32"]
    |                                        ^^^^^^^^^^^^
gateway.toml:2:54: network.routes: 2001:db8::/32 is useless to clients without pool.ipv6; set pool.ipv6, or remove the route
  2 | routes = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32"]
    |                                                      ^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn a_network_is_either_in_or_out() {
    gateway(
        r#"
[network]
routes = ["10.0.0.0/8"]
exclude_routes = ["10.0.0.0/8", "192.168.0.0/16"]
"#,
        REQUIRED,
        r#"
gateway.toml:3:19: network.exclude_routes: 10.0.0.0/8 takes back all of 10.0.0.0/8 in network.routes; a network is either in or out
  3 | exclude_routes = ["10.0.0.0/8", "192.168.0.0/16"]
    |                   ^^^^^^^^^^^^
gateway.toml:3:33: network.exclude_routes: 192.168.0.0/16 is in no network of network.routes; it is outside already; remove it
  3 | exclude_routes = ["10.0.0.0/8", "192.168.0.0/16"]
    |                                 ^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn the_pool_is_not_excluded() {
    gateway(
        r#"
[network]
exclude_routes = ["10.78.0.0/28"]
"#,
        REQUIRED,
        r#"
gateway.toml:2:19: network.exclude_routes: 10.78.0.0/28 overlaps the pool 10.78.0.0/24; clients could not reach the gateway in the tunnel
  2 | exclude_routes = ["10.78.0.0/28"]
    |                   ^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn loopback_is_no_route_and_lists_have_a_limit() {
    gateway(
        r#"
[network]
routes = ["127.0.0.0/8"]
dns = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
"#,
        REQUIRED,
        r#"
gateway.toml:2:11: network.routes: `127.0.0.0/8` is loopback, which never goes through a tunnel; expected: networks, such as 10.0.0.0/8
  2 | routes = ["127.0.0.0/8"]
    |           ^^^^^^^^^^^^^
gateway.toml:3:7: network.dns: 4 entries are too many; at most 3 IP addresses
  3 | dns = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn a_part_is_not_above_the_whole() {
    gateway(
        r#"
[limits]
sessions = 4
sessions_per_user = 8
handshake_timeout_s = 0
"#,
        REQUIRED,
        r#"
gateway.toml:3:21: limits.sessions_per_user: 8 is more than limits.sessions = 4
  3 | sessions_per_user = 8
    |                     ^
gateway.toml:4:23: limits.handshake_timeout_s: out of range; allowed: 1 to 60
  4 | handshake_timeout_s = 0
    |                       ^
"#,
    );
}

#[test]
fn certificates_need_their_authority() {
    gateway(
        r#"
[tls]
certificate_file = "c"
key_file = "k"
[auth]
methods = ["certificate"]
require_both = true
"#,
        "",
        r#"
gateway.toml:4:2: auth.client_ca_file: is missing; client certificates are checked against it
  4 | [auth]
    |  ^^^^
gateway.toml:6:16: auth.require_both: needs the methods "password" and "certificate"; list both in auth.methods, or set this to false
  6 | require_both = true
    |                ^^^^
"#,
    );
}

#[test]
fn passwords_need_their_users() {
    gateway(
        r#"
[tls]
certificate_file = "c"
key_file = "k"
[auth]
users_file = ""
client_ca_file = "ca"
"#,
        "",
        r#"
gateway.toml:5:14: auth.users_file: is empty; passwords are in it; `marmot user add` makes one
  5 | users_file = ""
    |              ^^
gateway.toml:6:18: auth.client_ca_file: has no effect without the method "certificate"; add "certificate" to auth.methods, or remove this key
  6 | client_ca_file = "ca"
    |                  ^^^^
"#,
    );
}

#[test]
fn a_lockdown_that_contradicts_itself_is_told() {
    client(
        r#"
[session]
local_networks = "never"
[lockdown]
mode = "on"
allow_lan = true
allow_interfaces = ["mm-marmot", "a b"]
"#,
        URL,
        r#"
client.toml:4:8: lockdown.mode: `on` is not known here; expected: "off", "while_up", "always"
  4 | mode = "on"
    |        ^^^^
client.toml:5:13: lockdown.allow_lan: conflicts with session.local_networks = "never"; they go into the tunnel; set session.local_networks = "private"
  5 | allow_lan = true
    |             ^^^^
client.toml:6:21: lockdown.allow_interfaces: is allowed in any case; leave it out
  6 | allow_interfaces = ["mm-marmot", "a b"]
    |                     ^^^^^^^^^^^
client.toml:6:34: lockdown.allow_interfaces: `a b` is not an interface name; expected: names of interfaces
  6 | allow_interfaces = ["mm-marmot", "a b"]
    |                                  ^^^^^
"#,
    );
}
