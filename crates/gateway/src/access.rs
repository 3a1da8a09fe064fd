//! What clients of each group may talk to: the rules of the configuration, compiled once for all workers.

use std::collections::HashMap;
use std::sync::Arc;

use config::gateway::GatewayConfig;
use config::{AccessAction, AccessProtocol, AccessRule};
use packet::AccessList;
use packet::access::{Action, Protocol, Rule};

/// See the module. Without rules there is nothing to look up.
#[derive(Debug, Default)]
pub(crate) struct Access {
    everybody: Option<Arc<AccessList>>,
    groups: HashMap<String, Option<Arc<AccessList>>>,
}

impl Access {
    /// The rules of this configuration.
    pub(crate) fn new(config: &GatewayConfig) -> Self {
        let groups = config.groups.iter().map(|group| {
            let name = group.name.clone();
            let list = list(config, Some(&name));
            (name, list)
        });
        Self {
            everybody: list(config, None),
            groups: groups.collect(),
        }
    }

    /// What clients of a group may talk to; `None` is everybody.
    pub(crate) fn of(&self, group: Option<&str>) -> Option<Arc<AccessList>> {
        let own = group.and_then(|group| self.groups.get(group));
        own.unwrap_or(&self.everybody).clone()
    }
}

fn list(config: &GatewayConfig, group: Option<&str>) -> Option<Arc<AccessList>> {
    let access = config.access(group);
    if access.rules.is_empty() && access.default == AccessAction::Allow {
        return None;
    }
    let rules: Vec<Rule> = access.rules.into_iter().map(rule).collect();
    Some(Arc::new(AccessList::compile(&rules, action(access.default))))
}

fn rule(rule: &AccessRule) -> Rule {
    Rule {
        action: action(rule.action),
        networks: rule.networks.clone(),
        protocol: match rule.protocol {
            AccessProtocol::Any => Protocol::Any,
            AccessProtocol::Tcp => Protocol::Tcp,
            AccessProtocol::Udp => Protocol::Udp,
            AccessProtocol::Icmp => Protocol::Icmp,
        },
        ports: rule.ports.clone(),
    }
}

fn action(action: AccessAction) -> Action {
    match action {
        AccessAction::Allow => Action::Allow,
        AccessAction::Deny => Action::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, Instant};

    fn config(more: &str) -> GatewayConfig {
        let text = format!(
            "tls = {{ certificate_file = \"c\", key_file = \"k\" }}\nauth = {{ users_file = \"u\", groups = [\"staff\", \"guests\"] }}\n{more}"
        );
        GatewayConfig::parse(&text, "gateway.toml", Path::new("/")).expect("config")
    }

    #[test]
    fn each_group_has_its_rules_and_nobody_one_that_says_nothing() {
        let access = Access::new(&config("[[group]]\nname = \"staff\"\n"));
        assert!(access.of(None).is_none() && access.of(Some("staff")).is_none());
        let access = Access::new(&config(
            "[[network.acl]]\naction = \"deny\"\nports = [\"25\"]\n\
             [[group]]\nname = \"staff\"\nacl = [{ action = \"allow\" }]\n",
        ));
        let of = |group| access.of(group).expect("rules");
        assert_eq!(of(None), of(Some("guests")));
        assert_ne!(of(None), of(Some("staff")));
        assert!(Arc::ptr_eq(&of(None), &of(Some("guests"))), "compiled once");
    }

    /// As many rules as a configuration may have, as entangled as they can be: networks beside each other, and ports of all.
    #[test]
    fn a_thousand_rules_are_compiled_while_packets_wait() {
        let rules = |entangled: bool| -> Vec<Rule> {
            let rule = |number: u16| Rule {
                action: if number.is_multiple_of(2) {
                    Action::Allow
                } else {
                    Action::Deny
                },
                networks: match number.is_multiple_of(2) && entangled {
                    true => Vec::new(),
                    false => (0..4_u16)
                        .map(|n| format!("10.{}.{}.{}/26", number / 250, number % 250, n * 64))
                        .map(|net| net.parse().expect("a network"))
                        .collect(),
                },
                protocol: Protocol::Any,
                ports: vec![number * 8..=number * 8 + 3],
            };
            (0..1000).map(rule).collect()
        };
        for (entangled, words) in [(false, "beside each other"), (true, "entangled")] {
            let rules = rules(entangled);
            let began = Instant::now();
            let list = AccessList::compile(&rules, Action::Deny);
            let took = began.elapsed();
            println!("1,000 rules {words}: {took:?}");
            assert!(took < Duration::from_secs(20), "{took:?}");
            assert_ne!(list, AccessList::compile([], Action::Deny));
        }
    }
}
