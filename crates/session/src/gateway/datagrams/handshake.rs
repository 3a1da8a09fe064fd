//! From a hello to a link. The client begins, and repeats what is lost.

use std::time::Duration;

use dtls::{ConnectionId, Established, ProvenHello, Server, ServerConfig};
use now::{Awake, Now};

use super::{Datagrams, GatewayData, Key, Link, MAX_LINKS};
use crate::datagrams::PathWatch;

/// Largest datagram of a handshake: fits any path that carries IPv6.
const HANDSHAKE_MTU: usize = 1200;

/// A hello from the address of the handshake under way is a repetition for this long; afterwards it begins anew.
const REPETITION: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Shaking<E> {
    pub(super) server: Box<Server>,
    pub(super) endpoint: E,
    /// What the client's records will carry, if it agrees. Its last message of the handshake does already.
    pub(super) id: ConnectionId,
    pub(super) since: Awake,
}

impl<E: Copy + Eq> Datagrams<E> {
    /// A hello from an address that has proven to be the sender's. `random` and `id` must never have been used before.
    pub fn hello(
        &mut self,
        hello: ProvenHello,
        datagram: &mut [u8],
        endpoint: E,
        (random, id): ([u8; 32], ConnectionId),
        now: Now,
    ) {
        if let Some(shaking) = &mut self.shaking
            && shaking.endpoint == endpoint
            && now.awake.since(shaking.since) < REPETITION
        {
            let _ = shaking.server.received(datagram, now.awake);
            return self.go_on();
        }
        let config = ServerConfig {
            psk: self.terms.psk.clone(),
            suites: self.terms.suites.clone(),
            extended_master_secret: true,
            connection_id: Some(id),
            mtu: HANDSHAKE_MTU,
        };
        let Ok(server) = Server::new(config, hello, random, now.awake) else {
            return;
        };
        let shaking = Shaking {
            server: Box::new(server),
            endpoint,
            id,
            since: now.awake,
        };
        self.give_up_shaking();
        self.shaking = Some(shaking);
        self.outputs.push_back(GatewayData::Claim(Key::From(endpoint)));
        self.outputs.push_back(GatewayData::Claim(Key::Id(id)));
        self.go_on();
    }

    pub(super) fn go_on(&mut self) {
        if let Some(Shaking { server, endpoint, .. }) = &mut self.shaking {
            while let Some(datagram) = server.poll() {
                self.outputs.push_back(GatewayData::Send(*endpoint, datagram));
            }
        }
    }

    pub(super) fn give_up_shaking(&mut self) {
        if let Some(shaking) = self.shaking.take() {
            self.outputs.push_back(GatewayData::Release(Key::Id(shaking.id)));
            self.release_endpoint(shaking.endpoint);
        }
    }

    pub(super) fn hand_to_handshake(
        &mut self,
        endpoint: E,
        datagram: &mut [u8],
        now: Now,
        deliver: &mut dyn FnMut(&mut [u8]),
    ) {
        if let Some(shaking) = &mut self.shaking
            && shaking.endpoint == endpoint
        {
            let outcome = shaking.server.received(datagram, now.awake);
            self.go_on();
            match outcome {
                Ok(()) => self.stand(now, deliver),
                Err(_) => self.give_up_shaking(),
            }
        }
    }

    /// A link of its own, if the handshake is done.
    pub(super) fn stand(&mut self, now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
        let Some(shaking) = &mut self.shaking else { return };
        let Some(established) = shaking.server.established() else {
            return;
        };
        let (endpoint, id) = (shaking.endpoint, shaking.id);
        self.shaking = None;
        let Established {
            seal,
            open,
            tail,
            facts,
        } = established;
        if facts.own_connection_id.is_none() {
            self.outputs.push_back(GatewayData::Release(Key::Id(id)));
        }
        let link = Link {
            id: facts.own_connection_id,
            endpoint,
            seal,
            open,
            tail,
            suite: facts.suite,
            extended_master_secret: facts.extended_master_secret,
            watch: PathWatch::new(None, now.awake),
            mtu: None,
            proven: false,
            until: None,
            candidate: None,
        };
        // Behind the link in use until the client has used it.
        let index = usize::from(self.links.first().is_some_and(|first| first.proven));
        self.links.insert(index, link);
        while self.links.len() > MAX_LINKS {
            if let Some(link) = self.links.pop() {
                self.forget(&link);
            }
        }
        for mut record in facts.early {
            let index = self.heard(index, now.awake);
            self.record_in((index, true), endpoint, &mut record, now, deliver);
        }
    }
}
