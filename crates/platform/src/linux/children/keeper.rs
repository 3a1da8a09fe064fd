//! The keeper: a process between us and a hook, forked and never exec'd, that outlives neither.
//!
//! It is the subreaper of all that the hook starts (prctl(2)), so whatever loses its parent becomes the keeper's child, in
//! whichever session it is, and is found in `/proc/thread-self/children`. The keeper tells how the hook ended once nobody is
//! left.
//!
//! Everything here runs after a fork in a process that had other threads: system calls on the stack only, no allocation, no
//! lock, no panic.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_int, c_ulong, pid_t};

use crate::children::GRACE;

/// Nice value of a hook: a tenth of the processor time of a busy neighbour.
const NICE: c_int = 10;

/// `IOPRIO_CLASS_IDLE` in its place (include/uapi/linux/ioprio.h): the disk when nobody else wants it.
const DISK_WHEN_IDLE: c_int = 3 << 13;

/// The usual soft limit of descriptors; a daemon may have raised its own.
const DESCRIPTORS: libc::rlim_t = 1024;

/// No kernel has more capabilities (64 bits in capget(2)).
const CAPABILITIES: c_ulong = 64;

/// Time between two attempts to kill what forks faster than it dies.
const AGAIN_MS: c_int = 10;

/// After this many attempts, what is left waits for a dead disk, and so do we: one attempt a second.
const ATTEMPTS: u32 = 200;

const NAME: &CStr = c"marmot-keeper";

/// Divides the forked child into keeper and hook, and returns in the hook only. The keeper holds `kept` until nothing is left
/// of the hook.
pub(super) fn divide(control: RawFd, kept: Option<RawFd>) -> io::Result<()> {
    // SAFETY: all these calls take integers, or pointers to values that live on this stack for the time of the call.
    unsafe {
        // Its own session: no terminal, and no way into the process group of the daemon.
        libc::setsid();
        lower()?;
        // A copy of the daemon's memory without its capabilities: the hook, of the same user, must not look into it.
        libc::prctl(libc::PR_SET_DUMPABLE, 0 as c_ulong);
        // Without it (before Linux 3.4) only the process group is found.
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_ulong);
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, &mut before);
        let keeper = libc::getpid();
        // The C library's fork would take locks that another thread held when we were forked.
        let hook = libc::syscall(libc::SYS_clone, libc::SIGCHLD as c_ulong, 0, 0, 0, 0);
        match pid_t::try_from(hook) {
            Ok(0) => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong);
                if libc::getppid() != keeper {
                    libc::_exit(1);
                }
                without_handlers();
                libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut());
                close_on_exec();
                step_back();
                Ok(())
            }
            Ok(hook) if hook > 0 => keep(control, kept, hook),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A signal before the exec ends the hook. The daemon's handlers would tell the daemon instead, through what was its own pipe.
unsafe fn without_handlers() {
    // SAFETY: sigaction writes to a value on this stack; the default and ignoring are no functions of ours.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let mut now: libc::sigaction = mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut now) == 0 && now.sa_sigaction != libc::SIG_IGN {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// Gives up what a hook must not have. What only makes it more polite may fail.
unsafe fn lower() -> io::Result<()> {
    // SAFETY: as in `divide`.
    unsafe {
        libc::umask(0o077);
        limit(libc::RLIMIT_CORE, 0);
        limit(libc::RLIMIT_NOFILE, DESCRIPTORS);
        // The bounding set first, while we may; without CAP_SETPCAP what follows is enough, since nothing new can be gained.
        for capability in 0..CAPABILITIES {
            libc::prctl(libc::PR_CAPBSET_DROP, capability);
        }
        let none: c_ulong = 0;
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong,
            none,
            none,
            none,
        );
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_ulong, none, none, none) < 0 || !give_up_capabilities() {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives up all capabilities that this process has, or sees that it does not matter: systemd's `~@privileged` forbids even
/// giving up. For anybody but root nothing of them is left after the exec then, since the ambient set is empty and
/// `no_new_privs` keeps files from adding any.
unsafe fn give_up_capabilities() -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3` and this process.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let nothing = [0_u32; 6];
    let mut left = [u32::MAX; 6];
    let mut header = HEADER;
    // SAFETY: capset and capget take a header of two and data of six 32-bit numbers, which live on this stack; capget may
    // write to both.
    unsafe {
        libc::syscall(libc::SYS_capset, HEADER.as_ptr(), nothing.as_ptr()) == 0
            || libc::geteuid() != 0
            || libc::syscall(libc::SYS_capget, header.as_mut_ptr(), left.as_mut_ptr()) == 0 && left == nothing
    }
}

/// Lets everybody else go first. Comes last: until then this process holds copies of the daemon's descriptors, and whoever
/// waits for a lock among them waits for us.
unsafe fn step_back() {
    // SAFETY: the calls take integers.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        // 1: IOPRIO_WHO_PROCESS.
        libc::syscall(libc::SYS_ioprio_set, 1, 0, DISK_WHEN_IDLE);
    }
}

/// Lowers a soft limit.
unsafe fn limit(resource: libc::__rlimit_resource_t, to: libc::rlim_t) {
    // SAFETY: both calls get a pointer to a value on this stack.
    unsafe {
        let mut now: libc::rlimit = mem::zeroed();
        if libc::getrlimit(resource, &mut now) == 0 && now.rlim_cur > to {
            now.rlim_cur = to;
            libc::setrlimit(resource, &now);
        }
    }
}

/// Waits for the end of the hook, or for ours to be asked for; ends what is left; tells.
unsafe fn keep(control: RawFd, kept: Option<RawFd>, hook: pid_t) -> ! {
    // SAFETY: as in `divide`.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        close_all_but(control, kept.unwrap_or(control));
        step_back();
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut child: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut child);
        libc::sigaddset(&mut child, libc::SIGCHLD);
        let signals = libc::signalfd(-1, &child, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        let mut watched = [control, signals].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });

        let mut status: c_int = libc::SIGKILL;
        let mut hook_lives = true;
        let mut kill_at: Option<i64> = None;
        let mut attempts: u32 = 0;
        loop {
            loop {
                let mut ended: c_int = 0;
                let child = libc::waitpid(-1, &mut ended, libc::WNOHANG);
                if child == hook {
                    status = ended;
                    hook_lives = false;
                }
                if child < 0 {
                    // Nobody is left. Who hears of it may want what we kept.
                    if let Some(kept) = kept {
                        libc::close(kept);
                    }
                    tell(control, status);
                }
                if child == 0 {
                    break;
                }
            }
            let asked = watched[0].revents != 0;
            if asked {
                watched[0].fd = -1;
                watched[0].revents = 0;
            }
            if kill_at.is_none() && (asked || !hook_lives) {
                kill_at = Some(now_ms() + GRACE.as_millis() as i64);
                // The keeper is in the group too, and blocks it.
                libc::kill(0, libc::SIGTERM);
            }
            if kill_at.is_some() {
                // Again whenever somebody died: who lost a parent came to us just now.
                signal_children(libc::SIGTERM, Whom::OtherGroups);
            }
            let wait = match kill_at {
                // Without a descriptor for signals we look now and then.
                None if signals < 0 => AGAIN_MS,
                None => -1,
                Some(at) if at > now_ms() => c_int::try_from(at - now_ms()).unwrap_or(AGAIN_MS),
                Some(_) => {
                    if !signal_children(libc::SIGKILL, Whom::All) {
                        // No list of children in this kernel: the process group, and with it the keeper.
                        libc::kill(0, libc::SIGKILL);
                    }
                    attempts = attempts.saturating_add(1);
                    if attempts < ATTEMPTS { AGAIN_MS } else { 1000 }
                }
            };
            libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, wait);
            let mut news = [0_u8; 1024];
            while libc::read(signals, news.as_mut_ptr().cast(), news.len()) > 0 {}
        }
    }
}

unsafe fn tell(control: RawFd, status: c_int) -> ! {
    // SAFETY: send reads the bytes of `status`, which lives on this stack.
    unsafe {
        libc::send(
            control,
            ptr::from_ref(&status).cast(),
            size_of::<c_int>(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        );
        libc::_exit(0)
    }
}

/// Also the pipe on which the spawning process waits for the exec.
unsafe fn close_all_but(one: RawFd, other: RawFd) {
    // SAFETY: the calls take integers; no code that owns one of these descriptors runs in this process any more.
    unsafe {
        let (Ok(first), Ok(second)) = (u32::try_from(one.min(other)), u32::try_from(one.max(other))) else {
            return;
        };
        if close_from_to(0, first) && close_from_to(first + 1, second) && close_from_to(second + 1, u32::MAX) {
            return;
        }
        // Before Linux 5.9.
        for descriptor in (0..descriptor_limit()).filter(|descriptor| *descriptor != one && *descriptor != other) {
            libc::close(descriptor);
        }
    }
}

/// Closes all from `first` on that are below `end`, and says whether the kernel can.
unsafe fn close_from_to(first: u32, end: u32) -> bool {
    // SAFETY: as in `close_all_but`.
    first >= end || unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) == 0 }
}

/// Ours are closed on exec in any case; this is for those that we inherited.
unsafe fn close_on_exec() {
    // SAFETY: the calls take integers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
            return;
        }
        // Before Linux 5.11.
        for descriptor in 3..descriptor_limit() {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// No descriptor has a larger number, unless the limit was lowered after it was opened.
unsafe fn descriptor_limit() -> c_int {
    // SAFETY: the limit is written to a value on this stack.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        c_int::try_from(limit.rlim_max.min(65_536)).unwrap_or(1024)
    }
}

/// Which children a signal is for.
#[derive(Clone, Copy)]
enum Whom {
    All,
    /// Those that a signal to the keeper's group does not reach.
    OtherGroups,
}

/// Sends `signal` to children, wherever they went, and says whether the kernel lists them.
unsafe fn signal_children(signal: c_int, whom: Whom) -> bool {
    // SAFETY: the path is a C string and the buffer lives on this stack.
    unsafe {
        let list = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if list < 0 {
            return false;
        }
        let mut buffer = [0_u8; 4096];
        // A number may be cut in two by the end of the buffer.
        let mut number: pid_t = 0;
        loop {
            let length = libc::read(list, buffer.as_mut_ptr().cast(), buffer.len());
            let Ok(length @ 1..) = usize::try_from(length) else {
                break;
            };
            for byte in buffer.iter().take(length) {
                if byte.is_ascii_digit() {
                    number = number.wrapping_mul(10).wrapping_add(pid_t::from(byte - b'0'));
                } else {
                    signal_one(number, signal, whom);
                    number = 0;
                }
            }
        }
        signal_one(number, signal, whom);
        libc::close(list);
        true
    }
}

unsafe fn signal_one(child: pid_t, signal: c_int, whom: Whom) {
    // SAFETY: the calls take integers. A child that we have not waited for still has its number.
    unsafe {
        let meant = match whom {
            Whom::All => true,
            Whom::OtherGroups => libc::getpgid(child) != libc::getpgrp(),
        };
        if child > 1 && meant {
            libc::kill(child, signal);
        }
    }
}

unsafe fn now_ms() -> i64 {
    // SAFETY: the time is written to a value on this stack.
    unsafe {
        let mut now: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now.tv_sec * 1000 + now.tv_nsec / 1_000_000
    }
}
