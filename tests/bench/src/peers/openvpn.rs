//! Debian's OpenVPN over UDP, without the kernel's help (`ovpn-dco`), which Debian's kernel does not have.

use anyhow::Result;
use lab::{Openvpn, Process};

use super::{Peer, Stop, ended};
use crate::rig::Rig;

impl Peer for Openvpn<'_> {
    fn gateway(&self, _rig: &Rig<'_>) -> Result<Vec<Process>> {
        Ok(vec![self.serve()?])
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        Ok(vec![self.up(rig.lab.client(), "openvpn")?])
    }

    fn stop(&self, _rig: &Rig<'_>, client: &[Process]) -> Result<Stop> {
        ended(client, Self::STOP)
    }
}

pub(super) fn make<'a>(rig: &Rig<'a>) -> Result<Box<dyn Peer + 'a>> {
    Ok(Box::new(Openvpn::configure(rig.lab, rig.site())?))
}
