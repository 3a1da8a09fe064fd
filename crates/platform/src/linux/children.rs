//! Hooks: our side of the conversation with the keeper, and what a hook writes.

mod keeper;
mod output;
mod trust;

use std::io::{self, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, timeout};

use self::output::Output;
use crate::children::{Ending, Finished, GRACE, Hook};

pub use self::trust::trusted_executable;

/// How much longer than [`GRACE`] the keeper may take. Only a process that the kernel cannot kill (waiting for a dead disk)
/// takes longer.
const KEEPER_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(hook: &Hook, stop: impl Future<Output = ()>) -> io::Result<Finished> {
    let began = Instant::now();
    let (mut running, mut pipe) = Running::start(hook)?;
    let mut output = Output::new(hook.output_limit);
    let ending = {
        let mut collected = pin!(output.collect(&mut pipe));
        let asked = tokio::select! {
            biased;
            never = &mut collected => match never {},
            ended = running.ended() => Err(ended),
            () = stop => Ok(Ending::Stopped),
            () = sleep(hook.time_limit) => Ok(Ending::TimedOut),
        };
        match asked {
            Err(ended) => ended,
            Ok(ending) => {
                running.end().await;
                let ended = timeout(GRACE + KEEPER_WITHIN, running.ended());
                tokio::select! {
                    biased;
                    never = &mut collected => match never {},
                    _ = ended => {}
                }
                ending
            }
        }
    };
    running.clear();
    output.drain(&pipe);
    Ok(Finished {
        ending,
        took: began.elapsed(),
        left_out: output.left_out(),
        output: output.into_text(),
    })
}

/// A keeper and its hook. Dropping it lets the keeper end the hook.
struct Running {
    keeper: Option<Child>,
    control: UnixStream,
    cleared: bool,
}

impl Running {
    fn start(hook: &Hook) -> io::Result<(Self, Receiver)> {
        if !hook.program.is_absolute() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a hook is named by its absolute path",
            ));
        }
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let control = UnixStream::from_std(ours)?;
        let (reader, writer) = pipe()?;
        let pipe = Receiver::from_owned_fd(OwnedFd::from(reader))?;

        let mut command = Command::new(&hook.program);
        command
            .env_clear()
            .envs(hook.env.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").stdin(Stdio::null());
        command.stdout(writer.try_clone()?).stderr(writer);
        let number = theirs.as_raw_fd();
        // SAFETY: the closure runs between fork and exec. It and all it calls make system calls only, on values made before
        // the fork, and allocate nothing; `theirs` is open until the spawn has returned.
        unsafe { command.pre_exec(move || keeper::divide(number)) };
        let keeper = command.spawn()?;
        let running = Self {
            keeper: Some(keeper),
            control,
            cleared: false,
        };
        Ok((running, pipe))
    }

    /// Waits until the keeper says how the hook ended, and that nothing is left of it. Cancel safe enough: the answer is
    /// four bytes in one piece.
    async fn ended(&mut self) -> Ending {
        let mut status = [0; size_of::<libc::c_int>()];
        match self.control.read_exact(&mut status).await {
            Ok(_) => {
                self.cleared = true;
                ending_of(libc::c_int::from_ne_bytes(status))
            }
            // Somebody killed the keeper.
            Err(_) => Ending::Killed(libc::SIGKILL),
        }
    }

    /// Asks the keeper to end the hook.
    async fn end(&mut self) {
        // Never waits: nothing was written before. A keeper that is gone needs no telling.
        let _ = self.control.shutdown().await;
    }

    /// Takes leave of the keeper, and kills what it could not.
    fn clear(mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if !self.cleared {
                kill_group(&keeper);
            }
            if !matches!(keeper.try_wait(), Ok(Some(_))) {
                reap(keeper);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            // It ends when our end of the socket closes, at most `GRACE` and a moment later.
            reap(keeper);
        }
    }
}

/// Not being waited for, a dead child would stay a zombie.
fn reap(mut keeper: Child) {
    let waiting = thread::Builder::new()
        .name("reaper".into())
        .spawn(move || keeper.wait());
    if let Err(error) = waiting {
        tracing::debug!(%error, "a dead hook stays a zombie");
    }
}

/// The keeper is not waited for yet, so its number and that of its group are still its own.
fn kill_group(keeper: &Child) {
    if let Ok(group) = libc::pid_t::try_from(keeper.id())
        && group > 1
    {
        // SAFETY: kill takes two integers and touches no memory of ours.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

fn ending_of(status: libc::c_int) -> Ending {
    if libc::WIFSIGNALED(status) {
        Ending::Killed(libc::WTERMSIG(status))
    } else {
        Ending::Exited(libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests;
