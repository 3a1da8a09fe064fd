//! Many clients that sleep: each logs in with a certificate, opens its data channel, says that it is about to sleep, and is not heard of any more.
//!
//! ```text
//!   TLS: certificate -> cookie -> CONNECT (parking granted) --+-- "park", answered -- the connection breaks
//!   UDP: DTLS handshake -> a question, answered --------------+                       the gateway keeps session, address and keys
//! ```
//! What they are to the gateway is what sleeping hosts are.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use platform::netns::Namespace;

use crate::member::{self, Member, SHEPHERD};
use crate::peer::Cstp;
use crate::{Identity, Lab, Settings, Site};

/// "I am about to sleep", and its answer (docs/PROTOCOL.md).
const PARK: u8 = 0x41;
const PARK_ANSWER: u8 = 0x42;

/// Clients of one site.
#[derive(Debug)]
pub struct Herd<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    site: &'a Site,
    identity: Identity,
    parked: usize,
}

impl<'a> Herd<'a> {
    /// Nobody yet, on `host`.
    ///
    /// # Errors
    /// If there is no certificate for them.
    pub fn new(lab: &'a Lab, host: &'a Namespace, site: &'a Site) -> Result<Self> {
        Ok(Self {
            lab,
            host,
            site,
            identity: lab.pki().client(SHEPHERD)?,
            parked: 0,
        })
    }

    /// A gateway's settings with room for so many of them.
    pub fn room(lab: &Lab, settings: Settings, count: u16) -> Settings {
        member::room(lab, settings, count)
    }

    /// The name that the users file has to know.
    pub fn user() -> &'static str {
        SHEPHERD
    }

    /// Parks so many more of them.
    ///
    /// # Errors
    /// If the gateway does not let one in.
    pub fn park(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.park_one()
                .with_context(|| format!("after {} clients", self.parked))?;
            self.parked += 1;
        }
        Ok(())
    }

    fn park_one(&self) -> Result<()> {
        let key = Ed25519KeyPair::generate().context("no key")?;
        let park = format!("X-Marmot-Park: v=1;key={}", hex(key.public_key().as_ref()));
        let Member { mut control, .. } = Member::join(self.lab, self.host, self.site, &self.identity, &[&park])?;
        ensure!(control.granted("X-Marmot-Park").is_some(), "parking is not granted");
        control.send(&Cstp::new(PARK, *b"good one"))?;
        while control.receive()?.kind != PARK_ANSWER {}
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
