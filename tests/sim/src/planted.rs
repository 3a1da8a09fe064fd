//! Faults planted at the borders of lifecycle and ledger: around the disk, in the shell, in inputs and effects. Each must
//! be found, or the simulation is blind there.

use std::fmt;

use crate::broken::Promise;

macro_rules! planted {
    ($($(#[$doc:meta])* $name:ident => $says:literal, $promises:expr;)*) => {
        /// A fault on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Planted {
            $($(#[$doc])* $name,)*
        }

        impl Planted {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The promises that it breaks.
            pub fn breaks(self) -> &'static [Promise] {
                match self {
                    $(Self::$name => &$promises,)*
                }
            }
        }

        impl fmt::Display for Planted {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $says,)*
                })
            }
        }
    };
}

use Promise::*;

planted! {
    /// Shell: `Released` is answered at once.
    AckBeforeRelease => "the stop is acknowledged before the host is restored", [L2Restored];
    /// Shell: `Recorded(Nothing)` is answered at once.
    AckBeforeRecord => "the stop is acknowledged before the work is recorded", [L3Recorded];
    /// Shell: `Curtail` is not obeyed.
    NoCurtail => "nobody answers when the budget is used up", [L1Budget];
    /// Shell: of several acknowledgements, the first is sent.
    OneAckForAll => "a second stop gets no acknowledgement of its own", [L1Budget, L4ChoresLater];
    /// Input: results of an older generation are taken for the present one's.
    FenceOff => "results of older generations count as the present one's", [L2Restored, L3Recorded, L10OneForwards, L9WantedState, L12NoTimeAcrossGaps];
    /// Input: `DeadlineReached` comes with the time of the input before.
    DeadlineStays => "a deadline that fired is not replaced", [L8Deadlines];
    /// Effect: `Housekeep` is carried out before the acknowledgement.
    ChoresFirst => "housekeeping begins before the acknowledgement", [L4ChoresLater];
    /// Effect: `Rest` is not carried out.
    NoRest => "a worker goes on in sleep", [L4ChoresLater];
    /// Effect: `Hold` is not carried out.
    NoHold => "a worker takes up jobs while a stop waits", [L4ChoresLater];
    /// Shell: a start is kept back while a worker runs.
    StartWaits => "a start waits for housekeeping", [L9WantedState];
    /// Shell: the pump goes on after `Release`.
    PumpGoesOn => "a generation that is released goes on forwarding", [L10OneForwards];
    /// Shell: the record with the undo plan is written after the host was changed.
    UndoAfterChange => "the undo record is written after the host was changed", [L11CleanAfterCrash, L15CleanAfterStop];
    /// Shell: records that a crash left are closed, and the host is not looked at.
    UndoForgotten => "the start after a crash does not undo what the record says", [L11CleanAfterCrash];
    /// Shell: what the manager keeps is taken over although a stop was ordered.
    StopForgotten => "the next process takes over what was stopped", [L9WantedState];
    /// Shell: the same, and nobody asks whether the session was closed.
    ClosedAdopted => "a session that was closed is taken over", [L7WorkIsDone, L9WantedState, L11CleanAfterCrash];
    /// Shell: the device is not removed after the acknowledgement.
    DeviceStays => "the device stays after a stop", [L15CleanAfterStop];
    /// Shell: what could not be removed is not named.
    ResidueUnnamed => "what could not be removed is not named", [L2Restored, L15CleanAfterStop];
    /// Disk: `sync_temporary` does nothing.
    NoSyncOfFile => "files are not synced", [L3Recorded, L7WorkIsDone];
    /// Disk: `sync_folder` does nothing.
    NoSyncOfFolder => "folders are not synced", [L3Recorded, L7WorkIsDone];
    /// Disk: `sync_folder` of open/ does nothing.
    NoSyncOfOpen => "the folder of open records is not synced", [L7WorkIsDone, L11CleanAfterCrash];
    /// Disk: a rename from folder to folder is a copy and a removal, the copy not synced.
    RenameByCopy => "jobs move by copying", [L7WorkIsDone];
    /// Disk: everybody gets the worker lock.
    NoLock => "jobs are claimed without the lock", [L7WorkIsDone];
    /// Disk: recovery sees an empty running/.
    RunningIgnored => "recovery does not look into running/", [L7WorkIsDone];
    /// Worker: a chore is noted as done before it is.
    DoneBeforeDeed => "a chore is noted as done before it is done", [L7WorkIsDone];
    /// Worker: the job is finished before its last chore.
    FinishBeforeDeed => "a job is finished before its last chore", [L7WorkIsDone];
    /// Worker: each account gets a name of its own.
    HistoryAppended => "the history is appended to, not keyed", [L7WorkIsDone];
    /// Worker: the logout names the session and not the epoch.
    LogoutOfSession => "a logout ends whatever epoch the session has", [L7WorkIsDone];
    /// Worker: a job that failed is dropped.
    FailureDropped => "a job that fails is removed", [L7WorkIsDone];
    /// Worker: the longest wait, to which a wait is shortened when the clock was set back, is a hundred years.
    WaitsNotShortened => "waiting jobs are lost when the clock is set back", [L7WorkIsDone];
    /// Shell: the deadline of a maintenance wake never comes.
    MaintenanceForEver => "a maintenance wake never ends", [L13NoPairs];
    /// Shell: whatever the machine says of a gap, somebody is there.
    DialInDark => "a maintenance wake is taken for a full one", [L5NoDialAsleep, L4ChoresLater];
    /// Shell: `Mode(Maintenance)` starts a worker.
    ChoreInDark => "housekeeping begins in a maintenance wake", [L4ChoresLater];
    /// Input: a freeze is not told.
    VerdictAcrossGap => "a verdict counts time across a gap", [L12NoTimeAcrossGaps];
    /// Input: words after a sleep that was not announced are dropped, and so is the deadline of a sleep that nobody ends.
    WordsInPairs => "the end of a sleep is believed in only if it is told", [L13NoPairs, L7WorkIsDone, L9WantedState];
    /// Effect: a reset of the control connection ends the session.
    ResetIsEnd => "a reset is counted as a disconnect", [NoFalseEnd];
    /// Shell: the deadline of a sleep's acknowledgement never comes.
    SleepWaits => "a sleep waits for the gateway", [L6SleepAcknowledged];
    /// Shell: what was held is thrown away when the connection stands.
    FirstPacketLost => "the packet that asked for the tunnel is lost", [L17FirstPacket];
    /// Shell: what a kernel says on a new device counts as traffic.
    KernelAsks => "an armed tunnel dials without demand", [L16NoDialUnasked];
    /// Shell: a record whose job could not be written is forgotten while the process lives.
    CloseNotRetried => "a job that could not be written is not written later", [L7WorkIsDone];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dozen_faults_and_more_are_planted_and_each_says_what_it_breaks() {
        assert!(Planted::ALL.len() >= 12);
        for planted in Planted::ALL {
            assert!(!planted.breaks().is_empty(), "{planted}");
        }
    }
}
