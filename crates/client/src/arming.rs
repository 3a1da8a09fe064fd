//! A tunnel without a connection: the lease of the last session is put on the host, and a lookout holds what programs send.
//!
//! ```text
//!   Arm --> a pump: park, stop --> its device ---------------------------------+
//!       \-> remembered lease --> record durable --> install --> a new device --+--> Lookout --Demand--> attempt --> pump
//! ```
//! The lease is a file of its own beside the ledger (`lease.json`): what the gateway granted, not what was made of it. It is
//! vetted again, with today's configuration and networks.

use std::net::IpAddr;
use std::sync::Arc;

use lifecycle::{Generation, Origin, State};
use now::LATE_BY;
use plan::NetworkPlan;
use serde::{Deserialize, Serialize};
use session::park::ParkKind;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use wire::offer::Grant;

use crate::ClientError;
use crate::account::Account;
use crate::books::{RECORD_PATIENCE, Trouble};
use crate::clock;
use crate::grant::{accept_granted, granted};
use crate::host::InstallError;
use crate::lookout::{Limits, Lookout, Sight, Watched};
use crate::proof::Input;
use crate::pump::Stop;
use crate::report;
use crate::rules::Verdict;
use crate::setup::Setup;
use crate::shell::{Boxed, Done, Shell};
use crate::store::identity;

/// What the gateway granted last, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Gateway, trust and user as a hash: another of them has another lease.
    identity: String,
    granted: plan::Granted,
    /// The gateway's address.
    peer: IpAddr,
}

/// A host that is being set up without a session.
pub(crate) struct Arming {
    /// Ends in the plan, or in why there is none.
    pub(crate) work: Boxed<Result<NetworkPlan, Unarmed>>,
}

/// Why a tunnel cannot wait for traffic.
pub(crate) enum Unarmed {
    /// There is no lease of this gateway and user.
    NoLease,
    /// The lease cannot be used, or not now.
    Failed(ClientError),
}

impl From<InstallError> for Unarmed {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Clean(error) | InstallError::Damaged(error) => Self::Failed(error),
        }
    }
}

impl Shell {
    /// Waits for traffic without a connection.
    pub(crate) fn arm(&mut self, g: Generation) {
        if self.lookout.is_some() || self.arming.is_some() {
            return;
        }
        if let Some((_, pump)) = &mut self.pump {
            // Its device comes with its end.
            pump.stop(Stop::Parking);
            return self.parked(ParkKind::Announced);
        }
        if self.device.is_some() {
            return self.look_out();
        }
        self.withdraw_bare();
        let mut account = Account::begin(&self.setup.config, g, clock::now());
        account.record.chores.clear();
        self.bare = Some(account.record.id);
        let identity = identity(&self.setup.config);
        let setup = Arc::clone(&self.setup);
        let books = self.books.clone();
        let networks = self.host.local_networks();
        let undo = self.host.undo();
        let installer = self.host.installer();
        let gate = self.host.gate();
        let work = async move {
            let lease = timeout(RECORD_PATIENCE, books.lease())
                .await
                .unwrap_or(Err(Trouble::Stalled));
            let lease = lease.map_err(|trouble| Unarmed::Failed(ClientError::Unrecorded(trouble)))?;
            let lease: Lease = lease
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .filter(|lease: &Lease| lease.identity == identity)
                .ok_or(Unarmed::NoLease)?;
            let local = networks.await.map_err(Unarmed::Failed)?;
            let mut accepted = accept_granted(&lease.granted, lease.peer, &setup.config, &local)
                .map_err(|refused| Unarmed::Failed(refused.into()))?;
            accepted.plan.flows.clone_from(&setup.flows);
            account.record.facts.peer = Some(lease.peer);
            account.planned(&accepted.plan, undo(accepted.plan.clone()));
            let written = timeout(RECORD_PATIENCE, books.write(account.record)).await;
            let written = written.unwrap_or(Err(Trouble::Stalled));
            written.map_err(|trouble| Unarmed::Failed(ClientError::Unrecorded(trouble)))?;
            // No tunnel without its lockdown, as for one that connects.
            gate.close(&setup.config).await.map_err(Unarmed::Failed)?;
            installer.install(accepted.plan.clone()).await?;
            Ok(accepted.plan)
        };
        let work = Box::pin(work);
        self.arming = Some(Arming { work });
    }

    /// The host is set up, or cannot be.
    pub(crate) fn armed(&mut self, result: Result<NetworkPlan, Unarmed>) {
        let plan = match result {
            Ok(plan) => plan,
            Err(why) => {
                match why {
                    Unarmed::NoLease => info!("no lease is remembered yet: the first session is made at once"),
                    Unarmed::Failed(error) => warn!("cannot wait for traffic, a session is made at once: {error}"),
                }
                return self.not_armed();
            }
        };
        if let Some(device) = self.host.device() {
            self.device = Some(device);
        }
        self.addresses = plan.addresses.iter().map(ipnet::IpNet::addr).collect();
        let tunnel = report::without_session(&plan, self.host.interface(), self.host.dns());
        self.counter.status.send_modify(|status| status.tunnel = Some(tunnel));
        self.news = true;
        self.look_out();
        info!(
            addresses = report::list(&plan.addresses),
            routes = plan.routes.len(),
            "armed: the first packet makes a session"
        );
    }

    fn not_armed(&mut self) {
        if let State::Armed { g, .. } = self.machine.state() {
            self.feed(Input::NotArmed(g));
        }
    }

    /// The pump of an idle tunnel has ended.
    pub(crate) fn pump_parked(&mut self) {
        self.data = None;
        self.lost_at = None;
        self.look_out();
        info!("idle: the session waits at the gateway, and the first packet brings it back");
    }

    fn look_out(&mut self) {
        let Some(device) = self.device.take() else { return };
        let config = &self.setup.config.on_demand;
        let limits = Limits {
            packets: usize::try_from(config.hold_packets).unwrap_or(usize::MAX),
            bytes: usize::try_from(config.hold_bytes).unwrap_or(usize::MAX),
            stale: self.setup.config.sleep.stale.max(LATE_BY),
        };
        let mode = self.machine.mode();
        self.lookout = Some(Lookout::start(device, self.addresses.clone(), limits, mode));
    }

    pub(crate) async fn lookout_said(&mut self, sight: Sight) {
        match sight {
            Sight::Gap(gap) => {
                self.look_around().await;
                self.gap(gap);
            }
            Sight::Demand => self.feed(Input::Demand),
            Sight::Dropped(dropped) => self.counter.status.send_modify(|status| {
                status.session_traffic = self.carried;
                status.session_traffic.drops.add(&dropped);
            }),
            Sight::Gone => {
                let Some(lookout) = self.lookout.take() else { return };
                let watched = lookout.finished().await;
                let error = watched.and_then(|watched| self.watched(*watched));
                let broken = || ClientError::Local("the lookout of the device failed".to_owned());
                self.cancel(error.map_or_else(broken, ClientError::DeviceGone));
            }
        }
    }

    /// Takes the device back from a lookout. What it held is dropped: there is nobody to carry it.
    pub(crate) fn watched(&mut self, watched: Watched) -> Option<std::io::Error> {
        let Watched {
            device, mut held, gone, ..
        } = watched;
        held.give_up();
        self.device = Some(device);
        // A session that waits takes the count along; without one it is the tunnel's.
        if self.session.is_some() {
            self.carried.drops.add(&held.dropped);
        } else {
            self.counter
                .status
                .send_modify(|status| status.traffic.drops.add(&held.dropped));
        }
        gone
    }

    /// What was granted is put on the host without a session, once. `under` are the settings that it was asked for with: they name
    /// its gateway and user, and a reload may have replaced them since.
    pub(crate) fn remember(&self, grant: &Grant, peer: IpAddr, under: &Setup) {
        if !self.setup.config.on_demand.enabled {
            return;
        }
        let lease = Lease {
            identity: identity(&under.config),
            granted: granted(grant),
            peer,
        };
        let Ok(bytes) = serde_json::to_vec(&lease) else { return };
        let noted = self.books.note_lease(bytes);
        tokio::spawn(async move {
            if let Err(trouble) = noted.await {
                warn!("cannot remember the lease, the next start makes a session at once: {trouble}");
            }
        });
    }

    /// Starts, when it is known what the rules say of this network. What the process before left is on the host already: it is
    /// the machine's at once, so that a stop finds it, and a verdict that comes later takes it down.
    pub(crate) fn begin(&mut self, start: Input) {
        let restores = matches!(
            start,
            Input::Start {
                origin: Origin::Restore
            }
        );
        if self.rules.is_some() && !restores {
            self.first = Some(start);
        } else {
            self.feed(start);
        }
    }

    /// The host is in another network.
    pub(crate) fn ruled(&mut self, verdict: &Verdict) {
        if let Some(rule) = verdict.rule() {
            self.feed(Input::NetworkRule(rule));
        }
        if let Some(start) = self.first.take() {
            self.feed(start);
        }
    }

    /// Packets to the gateway take another way, or have one again.
    pub(crate) fn path_changed(&mut self) {
        if let Some(rules) = &mut self.rules {
            rules.look_now();
        }
        self.feed(Input::PathChange);
    }

    /// Nothing of an armed tunnel is on the host, or another record says how to clean it.
    pub(crate) fn withdraw_bare(&mut self) {
        if let Some(id) = self.bare.take() {
            debug!(job = %id, "the record of the armed tunnel is withdrawn");
            let withdrawn = self.books.withdraw(id);
            self.background.spawn(async move {
                let _ = withdrawn.await;
                Done::Noted
            });
        }
    }
}
