//! Our client and gateways that are absent, not who they say, or hostile. Each time it says what is wrong, leaves the host as
//! it was, and writes nothing that a terminal would obey.

use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{Failing, no_escapes, ping_both};
use lab::peer::{Answer, Cstp, DATA, DISCONNECT, PeerGateway, Records, TERMINATE, echo_packet};
use lab::{
    Identity, Lab, Mark, PATIENCE, Ping, Process, Settings, Signal, client_settings, gateway_settings, spawn_client,
    start_client, start_gateway,
};
use socket2::{Domain, Socket, Type};

fn main() -> ExitCode {
    lab::run(
        &[],
        lab::tests![
            a_frame_is_taken_however_it_lies_in_records,
            an_expired_certificate_is_refused,
            a_certificate_for_another_name_is_refused,
            a_self_signed_certificate_is_refused_unless_pinned,
            a_pin_must_match,
            a_gateway_that_is_not_there_is_tried_again,
            a_gateway_that_swallows_everything_is_tried_again,
            a_gateway_that_says_nothing_is_tried_again,
            what_is_no_gateway_is_named,
            an_impossible_mtu_is_refused,
            harmful_routes_are_refused,
            ten_thousand_routes_are_refused,
            a_grant_without_an_address_is_refused,
            a_redirect_is_not_followed,
            a_network_of_this_host_stays_where_it_is,
            escape_sequences_never_reach_a_terminal,
            nonsense_in_the_tunnel_harms_nobody,
        ],
    )
}

fn a_frame_is_taken_however_it_lies_in_records(lab: &Lab) -> Result<()> {
    for records in [Records::FrameEach, Records::TwoFramesInOne, Records::OneFrameOverTwo] {
        let _gateway = peer(lab, honest(lab).records(records))?;
        let client = start_client(
            lab,
            lab.client(),
            &format!("client-{records:?}"),
            &client_settings(lab, lab.site())?,
        )?;
        for _ in 0..3 {
            Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
        }
        ensure!(!client.output().contains("path.lost"), "the connection must go on");
        client.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

fn an_expired_certificate_is_refused(lab: &Lab) -> Result<()> {
    let expired = lab.pki().expired_server()?;
    let pin = expired.pin.clone();
    let _gateway = PeerGateway::start(lab.site(), expired, honest(lab))?;
    refused(
        lab,
        "expired",
        |settings| settings,
        1,
        &["refusing the gateway gw.test", "expired"],
    )?;
    let pinned = |settings: Settings| settings.without("trust.ca_file").with("trust.pins", vec![pin]);
    refused(
        lab,
        "expired-though-pinned",
        pinned,
        1,
        &["refusing the gateway gw.test", "expired"],
    )
}

fn a_certificate_for_another_name_is_refused(lab: &Lab) -> Result<()> {
    let _gateway = PeerGateway::start(lab.site(), lab.pki().wrong_name_server()?, honest(lab))?;
    refused(
        lab,
        "wrong-name",
        |settings| settings,
        1,
        &["refusing the gateway gw.test", "somebody-else.test"],
    )
}

fn a_self_signed_certificate_is_refused_unless_pinned(lab: &Lab) -> Result<()> {
    let identity = lab.pki().self_signed_server()?;
    let pin = identity.pin.clone();
    let _gateway = PeerGateway::start(lab.site(), identity, honest(lab))?;
    refused(
        lab,
        "self-signed",
        |settings| settings,
        1,
        &["refusing the gateway gw.test"],
    )?;
    let settings = client_settings(lab, lab.site())?.without("trust.ca_file");
    let _client = start_client(lab, lab.client(), "pinned", &settings.with("trust.pins", vec![pin]))?;
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    Ok(())
}

fn a_pin_must_match(lab: &Lab) -> Result<()> {
    let _gateway = peer(lab, honest(lab))?;
    let other = lab.pki().renewed_server()?.pin;
    let pin = |settings: Settings| settings.with("trust.pins", vec![other.clone()]);
    refused(lab, "with-authority", pin, 1, &["refusing the gateway gw.test", "pin"])?;
    let pin = |settings: Settings| {
        settings
            .without("trust.ca_file")
            .with("trust.pins", vec![other.clone()])
    };
    refused(lab, "pin-alone", pin, 1, &["refusing the gateway gw.test", "pin"])
}

fn a_gateway_that_is_not_there_is_tried_again(lab: &Lab) -> Result<()> {
    let before = lab.client().snapshot()?;
    let client = spawn_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    let line = client.wait_for_line(Mark::default(), &["trying again", "198.51.100.1:443"], PATIENCE)?;
    ensure!(line.contains("refused"), "{line}");
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(
        !changes.iter().any(|change| change.contains("route unicast")),
        "no route before a grant: {changes:#?}"
    );
    // And when it comes, it is found.
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    client.wait_for("session.start", PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    stopped(lab, &client, &before)
}

fn a_gateway_that_swallows_everything_is_tried_again(lab: &Lab) -> Result<()> {
    // A full queue of connections answers no SYN any more.
    let address = SocketAddr::from((lab.site().plan.gateway_v4(), 443));
    let hole = lab.site().gateway.run(|| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&address.into())?;
        socket.listen(0)?;
        Ok(socket)
    })??;
    let _filler = lab.site().lan.run(|| TcpStream::connect(address))??;
    let before = lab.client().snapshot()?;
    let settings = client_settings(lab, lab.site())?.with("gateway.dial_timeout_s", 1);
    let client = spawn_client(lab, lab.client(), "client", &settings)?;
    let line = client.wait_for_line(Mark::default(), &["trying again", "198.51.100.1:443"], PATIENCE)?;
    lab.note(&line);
    stopped(lab, &client, &before)?;
    drop(hole);
    Ok(())
}

fn a_gateway_that_says_nothing_is_tried_again(lab: &Lab) -> Result<()> {
    let address = SocketAddr::from((lab.site().plan.gateway_v4(), 443));
    let mute = lab.site().gateway.run(|| std::net::TcpListener::bind(address))??;
    let settings = client_settings(lab, lab.site())?.with("gateway.handshake_timeout_s", 1);
    let before = lab.client().snapshot()?;
    let client = spawn_client(lab, lab.client(), "before-tls", &settings)?;
    client.wait_for_line(
        Mark::default(),
        &["trying again", "the tls handshake within 1 s"],
        PATIENCE,
    )?;
    stopped(lab, &client, &before)?;
    drop(mute);

    let answer = Answer {
        silent: true,
        ..honest(lab)
    };
    let _gateway = peer(lab, answer)?;
    let client = spawn_client(lab, lab.client(), "after-tls", &settings)?;
    client.wait_for_line(Mark::default(), &["trying again", "its answer within 1 s"], PATIENCE)?;
    stopped(lab, &client, &before)
}

fn what_is_no_gateway_is_named(lab: &Lab) -> Result<()> {
    let _web = peer(
        lab,
        honest(lab).login_reply("200 OK", &["Content-Type: text/html"], "<html>It works!</html>"),
    )?;
    refused(
        lab,
        "web-server",
        |settings| settings,
        1,
        &["the gateway's login reply cannot be used"],
    )
}

fn an_impossible_mtu_is_refused(lab: &Lab) -> Result<()> {
    for (mtu, said) in [
        ("0", "granted no MTU"),
        ("100", "an mtu of 100"),
        ("65535", "an mtu of 65535"),
    ] {
        let _gateway = peer(lab, honest(lab).with("X-CSTP-MTU", [mtu.to_owned()]))?;
        refused(lab, &format!("mtu-{mtu}"), |settings| settings, 1, &[said])?;
    }
    Ok(())
}

fn harmful_routes_are_refused(lab: &Lab) -> Result<()> {
    let cases = [
        (
            "own-address",
            "198.51.100.1/255.255.255.255",
            "198.51.100.1/32, which is its own address",
        ),
        ("loopback", "127.0.0.0/255.0.0.0", "127.0.0.0/8 into loopback"),
        ("multicast", "224.0.0.0/240.0.0.0", "224.0.0.0/4 into multicast"),
        (
            "link-local",
            "169.254.0.0/255.255.0.0",
            "169.254.0.0/16 into link-local",
        ),
    ];
    for (name, route, said) in cases {
        let _gateway = peer(lab, honest(lab).with("X-CSTP-Split-Include", [route.to_owned()]))?;
        refused(lab, name, |settings| settings, 1, &[said])?;
    }
    Ok(())
}

fn ten_thousand_routes_are_refused(lab: &Lab) -> Result<()> {
    for (count, said) in [
        (1_001_u32, "pushed 1001 routes; at most 1000"),
        (10_000, "HTTP header lines"),
    ] {
        let routes = (0..count).map(|i| format!("10.{}.{}.0/255.255.255.0", i >> 8, i & 255));
        let _gateway = peer(lab, honest(lab).with("X-CSTP-Split-Include", routes))?;
        refused(lab, &format!("routes-{count}"), |settings| settings, 1, &[said])?;
    }
    Ok(())
}

fn a_grant_without_an_address_is_refused(lab: &Lab) -> Result<()> {
    let _gateway = peer(lab, honest(lab).with("X-CSTP-Address", []))?;
    refused(lab, "no-address", |settings| settings, 1, &["address"])?;
    drop(_gateway);
    let _gateway = peer(lab, honest(lab).with("X-CSTP-Address", ["127.0.0.1".to_owned()]))?;
    refused(lab, "loopback-address", |settings| settings, 1, &["127.0.0.1"])
}

fn a_redirect_is_not_followed(lab: &Lab) -> Result<()> {
    let location = ["Location: https://203.0.113.9/login"];
    let gateway = peer(lab, honest(lab).login_reply("302 Found", &location, ""))?;
    refused(
        lab,
        "at-login",
        |settings| settings,
        1,
        &["redirect", "203.0.113.9", "not followed"],
    )?;
    drop(gateway);
    let gateway = peer(lab, honest(lab).connect_reply("302 Found", &location))?;
    refused(
        lab,
        "at-connect",
        |settings| settings,
        1,
        &["redirect", "203.0.113.9", "not followed"],
    )?;
    ensure!(
        gateway.requests().len() <= 2,
        "no further request: {:?}",
        gateway.requests()
    );
    Ok(())
}

fn a_network_of_this_host_stays_where_it_is(lab: &Lab) -> Result<()> {
    let routes = [
        "192.0.0.0/255.0.0.0",
        "192.0.2.0/255.255.255.0",
        "10.77.0.0/255.255.255.0",
    ]
    .map(str::to_owned);
    let _gateway = peer(lab, honest(lab).with("X-CSTP-Split-Include", routes))?;
    // It has public addresses, which stay local only where that is said.
    let settings = client_settings(lab, lab.site())?.with("session.local_networks", "all");
    let client = start_client(lab, lab.client(), "client", &settings)?;
    let line = client.wait_for_line(Mark::default(), &["WARN", "192.0.2.0/24"], PATIENCE)?;
    lab.note(&line);
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    // The router on the same cable answers itself; the peer at the far end of the tunnel would answer for anybody.
    let before = lab.internet().snapshot()?;
    ensure!(before.lines().any(|line| line.contains("192.0.2.1")));
    Ping::new(lab.client(), std::net::Ipv4Addr::new(192, 0, 2, 1)).answered(PATIENCE)?;
    lab.internet().down("client")?;
    let neighbour = Ping::new(lab.client(), std::net::Ipv4Addr::new(192, 0, 2, 1));
    neighbour
        .unanswered(std::time::Duration::from_millis(100))
        .context("the neighbour must not be looked for in the tunnel")
}

fn escape_sequences_never_reach_a_terminal(lab: &Lab) -> Result<()> {
    let dirt = "\x1b[31mevil\x1b[2J\x07";
    let form = |text: &str| {
        format!(
            "<?xml version=\"1.0\"?><config-auth client=\"vpn\" type=\"auth-request\"><auth id=\"main\"><message>{text}</message>\
             <error id=\"1\">{text}</error><form method=\"post\" action=\"/{text}\"><input type=\"text\" name=\"{text}\" label=\"{text}\"/>\
             </form></auth></config-auth>"
        )
    };
    let spelled = dirt.replace('\x1b', "&#27;").replace('\x07', "&#7;");
    let goodbye = [b"\xb0", dirt.as_bytes()].concat();
    let cases = [
        ("status", honest(lab).login_reply(&format!("401 {dirt}"), &[], "")),
        (
            "reason",
            honest(lab).login_reply("503 Busy", &[&format!("X-Reason: {dirt}")], ""),
        ),
        (
            "location",
            honest(lab).login_reply("302 Found", &[&format!("Location: https://{dirt}/")], ""),
        ),
        ("form", honest(lab).login_reply("200 OK", &[], &form(dirt))),
        ("spelled-form", honest(lab).login_reply("200 OK", &[], &form(&spelled))),
        (
            "banner",
            honest(lab).login_complete(&format!("<banner>{dirt}</banner><message>{dirt}</message>")),
        ),
        (
            "spelled-banner",
            honest(lab).login_complete(&format!("<banner>{spelled}</banner>")),
        ),
        ("banner-header", honest(lab).with("X-CSTP-Banner", [dirt.to_owned()])),
        (
            "percent-banner",
            honest(lab).with("X-CSTP-Banner", ["%1b[31mevil%07".to_owned()]),
        ),
        (
            "domain",
            honest(lab).with("X-CSTP-Default-Domain", [format!("{dirt}.test")]),
        ),
        ("connect-status", honest(lab).connect_reply(&format!("403 {dirt}"), &[])),
        (
            "connect-reason",
            honest(lab).connect_reply("503 Busy", &[&format!("X-Reason: {dirt}")]),
        ),
        (
            "disconnect",
            honest(lab).greeting(Cstp::new(DISCONNECT, goodbye).bytes()),
        ),
        ("terminate", honest(lab).greeting(Cstp::new(TERMINATE, dirt).bytes())),
    ];
    let mut said = Vec::new();
    for (name, answer) in cases {
        let before = lab.client().snapshot()?;
        let _gateway = peer(lab, answer)?;
        let client = spawn_client(lab, lab.client(), name, &client_settings(lab, lab.site())?)?;
        // It connects, gives up, or says that it tries again; whatever the dirt leads to.
        let heard = lab::until("an end, a start or another try", PATIENCE, || {
            let output = client.output();
            Ok(!client.is_running() || output.contains("session.start") || output.contains("trying again"))
        });
        heard.with_context(|| name.to_owned())?;
        if client.is_running() {
            let _ = client.signal(Signal::TERM);
        }
        client.wait_exit(PATIENCE)?;
        no_escapes(&client)?;
        let changes = before.changes(&lab.client().snapshot()?);
        ensure!(changes.is_empty(), "{name} left on the host: {changes:#?}");
        said.push(format!(
            "{name}: {}",
            if client.output().contains("evil") {
                "escaped"
            } else {
                "left out"
            }
        ));
    }
    lab.note(&said.join(", "));
    Ok(())
}

fn nonsense_in_the_tunnel_harms_nobody(lab: &Lab) -> Result<()> {
    let target = lab.site().plan.host_v4();
    let stray = echo_packet(
        std::net::Ipv4Addr::new(203, 0, 113, 5),
        std::net::Ipv4Addr::new(192, 0, 2, 2),
        1,
    );
    let answer = honest(lab)
        .greeting(Cstp::new(DATA, []).bytes())
        .greeting(Cstp::new(DATA, [0x45; 7]).bytes())
        .greeting(Cstp::new(DATA, vec![0xff; 1400]).bytes())
        .greeting(Cstp::new(DATA, stray).bytes())
        .greeting(Cstp::new(0x42, b"unknown".to_vec()).bytes())
        .greeting(Cstp::new(8, [1, 2, 3]).bytes());
    let gateway = peer(lab, answer)?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    Ping::new(lab.client(), target).answered(PATIENCE)?;
    client.stop(Signal::TERM, PATIENCE)?;
    let end = client.wait_for_line(Mark::default(), &["session.end"], PATIENCE)?;
    ensure!(end.contains("malformed="), "{end}");
    lab.note(&end);
    drop(gateway);

    let _gateway = peer(
        lab,
        honest(lab).greeting(b"this is no frame, and long enough for a header".to_vec()),
    )?;
    let client = spawn_client(lab, lab.client(), "no-frames", &client_settings(lab, lab.site())?)?;
    client.wait_for("path.lost", PATIENCE)?;
    ensure!(client.is_running(), "a broken connection is made anew");
    no_escapes(&client)
}

fn honest(lab: &Lab) -> Answer {
    Answer::honest(lab.site())
}

fn peer(lab: &Lab, answer: Answer) -> Result<PeerGateway> {
    let identity: Identity = lab.pki().server()?;
    PeerGateway::start(lab.site(), identity, answer)
}

fn refused(lab: &Lab, name: &str, change: impl FnOnce(Settings) -> Settings, code: i32, texts: &[&str]) -> Result<()> {
    let settings = change(client_settings(lab, lab.site())?);
    Failing::new(lab, lab.client(), "client", name, &settings)?.ends_with(code, texts)
}

/// Stops a client, which must leave the host as it was.
fn stopped(lab: &Lab, client: &Process, before: &platform::network::HostState) -> Result<()> {
    let (status, _) = client.stop(Signal::TERM, PATIENCE)?;
    ensure!(status.success(), "the client ended with {status}");
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}
