//! The processes of the model: who they are, whether they live, and how they die.

use std::fmt;
use std::rc::Rc;

use crate::world::{Event, World};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The tunnel's own process.
    Daemon,
    /// `marmot housekeep`, started by a unit or by hand.
    Unit,
    /// Another one at the same time.
    SecondUnit,
    /// The one who looks at the disk when all is over.
    Observer,
}

/// One run of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) who: Who,
    pub(crate) life: u32,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, life } = self;
        write!(f, "{who:?}#{life}")
    }
}

/// Who lives, and for how manieth time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lives {
    count: [u32; 4],
    alive: [bool; 4],
}

impl World {
    pub(crate) fn is_alive(&self, process: Process) -> bool {
        let lives = self.lives.get();
        let at = process.who as usize;
        lives.alive[at] && lives.count[at] == process.life
    }

    /// The process of a program that runs now.
    pub(crate) fn running(&self, who: Who) -> Option<Process> {
        let lives = self.lives.get();
        let at = who as usize;
        let life = lives.count[at];
        lives.alive[at].then_some(Process { who, life })
    }

    pub(crate) fn bear(&self, who: Who) -> Process {
        let mut lives = self.lives.get();
        let at = who as usize;
        lives.count[at] += 1;
        lives.alive[at] = true;
        self.lives.set(lives);
        let life = lives.count[at];
        Process { who, life }
    }

    /// A process ends, by order or not: its memory, its locks and its tasks are gone, the page cache is not.
    pub(crate) fn end(self: &Rc<Self>, process: Process) {
        let mut lives = self.lives.get();
        lives.alive[process.who as usize] = false;
        self.lives.set(lives);
        if self.lock.get().is_some_and(|(holder, _)| holder == process) {
            self.lock.set(None);
        }
        // Dropped outside of the borrow: a worker gives its lock back.
        let gone: Vec<_> = {
            let mut tasks = self.tasks.borrow_mut();
            let mut kept = Vec::with_capacity(tasks.len());
            let mut gone = Vec::new();
            for task in tasks.drain(..) {
                if task.process == process {
                    gone.push(task);
                } else {
                    kept.push(task);
                }
            }
            *tasks = kept;
            gone
        };
        drop(gone);
        for entry in &mut self.books.borrow_mut().entries {
            if entry.at_work == Some(process) {
                entry.at_work = None;
            }
        }
        if process.who == Who::Daemon {
            let daemon = self.daemon.borrow_mut().take();
            drop(daemon);
            self.drop_held();
            self.daemon_is_new();
            let kept = self.stored.get().map(|stored| stored.mark);
            self.host.borrow_mut().close_links(kept);
            for entry in &mut self.books.borrow_mut().entries {
                entry.unacknowledged = false;
            }
        }
    }

    /// A process dies in the middle of something, alone or with the host.
    pub(crate) fn crash(self: &Rc<Self>, process: Process) {
        if self.chance.below(5) < 3 {
            self.kill(process);
        } else {
            self.lose_power();
        }
    }

    /// SIGKILL. The service manager starts the daemon again.
    pub(crate) fn kill(self: &Rc<Self>, process: Process) {
        if !self.is_alive(process) {
            return;
        }
        self.counts.borrow_mut().kills += 1;
        self.say(|| format!("{process} is killed"));
        self.end(process);
        if process.who == Who::Daemon {
            let soon = self.chance.between(1_000, 300_000);
            self.after(soon, Event::StartDaemon);
        }
    }

    /// The host goes down and comes up again.
    pub(crate) fn lose_power(self: &Rc<Self>) {
        self.counts.borrow_mut().power_losses += 1;
        self.say(|| "the power goes".to_owned());
        for who in [Who::Daemon, Who::Unit, Who::SecondUnit] {
            if let Some(process) = self.running(who) {
                self.end(process);
            }
        }
        self.stored.set(None);
        self.nights_reboot();
        self.host.borrow_mut().reboot();
        self.disk.borrow_mut().lose_power(&self.chance);
        self.boots.set(self.boots.get() + 1);
        self.after(self.chance.between(1_000_000, 20_000_000), Event::StartDaemon);
    }
}
