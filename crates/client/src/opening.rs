//! From a granted connection to a tunnel: the grant is checked, the way back is written down, the host is set up, and the
//! pump starts.
//!
//! ```text
//!   Opened --> Opening: networks of this host --> accept --> record durable --> install --> Prepared --> Connected, pump
//!                 | dropped by an abort: what was begun on the host is cleared by the release that follows
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ledger::JobId;
use lifecycle::{Generation, How, Stage};
use now::LATE_BY;
use platform::service::Descriptor;
use session::park::Via;
use tokio::time::timeout;
use tracing::info;

use crate::ClientError;
use crate::account::Account;
use crate::attempt::{Failure, Link, Opened};
use crate::books::{RECORD_PATIENCE, Trouble};
use crate::clock;
use crate::datapath::DataPath;
use crate::grant::{Accepted, accept};
use crate::host::InstallError;
use crate::lookout::Watched;
use crate::proof::Input;
use crate::pump::{Pump, Stop, say_goodbye};
use crate::report::{self, SessionLog};
use crate::setup::Setup;
use crate::shell::{Boxed, Running, Shell, Ticket};
use crate::store::RestartTicket;

/// A granted connection for which the host is being set up.
pub(crate) struct Opening {
    pub(crate) g: Generation,
    setup: Arc<Setup>,
    opened: Box<Opened>,
    /// The record that is written for it, unless the session has one.
    fresh: Option<JobId>,
    pub(crate) work: Boxed<Result<Box<Prepared>, InstallError>>,
}

impl Opening {
    /// Gives up. The connection is left to whoever knows whether a goodbye is due, and the record to be withdrawn once the
    /// host is clean.
    pub(crate) fn abandon(self) -> (Link, Option<JobId>) {
        (self.opened.link, self.fresh)
    }
}

/// A host that is set up.
pub(crate) struct Prepared {
    accepted: Accepted,
    /// The settings that it was accepted under.
    under: Arc<Setup>,
    account: Account,
}

impl Shell {
    /// Checks the grant, writes down how to clean the host, and sets it up: beside the loop.
    pub(crate) fn opened(&mut self, running: Running, opened: Box<Opened>) {
        let Running { g, how, setup, .. } = running;
        if setup.same_login(&self.setup) {
            self.known.clone_from(&opened.known);
        }
        let (grant, peer) = (opened.link.established.grant().clone(), opened.peer);
        let lives = self.account.as_ref().filter(|account| account.end.is_none());
        let (mut account, fresh) = match (how, lives) {
            (How::Cookie, Some(account)) => (account.clone(), None),
            (How::Cookie, None) | (How::Login, _) => {
                let account = Account::begin(&setup.config, g, clock::now());
                let id = account.record.id;
                (account, Some(id))
            }
        };
        account.connected(&setup.config, &grant, peer, self.host.interface());
        self.around.interrupted();
        let current = Arc::clone(&self.setup);
        let books = self.books.clone();
        let networks = self.host.local_networks();
        let undo = self.host.undo();
        let installer = self.host.installer();
        let work = async move {
            let local = networks.await.map_err(InstallError::Clean)?;
            let mut accepted =
                accept(&grant, peer, &current.config, &local).map_err(|refused| InstallError::Clean(refused.into()))?;
            accepted.plan.flows.clone_from(&current.flows);
            let changed = account.planned(&accepted.plan, undo(accepted.plan.clone()));
            let written = books.write(account.record.clone());
            // A record that says how to clean this host is there already; the disk may take its time with the news.
            if changed || fresh.is_some() {
                let written = timeout(RECORD_PATIENCE, written).await.unwrap_or(Err(Trouble::Stalled));
                written.map_err(|trouble| InstallError::Clean(ClientError::Unrecorded(trouble)))?;
            }
            installer.install(accepted.plan.clone()).await?;
            Ok(Box::new(Prepared {
                accepted,
                under: current,
                account,
            }))
        };
        self.opening = Some(Opening {
            g,
            setup,
            opened,
            fresh,
            work: Box::pin(work),
        });
    }

    /// The host is ready: pumps over the new connection.
    pub(crate) async fn prepared(&mut self, opening: Opening, prepared: Prepared) {
        let Opening {
            g,
            setup,
            opened,
            fresh,
            ..
        } = opening;
        let Opened {
            mut link,
            cookie,
            peer,
            tls,
            known: _,
        } = *opened;
        let Prepared {
            accepted,
            under,
            account,
        } = prepared;
        if let Some(device) = self.host.device() {
            self.device = Some(device);
        }
        let mut held = None;
        if let Some(lookout) = self.lookout.take()
            && let Some(watched) = lookout.finished().await
        {
            let Watched {
                device, held: packets, ..
            } = *watched;
            held = Some(packets);
            self.device = Some(device);
        }
        self.ended_by = None;
        if self
            .session
            .as_ref()
            .is_none_or(|session| !session.has_plan(&accepted.plan))
        {
            report::accepted(&accepted, link.established.grant());
        }
        let addresses: Vec<IpAddr> = link.established.addresses().collect();
        if !self.addresses.is_empty() && self.addresses != addresses {
            info!(
                old = report::list(&self.addresses),
                new = report::list(&addresses),
                "the gateway gave other addresses"
            );
        }
        self.addresses = addresses;
        self.remember(link.established.grant(), peer, &setup);
        self.upcoming = Some(SessionLog::new(
            &setup,
            peer,
            tls,
            accepted.plan,
            link.established.session(),
        ));
        self.next_account = Some(account);
        self.ticket = Some(Ticket { cookie, setup });

        // The connection that this one replaces goes silently: its session goes on, here.
        let mut before = self.data.take();
        let mut stood_still = false;
        let mut gap = None;
        if let Some((_, mut pump)) = self.pump.take() {
            pump.stop(Stop::Silently);
            let finished = pump.finished().await;
            gap = finished.as_ref().and_then(|finished| finished.gap);
            before = self.keep(finished).and_then(|(_, link)| {
                // Without a channel that carries, packets have waited in the device, nobody knows how long.
                stood_still = link.channel.is_none() && !link.data.as_ref().is_some_and(DataPath::is_up);
                link.data
            });
        }
        // The keys of a session that is over are of no use to another one.
        link.begin_data(before.filter(|_| fresh.is_none()));
        let Some(device) = self.device.take() else {
            return self.cancel(ClientError::Local("the packet pump failed".to_owned()));
        };
        self.quiet.reset();
        self.offline = None;
        self.failure = None;
        self.counter.status.send_modify(|status| status.problem = None);
        self.absence.answers = link.established.parks();
        self.around.granted(link.established.grant().clone(), peer, under);
        self.feed(Input::Connected(g));
        self.unparked(if fresh.is_none() { Via::Resume } else { Via::Login });
        let lost_at = self.lost_at.take();
        let watched = held.is_some();
        let first = held.map_or_else(VecDeque::new, |held| {
            let (first, dropped) = held.for_addresses(&device, &self.addresses);
            link.established.add_drops(&dropped);
            first
        });
        // Whoever watched the device knows how old everything is.
        let stale = !watched && (stood_still || lost_at.is_some_and(|lost| clock::now().awake.since(lost) >= LATE_BY));
        self.keep_for_restart(device.descriptor());
        self.pump = Some((g, Pump::start(device, link, self.machine.mode(), stale, first)));
        if let Some(gap) = gap {
            // The connection was made before anybody saw it.
            self.look_around().await;
            self.gap(gap);
        }
    }

    /// Leaves with the service manager what the next process needs, whether this one is told to end or killed.
    fn keep_for_restart(&mut self, device: Option<io::Result<Descriptor>>) {
        let (Some(store), Some(device)) = (&mut self.store, device) else {
            return;
        };
        let (Some(ticket), Some(account)) = (&self.ticket, &self.account) else {
            return;
        };
        store.keep_tun(device);
        if let Some(api) = self.api.take() {
            store.keep_api(api);
        }
        store.keep_ticket(RestartTicket::new(
            &ticket.setup.config,
            &ticket.cookie,
            account.record.id,
            &self.addresses,
            &self.known,
        ));
    }

    /// The grant is not to be used; the gateway need not keep it.
    pub(crate) fn not_prepared(&mut self, opening: Opening, error: InstallError) {
        let Opening {
            g,
            setup,
            mut opened,
            fresh,
            ..
        } = opening;
        say_goodbye(&mut opened.link);
        self.ticket = None;
        self.around.look_over();
        let (error, damaged) = match error {
            InstallError::Clean(error) => (error, false),
            InstallError::Damaged(error) => (error, true),
        };
        self.unborn.extend(fresh);
        if !damaged {
            self.withdraw_unborn();
        }
        let failure = Failure {
            error,
            stage: Stage::Granted,
            cookie: None,
        };
        self.attempt_failed(g, setup, failure, 1);
        if damaged {
            self.feed(Input::Cancel);
        }
    }
}
