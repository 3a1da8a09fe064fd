//! What the source of words about sleep makes of a logind that speaks, repeats itself, says nothing, and dies.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Logind, PATIENCE};
use platform::power::{self, LOOK_TIMEOUT, PowerEvent, PowerSource, Promise, Surroundings};
use tokio::time::timeout;

fn main() -> ExitCode {
    lab::run(
        Logind::NEEDS,
        lab::tests![
            a_sleep_is_told_and_held_up_until_it_is_acknowledged,
            what_can_be_read_is_read_at_each_look,
            words_may_be_doubled,
            the_end_of_a_sleep_that_nobody_told_is_seen_at_the_next_look,
            a_late_acknowledgement_is_not_one_for_the_next_sleep,
            an_acknowledgement_is_not_one_for_a_sleep_that_was_not_heard_of,
            a_lock_that_was_refused_once_is_asked_for_again,
            a_program_that_was_started_does_not_hold_a_sleep_up,
            a_sleep_in_progress_is_not_held_up,
            a_logind_that_restarts_is_met_again,
            a_bus_that_died_is_found_again,
            a_bus_that_lets_in_and_drops_is_asked_less_and_less,
            without_a_bus_there_is_no_source_and_no_error,
            a_bus_without_logind_is_no_source,
        ],
    )
}

/// Between two looks at something that nothing announces.
const AGAIN: Duration = Duration::from_millis(10);

/// Runs a test beside a logind, in a runtime with one thread as the client has it.
fn beside_logind(lab: &Lab, test: impl AsyncFnOnce(&mut Logind<'_>, &mut PowerSource) -> Result<()>) -> Result<()> {
    let mut logind = Logind::start(lab)?;
    block_on(async {
        let mut source = power::open_at(logind.address());
        promised(&source, Promise::Facts).await?;
        test(&mut logind, &mut source).await
    })
}

fn block_on(test: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(test)
}

/// Waits until the source is as good as that.
async fn promised(source: &PowerSource, promise: Promise) -> Result<()> {
    until(&format!("{promise:?}"), || Ok(source.promise() == promise)).await
}

async fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds()? {
        ensure!(began.elapsed() < PATIENCE, "waited in vain for this: {what}");
        let_others_run().await;
    }
    Ok(())
}

/// Something that nobody announces is looked at again a moment later; the source goes on meanwhile.
async fn let_others_run() {
    let never = std::future::pending::<()>();
    timeout(AGAIN, never).await.expect_err("never");
}

async fn word(source: &mut PowerSource) -> Result<PowerEvent> {
    timeout(PATIENCE, source.next()).await.context("no word came")
}

/// Waits for a look that says so. A busy machine may need several until one is in time.
async fn seen(source: &PowerSource, expected: Surroundings) -> Result<()> {
    let began = Instant::now();
    loop {
        let surroundings = source.surroundings().await;
        if surroundings == expected {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{surroundings:?} is not {expected:?}");
        let_others_run().await;
    }
}

/// What the mock says of a host that is awake, but for a sleep that is prepared.
fn facts(preparing: bool) -> Surroundings {
    Surroundings {
        promise: Promise::Facts,
        preparing: Some(preparing),
        lid_closed: Some(false),
        docked: Some(false),
        on_external_power: Some(true),
    }
}

/// The next look says that nothing was said before it.
async fn is_silent(source: &mut PowerSource) -> bool {
    source.surroundings().await;
    timeout(Duration::ZERO, source.next()).await.is_err()
}

fn held(logind: &Logind<'_>) -> Result<bool> {
    Ok(!logind.inhibitors()?.is_empty())
}

fn a_sleep_is_told_and_held_up_until_it_is_acknowledged(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        let inhibitors = logind.inhibitors()?;
        let [lock] = inhibitors.as_slice() else {
            anyhow::bail!("one lock: {inhibitors:?}");
        };
        assert_eq!(
            (lock.what.as_str(), lock.who.as_str(), lock.mode.as_str()),
            ("sleep", "marmot", "delay")
        );

        logind.prepare_for_sleep(true)?;
        let began = Instant::now();
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        lab.note(&format!("the word of a sleep took {} us", began.elapsed().as_micros()));
        assert!(held(logind)?, "released before the client was ready");
        source.acknowledge_sleep();
        until("the lock is let go", || Ok(!held(logind)?)).await?;

        logind.prepare_for_sleep(false)?;
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        until("a lock for the next sleep", || held(logind)).await
    })
}

fn what_can_be_read_is_read_at_each_look(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        let mut expected = facts(false);
        seen(source, expected).await?;
        logind.set_lid(true)?;
        expected.lid_closed = Some(true);
        seen(source, expected).await?;
        logind.set_docked(true)?;
        logind.set_preparing(true)?;
        expected.docked = Some(true);
        expected.preparing = Some(true);
        let began = Instant::now();
        seen(source, expected).await?;
        lab.note(&format!("a look took {} us", began.elapsed().as_micros()));
        Ok(())
    })
}

fn words_may_be_doubled(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.prepare_for_sleep(true)?;
        logind.say_prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        source.acknowledge_sleep();
        source.acknowledge_sleep();
        until("the lock is let go", || Ok(!held(logind)?)).await?;
        logind.prepare_for_sleep(false)?;
        logind.say_prepare_for_sleep(false)?;
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        until("a lock for the next sleep", || held(logind)).await?;
        assert_eq!(logind.inhibitors()?.len(), 1);
        Ok(())
    })
}

fn the_end_of_a_sleep_that_nobody_told_is_seen_at_the_next_look(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        source.acknowledge_sleep();
        until("the lock is let go", || Ok(!held(logind)?)).await?;
        logind.set_preparing(false)?;
        seen(source, facts(false)).await?;
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        until("a lock for the next sleep", || held(logind)).await
    })
}

fn a_late_acknowledgement_is_not_one_for_the_next_sleep(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.prepare_for_sleep(true)?;
        logind.prepare_for_sleep(false)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        source.acknowledge_sleep();
        assert!(is_silent(source).await);
        assert!(held(logind)?);
        Ok(())
    })
}

fn an_acknowledgement_is_not_one_for_a_sleep_that_was_not_heard_of(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        logind.prepare_for_sleep(false)?;
        logind.prepare_for_sleep(true)?;
        // A look ends when all that was said before it is known.
        seen(source, facts(true)).await?;
        source.acknowledge_sleep();
        seen(source, facts(true)).await?;
        assert!(held(logind)?, "released for the sleep before");
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        source.acknowledge_sleep();
        until("the lock is let go", || Ok(!held(logind)?)).await
    })
}

fn a_lock_that_was_refused_once_is_asked_for_again(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.refuse_locks(1)?;
        logind.prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        source.acknowledge_sleep();
        until("the lock is let go", || Ok(!held(logind)?)).await?;
        logind.prepare_for_sleep(false)?;
        assert_eq!(word(source).await?, PowerEvent::Resumed);
        // Nobody looks around meanwhile.
        until("a lock for the next sleep", || held(logind)).await
    })
}

fn a_program_that_was_started_does_not_hold_a_sleep_up(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        // It ends with its input.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        logind.prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        source.acknowledge_sleep();
        let released = until("the lock is let go", || Ok(!held(logind)?)).await;
        drop(child.stdin.take());
        child.wait()?;
        released
    })
}

fn a_sleep_in_progress_is_not_held_up(lab: &Lab) -> Result<()> {
    let logind = Logind::start(lab)?;
    logind.set_preparing(true)?;
    block_on(async {
        let mut source = power::open_at(logind.address());
        promised(&source, Promise::Facts).await?;
        seen(&source, facts(true)).await?;
        assert!(is_silent(&mut source).await);
        assert!(!held(&logind)?);
        logind.prepare_for_sleep(false)?;
        assert_eq!(word(&mut source).await?, PowerEvent::Resumed);
        until("a lock for the next sleep", || held(&logind)).await
    })
}

fn a_logind_that_restarts_is_met_again(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.kill_logind()?;
        promised(source, Promise::None).await?;
        assert_eq!(source.surroundings().await, Surroundings::default());
        logind.start_logind()?;
        promised(source, Promise::Facts).await?;
        until("a lock of the new logind", || held(logind)).await?;
        logind.prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        Ok(())
    })
}

fn a_bus_that_died_is_found_again(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        logind.kill_bus()?;
        promised(source, Promise::None).await?;
        assert_eq!(source.surroundings().await, Surroundings::default());
        logind.start_bus()?;
        logind.start_logind()?;
        promised(source, Promise::Facts).await?;
        logind.prepare_for_sleep(true)?;
        assert_eq!(word(source).await?, PowerEvent::Sleeping);
        assert!(held(logind)?);
        Ok(())
    })
}

fn a_bus_that_lets_in_and_drops_is_asked_less_and_less(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, source| {
        let mut waits = Vec::new();
        for _ in 0..2 {
            logind.kill_bus()?;
            promised(source, Promise::None).await?;
            let lost = Instant::now();
            logind.start_bus()?;
            logind.start_logind()?;
            promised(source, Promise::Facts).await?;
            waits.push(lost.elapsed());
        }
        lab.note(&format!("it was found again after {waits:?}"));
        // The second wait is of 2 s, and was said to be over within the patience of a test.
        ensure!(waits[1] >= Duration::from_millis(1900), "as soon as before: {waits:?}");
        Ok(())
    })
}

fn without_a_bus_there_is_no_source_and_no_error(lab: &Lab) -> Result<()> {
    let address = format!("unix:path={}", lab.folder().join("nothing").display());
    block_on(async {
        let mut source = power::open_at(address);
        let began = Instant::now();
        assert_eq!(source.surroundings().await, Surroundings::default());
        assert!(
            began.elapsed() < LOOK_TIMEOUT * 2,
            "waited for nobody: {:?}",
            began.elapsed()
        );
        assert!(is_silent(&mut source).await);
        source.acknowledge_sleep();
        Ok(())
    })
}

fn a_bus_without_logind_is_no_source(lab: &Lab) -> Result<()> {
    beside_logind(lab, async |logind, _| {
        logind.kill_logind()?;
        let mut other = power::open_at(logind.address());
        assert_eq!(other.surroundings().await, Surroundings::default());
        assert!(is_silent(&mut other).await);
        logind.start_logind()?;
        promised(&other, Promise::Facts).await
    })
}
