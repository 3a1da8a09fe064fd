//! What macOS and Windows say of sleep, in our words, and how long the host waits for the client.
//!
//! ```text
//!   a thread of the system --- Notice, permit ---> relay --- words --------------> PowerSource
//!                          <-- permit dropped:           <-- acknowledgement ----
//!                              the sleep may go on
//! ```
//! No system is called here, so it is tested on each. A permit is whatever lets the host sleep when it is dropped: one that got
//! lost on the way has done so.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Feed, PowerEvent, Promise, Surroundings};

/// Notices on their way. Each is taken at once, unless the runtime stands still; then the host does not wait for it.
pub(crate) const MAX_NOTICES: usize = 16;

/// What the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It will sleep as soon as everybody is ready.
    WillSleep,
    /// It had a mind to sleep, and has not any more.
    StaysAwake,
    /// It runs again; nothing of a user.
    Resumed,
    /// A user is there.
    UserPresent,
}

/// A message of macOS' root power domain (IOMessage.h, `IORegisterForSystemPower`).
pub(crate) mod macos {
    use super::Notice;

    pub(crate) const CAN_SYSTEM_SLEEP: u32 = 0xe000_0270;
    pub(crate) const SYSTEM_WILL_SLEEP: u32 = 0xe000_0280;
    pub(crate) const SYSTEM_WILL_NOT_SLEEP: u32 = 0xe000_0290;
    pub(crate) const SYSTEM_HAS_POWERED_ON: u32 = 0xe000_0300;
    pub(crate) const SYSTEM_WILL_POWER_ON: u32 = 0xe000_0320;

    /// What it means, if anything here. A daemon is not told of maintenance wakes, nor of the sleep after one
    /// (IOPMrootDomain.cpp): what it is told of a wake is told at one with a user.
    pub(crate) fn notice(message: u32) -> Option<Notice> {
        match message {
            // It may, as far as we are asked. The word is said when it will.
            CAN_SYSTEM_SLEEP => None,
            SYSTEM_WILL_SLEEP => Some(Notice::WillSleep),
            SYSTEM_WILL_NOT_SLEEP => Some(Notice::StaysAwake),
            SYSTEM_WILL_POWER_ON => Some(Notice::Resumed),
            SYSTEM_HAS_POWERED_ON => Some(Notice::UserPresent),
            _ => None,
        }
    }

    /// Whether the kernel waits for an answer, 30 s if need be. To any other message there must be none.
    pub(crate) fn is_a_question(message: u32) -> bool {
        matches!(message, CAN_SYSTEM_SLEEP | SYSTEM_WILL_SLEEP)
    }
}

/// A power event of Windows (winuser.h, `WM_POWERBROADCAST`).
pub(crate) mod windows {
    use super::Notice;

    pub(crate) const SUSPEND: u32 = 4;
    pub(crate) const RESUME_SUSPEND: u32 = 7;
    pub(crate) const RESUME_AUTOMATIC: u32 = 18;

    /// What it means, if anything here. Each wake is `RESUME_AUTOMATIC`; with a user it is `RESUME_SUSPEND` besides.
    pub(crate) fn notice(event: u32) -> Option<Notice> {
        match event {
            SUSPEND => Some(Notice::WillSleep),
            RESUME_AUTOMATIC => Some(Notice::Resumed),
            RESUME_SUSPEND => Some(Notice::UserPresent),
            _ => None,
        }
    }

    /// What a state of the console's display means (`GUID_CONSOLE_DISPLAY_STATE`: off, on, dimmed). Under modern standby
    /// nothing else tells of a user.
    pub(crate) fn display(state: u32) -> Option<Notice> {
        (state == 1).then_some(Notice::UserPresent)
    }
}

/// Passes on what the system says, until it says nothing any more. After [`Notice::WillSleep`] the host waits for the
/// client's acknowledgement, for the next notice, or for this long.
pub(crate) async fn relay<Permit>(
    feed: &mut Feed,
    mut notices: mpsc::Receiver<(Notice, Permit)>,
    longest_wait: Duration,
) {
    feed.know(Surroundings {
        promise: Promise::Presence,
        ..Surroundings::default()
    });
    let mut announced = false;
    let mut waits: Option<(Permit, Instant)> = None;
    loop {
        let until = waits.as_ref().map(|(_, until)| *until);
        tokio::select! {
            biased;
            said = notices.recv() => {
                let Some((notice, permit)) = said else { return };
                waits = None;
                let word = word(notice, &mut announced);
                // Who does not hear it finds out by the clocks, and is not waited for.
                let heard = word.is_some_and(|word| feed.say(word));
                if heard && word == Some(PowerEvent::Sleeping) {
                    waits = Some((permit, Instant::now() + longest_wait));
                }
            }
            () = feed.acknowledgement(), if until.is_some() => waits = None,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => waits = None,
        }
    }
}

/// The word for it. A sleep that was announced and does not take place ends as one that did, with a user: somebody kept the
/// host awake.
fn word(notice: Notice, announced: &mut bool) -> Option<PowerEvent> {
    let was_announced = std::mem::replace(announced, notice == Notice::WillSleep);
    match notice {
        Notice::WillSleep => Some(PowerEvent::Sleeping),
        Notice::StaysAwake => was_announced.then_some(PowerEvent::UserPresent),
        Notice::Resumed => Some(PowerEvent::Resumed),
        Notice::UserPresent => Some(PowerEvent::UserPresent),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;
    use crate::power::PowerSource;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(600);

    const SOON: Duration = Duration::from_millis(10);

    /// Held by the host: it sleeps when the other end is dropped.
    type Gate = std_mpsc::Receiver<()>;

    /// A system that speaks.
    struct System(mpsc::Sender<(Notice, std_mpsc::Sender<()>)>);

    impl System {
        async fn say(&self, notice: Notice) -> Gate {
            let (permit, gate) = std_mpsc::channel();
            self.0.send((notice, permit)).await.expect("somebody listens");
            gate
        }
    }

    fn is_open(gate: &Gate) -> bool {
        gate.try_recv() == Err(std_mpsc::TryRecvError::Disconnected)
    }

    async fn opens(gate: &Gate) {
        while !is_open(gate) {
            tokio::task::yield_now().await;
        }
    }

    fn start(longest_wait: Duration) -> (System, PowerSource, tokio::task::JoinHandle<()>) {
        let (mut feed, source) = PowerSource::fed();
        let (said, notices) = mpsc::channel(MAX_NOTICES);
        let task = tokio::spawn(async move { relay(&mut feed, notices, longest_wait).await });
        (System(said), source, task)
    }

    #[test]
    fn messages_of_macos() {
        let table = [
            (0xe000_0270, None, true),
            (0xe000_0280, Some(Notice::WillSleep), true),
            (0xe000_0290, Some(Notice::StaysAwake), false),
            (0xe000_0300, Some(Notice::UserPresent), false),
            (0xe000_0320, Some(Notice::Resumed), false),
            // A restart, and paging that was switched off.
            (0xe000_0310, None, false),
            (0xe000_0255, None, false),
        ];
        for (message, notice, question) in table {
            assert_eq!(macos::notice(message), notice, "{message:x}");
            assert_eq!(macos::is_a_question(message), question, "{message:x}");
        }
    }

    #[test]
    fn events_of_windows() {
        let table = [
            (4, Some(Notice::WillSleep)),
            (18, Some(Notice::Resumed)),
            (7, Some(Notice::UserPresent)),
            // Mains or battery, and a setting.
            (10, None),
            (0x8013, None),
        ];
        for (event, notice) in table {
            assert_eq!(windows::notice(event), notice, "{event}");
        }
        let displays = [0, 1, 2].map(windows::display);
        assert_eq!(displays, [None, Some(Notice::UserPresent), None]);
    }

    #[tokio::test]
    async fn a_sleep_waits_for_the_acknowledgement_and_nothing_else_does() {
        let (system, mut source, _task) = start(LONG);
        opens(&system.say(Notice::StaysAwake).await).await;
        assert_eq!(source.promise(), Promise::Presence);
        for _ in 0..2 {
            let gate = system.say(Notice::WillSleep).await;
            assert_eq!(source.next().await, PowerEvent::Sleeping);
            assert!(!is_open(&gate));
            source.acknowledge_sleep();
            opens(&gate).await;
            opens(&system.say(Notice::Resumed).await).await;
            opens(&system.say(Notice::UserPresent).await).await;
            assert_eq!(source.next().await, PowerEvent::Resumed);
            assert_eq!(source.next().await, PowerEvent::UserPresent);
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_of_the_sleep_before_lets_no_host_sleep() {
        let (system, mut source, _task) = start(LONG);
        let first = system.say(Notice::WillSleep).await;
        assert_eq!(source.next().await, PowerEvent::Sleeping);
        opens(&system.say(Notice::Resumed).await).await;
        assert!(is_open(&first));
        let second = system.say(Notice::WillSleep).await;
        source.acknowledge_sleep();
        assert_eq!(source.next().await, PowerEvent::Resumed);
        assert_eq!(source.next().await, PowerEvent::Sleeping);
        tokio::task::yield_now().await;
        assert!(!is_open(&second));
        source.acknowledge_sleep();
        opens(&second).await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_answer_holds_no_sleep_up_for_long() {
        let (system, mut source, _task) = start(SOON);
        let gate = system.say(Notice::WillSleep).await;
        assert_eq!(source.next().await, PowerEvent::Sleeping);
        opens(&gate).await;
    }

    #[tokio::test]
    async fn a_sleep_that_does_not_take_place_ends_with_a_user() {
        let (system, mut source, _task) = start(LONG);
        opens(&system.say(Notice::StaysAwake).await).await;
        let gate = system.say(Notice::WillSleep).await;
        assert_eq!(source.next().await, PowerEvent::Sleeping);
        opens(&system.say(Notice::StaysAwake).await).await;
        assert!(is_open(&gate));
        assert_eq!(source.next().await, PowerEvent::UserPresent);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_does_not_listen() {
        let (system, source, task) = start(LONG);
        let gate = system.say(Notice::WillSleep).await;
        drop(source);
        let later = system.say(Notice::WillSleep).await;
        opens(&gate).await;
        opens(&later).await;
        task.abort();
    }

    #[tokio::test]
    async fn an_end_of_the_listener_lets_the_host_sleep() {
        let (system, mut source, task) = start(LONG);
        let gate = system.say(Notice::WillSleep).await;
        assert_eq!(source.next().await, PowerEvent::Sleeping);
        task.abort();
        opens(&gate).await;
        assert_eq!(source.promise(), Promise::None);
    }
}
