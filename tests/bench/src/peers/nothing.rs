//! No tunnel: the client has a route to the LAN.

use std::time::Instant;

use anyhow::Result;
use lab::Process;

use super::{Peer, Stop};
use crate::rig::Rig;

struct Nothing;

pub(super) fn make<'a>(_rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    Ok(Box::new(Nothing))
}

impl Nothing {
    fn route(&self, rig: &Rig<'_>, what: &str) -> Result<()> {
        let plan = rig.site().plan;
        let arguments = format!("route {what} {} via {}", plan.lan_v4(), plan.gateway_v4());
        rig.ip(rig.lab.client(), &arguments)
    }
}

impl Peer for Nothing {
    fn gateway(&self, _rig: &Rig<'_>) -> Result<Vec<Process>> {
        Ok(Vec::new())
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        self.route(rig, "add").map(|()| Vec::new())
    }

    fn stop(&self, rig: &Rig<'_>, _client: &[Process]) -> Result<Stop> {
        let began = Instant::now();
        self.route(rig, "del")?;
        let gone = began.elapsed();
        Ok(Stop { told: gone, gone })
    }
}
