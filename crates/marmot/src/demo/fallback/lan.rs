//! The LAN of the fallback: one host that answers pings and serves HTTP.

use std::convert::Infallible;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use tokio::sync::mpsc::{Receiver, Sender};

use super::super::http::{self, PORT, Reply};
use super::super::{setup, world};
use super::host::Host;

/// Connections at the same time.
const CONNECTIONS: usize = 4;

/// Buffer of a socket in each direction, in bytes: a whole window of packets fits the queue that the gateway has for a
/// session (256 packets), so that none is ever lost on the way.
pub(crate) const BUFFER: usize = 256 * 1024;

/// Data made at a time, in bytes.
const CHUNK: usize = 16 * 1024;

/// Serves until the device is gone.
pub(crate) async fn serve(cable: (Receiver<Bytes>, Sender<Bytes>)) -> Result<Infallible> {
    let mut host = Host::new(&[world::HOST.into(), world::HOST_V6.into()], cable, setup::MTU)?;
    let mut guests: Vec<Guest> = (0..CONNECTIONS).map(|_| Guest::new(&mut host.sockets)).collect();
    loop {
        for guest in &mut guests {
            guest.serve(&mut host.sockets)?;
        }
        host.turn().await?;
    }
}

/// A TCP socket with buffers.
pub(crate) fn socket() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// One connection, or the wait for one.
struct Guest {
    socket: SocketHandle,
    input: Vec<u8>,
    output: Option<Output>,
}

/// What is being sent: the rest of a head or text, then data.
struct Output {
    ready: Vec<u8>,
    reply: Reply,
}

impl Guest {
    fn new(sockets: &mut SocketSet<'static>) -> Self {
        Self {
            socket: sockets.add(socket()),
            input: Vec::new(),
            output: None,
        }
    }

    fn serve(&mut self, sockets: &mut SocketSet<'static>) -> Result<()> {
        let socket = sockets.get_mut::<Socket<'_>>(self.socket);
        if !socket.is_open() {
            (self.input, self.output) = (Vec::new(), None);
            return socket.listen(PORT).map_err(|error| anyhow!("cannot listen: {error:?}"));
        }
        if socket.state() == State::CloseWait {
            socket.close();
        }
        if self.output.is_none() {
            self.output = self.next_request(socket);
        }
        while let Some(output) = &mut self.output {
            if !output.send(socket) {
                break;
            }
            self.output = None;
        }
        Ok(())
    }

    fn next_request(&mut self, socket: &mut Socket<'static>) -> Option<Output> {
        if socket.can_recv() {
            let input = &mut self.input;
            let room = http::MAX_HEAD.saturating_sub(input.len());
            let taken = socket.recv(|bytes| {
                let take = bytes.len().min(room);
                input.extend_from_slice(&bytes[..take]);
                (take, ())
            });
            if taken.is_err() {
                return None;
            }
        }
        match http::read_request(&self.input) {
            Ok(Some((length, reply))) => {
                self.input.drain(..length);
                Some(Output {
                    ready: reply.head().into_bytes(),
                    reply,
                })
            }
            Ok(None) => None,
            Err(_) => {
                socket.abort();
                None
            }
        }
    }
}

impl Output {
    /// Gives the socket what it takes. `true` when nothing is left.
    fn send(&mut self, socket: &mut Socket<'static>) -> bool {
        loop {
            if self.ready.is_empty() && !self.more() {
                return true;
            }
            match socket.send_slice(&self.ready) {
                Ok(0) | Err(_) => return false,
                Ok(sent) => {
                    self.ready.drain(..sent);
                }
            }
        }
    }

    /// Makes the next piece ready; `false` if there is none.
    fn more(&mut self) -> bool {
        match &mut self.reply {
            Reply::Text(text) => {
                self.ready.extend_from_slice(text.as_bytes());
                *text = "";
            }
            Reply::Data { stream, bytes } => {
                let take = usize::try_from(*bytes).unwrap_or(usize::MAX).min(CHUNK);
                self.ready.resize(take, 0);
                stream.fill(&mut self.ready);
                *bytes -= take as u64;
            }
        }
        !self.ready.is_empty()
    }
}
