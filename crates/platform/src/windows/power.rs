//! Suspend and resume, and the console's display, as the power manager tells them to a callback: no window and no service's
//! handler is needed. Never run on this system yet.
//!
//! ```text
//!   power manager --> thread of the system: hear --- Notice, permit ---> relay, a task
//!                 <-- hear returns: the sleep may go on   <-- permit dropped
//! ```

use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc as gate;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::debug;
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, WIN32_ERROR};
use windows_sys::Win32::System::Power::{
    DEVICE_NOTIFY_SUBSCRIBE_PARAMETERS, HPOWERNOTIFY, POWERBROADCAST_SETTING, PowerRegisterSuspendResumeNotification,
    PowerSettingRegisterNotification, PowerSettingUnregisterNotification, PowerUnregisterSuspendResumeNotification,
};
use windows_sys::Win32::System::SystemServices::GUID_CONSOLE_DISPLAY_STATE;
use windows_sys::Win32::UI::WindowsAndMessaging::{
    DEVICE_NOTIFY_CALLBACK, PBT_APMRESUMEAUTOMATIC, PBT_APMRESUMESUSPEND, PBT_APMSUSPEND, PBT_POWERSETTINGCHANGE,
};

use crate::power::PowerSource;
use crate::power::relay::{MAX_NOTICES, Notice, relay, windows};

/// Windows gives a program some 2 s before it sleeps all the same (`PBT_APMSUSPEND`).
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

// The numbers are ours, because they are tested on every system; here they meet those of the header.
const _: () = {
    assert!(PBT_APMSUSPEND == windows::SUSPEND);
    assert!(PBT_APMRESUMESUSPEND == windows::RESUME_SUSPEND);
    assert!(PBT_APMRESUMEAUTOMATIC == windows::RESUME_AUTOMATIC);
};

/// There is no D-Bus here, so there is nothing at its address.
pub(crate) fn open(bus: Option<String>) -> PowerSource {
    if bus.is_some() {
        return PowerSource::none();
    }
    let (mut feed, source) = PowerSource::fed();
    let (said, notices) = mpsc::channel(MAX_NOTICES);
    let registered = match Registered::new(said) {
        Ok(registered) => registered,
        Err(error) => {
            debug!(error, "the power manager does not tell of sleep");
            return source;
        }
    };
    let task = tokio::spawn(async move {
        // Dropped after what `relay` holds, so that no callback waits for it meanwhile.
        let _registered = registered;
        relay(&mut feed, notices, LONGEST_WAIT).await;
    });
    source.served_by(task.abort_handle())
}

/// Who hears the power manager. It is never freed: nothing says that a callback has returned when its registration is gone.
/// A process opens one source, and this is a hundred bytes.
struct Ears(mpsc::Sender<(Notice, gate::Sender<()>)>);

impl Ears {
    /// Waits with [`Notice::WillSleep`] until the sleep may go on.
    fn tell(&self, notice: Notice) {
        let (permit, dropped) = gate::channel();
        if self.0.try_send((notice, permit)).is_ok() && notice == Notice::WillSleep {
            // Nothing is ever sent: it ends with the permit, or with the time.
            let _ = dropped.recv_timeout(LONGEST_WAIT);
        }
    }
}

/// What is registered; not any more once it is dropped.
struct Registered {
    sleep: HPOWERNOTIFY,
    display: Option<HPOWERNOTIFY>,
}

impl Registered {
    fn new(said: mpsc::Sender<(Notice, gate::Sender<()>)>) -> Result<Self, WIN32_ERROR> {
        let ears: &'static Ears = Box::leak(Box::new(Ears(said)));
        let recipient: &'static mut _ = Box::leak(Box::new(DEVICE_NOTIFY_SUBSCRIBE_PARAMETERS {
            Callback: Some(hear),
            Context: ptr::from_ref(ears).cast_mut().cast(),
        }));
        let recipient = ptr::from_mut(recipient).cast::<c_void>();
        let mut handle = ptr::null_mut();
        // SAFETY: the recipient and its context are never freed, the callback has the signature that is asked for, and the
        // place of the handle is valid for writes during the call.
        let result = unsafe { PowerRegisterSuspendResumeNotification(DEVICE_NOTIFY_CALLBACK, recipient, &mut handle) };
        if result != ERROR_SUCCESS {
            return Err(result);
        }
        let sleep = handle as HPOWERNOTIFY;
        // SAFETY: as above; the name of the setting is a constant.
        let result = unsafe {
            PowerSettingRegisterNotification(
                &GUID_CONSOLE_DISPLAY_STATE,
                DEVICE_NOTIFY_CALLBACK,
                recipient,
                &mut handle,
            )
        };
        // Without a word of the display a wake with a user is still told where the host really sleeps.
        let display = (result == ERROR_SUCCESS).then_some(handle as HPOWERNOTIFY);
        Ok(Self { sleep, display })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: the handles are those of the registrations, and each is given back once.
        unsafe {
            PowerUnregisterSuspendResumeNotification(self.sleep);
            if let Some(display) = self.display {
                PowerSettingUnregisterNotification(display);
            }
        }
    }
}

/// Called in a thread of the system for each event.
unsafe extern "system" fn hear(context: *const c_void, event: u32, setting: *const c_void) -> u32 {
    // SAFETY: the context is what was registered, and is never freed.
    let ears = unsafe { &*context.cast::<Ears>() };
    let notice = if event == PBT_POWERSETTINGCHANGE {
        // SAFETY: with this event comes such a setting, valid during the call.
        unsafe { display_state(setting.cast()) }.and_then(windows::display)
    } else {
        windows::notice(event)
    };
    if let Some(notice) = notice {
        ears.tell(notice);
    }
    ERROR_SUCCESS
}

/// The value of the one setting that is asked for.
///
/// # Safety
/// `setting` is null or points to a setting with all its bytes.
unsafe fn display_state(setting: *const POWERBROADCAST_SETTING) -> Option<u32> {
    if setting.is_null() {
        return None;
    }
    // SAFETY: it is not null, so it is valid for reads.
    let length = unsafe { (*setting).DataLength } as usize;
    if length < size_of::<u32>() {
        return None;
    }
    // SAFETY: as many bytes follow as the length says, at whatever place.
    Some(unsafe { ptr::addr_of!((*setting).Data).cast::<u32>().read_unaligned() })
}
