//! The façade as the API socket needs it: orders and answers in the words of JSON.

use std::time::Duration;

use api::{Counts, Daemon, Down, Event, History, Housekeeping, JobState, Refused, State, Up, UpOrder, Wanted};
use ledger::{Folder, HistoryEntry, JobId, LedgerError, Owed, Sleep, Summary};
use lifecycle::{Origin, StopReason};
use packet::DropReason;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::books::Trouble;
use crate::clock;
use crate::flows;
use crate::provider::{self, Outcome, Provider, Stopped};
use crate::status::{DnsStatus, Status, Tally, Totals, TunnelStatus};

/// A question to a disk that stands still is answered with that.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// Counters of flow rules come from a program (nft), which takes some milliseconds.
const FLOWS_PATIENCE: Duration = Duration::from_secs(1);

impl Daemon for Provider {
    async fn status(&self) -> api::Status {
        let summary = timeout(DISK_PATIENCE, self.books().question(|ledger| ledger.summary())).await;
        let lockdown = self.gate().verified().await;
        let steered = self.watch().borrow().steered.clone();
        let mut status = status(self.name(), &self.watch().borrow(), lockdown);
        if let Some(told) = steered {
            status.flows = timeout(FLOWS_PATIENCE, flows::counted(&told)).await.ok();
        }
        match summary.unwrap_or(Err(Trouble::Stalled)) {
            Ok(summary) => status.housekeeping = housekeeping(&summary),
            // What was known last will do.
            Err(Trouble::Busy) => {}
            Err(trouble) => {
                status.housekeeping = Housekeeping {
                    problem: Some(trouble.to_string()),
                    ..Housekeeping::default()
                }
            }
        }
        status
    }

    async fn up(&self, order: UpOrder) -> Result<Up, Refused> {
        let started = if order.reconnect {
            self.reconnect().await
        } else {
            self.start(Origin::User).await
        };
        let started = started.map_err(refused)?;
        Ok(Up {
            state: State::of(started.state),
            generation: started.generation,
            already: started.already,
        })
    }

    async fn down(&self) -> Result<Down, Refused> {
        let stopped = self.stop(StopReason::User, false).await.map_err(refused)?;
        match stopped.outcome {
            // The next process has the tunnel, and has to be told.
            Outcome::HandedOver => Err(Refused::Ending),
            Outcome::WasDown | Outcome::Down { .. } => Ok(down(&stopped)),
        }
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        Provider::events(self)
    }

    async fn housekeeping(&self) -> Result<Housekeeping, Refused> {
        self.owed().await
    }

    async fn retry(&self, job: String) -> Result<Housekeeping, Refused> {
        let id: JobId = job
            .parse()
            .map_err(|_| Refused::NotFound(format!("there is no job {job}")))?;
        let now = clock::now().wall;
        let retried = self.books().ask(move |ledger| ledger.retry(id, now));
        patiently(retried).await?;
        self.work_now().await.map_err(refused)?;
        self.owed().await
    }

    async fn run(&self) -> Result<Housekeeping, Refused> {
        self.work_now().await.map_err(refused)?;
        self.owed().await
    }

    async fn history(&self, last: usize) -> Result<History, Refused> {
        let history = patiently(self.books().question(move |ledger| ledger.history(last))).await?;
        Ok(History {
            sessions: history.entries.iter().rev().map(session).collect(),
        })
    }
}

impl Provider {
    async fn owed(&self) -> Result<Housekeeping, Refused> {
        let summary = patiently(self.books().question(|ledger| ledger.summary())).await?;
        Ok(housekeeping(&summary))
    }
}

async fn patiently<T>(asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Refused> {
    let answer = timeout(DISK_PATIENCE, asked).await.unwrap_or(Err(Trouble::Stalled));
    answer.map_err(|trouble| match &trouble {
        Trouble::Ledger(LedgerError::NoSuchJob(_)) => Refused::NotFound(trouble.to_string()),
        Trouble::Ledger(_) | Trouble::Folder(_) | Trouble::Kept { .. } | Trouble::Stalled | Trouble::Busy => {
            Refused::Failed(trouble.to_string())
        }
    })
}

fn refused(refused: provider::Refused) -> Refused {
    match refused {
        provider::Refused::Exiting | provider::Refused::Ended => Refused::Ending,
        provider::Refused::Mistaken(why) => Refused::Conflict(why),
    }
}

/// The status in the words of the API.
pub(crate) fn status(name: &str, status: &Status, lockdown: api::Lockdown) -> api::Status {
    let traffic = &status.session_traffic;
    api::Status {
        name: name.to_owned(),
        state: State::of(status.state),
        wanted: if status.wanted { Wanted::Up } else { Wanted::Down },
        generation: status.generation,
        since_unix_ms: Some(status.since_unix_ms),
        pid: std::process::id(),
        daemon: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: status.gateway.clone(),
        user: status.user.clone(),
        problem: status.problem.clone(),
        tunnel: status.tunnel.as_ref().map(tunnel),
        lockdown,
        traffic: api::Traffic {
            packets_in: traffic.packets_in,
            bytes_in: traffic.bytes_in,
            packets_out: traffic.packets_out,
            bytes_out: traffic.bytes_out,
            dropped: traffic.drops.total(),
        },
        sessions: status.sessions,
        path_losses: status.path_losses,
        clock_gaps: status.clock_gaps,
        totals: totals(status),
        last_stop: status.last_stop.clone(),
        housekeeping: status.owed.clone(),
        flows: None,
    }
}

fn totals(status: &Status) -> api::Totals {
    let Totals {
        disconnects,
        parks,
        unparks,
        wakes,
        attempts,
        suppressed,
        clock_gap,
    } = &status.totals;
    let tally = |tally: &Tally| tally.iter().map(|(word, count)| (word.to_owned(), count)).collect();
    let mut dropped = status.traffic.drops;
    if status.tunnel.is_some() {
        dropped.add(&status.session_traffic.drops);
    }
    let owed = &status.owed.counts;
    api::Totals {
        disconnects_total: tally(disconnects),
        parks_total: tally(parks),
        unparks_total: tally(unparks),
        wakes_total: tally(wakes),
        reconnect_attempts_total: tally(attempts),
        reconnects_suppressed_total: tally(suppressed),
        clock_gap_seconds: clock_gap.as_secs_f64(),
        stop_ack_seconds: status.stop_ack_us.map(|us| Duration::from_micros(us).as_secs_f64()),
        housekeeping_pending: owed.due + owed.running + owed.waiting,
        stale_packets_dropped_total: dropped.of(DropReason::Stale),
        packets_dropped_total: DropReason::ALL
            .iter()
            .map(|reason| (reason.word().to_owned(), dropped.of(*reason)))
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}

fn tunnel(tunnel: &TunnelStatus) -> api::Tunnel {
    let (session, epoch) = tunnel.session.clone().unzip();
    api::Tunnel {
        interface: tunnel.interface.clone(),
        addresses: words(&tunnel.addresses),
        mtu: tunnel.mtu,
        data_channel: tunnel.data_channel.map(str::to_owned),
        routes: words(&tunnel.routes),
        dns: tunnel.dns.as_ref().map(dns),
        session,
        epoch,
        started_unix_ms: Some(tunnel.started_unix_ms),
    }
}

fn dns(dns: &DnsStatus) -> api::Dns {
    api::Dns {
        servers: words(&dns.servers),
        search: dns.search.clone(),
        split: dns.split.clone(),
        way: dns.way.map(str::to_owned),
        problem: dns.problem.clone(),
    }
}

/// An acknowledgement in the words of the API.
pub(crate) fn down(stopped: &Stopped) -> Down {
    let ms = clock::ms(stopped.took);
    match &stopped.outcome {
        Outcome::WasDown => Down {
            already: true,
            ms,
            ..Down::default()
        },
        Outcome::HandedOver => Down { ms, ..Down::default() },
        Outcome::Down { residue, owed } => {
            let (owed, job) = match owed {
                Owed::Recorded(receipt) => (api::Owed::Recorded, Some(receipt.job().to_string())),
                Owed::Nothing => (api::Owed::Nothing, None),
                Owed::DiskTooSlow(_) => (api::Owed::DiskTooSlow, None),
            };
            Down {
                ms,
                residue: residue.clone(),
                owed,
                job,
                ..Down::default()
            }
        }
    }
}

/// A ledger at a glance in the words of the API.
pub(crate) fn housekeeping(summary: &Summary) -> Housekeeping {
    let count = |jobs: usize| u64::try_from(jobs).unwrap_or(u64::MAX);
    let mut jobs: Vec<_> = summary.jobs.iter().map(job).collect();
    jobs.sort_by_key(|job| job.state != JobState::Failed);
    let unlisted = summary.due + summary.running + summary.waiting + summary.failed;
    let omitted = count(unlisted.saturating_sub(jobs.len()));
    let damaged: Vec<_> = summary.damaged.iter().map(ToString::to_string).collect();
    Housekeeping {
        counts: Counts {
            due: count(summary.due),
            running: count(summary.running),
            waiting: count(summary.waiting),
            failed: count(summary.failed),
            done: count(summary.done),
        },
        jobs,
        omitted,
        problem: (!damaged.is_empty()).then(|| format!("files that cannot be read: {}", damaged.join(" "))),
    }
}

fn job(listed: &ledger::Listed) -> api::Job {
    api::Job {
        id: listed.id.to_string(),
        state: match listed.folder {
            Folder::Open | Folder::Due => JobState::Due,
            Folder::Running => JobState::Running,
            Folder::Waiting => JobState::Waiting,
            Folder::Failed => JobState::Failed,
            Folder::Done | Folder::History => JobState::Done,
        },
        chores: listed.owed.iter().map(|word| (*word).to_owned()).collect(),
        attempts: listed.attempts,
        next_unix_ms: listed.not_before_ms,
        deadline_unix_ms: None,
        last_error: listed.last_error.clone(),
    }
}

/// A session that is over in the words of the API.
pub(crate) fn session(entry: &HistoryEntry) -> api::Session {
    let facts = &entry.facts;
    let end = facts.end.as_ref();
    api::Session {
        job: entry.id.to_string(),
        session: facts.session.clone(),
        epoch: facts.epoch,
        gateway: facts.gateway.clone(),
        user: facts.user.clone(),
        addresses: words(&facts.addresses),
        started_unix_ms: facts.started.wall_ms,
        // After a crash that is when the record was found.
        ended_unix_ms: end.filter(|end| end.reason != "crash").map(|end| end.at.wall_ms),
        seconds: facts.lasted_ms().map(|ms| Duration::from_millis(ms).as_secs_f64()),
        traffic: api::Traffic {
            packets_in: facts.packets_in,
            bytes_in: facts.bytes_in,
            packets_out: facts.packets_out,
            bytes_out: facts.bytes_out,
            dropped: facts.dropped,
        },
        path_losses: facts.path_losses,
        wakes: facts.wakes,
        sleeps: facts.sleeps.iter().map(slept).collect(),
        end_reason: end.map(|end| end.reason.clone()),
        detail: end.and_then(|end| end.detail.clone()),
        stop_ack_ms: None,
    }
}

fn slept(sleep: &Sleep) -> api::Sleep {
    let Sleep {
        at_ms,
        gap_s,
        wakes,
        via,
    } = sleep;
    api::Sleep {
        at_unix_ms: *at_ms,
        gap_s: *gap_s,
        wakes: *wakes,
        via: via.clone(),
    }
}

fn words<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
