//! The TUN device through tun-rs, behind our own type.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use super::capabilities::{NET_ADMIN_HINT, TUN_DEVICE, tun_device_fault};
use super::network::index_of;
use crate::PlatformError;
use crate::tun::{Identity, Offloads, TunOptions, name_fault};

/// A TUN device of our own. Dropping it removes the device with its addresses and routes (about 20 ms in the kernel,
/// whatever their number).
pub struct Tun {
    device: AsyncDevice,
    name: String,
    index: u32,
    offloads: Option<Offloads>,
}

impl Tun {
    /// Makes the device in the network namespace of this thread: down, without addresses. Needs a tokio runtime with I/O.
    pub fn create(options: &TunOptions) -> Result<Self, PlatformError> {
        let TunOptions { name, mtu, offloads } = options;
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
                builder.packet_information(false).offload(*offloads);
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
        let offloads = match offloads {
            true => Some(
                offload(device.as_fd()).map_err(|source| PlatformError::io(format!("offload to {name}"), source))?,
            ),
            false => None,
        };
        Ok(Self {
            device,
            name,
            index,
            offloads,
        })
    }

    /// Goes on with a device that was kept for us over a restart ([`Tun::descriptor`]), as it is: with its addresses, routes,
    /// state and offloads. Closes the descriptor if it is not the TUN device `expected_name` of this thread's network namespace, made
    /// as [`Tun::create`] does. Needs a tokio runtime with I/O.
    pub fn adopt(descriptor: OwnedFd, expected_name: &str) -> Result<Self, PlatformError> {
        let what = || format!("keep the TUN device {expected_name}");
        let device = ask(descriptor.as_fd()).map_err(|source| PlatformError::io(what(), source))?;
        let refuse = |reason: String| PlatformError::io(what(), io::Error::new(io::ErrorKind::InvalidData, reason));
        if device.name != expected_name {
            return Err(refuse(format!("the descriptor belongs to {}", device.name)));
        }
        let has_header = match device.flags & MODES {
            libc::IFF_TUN => false,
            WITH_HEADER => true,
            _ => return Err(refuse(format!("it works in another mode (flags {:#x})", device.flags))),
        };
        if is_elsewhere(descriptor.as_fd()) {
            return Err(refuse("it is in another network namespace".to_owned()));
        }
        let index = index_of(expected_name).map_err(|source| PlatformError::io(what(), source))?;
        let offloads = match has_header {
            true => Some(offload(descriptor.as_fd()).map_err(|source| PlatformError::io(what(), source))?),
            false => None,
        };
        // SAFETY: an open descriptor of a TUN device, whose only owner we are; that it has no packet information cannot be
        // asked, but every device of ours is made so. It is closed if this fails.
        let device = unsafe { AsyncDevice::from_fd(descriptor.into_raw_fd()) };
        let device = device.map_err(|source| PlatformError::io(what(), source))?;
        Ok(Self {
            device,
            name: expected_name.to_owned(),
            index,
            offloads,
        })
    }

    /// Another descriptor of the device. As long as one is open, anywhere, the device stays.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.device.as_fd().try_clone_to_owned()
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface, unique in its network namespace for the life of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// With offloads: then every packet that is read or written begins with a header of 10 bytes.
    pub fn offloads(&self) -> Option<Offloads> {
        self.offloads
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

    /// As [`Tun::try_send`], with the packet in pieces.
    pub fn try_send_pieces(&self, packet: &[IoSlice<'_>]) -> io::Result<usize> {
        self.device.try_send_vectored(packet)
    }

    /// Changes the MTU, in bytes, of a device in use too: addresses, routes and state stay. To be called in the network
    /// namespace of the device. Below 1280 the kernel takes all IPv6 addresses and routes off, and does not bring them back.
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

/// The flags that decide how a device works (include/uapi/linux/if_tun.h), without those that the kernel mixes up:
/// `IFF_NO_PI` shares its bit with "no filter".
const MODES: libc::c_int =
    libc::IFF_TUN | libc::IFF_TAP | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | libc::IFF_PERSIST;

/// A device with offloads.
const WITH_HEADER: libc::c_int = libc::IFF_TUN | libc::IFF_VNET_HDR;

/// Tells the kernel what may be left to us. A kernel before 6.2 refuses the whole mask because of the flags for UDP.
fn offload(descriptor: BorrowedFd<'_>) -> io::Result<Offloads> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let set = |mask: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes a number and touches no memory of ours.
        match unsafe {
            libc::ioctl(
                descriptor.as_raw_fd(),
                libc::TUNSETOFFLOAD as _,
                libc::c_ulong::from(mask),
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match set(tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6) {
        Ok(()) => Ok(Offloads { udp: true }),
        Err(_) => set(tcp).map(|()| Offloads { udp: false }),
    }
}

/// Says which TUN device a descriptor belongs to ([`Tun::descriptor`]), and leaves it as it is. As long as the descriptor is
/// open, no other device can be meant.
///
/// # Errors
/// It belongs to none, or to one that somebody removed ([`is_gone`]).
pub fn identify(descriptor: &OwnedFd) -> io::Result<Identity> {
    let device = ask(descriptor.as_fd())?;
    Ok(Identity {
        name: device.name,
        here: !is_elsewhere(descriptor.as_fd()),
    })
}

/// What the kernel says about a descriptor.
struct Device {
    name: String,
    flags: libc::c_int,
}

fn ask(descriptor: BorrowedFd<'_>) -> io::Result<Device> {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, and `request` is one. Devices of other kinds answer with an error.
    if unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TUNGETIFF as _, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    // SAFETY: TUNGETIFF fills in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(Device {
        name: String::from_utf8_lossy(&name).into_owned(),
        flags: libc::c_int::from(flags),
    })
}

/// Whether the device is known to be in another network namespace than this thread. Kernels before 5.2 cannot say.
fn is_elsewhere(descriptor: BorrowedFd<'_>) -> bool {
    // SAFETY: TUNGETDEVNETNS takes nothing and gives a new descriptor or -1.
    let namespace = unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TUNGETDEVNETNS as _) };
    if namespace < 0 {
        return false;
    }
    // SAFETY: just opened, and nobody else knows it.
    let namespace = unsafe { File::from_raw_fd(namespace) };
    let identity = |metadata: io::Result<Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    identity(namespace.metadata()) != identity(std::fs::metadata("/proc/thread-self/ns/net"))
}

/// Whether this error of a [`Tun`] means that somebody removed the device.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}
