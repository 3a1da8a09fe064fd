//! Many clients that are awake, in one thread: each has a session of its own with a data channel, and all together send thin traffic through the
//! gateway to a host that answers.
//!
//! ```text
//!   member 0 --| round | 0 | number | filler |--\                            /-- echo: a socket in the LAN that sends
//!   member 1 --| round | 1 | number | filler |---+--> gateway --> device ---+    back whatever it gets
//!   ...      <--------- who gets whose? --------/                            \
//! ```
//! Nothing is sent twice. An answer counts for the member that it names, and only if that one got it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dtls::{Content, Established};
use platform::netns::Namespace;
use socket2::SockRef;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use crate::member::{self, Member, SHEPHERD, seal};
use crate::peer::{DATA, DPD_REQUEST, DPD_RESPONSE, PeerClient};
use crate::ping::checksum;
use crate::{Identity, Lab, Settings, Site};

/// Between two turns of the sender; the timer of its runtime knows no shorter time.
const TURN: Duration = Duration::from_millis(1);

/// How long the last answers may take.
const LAST: Duration = Duration::from_secs(1);

/// How often the echo looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// Room for datagrams that arrive while the echo has no processor, in bytes. Without privileges the kernel gives less.
const ROOM: usize = 4 << 20;

/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// Round, member and number.
const LABEL: usize = 16;

/// Clients of one site, and the host that answers them.
pub struct Flock<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    site: &'a Site,
    identity: Identity,
    runtime: Runtime,
    members: Vec<Rc<One>>,
    echo: Echo,
    round: u32,
}

/// What all of them send together.
#[derive(Clone, Copy, Debug)]
pub struct Thin {
    /// Packets per second, of all members together; as many come back.
    pub rate: u32,
    /// Bytes of each packet, with its headers.
    pub bytes: usize,
    /// How long.
    pub length: Duration,
}

/// How the members fared.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// Packets that each sent.
    pub sent: Vec<u64>,
    /// Packets that each got back.
    pub answered: Vec<u64>,
    /// Packets that came to a member and were not its own.
    pub strayed: u64,
    /// From the first packet to the last answer.
    pub took: Duration,
}

impl Shares {
    /// Packets both ways, of all.
    pub fn packets(&self) -> u64 {
        self.sent.iter().chain(&self.answered).sum()
    }

    /// Packets without an answer, of all.
    pub fn lost(&self) -> u64 {
        let (sent, answered): (u64, u64) = (self.sent.iter().sum(), self.answered.iter().sum());
        sent.saturating_sub(answered)
    }

    /// The fewest and the most answers that one got.
    pub fn range(&self) -> (u64, u64) {
        let of = |best: Option<&u64>| best.copied().unwrap_or(0);
        (of(self.answered.iter().min()), of(self.answered.iter().max()))
    }

    /// Jain's index of fairness: 1 if all got the same, 1/n if one got all (R. Jain et al., DEC-TR-301, 1984).
    pub fn fairness(&self) -> f64 {
        let (mut sum, mut squares) = (0.0, 0.0);
        for answered in &self.answered {
            sum += *answered as f64;
            squares += (*answered as f64).powi(2);
        }
        match squares > 0.0 {
            true => sum * sum / (self.answered.len() as f64 * squares),
            false => 0.0,
        }
    }
}

impl<'a> Flock<'a> {
    /// Nobody yet, on `host`, and an echo in the LAN of `site`.
    ///
    /// # Errors
    /// If there is no certificate for them, or no socket.
    pub fn new(lab: &'a Lab, host: &'a Namespace, site: &'a Site) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            lab,
            host,
            site,
            identity: lab.pki().client(SHEPHERD)?,
            runtime: runtime.context("cannot make a runtime")?,
            members: Vec::new(),
            echo: Echo::start(site)?,
            round: 0,
        })
    }

    /// A gateway's settings with room for so many of them.
    pub fn room(lab: &Lab, settings: Settings, count: u16) -> Settings {
        // All come from one address, and those that came first are silent until the last is there.
        member::room(lab, settings, count)
            .with("limits.connections_per_address", i64::from(count) + 100)
            .with("park.quiet_s", 3600)
    }

    /// The name that the users file has to know.
    pub fn user() -> &'static str {
        SHEPHERD
    }

    /// Lets in more of them, until there are so many.
    ///
    /// # Errors
    /// If the gateway does not let one in.
    pub fn grow(&mut self, count: usize) -> Result<()> {
        while self.members.len() < count {
            let before = self.members.len();
            let member = Member::join(self.lab, self.host, self.site, &self.identity, &[])
                .and_then(|member| self.runtime.block_on(async { One::new(before, member) }));
            self.members
                .push(Rc::new(member.with_context(|| format!("after {before} clients"))?));
        }
        Ok(())
    }

    /// Has all of them send, evenly, and says how each fared.
    ///
    /// # Errors
    /// If a socket fails.
    pub fn send(&mut self, thin: &Thin) -> Result<Shares> {
        ensure!(!self.members.is_empty(), "nobody is there");
        ensure!(
            thin.bytes >= HEADERS + LABEL,
            "a packet of {} bytes has no room",
            thin.bytes
        );
        self.round += 1;
        for member in &self.members {
            member.round.set(self.round);
            member.sent.set(0);
            member.answered.set(0);
            member.strayed.set(0);
        }
        let began = Instant::now();
        let ears = LocalSet::new();
        for member in &self.members {
            let member = Rc::clone(member);
            ears.spawn_local(async move { member.listen().await });
        }
        let (members, to) = (&self.members, self.echo.address);
        self.runtime.block_on(ears.run_until(spread(members, to, thin)))?;
        let of = |count: fn(&One) -> &Cell<u64>| members.iter().map(|member| count(member).get()).collect();
        Ok(Shares {
            sent: of(|member| &member.sent),
            answered: of(|member| &member.answered),
            strayed: members.iter().map(|member| member.strayed.get()).sum(),
            took: began.elapsed(),
        })
    }
}

/// Sends what is due in each turn, one packet of each member after the other, and waits for the last answers.
async fn spread(members: &[Rc<One>], to: SocketAddrV4, thin: &Thin) -> Result<()> {
    // What the sender was too late for is never sent: bursts would change what a packet costs.
    let most = (f64::from(thin.rate) * TURN.as_secs_f64()).ceil() as u64;
    let (began, end) = (Instant::now(), Instant::now() + thin.length);
    let (mut turn, mut next, mut passed) = (began, 0, 0);
    while turn < end {
        let due = (began.elapsed().as_secs_f64() * f64::from(thin.rate)) as u64;
        passed = passed.max(due.saturating_sub(most.max(1)));
        while passed < due {
            members[next].say(to, thin.bytes)?;
            next = (next + 1) % members.len();
            passed += 1;
        }
        turn = Instant::now() + TURN;
        sleep_until(turn).await;
    }
    let is_owed = |member: &Rc<One>| member.answered.get() < member.sent.get();
    let until = Instant::now() + LAST;
    while Instant::now() < until && members.iter().any(is_owed) {
        sleep_until(Instant::now() + TURN).await;
    }
    Ok(())
}

/// A member at work.
struct One {
    number: usize,
    address: Ipv4Addr,
    socket: tokio::net::UdpSocket,
    keys: RefCell<Established>,
    /// Lives as long as its session is to live.
    _control: PeerClient,
    round: Cell<u32>,
    sent: Cell<u64>,
    answered: Cell<u64>,
    strayed: Cell<u64>,
}

impl One {
    /// Needs a runtime.
    fn new(number: usize, member: Member) -> Result<Self> {
        let Member { control, data } = member;
        data.socket.set_nonblocking(true)?;
        Ok(Self {
            number,
            address: control.address()?,
            socket: tokio::net::UdpSocket::from_std(data.socket).context("cannot watch a socket")?,
            keys: RefCell::new(data.keys),
            _control: control,
            round: Cell::new(0),
            sent: Cell::new(0),
            answered: Cell::new(0),
            strayed: Cell::new(0),
        })
    }

    /// Sends its next packet.
    fn say(&self, to: SocketAddrV4, bytes: usize) -> Result<()> {
        let label = Label {
            round: self.round.get(),
            member: u32::try_from(self.number).context("so many members")?,
            number: self.sent.get(),
        };
        self.sent.set(self.sent.get() + 1);
        self.record(DATA, &packet((self.address, to), bytes, label))
    }

    fn record(&self, kind: u8, payload: &[u8]) -> Result<()> {
        let mut record = Vec::new();
        seal(&mut self.keys.borrow_mut().seal, kind, payload, &mut record)?;
        // What the socket does not take is lost, and seen to be.
        let _ = self.socket.try_send(&record);
        Ok(())
    }

    /// Takes what comes, for ever.
    async fn listen(&self) {
        let mut buffer = [0; 2048];
        while self.socket.readable().await.is_ok() {
            loop {
                match self.socket.try_recv(&mut buffer) {
                    Ok(length) => self.heard(&mut buffer[..length]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    // A report about something else.
                    Err(_) => {}
                }
            }
        }
    }

    fn heard(&self, datagram: &mut [u8]) {
        let opened = self.keys.borrow_mut().open.open(datagram).content;
        let Content::Data { range, .. } = opened else { return };
        let text = &datagram[range];
        match text.split_first() {
            Some((&DATA, packet)) => self.took(packet),
            // A question, or a probe of the path: both want to hear what they said.
            Some((&DPD_REQUEST, question)) => drop(self.record(DPD_RESPONSE, question)),
            Some(_) | None => {}
        }
    }

    fn took(&self, packet: &[u8]) {
        match Label::of(packet).filter(|label| label.is_for(packet, self.address, self.number)) {
            // The answers of an earlier round come too late to count.
            Some(label) if label.round == self.round.get() && label.number < self.sent.get() => {
                self.answered.set(self.answered.get() + 1);
            }
            Some(_) => {}
            None => self.strayed.set(self.strayed.get() + 1),
        }
    }
}

/// What a packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label {
    round: u32,
    member: u32,
    number: u64,
}

impl Label {
    /// The label in an IPv4 packet with UDP.
    fn of(packet: &[u8]) -> Option<Self> {
        let label = packet.get(HEADERS..HEADERS + LABEL)?;
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| label[at + i]));
        Some(Self {
            round: word(0),
            member: word(4),
            number: u64::from_be_bytes(std::array::from_fn(|i| label[8 + i])),
        })
    }

    /// Whether the packet with this label is the answer to one of this member, by its destination and by what it says.
    fn is_for(&self, packet: &[u8], address: Ipv4Addr, member: usize) -> bool {
        let destination = packet.get(16..20);
        destination == Some(&address.octets()[..]) && usize::try_from(self.member).ok() == Some(member)
    }
}

/// An IPv4 packet with UDP, as a socket of Linux sends it: not to be split, with a checksum. Its source port is that of its destination.
fn packet((from, to): (Ipv4Addr, SocketAddrV4), bytes: usize, label: Label) -> Vec<u8> {
    let length = u16::try_from(bytes).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(label.round.to_be_bytes());
    packet.extend(label.member.to_be_bytes());
    packet.extend(label.number.to_be_bytes());
    packet.resize(usize::from(length), 0x5a);
    // The pseudo header of RFC 768: addresses, protocol, length.
    let mut summed = packet[12..20].to_vec();
    summed.extend([0, 17]);
    summed.extend((length - 20).to_be_bytes());
    summed.extend(&packet[20..]);
    let sum = checksum(&summed);
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A socket in the LAN that sends back whatever it gets.
struct Echo {
    address: SocketAddrV4,
    over: Arc<AtomicBool>,
}

impl Echo {
    fn start(site: &Site) -> Result<Self> {
        let host = site.plan.host_v4();
        let socket = site.lan.run(|| UdpSocket::bind(SocketAddr::from((host, 0))))?;
        let socket = socket.context("cannot listen in the LAN")?;
        let _ = SockRef::from(&socket).set_recv_buffer_size(ROOM);
        socket.set_read_timeout(Some(LOOK)).context("cannot set a deadline")?;
        let port = socket.local_addr()?.port();
        let over = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&over);
        let answer = move || {
            let mut datagram = [0; 2048];
            while !bell.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    // What cannot be sent is lost, and seen to be.
                    let _ = socket.send_to(&datagram[..length], from);
                }
            }
        };
        let thread = thread::Builder::new().name("echo".into()).spawn(answer);
        thread.map_err(|e| anyhow!("cannot start a thread: {e}"))?;
        Ok(Self {
            address: SocketAddrV4::new(host, port),
            over,
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_keeps_its_label_and_its_sums() {
        let label = Label {
            round: 3,
            member: 70_000,
            number: 1 << 40,
        };
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 10), 4711);
        let packet = packet((Ipv4Addr::new(10, 78, 0, 2), to), 200, label);
        assert_eq!((packet.len(), Label::of(&packet)), (200, Some(label)));
        assert_eq!(checksum(&packet[..20]), 0);
        let mut summed = packet[12..20].to_vec();
        summed.extend([0, 17, 0, 180]);
        summed.extend(&packet[20..]);
        assert_eq!(checksum(&summed), 0);
        assert_eq!(Label::of(&packet[..40]), None);
    }

    #[test]
    fn an_answer_is_for_the_member_that_it_names_at_the_address_that_it_goes_to() {
        let (here, there) = (Ipv4Addr::new(10, 78, 0, 2), Ipv4Addr::new(10, 78, 0, 3));
        let label = Label {
            round: 1,
            member: 5,
            number: 0,
        };
        let answer = packet((there, SocketAddrV4::new(here, 4711)), 100, label);
        assert!(label.is_for(&answer, here, 5));
        assert!(!label.is_for(&answer, here, 6), "what another one sent");
        assert!(!label.is_for(&answer, there, 5), "at the address of another one");
    }

    #[test]
    fn fairness_falls_from_one_to_the_share_of_one() {
        let of = |answered: &[u64]| Shares {
            sent: vec![9; answered.len()],
            answered: answered.to_vec(),
            ..Shares::default()
        };
        assert_eq!(of(&[7, 7, 7, 7]).fairness(), 1.0);
        assert_eq!(of(&[8, 0, 0, 0]).fairness(), 0.25);
        assert_eq!(of(&[0, 0]).fairness(), 0.0);
        let shares = of(&[9, 3]);
        assert_eq!((shares.lost(), shares.packets(), shares.range()), (6, 30, (3, 9)));
    }
}
