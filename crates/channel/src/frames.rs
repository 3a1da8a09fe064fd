//! CSTP frames over a TLS connection, one frame to a record.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, BytesMut};
use rustls::Connection;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::TcpStream;
use wire::CstpError;
use wire::cstp::{self, Decoder, Frame, Kind};

/// Bytes of TLS records waiting for TCP above which no data frame is taken: about 20 ms at 100 Mbit/s. Control frames are
/// taken above it, up to twice as much.
pub const MAX_PENDING: usize = 256 * 1024;

/// Plaintext read from TLS in one go: the largest TLS record.
const READ_CHUNK: usize = 16 * 1024;

/// Reads of the socket in one turn before the caller gets its turn again.
const READ_BUDGET: usize = 4;

/// Turns of reading after TCP took nothing more: as much as a socket buffer holds (4 MiB).
const READS_AFTER_FAILURE: usize = 64;

/// Why a control channel is over.
#[derive(Debug, Error)]
pub enum Closed {
    /// The peer closed it, with or without the TLS farewell.
    #[error("the peer closed the connection{}", if *.clean { "" } else { " without a TLS farewell" })]
    Eof {
        /// A `close_notify` came first.
        clean: bool,
    },
    /// The kernel gave the connection up.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The peer's TLS records are wrong.
    #[error("the peer broke TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer's frames are wrong.
    #[error("the peer broke CSTP: {0}")]
    Cstp(#[from] CstpError),
    /// The peer reads nothing while control frames pile up.
    #[error("the peer does not read: {0} bytes are waiting for it")]
    Backlog(usize),
}

/// The sole owner of a control channel's socket and TLS state.
pub struct Channel {
    socket: TcpStream,
    tls: Connection,
    incoming: Decoder,
    outgoing: BytesMut,
    frame: BytesMut,
    farewell: bool,
    ended: Option<Closed>,
}

impl Channel {
    /// Takes over an established connection. `received` is plaintext that was read behind the HTTP head; what the TLS state
    /// has decrypted beyond that is taken too.
    pub fn new(socket: TcpStream, mut tls: Connection, received: BytesMut) -> Self {
        tls.set_buffer_limit(None);
        let mut incoming = Decoder::new();
        incoming.buffer().unsplit(received);
        let mut this = Self {
            socket,
            tls,
            incoming,
            outgoing: BytesMut::with_capacity(READ_CHUNK),
            frame: BytesMut::with_capacity(READ_CHUNK),
            farewell: false,
            ended: None,
        };
        this.ended = this.open_records().err();
        this
    }

    /// The socket, for its options and addresses.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The TLS state, for what was negotiated.
    pub fn tls(&self) -> &Connection {
        &self.tls
    }

    /// Bytes of TLS records that TCP has not taken yet.
    pub fn pending(&self) -> usize {
        self.outgoing.len()
    }

    /// Gives back the memory that a busy channel needs and a silent one does not.
    pub fn shrink(&mut self) {
        self.frame = BytesMut::new();
        for buffer in [&mut self.outgoing, self.incoming.buffer()] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
    }

    /// Whether another data frame may be queued.
    pub fn has_room(&self) -> bool {
        self.outgoing.len() < MAX_PENDING
    }

    /// Whether one more of the frames that were at hand when there was room may be queued: one read of a device is at most 64 KiB, and more in
    /// records.
    pub fn takes_more(&self) -> bool {
        self.outgoing.len() < MAX_PENDING + MAX_PENDING / 2
    }

    /// Queues one frame as one TLS record; [`Channel::next`] and [`Channel::flush`] send it.
    ///
    /// # Errors
    /// [`Closed::Cstp`] if the payload is longer than a frame may be, [`Closed::Backlog`] if the peer has stopped reading,
    /// [`Closed::Tls`] if the connection can seal no more.
    pub fn queue(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Closed> {
        self.queue_with(kind, payload.len(), |place| place.copy_from_slice(payload))
    }

    /// As [`Channel::queue`], with a payload of `length` bytes that `write` puts into its place.
    ///
    /// # Errors
    /// As there.
    pub fn queue_with(&mut self, kind: Kind, length: usize, write: impl FnOnce(&mut [u8])) -> Result<(), Closed> {
        if self.outgoing.len() >= 2 * MAX_PENDING {
            return Err(Closed::Backlog(self.outgoing.len()));
        }
        self.frame.clear();
        cstp::encode_with(kind, length, write, &mut self.frame)?;
        // With no buffer limit one write takes the whole frame, and a frame never exceeds one record.
        self.tls.writer().write_all(&self.frame)?;
        let before = self.outgoing.len();
        self.collect()?;
        // rustls swallows what is written once the keys of a TLS 1.2 connection are used up (2^24 records).
        if self.outgoing.len() == before && self.ended.is_none() {
            return Err(rustls::Error::EncryptError.into());
        }
        Ok(())
    }

    /// Queues the TLS farewell.
    pub fn queue_farewell(&mut self) -> Result<(), Closed> {
        self.tls.send_close_notify();
        self.collect()
    }

    /// The next frame. Sends what is queued while it waits. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// Why the channel is over. Frames that came before are returned first.
    pub async fn next(&mut self) -> Result<Frame, Closed> {
        loop {
            if let Some(frame) = self.next_or_room(0).await? {
                return Ok(frame);
            }
        }
    }

    /// The next frame, or `None` as soon as fewer than `room` bytes wait for TCP, so that a caller who waits for room hears of
    /// it. Otherwise as [`Channel::next`].
    ///
    /// # Errors
    /// As [`Channel::next`].
    pub async fn next_or_room(&mut self, room: usize) -> Result<Option<Frame>, Closed> {
        loop {
            // A peer that sends faster than we handle would keep this task busy for ever: reading the socket by hand spends
            // none of the task's budget by itself.
            tokio::task::consume_budget().await;
            if let Some(frame) = self.try_next()? {
                return Ok(Some(frame));
            }
            if let Some(closed) = self.ended.take() {
                return Err(closed);
            }
            self.send_some()?;
            if self.ended.is_some() {
                continue;
            }
            if self.outgoing.len() < room {
                return Ok(None);
            }
            let interest = if self.outgoing.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.socket.ready(interest).await?;
            if ready.is_writable() {
                self.send_some()?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                // Frames received before the end are handed out first.
                self.ended = self.receive().err();
            }
        }
    }

    /// A frame that has been received already, if there is one. Does not touch the socket.
    ///
    /// # Errors
    /// [`Closed::Cstp`] if what was received is no frame.
    pub fn try_next(&mut self) -> Result<Option<Frame>, Closed> {
        Ok(self.incoming.next()?)
    }

    /// Gives TCP as much of what is queued as it takes at once. `true` if nothing is left to send.
    ///
    /// # Errors
    /// [`Closed::Broken`] if the kernel gave the connection up. What the peer said before is not lost by it: while there is
    /// something to be read, [`Channel::next`] hands it out first and returns the error then.
    pub fn send_some(&mut self) -> Result<bool, Closed> {
        while !self.outgoing.is_empty() && self.ended.is_none() {
            match self.socket.try_write(&self.outgoing) {
                Ok(written) => self.outgoing.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return self.send_failed(error),
            }
        }
        Ok(true)
    }

    /// A goodbye of the peer may wait in a socket that takes nothing any more.
    fn send_failed(&mut self, error: io::Error) -> Result<bool, Closed> {
        self.outgoing.clear();
        for _ in 0..READS_AFTER_FAILURE {
            match self.receive() {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        if self.incoming.buffer().is_empty() {
            return Err(error.into());
        }
        self.ended = Some(error.into());
        Ok(true)
    }

    /// Waits until TCP has taken all that is queued.
    ///
    /// # Errors
    /// [`Closed::Broken`] if the kernel gave the connection up.
    pub async fn flush(&mut self) -> Result<(), Closed> {
        while !self.send_some()? {
            self.socket.writable().await?;
        }
        Ok(())
    }

    /// Moves finished records from the TLS state to the outgoing bytes.
    fn collect(&mut self) -> Result<(), Closed> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut (&mut self.outgoing).writer())?;
        }
        Ok(())
    }

    /// Reads records from the socket and plaintext from the records. `true` if there may be more to read.
    fn receive(&mut self) -> Result<bool, Closed> {
        for _ in 0..READ_BUDGET {
            match self.tls.read_tls(&mut Socket(&self.socket)) {
                Ok(0) => return Err(Closed::Eof { clean: self.farewell }),
                Ok(_) => self.open_records()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Opens the records that have been read, and takes their plaintext.
    fn open_records(&mut self) -> Result<(), Closed> {
        let state = match self.tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // The alert that says why goes out if the socket takes it.
                let _ = self.collect();
                let _ = self.socket.try_write(&self.outgoing);
                return Err(error.into());
            }
        };
        self.farewell |= state.peer_has_closed();
        self.take_plaintext(state.plaintext_bytes_to_read())?;
        self.collect()
    }

    fn take_plaintext(&mut self, available: usize) -> Result<(), Closed> {
        let buffer = self.incoming.buffer();
        let start = buffer.len();
        buffer.resize(start + available, 0);
        match self.tls.reader().read_exact(&mut buffer[start..]) {
            Ok(()) => Ok(()),
            Err(error) => {
                buffer.truncate(start);
                Err(error.into())
            }
        }
    }
}

/// Reads from a non-blocking socket as rustls wants it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}
