//! CSTP frames over a TLS connection, one frame to a record.
//!
//! ```text
//!   out   frame, in pieces --one record each--> rustls --up to 64 records a call--> TCP
//!   in    TCP --up to 64 KiB a call--> sealed --one record each--> rustls --plaintext--> Decoder --> frames
//! ```
//! A frame is copied once on its way out, to where it is sealed. On the way in rustls reads 4 KiB at a time from whatever it is given, and moves what
//! is left of that after every record; so the socket is read here, and rustls gets one record at a time.

use std::io::{self, BufRead, IoSlice, Read, Write};

use bytes::{Buf, BufMut, BytesMut};
use rustls::Connection;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::TcpStream;
use wire::CstpError;
use wire::cstp::{self, Decoder, Frame, Kind};
use wire::limits::CSTP_MAX_PAYLOAD;

/// Bytes of TLS records waiting for TCP above which no data frame is taken: about 20 ms at 100 Mbit/s. Control frames are
/// taken above it, up to twice as much.
pub const MAX_PENDING: usize = 256 * 1024;

/// Bytes asked of the socket at once, at first: what a channel needs that carries a word now and then.
const READ_LEAST: usize = 4 * 1024;

/// And at most, of one that has more: what stays in the cache until it is opened.
const READ_MOST: usize = 64 * 1024;

/// Reads of the socket in one turn before the caller gets its turn again.
const READ_BUDGET: usize = 2;

/// Turns of reading after TCP took nothing more: as much as a socket buffer holds (4 MiB).
const READS_AFTER_FAILURE: usize = 64;

/// Bytes of the header of a TLS record (RFC 8446 section 5.1).
const RECORD_HEADER: usize = 5;

/// Bytes of the longest record that rustls takes: a header, 2^14 of plaintext, and 2^11 around it (RFC 5246 section 6.2.3).
const RECORD_MAX: usize = RECORD_HEADER + 16 * 1024 + 2 * 1024;

/// Bytes around a frame in its record: header, inner type and tag in TLS 1.3; up to 8 more in TLS 1.2.
const OVERHEAD: usize = 29;

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
    /// What TCP gave and TLS has not taken.
    sealed: BytesMut,
    /// Bytes at the beginning of it that TLS has taken already. Nothing: nobody knows where a record begins, as what read before left a part of
    /// one in TLS.
    ahead: Option<usize>,
    /// Bytes to be asked of TCP next time.
    appetite: usize,
    /// Bytes of records that TCP has not taken, as far as they are counted: see [`Channel::pending`].
    unsent: usize,
    /// Where a frame is put together.
    frame: Vec<u8>,
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
            sealed: BytesMut::new(),
            ahead: None,
            appetite: READ_LEAST,
            unsent: 0,
            frame: Vec::new(),
            farewell: false,
            ended: None,
        };
        this.ended = this.open().err();
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

    /// Bytes of TLS records that TCP has not taken yet: none if that is zero, else up to [`OVERHEAD`] a record too many or too few, as TLS
    /// does not say how long they are.
    pub fn pending(&self) -> usize {
        match self.tls.wants_write() && self.ended.is_none() {
            true => self.unsent.max(1),
            false => 0,
        }
    }

    /// Gives back the memory that a busy channel needs and a silent one does not.
    pub fn shrink(&mut self) {
        self.frame = Vec::new();
        self.appetite = READ_LEAST;
        for buffer in [&mut self.sealed, self.incoming.buffer()] {
            // What is in it is a part of a record or of a frame, and has to wait for the rest.
            *buffer = BytesMut::from(&buffer[..]);
        }
        // Before a read rustls makes its buffer small, if nothing is in it.
        let _ = self.tls.read_tls(&mut Silence);
    }

    /// Whether another data frame may be queued.
    pub fn has_room(&self) -> bool {
        self.pending() < MAX_PENDING
    }

    /// Whether one more of the frames that were at hand when there was room may be queued: one read of a device is at most 64 KiB, and more in
    /// records.
    pub fn takes_more(&self) -> bool {
        self.pending() < MAX_PENDING + MAX_PENDING / 2
    }

    /// Queues one frame as one TLS record; [`Channel::next`] and [`Channel::flush`] send it.
    ///
    /// # Errors
    /// [`Closed::Cstp`] if the payload is longer than a frame may be, [`Closed::Backlog`] if the peer has stopped reading,
    /// [`Closed::Tls`] if the connection can seal no more.
    pub fn queue(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Closed> {
        self.queue_with(kind, payload.len(), |place| place.copy_from_slice(payload))
    }

    /// As [`Channel::queue`], with a payload of `length` bytes that `write` puts into its place; what stands there before does not matter.
    ///
    /// # Errors
    /// As there.
    pub fn queue_with(&mut self, kind: Kind, length: usize, write: impl FnOnce(&mut [u8])) -> Result<(), Closed> {
        let header = frame_header(kind, length)?;
        let mut frame = std::mem::take(&mut self.frame);
        let whole = header.len() + length;
        if frame.len() < whole {
            frame.resize(whole, 0);
        }
        frame[..header.len()].copy_from_slice(&header);
        write(&mut frame[header.len()..whole]);
        let sealed = self.seal(&[IoSlice::new(&frame[..whole])], whole);
        self.frame = frame;
        sealed
    }

    /// As [`Channel::queue`], with a payload in two pieces.
    ///
    /// # Errors
    /// As there.
    pub fn queue_pieces(&mut self, kind: Kind, [front, rest]: [&[u8]; 2]) -> Result<(), Closed> {
        let length = front.len() + rest.len();
        let header = frame_header(kind, length)?;
        let pieces = [IoSlice::new(&header), IoSlice::new(front), IoSlice::new(rest)];
        self.seal(&pieces, header.len() + length)
    }

    /// Seals one frame of `length` bytes as one record.
    fn seal(&mut self, frame: &[IoSlice<'_>], length: usize) -> Result<(), Closed> {
        if self.ended.is_some() {
            // Nothing goes out any more; whoever asks for the next frame hears why.
            return Ok(());
        }
        let pending = self.pending();
        if pending >= 2 * MAX_PENDING {
            return Err(Closed::Backlog(pending));
        }
        // With no buffer limit one write takes the whole frame, and a frame never exceeds one record.
        let taken = self.tls.writer().write_vectored(frame)?;
        debug_assert_eq!(taken, length, "no limit was set");
        // rustls swallows what is written once the keys of a TLS 1.2 connection are used up (2^24 records), and says farewell.
        if !self.tls.wants_write() {
            return Err(rustls::Error::EncryptError.into());
        }
        self.unsent = pending + length + OVERHEAD;
        Ok(())
    }

    /// Queues the TLS farewell.
    pub fn queue_farewell(&mut self) {
        self.tls.send_close_notify();
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
            if self.pending() < room {
                return Ok(None);
            }
            let interest = match self.tls.wants_write() {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
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
        while self.tls.wants_write() && self.ended.is_none() {
            match self.tls.write_tls(&mut Socket(&self.socket)) {
                Ok(written) => self.unsent = self.unsent.saturating_sub(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return self.send_failed(error),
            }
        }
        Ok(true)
    }

    /// A goodbye of the peer may wait in a socket that takes nothing any more.
    fn send_failed(&mut self, error: io::Error) -> Result<bool, Closed> {
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

    /// Reads records from the socket and plaintext from the records. `true` if there may be more to read.
    fn receive(&mut self) -> Result<bool, Closed> {
        for _ in 0..READ_BUDGET {
            self.sealed.reserve(self.appetite);
            match self.socket.try_read_buf(&mut (&mut self.sealed).limit(self.appetite)) {
                Ok(0) => return Err(Closed::Eof { clean: self.farewell }),
                Ok(read) => {
                    self.open_records()?;
                    if read < self.appetite {
                        return Ok(false);
                    }
                    self.appetite = (2 * self.appetite).min(READ_MOST);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Hands TLS the records that are whole, one at a time, and takes their plaintext.
    fn open_records(&mut self) -> Result<(), Closed> {
        // What is in use by frames stays where it is; one reservation for all of them.
        self.incoming.buffer().reserve(self.sealed.len());
        if self.ahead.is_none() {
            self.find_edge()?;
        }
        let Some(mut ahead) = self.ahead else { return Ok(()) };
        while let Some(record) = whole_record(&self.sealed) {
            // One byte more: as long as rustls has anything left it keeps its buffer, and takes whole records at once.
            let end = self.sealed.len().min(record + 1);
            while ahead < end {
                ahead += self.feed(ahead, end)?;
            }
            self.sealed.advance(record);
            ahead = end - record;
        }
        self.ahead = Some(ahead);
        Ok(())
    }

    /// Hands TLS byte for byte until one completes a record, which is to be seen by its plaintext. It happens once, in the first record.
    fn find_edge(&mut self) -> Result<(), Closed> {
        let before = self.incoming.buffer().len();
        for at in 0..self.sealed.len() {
            self.feed(at, at + 1)?;
            if self.incoming.buffer().len() > before {
                self.sealed.advance(at + 1);
                self.ahead = Some(0);
                return Ok(());
            }
        }
        self.sealed.clear();
        Ok(())
    }

    /// Hands TLS what stands there, and takes what comes of it. Returns how much it took; all, behind a farewell.
    fn feed(&mut self, start: usize, end: usize) -> Result<usize, Closed> {
        let taken = self.tls.read_tls(&mut &self.sealed[start..end])?;
        self.open()?;
        Ok(if taken == 0 { end - start } else { taken })
    }

    /// Opens what TLS was given, and takes the plaintext.
    fn open(&mut self) -> Result<(), Closed> {
        let state = match self.tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // The alert that says why goes out if the socket takes it.
                let _ = self.tls.write_tls(&mut Socket(&self.socket));
                return Err(error.into());
            }
        };
        self.farewell |= state.peer_has_closed();
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let mut reader = self.tls.reader();
            let chunk = reader.fill_buf()?;
            let length = chunk.len();
            self.incoming.buffer().extend_from_slice(chunk);
            reader.consume(length);
            left = left.saturating_sub(length.max(1));
        }
        Ok(())
    }
}

/// # Errors
/// [`CstpError::PayloadTooLong`]
fn frame_header(kind: Kind, length: usize) -> Result<[u8; cstp::HEADER_LEN], CstpError> {
    let announced = u16::try_from(length).ok().filter(|_| length <= CSTP_MAX_PAYLOAD);
    let announced = announced.ok_or(CstpError::PayloadTooLong { length })?;
    Ok(cstp::header(kind, announced))
}

/// Bytes of the record that `bytes` begin with; nothing if it is not whole. What cannot be a record is all there is: TLS finds out what is wrong
/// with it.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<RECORD_HEADER>()?;
    let length = RECORD_HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    // The kinds of RFC 8446 section 5.1, and heartbeats (RFC 6520).
    let is_record = (20..=24).contains(&header[0]) && header[1] == 3 && length <= RECORD_MAX;
    match is_record {
        true => (bytes.len() >= length).then_some(length),
        false => Some(bytes.len()),
    }
}

/// Has nothing to be read for now.
struct Silence;

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// A non-blocking socket as rustls writes to it.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
