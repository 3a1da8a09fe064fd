//! What each fuzz target does with its bytes. Nothing may panic, and what was understood must survive being written
//! and read again.
//!
//! `crates/wire/tests/corpus.rs` includes this file and replays `corpus/` on every `cargo test`.

use bytes::BytesMut;
use wire::auth::{ClientDocument, GatewayDocument, InputKind, legacy, parse_client, parse_gateway};
use wire::cstp::{self, Decoder, Frame, Kind};
use wire::http::{BodyDecoder, Headers, parse_request, parse_response};
use wire::limits::{MAX_BODY, MAX_CONNECT_HEAD, MAX_HEAD, MAX_HEADERS, MAX_REPLY_HEADERS};
use wire::offer::{ConnectRefused, Logout, Offer, parse_connect_reply};
use wire::{AuthError, CstpError, HttpError, Secret};

/// What a target does with its bytes.
pub type Target = fn(&[u8]);

/// Every target by name, for the replay of its corpus.
pub const TARGETS: [(&str, Target); 10] = [
    ("cstp", cstp),
    ("http_request", http_request),
    ("http_response", http_response),
    ("auth_client", auth_client),
    ("auth_gateway", auth_gateway),
    ("legacy", legacy),
    ("offer", offer),
    ("grant", grant),
    ("logout", logout),
    ("dns", dns),
];

/// A stream of frames: the same however it is cut, and the same bytes when written again.
pub fn cstp(data: &[u8]) {
    let (whole, end) = decode(data, usize::MAX);
    let step = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    assert_eq!(decode(data, step), (whole.clone(), end));
    let mut written = BytesMut::new();
    for frame in &whole {
        cstp::encode(frame.kind, &frame.payload, &mut written).expect("a frame that was received fits");
        if frame.kind == Kind::Disconnect {
            let goodbye = cstp::parse_goodbye(&frame.payload);
            let _ = cstp::goodbye_payload(&goodbye);
        }
    }
    assert!(data.starts_with(&written));
}

/// All frames of a stream fed in steps, and the error that ended it.
fn decode(data: &[u8], step: usize) -> (Vec<Frame>, Option<CstpError>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in data.chunks(step) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// A request with its body.
pub fn http_request(data: &[u8]) {
    let Ok(Some((head, length))) = parse_request(data, MAX_HEAD) else {
        return;
    };
    assert!(length <= data.len() && length <= MAX_HEAD && head.headers.len() <= MAX_HEADERS);
    if let Ok(mut decoder) = BodyDecoder::for_request(&head, MAX_BODY) {
        drain(&mut decoder, &data[length..]);
    }
    look_up(&head.headers);
    // The length that is added may be one line too many.
    let (again, _) = match parse_request(&head.encode(&[]), usize::MAX) {
        Err(HttpError::TooManyHeaders { .. }) => return,
        again => again.expect("valid").expect("complete"),
    };
    assert_eq!(again.method, head.method);
    assert_kept(&again.headers, &head.headers);
}

/// A reply with its body.
pub fn http_response(data: &[u8]) {
    let Ok(Some((head, length))) = parse_response(data, MAX_HEAD) else {
        return;
    };
    assert!(length <= data.len() && length <= MAX_HEAD && head.headers.len() <= MAX_REPLY_HEADERS);
    if let Ok(mut decoder) = BodyDecoder::for_response(&head, MAX_BODY) {
        drain(&mut decoder, &data[length..]);
        let _ = decoder.at_eof();
    }
    look_up(&head.headers);
    // The length that is added may be one line too many.
    let (again, _) = match parse_response(&head.encode(&[]), usize::MAX) {
        Err(HttpError::TooManyHeaders { .. }) => return,
        again => again.expect("valid").expect("complete"),
    };
    assert_eq!((again.status, again.reason), (head.status, head.reason));
    assert_kept(&again.headers, &head.headers);
}

/// Feeds a body in two steps and never gets more than allowed.
fn drain(decoder: &mut BodyDecoder, data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let mut input = BytesMut::from(first);
    if let Ok(None) = decoder.feed(&mut input) {
        input.extend_from_slice(second);
        if let Ok(Some(body)) = decoder.feed(&mut input) {
            assert!(body.len() <= MAX_BODY);
        }
    }
}

/// Writing adds at most a length.
fn assert_kept(again: &Headers, head: &Headers) {
    assert!(again.len() <= head.len() + 1);
    assert!(head.iter().eq(again.iter().take(head.len())));
}

fn look_up(headers: &Headers) {
    let _ = (
        headers.cookie("webvpn"),
        headers.set_cookie("webvpn"),
        format!("{headers:?}"),
    );
}

/// A document of a client.
pub fn auth_client(data: &[u8]) {
    let Ok(document) = parse_client(data) else { return };
    survives(parse_client(document.encode().as_bytes()), &document);
}

/// A document of a gateway, and the answer to it.
pub fn auth_gateway(data: &[u8]) {
    let document = match parse_gateway(data) {
        Ok(document) => document,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control));
            return;
        }
    };
    survives(parse_gateway(document.encode().as_bytes()), &document);
    let GatewayDocument::Form(form) = document else { return };
    let answered = form.answer(
        |input| match &input.kind {
            InputKind::Select { options } => options.last().map(|choice| Secret::from(choice.label.as_str())),
            _ => Some(Secret::from(" a&b<c> ")),
        },
        None,
    );
    if let Ok(reply) = answered {
        let sent = ClientDocument::Reply(reply);
        let Ok(ClientDocument::Reply(received)) = parse_client(sent.encode().as_bytes()) else {
            return;
        };
        let ClientDocument::Reply(reply) = sent else { return };
        assert_eq!((received.fields, received.opaque), (reply.fields, reply.opaque));
    }
}

/// A document written again reads the same, unless escaping made it too long.
fn survives<T: PartialEq + std::fmt::Debug>(again: Result<T, AuthError>, document: &T) {
    match again {
        Err(AuthError::TooLong { .. } | AuthError::TooMuch(_)) => {}
        again => assert_eq!(again.as_ref(), Ok(document)),
    }
}

/// A legacy reply.
pub fn legacy(data: &[u8]) {
    let Ok(fields) = legacy::parse(data) else { return };
    let pairs: Vec<_> = fields
        .iter()
        .map(|field| (field.name.as_str(), field.value.expose()))
        .collect();
    survives(legacy::parse(legacy::encode(&pairs).as_bytes()), &fields);
}

/// A request for a tunnel.
pub fn offer(data: &[u8]) {
    let Ok(Some((head, _))) = parse_request(data, MAX_HEAD) else {
        return;
    };
    let Ok(offer) = Offer::parse(&head) else { return };
    if let Ok(Some((again, _))) = parse_request(&offer.encode(), MAX_HEAD) {
        assert_eq!(Offer::parse(&again), Ok(offer));
    }
}

/// The reply to it.
pub fn grant(data: &[u8]) {
    let Ok(Some((head, _))) = parse_response(data, MAX_CONNECT_HEAD) else {
        return;
    };
    let reply = parse_connect_reply(&head);
    let written = match &reply {
        Ok(grant) => {
            let _ = (grant.all_v4(), grant.all_v6());
            grant.encode()
        }
        Err(ConnectRefused::Refused(refusal)) => {
            assert!(!refusal.to_string().contains(char::is_control));
            refusal.encode()
        }
        Err(ConnectRefused::Grant(_)) => return,
    };
    if let Ok(Some((again, _))) = parse_response(&written, MAX_CONNECT_HEAD) {
        assert_eq!(parse_connect_reply(&again), reply);
    }
}

/// What a name server says: bounded, and no answer to another question.
pub fn dns(data: &[u8]) {
    use wire::dns::{Answer, Kind, MAX_ADDRESSES, Question};
    for kind in [Kind::A, Kind::Aaaa] {
        let question = Question::new("vpn.example.com", kind, 0x1234).expect("a name");
        if let Some(Answer::Addresses(found)) = question.answer(data) {
            assert!(found.len() <= MAX_ADDRESSES);
            assert!(found.iter().all(|address| address.is_ipv4() == (kind == Kind::A)));
            let other = Question::new("vpn.example.com", kind, 0x1235).expect("a name");
            assert_eq!(other.answer(data), None);
        }
    }
}

/// A logout without a tunnel.
pub fn logout(data: &[u8]) {
    let Some(logout) = Logout::parse(data) else { return };
    let request = logout.encode("vpn.example.com", "fuzz");
    let (_, length) = parse_request(&request, MAX_HEAD).expect("valid").expect("complete");
    assert_eq!(Logout::parse(&request[length..]), Some(logout));
}
