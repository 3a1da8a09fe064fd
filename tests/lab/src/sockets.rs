//! What the kernel knows of another program's TCP connections, read from its own descriptors.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use anyhow::{Context, Result};
use platform::tcp::{TcpInfo, TcpState, info};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{SockRef, Type};

use crate::Process;

/// A connected TCP socket of a program. Holding it keeps the connection from being closed, so do not hold it long.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// The program's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl Connection {
    /// What the kernel knows now.
    ///
    /// # Errors
    /// If it does not say.
    pub fn info(&self) -> Result<TcpInfo> {
        info(&self.socket).context("cannot ask for the state of a connection")
    }

    /// Both ends.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.remote)
    }
}

impl Process {
    /// Its established TCP connections, each once, whatever the number of descriptors for it.
    ///
    /// # Errors
    /// If its descriptors cannot be read.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let handle = pidfd_open(self.pid(), PidfdFlags::empty()).context("cannot open a process")?;
        let folder = format!("/proc/{}/fd", self.pid().as_raw_nonzero());
        let mut found: Vec<Connection> = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            let Ok(entry) = entry else { continue };
            let socket = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            let number: Option<RawFd> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let (true, Some(number)) = (socket, number) else {
                continue;
            };
            // It may have been closed a moment ago.
            let copy = pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()).ok();
            if let Some(new) = copy.and_then(connection)
                && found.iter().all(|known| known.ends() != new.ends())
            {
                found.push(new);
            }
        }
        Ok(found)
    }
}

fn connection(socket: OwnedFd) -> Option<Connection> {
    let view = SockRef::from(&socket);
    if view.r#type().ok()? != Type::STREAM {
        return None;
    }
    let local = view.local_addr().ok()?.as_socket()?;
    let remote = view.peer_addr().ok()?.as_socket()?;
    let state = info(&socket).ok()?.state;
    (state == TcpState::Established).then_some(Connection { socket, local, remote })
}
