//! What happened in the schedules of a run, counted: a simulation in which nothing happens finds nothing.

use std::fmt;

/// Most that a histogram tells apart; the last column holds the rest.
const COLUMNS: usize = 8;

/// How many schedules had how many of something.
pub type Histogram = [u64; COLUMNS];

macro_rules! census {
    ($($name:ident: $says:literal,)*) => {
        /// Things counted in one schedule.
        #[derive(Clone, Debug, Default)]
        pub struct Counts {
            $(#[doc = $says] pub $name: u32,)*
        }

        /// The same over many schedules.
        #[derive(Clone, Debug, Default)]
        pub struct Census {
            /// Schedules.
            pub schedules: u64,
            $(#[doc = $says] pub $name: Histogram,)*
            sums: Counts64,
        }

        #[derive(Clone, Debug, Default)]
        struct Counts64 {
            $($name: u64,)*
        }

        impl Census {
            /// Counts one schedule.
            pub fn add(&mut self, counts: &Counts) {
                self.schedules += 1;
                $(
                    self.$name[(counts.$name as usize).min(COLUMNS - 1)] += 1;
                    self.sums.$name += u64::from(counts.$name);
                )*
            }

            /// Adds what another thread counted.
            pub fn merge(&mut self, other: &Self) {
                self.schedules += other.schedules;
                $(
                    for (mine, theirs) in self.$name.iter_mut().zip(other.$name) {
                        *mine += theirs;
                    }
                    self.sums.$name += other.sums.$name;
                )*
            }
        }

        impl fmt::Display for Census {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:<36}{:>9}", "of each schedule, in percent", "mean")?;
                for column in 0..COLUMNS {
                    let more = if column == COLUMNS - 1 { "+" } else { " " };
                    write!(f, "{column:>6}{more}")?;
                }
                writeln!(f)?;
                $(
                    write!(f, "{:<36}{:>9.2}", $says, self.sums.$name as f64 / self.schedules.max(1) as f64)?;
                    for count in self.$name {
                        write!(f, "{:>6.1} ", 100.0 * count as f64 / self.schedules.max(1) as f64)?;
                    }
                    writeln!(f)?;
                )*
                Ok(())
            }
        }
    };
}

census! {
    steps: "steps",
    starts: "starts ordered",
    stops: "stops ordered",
    restarts: "stops that are restarts",
    stops_together: "stops while stopping",
    curtailed: "stops cut short at the budget",
    sessions: "sessions",
    resumed: "sessions resumed",
    kills: "processes killed",
    kills_in_disk: "processes killed inside a disk call",
    power_losses: "power losses",
    disk_calls: "disk calls",
    disk_errors: "disk calls failed",
    disk_stalls: "disk calls with others meanwhile",
    host_errors: "steps on the host failed",
    workers: "workers with the lock",
    locked_out: "workers without the lock",
    recovered: "jobs found running by a worker",
    chores: "chores done",
    chores_failed: "chores failed",
    pruned: "jobs forgotten as done",
    jobs: "jobs recorded",
    withdrawn: "records withdrawn",
    crash_jobs: "jobs of sessions that crashed",
    sleeps: "sleeps, freezes and clock steps",
    dark_wakes: "maintenance wakes",
    parks: "parks",
    wakes_full: "wakes taken for full ones",
    wakes_maintenance: "wakes taken for maintenance wakes",
    wakes_unknown: "wakes of unknown kind",
    notices: "notices of a silent path",
    armed: "times that a tunnel was armed",
    idles: "times that one fell idle",
    packets: "packets for an armed tunnel",
    first_packets: "of these sent first",
}
