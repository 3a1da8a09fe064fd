//! A gateway of its own for one test: files in a temporary folder, a device in memory, a thread that runs it.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use config::gateway::GatewayConfig;
use gateway::{Device, Gateway, GatewayError, MemoryDevice, Reload};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Long enough for the slowest machine; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The name in the gateway's certificate.
pub(crate) const NAME: &str = "gateway.test";

/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) device: MemoryDevice,
    pub(crate) reload: Reload,
    pub(crate) clients: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
    log: mpsc::Receiver<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), GatewayError>>>,
}

/// What a test wants different: text for the configuration file, and values the file does not allow.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(crate) auth: &'static str,
    pub(crate) pool: Option<&'static str>,
    pub(crate) housekeeping: &'static str,
    pub(crate) more: &'static str,
    /// How many workers; 0 for what [`WORKERS`] says, or one.
    pub(crate) workers: usize,
    pub(crate) change: Option<fn(&mut GatewayConfig)>,
    /// Done with the gateway's folder before it starts.
    pub(crate) before: Option<fn(&Path)>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(Wishes::default())
    }

    pub(crate) fn with(wishes: Wishes) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clients = client_authority();
        write(&folder, "clients.crt", &clients.pem());
        write(&folder, "users.toml", &users(&["alice", "bob"]));
        let root = new_certificate(&folder);
        write(&folder, "gateway.toml", &config_text(&wishes));
        if let Some(before) = wishes.before {
            before(folder.path());
        }

        Self::start(folder, clients, vec![root], wishes.change)
    }

    /// Stops the gateway, and starts another with the same files after `between`.
    pub(crate) fn restarted(mut self, between: impl FnOnce(&Path)) -> Self {
        self.shut_down().expect("a clean stop");
        let until = Instant::now() + PATIENCE;
        // Threads of the gateway let go of its folder a moment after it has ended.
        let in_use = |opened| matches!(opened, Err(GatewayError::RecordsInUse(_)));
        while in_use(Gateway::open(self.config(), None, Device::Memory(MemoryDevice::pair(1).0)).map(drop)) {
            assert!(Instant::now() < until, "the folder is free in time");
            thread::yield_now();
        }
        between(self.folder.path());
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("folder"));
        let clients = std::mem::replace(&mut self.clients, client_authority());
        Self::start(folder, clients, std::mem::take(&mut self.roots), None)
    }

    fn start(
        folder: TempDir,
        clients: CertifiedIssuer<'static, KeyPair>,
        roots: Vec<CertificateDer<'static>>,
        change: Option<fn(&mut GatewayConfig)>,
    ) -> Self {
        let (lines, log) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (near, far) = MemoryDevice::pair(64);
        let path = folder.path().join("gateway.toml");
        let thread = thread::spawn(move || run(path, change, near, lines, tell, stopped));
        let (address, reload) = told.recv_timeout(PATIENCE).expect("the gateway opens");
        Self {
            address,
            roots,
            device: far,
            reload,
            clients,
            folder,
            log,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Replaces a file of the gateway.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(&self.folder, name, text);
    }

    /// Replaces the gateway's certificate and key; clients from now on trust the new one only.
    pub(crate) fn renew_certificate(&mut self) {
        self.roots = vec![new_certificate(&self.folder)];
    }

    /// Where the gateway's files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration as it is in the file.
    pub(crate) fn config(&self) -> GatewayConfig {
        let text = fs::read_to_string(self.folder().join("gateway.toml")).expect("configuration");
        GatewayConfig::parse(&text, "gateway.toml", self.folder()).expect("valid")
    }

    /// Stops the gateway and leaves its files to be looked at.
    pub(crate) fn stop_and_look(mut self) -> TempDir {
        self.shut_down().expect("a clean stop");
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("folder"))
    }

    /// Waits for a log line with all of `words`, and returns it.
    pub(crate) fn logged(&self, words: &[&str]) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self
                .log
                .recv_timeout(until - Instant::now())
                .unwrap_or_else(|_| panic!("no line with {words:?}"));
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }

    /// The next packet that the gateway hands to its device.
    pub(crate) async fn packet(&mut self) -> Bytes {
        tokio::time::timeout(PATIENCE, self.device.recv())
            .await
            .expect("a packet in time")
            .expect("a device")
    }

    /// Stops the gateway and returns what it says.
    pub(crate) fn stop(mut self) -> Result<(), GatewayError> {
        self.shut_down()
    }

    /// Stops the gateway and returns what it has logged since it was last asked.
    pub(crate) fn stop_and_read(mut self) -> Vec<String> {
        self.shut_down().expect("a clean stop");
        self.log.try_iter().collect()
    }

    fn shut_down(&mut self) -> Result<(), GatewayError> {
        drop(self.stop.take());
        self.thread
            .take()
            .expect("stopped once")
            .join()
            .expect("the gateway does not panic")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            self.shut_down().expect("the gateway stops without an error");
        }
    }
}

/// The text of a users file with these users.
pub(crate) fn users(names: &[&str]) -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    let hash = HASH.get_or_init(|| gateway::password::hash(PASSWORD).expect("hash"));
    names
        .iter()
        .map(|name| format!("[users.{name}]\npassword = \"{hash}\"\n"))
        .collect()
}

/// A variable of the environment with the number of workers of every gateway that does not ask for one.
const WORKERS: &str = "MARMOT_TEST_WORKERS";

/// `more`, with the number of workers.
fn with_workers(more: &str, workers: usize) -> String {
    let asked = (workers > 0).then(|| workers.to_string());
    let Some(workers) = asked.or_else(|| std::env::var(WORKERS).ok()) else {
        return more.to_owned();
    };
    let line = format!("[network]\nworkers = {workers}\n");
    match more.contains("[network]\n") {
        true => more.replace("[network]\n", &line),
        false => format!("{more}\n{line}"),
    }
}

/// The text of the configuration file.
pub(crate) fn config_text(wishes: &Wishes) -> String {
    let Wishes {
        auth,
        pool,
        housekeeping,
        more,
        workers,
        ..
    } = wishes;
    let more = with_workers(more, *workers);
    let pool = pool.unwrap_or("ipv4 = \"10.78.0.0/24\"");
    format!(
        "[listen]\naddresses = [\"127.0.0.1:0\"]\n\
         [tls]\ncertificate_file = \"gateway.crt\"\nkey_file = \"gateway.key\"\n\
         [auth]\nusers_file = \"users.toml\"\n{auth}\n\
         [pool]\n{pool}\n\
         [storage]\nstate_dir = \"state\"\nruntime_dir = \"run\"\n[api]\ngroup = \"\"\n\
         [housekeeping]\nhooks_dir = \"hooks\"\n{housekeeping}\n{more}\n"
    )
}

fn run(
    path: PathBuf,
    change: Option<fn(&mut GatewayConfig)>,
    device: MemoryDevice,
    lines: mpsc::Sender<String>,
    tell: mpsc::Sender<(SocketAddr, Reload)>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), GatewayError> {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false);
    let _logging = tracing::subscriber::set_default(subscriber.with_writer(Mutex::new(Lines(lines))).finish());

    let text = fs::read_to_string(&path).expect("configuration");
    let mut config = GatewayConfig::parse(&text, "gateway.toml", path.parent().expect("folder")).expect("valid");
    if let Some(change) = change {
        change(&mut config);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let gateway = Gateway::open(config, Some(path), Device::Memory(device))?;
        tell.send((gateway.addresses()[0], gateway.reload()))
            .expect("the test waits");
        let stop = async {
            let _ = stopped.await;
        };
        gateway.serve(stop).await
    })
}

/// Sends each line of the log to the test.
struct Lines(mpsc::Sender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes).into_owned();
        assert!(!line.contains(PASSWORD), "a password in the log: {line}");
        // The test may be over.
        let _ = self.0.send(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn new_certificate(folder: &TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("certificate");
    write(folder, "gateway.crt", &made.cert.pem());
    write(folder, "gateway.key", &made.signing_key.serialize_pem());
    made.cert.der().clone()
}

/// An authority for certificates of clients.
pub(crate) fn client_authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority")
}

/// A certificate whose UID is `user`, with its key in DER.
pub(crate) fn client_certificate(
    user: &str,
    authority: &CertifiedIssuer<'_, KeyPair>,
) -> (CertificateDer<'static>, Vec<u8>) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), user);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, authority).expect("certificate");
    (certificate.der().clone(), key.serialize_der())
}

fn write(folder: &TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
}
