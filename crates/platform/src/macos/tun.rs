//! The utun device through tun-rs. Never run on this system yet.

use std::fmt;
use std::io::{self, IoSlice};

use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use crate::PlatformError;
use crate::service::Descriptor;
use crate::tun::{Identity, Offloads, TunOptions, name_fault};

/// A utun device of our own. Dropping it removes the device with its addresses and routes.
pub struct Tun {
    device: AsyncDevice,
    name: String,
    index: u32,
}

/// The one queue of a device.
#[derive(Debug)]
pub struct TunQueue(Tun);

impl TunQueue {
    /// As [`Tun::create`]. More than one queue is not supported.
    pub fn create(options: &TunOptions, queues: usize) -> Result<Vec<Self>, PlatformError> {
        if queues > 1 {
            return Err(PlatformError::Unsupported("several queues of a TUN device"));
        }
        Ok(vec![Self(Tun::create(options)?)])
    }

    /// Index of the interface.
    pub fn index(&self) -> u32 {
        self.0.index()
    }

    /// Begins to use it.
    pub fn open(self) -> Result<Tun, PlatformError> {
        Ok(self.0)
    }
}

impl Tun {
    /// Makes the device, without addresses. The kernel chooses the name unless the wanted one is `utunN`. Needs a tokio
    /// runtime with I/O.
    pub fn create(options: &TunOptions) -> Result<Self, PlatformError> {
        let TunOptions { name, mtu, .. } = options;
        if let Some(reason) = name_fault(name) {
            let name = name.clone();
            return Err(PlatformError::InterfaceName { name, reason });
        }
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => PlatformError::NotPermitted {
                what: format!("create the TUN device {name}"),
                hint: "run as root".to_owned(),
            },
            Some(libc::EBUSY | libc::EEXIST) => PlatformError::InterfaceInUse { name: name.clone() },
            _ => PlatformError::io(format!("create the TUN device {name}"), source),
        };
        let mut builder = DeviceBuilder::new().mtu(*mtu).layer(Layer::L3).with(|builder| {
            builder.packet_information(false).associate_route(false);
        });
        if name.starts_with("utun") {
            builder = builder.name(name.as_str());
        }
        let device = builder.build_async().map_err(failed)?;
        let name = device.name().map_err(failed)?;
        let index = device.if_index().map_err(failed)?;
        Ok(Self { device, name, index })
    }

    /// Not supported.
    pub fn adopt(_descriptor: Descriptor, _expected_name: &str) -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("keeping TUN devices"))
    }

    /// Not supported.
    pub fn descriptor(&self) -> io::Result<Descriptor> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// This system has none.
    pub fn offloads(&self) -> Option<Offloads> {
        None
    }

    /// Waits for one packet of the host. Cancel safe.
    pub async fn recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.device.recv(packet).await
    }

    /// Takes a packet if one is waiting, [`io::ErrorKind::WouldBlock`] otherwise.
    pub fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.device.try_recv(packet)
    }

    /// Hands one packet to the host if it takes it at once, [`io::ErrorKind::WouldBlock`] otherwise.
    pub fn try_send(&self, packet: &[u8]) -> io::Result<usize> {
        self.device.try_send(packet)
    }

    /// As [`Tun::try_send`], with the packet in pieces.
    pub fn try_send_pieces(&self, packet: &[IoSlice<'_>]) -> io::Result<usize> {
        self.device.try_send_vectored(packet)
    }

    /// Changes the MTU, in bytes.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.device.set_mtu(mtu)
    }
}

impl fmt::Debug for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Not supported.
pub fn identify(_descriptor: &Descriptor) -> io::Result<Identity> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether this error of a [`Tun`] means that somebody removed the device.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::EBADF))
}
