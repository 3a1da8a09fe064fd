//! The service manager, spoken to as systemd understands it.

use std::ffi::OsString;
use std::io::{self, Read, Seek};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

use crate::service::{MAX_SEALED, MAX_STORED_NAME};

/// Something of the system that a service manager can keep.
pub use std::os::fd::OwnedFd as Descriptor;

/// What a sealed memory file must have: nothing of it can change any more, nor can the seals.
const SEALS: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

/// The most descriptors taken over: a gateway's listening sockets, or a tunnel's device, socket and ticket.
const MAX_TAKEN: usize = 64;

/// The service manager that started this process and wants to know how it is.
#[derive(Clone, Debug)]
pub struct Manager {
    socket: OsString,
    store: bool,
}

impl Manager {
    /// The one named in the environment (`NOTIFY_SOCKET`), if any.
    pub fn from_env() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        // FDSTORE is the number of descriptors it keeps: set by systemd since 254, by our unit before.
        let store = std::env::var("FDSTORE").is_ok_and(|text| text.trim().parse::<u32>().is_ok_and(|count| count > 0));
        Some(Self { socket, store })
    }

    /// The service does its work now.
    pub fn ready(&self) -> io::Result<()> {
        self.send(&[NotifyState::Ready], None)
    }

    /// The service is about to end.
    pub fn stopping(&self) -> io::Result<()> {
        self.send(&[NotifyState::Stopping], None)
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) -> io::Result<()> {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.send(&[NotifyState::Status(&line)], None)
    }

    /// Whether it keeps descriptors for us.
    pub fn can_store(&self) -> bool {
        self.store
    }

    /// Has the manager keep a copy of `descriptor` until we are stopped, or [`Manager::unstore`]. It does not drop it when
    /// the other end hangs up. Storing under a name that is there adds a second one: unstore first.
    pub fn store(&self, name: &str, descriptor: &impl AsFd) -> io::Result<()> {
        let name = format!("FDNAME={}", checked(name)?);
        let message = [
            NotifyState::Custom("FDSTORE=1"),
            NotifyState::Custom(&name),
            NotifyState::Custom("FDPOLL=0"),
        ];
        self.send(&message, Some(descriptor.as_fd()))
    }

    /// Has the manager close what it keeps under `name`.
    pub fn unstore(&self, name: &str) -> io::Result<()> {
        let name = format!("FDNAME={}", checked(name)?);
        let message = [NotifyState::Custom("FDSTOREREMOVE=1"), NotifyState::Custom(&name)];
        self.send(&message, None)
    }

    /// [`io::ErrorKind::WouldBlock`] if the manager does not read its messages.
    fn send(&self, states: &[NotifyState<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&self.address()?)?;
        match descriptor {
            None => socket.send(text.as_bytes()).map(|_| ()),
            Some(descriptor) => send_with(&socket, text.as_bytes(), descriptor),
        }
    }

    /// A leading `@` stands for a name that is no file.
    fn address(&self) -> io::Result<SocketAddr> {
        match self.socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&self.socket),
        }
    }
}

/// As systemd's fdname_is_valid: printable ASCII but colons, which separate names.
fn checked(name: &str) -> io::Result<&str> {
    let valid =
        (1..=MAX_STORED_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if valid {
        Ok(name)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no name for a stored descriptor",
        ))
    }
}

fn send_with(socket: &UnixDatagram, text: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    const SIZE: u32 = size_of::<RawFd>() as u32;
    /// Room for one control message with one descriptor, aligned as the kernel wants it.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let mut control = Control([0; 64]);
    let mut part = libc::iovec {
        iov_base: text.as_ptr().cast_mut().cast(),
        iov_len: text.len(),
    };
    // SAFETY: an all-zero msghdr is valid: null pointers and lengths of zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
    let (space, length) = unsafe { (libc::CMSG_SPACE(SIZE), libc::CMSG_LEN(SIZE)) };
    message.msg_controllen = space as _;
    // SAFETY: the control buffer is larger than CMSG_SPACE of one descriptor and aligned for cmsghdr, so that the first
    // header and its data lie in it; sendmsg reads what the message points to, all of which lives until it returns.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = length as _;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(descriptor.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(sent) if sent == text.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Takes the descriptors that the service manager passed to this process, with their names ("unknown" for those without);
/// none if it passed none, or they were taken before, here or by [`crate::listen::inherited`]. They are closed in our
/// children.
pub fn taken() -> Vec<(String, OwnedFd)> {
    match take() {
        Ok(taken) => taken,
        Err(error) => {
            tracing::warn!(%error, "the descriptors of the service manager cannot be used");
            Vec::new()
        }
    }
}

/// [`taken`], with the reason why there are none.
pub(super) fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if !meant_for_us(std::env::var("LISTEN_PID").ok(), std::process::id()) || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let announced = sd_notify::listen_fds_with_names()?;
    Ok(announced
        .take(MAX_TAKEN)
        .map(|(number, name)| {
            // SAFETY: the service manager opened these descriptors for this process (LISTEN_PID is ours, and each was just
            // found open) and nobody else in it owns them; `TAKEN` keeps a second caller from owning them again.
            (name, unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect())
}

/// Whether descriptors were passed to the process `pid` and not to one before it.
fn meant_for_us(listen_pid: Option<String>, pid: u32) -> bool {
    listen_pid.and_then(|text| text.parse().ok()) == Some(pid)
}

/// Puts `bytes` (at most [`MAX_SEALED`]) into a memory file that nobody can change any more.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() > MAX_SEALED {
        return Err(too_large());
    }
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the call returns a new descriptor or -1.
    let number = unsafe { libc::memfd_create(c"marmot".as_ptr(), flags) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else knows it.
    let mut file = unsafe { std::fs::File::from_raw_fd(number) };
    io::Write::write_all(&mut file, bytes)?;
    // SAFETY: fcntl with these arguments takes integers only.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// The bytes of a memory file from [`sealed`].
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is something else, could still be changed, or is larger than [`MAX_SEALED`].
pub fn unseal(descriptor: OwnedFd) -> io::Result<Vec<u8>> {
    // SAFETY: fcntl with these arguments takes integers only; other files than memory files answer with an error.
    let seals = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & SEALS != SEALS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a sealed memory file"));
    }
    let mut file = std::fs::File::from(descriptor);
    let length = file.metadata()?.len();
    if usize::try_from(length).is_ok_and(|length| length > MAX_SEALED) {
        return Err(too_large());
    }
    file.rewind()?;
    let mut bytes = Vec::with_capacity(MAX_SEALED);
    file.take(MAX_SEALED as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("more than {MAX_SEALED} bytes for a sealed memory file"),
    )
}
