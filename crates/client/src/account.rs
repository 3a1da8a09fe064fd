//! What is written down of one session: when it begins, while it lives, and at its end.

use std::net::IpAddr;

use config::client::ClientConfig;
use ledger::{Chore, End, JobId, OpenRecord, Role, SessionFacts, Token};
use lifecycle::Generation;
use now::Now;
use plan::{NetworkPlan, Undo};
use session::Traffic;
use wire::offer::Grant;

use crate::clock::stamp;

/// The record of a session, as it is on the disk or on its way there.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) record: OpenRecord,
    /// How it ended; its record lies in open/ until the host is clean, or the next session's record is written.
    pub(crate) end: Option<End>,
}

impl Account {
    /// The account of a session that begins.
    pub(crate) fn begin(config: &ClientConfig, g: Generation, now: Now) -> Self {
        let mut random = [0; 8];
        // Without randomness two sessions of one second would share a name; the tunnel's name is in the folder.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let started = stamp(now);
        let record = OpenRecord {
            id: JobId::new(started.wall_ms / 1000, u64::from_be_bytes(random)),
            tunnel: config.tunnel.name.clone(),
            role: Role::Client,
            generation: g.number(),
            facts: SessionFacts {
                gateway: config.gateway.url.authority(),
                user: config.login.user.clone(),
                started,
                ..SessionFacts::default()
            },
            undo: None,
            chores: Vec::new(),
        };
        Self { record, end: None }
    }

    /// Takes over what a connection says about the session.
    pub(crate) fn connected(&mut self, config: &ClientConfig, grant: &Grant, peer: IpAddr, interface: Option<&str>) {
        let facts = &mut self.record.facts;
        facts.session = grant.session.as_ref().map(|session| session.id.clone());
        facts.epoch = grant.session.as_ref().map(|session| session.epoch);
        facts.peer = Some(peer);
        facts.interface = interface.map(str::to_owned);
        self.record.chores = chores(config, grant);
    }

    /// Takes over what is put on the host for it. Returns whether that is new.
    pub(crate) fn planned(&mut self, plan: &NetworkPlan, undo: Option<Undo>) -> bool {
        let facts = &mut self.record.facts;
        let addresses = plan.addresses.clone();
        let new = facts.addresses != addresses || self.record.undo != undo;
        facts.addresses = addresses;
        self.record.undo = undo;
        new
    }

    /// The session goes on over another connection, as `next` says.
    pub(crate) fn went_on(&mut self, next: Self) {
        let OpenRecord {
            facts, undo, chores, ..
        } = next.record;
        let own = &mut self.record.facts;
        own.session = facts.session;
        own.epoch = facts.epoch;
        own.peer = facts.peer;
        own.interface = facts.interface;
        own.addresses = facts.addresses;
        self.record.undo = undo;
        self.record.chores = chores;
    }

    /// The session is over. `carried` is what went through its connections.
    pub(crate) fn end(&mut self, reason: &str, detail: Option<String>, carried: &Traffic, now: Now) {
        self.carry(carried);
        self.end = Some(End {
            at: stamp(now),
            reason: reason.to_owned(),
            detail,
        });
        if !self_made(reason) {
            // The gateway knows.
            self.record
                .chores
                .retain(|chore| !matches!(chore, Chore::Logout { .. }));
        }
    }

    /// Adds what went through connections that are over.
    pub(crate) fn carry(&mut self, carried: &Traffic) {
        let facts = &mut self.record.facts;
        facts.packets_in += carried.packets_in;
        facts.packets_out += carried.packets_out;
        facts.bytes_in += carried.bytes_in;
        facts.bytes_out += carried.bytes_out;
        facts.dropped += carried.drops.total();
    }

    /// What a ledger closes: the host is clean, or another record says how to clean it.
    pub(crate) fn closing(mut self, now: Now) -> (OpenRecord, End) {
        self.record.undo = None;
        let end = self.end.unwrap_or_else(|| End::new(stamp(now), "user_stop"));
        (self.record, end)
    }
}

/// Whether it is the record of an armed tunnel that has no session: it says how to clean the host, and nothing is owed.
pub(crate) fn is_bare(record: &OpenRecord) -> bool {
    record.chores.is_empty() && record.undo.is_some()
}

/// Whether the session ended on this side.
fn self_made(reason: &str) -> bool {
    !["admin", "auth_expired", "replaced"].contains(&reason)
}

fn chores(config: &ClientConfig, grant: &Grant) -> Vec<Chore> {
    let logout = grant.logout.as_ref().map(|token| Chore::Logout {
        token_expires_ms: None,
        token: Token::new(token.expose()),
    });
    let upload = config.housekeeping.collector.as_ref().map(|_| Chore::Upload);
    let always = [Chore::Account, Chore::Hooks];
    let last = [Chore::Forget, Chore::Prune];
    let first = logout.into_iter().chain(always);
    first.chain(upload).chain(last).collect()
}
