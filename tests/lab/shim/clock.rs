//! Preloaded into a program, this shifts the clocks that the program reads by what a test wrote into a shared file.
//!
//! ```text
//!   test --writes--> file: boot | wall | awake, a signed 64-bit number of nanoseconds each
//!                      | mapped
//!   program --clock_gettime, time, gettimeofday--> here --> C library, plus the shift
//!           --timerfd_settime with an absolute time--> here --> C library, less the shift
//! ```
//! It asks for nothing but the C library. Built by the build script of `lab`, with the compiler alone.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

/// Where the file is.
const VARIABLE: &[u8] = b"MARMOT_LAB_CLOCKS\0";

/// Bytes of the file: three numbers.
const LENGTH: usize = 24;

/// `struct timespec` of a 64-bit Linux.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

/// `struct timeval` of a 64-bit Linux.
#[repr(C)]
pub struct Timeval {
    seconds: i64,
    microseconds: i64,
}

/// `struct itimerspec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Timer {
    interval: Timespec,
    value: Timespec,
}

// linux/time.h
const REALTIME: c_int = 0;
const MONOTONIC: c_int = 1;
const MONOTONIC_RAW: c_int = 4;
const REALTIME_COARSE: c_int = 5;
const MONOTONIC_COARSE: c_int = 6;
const BOOTTIME: c_int = 7;
const REALTIME_ALARM: c_int = 8;
const BOOTTIME_ALARM: c_int = 9;

/// `TFD_TIMER_ABSTIME`.
const ABSOLUTE: c_int = 1;

const SECOND: i64 = 1_000_000_000;

unsafe extern "C" {
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn close(file: c_int) -> c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The three numbers; a program without the variable, or whose file is gone, has true clocks.
fn shifts() -> &'static [AtomicI64; 3] {
    static NONE: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
    static MAPPED: OnceLock<&'static [AtomicI64; 3]> = OnceLock::new();
    MAPPED.get_or_init(|| {
        // SAFETY: plain calls of the C library; the mapping is never unmapped, is as long as what is made of it, begins at
        // a page, and any content is valid.
        unsafe {
            let path = getenv(VARIABLE.as_ptr().cast());
            if path.is_null() {
                return &NONE;
            }
            // O_RDONLY | O_CLOEXEC
            let file = open(path, 0o2_000_000);
            if file < 0 {
                return &NONE;
            }
            // PROT_READ, MAP_SHARED
            let at = mmap(null_mut(), LENGTH, 1, 1, file, 0);
            close(file);
            if at as isize == -1 { &NONE } else { &*at.cast() }
        }
    })
}

fn shift(clock: c_int) -> i64 {
    let at = match clock {
        BOOTTIME | BOOTTIME_ALARM => 0,
        REALTIME | REALTIME_COARSE | REALTIME_ALARM => 1,
        MONOTONIC | MONOTONIC_RAW | MONOTONIC_COARSE => 2,
        _ => return 0,
    };
    shifts()[at].load(Ordering::Relaxed)
}

impl Timespec {
    fn plus(self, nanoseconds: i64) -> Self {
        let sum = self.nanoseconds + nanoseconds % SECOND;
        Self {
            seconds: self.seconds + nanoseconds / SECOND + sum.div_euclid(SECOND),
            nanoseconds: sum.rem_euclid(SECOND),
        }
    }

    fn is_zero(self) -> bool {
        (self.seconds, self.nanoseconds) == (0, 0)
    }
}

/// Where the C library's own function of a name is, behind ours.
struct Behind {
    name: &'static CStr,
    found: OnceLock<usize>,
}

impl Behind {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            found: OnceLock::new(),
        }
    }

    /// The function.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn function<F: Copy>(&self) -> F {
        let found = self.found.get_or_init(|| {
            // SAFETY: a name with its zero; RTLD_NEXT is -1.
            unsafe { dlsym(-1_isize as *mut c_void, self.name.as_ptr()) as usize }
        });
        assert!(*found != 0 && size_of::<F>() == size_of::<usize>());
        // SAFETY: of the same size, and by the caller's promise of this type.
        unsafe { std::mem::transmute_copy(found) }
    }
}

type ClockGettime = unsafe extern "C" fn(c_int, *mut Timespec) -> c_int;
type Settime = unsafe extern "C" fn(c_int, c_int, *const Timer, *mut Timer) -> c_int;
type Create = unsafe extern "C" fn(c_int, c_int) -> c_int;

static CLOCK_GETTIME: Behind = Behind::new(c"clock_gettime");
static TIMERFD_CREATE: Behind = Behind::new(c"timerfd_create");
static TIMERFD_SETTIME: Behind = Behind::new(c"timerfd_settime");

/// clock_gettime(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    // SAFETY: its type, and the caller's promise; the kernel wrote to `time` if it says so.
    unsafe {
        let result = CLOCK_GETTIME.function::<ClockGettime>()(clock, time);
        if result == 0 {
            *time = (*time).plus(shift(clock));
        }
        result
    }
}

/// time(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(place: *mut i64) -> i64 {
    let mut now = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: `now` is writable; `place` is by the caller's promise, or null.
    unsafe {
        clock_gettime(REALTIME, &raw mut now);
        if !place.is_null() {
            *place = now.seconds;
        }
    }
    now.seconds
}

/// gettimeofday(2); a time zone is left as it is, as the C library does.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(place: *mut Timeval, _zone: *mut c_void) -> c_int {
    let mut now = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: `now` is writable; `place` is by the caller's promise.
    unsafe {
        clock_gettime(REALTIME, &raw mut now);
        if !place.is_null() {
            *place = Timeval {
                seconds: now.seconds,
                microseconds: now.nanoseconds / 1000,
            };
        }
    }
    0
}

/// The clocks of timers, by descriptor; higher descriptors are not shifted.
static TIMERS: [AtomicI32; 1024] = [const { AtomicI32::new(-1) }; 1024];

/// timerfd_create(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timerfd_create(clock: c_int, flags: c_int) -> c_int {
    // SAFETY: its type, and the caller's promise.
    let timer = unsafe { TIMERFD_CREATE.function::<Create>()(clock, flags) };
    if let Some(place) = usize::try_from(timer).ok().and_then(|at| TIMERS.get(at)) {
        place.store(clock, Ordering::Relaxed);
    }
    timer
}

/// timerfd_settime(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timerfd_settime(timer: c_int, flags: c_int, new: *const Timer, old: *mut Timer) -> c_int {
    let clock = usize::try_from(timer).ok().and_then(|at| TIMERS.get(at));
    let shift = clock.map_or(0, |clock| shift(clock.load(Ordering::Relaxed)));
    // SAFETY: its type, and the caller's promise, for `new` as for what is made of it.
    unsafe {
        let real = TIMERFD_SETTIME.function::<Settime>();
        if flags & ABSOLUTE == 0 || shift == 0 || new == null() || (*new).value.is_zero() {
            return real(timer, flags, new, old);
        }
        let mut shifted = *new;
        shifted.value = shifted.value.plus(-shift);
        if shifted.value.seconds < 0 || shifted.value.is_zero() {
            // Long past: at once. Zero would disarm it.
            shifted.value = Timespec {
                seconds: 0,
                nanoseconds: 1,
            };
        }
        real(timer, flags, &raw const shifted, old)
    }
}
