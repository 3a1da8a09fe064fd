//! Real hooks: shell scripts that behave, and some that do not.

use std::fs::{self, File, Permissions};
use std::future;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::children::{Ending, Finished, GRACE, Hook};
use crate::signals::is_alive;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with one script in it.
struct Script {
    folder: TempDir,
    hook: Hook,
}

impl Script {
    fn new(body: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let program = folder.path().join("script");
        // Not by ourselves: a hook forked by another test meanwhile would hold it open for writing (ETXTBSY).
        let text = format!("#!/bin/sh\n{body}\n");
        let mut shell = Command::new("sh");
        shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]);
        let written = shell.arg(&program).arg(text).status().expect("sh");
        assert!(written.success());
        let at = folder.path().display().to_string();
        let hook = Hook {
            program,
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("FOLDER".into(), at)],
            time_limit: PATIENCE,
            output_limit: 4096,
            keep: None,
        };
        Self { folder, hook }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn run(&self) -> Finished {
        self.hook.run().await.expect("started")
    }

    /// Runs it until it has written its process number into a file.
    async fn stop_when(&self, name: &str) -> Finished {
        let written = async {
            self.number(name).await;
        };
        self.hook.run_until(written).await.expect("started")
    }

    /// The process number that the script writes into a file, once it is there.
    async fn number(&self, name: &str) -> u32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(self.file(name)).unwrap_or_default();
            if let Some(number) = text.strip_suffix('\n') {
                return number.parse().unwrap_or_else(|_| panic!("{name}: {text:?}"));
            }
            assert!(Instant::now() < deadline, "no {name}");
            tokio::task::yield_now().await;
        }
    }
}

/// A lease on the hook's executable (fcntl(2)): as with a slow disk, whoever wants to execute it waits until it is given
/// back.
struct Lease(File);

impl Lease {
    fn take(hook: &Hook) -> Self {
        /// Missing in the libc crate.
        const F_SETSIG: libc::c_int = 10;
        let file = File::open(&hook.program).expect("script");
        let number = file.as_raw_fd();
        // SAFETY: both calls take integers. SIGWINCH does nothing, the usual SIGIO would end us.
        unsafe {
            assert_eq!(libc::fcntl(number, F_SETSIG, libc::SIGWINCH), 0);
            let taken = libc::fcntl(number, libc::F_SETLEASE, libc::F_WRLCK);
            assert_eq!(taken, 0, "{}", io::Error::last_os_error());
        }
        Self(file)
    }

    /// Whether somebody waits for it. The system would give it back by itself after 45 s.
    fn is_wanted(&self) -> bool {
        // SAFETY: the call takes integers.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
    }

    async fn wanted(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_wanted() {
            assert!(Instant::now() < deadline, "nobody executes it");
            tokio::task::yield_now().await;
        }
    }
}

/// A lock that the hook is given to keep. Whoever else wants it has to wait for the hook.
struct Kept(File);

impl Kept {
    fn give(script: &mut Script) -> Self {
        let path = script.file("lock");
        let file = File::create(&path).expect("lock file");
        file.lock().expect("free");
        script.hook.keep = Some(file.into());
        Self(File::open(path).expect("lock file"))
    }

    fn is_free(&self) -> bool {
        self.0.try_lock().is_ok()
    }

    async fn free(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_free() {
            assert!(Instant::now() < deadline, "still kept");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Lease {
    /// Closing is not enough: who waits for the exec has a copy of the descriptor.
    fn drop(&mut self) {
        // SAFETY: the call takes integers.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

async fn gone(process: u32) {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(process) {
        assert!(Instant::now() < deadline, "process {process} lives on");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_tells_by_exit_code_and_output() {
    let script = Script::new("echo to stdout; echo to stderr >&2; exit 3");
    let finished = script.run().await;
    assert_eq!(finished.ending, Ending::Exited(3));
    assert_eq!(finished.output, "to stdout\nto stderr\n");
    assert_eq!(finished.left_out, 0);
    assert!(!finished.succeeded());
    assert!(Script::new("true").run().await.succeeded());
    assert_eq!(Script::new("kill -9 $$").run().await.ending, Ending::Killed(9));
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_has_what_it_is_given_and_nothing_else() {
    let mut script = Script::new("cat /proc/self/environ | tr '\\0' '\\n'");
    script.hook.env = vec![("MARMOT_JOB".into(), "1-2; rm -rf $HOME".into())];
    script.hook.env.push(("PATH".into(), "/usr/bin:/bin".into()));
    let output = script.run().await.output;
    let mut lines: Vec<&str> = output.lines().collect();
    // The shell's own.
    lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_=") && !line.starts_with("OLDPWD="));
    lines.sort_unstable();
    assert_eq!(lines, ["MARMOT_JOB=1-2; rm -rf $HOME", "PATH=/usr/bin:/bin"]);

    // SAFETY: dup takes an integer; the copy is not closed on exec, which is the point.
    let leaked = unsafe { libc::dup(0) };
    assert!(leaked > 2);
    let script = Script::new("pwd; cat; ls /proc/self/fd; ulimit -c; ulimit -n; umask");
    let output = script.run().await.output;
    assert_eq!(
        output, "/\n0\n1\n2\n3\n0\n1024\n0077\n",
        "descriptor 3 is the listed folder"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_has_no_privileges_and_low_priority() {
    let output = Script::new("cat /proc/self/status; nice; cut -d' ' -f6 /proc/self/stat; echo $PPID")
        .run()
        .await
        .output;
    let field = |name: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("field")
            .trim()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    let last: Vec<&str> = output.lines().rev().take(3).collect();
    let [parent, session, nice] = last[..] else {
        panic!("{output}")
    };
    assert!(nice.parse::<i32>().expect("nice value") >= 10, "{nice}");
    assert_eq!(session, parent, "the keeper leads its session");
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_cannot_look_into_what_it_came_from() {
    let script = Script::new(
        "cat /proc/$PPID/environ; head -c 1 /proc/$PPID/mem; readlink -v /proc/$PPID/fd/0; ls /proc/$PPID/map_files",
    );
    let output = script.run().await.output;
    assert_eq!(output.lines().count(), 4, "{output}");
    assert!(
        output.lines().all(|line| line.ends_with("Permission denied")),
        "{output}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_that_hangs_is_ended_at_its_time_limit() {
    let mut script = Script::new("while :; do sleep 1000; done");
    script.hook.time_limit = Duration::from_millis(200);
    assert_eq!(script.run().await.ending, Ending::TimedOut);
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_is_asked_to_end_and_killed_if_it_does_not() {
    let polite = Script::new("trap 'echo cleaned up; exit' TERM; sleep 1000 & echo $$ > $FOLDER/pid; wait; echo never");
    let finished = polite.stop_when("pid").await;
    assert_eq!(finished.ending, Ending::Stopped);
    assert!(finished.output.ends_with("cleaned up\n"), "{finished:?}");

    let deaf = Script::new("trap '' TERM; echo $$ > $FOLDER/pid; while :; do sleep 1000; done");
    let finished = deaf.stop_when("pid").await;
    assert_eq!(finished.ending, Ending::Stopped);
    assert!(finished.took >= GRACE, "{finished:?}");
    assert!(!is_alive(deaf.number("pid").await));
}

#[tokio::test(flavor = "current_thread")]
async fn a_flood_of_output_is_read_on_and_left_out() {
    let script = Script::new("echo first words; yes | head -c 2000000; echo $$ > $FOLDER/flooded; yes; echo never");
    let finished = script.stop_when("flooded").await;
    assert_eq!(finished.ending, Ending::Stopped);
    assert!(finished.left_out > 1_000_000, "{}", finished.left_out);
    assert!(finished.output.starts_with("first words\ny\n"), "{}", finished.output);
    assert!(finished.output.len() < 4096 + 100);

    let script = Script::new("head -c 300000 /dev/zero | tr '\\0' x; echo last words");
    let finished = script.run().await;
    assert!(
        finished.succeeded(),
        "a hook does not hang because nobody keeps what it says"
    );
    assert_eq!(finished.left_out, 300_000 + 11 - 4096);
    assert!(finished.output.ends_with("xlast words\n"), "{}", finished.output);
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_a_hook_started_outlives_it() {
    let script = Script::new(
        "sleep 1000 & echo $! > $FOLDER/child\n\
         setsid sh -c 'echo $$ > $FOLDER/session; exec sleep 1000' &\n\
         setsid sh -c 'setsid sh -c \"echo \\$\\$ > $FOLDER/grandchild; trap true TERM; while :; do sleep 1000; done\" &' &\n\
         (nohup sh -c 'echo $$ > $FOLDER/daemon; exec sleep 1000' > /dev/null 2>&1 &)\n\
         while ! [ -s $FOLDER/session -a -s $FOLDER/grandchild -a -s $FOLDER/daemon ]; do :; done\n\
         exit 5",
    );
    let finished = script.run().await;
    assert_eq!(finished.ending, Ending::Exited(5));
    for name in ["child", "session", "grandchild", "daemon"] {
        assert!(!is_alive(script.number(name).await), "{name}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_stop_ends_the_hook() {
    let script = Script::new("exec sleep 1000");
    let finished = script.hook.run_until(future::ready(())).await.expect("started");
    assert_eq!(finished.ending, Ending::Stopped);
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_that_nobody_waits_for_any_more_is_ended() {
    let script = Script::new(
        "setsid sh -c 'echo $$ > $FOLDER/away; exec sleep 1000' &\n\
         echo $PPID > $FOLDER/keeper; echo $$ > $FOLDER/hook; exec sleep 1000",
    );
    tokio::select! {
        finished = script.run() => panic!("{finished:?}"),
        _ = async {
            script.number("away").await;
            script.number("hook").await
        } => {}
    }
    for name in ["hook", "away", "keeper"] {
        gone(script.number(name).await).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_start_on_a_slow_disk_holds_up_nobody_else() {
    let script = Script::new("echo started");
    let lease = Lease::take(&script.hook);
    let others = async {
        lease.wanted().await;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(lease.is_wanted(), "all this while it was being started");
        drop(lease);
    };
    let (finished, ()) = tokio::join!(script.run(), others);
    assert_eq!(
        (finished.ending, finished.output.as_str()),
        (Ending::Exited(0), "started\n")
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_stop_does_not_wait_for_a_slow_start() {
    let script = Script::new("touch $FOLDER/ran");
    let lease = Lease::take(&script.hook);
    // A daemon hears of signals in this way, and a hook that is no program of its own yet is a copy of the daemon.
    let (heard, tell) = UnixStream::pair().expect("pair");
    heard.set_nonblocking(true).expect("non-blocking");
    let handler = signal_hook::low_level::pipe::register(libc::SIGTERM, tell).expect("handler");
    let finished = script.hook.run_until(lease.wanted()).await.expect("no error");
    assert_eq!(finished.ending, Ending::Stopped);
    drop(lease);
    let misled = (&heard).read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(misled, Err(io::ErrorKind::WouldBlock), "nobody told us to end");
    signal_hook::low_level::unregister(handler);
    assert!(!script.file("ran").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn a_hook_that_nobody_waits_for_any_more_does_not_start_either() {
    let mut script = Script::new("touch $FOLDER/ran");
    let kept = Kept::give(&mut script);
    let lease = Lease::take(&script.hook);
    tokio::select! {
        finished = script.run() => panic!("{finished:?}"),
        () = lease.wanted() => {}
    }
    script.hook.keep = None;
    kept.free().await;
    assert!(lease.is_wanted(), "nothing else let it go");
    assert!(!script.file("ran").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn a_lock_is_kept_until_nothing_is_left_of_a_hook() {
    let mut script = Script::new(
        "setsid sh -c 'trap \"\" TERM; echo $$ > $FOLDER/away; while :; do sleep 1000; done' &\n\
         while ! [ -s $FOLDER/away ]; do :; done; ls /proc/self/fd",
    );
    let kept = Kept::give(&mut script);
    let others = async {
        let away = script.number("away").await;
        assert!(!kept.is_free());
        away
    };
    let (finished, away) = tokio::join!(script.run(), others);
    assert_eq!(finished.output, "0\n1\n2\n3\n", "descriptor 3 is the listed folder");
    assert!(!is_alive(away));
    assert!(!kept.is_free(), "we still have it ourselves");
    script.hook.keep = None;
    // What other tests are about to start may have a copy for a moment.
    kept.free().await;
}

#[tokio::test(flavor = "current_thread")]
async fn without_its_keeper_a_hook_ends_at_once() {
    let script = Script::new("echo $$ > $FOLDER/hook; kill -9 $PPID; exec sleep 1000");
    assert_eq!(script.run().await.ending, Ending::Killed(libc::SIGKILL));
    gone(script.number("hook").await).await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_cannot_be_started_is_an_error() {
    let mut script = Script::new("true");
    let program = script.hook.program.clone();
    fs::set_permissions(&program, Permissions::from_mode(0o644)).expect("chmod");
    for (program, kind) in [
        (script.file("none"), io::ErrorKind::NotFound),
        ("true".into(), io::ErrorKind::InvalidInput),
        (program, io::ErrorKind::PermissionDenied),
    ] {
        script.hook.program = program;
        let refused = script.hook.run().await.map_err(|error| error.kind());
        assert_eq!(refused, Err(kind), "{}", script.hook.program.display());
    }
}
