//! Where the tunnel's packets come from and go to: a TUN device, or memory where there can be none.

use std::io::{self, IoSlice};

use bytes::Bytes;
use packet::virtio::Offload;
use packet::{DropReason, Segments};
use platform::service::Descriptor;
use platform::tun::{self, Offloads, Tun};
use tokio::sync::mpsc;

/// A source and sink of the host's packets.
#[derive(Debug)]
pub(crate) enum Device {
    /// The kernel's.
    Tun(Tun),
    /// Another task's.
    Memory(MemoryDevice),
}

/// The tunnel's end of a packet device in memory.
#[derive(Debug)]
pub struct MemoryDevice {
    to_host: mpsc::Sender<Bytes>,
    from_host: mpsc::Receiver<Bytes>,
}

/// The host's end of a packet device in memory: whoever plays the IP stack.
#[derive(Debug)]
pub struct MemoryHost {
    /// Packets into the tunnel.
    pub to_tunnel: mpsc::Sender<Bytes>,
    /// Packets out of the tunnel.
    pub from_tunnel: mpsc::Receiver<Bytes>,
}

impl MemoryDevice {
    /// Both ends of a device whose queues hold `packets` each; a packet that finds its queue full is dropped.
    pub fn pair(packets: usize) -> (Self, MemoryHost) {
        let (to_host, from_tunnel) = mpsc::channel(packets);
        let (to_tunnel, from_host) = mpsc::channel(packets);
        (Self { to_host, from_host }, MemoryHost { to_tunnel, from_tunnel })
    }
}

impl Device {
    /// Another descriptor of the kernel's device.
    pub(crate) fn descriptor(&self) -> Option<io::Result<Descriptor>> {
        match self {
            Self::Tun(tun) => Some(tun.descriptor()),
            Self::Memory(_) => None,
        }
    }

    /// What it takes at once; nothing if that is one packet.
    pub(crate) fn offloads(&self) -> Option<Offloads> {
        match self {
            Self::Tun(tun) => tun.offloads(),
            Self::Memory(_) => None,
        }
    }

    /// The packets in what it gave.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]
    pub(crate) fn segments<'a>(&self, read: &'a [u8]) -> Result<Segments<'a>, DropReason> {
        match self.offloads() {
            Some(_) => {
                let (offload, packet) = Offload::split(read)?;
                Segments::new(&offload, packet)
            }
            None => Segments::plain(read),
        }
    }

    /// Waits for a packet of the host, or several of one flow. Cancel safe.
    pub(crate) async fn recv(&mut self, packet: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tun(tun) => tun.recv(packet).await,
            Self::Memory(memory) => match memory.from_host.recv().await {
                Some(bytes) => Ok(copy(&bytes, packet)),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// Takes what waits of the host, [`io::ErrorKind::WouldBlock`] if nothing does.
    pub(crate) fn try_recv(&mut self, packet: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tun(tun) => tun.try_recv(packet),
            Self::Memory(memory) => match memory.from_host.try_recv() {
                Ok(bytes) => Ok(copy(&bytes, packet)),
                Err(mpsc::error::TryRecvError::Empty) => Err(io::ErrorKind::WouldBlock.into()),
                Err(mpsc::error::TryRecvError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// Hands a packet to the host if it takes it at once.
    pub(crate) fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Tun(tun) if tun.offloads().is_some() => {
                let header = Offload::default().header(0);
                self.try_send_pieces(&[IoSlice::new(&header), IoSlice::new(packet)])
            }
            Self::Tun(tun) => tun.try_send(packet).map(drop),
            Self::Memory(memory) => {
                memory
                    .to_host
                    .try_send(Bytes::copy_from_slice(packet))
                    .map_err(|error| match error {
                        mpsc::error::TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
                        mpsc::error::TrySendError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
                    })
            }
        }
    }

    /// Hands over what a device with offloads takes, beginning with the header, if it takes it at once.
    pub(crate) fn try_send_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        match self {
            Self::Tun(tun) => tun.try_send_pieces(pieces).map(drop),
            Self::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sets the largest packet of the kernel's device, in bytes.
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        match self {
            Self::Tun(tun) => tun.set_mtu(mtu),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Whether this error means that the device is gone for good.
    pub(crate) fn is_gone(error: &io::Error) -> bool {
        tun::is_gone(error) || error.kind() == io::ErrorKind::BrokenPipe
    }
}

/// As a TUN device does: what does not fit is cut off.
fn copy(bytes: &[u8], packet: &mut [u8]) -> usize {
    let length = bytes.len().min(packet.len());
    packet[..length].copy_from_slice(&bytes[..length]);
    length
}
