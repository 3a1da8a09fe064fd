//! Two clients on one host, with a gateway each: what happens to one is no matter of the other.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use interop::{BULK, only_connection, ping_both};
use lab::{
    Flow, Lab, PATIENCE, Ping, Process, Server, Signal, Site, client_settings, gateway_settings, spawn_client,
    start_client, start_gateway, transfer, until,
};

fn main() -> ExitCode {
    lab::run(
        &[],
        lab::tests![
            each_carries_its_own_network,
            stopping_one_leaves_the_others_traffic_alone,
            killing_and_restarting_one_leaves_the_other_alone,
            a_default_route_in_one_leaves_the_other_its_network,
            the_same_tunnel_does_not_run_twice,
        ],
    )
}

fn each_carries_its_own_network(lab: &Lab) -> Result<()> {
    let before = lab.client().snapshot()?;
    let b = lab.add_site()?;
    let (_gateways, clients) = two(lab, &b)?;
    ping_both(lab.client(), lab.site().plan)?;
    ping_both(lab.client(), b.plan)?;
    for client in clients {
        let (status, _) = client.stop(Signal::TERM, PATIENCE)?;
        ensure!(status.success(), "a client ended with {status}");
    }
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}

fn stopping_one_leaves_the_others_traffic_alone(lab: &Lab) -> Result<()> {
    let b = lab.add_site()?;
    let server = Server::start(&b.lan)?;
    let (_gateways, [a_client, b_client]) = two(lab, &b)?;
    let mut flow = Flow::open(lab.client(), b.plan.host_v6())?;
    let connection = only_connection(&b_client)?;
    ping_both(lab.client(), lab.site().plan)?;

    let rates = std::thread::scope(|scope| -> Result<_> {
        let transfer = scope.spawn(|| transfer(lab.client(), b.plan.host_v4(), BULK));
        until("a part of the transfer", PATIENCE, || Ok(server.moved() > BULK / 4))?;
        a_client.stop(Signal::TERM, PATIENCE)?;
        ensure!(
            server.moved() < BULK,
            "the transfer must be under way while the other stops"
        );
        transfer
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the transfer panicked")))
    })?;
    lab.note(&format!("100 MB each way in B while A stopped: {rates}"));
    flow.echo(PATIENCE)?;
    ping_both(lab.client(), b.plan)?;
    ensure!(
        only_connection(&b_client)? == connection,
        "B goes on over the same connection"
    );
    ensure!(!b_client.output().contains("path.lost"), "B noticed nothing");
    Ping::new(lab.client(), lab.site().plan.host_v4()).unanswered(Duration::from_millis(50))
}

fn killing_and_restarting_one_leaves_the_other_alone(lab: &Lab) -> Result<()> {
    let b = lab.add_site()?;
    let _server = Server::start(&b.lan)?;
    let (_gateways, [a_client, b_client]) = two(lab, &b)?;
    let mut flow = Flow::open(lab.client(), b.plan.host_v4())?;
    a_client.stop(Signal::KILL, PATIENCE)?;
    flow.echo(PATIENCE)?;
    let a_client = start_client(lab, lab.client(), "client-a-again", &client_settings(lab, lab.site())?)?;
    a_client.wait_for("removed what an earlier run left", PATIENCE)?;
    flow.echo(PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    ping_both(lab.client(), b.plan)?;
    ensure!(!b_client.output().contains("path.lost"), "B noticed nothing");
    Ok(())
}

fn a_default_route_in_one_leaves_the_other_its_network(lab: &Lab) -> Result<()> {
    let (a, b) = (lab.site(), lab.add_site()?);
    // A takes everything, comes first and has the lower slot. B's connection must still go beside A, and B's network into B.
    let everything = gateway_settings(lab, a)?.without("network.routes");
    let _gateway_a = start_gateway(lab, a, "gateway-a", &everything)?;
    let a_client = start_client(lab, lab.client(), "client-a", &client_settings(lab, a)?)?;
    let _gateway_b = start_gateway(lab, &b, "gateway-b", &gateway_settings(lab, &b)?)?;
    let b_client = start_client(lab, lab.client(), "client-b", &client_settings(lab, &b)?)?;
    ping_both(lab.client(), a.plan)?;
    ping_both(lab.client(), b.plan)?;
    for client in [&a_client, &b_client] {
        let mark = client.mark();
        client.signal(Signal::USR2)?;
        client.wait_for_after(mark, "path.back", PATIENCE)?;
    }
    ping_both(lab.client(), b.plan)?;
    a_client.stop(Signal::TERM, PATIENCE)?;
    ping_both(lab.client(), b.plan)
}

fn the_same_tunnel_does_not_run_twice(lab: &Lab) -> Result<()> {
    let gateway = gateway_settings(lab, lab.site())?;
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway)?;
    let settings = client_settings(lab, lab.site())?;
    let first = start_client(lab, lab.client(), "first", &settings)?;
    let with_tunnel = lab.client().snapshot()?;
    let second = spawn_client(lab, lab.client(), "second", &settings)?;
    ensure!(second.wait_exit(PATIENCE)?.code() == Some(1), "a tunnel has one daemon");
    second.wait_for(
        &format!("is already run by process {}", first.pid().as_raw_nonzero()),
        PATIENCE,
    )?;
    ensure!(with_tunnel.changes(&lab.client().snapshot()?).is_empty());
    ping_both(lab.client(), lab.site().plan)
}

/// Gateways and clients of both sites.
fn two(lab: &Lab, b: &Site) -> Result<([Process; 2], [Process; 2])> {
    let a = lab.site();
    let gateways = [
        start_gateway(lab, a, "gateway-a", &gateway_settings(lab, a)?)?,
        start_gateway(lab, b, "gateway-b", &gateway_settings(lab, b)?)?,
    ];
    let clients = [
        start_client(lab, lab.client(), "client-a", &client_settings(lab, a)?)?,
        start_client(lab, lab.client(), "client-b", &client_settings(lab, b)?)?,
    ];
    Ok((gateways, clients))
}
