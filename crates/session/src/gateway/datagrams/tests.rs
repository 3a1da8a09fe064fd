//! The gateway's end alone, with a client made of bare records, so that it can say what no client of ours would.

use std::time::Duration;

use dtls::{Client, ClientConfig, Peek, peek};
use now::GapKind;

use super::*;

const HOME: u32 = 1;
const AWAY: u32 = 2;
const CHALLENGE: [u8; 8] = *b"hear me?";
const WORD: [u8; 8] = *b"12345678";

struct Pair {
    now: Now,
    gateway: Datagrams<u32>,
    client: dtls::Established,
    told: Vec<String>,
    /// What the gateway sent, opened: where to, what, and with which payload.
    sent: Vec<(u32, Kind, Vec<u8>)>,
    packets: usize,
    /// The client answers what measures its path.
    echoes: bool,
}

fn terms(ours: bool) -> DatagramTerms {
    DatagramTerms {
        psk: Psk::new(&[1; 32]).expect("a key"),
        suites: vec![Suite::Aes128GcmSha256],
        ours,
        ecn: ours,
        mtu: 1400,
        floor: 576,
        path_mtu_discovery: true,
        parks: ours,
    }
}

/// A handshake at `gateway`, which is not used yet.
fn shake(gateway: &mut Datagrams<u32>, now: Now, id: u8) -> dtls::Established {
    let config = ClientConfig {
        psk: Psk::new(&[1; 32]).expect("a key"),
        identity: b"psk".to_vec(),
        session_id: vec![7; 32],
        suites: vec![Suite::Aes128GcmSha256],
        extended_master_secret: true,
        connection_ids: true,
        mtu: 1200,
    };
    let mut client = Client::new(config, [id; 32], now.awake);
    let mut datagram = client.poll().expect("a hello");
    let Peek::Hello(view) = peek(&datagram, 8) else {
        panic!("no hello")
    };
    let proven = view.without_cookie();
    let own = ConnectionId::new(&[id; 8]).expect("an id");
    gateway.hello(proven, &mut datagram, HOME, ([id; 32], own), now);
    for _ in 0..8 {
        while let Some(output) = gateway.poll() {
            if let GatewayData::Send(_, mut datagram) = output {
                let _ = client.received(&mut datagram, now.awake);
            }
        }
        if let Some(established) = client.established() {
            return established;
        }
        while let Some(mut datagram) = client.poll() {
            let id = match peek(&datagram, 8) {
                Peek::Identified(id) => Some(id),
                Peek::Hello(_) | Peek::Record { .. } | Peek::Foreign => None,
            };
            gateway.received(HOME, id, &mut datagram, || CHALLENGE, now, &mut |_| {});
        }
    }
    panic!("no handshake")
}

impl Pair {
    fn new(ours: bool) -> Self {
        let now = Now::default().plus(Duration::from_secs(1000));
        let mut gateway = Datagrams::new(terms(ours));
        let client = shake(&mut gateway, now, 9);
        let mut this = Self {
            now,
            gateway,
            client,
            told: Vec::new(),
            sent: Vec::new(),
            packets: 0,
            echoes: true,
        };
        this.say(HOME, Kind::Keepalive, &[]);
        assert!(this.gateway.is_up());
        this.wait(Duration::from_secs(30));
        this.echoes = false;
        this.forget();
        this
    }

    fn record(&mut self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        sealed(&mut self.client.seal, kind, payload).expect("a record")
    }

    fn say(&mut self, from: u32, kind: Kind, payload: &[u8]) {
        let record = self.record(kind, payload);
        self.arrive(from, record);
    }

    fn arrive(&mut self, from: u32, mut datagram: Vec<u8>) {
        let Peek::Identified(id) = peek(&datagram, 8) else {
            panic!("no id")
        };
        let packets = &mut self.packets;
        let deliver = &mut |_: &mut [u8]| *packets += 1;
        self.gateway
            .received(from, Some(id), &mut datagram, || CHALLENGE, self.now, deliver);
        self.settle();
    }

    /// Where the record of a packet for the client goes.
    fn packet(&mut self, length: usize) -> Option<u32> {
        self.gateway
            .seal((length, Ecn::NotEct), &mut Batch::default(), |_| {}, self.now)
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while let Some(deadline) = self.gateway.deadline().filter(|deadline| deadline.at <= end.awake) {
            self.now = self.now.plus(deadline.at.since(self.now.awake));
            self.gateway.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        let mut echoes = Vec::new();
        while let Some(output) = self.gateway.poll() {
            match output {
                GatewayData::Send(to, mut datagram) => {
                    if let Content::Data { range, .. } = self.client.open.open(&mut datagram).content {
                        let (kind, payload) = split(&mut datagram[range]).expect("a kind");
                        self.sent.push((to, kind, payload.to_vec()));
                        if self.echoes && kind == Kind::DpdRequest {
                            echoes.push(payload.to_vec());
                        }
                    }
                }
                GatewayData::Claim(_) | GatewayData::Release(_) | GatewayData::Up { .. } => {}
                GatewayData::Down(why) => self.told.push(format!("down: {why}")),
                GatewayData::Silent(why) => self.told.push(format!("silent: {why}")),
                GatewayData::Moved { .. } => self.told.push("moved".to_owned()),
                GatewayData::Park => self.told.push("park".to_owned()),
                GatewayData::Awake(via) => self.told.push(format!("awake {via}")),
            }
        }
        for payload in echoes {
            self.say(HOME, Kind::DpdResponse, &payload);
        }
    }

    fn forget(&mut self) {
        self.told.clear();
        self.sent.clear();
        self.gateway.take_word();
    }

    fn answers(&self) -> Vec<(u32, Kind, Vec<u8>)> {
        let ours = |kind| matches!(kind, Kind::ParkAnswer | Kind::AwakeAnswer);
        let answers = self.sent.iter().filter(|(_, kind, _)| ours(*kind));
        answers.cloned().collect()
    }
}

#[test]
fn a_park_is_answered_and_then_nothing_is_said() {
    let mut pair = Pair::new(true);
    pair.say(HOME, Kind::Park, &WORD);
    pair.gateway.rest(pair.now);
    assert_eq!(pair.told, ["park"]);
    assert_eq!(pair.answers(), [(HOME, Kind::ParkAnswer, WORD.to_vec())]);
    assert_eq!(pair.gateway.deadline(), None, "no timer of the data channel runs");
    pair.sent.clear();
    pair.wait(Duration::from_secs(8 * 3600));
    assert_eq!(pair.sent, []);
    assert_eq!(pair.gateway.take_word(), None);
}

#[test]
fn an_awake_from_where_the_client_was_is_answered_at_once() {
    let mut pair = Pair::new(true);
    pair.say(HOME, Kind::Park, &WORD);
    pair.gateway.rest(pair.now);
    pair.wait(Duration::from_secs(8 * 3600));
    pair.forget();
    pair.say(HOME, Kind::Awake, &WORD);
    assert_eq!(pair.told, ["awake same_path"]);
    assert_eq!(pair.answers(), [(HOME, Kind::AwakeAnswer, WORD.to_vec())]);
    pair.gateway.wake(pair.now);
    assert!(pair.gateway.is_up(), "no word about the path through the night");
    assert!(pair.packet(1400).is_some(), "as large as before");
}

#[test]
fn an_awake_from_a_new_address_counts_once_the_address_is_proven() {
    let mut pair = Pair::new(true);
    pair.say(HOME, Kind::Park, &WORD);
    pair.gateway.rest(pair.now);
    pair.forget();
    pair.say(AWAY, Kind::Awake, &WORD);
    assert_eq!((pair.told.len(), pair.answers().len()), (0, 0), "not yet");
    assert_eq!(pair.sent, [(AWAY, Kind::DpdRequest, CHALLENGE.to_vec())]);
    assert_eq!(
        pair.gateway.take_word(),
        None,
        "it may be anybody who has kept a record back"
    );
    pair.say(AWAY, Kind::DpdResponse, &CHALLENGE);
    assert_eq!(pair.told, ["moved", "awake rebind"]);
    assert_eq!(pair.answers(), [(AWAY, Kind::AwakeAnswer, WORD.to_vec())]);
}

#[test]
fn whoever_forwards_withheld_records_wakes_and_moves_nobody() {
    let mut pair = Pair::new(true);
    let withheld = [Kind::Awake, Kind::Data, Kind::Park].map(|kind| pair.record(kind, &WORD));
    pair.say(HOME, Kind::Park, &WORD);
    pair.gateway.rest(pair.now);
    pair.forget();
    for record in &withheld {
        pair.arrive(AWAY, record.clone());
        pair.arrive(AWAY, record.clone());
    }
    assert_eq!(pair.sent, [], "not even a challenge: a newer record was here");
    assert!(pair.told.is_empty(), "{:?}", pair.told);
}

#[test]
fn a_withheld_park_puts_no_running_client_to_sleep() {
    let mut pair = Pair::new(true);
    let park = pair.record(Kind::Park, &WORD);
    pair.say(HOME, Kind::Keepalive, &[]);
    pair.arrive(HOME, park);
    assert!(pair.told.is_empty() && pair.answers().is_empty());
}

#[test]
fn words_that_were_not_granted_or_are_cut_short_mean_nothing() {
    let mut stock = Pair::new(false);
    stock.say(HOME, Kind::Park, &WORD);
    stock.say(HOME, Kind::Awake, &WORD);
    assert!(stock.told.is_empty() && stock.answers().is_empty());
    assert_eq!(
        stock.gateway.take_word(),
        Some(Via::SamePath),
        "an authentic word all the same"
    );
    let mut pair = Pair::new(true);
    for payload in [&WORD[..7], &[], &[0; 9]] {
        pair.say(HOME, Kind::Park, payload);
        pair.say(HOME, Kind::Awake, payload);
    }
    assert!(pair.told.is_empty() && pair.answers().is_empty());
}

#[test]
fn a_dead_data_channel_moves_no_packet_of_our_own_client_to_tcp() {
    let mut pair = Pair::new(true);
    assert!(pair.packet(100).is_some());
    pair.wait(Duration::from_secs(3));
    assert_eq!(pair.told, ["silent: nothing comes back"]);
    assert!(pair.gateway.is_silent() && pair.packet(100).is_none());
    pair.forget();
    pair.wait(Duration::from_secs(3600));
    let probes = pair.sent.iter().filter(|(_, _, payload)| payload.is_empty()).count();
    assert_eq!(probes, 0, "told once, asked no more");

    pair.say(HOME, Kind::Data, b"x");
    assert!(pair.gateway.is_up(), "heard again");
}

#[test]
fn a_client_that_is_not_heard_here_gets_its_packets_where_it_answers_or_sends() {
    for answers in [true, false] {
        let mut pair = Pair::new(true);
        pair.gateway.client_answers_on_control();
        assert!(
            pair.gateway.is_up(),
            "an answer there says nothing about a path that works"
        );
        assert!(pair.packet(100).is_some());
        pair.wait(Duration::from_secs(3));
        if answers {
            pair.gateway.client_answers_on_control();
        } else {
            pair.gateway.client_uses_control();
        }
        assert!(!pair.gateway.is_silent() && !pair.gateway.is_up());
    }
}

#[test]
fn a_stock_client_gets_its_packets_over_tls_when_the_data_channel_is_dead() {
    let mut pair = Pair::new(false);
    assert!(pair.packet(100).is_some());
    pair.wait(Duration::from_secs(3));
    assert_eq!(pair.told, ["down: nothing comes back"]);
    assert!(!pair.gateway.is_silent());
}

#[test]
fn a_question_goes_over_the_channel_that_packets_take() {
    let mut pair = Pair::new(true);
    assert!(pair.gateway.ask(pair.now));
    pair.settle();
    assert_eq!(pair.sent, [(HOME, Kind::DpdRequest, Vec::new())]);
    pair.wait(Duration::from_secs(3));
    assert!(pair.gateway.is_silent(), "no answer: the other channel is to be asked");
    assert!(!pair.gateway.ask(pair.now));
}

#[test]
fn keys_that_are_new_in_a_maintenance_wake_are_no_older_afterwards() {
    let mut pair = Pair::new(true);
    pair.say(HOME, Kind::Park, &WORD);
    pair.gateway.rest(pair.now);
    pair.wait(Duration::from_secs(3600));
    pair.client = shake(&mut pair.gateway, pair.now, 11);
    pair.say(HOME, Kind::Keepalive, &[]);
    pair.wait(Duration::from_secs(3600));
    pair.say(HOME, Kind::Awake, &WORD);
    pair.gateway.wake(pair.now);
    pair.settle();
    assert!(
        pair.sent.iter().any(|(_, _, payload)| payload.len() > 1000),
        "the new path is measured as soon as the client is back"
    );
    let gap = Gap {
        length: Duration::from_secs(9),
        awake: Duration::from_secs(9),
        kind: GapKind::Freeze,
    };
    pair.gateway.rebase(&gap, 1 << 24);
    pair.say(HOME, Kind::Data, b"x");
    assert!(pair.gateway.is_up());
}
