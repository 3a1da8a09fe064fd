//! What is written reads back, for every encoder and decoder, and no bytes make a decoder panic.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use wire::Secret;
use wire::auth::{Choice, ClientDocument, Field, Form, GatewayDocument, Init, Input, InputKind, Reply, legacy};
use wire::auth::{parse_client, parse_gateway};
use wire::cstp::{self, Decoder, Kind};
use wire::http::{BodyDecoder, Headers, Method, RequestHead, ResponseHead, parse_request, parse_response};
use wire::limits::{MAX_BODY, MAX_CONNECT_HEAD, MAX_HEAD};
use wire::offer::parse_connect_reply;
use wire::offer::{
    ConnectRefused, DtlsGrant, Grant, MarmotDatagram, MarmotSession, Offer, ParkKey, Refusal, Rekey, RekeyMethod,
    Resume,
};

/// Text without spaces around it, which are not kept, and not empty, which counts as absent.
fn words() -> impl Strategy<Value = String> {
    "[^\\x00\\r]{0,20}".prop_map(|text| format!("w{}w", text.trim()))
}

/// Text as it may stand in a header.
fn header_text() -> impl Strategy<Value = String> {
    "[^\\x00-\\x1f\\x7f]{0,20}".prop_map(|text| format!("w{text}w"))
}

/// Any text of a field, spaces and line ends included.
fn secret() -> impl Strategy<Value = Secret> {
    "[^\\x00]{0,20}".prop_map(Secret::new)
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_][a-zA-Z0-9_.-]{0,10}"
}

fn token() -> impl Strategy<Value = String> {
    "X-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}"
}

fn opaque() -> impl Strategy<Value = String> {
    "[^\\x00<>&\"]{0,10}".prop_map(|text| format!("<opaque is-for=\"{text}\">{text}<x y='1'/>&amp;</opaque>"))
}

fn init() -> impl Strategy<Value = Init> {
    (words(), of(words()), any::<bool>(), words(), words()).prop_map(
        |(group_access, group_select, certificate_failed, version, device)| Init {
            group_access,
            group_select,
            certificate_failed,
            version,
            device,
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let fields = vec((name(), secret()).prop_map(|(name, value)| Field { name, value }), 0..5);
    (fields, of(words()), of(opaque()), words(), words()).prop_map(|(fields, group_select, opaque, version, device)| {
        Reply {
            fields,
            group_select,
            opaque,
            version,
            device,
        }
    })
}

fn input() -> impl Strategy<Value = Input> {
    let choice = (words(), words()).prop_map(|(value, label)| Choice { value, label });
    let kind = prop_oneof![
        Just(InputKind::Text),
        Just(InputKind::Password),
        Just(InputKind::Submit),
        secret().prop_map(InputKind::Hidden),
        vec(choice, 0..4).prop_map(|options| InputKind::Select { options }),
    ];
    (kind, name(), of("[^\\x00]{0,20}")).prop_map(|(kind, name, label)| Input { kind, name, label })
}

fn form() -> impl Strategy<Value = Form> {
    let texts = (of(words()), of(words()), of(words()), of(opaque()));
    (name(), words(), texts, vec(input(), 0..5)).prop_map(|(id, action, (message, error, banner, opaque), inputs)| {
        let first = Input {
            kind: InputKind::Text,
            name: "username".into(),
            label: None,
        };
        let inputs = std::iter::once(first).chain(inputs).collect();
        Form {
            id: format!("f{id}"),
            method_action: action,
            message,
            error,
            banner,
            inputs,
            opaque,
        }
    })
}

fn gateway_document() -> impl Strategy<Value = GatewayDocument> {
    prop_oneof![
        4 => form().prop_map(GatewayDocument::Form),
        1 => Just(GatewayDocument::ClientCertificateRequested),
        2 => (of(words().prop_map(Secret::new)), of(words()), of(words())).prop_map(
            |(session_token, message, banner)| GatewayDocument::Complete { session_token, message, banner }
        ),
    ]
}

fn headers() -> impl Strategy<Value = Headers> {
    vec((token(), header_text()), 0..6).prop_map(|lines| {
        let mut headers = Headers::new();
        lines.into_iter().for_each(|(name, value)| headers.push(name, value));
        headers
    })
}

fn cookie() -> impl Strategy<Value = Secret> {
    "[A-Za-z0-9+/]{1,44}={0,2}".prop_map(Secret::new)
}

fn marmot_session() -> impl Strategy<Value = MarmotSession> {
    ("[0-9a-zA-Z]{1,64}", any::<u64>()).prop_map(|(id, epoch)| MarmotSession { id, epoch })
}

prop_compose! {
    fn resume()(session in marmot_session(), halves in any::<[[u8; 32]; 2]>()) -> Resume {
        let mut signature = [0; 64];
        signature.copy_from_slice(&halves.concat());
        Resume { session, signature }
    }
}

fn marmot_datagram() -> impl Strategy<Value = Option<MarmotDatagram>> {
    of(any::<bool>().prop_map(|ecn| MarmotDatagram { ecn }))
}

prop_compose! {
    fn offer()(
        host in header_text(),
        user_agent in header_text(),
        cookie in cookie(),
        hostname in of(header_text()),
        base_mtu in of(1u16..),
        mtu in of(1u16..),
        families in 1u8..4,
        previous in vec(any::<IpAddr>(), 0..3),
        dtls in any::<bool>(),
        session in any::<bool>(),
        marmot_datagram in marmot_datagram(),
        marmot_bundle in any::<bool>(),
        park in of(any::<[u8; 32]>().prop_map(ParkKey)),
        resume in of(resume()),
    ) -> Offer {
        let (want_v4, want_v6) = (families & 1 != 0, families & 2 != 0);
        Offer {
            host, user_agent, cookie, hostname, base_mtu, mtu, want_v4, want_v6, previous, dtls, session, marmot_datagram,
            marmot_bundle, park, resume,
        }
    }
}

fn seconds() -> impl Strategy<Value = Option<Duration>> {
    of((1u64..=u64::from(u32::MAX)).prop_map(Duration::from_secs))
}

fn rekey() -> impl Strategy<Value = Option<Rekey>> {
    let method = prop_oneof![Just(RekeyMethod::Ssl), Just(RekeyMethod::NewTunnel)];
    (seconds(), method).prop_map(|(time, method)| time.map(|time| Rekey { time, method }))
}

fn v4_net() -> impl Strategy<Value = Ipv4Net> {
    (any::<std::net::Ipv4Addr>(), 0u8..=32).prop_map(|(address, length)| Ipv4Net::new_assert(address, length))
}

fn v6_net() -> impl Strategy<Value = Ipv6Net> {
    (any::<std::net::Ipv6Addr>(), 0u8..=128).prop_map(|(address, length)| Ipv6Net::new_assert(address, length))
}

fn route() -> impl Strategy<Value = IpNet> {
    prop_oneof![v4_net().prop_map(IpNet::V4), v6_net().prop_map(IpNet::V6)].prop_map(|net| net.trunc())
}

prop_compose! {
    fn dtls(largest: u16)(
        port in 1u16..,
        app_id in vec(any::<u8>(), 1..=32),
        cipher in "[A-Z0-9-]{1,20}",
        mtu in of(1..=largest),
        dpd in seconds(),
        keepalive in seconds(),
        rekey in rekey(),
    ) -> DtlsGrant {
        DtlsGrant { port, app_id, cipher, mtu, dpd, keepalive, rekey }
    }
}

prop_compose! {
    fn addresses()(both in any::<(bool, bool)>(), v4 in v4_net(), v6 in v6_net()) -> (Option<Ipv4Net>, Option<Ipv6Net>) {
        match both {
            (true, true) => (Some(v4), Some(v6)),
            (true, false) => (Some(v4), None),
            (false, _) => (None, Some(v6)),
        }
    }
}

prop_compose! {
    fn grant()(mtu in 576u16..)(
        mtu in Just(mtu),
        (v4, v6) in addresses(),
        dns in vec(any::<IpAddr>(), 0..4),
        nbns in vec(any::<IpAddr>(), 0..2),
        names in (vec("[a-z.]{1,20}", 0..3), vec("[a-z.]{1,20}", 0..3)),
        routes in (vec(route(), 0..5), vec(route(), 0..5)),
        timers in (seconds(), seconds(), seconds(), seconds(), seconds(), seconds()),
        rekey in rekey(),
        base_mtu in of(1u16..),
        switches in any::<[bool; 5]>(),
        marmot_datagram in marmot_datagram(),
        texts in (of(header_text()), of(header_text()), of(header_text())),
        dtls in of(dtls(mtu)),
        session in of(marmot_session()),
        token in of("[0-9a-f]{32}"),
        park in of((1u64..=2_592_000).prop_map(Duration::from_secs)),
        ticket in of("[0-9a-zA-Z_-]{1,400}"),
    ) -> Grant {
        let (dpd, keepalive, idle_timeout, session_timeout, lease, disconnected_timeout) = timers;
        let [tunnel_all_dns, client_bypass, keep, dyndns, marmot_bundle] = switches;
        let (banner, hostname, server_name) = texts;
        let logout = token.filter(|_| session.is_some()).map(Secret::from);
        let ticket = ticket.filter(|_| session.is_some()).map(Secret::from);
        let park = park.filter(|_| session.is_some());
        Grant {
            v4, v6, dns, nbns, default_domains: names.0, split_dns: names.1, include: routes.0, exclude: routes.1,
            dpd, keepalive, idle_timeout, session_timeout, lease, disconnected_timeout, rekey, base_mtu, mtu,
            tunnel_all_dns, client_bypass, keep, dyndns, banner, hostname, server_name, dtls, marmot_datagram, session, logout,
            marmot_bundle, park, ticket,
        }
    }
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Cookie),
        marmot_session().prop_map(Refusal::Stale),
        of(header_text()).prop_map(Refusal::Unavailable),
        header_text().prop_map(Refusal::Redirect),
        (410u16..503, "[a-zA-Z ]{0,20}").prop_map(|(status, words)| Refusal::Other(status, words.trim().to_owned())),
    ]
}

/// Cuts bytes into pieces of these lengths, then the rest.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, rest) = bytes.split_at((*length).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

proptest! {
    #[test]
    fn frames_read_back_however_the_stream_is_cut(
        sent in vec((any::<u8>(), vec(any::<u8>(), 0..300)), 0..8),
        lengths in vec(0usize..50, 0..40),
    ) {
        let mut stream = BytesMut::new();
        for (kind, payload) in &sent {
            cstp::encode(Kind::from_byte(*kind), payload, &mut stream).expect("short");
        }
        let mut decoder = Decoder::new();
        let mut received = Vec::new();
        for piece in pieces(&stream, &lengths) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(frame) = decoder.next().expect("valid") {
                received.push((frame.kind.byte(), frame.payload.to_vec()));
            }
        }
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn client_documents_read_back(
        document in prop_oneof![init().prop_map(ClientDocument::Init), reply().prop_map(ClientDocument::Reply)],
    ) {
        let text = document.encode();
        prop_assert_eq!(parse_client(text.as_bytes()), Ok(document), "{}", text);
    }

    #[test]
    fn gateway_documents_read_back(document in gateway_document()) {
        let text = document.encode();
        prop_assert_eq!(parse_gateway(text.as_bytes()), Ok(document), "{}", text);
    }

    #[test]
    fn an_answer_to_any_form_reads_back(form in form(), answer in secret()) {
        let pick = |input: &Input| match &input.kind {
            InputKind::Select { options } => options.last().map(|choice| Secret::from(choice.value.as_str())),
            _ => Some(answer.clone()),
        };
        if let Ok(reply) = form.answer(pick, None) {
            let document = ClientDocument::Reply(Reply { version: "v".into(), device: "d".into(), ..reply });
            let text = document.encode();
            prop_assert_eq!(parse_client(text.as_bytes()), Ok(document), "{}", text);
        }
    }

    #[test]
    fn legacy_fields_read_back(fields in vec((name(), "[^\\x00]{0,20}"), 0..5)) {
        let pairs: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = fields.iter().map(|(name, value)| Field { name: name.clone(), value: value.as_str().into() });
        prop_assert_eq!(legacy::parse(legacy::encode(&pairs).as_bytes()), Ok(expected.collect::<Vec<_>>()));
    }

    #[test]
    fn requests_read_back_with_their_bodies(
        method in prop_oneof![Just("GET"), Just("POST"), Just("PUT")],
        target in "/[!-~]{0,20}",
        headers in headers(),
        body in vec(any::<u8>(), 0..200),
        lengths in vec(0usize..50, 0..8),
    ) {
        let head = RequestHead { method: Method::from(method), target, headers };
        let bytes = head.encode(&body);
        let (read, length) = parse_request(&bytes, MAX_HEAD).expect("valid").expect("complete");
        prop_assert_eq!((&read.method, &read.target), (&head.method, &head.target));
        prop_assert!(read.headers.iter().zip(head.headers.iter()).all(|(read, sent)| read == sent));
        let mut decoder = BodyDecoder::for_request(&read, MAX_BODY).expect("framed");
        let mut input = BytesMut::new();
        let mut received = None;
        for piece in pieces(&bytes[length..], &lengths) {
            input.extend_from_slice(piece);
            received = received.or(decoder.feed(&mut input).expect("valid"));
        }
        prop_assert_eq!(received.as_deref(), Some(&body[..]));
    }

    #[test]
    fn replies_read_back(status in 200u16..600, headers in headers(), body in vec(any::<u8>(), 0..200)) {
        prop_assume!(status != 204 && status != 304);
        let head = ResponseHead { status, reason: "Some words".into(), headers };
        let bytes = head.encode(&body);
        let (read, length) = parse_response(&bytes, MAX_HEAD).expect("valid").expect("complete");
        prop_assert_eq!((read.status, &read.reason), (head.status, &head.reason));
        let mut input = BytesMut::from(&bytes[length..]);
        let received = BodyDecoder::for_response(&read, MAX_BODY).expect("framed").feed(&mut input).expect("valid");
        prop_assert_eq!(received.as_deref(), Some(&body[..]));
    }

    #[test]
    fn a_chunked_body_reads_back_however_it_is_cut(
        chunks in vec(vec(any::<u8>(), 1..50), 0..6),
        lengths in vec(0usize..20, 0..30),
    ) {
        let mut head = ResponseHead { status: 200, reason: String::new(), headers: Headers::new() };
        head.headers.push("Transfer-Encoding", "chunked");
        let mut stream = Vec::new();
        for chunk in &chunks {
            stream.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            stream.extend_from_slice(chunk);
            stream.extend_from_slice(b"\r\n");
        }
        stream.extend_from_slice(b"0\r\n\r\nSTF");
        let mut decoder = BodyDecoder::for_response(&head, MAX_BODY).expect("framed");
        let mut input = BytesMut::new();
        let mut received = None;
        for piece in pieces(&stream, &lengths) {
            input.extend_from_slice(piece);
            if received.is_none() {
                received = decoder.feed(&mut input).expect("valid");
            }
        }
        prop_assert_eq!(received.as_deref(), Some(&chunks.concat()[..]));
        prop_assert_eq!(&input[..], b"STF");
    }

    #[test]
    fn offers_read_back(offer in offer()) {
        let bytes = offer.encode();
        let (head, length) = parse_request(&bytes, MAX_HEAD).expect("valid").expect("complete");
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(Offer::parse(&head), Ok(offer));
    }

    #[test]
    fn grants_read_back(grant in grant()) {
        let bytes = grant.encode();
        let (head, length) = parse_response(&bytes, MAX_CONNECT_HEAD).expect("valid").expect("complete");
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(parse_connect_reply(&head), Ok(grant));
    }

    #[test]
    fn refusals_read_back(refusal in refusal()) {
        let (head, _) = parse_response(&refusal.encode(), MAX_HEAD).expect("valid").expect("complete");
        prop_assert_eq!(parse_connect_reply(&head), Err(ConnectRefused::Refused(refusal)));
    }

    #[test]
    fn escaped_text_shows_no_control_character(text in any::<String>()) {
        let shown = wire::text::escape(&text);
        let hidden = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
        prop_assert!(!shown.contains(hidden), "{:?}", shown);
    }
}
