//! The name servers of a tunnel on a host as people have one: the daemon is an ordinary user's in its shipped sandbox, and what it may not do
//! itself is done by the helper behind its socket, or by a systemd-resolved that asks polkit.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use interop::ping_both;
use lab::{
    Lab, Machine, PATIENCE, Process, Resolved, Settings, client_settings, extracted, gateway_settings, start_gateway,
    until,
};

/// The unit of the tunnel.
const CLIENT: &str = "marmot-client@site-a.service";

/// What programs read before.
const BEFORE: &str = "nameserver 192.0.2.1\noptions timeout:1";

/// Users of the machine with the one that the package of systemd-resolved makes.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/nonexistent:/usr/sbin/nologin
polkitd:x:101:101::/nonexistent:/usr/sbin/nologin
systemd-resolve:x:102:102::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
";

const GROUPS: &str = "root:x:0:
tty:x:5:
messagebus:x:100:
polkitd:x:101:
systemd-resolve:x:102:
nogroup:x:65534:
";

const RESOLVED: &str = "[Unit]
DefaultDependencies=no
After=dbus.service
[Service]
Type=notify
ExecStart=/usr/lib/systemd/marmot-lab-resolved
RuntimeDirectory=systemd/resolve
RuntimeDirectoryPreserve=yes
User=systemd-resolve
AmbientCapabilities=CAP_SETPCAP CAP_NET_RAW CAP_NET_BIND_SERVICE
";

fn main() -> ExitCode {
    let needs: Vec<&str> = [Machine::NEEDS, &["curl"]].concat();
    lab::run(
        &needs,
        lab::tests![
            the_helper_does_what_the_daemon_may_not,
            systemd_resolved_lets_the_daemon_by_its_rule,
            resolvconf_makes_the_file_from_a_record,
            openresolv_makes_the_file_from_a_record,
        ],
    )
}

/// A machine with an installed tunnel that is down.
struct Host {
    _gateway: Process,
    machine: Machine,
    output: Process,
}

impl Host {
    fn new(lab: &Lab, files: &[(&str, &[u8])]) -> Result<Self> {
        let granted: Settings = gateway_settings(lab, lab.site())?.without("network.routes");
        let gateway = start_gateway(lab, lab.site(), "gateway", &granted)?;
        let settings = client_settings(lab, lab.site())?
            .without("tunnel.state_dir")
            .without("tunnel.runtime_dir")
            .without("dns.mode")
            .with("trust.ca_file", "/etc/marmot/ca.pem")
            .with("login.password_file", "/etc/marmot/password");
        let config = fs::read(settings.write(&lab.folder().join("site-a.toml"))?)?;
        let authority = fs::read(lab.pki().ca())?;
        let own: [(&str, &[u8]); 3] = [
            ("marmot/site-a.toml", &config),
            ("marmot/ca.pem", &authority),
            ("marmot/password", lab::PASSWORD.as_bytes()),
        ];
        for (name, content) in own.iter().chain(files) {
            Machine::etc(lab, "machine", name, content)?;
        }
        let machine = Machine::start(lab, lab.client(), "machine")?;
        machine.run("marmot", &["install-service", "client", "/etc/marmot/site-a.toml"])?;
        machine.run("sh", &["-c", "chgrp marmot /etc/marmot/* && chmod 640 /etc/marmot/*"])?;
        let output = machine.listen(lab, CLIENT)?;
        Ok(Self {
            _gateway: gateway,
            machine,
            output,
        })
    }

    fn up(&self, lab: &Lab) -> Result<()> {
        let mark = self.output.mark();
        self.machine.run("systemctl", &["start", CLIENT])?;
        self.output.wait_for_line(mark, &["session.start"], PATIENCE)?;
        self.output.wait_for_line(mark, &["name servers applied"], PATIENCE)?;
        ping_both(lab.client(), lab.site().plan)
    }

    fn read(&self) -> Result<String> {
        self.machine.run("cat", &["/etc/resolv.conf"])
    }
}

fn the_helper_does_what_the_daemon_may_not(lab: &Lab) -> Result<()> {
    if let Some(reason) = Machine::obstacle() {
        return lab.skip(&reason);
    }
    let host = Host::new(lab, &[("resolv.conf", BEFORE.as_bytes())])?;
    let machine = &host.machine;
    let helper = |property: &str| machine.property("marmot-dns.service", property);
    for round in 1..=2 {
        host.up(lab)?;
        let text = host.read()?;
        ensure!(
            text.starts_with("# Written by marmot for mm-site-a;") && text.contains("\nnameserver 10.77.0.10\n"),
            "round {round}: {text}"
        );
        let owner = machine.run("stat", &["-c", "%U %a", "/etc/resolv.conf"])?;
        ensure!(owner == "root 644", "everybody reads it: {owner}");
        ensure!(
            helper("ActiveState")? == "active",
            "the helper was started by its socket"
        );
        let mark = host.output.mark();
        machine.run("systemctl", &["stop", CLIENT])?;
        let said = host.output.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
        ensure!(!said.contains("dns:"), "nothing is left: {said}");
        ensure!(host.read()? == BEFORE, "as it was: {}", host.read()?);
        let at = said.find("stop.ack").context("an acknowledgement")?;
        lab.note(&format!("round {round}: {}", &said[at..]));
    }
    let kept = machine.run("ls", &["/var/lib/marmot-dns"])?;
    ensure!(kept == "lock", "nothing is kept: {kept}");

    // Who is not the tunnels' user does not even get in; who is, and says nonsense, is told so.
    let curl = [
        "curl",
        "--silent",
        "--http0.9",
        "--max-time",
        "5",
        "--unix-socket",
        "/run/marmot-dns.sock",
        "http://x/",
    ];
    let as_user = |user: &str| {
        let words = ["--reuid", user, "--regid", user, "--clear-groups"];
        machine.run("setpriv", &words.iter().chain(&curl).copied().collect::<Vec<_>>())
    };
    let refused = as_user("65534");
    ensure!(refused.is_err(), "nobody gets in: {refused:?}");
    let told = as_user("marmot")?;
    ensure!(told.contains("this is no order"), "{told}");

    // Killed: the next process takes the names over with the tunnel. Killed for good: whoever systemd calls then takes them off.
    host.up(lab)?;
    let mark = host.output.mark();
    machine.run("systemctl", &["kill", "--signal=SIGKILL", CLIENT])?;
    host.output.wait_for_line(mark, &["session.unpark"], PATIENCE)?;
    ensure!(
        host.read()?.starts_with("# Written by marmot"),
        "the tunnel goes on, and so do its names"
    );
    machine.run("systemctl", &["stop", CLIENT])?;
    ensure!(host.read()? == BEFORE, "as it was: {}", host.read()?);
    let no_restart = format!(
        "mkdir /etc/systemd/system/{CLIENT}.d && printf '[Service]\\nRestart=no\\n' >/etc/systemd/system/{CLIENT}.d/once.conf && systemctl daemon-reload"
    );
    machine.run("sh", &["-c", &no_restart])?;
    host.up(lab)?;
    machine.run("systemctl", &["kill", "--signal=SIGKILL", CLIENT])?;
    until("the names of before", PATIENCE, || Ok(host.read()? == BEFORE))?;
    machine.run("marmot", &["uninstall-service", "client", "/etc/marmot/site-a.toml"])?;
    ensure!(helper("ActiveState")? != "active", "the helper is gone");
    let socket = machine.run("sh", &["-c", "ls /run/marmot-dns.sock 2>/dev/null || echo gone"])?;
    ensure!(socket == "gone", "its socket, too: {socket}");
    Ok(())
}

fn systemd_resolved_lets_the_daemon_by_its_rule(lab: &Lab) -> Result<()> {
    if let Some(reason) = Machine::obstacle().or_else(Resolved::obstacle) {
        return lab.skip(&reason);
    }
    let program = Resolved::program().context("it was unpacked")?;
    let package = program.ancestors().nth(3).context("the package")?;
    let policy = fs::read(package.join("usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf"))?;
    let here = lab.folder().join("resolved");
    fs::create_dir_all(&here)?;
    for (from, to) in [
        (program.clone(), "systemd-resolved"),
        (package.join("usr/bin/resolvectl"), "resolvectl"),
        (
            package.join("usr/share/polkit-1/actions/org.freedesktop.resolve1.policy"),
            "org.freedesktop.resolve1.policy",
        ),
    ] {
        fs::copy(from, here.join(to))?;
        fs::set_permissions(here.join(to), Permissions::from_mode(0o755))?;
    }
    let files: [(&str, &[u8]); 5] = [
        ("passwd", USERS.as_bytes()),
        ("group", GROUPS.as_bytes()),
        ("dbus-1/system.d/org.freedesktop.resolve1.conf", &policy),
        ("systemd/system/lab-resolved.service", RESOLVED.as_bytes()),
        ("resolv.conf", BEFORE.as_bytes()),
    ];
    let host = Host::new(lab, &files)?;
    let machine = &host.machine;
    let script = "set -e; cd /run/lab/folder/resolved
        cp systemd-resolved /usr/lib/systemd/marmot-lab-resolved; cp resolvectl /usr/bin/marmot-lab-resolvectl
        cp org.freedesktop.resolve1.policy /usr/share/polkit-1/actions/; chmod 644 /usr/share/polkit-1/actions/org.freedesktop.resolve1.policy
        systemctl restart polkit; systemctl start lab-resolved
        rm /etc/resolv.conf; ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf";
    machine.run("sh", &["-c", script])?;
    let log = machine.listen(lab, "lab-resolved.service")?;
    host.up(lab)?;
    let link = machine.run("marmot-lab-resolvectl", &["--no-pager", "status", "mm-site-a"])?;
    for words in ["DNS Servers: 10.77.0.10", "DNS Domain: corp.test ~.", "+DefaultRoute"] {
        ensure!(link.contains(words), "{words}: {link} {}", log.output());
    }
    lab.note(&format!(
        "as resolved reports it: {}",
        link.split_whitespace().collect::<Vec<_>>().join(" ")
    ));
    let at = machine.run("readlink", &["/etc/resolv.conf"])?;
    ensure!(
        at == "/run/systemd/resolve/stub-resolv.conf",
        "the file is nobody's business: {at}"
    );
    ensure!(
        machine.property("marmot-dns.service", "ActiveState")? != "active",
        "nor is the helper"
    );
    let mark = host.output.mark();
    machine.run("systemctl", &["stop", CLIENT])?;
    let said = host.output.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
    ensure!(!said.contains("dns:"), "nothing is left: {said}");
    let gone = machine.run("marmot-lab-resolvectl", &["--no-pager", "status"])?;
    ensure!(!gone.contains("10.77.0.10"), "{gone}");
    let at = said.find("stop.ack").context("an acknowledgement")?;
    lab.note(&said[at..]);
    Ok(())
}

fn resolvconf_makes_the_file_from_a_record(lab: &Lab) -> Result<()> {
    by_record(
        lab,
        "resolvconf",
        "cp -R etc/resolvconf /etc/; ln -s /run/resolvconf /etc/resolvconf/run; touch /run/resolvconf/enable-updates
        rm /etc/resolv.conf; ln -s /run/resolvconf/resolv.conf /etc/resolv.conf",
    )
}

fn openresolv_makes_the_file_from_a_record(lab: &Lab) -> Result<()> {
    by_record(lab, "openresolv", "cp etc/resolvconf.conf /etc/")
}

/// A host with one of the two programs, which has the server of before by a record of its cable.
fn by_record(lab: &Lab, package: &str, prepare: &str) -> Result<()> {
    if let Some(reason) = Machine::obstacle() {
        return lab.skip(&reason);
    }
    let Some(files) = extracted(package) else {
        return lab.skip(&format!(
            "{package} was not unpacked; `cargo xtask test` does that on Debian"
        ));
    };
    let copied = Command::new("cp")
        .arg("-R")
        .arg(&files)
        .arg(lab.folder().join("package"))
        .status()?;
    ensure!(copied.success(), "the package is in the lab");
    let host = Host::new(lab, &[("resolv.conf", BEFORE.as_bytes())])?;
    let machine = &host.machine;
    let script = format!(
        "set -e; cd /run/lab/folder/package; cp sbin/resolvconf /usr/sbin/; cp -R lib/resolvconf /usr/lib/; mkdir -p /run/resolvconf/interface
        {prepare}
        echo nameserver 192.0.2.1 | resolvconf -a eth0"
    );
    machine.run("sh", &["-c", &script])?;
    let before = host.read()?;
    ensure!(before.contains("nameserver 192.0.2.1"), "the cable's: {before}");
    host.up(lab)?;
    let during = host.read()?;
    let first = during.lines().find(|line| line.starts_with("nameserver"));
    ensure!(
        first == Some("nameserver 10.77.0.10"),
        "the tunnel's come first: {during}"
    );
    ensure!(
        host.output.count(&["name servers applied", "resolvconf"]) == 1,
        "by a record"
    );
    let mark = host.output.mark();
    machine.run("systemctl", &["stop", CLIENT])?;
    host.output.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
    until("the names of before", PATIENCE, || Ok(host.read()? == before))?;
    let kept = machine.run("ls", &["/var/lib/marmot-dns"])?;
    ensure!(kept == "lock", "nothing is kept: {kept}");
    // A host whose daemon was killed for good.
    let killed = "mkdir /etc/systemd/system/marmot-client@site-a.service.d
        printf '[Service]\\nRestart=no\\n' >/etc/systemd/system/marmot-client@site-a.service.d/once.conf
        systemctl daemon-reload";
    machine.run("sh", &["-c", killed])?;
    host.up(lab)?;
    machine.run("systemctl", &["kill", "--signal=SIGKILL", CLIENT])?;
    until("the names of before", PATIENCE, || Ok(host.read()? == before))
}
