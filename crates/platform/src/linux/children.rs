//! Hooks: our side of the conversation with the keeper, and what a hook writes.

mod keeper;
mod output;
mod trust;

use std::io::{self, PipeWriter, pipe};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::task::{JoinHandle, spawn_blocking};
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
            Err(ended) => ended?,
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

/// A keeper and its hook. Dropping it lets the keeper end the hook, also one that is still being started.
struct Running {
    starting: Option<JoinHandle<io::Result<Keeper>>>,
    keeper: Option<Keeper>,
    control: UnixStream,
    cleared: bool,
}

impl Running {
    /// Starts it on another thread: that takes until the system has read the executable, at the hook's low priority.
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
        let (program, env) = (hook.program.clone(), hook.env.clone());
        let keep = hook.keep.as_ref().map(OwnedFd::try_clone).transpose()?;
        let starting = spawn_blocking(move || spawn(&program, env, theirs, writer, keep));
        let running = Self {
            starting: Some(starting),
            keeper: None,
            control,
            cleared: false,
        };
        Ok((running, pipe))
    }

    /// Waits until the keeper says how the hook ended, and that nothing is left of it. Cancel safe enough: the answer is
    /// four bytes in one piece.
    ///
    /// # Errors
    /// The hook could not be started.
    async fn ended(&mut self) -> io::Result<Ending> {
        if let Some(starting) = &mut self.starting {
            let started = starting.await;
            self.starting = None;
            self.keeper = Some(started.map_err(io::Error::other)??);
        }
        let mut status = [0; size_of::<libc::c_int>()];
        match self.control.read_exact(&mut status).await {
            Ok(_) => {
                self.cleared = true;
                Ok(ending_of(libc::c_int::from_ne_bytes(status)))
            }
            // Somebody killed the keeper.
            Err(_) => Ok(Ending::Killed(libc::SIGKILL)),
        }
    }

    /// Asks the keeper to end the hook; one that does not live yet finds the question when it does.
    async fn end(&mut self) {
        // Never waits: nothing was written before. A keeper that is gone needs no telling.
        let _ = self.control.shutdown().await;
    }

    /// Takes leave of the keeper, and kills what it could not.
    fn clear(self) {
        if let Some(keeper) = &self.keeper
            && !self.cleared
        {
            keeper.kill_group();
        }
    }
}

impl Drop for Running {
    /// Closing is not enough: what is being started has a copy of our end until it is a program of its own.
    fn drop(&mut self) {
        let _ = SockRef::from(&self.control).shutdown(Shutdown::Both);
    }
}

/// Blocks until the hook is running.
fn spawn(
    program: &Path,
    env: Vec<(String, String)>,
    control: StdStream,
    output: PipeWriter,
    keep: Option<OwnedFd>,
) -> io::Result<Keeper> {
    let mut command = Command::new(program);
    command.env_clear().envs(env);
    command.current_dir("/").stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    let number = control.as_raw_fd();
    let kept = keep.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: the closure runs between fork and exec. It and all it calls make system calls only, on values made before the
    // fork, and allocate nothing; `control` and `keep` are open until the spawn has returned.
    unsafe { command.pre_exec(move || keeper::divide(number, kept)) };
    command.spawn().map(Keeper)
}

/// The keeper's process. When our end of the socket is shut down it ends within [`GRACE`] and a moment; dropping this makes sure
/// that it does not stay a zombie.
struct Keeper(Child);

impl Keeper {
    /// The keeper is not waited for yet, so its number and that of its group are still its own.
    fn kill_group(&self) {
        if let Ok(group) = libc::pid_t::try_from(self.0.id())
            && group > 1
        {
            // SAFETY: kill takes two integers and touches no memory of ours.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            reap(self.0.id());
        }
    }
}

/// Waits for a child of ours on a thread of its own.
fn reap(child: u32) {
    let wait = move || {
        let Ok(child) = libc::pid_t::try_from(child) else {
            return;
        };
        // SAFETY: waitpid takes integers; without a place for the status it writes none.
        while unsafe { libc::waitpid(child, ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    };
    if let Err(error) = thread::Builder::new().name("reaper".into()).spawn(wait) {
        tracing::debug!(%error, "a dead hook stays a zombie");
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
