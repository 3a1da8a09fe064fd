//! What is left of a tunnel that is down: it is let go behind the acknowledgement.

use std::time::Duration;

use tracing::warn;

use crate::clock;
use crate::proof::Input;
use crate::shell::{Done, Leaving, Released, Shell};
use crate::store::Store;

/// The kernel needs about 20 ms to remove a device; the end of the process would do it as well.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// It needs as long for a table of the packet filter, which the end of the process does not remove. A busy machine takes its time to run nft.
const LAST_TABLES: Duration = Duration::from_millis(500);

impl Shell {
    pub(crate) fn released(&mut self, released: Released) {
        let Released {
            g,
            proof,
            finished,
            watched,
        } = released;
        if let Some(finished) = finished {
            self.carried.add(finished.link.established.traffic());
            self.device = Some(finished.device);
            self.leaving.link = Some(finished.link);
        }
        if let Some(watched) = watched {
            // What it saw of a device that is gone is of no use any more.
            let _ = self.watched(*watched);
        }
        self.leaving.device = self.device.take();
        self.data = None;
        self.end_session();
        if !proof.residue().is_empty() {
            warn!(
                residue = proof.residue().join("; "),
                "could not restore all of this host; the next start of this tunnel tries again"
            );
        }
        self.counter.status.send_modify(|status| status.tunnel = None);
        self.feed(Input::Released { g, restored: proof });
    }

    /// Lets go of what a tunnel left that is down and acknowledged.
    pub(crate) fn let_go(&mut self) {
        // More stops than the machine acknowledges one by one share the last acknowledgement.
        self.answer_the_rest();
        let Leaving { device, link } = std::mem::take(&mut self.leaving);
        drop(link);
        let Some(device) = device else { return };
        self.count_owed();
        if self.handed {
            // The service manager has another descriptor of it.
            return drop(device);
        }
        let shared = self.store.as_ref().is_some_and(Store::has_tun);
        if let Some(store) = &mut self.store {
            store.clear();
        }
        let since = clock::now().awake;
        if let Some(gone) = self.host.take_back(device, shared) {
            self.background.spawn(async move {
                gone.await;
                Done::DeviceGone { since }
            });
        }
    }

    /// Waits a moment for what is on its way off this host.
    pub(crate) async fn last_words(&mut self) {
        let wait = async {
            while let Some(done) = self.background.join_next().await {
                if let Ok(done) = done {
                    self.done(done);
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, wait).await;
        let _ = tokio::time::timeout(LAST_TABLES, self.host.settled()).await;
    }
}
