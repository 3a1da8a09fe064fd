//! The name servers that a gateway grants, by a real systemd-resolved: a link's own, for every name or for some, and gone with the link.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Capture, Lab, LinkNames, Mark, NameServer, PATIENCE, Process, Resolved, Settings, Signal, client_interface,
    client_settings, gateway_settings, look_up, marmot, start_gateway, status, until,
};

/// The server next to the client, and what it says of every name.
const OUTSIDE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(203, 0, 113, 66));

/// What the server behind the gateway says of every name.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);

/// Whatever looks like a question about names.
const QUESTIONS: &str = "port 53 or port 853 or port 5353 or port 5355";

/// Names that are looked up in each step.
const NAMES: usize = 20;

/// Far beyond the 250 ms that a stop may take: only a hang fails the test, the figure is printed.
const STOP: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let needs: Vec<&str> = [&["ip", "tcpdump"], Resolved::NEEDS].concat();
    lab::run(
        &needs,
        lab::tests![
            a_full_tunnel_asks_nobody_outside,
            some_domains_are_asked_for_inside_and_the_rest_outside,
            a_kill_leaves_nothing,
            a_resolver_that_comes_back_is_told_again,
            a_bus_that_dies_is_a_warning,
            a_resolver_that_does_not_answer_holds_no_stop_up,
        ],
    )
}

/// A name server on each side, and a resolver that asks the outside.
struct Host<'a> {
    lab: &'a Lab,
    outside: NameServer,
    inside: NameServer,
    resolved: Resolved<'a>,
}

impl<'a> Host<'a> {
    /// Nothing, with a word about it, where there is no systemd-resolved.
    fn new(lab: &'a Lab) -> Result<Option<Self>> {
        if let Some(reason) = Resolved::obstacle() {
            lab.skip(&reason)?;
            return Ok(None);
        }
        let outside = NameServer::serve(lab.internet(), OUTSIDE.0.into(), OUTSIDE.1)?;
        let inside = NameServer::serve(&lab.site().lan, lab.site().plan.host_v4().into(), INSIDE)?;
        Ok(Some(Self {
            lab,
            outside,
            inside,
            resolved: Resolved::start(lab, lab.client(), OUTSIDE.0)?,
        }))
    }

    fn gateway(&self, change: impl FnOnce(Settings) -> Settings) -> Result<Process> {
        let settings = change(gateway_settings(self.lab, self.lab.site())?);
        start_gateway(self.lab, self.lab.site(), "gateway", &settings)
    }

    /// A client whose bus is the resolver's.
    fn client(&self, name: &str) -> Result<Process> {
        let settings = client_settings(self.lab, self.lab.site())?.with("dns.mode", "auto");
        let config = settings.write(&self.lab.folder().join(format!("{name}.toml")))?;
        let mut command = marmot(self.lab, self.lab.client(), &["client", "-c"])?;
        command
            .arg(config)
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.resolved.address());
        let client = self.lab.spawn(name, command)?;
        client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
        Ok(client)
    }

    fn link(&self) -> Result<Option<LinkNames>> {
        self.resolved.link(&client_interface(self.lab.site()))
    }

    fn ask(&self, word: &str, suffix: &str, expected: Ipv4Addr) -> Result<()> {
        for number in 0..NAMES {
            let name = format!("{word}-{number}.{suffix}");
            let found = look_up(self.lab, self.lab.client(), &name)?;
            ensure!(found == Some(expected), "{name} is {found:?}, not {expected}");
        }
        Ok(())
    }
}

fn names(domains: &[&str], default_route: bool) -> LinkNames {
    LinkNames {
        servers: vec!["10.77.0.10".to_owned()],
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        default_route,
    }
}

fn a_full_tunnel_asks_nobody_outside(lab: &Lab) -> Result<()> {
    let Some(host) = Host::new(lab)? else { return Ok(()) };
    let _gateway = host.gateway(|settings| settings.without("network.routes"))?;
    let capture = Capture::start(lab, lab.internet(), "client", QUESTIONS, "questions")?;
    host.ask("before", "example.org", OUTSIDE.1)?;
    until("the questions before", PATIENCE, || {
        Ok(capture.packets()?.len() >= 2 * NAMES)
    })?;
    let client = host.client("client")?;
    let asked = host.outside.asked().len();
    ensure!(
        host.link()? == Some(names(&["corp.test", "~."], true)),
        "the link has its own: {:?}",
        host.link()?
    );
    host.ask("during", "example.org", INSIDE)?;
    let dns = status(lab, lab.client(), "client")?["tunnel"]["dns"].clone();
    ensure!(dns["way"] == "resolved" && dns["problem"].is_null(), "{dns}");
    let heard = host.inside.asked();
    ensure!(
        heard.iter().filter(|name| name.starts_with("during")).count() >= NAMES,
        "{heard:?}"
    );

    let (_, took) = client.stop(Signal::TERM, PATIENCE)?;
    host.ask("after", "example.org", OUTSIDE.1)?;
    ensure!(
        host.link()?.is_none_or(|link| link == LinkNames::default()),
        "{:?}",
        host.link()?
    );
    until("the questions afterwards", PATIENCE, || {
        let questions = capture.datagrams()?;
        Ok(questions.iter().any(|question| contains(&question.payload, b"after")))
    })?;
    let during = host.outside.asked().split_off(asked);
    let leaked: Vec<_> = during.iter().filter(|name| !name.starts_with("after")).collect();
    ensure!(leaked.is_empty(), "these names went outside: {leaked:?}");
    let questions = capture.datagrams()?;
    let leaked = questions
        .iter()
        .filter(|question| contains(&question.payload, b"during"))
        .count();
    ensure!(leaked == 0, "{leaked} questions on the cable");
    lab.note(&format!(
        "{NAMES} names through the tunnel, 0 questions on the cable; {} packets with questions before and after; stop and exit in {} ms",
        questions.len(),
        took.as_millis()
    ));
    Ok(())
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

fn some_domains_are_asked_for_inside_and_the_rest_outside(lab: &Lab) -> Result<()> {
    let Some(host) = Host::new(lab)? else { return Ok(()) };
    let _gateway = host.gateway(|settings| settings.with("network.split_dns", vec!["inner.test"]))?;
    let client = host.client("client")?;
    ensure!(
        host.link()? == Some(names(&["corp.test", "~inner.test"], false)),
        "the link has its domains: {:?}",
        host.link()?
    );
    host.ask("some", "inner.test", INSIDE)?;
    host.ask("some", "corp.test", INSIDE)?;
    host.ask("some", "example.org", OUTSIDE.1)?;
    let inside = host.inside.asked();
    ensure!(inside.iter().all(|name| !name.ends_with("example.org")), "{inside:?}");
    let outside = host.outside.asked();
    ensure!(outside.iter().all(|name| name.ends_with("example.org")), "{outside:?}");
    client.stop(Signal::TERM, PATIENCE)?;
    Ok(())
}

fn a_kill_leaves_nothing(lab: &Lab) -> Result<()> {
    let Some(host) = Host::new(lab)? else { return Ok(()) };
    let _gateway = host.gateway(|settings| settings.without("network.routes"))?;
    let client = host.client("client")?;
    host.ask("during", "example.org", INSIDE)?;
    client.stop(Signal::KILL, PATIENCE)?;
    until("the link is gone", PATIENCE, || Ok(host.link()?.is_none()))?;
    let config = lab.folder().join("client.toml");
    let cleanup = marmot(lab, lab.client(), &["cleanup", "-c", &config.display().to_string()])?;
    let ended = lab.spawn("cleanup", cleanup)?.wait_exit(PATIENCE)?;
    ensure!(ended.success(), "cleanup ended with {ended}");
    host.ask("after", "example.org", OUTSIDE.1)
}

fn a_resolver_that_comes_back_is_told_again(lab: &Lab) -> Result<()> {
    let Some(mut host) = Host::new(lab)? else { return Ok(()) };
    let _gateway = host.gateway(|settings| settings.without("network.routes"))?;
    let client = host.client("client")?;
    let mark = client.mark();
    host.resolved.kill_resolved()?;
    client.wait_for_line(
        mark,
        &["name servers are not applied", "not on the system bus"],
        PATIENCE,
    )?;
    // It keeps what it was told of links for its next run; this one shall know nothing.
    let _ = std::fs::remove_dir_all("/run/systemd/resolve/netif");
    let mark = client.mark();
    host.resolved.start_resolved()?;
    client.wait_for_line(mark, &["name servers applied"], PATIENCE)?;
    ensure!(
        host.link()? == Some(names(&["corp.test", "~."], true)),
        "{:?}",
        host.link()?
    );
    host.ask("again", "example.org", INSIDE)?;
    client.stop(Signal::TERM, PATIENCE)?;
    Ok(())
}

fn a_bus_that_dies_is_a_warning(lab: &Lab) -> Result<()> {
    let Some(mut host) = Host::new(lab)? else { return Ok(()) };
    let _gateway = host.gateway(|settings| settings.without("network.routes"))?;
    let client = host.client("client")?;
    let mark = client.mark();
    host.resolved.kill_bus()?;
    client.wait_for_line(mark, &["name servers are not applied", "bus"], PATIENCE)?;
    until("the status says so", PATIENCE, || {
        let dns = status(lab, lab.client(), "client")?["tunnel"]["dns"].clone();
        Ok(dns["problem"].as_str().is_some_and(|why| why.contains("bus")))
    })?;
    interop::ping_both(lab.client(), lab.site().plan)?;
    let mark = client.mark();
    host.resolved.start_bus()?;
    host.resolved.start_resolved()?;
    client.wait_for_line(mark, &["name servers applied"], PATIENCE)?;
    host.resolved.kill_bus()?;
    let (ended, took) = client.stop(Signal::TERM, STOP)?;
    ensure!(ended.success(), "the client ended with {ended}");
    client.wait_for_line(mark, &["stop.ack"], PATIENCE)?;
    lab.note(&format!("stopped in {} ms without a bus", took.as_millis()));
    Ok(())
}

fn a_resolver_that_does_not_answer_holds_no_stop_up(lab: &Lab) -> Result<()> {
    let Some(host) = Host::new(lab)? else { return Ok(()) };
    let _gateway = host.gateway(|settings| settings.without("network.routes"))?;
    let client = host.client("client")?;
    host.resolved.freeze(true)?;
    let mark = client.mark();
    let (ended, took) = client.stop(Signal::TERM, STOP)?;
    ensure!(ended.success(), "the client ended with {ended}");
    let said = client.wait_for_line(mark, &["stop.ack", "dns:"], PATIENCE)?;
    host.resolved.freeze(false)?;
    until("the link is gone", PATIENCE, || Ok(host.link()?.is_none()))?;
    host.ask("after", "example.org", OUTSIDE.1)?;
    let ack = said.find("stop.ack").context("an acknowledgement")?;
    lab.note(&format!("exit in {} ms; {}", took.as_millis(), &said[ack..]));
    Ok(())
}
