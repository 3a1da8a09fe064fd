//! The bare `dtls` crate beside Debian's OpenSSL and GnuTLS, in both roles: every suite, with and without the extended
//! master secret, with and without HelloVerifyRequest.
//!
//! ```text
//!   this test ---- UDP on the loopback of a namespace ---- openssl, gnutls-cli, gnutls-serv
//!       \--- FIFO: what it shall say ---------------------------------^
//! ```
//! What was agreed on is asserted on both sides: in the facts of our end, and in what the program says of its own.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dtls::{
    Client, ClientConfig, ConnectionId, Content, CookieCheck, Cookies, Error, Established, Peek, Psk, Server,
    ServerConfig, Suite, peek,
};
use lab::{Lab, PATIENCE, Process};
use now::{Awake, Deadline};

/// The server's port, in a namespace of the test.
const PORT: u16 = 4433;

const KEY: [u8; 32] = [7; 32];
const KEY_IN_HEX: &str = "0707070707070707070707070707070707070707070707070707070707070707";
const SESSION_ID: &[u8; 32] = b"app-id of thirty-two whole bytes";

const OURS: &str = "a word of ours\n";
const THEIRS: &str = "a word of theirs\n";

/// Where the contents of the first record of epoch 0 begin, and there the kind of a message.
const KIND: usize = 13;
const HELLO_VERIFY_REQUEST: u8 = 3;
/// Where a ServerHello that begins a datagram has the length of its session id: behind both headers, version and random.
const SESSION_ID_LENGTH: usize = 13 + 12 + 2 + 32;

fn main() -> ExitCode {
    lab::run(
        &["openssl", "gnutls-cli", "gnutls-serv"],
        lab::tests![
            our_client_speaks_with_openssl,
            our_server_speaks_with_openssl,
            our_client_speaks_with_gnutls,
            our_server_speaks_with_gnutls,
            an_offered_session_is_neither_resumed_nor_echoed,
            a_close_of_ours_ends_both_clients,
        ],
    )
}

/// What a handshake is made of.
#[derive(Clone, Copy, Debug)]
struct Case {
    suite: Suite,
    /// Whether both can do RFC 7627; without, it is the peer that cannot.
    secret: bool,
    /// Whether the server asks for a cookie.
    cookie: bool,
}

impl Case {
    fn every() -> impl Iterator<Item = Self> {
        let bools = [true, false];
        Suite::ALL.into_iter().flat_map(move |suite| {
            bools
                .into_iter()
                .flat_map(move |secret| bools.into_iter().map(move |cookie| Self { suite, secret, cookie }))
        })
    }

    /// As part of the name of a file.
    fn name(self, program: &str) -> String {
        format!(
            "{program}-{:04x}-{}-{}",
            self.suite.code(),
            if self.secret { "secret" } else { "plain" },
            if self.cookie { "cookie" } else { "direct" }
        )
    }

    fn openssl_suite(self) -> &'static str {
        match self.suite {
            Suite::Aes128GcmSha256 => "PSK-AES128-GCM-SHA256",
            Suite::Aes256GcmSha384 => "PSK-AES256-GCM-SHA384",
            Suite::Chacha20Poly1305Sha256 => "PSK-CHACHA20-POLY1305",
        }
    }

    fn gnutls_cipher(self) -> &'static str {
        match self.suite {
            Suite::Aes128GcmSha256 => "AES-128-GCM",
            Suite::Aes256GcmSha384 => "AES-256-GCM",
            Suite::Chacha20Poly1305Sha256 => "CHACHA20-POLY1305",
        }
    }

    /// A priority string that allows this case only.
    fn priority(self) -> String {
        format!(
            "--priority=NONE:+VERS-DTLS1.2:+PSK:+{}:+AEAD:+COMP-NULL:+SIGN-ALL{}",
            self.gnutls_cipher(),
            if self.secret { "" } else { ":%NO_SESSION_HASH" }
        )
    }

    /// Makes sure that our end agreed on this case.
    fn holds(self, end: &Established, wire: &Wire) -> Result<()> {
        ensure!(end.facts.suite == self.suite, "{:?}", end.facts);
        ensure!(end.facts.extended_master_secret == self.secret, "{:?}", end.facts);
        ensure!(end.facts.peer_connection_id.is_none() && end.facts.own_connection_id.is_none());
        let verified = wire.log.iter().any(|datagram| datagram[KIND] == HELLO_VERIFY_REQUEST);
        ensure!(verified == self.cookie, "a HelloVerifyRequest, or none");
        Ok(())
    }
}

fn our_client_speaks_with_openssl(lab: &Lab) -> Result<()> {
    every_case(lab, |case| {
        let accept = format!("127.0.0.1:{PORT}");
        let mut arguments = vec!["s_server", "-nocert", "-accept", &accept];
        if case.cookie {
            arguments.push("-listen");
        }
        // It asks for a cookie either way, and keeps the state of the first hello without `-listen`.
        let case = Case { cookie: true, ..case };
        let server = openssl(lab, case, &arguments)?;
        server.process.wait_for("ACCEPT", PATIENCE)?;
        let (mut wire, mut end) = our_client(lab, case)?;
        server
            .process
            .wait_for(&format!("CIPHER is {}\n", case.openssl_suite()), PATIENCE)?;
        both_speak(&mut wire, &mut end, &server)
    })
}

fn our_server_speaks_with_openssl(lab: &Lab) -> Result<()> {
    every_case(lab, |case| {
        let mut wire = Wire::listening(lab)?;
        let client = openssl_client(lab, case, &[])?;
        let mut end = our_server(&mut wire, case)?;
        client
            .process
            .wait_for(&format!("Cipher    : {}\n", case.openssl_suite()), PATIENCE)?;
        let secret = if case.secret { "yes" } else { "no" };
        client
            .process
            .wait_for(&format!("Extended master secret: {secret}"), PATIENCE)?;
        both_speak(&mut wire, &mut end, &client)
    })
}

fn our_client_speaks_with_gnutls(lab: &Lab) -> Result<()> {
    let keys = lab.file("keys", &format!("psk:{KEY_IN_HEX}\n"))?;
    every_case(lab, |case| {
        let mut command = lab.command(lab.client(), "gnutls-serv")?;
        // At this level it says what it agrees on.
        command.args([
            "--udp",
            "--echo",
            "--debug=4",
            &format!("--port={PORT}"),
            &case.priority(),
        ]);
        command.arg("--pskpasswd").arg(&keys);
        if !case.cookie {
            command.arg("--nocookie");
        }
        let server = lab.spawn(&case.name("gnutls-serv"), command)?;
        server.wait_for("IPv4 0.0.0.0 port 4433...done", PATIENCE)?;
        let (mut wire, mut end) = our_client(lab, case)?;
        let suite = format!("suite: GNUTLS_PSK_{}", case.gnutls_cipher().replace('-', "_"));
        server.wait_for(&suite, PATIENCE)?;
        wire.say(&mut end, OURS)?;
        wire.hears(&mut end, OURS).context("the echo")
    })
}

fn our_server_speaks_with_gnutls(lab: &Lab) -> Result<()> {
    every_case(lab, |case| {
        let mut wire = Wire::listening(lab)?;
        let client = gnutls_client(lab, case)?;
        let mut end = our_server(&mut wire, case)?;
        client
            .process
            .wait_for(&format!("-(PSK)-({})\n", case.gnutls_cipher()), PATIENCE)?;
        let options = client.process.wait_for("- Options:", PATIENCE)?;
        ensure!(options.contains("extended master secret") == case.secret, "{options}");
        both_speak(&mut wire, &mut end, &client)
    })
}

/// Ids of sessions mean the App-ID to our server, and an echo would be a promise to resume.
fn an_offered_session_is_neither_resumed_nor_echoed(lab: &Lab) -> Result<()> {
    let case = Case {
        suite: Suite::Aes256GcmSha384,
        secret: true,
        cookie: false,
    };
    let accept = format!("127.0.0.1:{PORT}");
    let stock = openssl(lab, case, &["s_server", "-nocert", "-accept", &accept, "-no_ticket"])?;
    stock.process.wait_for("ACCEPT", PATIENCE)?;
    let first = openssl_client(lab, case, &["-no_ticket", "-sess_out", "session"])?;
    first.process.wait_for("Extended master secret", PATIENCE)?;
    first.say("Q\n")?;
    first.process.wait_exit(PATIENCE)?;
    drop(stock);

    let mut wire = Wire::listening(lab)?;
    let second = openssl_client(lab, case, &["-no_ticket", "-sess_in", "session"])?;
    let mut end = our_server(&mut wire, case)?;
    let hello = wire.log.first().context("a hello")?;
    let Peek::Hello(hello) = peek(hello, 0) else {
        bail!("the first datagram is no hello");
    };
    ensure!(hello.session_id().len() == 32, "it offers the session");
    second.process.wait_for("New, TLSv1.2, Cipher is", PATIENCE)?;
    both_speak(&mut wire, &mut end, &second)
}

fn a_close_of_ours_ends_both_clients(lab: &Lab) -> Result<()> {
    let case = Case {
        suite: Suite::Chacha20Poly1305Sha256,
        secret: true,
        cookie: true,
    };
    let mut wire = Wire::listening(lab)?;
    let openssl = openssl_client(lab, case, &[])?;
    closes(&mut wire, case, &openssl, "closed\n")?;
    drop(wire);
    let mut wire = Wire::listening(lab)?;
    let gnutls = gnutls_client(lab, case)?;
    closes(&mut wire, case, &gnutls, "Peer has closed")
}

fn closes(wire: &mut Wire, case: Case, client: &Talker, word: &str) -> Result<()> {
    let mut end = our_server(wire, case)?;
    wire.send(&end.seal.seal_close().context("a young key")?)?;
    client.process.wait_for(word, PATIENCE)?;
    client.process.wait_exit(PATIENCE)?;
    Ok(())
}

fn every_case(lab: &Lab, show: impl Fn(Case) -> Result<()>) -> Result<()> {
    let mut shown = 0;
    for case in Case::every() {
        show(case).with_context(|| format!("{case:?}"))?;
        shown += 1;
    }
    lab.note(&format!("{shown} handshakes"));
    Ok(())
}

/// A program that says what it is told to through a FIFO, which has no end.
struct Talker {
    process: Process,
    words: File,
}

impl Talker {
    fn start(
        lab: &Lab,
        name: &str,
        program: &str,
        arguments: &[&str],
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let path = lab.folder().join(format!("{name}.fifo"));
        let made = Command::new("mkfifo")
            .arg(&path)
            .status()
            .context("cannot start mkfifo")?;
        ensure!(made.success(), "mkfifo ended with {made}");
        // For reading too: then neither side waits for the other to open it.
        let words = OpenOptions::new().read(true).write(true).open(&path);
        let mut command = lab.command(lab.client(), "sh")?;
        command.args(["-c", r#"fifo=$1; shift; exec "$@" <>"$fifo""#, "sh"]);
        command.arg(&path).arg(program).args(arguments);
        adjust(&mut command);
        Ok(Self {
            process: lab.spawn(name, command)?,
            words: words.context("cannot open a FIFO")?,
        })
    }

    fn say(&self, text: &str) -> Result<()> {
        (&self.words)
            .write_all(text.as_bytes())
            .context("cannot write to a FIFO")
    }
}

fn openssl_client(lab: &Lab, case: Case, arguments: &[&str]) -> Result<Talker> {
    let connect = format!("127.0.0.1:{PORT}");
    openssl(lab, case, &[&["s_client", "-connect", &connect], arguments].concat())
}

fn gnutls_client(lab: &Lab, case: Case) -> Result<Talker> {
    let port = PORT.to_string();
    let arguments = [
        "--udp",
        "--pskusername",
        "psk",
        "--pskkey",
        KEY_IN_HEX,
        "--port",
        &port,
        &case.priority(),
        "127.0.0.1",
    ];
    Talker::start(lab, &case.name("gnutls-cli"), "gnutls-cli", &arguments, |_| ())
}

/// `openssl` with our key, for this case only.
fn openssl(lab: &Lab, case: Case, arguments: &[&str]) -> Result<Talker> {
    // OpenSSL 3.0 has no option of its commands for this.
    let without_secret = lab.file(
        "without-secret.cnf",
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = plain\n\
         [plain]\nOptions = -ExtendedMasterSecret\n",
    )?;
    let key = [
        "-dtls1_2",
        "-psk_identity",
        "psk",
        "-psk",
        KEY_IN_HEX,
        "-cipher",
        case.openssl_suite(),
    ];
    let name = arguments.join("-").replace(['/', ':'], "_");
    Talker::start(
        lab,
        &case.name(&format!("openssl-{name}")),
        "openssl",
        &[arguments, &key].concat(),
        |command| {
            if !case.secret {
                command.env("OPENSSL_CONF", without_secret);
            }
        },
    )
}

/// Application data in both directions.
fn both_speak(wire: &mut Wire, end: &mut Established, peer: &Talker) -> Result<()> {
    wire.say(end, OURS)?;
    peer.process.wait_for(OURS, PATIENCE)?;
    peer.say(THEIRS)?;
    wire.hears(end, THEIRS)
}

/// Our socket, and what passed it before the handshake was complete.
struct Wire {
    socket: UdpSocket,
    began: Instant,
    log: Vec<Vec<u8>>,
}

impl Wire {
    fn bound(lab: &Lab, port: u16) -> Result<Self> {
        let socket = lab.client().run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)))?;
        Ok(Self {
            socket: socket.context("cannot bind a socket")?,
            began: Instant::now(),
            log: Vec::new(),
        })
    }

    fn listening(lab: &Lab) -> Result<Self> {
        Self::bound(lab, PORT)
    }

    fn connected(lab: &Lab) -> Result<Self> {
        let wire = Self::bound(lab, 0)?;
        wire.socket.connect((Ipv4Addr::LOCALHOST, PORT))?;
        Ok(wire)
    }

    fn now(&self) -> Awake {
        Awake::from_origin(self.began.elapsed())
    }

    fn send(&mut self, datagram: &[u8]) -> Result<()> {
        self.log.push(datagram.to_vec());
        self.socket.send(datagram).context("cannot send")?;
        Ok(())
    }

    /// The next datagram, if one comes in time.
    fn receive(&mut self, until: Awake) -> Result<Option<(Vec<u8>, SocketAddr)>> {
        // A timeout of zero would be none at all.
        let left = until.since(self.now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left))?;
        let mut datagram = vec![0; 1 << 16];
        match self.socket.recv_from(&mut datagram) {
            Ok((length, source)) => {
                datagram.truncate(length);
                self.log.push(datagram.clone());
                Ok(Some((datagram, source)))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).context("cannot receive"),
        }
    }

    fn complete(&mut self, handshake: &mut dyn Handshake) -> Result<Established> {
        loop {
            while let Some(datagram) = handshake.poll() {
                self.send(&datagram)?;
            }
            if let Some(end) = handshake.established() {
                return Ok(end);
            }
            let deadline = handshake.deadline().context("a handshake that waits has a deadline")?;
            match self.receive(deadline.at)? {
                Some((mut datagram, _)) => handshake.received(&mut datagram, self.now())?,
                None => handshake.handle_timeout(self.now())?,
            }
        }
    }

    fn say(&mut self, end: &mut Established, text: &str) -> Result<()> {
        let mut record = vec![0; end.seal.prefix()];
        record.extend(text.as_bytes());
        record.resize(record.len() + end.seal.suffix(), 0);
        end.seal.seal(&mut record)?;
        self.send(&record)
    }

    /// Waits for application data.
    fn hears(&mut self, end: &mut Established, text: &str) -> Result<()> {
        if end.facts.early.iter().any(|early| early == text.as_bytes()) {
            return Ok(());
        }
        let until = self.now().plus(PATIENCE);
        while let Some((mut datagram, _)) = self.receive(until)? {
            match end.open.open(&mut datagram).content {
                Content::Data { range, .. } if &datagram[range.clone()] == text.as_bytes() => return Ok(()),
                Content::Data { range, .. } => bail!("{:?} instead", String::from_utf8_lossy(&datagram[range])),
                Content::Retransmission => {
                    let again = end.tail.resend(self.now()).to_vec();
                    again.iter().try_for_each(|datagram| self.send(datagram))?;
                }
                Content::Closed => bail!("the peer closed the connection"),
                Content::Discarded(reason) => bail!("discarded: {reason:?}"),
            }
        }
        bail!("no {text:?} came")
    }
}

fn our_client(lab: &Lab, case: Case) -> Result<(Wire, Established)> {
    let config = ClientConfig {
        psk: psk()?,
        identity: b"psk".to_vec(),
        session_id: SESSION_ID.to_vec(),
        suites: Suite::ALL.to_vec(),
        extended_master_secret: true,
        connection_ids: true,
        mtu: 1200,
    };
    let mut wire = Wire::connected(lab)?;
    let end = wire.complete(&mut Client::new(config, [1; 32], wire.now()))?;
    case.holds(&end, &wire)?;
    Ok((wire, end))
}

fn our_server(wire: &mut Wire, case: Case) -> Result<Established> {
    let config = ServerConfig {
        psk: psk()?,
        suites: Suite::ALL.to_vec(),
        extended_master_secret: true,
        connection_id: ConnectionId::new(&[9; 8]),
        mtu: 1200,
    };
    let mut server = answered(wire, case, config)?;
    let begin = wire.log.len();
    let end = wire.complete(&mut server)?;
    let hello = &wire.log[begin];
    ensure!(hello[KIND] == 2, "the first flight begins with ServerHello");
    ensure!(hello[SESSION_ID_LENGTH] == 0, "a session id is in our ServerHello");
    case.holds(&end, wire)?;
    Ok(end)
}

/// Waits for a hello that can be answered, which is the first or the one with a cookie.
fn answered(wire: &mut Wire, case: Case, config: ServerConfig) -> Result<Server> {
    let cookies = Cookies::new([5; 32]);
    let until = wire.now().plus(PATIENCE);
    while let Some((datagram, source)) = wire.receive(until)? {
        let Peek::Hello(hello) = peek(&datagram, 8) else {
            bail!("no hello came first");
        };
        wire.socket.connect(source)?;
        let proven = match cookies.check(&hello, source.to_string().as_bytes()) {
            CookieCheck::Proven(proven) => proven,
            CookieCheck::Ask(request) if case.cookie => {
                wire.send(&request)?;
                continue;
            }
            CookieCheck::Ask(_) => hello.without_cookie(),
        };
        return Ok(Server::new(config, proven, [2; 32], wire.now())?);
    }
    bail!("no hello came")
}

fn psk() -> Result<Psk> {
    Psk::new(&KEY).context("32 bytes are a key")
}

/// What both roles have in common.
trait Handshake {
    fn received(&mut self, datagram: &mut [u8], now: Awake) -> Result<(), Error>;
    fn handle_timeout(&mut self, now: Awake) -> Result<(), Error>;
    fn deadline(&self) -> Option<Deadline>;
    fn poll(&mut self) -> Option<Vec<u8>>;
    fn established(&mut self) -> Option<Established>;
}

macro_rules! handshake {
    ($role:ty) => {
        impl Handshake for $role {
            fn received(&mut self, datagram: &mut [u8], now: Awake) -> Result<(), Error> {
                self.received(datagram, now)
            }
            fn handle_timeout(&mut self, now: Awake) -> Result<(), Error> {
                self.handle_timeout(now)
            }
            fn deadline(&self) -> Option<Deadline> {
                self.deadline()
            }
            fn poll(&mut self) -> Option<Vec<u8>> {
                self.poll()
            }
            fn established(&mut self) -> Option<Established> {
                self.established()
            }
        }
    };
}

handshake!(Client);
handshake!(Server);
