//! The data channel of one tunnel: its machine, its port in the room of datagrams, and what goes between them.

use std::collections::VecDeque;
use std::time::Duration;

use now::{Deadline, Gap, Now};
use packet::{Batch, DropCounters, DropReason, Ecn};
use platform::udp::SendFault;
use session::Received;
use session::gateway::{Datagrams, Established, GatewayData, SessionId};
use session::park::Via;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::buffer::Buffer;
use crate::datagrams::{Arrival, DatagramRoom, Endpoint, Granted, Inheritance, Port};
use crate::outlet::{Origin, Outlet};
use crate::refusal::Refusal;

/// How long a tunnel waits for what the one before it leaves. That one is told at once, and needs one turn.
const ESTATE: Duration = Duration::from_millis(100);

/// Arrivals handled before something else gets its turn. A prototype read as many single datagrams with four calls, and was fastest so.
const BATCH: usize = 256;

/// Datagrams in them: more than a socket gives in a turn of its own (`datagrams`), so that a single client's never fill the queue.
const DATAGRAMS: usize = 1024;

/// What became of a packet that was to take the data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is on its way.
    Sent,
    /// It is to take the control channel.
    NotHere,
}

/// What the data channel tells of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It said something, from where it was or from elsewhere.
    Heard(Via),
    /// It is about to sleep.
    Park,
    /// It is awake.
    Awake(Via),
    /// Packets to it do not take this channel any more. Where that is because it is not heard here, it is to be asked over the
    /// other one.
    Lost,
}

/// Takes the packets that were opened.
pub(crate) struct Inlet<'a> {
    pub(crate) established: &'a mut Established,
    pub(crate) outlet: &'a mut Outlet,
    pub(crate) refusal: &'a mut Refusal,
}

impl Inlet<'_> {
    fn packet(&mut self, packet: &mut [u8], (origin, outer): (Origin, Ecn), now: Now) {
        match self.established.incoming_in(outer, packet, now) {
            Received::Packet => self.outlet.note(packet, origin),
            Received::Dropped(DropReason::Access) => self.refusal.of(packet, now),
            // Counted by the session. A bundle comes in frames only.
            Received::Nothing | Received::Bundle(_) | Received::Dropped(_) => {}
        }
    }

    fn keep(&mut self, buffer: Buffer) {
        self.outlet.keep(buffer);
    }
}

/// See the module.
pub(crate) struct DataPath<'a> {
    room: &'a DatagramRoom,
    session: SessionId,
    machine: Datagrams<Endpoint>,
    /// `None` once it was left to another tunnel.
    port: Option<Port>,
    /// Whom the records in the room's batch are for, if they are ours.
    gathered_for: Option<Endpoint>,
    /// Packets that were sealed and could not be sent.
    lost: DropCounters,
    /// What was heard; the tunnel takes it after each call. Each word costs the client a record, of which about [`DATAGRAMS`] are
    /// taken at a time.
    words: VecDeque<Word>,
}

impl<'a> DataPath<'a> {
    /// The data channel that was granted to a tunnel.
    pub(crate) fn new(room: &'a DatagramRoom, granted: Granted, session: SessionId) -> Self {
        Self {
            room,
            session,
            machine: Datagrams::new(granted.terms),
            port: Some(granted.port),
            gathered_for: None,
            lost: DropCounters::default(),
            words: VecDeque::new(),
        }
    }

    /// Goes on with what the tunnel before leaves, if it leaves anything. Packets that wait there go to `deliver`.
    pub(crate) async fn inherit(&mut self, estate: oneshot::Receiver<Inheritance>, now: Now, inlet: &mut Inlet<'_>) {
        let Ok(Ok(Inheritance { datagrams, mut port })) = timeout(ESTATE, estate).await else {
            return;
        };
        // Whatever does not go on is forgotten here: nobody knows the old port afterwards.
        self.room.close(&port, datagrams.keys());
        let terms = self.machine.terms().clone();
        self.machine = datagrams;
        self.machine.renew(terms);
        if let Some(own) = &self.port {
            for key in self.machine.keys() {
                self.room.claim(key, own);
            }
        }
        port.arrivals.close();
        let mut waiting = Vec::new();
        while let Some(arrival) = port.arrivals.try_recv() {
            waiting.push(arrival);
        }
        for arrival in waiting {
            self.arrived(arrival, now, inlet);
        }
        self.carry_out(now);
    }

    /// Waits for something to arrive. Cancel safe.
    pub(crate) async fn arrival(&mut self) -> Arrival {
        if let Some(port) = &mut self.port
            && let Some(arrival) = port.arrivals.recv().await
        {
            return arrival;
        }
        std::future::pending().await
    }

    /// Takes this arrival and those behind it, at most [`BATCH`] and about [`DATAGRAMS`], and says whether there are likely more.
    pub(crate) fn take(&mut self, first: Arrival, now: Now, inlet: &mut Inlet<'_>) -> bool {
        let (mut taken, mut datagrams) = (1, first.datagrams());
        self.arrived(first, now, inlet);
        while taken < BATCH
            && datagrams < DATAGRAMS
            && let Some(arrival) = self.port.as_mut().and_then(|port| port.arrivals.try_recv())
        {
            taken += 1;
            datagrams += arrival.datagrams();
            self.arrived(arrival, now, inlet);
        }
        self.carry_out(now);
        taken >= BATCH || datagrams >= DATAGRAMS
    }

    /// The client sent a packet over the control channel.
    pub(crate) fn client_uses_control(&mut self, now: Now) {
        self.machine.client_uses_control();
        self.carry_out(now);
    }

    /// The client answered over the control channel.
    pub(crate) fn client_answers_on_control(&mut self, now: Now) {
        if self.machine.is_silent() {
            self.machine.client_answers_on_control();
            self.carry_out(now);
        }
    }

    /// What was heard of the client, in the order that counts: its words about itself last.
    pub(crate) fn word(&mut self) -> Option<Word> {
        let heard = self.machine.take_word().map(Word::Heard);
        heard.or_else(|| self.words.pop_front())
    }

    /// Asks the client for a word. `false`: it is to be asked over the control channel.
    pub(crate) fn ask(&mut self, now: Now) -> bool {
        let asked = self.machine.ask(now);
        self.carry_out(now);
        asked
    }

    /// The client is parked: nothing more is sent to it that it does not ask for.
    pub(crate) fn rest(&mut self, now: Now) {
        self.machine.rest(now);
    }

    /// The client is back.
    pub(crate) fn wake(&mut self, now: Now) {
        self.machine.wake(now);
        self.carry_out(now);
    }

    /// Whether packets to the client take no channel.
    pub(crate) fn is_silent(&self) -> bool {
        self.machine.is_silent()
    }

    /// Whether the client may be heard here without a control connection.
    pub(crate) fn has_link(&self) -> bool {
        self.machine.has_link()
    }

    /// Whether packets to the client take this channel.
    pub(crate) fn is_up(&self) -> bool {
        self.machine.is_up()
    }

    /// The largest packet it carries, in bytes, while packets take it.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.machine.mtu()
    }

    /// Seals a packet of `length` bytes with this mark, which `write` puts into its place, if the data channel is to carry it. It is sent with
    /// the next [`DataPath::flush`] at the latest.
    pub(crate) fn send(&mut self, (length, ecn): (usize, Ecn), write: impl FnOnce(&mut [u8]), now: Now) -> Fate {
        let Some((to, record)) = self.machine.record_length(length) else {
            return Fate::NotHere;
        };
        let room = self.room;
        let mut batch = room.batch();
        if self.gathered_for.is_none() {
            // What a session has left that ended in the middle of it, by a panic.
            batch.clear();
        }
        if !batch.takes(record, self.machine.outer(ecn)) || self.gathered_for.is_some_and(|before| before != to) {
            self.send_gathered(&mut batch, now);
        }
        match self.machine.seal((length, ecn), &mut batch, write, now) {
            Some(to) => {
                self.gathered_for = Some(to);
                Fate::Sent
            }
            None => Fate::NotHere,
        }
    }

    /// Sends what was gathered. Returns what was lost, once.
    pub(crate) fn flush(&mut self, now: Now) -> DropCounters {
        let room = self.room;
        self.send_gathered(&mut room.batch(), now);
        self.carry_out(now);
        std::mem::take(&mut self.lost)
    }

    fn send_gathered(&mut self, batch: &mut Batch, now: Now) {
        if let Some(to) = self.gathered_for.take()
            && let Err(unsent) = self.room.send_many(to, batch)
        {
            let lost = (batch.bytes().len() - unsent.from).div_ceil(batch.each()) as u64;
            match unsent.fault {
                SendFault::TooBig => {
                    self.machine.refused(batch.each(), now);
                    self.lost.count_many(DropReason::TooBig, lost);
                }
                SendFault::Full | SendFault::Unreachable(_) | SendFault::SourceGone(_) | SendFault::Other(_) => {
                    self.lost.count_many(DropReason::QueueFull, lost);
                }
            }
        }
        batch.clear();
    }

    /// When to call [`DataPath::handle_timeout`].
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.machine.deadline()
    }

    /// Handles every timer that is due.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.machine.handle_timeout(now);
        self.carry_out(now);
    }

    /// Waking time in which the gateway did not run does not count.
    pub(crate) fn rebase(&mut self, gap: &Gap) {
        self.machine.rebase(gap, self.room.jump());
    }

    /// Leaves everything to the tunnel that takes the session over.
    pub(crate) fn leave(mut self, heir: oneshot::Sender<Inheritance>) {
        let Some(port) = self.port.take() else { return };
        let empty = Datagrams::new(self.machine.terms().clone());
        let datagrams = std::mem::replace(&mut self.machine, empty);
        if let Err(Inheritance { datagrams, port }) = heir.send(Inheritance { datagrams, port }) {
            self.room.close(&port, datagrams.keys());
        }
    }

    /// Tells the client that the channel is closed, as far as the socket takes it at once.
    pub(crate) fn close(mut self) {
        if let Some((endpoint, record)) = self.machine.close_notify() {
            let _ = self.room.send(endpoint, &record);
        }
    }

    fn arrived(&mut self, arrival: Arrival, now: Now, inlet: &mut Inlet<'_>) {
        match arrival {
            Arrival::Hello(hello, mut datagram, endpoint) => {
                let fresh = self.room.for_a_handshake();
                self.machine.hello(*hello, &mut datagram, endpoint, fresh, now);
            }
            Arrival::Datagrams(id, mut together, endpoint) => {
                let (ranges, outer) = (together.ranges(), together.ecn);
                let bytes = together.buffer.to_mut();
                let origin = Origin::of(bytes);
                for range in ranges {
                    let challenge = || self.room.challenge();
                    let deliver = &mut |packet: &mut [u8]| inlet.packet(packet, (origin, outer), now);
                    self.machine
                        .received(endpoint, id, &mut bytes[range], challenge, now, deliver);
                }
                inlet.keep(together.buffer);
            }
        }
    }

    /// Does what the machine wants done.
    fn carry_out(&mut self, now: Now) {
        while let Some(output) = self.machine.poll() {
            match output {
                GatewayData::Send(endpoint, datagram) => match self.room.send(endpoint, &datagram) {
                    Ok(()) => {}
                    Err(SendFault::TooBig) => self.machine.refused(datagram.len(), now),
                    Err(fault) => debug!(%fault, "a datagram was not sent"),
                },
                GatewayData::Claim(key) => {
                    if let Some(port) = &self.port {
                        self.room.claim(key, port);
                    }
                }
                GatewayData::Release(key) => {
                    if let Some(port) = &self.port {
                        self.room.release(key, port);
                    }
                }
                GatewayData::Up {
                    endpoint,
                    suite,
                    extended_master_secret,
                    roams,
                } => debug!(
                    session = %self.session,
                    peer = %endpoint.peer(),
                    suite = suite.name(),
                    extended_master_secret,
                    roams,
                    "packets take the data channel"
                ),
                GatewayData::Down(why) => {
                    debug!(session = %self.session, why, "packets take the control channel");
                    self.words.push_back(Word::Lost);
                }
                GatewayData::Silent(why) => {
                    debug!(session = %self.session, why, "packets take no channel until the client is heard");
                    self.words.push_back(Word::Lost);
                }
                GatewayData::Park => self.words.push_back(Word::Park),
                GatewayData::Awake(via) => self.words.push_back(Word::Awake(via)),
                GatewayData::Moved { from, to } => {
                    info!(session = %self.session, from = %from.peer(), to = %to.peer(), "the client has moved");
                }
            }
        }
    }
}

impl Drop for DataPath<'_> {
    /// Nothing arrives for a tunnel that is gone.
    fn drop(&mut self) {
        if let Some(port) = &self.port {
            self.room.close(port, self.machine.keys());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtls::{Client, ClientConfig, Peek, Psk, Suite, peek};
    use session::gateway::{DatagramTerms, Lease};

    fn terms(ours: bool) -> DatagramTerms {
        DatagramTerms {
            psk: Psk::new(&[1; 32]).expect("a key"),
            suites: vec![Suite::Aes128GcmSha256],
            ours,
            ecn: ours,
            mtu: 1400,
            floor: 576,
            path_mtu_discovery: false,
            parks: false,
        }
    }

    fn path(room: &DatagramRoom, ours: bool) -> DataPath<'_> {
        let granted = Granted {
            terms: terms(ours),
            port: room.port(room.challenge().repeat(4)),
        };
        DataPath::new(room, granted, SessionId([1; 16]))
    }

    /// Where packets would go.
    struct Sink(Established, Outlet, Refusal);

    impl Default for Sink {
        fn default() -> Self {
            let lease = Lease { v4: None, v6: None };
            let established = Established::new(lease, 1400, None, Now::default());
            Self(established, Outlet::new(None), Refusal::default())
        }
    }

    impl Sink {
        fn inlet(&mut self) -> Inlet<'_> {
            Inlet {
                established: &mut self.0,
                outlet: &mut self.1,
                refusal: &mut self.2,
            }
        }
    }

    /// A client's hello, from somewhere.
    fn hello(now: Now) -> Arrival {
        let config = ClientConfig {
            psk: Psk::new(&[1; 32]).expect("a key"),
            identity: b"psk".to_vec(),
            session_id: vec![7; 32],
            suites: vec![Suite::Aes128GcmSha256],
            extended_master_secret: true,
            connection_ids: true,
            mtu: 1200,
        };
        let datagram = Client::new(config, [3; 32], now.awake).poll().expect("a hello");
        let Peek::Hello(view) = peek(&datagram, 8) else {
            panic!("no hello")
        };
        let proven = Box::new(view.without_cookie());
        Arrival::Hello(proven, datagram, Endpoint::nowhere())
    }

    #[tokio::test]
    async fn a_take_over_leaves_no_key_that_leads_nowhere() {
        let room = DatagramRoom::alone();
        let now = platform::clock::now();
        for ours in [true, false] {
            let mut old = path(&room, ours);
            let mut sink = Sink::default();
            old.take(hello(now), now, &mut sink.inlet());
            assert_eq!(room.known(), (1, 2), "an App-ID; an address and an id");
            let (heir, estate) = oneshot::channel();
            let mut new = path(&room, ours);
            old.leave(heir);
            new.inherit(estate, now, &mut sink.inlet()).await;
            assert_eq!(room.known(), (1, 0), "the handshake under the old key is over");
            drop(new);
            assert_eq!(room.known(), (0, 0));
        }
    }
}
