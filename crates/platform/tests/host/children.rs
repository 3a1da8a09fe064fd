//! Programs in namespaces, and this program started again as somebody else.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use platform::netns::{ChildView, Namespace, die_with_parent, unshare_process};
use platform::signals;

use crate::lab::{Lab, Test, net, tun};

/// What this program plays when it is started by one of its own tests.
const ROLE: &str = "MARMOT_TEST_ROLE";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("a_child_sees_its_namespace_and_its_resolv_conf", child_view),
        ("a_child_dies_with_the_thread_that_spawned_it", dies_with_parent),
        ("a_stopped_process_goes_on_and_a_killed_one_does_not", stopped_process),
        ("a_user_namespace_is_enough_for_a_tunnel", user_namespace),
        ("listening_sockets_arrive_as_descriptors", inherited_sockets),
        ("an_error_names_what_could_not_be_done", namespace_errors),
    ]
}

/// Plays a role, if this process was started for one; gives the exit code.
pub(crate) fn run() -> Option<i32> {
    match std::env::var(ROLE).ok()?.as_str() {
        "user" => {
            unshare_process(true).expect("user namespace");
            let peer = Namespace::create().expect("namespace");
            let host = Namespace::current().expect("namespace");
            host.veth(&peer, "eth0", "eth0").expect("cable");
            host.address("eth0", net("192.0.2.2/24")).expect("address");
            host.forwarding(true).expect("forwarding");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let _guard = runtime.as_ref().expect("runtime").enter();
            drop(tun("marmot0"));
        }
        "heir" => {
            let sockets = platform::listen::inherited().expect("inherited");
            assert_eq!(sockets.len(), 1);
            assert!(platform::listen::inherited().expect("second call").is_empty());
            println!("{}", sockets[0].local_addr().expect("address"));
        }
        other => panic!("unknown role {other}"),
    }
    Some(0)
}

fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.env(ROLE, role);
    command
}

fn child_view() {
    let lab = Lab::new();
    let folder = tempfile::tempdir().expect("folder");
    let resolv_conf = folder.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 192.0.2.53\n").expect("write");
    let own = fs::read("/etc/resolv.conf").expect("resolv.conf");

    let output = lab.host.command("cat").expect("command").arg("/proc/net/dev").output();
    let text = String::from_utf8(output.expect("cat").stdout).expect("text");
    assert!(text.contains("eth0:"), "{text}");

    let view = ChildView {
        resolv_conf: Some(resolv_conf.clone()),
        fresh_sysfs: true,
    };
    let mut shell = lab.world.command_with("sh", &view).expect("command");
    let script = "cat /etc/resolv.conf; echo nameserver 192.0.2.54 > /etc/resolv.conf; ls /sys/class/net";
    let output = shell.args(["-c", script]).output().expect("sh");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("nameserver 192.0.2.53\n"), "{text}");
    assert!(text.contains("eth0"), "{text}");
    assert_eq!(
        fs::read("/etc/resolv.conf").expect("resolv.conf"),
        own,
        "the host's file is untouched"
    );
    let covered = fs::read_to_string(&resolv_conf).expect("read");
    assert_eq!(covered, "nameserver 192.0.2.54\n");
}

fn dies_with_parent() {
    let spawned = std::thread::spawn(|| {
        let mut sleeper = Command::new("sleep");
        die_with_parent(sleeper.arg("1000")).spawn().expect("sleep")
    });
    let mut child = spawned.join().expect("no panic");
    let status = child.wait().expect("wait");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

fn stopped_process() {
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("cat");
    let state = |wanted: &str| {
        let deadline = std::time::Instant::now() + crate::lab::PATIENCE;
        loop {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
            if status
                .lines()
                .any(|line| line.starts_with("State:") && line.contains(wanted))
            {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "never {wanted}: {status}");
            std::thread::yield_now();
        }
    };
    signals::stop_process(child.id()).expect("stop");
    state("stopped");
    signals::continue_process(child.id()).expect("continue");
    state("sleeping");
    assert!(signals::is_alive(child.id()));
    signals::kill_process(child.id()).expect("kill");
    assert_eq!(child.wait().expect("wait").signal(), Some(libc::SIGKILL));
    assert!(!signals::is_alive(child.id()));
}

fn user_namespace() {
    let output = again("user").output().expect("start again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn inherited_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("address");
    // The shell's process number becomes that of the program it turns into, as with a service manager.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\""]);
    shell.arg(std::env::current_exe().expect("own path")).env(ROLE, "heir");
    let copy = std::os::fd::OwnedFd::from(listener.try_clone().expect("clone"));
    let output = shell.stdin(copy).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text.trim(),
        addr.to_string(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    TcpStream::connect(addr).expect("the socket is shared, so still open here");
}

fn namespace_errors() {
    let lab = Lab::new();
    let text = lab.host.up("eth7").expect_err("no such interface").to_string();
    assert!(text.starts_with("cannot set eth7 up: "), "{text}");
    let text = lab
        .host
        .address("eth0", net("192.0.2.2/24"))
        .expect_err("twice")
        .to_string();
    assert!(text.starts_with("cannot add address 192.0.2.2/24 to eth0: "), "{text}");
}
