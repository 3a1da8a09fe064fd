//! The clocks of one program, under a test's control: an hour of its sleep takes no time.
//!
//! ```text
//!                 boot clock, wall clock      awake clock     as
//!   Clock::sleep        go on                   stands        the host slept
//!   Clock::pass         go on                   goes on       the host was awake, and this program was not scheduled
//!   Clock::step_wall    wall goes               stands        somebody set the time
//! ```
//! A library that is preloaded into the program (`shim/clock.rs`) shifts what it reads. The kernel's own timers know nothing
//! of that; those on the boot clock are moved on from outside, so that they ring as at the end of a sleep. What is
//! due by [`Clock::pass`] is seen when the program next looks, and a thread that waits by the C library until a moment of the
//! awake clock waits longer: use it for programs with a single thread.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_gettime, timerfd_settime};

use crate::{Lab, PATIENCE, Process, until};

/// The library, as the build script made it.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libclock.so"));

/// The variable that names the file with the shifts.
const VARIABLE: &str = "MARMOT_LAB_CLOCKS";

const BOOT: usize = 0;
const WALL: usize = 1;
const AWAKE: usize = 2;

/// Clocks of a program, or of several on one host.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    shifts: Mutex<[i64; 3]>,
}

impl Clock {
    /// True clocks, until told otherwise.
    ///
    /// # Errors
    /// If their files cannot be written.
    pub fn new(lab: &Lab) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let library = lab.folder().join("libclock.so");
        if !library.exists() {
            fs::write(&library, LIBRARY).context("cannot write the library of clocks")?;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = lab.folder().join(format!("clocks-{number}"));
        let file = File::create(&path).context("cannot write clocks")?;
        let clock = Self {
            library,
            path,
            file,
            shifts: Mutex::default(),
        };
        clock.shift(&[], 0)?;
        Ok(clock)
    }

    /// Puts a command under these clocks, with what it starts.
    pub fn rule(&self, command: &mut Command) {
        command.env(VARIABLE, &self.path).env("LD_PRELOAD", &self.library);
    }

    /// The host slept this long: the boot clock and the wall clock went on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn sleep(&self, length: Duration) -> Result<()> {
        self.shift(&[BOOT, WALL], nanoseconds(length)?)
    }

    /// So much time went by without a sleep: all clocks went on.
    ///
    /// # Errors
    /// As [`Clock::sleep`].
    pub fn pass(&self, length: Duration) -> Result<()> {
        self.shift(&[BOOT, WALL, AWAKE], nanoseconds(length)?)
    }

    /// Somebody set the time, by so many seconds: the wall clock jumped, perhaps backwards.
    ///
    /// # Errors
    /// As [`Clock::sleep`].
    pub fn step_wall(&self, seconds: i64) -> Result<()> {
        self.shift(&[WALL], seconds.saturating_mul(1_000_000_000))
    }

    fn shift(&self, clocks: &[usize], by: i64) -> Result<()> {
        let mut shifts = self.shifts.lock().map_err(|_| anyhow::anyhow!("clocks are broken"))?;
        for clock in clocks {
            shifts[*clock] = shifts[*clock].saturating_add(by);
        }
        let bytes: Vec<u8> = shifts.iter().flat_map(|shift| shift.to_ne_bytes()).collect();
        self.file.write_all_at(&bytes, 0).context("cannot shift clocks")
    }
}

fn nanoseconds(length: Duration) -> Result<i64> {
    i64::try_from(length.as_nanos()).context("this is longer than 292 years")
}

/// A program on a host that sleeps: it stands still meanwhile, and wakes with its clocks moved on.
#[derive(Debug)]
pub struct Sleeper<'a> {
    process: &'a Process,
    clock: &'a Clock,
    asleep_since: Cell<Option<Instant>>,
}

impl<'a> Sleeper<'a> {
    /// A program that was put under this clock.
    pub fn new(process: &'a Process, clock: &'a Clock) -> Self {
        Self {
            process,
            clock,
            asleep_since: Cell::new(None),
        }
    }

    /// It stands still, when this returns.
    ///
    /// # Errors
    /// If it has ended.
    pub fn fall_asleep(&self) -> Result<()> {
        self.process.stand_still()?;
        self.asleep_since.set(Some(Instant::now()));
        Ok(())
    }

    /// It goes on, after a sleep of this length, or as long as it really stood still if that was longer. Its awake clock did
    /// not go on. Returns when.
    ///
    /// # Errors
    /// If it has ended, or its timers cannot be reached.
    pub fn wake(&self, after: Duration) -> Result<Instant> {
        let really = self.asleep_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        let more = after.saturating_sub(really);
        self.clock.shift(&[AWAKE], -nanoseconds(really)?)?;
        self.clock.sleep(more)?;
        ring(self.process, more)?;
        let at = Instant::now();
        self.process.signal(Signal::CONT)?;
        Ok(at)
    }

    /// A whole sleep of this length, in no time. Returns when it ended.
    ///
    /// # Errors
    /// As [`Sleeper::wake`].
    pub fn night(&self, length: Duration) -> Result<Instant> {
        self.fall_asleep()?;
        self.wake(length)
    }
}

impl Process {
    /// Stops it by SIGSTOP, and waits until it stands still.
    ///
    /// # Errors
    /// If it has ended.
    pub fn stand_still(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let path = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        until("a stopped process", PATIENCE, || {
            let stat = fs::read_to_string(&path).context("cannot look at a process")?;
            // The name before it may hold anything but is in parentheses.
            Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })
    }
}

/// Moves a program's timers on the boot clock on, as a sleep of this length does.
fn ring(process: &Process, slept: Duration) -> Result<()> {
    let handle = pidfd_open(process.pid(), PidfdFlags::empty()).context("cannot open a process")?;
    let folder = format!("/proc/{}", process.pid().as_raw_nonzero());
    for entry in fs::read_dir(format!("{folder}/fd")).context("cannot list descriptors")? {
        let entry = entry.context("cannot list descriptors")?;
        let name = entry.file_name();
        let timer = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("[timerfd]"));
        let number: Option<RawFd> = name.to_str().and_then(|name| name.parse().ok());
        let (true, Some(number)) = (timer, number) else {
            continue;
        };
        let about = fs::read_to_string(format!("{folder}/fdinfo/{number}")).context("cannot look at a timer")?;
        let on_boot_clock = about.lines().filter_map(|line| line.strip_prefix("clockid:"));
        // CLOCK_BOOTTIME and CLOCK_BOOTTIME_ALARM of linux/time.h.
        if !on_boot_clock
            .into_iter()
            .any(|clock| ["7", "9"].contains(&clock.trim()))
        {
            continue;
        }
        let timer = pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()).context("cannot reach a timer")?;
        let set = timerfd_gettime(&timer).context("cannot read a timer")?;
        let left = Duration::new(set.it_value.tv_sec.try_into()?, set.it_value.tv_nsec.try_into()?);
        if left.is_zero() {
            // Not armed.
            continue;
        }
        // Zero would disarm it.
        let left = left.saturating_sub(slept).max(Duration::from_nanos(1));
        let moved = Itimerspec {
            it_interval: set.it_interval,
            it_value: Timespec {
                tv_sec: left.as_secs().try_into()?,
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &moved).context("cannot move a timer")?;
    }
    ensure!(process.is_running(), "{} has ended", process.name());
    Ok(())
}
