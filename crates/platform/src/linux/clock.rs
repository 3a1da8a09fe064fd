//! The three clocks, and a timer on the boot clock. Linux has had the clocks since 2.6.39, the timer since 3.15.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use now::{Awake, Boot, Now, Wall};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::unix::clock::read;

/// Reads the three clocks.
pub fn now() -> Now {
    Now {
        awake: Awake::from_origin(read(libc::CLOCK_MONOTONIC)),
        boot: Boot::from_origin(read(libc::CLOCK_BOOTTIME)),
        wall: Wall::from_origin(read(libc::CLOCK_REALTIME)),
    }
}

/// The number of this run of the kernel: another one means that the host was started anew. Empty if it cannot be read.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// A timer of the kernel: timerfd_create(2).
#[derive(Debug)]
pub(crate) struct Ticker(AsyncFd<OwnedFd>);

impl Ticker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes two numbers and returns a descriptor or -1.
        let descriptor = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: an OwnedFd is the same open descriptor for as long as it lives, and is never taken out of here.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self(registered?))
    }

    pub(crate) fn set_in(&mut self, wait: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let wait = wait.max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec {
            it_interval: once,
            it_value: value,
        };
        // SAFETY: the descriptor is ours and open, `setting` is read during the call, and no old setting is asked for.
        let result = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &setting, ptr::null_mut()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    pub(crate) async fn tick(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|timer| expirations(timer.get_ref())) {
                Ok(read) => return read.map(drop),
                // An expiry of a deadline that was replaced since.
                Err(_would_block) => {}
            }
        }
    }
}

/// Reads how often the timer expired, which begins anew with that.
fn expirations(timer: &OwnedFd) -> io::Result<u64> {
    let mut count = [0; size_of::<u64>()];
    // SAFETY: the descriptor is open, and `count` is valid for writes of its length.
    let length = unsafe { libc::read(timer.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from_ne_bytes(count))
}
