//! `[[group]]`: what users of a group are told and allowed instead of what `[network]` says.

use std::net::IpAddr;

use ipnet::IpNet;

use super::read::{check_excludes, check_routes, domains, name_servers, networks, split_dns};
use super::{Auth, GatewayConfig, Listen, Network, Pool};
use crate::access::{self, AccessAction, AccessRule, MAX_NETWORKS_IN_ALL};
use crate::document::Document;
use crate::names;
use crate::section::Section;

/// Groups with settings of their own: as many as `auth.groups` has.
const MAX_GROUPS: usize = 32;

/// `[[group]]`: a group with settings of its own. What is `None` is as in `[network]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// One of `auth.groups`.
    pub name: String,
    /// Networks pushed to clients; empty pushes a default route.
    pub routes: Option<Vec<IpNet>>,
    /// Networks that clients keep outside of the tunnel; none if there are only `routes`.
    pub exclude_routes: Option<Vec<IpNet>>,
    /// Name servers pushed to clients.
    pub dns: Option<Vec<IpAddr>>,
    /// Search domains.
    pub domains: Option<Vec<String>>,
    /// Domains for which the pushed name servers are asked.
    pub split_dns: Option<Vec<String>>,
    /// What becomes of a packet that no rule fits.
    pub acl_default: Option<AccessAction>,
    /// Rules before those of `[network]`.
    pub acl: Vec<AccessRule>,
}

/// What is pushed to clients of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed<'a> {
    /// Networks behind the tunnel; empty is everything.
    pub routes: &'a [IpNet],
    /// Networks that stay outside.
    pub exclude_routes: &'a [IpNet],
    /// Name servers.
    pub dns: &'a [IpAddr],
    /// Search domains.
    pub domains: &'a [String],
    /// Domains for the name servers; empty is all.
    pub split_dns: &'a [String],
}

/// What clients of one group may talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access<'a> {
    /// The rules in their order: those of the group, then those for everybody.
    pub rules: Vec<&'a AccessRule>,
    /// What becomes of a packet that no rule fits.
    pub default: AccessAction,
}

impl GatewayConfig {
    /// What is pushed to clients of a group, or of none.
    pub fn pushed(&self, group: Option<&str>) -> Pushed<'_> {
        pushed(&self.network, find(&self.groups, group))
    }

    /// What clients of a group, or of none, may talk to.
    pub fn access(&self, group: Option<&str>) -> Access<'_> {
        access(&self.network, find(&self.groups, group))
    }
}

fn find<'a>(groups: &'a [Group], name: Option<&str>) -> Option<&'a Group> {
    groups.iter().find(|group| Some(group.name.as_str()) == name)
}

fn pushed<'a>(network: &'a Network, group: Option<&'a Group>) -> Pushed<'a> {
    let all = Pushed {
        routes: &network.routes,
        exclude_routes: &network.exclude_routes,
        dns: &network.dns,
        domains: &network.domains,
        split_dns: &network.split_dns,
    };
    let Some(group) = group else { return all };
    let no_excludes = group.routes.is_some().then_some(&[][..]);
    Pushed {
        routes: group.routes.as_deref().unwrap_or(all.routes),
        exclude_routes: group
            .exclude_routes
            .as_deref()
            .or(no_excludes)
            .unwrap_or(all.exclude_routes),
        dns: group.dns.as_deref().unwrap_or(all.dns),
        domains: group.domains.as_deref().unwrap_or(all.domains),
        split_dns: group.split_dns.as_deref().unwrap_or(all.split_dns),
    }
}

fn access<'a>(network: &'a Network, group: Option<&'a Group>) -> Access<'a> {
    let own = group.into_iter().flat_map(|group| &group.acl);
    Access {
        rules: own.chain(&network.acl).collect(),
        default: group.and_then(|group| group.acl_default).unwrap_or(network.acl_default),
    }
}

/// Reads all of them, each by itself.
pub(super) fn read<'d, 't>(document: &'d Document<'t>, pool: &Pool, listen: &Listen) -> Vec<(Group, Section<'d, 't>)> {
    let sections = document.list("group", MAX_GROUPS);
    let read = sections.into_iter().map(|section| {
        let group = group(document, &section, pool, listen);
        group.map(|group| (group, section))
    });
    read.flatten().collect()
}

/// Checks what each comes to together with `[auth]` and `[network]`.
pub(super) fn check(
    groups: &[(Group, Section<'_, '_>)],
    auth: &Auth,
    (network, network_section): (&Network, &Section<'_, '_>),
    pool: &Pool,
) {
    for (index, (group, section)) in groups.iter().enumerate() {
        if !auth.groups.contains(&group.name) {
            let help = "nobody could be in it; add it there";
            section.wrong(
                "name",
                format!("{} is not one of auth.groups", group.name),
                Some(help.into()),
            );
        }
        if groups[..index].iter().any(|(other, _)| other.name == group.name) {
            section.wrong("name", format!("{} is there twice", group.name), None);
        }
        let pushed = pushed(network, Some(group));
        check_excludes(
            section,
            group.exclude_routes.as_deref().unwrap_or_default(),
            pushed.routes,
            pool,
        );
        if pushed.dns.is_empty() && section.length("split_dns").is_some_and(|length| length > 0) {
            let help = "set dns here or in [network]";
            section.wrong("split_dns", "has no effect without name servers", Some(help.into()));
        }
    }
    for (group, section) in groups {
        check_access(network, (Some(group), section), network_section);
    }
    let has_own = |name: &String| groups.iter().any(|(group, _)| group.name == *name);
    if auth.groups.is_empty() || !auth.groups.iter().all(has_own) {
        check_access(network, (None, network_section), network_section);
    }
}

fn group<'d>(document: &'d Document<'_>, section: &Section<'d, '_>, pool: &Pool, listen: &Listen) -> Option<Group> {
    let name = section.required("name", names::USER, names::user);
    let (routes, excludes) = (networks(section, "routes"), networks(section, "exclude_routes"));
    let (dns, domains, split_dns) = (name_servers(section), domains(section), split_dns(section));
    let acl_default = section.optional("acl_default", "\"allow\", \"deny\"", access::action);
    let families = (pool.ipv4.is_some(), pool.ipv6.is_some());
    let acl = access::rules(document, section, "group.acl", families);
    check_routes(section, &routes, pool, listen);
    let is_set = |key| section.has(key);
    Some(Group {
        name: name?,
        routes: is_set("routes").then_some(routes),
        exclude_routes: is_set("exclude_routes").then_some(excludes),
        dns: is_set("dns").then_some(dns),
        domains: is_set("domains").then_some(domains),
        split_dns: is_set("split_dns").then_some(split_dns),
        acl_default,
        acl,
    })
}

/// What the rules come to for one group: whether its clients may talk to anybody, and may ask the name servers that they are told.
fn check_access(network: &Network, (group, section): (Option<&Group>, &Section<'_, '_>), all: &Section<'_, '_>) {
    let (pushed, access) = (pushed(network, group), access(network, group));
    let whose = group.map_or_else(|| "clients".to_owned(), |group| format!("clients of {}", group.name));
    let is_allowed = |rule: &&&AccessRule| rule.action == AccessAction::Allow;
    if access.default == AccessAction::Deny && access.rules.iter().find(is_allowed).is_none() {
        let at = if section.has("acl_default") { section } else { all };
        let help = "add a rule with action = \"allow\"".to_owned();
        return at.wrong("acl_default", format!("{whose} could reach nothing at all"), Some(help));
    }
    let in_all: usize = access.rules.iter().map(|rule| rule.networks.len()).sum();
    if in_all > MAX_NETWORKS_IN_ALL {
        let help = format!("at most {MAX_NETWORKS_IN_ALL} in all rules together");
        section.wrong(
            "acl",
            format!("the rules for {whose} name {in_all} networks"),
            Some(help),
        );
    }
    let at = if section.has("dns") { section } else { all };
    for (index, server) in pushed.dns.iter().enumerate() {
        if !access::passes_udp(access.rules.iter().copied(), access.default, (*server, 53)) {
            let message = format!("{whose} are told to ask {server}, and the rules do not let them");
            let help = format!("allow port 53 of {server} by UDP and TCP");
            at.wrong_item("dns", index, message, Some(help));
        }
    }
}
