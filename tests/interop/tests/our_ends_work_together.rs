//! Our client with our gateway: logins, traffic, reconnects, and what an administrator does meanwhile.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::{Failing, addresses, bulk, field, no_way, only_connection, ping_both, second_settings, session_end};
use lab::{
    Flow, Lab, Mark, PASSWORD, PATIENCE, Ping, Process, Server, Settings, Signal, USER, Users, client_interface,
    client_settings, gateway_settings, start_client, start_gateway, users_file,
};

fn main() -> ExitCode {
    lab::run(
        &[],
        lab::tests![
            a_password_carries_bulk_traffic_both_ways,
            ipv6_carries_ipv6_and_ipv4,
            tls_1_2_and_no_post_quantum_work_too,
            the_systems_trust_is_asked_where_nothing_else_is_set,
            a_certificate_gets_in,
            a_certificate_and_a_password_get_in_together_only,
            a_group_is_chosen_and_anothers_is_refused,
            a_reserved_address_is_granted,
            a_default_route_does_not_swallow_the_tunnel_itself,
            packets_up_to_the_mtu_pass_and_larger_ones_are_told,
            a_reconnect_keeps_addresses_and_flows_and_counts_the_epoch,
            a_restart_of_the_gateway_is_survived,
            a_cut_cable_costs_no_session,
            a_renewed_certificate_is_loaded_without_dropping_anybody,
            a_removed_user_is_ended,
            an_idle_session_ends_and_says_so,
            a_sessions_time_ends_and_says_so,
            clients_reach_each_other_only_where_allowed,
            a_foreign_source_does_not_leave_the_client,
        ],
    )
}

fn a_password_carries_bulk_traffic_both_ways(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, |settings| settings)?;
    no_way(lab.client(), lab.site().plan)?;
    let client = client(lab, |settings| settings)?;
    ping_both(lab.client(), lab.site().plan)?;
    bulk(lab, lab.client(), lab.site().plan)?;
    let (status, time) = client.stop(Signal::TERM, PATIENCE)?;
    ensure!(status.success(), "the client ended with {status}");
    lab.note(&format!("client stopped in {} ms", time.as_millis()));
    session_end(&gateway, "user_stop")?;
    Ok(())
}

fn ipv6_carries_ipv6_and_ipv4(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, |settings| settings)?;
    let outer = lab.site().plan.gateway_v6().to_string();
    let client = client(lab, |settings| settings.with("gateway.addresses", vec![outer.clone()]))?;
    let peer = field(&client, Mark::default(), &["session.start"], "peer")?;
    ensure!(peer == outer, "{peer}");
    ping_both(lab.client(), lab.site().plan)
}

fn tls_1_2_and_no_post_quantum_work_too(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, |settings| settings.with("tls.post_quantum", false))?;
    let client = client(lab, |settings| settings.with("tls.post_quantum", false))?;
    let group = field(&client, Mark::default(), &["session.start"], "group")?;
    ensure!(!group.to_lowercase().contains("mlkem"), "{group}");
    ping_both(lab.client(), lab.site().plan)
}

fn the_systems_trust_is_asked_where_nothing_else_is_set(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, |settings| settings)?;
    let settings = client_settings(lab, lab.site())?.without("trust.ca_file");
    let config = settings.write(&lab.folder().join("system-trust.toml"))?;
    let start = |name: &str, roots: &Path| -> Result<Process> {
        let mut command = lab::marmot(lab, lab.client(), &["client", "-c"])?;
        command.arg(&config).env("SSL_CERT_FILE", roots);
        lab.spawn(name, command)
    };
    // The system does not know our authority, or it does.
    let strangers = lab.pki().self_signed_server()?;
    let refused = start("strange-roots", &strangers.certificate)?;
    ensure!(
        refused.wait_exit(PATIENCE)?.code() == Some(1),
        "an unknown authority is refused"
    );
    refused.wait_for("its certificate comes from nobody this host trusts", PATIENCE)?;
    let client = start("known-roots", &lab.pki().ca())?;
    client.wait_for("session.start", PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)
}

fn a_certificate_gets_in(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, |settings| by_certificate(lab, settings, &["certificate"], false))?;
    let alice = lab.pki().client(USER)?;
    let _client = client(lab, |settings| with_certificate(without_password(settings), &alice))?;
    ping_both(lab.client(), lab.site().plan)
}

fn a_certificate_and_a_password_get_in_together_only(lab: &Lab) -> Result<()> {
    let both = ["password", "certificate"];
    let _gateway = gateway(lab, |settings| by_certificate(lab, settings, &both, true))?;
    let alice = lab.pki().client(USER)?;
    let bob = lab.pki().client("bob")?;
    let password_alone = client_settings(lab, lab.site())?;
    Failing::new(lab, lab.client(), "client", "password-alone", &password_alone)?.ends_with(4, &["certificate"])?;
    let somebody_elses = with_certificate(password_alone, &bob);
    Failing::new(lab, lab.client(), "client", "somebody-elses", &somebody_elses)?
        .ends_with(4, &["refused the login"])?;
    let _client = client(lab, |settings| with_certificate(settings, &alice))?;
    ping_both(lab.client(), lab.site().plan)
}

fn a_group_is_chosen_and_anothers_is_refused(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?.with("auth.groups", vec!["guests", "staff"]);
    Users::alice()?
        .with(USER, "groups", vec!["staff"])
        .write(&users_file(lab, lab.site()))?;
    let _gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    // The gateway refuses the one; the other is no group of the gateway's, and a mistake of the configuration.
    for (group, code) in [("guests", 4), ("nonsense", 3)] {
        let settings = client_settings(lab, lab.site())?.with("login.group", group);
        Failing::new(lab, lab.client(), "client", group, &settings)?.ends_with(code, &["marmot: "])?;
    }
    let _client = client(lab, |settings| settings.with("login.group", "staff"))?;
    ping_both(lab.client(), lab.site().plan)
}

fn a_reserved_address_is_granted(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    let reserved = Users::alice()?
        .with(USER, "ipv4", "10.78.0.77")
        .with(USER, "ipv6", "fd00:78::77");
    reserved
        .and("bob", PASSWORD, &[])?
        .write(&users_file(lab, lab.site()))?;
    let _gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let alice = client(lab, |settings| settings)?;
    let granted = addresses(&alice)?;
    ensure!(
        granted.contains("10.78.0.77/32") && granted.contains("fd00:78::77/128"),
        "{granted}"
    );
    let second = lab.add_client()?;
    let bob = second_settings(lab)?.with("login.user", "bob");
    let bob = start_client(lab, &second, "bob", &bob)?;
    ensure!(
        !addresses(&bob)?.contains("77/"),
        "a reserved address is for its user only"
    );
    ping_both(lab.client(), lab.site().plan)?;
    ping_both(&second, lab.site().plan)
}

fn a_default_route_does_not_swallow_the_tunnel_itself(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let _gateway = gateway(lab, |settings| settings.without("network.routes"))?;
    // The neighbour has a public address, which stays local only where that is said.
    let client = client(lab, |settings| settings.with("session.local_networks", "all"))?;
    ping_both(lab.client(), lab.site().plan)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v4())?;
    // The neighbour on the same cable stays in reach, and the gateway's own address too, through or beside the tunnel.
    Ping::new(lab.client(), Ipv4Addr::new(192, 0, 2, 1)).answered(PATIENCE)?;
    let mark = client.mark();
    client.signal(Signal::USR2)?;
    client.wait_for_after(mark, "path.back", PATIENCE)?;
    flow.echo(PATIENCE)?;
    Ok(())
}

fn packets_up_to_the_mtu_pass_and_larger_ones_are_told(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab, |settings| settings.with("network.mtu", 1300))?;
    let client = client(lab, |settings| settings)?;
    let plan = lab.site().plan;
    for to in [IpAddr::from(plan.host_v4()), plan.host_v6().into()] {
        Ping::new(lab.client(), to).packet_size(1300).answered(PATIENCE)?;
        // The kernel splits what does not fit, at the source.
        Ping::new(lab.client(), to).packet_size(4000).answered(PATIENCE)?;
    }
    // From the LAN the way narrows at the gateway, which splits IPv4 and tells IPv6 the size that fits.
    for address in granted(&client)? {
        Ping::new(&lab.site().lan, address)
            .packet_size(1300)
            .answered(PATIENCE)?;
        Ping::new(&lab.site().lan, address)
            .packet_size(1500)
            .answered(PATIENCE)?;
    }
    Ok(())
}

fn a_reconnect_keeps_addresses_and_flows_and_counts_the_epoch(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, |settings| settings)?;
    let client = client(lab, |settings| settings)?;
    let plan = lab.site().plan;
    let (mut flow, mut flow_v6) = (
        Flow::open(lab.client(), plan.host_v4())?,
        Flow::open(lab.client(), plan.host_v6())?,
    );
    let session = field(&client, Mark::default(), &["session.start"], "session")?;
    let id = session
        .strip_suffix(";1")
        .with_context(|| format!("no epoch 1: {session}"))?;
    for epoch in 2..=4 {
        let before = only_connection(&client)?;
        let mark = client.mark();
        client.signal(Signal::USR2)?;
        let after = field(&client, mark, &["path.back"], "session")?;
        ensure!(after == format!("{id};{epoch}"), "{session} became {after}");
        gateway.wait_for(&format!("epoch={epoch} "), PATIENCE)?;
        flow.echo(PATIENCE)?;
        flow_v6.echo(PATIENCE)?;
        ensure!(only_connection(&client)? != before, "it must be another connection");
    }
    ensure!(!gateway.output().contains("session.end"), "the session goes on");
    ping_both(lab.client(), plan)
}

fn a_restart_of_the_gateway_is_survived(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    let first = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let client = client(lab, |settings| settings)?;
    let mark = client.mark();
    let (_, time) = first.stop(Signal::TERM, PATIENCE)?;
    lab.note(&format!("gateway stopped in {} ms", time.as_millis()));
    client.wait_for_after(mark, "path.lost", PATIENCE)?;
    let _second = start_gateway(lab, lab.site(), "gateway-again", &settings)?;
    ping_both(lab.client(), lab.site().plan)?;
    ensure!(client.is_running(), "the same client must carry on");
    Ok(())
}

fn a_cut_cable_costs_no_session(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let gateway = gateway(lab, |settings| settings)?;
    let client = client(lab, |settings| settings)?;
    let connection = only_connection(&client)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v4())?;
    lab.internet().down("site-a")?;
    no_way(lab.client(), lab.site().plan)?;
    lab.internet().up("site-a")?;
    flow.echo(PATIENCE)?;
    ensure!(only_connection(&client)? == connection, "TCP outlives a short outage");
    ensure!(!gateway.output().contains("session detached"), "nothing was lost");
    Ok(())
}

fn a_renewed_certificate_is_loaded_without_dropping_anybody(lab: &Lab) -> Result<()> {
    let _server = Server::start(&lab.site().lan)?;
    let settings = gateway_settings(lab, lab.site())?;
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let old = client(lab, |settings| settings)?;
    let connection = only_connection(&old)?;
    let mut flow = Flow::open(lab.client(), lab.site().plan.host_v4())?;

    let renewed = lab.pki().renewed_server()?;
    let settings = settings.with_path("tls.certificate_file", &renewed.certificate);
    settings
        .with_path("tls.key_file", &renewed.key)
        .write(&lab.folder().join("gateway.toml"))?;
    gateway.signal(Signal::HUP)?;
    gateway.wait_for("configuration reloaded", PATIENCE)?;

    flow.echo(PATIENCE)?;
    ensure!(only_connection(&old)? == connection && !gateway.output().contains("session.end"));
    let second = lab.add_client()?;
    let pinned = second_settings(lab)?.with("trust.pins", vec![renewed.pin]);
    let _new = start_client(lab, &second, "pinned", &pinned)?;
    ping_both(&second, lab.site().plan)
}

fn a_removed_user_is_ended(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab, |settings| settings)?;
    let before = lab.client().snapshot()?;
    let client = client(lab, |settings| settings)?;
    Users::default()
        .and("bob", PASSWORD, &[])?
        .write(&users_file(lab, lab.site()))?;
    gateway.signal(Signal::HUP)?;
    session_end(&gateway, "admin")?;
    over(lab, &client, "the user was removed")?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}

fn an_idle_session_ends_and_says_so(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab, |settings| settings.with("session.idle_timeout_s", 1))?;
    let client = client(lab, |settings| settings)?;
    // Pings do not keep it; that is what idle means here.
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    session_end(&gateway, "idle")?;
    over(lab, &client, "no traffic for too long")
}

fn a_sessions_time_ends_and_says_so(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab, |settings| settings.with("session.session_timeout_s", 2))?;
    let client = client(lab, |settings| settings)?;
    session_end(&gateway, "auth_expired")?;
    over(lab, &client, "the session's time is over")
}

fn clients_reach_each_other_only_where_allowed(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?;
    let settings = settings.with(
        "network.routes",
        vec!["10.77.0.0/24", "fd00:77::/64", "10.78.0.0/24", "fd00:78::/64"],
    );
    let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
    let _one = client(lab, |settings| settings)?;
    let second = lab.add_client()?;
    let two = start_client(lab, &second, "two", &second_settings(lab)?)?;
    let other = granted(&two)?;
    ensure!(other.len() == 2, "{other:?}");
    for to in &other {
        Ping::new(lab.client(), *to).unanswered(Duration::from_millis(100))?;
    }
    settings
        .with("network.client_to_client", true)
        .write(&lab.folder().join("gateway.toml"))?;
    gateway.signal(Signal::HUP)?;
    gateway.wait_for("configuration reloaded", PATIENCE)?;
    for to in other {
        Ping::new(lab.client(), to).answered(PATIENCE)?;
    }
    Ok(())
}

fn a_foreign_source_does_not_leave_the_client(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab, |settings| settings)?;
    let client = client(lab, |settings| settings)?;
    let foreign = Ipv4Addr::new(10, 78, 0, 99);
    lab.client()
        .address(&client_interface(lab.site()), "10.78.0.99/32".parse()?)?;
    let to = lab.site().plan.host_v4();
    Ping::new(lab.client(), to)
        .source(foreign)
        .unanswered(Duration::from_millis(100))?;
    Ping::new(lab.client(), to).answered(PATIENCE)?;
    client.stop(Signal::TERM, PATIENCE)?;
    let end = client.wait_for_line(Mark::default(), &["session.end"], PATIENCE)?;
    ensure!(end.contains("foreign_source="), "{end}");
    let end = session_end(&gateway, "user_stop")?;
    ensure!(
        !end.contains("foreign_source="),
        "it should not even have left the client: {end}"
    );
    Ok(())
}

/// The addresses of a client, without their prefix lengths.
fn granted(client: &Process) -> Result<Vec<IpAddr>> {
    let addresses = addresses(client)?;
    let parsed = addresses
        .split(' ')
        .map(|net| net.split('/').next().unwrap_or_default().parse());
    parsed
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot read {addresses}"))
}

/// Waits until the client has ended because its session has, for a reason that it says.
fn over(lab: &Lab, client: &Process, reason: &str) -> Result<()> {
    let status = client.wait_exit(PATIENCE)?;
    ensure!(status.code() == Some(6), "the client ended with {status}");
    let line = client.wait_for_line(Mark::default(), &["marmot: the session is over", reason], PATIENCE)?;
    lab.note(&line);
    Ok(())
}

fn gateway(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
    start_gateway(lab, lab.site(), "gateway", &change(gateway_settings(lab, lab.site())?))
}

fn client(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
    start_client(lab, lab.client(), "client", &change(client_settings(lab, lab.site())?))
}

fn by_certificate(lab: &Lab, settings: Settings, methods: &[&str], both: bool) -> Settings {
    settings
        .with("auth.methods", methods.to_vec())
        .with("auth.require_both", both)
        .with_path("auth.client_ca_file", &lab.pki().ca())
}

fn without_password(settings: Settings) -> Settings {
    settings.without("login.user").without("login.password_file")
}

fn with_certificate(settings: Settings, identity: &lab::Identity) -> Settings {
    settings
        .with_path("login.certificate_file", &identity.certificate)
        .with_path("login.key_file", &identity.key)
}
