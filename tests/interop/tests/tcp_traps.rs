//! What TCP does to a connection whose other end sleeps, and which options help: bare sockets, no tunnel.
//!
//! ```text
//!   asleep          nobody reads: the peer's kernel answers, its window closes
//!   out of reach    nothing comes back, nor goes there
//!   behind a NAT    which forgets, in silence or with a reset
//! ```
//! Each test has connections with and without the option at once, so that the difference is one of this run.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Forgetting, Hole, Lab, Nat, PATIENCE, eventually, ms, until};
use platform::tcp::{
    ClientTcp, GatewayTcp, Keepalive, RETRANSMISSION_TIMEOUT_MAX, TcpInfo, TcpState, configure_client,
    configure_gateway, info, limit_retransmission_timeout, switch_keepalive,
};
use socket2::SockRef;

const SECOND: Duration = Duration::from_secs(1);

/// A user timeout that no test reaches.
const LONG: Duration = Duration::from_secs(3600);

/// One that a test waits for.
const SHORT: Duration = Duration::from_secs(4);

/// How much later than asked the kernel may give up: it looks when its next probe is due.
const LATE: Duration = Duration::from_secs(8);

/// Both ends at work answer within this, however busy the machine is.
const AT_ONCE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft"],
        lab::tests![
            a_user_timeout_kills_a_sleeper_only_while_something_is_queued_for_it,
            a_segment_in_flight_comes_late_unless_repetitions_are_limited,
            data_in_flight_switches_keepalive_off,
            a_keepalive_slower_than_the_router_kills_a_healthy_connection,
            a_router_that_forgets_in_silence_is_seen_by_probes_only,
        ],
    )
}

/// A connection from the client's host to the gateway's.
struct Pair {
    client: TcpStream,
    gateway: TcpStream,
}

impl Pair {
    fn connect(lab: &Lab) -> Result<Self> {
        let site = lab.site();
        let door = site.gateway.run(|| TcpListener::bind((site.plan.gateway_v4(), 0)))?;
        let door = door.context("cannot listen")?;
        let to: SocketAddr = door.local_addr()?;
        let client = lab.client().run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        let (gateway, _) = door.accept().context("cannot accept")?;
        let client = client.context("cannot connect")?;
        client.set_read_timeout(Some(PATIENCE))?;
        gateway.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { client, gateway })
    }

    /// The gateway's options, as in the product but quick.
    fn with_user_timeout(self, idle: Duration, user_timeout: Duration) -> Result<Self> {
        let keepalive = keepalive(idle);
        let options = GatewayTcp {
            keepalive,
            user_timeout,
        };
        configure_gateway(&self.gateway, &options)?;
        Ok(self)
    }

    /// The gateway's end with keepalive alone: dead after three unanswered probes.
    fn with_keepalive(self, idle: Duration) -> Result<Self> {
        let options = ClientTcp {
            keepalive: keepalive(idle),
            ..ClientTcp::default()
        };
        configure_client(&self.gateway, &options)?;
        Ok(self)
    }

    /// The gateway sends as much as its kernel takes; nobody reads it.
    fn fill(&mut self) -> Result<usize> {
        self.gateway.set_nonblocking(true)?;
        let (mut sent, mut quiet_since) = (0, Instant::now());
        let block = [0; 65_536];
        // The window closes some segments after the buffer was full for the first time.
        eventually("a full window", PATIENCE, || {
            match self.gateway.write(&block) {
                Ok(length) => {
                    sent += length;
                    quiet_since = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
            Ok((quiet_since.elapsed() > AT_ONCE).then_some(()))
        })?;
        self.gateway.set_nonblocking(false)?;
        Ok(sent)
    }

    /// The gateway sends one byte.
    fn send(&mut self) -> Result<()> {
        self.gateway.write_all(b"x").context("cannot send")
    }

    /// The client reads a byte. Returns how long that took.
    fn receive(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.client.read_exact(&mut [0]).context("nothing came")?;
        Ok(began.elapsed())
    }

    fn info(&self) -> Result<TcpInfo> {
        info(&self.gateway).context("cannot ask the kernel")
    }

    fn lives(&self) -> Result<bool> {
        Ok(self.info()?.state == TcpState::Established)
    }

    /// Waits until the gateway's kernel has given the connection up. Returns why, and how long that took.
    fn dies(&self, within: Duration) -> Result<(ErrorKind, Duration)> {
        let began = Instant::now();
        until("the end of a connection", within, || Ok(!self.lives()?))?;
        let error = self.gateway.take_error()?.context("it ended without an error")?;
        Ok((error.kind(), began.elapsed()))
    }

    /// A byte arrives as between two ends at work.
    fn works(&mut self) -> Result<()> {
        self.send()?;
        let time = self.receive()?;
        ensure!(time < AT_ONCE, "a byte took {time:?}");
        Ok(())
    }
}

fn keepalive(idle: Duration) -> Keepalive {
    Keepalive {
        idle,
        interval: SECOND,
        count: 3,
    }
}

fn a_user_timeout_kills_a_sleeper_only_while_something_is_queued_for_it(lab: &Lab) -> Result<()> {
    let mut condemned = Pair::connect(lab)?.with_user_timeout(SECOND, SHORT)?;
    let mut patient = Pair::connect(lab)?.with_keepalive(SECOND)?;
    let mut empty = Pair::connect(lab)?.with_user_timeout(SECOND, SHORT)?;
    let queued = patient.fill()?;
    condemned.fill()?;
    let (why, after) = condemned.dies(SHORT + LATE)?;
    ensure!(why == ErrorKind::TimedOut, "{why}");
    lab.note(&format!(
        "the kernel takes {} KiB for a client that does not read; with a user timeout of {SHORT:?} the connection is dead \
         {} ms later",
        queued / 1024,
        ms(after)
    ));
    // Its kernel answered all the time.
    let waiting = patient.info()?;
    ensure!(
        waiting.state == TcpState::Established && waiting.backoff > 0,
        "{waiting:?}"
    );
    ensure!(empty.lives()?, "nothing was queued here");
    empty.works()?;
    // It wakes, and reads.
    let (mut block, mut read) = (vec![0; 65_536], 0);
    let began = Instant::now();
    while read < queued {
        read += patient.client.read(&mut block)?;
    }
    patient.works()?;
    lab.note(&format!(
        "without one it is read out {} ms after the wake",
        ms(began.elapsed())
    ));
    Ok(())
}

fn a_segment_in_flight_comes_late_unless_repetitions_are_limited(lab: &Lab) -> Result<()> {
    /// Doublings of the pause between two repetitions when the way is free again; the next one is 6.4 s away.
    const DOUBLED: u8 = 5;
    // The kernel gives up after so many repetitions instead of 15, so that a test can wait for it: 25 s by itself.
    let few = lab
        .site()
        .gateway
        .run(|| fs::write("/proc/sys/net/ipv4/tcp_retries2", "6"))?;
    few.context("cannot limit repetitions")?;
    let mut slow = Pair::connect(lab)?.with_user_timeout(SECOND, LONG)?;
    let mut limited = Pair::connect(lab)?.with_user_timeout(SECOND, LONG)?;
    let mut alone = Pair::connect(lab)?.with_user_timeout(SECOND, LONG)?;
    let mut empty = Pair::connect(lab)?.with_user_timeout(SECOND, LONG)?;
    let supported = limit_retransmission_timeout(&limited.gateway, RETRANSMISSION_TIMEOUT_MAX).is_ok();
    if supported {
        limit_retransmission_timeout(&alone.gateway, SECOND)?;
        SockRef::from(&alone.gateway).set_tcp_user_timeout(None)?;
    } else {
        lab.note("this kernel cannot limit repetitions (6.15 can)");
    }
    for pair in [&mut slow, &mut limited, &mut alone, &mut empty] {
        pair.works()?;
    }

    let hole = Hole::dig(lab, lab.internet(), &["ip daddr 192.0.2.2".to_owned()])?;
    let began = Instant::now();
    for pair in [&mut slow, &mut limited, &mut alone] {
        pair.send()?;
    }
    if supported {
        let (why, after) = alone.dies(PATIENCE)?;
        ensure!(why == ErrorKind::TimedOut, "{why}");
        lab.note(&format!(
            "limited to 1 s without a user timeout, the connection is dead {} ms later",
            ms(after)
        ));
    }
    until("a pause that was doubled often", PATIENCE, || {
        Ok(slow.info()?.backoff >= DOUBLED)
    })?;
    ensure!(slow.lives()? && limited.lives()? && empty.lives()?);
    let outage = began.elapsed();
    drop(hole);
    empty.works()?;
    let back = Instant::now();
    limited.receive()?;
    let soon = back.elapsed();
    slow.receive()?;
    let late = back.elapsed();
    lab.note(&format!(
        "after {} ms without a way, a segment in flight arrives {} ms late, limited to {RETRANSMISSION_TIMEOUT_MAX:?} {} ms; \
         where nothing was in flight the next one at once",
        ms(outage),
        ms(late),
        ms(soon)
    ));
    ensure!(late > RETRANSMISSION_TIMEOUT_MAX + AT_ONCE, "that was not late");
    if supported {
        ensure!(
            soon <= RETRANSMISSION_TIMEOUT_MAX + AT_ONCE && soon < late,
            "that was late"
        );
    }
    Ok(())
}

fn data_in_flight_switches_keepalive_off(lab: &Lab) -> Result<()> {
    let mut busy = Pair::connect(lab)?.with_keepalive(SECOND)?;
    let mut judged = Pair::connect(lab)?.with_user_timeout(SECOND, SHORT)?;
    let idle = Pair::connect(lab)?.with_keepalive(SECOND)?;
    let mut quiet = Pair::connect(lab)?.with_keepalive(SECOND)?;
    switch_keepalive(&quiet.gateway, false)?;
    let hole = Hole::dig(lab, lab.internet(), &["ip daddr 192.0.2.2".to_owned()])?;
    busy.send()?;
    judged.send()?;
    let began = Instant::now();
    let (why, after) = idle.dies(PATIENCE)?;
    ensure!(why == ErrorKind::TimedOut, "{why}");
    let (why, _) = judged.dies(SHORT + LATE)?;
    ensure!(why == ErrorKind::TimedOut, "{why}");
    let judged_after = began.elapsed();
    until("twice the time of the keepalive", PATIENCE, || {
        Ok(began.elapsed() > 2 * after)
    })?;
    let info = busy.info()?;
    ensure!(
        info.state == TcpState::Established && info.probes == 0 && info.unacked == 1,
        "{info:?}"
    );
    let info = quiet.info()?;
    ensure!(info.state == TcpState::Established && info.probes == 0, "{info:?}");
    lab.note(&format!(
        "nothing in flight: dead after {} ms; one segment in flight: alive after {} ms, and with a user timeout of {SHORT:?} \
         dead after {} ms",
        ms(after),
        ms(began.elapsed()),
        ms(judged_after)
    ));
    drop(hole);
    // Without keepalive nobody asked, and nothing was lost.
    quiet.works()
}

/// How long the router of the following tests remembers a silent connection.
const REMEMBERED: Duration = Duration::from_secs(3);

/// More often than that.
const QUICK: Duration = SECOND;

/// Less often.
const SLOW: Duration = Duration::from_secs(6);

fn a_keepalive_slower_than_the_router_kills_a_healthy_connection(lab: &Lab) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    nat.tcp_timeout(REMEMBERED, Forgetting::Reset)?;
    let mut quick = Pair::connect(lab)?.with_user_timeout(QUICK, LONG)?;
    let slow = Pair::connect(lab)?.with_user_timeout(SLOW, LONG)?;
    let (why, after) = slow.dies(SLOW + LATE)?;
    ensure!(why == ErrorKind::ConnectionReset, "{why}");
    lab.note(&format!(
        "a router that remembers {REMEMBERED:?}: with probes after {SLOW:?} the connection is reset after {} ms, with probes \
         after {QUICK:?} it lives",
        ms(after)
    ));
    quick.works()
}

fn a_router_that_forgets_in_silence_is_seen_by_probes_only(lab: &Lab) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    nat.tcp_timeout(REMEMBERED, Forgetting::Silence)?;
    let mut quick = Pair::connect(lab)?.with_user_timeout(QUICK, LONG)?;
    let slow = Pair::connect(lab)?.with_user_timeout(SLOW, LONG)?;
    let mut mute = Pair::connect(lab)?.with_user_timeout(SLOW, LONG)?;
    switch_keepalive(&mute.gateway, false)?;
    until("unanswered probes", SLOW + LATE, || Ok(slow.info()?.probes >= 2))?;
    ensure!(slow.lives()?, "the user timeout is what ends it");
    // The one without probes knows nothing yet; its next byte is lost, from either end.
    let info = mute.info()?;
    ensure!(info.state == TcpState::Established && info.probes == 0, "{info:?}");
    mute.client.write_all(b"x")?;
    mute.gateway.set_read_timeout(Some(SECOND))?;
    let lost = mute.gateway.read(&mut [0]).err().map(|e| e.kind());
    ensure!(lost == Some(ErrorKind::WouldBlock), "{lost:?}");
    quick.works()
}
