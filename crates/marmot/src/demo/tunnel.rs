//! Act 1: keys, configurations, a gateway and a client; the tunnel comes up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use platform::network::HostState;

use super::picture;
use super::signs::{self, Up};
use super::stage::Stage;
use super::{http, setup, world};

/// How long the gateway may take to be ready, and the client to be up.
const READY: Duration = Duration::from_secs(10);
const UP: Duration = Duration::from_secs(15);

/// How long nobody may answer until somebody counts as out of reach. The "internet" says so at once.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    stage.story.act("A tunnel comes up");
    let listen = stage.gateway_listen();
    setup::gateway(stage.folder(), listen, stage.ipv6())?;
    stage.start_gateway()?;
    let address = stage
        .gateway()?
        .wait_for("the gateway to be ready", None, READY, signs::gateway_ready)?;
    stage.gateway_address = Some(address);
    let pid = stage.gateway()?.pid();
    stage
        .story
        .fact("gateway", format!("ready on {address}, process {pid}"));
    setup::client(stage.folder(), address)?;

    check_unreachable(stage, "without the tunnel the LAN is out of reach")?;
    stage.before = stage.snapshot()?;
    let started = Instant::now();
    stage.start_client()?;
    let up = stage.client()?.wait_for("the tunnel to be up", None, UP, signs::up)?;
    let took = started.elapsed();
    let pid = stage.client()?.pid();
    stage.story.fact("client", format!("up, process {pid}"));
    tell(stage, &up)?;
    stage.story.claim(
        format!(
            "from start to tunnel in {:.0} ms, password login included",
            took.as_secs_f64() * 1e3
        ),
        true,
    );
    Ok(())
}

/// Claims that the LAN cannot be reached from the client's host. Only where it has a network of its own.
pub(crate) fn check_unreachable(stage: &mut Stage, claim: &str) -> Result<()> {
    let Some(world) = stage.world() else {
        return Ok(());
    };
    let server = SocketAddr::from((world::HOST, http::PORT));
    let reached = world
        .client
        .run(|| std::net::TcpStream::connect_timeout(&server, UNREACHABLE).is_ok())?;
    stage.story.claim(claim, !reached);
    Ok(())
}

fn tell(stage: &mut Stage, up: &Up) -> Result<()> {
    let session = signs::session(stage.gateway()?.events());
    if let Some(session) = &session {
        stage
            .story
            .fact("session", format!("{}, epoch {}", session.id, session.epoch));
    }
    stage.story.fact("encryption", &up.tls);
    stage.story.fact("addresses", up.addresses.join(", "));
    match (stage.before.clone(), stage.snapshot()?) {
        (Some(before), Some(after)) => tell_changes(stage, &before, &after),
        _ => stage
            .story
            .fact("routes", "none: the device is in memory, the host is not touched"),
    }
    let client = session.and_then(|session| session.from);
    stage
        .story
        .block(&picture::draw(client, stage.gateway_address, stage.world().is_some()));
    Ok(())
}

/// What the client put on its host, in the kernel's words.
fn tell_changes(stage: &mut Stage, before: &HostState, after: &HostState) {
    let changes = before.changes(after);
    stage.story.say("What that put on the client's host:");
    stage.story.block(&changes.join("\n"));
    let removed = changes.iter().any(|change| change.starts_with("- "));
    stage.story.claim("nothing that was there before was changed", !removed);
}
