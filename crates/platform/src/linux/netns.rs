//! Network namespaces of our own: leaving the host's, making more, and running code and programs in them.

mod enter;
mod links;

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use super::capabilities::has_sys_admin;
use crate::PlatformError;
use crate::netns::ChildView;

pub use self::enter::unshare_process;

type Result<T> = std::result::Result<T, PlatformError>;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A network namespace, held by a descriptor. It goes when this, its clones and the processes in it are gone.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// Makes an empty network with `lo` up. Needs CAP_SYS_ADMIN, which [`unshare_process`] provides.
    pub fn create() -> Result<Self> {
        let descriptor = on_a_thread(|| {
            // SAFETY: unshare takes flags only; it changes the network namespace of this helper thread alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            own_network()
        })
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) if !has_sys_admin() => PlatformError::Namespace {
                step: "make a network namespace".into(),
                missing: "CAP_SYS_ADMIN is needed, as root or in a user namespace".into(),
            },
            _ => enter::explain("make a network namespace", error),
        })?;
        let namespace = Self { descriptor };
        namespace.up("lo")?;
        namespace.without_address_detection()?;
        Ok(namespace)
    }

    /// The one that this thread is in.
    pub fn current() -> Result<Self> {
        let descriptor =
            own_network().map_err(|source| PlatformError::io("open the network namespace of this thread", source))?;
        Ok(Self { descriptor })
    }

    /// Another hold on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            descriptor: self.descriptor.try_clone()?,
        })
    }

    /// Runs `f` inside, on a thread of its own, and waits for it. Sockets and TUN devices opened there stay in this
    /// namespace wherever they are used later. Do not spawn children with [`die_with_parent`] there: they would die with the
    /// helper thread.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let descriptor = self.descriptor.as_raw_fd();
        on_a_thread(move || {
            enter_network(descriptor)?;
            Ok(f())
        })
        .map_err(|source| PlatformError::io("enter a network namespace", source))
    }

    /// A command whose child runs inside, whichever thread spawns it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_with(program, &ChildView::default())
    }

    /// A command whose child runs inside and sees the file system as `view` says.
    pub fn command_with(&self, program: impl AsRef<OsStr>, view: &ChildView) -> Result<Command> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| PlatformError::io(what, source)
        };
        let namespace = self
            .descriptor
            .try_clone()
            .map_err(failed("hold a network namespace"))?;
        let resolv_conf = match &view.resolv_conf {
            None => None,
            Some(file) => {
                // The link may lead far away; what it leads to is covered.
                let target = fs::canonicalize(RESOLV_CONF).map_err(failed("find /etc/resolv.conf to cover it"))?;
                let file = fs::canonicalize(file).map_err(failed("find the resolv.conf for a child"))?;
                let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
                let pair = name(&file).and_then(|file| Ok((file, name(&target)?)));
                Some(pair.map_err(|error| PlatformError::io("name a resolv.conf", error.into()))?)
            }
        };
        let fresh_sysfs = view.fresh_sysfs;
        let mut command = Command::new(program);
        let prepare = move || {
            enter_network(namespace.as_raw_fd())?;
            if resolv_conf.is_none() && !fresh_sysfs {
                return Ok(());
            }
            // SAFETY: unshare takes flags only.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            enter::make_mounts_private()?;
            if let Some((file, target)) = &resolv_conf {
                enter::mount(Some(file), target, None, libc::MS_BIND)?;
            }
            if fresh_sysfs {
                // Left out where the kernel does not permit it.
                let _ = enter::mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), 0);
            }
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec. It makes system calls only, on values made before the fork, and
        // allocates nothing; building an io::Error from an errno does not allocate.
        unsafe { command.pre_exec(prepare) };
        Ok(command)
    }
}

/// Has the kernel kill the child (`SIGKILL`) when the thread that spawns it ends, in whichever way; spawn it from a thread
/// that lives as long as the child should.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: prctl with these arguments takes integers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: getppid takes nothing and cannot fail.
        if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
            // The parent ended before we asked.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec, makes two system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// Runs `f` on a helper thread that ends with it, so that what it does to its namespaces ends with it too.
fn on_a_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("netns".into()).spawn_scoped(scope, f)?;
        helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn own_network() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn enter_network(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a flag; the caller holds the descriptor open. It changes this thread only.
    check(unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
