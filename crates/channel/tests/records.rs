//! The channel over a real TCP connection on the loopback, against a peer that sees every TLS record.

use std::io::{Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use channel::{Channel, Closed, Exchange, ExchangeError, Limits, MAX_PENDING};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::cstp::{self, Decoder, Frame, Kind};

/// Nothing here waits on purpose; a step that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(20);

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let key = rcgen::KeyPair::generate().expect("key");
    let params = rcgen::CertificateParams::new(vec!["gw.test".to_owned()]).expect("name");
    let certificate = params.self_signed(&key).expect("certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("key"),
        )
        .expect("server");
    (Arc::new(client), Arc::new(server))
}

/// The far end: plain TCP and a TLS state that is fed one record at a time.
struct Peer {
    socket: TcpStream,
    tls: ServerConnection,
    bytes: BytesMut,
}

impl Peer {
    /// Feeds the next record and returns the plaintext it held.
    async fn record(&mut self) -> Vec<u8> {
        loop {
            if self.bytes.len() >= 5 {
                let length = 5 + usize::from(u16::from_be_bytes([self.bytes[3], self.bytes[4]]));
                if self.bytes.len() >= length {
                    let record = self.bytes.split_to(length);
                    let mut cursor = Cursor::new(&record[..]);
                    while (cursor.position() as usize) < record.len() {
                        self.tls.read_tls(&mut cursor).expect("record");
                    }
                    let state = self.tls.process_new_packets().expect("valid record");
                    let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
                    self.tls.reader().read_exact(&mut plaintext).expect("plaintext");
                    return plaintext;
                }
            }
            assert!(
                self.socket.read_buf(&mut self.bytes).await.expect("read") > 0,
                "closed too early"
            );
        }
    }

    /// Sends `plaintext` as one record (it is shorter than one).
    async fn send(&mut self, plaintext: &[u8]) {
        self.tls.writer().write_all(plaintext).expect("write");
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).expect("seal");
        }
        self.socket.write_all(&out).await.expect("send");
    }
}

async fn pair() -> (Channel, Peer) {
    let (client, server) = configs();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let connector = tokio_rustls::TlsConnector::from(client);
    let name = ServerName::try_from("gw.test").expect("name");
    let dial = async {
        let socket = TcpStream::connect(address).await.expect("connect");
        connector.connect(name, socket).await.expect("handshake")
    };
    let accept = async {
        let (socket, _) = listener.accept().await.expect("accept");
        tokio_rustls::TlsAcceptor::from(server)
            .accept(socket)
            .await
            .expect("handshake")
    };
    let (near, far) = tokio::join!(dial, accept);
    let (socket, tls): (TcpStream, ClientConnection) = near.into_inner();
    let (far_socket, far_tls) = far.into_inner();
    let channel = Channel::new(socket, tls.into(), BytesMut::new());
    (
        channel,
        Peer {
            socket: far_socket,
            tls: far_tls,
            bytes: BytesMut::new(),
        },
    )
}

fn one_frame(plaintext: &[u8]) -> Frame {
    let mut decoder = Decoder::new();
    decoder.buffer().extend_from_slice(plaintext);
    let frame = decoder.next().expect("frame").expect("a whole frame in the record");
    assert!(decoder.buffer().is_empty(), "nothing else in the record");
    frame
}

#[tokio::test]
async fn a_frame_is_a_record_even_when_tcp_blocks() {
    let (mut channel, mut peer) = pair().await;
    let mut sent = 0u32;
    // Queue until TCP takes no more and the backlog is at its limit.
    while channel.has_room() {
        let size = 20 + (sent as usize * 977) % 16_000;
        let mut payload = vec![0x45; size];
        payload[..4].copy_from_slice(&sent.to_be_bytes());
        channel.queue(Kind::Data, &payload).expect("queue");
        channel.send_some().expect("send");
        sent += 1;
    }
    assert!(channel.pending() >= MAX_PENDING, "tcp blocks");
    let flush = async {
        channel.flush().await.expect("flush");
    };
    let read = async {
        for expected in 0..sent {
            let plaintext = loop {
                // Records of the handshake's tail hold no plaintext.
                let plaintext = peer.record().await;
                if !plaintext.is_empty() {
                    break plaintext;
                }
            };
            let frame = one_frame(&plaintext);
            assert_eq!(frame.payload[..4], expected.to_be_bytes());
        }
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(flush, read) })
        .await
        .expect("in time");
    println!("{sent} frames, each in a record of its own");
}

#[tokio::test]
async fn record_edges_of_the_peer_do_not_matter() {
    let (mut channel, mut peer) = pair().await;
    let mut two = BytesMut::new();
    cstp::encode(Kind::Data, b"first", &mut two).expect("encode");
    cstp::encode(Kind::DpdRequest, b"second", &mut two).expect("encode");
    peer.send(&two).await;
    let mut halved = BytesMut::new();
    cstp::encode(Kind::Data, b"third", &mut halved).expect("encode");
    peer.send(&halved[..3]).await;
    peer.send(&halved[3..]).await;
    for (kind, payload) in [
        (Kind::Data, "first"),
        (Kind::DpdRequest, "second"),
        (Kind::Data, "third"),
    ] {
        let frame = tokio::time::timeout(DEADLINE, channel.next())
            .await
            .expect("in time")
            .expect("frame");
        assert_eq!((frame.kind, &frame.payload[..]), (kind, payload.as_bytes()));
    }
}

#[tokio::test]
async fn a_frame_in_pieces_is_one_record_of_full_length() {
    let (mut channel, mut peer) = pair().await;
    let (front, rest) = (vec![1; 40], vec![2; 16_376 - 40]);
    channel.queue_pieces(Kind::Bundle, [&front, &rest]).expect("queue");
    let too_long = channel.queue_pieces(Kind::Bundle, [&[0], &[0; 16_376]]);
    assert!(matches!(too_long, Err(Closed::Cstp(_))), "{too_long:?}");
    channel.queue(Kind::Data, b"behind it").expect("queue");
    assert!(channel.pending() > 16_384 && channel.pending() < 16_600);
    tokio::time::timeout(DEADLINE, channel.flush())
        .await
        .expect("in time")
        .expect("sent");
    assert_eq!(channel.pending(), 0);
    let frame = one_frame(&peer.record().await);
    assert_eq!(
        (frame.kind, &frame.payload[..]),
        (Kind::Bundle, &[front, rest].concat()[..])
    );
    assert_eq!(&one_frame(&peer.record().await).payload[..], b"behind it");
}

#[tokio::test]
async fn records_of_every_length_come_whole_however_tcp_cuts_them() {
    let (mut channel, mut peer) = pair().await;
    let lengths = [0, 1, 100, 16_376, 1400, 4070, 4096, 16_376, 16_376, 3];
    let mut bytes = Vec::new();
    for (index, length) in lengths.iter().enumerate() {
        let mut frame = BytesMut::new();
        cstp::encode(Kind::Data, &vec![index as u8; *length], &mut frame).expect("encode");
        peer.tls.writer().write_all(&frame).expect("write");
        while peer.tls.wants_write() {
            peer.tls.write_tls(&mut bytes).expect("seal");
        }
    }
    let mut cuts = [1, 3, 5, 20, 1000, 5000, 17_000, 40_000].into_iter().cycle();
    let send = async {
        let mut left = &bytes[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(cuts.next().expect("endless").min(left.len()));
            peer.socket.write_all(now).await.expect("send");
            tokio::task::yield_now().await;
            left = later;
        }
    };
    let read = async {
        for (index, length) in lengths.iter().enumerate() {
            // In the middle of a record, too.
            channel.shrink();
            let frame = channel.next().await.expect("frame");
            assert_eq!(frame.payload, vec![index as u8; *length], "number {index}");
        }
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(send, read) })
        .await
        .expect("in time");
}

#[tokio::test]
async fn a_record_of_which_a_part_was_read_before_is_read_to_its_end() {
    for part in [1, 4, 5, 2000, 4096] {
        let (client, server) = configs();
        let name = ServerName::try_from("gw.test").expect("name");
        let mut near = ClientConnection::new(client, name).expect("client");
        let mut far = ServerConnection::new(server).expect("server");
        let pass = |bytes: &mut Vec<u8>, read: &mut dyn FnMut(&mut dyn Read)| {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                read(&mut rest);
            }
            bytes.clear();
        };
        let mut wire = Vec::new();
        while near.is_handshaking() || far.is_handshaking() || far.wants_write() {
            near.write_tls(&mut wire).expect("bytes");
            pass(&mut wire, &mut |bytes| {
                far.read_tls(bytes).expect("read");
                far.process_new_packets().expect("valid");
            });
            far.write_tls(&mut wire).expect("bytes");
            pass(&mut wire, &mut |bytes| {
                near.read_tls(bytes).expect("read");
                near.process_new_packets().expect("valid");
            });
        }
        for length in [5000, 16_000, 7] {
            let mut frame = BytesMut::new();
            cstp::encode(Kind::Data, &vec![length as u8; length], &mut frame).expect("encode");
            far.writer().write_all(&frame).expect("write");
        }
        while far.wants_write() {
            far.write_tls(&mut wire).expect("seal");
        }
        near.read_tls(&mut &wire[..part]).expect("a part");
        near.process_new_packets().expect("not wrong so far");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (socket, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, _) = accepted.expect("accept");
        peer.write_all(&wire[part..]).await.expect("the rest");
        let mut channel = Channel::new(socket.expect("connect"), near.into(), BytesMut::new());
        for length in [5000, 16_000, 7] {
            let frame = tokio::time::timeout(DEADLINE, channel.next())
                .await
                .expect("in time")
                .expect("frame");
            assert_eq!(frame.payload, vec![length as u8; length]);
        }
    }
}

#[tokio::test]
async fn frames_before_the_end_are_handed_out_first() {
    let (mut channel, mut peer) = pair().await;
    let mut last = BytesMut::new();
    cstp::encode(Kind::Data, b"last words", &mut last).expect("encode");
    peer.send(&last).await;
    drop(peer);
    let frame = tokio::time::timeout(DEADLINE, channel.next())
        .await
        .expect("in time")
        .expect("frame");
    assert_eq!(&frame.payload[..], b"last words");
    let end = tokio::time::timeout(DEADLINE, channel.next()).await.expect("in time");
    assert!(
        matches!(end, Err(Closed::Eof { clean: false } | Closed::Broken(_))),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_goodbye_is_heard_though_tcp_takes_nothing_more() {
    let (mut channel, mut peer) = pair().await;
    let mut goodbye = BytesMut::new();
    cstp::encode(Kind::Disconnect, b"\xb0bye", &mut goodbye).expect("encode");
    // The peer leaves with unread data in its socket, so its kernel resets the connection.
    channel.queue(Kind::Data, &[0; 1000]).expect("queue");
    channel.flush().await.expect("sent");
    peer.socket.readable().await.expect("unread data");
    peer.send(&goodbye).await;
    drop(peer);
    let first = loop {
        channel.queue(Kind::Data, &[0; 16_000]).expect("queue");
        match channel.send_some() {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => panic!("the peer is gone, not slow"),
            Err(_) => break channel.next().await,
        }
        if channel.pending() == 0 {
            break tokio::time::timeout(DEADLINE, channel.next()).await.expect("in time");
        }
    };
    assert_eq!(first.expect("the goodbye").kind, Kind::Disconnect);
}

#[tokio::test]
async fn a_flood_leaves_others_their_turn() {
    let (mut channel, peer) = pair().await;
    let Peer { socket, mut tls, .. } = peer;
    let socket = socket.into_std().expect("socket");
    socket.set_nonblocking(false).expect("blocking");
    let over = Arc::new(AtomicBool::new(false));
    // From a thread of its own, so that it is never waited for: records full of empty frames, faster than they are handled.
    let flood = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut frames = BytesMut::new();
            for _ in 0..1000 {
                cstp::encode(Kind::Keepalive, b"", &mut frames).expect("encode");
            }
            let mut send = || -> std::io::Result<()> {
                tls.writer().write_all(&frames)?;
                while tls.wants_write() {
                    tls.write_tls(&mut &socket)?;
                }
                Ok(())
            };
            // An error: the other end is gone.
            let _ = (0..10_000).try_for_each(|_| send());
            over.store(true, Ordering::Relaxed);
        }
    });
    let taken = tokio::spawn(async move { while channel.next().await.is_ok() {} });
    let soon = tokio::time::Instant::now() + Duration::from_millis(20);
    tokio::time::interval_at(soon, DEADLINE).tick().await;
    assert!(
        !over.load(Ordering::Relaxed),
        "nobody else had a turn before the flood was over"
    );
    taken.abort();
    assert!(taken.await.is_err_and(|ended| ended.is_cancelled()));
    flood.join().expect("flood");
}

#[tokio::test]
async fn frames_that_came_with_the_head_are_not_stranded() {
    let (client, server) = configs();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let serve = async {
        let (socket, _) = listener.accept().await.expect("accept");
        let stream = tokio_rustls::TlsAcceptor::from(server)
            .accept(socket)
            .await
            .expect("handshake");
        let (mut socket, mut tls) = stream.into_inner();
        let mut frame = BytesMut::new();
        // More than one read of the head takes along.
        cstp::encode(Kind::Data, &[7; 5000], &mut frame).expect("encode");
        let mut bytes = Vec::new();
        for part in [&b"HTTP/1.1 200 CONNECTED\r\n\r\n"[..], &frame] {
            tls.writer().write_all(part).expect("write");
            tls.write_tls(&mut bytes).expect("seal");
        }
        while tls.wants_write() {
            tls.write_tls(&mut bytes).expect("seal");
        }
        socket.write_all(&bytes).await.expect("one write");
        socket
    };
    let connect = async {
        let socket = TcpStream::connect(address).await.expect("connect");
        let name = ServerName::try_from("gw.test").expect("name");
        let stream = tokio_rustls::TlsConnector::from(client)
            .connect(name, socket)
            .await
            .expect("handshake");
        let mut exchange = Exchange::new(stream, Limits::default());
        let head = exchange.read_response_head(4096).await.expect("head");
        assert_eq!(head.status, 200);
        let (stream, received) = exchange.into_parts();
        let (socket, tls) = stream.into_inner();
        let mut channel = Channel::new(socket, tls.into(), received);
        tokio::time::timeout(DEADLINE, channel.next())
            .await
            .expect("not stranded")
            .expect("frame")
    };
    let (_held_open, frame) = tokio::join!(serve, connect);
    assert_eq!(&frame.payload[..], &[7; 5000]);
}

#[tokio::test]
async fn a_peer_that_does_not_read_gets_no_endless_backlog() {
    let (mut channel, _peer) = pair().await;
    let payload = vec![0; 16_000];
    let refused = (0..10_000).find_map(|_| {
        channel.send_some().expect("send");
        channel.queue(Kind::DpdResponse, &payload).err()
    });
    assert!(matches!(refused, Some(Closed::Backlog(_))), "{refused:?}");
    assert!(channel.pending() <= 2 * MAX_PENDING + 32 * 1024);
}

#[tokio::test]
async fn garbage_instead_of_frames_is_an_error() {
    let (mut channel, mut peer) = pair().await;
    peer.send(b"HTTP/1.1 500 Oops\r\n\r\n").await;
    let end = tokio::time::timeout(DEADLINE, channel.next()).await.expect("in time");
    assert!(matches!(end, Err(Closed::Cstp(_))), "{end:?}");
}

#[tokio::test]
async fn an_exchange_leaves_what_follows_the_head() {
    let (near, mut far) = tokio::io::duplex(1024);
    let limits = Limits { head: 256, body: 16 };
    let mut exchange = Exchange::new(near, limits);
    far.write_all(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodySTF\x01")
        .await
        .expect("write");
    let request = exchange.read_request().await.expect("request").expect("one");
    assert_eq!(&request.body[..], b"body");
    let (_, rest) = exchange.into_parts();
    assert_eq!(&rest[..], b"STF\x01");
}

#[tokio::test]
async fn an_oversized_head_or_body_is_refused() {
    for message in [
        format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(300)),
        "POST / HTTP/1.1\r\nContent-Length: 17\r\n\r\n".to_owned(),
    ] {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut exchange = Exchange::new(near, Limits { head: 256, body: 16 });
        far.write_all(message.as_bytes()).await.expect("write");
        let refused = exchange.read_request().await;
        assert!(matches!(refused, Err(ExchangeError::Http(_))), "{refused:?}");
    }
}
