//! What a night brings, without its length: clocks that jump, programs that stand still, routers that forget, a long way.

use std::env;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Clock, Delay, Flow, Forgetting, Freezer, Lab, Nat, PATIENCE, Ping, Process, Server, Sleeper, Starvation, ms, until,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Says what this program, started once more, is to do.
const PART: &str = "MARMOT_LAB_PART";

const HOUR: Duration = Duration::from_secs(3600);

/// A round trip to the other side of an ocean.
const FAR: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match env::var(PART).as_deref() {
        Ok("clocks") => return tell_clocks(),
        Ok("timer") => return await_timer(),
        _ => {}
    }
    lab::run(
        &["ip", "nft"],
        lab::tests![
            a_sleep_moves_boot_and_wall_clock_only,
            a_step_moves_the_wall_clock_only,
            time_that_passes_moves_all_clocks,
            a_timer_on_the_boot_clock_rings_at_the_end_of_a_sleep,
            a_frozen_program_stands_still,
            a_starving_program_stands_still_for_seconds,
            a_long_way_delays_both_families_and_keeps_their_order,
            a_long_way_and_translation_go_together,
            a_way_that_reorders_lets_some_overtake,
            a_router_forgets_tcp_in_silence,
            a_router_forgets_tcp_and_answers_with_a_reset,
            a_router_forgets_tcp_that_is_silent_too_long,
        ],
    )
}

/// Awake, boot and wall clock in seconds, again and again.
fn tell_clocks() -> ExitCode {
    told(timer(Duration::from_millis(20), true), |mut timer| {
        loop {
            let now = platform::clock::now();
            let clocks = [
                now.awake.since_origin(),
                now.boot.since_origin(),
                now.wall.since_origin(),
            ];
            println!(
                "clocks {} {} {}",
                clocks[0].as_secs(),
                clocks[1].as_secs(),
                clocks[2].as_secs()
            );
            timer.read_exact(&mut [0; 8])?;
        }
    })
}

fn await_timer() -> ExitCode {
    told(timer(HOUR, false), |mut timer| {
        timer.read_exact(&mut [0; 8])?;
        println!("it rang");
        Ok(())
    })
}

/// A timer on the boot clock.
fn timer(length: Duration, again: bool) -> Result<File> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::empty())?;
    let time = |length: Duration| Timespec {
        tv_sec: length.as_secs() as i64,
        tv_nsec: length.subsec_nanos().into(),
    };
    let set = Itimerspec {
        it_interval: time(if again { length } else { Duration::ZERO }),
        it_value: time(length),
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &set)?;
    Ok(timer.into())
}

fn told(timer: Result<File>, tell: impl FnOnce(File) -> Result<()>) -> ExitCode {
    println!("ready");
    if timer.and_then(tell).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn part(lab: &Lab, clock: &Clock, part: &str) -> Result<Process> {
    let program = env::current_exe().context("this program has a path")?;
    let mut command = lab.command(lab.client(), program)?;
    command.env(PART, part);
    clock.rule(&mut command);
    let process = lab.spawn(part, command)?;
    process.wait_for("ready", PATIENCE)?;
    Ok(process)
}

/// Awake, boot and wall clock as the program sees them now, in seconds.
fn clocks(process: &Process) -> Result<[i64; 3]> {
    // The mark may be in the middle of a line; the next one is whole.
    process.wait_for_line(process.mark(), &[" "], PATIENCE)?;
    let line = process.wait_for_line(process.mark(), &["clocks "], PATIENCE)?;
    let numbers: Vec<i64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().ok().context("three numbers")
}

/// By how much the clocks moved since `before`; as much as the test itself took is not counted.
fn moved(process: &Process, before: [i64; 3], began: Instant) -> Result<[i64; 3]> {
    let took = i64::try_from(began.elapsed().as_secs())?;
    let now = clocks(process)?;
    Ok(std::array::from_fn(|i| {
        let moved = now[i] - before[i];
        // Whole seconds, read at two moments.
        if (0..=took + 1).contains(&moved) { 0 } else { moved }
    }))
}

fn close(moved: i64, to: i64) -> bool {
    (moved - to).abs() <= 5
}

fn a_sleep_moves_boot_and_wall_clock_only(lab: &Lab) -> Result<()> {
    let clock = Clock::new(lab)?;
    let process = part(lab, &clock, "clocks")?;
    let (before, began) = (clocks(&process)?, Instant::now());
    Sleeper::new(&process, &clock).night(8 * HOUR)?;
    let [awake, boot, wall] = moved(&process, before, began)?;
    ensure!(
        awake == 0 && close(boot, 28_800) && close(wall, 28_800),
        "{awake} {boot} {wall}"
    );
    Ok(())
}

fn a_step_moves_the_wall_clock_only(lab: &Lab) -> Result<()> {
    let clock = Clock::new(lab)?;
    let process = part(lab, &clock, "clocks")?;
    let (before, began) = (clocks(&process)?, Instant::now());
    clock.step_wall(-3600)?;
    let [awake, boot, wall] = moved(&process, before, began)?;
    ensure!(awake == 0 && boot == 0 && close(wall, -3600), "{awake} {boot} {wall}");
    Ok(())
}

fn time_that_passes_moves_all_clocks(lab: &Lab) -> Result<()> {
    let clock = Clock::new(lab)?;
    let process = part(lab, &clock, "clocks")?;
    let (before, began) = (clocks(&process)?, Instant::now());
    clock.pass(HOUR)?;
    let moved = moved(&process, before, began)?;
    ensure!(moved.iter().all(|moved| close(*moved, 3600)), "{moved:?}");
    Ok(())
}

fn a_timer_on_the_boot_clock_rings_at_the_end_of_a_sleep(lab: &Lab) -> Result<()> {
    let clock = Clock::new(lab)?;
    let process = part(lab, &clock, "timer")?;
    let sleeper = Sleeper::new(&process, &clock);
    sleeper.night(HOUR / 2)?;
    ensure!(!process.output().contains("rang"), "half an hour is too early");
    sleeper.night(HOUR)?;
    process.wait_for("it rang", PATIENCE)?;
    Ok(())
}

fn a_frozen_program_stands_still(lab: &Lab) -> Result<()> {
    if let Some(reason) = Freezer::obstacle() {
        return lab.skip(&reason);
    }
    let process = part(lab, &Clock::new(lab)?, "clocks")?;
    let freezer = Freezer::hold(&process)?;
    freezer.freeze()?;
    let mark = process.mark();
    if process
        .wait_for_line(mark, &["clocks "], Duration::from_millis(200))
        .is_ok()
    {
        // What it said before may have been under way.
        let mark = process.mark();
        if process
            .wait_for_line(mark, &["clocks "], Duration::from_millis(200))
            .is_ok()
        {
            bail!("it goes on");
        }
    }
    let mark = process.mark();
    freezer.thaw()?;
    process.wait_for_line(mark, &["clocks "], PATIENCE)?;
    drop(freezer);
    process.wait_for_line(process.mark(), &["clocks "], PATIENCE)?;
    Ok(())
}

fn a_starving_program_stands_still_for_seconds(lab: &Lab) -> Result<()> {
    if let Some(reason) = Starvation::obstacle() {
        return lab.skip(&reason);
    }
    let process = part(lab, &Clock::new(lab)?, "clocks")?;
    let starvation = Starvation::of(lab, &process)?;
    let (mut said, mut since) = (process.mark(), Instant::now());
    until("two seconds without a word", 3 * PATIENCE, || {
        if process.mark() != said {
            (said, since) = (process.mark(), Instant::now());
        }
        Ok(since.elapsed() >= Duration::from_secs(2))
    })?;
    drop(starvation);
    for _ in 0..10 {
        process.wait_for_line(process.mark(), &["clocks "], PATIENCE)?;
    }
    Ok(())
}

fn a_long_way_delays_both_families_and_keeps_their_order(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    let _server = Server::start(&lab.site().gateway)?;
    let far = Delay::on(lab, FAR)?;
    // The quickest of some: a busy machine is late now and then.
    let quickest = |to: IpAddr| -> Result<Duration> {
        let times: Vec<Duration> = (0..5)
            .map(|_| Ping::new(lab.client(), to).answered(PATIENCE))
            .collect::<Result<_>>()?;
        times.into_iter().min().context("there are five")
    };
    for to in [IpAddr::from(plan.gateway_v4()), plan.gateway_v6().into()] {
        let time = quickest(to)?;
        lab.note(&format!("{to}: {} ms", ms(time)));
        ensure!(time >= FAR && time < 2 * FAR, "{time:?}");
        let rates = lab::transfer(lab.client(), to, 1_000_000)?;
        lab.note(&format!("1 MB each way: {rates}"));
    }
    drop(far);
    let time = quickest(plan.gateway_v4().into())?;
    ensure!(time < FAR / 2, "{time:?} on the short way");
    Ok(())
}

fn a_long_way_and_translation_go_together(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().gateway)?;
    let _nat = Nat::start(lab)?;
    let _far = Delay::on(lab, FAR)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.gateway_v4())?;
    ensure!(flow.echo(PATIENCE)? >= FAR);
    Ok(())
}

fn a_way_that_reorders_lets_some_overtake(lab: &Lab) -> Result<()> {
    let _far = Delay::reordering(lab, FAR, 4)?;
    let pings = Ping::new(lab.client(), lab.site().plan.gateway_v4());
    let times: Vec<Duration> = (0..8).map(|_| pings.answered(PATIENCE)).collect::<Result<_>>()?;
    let fast = times.iter().filter(|time| **time < FAR).count();
    ensure!((1..=4).contains(&fast), "{times:?}");
    Ok(())
}

/// A connection through a router that translates.
fn translated(lab: &Lab) -> Result<(Server, Nat<'_>, Flow)> {
    let server = Server::start(&lab.site().gateway)?;
    let nat = Nat::start(lab)?;
    let flow = Flow::open(lab.client(), lab.site().plan.gateway_v4())?;
    Ok((server, nat, flow))
}

fn a_router_forgets_tcp_in_silence(lab: &Lab) -> Result<()> {
    let (_server, mut nat, mut flow) = translated(lab)?;
    nat.forget_tcp(Forgetting::Silence)?;
    let began = Instant::now();
    let within = Duration::from_secs(1);
    let error = flow.echo(within).err().context("the router must have forgotten it")?;
    ensure!(began.elapsed() >= within, "that was no silence: {error:#}");
    // What begins now is translated as before.
    Flow::open(lab.client(), lab.site().plan.gateway_v4())?.echo(PATIENCE)?;
    Ok(())
}

fn a_router_forgets_tcp_and_answers_with_a_reset(lab: &Lab) -> Result<()> {
    let (_server, mut nat, mut flow) = translated(lab)?;
    nat.forget_tcp(Forgetting::Reset)?;
    let error = flow.echo(PATIENCE).err().context("the router must have forgotten it")?;
    let text = format!("{error:#}");
    ensure!(text.contains("reset"), "{text}");
    Ok(())
}

fn a_router_forgets_tcp_that_is_silent_too_long(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().gateway)?;
    let mut nat = Nat::start(lab)?;
    nat.tcp_timeout(Duration::from_secs(1), Forgetting::Reset)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.gateway_v4())?;
    flow.echo(PATIENCE)?;
    let began = Instant::now();
    until("two seconds of silence", PATIENCE, || {
        Ok(began.elapsed() >= Duration::from_secs(2))
    })?;
    let error = flow.echo(PATIENCE).err().context("the router must have forgotten it")?;
    let text = format!("{error:#}");
    ensure!(text.contains("reset"), "{text}");
    Ok(())
}
