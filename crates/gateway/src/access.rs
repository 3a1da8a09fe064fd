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
