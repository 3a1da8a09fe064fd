//! Preloaded into a program, this counts what the program asks its allocator for, in a file that a test reads.
//!
//! ```text
//!   program --malloc, calloc, realloc, posix_memalign, aligned_alloc--> here: +1, +bytes --> C library
//!                                                                         | mapped
//!   test <--reads-- file: calls | bytes, an unsigned 64-bit number each
//! ```
//! What is given back is not counted. It asks for nothing but the C library of GNU, whose allocator has other names, too. Built by the build
//! script of `lab`, with the compiler alone.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Where the file is.
const VARIABLE: &[u8] = b"MARMOT_LAB_ALLOCATIONS\0";

/// Bytes of the file: two numbers.
const LENGTH: usize = 16;

/// `ENOMEM` and `EINVAL` of Linux.
const NO_MEMORY: c_int = 12;
const INVALID: c_int = 22;

unsafe extern "C" {
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn close(file: c_int) -> c_int;
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(at: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

/// The two numbers; of a program without the variable, or whose file is gone, two that nobody sees.
fn counts() -> &'static [AtomicU64; 2] {
    static NONE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    static MAPPED: AtomicPtr<[AtomicU64; 2]> = AtomicPtr::new(null_mut());
    let mapped = MAPPED.load(Ordering::Acquire);
    if !mapped.is_null() {
        // SAFETY: stored below, where it was valid for ever.
        return unsafe { &*mapped };
    }
    // None of these calls allocates. Two threads may come here at once: then there are two mappings of one file, and the second is kept.
    // SAFETY: plain calls of the C library; the mapping is never unmapped, is as long as what is made of it, begins at a page,
    // and any content is valid.
    let found: &'static [AtomicU64; 2] = unsafe {
        let path = getenv(VARIABLE.as_ptr().cast());
        // O_RDWR | O_CLOEXEC
        let file = if path.is_null() { -1 } else { open(path, 0o2_000_002) };
        // PROT_READ | PROT_WRITE, MAP_SHARED
        let at = mmap(null_mut(), LENGTH, 3, 1, file, 0);
        if file >= 0 {
            close(file);
        }
        if at as isize == -1 { &NONE } else { &*at.cast() }
    };
    MAPPED.store((&raw const *found).cast_mut(), Ordering::Release);
    found
}

fn count(bytes: usize) {
    let [calls, sum] = counts();
    calls.fetch_add(1, Ordering::Relaxed);
    sum.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// malloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count(size);
    // SAFETY: the caller's promise.
    unsafe { __libc_malloc(size) }
}

/// calloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
    count(number.saturating_mul(size));
    // SAFETY: the caller's promise.
    unsafe { __libc_calloc(number, size) }
}

/// realloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(at: *mut c_void, size: usize) -> *mut c_void {
    count(size);
    // SAFETY: the caller's promise.
    unsafe { __libc_realloc(at, size) }
}

/// aligned_alloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    count(size);
    // SAFETY: the caller's promise.
    unsafe { __libc_memalign(alignment, size) }
}

/// posix_memalign(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    if !alignment.is_power_of_two() || alignment % size_of::<usize>() != 0 {
        return INVALID;
    }
    count(size);
    // SAFETY: the caller's promise, for `place` as for the rest.
    unsafe {
        let at = __libc_memalign(alignment, size);
        if at.is_null() {
            return NO_MEMORY;
        }
        *place = at;
    }
    0
}
