//! Programs in namespaces, and this program started again as somebody else.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use ledger::Disk;
use platform::disk::FolderDisk;
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
        ("stored_descriptors_come_back_with_their_names", stored_descriptors),
        (
            "a_hook_ends_with_a_killed_daemon_and_then_the_next_may_work",
            hook_of_killed_daemon,
        ),
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
        "lock-holder" => {
            let root = std::env::args_os().nth(1).expect("a folder");
            crate::ledgers::hold_lock(root.as_ref());
        }
        "daemon" => {
            let program = std::env::args_os().nth(1).expect("a hook");
            let ledger = std::env::args_os().nth(2).expect("a ledger");
            run_hook(program.into(), ledger.as_ref());
        }
        "store-heir" => {
            let taken = platform::service::taken();
            for (name, descriptor) in taken {
                let text = std::io::read_to_string(fs::File::from(descriptor)).expect("read");
                println!("{name}: {text}");
            }
            assert!(platform::service::taken().is_empty(), "only once");
            assert!(platform::listen::inherited().expect("second call").tcp.is_empty());
        }
        "heir" => {
            let sockets = platform::listen::inherited().expect("inherited");
            assert_eq!((sockets.tcp.len(), sockets.udp.len()), (1, 0));
            assert!(platform::listen::inherited().expect("second call").tcp.is_empty());
            assert!(platform::service::taken().is_empty());
            println!("{}", sockets.tcp[0].local_addr().expect("address"));
        }
        other => panic!("unknown role {other}"),
    }
    Some(0)
}

pub(crate) fn again(role: &str) -> Command {
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

fn stored_descriptors() {
    let folder = tempfile::tempdir().expect("folder");
    for (name, text) in [("ticket", "secret"), ("tun", "device")] {
        fs::write(folder.path().join(name), text).expect("write");
    }
    let mut shell = Command::new("sh");
    let script = "exec 3< ticket 4< tun; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=ticket:tun exec \"$0\"";
    shell.args(["-c", script]).current_dir(folder.path());
    shell
        .arg(std::env::current_exe().expect("own path"))
        .env(ROLE, "store-heir");
    let output = shell.output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text, "ticket: secret\ntun: device\n", "{errors}");
}

fn run_hook(program: std::path::PathBuf, ledger: &std::path::Path) {
    let disk = FolderDisk::open(ledger).expect("ledger");
    let lock = disk.lock_worker().expect("lock").expect("free");
    let hook = platform::children::Hook {
        program,
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        time_limit: crate::lab::PATIENCE,
        output_limit: 100,
        keep: Some(lock.descriptor().expect("descriptor")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let finished = runtime.expect("runtime").block_on(hook.run());
    panic!("{finished:?}");
}

fn hook_of_killed_daemon() {
    let folder = tempfile::tempdir().expect("folder");
    let (hook, list) = (folder.path().join("hook"), folder.path().join("list"));
    let numbers = list.display();
    let script = format!(
        "#!/bin/sh\nsetsid sh -c 'trap true TERM; echo $$ >> {numbers}; while :; do sleep 1000; done' &\necho $$ >> {numbers}\necho $PPID >> {numbers}\nexec sleep 1000\n"
    );
    fs::write(&hook, script).expect("write");
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let disk = FolderDisk::open(&folder.path().join("ledger")).expect("ledger");
    let mut daemon = again("daemon")
        .arg(&hook)
        .arg(disk.root())
        .spawn()
        .expect("start again");
    let deadline = std::time::Instant::now() + crate::lab::PATIENCE;
    let processes: Vec<u32> = loop {
        let text = fs::read_to_string(&list).unwrap_or_default();
        let numbers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if numbers.len() == 3 {
            break numbers;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    };
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    let lock = disk.lock_worker().expect("asked");
    assert!(lock.is_none(), "the next worker waits for what is deaf to SIGTERM");
    drop(disk.lock_worker_waiting().expect("lock"));
    let keeper = processes.iter().filter(|process| is_running(**process)).count();
    assert!(keeper <= 1, "only the keeper may be on its way out");
    for process in processes {
        while is_running(process) {
            assert!(std::time::Instant::now() < deadline, "process {process} lives on");
            std::thread::yield_now();
        }
    }
}

/// Not a zombie: whose child they are now may not care about them.
fn is_running(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
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
