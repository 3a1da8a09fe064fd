//! Who is parked, and why.

use now::Now;
use session::gateway::SessionId;
use session::park::{ParkKind, Via};
use tracing::{debug, info};

use super::SessionRoom;

impl SessionRoom {
    /// The client of this connection is silent, for this reason.
    pub(crate) fn parked(&self, id: SessionId, epoch: u64, kind: ParkKind, _now: Now) {
        info!(session = %id, epoch, %kind, "session.park");
    }

    /// The client of this connection is back without a new one.
    pub(crate) fn unparked(&self, id: SessionId, epoch: u64, via: Via, _now: Now) {
        info!(session = %id, epoch, %via, "session.unpark");
    }

    /// A parked client said something and stays parked: a maintenance wake. Its time begins anew.
    pub(crate) fn stirred(&self, id: SessionId, epoch: u64, _now: Now) {
        debug!(session = %id, epoch, "a parked client stirred");
    }

    /// The control connection is gone; the tunnel goes on with the data channel.
    pub(crate) fn control_lost(&self, id: SessionId, epoch: u64, why: &str, _now: Now) {
        debug!(session = %id, epoch, why, "path.lost");
    }
}
