//! What crosses a restart: the TUN device, the listening API socket and the session's ticket, kept by the service manager.
//!
//! ```text
//!   session up      --> store tun, api, ticket      kept over a restart, and over kill -9 with Restart=always
//!   new connection  --> store the new ticket, then drop the old one
//!   stop            --> drop all of it
//!   start           --> Taken: device, socket, ticket, if they belong together and to this configuration
//! ```
//! The ticket is a sealed file in memory and holds the cookie and the session's key, which are never written to a disk.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use config::client::ClientConfig;
use ledger::JobId;
use platform::service::{Descriptor, Manager, sealed, taken, unseal};
use serde::{Deserialize, Serialize};
use session::client::Authenticated;
use session::resume::{SEED_BYTES, SessionKey};
use tracing::{debug, warn};
use wire::Secret;
use wire::offer::MarmotSession;
use zeroize::{Zeroize, Zeroizing};

/// The names of what is kept. Two for tickets, so that the new one is there before the old one goes.
const TUN: &str = "tun";
const API: &str = "api";
const TICKETS: [&str; 2] = ["ticket-0", "ticket-1"];

/// What the next process needs to go on with a session.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RestartTicket {
    /// Tickets of one session count up; the highest is the one that counts.
    number: u64,
    cookie: String,
    /// What the session's key is made of; none where the gateway keeps none.
    #[serde(default)]
    seed: Option<[u8; SEED_BYTES]>,
    /// What is shown instead of the cookie.
    #[serde(default)]
    ticket: Option<String>,
    /// The session at the gateway, and the highest epoch that was shown or heard of.
    #[serde(default)]
    session: Option<(String, u64)>,
    /// The session's record.
    pub(crate) job: JobId,
    /// For whom the cookie is, and under which settings it was made; see [`identity`].
    identity: String,
    /// The session's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where the gateway was.
    pub(crate) known: Vec<SocketAddr>,
}

impl RestartTicket {
    pub(crate) fn new(
        config: &ClientConfig,
        holder: &Authenticated,
        job: JobId,
        addresses: &[IpAddr],
        known: &[SocketAddr],
    ) -> Self {
        Self {
            number: 0,
            cookie: holder.cookie().expose().to_owned(),
            seed: holder.key().map(|key| *key.seed()),
            ticket: holder.ticket().map(|ticket| ticket.expose().to_owned()),
            session: holder.session().map(|session| (session.id, session.epoch)),
            job,
            identity: identity(config),
            addresses: addresses.to_vec(),
            known: known.to_vec(),
        }
    }

    /// Whether its cookie may be shown under `config`.
    pub(crate) fn is_for(&self, config: &ClientConfig) -> bool {
        self.identity == identity(config)
    }

    pub(crate) fn cookie(&self) -> Authenticated {
        let holder = Authenticated::from_cookie(Secret::from(self.cookie.as_str()));
        let Some(seed) = self.seed else { return holder };
        let session = self.session.clone().map(|(id, epoch)| MarmotSession { id, epoch });
        let ticket = self.ticket.as_deref().map(Secret::from);
        holder.with_key(SessionKey::from_seed(seed)).going_on(session, ticket)
    }

    fn seal(&self) -> std::io::Result<Descriptor> {
        let bytes = Zeroizing::new(serde_json::to_vec(self)?);
        sealed(&bytes)
    }

    fn open(descriptor: Descriptor) -> Option<Self> {
        let bytes = Zeroizing::new(unseal(descriptor).ok()?);
        serde_json::from_slice(&bytes).ok()
    }
}

impl Drop for RestartTicket {
    fn drop(&mut self) {
        self.cookie.zeroize();
        self.seed.zeroize();
        self.ticket.zeroize();
    }
}

/// Gateway, trust and user as a hash: under another of them nobody may see the cookie.
pub(crate) fn identity(config: &ClientConfig) -> String {
    let words = format!(
        "{:?} {:?} {:?} {:?}",
        config.gateway.url, config.gateway.addresses, config.trust, config.login
    );
    let hash = digest(&SHA256, words.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the process before left.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) tun: Option<Descriptor>,
    pub(crate) api: Option<Descriptor>,
    pub(crate) ticket: Option<RestartTicket>,
}

impl Taken {
    /// Takes what the service manager passed to this process, once.
    pub(crate) fn now() -> Self {
        Self::of(taken())
    }

    fn of(descriptors: Vec<(String, Descriptor)>) -> Self {
        let mut all = Self::default();
        for (name, descriptor) in descriptors {
            match name.as_str() {
                TUN => all.tun = Some(descriptor),
                API => all.api = Some(descriptor),
                name if TICKETS.contains(&name) => {
                    let number = all.ticket.as_ref().map(|ticket| ticket.number);
                    let ticket = RestartTicket::open(descriptor);
                    all.ticket = ticket.filter(|ticket| Some(ticket.number) > number).or(all.ticket);
                }
                other => debug!(name = other, "an unknown descriptor of the service manager"),
            }
        }
        all
    }

    /// Whether there is anything of a tunnel.
    pub(crate) fn is_empty(&self) -> bool {
        self.tun.is_none() && self.ticket.is_none()
    }
}

/// What is kept for the next process.
pub(crate) struct Store {
    manager: Manager,
    /// A device and a ticket are kept.
    kept: bool,
    has_tun: bool,
    has_api: bool,
    tickets: u64,
}

impl Store {
    /// A store, if the service manager has one. `inherited` says what it has of ours already.
    pub(crate) fn open(manager: Option<&Manager>, inherited: &Taken) -> Option<Self> {
        let manager = manager.filter(|manager| manager.can_store())?.clone();
        Some(Self {
            manager,
            kept: false,
            has_tun: inherited.tun.is_some(),
            has_api: inherited.api.is_some(),
            tickets: inherited.ticket.as_ref().map_or(0, |ticket| ticket.number),
        })
    }

    /// Whether the next process would find a device and a ticket.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether the service manager has the device open.
    pub(crate) fn has_tun(&self) -> bool {
        self.has_tun
    }

    /// Keeps a device, unless it is kept already.
    pub(crate) fn keep_tun(&mut self, descriptor: std::io::Result<Descriptor>) {
        if !self.has_tun {
            self.has_tun = self.keep(TUN, descriptor);
        }
    }

    /// Keeps the listening socket, unless it is kept already.
    pub(crate) fn keep_api(&mut self, descriptor: std::io::Result<Descriptor>) {
        if !self.has_api {
            self.has_api = self.keep(API, descriptor);
        }
    }

    /// Keeps a new ticket in place of the old one.
    pub(crate) fn keep_ticket(&mut self, mut ticket: RestartTicket) {
        let number = self.tickets + 1;
        ticket.number = number;
        let [name, old] = names(number);
        let kept = self.keep(name, ticket.seal());
        if kept {
            self.tickets = number;
        }
        // A cookie that counts no more must not lie about.
        self.drop_kept(old);
        self.kept = kept && self.has_tun;
    }

    /// Drops all of a tunnel that is down. The socket stays: the daemon does, or the service manager drops it.
    pub(crate) fn clear(&mut self) {
        self.kept = false;
        for name in TICKETS {
            self.drop_kept(name);
        }
        if std::mem::take(&mut self.has_tun) {
            self.drop_kept(TUN);
        }
    }

    /// Drops a listening socket that nobody serves any more.
    pub(crate) fn drop_api(&mut self) {
        if std::mem::take(&mut self.has_api) {
            self.drop_kept(API);
        }
    }

    fn keep(&self, name: &str, descriptor: std::io::Result<Descriptor>) -> bool {
        let kept = descriptor.and_then(|descriptor| self.manager.store(name, &descriptor));
        if let Err(error) = &kept {
            warn!(
                name,
                "the service manager does not keep it, and a restart will end the session: {error}"
            );
        }
        kept.is_ok()
    }

    fn drop_kept(&self, name: &str) {
        if let Err(error) = self.manager.unstore(name) {
            warn!(name, "the service manager does not drop it: {error}");
        }
    }
}

/// The name of ticket `number`, and that of the one before.
fn names(number: u64) -> [&'static str; 2] {
    let [even, odd] = TICKETS;
    if number.is_multiple_of(2) {
        [even, odd]
    } else {
        [odd, even]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    fn ticket(config: &ClientConfig, number: u64, cookie: &str) -> RestartTicket {
        let job = JobId::new(1_800_000_000, 7);
        let holder = Authenticated::from_cookie(Secret::from(cookie));
        let mut ticket = RestartTicket::new(config, &holder, job, &[], &[]);
        ticket.number = number;
        ticket
    }

    #[test]
    fn the_newest_ticket_counts_and_whatever_is_no_ticket_does_not() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "");
        let seal = |number, cookie| ticket(&config, number, cookie).seal().expect("sealed");
        let file = std::fs::File::open(pki.folder()).expect("open").into();
        let taken = Taken::of(vec![
            ("ticket-1".to_owned(), seal(5, "new")),
            ("ticket-0".to_owned(), seal(4, "old")),
            ("ticket-0".to_owned(), file),
            ("stranger".to_owned(), sealed(b"?").expect("sealed")),
        ]);
        let newest = taken.ticket.as_ref().expect("a ticket");
        assert_eq!((newest.number, newest.cookie.as_str()), (5, "new"));
        assert!(newest.is_for(&config));
    }

    #[test]
    fn a_ticket_is_for_one_gateway_one_trust_and_one_user() {
        let pki = Pki::new("vpn.test");
        let ticket = ticket(&client_config(&pki, ""), 1, "c");
        assert!(ticket.is_for(&client_config(&pki, "[reconnect]\nmax_s = 60")));
        for other in [
            "[login]\nuser = \"bob\"",
            "[gateway]\nurl = \"https://other.test\"\n",
            "[trust]\nserver_name = \"other.test\"\n",
        ] {
            assert!(!ticket.is_for(&client_config(&pki, other)), "{other}");
        }
    }

    #[test]
    fn a_new_ticket_never_has_the_name_of_the_one_before() {
        for number in 0..4 {
            assert_ne!(names(number)[0], names(number + 1)[0]);
            assert_eq!(names(number + 1)[1], names(number)[0]);
        }
    }
}
