//! What a gateway does to packets between its clients and the network behind it: translation, groups, access rules, forged sources, and what
//! is left of all that.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::{Failing, field, ping_both, second_settings, session_end, tunnel_address};
use lab::{
    Flow, Lab, Mark, Openconnect, PASSWORD, PATIENCE, Ping, Process, STOCK_INTERFACE, Server, Settings, Signal, USER,
    Users, client_interface, client_settings, gateway_settings, start_client, start_gateway, until, users_file,
};
use platform::netns::Namespace;

/// How long something that must not happen is waited for: many times what it takes where it does.
const NEVER: Duration = Duration::from_millis(300);

/// Ports of the host in the LAN.
const WEB: u16 = 8443;
const MAIL: u16 = 25;

fn main() -> ExitCode {
    lab::run(
        &["openconnect", "ip", "nft", "tcpdump", "conntrack"],
        lab::tests![
            clients_reach_a_lan_that_knows_no_way_back,
            nothing_outside_reaches_a_translated_client_by_itself,
            a_forged_source_gets_nowhere_with_and_without_translation,
            two_groups_have_their_routes_and_their_rules,
            a_stock_client_gets_the_routes_of_its_group,
            a_reload_tightens_and_opens_a_live_session,
            a_session_ends_with_its_group,
            clients_talk_to_each_other_as_far_as_the_rules_say,
            a_released_address_leaves_no_flow_behind,
            the_packet_filter_is_as_before_whoever_ended_the_gateway,
            what_is_missing_or_contradictory_is_told,
        ],
    )
}

/// A program on a host, and what it wrote.
fn said(lab: &Lab, host: &Namespace, program: &str, arguments: &[&str]) -> Result<String> {
    let output = lab.command(host, program)?.args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {complaint}",
        arguments.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The LAN forgets its way out: it knows its own network alone.
fn no_way_back(lab: &Lab) -> Result<()> {
    let lan = &lab.site().lan;
    said(lab, lan, "ip", &["route", "del", "default"])?;
    said(lab, lan, "ip", &["-6", "route", "del", "default"]).map(drop)
}

/// The packet filter, the switches of forwarding and the network of the gateway's host.
fn host_state(lab: &Lab) -> Result<(String, String, Vec<String>)> {
    let gateway = &lab.site().gateway;
    let rules = said(lab, gateway, "nft", &["list", "ruleset"])?;
    let switches = "for file in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv*/conf/*/forwarding; do echo $file $(cat $file); done";
    let switches = said(lab, gateway, "sh", &["-c", switches])?;
    let network = gateway.snapshot()?;
    Ok((rules, switches, network.lines().map(str::to_owned).collect()))
}

/// Flows of one address that the gateway's host remembers.
fn flows(lab: &Lab, of: impl Into<IpAddr>) -> Result<usize> {
    let of = of.into();
    let family = if of.is_ipv4() { "ipv4" } else { "ipv6" };
    let listed = said(lab, &lab.site().gateway, "conntrack", &["-L", "-f", family])?;
    let address = format!("src={of} ");
    Ok(listed.lines().filter(|line| line.contains(&address)).count())
}

/// Packets that one counter of the gateway's table has.
fn counted(lab: &Lab, counter: &str) -> Result<u64> {
    let listed = said(
        lab,
        &lab.site().gateway,
        "nft",
        &["list", "counter", "inet", "marmot_gw_marmot-gw", counter],
    )?;
    let packets = listed
        .split_once("packets ")
        .and_then(|(_, rest)| rest.split(' ').next());
    packets
        .and_then(|packets| packets.parse().ok())
        .context("a counter counts packets")
}

/// What tcpdump says of packets on a device, a line each.
struct Wire(Process);

impl Wire {
    fn on(lab: &Lab, host: &Namespace, device: &str, matches: &str, name: &str) -> Result<Self> {
        let mut command = lab.command(host, "tcpdump")?;
        command.args([
            "-i",
            device,
            "-n",
            "-v",
            "-l",
            "--immediate-mode",
            "-Z",
            "root",
            matches,
        ]);
        let tcpdump = lab.spawn(name, command)?;
        tcpdump.wait_for("listening on", PATIENCE)?;
        Ok(Self(tcpdump))
    }

    fn saw(&self, texts: &[&str]) -> Result<String> {
        self.0.wait_for_line(Mark::default(), texts, PATIENCE)
    }

    fn count(&self, text: &str) -> usize {
        self.0.count(&[text])
    }
}

/// A host in the LAN that takes connections and answers datagrams on its ports.
struct Host {
    _listeners: Vec<TcpListener>,
}

impl Host {
    fn on(host: &Namespace, ports: &[u16]) -> Result<Self> {
        let mut listeners = Vec::new();
        for port in ports {
            let address = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, *port));
            listeners.push(host.run(|| TcpListener::bind(address))?.context("listen")?);
            let socket = host.run(|| UdpSocket::bind(address))?.context("bind")?;
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                // For as long as the process lives.
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let answer = format!("{} from {from}", String::from_utf8_lossy(&buffer[..length]));
                    let _ = socket.send_to(answer.as_bytes(), from);
                }
            });
        }
        Ok(Self { _listeners: listeners })
    }
}

/// Whether a TCP connection comes about.
fn connects(from: &Namespace, to: impl Into<IpAddr>, port: u16, within: Duration) -> Result<bool> {
    let to = SocketAddr::from((to.into(), port));
    Ok(from.run(|| TcpStream::connect_timeout(&to, within))?.is_ok())
}

/// What a UDP service answers, if it does.
fn asks(from: &Namespace, to: impl Into<IpAddr>, port: u16, within: Duration) -> Result<Option<String>> {
    let to = SocketAddr::from((to.into(), port));
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = from.run(|| UdpSocket::bind((any, 0)))?.context("bind")?;
    socket.connect(to).context("connect")?;
    socket.set_read_timeout(Some(within)).context("a deadline")?;
    socket.send(b"question").context("send")?;
    let mut buffer = [0; 100];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        // What the gateway says of a packet that is not allowed.
        Err(error) if matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::PermissionDenied) => Ok(None),
        Err(error) => Err(error).context("receive"),
    }
}

fn clients_reach_a_lan_that_knows_no_way_back(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    no_way_back(lab)?;
    let _server = Server::start(&site.lan)?;
    let _host = Host::on(&site.lan, &[WEB])?;
    let settings = gateway_settings(lab, site)?;
    let plain = start_gateway(lab, site, "plain", &settings)?;
    let client = start_client(lab, lab.client(), "client-plain", &client_settings(lab, site)?)?;
    Ping::new(lab.client(), plan.host_v4()).unanswered(NEVER)?;
    Ping::new(lab.client(), plan.host_v6()).unanswered(NEVER)?;
    client.stop(Signal::TERM, PATIENCE)?;
    plain.stop(Signal::TERM, PATIENCE)?;

    // The way out is narrower than the tunnel.
    for (host, device) in [(&site.gateway, "lan"), (&site.lan, "eth0")] {
        host.set_mtu(device, 1300)?;
    }
    let wire = Wire::on(lab, &site.lan, "eth0", "tcp or udp", "wire")?;
    let _gateway = start_gateway(lab, site, "gateway", &settings.with("network.nat", true))?;
    let _client = start_client(lab, lab.client(), "client", &client_settings(lab, site)?)?;
    ping_both(lab.client(), plan)?;
    for (to, own, mss) in [
        (IpAddr::from(plan.host_v4()), "10.77.0.1", 1260),
        (IpAddr::from(plan.host_v6()), "fd00:77::1", 1240),
    ] {
        Flow::open(lab.client(), to)?.echo(PATIENCE)?;
        let answer = asks(lab.client(), to, WEB, PATIENCE)?.context("no answer over UDP")?;
        ensure!(
            answer.contains(own),
            "the LAN must see the gateway's own address: {answer}"
        );
        // The client's own, not the answer of the LAN.
        let handshake = wire.saw(&["Flags [S],", &format!("mss {mss},")])?;
        lab.note(&format!("in the LAN: {}", handshake.trim()));
    }
    ensure!(
        wire.count("10.78.0.") == 0 && wire.count("fd00:78:") == 0,
        "an address of a pool was seen in the LAN"
    );
    Ok(())
}

fn nothing_outside_reaches_a_translated_client_by_itself(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    let _server = Server::start(&site.lan)?;
    let settings = gateway_settings(lab, site)?.with("network.nat", true);
    let gateway = start_gateway(lab, site, "gateway", &settings)?;
    let _client = start_client(lab, lab.client(), "client", &client_settings(lab, site)?)?;
    ping_both(lab.client(), plan)?;
    let address = tunnel_address(lab.client(), &client_interface(site))?;
    // The LAN has a default route by the gateway, so it could.
    Ping::new(&site.lan, address).unanswered(NEVER)?;
    ensure!(!connects(&site.lan, address, WEB, NEVER)?);
    let unasked = counted(lab, "unasked")?;
    ensure!(unasked > 0, "what was dropped is counted");
    ping_both(lab.client(), plan)?;
    gateway.stop(Signal::TERM, PATIENCE)?;
    gateway.wait_for("packets that the packet filter dropped", PATIENCE)?;
    lab.note(&format!("{unasked} packets dropped that nobody had asked for"));
    Ok(())
}

fn a_forged_source_gets_nowhere_with_and_without_translation(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    let forged = Ipv4Addr::new(10, 78, 0, 200);
    said(
        lab,
        &site.lan,
        "ip",
        &["address", "add", &format!("{forged}/32"), "dev", "lo"],
    )?;
    for nat in [false, true] {
        let name = if nat { "translating" } else { "plain" };
        let settings = gateway_settings(lab, site)?.with("network.nat", nat);
        let gateway = start_gateway(lab, site, name, &settings)?;
        let client = Openconnect::new(lab, lab.client(), site, &format!("client-{name}"))?
            .good_password()
            .up()?;
        ping_both(lab.client(), plan)?;
        let own = tunnel_address(lab.client(), STOCK_INTERFACE)?;
        let inside = Wire::on(lab, lab.client(), STOCK_INTERFACE, "icmp", &format!("inside-{name}"))?;
        // From the LAN, as another client.
        Ping::new(&site.lan, own).source(forged).unanswered(NEVER)?;
        // From the client, as a host of the LAN.
        let outside = Wire::on(lab, &site.lan, "eth0", "icmp or udp", &format!("outside-{name}"))?;
        let stranger = Ipv4Addr::new(10, 99, 0, 1);
        said(
            lab,
            lab.client(),
            "ip",
            &["address", "add", &format!("{stranger}/32"), "dev", STOCK_INTERFACE],
        )?;
        Ping::new(lab.client(), plan.host_v4())
            .source(stranger)
            .unanswered(NEVER)?;
        // What is in order passes, behind the forged ones.
        ping_both(lab.client(), plan)?;
        outside.saw(&["ICMP echo request"])?;
        ensure!(
            inside.count(&forged.to_string()) == 0,
            "a forged packet of the LAN reached the client"
        );
        ensure!(
            outside.count(&stranger.to_string()) == 0,
            "a forged packet of the client reached the LAN"
        );
        let outside_filter = if nat { counted(lab, "foreign_outside")? } else { 0 };
        client.stop(Signal::INT, PATIENCE)?;
        let end = session_end(&gateway, "user_stop")?;
        ensure!(
            end.contains("foreign_source="),
            "the client's are counted under its session: {end}"
        );
        gateway.stop(Signal::TERM, PATIENCE)?;
        let lost = field(&gateway, Mark::default(), &["gateway stopped"], "lost")?;
        match nat {
            true => ensure!(outside_filter > 0, "the packet filter counts the LAN's"),
            false => ensure!(lost.contains("foreign_source="), "the gateway counts the LAN's: {lost}"),
        }
        lab.note(&format!(
            "{name}: of the LAN {outside_filter} in the filter, lost=\"{lost}\""
        ));
    }
    Ok(())
}

/// Staff may use the web server of the LAN, guests all but mail.
fn two_groups(lab: &Lab) -> Result<Settings> {
    let plan = lab.site().plan;
    let settings = gateway_settings(lab, lab.site())?;
    Users::alice()?
        .with(USER, "groups", vec!["staff", "guests"])
        .write(&users_file(lab, lab.site()))?;
    settings
        .with("auth.groups", vec!["guests", "staff"])
        .without("network.dns")
        .with_text(&format!(
            r#"
[[group]]
name = "staff"
routes = ["{v4}/32"]
acl_default = "deny"
acl = [
    {{ action = "allow", networks = ["{v4}/32"], ports = ["{WEB}"] }},
    {{ action = "allow", networks = ["{v4}/32"], protocol = "icmp" }},
]
[[group]]
name = "guests"
domains = ["guests.test"]
acl = [{{ action = "deny", protocol = "tcp", ports = ["{MAIL}"] }}]
"#,
            v4 = plan.host_v4()
        ))
}

fn two_groups_have_their_routes_and_their_rules(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    let _host = Host::on(&site.lan, &[WEB, MAIL, 53])?;
    let gateway = start_gateway(lab, site, "gateway", &two_groups(lab)?)?;
    let wire = Wire::on(lab, &site.lan, "eth0", "tcp or udp or icmp6 or icmp", "wire")?;
    let other = lab.add_client()?;
    let staff = client_settings(lab, site)?.with("login.group", "staff");
    let guest = second_settings(lab)?.with("login.group", "guests");
    let staff = start_client(lab, lab.client(), "staff", &staff)?;
    let guest = start_client(lab, &other, "guest", &guest)?;
    let table = |host: &Namespace| -> Result<Vec<String>> {
        let state = host.snapshot()?;
        let routes = state
            .lines()
            .filter(|line| line.starts_with("route") && line.contains(" table 279"));
        Ok(routes.map(str::to_owned).collect())
    };
    let (of_staff, of_guest) = (table(lab.client())?, table(&other)?);
    ensure!(
        of_staff.iter().any(|route| route.contains("10.77.0.10"))
            && !of_staff.iter().any(|route| route.contains("10.77.0.0/24")),
        "{of_staff:#?}"
    );
    ensure!(
        of_guest.iter().any(|route| route.contains("10.77.0.0/24")),
        "{of_guest:#?}"
    );
    ensure!(
        of_guest.iter().any(|route| route.contains("fd00:77::/64")),
        "{of_guest:#?}"
    );

    // Guests: everything but mail.
    ensure!(!connects(&other, plan.host_v4(), MAIL, NEVER)?);
    ensure!(!connects(&other, plan.host_v6(), MAIL, NEVER)?);
    ping_both(&other, plan)?;
    for to in [IpAddr::from(plan.host_v4()), plan.host_v6().into()] {
        ensure!(connects(&other, to, WEB, PATIENCE)?, "guests may use {to}");
        ensure!(
            asks(&other, to, MAIL, PATIENCE)?.is_some(),
            "UDP to the same port is no mail"
        );
    }
    // Staff: the web server alone, by TCP and UDP, and ping.
    for (port, tcp) in [(MAIL, true), (53, false), (MAIL, false)] {
        let denied = match tcp {
            true => !connects(lab.client(), plan.host_v4(), port, NEVER)?,
            false => asks(lab.client(), plan.host_v4(), port, NEVER)?.is_none(),
        };
        ensure!(denied, "port {port} is not for staff");
    }
    ensure!(connects(lab.client(), plan.host_v4(), WEB, PATIENCE)?);
    ensure!(asks(lab.client(), plan.host_v4(), WEB, PATIENCE)?.is_some());
    Ping::new(lab.client(), plan.host_v4()).answered(PATIENCE)?;
    let address = tunnel_address(lab.client(), &client_interface(site))?;
    // From the LAN, by another port than one that staff may use.
    ensure!(!connects(&site.lan, address, WEB, NEVER)?);

    let of = |from: &str, port: u16| {
        let output = wire.0.output();
        let to = format!("{}.{port}", plan.host_v4());
        output
            .lines()
            .filter(|line| line.contains(from) && line.contains(&format!("> {to}")))
            .count()
    };
    wire.saw(&[&format!("{address}.")])?;
    ensure!(of(&format!("{address}."), WEB) > 0, "what is allowed arrives");
    for port in [MAIL, 53] {
        ensure!(
            of(&format!("{address}."), port) == 0,
            "what is denied must not arrive: {port}"
        );
    }
    let output = wire.0.output();
    let mails = output.lines().filter(|line| line.contains(&format!(".{MAIL}: Flags")));
    ensure!(mails.count() == 0, "no mail of anybody arrives");
    for client in [staff, guest] {
        client.stop(Signal::TERM, PATIENCE)?;
    }
    until("the end of both sessions", PATIENCE, || {
        Ok(gateway.count(&["session.end"]) == 2)
    })?;
    let ends: Vec<String> = gateway
        .output()
        .lines()
        .filter(|line| line.contains("session.end"))
        .map(str::to_owned)
        .collect();
    for end in &ends {
        ensure!(end.contains("access="), "what was denied is counted: {end}");
        let drops = end.split_once("drops=").map_or("", |(_, drops)| drops);
        lab.note(&format!("drops={drops}"));
    }
    Ok(())
}

fn a_stock_client_gets_the_routes_of_its_group(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    let _host = Host::on(&site.lan, &[WEB, MAIL])?;
    let _gateway = start_gateway(lab, site, "gateway", &two_groups(lab)?)?;
    for (group, v4, mail) in [("staff", "10.77.0.10 ", false), ("guests", "10.77.0.0/24 ", false)] {
        let client = Openconnect::new(lab, lab.client(), site, group)?.login_as(USER, PASSWORD);
        let client = client.with(&format!("--authgroup={group}")).up()?;
        let routes = said(lab, lab.client(), "ip", &["route", "show", "dev", STOCK_INTERFACE])?;
        ensure!(
            routes.lines().any(|route| format!("{route} ").starts_with(v4)),
            "{group}: {routes}"
        );
        ensure!(connects(lab.client(), plan.host_v4(), WEB, PATIENCE)?, "{group}");
        ensure!(connects(lab.client(), plan.host_v4(), MAIL, NEVER)? == mail, "{group}");
        client.stop(Signal::INT, PATIENCE)?;
        lab.note(&format!("{group}: {}", routes.lines().collect::<Vec<_>>().join("; ")));
    }
    Ok(())
}

fn a_reload_tightens_and_opens_a_live_session(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    let _server = Server::start(&site.lan)?;
    let open = gateway_settings(lab, site)?;
    let gateway = start_gateway(lab, site, "gateway", &open)?;
    let _client = start_client(lab, lab.client(), "client", &client_settings(lab, site)?)?;
    let mut flow = Flow::open(lab.client(), plan.host_v4())?;
    let reload = |settings: &Settings| -> Result<()> {
        settings.write(&lab.folder().join("gateway.toml"))?;
        let mark = gateway.mark();
        gateway.signal(Signal::HUP)?;
        gateway.wait_for_after(mark, "reload", PATIENCE)?;
        gateway
            .wait_for_after(mark, "configuration reloaded", PATIENCE)
            .map(drop)
    };
    reload(
        &open
            .clone()
            .with_text("[[network.acl]]\naction = \"deny\"\nprotocol = \"tcp\"\nports = [\"7000\"]\n")?,
    )?;
    ensure!(flow.echo(NEVER).is_err(), "the flow is denied from the reload on");
    ensure!(!connects(lab.client(), plan.host_v4(), 7000, NEVER)?);
    ping_both(lab.client(), plan)?;
    ensure!(gateway.count(&["session.end"]) == 0, "the session goes on");
    // A mistake changes nothing.
    let mark = gateway.mark();
    open.clone()
        .with("network.acl_default", "deny")
        .write(&lab.folder().join("gateway.toml"))?;
    gateway.signal(Signal::HUP)?;
    gateway.wait_for_after(mark, "could reach nothing at all", PATIENCE)?;
    ping_both(lab.client(), plan)?;
    ensure!(!connects(lab.client(), plan.host_v4(), 7000, NEVER)?);
    reload(&open)?;
    // TCP sends again what was dropped.
    let time = flow.late_echo(PATIENCE)?;
    lab.note(&format!(
        "the flow went on {} ms after the rule was gone",
        time.as_millis()
    ));
    Flow::open(lab.client(), plan.host_v4()).map(drop)
}

fn a_session_ends_with_its_group(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let settings = two_groups(lab)?;
    let gateway = start_gateway(lab, site, "gateway", &settings)?;
    let staff = client_settings(lab, site)?.with("login.group", "staff");
    let _staff = start_client(lab, lab.client(), "staff", &staff)?;
    Users::alice()?
        .with(USER, "groups", vec!["guests"])
        .write(&users_file(lab, site))?;
    let guests_only = settings
        .with("auth.groups", vec!["guests"])
        .with_text("[[group]]\nname = \"guests\"\n")?;
    guests_only.write(&lab.folder().join("gateway.toml"))?;
    gateway.signal(Signal::HUP)?;
    session_end(&gateway, "admin").map(drop)
}

fn clients_talk_to_each_other_as_far_as_the_rules_say(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let other = lab.add_client()?;
    let settings = gateway_settings(lab, site)?
        .with("network.client_to_client", true)
        .with_text(
            "[[network.acl]]\naction = \"deny\"\nnetworks = [\"10.78.0.0/24\"]\nprotocol = \"tcp\"\nports = [\"25\"]\n",
        )?;
    let routes = vec![
        site.plan.lan_v4().to_string(),
        site.plan.pool_v4().to_string(),
        site.plan.lan_v6().to_string(),
    ];
    let _gateway = start_gateway(lab, site, "gateway", &settings.with("network.routes", routes))?;
    let _one = start_client(lab, lab.client(), "one", &client_settings(lab, site)?)?;
    let _two = start_client(lab, &other, "two", &second_settings(lab)?)?;
    let address = tunnel_address(&other, "mm-second")?;
    let _host = Host::on(&other, &[WEB, MAIL])?;
    Ping::new(lab.client(), address).answered(PATIENCE)?;
    ensure!(connects(lab.client(), address, WEB, PATIENCE)?);
    ensure!(!connects(lab.client(), address, MAIL, NEVER)?);
    Ok(())
}

fn a_released_address_leaves_no_flow_behind(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    let _server = Server::start(&site.lan)?;
    let _host = Host::on(&site.lan, &[WEB])?;
    let other = lab.add_client()?;
    let settings = gateway_settings(lab, site)?
        .with("network.nat", true)
        .with("pool.rest_s", 0);
    let gateway = start_gateway(lab, site, "gateway", &settings)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, site)?)?;
    let stays = start_client(lab, &other, "stays", &second_settings(lab)?)?;
    let address = tunnel_address(lab.client(), &client_interface(site))?;
    let of_other = tunnel_address(&other, "mm-second")?;
    // Leased in the same order.
    let v6 = |v4: Ipv4Addr| std::net::Ipv6Addr::from(plan.pool_v6().network().to_bits() + u128::from(v4.octets()[3]));
    let (address_v6, of_other_v6) = (v6(address), v6(of_other));
    for host in [lab.client(), &other] {
        Flow::open(host, plan.host_v4())?.echo(PATIENCE)?;
        Flow::open(host, plan.host_v6())?.echo(PATIENCE)?;
        ensure!(asks(host, plan.host_v4(), WEB, PATIENCE)?.is_some());
    }
    let before = (flows(lab, address)?, flows(lab, address_v6)?);
    let kept = (flows(lab, of_other)?, flows(lab, of_other_v6)?);
    ensure!(
        before.0 >= 2 && kept.0 >= 2 && before.1 >= 1 && kept.1 >= 1,
        "{before:?} and {kept:?} flows"
    );
    client.stop(Signal::TERM, PATIENCE)?;
    session_end(&gateway, "user_stop")?;
    until("no flow of the released addresses", PATIENCE, || {
        Ok((flows(lab, address)?, flows(lab, address_v6)?) == (0, 0))
    })?;
    ensure!(
        (flows(lab, of_other)?, flows(lab, of_other_v6)?) == kept,
        "the flows of another client stay"
    );
    lab.note(&format!(
        "flows over IPv4 and IPv6: {before:?} of {address} deleted, {kept:?} of {of_other} kept"
    ));
    ensure!(stays.is_running());
    ping_both(&other, plan)
}

fn the_packet_filter_is_as_before_whoever_ended_the_gateway(lab: &Lab) -> Result<()> {
    let (site, plan) = (lab.site(), lab.site().plan);
    // A table of somebody else stays whatever happens.
    said(lab, &site.gateway, "nft", &["add", "table", "inet", "marmot_gw_other"])?;
    let before = host_state(lab)?;
    let settings = gateway_settings(lab, site)?.with("network.nat", true);
    let start = |name: &str, nat: bool| start_gateway(lab, site, name, &settings.clone().with("network.nat", nat));
    let is_there = || -> Result<bool> {
        let tables = said(lab, &site.gateway, "nft", &["list", "tables"])?;
        Ok(tables.contains("marmot_gw_marmot-gw"))
    };
    let as_before = |when: &str| -> Result<()> {
        until(&format!("the host as before: {when}"), PATIENCE, || {
            Ok(host_state(lab)? == before)
        })
    };
    let first = start("first", true)?;
    ensure!(is_there()?, "the table is there");
    let (status, time) = first.stop(Signal::TERM, PATIENCE)?;
    ensure!(status.success() && !is_there()?, "{status}");
    lab.note(&format!("a stop that takes the table away: {} ms", time.as_millis()));
    as_before("after a stop")?;

    start("killed", true)?.stop(Signal::KILL, PATIENCE)?;
    ensure!(is_there()?, "who is killed leaves the table");
    let again = start("again", true)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, site)?)?;
    ping_both(lab.client(), plan)?;
    client.stop(Signal::TERM, PATIENCE)?;
    again.stop(Signal::TERM, PATIENCE)?;
    as_before("after SIGKILL, start and stop")?;

    start("killed-again", true)?.stop(Signal::KILL, PATIENCE)?;
    let plain = start("plain", false)?;
    ensure!(
        !is_there()?,
        "a start without translation removes what the killed one left"
    );
    plain.stop(Signal::TERM, PATIENCE)?;
    as_before("after SIGKILL and a start without translation")
}

fn what_is_missing_or_contradictory_is_told(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let settings = gateway_settings(lab, site)?;
    let host = &site.gateway;
    Failing::new(
        lab,
        host,
        "gateway",
        "no-nft",
        &settings.clone().with("network.nat", true),
    )?
    .without_nft()
    .ends_with(5, &["there is no nft on this host: install the package nftables"])?;
    let shadowed = settings
        .clone()
        .with_text("[[network.acl]]\naction = \"allow\"\n[[network.acl]]\naction = \"deny\"\nprotocol = \"tcp\"\n")?;
    Failing::new(lab, host, "gateway", "shadowed", &shadowed)?.ends_with(
        3,
        &[
            "network.acl: has no effect: rule 1 of the list fits whatever this one fits",
            "shadowed.toml:",
        ],
    )?;
    let nothing = settings.clone().with("network.acl_default", "deny");
    Failing::new(lab, host, "gateway", "nothing", &nothing)?.ends_with(
        3,
        &[
            "network.acl_default: clients could reach nothing at all",
            "nothing.toml:",
        ],
    )?;
    let unknown = settings.with_text("[[group]]\nname = \"boss\"\n")?;
    Failing::new(lab, host, "gateway", "unknown-group", &unknown)?
        .ends_with(3, &["group.name: boss is not one of auth.groups"])
}
