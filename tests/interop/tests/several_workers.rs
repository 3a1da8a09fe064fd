//! A gateway that carries packets on two threads: with our own client and with the stock one, when they move, come back and are many.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{MOVED, data_channel, field, ping_both};
use lab::{
    Lab, Mark, Openconnect, PATIENCE, Process, Server, Settings, Signal, client_settings, gateway_settings,
    start_client, start_gateway, stock_channel, transfer,
};
use platform::netns::Namespace;

/// Moved each way, in bytes.
const MOVED_BYTES: u64 = 20_000_000;

/// What each measurement takes.
const SECONDS: &str = "2";

fn main() -> ExitCode {
    lab::run(
        &["openconnect", "iperf3", "ip", "nft"],
        lab::tests![
            our_clients_come_to_their_worker,
            a_stock_client_is_carried_wherever_its_datagrams_come_to,
            a_client_that_moves_stays_with_its_worker,
            a_second_worker_costs_little,
        ],
    )
}

fn gateway(lab: &Lab, workers: i64) -> Result<Process> {
    let settings = gateway_settings(lab, lab.site())?.with("network.workers", workers);
    start_gateway(lab, lab.site(), "gateway", &settings)
}

/// Settings of one of several clients.
fn numbered(lab: &Lab, number: usize) -> Result<Settings> {
    let folder = lab.folder().join(format!("client-{number}"));
    std::fs::create_dir_all(&folder)?;
    Ok(client_settings(lab, lab.site())?
        .with_path("tunnel.state_dir", &folder)
        .with_path("tunnel.runtime_dir", &folder))
}

/// Stops a gateway and says how many datagrams, and packets, went from worker to worker.
fn handed(gateway: Process) -> Result<(u64, u64)> {
    let mark = Mark::default();
    let of = |name| -> Result<u64> { Ok(field(&gateway, mark, &["gateway stopped"], name)?.parse()?) };
    gateway.signal(Signal::TERM)?;
    let handed = (of("handed_datagrams")?, of("handed_packets")?);
    let status = gateway.wait_exit(PATIENCE)?;
    ensure!(status.success(), "the gateway ended with {status}");
    Ok(handed)
}

fn our_clients_come_to_their_worker(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, 2)?;
    let second = lab.add_client()?;
    let mut clients = Vec::new();
    for (number, host) in [lab.client(), &second].into_iter().enumerate() {
        let client = start_client(lab, host, &format!("client-{number}"), &numbered(lab, number)?)?;
        data_channel(&client, Mark::default())?;
        ping_both(host, lab.site().plan)?;
        let rates = transfer(host, lab.site().plan.host_v4(), MOVED_BYTES)?;
        lab.note(&format!("client {number}, 20 MB each way: {rates}"));
        clients.push(client);
    }
    for client in clients {
        ensure!(client.stop(Signal::TERM, PATIENCE)?.0.success());
    }
    let (datagrams, packets) = handed(gateway)?;
    lab.note(&format!("{datagrams} datagrams and {packets} packets were handed over"));
    ensure!(datagrams <= 4, "at most the handshakes name nobody: {datagrams}");
    Ok(())
}

fn a_stock_client_is_carried_wherever_its_datagrams_come_to(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, 2)?;
    // Each has a port of its own, so that the kernel's hash is wrong for one of them sooner or later.
    for _ in 0..3 {
        let client = Openconnect::new(lab, lab.client(), lab.site(), "openconnect")?
            .good_password()
            .with_dtls()
            .up()?;
        stock_channel(&client)?;
        ping_both(lab.client(), lab.site().plan)?;
        let rates = transfer(lab.client(), lab.site().plan.host_v4(), MOVED_BYTES)?;
        lab.note(&format!("openconnect, 20 MB each way: {rates}"));
        client.stop(Signal::INT, PATIENCE)?;
    }
    let (datagrams, packets) = handed(gateway)?;
    lab.note(&format!("{datagrams} datagrams and {packets} packets were handed over"));
    Ok(())
}

fn a_client_that_moves_stays_with_its_worker(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, 2)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    data_channel(&client, Mark::default())?;
    ping_both(lab.client(), lab.site().plan)?;
    let mark = gateway.mark();
    lab::move_client(lab, 2, 7)?;
    gateway.wait_for_line(mark, &[MOVED], PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    transfer(lab.client(), lab.site().plan.host_v4(), MOVED_BYTES)?;
    ensure!(client.stop(Signal::TERM, PATIENCE)?.0.success());
    let (datagrams, packets) = handed(gateway)?;
    lab.note(&format!("{datagrams} datagrams and {packets} packets were handed over"));
    Ok(())
}

/// What one number of workers and of sessions comes to.
struct Figures {
    /// Of all sessions together, in bits per second.
    up: f64,
    down: f64,
    /// Seconds of the gateway's processor time for each gigabyte, both ways together.
    cpu: f64,
}

fn a_second_worker_costs_little(lab: &Lab) -> Result<()> {
    let mut hosts = lab.add_clients(3)?;
    hosts.insert(0, lab.add_client()?);
    let mut measured = Vec::new();
    for workers in [1, 2] {
        let gateway = gateway(lab, workers)?;
        let mut clients = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let client = start_client(lab, host, &format!("client-{number}"), &numbered(lab, number)?)?;
            data_channel(&client, Mark::default())?;
            clients.push(client);
        }
        for sessions in [1, hosts.len()] {
            let figures = measure(lab, &gateway, &hosts[..sessions])?;
            lab.note(&format!(
                "{workers} workers, {sessions} sessions: {:.2} Gbit/s up, {:.2} down; the gateway {:.2} s/GB",
                figures.up / 1e9,
                figures.down / 1e9,
                figures.cpu
            ));
            measured.push(figures);
        }
        for client in clients {
            client.stop(Signal::TERM, PATIENCE)?;
        }
        gateway.stop(Signal::TERM, PATIENCE)?;
    }
    let [one, one_of_four, two, two_of_four] = &measured[..] else {
        anyhow::bail!("four measurements");
    };
    for (sessions, before, after) in [(1, one, two), (4, one_of_four, two_of_four)] {
        let (up, down, cpu) = (after.up / before.up, after.down / before.down, after.cpu / before.cpu);
        lab.note(&format!(
            "two workers over one, {sessions} sessions: {up:.2} up, {down:.2} down, processor time {cpu:.2}"
        ));
        // The rates share two processors with whatever else runs; what a byte costs does not.
        ensure!(cpu < 1.6, "a second worker must not cost so much: {cpu:.2}");
    }
    Ok(())
}

fn measure(lab: &Lab, gateway: &Process, hosts: &[Namespace]) -> Result<Figures> {
    let before = gateway.processor_time()?;
    let (up, sent) = iperf(lab, hosts, &[])?;
    let (down, received) = iperf(lab, hosts, &["-R"])?;
    Ok(Figures {
        up,
        down,
        cpu: (gateway.processor_time()? - before) / ((sent + received) / 1e9),
    })
}

/// Bits per second and bytes of all `hosts` at the same time to the host of the LAN.
fn iperf(lab: &Lab, hosts: &[Namespace], more: &[&str]) -> Result<(f64, f64)> {
    let to = lab.site().plan.host_v4().to_string();
    let mut both = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let port = (5201 + number).to_string();
        let mut server = lab.command(&lab.site().lan, "iperf3")?;
        server.args(["-s", "-1", "--forceflush", "-p", &port]);
        let server = lab.spawn(&format!("iperf3-server-{number}"), server)?;
        server.wait_for("Server listening", PATIENCE)?;
        let mut client = lab.command(host, "iperf3")?;
        client.args(["-c", &to, "-p", &port, "-t", SECONDS, "-J"]).args(more);
        both.push((server, client));
    }
    let mut running = Vec::new();
    for (server, mut client) in both {
        client.stdout(std::process::Stdio::piped());
        running.push((server, client.spawn().context("run iperf3")?));
    }
    let (mut rate, mut bytes) = (0.0, 0.0);
    for (server, client) in running {
        let output = client.wait_with_output()?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("read what iperf3 says")?;
        let received = &report["end"]["sum_received"];
        let of = |name: &str| {
            received[name]
                .as_f64()
                .with_context(|| format!("iperf3 says no {name}: {report}"))
        };
        rate += of("bits_per_second")?;
        bytes += of("bytes")?;
        server.wait_exit(PATIENCE)?;
    }
    Ok((rate, bytes))
}
