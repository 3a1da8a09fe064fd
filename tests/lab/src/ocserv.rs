//! Debian's ocserv on a site's gateway.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::marmot::{PASSWORD, USER};
use crate::{Identity, Lab, PATIENCE, Process, Site, host};

/// Known to work with `isolate-workers = false`: its seccomp filter does not like every kernel.
const BASE: &str = "\
tcp-port = 443
udp-port = 443
isolate-workers = false
use-utmp = false
max-clients = 16
max-same-clients = 4
cert-user-oid = 0.9.2342.19200300.100.1.1
predictable-ips = true
device = tunsrv
";

/// Short figures, so that a test sees something happen.
const QUICK: &str = "\
try-mtu-discovery = true
tls-priorities = \"NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1\"
auth-timeout = 240
min-reauth-time = 1
max-ban-score = 0
deny-roaming = false
cisco-client-compat = true
dtls-legacy = true
keepalive = 300
dpd = 20
mobile-dpd = 60
cookie-timeout = 60
rekey-time = 172800
rekey-method = ssl
";

/// What the sample configuration of Debian 12's package (1.1.6) says: TLS 1.2 only, bans, long times.
const SAMPLE: &str = "\
rate-limit-ms = 100
try-mtu-discovery = false
switch-to-tcp-timeout = 25
tls-priorities = \"NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1:-VERS-TLS1.3\"
auth-timeout = 240
min-reauth-time = 300
max-ban-score = 80
ban-reset-time = 1200
cookie-timeout = 300
deny-roaming = false
keepalive = 32400
dpd = 90
mobile-dpd = 1800
rekey-time = 172800
rekey-method = ssl
ping-leases = false
cisco-client-compat = true
dtls-legacy = true
client-bypass-protocol = false
";

/// How users show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StockLogin {
    /// Name and password, asked for in two forms.
    Password,
    /// A client certificate.
    Certificate,
}

/// Which figures it runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StockFigures {
    /// Short ones.
    Quick,
    /// Those of Debian's sample.
    DebianSample,
}

/// A configured ocserv.
#[derive(Debug)]
pub struct Ocserv<'a> {
    lab: &'a Lab,
    site: &'a Site,
    config: PathBuf,
    starts: u32,
}

impl<'a> Ocserv<'a> {
    /// Writes its configuration.
    ///
    /// # Errors
    /// If `ocpasswd` does not do its work.
    pub fn configure(lab: &'a Lab, site: &'a Site, login: StockLogin, figures: StockFigures) -> Result<Self> {
        let auth = match login {
            StockLogin::Password => format!("plain[passwd={}]", password_file(lab)?.display()),
            StockLogin::Certificate => "certificate".to_owned(),
        };
        let figures = match figures {
            StockFigures::Quick => QUICK,
            StockFigures::DebianSample => SAMPLE,
        };
        let Identity { certificate, key, .. } = lab.pki().server()?;
        let (folder, plan) = (lab.folder().display(), site.plan);
        let specific = format!(
            "auth = \"{auth}\"
server-cert = {certificate}
server-key = {key}
ca-cert = {ca}
socket-file = {folder}/ocserv.sock
occtl-socket-file = {folder}/occtl.sock
use-occtl = true
pid-file = {folder}/ocserv.pid
default-domain = corp.test
ipv4-network = {pool_v4}
ipv6-network = {pool_v6}
ipv6-subnet-prefix = 128
dns = {dns_v4}
dns = {dns_v6}
split-dns = corp.test
route = {lan_v4}
route = {lan_v6}
no-route = {excluded}/32
",
            certificate = certificate.display(),
            key = key.display(),
            ca = lab.pki().ca().display(),
            pool_v4 = plan.pool_v4(),
            pool_v6 = plan.pool_v6(),
            dns_v4 = plan.host_v4(),
            dns_v6 = plan.host_v6(),
            lan_v4 = plan.lan_v4(),
            lan_v6 = plan.lan_v6(),
            excluded = plan.lan_v4().broadcast(),
        );
        Ok(Self {
            lab,
            site,
            config: lab.file("ocserv.conf", &format!("{BASE}{figures}{specific}"))?,
            starts: 0,
        })
    }

    /// With more lines in its configuration; the last of two equal keys counts.
    ///
    /// # Errors
    /// If the file cannot be changed.
    pub fn with(self, lines: &str) -> Result<Self> {
        let config = fs::read_to_string(&self.config).context("cannot read what was written")?;
        self.lab.file("ocserv.conf", &format!("{config}{lines}\n"))?;
        Ok(self)
    }

    /// The suite by which the packets of the one session go over UDP, in the words of its TLS library, such as
    /// `(DTLS1.2)-(PSK)-(AES-256-GCM)`; `None` if they do not.
    ///
    /// # Errors
    /// If `occtl` does not tell, or there is not exactly one session.
    pub fn channel(&self) -> Result<Option<String>> {
        let mut command = self.lab.command(&self.site.gateway, "occtl")?;
        let socket = self.lab.folder().join("occtl.sock");
        command
            .arg("--socket-file")
            .arg(socket)
            .args(["--json", "show", "users"]);
        let process = self.lab.spawn("occtl", command)?;
        ensure!(process.wait_exit(PATIENCE)?.success(), "occtl failed");
        let sessions: Vec<serde_json::Value> = serde_json::from_str(&process.output()).context("occtl writes JSON")?;
        let [session] = sessions.as_slice() else {
            bail!("{} sessions instead of one", sessions.len());
        };
        let suite = session["DTLS cipher"].as_str().filter(|suite| !suite.is_empty());
        Ok(suite.map(str::to_owned))
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&mut self) -> Result<Process> {
        self.starts += 1;
        let mut command = self.lab.command(&self.site.gateway, "ocserv")?;
        command.args(["-f", "-d", "2", "-c"]).arg(&self.config);
        let process = self.lab.spawn(&format!("ocserv-{}", self.starts), command)?;
        process.wait_for("initialized ocserv", PATIENCE)?;
        Ok(process)
    }
}

/// Stops it as its service would, by SIGTERM.
///
/// # Errors
/// If it does not end.
pub fn stop_ocserv(process: &Process) -> Result<Duration> {
    process.stop(Signal::TERM, PATIENCE).map(|(_, time)| time)
}

fn password_file(lab: &Lab) -> Result<PathBuf> {
    let path = lab.folder().join("ocserv.passwd");
    let program = host::find("ocpasswd").context("ocserv comes with ocpasswd")?;
    let mut command = lab.command(lab.client(), program)?;
    command.arg("-c").arg(&path).arg(USER);
    let process = lab.spawn_with_input("ocpasswd", command, &format!("{PASSWORD}\n{PASSWORD}\n"))?;
    ensure!(process.wait_exit(PATIENCE)?.success(), "ocpasswd failed");
    Ok(path)
}
