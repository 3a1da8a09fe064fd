//! Hundreds of reconnects, and minutes of traffic with freezes in between. Only with MARMOT_LONG=1.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interop::{field, only_connection, ping_both, session_end};
use lab::{
    Flow, Lab, Mark, PATIENCE, Server, Signal, client_settings, eventually, gateway_settings, start_client,
    start_gateway, transfer, until,
};

/// Reconnects in a row.
const RECONNECTS: u32 = 200;

/// Tunnels up and down in a row.
const CYCLES: u32 = 100;

/// How long the soak lasts.
const SOAK: Duration = Duration::from_secs(300);

/// What a process may have grown by over a long run, in KiB of resident memory.
const GROWTH_KIB: u64 = 8 * 1024;

fn main() -> ExitCode {
    lab::run_long(
        &[],
        lab::tests![
            two_hundred_reconnects_keep_session_and_flow,
            a_hundred_tunnels_up_and_down_leave_nothing,
            five_minutes_of_traffic_and_freezes_lose_nothing,
        ],
    )
}

fn two_hundred_reconnects_keep_session_and_flow(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v4())?;
    let session = field(&client, Mark::default(), &["session.start"], "session")?;
    let id = session.split(';').next().unwrap_or_default().to_owned();
    let mut times: Vec<Duration> = Vec::new();
    let mut before = (0, 0);
    for epoch in 2..=RECONNECTS + 1 {
        if epoch == 20 {
            before = (client.resident_kib()?, gateway.resident_kib()?);
        }
        let mark = client.mark();
        let began = Instant::now();
        client.signal(Signal::USR2)?;
        // The dial budget spreads many reconnects over time; reconnects that a user asks for do not count.
        let after = field(&client, mark, &["path.back"], "session")?;
        ensure!(after == format!("{id};{epoch}"), "{after} instead of epoch {epoch}");
        times.push(began.elapsed());
        flow.echo(PATIENCE)?;
    }
    times.sort();
    let after = (client.resident_kib()?, gateway.resident_kib()?);
    lab.note(&format!(
        "{RECONNECTS} reconnects: median {} us, slowest {} us; memory of client {} to {} KiB, gateway {} to {} KiB",
        times[times.len() / 2].as_micros(),
        times[times.len() - 1].as_micros(),
        before.0,
        after.0,
        before.1,
        after.1
    ));
    ensure!(
        after.0 < before.0 + GROWTH_KIB && after.1 < before.1 + GROWTH_KIB,
        "memory grows"
    );
    ensure!(
        client.connections()?.len() == 1 && gateway.connections()?.len() == 1,
        "old connections are closed"
    );
    ping_both(lab.client(), lab.site().plan)
}

fn a_hundred_tunnels_up_and_down_leave_nothing(lab: &Lab) -> Result<()> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let before = lab.client().snapshot()?;
    let settings = client_settings(lab, lab.site())?.with("tunnel.start", "down");
    let client = lab::spawn_client(lab, lab.client(), "client", &settings)?;
    client.wait_for("SIGUSR2 to bring the tunnel up", PATIENCE)?;
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for _ in 0..CYCLES {
        let (mark, began) = (client.mark(), Instant::now());
        client.signal(Signal::USR2)?;
        client.wait_for_line(mark, &["session.start"], PATIENCE)?;
        ups.push(began.elapsed());
        let (mark, began) = (client.mark(), Instant::now());
        client.signal(Signal::USR1)?;
        client.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
        downs.push(began.elapsed());
        until("the host as it was", PATIENCE, || {
            Ok(before.changes(&lab.client().snapshot()?).is_empty())
        })?;
    }
    for times in [&mut ups, &mut downs] {
        times.sort();
    }
    let figures = |times: &[Duration]| {
        format!(
            "{} us, slowest {} us",
            times[times.len() / 2].as_micros(),
            times[times.len() - 1].as_micros()
        )
    };
    lab.note(&format!(
        "{CYCLES} cycles: up in median {}; down in median {}",
        figures(&ups),
        figures(&downs)
    ));
    session_end(&gateway, "user_stop")?;
    Ok(())
}

fn five_minutes_of_traffic_and_freezes_lose_nothing(lab: &Lab) -> Result<()> {
    let server = Server::start(&lab.site().lan)?;
    let settings = gateway_settings(lab, lab.site())?.with("session.dpd_s", 2);
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings.with("tcp.keepalive_idle_s", 1))?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    let connection = only_connection(&client)?;
    let seen = gateway.connections()?.pop().context("the gateway has the other end")?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v6())?;
    let began = Instant::now();
    let (mut rounds, mut memory) = (0, 0);
    while began.elapsed() < SOAK {
        rounds += 1;
        let moved = server.moved();
        std::thread::scope(|scope| -> Result<()> {
            let transfer = scope.spawn(|| transfer(lab.client(), lab.site().plan.host_v4(), 500_000_000));
            until("a part of the transfer", PATIENCE, || {
                Ok(server.moved() > moved + 50_000_000)
            })?;
            client.signal(Signal::STOP)?;
            eventually("silence", PATIENCE, || {
                Ok((seen.info()?.last_data_recv_ms > 7_000).then_some(()))
            })?;
            client.signal(Signal::CONT)?;
            transfer
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the transfer panicked")))
                .map(drop)
        })?;
        flow.echo(PATIENCE)?;
        if rounds == 3 {
            memory = client.resident_kib()? + gateway.resident_kib()?;
        }
    }
    let grown = client.resident_kib()? + gateway.resident_kib()?;
    lab.note(&format!(
        "{rounds} rounds of 1 GB with a freeze of 7 s each; memory {memory} to {grown} KiB together"
    ));
    ensure!(
        only_connection(&client)? == connection,
        "the same TCP connection all the time"
    );
    ensure!(
        !gateway.output().contains("session detached"),
        "the session never lost it"
    );
    ensure!(grown < memory + GROWTH_KIB, "memory grows");
    Ok(())
}
