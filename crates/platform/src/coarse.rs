//! A timer on the boot clock where the system has none that tokio can wait for: tokio's own, in short steps.
//!
//! tokio's timers stand still while the host sleeps, and so would be late by what was left of them; in steps they are late by
//! a step at most. Never run on the systems that use it; tested on Linux.

use std::io;
use std::time::Duration;

use now::Boot;
use tokio::time::sleep;

use crate::clock::now;

/// How late a deadline may be after a sleep, against how often an idle host is woken for nothing.
const STEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Ticker {
    at: Option<Boot>,
}

impl Ticker {
    #[expect(clippy::unnecessary_wraps)] // as where it is a descriptor
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { at: None })
    }

    #[expect(clippy::unnecessary_wraps)] // as where it is a descriptor
    pub(crate) fn set_in(&mut self, wait: Duration) -> io::Result<()> {
        self.at = Some(now().boot.plus(wait));
        Ok(())
    }

    pub(crate) async fn tick(&mut self) -> io::Result<()> {
        let Some(at) = self.at else {
            return std::future::pending().await;
        };
        loop {
            let left = at.since_origin().saturating_sub(now().boot.since_origin());
            if left.is_zero() {
                self.at = None;
                return Ok(());
            }
            sleep(left.min(STEP)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_comes_once_and_not_before_its_time() {
        let mut ticker = Ticker::new().expect("nothing to fail");
        ticker.set_in(Duration::from_millis(20)).expect("nothing to fail");
        let at = ticker.at.expect("a deadline");
        ticker.tick().await.expect("nothing to fail");
        assert!(now().boot >= at);
        assert!(ticker.at.is_none());
    }
}
