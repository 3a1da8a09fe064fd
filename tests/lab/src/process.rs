//! A program under test: started, listened to, signalled and ended.
//!
//! ```text
//!   program --stdout+stderr--> reader thread --> memory (wait_for) and a file in the lab's folder
//!           --exit-----------> waiter thread --> memory (wait_exit)
//! ```
//! It leads a process group of its own, dies with the thread that started it, and is killed when dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

/// How long the last words of an ended process may take to arrive, should a grandchild hold its output open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running or ended program.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: Arc<Log>,
}

/// A place in a program's output, so that a test can wait for something new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

/// What a program said and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    output: Vec<u8>,
    closed: bool,
    exit: Option<(ExitStatus, Instant)>,
}

impl Process {
    /// Starts `command` under `name`, with `input` as its whole standard input. Its output also goes to a file in `folder`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(name: &str, mut command: Command, input: &str, folder: &Path) -> Result<Self> {
        let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let mut file = File::create(folder.join(format!("{name}.log"))).context("cannot keep a program's output")?;
        platform::netns::die_with_parent(&mut command);
        let second = writer.try_clone().context("cannot share a pipe")?;
        command.stdout(writer).stderr(second).process_group(0);
        command.stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        });
        let child = command.spawn();
        let mut child = child.with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        // The pipe must have no writer left here, or its end would never come.
        drop(command);
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).context("cannot feed a program")?;
        }
        let pid = Pid::from_child(&child);
        let log = Arc::new(Log::default());
        let ears = Arc::clone(&log);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                // The file is for people; a full disk must not fail a test.
                let _ = file.write_all(&chunk[..length]);
                ears.change(|state| state.output.extend_from_slice(&chunk[..length]));
            }
            ears.change(|state| state.closed = true);
        });
        let bell = Arc::clone(&log);
        thread::spawn(move || bell.await_end(pid, child));
        Ok(Self {
            name: name.to_owned(),
            pid,
            log,
        })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// All it has said so far.
    pub fn output(&self) -> String {
        self.log.output_since(Mark::default())
    }

    /// All it has said so far, as it came.
    pub fn raw_output(&self) -> Vec<u8> {
        self.log.lock().output.clone()
    }

    /// What it has said since `mark`.
    pub fn output_since(&self, mark: Mark) -> String {
        self.log.output_since(mark)
    }

    /// How many lines with all of `texts` it has said since `mark`.
    pub fn count_since(&self, mark: Mark, texts: &[&str]) -> usize {
        let said = self.output_since(mark);
        said.lines()
            .filter(|line| texts.iter().all(|text| line.contains(text)))
            .count()
    }

    /// How many lines with all of `texts` it has said so far; of no texts, all lines.
    pub fn count(&self, texts: &[&str]) -> usize {
        self.count_since(Mark::default(), texts)
    }

    /// The end of its output so far.
    pub fn mark(&self) -> Mark {
        Mark(self.log.lock().output.len())
    }

    /// Waits until it has said `text`, at any time. Returns the line.
    ///
    /// # Errors
    /// If the deadline passes, or it ends without.
    pub fn wait_for(&self, text: &str, within: Duration) -> Result<String> {
        self.wait_for_after(Mark::default(), text, within)
    }

    /// Waits until it has said `text` after `mark`. Returns the line, as far as it has come.
    ///
    /// # Errors
    /// If the deadline passes, or it ends without.
    pub fn wait_for_after(&self, mark: Mark, text: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        let mut searched = mark.0;
        let mut state = self.log.lock();
        loop {
            if let Some(found) = find(&state.output, text.as_bytes(), searched) {
                return Ok(line_at(&state.output, found));
            }
            searched = state.output.len().saturating_sub(text.len()).max(mark.0);
            if state.closed {
                bail!("{} ended without saying {text:?}", self.name);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("{} did not say {text:?} within {within:?}", self.name);
            };
            state = self.log.wait(state, left);
        }
    }

    /// Waits for a whole line after `mark` that holds all of `texts`, and returns it.
    ///
    /// # Errors
    /// If the deadline passes, or it ends without.
    pub fn wait_for_line(&self, mark: Mark, texts: &[&str], within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        let mut from = mark.0;
        let mut state = self.log.lock();
        loop {
            while let Some(end) = find(&state.output, b"\n", from) {
                let line = String::from_utf8_lossy(&state.output[from..end]);
                if texts.iter().all(|text| line.contains(text)) {
                    return Ok(line.into_owned());
                }
                from = end + 1;
            }
            if state.closed {
                bail!("{} ended without a line with all of {texts:?}", self.name);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("{} wrote no line with all of {texts:?} within {within:?}", self.name);
            };
            state = self.log.wait(state, left);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Under the lock: an ended child is reaped under it too, so the number cannot be somebody else's.
        let state = self.log.lock();
        if state.exit.is_some() {
            bail!("{} has ended and takes no signal", self.name);
        }
        kill_process(self.pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.log.lock().exit.is_none()
    }

    /// Its resident memory, in KiB.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.context("the kernel tells VmRSS")?.trim().trim_end_matches(" kB");
        size.parse().context("VmRSS is a number")
    }

    /// Seconds of processor time that it has used.
    ///
    /// # Errors
    /// If it has ended.
    pub fn processor_time(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // Behind the name, which may have spaces: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
        let fields = stat.rsplit(')').next().context("a name")?.split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        ensure!(ticks.len() == 2, "{path} has no processor time");
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If the deadline passes.
    pub fn wait_exit(&self, within: Duration) -> Result<ExitStatus> {
        self.end(within).map(|(status, _)| status)
    }

    /// Sends a signal and waits for the end it brings. Also returns how long that took.
    ///
    /// # Errors
    /// If it has ended before, or the deadline passes.
    pub fn stop(&self, signal: Signal, within: Duration) -> Result<(ExitStatus, Duration)> {
        let began = Instant::now();
        self.signal(signal)?;
        let (status, at) = self.end(within)?;
        Ok((status, at.saturating_duration_since(began)))
    }

    fn end(&self, within: Duration) -> Result<(ExitStatus, Instant)> {
        let deadline = Instant::now() + within;
        let mut state = self.log.lock();
        while state.exit.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("{} did not end within {within:?}", self.name);
            };
            state = self.log.wait(state, left);
        }
        let last_words = Instant::now() + LAST_WORDS;
        while !state.closed {
            let Some(left) = last_words.checked_duration_since(Instant::now()) else {
                break;
            };
            state = self.log.wait(state, left);
        }
        state.exit.context("an ended process has a status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.signal(Signal::KILL).is_ok()
            && let Err(e) = self.wait_exit(LAST_WORDS)
        {
            eprintln!("{e}");
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        let (state, _) = self
            .changed
            .wait_timeout(state, at_most)
            .unwrap_or_else(PoisonError::into_inner);
        state
    }

    pub(crate) fn output_since(&self, mark: Mark) -> String {
        let state = self.lock();
        String::from_utf8_lossy(state.output.get(mark.0..).unwrap_or_default()).into_owned()
    }

    /// Waits without reaping, ends what is left of the group, then reaps under the lock; see [`Process::signal`].
    fn await_end(&self, pid: Pid, mut child: Child) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
        let at = Instant::now();
        // Nobody else can have this number while the leader is not reaped.
        let _ = kill_process_group(pid, Signal::KILL);
        self.change(|state| state.exit = child.wait().ok().map(|status| (status, at)));
    }
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let rest = haystack.get(from..)?;
    rest.windows(needle.len().max(1))
        .position(|window| window == needle)
        .map(|at| from + at)
}

fn line_at(output: &[u8], at: usize) -> String {
    let start = output[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |i| i + 1);
    let end = output[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(output.len(), |i| at + i);
    String::from_utf8_lossy(&output[start..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PATIENCE;

    fn shell(script: &str, input: &str) -> (tempfile::TempDir, Process) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let process = Process::spawn("shell", command, input, folder.path()).unwrap();
        (folder, process)
    }

    #[test]
    fn what_a_program_says_is_heard_and_kept() {
        let (folder, process) = shell("read word; echo one; echo \"two $word\" >&2; exit 3", "sheep\n");
        assert_eq!(process.wait_for("two", PATIENCE).unwrap(), "two sheep");
        assert_eq!(process.wait_exit(PATIENCE).unwrap().code(), Some(3));
        assert_eq!(process.output(), "one\ntwo sheep\n");
        let kept = std::fs::read_to_string(folder.path().join("shell.log")).unwrap();
        assert_eq!(kept, "one\ntwo sheep\n");
    }

    #[test]
    fn only_what_comes_after_a_mark_is_new() {
        let (_folder, process) = shell("trap 'echo again' USR1; echo ready; while :; do sleep 0.01; done", "");
        process.wait_for("ready", PATIENCE).unwrap();
        let mark = process.mark();
        process.signal(Signal::USR1).unwrap();
        process.wait_for_after(mark, "again", PATIENCE).unwrap();
        assert_eq!(process.output_since(mark), "again\n");
        assert_eq!((process.count_since(mark, &["a", "n"]), process.count(&[])), (1, 2));
    }

    #[test]
    fn a_line_is_found_by_all_its_words_and_only_when_it_is_whole() {
        let (_folder, process) = shell("echo end a; printf 'end '; echo b c; exec sleep 1000", "");
        let line = process.wait_for_line(Mark::default(), &["end", "b"], PATIENCE);
        assert_eq!(line.unwrap(), "end b c");
        let error = process.wait_for_line(Mark::default(), &["end", "z"], Duration::from_millis(1));
        assert!(error.is_err());
    }

    #[test]
    fn waiting_for_what_a_program_never_said_ends_with_the_program() {
        let (_folder, process) = shell("echo hello", "");
        let error = process.wait_for("goodbye", PATIENCE).unwrap_err();
        assert!(error.to_string().contains("ended without saying"), "{error}");
        process.wait_exit(PATIENCE).unwrap();
        assert!(process.signal(Signal::TERM).is_err());
    }

    #[test]
    fn a_dropped_program_is_gone_with_its_children() {
        let (_folder, process) = shell("sleep 1000 & echo $!; wait", "");
        let child = process.wait_for("\n", PATIENCE).unwrap();
        drop(process);
        let path = format!("/proc/{}/stat", child.trim());
        crate::until("the grandchild's end", PATIENCE, || {
            let stat = std::fs::read_to_string(&path).unwrap_or_default();
            Ok(stat.is_empty() || stat.contains(") Z"))
        })
        .unwrap();
    }
}
