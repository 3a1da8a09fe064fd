//! Where the gateway's packets come from and go to: the host's TUN device, or queues in memory.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use packet::DropReason;
use packet::virtio::Offload;
use platform::tun::{Offloads, Tun, TunQueue};
use platform::udp::Inbox;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep;

use crate::GatewayError;
use crate::buffer::{Buffer, Pool};
use crate::load::Load;

/// How long the device is left alone after it failed to give a packet: one that somebody has set down fails at once, again
/// and again, until it is up.
const DEVICE_BACK_OFF: Duration = Duration::from_millis(20);

/// What the gateway forwards packets to and from.
#[derive(Debug)]
pub enum Device {
    /// A TUN device of the host, with the gateway's pool addresses. Needs CAP_NET_ADMIN.
    Tun,
    /// Queues in memory. The host is not touched.
    Memory(MemoryDevice),
}

/// One end of a packet device in memory. Each item is one IP packet.
#[derive(Debug)]
pub struct MemoryDevice {
    incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
}

impl MemoryDevice {
    /// Two ends; each holds at most `capacity` packets for the other.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let (to_b, from_a) = mpsc::channel(capacity);
        let (to_a, from_b) = mpsc::channel(capacity);
        (
            Self {
                incoming: from_b,
                outgoing: to_b,
            },
            Self {
                incoming: from_a,
                outgoing: to_a,
            },
        )
    }

    /// A device of these two queues.
    pub fn from_parts(incoming: mpsc::Receiver<Bytes>, outgoing: mpsc::Sender<Bytes>) -> Self {
        Self { incoming, outgoing }
    }

    /// The queue of packets from the other end, and the queue towards it.
    pub fn into_parts(self) -> (mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>) {
        (self.incoming, self.outgoing)
    }

    /// Waits for a packet from the other end; `None` when that is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    /// Hands a packet to the other end, waiting for room. `false` if the other end is gone.
    pub async fn send(&self, packet: Bytes) -> bool {
        self.outgoing.send(packet).await.is_ok()
    }
}

/// One worker's part of a device, on its way to that worker.
#[derive(Debug)]
pub(crate) enum Part {
    /// A queue of the host's device.
    Tun(TunQueue),
    /// The whole of a device in memory: of the first worker.
    Memory(MemoryDevice),
    /// The way towards a device in memory, which one worker alone reads.
    MemoryTowards(mpsc::Sender<Bytes>),
}

impl Part {
    /// Parts of a device in memory for so many workers.
    pub(crate) fn of_memory(device: MemoryDevice, workers: usize) -> Vec<Self> {
        let towards = device.outgoing.clone();
        let others = (1..workers).map(|_| Self::MemoryTowards(towards.clone()));
        std::iter::once(Self::Memory(device)).chain(others).collect()
    }

    /// Begins to use it on this thread.
    pub(crate) fn open(self, pool: Pool) -> Result<(Option<Reader>, Writer), GatewayError> {
        Ok(match self {
            Self::Tun(queue) => {
                let (reader, writer) = of_tun(queue.open()?, pool);
                (Some(reader), writer)
            }
            Self::Memory(device) => {
                let (reader, writer) = of_memory(device);
                (Some(reader), writer)
            }
            Self::MemoryTowards(queue) => (None, Writer::Memory(queue)),
        })
    }
}

/// The reading half of a device; each of its queues has one.
pub(crate) enum Reader {
    /// Shares the device with the writer.
    Tun {
        tun: Rc<Tun>,
        buffer: Box<[u8]>,
        pool: Pool,
    },
    /// Owns its queue.
    Memory(mpsc::Receiver<Bytes>),
}

/// The writing half of a device.
pub(crate) enum Writer {
    /// Shares the device with the reader.
    Tun(Rc<Tun>),
    /// Owns its queue.
    Memory(mpsc::Sender<Bytes>),
}

/// Takes a TUN device apart.
fn of_tun(tun: Tun, pool: Pool) -> (Reader, Writer) {
    let tun = Rc::new(tun);
    (
        Reader::Tun {
            tun: Rc::clone(&tun),
            // Room for a whole packet behind the header of a device with offloads.
            buffer: Inbox::buffer(),
            pool,
        },
        Writer::Tun(tun),
    )
}

/// Takes a device in memory apart.
pub(crate) fn of_memory(device: MemoryDevice) -> (Reader, Writer) {
    (Reader::Memory(device.incoming), Writer::Memory(device.outgoing))
}

impl Reader {
    /// Waits for one packet, or several of one flow. Cancel safe. An error means that the device is gone.
    pub(crate) async fn recv(&mut self) -> io::Result<Load> {
        match self {
            Self::Tun { tun, buffer, pool } => loop {
                match tun.recv(buffer).await {
                    Ok(length) => {
                        let read = pool.part(length, buffer);
                        return Ok(match tun.offloads() {
                            Some(_) => Load::with_header(read),
                            None => Load::plain(read),
                        });
                    }
                    Err(error) if platform::tun::is_gone(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "cannot read the device");
                        sleep(DEVICE_BACK_OFF).await;
                    }
                }
            },
            Self::Memory(queue) => {
                let packet = queue.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
                Ok(Load::plain(Buffer::Shared(packet)))
            }
        }
    }
}

impl Writer {
    /// What the device takes at once; nothing if that is one packet.
    pub(crate) fn offloads(&self) -> Option<Offloads> {
        match self {
            Self::Tun(tun) => tun.offloads(),
            Self::Memory(_) => None,
        }
    }

    /// Hands over one packet, or drops it.
    pub(crate) fn try_send(&self, packet: &[u8]) -> Result<(), DropReason> {
        match self {
            Self::Tun(tun) if tun.offloads().is_some() => {
                let header = Offload::default().header(0);
                self.try_send_pieces(&[IoSlice::new(&header), IoSlice::new(packet)])
            }
            Self::Tun(tun) => taken(tun.try_send(packet)),
            Self::Memory(queue) => queue
                .try_send(Bytes::copy_from_slice(packet))
                .map_err(|error| match error {
                    TrySendError::Full(_) => DropReason::QueueFull,
                    TrySendError::Closed(_) => DropReason::DeviceRefused,
                }),
        }
    }

    /// Hands over what a device with offloads takes, beginning with the header, or drops it.
    pub(crate) fn try_send_pieces(&self, pieces: &[IoSlice<'_>]) -> Result<(), DropReason> {
        match self {
            Self::Tun(tun) => taken(tun.try_send_pieces(pieces)),
            Self::Memory(_) => Err(DropReason::DeviceRefused),
        }
    }
}

fn taken(sent: io::Result<usize>) -> Result<(), DropReason> {
    sent.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DropReason::QueueFull,
        _ => DropReason::DeviceRefused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_abandoned_queue_drops_with_its_reason() {
        let (near, far) = MemoryDevice::pair(1);
        let (_reader, writer) = of_memory(near);
        assert_eq!(writer.try_send(b"a"), Ok(()));
        assert_eq!(writer.try_send(b"b"), Err(DropReason::QueueFull));
        drop(far);
        assert_eq!(writer.try_send(b"c"), Err(DropReason::DeviceRefused));
    }
}
