//! What the kernel knows of another program's TCP connections, read from its own descriptors.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use anyhow::{Context, Result};
use platform::netns::Namespace;
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

/// Bytes that the established TCP connections to a port of `host` have sent and not got acknowledged, or not sent yet: the
/// `Send-Q` of ss(8).
///
/// # Errors
/// If the kernel does not tell.
pub fn send_queue(host: &Namespace, port: u16) -> Result<u64> {
    let tables =
        host.run(|| ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}"))))?;
    let mut sum = 0;
    for table in tables {
        let table = table.context("cannot list TCP connections")?;
        sum += table.lines().skip(1).filter_map(|line| queued(line, port)).sum::<u64>();
    }
    Ok(sum)
}

/// A line of proc_pid_net(5): number, local address, remote address, state (01 is established), tx_queue:rx_queue, ...
fn queued(line: &str, port: u16) -> Option<u64> {
    let mut words = line.split_whitespace().skip(1);
    let (_, local_port) = words.next()?.rsplit_once(':')?;
    let (state, queues) = (words.nth(1)?, words.next()?);
    let ours = u16::from_str_radix(local_port, 16).ok()? == port && state == "01";
    let (unsent, _) = queues.split_once(':')?;
    ours.then(|| u64::from_str_radix(unsent, 16).ok())?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_sent_is_read_from_the_kernels_list() {
        let line = "   1: 010071C6:01BB 020200C0:A3E2 01 00000A00:00000000 01:00000014 00000000     0        0 4242 2";
        assert_eq!(queued(line, 443), Some(2560));
        assert_eq!(queued(line, 80), None);
        assert_eq!(queued(&line.replace(" 01 0000", " 06 0000"), 443), None);
        assert_eq!(queued("", 443), None);
    }
}
