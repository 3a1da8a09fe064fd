//! The programs of the demo as child processes: started, listened to, frozen, stopped, and never left behind.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use platform::signals::{self, Signal};

use super::event::Event;
use super::patience::{self, LOOK_EVERY};

/// Lines a program may be ahead of us; then it waits for us.
const QUEUE: usize = 4096;

/// Lines remembered of each program. At `info` a program of the demo writes a few dozen.
const REMEMBERED: usize = 4096;

/// The longest line taken from a program, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// How long a killed program may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A running program. Dropping it kills it and waits for it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Event>,
    events: VecDeque<Event>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with all it says in `folder/NAME.log`. To be called from the main thread: the child is killed when
    /// the thread that spawned it ends.
    pub(crate) fn spawn(name: &'static str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = platform::netns::die_with_parent(command)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let (sender, lines) = sync_channel(QUEUE);
        if let Some(output) = child.stdout.take() {
            follow(output, sender.clone(), file.try_clone()?)?;
        }
        if let Some(output) = child.stderr.take() {
            follow(output, sender, file)?;
        }
        let input = child.stdin.take();
        Ok(Self {
            name,
            child,
            input,
            lines,
            events: VecDeque::new(),
            log,
        })
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says a line to it.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .ok_or_else(|| anyhow!("the {} does not listen", self.name))?;
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .with_context(|| format!("cannot talk to the {}", self.name))
    }

    /// Everything it said so far.
    pub(crate) fn events(&mut self) -> &VecDeque<Event> {
        while let Ok(event) = self.lines.try_recv() {
            self.remember(event);
        }
        &self.events
    }

    /// Waits until it says something that `pick` takes, also if it said so after `since`, earlier than this call.
    ///
    /// # Errors
    /// Nothing within `limit`, the program ended, or the demo was interrupted.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        since: Option<Instant>,
        limit: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        let recent = |event: &&Event| since.is_none_or(|since| event.at >= since);
        if let Some(found) = self.events().iter().filter(recent).find_map(&mut pick) {
            return Ok(found);
        }
        loop {
            patience::check()?;
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(event) => {
                    let found = pick(&event);
                    self.remember(event);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("cannot wait for a child")?;
                    bail!("the {} ended ({status}) before {what}", self.name);
                }
            }
            if Instant::now() >= until {
                bail!("waited {:.0} s in vain for {what}", limit.as_secs_f64());
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signals::send(self.pid(), signal).with_context(|| format!("cannot signal the {}", self.name))
    }

    /// Freezes it as a sleeping host would (SIGSTOP).
    pub(crate) fn freeze(&self) -> Result<()> {
        signals::stop_process(self.pid()).with_context(|| format!("cannot freeze the {}", self.name))
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn thaw(&self) -> Result<()> {
        signals::continue_process(self.pid()).with_context(|| format!("cannot thaw the {}", self.name))
    }

    /// Whether the kernel says that it is stopped; `None` where it does not say.
    pub(crate) fn is_frozen(&self) -> Option<bool> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        // The name in parentheses may hold anything; the state is the word after it.
        let (_, rest) = text.rsplit_once(')')?;
        Some(rest.split_whitespace().next() == Some("T"))
    }

    /// Asks it to stop (SIGTERM; where there are no signals, the end of its input) and says how it ended and how long that
    /// took.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        match signals::send(self.pid(), Signal::Terminate) {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.input = None,
            sent => sent.with_context(|| format!("cannot stop the {}", self.name))?,
        }
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                return Ok((status, asked.elapsed()));
            }
            patience::check()?;
            if asked.elapsed() >= limit {
                bail!(
                    "the {} is still there {:.0} s after SIGTERM",
                    self.name,
                    limit.as_secs_f64()
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The end of what it said, for people.
    pub(crate) fn tail(&mut self, lines: usize) -> Vec<String> {
        let events = self.events();
        let skip = events.len().saturating_sub(lines);
        events.iter().skip(skip).map(Event::in_words).collect()
    }

    /// Its name in the story.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Where all it said is written.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    fn remember(&mut self, event: Event) {
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let until = Instant::now() + GONE_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Copies what a program says to its log and to us, on a thread that ends with the program.
fn follow(output: impl Read + Send + 'static, lines: SyncSender<Event>, mut log: File) -> Result<()> {
    let copy = move || {
        let mut output = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            match output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            // A full disk must not stop the story.
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(Event::new(text)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("log".into())
        .spawn(copy)
        .context("cannot start a thread for a log")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test program, which lists its tests and ends.
    fn talker(folder: &Path) -> Process {
        let program = std::env::current_exe().expect("this program");
        Process::spawn("talker", Command::new(program).arg("--list"), folder).expect("started")
    }

    #[test]
    fn what_a_program_says_is_heard_and_written_down() {
        let folder = tempfile::tempdir().expect("folder");
        let mut talker = talker(folder.path());
        let own_name = |event: &Event| event.in_words().contains("is_heard_and_written_down").then_some(());
        let limit = Duration::from_secs(10);
        talker.wait_for("our own name", None, limit, own_name).expect("said");
        talker
            .wait_for("the same again", None, limit, own_name)
            .expect("remembered");
        let log = fs::read_to_string(talker.log()).expect("log");
        assert!(log.contains("is_heard_and_written_down"));
    }

    #[test]
    fn a_program_that_ends_before_its_word_is_reported() {
        let folder = tempfile::tempdir().expect("folder");
        let mut talker = talker(folder.path());
        let nothing = |_: &Event| None::<()>;
        let error = talker
            .wait_for("a miracle", None, Duration::from_secs(10), nothing)
            .expect_err("ended");
        assert!(error.to_string().starts_with("the talker ended"), "{error}");
        assert!(!talker.tail(3).is_empty());
    }

    #[test]
    fn a_dropped_program_is_gone() {
        let folder = tempfile::tempdir().expect("folder");
        let talker = talker(folder.path());
        let pid = talker.pid();
        drop(talker);
        assert!(!signals::is_alive(pid));
    }
}
