//! A client whose host says that it is about to sleep: the sleep waits for the client, and the client not for anybody.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use interop::ping_both;
use lab::{
    Lab, Logind, Mark, PATIENCE, Process, Settings, client_settings, gateway_settings, marmot, start_gateway, until,
};

fn main() -> ExitCode {
    lab::run(
        Logind::NEEDS,
        lab::tests![
            a_sleep_waits_for_the_client_and_costs_no_session,
            a_sleep_does_not_wait_for_a_gateway_that_is_away,
            a_client_that_is_to_hear_nobody_holds_no_sleep_up,
        ],
    )
}

/// How long logind waits for those who hold a sleep up (InhibitDelayMaxSec, by default): afterwards the host sleeps whatever
/// they do. The client's own budget is a small part of it.
const LOGIND_WAITS: Duration = Duration::from_secs(5);

/// What the client says when it has heard a word.
const HEARD: &str = "the host speaks of sleep";

/// A client with this logind for its host's, once its tunnel is up.
fn client(lab: &Lab, logind: &Logind<'_>, settings: &Settings) -> Result<Process> {
    let config = settings.write(&lab.folder().join("client.toml"))?;
    let mut command = marmot(lab, lab.client(), &["client", "-c"])?;
    command.arg(config);
    logind.serve(&mut command);
    let client = lab.spawn("client", command)?;
    client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    Ok(client)
}

/// Waits until a sleep is held up, or is not. Returns how long that took.
fn until_held(logind: &Logind<'_>, held: bool) -> Result<Duration> {
    let began = Instant::now();
    let what = format!("a sleep that is held up: {held}");
    until(&what, PATIENCE, || Ok(logind.inhibitors()?.is_empty() != held))?;
    Ok(began.elapsed())
}

fn a_sleep_waits_for_the_client_and_costs_no_session(lab: &Lab) -> Result<()> {
    let logind = Logind::start(lab)?;
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let client = client(lab, &logind, &client_settings(lab, lab.site())?)?;
    until_held(&logind, true)?;
    for _ in 0..3 {
        let mark = client.mark();
        logind.prepare_for_sleep(true)?;
        let took = until_held(&logind, false)?;
        client.wait_for_line(mark, &[HEARD, "Sleeping"], PATIENCE)?;
        lab.note(&format!("the sleep went on within {} ms", took.as_millis()));
        logind.prepare_for_sleep(false)?;
        client.wait_for_line(mark, &[HEARD, "Resumed"], PATIENCE)?;
        until_held(&logind, true)?;
    }
    ping_both(lab.client(), lab.site().plan)?;
    let said = client.output();
    assert_eq!(said.matches("session.start").count(), 1, "one session");
    Ok(())
}

fn a_sleep_does_not_wait_for_a_gateway_that_is_away(lab: &Lab) -> Result<()> {
    let logind = Logind::start(lab)?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let client = client(lab, &logind, &client_settings(lab, lab.site())?)?;
    until_held(&logind, true)?;
    gateway.signal(lab::Signal::STOP)?;
    logind.prepare_for_sleep(true)?;
    let took = until_held(&logind, false)?;
    lab.note(&format!("the sleep went on within {} ms", took.as_millis()));
    ensure!(took < LOGIND_WAITS, "{took:?}");
    ensure!(client.is_running());
    Ok(())
}

fn a_client_that_is_to_hear_nobody_holds_no_sleep_up(lab: &Lab) -> Result<()> {
    let logind = Logind::start(lab)?;
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let settings = client_settings(lab, lab.site())?.with("sleep.power_source", "off");
    let client = client(lab, &logind, &settings)?;
    logind.prepare_for_sleep(true)?;
    logind.prepare_for_sleep(false)?;
    ping_both(lab.client(), lab.site().plan)?;
    assert!(logind.inhibitors()?.is_empty());
    assert!(!client.output().contains(HEARD));
    Ok(())
}
