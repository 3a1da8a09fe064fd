//! A worker's only reader of the device, and its map from addresses to sessions.
//!
//! ```text
//!   device --Reader--> run() --by destination--> queue of the session (bounded; full = counted drop)
//!                                           \--> the worker that has the session (team), which looks up its own map: handed()
//!   session --Outlet--> send_out() --by destination--> queue of another session, if clients may talk to each other
//!                                                 \--> device, several packets of one flow at once
//! ```
//! Each worker has a map of its own of all sessions, which the main thread keeps up to date by messages, so that no lock is taken for a packet. A
//! lease is single addresses: the entry that is equal is the longest prefix that matches, and a hash map is the table of routes.
//! The source of a session's packets has been checked before they come here (`session::gateway::Established`).

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Bundle, Coalescer, DropReason, IpPacket, Place as Standing};
use session::gateway::{Lease, SessionId};

use crate::admission::SESSION_QUEUE_BYTES;
use crate::buffer::{Buffer, Pool};
use crate::device::{Reader, Writer};
use crate::load::{Load, LoadFreight};
use crate::losses::Losses;
use crate::outlet::Outlet;
use crate::queue::{Refused, Sender, Weighs};
use crate::team::Team;

/// Bytes of memory that is kept by what is read from the device before other tasks get a turn: four large reads, with which a prototype was fastest
/// and quickest to answer. They fit into the queue of one session, which is empty again when it is the device's turn.
pub(crate) const BYTES: usize = 256 * 1024;
const _: () = assert!(BYTES < SESSION_QUEUE_BYTES);

/// Packets in them; several that are read at once count as many.
const PACKETS: usize = 128;

/// Where the packets for a session go.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// To its tunnel, which is one of this worker.
    Here(Sender<Load>),
    /// To another worker.
    There(usize),
    /// Nowhere: it has no connection.
    Nowhere,
}

/// Where the packets for one address go.
struct Port {
    session: SessionId,
    place: Place,
    /// Packets that did not get there: one count for all workers.
    drops: Arc<Losses>,
}

/// Forwards packets between the device and the sessions.
pub(crate) struct Switch {
    ports: RefCell<HashMap<IpAddr, Port>>,
    /// The gateway's own address and network of each pool.
    pools: Vec<IpNet>,
    writer: Writer,
    team: Rc<Team>,
    pool: Pool,
    outlet: RefCell<Outlet>,
    client_to_client: Cell<bool>,
    /// Packets from the device that are for no session: one count for all workers.
    drops: Arc<Losses>,
}

impl Switch {
    /// A switch without sessions. `pools` are the gateway's own addresses with the networks of the pools.
    pub(crate) fn new(
        writer: Writer,
        pools: Vec<IpNet>,
        client_to_client: bool,
        (team, pool): (Rc<Team>, Pool),
        drops: Arc<Losses>,
    ) -> Self {
        Self {
            ports: RefCell::default(),
            pools,
            outlet: RefCell::new(Outlet::new(writer.offloads())),
            writer,
            team,
            pool,
            client_to_client: Cell::new(client_to_client),
            drops,
        }
    }

    /// Whether clients may send packets to each other, from now on.
    pub(crate) fn allow_client_to_client(&self, allow: bool) {
        self.client_to_client.set(allow);
    }

    /// Packets for `lease` go to `place` from now on, whoever got them before. What does not get there is counted in `drops`.
    pub(crate) fn plug(&self, session: SessionId, lease: &Lease, place: &Place, drops: &Arc<Losses>) {
        let mut ports = self.ports.borrow_mut();
        for address in lease.addresses() {
            let port = Port {
                session,
                place: place.clone(),
                drops: Arc::clone(drops),
            };
            ports.insert(address, port);
        }
    }

    /// The session has no connection for now; its packets are dropped under [`DropReason::ChannelDown`].
    pub(crate) fn unplug(&self, session: SessionId, lease: &Lease) {
        let mut ports = self.ports.borrow_mut();
        for address in lease.addresses() {
            if let Some(port) = ports.get_mut(&address).filter(|port| port.session == session) {
                port.place = Place::Nowhere;
            }
        }
    }

    /// The session is over.
    pub(crate) fn remove(&self, session: SessionId, lease: &Lease) {
        let mut ports = self.ports.borrow_mut();
        for address in lease.addresses() {
            if ports.get(&address).is_some_and(|port| port.session == session) {
                ports.remove(&address);
            }
        }
    }

    /// Where a session gathers its packets. Not to be kept across an await, nor while other parts of the gateway are called.
    pub(crate) fn outlet(&self) -> RefMut<'_, Outlet> {
        self.outlet.borrow_mut()
    }

    /// Forwards what was gathered. What cannot be is told to `dropped`, with its number of packets.
    pub(crate) fn send_out(&self, mut dropped: impl FnMut(DropReason, usize)) {
        let mut outlet = self.outlet.borrow_mut();
        let Outlet {
            buffers,
            places,
            bundles,
            coalescer,
        } = &mut *outlet;
        let mut bundles = bundles.drain(..).peekable();
        for (index, place) in places.drain(..).enumerate() {
            let bundle = bundles.next_if(|(at, _)| *at == index).map(|(_, bundle)| bundle);
            match bundle {
                Some(bundle) => self.bundle(buffers, place, &bundle, coalescer.as_mut(), &mut dropped),
                None => self.one(buffers, place, coalescer.as_mut(), &mut dropped),
            }
        }
        if let Some(coalescer) = coalescer {
            self.write(buffers, coalescer, &mut dropped);
        }
        buffers.clear();
    }

    fn one(
        &self,
        buffers: &[Buffer],
        mut place: Standing,
        coalescer: Option<&mut Coalescer>,
        dropped: &mut dyn FnMut(DropReason, usize),
    ) {
        let bytes = &buffers[place.buffer][place.range.clone()];
        let sent = IpPacket::parse(bytes).and_then(|packet| {
            let (packet, destination) = (packet.as_bytes(), packet.destination());
            // What follows the packet in its frame is none of the receiver's business.
            place.range.end = place.range.start + packet.len();
            match (self.is_client(destination), coalescer) {
                // The queue gets a copy: `packet` is a part of a larger buffer, and a small packet that waits must not keep that with it.
                (true, _) => self.to_client(destination, || Load::plain(Buffer::Own(packet.to_vec()))),
                (false, Some(coalescer)) => {
                    coalescer.push(buffers, place);
                    Ok(())
                }
                (false, None) => self.writer.try_send(packet),
            }
        });
        if let Err(reason) = sent {
            dropped(reason, 1);
        }
    }

    /// Several packets of one flow, as one.
    fn bundle(
        &self,
        buffers: &[Buffer],
        place: Standing,
        bundle: &Bundle,
        coalescer: Option<&mut Coalescer>,
        dropped: &mut dyn FnMut(DropReason, usize),
    ) {
        let bytes = &buffers[place.buffer][place.range.clone()];
        let packet = bundle.packet(bytes);
        let destination = match IpPacket::parse(packet) {
            Ok(packet) => packet.destination(),
            Err(reason) => return dropped(reason, bundle.packets()),
        };
        if self.is_client(destination) {
            let load = || Load::with_header(Buffer::Own([&bundle.header(), packet].concat()));
            if let Err(reason) = self.to_client(destination, load) {
                dropped(reason, bundle.packets());
            }
            return;
        }
        match coalescer {
            Some(coalescer) if coalescer.takes(bundle) => {
                let range = bundle.range();
                let (start, buffer) = (place.range.start, place.buffer);
                let range = start + range.start..start + range.end;
                coalescer.push_bundle(buffers, Standing { buffer, range }, bundle);
            }
            coalescer => {
                // In order: what came before it goes first.
                if let Some(coalescer) = coalescer {
                    self.write(buffers, coalescer, dropped);
                }
                self.cut(bundle, bytes, dropped);
            }
        }
    }

    /// Hands the device the packets of a bundle one by one.
    fn cut(&self, bundle: &Bundle, bytes: &[u8], dropped: &mut dyn FnMut(DropReason, usize)) {
        let Ok(mut segments) = bundle.segments(bytes) else {
            return dropped(DropReason::Malformed, bundle.packets());
        };
        let mut packet = Vec::with_capacity(segments.longest());
        while let Some(length) = segments.next_length() {
            packet.resize(length, 0);
            segments.write_next(&mut packet);
            if let Err(reason) = self.writer.try_send(&packet) {
                dropped(reason, 1);
            }
        }
    }

    /// Hands the device what was put together.
    fn write(&self, buffers: &[Buffer], coalescer: &mut Coalescer, dropped: &mut dyn FnMut(DropReason, usize)) {
        coalescer.write(buffers, |pieces, packets| {
            if let Err(reason) = self.writer.try_send_pieces(pieces) {
                dropped(reason, packets);
            }
        });
    }

    /// Hands the device what a packet of its is answered with. Whoever does not get it sends as much again.
    pub(crate) fn answer(&self, packet: &[u8]) {
        let _ = self.writer.try_send(packet);
    }

    /// Reads the device until it is gone, and says why.
    pub(crate) async fn run(&self, mut reader: Reader) -> io::Error {
        loop {
            let (mut bytes, mut packets) = (0, 0);
            while bytes < BYTES && packets < PACKETS {
                match reader.recv().await {
                    Ok(load) => {
                        bytes += load.kept();
                        packets += load.count();
                        self.downlink(load);
                    }
                    Err(error) => return error,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn is_client(&self, destination: IpAddr) -> bool {
        let of = |pool: &IpNet| pool.contains(&destination) && pool.addr() != destination;
        self.pools.iter().any(of)
    }

    /// Packets between two clients. They never reach the device: the kernel would send them back to us.
    fn to_client(&self, destination: IpAddr, load: impl FnOnce() -> Load) -> Result<(), DropReason> {
        if self.client_to_client.get() {
            self.deliver(destination, load())
        } else {
            Err(DropReason::ClientToClient)
        }
    }

    fn downlink(&self, load: Load) {
        // No client is behind the device: whoever claims to be one there is not.
        if IpPacket::parse(load.packet()).is_ok_and(|packet| self.is_client(packet.source())) {
            return self.drops.count(DropReason::ForeignSource, load.count() as u64);
        }
        self.for_its_session(load, |place, load| self.put(place, load));
    }

    /// Takes what another worker has read for a session of this one. It does not go back: whose session it is may have changed meanwhile.
    pub(crate) fn handed(&self, load: LoadFreight) {
        self.for_its_session(load.unload(&self.pool), |place, load| match place {
            Place::Here(queue) => put(queue, load),
            Place::There(_) | Place::Nowhere => Err(DropReason::ChannelDown),
        });
    }

    fn for_its_session(&self, load: Load, put: impl FnOnce(&Place, Load) -> Result<(), DropReason>) {
        let destination = match IpPacket::parse(load.packet()) {
            Ok(packet) => packet.destination(),
            Err(reason) => return self.drops.count(reason, 1),
        };
        let packets = load.count() as u64;
        match self.ports.borrow().get(&destination) {
            Some(port) => {
                if let Err(reason) = put(&port.place, load) {
                    port.drops.count(reason, packets);
                }
            }
            None => self.drops.count(DropReason::NoRoute, packets),
        }
    }

    /// What does not arrive is counted by the caller.
    fn deliver(&self, destination: IpAddr, load: Load) -> Result<(), DropReason> {
        let ports = self.ports.borrow();
        let port = ports.get(&destination).ok_or(DropReason::NoRoute)?;
        self.put(&port.place, load)
    }

    fn put(&self, place: &Place, load: Load) -> Result<(), DropReason> {
        match place {
            Place::Here(queue) => put(queue, load),
            Place::There(worker) => {
                let packets = load.count();
                match self.team.hand_load(*worker, load.into_freight(), packets) {
                    true => Ok(()),
                    false => Err(DropReason::QueueFull),
                }
            }
            Place::Nowhere => Err(DropReason::ChannelDown),
        }
    }
}

fn put(queue: &Sender<Load>, load: Load) -> Result<(), DropReason> {
    queue.try_send(load).map_err(|refused| match refused {
        Refused::Full => DropReason::QueueFull,
        Refused::Closed => DropReason::ChannelDown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{MemoryDevice, of_memory};
    use crate::queue::{Receiver, queue};
    use crate::team::{Parcel, assemble};
    use bytes::{Bytes, BytesMut};
    use std::net::Ipv4Addr;

    const ONE: SessionId = SessionId([1; 16]);
    const OTHER: SessionId = SessionId([2; 16]);

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, last)
    }

    fn lease(last: u8) -> Lease {
        Lease {
            v4: Some(address(last)),
            v6: None,
        }
    }

    fn packet_to(to: Ipv4Addr) -> Bytes {
        let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1];
        packet.extend(to.octets());
        packet.into()
    }

    fn load(to: Ipv4Addr) -> Load {
        Load::plain(Buffer::Shared(packet_to(to)))
    }

    fn next(packets: &mut Receiver<Load>) -> Option<Bytes> {
        packets.try_recv().map(|load| Bytes::copy_from_slice(load.packet()))
    }

    /// A packet of a client, by itself.
    fn uplink(switch: &Switch, packet: Bytes) -> Result<(), DropReason> {
        switch.outlet().frame(BytesMut::from(packet));
        let mut outcome = Ok(());
        switch.send_out(|reason, _| outcome = Err(reason));
        outcome
    }

    fn switch(client_to_client: bool) -> (Switch, MemoryDevice) {
        let (team, _) = assemble(1, &Arc::default()).pop().expect("one");
        let (near, far) = MemoryDevice::pair(4);
        (of_team(team, near, client_to_client), far)
    }

    fn of_team(team: Team, device: MemoryDevice, client_to_client: bool) -> Switch {
        let (_, writer) = of_memory(device);
        let pools = vec!["10.78.0.1/24".parse().expect("pool")];
        let own = (Rc::new(team), Pool::default());
        Switch::new(writer, pools, client_to_client, own, Arc::default())
    }

    fn plug(switch: &Switch, session: SessionId, lease: &Lease, queue: Sender<Load>) -> Arc<Losses> {
        let drops = Arc::default();
        switch.plug(session, lease, &Place::Here(queue), &drops);
        drops
    }

    #[test]
    fn a_packet_of_the_device_goes_to_the_session_of_its_destination() {
        let (switch, _device) = switch(false);
        let (sender, mut packets) = queue(4, 1 << 20);
        plug(&switch, ONE, &lease(2), sender);
        switch.downlink(load(address(2)));
        switch.downlink(load(address(3)));
        switch.downlink(Load::plain(Buffer::Own(b"junk".to_vec())));
        assert_eq!(next(&mut packets), Some(packet_to(address(2))));
        assert!(packets.try_recv().is_none());
        assert_eq!(switch.drops.read().to_string(), "malformed=1 no_route=1");
    }

    #[test]
    fn a_client_is_not_behind_the_device() {
        let (switch, _device) = switch(true);
        let (sender, mut packets) = queue(4, 1 << 20);
        plug(&switch, ONE, &lease(2), sender);
        let from = |last: u8| {
            let mut packet = packet_to(address(2)).to_vec();
            packet[12..16].copy_from_slice(&address(last).octets());
            Load::plain(Buffer::Own(packet))
        };
        switch.downlink(from(3));
        assert!(packets.try_recv().is_none());
        assert_eq!(switch.drops.read().to_string(), "foreign_source=1");
        switch.downlink(from(1));
        assert!(packets.try_recv().is_some(), "the gateway itself is");
    }

    #[test]
    fn what_a_session_cannot_take_is_counted_under_that_session() {
        let (switch, _device) = switch(false);
        let (sender, packets) = queue(1, 1 << 20);
        let drops = plug(&switch, ONE, &lease(2), sender);
        switch.downlink(load(address(2)));
        switch.downlink(load(address(2)));
        switch.unplug(ONE, &lease(2));
        switch.downlink(load(address(2)));
        drop(packets);
        switch.remove(ONE, &lease(2));
        assert_eq!(drops.read().to_string(), "queue_full=1 channel_down=1");
        assert_eq!(switch.drops.read().total(), 0);
        switch.downlink(load(address(2)));
        assert_eq!(switch.drops.read().of(DropReason::NoRoute), 1);
    }

    #[test]
    fn an_address_that_has_passed_on_is_not_taken_from_its_new_owner() {
        let (switch, _device) = switch(false);
        let (old, _old_packets) = queue(1, 1 << 20);
        let (new, mut packets) = queue(1, 1 << 20);
        plug(&switch, ONE, &lease(2), old);
        plug(&switch, OTHER, &lease(2), new);
        switch.unplug(ONE, &lease(2));
        switch.remove(ONE, &lease(2));
        switch.downlink(load(address(2)));
        assert!(packets.try_recv().is_some());
    }

    #[test]
    fn a_packet_of_a_client_goes_to_the_device_unless_it_is_for_another_client() {
        let (switch, device) = switch(false);
        let (mut out, _) = device.into_parts();
        for to in [Ipv4Addr::new(192, 168, 7, 7), address(1)] {
            assert_eq!(uplink(&switch, packet_to(to)), Ok(()));
            assert_eq!(out.try_recv(), Ok(packet_to(to)));
        }
        assert_eq!(uplink(&switch, packet_to(address(2))), Err(DropReason::ClientToClient));
        switch.allow_client_to_client(true);
        assert_eq!(uplink(&switch, packet_to(address(2))), Err(DropReason::NoRoute));
        let (sender, mut packets) = queue(1, 1 << 20);
        plug(&switch, ONE, &lease(2), sender);
        assert_eq!(uplink(&switch, packet_to(address(2))), Ok(()));
        assert_eq!(next(&mut packets), Some(packet_to(address(2))));
        assert!(out.try_recv().is_err());
    }

    #[test]
    fn what_follows_a_packet_in_its_frame_goes_nowhere_and_is_not_kept() {
        let (switch, device) = switch(true);
        let (mut out, _) = device.into_parts();
        let (sender, mut packets) = queue(1, 1 << 20);
        plug(&switch, ONE, &lease(2), sender);
        for to in [address(2), Ipv4Addr::new(192, 168, 7, 7)] {
            let frame = Bytes::from([&packet_to(to)[..], b"trailing"].concat());
            assert_eq!(uplink(&switch, frame), Ok(()));
            assert!(
                switch.outlet().buffers.is_empty(),
                "nothing holds the buffer of the frame"
            );
            if to == address(2) {
                assert_eq!(next(&mut packets), Some(packet_to(to)));
            } else {
                assert_eq!(out.try_recv(), Ok(packet_to(to)));
            }
        }
    }
    #[test]
    fn a_packet_for_a_session_of_another_worker_goes_there_and_never_on() {
        let mut sides = assemble(2, &Arc::default());
        let (_far, mut post) = sides.pop().expect("two");
        let (team, _post) = sides.pop().expect("two");
        let (near, _device) = MemoryDevice::pair(4);
        let switch = of_team(team, near, true);
        let drops = Arc::default();
        switch.plug(ONE, &lease(2), &Place::There(1), &drops);
        switch.downlink(load(address(2)));
        assert_eq!(uplink(&switch, packet_to(address(2))), Ok(()));
        for _ in 0..2 {
            let Some(Parcel::Load(load)) = post.parcels.try_recv() else {
                panic!("no parcel");
            };
            switch.handed(load);
        }
        assert_eq!(drops.read().to_string(), "channel_down=2", "it has moved meanwhile");
        let (sender, mut packets) = queue(4, 1 << 20);
        switch.plug(ONE, &lease(2), &Place::Here(sender), &drops);
        switch.handed(load(address(2)).into_freight());
        assert_eq!(next(&mut packets), Some(packet_to(address(2))));
    }
}
