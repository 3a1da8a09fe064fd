//! Paths that are lost while a client is asleep or awake, held to the figures of docs/decisions/0010.
//!
//! ```text
//!   A8   the router forgets      with a reset or in silence: the session survives
//!   A9   the path is dead        noticed within 10 s, back within 1 s, one notice
//!   A12  a day without network   at most 200 lines
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use interop::{BESIDE, PARKED_WITHIN, Sleeping, TO_CONTROL};
use lab::{Forgetting, Hole, Lab, Mark, Nat, PATIENCE, Pulse, is_long, ms, until};

/// A dead path is noticed within this long while packets want over it.
const NOTICED: Duration = Duration::from_secs(10);

/// Words of the client, any of which says that it has noticed.
const NOTICES: [&str; 3] = ["path.lost", TO_CONTROL, "; reconnecting"];

/// Packets are answered again within this long, beside a round trip, once there is a path.
const BACK: Duration = Duration::from_secs(1);

/// Most lines that a client writes in a day without a network.
const LINES: usize = 200;

/// Wakes of that day: one every 15 minutes.
const WAKES: usize = 96;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft"],
        lab::tests![
            a_router_that_forgets_and_resets_costs_no_session,
            a_router_that_forgets_in_silence_costs_no_session,
            a_dead_path_is_noticed_and_taken_again,
            a_dead_path_of_tls_alone_is_noticed_and_taken_again,
            a_day_without_a_network_fills_no_log,
        ],
    )
}

fn a_router_that_forgets_and_resets_costs_no_session(lab: &Lab) -> Result<()> {
    forgotten(lab, Forgetting::Reset)
}

fn a_router_that_forgets_in_silence_costs_no_session(lab: &Lab) -> Result<()> {
    forgotten(lab, Forgetting::Silence)
}

/// Asleep, the client is forgotten by its router, UDP and TCP.
fn forgotten(lab: &Lab, forgetting: Forgetting) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    let ends = Sleeping::on_datagrams(lab)?;
    let sleeper = ends.sleeper();
    sleeper.fall_asleep()?;
    nat.rebind()?;
    nat.forget_tcp(forgetting)?;
    // The gateway notices, by its own probes.
    match forgetting {
        Forgetting::Reset => {
            ends.gateway
                .wait_for_line(Mark::default(), &["session.park"], PARKED_WITHIN)?;
        }
        Forgetting::Silence => {
            ends.parked("unreachable")?;
        }
    }
    let mark = ends.client.mark();
    let woken = sleeper.wake(Duration::from_secs(3600))?;
    let first = ends.first_packet(woken)?;
    ends.client.wait_for_line(mark, &["path.back"], PATIENCE)?;
    lab.note(&format!(
        "first packet after {} ms, control connection back after {} ms",
        ms(first),
        ms(woken.elapsed())
    ));
    ends.same_session()
}

fn a_dead_path_is_noticed_and_taken_again(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    dead(lab, &ends)
}

fn a_dead_path_of_tls_alone_is_noticed_and_taken_again(lab: &Lab) -> Result<()> {
    let ends = Sleeping::start(
        lab,
        |settings| settings,
        |settings| settings.with("dtls.enabled", false),
    )?;
    dead(lab, &ends)
}

fn dead(lab: &Lab, ends: &Sleeping<'_>) -> Result<()> {
    let plan = lab.site().plan;
    let outage = Duration::from_secs(if is_long() { 60 } else { 15 });
    let pulse = Pulse::start(lab.client(), plan.host_v4())?;
    pulse.wait_answered(10)?;
    let mark = ends.client.mark();
    let began = Instant::now();
    let hole = Hole::dig(lab, lab.internet(), &[format!("ip daddr {}", plan.gateway_v4())])?;
    until("a word of a dead path", NOTICED + PATIENCE, || {
        Ok(NOTICES.iter().any(|word| ends.client.count_since(mark, &[word]) > 0))
    })?;
    let noticed = began.elapsed();
    until("an outage", outage + PATIENCE, || Ok(began.elapsed() >= outage))?;
    let notices = ends.client.count_since(mark, &["; reconnecting"]);
    let answered = pulse.answered();
    drop(hole);
    let back = Instant::now();
    until("an answer", PATIENCE, || Ok(pulse.answered() > answered))?;
    let back = back.elapsed();
    lab.note(&format!(
        "noticed after {} ms, answered again {} ms after the path is back",
        ms(noticed),
        ms(back)
    ));
    ensure!(noticed <= NOTICED + BESIDE, "{noticed:?}");
    ensure!(back <= BACK + BESIDE, "{back:?}");
    ensure!(notices == 1, "{notices} notices instead of one");
    ends.same_session()
}

fn a_day_without_a_network_fills_no_log(lab: &Lab) -> Result<()> {
    let ends = Sleeping::start(lab, |settings| settings, |settings| settings.with("log.level", "info"))?;
    let mark = ends.client.mark();
    lab.internet().down("client")?;
    // Somebody wants over it all the time, whenever the host is awake.
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    for _ in 0..WAKES {
        ends.sleeper().night(Duration::from_secs(900))?;
        let woken = Instant::now();
        let awake = Duration::from_millis(300);
        until("the end of a wake", PATIENCE, || Ok(woken.elapsed() >= awake))?;
    }
    let lines = ends.client.count_since(mark, &[]);
    lab.note(&format!("{lines} lines in 24 h with {WAKES} wakes"));
    ensure!(lines <= LINES, "{lines} lines");
    lab.internet().up("client")?;
    let answered = pulse.answered();
    until("an answer", PATIENCE, || Ok(pulse.answered() > answered))?;
    ends.same_session()
}
