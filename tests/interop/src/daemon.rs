//! A client that stays while its tunnel goes up and down.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Control, Lab, Mark, PATIENCE, Process, Settings, Signal, Spool, client_settings, name_free, spawn_client};
use platform::netns::Namespace;

/// A tunnel of the first site, under a name of its own, with its daemon.
#[derive(Debug)]
pub struct Daemon<'a> {
    lab: &'a Lab,
    name: String,
    /// The program.
    pub process: Process,
    /// Its socket.
    pub control: Control,
    /// What it writes down.
    pub spool: Spool,
}

impl<'a> Daemon<'a> {
    /// Starts it, without a tunnel yet.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(lab: &'a Lab, name: &str, settings: impl FnOnce(Settings) -> Settings) -> Result<Self> {
        let settings = settings(client_settings(lab, lab.site())?.with("tunnel.name", name));
        let process = spawn_client(lab, lab.client(), name, &settings.with("tunnel.start", "down"))?;
        process.wait_for("SIGUSR2 to bring the tunnel up", PATIENCE)?;
        Ok(Self {
            lab,
            name: name.to_owned(),
            process,
            control: Control::of(lab, name),
            spool: Spool::of(lab, name),
        })
    }

    /// Brings the tunnel up by a signal. Returns the time until the session began.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(&self) -> Result<Duration> {
        self.order(Signal::USR2, "session.start")
    }

    /// Takes it down by a signal. Returns the time until the acknowledgement.
    ///
    /// # Errors
    /// If there is none.
    pub fn down(&self) -> Result<Duration> {
        self.order(Signal::USR1, "stop.ack")
    }

    /// Sends a signal and waits for a word that it brings. Returns how long that took.
    ///
    /// # Errors
    /// If the word does not come.
    pub fn order(&self, signal: Signal, word: &str) -> Result<Duration> {
        let mark = self.process.mark();
        let began = Instant::now();
        self.process.signal(signal)?;
        self.process.wait_for_line(mark, &[word], PATIENCE)?;
        Ok(began.elapsed())
    }

    /// Waits until the tunnel's device is gone.
    ///
    /// # Errors
    /// If it stays.
    pub fn gone(&self) -> Result<()> {
        name_free(self.host(), &self.device(), PATIENCE).map(drop)
    }

    /// Name of the tunnel's device.
    pub fn device(&self) -> String {
        format!("mm-{}", self.name)
    }

    /// The sessions that began so far, by the client's own log: `id;epoch`.
    pub fn sessions(&self) -> Vec<String> {
        sessions(&self.process)
    }

    fn host(&self) -> &Namespace {
        self.lab.client()
    }
}

/// The sessions that a client said to have begun, as `id;epoch`.
pub fn sessions(process: &Process) -> Vec<String> {
    let output = process.output_since(Mark::default());
    let begun = output.lines().filter(|line| line.contains("session.start"));
    let session = |line: &str| Some(line.split_once(" session=\"")?.1.split('"').next()?.to_owned());
    begun.filter_map(session).collect()
}
