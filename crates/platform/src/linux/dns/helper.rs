//! The helper: does for the daemon, which is an ordinary user, what only root may do in `/etc`. Started by its socket, gone when nobody asks.
//!
//! ```text
//!   daemon (marmot) -- one line --> socket (0600, marmot's) --> helper (root): whose? an order? --> Kept
//!                   <- one line --
//! ```
//! It takes orders of root and of whoever owns the socket, one after the other, and each is bounded in length and time. All that an order can do is to
//! set or remove name servers of one interface.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::kept::{Done, Kept};
use super::order::{Answer, MAX_LINE, Order};
use crate::PlatformError;
use crate::dns::Places;
use crate::socket::{adopt_unix, listen_unix};

/// Who connects has an order ready; who has not within this time holds up the next one.
const LINE_WITHIN: Duration = Duration::from_secs(1);

/// The longest answer, in bytes: an error and a note.
const MAX_ANSWER: u64 = 8 * 1024;

/// After so many failures to take a connection something is wrong with the socket.
const MAX_FAILURES: u32 = 16;

/// Takes orders until nobody came for `idle`; without a socket of the service manager at `socket`, for ever. Blocks; brings its own runtime.
///
/// # Errors
/// There is no socket to listen on.
pub fn serve(socket: Option<&Path>, places: &Places, idle: Duration) -> Result<(), PlatformError> {
    let (listener, inherited) = match (inherited()?, socket) {
        (Some(listener), _) => (listener, true),
        (None, Some(path)) => (listen_unix(path, 0o600, None)?, false),
        (None, None) => {
            let hint = "no socket was handed over: `systemctl enable --now marmot-dns.socket` starts the helper when it is needed";
            return Err(PlatformError::NameService(hint.to_owned()));
        }
    };
    let failed = |source| PlatformError::io("serve orders about name servers", source);
    let path = path_of(&listener).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let kept = Kept::new(places);
        let mut failures = 0;
        loop {
            match timeout(idle, listener.accept()).await {
                Err(_) if inherited => return Ok(()),
                Err(_) => {}
                Ok(Ok((stream, _))) => {
                    failures = 0;
                    if let Err(error) = answer(stream, owner(&path), &kept).await {
                        debug!(%error, "an order came to nothing");
                    }
                }
                Ok(Err(error)) => {
                    failures += 1;
                    if failures > MAX_FAILURES {
                        return Err(failed(error));
                    }
                }
            }
        }
    })
}

/// The socket of the service manager.
fn inherited() -> Result<Option<crate::socket::UnixListener>, PlatformError> {
    let mut taken = crate::service::taken().into_iter();
    taken.next().map(|(_, descriptor)| adopt_unix(descriptor)).transpose()
}

fn path_of(listener: &crate::socket::UnixListener) -> io::Result<PathBuf> {
    let address = listener.local_addr()?;
    let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(path.to_owned())
}

/// Whoever owns the socket's file may ask. Nobody else may put another one there: its folder is root's.
fn owner(path: &Path) -> Option<u32> {
    std::fs::symlink_metadata(path).ok().map(|file| file.uid())
}

async fn answer(mut stream: UnixStream, owner: Option<u32>, kept: &Kept) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let answer = if peer.uid() != 0 && Some(peer.uid()) != owner {
        warn!(
            user = peer.uid(),
            process = peer.pid(),
            "refused an order of somebody else"
        );
        refused("not permitted: only root and the owner of the socket may ask".to_owned())
    } else {
        let line = timeout(LINE_WITHIN, line(&mut stream, MAX_LINE));
        match line.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
            Ok(line) => carry_out(&line, kept),
            Err(error) => refused(error.to_string()),
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    timeout(LINE_WITHIN, stream.write_all(&line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn carry_out(line: &[u8], kept: &Kept) -> Answer {
    let order = match Order::read(line) {
        Ok(order) => order,
        Err(why) => return refused(why),
    };
    match kept.carry_out(&order) {
        Ok(Done { way, was_there, note }) => Answer {
            way,
            was_there,
            note,
            error: None,
        },
        // It goes behind the same words at the other end.
        Err(PlatformError::NameService(why)) => refused(why),
        Err(error) => refused(error.to_string()),
    }
}

fn refused(why: String) -> Answer {
    Answer {
        error: Some(why),
        ..Answer::default()
    }
}

async fn line(stream: &mut UnixStream, limit: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(limit));
    reader.read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the line is too long, or has no end",
        )),
    }
}

/// Whether a connection failed because there is no helper: no socket, or nobody behind it.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Asks the helper at `socket`. That there is none is a [`PlatformError::Io`], which [`is_absent`] knows; all else is none.
pub(super) async fn ask(socket: &Path, order: &Order, patience: Duration) -> Result<Done, PlatformError> {
    let words = |why: &str| format!("the helper at {}: {why}", socket.display());
    let failed = |why: String| PlatformError::NameService(words(&why));
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut order = serde_json::to_vec(order)?;
        order.push(b'\n');
        stream.write_all(&order).await?;
        line(&mut stream, MAX_ANSWER).await
    };
    let line = match timeout(patience, asked).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) if is_absent(&error) => {
            let hint = "it is not there: `systemctl enable --now marmot-dns.socket`, or set [dns] mode = \"off\"";
            let source = io::Error::new(error.kind(), words(hint));
            return Err(PlatformError::io("set name servers", source));
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("it does not answer".to_owned())),
    };
    let answer: Answer = serde_json::from_slice(&line).map_err(|error| failed(error.to_string()))?;
    match answer.error {
        Some(why) => Err(PlatformError::NameService(why.escape_debug().to_string())),
        None => Ok(Done {
            way: answer.way,
            was_there: answer.was_there,
            note: answer.note,
        }),
    }
}

#[cfg(test)]
mod tests;
