//! Signals as a stream, and signals to other processes.

use std::io;

use futures_util::StreamExt;
use libc::{SIGKILL, c_int};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2};

use crate::signals::Signal;

const HANDLED: [c_int; 6] = [SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGHUP];

impl Signal {
    fn from_number(number: c_int) -> Option<Self> {
        Some(match number {
            SIGTERM => Self::Terminate,
            SIGINT => Self::Interrupt,
            SIGQUIT => Self::Quit,
            SIGUSR1 => Self::TunnelDown,
            SIGUSR2 => Self::TunnelUp,
            SIGHUP => Self::Reload,
            _ => return None,
        })
    }

    fn number(self) -> c_int {
        match self {
            Self::Terminate => SIGTERM,
            Self::Interrupt => SIGINT,
            Self::Quit => SIGQUIT,
            Self::TunnelDown => SIGUSR1,
            Self::TunnelUp => SIGUSR2,
            Self::Reload => SIGHUP,
        }
    }
}

/// The signals that arrive at this process. From the first one made on, and after it is dropped too, they do nothing by
/// themselves any more.
pub struct Signals(signal_hook_tokio::Signals);

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// Starts listening. Needs a tokio runtime with I/O.
    pub fn new() -> io::Result<Self> {
        signal_hook_tokio::Signals::new(HANDLED).map(Self)
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        loop {
            match self.0.next().await {
                Some(number) => {
                    if let Some(signal) = Signal::from_number(number) {
                        return signal;
                    }
                }
                // Closed: only our own handle could do that, and there is none.
                None => std::future::pending().await,
            }
        }
    }
}

/// Sends `signal` to process `pid`.
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    kill(pid, signal.number())
}

/// Stops a process as if its host had frozen it (`SIGSTOP`). It gets no chance to notice.
pub fn stop_process(pid: u32) -> io::Result<()> {
    kill(pid, SIGSTOP)
}

/// Lets a stopped process go on (`SIGCONT`).
pub fn continue_process(pid: u32) -> io::Result<()> {
    kill(pid, SIGCONT)
}

/// Ends a process at once (`SIGKILL`), for tests of what a crash leaves behind.
pub fn kill_process(pid: u32) -> io::Result<()> {
    kill(pid, SIGKILL)
}

/// Whether a process of this number exists, a zombie included.
pub fn is_alive(pid: u32) -> bool {
    match kill(pid, 0) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(libc::EPERM),
    }
}

fn kill(pid: u32, signal: c_int) -> io::Result<()> {
    // 0 and negative numbers mean whole process groups, 1 is the host itself.
    let pid = libc::pid_t::try_from(pid)
        .ok()
        .filter(|pid| *pid > 1)
        .ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_signal_sent_to_ourselves_arrives_as_a_value() {
        let mut signals = Signals::new().expect("signals");
        send(std::process::id(), Signal::TunnelUp).expect("kill");
        assert_eq!(signals.next().await, Signal::TunnelUp);
        send(std::process::id(), Signal::Reload).expect("kill");
        assert_eq!(signals.next().await, Signal::Reload);
    }

    #[test]
    fn process_groups_and_init_are_never_hit() {
        for pid in [0, 1, u32::MAX] {
            assert_eq!(
                stop_process(pid).expect_err("refused").kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }
}
