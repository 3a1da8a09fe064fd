//! Groups and access rules of a gateway: what they come to together, and which contradictions are mistakes.

use std::path::Path;

use config::AccessAction;
use config::gateway::GatewayConfig;

fn parse(rest: &str) -> Result<GatewayConfig, String> {
    let text = format!(
        "tls = {{ certificate_file = \"c\", key_file = \"k\" }}\n\
         auth = {{ users_file = \"u\", groups = [\"staff\", \"guests\"] }}\n\
         pool = {{ ipv4 = \"10.78.0.0/24\" }}\n{}",
        rest.trim_start()
    );
    GatewayConfig::parse(&text, "gateway.toml", Path::new("/etc")).map_err(|errors| errors.to_string())
}

#[track_caller]
fn wrong(rest: &str, reasons: &[&str]) {
    let found = parse(rest).expect_err(rest);
    for reason in reasons {
        assert!(found.contains(reason), "no {reason:?} in:\n{found}");
    }
}

#[test]
fn a_group_has_what_it_says_and_the_rest_of_everybody() {
    let config = parse(
        r#"
[network]
routes = ["10.77.0.0/16"]
exclude_routes = ["10.77.9.0/24"]
dns = ["10.77.0.53"]
domains = ["corp.test"]
acl_default = "deny"
[[network.acl]]
action = "allow"
networks = ["10.77.0.53/32"]
ports = ["53"]
[[group]]
name = "staff"
routes = []
acl = [{ action = "allow", protocol = "tcp", ports = ["443", "8000-8999"] }]
[[group]]
name = "guests"
domains = []
acl_default = "allow"
"#,
    )
    .expect("valid");
    let staff = config.pushed(Some("staff"));
    assert!(staff.routes.is_empty() && staff.exclude_routes.is_empty());
    assert_eq!(staff.domains, ["corp.test"]);
    let guests = config.pushed(Some("guests"));
    assert_eq!(guests.routes, config.network.routes);
    assert_eq!(guests.exclude_routes, config.network.exclude_routes);
    assert!(guests.domains.is_empty());
    for unknown in [None, Some("others")] {
        assert_eq!(config.pushed(unknown).routes, config.network.routes);
        assert_eq!(config.access(unknown).rules.len(), 1);
    }
    let access = config.access(Some("staff"));
    assert_eq!(access.default, AccessAction::Deny);
    assert_eq!(access.rules[0].ports, [443..=443, 8000..=8999]);
    assert_eq!(access.rules[1], &config.network.acl[0]);
    assert_eq!(config.access(Some("guests")).default, AccessAction::Allow);
}

#[test]
fn a_group_is_one_of_the_login_and_there_once() {
    wrong(
        "[[group]]\nname = \"boss\"\n",
        &["gateway.toml:5:8: group.name: boss is not one of auth.groups"],
    );
    wrong(
        "[[group]]\nname = \"staff\"\n[[group]]\nname = \"staff\"\n",
        &["gateway.toml:7:8: group.name: staff is there twice"],
    );
    wrong(
        "[[group]]\nroutes = []\n",
        &["gateway.toml:4:1: group.name: is missing"],
    );
    wrong(
        "[group]\nname = \"staff\"\n",
        &["group: expected a list of sections, found a section; write [[group]]"],
    );
    wrong("group = [1]\n", &["group: expected a section, found an integer"]);
    wrong(
        "[[groups]]\nname = \"staff\"\n",
        &["gateway.toml:4:3: groups: unknown section; did you mean [group]?"],
    );
}

#[test]
fn unknown_keys_of_lists_are_found_where_they_are() {
    wrong(
        "[[group]]\nname = \"staff\"\nroute = []\n",
        &["gateway.toml:6:1: group.route: unknown key in [group]; did you mean `routes`?"],
    );
    wrong(
        "[[network.acl]]\naction = \"deny\"\nnetwork = []\n",
        &["gateway.toml:6:1: network.acl.network: unknown key in [network.acl]; did you mean `networks`?"],
    );
    wrong(
        "[[group]]\nname = \"staff\"\n[[group.acl]]\naction = \"deny\"\nproto = \"tcp\"\n",
        &["gateway.toml:8:1: group.acl.proto: unknown key in [group.acl]; did you mean `protocol`?"],
    );
    wrong(
        "[network]\ninterface = \"a b\"\n[[group]]\nname = \"staff\"\nroutes = []\n",
        &["gateway.toml:5:13: network.interface"],
    );
}

#[test]
fn a_rule_is_exact() {
    for (rule, reason) in [
        ("networks = []", "network.acl.action: is missing"),
        ("action = \"drop\"", "network.acl.action: `drop` is no action"),
        ("action = \"deny\"\nnetworks = [\"10.0.0.1/8\"]", "host bits set"),
        (
            "action = \"deny\"\nnetworks = [\"2001:db8::/32\"]",
            "out of reach of clients without pool.ipv6",
        ),
        (
            "action = \"deny\"\nprotocol = \"sctp\"",
            "network.acl.protocol: `sctp` is not known here",
        ),
        ("action = \"deny\"\nports = [\"0\"]", "no port from 1 to 65535"),
        ("action = \"deny\"\nports = [\"9-8\"]", "the range is 8-9"),
        ("action = \"deny\"\nports = [443]", "expected a string in quotes"),
        (
            "action = \"deny\"\nprotocol = \"icmp\"\nports = [\"1\"]",
            "network.acl.ports: ICMP has no ports",
        ),
        (
            "action = \"deny\"\nnetworks = [\"10.0.0.0/8\", \"10.1.0.0/16\"]",
            "10.1.0.0/16 overlaps 10.0.0.0/8, which already has it",
        ),
    ] {
        wrong(&format!("[[network.acl]]\n{rule}\n"), &["gateway.toml:", reason]);
    }
}

#[test]
fn a_rule_behind_one_that_takes_everything_of_it_is_a_mistake() {
    wrong(
        r#"
[[network.acl]]
action = "allow"
networks = ["10.0.0.0/8"]
[[network.acl]]
action = "deny"
networks = ["10.1.0.0/16"]
ports = ["25"]
"#,
        &["gateway.toml:7:1: network.acl: has no effect: rule 1 of the list fits whatever this one fits"],
    );
    // The narrower one first is how it is meant; and what a group says is said before everybody's.
    parse(
        r#"
[[network.acl]]
action = "deny"
networks = ["10.1.0.0/16"]
[[network.acl]]
action = "allow"
networks = ["10.0.0.0/8"]
[[group]]
name = "staff"
acl = [{ action = "allow", networks = ["10.0.0.0/8"] }]
"#,
    )
    .expect("valid");
}

#[test]
fn rules_that_leave_nothing_are_a_mistake() {
    wrong(
        "[network]\nacl_default = \"deny\"\n",
        &["gateway.toml:5:15: network.acl_default: clients could reach nothing at all; add a rule"],
    );
    wrong(
        "[[group]]\nname = \"staff\"\nacl_default = \"deny\"\n[[group.acl]]\naction = \"deny\"\nprotocol = \"udp\"\n",
        &["gateway.toml:6:15: group.acl_default: clients of staff could reach nothing at all"],
    );
}

#[test]
fn a_name_server_that_nobody_may_ask_is_a_mistake() {
    let rules = "[[network.acl]]\naction = \"allow\"\nnetworks = [\"10.77.0.53/32\"]\nprotocol = \"tcp\"\n";
    wrong(
        &format!("[network]\ndns = [\"10.77.0.53\"]\nacl_default = \"deny\"\n{rules}"),
        &["gateway.toml:5:8: network.dns: clients are told to ask 10.77.0.53, and the rules do not let them"],
    );
    wrong(
        &format!("[network]\nacl_default = \"deny\"\n{rules}[[group]]\nname = \"staff\"\ndns = [\"10.77.0.53\"]\n"),
        &["group.dns: clients of staff are told to ask 10.77.0.53"],
    );
}

#[test]
fn routes_of_a_group_are_checked_as_those_of_everybody() {
    wrong(
        "[[group]]\nname = \"staff\"\nroutes = [\"fd00::/8\"]\n",
        &["gateway.toml:6:11: group.routes: fd00::/8 is useless to clients without pool.ipv6"],
    );
    wrong(
        "[[group]]\nname = \"staff\"\nroutes = [\"10.0.0.0/8\"]\nexclude_routes = [\"10.0.0.0/8\"]\n",
        &["group.exclude_routes: 10.0.0.0/8 takes back all of 10.0.0.0/8 in group.routes"],
    );
    wrong(
        "[[group]]\nname = \"staff\"\nsplit_dns = [\"corp.test\"]\n",
        &["group.split_dns: has no effect without name servers"],
    );
}

#[test]
fn translation_names_an_interface_only_if_there_is_one() {
    wrong(
        "[network]\nnat_interface = \"eth0\"\n",
        &["gateway.toml:5:17: network.nat_interface: has no effect without network.nat = true"],
    );
    wrong(
        "[network]\nnat = true\nnat_interface = \"marmot-gw\"\n",
        &["gateway.toml:6:17: network.nat_interface: is the tunnel's own device"],
    );
    let config = parse("[network]\nnat = true\nnat_interface = \"eth0\"\n").expect("valid");
    assert!(config.network.nat);
    assert_eq!(config.network.nat_interface.as_deref(), Some("eth0"));
}
