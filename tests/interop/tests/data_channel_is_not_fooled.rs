//! Who is not the client: somebody with a record of it that was withheld, and somebody with hellos without number.
//!
//! ```text
//!   client --record--> internet --x      gateway        withheld, so it is newer than all that the gateway knows
//!   third host --------the same record-->               nothing moves: one small challenge, which it cannot answer
//!   third host --------hello, cookie--->                a handshake that ends nowhere, beside the client's link
//!   third host --------100,000 hellos--->               no memory, no answer longer than its question
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{MOVED, TO_CONTROL, data_channel, nobody_moved, ping_both};
use lab::{
    Capture, Hole, Lab, Mark, Meter, PATIENCE, Ping, Process, Pulse, Signal, client_settings, gateway_settings, ms,
    start_client, start_gateway,
};
use platform::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

/// Where the gateway listens.
const PORT: u16 = 443;

/// Handshakes that somebody begins who has not the key.
const STRANGERS: u32 = 100;

/// Hellos that nobody meant, in all.
const HELLOS: u32 = 100_000;

/// Hellos between two answers that are waited for: fewer than a socket's buffer holds, so that it is the gateway that sets
/// the pace.
const BATCH: u32 = 100;

/// What the gateway may grow by, in KiB of resident memory.
const GROWTH_KIB: u64 = 1024;

/// How long an answer may take that never comes. Short: where one comes, it takes far less than a millisecond.
const SILENCE: Duration = Duration::from_millis(200);

/// What an address that has proven nothing is sent, for each byte that it sent.
const AMPLIFICATION: usize = 3;

/// First bytes of a record: of a handshake, and of data with a connection id (RFC 9146 section 4).
const HANDSHAKE: u8 = 22;
const IDENTIFIED: u8 = 25;

/// Bytes of a hello before the length of its session id: record, message, version and random.
const BEFORE_SESSION_ID: usize = 13 + 12 + 2 + 32;

/// Bytes of an App-ID.
const APP_ID: usize = 32;

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft", "tcpdump"],
        lab::tests![
            a_withheld_record_from_elsewhere_moves_nothing,
            a_stranger_who_saw_the_app_id_disturbs_nobody,
            a_hundred_thousand_hellos_leave_no_trace,
        ],
    )
}

fn a_withheld_record_from_elsewhere_moves_nothing(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let third = lab.add_client()?;
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    ping_both(lab.client(), lab.site().plan)?;
    let capture = captured(lab)?;

    let delivered = withheld_or_not(lab, &capture)?;
    let own = format!(
        "ip saddr 192.0.2.2 ip daddr {} meta l4proto udp",
        lab.site().plan.gateway_v4()
    );
    let hole = Hole::dig(lab, lab.internet(), &[own])?;
    let withheld = withheld_or_not(lab, &capture)?;
    ensure!(withheld != delivered, "no two records are the same");

    let mark = gateway.mark();
    let thief = socket(lab, &third)?;
    // The newest record is worth a challenge.
    let challenge = answer(&thief, &withheld)?.len();
    ensure!(
        challenge <= AMPLIFICATION * withheld.len(),
        "{challenge} bytes for {}",
        withheld.len()
    );
    drop(hole);

    // From now on the client is heard again, and the thief goes on, also from other ports.
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    pulse.wait_answered(20)?;
    let mut more = 0;
    for record in [&withheld, &delivered] {
        more += replay(&thief, record)?;
        more += replay(&socket(lab, &third)?, record)?;
    }
    pulse.wait_answered(20)?;
    let tally = pulse.end()?;
    lab.note(&format!(
        "a withheld record of {} bytes was answered with {challenge}, it and another four more times with {more}; meanwhile {tally}",
        withheld.len()
    ));
    ensure!(more == 0, "a record is worth a challenge once");
    ensure!(tally.lost == 0, "{tally}");
    nobody_moved(&gateway, mark)?;
    ensure!(!client.output().contains(TO_CONTROL), "the client noticed nothing");
    Ok(())
}

fn a_stranger_who_saw_the_app_id_disturbs_nobody(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let third = lab.add_client()?;
    let capture = captured(lab)?;
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    let hello = first_hello(&capture)?;
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    pulse.wait_answered(20)?;
    for _ in 0..STRANGERS {
        let stranger = socket(lab, &third)?;
        let cookie = cookie(&stranger, &hello)?;
        // It can receive, so that the gateway begins a handshake; without the key it gets no further.
        ensure!(
            replay(&stranger, &with_cookie(&hello, &cookie))? > 0,
            "a handshake begins"
        );
        stranger.send(&[HANDSHAKE; 100])?;
    }
    pulse.wait_answered(20)?;
    let mark = client.mark();
    client.signal(Signal::USR2)?;
    client.wait_for_line(mark, &["path.back"], PATIENCE)?;
    data_channel(&client, mark)?;
    pulse.wait_answered(20)?;
    let tally = pulse.end()?;
    lab.note(&format!("{STRANGERS} handshakes of strangers, then new keys: {tally}"));
    ensure!(tally.lost == 0, "{tally}");
    for end in [&client, &gateway] {
        ensure!(!end.output().contains(TO_CONTROL), "{} needed TLS", end.name());
    }
    nobody_moved(&gateway, Mark::default())
}

fn a_hundred_thousand_hellos_leave_no_trace(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let third = lab.add_client()?;
    let capture = captured(lab)?;
    let client = client(lab)?;
    data_channel(&client, Mark::default())?;
    let hello = first_hello(&capture)?;
    let known = hello
        .get(BEFORE_SESSION_ID + 1..)
        .and_then(|rest| rest.first_chunk::<APP_ID>());
    let known = *known.context("a hello has an App-ID")?;
    let asker = socket(lab, &third)?;
    let question = replay(&asker, &hello)?;
    ensure!(
        0 < question && question <= hello.len(),
        "{question} for {}",
        hello.len()
    );

    let flood = Flood::new(lab, &third, hello, known, asker)?;
    // What a gateway keeps for good after the first of anything is not what this is about.
    flood.send(HELLOS / 20)?;
    let rules = [
        "iifname client-b udp dport 443",
        "iifname site-a udp sport 443 ip daddr 198.18.0.0/24",
    ];
    let meter = Meter::start(lab, lab.internet(), &rules.map(str::to_owned))?;
    let before = resident_kib(&gateway)?;
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    pulse.wait_answered(20)?;
    let began = Instant::now();
    let answered = flood.send(HELLOS)?;
    let took = began.elapsed();
    let tally = pulse.end()?;
    let after = resident_kib(&gateway)?;
    let (bytes, packets) = (meter.bytes()?, meter.packets()?);
    lab.note(&format!(
        "{HELLOS} hellos in {} ms, answers: {} packets ({} to those that waited); {} bytes in, {} out; \
         memory {before} to {after} KiB; meanwhile {tally}",
        ms(took),
        packets[1],
        answered,
        bytes[0],
        bytes[1]
    ));
    ensure!(packets[0] >= u64::from(HELLOS), "all of them were sent");
    ensure!(bytes[1] <= bytes[0], "answers are no longer than questions");
    ensure!(packets[1] <= packets[0], "nor more");
    ensure!(after <= before + GROWTH_KIB, "memory grows");
    ensure!(tally.lost * 100 <= tally.sent, "{tally}");
    ensure!(!client.output().contains(TO_CONTROL), "the client noticed nothing");
    ensure!(!gateway.output().contains(MOVED), "nobody moved");
    ping_both(lab.client(), lab.site().plan)
}

/// Hellos from all addresses of a network, half of them with an App-ID that a client has.
struct Flood {
    raw: Socket,
    asker: UdpSocket,
    hello: Vec<u8>,
    known: [u8; APP_ID],
    gateway: Ipv4Addr,
}

impl Flood {
    fn new(lab: &Lab, host: &Namespace, hello: Vec<u8>, known: [u8; APP_ID], asker: UdpSocket) -> Result<Self> {
        // A raw socket of this number takes packets with their IP header (raw(7)).
        let raw = host.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))))?;
        Ok(Self {
            raw: raw.context("cannot make a raw socket")?,
            asker,
            hello,
            known,
            gateway: lab.site().plan.gateway_v4(),
        })
    }

    /// Sends so many, and says how many of its own questions were answered.
    fn send(&self, hellos: u32) -> Result<u32> {
        let mut answered = 0;
        for number in 0..hellos {
            if number % BATCH == BATCH - 1 {
                answered += u32::from(replay(&self.asker, &self.hello)? > 0);
                continue;
            }
            let source = (
                Ipv4Addr::new(198, 18, 0, 3 + (number % 250) as u8),
                1024 + (number % 60_000) as u16,
            );
            let mut app_id = self.known;
            if number % 2 == 1 {
                app_id[..4].copy_from_slice(&number.to_be_bytes());
            }
            let packet = self.packet(source, app_id);
            self.raw
                .send_to(&packet, &SocketAddr::from((self.gateway, PORT)).into())
                .context("cannot send")?;
        }
        Ok(answered)
    }

    /// IPv4 and UDP headers before the hello; the kernel fills in length and checksum of the first, and the other needs none.
    fn packet(&self, (address, port): (Ipv4Addr, u16), app_id: [u8; APP_ID]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(address.octets());
        packet.extend(self.gateway.octets());
        packet.extend(port.to_be_bytes());
        packet.extend(PORT.to_be_bytes());
        packet.extend(((self.hello.len() + 8) as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(&self.hello);
        let at = packet.len() - self.hello.len() + BEFORE_SESSION_ID + 1;
        packet[at..at + APP_ID].copy_from_slice(&app_id);
        packet
    }
}

/// What the client sends over UDP, from now on.
fn captured(lab: &Lab) -> Result<Capture> {
    let matches = format!("udp and dst host {} and dst port {PORT}", lab.site().plan.gateway_v4());
    Capture::start(lab, lab.client(), "eth0", &matches, "capture")
}

/// Lets the client send one packet, and returns the last record that it sent by then. Whether it is answered, the way decides.
fn withheld_or_not(lab: &Lab, capture: &Capture) -> Result<Vec<u8>> {
    let before = capture.datagrams()?.len();
    let ping = Ping::new(lab.client(), lab.site().plan.host_v4());
    // Either is fine: the record is what counts.
    let _ = ping.unanswered(Duration::from_millis(20));
    lab::until("a record", PATIENCE, || Ok(capture.datagrams()?.len() > before))?;
    capture.last(|datagram| datagram.first() == Some(&IDENTIFIED))
}

/// The client's first hello, which has no cookie yet.
fn first_hello(capture: &Capture) -> Result<Vec<u8>> {
    let no_cookie = |datagram: &[u8]| {
        datagram.first() == Some(&HANDSHAKE) && datagram.get(BEFORE_SESSION_ID + 1 + APP_ID) == Some(&0)
    };
    capture.last(no_cookie)
}

/// What the gateway wants to see in a hello from this socket: behind the headers of record and message, a version of two
/// bytes, and a length.
fn cookie(socket: &UdpSocket, hello: &[u8]) -> Result<Vec<u8>> {
    let answer = answer(socket, hello)?;
    let cookie = answer.get(13 + 12 + 2 + 1..);
    Ok(cookie.context("a question has a cookie")?.to_vec())
}

/// A client's second hello: with a cookie, the numbers of record and message one higher, and three lengths greater.
fn with_cookie(hello: &[u8], cookie: &[u8]) -> Vec<u8> {
    let mut second = hello.to_vec();
    let at = BEFORE_SESSION_ID + 1 + APP_ID;
    second[at] = cookie.len() as u8;
    second.splice(at + 1..at + 1, cookie.iter().copied());
    (second[10], second[18]) = (1, 1);
    for length in [11, 15, 23] {
        let was = u16::from_be_bytes([second[length], second[length + 1]]);
        second[length..length + 2].copy_from_slice(&(was + cookie.len() as u16).to_be_bytes());
    }
    second
}

/// A socket of its own on a host, to the gateway.
fn socket(lab: &Lab, host: &Namespace) -> Result<UdpSocket> {
    let socket = host.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.connect((lab.site().plan.gateway_v4(), PORT))?;
    Ok(socket)
}

/// Sends a datagram that must be answered, and returns the first answer.
fn answer(socket: &UdpSocket, datagram: &[u8]) -> Result<Vec<u8>> {
    let answer = ask(socket, datagram, PATIENCE)?;
    answer.context("the gateway does not answer")
}

/// Sends a datagram, and counts the bytes of the first answer, or of nothing.
fn replay(socket: &UdpSocket, datagram: &[u8]) -> Result<usize> {
    Ok(ask(socket, datagram, SILENCE)?.map_or(0, |answer| answer.len()))
}

fn ask(socket: &UdpSocket, datagram: &[u8], within: Duration) -> Result<Option<Vec<u8>>> {
    socket.set_read_timeout(Some(within))?;
    socket.send(datagram).context("cannot send")?;
    let mut buffer = [0; 2048];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(Some(buffer[..length].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("cannot receive"),
    }
}

/// Resident memory of a process.
fn resident_kib(process: &Process) -> Result<u64> {
    let path = format!("/proc/{}/status", process.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("the kernel tells VmRSS")?.trim().trim_end_matches(" kB");
    kib.parse().context("VmRSS is a number")
}

fn gateway(lab: &Lab) -> Result<Process> {
    start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)
}

fn client(lab: &Lab) -> Result<Process> {
    start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)
}
