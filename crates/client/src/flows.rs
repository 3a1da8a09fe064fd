//! Flow rules on this host: from the configuration to the kernel, and after control groups that come and go.
//!
//! ```text
//!   [flows] --resolve (users by number)--> plan::Flows --load (one transaction)--> table marmot_flows_N
//!                                                                                      ^
//!   inotify: a control group is made or removed --> follow --flush and add elements----+
//! ```
//! Between a new control group and its place in the table its packets are dropped, not guessed about.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::FlowAction;
use config::client::ClientConfig;
use plan::flows::{Action, FlowRule, Groups, Owner, Protocol, can_be_named};
use plan::{Flows, NetworkPlan};
use platform::PlatformError;
use platform::cgroup::{Hierarchy, Watch};
use platform::firewall::{Nft, Purpose, Table};
use platform::slot::Slot;
use platform::users;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::ClientError;
use crate::clock;

/// Attempts at a script that names control groups: one may go between the look and nft's own. More than a few in a row do not.
const ATTEMPTS: usize = 5;

/// When what could not be followed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What `[flows]` says, with users by their numbers; nothing if routes alone decide.
///
/// # Errors
/// A user that this host does not have.
pub(crate) fn resolve(config: &ClientConfig) -> Result<Option<Flows>, ClientError> {
    if !config.flows.are_chosen() {
        return Ok(None);
    }
    let action = |action| match action {
        FlowAction::Tunnel => Action::Tunnel,
        FlowAction::Direct => Action::Direct,
    };
    let rules = config.flows.rules.iter().zip(1..).map(|(rule, number)| {
        let uid = rule.user.as_ref().map(|name| {
            users::number_of(name).ok_or_else(|| {
                ClientError::Mistaken(format!(
                    "flows.rule[{number}].user: this host has no user {name:?}; name one, or give the number"
                ))
            })
        });
        Ok(FlowRule {
            action: action(rule.action),
            networks: rule.networks.clone(),
            ports: rule.ports.iter().map(|range| (*range.start(), *range.end())).collect(),
            protocol: rule.protocol.map(|protocol| match protocol {
                config::FlowProtocol::Tcp => Protocol::Tcp,
                config::FlowProtocol::Udp => Protocol::Udp,
            }),
            cgroup: rule.cgroup.clone(),
            uid: uid.transpose()?,
        })
    });
    let [inside, outside] = run_groups(&config.tunnel.name);
    Ok(Some(Flows {
        default: action(config.flows.default),
        rules: rules.collect::<Result<_, ClientError>>()?,
        inside,
        outside,
    }))
}

/// The control groups of `marmot run`: inside, and outside.
fn run_groups(tunnel: &str) -> [String; 2] {
    ["inside", "outside"].map(|side| format!("marmot-{tunnel}-{side}"))
}

/// Flow rules that are in the kernel. Control groups are followed until this is dropped; the table stays.
#[derive(Debug)]
pub(crate) struct Steered {
    told: Arc<Told>,
    follower: Option<AbortHandle>,
    hierarchy: Option<Hierarchy>,
}

/// What is told of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) table: Table,
    pub(crate) flows: Flows,
    /// `marmot run` can be used.
    pub(crate) run: bool,
}

impl Drop for Steered {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

impl Steered {
    pub(crate) fn told(&self) -> Arc<Told> {
        Arc::clone(&self.told)
    }

    /// Removes the control groups of `marmot run`, if nobody is in them any more.
    pub(crate) fn leave(self) {
        let Some(hierarchy) = &self.hierarchy else { return };
        for group in [&self.told.flows.inside, &self.told.flows.outside] {
            hierarchy.remove_empty(group);
        }
    }

    /// Loads the rules of `plan` in one transaction, in place of those that are there; nothing if it has none. `keep`: they are the same
    /// rules, and go on counting.
    ///
    /// # Errors
    /// There is no nft, or the kernel cannot do what a rule asks for. What was there is still there.
    pub(crate) async fn load(
        slot: Slot,
        interface: &str,
        plan: &NetworkPlan,
        keep: bool,
    ) -> Result<Option<Self>, PlatformError> {
        let Some(flows) = &plan.flows else { return Ok(None) };
        let nft = Nft::find()?;
        let table = Table {
            purpose: Purpose::Flows,
            slot,
        };
        let counted = if keep {
            nft.counters(table).await
        } else {
            Ok(Vec::new())
        };
        let counts: BTreeMap<_, _> = counted
            .unwrap_or_default()
            .into_iter()
            .map(|counter| (counter.name, (counter.packets, counter.bytes)))
            .collect();
        let owner = Owner {
            slot: slot.number(),
            interface,
            addresses: &plan.addresses,
        };
        let began = Instant::now();
        let seen = match Seen::now(flows) {
            Ok(seen) => load_with(&nft, flows, owner, seen, &counts).await.map(Some),
            Err(error) => Err(PlatformError::Network {
                step: WHAT.to_owned(),
                source: error,
            }),
        };
        let seen = match seen {
            Err(error) if !flows.needs_groups() => {
                warn!("`marmot run` cannot be used: {error}");
                nft.load(&flows.script(owner, None, &counts), WHAT).await?;
                None
            }
            seen => seen?,
        };
        info!(
            rules = flows.rules.len(),
            ms = clock::ms(began.elapsed()),
            "flow rules loaded"
        );
        let hierarchy = seen.as_ref().map(|seen| seen.hierarchy.clone());
        let told = Told {
            table,
            flows: flows.clone(),
            run: seen.is_some(),
        };
        let flows = flows.clone();
        let follower = seen.map(|seen| tokio::spawn(follow(nft, slot, flows, seen)).abort_handle());
        Ok(Some(Self {
            told: Arc::new(told),
            follower,
            hierarchy,
        }))
    }
}

const WHAT: &str = "load the flow rules";

/// Control groups as they are, and the watch that says when they are no more.
struct Seen {
    hierarchy: Hierarchy,
    watch: Watch,
    groups: Groups,
}

impl Seen {
    fn now(flows: &Flows) -> io::Result<Self> {
        let hierarchy = Hierarchy::find()?;
        for group in [&flows.inside, &flows.outside] {
            // If not, `marmot run` makes it, as root.
            let _ = hierarchy.make(group);
        }
        let watch = Watch::new()?;
        let groups = look(&hierarchy, &watch, flows)?;
        Ok(Self {
            hierarchy,
            watch,
            groups,
        })
    }

    /// Looks again. Returns whether anything is different.
    fn again(&mut self, flows: &Flows) -> io::Result<bool> {
        let groups = look(&self.hierarchy, &self.watch, flows)?;
        let changed = groups != self.groups;
        self.groups = groups;
        Ok(changed)
    }
}

/// Each is watched before it is listed, so that nothing appears unseen.
fn look(hierarchy: &Hierarchy, watch: &Watch, flows: &Flows) -> io::Result<Groups> {
    let mut children = BTreeMap::new();
    for parent in flows.parents() {
        watch.add(&hierarchy.folder(parent))?;
        if let Some(mut found) = hierarchy.children(parent)? {
            found.retain(|child, _| can_be_named(child));
            children.insert(parent.to_owned(), found);
        }
    }
    Ok(Groups {
        root: hierarchy.nft_root(),
        children,
    })
}

async fn load_with(
    nft: &Nft,
    flows: &Flows,
    owner: Owner<'_>,
    mut seen: Seen,
    counts: &BTreeMap<String, (u64, u64)>,
) -> Result<Seen, PlatformError> {
    let mut attempts = 1;
    loop {
        let loaded = nft.load(&flows.script(owner, Some(&seen.groups), counts), WHAT).await;
        let Err(error) = loaded else { return Ok(seen) };
        attempts += 1;
        if attempts > ATTEMPTS || !seen.again(flows).is_ok_and(|changed| changed) {
            return Err(error);
        }
    }
}

/// Keeps the sets of control groups as the host is.
async fn follow(nft: Nft, slot: Slot, flows: Flows, mut seen: Seen) {
    // The first look is older than the table.
    let mut stale = true;
    loop {
        if stale {
            tokio::select! {
                changed = seen.watch.changed() => if ended(changed) { return },
                () = sleep(AGAIN) => {}
            }
        } else if ended(seen.watch.changed().await) {
            return;
        }
        stale = match seen.again(&flows) {
            Ok(changed) if changed || stale => !refresh(&nft, slot, &flows, &mut seen).await,
            Ok(_) => false,
            Err(error) => {
                warn!("cannot look at the control groups of flow rules: {error}; those that are new are held up");
                true
            }
        };
    }
}

fn ended(changed: io::Result<()>) -> bool {
    match changed {
        Ok(()) => false,
        Err(error) => {
            error!("control groups of flow rules are not followed any more: {error}; reload the configuration");
            true
        }
    }
}

/// Whether the table is as the control groups were when they were looked at last.
async fn refresh(nft: &Nft, slot: Slot, flows: &Flows, seen: &mut Seen) -> bool {
    for attempt in 1..=ATTEMPTS {
        let script = flows.groups_script(slot.number(), &seen.groups);
        match nft.load(&script, "follow the control groups of flow rules").await {
            Ok(()) => {
                debug!(attempt, "flow rules follow the control groups");
                return true;
            }
            Err(error) if attempt == ATTEMPTS => warn!("{error}; control groups that are new are held up"),
            Err(_) => {
                // One that went meanwhile; if it was something else, the next attempt says so.
                let _ = seen.again(flows);
            }
        }
    }
    false
}

/// Takes the table off the host.
///
/// # Errors
/// It is there and stays.
pub(crate) async fn unload(slot: Slot) -> Result<(), PlatformError> {
    let table = Table {
        purpose: Purpose::Flows,
        slot,
    };
    Nft::find()?.remove(&[table]).await
}

/// Takes the table off the host that a process without a stop left. Returns what it was called, if it was there.
///
/// # Errors
/// It is there and stays, or nobody knows.
pub(crate) async fn sweep(slot: Slot, tunnel: &str) -> Result<Option<String>, PlatformError> {
    if let Ok(hierarchy) = Hierarchy::find() {
        for group in run_groups(tunnel) {
            hierarchy.remove_empty(&group);
        }
    }
    // Without the program nobody has loaded one.
    let Ok(nft) = Nft::find() else { return Ok(None) };
    let table = Table {
        purpose: Purpose::Flows,
        slot,
    };
    if !nft.tables().await?.contains(&table) {
        return Ok(None);
    }
    nft.remove(&[table]).await?;
    Ok(Some(format!("firewall table {table}")))
}

/// What is asked of the kernel now: counters in the words of the API.
pub(crate) async fn counted(told: &Told) -> api::Flows {
    let counters = match Nft::find() {
        Ok(nft) => nft.counters(told.table).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let counters: BTreeMap<_, _> = counters
        .into_iter()
        .map(|counter| (counter.name, (counter.packets, counter.bytes)))
        .collect();
    let of = |name: &str| counters.get(name).copied().unwrap_or_default();
    let rule = |name: &str, words: String, action| {
        let (packets, bytes) = of(name);
        api::FlowRule {
            rule: words,
            action: word(action).to_owned(),
            packets,
            bytes,
        }
    };
    let flows = &told.flows;
    let rules = flows.rules.iter().zip(1..);
    let run = [
        ("run_inside", "marmot run", Action::Tunnel),
        ("run_outside", "marmot run --outside", Action::Direct),
    ];
    let (packets, bytes) = of(plan::flows::DEFAULT_COUNTER);
    api::Flows {
        default: word(flows.default).to_owned(),
        packets,
        bytes,
        held_packets: of(plan::flows::HELD_COUNTER).0,
        rules: rules
            .map(|(each, number)| rule(&Flows::counter(number), each.to_string(), each.action))
            .collect(),
        run: run
            .map(|(name, words, action)| rule(name, words.to_owned(), action))
            .into(),
        inside: told.run.then(|| flows.inside.clone()),
        outside: told.run.then(|| flows.outside.clone()),
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Tunnel => "tunnel",
        Action::Direct => "direct",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    #[test]
    fn users_become_numbers_and_an_unknown_one_is_named_with_its_rule() {
        let pki = Pki::new("vpn.test");
        assert_eq!(resolve(&client_config(&pki, "")).expect("nothing to do"), None);
        let rule = |user: &str| format!("[[flows.rule]]\naction = \"direct\"\nuser = \"{user}\"\n");
        let config = client_config(&pki, &(rule("root") + &rule("1234")));
        let flows = resolve(&config).expect("known").expect("rules");
        let uids: Vec<_> = flows.rules.iter().map(|rule| rule.uid).collect();
        assert_eq!(uids, [Some(0), Some(1234)]);
        assert_eq!(flows.inside, "marmot-marmot-inside");
        let config = client_config(&pki, &(rule("root") + &rule("no-such-user")));
        let error = resolve(&config).expect_err("unknown");
        assert_eq!(error.exit_code(), 3);
        assert!(
            error
                .to_string()
                .starts_with("flows.rule[2].user: this host has no user"),
            "{error}"
        );
    }
}
