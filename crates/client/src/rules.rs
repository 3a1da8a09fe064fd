//! The rules of `[[on_demand.rule]]`: which network the host is in, and whether there is to be a tunnel.
//!
//! ```text
//!   every 2 s, or at a word of the network: the route to everywhere --another--> first rule that matches --> Input::NetworkRule
//!                                                                                 | with a probe: TLS, pinned key, 3 s
//! ```
//! What a network says of itself (names, servers, domains) anybody can say. What is looked at here is this host's own routing,
//! and a key that only the network's server has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use config::{NetworkRule, Probe, RuleAction};
use lifecycle::Rule;
use plan::Transport;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use crate::gate::Gate;
use crate::host::Wayfinder;
use crate::probe::reach_pinned;
use crate::shell::Boxed;

/// Whoever moves to another network looks at the screen next. Nothing leaves the host for a look.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A server of the network that the host is in answers in milliseconds. Rules wait for it one after the other.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// Addresses of nobody (RFC 5737, RFC 3849): what leads there leads anywhere.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Where the host is, as far as its own routes say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// The interface that leads to everywhere; nothing without a network.
    pub(crate) interface: Option<String>,
    /// The addresses from which packets leave there.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The rules, and what they were last tried on.
pub(crate) struct Rules {
    rules: Arc<[NetworkRule]>,
    ways: Wayfinder,
    /// Lets probes through the lockdown.
    gate: Gate,
    seen: Option<Whereabouts>,
    look_at: Instant,
    looking: Option<Boxed<(Whereabouts, Option<Verdict>)>>,
}

/// What the rules say of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: RuleAction,
    /// The rule that matched; nothing where none did.
    pub(crate) rule: Option<String>,
}

impl Verdict {
    /// What the machine is told.
    pub(crate) fn rule(&self) -> Option<Rule> {
        match self.action {
            RuleAction::Connect => Some(Rule::Connect),
            RuleAction::StayDown => Some(Rule::StayDown),
            RuleAction::Ignore => None,
        }
    }
}

impl Rules {
    /// Nothing if there are no rules, or no host that has routes.
    pub(crate) fn new(rules: &[NetworkRule], ways: Option<Wayfinder>, gate: Gate) -> Option<Self> {
        let ways = ways.filter(|_| !rules.is_empty())?;
        Some(Self {
            rules: rules.into(),
            ways,
            gate,
            seen: None,
            look_at: Instant::now(),
            looking: None,
        })
    }

    /// The network may be another one.
    pub(crate) fn look_now(&mut self) {
        self.look_at = Instant::now();
    }

    /// Waits for another network, and tries the rules on it. Cancel safe.
    async fn next(&mut self) -> Verdict {
        loop {
            if self.looking.is_none() {
                sleep_until(self.look_at).await;
                self.look_at = Instant::now() + LOOK_EVERY;
                let out = (self.ways.clone(), self.gate.clone());
                let look = look(Arc::clone(&self.rules), out, self.seen.clone());
                self.looking = Some(Box::pin(look));
            }
            let Some(looking) = &mut self.looking else { continue };
            let (found, verdict) = looking.await;
            self.looking = None;
            self.seen = Some(found);
            if let Some(verdict) = verdict {
                info!(
                    interface = self.seen.as_ref().and_then(|seen| seen.interface.as_deref()),
                    rule = verdict.rule,
                    action = ?verdict.action,
                    "another network"
                );
                return verdict;
            }
        }
    }
}

/// What the rules say next; for ever where there are none.
pub(crate) async fn ruled(rules: &mut Option<Rules>) -> Verdict {
    match rules {
        Some(rules) => rules.next().await,
        None => std::future::pending().await,
    }
}

async fn look(
    rules: Arc<[NetworkRule]>,
    (ways, gate): (Wayfinder, Gate),
    seen: Option<Whereabouts>,
) -> (Whereabouts, Option<Verdict>) {
    let found = whereabouts(&ways).await;
    if seen.as_ref() == Some(&found) {
        return (found, None);
    }
    // Without a network there is nothing to judge; but somebody waits for the first word.
    let Some(interface) = &found.interface else {
        let first = seen.is_none().then_some(Verdict {
            action: RuleAction::Ignore,
            rule: None,
        });
        return (found, first);
    };
    for rule in rules.iter().filter(|rule| rule.matches(interface, &found.addresses)) {
        let there = match &rule.probe {
            Some(probe) => is_there(probe, &ways, &gate).await,
            None => true,
        };
        if there {
            let rule_name = Some(rule.name.clone());
            let verdict = Verdict {
                action: rule.action,
                rule: rule_name,
            };
            return (found, Some(verdict));
        }
    }
    let verdict = Verdict {
        action: RuleAction::Connect,
        rule: None,
    };
    (found, Some(verdict))
}

async fn whereabouts(ways: &Wayfinder) -> Whereabouts {
    let mut found = Whereabouts::default();
    for anywhere in ANYWHERE {
        if let Some((interface, source)) = ways.way_to(anywhere).await {
            found.interface.get_or_insert(interface);
            found.addresses.extend(source);
        }
    }
    found
}

/// Whether the probe's server is reached, outside of any tunnel, and has the key.
async fn is_there(probe: &Probe, ways: &Wayfinder, gate: &Gate) -> bool {
    // A lockdown would swallow it, and every network would be a strange one.
    if let Err(error) = gate.admit(std::iter::once((probe.address, Transport::Tcp))).await {
        debug!("the probe of a rule stays behind the lockdown: {error}");
        return false;
    }
    let reached = reach_pinned(probe.address, probe.pins.clone(), ways.mark(), PROBE_PATIENCE).await;
    if let Err(error) = &reached {
        debug!("the probe of a rule: {error}");
    }
    reached.is_ok()
}
