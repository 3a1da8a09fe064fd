//! What packets cost the gateway when many sessions share them: the same thin traffic spread over 1, 10 and 100 sessions, and 1,000 in the long run,
//! with one worker and with two.
//!
//! ```text
//!   1 .. 1,000 sessions in one thread  ==== so many packets a second, of all together ====>  gateway ----> echo in the LAN
//!                                      <=================== and back =====================
//! ```
//! A single session sends its packets of a millisecond in one go, so that they are read, sealed and written together; of many sessions each has one. So the cost
//! grows from one session to ten by what batches had saved; what it grows beyond that is what sessions cost by being many.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::field;
use lab::{
    Flock, Lab, PATIENCE, Process, Shares, Signal, Thin, Users, gateway_settings, is_long, start_gateway, users_file,
};

/// Packets per second to the gateway, of all sessions together; as many come back. Two slow processors carry them with room to spare, beside both ends of the load.
const RATE: u32 = 10_000;

/// Bytes of each, with its headers.
const BYTES: usize = 200;

/// Before anything is measured: what waits in the sockets is answered, and memory is warm.
const WARM: Duration = Duration::from_millis(300);

/// How often each number of sessions is measured. The cheapest counts: whatever else the machine does makes packets dearer, never cheaper.
const ROUNDS: usize = 3;

/// What a packet of a hundred sessions costs at most, in packets of a single one. About 2 was measured, all of it batches, which a single session fills and
/// a hundred do not.
const DEARER: f64 = 4.0;

/// What a packet of the most sessions costs at most, in packets of ten, which have no batches either: nothing may grow with their number but
/// the memory that is touched. 1.3 was measured from ten to a thousand.
const GROWN: f64 = 2.0;

/// What each session gets, at least: Jain's index.
const FAIR: f64 = 0.9;

/// The share of packets that are lost at most; there is something else to do on this machine.
const LOST: f64 = 0.1;

/// What each of the most sessions costs the gateway at most, in KiB: about 50 were measured. Buffers that all share are in it, up to 5 MiB.
const EACH_KIB: f64 = 128.0;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip"],
        lab::tests![packets_of_many_sessions_cost_little_more_than_those_of_few],
    )
}

/// One row of the table.
struct Row {
    sessions: usize,
    workers: i64,
    /// Packets per second, both ways.
    rate: f64,
    /// Processor time of the gateway for each, in microseconds.
    cost: f64,
    resident_kib: u64,
    /// The worst of all rounds.
    fairness: f64,
    fewest: u64,
    most: u64,
    sent: u64,
    lost: u64,
    strayed: u64,
}

fn packets_of_many_sessions_cost_little_more_than_those_of_few(lab: &Lab) -> Result<()> {
    let (counts, length): (&[usize], _) = match is_long() {
        true => (&[1, 10, 100, 1000], Duration::from_secs(5)),
        false => (&[1, 10, 100], Duration::from_secs(1)),
    };
    lab.note("| sessions | workers | packets/s | us a packet | RSS, MiB | KiB a session | Jain's index | answers of one | lost |");
    for workers in [1, 2] {
        let rows = rows(lab, workers, counts, length)?;
        let base = rows.first().context("there are rows")?;
        rows.iter().for_each(|row| lab.note(&row.line(each_kib(base, row))));
        rows.iter().try_for_each(Row::check)?;
        compare(lab, &rows)?;
    }
    Ok(())
}

/// Holds the many to what few cost.
fn compare(lab: &Lab, rows: &[Row]) -> Result<()> {
    let cost = |sessions| {
        let row = rows.iter().find(|row| row.sessions == sessions);
        row.map(|row| row.cost).context("it was measured")
    };
    let (Some(base), Some(last)) = (rows.first(), rows.last()) else {
        anyhow::bail!("there are rows");
    };
    let (dearer, grown) = (cost(100)? / cost(1)?, last.cost / cost(10)?);
    lab.note(&format!(
        "{} workers: a packet of 100 sessions costs {dearer:.2} of one of a single session; one of {} sessions {grown:.2} of one of ten",
        last.workers, last.sessions
    ));
    ensure!(dearer <= DEARER, "100 sessions make packets {dearer:.2} times dearer");
    ensure!(
        grown <= GROWN,
        "{} sessions make packets {grown:.2} times dearer",
        last.sessions
    );
    // Only of many: what all share, such as buffers for reading, would be the most of it for a few.
    let each = each_kib(base, last).context("there are more than one")?;
    ensure!(each <= EACH_KIB, "{each:.0} KiB for each session");
    Ok(())
}

fn rows(lab: &Lab, workers: i64, counts: &[usize], length: Duration) -> Result<Vec<Row>> {
    let site = lab.site();
    let room = counts.iter().max().context("there are counts")?;
    let state = lab.folder().join(format!("gateway-of-{workers}"));
    let settings = Flock::room(lab, gateway_settings(lab, site)?, u16::try_from(*room)?)
        .with("network.workers", workers)
        .with_path("storage.state_dir", &state)
        .with("log.level", "info");
    Users::alice()?
        .and(Flock::user(), "nobody types this", &[])?
        .write(&users_file(lab, site))?;
    let gateway = start_gateway(lab, site, &format!("gateway-{workers}"), &settings)?;
    let mut flock = Flock::new(lab, lab.client(), site)?;
    let mut rows = Vec::new();
    for sessions in counts {
        flock.grow(*sessions)?;
        let thin = Thin {
            rate: RATE,
            bytes: BYTES,
            length,
        };
        flock.send(&Thin { length: WARM, ..thin })?;
        rows.push(measure(&gateway, &mut flock, (*sessions, workers), &thin)?);
    }
    let mark = gateway.mark();
    gateway.signal(Signal::TERM)?;
    if workers > 1 {
        let of = |name| field(&gateway, mark, &["gateway stopped"], name);
        lab.note(&format!(
            "{workers} workers handed {} datagrams and {} packets to each other",
            of("handed_datagrams")?,
            of("handed_packets")?
        ));
    }
    ensure!(gateway.wait_exit(PATIENCE)?.success(), "the gateway failed");
    Ok(rows)
}

fn measure(gateway: &Process, flock: &mut Flock, (sessions, workers): (usize, i64), thin: &Thin) -> Result<Row> {
    let mut row = Row {
        sessions,
        workers,
        rate: 0.0,
        cost: f64::INFINITY,
        resident_kib: 0,
        fairness: 1.0,
        fewest: u64::MAX,
        most: 0,
        sent: 0,
        lost: 0,
        strayed: 0,
    };
    for _ in 0..ROUNDS {
        let before = gateway.processor_time()?;
        let shares = flock.send(thin)?;
        row.add(&shares, gateway.processor_time()? - before);
    }
    row.resident_kib = gateway.resident_kib()?;
    Ok(row)
}

/// What each session beyond those of `base` costs, if there are more.
fn each_kib(base: &Row, row: &Row) -> Option<f64> {
    let more = row.sessions.checked_sub(base.sessions).filter(|more| *more > 0)?;
    Some(row.resident_kib.saturating_sub(base.resident_kib) as f64 / more as f64)
}

impl Row {
    fn add(&mut self, shares: &Shares, seconds: f64) {
        let (fewest, most) = shares.range();
        let cost = seconds * 1e6 / shares.packets().max(1) as f64;
        if cost < self.cost {
            self.cost = cost;
            self.rate = shares.packets() as f64 / shares.took.as_secs_f64();
        }
        self.fairness = self.fairness.min(shares.fairness());
        self.fewest = self.fewest.min(fewest);
        self.most = self.most.max(most);
        self.lost += shares.lost();
        self.sent += shares.sent.iter().sum::<u64>();
        self.strayed += shares.strayed;
    }

    fn line(&self, each: Option<f64>) -> String {
        format!(
            "| {} | {} | {:.0} | {:.2} | {:.1} | {} | {:.4} | {} to {} | {} of {} |",
            self.sessions,
            self.workers,
            self.rate,
            self.cost,
            self.resident_kib as f64 / 1024.0,
            each.map_or("-".to_owned(), |each| format!("{each:.0}")),
            self.fairness,
            self.fewest,
            self.most,
            self.lost,
            self.sent,
        )
    }

    fn check(&self) -> Result<()> {
        let Self { sessions, workers, .. } = self;
        let who = format!("{sessions} sessions, {workers} workers");
        ensure!(
            self.strayed == 0,
            "{who}: {} packets came to another session",
            self.strayed
        );
        ensure!(self.fairness >= FAIR, "{who}: fairness {:.3}", self.fairness);
        let lost = self.lost as f64 / self.sent as f64;
        ensure!(lost <= LOST, "{who}: {:.1} % were lost", lost * 100.0);
        Ok(())
    }
}
