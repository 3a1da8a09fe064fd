//! The control channel of a pump: frames, the last words, and its end.

use std::io;

use channel::{Channel, Closed};
use lifecycle::LossKind;
use now::Now;
use packet::{Bundle, DropReason};
use session::client::Established;
use session::{Output, Received};
use wire::cstp::{Frame, Kind};

use super::{BATCH, Outcome, Stop, TURNS, Worker};
use crate::attempt::Link;
use crate::clock;
use crate::datapath::{DataPath, News};
use crate::to_host::{Parcel, ToHost};

impl Worker {
    /// Hands the session's own frames and all that is queued to TCP, as far as it takes them.
    pub(super) fn send(&mut self) -> Result<(), Outcome> {
        while let Some(output) = self.link.established.poll() {
            match output {
                Output::Send(kind, payload) => {
                    if let Some(channel) = &mut self.link.channel {
                        channel.queue(kind, &payload).map_err(lost)?;
                    }
                }
                Output::Dead(why) => return Err(Outcome::Lost(LossKind::Timeout, why.to_owned())),
                Output::Ended(reason) => return Err(Outcome::Ended(reason)),
            }
        }
        match &mut self.link.channel {
            Some(channel) => channel.send_some().map(drop).map_err(lost),
            None => Ok(()),
        }
    }

    /// The control channel is of no use any more. Where the gateway keeps the session the data channel goes on alone, and the
    /// shell is told.
    pub(super) fn control_lost(&mut self, outcome: Outcome) -> Result<(), Outcome> {
        let alone = self.link.established.parks() && self.link.data.as_ref().is_some_and(DataPath::is_up);
        match outcome {
            Outcome::Lost(kind, why) if alone => {
                self.link.channel = None;
                self.link.established.lost_control();
                self.tell(News::ControlLost(kind, why));
                if let Some(data) = &mut self.link.data {
                    data.doubt(clock::now());
                }
                Ok(())
            }
            Outcome::Lost(..) | Outcome::Stopped | Outcome::Ended(_) | Outcome::DeviceGone(_) => Err(outcome),
        }
    }

    /// Takes what has arrived, and is done with it or has more to do at once. A frame that came with a gap is old.
    pub(super) fn frames(&mut self, first: Result<Frame, Closed>, gap: bool, now: Now) -> Result<(), Outcome> {
        let first = first.map_err(lost)?;
        if gap {
            self.late(&first, now);
            return Ok(());
        }
        let taken = self.gather_frames(first, now);
        self.frames_to_host()?;
        taken
    }

    fn gather_frames(&mut self, first: Frame, now: Now) -> Result<(), Outcome> {
        self.frame(first, now);
        for _ in 1..BATCH {
            let Some(channel) = &mut self.link.channel else {
                return Ok(());
            };
            match channel.try_next().map_err(lost)? {
                Some(frame) => self.frame(frame, now),
                None => return Ok(()),
            }
        }
        self.turns = TURNS;
        Ok(())
    }

    fn frame(&mut self, frame: Frame, now: Now) {
        match self.link.established.received(&frame, now) {
            Received::Nothing | Received::Dropped(_) => {}
            Received::Packet => {
                self.last_traffic = now.awake;
                self.frames.push(Parcel::Packet(frame.payload));
            }
            Received::Bundle(bundle) => {
                self.last_traffic = now.awake;
                self.frames.push(Parcel::Bundle(bundle, frame.payload));
            }
        }
    }

    /// Takes a frame that came with a gap: packets are old, and what else it says still counts.
    pub(super) fn late(&mut self, frame: &Frame, now: Now) {
        let established = &mut self.link.established;
        match frame.kind {
            Kind::Data => established.drop_packet(DropReason::Stale),
            Kind::Bundle => {
                let packets = Bundle::parse(&frame.payload).map_or(1, |bundle| bundle.packets());
                established.drop_packets(DropReason::Stale, packets);
            }
            Kind::DpdRequest
            | Kind::DpdResponse
            | Kind::Disconnect
            | Kind::Keepalive
            | Kind::Compressed
            | Kind::Terminate
            | Kind::Park
            | Kind::ParkAnswer
            | Kind::Awake
            | Kind::AwakeAnswer
            | Kind::Unknown(_) => _ = established.received_late(frame, now),
        }
    }

    /// Hands the host the packets of the frames.
    fn frames_to_host(&mut self) -> Result<(), Outcome> {
        let Self {
            device,
            link,
            gathering,
            frames,
            ..
        } = self;
        let mut to_host = ToHost::new(device, &mut link.established, gathering);
        to_host.write_frames(frames);
        frames.clear();
        to_host.gone.map_or(Ok(()), |error| Err(Outcome::DeviceGone(error)))
    }

    /// A goodbye is one frame that TCP takes now or never; nobody waits for the peer. A link that is about to be replaced
    /// delivers what it has received.
    pub(super) fn stop(&mut self, how: Stop, now: Now) -> Outcome {
        match how {
            Stop::WithGoodbye => {
                if let Some(data) = &mut self.link.data {
                    data.close();
                }
                say_goodbye(&mut self.link);
            }
            Stop::Parking => {
                self.park(now);
                // Whoever does not hear it finds out.
                let _ = self.send();
            }
            Stop::Silently => {
                while let Some(Ok(Some(frame))) = self.link.channel.as_mut().map(Channel::try_next) {
                    if matches!(frame.kind, Kind::Data | Kind::Bundle) {
                        self.frame(frame, now);
                    }
                }
                // A device that is gone is found out by the next pump.
                let _ = self.frames_to_host();
            }
        }
        Outcome::Stopped
    }
}

/// The next frame of the control channel, for ever where there is none.
pub(super) async fn next_frame(channel: &mut Option<Channel>) -> Result<Frame, Closed> {
    match channel {
        Some(channel) => channel.next().await,
        None => std::future::pending().await,
    }
}

/// Ends the session at the gateway, as far as TCP takes the words at once.
pub(crate) fn say_goodbye(link: &mut Link) {
    // Without a control channel there is nothing to say it on; the job of the session logs out later.
    let Some(channel) = &mut link.channel else { return };
    let (kind, payload) = Established::goodbye();
    let said = channel
        .queue(kind, &payload)
        .map(|()| channel.queue_farewell())
        .and_then(|()| channel.send_some());
    if let Err(error) = said {
        tracing::debug!(%error, "the goodbye was not taken");
    }
}

pub(super) fn lost(closed: Closed) -> Outcome {
    let kind = match &closed {
        Closed::Eof { .. } => LossKind::Eof,
        Closed::Broken(error) if error.kind() == io::ErrorKind::TimedOut => LossKind::Timeout,
        Closed::Broken(_) => LossKind::Reset,
        Closed::Tls(_) | Closed::Cstp(_) => LossKind::Protocol,
        Closed::Backlog(_) => LossKind::Timeout,
    };
    Outcome::Lost(kind, closed.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use bytes::BytesMut;
    use lifecycle::Mode;
    use rustls::Connection;
    use session::client::{Authenticated, Wants};
    use tokio::net::{TcpListener, TcpStream};
    use wire::Secret;

    use super::*;
    use crate::MemoryDevice;
    use crate::device::Device;
    use crate::pump::Pump;
    use crate::secrets::Secrets;
    use crate::setup::Setup;
    use crate::testing::{Behaviour, Pki, client_config, handshake};

    /// A link over which `received` came before anybody read of it, and the other end of its socket.
    async fn link(setup: &Setup, pki: &Pki, received: &[u8]) -> (Link, TcpStream) {
        let wants = Wants {
            v4: true,
            v6: false,
            base_mtu: None,
            previous: Vec::new(),
            datagrams: false,
            ecn: false,
        };
        let cookie = Authenticated::from_cookie(Secret::from("cookie"));
        let (requesting, _) = cookie.request(&setup.identity, &wants, None);
        let mut grant = Behaviour::default().grant;
        grant.marmot_bundle = true;
        let grant = grant.encode();
        let head = wire::http::parse_response(&grant, wire::limits::MAX_CONNECT_HEAD);
        let (head, _) = head.expect("a reply").expect("whole");
        let established = requesting.reply(&head, clock::now()).expect("granted");
        let trust = &setup.trust;
        let tls = handshake(trust.connector().config(), trust.name(), pki.server_config()).expect("trusted");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let socket = TcpStream::connect(listener.local_addr().expect("address")).await;
        let (peer, _) = listener.accept().await.expect("a connection");
        let channel = Channel::new(
            socket.expect("loopback"),
            Connection::Client(tls),
            BytesMut::from(received),
        );
        let link = Link {
            channel: Some(channel),
            established,
            granted: None,
            data: None,
            clamp_mss: true,
            sleep: setup.config.sleep,
            idle: None,
            mark: None,
        };
        (link, peer)
    }

    /// A packet for this end of the tunnel in a frame.
    fn framed_packet() -> Vec<u8> {
        let mut packet = vec![0; 60];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
        packet[12..16].copy_from_slice(&[10, 77, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 78, 0, 2]);
        let mut frame = b"STF\x01\x00\x3c\x00\x00".to_vec();
        frame.extend(packet);
        frame
    }

    /// Three datagrams for this end of the tunnel in a frame.
    fn framed_bundle() -> Vec<u8> {
        let mut packet = framed_packet().split_off(8);
        packet.truncate(28 + 25);
        packet[3] = 28 + 25;
        packet[9] = 17;
        let mut frame = b"STF\x01\x00\x37\x45\x00\x00\x0a".to_vec();
        frame.extend(packet);
        frame
    }

    #[tokio::test]
    async fn several_packets_in_a_frame_come_out_one_by_one_and_are_as_many_when_they_are_old() {
        let pki = Pki::new("vpn.test");
        let setup = Setup::new(client_config(&pki, ""), Secrets::default()).expect("usable");
        for gap in [Duration::ZERO, Duration::from_secs(60)] {
            let (link, _peer) = link(&setup, &pki, &framed_bundle().repeat(2)).await;
            let (device, mut host) = MemoryDevice::pair(8);
            let mut pump = Pump::start(Device::Memory(device), link, Mode::Awake, false, VecDeque::new());
            pump.stop(Stop::Silently);
            clock::freeze(gap);
            let finished = pump.finished().await.expect("whole");
            let delivered: Vec<usize> = std::iter::from_fn(|| host.from_tunnel.try_recv().ok())
                .map(|packet| packet.len())
                .collect();
            let traffic = finished.link.established.traffic();
            if gap.is_zero() {
                assert_eq!((delivered, traffic.packets_in), (vec![38, 38, 33, 38, 38, 33], 6));
            } else {
                assert_eq!((delivered.len(), traffic.drops.of(DropReason::Stale)), (0, 6));
            }
        }
    }

    #[tokio::test]
    async fn a_link_that_is_replaced_right_after_a_gap_delivers_nothing_old_and_tells_of_the_gap() {
        let pki = Pki::new("vpn.test");
        let setup = Setup::new(client_config(&pki, ""), Secrets::default()).expect("usable");
        for gap in [Duration::ZERO, Duration::from_secs(60)] {
            // Which of the two the pump takes first is left to chance.
            for _ in 0..20 {
                let (link, _peer) = link(&setup, &pki, &framed_packet().repeat(3)).await;
                let (device, mut host) = MemoryDevice::pair(8);
                let mut pump = Pump::start(Device::Memory(device), link, Mode::Awake, false, VecDeque::new());
                pump.stop(Stop::Silently);
                clock::freeze(gap);
                let finished = pump.finished().await.expect("whole");
                let delivered = std::iter::from_fn(|| host.from_tunnel.try_recv().ok()).count();
                let stale = finished.link.established.traffic().drops.of(DropReason::Stale);
                if gap.is_zero() {
                    assert_eq!((delivered, stale, finished.gap), (3, 0, None));
                } else {
                    assert_eq!((delivered, stale), (0, 3));
                    assert!(
                        finished
                            .gap
                            .is_some_and(|seen| seen.length >= gap - Duration::from_secs(1))
                    );
                }
            }
        }
    }
}
