//! The TUN device: made by tun-rs, read and written by ourselves, because tun-rs adopts no device with offloads and copies what it puts together.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tun_rs::{DeviceBuilder, Layer};

use super::capabilities::{NET_ADMIN_HINT, TUN_DEVICE, tun_device_fault};
use super::network::index_of;
use crate::PlatformError;
use crate::tun::{Identity, MAX_NAME, Offloads, TunOptions, name_fault};

/// A TUN device of our own. Dropping it removes the device with its addresses and routes (about 20 ms in the kernel,
/// whatever their number).
pub struct Tun {
    device: AsyncFd<OwnedFd>,
    name: String,
    index: u32,
    offloads: Option<Offloads>,
}

/// One queue of a TUN device of our own, for the thread that is to read it. A device goes with the last of its queues.
pub struct TunQueue {
    device: OwnedFd,
    name: String,
    index: u32,
    offloads: Option<Offloads>,
}

impl TunQueue {
    /// Makes a device in the network namespace of this thread, down, without addresses, and gives its queues. Which queue gets a packet of the host is
    /// the kernel's choice: the one that a packet of the same flow was last written to, else one by a hash of the flow.
    pub fn create(options: &TunOptions, queues: usize) -> Result<Vec<Self>, PlatformError> {
        let (name, several) = (&options.name, queues > 1);
        let first = make(options, several)?;
        let failed = |what: &str, source| PlatformError::io(format!("{what} {name}"), source);
        let index = index_of(name).map_err(|source| failed("find the TUN device", source))?;
        let offloads = match options.offloads {
            true => Some(offload(first.as_fd()).map_err(|source| failed("offload to", source))?),
            false => None,
        };
        let mut devices = vec![first];
        while devices.len() < queues {
            let queue = another_queue(name, options.offloads);
            devices.push(queue.map_err(|source| failed("open another queue of", source))?);
        }
        let queue = |device| Self {
            device,
            name: name.clone(),
            index,
            offloads,
        };
        Ok(devices.into_iter().map(queue).collect())
    }

    /// Index of the interface, unique in its network namespace for the life of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Begins to use it on this thread. Needs a tokio runtime with I/O.
    pub fn open(self) -> Result<Tun, PlatformError> {
        let Self {
            device,
            name,
            index,
            offloads,
        } = self;
        match watch(device) {
            Ok(device) => Ok(Tun {
                device,
                name,
                index,
                offloads,
            }),
            Err(source) => Err(PlatformError::io(format!("watch the TUN device {name}"), source)),
        }
    }
}

impl fmt::Debug for TunQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunQueue")
            .field("name", &self.name)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Tun {
    /// Makes the device in the network namespace of this thread: down, without addresses. Needs a tokio runtime with I/O.
    pub fn create(options: &TunOptions) -> Result<Self, PlatformError> {
        let mut queues = TunQueue::create(options, 1)?;
        queues.pop().expect("one was asked for").open()
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
        let device = watch(descriptor).map_err(|source| PlatformError::io(what(), source))?;
        Ok(Self {
            device,
            name: expected_name.to_owned(),
            index,
            offloads,
        })
    }

    /// Another descriptor of the device. As long as one is open, anywhere, the device stays.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.device.get_ref().try_clone()
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
        loop {
            // A device that is removed has nothing to read, only an error.
            let mut ready = self.device.ready(Interest::READABLE | Interest::ERROR).await?;
            match self.try_recv(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                outcome => return outcome,
            }
        }
    }

    /// Takes a packet if one is waiting, [`io::ErrorKind::WouldBlock`] otherwise.
    pub fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the kernel writes at most as many bytes as the slice has, which lives for the duration of the call.
        let length = unsafe { libc::read(self.number(), packet.as_mut_ptr().cast(), packet.len()) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }

    /// Hands one packet to the host, now or never: a device has no queue in this direction. One that is down refuses it (EIO).
    pub fn try_send(&self, packet: &[u8]) -> io::Result<usize> {
        // SAFETY: the kernel reads as many bytes as the slice has, which lives for the duration of the call.
        let length = unsafe { libc::write(self.number(), packet.as_ptr().cast(), packet.len()) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }

    /// As [`Tun::try_send`], with the packet in at most 1,024 pieces.
    pub fn try_send_pieces(&self, packet: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = libc::c_int::try_from(packet.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: an `IoSlice` is an `iovec` (the standard library says so), and there are as many as are said to be; the kernel
        // only reads.
        let length = unsafe { libc::writev(self.number(), packet.as_ptr().cast(), count) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }

    /// Changes the MTU, in bytes, of a device in use too: addresses, routes and state stay. To be called in the network
    /// namespace of the device. Below 1280 the kernel takes all IPv6 addresses and routes off, and does not bring them back.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        // With the name that it has now.
        let mut request = request(self.device.get_ref().as_fd())?;
        request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
        // SAFETY: SIOCSIFMTU reads one ifreq, and `request` is one with a name that the kernel wrote.
        match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU as _, &request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn number(&self) -> RawFd {
        self.device.get_ref().as_raw_fd()
    }
}

/// Makes a device, with its first queue.
fn make(options: &TunOptions, several: bool) -> Result<OwnedFd, PlatformError> {
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
            builder
                .packet_information(false)
                .offload(*offloads)
                .multi_queue(several);
        })
        .build_sync();
    let device = device.map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => PlatformError::NotPermitted {
            what: format!("create the TUN device {name}"),
            hint: NET_ADMIN_HINT.to_owned(),
        },
        // EINVAL: the name belongs to another kind of interface, made since we looked.
        Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => PlatformError::InterfaceInUse { name: name.clone() },
        _ => PlatformError::io(format!("create the TUN device {name}"), source),
    })?;
    // SAFETY: tun-rs gives up the descriptor, which is open and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) })
}

/// Opens one more queue of a device that was made for several, in the same mode.
fn another_queue(name: &str, offloads: bool) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(TUN_DEVICE)?;
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    if offloads {
        flags |= libc::IFF_VNET_HDR;
    }
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(MAX_NAME)) {
        *place = byte as libc::c_char;
    }
    // The kernel reads sixteen bits.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, and `request` is one with a closed name.
    match unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } {
        0 => Ok(device.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the runtime watch a device.
fn watch(device: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let number = device.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL take numbers and touch no memory of ours.
    unsafe {
        let flags = libc::fcntl(number, libc::F_GETFL);
        if flags < 0 || libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the descriptor stays open for as long as the runtime watches it: both are owned by what is returned.
    let watched = unsafe { AsyncFd::register_with_interest(device, Interest::READABLE | Interest::ERROR) };
    watched.map_err(|error| error.into_parts().1)
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
    let request = request(descriptor)?;
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

/// Name and flags, as the kernel has them.
fn request(descriptor: BorrowedFd<'_>) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, and `request` is one. Devices of other kinds answer with an error.
    if unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TUNGETIFF as _, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
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
