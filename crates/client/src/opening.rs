//! From a granted connection to a tunnel: the grant is checked, the host is set up for it, and the pump starts.
//!
//! ```text
//!   Opened --> Opening: networks of this host --> accept --> install --> Prepared --> Connected, pump
//!                 | dropped by an abort: what was begun on the host is cleared by the release that follows
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use lifecycle::{Generation, Input, Stage};
use now::LATE_BY;
use tracing::info;

use crate::ClientError;
use crate::attempt::{Failure, Link, Opened};
use crate::clock;
use crate::grant::{Accepted, accept};
use crate::host::{InstallError, Installed};
use crate::pump::{Pump, Stop, say_goodbye};
use crate::report::{self, SessionLog};
use crate::setup::Setup;
use crate::shell::{Boxed, Running, Shell, Ticket};

/// A granted connection for which the host is being set up.
pub(crate) struct Opening {
    pub(crate) g: Generation,
    setup: Arc<Setup>,
    opened: Box<Opened>,
    pub(crate) work: Boxed<Result<Box<Prepared>, InstallError>>,
}

impl Opening {
    /// Gives up; the connection is left to whoever knows whether a goodbye is due.
    pub(crate) fn abandon(self) -> Link {
        self.opened.link
    }
}

/// A host that is set up.
pub(crate) struct Prepared {
    accepted: Accepted,
    installed: Installed,
}

impl Shell {
    /// Checks the grant and sets the host up, beside the loop.
    pub(crate) fn opened(&mut self, running: Running, opened: Box<Opened>) {
        let Running { g, setup, .. } = running;
        if setup.same_login(&self.setup) {
            self.known.clone_from(&opened.known);
        }
        let (grant, peer) = (opened.link.established.grant().clone(), opened.peer);
        let current = Arc::clone(&self.setup);
        let networks = self.host.local_networks();
        let installer = self.host.installer();
        let work = async move {
            let local = networks.await.map_err(InstallError::Clean)?;
            let accepted =
                accept(&grant, peer, &current.config, &local).map_err(|refused| InstallError::Clean(refused.into()))?;
            let installed = installer.install(accepted.plan.clone()).await?;
            Ok(Box::new(Prepared { accepted, installed }))
        };
        self.opening = Some(Opening {
            g,
            setup,
            opened,
            work: Box::pin(work),
        });
    }

    /// The host is ready: pumps over the new connection.
    pub(crate) async fn prepared(&mut self, opening: Opening, prepared: Prepared) {
        let Opening { g, setup, opened, .. } = opening;
        let Opened {
            link,
            cookie,
            peer,
            tls,
            known: _,
        } = *opened;
        let Prepared { accepted, installed } = prepared;
        if let Some(device) = self.host.installed(installed) {
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
        self.upcoming = Some(SessionLog::new(
            &setup,
            peer,
            tls,
            accepted.plan,
            link.established.session(),
        ));
        self.ticket = Some(Ticket { cookie, setup });

        // The connection that this one replaces goes silently: its session goes on, here.
        if let Some((_, mut pump)) = self.pump.take() {
            pump.stop(Stop::Silently);
            let finished = pump.finished().await;
            self.keep(finished);
        }
        let Some(device) = self.device.take() else {
            return self.cancel(ClientError::Local("the packet pump failed".to_owned()));
        };
        self.quiet.reset();
        self.failure = None;
        self.feed(Input::Connected(g));
        let stale = self
            .lost_at
            .take()
            .is_some_and(|lost| clock::now().awake.since(lost) >= LATE_BY);
        self.pump = Some((g, Pump::start(device, link, stale)));
    }

    /// The grant is not to be used; the gateway need not keep it.
    pub(crate) fn not_prepared(&mut self, opening: Opening, error: InstallError) {
        let Opening {
            g, setup, mut opened, ..
        } = opening;
        say_goodbye(&mut opened.link);
        self.ticket = None;
        let (error, damaged) = match error {
            InstallError::Clean(error) => (error, false),
            InstallError::Damaged(error) => (error, true),
        };
        let failure = Failure {
            error,
            stage: Stage::Granted,
            cookie: None,
        };
        self.attempt_failed(g, setup, failure);
        if damaged {
            self.feed(Input::Cancel);
        }
    }
}
