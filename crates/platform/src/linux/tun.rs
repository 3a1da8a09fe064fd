//! The TUN device through tun-rs, behind our own type.

use std::fmt;
use std::fs::OpenOptions;
use std::io;

use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use super::capabilities::{NET_ADMIN_HINT, TUN_DEVICE, tun_device_fault};
use super::network::index_of;
use crate::PlatformError;
use crate::tun::{TunOptions, name_fault};

/// A TUN device of our own. Dropping it removes the device with its addresses and routes (about 20 ms in the kernel,
/// whatever their number).
pub struct Tun {
    device: AsyncDevice,
    name: String,
    index: u32,
}

impl Tun {
    /// Makes the device in the network namespace of this thread: down, without addresses. Needs a tokio runtime with I/O.
    pub fn create(options: &TunOptions) -> Result<Self, PlatformError> {
        let TunOptions { name, mtu } = options;
        let name = name.clone();
        if let Some(reason) = name_fault(&name) {
            return Err(PlatformError::InterfaceName { name, reason });
        }
        // tun-rs would make the device file, and the kernel would hand us a persistent device of somebody else.
        if let Err(error) = OpenOptions::new().read(true).write(true).open(TUN_DEVICE) {
            return Err(match error.raw_os_error() {
                Some(libc::ENOENT) => PlatformError::TunMissing,
                Some(libc::EPERM | libc::EACCES) => PlatformError::NotPermitted {
                    what: format!("create the TUN device {name}"),
                    hint: tun_device_fault(&error),
                },
                _ => PlatformError::io(format!("open {TUN_DEVICE}"), error),
            });
        }
        if index_of(&name).is_ok() {
            return Err(PlatformError::InterfaceInUse { name });
        }

        let device = DeviceBuilder::new()
            .name(name.as_str())
            .mtu(*mtu)
            .layer(Layer::L3)
            .inherit_enable_state()
            .with(|builder| {
                builder.packet_information(false).offload(false);
            })
            .build_async();
        let device = device.map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => PlatformError::NotPermitted {
                what: format!("create the TUN device {name}"),
                hint: NET_ADMIN_HINT.to_owned(),
            },
            // EINVAL: the name belongs to another kind of interface, made since we looked.
            Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => PlatformError::InterfaceInUse { name: name.clone() },
            _ => PlatformError::io(format!("create the TUN device {name}"), source),
        })?;
        let index =
            index_of(&name).map_err(|source| PlatformError::io(format!("find the TUN device {name}"), source))?;
        Ok(Self { device, name, index })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface, unique in its network namespace for the life of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Waits for one packet of the host; a packet larger than the buffer is cut off. Cancel safe. Of the errors only those
    /// of [`is_gone`] are final, the others cost one packet.
    pub async fn recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.device.recv(packet).await
    }

    /// Takes a packet if one is waiting, [`io::ErrorKind::WouldBlock`] otherwise.
    pub fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.device.try_recv(packet)
    }

    /// Hands one packet to the host. Cancel safe. A device that is down refuses it (EIO).
    pub async fn send(&self, packet: &[u8]) -> io::Result<usize> {
        self.device.send(packet).await
    }

    /// Hands one packet to the host if it takes it at once, [`io::ErrorKind::WouldBlock`] otherwise.
    pub fn try_send(&self, packet: &[u8]) -> io::Result<usize> {
        self.device.try_send(packet)
    }

    /// Changes the MTU, in bytes. To be called in the network namespace of the device.
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

/// Whether this error of a [`Tun`] means that somebody removed the device.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}
