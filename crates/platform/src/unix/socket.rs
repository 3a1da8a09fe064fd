//! Listening on a Unix socket, which is nobody else's before its access is set.

use std::ffi::CString;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::PlatformError;
use crate::os::socket::Place;

/// A listening local socket.
pub use std::os::unix::net::UnixListener;

/// Connections that wait for us to take them. A control socket has a handful of clients.
const BACKLOG: i32 = 64;

/// Access to a folder that we make for the socket: the group may enter, others see nothing.
const FOLDER_MODE: u32 = 0o750;

/// The most bytes of the group database's answer about one group; a group has a name, a number and a list of members.
const MAX_GROUP: usize = 64 * 1024;

/// Listens on `path`, non-blocking, with access `mode`, for `group` if there is such a group and we may give it; otherwise
/// for the owner alone, with a warning.
///
/// A missing folder is made (mode 0750, same group); one that is there stays as it is. The socket of a dead process is
/// replaced.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if somebody listens there, [`io::ErrorKind::AlreadyExists`] if something else than a socket
/// is there.
pub fn listen_unix(path: &Path, mode: u32, group: Option<&str>) -> Result<UnixListener, PlatformError> {
    listen(path, mode, group).map_err(|source| PlatformError::io(format!("listen on {}", path.display()), source))
}

/// Goes on with a listening local socket that was kept for us; it comes non-blocking and is closed in our children.
pub fn adopt_unix(descriptor: OwnedFd) -> Result<UnixListener, PlatformError> {
    adopt(descriptor).map_err(|source| PlatformError::io("use a kept local socket", source))
}

/// Gives the socket at `path` the access that [`listen_unix`] gives, whatever it had: for one that was kept for us
/// ([`adopt_unix`]), whose group may be another today.
///
/// # Errors
/// Something else than a socket of ours is there.
pub fn set_access_unix(path: &Path, mode: u32, group: Option<&str>) -> Result<(), PlatformError> {
    give_access(path, mode, wanted_group(path, group))
        .map_err(|source| PlatformError::io(format!("set who may use {}", path.display()), source))
}

fn listen(path: &Path, mode: u32, group: Option<&str>) -> io::Result<UnixListener> {
    let gid = wanted_group(path, group);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    make_folder(folder, gid)?;
    let address = SockAddr::unix(path)?;
    remove_dead(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Linux makes the file with the access of the socket: nobody else gets in before its access is set.
    // SAFETY: fchmod takes a descriptor, which is open, and an integer. Other systems refuse; there the folder protects it.
    unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) };
    socket.bind(&address)?;
    let ready = give_access(path, mode, gid).and_then(|()| socket.listen(BACKLOG));
    if let Err(error) = ready {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn make_folder(folder: &Path, gid: Option<u32>) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => {
            // Whoever may write above may have put something else there by now.
            let made = Place::find(folder)?;
            let metadata = made.metadata()?;
            if !metadata.is_dir() {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            }
            check_ours(&metadata)?;
            made.set_mode(FOLDER_MODE)?;
            give_group(&made, folder, gid).map(|_| ())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a socket at which nobody listens, found by asking: one that refuses is dead.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no socket is there; remove it",
            ));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Non-blocking: a full queue is a sign of life too.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers there; stop it first",
        )),
    }
}

fn wanted_group(path: &Path, name: Option<&str>) -> Option<u32> {
    let name = name?;
    let found = group_number(name);
    if found.is_none() {
        tracing::warn!(group = name, socket = %path.display(), "no such group: the socket is for its owner alone");
    }
    found
}

/// Never follows a link: a service's user may put one in the socket's place, and root must not open to him what it leads to.
fn give_access(path: &Path, mode: u32, gid: Option<u32>) -> io::Result<()> {
    let socket = Place::find(path)?;
    let metadata = socket.metadata()?;
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "something that is no socket is in its place",
        ));
    }
    check_ours(&metadata)?;
    // Nobody else, until it belongs to whom it is for.
    socket.set_mode(mode & 0o700)?;
    if give_group(&socket, path, gid)? {
        socket.set_mode(mode & 0o777)?;
    }
    Ok(())
}

fn check_ours(metadata: &Metadata) -> io::Result<()> {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let own = unsafe { libc::geteuid() };
    if metadata.uid() == own {
        return Ok(());
    }
    let words = format!("it belongs to another user (number {})", metadata.uid());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, words))
}

/// Whether it belongs to the wanted group now. Somebody who is not in it may not give it.
fn give_group(place: &Place, path: &Path, gid: Option<u32>) -> io::Result<bool> {
    let Some(gid) = gid else {
        return Ok(false);
    };
    // A sandbox may forbid the call altogether, and there is nothing to be changed.
    if place.metadata()?.gid() == gid {
        return Ok(true);
    }
    match place.set_group(gid) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(gid, path = %path.display(), "not permitted to give this to its group: it is for its owner alone");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn group_number(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut size = 1024;
    while size <= MAX_GROUP {
        let mut buffer = vec![0 as libc::c_char; size];
        // SAFETY: an all-zero group is valid: integers and null pointers.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `size` is the length of the buffer.
        let result = unsafe { libc::getgrnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), size, &mut found) };
        match result {
            libc::ERANGE => size *= 4,
            0 if !found.is_null() => return Some(entry.gr_gid),
            _ => return None,
        }
    }
    None
}

fn adopt(descriptor: OwnedFd) -> io::Result<UnixListener> {
    let fd = descriptor.as_fd();
    let socket = SockRef::from(&fd);
    socket.set_cloexec(true)?;
    let local = socket.local_addr()?.is_unix();
    if !local || socket.r#type()? != Type::STREAM || !is_listening(&socket) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a listening local socket",
        ));
    }
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from(descriptor))
}

/// Accepting says so where the system cannot be asked: only a listening socket answers "none there".
fn is_listening(socket: &SockRef<'_>) -> bool {
    #[cfg(target_os = "linux")]
    return socket.is_listener().unwrap_or(false);
    #[cfg(not(target_os = "linux"))]
    return socket.listen(BACKLOG).is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixStream;

    fn kind(error: PlatformError) -> ErrorKind {
        match error {
            PlatformError::Io { source, .. } => source.kind(),
            other => panic!("{other}"),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").mode() & 0o7777
    }

    #[test]
    fn a_socket_stands_complete_in_a_folder_of_its_own() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("run/marmot/home.sock");
        let listener = listen_unix(&path, 0o660, Some("root")).expect("listen");
        assert_eq!(mode(&folder.path().join("run/marmot")), 0o750);
        let given = fs::metadata(&path).expect("metadata").gid() == 0;
        assert_eq!(mode(&path), if given { 0o660 } else { 0o600 });
        assert_eq!(fs::read_dir(folder.path().join("run/marmot")).expect("list").count(), 1);
        UnixStream::connect(&path).expect("connect");
        listener.accept().expect("accept");
        assert_eq!(
            listener.accept().expect_err("non-blocking").kind(),
            ErrorKind::WouldBlock
        );
    }

    #[test]
    fn without_its_group_a_socket_is_for_the_owner_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let before = mode(folder.path());
        for (name, group) in [("none.sock", None), ("unknown.sock", Some("no-such-group-here"))] {
            let path = folder.path().join(name);
            let _listener = listen_unix(&path, 0o660, group).expect("listen");
            assert_eq!(mode(&path), 0o600, "{name}");
        }
        assert_eq!(mode(folder.path()), before, "a folder that was there stays as it is");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("home.sock");
        let first = listen_unix(&path, 0o600, None).expect("listen");
        let error = listen_unix(&path, 0o600, None).expect_err("alive");
        assert_eq!(kind(error), ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("still the first");
        // One that is too busy to take connections lives too.
        let connect = || {
            let waiting = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            waiting.set_nonblocking(true)?;
            waiting.connect(&SockAddr::unix(&path)?).map(|()| waiting)
        };
        let _waiting: Vec<Socket> = std::iter::from_fn(|| connect().ok()).collect();
        let error = listen_unix(&path, 0o600, None).expect_err("busy");
        assert_eq!(kind(error), ErrorKind::AddrInUse);
        drop(first);
        let _second = listen_unix(&path, 0o600, None).expect("dead");
        UnixStream::connect(&path).expect("connect");
    }

    #[test]
    fn what_is_no_socket_is_not_touched() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("home.sock");
        fs::write(&path, "precious").expect("write");
        assert_eq!(
            kind(listen_unix(&path, 0o600, None).expect_err("a file")),
            ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).expect("read"), b"precious");
        fs::remove_file(&path).expect("remove");
        symlink("elsewhere", &path).expect("link");
        assert_eq!(
            kind(listen_unix(&path, 0o600, None).expect_err("a link")),
            ErrorKind::AlreadyExists
        );
        let long = folder.path().join("x".repeat(200));
        listen_unix(&long, 0o600, None).expect_err("too long for an address");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn access_is_set_anew_and_never_through_a_link() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("home.sock");
        let listener = listen_unix(&path, 0o600, None).expect("listen");
        // SAFETY: getegid takes nothing and cannot fail.
        let own = unsafe { libc::getegid() };
        give_access(&path, 0o660, Some(own)).expect("ours");
        assert_eq!(mode(&path), 0o660);
        set_access_unix(&path, 0o660, Some("no-such-group-here")).expect("ours");
        assert_eq!(mode(&path), 0o600, "yesterday's group is out");

        let precious = folder.path().join("precious");
        fs::write(&precious, "precious").expect("write");
        let before = mode(&precious);
        fs::rename(&path, folder.path().join("away.sock")).expect("rename");
        for target in [precious.as_path(), &folder.path().join("away.sock")] {
            symlink(target, &path).expect("link");
            set_access_unix(&path, 0o666, None).expect_err("a link");
            give_access(&path, 0o666, Some(own)).expect_err("a link");
            fs::remove_file(&path).expect("remove");
        }
        assert_eq!(mode(&precious), before);
        assert_eq!(mode(&folder.path().join("away.sock")), 0o600);
        set_access_unix(&precious, 0o666, None).expect_err("no socket");
        assert_eq!(
            kind(set_access_unix(&path, 0o666, None).expect_err("gone")),
            ErrorKind::NotFound
        );
        drop(listener);
        // SAFETY: geteuid takes nothing and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let other = folder.path().join("away.sock");
        if root && std::os::unix::fs::chown(&other, Some(12_345), None).is_ok() {
            let error = set_access_unix(&other, 0o666, None).expect_err("another user's");
            assert_eq!(kind(error), ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_kept_socket_goes_on_listening() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("home.sock");
        let listener = listen_unix(&path, 0o600, None).expect("listen");
        let kept = OwnedFd::from(listener);
        let _waiting = UnixStream::connect(&path).expect("connect");
        let listener = adopt_unix(kept).expect("adopted");
        listener.accept().expect("who came meanwhile");
        let (one, _two) = UnixStream::pair().expect("pair");
        adopt_unix(one.into()).expect_err("not listening");
        adopt_unix(fs::File::open("/dev/null").expect("null").into()).expect_err("no socket");
    }
}
