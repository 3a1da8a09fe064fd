//! What a renewal of keys and a move cost a stream at full rate, from what its receiver got in each 10 ms.
//!
//! ```text
//!   bytes in 10 ms  |##########..################|     the columns below half of the median, within 500 ms of the event,
//!                              ^ new keys, another port, another address      beside those of moments in which nothing happened
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use interop::{MOVED, data_channel, field};
use lab::{
    Course, Direction, Lab, Mark, Nat, PATIENCE, Process, Signal, Stream, client_settings, gateway_settings,
    move_client, ms, start_client, start_gateway, until,
};

/// What belongs to an event, and between two events: what the one costs is over when the other comes, and there are quiet moments enough to compare
/// with.
#[derive(Clone, Copy)]
struct Pace {
    behind: Duration,
    apart: Duration,
}

/// Between two events, and behind the last one.
const QUICK: Pace = Pace {
    behind: Duration::from_millis(750),
    apart: Duration::from_millis(2000),
};

/// New keys in each direction.
const RENEWALS: u64 = 5;

/// What new keys cost at most, in the middle, beside what happens without them. The figure to reach is 50 ms; the rest is for a machine that has
/// something else to do.
const NEW_KEYS: Duration = Duration::from_millis(150);

/// The same of a move. What was on its way to the old port or address is lost, and TCP finds that out when it has waited for two round trips, which
/// a busy machine makes long, or for 200 ms.
const MOVE: Duration = Duration::from_millis(400);

/// The same of another port while packets come to the client alone: it gets none any more, so that it has nothing to answer, and asks after 30 ms of
/// silence, 100 ms after it asked last at the soonest.
const UNHEARD: Duration = Duration::from_millis(600);

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft"],
        lab::tests![
            new_keys_cost_a_stream_no_time,
            another_port_costs_a_stream_little,
            another_address_costs_a_stream_little,
        ],
    )
}

fn new_keys_cost_a_stream_no_time(lab: &Lab) -> Result<()> {
    let (_gateway, client) = ends(lab)?;
    let mut epoch = 1;
    for direction in [Direction::Up, Direction::Down] {
        let (course, events) = under_load(lab, direction, (RENEWALS, QUICK), |_| {
            epoch += 1;
            let (mark, at) = (client.mark(), Instant::now());
            client.signal(Signal::USR2)?;
            let session = field(&client, mark, &["path.back"], "session")?;
            ensure!(session.ends_with(&format!(";{epoch}")), "{session}");
            data_channel(&client, mark)?;
            Ok(at)
        })?;
        judge(
            lab,
            &format!("new keys, {direction:?}"),
            &course,
            (&events, QUICK),
            NEW_KEYS,
        )?;
    }
    Ok(())
}

fn another_port_costs_a_stream_little(lab: &Lab) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    let (gateway, _client) = ends(lab)?;
    for (direction, most) in [(Direction::Up, MOVE), (Direction::Down, UNHEARD)] {
        let (course, events) = under_load(lab, direction, (RENEWALS, QUICK), |_| {
            let mark = gateway.mark();
            let at = Instant::now();
            nat.rebind()?;
            gateway.wait_for_line(mark, &[MOVED], PATIENCE)?;
            Ok(at)
        })?;
        judge(
            lab,
            &format!("another port, {direction:?}"),
            &course,
            (&events, QUICK),
            most,
        )?;
    }
    Ok(())
}

fn another_address_costs_a_stream_little(lab: &Lab) -> Result<()> {
    let (gateway, client) = ends(lab)?;
    let mut number = 2;
    for direction in [Direction::Up, Direction::Down] {
        let (course, events) = under_load(lab, direction, (RENEWALS, QUICK), |_| {
            let marks = (gateway.mark(), client.mark());
            let at = Instant::now();
            move_client(lab, number, number + 1)?;
            number += 1;
            gateway.wait_for_line(marks.0, &[MOVED], PATIENCE)?;
            // The control connection follows, and with it come new keys.
            client.wait_for_line(marks.1, &["path.back"], PATIENCE)?;
            data_channel(&client, marks.1)?;
            Ok(at)
        })?;
        judge(
            lab,
            &format!("another address, {direction:?}"),
            &course,
            (&events, QUICK),
            MOVE,
        )?;
    }
    Ok(())
}

/// A stream under which something happens again and again. Returns how it went, and when what happened.
fn under_load(
    lab: &Lab,
    direction: Direction,
    (events, pace): (u64, Pace),
    mut event: impl FnMut(u64) -> Result<Instant>,
) -> Result<(Course, Vec<Instant>)> {
    let site = lab.site();
    let stream = Stream::start(lab.client(), &site.lan, site.plan.host_v4(), direction)?;
    let mut times = Vec::new();
    pause(pace)?;
    for number in 0..events {
        pause(pace)?;
        times.push(event(number)?);
    }
    pause(pace)?;
    Ok((stream.end()?, times))
}

fn pause(pace: Pace) -> Result<()> {
    let began = Instant::now();
    until("a moment without an event", pace.apart + PATIENCE, || {
        Ok(began.elapsed() >= pace.apart)
    })
}

fn judge(lab: &Lab, what: &str, course: &Course, (events, pace): (&[Instant], Pace), most: Duration) -> Result<()> {
    let dips: Vec<Duration> = events.iter().map(|at| course.dip(*at, pace.behind)).collect();
    let quiet = course.quiet_dips(events, pace.behind);
    let cost = median(&dips).saturating_sub(median(&quiet));
    lab.note(&format!(
        "{what}: {:.0} MB/s; below half of that for {} ms after an event ({}), {} ms without one ({} moments)",
        course.rate() / 1e6,
        ms(median(&dips)),
        dips.iter().map(|dip| ms(*dip)).collect::<Vec<_>>().join(", "),
        ms(median(&quiet)),
        quiet.len()
    ));
    ensure!(!quiet.is_empty(), "nothing to compare with");
    ensure!(cost <= most, "{what}: {} ms", ms(cost));
    Ok(())
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn ends(lab: &Lab) -> Result<(Process, Process)> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    data_channel(&client, Mark::default())?;
    Ok((gateway, client))
}
