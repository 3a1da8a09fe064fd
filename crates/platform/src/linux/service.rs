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
    let memory = |flags| {
        // SAFETY: the name is a C string; the call returns a new descriptor or -1.
        unsafe { libc::memfd_create(c"marmot".as_ptr(), flags) }
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Not executable, which some hosts ask for; before Linux 6.3 unknown.
    let number = match memory(flags | libc::MFD_NOEXEC_SEAL) {
        -1 => memory(flags),
        number => number,
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    /// A service manager that somebody may look into.
    struct Desk {
        socket: UnixDatagram,
        manager: Manager,
        _folder: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("notify");
            let socket = UnixDatagram::bind(&path).expect("bind");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("limit");
            let manager = Manager {
                socket: path.into(),
                store: true,
            };
            Self {
                socket,
                manager,
                _folder: folder,
            }
        }

        /// The next message, and what came with it.
        fn next(&self) -> (String, Vec<File>) {
            let mut text = [0_u8; 4096];
            let mut control = [0_u64; 16];
            let mut part = libc::iovec {
                iov_base: text.as_mut_ptr().cast(),
                iov_len: text.len(),
            };
            let mut files = Vec::new();
            // SAFETY: all pointers lead to values on this stack, the control buffer is aligned for its headers, and each
            // descriptor received is owned once.
            let length = unsafe {
                let mut message: libc::msghdr = mem::zeroed();
                message.msg_iov = &mut part;
                message.msg_iovlen = 1;
                message.msg_control = control.as_mut_ptr().cast();
                message.msg_controllen = size_of_val(&control) as _;
                let length = libc::recvmsg(self.socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC);
                let mut header = libc::CMSG_FIRSTHDR(&message);
                while !header.is_null() {
                    assert_eq!((*header).cmsg_type, libc::SCM_RIGHTS);
                    let count = ((*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                    for n in 0..count {
                        let number = libc::CMSG_DATA(header).cast::<RawFd>().add(n).read_unaligned();
                        files.push(File::from_raw_fd(number));
                    }
                    header = libc::CMSG_NXTHDR(&message, header);
                }
                length
            };
            let length = usize::try_from(length).expect("a message");
            (String::from_utf8_lossy(&text[..length]).into_owned(), files)
        }
    }

    #[test]
    fn the_manager_hears_how_we_are() {
        let desk = Desk::new();
        desk.manager.ready().expect("sent");
        assert_eq!(desk.next().0, "READY=1\n");
        desk.manager.stopping().expect("sent");
        assert_eq!(desk.next().0, "STOPPING=1\n");
        desk.manager.status("up since noon\nREADY=1").expect("sent");
        assert_eq!(desk.next().0, "STATUS=up since noon READY=1\n", "a status is one line");
    }

    #[test]
    fn a_stored_descriptor_arrives_with_its_name() {
        let desk = Desk::new();
        let mut own = tempfile::tempfile().expect("file");
        own.write_all(b"kept").expect("write");
        desk.manager.store("tun", &own).expect("sent");
        let (text, files) = desk.next();
        assert_eq!(text, "FDSTORE=1\nFDNAME=tun\nFDPOLL=0\n");
        assert_eq!(files.len(), 1);
        let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).expect("metadata");
        assert_eq!(identity(&files[0]), identity(&own));

        desk.manager.unstore("tun").expect("sent");
        let (text, files) = desk.next();
        assert_eq!(text, "FDSTOREREMOVE=1\nFDNAME=tun\n");
        assert!(files.is_empty());
    }

    #[test]
    fn a_name_cannot_carry_another_message() {
        let desk = Desk::new();
        let file = tempfile::tempfile().expect("file");
        for bad in ["", "a:b", "a b", "a\nSTOPPING=1", "ä", &"x".repeat(MAX_STORED_NAME + 1)] {
            let error = desk.manager.store(bad, &file).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
            desk.manager.unstore(bad).expect_err("refused");
        }
        desk.manager.store(&"x".repeat(MAX_STORED_NAME), &file).expect("sent");
    }

    #[test]
    fn a_manager_that_hangs_holds_up_nobody() {
        let desk = Desk::new();
        let file = tempfile::tempfile().expect("file");
        let full = (0..1_000_000).find_map(|_| desk.manager.store("tun", &file).err());
        assert_eq!(full.expect("a full queue").kind(), ErrorKind::WouldBlock);
        let Desk {
            socket,
            manager,
            _folder,
        } = desk;
        drop(socket);
        assert_eq!(manager.ready().expect_err("dead").kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_manager_may_listen_on_a_name_that_is_no_file() {
        let name = format!("marmot-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("address");
        let socket = UnixDatagram::bind_addr(&address).expect("bind");
        let manager = Manager {
            socket: format!("@{name}").into(),
            store: false,
        };
        manager.ready().expect("sent");
        let mut text = [0; 100];
        let length = socket.recv(&mut text).expect("message");
        assert_eq!(&text[..length], b"READY=1\n");
        assert!(!manager.can_store());
    }

    #[test]
    fn sealed_bytes_arrive_and_nobody_can_change_them() {
        let secret = sealed(b"cookie").expect("sealed");
        // SAFETY: fcntl with these arguments takes integers only.
        let flags = unsafe { libc::fcntl(secret.as_raw_fd(), libc::F_GETFD) };
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
        let mut file = File::from(secret.try_clone().expect("clone"));
        file.write_all(b"x").expect_err("no writing");
        file.set_len(3).expect_err("no shrinking");
        file.set_len(300).expect_err("no growing");
        // SAFETY: as above.
        let more = unsafe { libc::fcntl(secret.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
        assert_eq!(more, -1, "not even a seal");
        let through_proc = format!("/proc/self/fd/{}", secret.as_raw_fd());
        let again = fs::OpenOptions::new().write(true).open(through_proc);
        if let Ok(mut again) = again {
            again.write_all(b"x").expect_err("no writing by another way");
        }
        assert_eq!(unseal(secret).expect("whole"), b"cookie");

        assert_eq!(unseal(sealed(b"").expect("sealed")).expect("empty"), b"");
        let largest = vec![7; MAX_SEALED];
        assert_eq!(unseal(sealed(&largest).expect("sealed")).expect("whole"), largest);
        sealed(&[0; MAX_SEALED + 1]).expect_err("too large");
    }

    #[test]
    fn what_could_still_change_is_not_believed() {
        let kind = |descriptor: OwnedFd| unseal(descriptor).expect_err("refused").kind();
        assert_eq!(kind(tempfile::tempfile().expect("file").into()), ErrorKind::InvalidData);
        let memory = |seals: libc::c_int, length: u64| {
            // SAFETY: the name is a C string; the descriptor is new.
            let file = unsafe {
                File::from_raw_fd(libc::memfd_create(
                    c"test".as_ptr(),
                    libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
                ))
            };
            file.set_len(length).expect("length");
            // SAFETY: fcntl with these arguments takes integers only.
            assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
            OwnedFd::from(file)
        };
        assert_eq!(kind(memory(SEALS & !libc::F_SEAL_WRITE, 10)), ErrorKind::InvalidData);
        assert_eq!(kind(memory(SEALS & !libc::F_SEAL_SEAL, 10)), ErrorKind::InvalidData);
        assert_eq!(kind(memory(SEALS, MAX_SEALED as u64 + 1)), ErrorKind::InvalidData);
        assert_eq!(unseal(memory(SEALS, 3)).expect("whole"), [0, 0, 0]);
    }

    #[test]
    fn descriptors_meant_for_another_process_are_left_alone() {
        assert!(meant_for_us(Some("7".into()), 7));
        assert!(!meant_for_us(Some("8".into()), 7));
        assert!(!meant_for_us(Some("seven".into()), 7));
        assert!(!meant_for_us(None, 7));
    }
}
