//! The lines of the log that a user would notice, in the words of lifecycle.md section 5.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ledger::OpenRecord;
use lifecycle::EndReason;
use now::{Boot, Now};
use plan::{NetworkPlan, Overlap, RouteKind};
use session::Traffic;
use tracing::{debug, info, warn};
use wire::offer::{Grant, MarmotSession};
use wire::text::escape;

use crate::caller::TlsFacts;
use crate::clock;
use crate::grant::Accepted;
use crate::setup::Setup;
use crate::status::{DnsStatus, TunnelStatus};

/// Overlapping routes that are named one by one.
const SHOWN_OVERLAPS: usize = 5;

/// What is on the host of a tunnel without a session.
pub(crate) fn without_session(plan: &NetworkPlan, interface: Option<&str>, dns: Option<DnsStatus>) -> TunnelStatus {
    let routes = plan.routes.iter().filter(|route| route.kind == RouteKind::Tunnel);
    TunnelStatus {
        interface: interface.map(str::to_owned),
        addresses: plan.addresses.clone(),
        mtu: plan.mtu,
        data_channel: None,
        routes: routes.map(|route| route.net).collect(),
        dns,
        session: None,
        started_unix_ms: clock::millis(clock::now().wall.since_origin()),
    }
}

/// What the log says about one session.
pub(crate) struct SessionLog {
    gateway: String,
    peer: IpAddr,
    tls: TlsFacts,
    plan: NetworkPlan,
    marmot: Option<MarmotSession>,
    begun: Now,
    /// The process before began it, and this one has no connection for it yet.
    restored: bool,
}

impl SessionLog {
    pub(crate) fn new(
        setup: &Setup,
        peer: IpAddr,
        tls: TlsFacts,
        plan: NetworkPlan,
        marmot: Option<&MarmotSession>,
    ) -> Self {
        let gateway = setup.config.gateway.url.authority();
        Self {
            gateway,
            peer,
            tls,
            plan,
            marmot: marmot.cloned(),
            begun: Now::default(),
            restored: false,
        }
    }

    /// The session of the process before, as its record has it.
    pub(crate) fn restored(record: &OpenRecord, plan: NetworkPlan, now: Now) -> Self {
        let OpenRecord { facts, .. } = record;
        let unknown = || "unknown".to_owned();
        let age = Duration::from_millis(clock::stamp(now).ms_since(&facts.started));
        let marmot = facts.session.clone().zip(facts.epoch);
        Self {
            gateway: facts.gateway.clone(),
            peer: facts.peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            tls: TlsFacts {
                version: unknown(),
                cipher: unknown(),
                group: unknown(),
                resumed: false,
            },
            plan,
            marmot: marmot.map(|(id, epoch)| MarmotSession { id, epoch }),
            begun: Now {
                awake: now.awake,
                boot: Boot::from_origin(now.boot.since_origin().saturating_sub(age)),
                wall: facts.started.wall(),
            },
            restored: true,
        }
    }

    /// The session begins.
    pub(crate) fn started(mut self, now: Now) -> Self {
        self.begun = now;
        info!(
            gateway = self.gateway,
            peer = %self.peer,
            addresses = list(&self.plan.addresses),
            mtu = self.plan.mtu,
            routes = self.routes().count(),
            tls = self.tls.version,
            cipher = self.tls.cipher,
            group = self.tls.group,
            resumed = self.tls.resumed,
            session = self.identity(),
            "session.start"
        );
        self
    }

    /// The session goes on over another connection, after `without` any.
    pub(crate) fn went_on(&mut self, next: Self, without: Duration) {
        let restored = std::mem::take(&mut self.restored);
        *self = Self {
            begun: self.begun,
            ..next
        };
        if restored {
            info!(
                via = "resume",
                gateway = self.gateway,
                peer = %self.peer,
                addresses = list(&self.plan.addresses),
                session = self.identity(),
                "session.unpark"
            );
        }
        debug!(
            after_ms = without.as_millis(),
            peer = %self.peer,
            tls = self.tls.version,
            group = self.tls.group,
            resumed = self.tls.resumed,
            session = self.identity(),
            "path.back"
        );
    }

    /// The session is over. `told` is what the gateway said about it.
    pub(crate) fn end(self, reason: EndReason, told: Option<session::EndReason>, carried: &Traffic, now: Now) {
        info!(
            reason = reason.word(),
            detail = told.map(|told| told.to_string()),
            seconds = self.age(now).as_secs(),
            packets_in = carried.packets_in,
            bytes_in = carried.bytes_in,
            packets_out = carried.packets_out,
            bytes_out = carried.bytes_out,
            dropped = %carried.drops,
            session = self.identity(),
            "session.end"
        );
    }

    /// Whether this is what is on the host for it.
    pub(crate) fn has_plan(&self, plan: &NetworkPlan) -> bool {
        self.plan == *plan
    }

    /// Another plan is on the host for it.
    pub(crate) fn replanned(&mut self, plan: NetworkPlan) {
        info!(
            routes = plan.routes.len(),
            exceptions = plan
                .routes
                .iter()
                .filter(|route| route.kind == RouteKind::Throw)
                .count(),
            "the networks of this host have changed, and the routes of the tunnel with them"
        );
        self.plan = plan;
    }

    /// How long the session has been there, sleep included.
    pub(crate) fn age(&self, now: Now) -> Duration {
        now.boot.since(self.begun.boot)
    }

    pub(crate) fn status(&self, interface: Option<&str>, dns: Option<DnsStatus>) -> TunnelStatus {
        TunnelStatus {
            interface: interface.map(str::to_owned),
            started_unix_ms: clock::millis(self.begun.wall.since_origin()),
            addresses: self.plan.addresses.clone(),
            mtu: self.plan.mtu,
            data_channel: None,
            routes: self.routes().collect(),
            dns,
            session: self.marmot.as_ref().map(|marmot| (marmot.id.clone(), marmot.epoch)),
        }
    }

    fn routes(&self) -> impl Iterator<Item = ipnet::IpNet> + '_ {
        let tunnel = self.plan.routes.iter().filter(|route| route.kind == RouteKind::Tunnel);
        tunnel.map(|route| route.net)
    }

    /// `id;epoch`, if the gateway is one of ours.
    fn identity(&self) -> Option<String> {
        self.marmot
            .as_ref()
            .map(|marmot| format!("{};{}", marmot.id, marmot.epoch))
    }
}

/// What of a grant is worth a word.
pub(crate) fn accepted(accepted: &Accepted, grant: &Grant) {
    overlaps(&accepted.overlaps);
    if accepted.ipv6_off {
        warn!(
            mtu = accepted.plan.mtu,
            "the gateway granted an mtu below 1280; ipv6 stays out of the tunnel"
        );
    }
    if let Some(banner) = &grant.banner {
        info!(banner = escape(banner), "the gateway says");
    }
}

/// Routes that were left out, the first of them.
pub(crate) fn overlaps(overlaps: &[Overlap]) {
    for overlap in overlaps.iter().take(SHOWN_OVERLAPS) {
        warn!("{overlap}");
    }
}

/// The word under which the machine knows the end of a session.
pub(crate) fn end_reason(reason: &session::EndReason) -> EndReason {
    use session::EndReason as Told;
    match reason {
        Told::UserStop => EndReason::UserStop,
        Told::Admin(_) | Told::Idle | Told::ParkTtl => EndReason::Admin,
        Told::AuthExpired => EndReason::AuthExpired,
        Told::Replaced => EndReason::Replaced,
        Told::Fatal(_) => EndReason::Fatal,
    }
}

/// Values separated by spaces.
pub(crate) fn list<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
