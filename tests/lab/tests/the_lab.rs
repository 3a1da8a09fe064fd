//! The lab itself: what it builds is what the tests believe they stand on.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Flow, Hole, Lab, Meter, PATIENCE, Ping, Server, Steady, has_device, name_free, transfer};
use platform::tcp::TcpState;

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft"],
        lab::tests![
            hosts_reach_each_other_through_the_internet_only,
            a_lan_is_reached_from_its_gateway_only,
            two_sites_and_two_clients_fit_in,
            what_is_transferred_arrives_and_comes_back,
            another_programs_connection_can_be_looked_at,
            a_host_is_described_before_and_after,
            a_hole_swallows_what_it_is_told_to_and_a_steady_flow_counts_it,
            a_meter_counts_what_arrives,
            a_device_is_seen_to_go,
        ],
    )
}

fn hosts_reach_each_other_through_the_internet_only(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    Ping::new(lab.client(), plan.gateway_v4()).answered(PATIENCE)?;
    Ping::new(lab.client(), plan.gateway_v6()).answered(PATIENCE)?;
    lab.client().down("eth0")?;
    Ping::new(lab.client(), plan.gateway_v4()).unanswered(Duration::from_millis(50))
}

fn a_lan_is_reached_from_its_gateway_only(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    Ping::new(&lab.site().gateway, plan.host_v4()).answered(PATIENCE)?;
    Ping::new(&lab.site().gateway, plan.host_v6()).answered(PATIENCE)?;
    Ping::new(lab.client(), plan.host_v4()).unanswered(Duration::from_millis(50))?;
    Ping::new(lab.client(), plan.host_v6()).unanswered(Duration::from_millis(50))
}

fn two_sites_and_two_clients_fit_in(lab: &Lab) -> Result<()> {
    let site = lab.add_site()?;
    let client = lab.add_client()?;
    for gateway in [lab.site().plan, site.plan] {
        Ping::new(&client, gateway.gateway_v4()).answered(PATIENCE)?;
        Ping::new(&client, gateway.gateway_v6()).answered(PATIENCE)?;
    }
    Ping::new(&site.gateway, site.plan.host_v6())
        .packet_size(1500)
        .answered(PATIENCE)?;
    Ok(())
}

fn what_is_transferred_arrives_and_comes_back(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let rates = transfer(&lab.site().gateway, lab.site().plan.host_v4(), 100_000_001)?;
    lab.note(&format!("plain TCP over one cable: {rates}"));
    let mut flow = Flow::open(&lab.site().gateway, lab.site().plan.host_v6())?;
    flow.echo(PATIENCE)?;
    Ok(())
}

fn another_programs_connection_can_be_looked_at(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let plan = lab.site().plan;
    let talk = format!(
        "exec 3<>/dev/tcp/{}/7000; printf e0123456789abcdefhello >&3; head -c 5 <&3; read x <&3",
        plan.host_v4()
    );
    let mut command = lab.command(&lab.site().gateway, "bash")?;
    command.args(["-c", &talk]);
    let process = lab.spawn("bash", command)?;
    process.wait_for("hello", PATIENCE)?;
    let connections = process.connections()?;
    let remotes: Vec<SocketAddr> = connections.iter().map(|connection| connection.remote).collect();
    ensure!(remotes == [SocketAddr::from((plan.host_v4(), 7000))], "{remotes:?}");
    let info = connections[0].info()?;
    ensure!(info.state == TcpState::Established && info.unacked == 0, "{info:?}");
    Ok(())
}

fn a_host_is_described_before_and_after(lab: &Lab) -> Result<()> {
    let before = lab.client().snapshot()?;
    ensure!(before.lines().any(|line| line.contains("192.0.2.2")), "{before}");
    lab.client().address("lo", "10.9.9.9/32".parse()?)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(
        changes
            .iter()
            .any(|change| change.starts_with('+') && change.contains("10.9.9.9")),
        "{changes:?}"
    );
    ensure!(!changes.iter().any(|change| change.starts_with('-')), "{changes:?}");
    Ok(())
}

fn a_hole_swallows_what_it_is_told_to_and_a_steady_flow_counts_it(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    let flow = Steady::start(lab.client(), plan.gateway_v4())?;
    let hole = Hole::dig(lab, lab.internet(), &[format!("ip daddr {}", plan.gateway_v4())])?;
    Ping::new(lab.client(), plan.gateway_v4()).unanswered(Duration::from_millis(50))?;
    Ping::new(lab.client(), plan.gateway_v6()).answered(PATIENCE)?;
    drop(hole);
    Ping::new(lab.client(), plan.gateway_v4()).answered(PATIENCE)?;
    let tally = flow.end()?;
    ensure!(tally.lost == 1, "one request at a time was lost: {tally:?}");
    Ok(())
}

fn a_meter_counts_what_arrives(lab: &Lab) -> Result<()> {
    let plan = lab.site().plan;
    let matches = [plan.gateway_v4(), plan.host_v4()].map(|address| format!("iifname client ip daddr {address}"));
    let meter = Meter::start(lab, lab.internet(), &matches)?;
    ensure!(meter.packets()? == [0, 0], "nothing was sent");
    Ping::new(lab.client(), plan.gateway_v4()).answered(PATIENCE)?;
    let packets = meter.packets()?;
    ensure!(packets[0] > 0 && packets[1] == 0, "{packets:?}");
    Ok(())
}

fn a_device_is_seen_to_go(lab: &Lab) -> Result<()> {
    ensure!(has_device(lab.client(), "eth0")? && !has_device(lab.client(), "eth")?);
    ensure!(name_free(lab.client(), "eth0", Duration::ZERO).is_err(), "it is there");
    let mut delete = lab.command(lab.client(), "ip")?;
    delete.args(["link", "delete", "eth0"]);
    let ip = lab.spawn("ip", delete)?;
    name_free(lab.client(), "eth0", PATIENCE)?;
    ensure!(ip.wait_exit(PATIENCE)?.success(), "it was deleted");
    Ok(())
}
