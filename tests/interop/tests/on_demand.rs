//! A tunnel that waits for traffic: it makes no connection without a packet, and loses no packet for want of one.
//!
//! ```text
//!   start --> armed --one datagram--> connecting, held --> up, sent first --> answered --> idle --> armed
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{Sleeping, Wires};
use lab::{
    Control, Lab, Mark, PATIENCE, Ping, Process, Settings, Signal, Spool, USER, Users, client_settings, eventually,
    gateway_settings, marmot, ms, spawn_client, start_gateway, until, users_file,
};
use platform::network::HostState;
use serde_json::Value;

/// An idle tunnel is armed again after this, and a tick of the pump.
const IDLE_S: i64 = 1;

/// As long as nobody asks, nothing happens: twice the tick of a lookout.
const QUIET: Duration = Duration::from_secs(10);

/// A handshake that lost its first segment takes a second longer (RFC 6298); so does a datagram for ever.
const WITHOUT_LOSS: Duration = Duration::from_millis(900);

/// The longest that a packet is held, and what two busy cores add.
const HELD: Duration = Duration::from_secs(10 + 5);

const ECHO: u16 = 7007;

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft"],
        lab::tests![
            an_armed_client_connects_for_a_packet_and_not_before,
            a_remembered_lease_arms_the_next_start,
            another_address_costs_the_first_packet_and_is_counted,
            a_kill_while_armed_leaves_nothing,
            a_burst_while_connecting_is_bounded_and_counted,
            nothing_is_held_for_long_where_there_is_no_gateway,
            no_tunnel_where_a_rule_says_so,
            a_sleep_connects_nobody,
        ],
    )
}

/// A client that waits for traffic, of one that has been up once before.
struct Armed {
    client: Process,
    control: Control,
    spool: Spool,
}

fn settings(lab: &Lab) -> Result<Settings> {
    let settings = client_settings(lab, lab.site())?.with("tunnel.name", "call");
    Ok(settings
        .with("on_demand.enabled", true)
        .with("on_demand.idle_s", IDLE_S))
}

impl Armed {
    /// Its first start makes a session, which falls idle.
    fn start(lab: &Lab, name: &str, settings: &Settings) -> Result<Self> {
        let armed = Self::spawn(lab, name, settings)?;
        armed.is("armed")?;
        Ok(armed)
    }

    fn spawn(lab: &Lab, name: &str, settings: &Settings) -> Result<Self> {
        Ok(Self {
            client: spawn_client(lab, lab.client(), name, settings)?,
            control: Control::of(lab, "call"),
            spool: Spool::of(lab, "call"),
        })
    }

    fn is(&self, state: &str) -> Result<Value> {
        // The socket comes a moment after the process.
        until("the socket", PATIENCE, || Ok(self.control.get("/v1/status").is_ok()))?;
        self.control.wait_state(state)
    }

    fn dropped(&self, reason: &str) -> Result<u64> {
        let status = self.control.get("/v1/status")?;
        Ok(status["totals"]["packets_dropped_total"][reason].as_u64().unwrap_or(0))
    }

    /// Ends it while armed. Returns the time until the acknowledgement, as the daemon says.
    fn stop(&self) -> Result<Duration> {
        let (down, took) = self.control.down()?;
        ensure!(down["residue"].as_array().is_some_and(Vec::is_empty), "residue: {down}");
        // The logout is a connection, too.
        self.spool.wait_settled()?;
        self.client.stop(Signal::TERM, PATIENCE)?;
        Ok(took)
    }
}

/// In the LAN: answers each datagram, and each byte of a connection.
struct Echo {
    over: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(lab: &Lab) -> Result<Self> {
        let address = SocketAddr::new(lab.site().plan.host_v4().into(), ECHO);
        let lan = &lab.site().lan;
        let socket = lan.run(|| UdpSocket::bind(address))?.context("no echo")?;
        let listener = lan.run(|| TcpListener::bind(address))?.context("no echo")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        listener.set_nonblocking(true)?;
        let (over, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let datagrams = {
            let (over, heard) = (Arc::clone(&over), Arc::clone(&heard));
            thread::spawn(move || {
                let mut datagram = [0; 2048];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                        heard.fetch_add(1, Ordering::Relaxed);
                        let _ = socket.send_to(&datagram[..length], from);
                    }
                }
            })
        };
        let streams = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((mut stream, _)) => {
                            let mut byte = [0];
                            let _ = stream.set_nonblocking(false);
                            let _ = stream.set_read_timeout(Some(PATIENCE));
                            if stream.read_exact(&mut byte).is_ok() {
                                let _ = stream.write_all(&byte);
                            }
                        }
                        Err(_) => thread::park_timeout(Duration::from_millis(5)),
                    }
                }
            })
        };
        Ok(Self {
            over,
            heard,
            threads: vec![datagrams, streams],
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A socket of a program on the client's host, for the host in the LAN.
fn program(lab: &Lab) -> Result<UdpSocket> {
    let to = SocketAddr::new(lab.site().plan.host_v4().into(), ECHO);
    let made = lab.client().run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        std::io::Result::Ok(socket)
    })?;
    made.context("no socket")
}

/// One datagram, sent once: how long its answer takes.
fn one_datagram(lab: &Lab) -> Result<Duration> {
    let socket = program(lab)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let began = Instant::now();
    socket.send(b"once")?;
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer).context("the datagram had no answer")?;
    ensure!(&answer[..length] == b"once", "another answer");
    Ok(began.elapsed())
}

/// One connection and a byte each way.
fn one_connection(lab: &Lab) -> Result<Duration> {
    let to = SocketAddr::new(lab.site().plan.host_v4().into(), ECHO);
    let began = Instant::now();
    let stream = lab.client().run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let mut stream = stream.context("the connection was not made")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"1")?;
    stream.read_exact(&mut [0])?;
    Ok(began.elapsed())
}

/// One echo request, sent once.
fn one_ping(lab: &Lab, to: impl Into<IpAddr>) -> Result<Duration> {
    let answered = Ping::new(lab.client(), to).series()?.once(PATIENCE)?;
    answered.context("the request had no answer")
}

/// For a while nothing is connected.
fn nobody_connects(wires: &Wires<'_>, during: Duration) -> Result<()> {
    let before = wires.count()?.connects;
    let began = Instant::now();
    until("the end of a quiet while", during + PATIENCE, || {
        let now = wires.count()?.connects;
        ensure!(now == before, "{} connections that nobody asked for", now - before);
        Ok(began.elapsed() >= during)
    })
}

fn same(lab: &Lab, before: &HostState) -> Result<()> {
    until("the host as it was", PATIENCE, || {
        Ok(before.changes(&lab.client().snapshot()?).is_empty())
    })
    .or_else(|_| anyhow::bail!("changed: {:?}", before.changes(&lab.client().snapshot()?)))
}

/// A gateway that gives its user the same addresses in every session.
fn gateway(lab: &Lab, reserved: bool) -> Result<Process> {
    let settings = gateway_settings(lab, lab.site())?;
    if reserved {
        let plan = lab.site().plan;
        let v4 = plan.pool_v4().hosts().nth(40).context("the pool is large")?;
        let users = Users::alice()?.with(USER, "ipv4", v4.to_string());
        users.write(&users_file(lab, lab.site()))?;
    }
    start_gateway(lab, lab.site(), "gateway", &settings)
}

fn an_armed_client_connects_for_a_packet_and_not_before(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab, false)?;
    let _echo = Echo::start(lab)?;
    let before = lab.client().snapshot()?;
    let armed = Armed::start(lab, "client", &settings(lab)?)?;
    let wires = Wires::of_client(lab)?;
    nobody_connects(&wires, QUIET)?;
    let mark = gateway.mark();
    let mut times = Vec::new();
    let asks: [(&str, &dyn Fn() -> Result<Duration>); 4] = [
        ("one datagram", &|| one_datagram(lab)),
        ("one connection", &|| one_connection(lab)),
        ("one ping", &|| one_ping(lab, lab.site().plan.host_v4())),
        ("one ping over IPv6", &|| one_ping(lab, lab.site().plan.host_v6())),
    ];
    for (what, ask) in asks {
        let connects = wires.count()?.connects;
        let took = ask().with_context(|| what.to_owned())?;
        times.push(format!("{what} {} ms", ms(took)));
        ensure!(took < WITHOUT_LOSS, "{what} was sent again: {} ms", ms(took));
        armed.is("up")?;
        ensure!(wires.count()?.connects == connects + 1, "{what}: one connection");
        armed.is("armed")?;
    }
    lab.note(&format!("to the answer, from armed: {}", times.join(", ")));
    ensure!(
        gateway.count_since(mark, &["logged in"]) == 0,
        "the session waits at the gateway"
    );
    ensure!(
        armed.client.count_since(Mark::default(), &["session.end"]) == 0,
        "nobody speaks of an end"
    );
    nobody_connects(&wires, QUIET)?;
    let took = armed.stop()?;
    lab.note(&format!("a stop while armed is acknowledged after {} ms", ms(took)));
    ensure!(took < Duration::from_millis(250), "{} ms", ms(took));
    same(lab, &before)
}

fn a_remembered_lease_arms_the_next_start(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, true)?;
    let _echo = Echo::start(lab)?;
    let before = lab.client().snapshot()?;
    let wires = Wires::of_client(lab)?;
    // The lease has an IPv4 address only that is the user's own.
    let first = Armed::start(lab, "first", &settings(lab)?)?;
    first.stop()?;
    let connects = wires.count()?.connects;
    let armed = Armed::start(lab, "second", &settings(lab)?)?;
    nobody_connects(&wires, QUIET)?;
    ensure!(armed.client.count(&["session.start"]) == 0, "there is no session yet");
    ensure!(
        armed.spool.jobs("open")?.len() == 1,
        "how to clean the host is written down"
    );
    let took = one_datagram(lab)?;
    let made = wires.count()?.connects - connects;
    lab.note(&format!(
        "the first datagram after a start without a session is answered after {} ms, {made} TCP connections",
        ms(took)
    ));
    ensure!(armed.client.count(&["session.start"]) == 1, "one session");
    armed.is("armed")?;
    armed.stop()?;
    same(lab, &before)?;

    // A stop before there ever was a session owes nothing.
    let idle = Armed::start(lab, "third", &settings(lab)?)?;
    let (down, took) = idle.control.down()?;
    ensure!(down["owed"] == "nothing", "there was no session: {down}");
    ensure!(took < Duration::from_millis(250), "{} ms", ms(took));
    idle.client.stop(Signal::TERM, PATIENCE)?;
    same(lab, &before)
}

fn another_address_costs_the_first_packet_and_is_counted(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, false)?;
    let _echo = Echo::start(lab)?;
    Armed::start(lab, "first", &settings(lab)?)?.stop()?;
    let armed = Armed::start(lab, "second", &settings(lab)?)?;
    let mark = armed.client.mark();
    let socket = program(lab)?;
    socket.send(b"once")?;
    armed
        .client
        .wait_for_line(mark, &["the gateway gave other addresses"], PATIENCE)?;
    let dropped = eventually("what was dropped", PATIENCE, || {
        Ok(Some(armed.dropped("foreign_source")?).filter(|dropped| *dropped > 0))
    })?;
    lab.note(&format!(
        "the gateway gave another address: {dropped} packets from the old one are counted"
    ));
    let took = one_connection(lab)?;
    ensure!(took < WITHOUT_LOSS, "and the next one is made: {} ms", ms(took));
    armed.is("armed")?;
    armed.stop().map(drop)
}

fn a_kill_while_armed_leaves_nothing(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, true)?;
    let before = lab.client().snapshot()?;
    let armed = Armed::start(lab, "first", &settings(lab)?)?;
    ensure!(
        !before.changes(&lab.client().snapshot()?).is_empty(),
        "it is on the host"
    );
    armed.client.stop(Signal::KILL, PATIENCE)?;
    cleanup(lab, "first")?;
    same(lab, &before)?;
    // The same without a session, found by the next start.
    let armed = Armed::start(lab, "second", &settings(lab)?)?;
    armed.client.stop(Signal::KILL, PATIENCE)?;
    let armed = Armed::start(lab, "third", &settings(lab)?)?;
    ensure!(
        armed
            .client
            .count(&["ended without a stop while it waited for traffic"])
            == 1,
        "it was found"
    );
    armed.stop()?;
    same(lab, &before)?;
    ensure!(armed.spool.jobs("failed")?.is_empty(), "nothing is given up");
    ensure!(armed.spool.jobs("open")?.is_empty(), "nothing is left open");
    Ok(())
}

fn a_burst_while_connecting_is_bounded_and_counted(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, false)?;
    let echo = Echo::start(lab)?;
    let armed = Armed::start(lab, "client", &settings(lab)?.with("on_demand.hold_packets", 16))?;
    lab.internet().down("client")?;
    let socket = program(lab)?;
    const BURST: u64 = 400;
    for number in 0..BURST {
        socket.send(&number.to_be_bytes())?;
    }
    until("all but what is held are counted", PATIENCE, || {
        Ok(armed.dropped("queue_full")? >= BURST / 2)
    })
    .or_else(|_| anyhow::bail!("counted: {}", armed.control.get("/v1/status")?["totals"]))?;
    lab.internet().up("client")?;
    socket.set_read_timeout(Some(HELD))?;
    let mut order = Vec::new();
    let mut answer = [0; 8];
    while order.len() < 16 {
        socket.recv(&mut answer).context("what is held is answered")?;
        order.push(u64::from_be_bytes(answer));
    }
    // A kernel may drop a few of a burst itself.
    let sorted = order.is_sorted() && order.first() >= Some(&(BURST / 2));
    ensure!(
        sorted && order.last() == Some(&(BURST - 1)),
        "the newest, in order: {order:?}"
    );
    let heard = echo.heard.load(Ordering::Relaxed);
    lab.note(&format!(
        "of {BURST} datagrams {heard} went through, the rest is counted"
    ));
    ensure!(heard == 16, "and nothing else");
    armed.is("armed")?;
    armed.stop().map(drop)
}

fn nothing_is_held_for_long_where_there_is_no_gateway(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab, false)?;
    let before = lab.client().snapshot()?;
    let armed = Armed::start(lab, "client", &settings(lab)?)?;
    gateway.stop(Signal::KILL, PATIENCE)?;
    let wires = Wires::of_client(lab)?;
    let to = SocketAddr::new(lab.site().plan.host_v4().into(), ECHO);
    let began = Instant::now();
    let told = lab.client().run(|| TcpStream::connect_timeout(&to, HELD + PATIENCE))?;
    let took = began.elapsed();
    let told = told.err().context("a connection to nobody")?.to_string();
    ensure!(took < HELD, "held for {} ms", ms(took));
    until("it is counted", PATIENCE, || Ok(armed.dropped("channel_down")? >= 1))?;
    // What the kernel sent again meanwhile asks for as long as it is held.
    until("nobody asks any more", HELD * 4, || {
        Ok(armed.control.get("/v1/status")?["state"] == "armed")
    })?;
    let asked = began.elapsed();
    nobody_connects(&wires, QUIET)?;
    lab.note(&format!(
        "no gateway: the program is told \"{told}\" after {} ms, {} attempts, armed again after {} ms",
        ms(took),
        wires.count()?.connects,
        ms(asked)
    ));
    // The logout is owed for as long as there is nobody to take it.
    let (down, took) = armed.control.down()?;
    ensure!(
        down["owed"] == "recorded",
        "the waiting session is written down: {down}"
    );
    armed.client.stop(Signal::TERM, PATIENCE)?;
    ensure!(took < Duration::from_millis(250), "{} ms", ms(took));
    same(lab, &before)
}

fn no_tunnel_where_a_rule_says_so(lab: &Lab) -> Result<()> {
    let here = lab.pki().renewed_server()?;
    let _gateway = start_gateway(
        lab,
        lab.site(),
        "gateway",
        &gateway_settings(lab, lab.site())?
            .with_path("tls.certificate_file", &here.certificate)
            .with_path("tls.key_file", &here.key),
    )?;
    let _echo = Echo::start(lab)?;
    let before = lab.client().snapshot()?;
    let ruled = |rules: &str| -> Result<Settings> { settings(lab)?.with_text(rules) };
    let by_interface = ruled("[[on_demand.rule]]\naction = \"stay_down\"\ninterfaces = [\"*\"]\n")?;
    let armed = Armed::spawn(lab, "by-interface", &by_interface)?;
    armed.is("stay_down")?;
    ensure!(
        before.changes(&lab.client().snapshot()?).is_empty(),
        "nothing is on the host"
    );
    // A person's word counts until the network changes.
    armed.control.up()?;
    armed.is("up")?;
    one_datagram(lab)?;
    armed.stop()?;
    same(lab, &before)?;

    // Elsewhere the rule means nothing.
    let elsewhere = ruled(
        "[[on_demand.rule]]\naction = \"stay_down\"\ninterfaces = [\"nothing*\"]\n\
         [[on_demand.rule]]\naction = \"stay_down\"\nnetworks = [\"198.51.100.0/24\"]\n",
    )?;
    let armed = Armed::start(lab, "elsewhere", &elsewhere)?;
    armed.stop()?;

    // A server that proves with its key where the host is; another key proves nothing.
    let address = format!("{}:443", lab.site().plan.gateway_v4());
    let probe = |pin: String| {
        ruled(&format!(
            "[[on_demand.rule]]\nname = \"home\"\naction = \"stay_down\"\nprobe = \"{address}\"\npins = [\"{pin}\"]\n"
        ))
    };
    let armed = Armed::spawn(lab, "trusted", &probe(here.pin.clone())?)?;
    armed.is("stay_down")?;
    armed.stop()?;
    let armed = Armed::start(lab, "untrusted", &probe(lab.pki().server()?.pin)?)?;
    armed.stop()?;
    same(lab, &before)
}

fn a_sleep_connects_nobody(lab: &Lab) -> Result<()> {
    let sleeping = Sleeping::start(
        lab,
        |settings| settings,
        |settings| {
            let settings = settings.with("tunnel.name", "call");
            settings
                .with("on_demand.enabled", true)
                .with("on_demand.idle_s", IDLE_S)
        },
    )?;
    let control = Control::of(lab, "call");
    control.wait_state("armed")?;
    sleeping.begin()?;
    for _ in 0..3 {
        sleeping.sleeper().night(Duration::from_secs(3600))?;
        until("the sleep is noticed", PATIENCE, || {
            Ok(sleeping.said(&["clock.gap"]).0 > 0)
        })?;
    }
    let began = Instant::now();
    until("the end of a quiet while", QUIET + PATIENCE, || {
        let connects = sleeping.sent()?.connects;
        ensure!(connects == 0, "{connects} connections in wakes that nobody uses");
        Ok(began.elapsed() >= QUIET)
    })?;
    let took = one_ping(lab, lab.site().plan.host_v4())?;
    lab.note(&format!(
        "after three hours of sleep while armed: 0 connections, and the first ping after {} ms",
        ms(took)
    ));
    ensure!(sleeping.sent()?.connects == 1, "one connection for one packet");
    Ok(())
}

fn cleanup(lab: &Lab, name: &str) -> Result<()> {
    let config = lab.folder().join(format!("{name}.toml"));
    let mut command = marmot(lab, lab.client(), &["cleanup", "-c"])?;
    let output = command.arg(config).output().context("cannot clean up")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
