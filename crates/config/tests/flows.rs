//! `[flows]` and its list of rules: what is read, and what people get to read when it is wrong.

use std::path::Path;

use config::client::ClientConfig;
use config::{FlowAction, FlowProtocol, Flows, MAX_FLOW_RULES};

const URL: &str = "[gateway]\nurl = \"https://vpn.example.com\"\n";

fn parse(text: &str) -> Result<Flows, String> {
    let text = format!("{URL}{text}");
    let config = ClientConfig::parse(&text, "client.toml", Path::new("/etc/marmot"));
    config.map(|config| config.flows).map_err(|errors| errors.to_string())
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let found = parse(text).expect_err(text);
    for words in expected {
        assert!(found.contains(words), "{words:?} is not in\n{found}");
    }
    assert_eq!(found.matches("client.toml:").count(), expected.len(), "{found}");
}

#[test]
fn without_the_section_routes_alone_decide() {
    let flows = parse("").expect("valid");
    assert!(!flows.are_chosen() && flows.rules.is_empty());
    assert!(parse("[flows]\nrun = true\n").expect("valid").are_chosen());
}

#[test]
fn rules_are_read_in_their_order() {
    let flows = parse(
        r#"
[flows]
default = "direct"
[[flows.rule]]
action = "direct"
networks = ["192.168.0.0/16", "fd00::/8"]
[[flows.rule]]
action = "tunnel"
ports = ["443", "8000-8999"]
protocol = "udp"
unit = "web.service"
[[flows.rule]]
action = "tunnel"
slice = "work-vpn.slice"
user = "bob"
"#,
    )
    .expect("valid");
    assert_eq!(flows.default, FlowAction::Direct);
    let actions: Vec<_> = flows.rules.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [FlowAction::Direct, FlowAction::Tunnel, FlowAction::Tunnel]);
    assert_eq!(flows.rules[0].networks.len(), 2);
    assert_eq!(flows.rules[1].ports, [443..=443, 8000..=8999]);
    assert_eq!(flows.rules[1].protocol, Some(FlowProtocol::Udp));
    assert_eq!(flows.rules[1].cgroup.as_deref(), Some("system.slice/web.service"));
    assert_eq!(flows.rules[2].cgroup.as_deref(), Some("work.slice/work-vpn.slice"));
    assert_eq!(flows.rules[2].user.as_deref(), Some("bob"));
}

#[test]
fn each_mistake_in_a_rule_has_its_line_and_key() {
    refused(
        r#"[[flows.rule]]
action = "tunel"
user = "bob"
[[flows.rule]]
action = "direct"
ports = ["443", "9-1"]
networks = ["10.0.0.1/8"]
protocol = "icmp"
unit = "firefox"
cgroup = "work.slice"
"#,
        &[
            "client.toml:4:10: flows.rule.action: `tunel` is not known here",
            "client.toml:8:17: flows.rule.ports: `9-1` ends before it begins",
            "client.toml:9:13: flows.rule.networks: `10.0.0.1/8` has host bits set; the network is 10.0.0.0/8",
            "client.toml:10:12: flows.rule.protocol: `icmp` is not known here",
            "client.toml:11:8: flows.rule.unit: `firefox` does not end in .service or .scope",
            "client.toml:12:10: flows.rule.cgroup: `work.slice` does not begin with /",
        ],
    );
    refused(
        "[[flows.rule]]\naction = \"direct\"\nport = [\"443\"]\nuser = \"bob\"\n",
        &["client.toml:5:1: flows.rule.port: unknown key in [flows.rule]; did you mean `ports`?"],
    );
    refused(
        "[flows]\nrules = []\n",
        &["client.toml:4:1: flows.rules: unknown key in [flows]"],
    );
    refused(
        "[flows.rule]\naction = \"direct\"\n",
        &["flows.rule: expected a list of sections, found a section; write [[flows.rule]] and its keys below"],
    );
}

#[test]
fn a_rule_that_says_nothing_or_never_matches_is_a_mistake() {
    refused(
        "[[flows.rule]]\naction = \"direct\"\n",
        &["client.toml:3:1: flows.rule: matches everything: say so with flows.default"],
    );
    refused(
        "[[flows.rule]]\naction = \"direct\"\nports = []\n",
        &["flows.rule: matches everything"],
    );
    refused(
        r#"[[flows.rule]]
action = "direct"
user = "bob"
[[flows.rule]]
action = "tunnel"
networks = ["10.0.0.0/8"]
[[flows.rule]]
action = "tunnel"
user = "bob"
ports = ["443"]
[[flows.rule]]
action = "tunnel"
networks = ["10.1.0.0/16"]
"#,
        &[
            "client.toml:9:1: flows.rule: never matches: rule 1 matches all of it first, and says the contrary",
            "client.toml:13:1: flows.rule: never matches: rule 2 matches all of it first, and says the same",
        ],
    );
    refused(
        "[[flows.rule]]\naction = \"direct\"\nunit = \"a.service\"\ncgroup = \"/b\"\n",
        &["client.toml:5:8: flows.rule.unit: conflicts with cgroup; keep one of the two"],
    );
    refused(
        "[flows]\ndefault = \"direct\"\n",
        &["client.toml:4:11: flows.default: lets nothing into the tunnel"],
    );
}

#[test]
fn there_may_be_a_thousand_rules_and_no_more() {
    let rule = |number: usize| {
        format!(
            "[[flows.rule]]\naction = \"direct\"\nnetworks = [\"10.{}.{}.0/24\"]\n",
            number / 256,
            number % 256
        )
    };
    let full: String = (0..MAX_FLOW_RULES).map(rule).collect();
    assert_eq!(parse(&full).expect("valid").rules.len(), MAX_FLOW_RULES);
    refused(
        &(full + &rule(MAX_FLOW_RULES)),
        &["flows.rule: 1001 of them are too many; at most 1000"],
    );
}
