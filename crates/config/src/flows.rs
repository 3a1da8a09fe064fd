//! `[flows]`: which flows of this host enter the tunnel, rule by rule.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::document::Document;
use crate::section::Section;
use crate::{names, routes};

/// Rules of one tunnel. Measured at this number: they load in well under 200 ms, and cost nothing that can be measured once a connection
/// is decided.
pub const MAX_FLOW_RULES: usize = 1000;

/// Networks, and ports, of one rule: more belong into a second rule.
const MAX_PER_RULE: usize = 64;

/// The longest path of a control group, in bytes; nft takes PATH_MAX (4096) with the place of the hierarchy before it.
const MAX_CGROUP_BYTES: usize = 1024;

/// The deepest control group: systemd's own trees are less than 10 deep, and the kernel compares one level for each.
const MAX_CGROUP_DEPTH: usize = 32;

/// `[flows]`. Without rules, `default = "tunnel"` and `run = false` nothing is filtered: routes alone decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flows {
    /// What becomes of flows that no rule matches.
    pub default: FlowAction,
    /// Load the table also without a rule, for `marmot run`.
    pub run: bool,
    /// `[[flows.rule]]`, the first match wins; at most [`MAX_FLOW_RULES`].
    pub rules: Vec<FlowRule>,
}

impl Flows {
    /// Whether flows are told apart at all.
    pub fn are_chosen(&self) -> bool {
        self.run || !self.rules.is_empty() || self.default == FlowAction::Direct
    }
}

/// Where a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowAction {
    /// Into the tunnel.
    Tunnel,
    /// Past it.
    Direct,
}

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// `[[flows.rule]]`: all that is set must match, and something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRule {
    /// What becomes of a flow that matches.
    pub action: FlowAction,
    /// Where it goes to; empty is anywhere.
    pub networks: Vec<IpNet>,
    /// Its port there; empty is any, also of protocols without ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Its protocol; `None` is any, with ports TCP and UDP.
    pub protocol: Option<FlowProtocol>,
    /// The control group of its socket, or one above it: the path from the root of the hierarchy, without a slash before it.
    pub cgroup: Option<String>,
    /// The user whose socket it is: a name or a number.
    pub user: Option<String>,
}

impl FlowRule {
    /// Whether whatever `later` matches is matched by this one.
    fn covers(&self, later: &Self) -> bool {
        let within = |port: &RangeInclusive<u16>| {
            let mut own = self.ports.iter();
            own.any(|range| range.start() <= port.start() && port.end() <= range.end())
        };
        let networks = self.networks.is_empty()
            || !later.networks.is_empty()
                && later
                    .networks
                    .iter()
                    .all(|net| self.networks.iter().any(|own| own.contains(net)));
        let ports = self.ports.is_empty() || !later.ports.is_empty() && later.ports.iter().all(within);
        let protocol = self.protocol.is_none() || self.protocol == later.protocol;
        let cgroup = self.cgroup.as_ref().is_none_or(|own| {
            let inside =
                |path: &String| path == own || path.strip_prefix(own).is_some_and(|rest| rest.starts_with('/'));
            later.cgroup.as_ref().is_some_and(inside)
        });
        let user = self.user.is_none() || self.user == later.user;
        networks && ports && protocol && cgroup && user
    }
}

/// Reads `[flows]`.
pub(crate) fn read(document: &Document<'_>) -> Option<Flows> {
    let section = document.section("flows");
    let default = section.choice("default", "tunnel", &ACTIONS);
    let run = section.boolean("run", false);
    let tables = document.list_in(&section, ("rule", "flows.rule"), MAX_FLOW_RULES);
    let read: Vec<_> = tables.iter().map(rule).collect();
    for (later, (table, rule)) in tables.iter().zip(&read).enumerate() {
        let Some(rule) = rule else { continue };
        let earlier = read.iter().take(later).enumerate().find_map(|(at, earlier)| {
            let earlier = earlier.as_ref()?;
            earlier.covers(rule).then_some((at + 1, earlier))
        });
        if let Some((number, earlier)) = earlier {
            let why = if earlier.action == rule.action {
                "and says the same"
            } else {
                "and says the contrary"
            };
            table.wrong_section(format!("never matches: rule {number} matches all of it first, {why}"));
        }
    }
    let whole = read.iter().all(Option::is_some);
    let rules: Vec<FlowRule> = read.into_iter().flatten().collect();
    let default = default?;
    let entered = rules.iter().any(|rule| rule.action == FlowAction::Tunnel);
    if default == FlowAction::Direct && whole && !entered && !run {
        let help = "add a [[flows.rule]] with action = \"tunnel\", or set run = true for `marmot run`";
        section.wrong("default", "lets nothing into the tunnel", Some(help.to_owned()));
    }
    Some(Flows { default, run, rules })
}

const ACTIONS: [(&str, FlowAction); 2] = [("tunnel", FlowAction::Tunnel), ("direct", FlowAction::Direct)];

const UNIT: &str = "the full name of a systemd unit, such as firefox.service";
const SLICE: &str = "the full name of a systemd slice, such as work.slice";
const CGROUP: &str = "the path of a control group from the root of its hierarchy, such as /work.slice";
const OWNER: &str = "the name or number of a user";

fn rule(section: &Section<'_, '_>) -> Option<FlowRule> {
    let action = section.required("action", "\"tunnel\", \"direct\"", |text| {
        let found = ACTIONS.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, action)| *action)
            .ok_or_else(|| "is not known here".to_owned())
    });
    let networks = section.list("networks", &[], MAX_PER_RULE, "networks", routes::network);
    let ports = section.list(
        "ports",
        &[],
        MAX_PER_RULE,
        "ports: one, or two with - between them",
        ports,
    );
    let protocols = [
        ("any", None),
        ("tcp", Some(FlowProtocol::Tcp)),
        ("udp", Some(FlowProtocol::Udp)),
    ];
    let protocol = section.choice("protocol", "any", &protocols);
    let unit = section.optional("unit", UNIT, |text| unit_name(text, &[".service", ".scope"]));
    let slice = section.optional("slice", SLICE, |text| unit_name(text, &[".slice"]));
    let path = section.optional("cgroup", CGROUP, cgroup);
    let user = section.optional("user", OWNER, names::user);
    for key in ["unit", "slice"] {
        if path.is_some() && section.has(key) && !section.is_empty(key) {
            section.wrong(key, "conflicts with cgroup", Some("keep one of the two".to_owned()));
        }
    }
    let keys = ["networks", "ports", "unit", "slice", "cgroup", "user"];
    let something = keys.iter().any(|key| {
        let listed = section.length(key).is_some_and(|length| length > 0);
        section.has(key) && !section.is_empty(key) && (listed || section.length(key).is_none())
    });
    if !something && protocol.is_some_and(|protocol| protocol.is_none()) {
        section.wrong_section("matches everything: say so with flows.default");
        return None;
    }
    routes::report_covered(section, "networks", &networks);
    let cgroup = match (unit, slice) {
        (Some(unit), slice) => Some(of_unit(&unit, slice.as_deref())),
        (None, Some(slice)) => Some(of_slice(&slice)),
        (None, None) => path,
    };
    Some(FlowRule {
        action: action?,
        networks,
        ports,
        protocol: protocol?,
        cgroup,
        user,
    })
}

/// `443`, `8000-8999`
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_), Some(_)) => Err("ends before it begins".to_owned()),
        (_, _) => Err("is not a port, 1 to 65535, nor two of them".to_owned()),
    }
}

/// systemd.unit(5): what a name is made of.
fn unit_name(text: &str, kinds: &[&str]) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    let stem = kinds.iter().find_map(|kind| text.strip_suffix(kind));
    match stem {
        Some(stem) if !stem.is_empty() && text.len() < 256 && text.bytes().all(good) => Ok(text.to_owned()),
        Some(_) => Err("is not the name of a unit".to_owned()),
        None => Err(format!("does not end in {}", kinds.join(" or "))),
    }
}

fn cgroup(text: &str) -> Result<String, String> {
    let path = text
        .strip_prefix('/')
        .ok_or("does not begin with /")?
        .trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    // What nft does not take between quotes.
    let good = |byte: u8| byte > b' ' && byte < 0x7f && !matches!(byte, b'"' | b'*');
    let name = |part: &&str| !matches!(*part, "" | "." | "..") && part.bytes().all(good);
    if !parts.iter().all(name) || path.len() > MAX_CGROUP_BYTES {
        return Err("is not the path of a control group".to_owned());
    }
    if parts.len() > MAX_CGROUP_DEPTH {
        return Err(format!("is deeper than {MAX_CGROUP_DEPTH} levels"));
    }
    Ok(path.to_owned())
}

/// Where systemd puts a unit of the system: instances of a template into a slice of the template's own (systemd.slice(5)).
fn of_unit(unit: &str, slice: Option<&str>) -> String {
    let template = unit.split_once('@').map(|(template, _)| template);
    let default = || match template {
        Some(template) => format!("system-{}.slice", template.replace('-', "\\x2d")),
        None => "system.slice".to_owned(),
    };
    let slice = slice.map_or_else(default, str::to_owned);
    format!("{}/{unit}", of_slice(&slice))
}

/// `a-b.slice` lies in `a.slice`.
fn of_slice(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let above = stem.match_indices('-').map(|(at, _)| format!("{}.slice/", &stem[..at]));
    above.collect::<String>() + slice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_where_systemd_puts_them() {
        for (unit, slice, path) in [
            ("firefox.service", None, "system.slice/firefox.service"),
            (
                "getty@tty1.service",
                None,
                "system.slice/system-getty.slice/getty@tty1.service",
            ),
            ("a-b@1.service", None, "system.slice/system-a\\x2db.slice/a-b@1.service"),
            ("a.service", Some("x.slice"), "x.slice/a.service"),
            (
                "a.service",
                Some("x-y-z.slice"),
                "x.slice/x-y.slice/x-y-z.slice/a.service",
            ),
        ] {
            assert_eq!(of_unit(unit, slice), path);
        }
        assert_eq!(of_slice("work.slice"), "work.slice");
    }

    #[test]
    fn ports_and_paths_are_exact() {
        assert_eq!(ports("443"), Ok(443..=443));
        assert_eq!(ports("8000-8999"), Ok(8000..=8999));
        for bad in ["0", "65536", "9-8", "a", "1-2-3", "-1", "http"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        assert_eq!(cgroup("/a.slice/b/"), Ok("a.slice/b".to_owned()));
        for bad in ["a", "/", "/a//b", "/a/../b", "/a\"b", "/a*", "/a b"] {
            assert!(cgroup(bad).is_err(), "{bad}");
        }
        assert!(cgroup(&"/a".repeat(33)).is_err());
    }

    #[test]
    fn a_rule_covers_what_it_matches_and_no_more() {
        let any = FlowRule {
            action: FlowAction::Tunnel,
            networks: Vec::new(),
            ports: Vec::new(),
            protocol: None,
            cgroup: None,
            user: Some("bob".to_owned()),
        };
        let web = FlowRule {
            ports: vec![443..=443],
            protocol: Some(FlowProtocol::Tcp),
            ..any.clone()
        };
        assert!(any.covers(&web) && any.covers(&any) && !web.covers(&any));
        let both = FlowRule {
            protocol: None,
            ..web.clone()
        };
        assert!(both.covers(&web) && !web.covers(&both));
        let of = |path: &str| FlowRule {
            cgroup: Some(path.to_owned()),
            ..any.clone()
        };
        assert!(of("a").covers(&of("a/b")) && !of("a/b").covers(&of("a")) && !of("a").covers(&of("ab")));
    }
}
