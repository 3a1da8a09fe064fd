//! The root power domain of IOKit (`IORegisterForSystemPower`). Never run on this system yet.
//!
//! ```text
//!   kernel --> thread with a run loop: hear --- Notice, Allow ---> relay, a task
//!          <-------------- IOAllowPowerChange: Allow dropped <----
//! ```
//! It needs no privilege and no bundle. Of a daemon that registers like this the kernel thinks as of an old application: it is
//! told of the sleeps and wakes of a user, and of no maintenance wake between them.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use objc2_core_foundation::{CFRetained, CFRunLoop, kCFRunLoopDefaultMode};
use objc2_io_kit::{
    IO_OBJECT_NULL, IOAllowPowerChange, IODeregisterForSystemPower, IONotificationPort, IONotificationPortRef,
    IORegisterForSystemPower, IOServiceClose, io_connect_t, io_object_t, io_service_t, kIOMessageCanSystemSleep,
    kIOMessageSystemHasPoweredOn, kIOMessageSystemWillNotSleep, kIOMessageSystemWillPowerOn, kIOMessageSystemWillSleep,
};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::power::PowerSource;
use crate::power::relay::{MAX_NOTICES, Notice, macos, relay};

/// As long as logind waits. The kernel would wait for 30 s, and only a few times.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A run loop that was told to end before it ran notices it after this time.
const RUN_S: f64 = 3600.0;

// The numbers are ours, because they are tested on every system; here they meet those of the header.
const _: () = {
    assert!(kIOMessageCanSystemSleep == macos::CAN_SYSTEM_SLEEP);
    assert!(kIOMessageSystemWillSleep == macos::SYSTEM_WILL_SLEEP);
    assert!(kIOMessageSystemWillNotSleep == macos::SYSTEM_WILL_NOT_SLEEP);
    assert!(kIOMessageSystemWillPowerOn == macos::SYSTEM_WILL_POWER_ON);
    assert!(kIOMessageSystemHasPoweredOn == macos::SYSTEM_HAS_POWERED_ON);
};

type Said = mpsc::Sender<(Notice, Option<Allow>)>;

/// There is no D-Bus here, so there is nothing at its address.
pub(crate) fn open(bus: Option<String>) -> PowerSource {
    if bus.is_some() {
        return PowerSource::none();
    }
    let (mut feed, source) = PowerSource::fed();
    let task = tokio::spawn(async move {
        let (said, notices) = mpsc::channel(MAX_NOTICES);
        let (ready, registered) = oneshot::channel();
        let over = Arc::new(AtomicBool::new(false));
        let thread_over = Arc::clone(&over);
        let thread = thread::Builder::new().name("power".to_owned());
        if let Err(error) = thread.spawn(move || listen(said, ready, &thread_over)) {
            debug!(%error, "no thread to hear of sleep");
            return;
        }
        let Ok(run_loop) = registered.await else {
            debug!("the kernel does not tell of sleep");
            return;
        };
        // Dropped after what `relay` holds: nothing is allowed on a connection that is closed.
        let _listening = Listening { run_loop, over };
        relay(&mut feed, notices, LONGEST_WAIT).await;
    });
    source.served_by(task.abort_handle())
}

/// The run loop of a thread that listens, which ends when this is dropped.
struct Listening {
    run_loop: RunLoop,
    over: Arc<AtomicBool>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.run_loop.0.stop();
        self.run_loop.0.wake_up();
    }
}

/// The run loop of another thread.
struct RunLoop(CFRetained<CFRunLoop>);

// SAFETY: of the functions of a run loop, `CFRunLoopStop` and `CFRunLoopWakeUp` may be called by any thread, and so may
// `CFRelease`; nothing else is called outside its own thread.
unsafe impl Send for RunLoop {}

/// The kernel waits for this. Dropping it lets it go on.
struct Allow {
    kernel: io_connect_t,
    message: isize,
}

impl Drop for Allow {
    fn drop(&mut self) {
        let result = IOAllowPowerChange(self.kernel, self.message);
        debug!(result, "the host may sleep");
    }
}

/// Who hears the kernel. Lives in the thread that listens for as long as that is registered.
struct Ears {
    said: Said,
    /// Known as soon as it is registered, which is before the run loop runs.
    kernel: Cell<io_connect_t>,
}

/// The thread: registers, tells so, and hears what the kernel says until it is over.
fn listen(said: Said, ready: oneshot::Sender<RunLoop>, over: &AtomicBool) {
    let Some(run_loop) = CFRunLoop::current() else { return };
    let ears = Ears {
        said,
        kernel: Cell::new(IO_OBJECT_NULL),
    };
    let mut port: IONotificationPortRef = ptr::null_mut();
    let mut notifier: io_object_t = IO_OBJECT_NULL;
    let context = ptr::from_ref(&ears).cast_mut().cast::<c_void>();
    // SAFETY: `ears` lives until the end of this function, where nothing is registered any more; it is only read. The two
    // places are valid for writes during the call, and `hear` has the signature that is asked for.
    let kernel = unsafe { IORegisterForSystemPower(context, &mut port, Some(hear), &mut notifier) };
    if kernel == IO_OBJECT_NULL {
        return;
    }
    ears.kernel.set(kernel);
    // SAFETY: the kernel's answer was good, so the port is one, and is not destroyed yet.
    let messages = unsafe { IONotificationPort::run_loop_source(port) };
    // SAFETY: a constant of the framework.
    let mode = unsafe { kCFRunLoopDefaultMode };
    run_loop.add_source(messages.as_deref(), mode);
    if ready.send(RunLoop(run_loop.clone())).is_ok() {
        while !over.load(Ordering::Acquire) {
            CFRunLoop::run_in_mode(mode, RUN_S, false);
        }
    }
    run_loop.remove_source(messages.as_deref(), mode);
    // SAFETY: `notifier` and `port` are those of the registration above, each is given back once, and nobody hears them any more.
    unsafe {
        IODeregisterForSystemPower(&mut notifier);
        IONotificationPort::destroy(port);
    }
    IOServiceClose(kernel);
}

/// Called by the run loop for each message.
unsafe extern "C-unwind" fn hear(context: *mut c_void, _service: io_service_t, message: u32, argument: *mut c_void) {
    // SAFETY: the context is what `listen` registered, in this thread, and outlives the registration.
    let ears = unsafe { &*context.cast::<Ears>() };
    // Dropped at once where there is nothing to wait for, or nobody takes it.
    let allow = macos::is_a_question(message).then(|| Allow {
        kernel: ears.kernel.get(),
        message: argument as isize,
    });
    if let Some(notice) = macos::notice(message) {
        let _ = ears.said.try_send((notice, allow));
    }
}
