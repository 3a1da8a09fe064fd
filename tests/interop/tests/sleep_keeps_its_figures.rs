//! What a sleep costs our ends, held to the figures of docs/decisions/0010: nothing before the first packet, and little after.
//!
//! ```text
//!   A4   stopped or frozen, 8 h     same session, one park, no handshake before the first packet, what waited is dropped
//!   A6   full wake, 300 ms away     same path 0 extra round trips, another address 1, a lost control connection 0
//!   A7   silent host, 8 h           goes on without a login; past the gateway's patience one clear reason
//!   A11  clocks that jump, stops,   no reconnect
//!        hardly any processor
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{BESIDE, PARKED_WITHIN, Sleeping, TO_DATA, only_connection, tunnel_address};
use lab::{
    Delay, Forgetting, Freezer, Lab, Mark, Meter, Nat, PATIENCE, Ping, Pulse, Signal, Starvation, client_interface,
    is_long, move_client, ms, status, until,
};

const HOUR: Duration = Duration::from_secs(3600);

/// What waits longer than this for its way is not forwarded any more.
const STALE: Duration = Duration::from_secs(2);

/// A round trip so long that one more stands out, whatever two busy cores do: to the other side of an ocean it is a third.
const FAR: Duration = Duration::from_millis(300);

/// For how long a client has no processor at a time.
const STARVED: Duration = Duration::from_secs(5);

/// How long it may take until it had none for so long.
const STARVED_WITHIN: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip", "nft"],
        lab::tests![
            a_stopped_client_goes_on_with_its_first_packet,
            a_frozen_client_goes_on_with_its_first_packet,
            a_full_wake_on_the_same_path_costs_no_round_trip,
            a_full_wake_at_another_address_costs_one_round_trip,
            a_full_wake_without_its_control_connection_costs_packets_nothing,
            a_silent_night_needs_no_login,
            a_silence_past_the_gateways_patience_has_one_reason,
            a_clock_that_is_set_costs_nothing,
            five_seconds_without_the_processor_cost_nothing,
            hardly_any_processor_costs_nothing,
            hardly_any_processor_costs_nothing_where_the_client_asks,
        ],
    )
}

/// How long the stop of A4 lasts in real time.
fn stop() -> Duration {
    Duration::from_secs(if is_long() { 120 } else { 4 })
}

fn a_stopped_client_goes_on_with_its_first_packet(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    let sleeper = ends.sleeper();
    stands_still(lab, &ends, |still| match still {
        true => sleeper.fall_asleep().map(|()| Instant::now()),
        false => sleeper.wake(8 * HOUR),
    })
}

fn a_frozen_client_goes_on_with_its_first_packet(lab: &Lab) -> Result<()> {
    if let Some(reason) = Freezer::obstacle() {
        return lab.skip(&reason);
    }
    let ends = Sleeping::on_datagrams(lab)?;
    let freezer = Freezer::hold(&ends.client)?;
    stands_still(lab, &ends, |still| match still {
        true => freezer.freeze().map(|()| Instant::now()),
        false => {
            let at = Instant::now();
            freezer.thaw()?;
            Ok(at)
        }
    })
}

/// A client that stands still, with packets waiting for it on both sides, until the gateway has parked it; then it goes on.
fn stands_still(lab: &Lab, ends: &Sleeping<'_>, mut still: impl FnMut(bool) -> Result<Instant>) -> Result<()> {
    let plan = lab.site().plan;
    let connection = only_connection(&ends.client)?;
    let round_trip = ends.round_trip()?;
    let address = tunnel_address(lab.client(), &client_interface(lab.site()))?;
    let dropped = stale(lab)?;
    ends.begin()?;
    let began = still(true)?;
    let meter = Meter::start(
        lab,
        &lab.site().lan,
        &[format!("icmp type echo-request ip saddr {address}")],
    )?;
    // Some wait in the queue of the device all the time, some came late, and some wait in the queue of the socket; all are too
    // old when it goes on.
    let early = Pulse::start(lab.client(), plan.host_v4())?;
    let queued = Instant::now();
    until("packets that wait", PATIENCE, || Ok(queued.elapsed() >= STALE / 4))?;
    let early = early.end()?;
    ensure!(early.sent > 0 && early.lost == early.sent, "{early}");
    ends.parked("frozen")?;
    until("the end of a stop", stop() + PATIENCE, || Ok(began.elapsed() >= stop()))?;
    let up = Pulse::start(lab.client(), plan.host_v4())?;
    let down = Pulse::start(&lab.site().lan, address)?;
    let queued = Instant::now();
    until("packets that wait", PATIENCE, || Ok(queued.elapsed() >= STALE / 2))?;
    let (up, down) = (up.end()?, down.end()?);
    ensure!(up.lost == up.sent && down.lost == down.sent, "{up}; {down}");
    ensure!(meter.packets()?[0] == 0, "it stands still");
    let waited = early.sent + up.sent;

    let woken = still(false)?;
    let first = ends.first_packet(woken)?;
    let sent = ends.sent()?;
    ensure!(
        sent.connects == 0 && sent.hellos == 0,
        "nothing before the first packet: {sent:?}"
    );
    lab.note(&format!(
        "first packet {} ms after the end, a round trip takes {} ms; {waited} and {} packets waited too long",
        ms(first),
        ms(round_trip),
        down.sent
    ));
    ensure!(first <= round_trip + BESIDE, "{first:?}");
    // New ones leave every 5 ms until the first is answered, and some more until that is seen.
    let forwarded = meter.packets()?[0];
    ensure!(
        u128::from(forwarded) <= 10 + first.as_millis() / 5,
        "{forwarded} packets"
    );
    until("the count of packets that waited too long", PATIENCE, || {
        Ok(stale(lab)? - dropped >= waited)
    })?;
    ensure!(ends.unparked()? == "same_path");
    let words = [ends.said(&["session.park"]).1, ends.said(&["session.unpark"]).1];
    ensure!(words == [1, 1], "parks and unparks: {words:?}");
    ensure!(ends.said(&["path.lost"]) == (0, 0) && ends.said(&["session detached"]).1 == 0);
    ends.same_session()?;
    ensure!(only_connection(&ends.client)? == connection, "the same TCP connection");
    ends.nothing_begun()
}

/// Packets that the client dropped because they waited too long, as its status says.
fn stale(lab: &Lab) -> Result<u64> {
    let status = status(lab, lab.client(), "client")?;
    let count = status["totals"]["stale_packets_dropped_total"].as_u64();
    count.with_context(|| format!("no count in {status}"))
}

fn a_full_wake_on_the_same_path_costs_no_round_trip(lab: &Lab) -> Result<()> {
    let (_far, ends) = far_away(lab)?;
    let woken = ends.sleeper().night(HOUR)?;
    let first = ends.first_packet(woken)?;
    lab.note(&format!("first packet after {} ms", ms(first)));
    ensure!(first < 2 * FAR, "{first:?} is more than one round trip");
    ends.same_session()?;
    ends.nothing_begun()
}

fn a_full_wake_at_another_address_costs_one_round_trip(lab: &Lab) -> Result<()> {
    let (_far, ends) = far_away(lab)?;
    let sleeper = ends.sleeper();
    sleeper.fall_asleep()?;
    move_client(lab, 2, 3)?;
    let woken = sleeper.wake(HOUR)?;
    let first = ends.first_packet(woken)?;
    lab.note(&format!("first packet after {} ms", ms(first)));
    ensure!(first < 3 * FAR, "{first:?} is more than two round trips");
    ends.same_session()
}

fn a_full_wake_without_its_control_connection_costs_packets_nothing(lab: &Lab) -> Result<()> {
    let mut nat = Nat::start(lab)?;
    let (_far, ends) = far_away(lab)?;
    let sleeper = ends.sleeper();
    let mark = ends.client.mark();
    sleeper.fall_asleep()?;
    nat.forget_tcp(Forgetting::Reset)?;
    let woken = sleeper.wake(HOUR)?;
    let first = ends.first_packet(woken)?;
    ends.client.wait_for_line(mark, &["path.back"], PATIENCE)?;
    let control = woken.elapsed();
    lab.note(&format!(
        "first packet after {} ms, control connection back after {} ms",
        ms(first),
        ms(control)
    ));
    ensure!(first < 2 * FAR, "{first:?} is more than one round trip");
    // The reset takes one, TCP's own handshake another, and then two are ours.
    ensure!(control < 4 * FAR + FAR / 2 + BESIDE, "{control:?}");
    ends.same_session()
}

/// Both ends with a long way between them.
fn far_away(lab: &Lab) -> Result<(Delay<'_>, Sleeping<'_>)> {
    let far = Delay::on(lab, FAR)?;
    let ends = Sleeping::on_datagrams(lab)?;
    Ok((far, ends))
}

fn a_silent_night_needs_no_login(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    silent(lab, &ends, 8 * HOUR - Duration::from_secs(600), false)?;
    ends.same_session()?;
    ensure!(ends.said(&["session.park"]).1 == 1 && ends.said(&["session.unpark"]).1 == 1);
    Ok(())
}

fn a_silence_past_the_gateways_patience_has_one_reason(lab: &Lab) -> Result<()> {
    // In real time: a gateway whose clocks jump takes that for a gap, and counts none of it.
    let ends = Sleeping::start(lab, |settings| settings.with("park.ttl_s", 60), |settings| settings)?;
    silent(lab, &ends, 9 * HOUR, true)?;
    let (client, gateway) = ends.said(&["session.end"]);
    ensure!(gateway == 1 && client <= 1, "{client} and {gateway} ends of sessions");
    Ok(())
}

/// A host that is silent for so long, on the clocks of both ends, perhaps past the gateway's patience; then it wakes, and is
/// answered.
fn silent(lab: &Lab, ends: &Sleeping<'_>, length: Duration, too_long: bool) -> Result<()> {
    ends.begin()?;
    let sleeper = ends.sleeper();
    sleeper.fall_asleep()?;
    lab.internet().down("client")?;
    ends.parked("unreachable")?;
    if too_long {
        // The gateway looks every so often.
        ends.gateway
            .wait_for_line(Mark::default(), &["session.end", "park_ttl"], 2 * PARKED_WITHIN)?;
    } else {
        ends.gateway_waits(length)?;
    }
    lab.internet().up("client")?;
    let woken = sleeper.wake(length)?;
    let first = ends.first_packet(woken)?;
    lab.note(&format!("first packet after {} ms", ms(first)));
    Ok(())
}

fn a_clock_that_is_set_costs_nothing(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    for step in [3600, -3600, -3600, 3600] {
        for clock in [&ends.clock, &ends.gateway_clock] {
            clock.step_wall(step)?;
            let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
            pulse.wait_answered(100)?;
            let tally = pulse.end()?;
            ensure!(tally.lost == 0, "{tally}");
        }
    }
    ends.same_session()?;
    ends.nothing_begun()
}

fn five_seconds_without_the_processor_cost_nothing(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    for starved in [&ends.client, &ends.gateway] {
        starved.stand_still()?;
        let began = Instant::now();
        until("five seconds", PATIENCE, || {
            Ok(began.elapsed() >= Duration::from_secs(5))
        })?;
        starved.signal(Signal::CONT)?;
        Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
        let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
        pulse.wait_answered(200)?;
        let tally = pulse.end()?;
        ensure!(tally.lost == 0, "{tally}");
    }
    ends.same_session()?;
    ends.nothing_begun()
}

fn hardly_any_processor_costs_nothing(lab: &Lab) -> Result<()> {
    let ends = Sleeping::on_datagrams(lab)?;
    starved(lab, &ends)
}

/// Where no session is kept, the client asks its gateway on both channels, and must not take its own silence for the answer.
fn hardly_any_processor_costs_nothing_where_the_client_asks(lab: &Lab) -> Result<()> {
    let asked = STARVED.as_secs() as i64;
    let ends = Sleeping::start(
        lab,
        |settings| {
            let settings = settings.with("park.ttl_s", 0);
            settings.with("session.dpd_s", asked).with("dtls.dpd_s", asked)
        },
        |settings| settings,
    )?;
    ends.client.wait_for(TO_DATA, PATIENCE)?;
    starved(lab, &ends)
}

/// A client with packets to carry, and for seconds at a time without a processor.
fn starved(lab: &Lab, ends: &Sleeping<'_>) -> Result<()> {
    if let Some(reason) = Starvation::obstacle() {
        return lab.skip(&reason);
    }
    let pulse = Pulse::start(lab.client(), lab.site().plan.host_v4())?;
    pulse.wait_answered(10)?;
    let (connection, before) = (only_connection(&ends.client)?, status(lab, lab.client(), "client")?);
    ends.begin()?;
    for _ in 0..if is_long() { 10 } else { 2 } {
        let starvation = Starvation::of(lab, &ends.client)?;
        nothing_answered(&pulse)?;
        drop(starvation);
        pulse.wait_answered(100)?;
    }
    let tally = pulse.end()?;
    ensure!(tally.silence >= STARVED, "{tally}");
    let after = status(lab, lab.client(), "client")?;
    let (verdicts, _) = ends.said(&["nothing comes back"]);
    lab.note(&format!("{tally}; {} gaps, {verdicts} verdicts", after["clock_gaps"]));
    ensure!(verdicts == 0, "{verdicts} verdicts on a path that was well");
    for same in ["sessions", "path_losses"] {
        ensure!(
            before[same] == after[same],
            "{same}: {} and {}",
            before[same],
            after[same]
        );
    }
    for same in ["disconnects_total", "reconnect_attempts_total"] {
        let [before, after] = [&before, &after].map(|status| &status["totals"][same]);
        ensure!(before == after, "{same}: {before} and {after}");
    }
    ensure!(ends.said(&["path.lost"]) == (0, 0) && ends.said(&["session detached"]).1 == 0);
    ensure!(only_connection(&ends.client)? == connection, "the same TCP connection");
    ends.same_session()?;
    ends.nothing_begun()
}

/// Waits until nothing is answered for a while.
fn nothing_answered(pulse: &Pulse) -> Result<()> {
    let (mut answered, mut since) = (pulse.answered(), Instant::now());
    until("a long silence", STARVED_WITHIN, || {
        if pulse.answered() > answered {
            (answered, since) = (pulse.answered(), Instant::now());
        }
        Ok(since.elapsed() >= STARVED)
    })
}
