//! Waiting for a way to the gateway: while there is none, attempts fail by themselves, and the next one need not wait for its
//! time when there is one again.

use std::net::SocketAddr;
use std::time::Duration;

use lifecycle::FailClass;
use tokio::time::{Instant, sleep_until};

use crate::route::{has_network, route_source};

/// A person who plugs in a cable looks at the screen next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An attempt had no way to the gateway, and none was made since that had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offline {
    look_at: Instant,
    /// The routes said so as well. What a route says is worth nothing for an attempt that failed in spite of it.
    gone: bool,
}

impl Offline {
    /// What an attempt that failed says.
    pub(crate) fn after(class: FailClass) -> Option<Self> {
        match class {
            FailClass::Offline => Some(Self {
                look_at: Instant::now(),
                gone: false,
            }),
            FailClass::Network
            | FailClass::Unavailable
            | FailClass::CookieRefused
            | FailClass::AuthRefused
            | FailClass::Fatal => None,
        }
    }

    /// Somebody says that the network has changed.
    pub(crate) fn look_now(&mut self) {
        self.look_at = Instant::now();
    }

    /// Whether there is a way again.
    fn found(&mut self, way: bool) -> bool {
        let back = way && self.gone;
        self.gone = !way;
        back
    }
}

/// Waits until there is a way again to `gateway`, or to anybody if its address is not known; for ever where one was there all
/// the time. Cancel safe.
pub(crate) async fn looked(offline: &mut Option<Offline>, gateway: Option<SocketAddr>, mark: Option<u32>) {
    while let Some(waiting) = offline {
        sleep_until(waiting.look_at).await;
        waiting.look_at = Instant::now() + LOOK_EVERY;
        let way = gateway.map_or_else(|| has_network(mark), |gateway| route_source(gateway, mark).is_ok());
        if waiting.found(way) {
            *offline = None;
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_back_only_if_it_was_gone() {
        let mut offline = Offline::after(FailClass::Offline).expect("no way");
        let looks = [true, false, false, true, true, false, true];
        let back: Vec<bool> = looks.into_iter().map(|way| offline.found(way)).collect();
        assert_eq!(back, [false, false, false, true, false, false, true]);
        assert!(Offline::after(FailClass::Network).is_none());
    }
}
