//! What changes around the tunnel: the host's links, addresses and routes, and what is done about it.
//!
//! ```text
//!   kernel --NetworkWatch--> Settle --Look--> the pump looks at its way (another address: the session roams)
//!                                    +------> Survey of the host
//!                                               ways changed      --> waits begin anew; another connection where the way is gone
//!                                               networks changed  --> another plan for the same grant: recorded, then put on the host
//!                                               ours are missing  --> put back
//! ```
//! Where nobody tells of changes, or a word is lost, the pump's looks at its way remain.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use now::{Awake, Settle};
use platform::network::Path;
use platform::watch::{Change, Changes, NetworkWatch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};
use wire::offer::Grant;

use crate::books::{RECORD_PATIENCE, Trouble};
use crate::clock;
use crate::gate;
use crate::grant::{Accepted, accept};
use crate::host::{InstallError, Survey};
use crate::proof::Input;
use crate::pump::Command;
use crate::setup::Setup;
use crate::shell::{Boxed, Shell};
use crate::{ClientError, report};

/// Addresses of nobody (RFC 5737, RFC 3849): what leads there leads anywhere.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Whoever takes our rules off more often within a minute means it, or does it again because we put them back.
const MENDS: usize = 10;
const MENDS_WITHIN: Duration = Duration::from_secs(60);

/// What is known of the network around, and what is being done about it.
#[derive(Default)]
pub(crate) struct Surroundings {
    watch: Option<NetworkWatch>,
    settle: Settle,
    /// Words since the last look.
    heard: Changes,
    work: Option<Boxed<Step>>,
    /// What the plan on the host was made from; nothing without one.
    granted: Option<Granted>,
    /// Where to the ways of a survey lead.
    targets: Vec<IpAddr>,
    /// The last survey, as far as it says something.
    ways: Option<Vec<Option<Path>>>,
    networks: Option<Vec<(String, IpNet)>>,
    mends: Mends,
    /// Look again then, whatever is heard.
    again: Option<Awake>,
}

/// What a gateway granted, and under which settings.
struct Granted {
    grant: Grant,
    peer: IpAddr,
    setup: Arc<Setup>,
}

/// What there is to do.
pub(crate) enum Step {
    /// The network has changed, and has been quiet since.
    Look(Changes),
    /// A look that was begun is over.
    Surveyed(Box<Survey>),
    /// Another plan is on the host, or not.
    Replanned(Box<Accepted>, Result<(), InstallError>),
    /// The kernel tells no more.
    Deaf(std::io::Error),
}

impl Surroundings {
    pub(crate) fn new(watch: Option<NetworkWatch>) -> Self {
        Self {
            watch,
            ..Self::default()
        }
    }

    /// Waits for the next step. Cancel safe.
    pub(crate) async fn next(&mut self) -> Step {
        loop {
            let now = clock::now().awake;
            let due = self.settle.due().into_iter().chain(self.again).min();
            // Another look waits for the one that is under way.
            let due = due.filter(|_| self.work.is_none());
            let at = Instant::now() + due.map(|due| due.since(now)).unwrap_or_default();
            tokio::select! {
                biased;
                step = optional(&mut self.work) => {
                    self.work = None;
                    return step;
                }
                () = sleep_until(at), if due.is_some() => {
                    let now = clock::now().awake;
                    let again = self.again.take_if(|again| *again <= now).is_some();
                    if self.settle.look(now) || again {
                        return Step::Look(std::mem::take(&mut self.heard));
                    }
                }
                changes = heard(&mut self.watch) => match changes {
                    Ok(changes) => {
                        self.heard.join(changes);
                        self.settle.heard(clock::now().awake);
                    }
                    Err(error) => {
                        self.watch = None;
                        return Step::Deaf(error);
                    }
                },
            }
        }
    }

    /// A plan is on the host that was made from this.
    pub(crate) fn granted(&mut self, grant: Grant, peer: IpAddr, setup: Arc<Setup>) {
        self.granted = Some(Granted { grant, peer, setup });
        self.look_over();
    }

    /// A granted connection brings another plan, perhaps: it looks at the networks itself.
    pub(crate) fn interrupted(&mut self) {
        self.work = None;
        self.networks = None;
    }

    /// No plan is on the host any more.
    pub(crate) fn released(&mut self) {
        self.interrupted();
        self.granted = None;
    }

    /// Looks at everything soon.
    pub(crate) fn look_over(&mut self) {
        if self.watch.is_some() {
            self.networks = None;
            self.heard.join(Changes::ALL);
            self.settle.heard(clock::now().awake);
        }
    }
}

/// When what was missing was put back.
#[derive(Debug, Default)]
struct Mends(VecDeque<Awake>);

impl Mends {
    /// When more may be put back: now or later.
    fn next(&mut self, now: Awake) -> Awake {
        self.0.retain(|at| now.since(*at) < MENDS_WITHIN);
        match self.0.front() {
            Some(first) if self.0.len() >= MENDS => first.plus(MENDS_WITHIN),
            Some(_) | None => now,
        }
    }

    fn done(&mut self, now: Awake) {
        self.0.push_back(now);
    }
}

impl Shell {
    pub(crate) fn surroundings(&mut self, step: Step) {
        match step {
            Step::Look(changes) => self.look_at_network(changes),
            Step::Surveyed(survey) => self.surveyed(*survey),
            Step::Replanned(accepted, outcome) => self.replanned(*accepted, outcome),
            Step::Deaf(error) => {
                warn!("the kernel tells no more of changes of the network, which are noticed later now: {error}");
            }
        }
    }

    fn look_at_network(&mut self, changes: Changes) {
        debug!(?changes, "the network of this host has changed");
        // Its own way it can look at itself, at once.
        self.tell_pump(Command::Look);
        if let Some(offline) = &mut self.offline {
            offline.look_now();
        }
        if let Some(rules) = &mut self.rules {
            rules.look_now();
        }
        let now = clock::now().awake;
        let mend = changes.has(Change::Ours) && {
            let next = self.around.mends.next(now);
            if next > now {
                if self.around.again.replace(next).is_none() {
                    warn!(
                        "somebody takes the rules of the tunnel off again and again; they are put back a minute later"
                    );
                }
                self.around.heard.join(Change::Ours.into());
            }
            next <= now
        };
        let targets = self.targets();
        if self.around.targets != targets {
            // Ways to somewhere else are not to be compared.
            self.around.ways = None;
            self.around.targets.clone_from(&targets);
        }
        let survey = self.host.survey(targets, mend);
        self.around.work =
            survey.map(|survey| -> Boxed<Step> { Box::pin(async move { Step::Surveyed(Box::new(survey.await)) }) });
    }

    /// The gateway where it was reached last, and anybody.
    fn targets(&self) -> Vec<IpAddr> {
        let gateway = self.known.first().map(|known| known.ip().to_canonical());
        gateway.into_iter().chain(ANYWHERE).collect()
    }

    fn surveyed(&mut self, survey: Survey) {
        let Survey { ways, networks, mended } = survey;
        match mended {
            Some(Ok(missing)) if !missing.is_empty() => {
                self.around.mends.done(clock::now().awake);
                warn!(
                    missing = missing.join("; "),
                    "somebody took what is the tunnel's off this host; it was put back"
                );
            }
            Some(Err(error)) => {
                // It counts, so that it is not tried for ever.
                self.around.mends.done(clock::now().awake);
                warn!("what is missing of the tunnel's set-up cannot be put back: {error}");
            }
            Some(Ok(_)) | None => {}
        }
        self.compare_ways(ways);
        match networks {
            Ok(networks) if self.around.networks.as_ref() == Some(&networks) => {}
            Ok(networks) => self.plan_again(networks),
            Err(error) => debug!("cannot look at the networks of this host: {error}"),
        }
    }

    fn compare_ways(&mut self, ways: Vec<Option<Path>>) {
        let Some(before) = self.around.ways.replace(ways.clone()) else {
            return;
        };
        if before == ways {
            return;
        }
        let gateway = self.known.first().and(ways.first());
        debug!(?gateway, "the ways out of this host have changed");
        let found = ways
            .iter()
            .zip(&before)
            .any(|(way, before)| way.is_some() && way != before);
        if found {
            self.path_changed();
        }
        match (gateway, before.first()) {
            // Whether the gateway can be reached at another address only a look-up tells.
            (Some(None), Some(_)) if ways.iter().any(Option::is_some) => {
                self.renew("no way leads to the gateway's address")
            }
            // From the same address, which the pump takes for the same way.
            (Some(Some(way)), Some(before))
                if before
                    .as_ref()
                    .is_none_or(|before| way.source == before.source && way != before) =>
            {
                self.tell_pump(Command::Detour);
            }
            (Some(_) | None, _) => {}
        }
    }

    /// Another connection in the background, if the host is awake: in its sleep the machine would count what it refuses.
    fn renew(&mut self, why: &'static str) {
        if let Some((g, _)) = self
            .pump
            .as_ref()
            .filter(|_| self.machine.mode() == lifecycle::Mode::Awake)
        {
            let g = *g;
            debug!(why, "a new connection in the background is asked for");
            self.feed(Input::Renew(g));
        }
    }

    /// The plan for the same grant among other networks, if it is another one.
    fn plan_again(&mut self, networks: Vec<(String, IpNet)>) {
        if self.opening.is_some() {
            // What comes of it is on the host last, and everything is looked at after it.
            return;
        }
        let (Some(granted), Some(session), Some(account)) = (
            &self.around.granted,
            &self.session,
            self.account.as_mut().filter(|account| account.end.is_none()),
        ) else {
            return;
        };
        let accepted = match accept(&granted.grant, granted.peer, &granted.setup.config, &networks) {
            Ok(mut accepted) => {
                // What a reload has changed meanwhile is on the host already.
                accepted.plan.lockdown = gate::policy(&self.setup.config);
                accepted.plan.flows.clone_from(&self.setup.flows);
                accepted
            }
            Err(refused) => {
                warn!(
                    "the routes of the tunnel stay as they are while the networks of this host have changed: {refused}"
                );
                self.around.networks = Some(networks);
                return;
            }
        };
        self.around.networks = Some(networks);
        if session.has_plan(&accepted.plan) {
            return;
        }
        account.planned(&accepted.plan, self.host.undo()(accepted.plan.clone()));
        let written = self.books.write(account.record.clone());
        let installer = self.host.installer();
        self.around.work = Some(Box::pin(async move {
            let written = timeout(RECORD_PATIENCE, written).await.unwrap_or(Err(Trouble::Stalled));
            let outcome = match written {
                Ok(()) => installer.replace(accepted.plan.clone()).await,
                Err(trouble) => Err(InstallError::Clean(ClientError::Unrecorded(trouble))),
            };
            Step::Replanned(Box::new(accepted), outcome)
        }));
    }

    fn replanned(&mut self, accepted: Accepted, outcome: Result<(), InstallError>) {
        match outcome {
            Ok(()) => {
                report::overlaps(&accepted.overlaps);
                let Some(session) = &mut self.session else { return };
                session.replanned(accepted.plan);
                let tunnel = session.status(self.host.interface(), self.host.dns());
                self.counter.status.send_modify(|status| {
                    if let Some(current) = &mut status.tunnel {
                        current.routes = tunnel.routes;
                    }
                });
            }
            Err(InstallError::Clean(error)) => {
                // The next change is another chance.
                self.around.networks = None;
                warn!(
                    "the routes of the tunnel stay as they are while the networks of this host have changed: {error}"
                );
            }
            Err(InstallError::Damaged(error)) => self.cancel(error),
        }
    }
}

async fn heard(watch: &mut Option<NetworkWatch>) -> std::io::Result<Changes> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn optional(work: &mut Option<Boxed<Step>>) -> Step {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_off_is_put_back_ten_times_a_minute_at_most() {
        let at = |seconds| Awake::from_origin(Duration::from_secs(seconds));
        let mut mends = Mends::default();
        let mut done = 0;
        for second in 0..120 {
            if mends.next(at(second)) <= at(second) {
                mends.done(at(second));
                done += 1;
            }
        }
        assert_eq!(done, 2 * MENDS);
        assert_eq!(mends.next(at(119)), at(120), "and then it is said when");
    }
}
