//! Which of several sockets on one port gets a datagram: the worker that its first bytes name.
//!
//! ```text
//!   | 25 | version | epoch | number | id of the connection ...            id[0] mod workers           a record with an id (RFC 9146)
//!     0    1         3       5        11
//!   | 22 | ... | 1 | ... | 32 | session id ...                            session id[0] mod workers   a ClientHello with an id of 32 bytes
//!     0          13        59   60                                                                    (RFC 6347 sections 4.1 and 4.2.2)
//!   anything else                                                         the kernel's hash of both addresses
//! ```
//! A program of the classic packet filter does it, which needs no privilege; it sees the datagram from its first byte of payload on. For a number that no socket
//! has the kernel takes its hash; a datagram that is too short to be looked at goes to the first socket.

use std::io;
use std::mem::size_of;
use std::os::fd::RawFd;

/// A number that no socket has.
const NO_SOCKET: u32 = u32::MAX;

/// Content types and the type of a handshake message.
const IDENTIFIED: u32 = 25;
const HANDSHAKE: u32 = 22;
const CLIENT_HELLO: u32 = 1;

/// Where things stand in a datagram, in bytes.
const CONTENT_TYPE: u32 = 0;
const CONNECTION_ID: u32 = 11;
const MESSAGE_TYPE: u32 = 13;
const SESSION_ID_LENGTH: u32 = MESSAGE_TYPE + 12 + 2 + 32;
const SESSION_ID: u32 = SESSION_ID_LENGTH + 1;

/// The one length of a session id that is an App-ID.
const APP_ID_LENGTH: u32 = 32;

/// Has the kernel choose between the `sockets` of a group, by the order in which they were bound. `number` is one of them.
pub(super) fn attach(number: RawFd, sockets: usize) -> io::Result<()> {
    let sockets = u32::try_from(sockets).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut program = program(sockets);
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let option = libc::SO_ATTACH_REUSEPORT_CBPF;
    // SAFETY: the kernel reads one `sock_fprog` and as many instructions as it says, all of which live for the duration of the call.
    match unsafe { libc::setsockopt(number, libc::SOL_SOCKET, option, (&raw const program).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A jump counts the instructions that it passes over.
fn program(sockets: u32) -> [libc::sock_filter; 13] {
    let byte = |at| instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, at);
    let unless = |value, pass_over| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, pass_over, value);
    [
        byte(CONTENT_TYPE),
        unless(IDENTIFIED, 2),
        byte(CONNECTION_ID),
        instruction(libc::BPF_JMP | libc::BPF_JA, 0, 6),
        unless(HANDSHAKE, 7),
        byte(MESSAGE_TYPE),
        unless(CLIENT_HELLO, 5),
        byte(SESSION_ID_LENGTH),
        unless(APP_ID_LENGTH, 3),
        byte(SESSION_ID),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, sockets),
        instruction(libc::BPF_RET | libc::BPF_A, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, NO_SOCKET),
    ]
}

/// `jf` is how many instructions to pass over where a comparison fails.
fn instruction(code: u32, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{SocketAddr, UdpSocket};
    use std::time::{Duration, Instant};

    use crate::udp::UdpListener;

    const SOCKETS: usize = 3;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// A group, in which nobody waits for a datagram that went to another socket.
    fn group() -> (Vec<UdpSocket>, SocketAddr) {
        let sockets = UdpListener::bind_group(loopback(), false, SOCKETS).expect("a group");
        for socket in &sockets {
            socket.set_nonblocking(true).expect("an option");
        }
        let address = sockets[0].local_addr().expect("an address");
        (sockets, address)
    }

    fn client() -> UdpSocket {
        UdpSocket::bind(loopback()).expect("a socket")
    }

    /// Which socket gets this datagram.
    fn chosen((sockets, address): &(Vec<UdpSocket>, SocketAddr), client: &UdpSocket, datagram: &[u8]) -> usize {
        client.send_to(datagram, address).expect("sent");
        let until = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 256];
        loop {
            assert!(Instant::now() < until, "it arrives in time");
            for (number, socket) in sockets.iter().enumerate() {
                if let Ok(length) = socket.recv(&mut buffer) {
                    assert_eq!(&buffer[..length], datagram);
                    return number;
                }
            }
            std::thread::yield_now();
        }
    }

    /// A record with a connection id of eight bytes.
    fn with_id(first: u8) -> Vec<u8> {
        let mut record = vec![25, 254, 253, 0, 1, 0, 0, 0, 0, 0, 7, first, 1, 2, 3, 4, 5, 6, 7, 0, 4];
        record.extend([9; 4]);
        record
    }

    fn hello(session_id: &[u8]) -> Vec<u8> {
        let mut body = vec![254, 253];
        body.extend([5; 32]);
        body.push(u8::try_from(session_id.len()).expect("short"));
        body.extend(session_id);
        // No cookie, one suite, no compression.
        body.extend([0, 0, 2, 0xc0, 0xa8, 1, 0]);
        let length = u8::try_from(body.len()).expect("short");
        let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, length + 12];
        record.extend([1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length]);
        record.extend(body);
        record
    }

    #[test]
    fn an_id_names_its_socket_wherever_it_comes_from() {
        let group = group();
        for first in [0, 1, 2, 3, 100, 254, 255] {
            let named = usize::from(first) % SOCKETS;
            for client in [client(), client()] {
                assert_eq!(chosen(&group, &client, &with_id(first)), named);
                let mut app_id = [77; 32];
                app_id[0] = first;
                assert_eq!(chosen(&group, &client, &hello(&app_id)), named);
            }
        }
    }

    #[test]
    fn whatever_names_nobody_stays_with_one_socket_by_its_address() {
        let group = group();
        let plain = [&[23, 254, 253, 0, 1][..], &[3; 60]].concat();
        let short = hello(&[4; 8]);
        let mut no_hello = hello(&[5; 32]);
        no_hello[13] = 16;
        for datagram in [&plain, &short, &no_hello] {
            let clients: Vec<_> = (0..32).map(|_| client()).collect();
            let sockets: Vec<_> = clients.iter().map(|client| chosen(&group, client, datagram)).collect();
            let again: Vec<_> = clients.iter().map(|client| chosen(&group, client, datagram)).collect();
            assert_eq!(sockets, again);
            let different: HashSet<_> = sockets.into_iter().collect();
            assert_eq!(different.len(), SOCKETS, "a hash of 32 addresses");
        }
    }

    #[test]
    fn what_is_too_short_goes_to_the_first_socket() {
        let group = group();
        for datagram in [&[][..], &[25; 11], &[22; 13], &hello(&[])[..59]] {
            assert_eq!(chosen(&group, &client(), datagram), 0, "{}", datagram.len());
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_not_shared() {
        let (sockets, address) = group();
        let refused = UdpListener::bind_group(address, false, SOCKETS).expect_err("in use");
        assert!(refused.to_string().contains(&address.to_string()), "{refused}");
        drop(sockets);
        let alone = UdpSocket::bind(address).expect("free again");
        UdpListener::bind_group(address, false, SOCKETS).expect_err("in use");
        drop(alone);
        UdpListener::bind_group(address, false, SOCKETS).expect("free again");
    }
}
