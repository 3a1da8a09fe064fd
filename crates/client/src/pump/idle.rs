//! Whether any program uses the tunnel: the shell is told when none has for as long as is configured.
//!
//! Only packets of programs count, in either direction. What keeps a session alive, and how hosts keep house among
//! themselves, does not.

use std::time::Duration;

use now::{Awake, Gap, Now};

use super::Worker;
use crate::datapath::News;

/// When the tunnel was used last, looked at once a tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// Nothing if nobody wants to know.
    idle: Option<Duration>,
    last: Awake,
    /// A program has sent something since the last tick.
    sent: bool,
    /// Packets that had come by then.
    packets_in: u64,
}

impl Use {
    pub(super) fn new(idle: Option<Duration>, now: Now) -> Self {
        Self {
            idle,
            last: now.awake,
            sent: false,
            packets_in: 0,
        }
    }

    /// Whether packets of the host are worth a look until the next tick.
    pub(super) fn is_open(&self) -> bool {
        self.idle.is_some() && !self.sent
    }

    pub(super) fn rebase(&mut self, gap: &Gap) {
        self.last = self.last.plus(gap.awake);
    }

    /// Whether nobody has used it for too long.
    fn tick(&mut self, packets_in: u64, now: Awake) -> bool {
        let Some(idle) = self.idle else { return false };
        if std::mem::take(&mut self.sent) || self.packets_in != packets_in {
            self.packets_in = packets_in;
            self.last = now;
        }
        now.since(self.last) >= idle
    }
}

impl Worker {
    /// Notes a packet of the host.
    pub(super) fn note_use(&mut self, packet: &[u8]) {
        if self.used.is_open() && self.link.established.somebody_waits_for(packet) {
            self.used.sent = true;
        }
    }

    /// Tells the shell that nobody uses the tunnel, as long as that is so.
    pub(super) fn look_at_use(&mut self, now: Now) {
        let packets_in = self.link.established.traffic().packets_in;
        if self.used.tick(packets_in, now.awake) {
            self.tell(News::Idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_idle_when_nothing_of_a_program_has_gone_either_way() {
        let now = Now::default();
        let at = |seconds| now.plus(Duration::from_secs(seconds)).awake;
        let mut used = Use::new(Some(Duration::from_secs(10)), now);
        assert!(!used.tick(0, at(9)));
        used.sent = true;
        assert!(!used.tick(0, at(12)) && !used.tick(1, at(20)));
        assert!(!used.tick(1, at(29)) && used.tick(1, at(30)) && used.tick(1, at(31)));
        let mut never = Use::new(None, now);
        assert!(!never.tick(0, at(1000)) && !never.is_open());
    }
}
