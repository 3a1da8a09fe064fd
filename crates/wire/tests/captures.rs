//! What two stock peers really sent is understood; see `captures/README.md` for where each file comes from.
#![expect(
    clippy::disallowed_methods,
    reason = "the inputs are files; the crate itself reads none"
)]

use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use wire::auth::{ClientDocument, Field, Form, GatewayDocument, Init, InputKind, Reply, legacy};
use wire::auth::{parse_client, parse_gateway};
use wire::cstp::{Decoder, Frame, Goodbye, Kind, parse_goodbye};
use wire::http::{BodyDecoder, Method, RequestHead, ResponseHead, parse_request, parse_response};
use wire::limits::{MAX_BODY, MAX_HEAD};
use wire::offer::{ConnectRefused, Grant, Offer, Refusal, Rekey, RekeyMethod, parse_connect_reply};
use wire::{AuthError, Secret};

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Head and body of a captured request; nothing may follow.
fn request(name: &str) -> (RequestHead, Vec<u8>) {
    let bytes = read(&format!("openconnect-9.01/{name}.http"));
    let (head, length) = parse_request(&bytes, MAX_HEAD).expect("valid").expect("complete");
    let mut rest = BytesMut::from(&bytes[length..]);
    let body = BodyDecoder::for_request(&head, MAX_BODY)
        .expect("framed")
        .feed(&mut rest)
        .expect("valid");
    assert!(rest.is_empty(), "{name}: {} bytes follow the body", rest.len());
    (head, body.expect("complete").to_vec())
}

/// Head and body of a captured reply; nothing may follow.
fn response(name: &str) -> (ResponseHead, Vec<u8>) {
    let bytes = read(&format!("ocserv-1.1.6/{name}.http"));
    let (head, length) = parse_response(&bytes, MAX_HEAD).expect("valid").expect("complete");
    let mut rest = BytesMut::from(&bytes[length..]);
    let mut decoder = BodyDecoder::for_response(&head, MAX_BODY).expect("framed");
    let body = match decoder.feed(&mut rest).expect("valid") {
        Some(body) => body,
        None => decoder.at_eof().expect("until the connection ends"),
    };
    assert!(rest.is_empty(), "{name}: {} bytes follow the body", rest.len());
    (head, body.to_vec())
}

fn init(name: &str) -> Init {
    match parse_client(&request(name).1) {
        Ok(ClientDocument::Init(init)) => init,
        other => panic!("{name}: {other:?}"),
    }
}

fn reply(name: &str) -> Reply {
    match parse_client(&request(name).1) {
        Ok(ClientDocument::Reply(reply)) => reply,
        other => panic!("{name}: {other:?}"),
    }
}

fn form(name: &str) -> Form {
    match parse_gateway(&response(name).1) {
        Ok(GatewayDocument::Form(form)) => form,
        other => panic!("{name}: {other:?}"),
    }
}

fn field(name: &str, value: &str) -> Field {
    Field {
        name: name.to_owned(),
        value: value.into(),
    }
}

fn grant(name: &str) -> Grant {
    parse_connect_reply(&response_head(name)).expect("granted")
}

fn response_head(name: &str) -> ResponseHead {
    let bytes = read(&format!("ocserv-1.1.6/{name}.http"));
    let (head, length) = parse_response(&bytes, MAX_HEAD).expect("valid").expect("complete");
    assert_eq!(length, bytes.len());
    head
}

fn offer(name: &str) -> Offer {
    Offer::parse(&request(name).0).expect("an offer")
}

/// All frames of a stream, fed a few bytes at a time.
fn frames(name: &str) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in read(&format!("{name}.cstp")).chunks(11) {
        decoder.buffer().extend_from_slice(piece);
        while let Some(frame) = decoder.next().expect("valid") {
            frames.push(frame);
        }
    }
    assert!(decoder.buffer().is_empty(), "{name}: an incomplete frame at the end");
    frames
}

fn kinds(frames: &[Frame]) -> Vec<Kind> {
    frames.iter().map(|frame| frame.kind).collect()
}

fn of_kind(frames: &[Frame], kind: Kind) -> Vec<&[u8]> {
    frames
        .iter()
        .filter(|frame| frame.kind == kind)
        .map(|frame| &frame.payload[..])
        .collect()
}

/// Every payload is an IP packet of the length its own header says.
fn assert_packets(frames: &[Frame]) {
    let packets = of_kind(frames, Kind::Data);
    assert!(!packets.is_empty());
    for packet in packets {
        let length = match packet[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            6 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
            other => panic!("IP version {other}"),
        };
        assert_eq!(length, packet.len());
    }
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn openconnect_opens_with_and_without_a_group() {
    let (head, _) = request("init");
    assert_eq!((&head.method, head.target.as_str()), (&Method::Post, "/"));
    assert_eq!(head.headers.get("x-pad"), Some("00000000000000000"));
    let expected = Init {
        group_access: "https://gw.test:5001/".into(),
        group_select: None,
        certificate_failed: false,
        version: "v9.01-3".into(),
        device: "linux-64".into(),
    };
    assert_eq!(init("init"), expected);
    assert_eq!(request("init-group").0.target, "/auth");
    assert_eq!(init("init-group").group_select.as_deref(), Some("staff"));
}

#[test]
fn openconnect_answers_one_field_a_round() {
    let first = reply("reply-username-group");
    assert_eq!(first.fields, [field("username", "bob")]);
    assert_eq!(first.group_select.as_deref(), Some("staff"));
    let second = reply("reply-password");
    assert_eq!(
        (second.fields, second.group_select),
        (vec![field("password", "secret")], None)
    );
    assert_eq!(
        reply("reply-password-escaped").fields,
        [field("password", "a&b<c>\"d' %+e")]
    );
    let context = request("reply-password").0.headers.cookie("webvpncontext");
    assert_eq!(
        context,
        Some(Secret::from("AFhutlJENmfqNuCtJXU//AGdMjagKFKEjKJPinVOO2I="))
    );
}

#[test]
fn openconnect_answers_a_whole_form_and_gives_opaque_back() {
    let reply = reply("reply-opaque");
    assert_eq!(
        reply.opaque.as_deref(),
        Some("<opaque is-for=\"sg\"><a>1 &amp; 2</a></opaque>")
    );
    let expected = [
        field("username", "bob"),
        field("password", "a&b<c>\"d' %+e"),
        field("state", "st&te"),
    ];
    assert_eq!(reply.fields, expected);
    assert_eq!(reply.group_select.as_deref(), Some("staff"));
}

#[test]
fn openconnect_speaks_the_legacy_form() {
    let (head, body) = request("legacy-get");
    assert_eq!(
        (&head.method, head.headers.get("Content-Length"), body.len()),
        (&Method::Get, Some("0"), 0)
    );
    let answers = |name: &str| legacy::parse(&request(name).1);
    assert_eq!(answers("legacy-username"), Ok(vec![field("username", "alice")]));
    let with_group = vec![field("group_list", "staff"), field("username", "bob")];
    assert_eq!(answers("legacy-username-group"), Ok(with_group));
    assert_eq!(
        answers("legacy-password-escaped"),
        Ok(vec![field("password", "a&b<c>\"d' %+e")])
    );
}

#[test]
fn openconnect_asks_for_a_tunnel() {
    let expected = Offer {
        host: "gw.test:5001".into(),
        user_agent: "Open AnyConnect VPN Agent v9.01-3".into(),
        cookie: "AFhutlJENmfqNuCtJXU//AGdMjagKFKEjKJPinVOO2I=".into(),
        hostname: Some("vm".into()),
        base_mtu: Some(1500),
        mtu: Some(1390),
        want_v4: true,
        want_v6: true,
        previous: Vec::new(),
        dtls: false,
        session: false,
        marmot_datagram: None,
        marmot_bundle: false,
        park: None,
        resume: None,
    };
    assert_eq!(offer("connect"), expected);
    assert!(offer("connect-dtls").dtls);
    let again = offer("connect-again");
    assert_eq!(again.cookie, offer("connect-dtls").cookie);
    assert_eq!(
        again.previous,
        ["10.78.0.106".parse::<std::net::IpAddr>().expect("address")]
    );
}

#[test]
fn a_logged_head_of_openconnect_holds_no_secret() {
    let (head, _) = request("connect-dtls");
    let logged = format!("{head:?}");
    assert!(!logged.contains("ALvCRCaFk"), "{logged}");
    assert!(!logged.contains("179C6ED0"), "{logged}");
}

#[test]
fn openconnect_sends_packets_probes_and_a_logout() {
    let frames = frames("openconnect-9.01/data-dpd-logout");
    assert_packets(&frames);
    assert_eq!(of_kind(&frames, Kind::DpdRequest), [b""; 5]);
    let last = frames.last().expect("frames");
    assert_eq!(last.kind, Kind::Disconnect);
    assert_eq!(
        parse_goodbye(&last.payload),
        Goodbye::Logout("Aborted by caller".into())
    );
}

#[test]
fn openconnect_sends_keepalives_and_answers_probes_with_nothing() {
    let frames = frames("openconnect-9.01/keepalive-dpd");
    assert_packets(&frames);
    assert!(kinds(&frames).contains(&Kind::Keepalive));
    assert_eq!(of_kind(&frames, Kind::DpdResponse), [b""]);
}

#[test]
fn ocserv_asks_for_name_and_password_in_turn() {
    let name = form("form-username");
    assert_eq!((name.id.as_str(), name.method_action.as_str()), ("main", "/auth"));
    assert_eq!(name.message.as_deref(), Some("Please enter your username."));
    assert_eq!(name.inputs.len(), 1);
    assert_eq!(
        (&name.inputs[0].kind, name.inputs[0].name.as_str()),
        (&InputKind::Text, "username")
    );
    let password = form("form-password");
    assert_eq!(
        (&password.inputs[0].kind, password.inputs[0].name.as_str()),
        (&InputKind::Password, "password")
    );
    let (head, _) = response("form-password");
    assert!(head.headers.set_cookie("webvpncontext").is_some());
    let (head, _) = response("form-username");
    assert_eq!(head.headers.set_cookie("webvpncontext"), None);
}

#[test]
fn ocserv_offers_groups_with_a_lone_ampersand() {
    let form = form("form-username-group");
    let InputKind::Select { options } = &form.inputs[1].kind else {
        panic!("{:?}", form.inputs)
    };
    let shown: Vec<_> = options
        .iter()
        .map(|choice| (choice.value.as_str(), choice.label.as_str()))
        .collect();
    assert_eq!(
        shown,
        [("staff", "staff"), ("All", "All"), ("guests", "Visitors & friends")]
    );
    let reply = form.answer(|_| Some("bob".into()), Some("guests")).expect("answered");
    assert_eq!(
        (reply.fields, reply.group_select),
        (vec![field("username", "bob")], Some("guests".into()))
    );
}

#[test]
fn ocserv_asks_again_after_a_wrong_password_and_then_refuses() {
    let again = form("form-password-again");
    assert_eq!(
        again.message.as_deref(),
        Some("Login failed.\nPlease enter your password.")
    );
    let (head, body) = response("refused");
    assert_eq!(
        (head.status, head.reason.as_str(), body.len()),
        (401, "Authentication failed", 0)
    );
    assert_eq!(response("no-certificate").0.reason, "No certificate");
}

#[test]
fn ocserv_ends_a_login_without_a_certificate_with_an_empty_form() {
    let refused = AuthError::Refused("Please enter your username.".into());
    assert_eq!(parse_gateway(&response("form-empty").1), Err(refused));
}

#[test]
fn ocserv_ends_a_login_with_a_cookie() {
    for (name, banner) in [
        ("complete", None),
        ("complete-certificate", None),
        (
            "complete-banner",
            Some("Welcome to the burrow & mind the roof".to_owned()),
        ),
    ] {
        let (head, body) = response(name);
        let expected = GatewayDocument::Complete {
            session_token: None,
            message: None,
            banner,
        };
        assert_eq!(parse_gateway(&body), Ok(expected), "{name}");
        let cookie = head.headers.set_cookie("webvpn").expect("a cookie");
        assert_eq!(cookie.expose().len(), 44, "{name}");
    }
}

#[test]
fn ocserv_refuses_an_unknown_cookie() {
    let refused = parse_connect_reply(&response_head("connect-401"));
    assert_eq!(refused, Err(ConnectRefused::Refused(Refusal::Cookie)));
}

#[test]
fn ocserv_grants_a_tunnel() {
    let net = |text: &str| text.parse::<ipnet::IpNet>().expect("network");
    let expected = Grant {
        v4: "10.78.0.50/24".parse().ok(),
        v6: "fd00:78::9a7c:c09f:b76e:58ef/128".parse().ok(),
        dns: vec![
            "10.77.0.10".parse().expect("address"),
            "fd00:77::10".parse().expect("address"),
        ],
        nbns: vec!["10.77.0.11".parse().expect("address")],
        default_domains: vec!["corp.test".into()],
        split_dns: vec!["corp.test".into()],
        include: vec![net("10.77.0.0/24"), net("fd00:77::/64")],
        exclude: vec![net("10.77.0.200/32"), net("fd00:77:0:0:1::/80")],
        dpd: seconds(3),
        keepalive: seconds(4),
        idle_timeout: seconds(1200),
        session_timeout: seconds(7200),
        rekey: Some(Rekey {
            time: Duration::from_secs(172_816),
            method: RekeyMethod::Ssl,
        }),
        base_mtu: Some(1500),
        mtu: 1472,
        keep: true,
        banner: Some("Welcome to the burrow & <b>mind</b> the roof".into()),
        hostname: Some("vm".into()),
        server_name: Some("ocserv 1.1.6".into()),
        ..Grant::default()
    };
    assert_eq!(grant("grant"), expected);
}

#[test]
fn ocserv_grants_dtls() {
    let grant = grant("grant-dtls");
    assert_eq!(grant.mtu, 1434);
    let dtls = grant.dtls.expect("granted");
    assert_eq!(
        (dtls.port, dtls.app_id.len(), dtls.cipher.as_str()),
        (4001, 32, "PSK-NEGOTIATE")
    );
    assert_eq!((dtls.dpd, dtls.keepalive, dtls.mtu), (seconds(3), seconds(4), None));
    assert_eq!(
        dtls.rekey,
        Some(Rekey {
            time: Duration::from_secs(172_801),
            method: RekeyMethod::Ssl
        })
    );
}

#[test]
fn ocserv_writes_no_limit_as_none_and_as_zero() {
    let grant = grant("grant-no-limits");
    assert_eq!(
        (grant.idle_timeout, grant.session_timeout, grant.disconnected_timeout),
        (None, None, None)
    );
    assert_eq!((grant.dpd, grant.keepalive), (seconds(20), seconds(300)));
}

#[test]
fn ocserv_sends_packets_and_answers_probes() {
    let frames = frames("ocserv-1.1.6/data-dpd");
    assert_packets(&frames);
    assert_eq!(of_kind(&frames, Kind::DpdResponse), [b""; 5]);
}

#[test]
fn ocserv_echoes_the_payload_of_a_probe_and_probes_on_its_own() {
    let frames = frames("ocserv-1.1.6/dpd-echo-request");
    assert_eq!(of_kind(&frames, Kind::DpdResponse), [b"ping-with-payload"]);
    assert_eq!(of_kind(&frames, Kind::DpdRequest), [b""]);
}

#[test]
fn ocserv_disconnects_without_a_word() {
    let frames = frames("ocserv-1.1.6/data-disconnect");
    let last = frames.last().expect("frames");
    assert_eq!(
        (last.kind, parse_goodbye(&last.payload)),
        (Kind::Disconnect, Goodbye::Temporary)
    );
}
