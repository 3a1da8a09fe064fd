//! Where the gateway's packets come from and go to: the host's TUN device, or queues in memory.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use packet::DropReason;
use platform::tun::Tun;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep;

/// The longest packet read from a TUN device, in bytes: the largest an IP header can announce.
pub(crate) const MAX_PACKET: usize = 65_535;

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

/// The reading half of a device; there is one.
pub(crate) enum Reader {
    /// Shares the device with the writer.
    Tun { tun: Rc<Tun>, buffer: Box<[u8]> },
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
pub(crate) fn of_tun(tun: Tun) -> (Reader, Writer) {
    let tun = Rc::new(tun);
    (
        Reader::Tun {
            tun: Rc::clone(&tun),
            buffer: vec![0; MAX_PACKET].into_boxed_slice(),
        },
        Writer::Tun(tun),
    )
}

/// Takes a device in memory apart.
pub(crate) fn of_memory(device: MemoryDevice) -> (Reader, Writer) {
    (Reader::Memory(device.incoming), Writer::Memory(device.outgoing))
}

impl Reader {
    /// Waits for one packet. Cancel safe. An error means that the device is gone.
    pub(crate) async fn recv(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Tun { tun, buffer } => loop {
                match tun.recv(buffer).await {
                    Ok(length) => return Ok(Bytes::copy_from_slice(&buffer[..length])),
                    Err(error) if platform::tun::is_gone(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "cannot read the device");
                        sleep(DEVICE_BACK_OFF).await;
                    }
                }
            },
            Self::Memory(queue) => queue.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Writer {
    /// Hands over one packet, or drops it.
    pub(crate) fn try_send(&self, packet: Bytes) -> Result<(), DropReason> {
        match self {
            Self::Tun(tun) => tun.try_send(&packet).map(|_| ()).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => DropReason::QueueFull,
                _ => DropReason::DeviceRefused,
            }),
            Self::Memory(queue) => queue.try_send(packet).map_err(|error| match error {
                TrySendError::Full(_) => DropReason::QueueFull,
                TrySendError::Closed(_) => DropReason::DeviceRefused,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_abandoned_queue_drops_with_its_reason() {
        let (near, far) = MemoryDevice::pair(1);
        let (_reader, writer) = of_memory(near);
        assert_eq!(writer.try_send(Bytes::from_static(b"a")), Ok(()));
        assert_eq!(writer.try_send(Bytes::from_static(b"b")), Err(DropReason::QueueFull));
        drop(far);
        assert_eq!(
            writer.try_send(Bytes::from_static(b"c")),
            Err(DropReason::DeviceRefused)
        );
    }
}
