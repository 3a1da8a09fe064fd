//! The kernel's own view of TCP connections and devices, from `/proc/net`: nobody has to believe our logs.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Where the kernel lists the connections of the network namespace of the thread that reads it.
const TABLE: &str = "/proc/thread-self/net/tcp";

/// Where it counts what its interfaces carried.
const DEVICES: &str = "/proc/thread-self/net/dev";

/// Where it counts events of the TCP of this network, over all connections.
const EVENTS: &str = "/proc/thread-self/net/netstat";

/// Number of `TCP_ESTABLISHED` in include/net/tcp_states.h.
const ESTABLISHED: u8 = 1;

/// A TCP connection as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Our end.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Whether it is open in both directions.
    pub(crate) established: bool,
    /// Keepalive probes sent and not answered.
    pub(crate) unanswered_probes: u32,
    /// Number of the socket; another socket between the same ends has another one.
    pub(crate) inode: u64,
}

/// What an interface carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Towards the host; for a TUN device, what came out of the tunnel.
    pub(crate) received_bytes: u64,
    /// From the host.
    pub(crate) sent_bytes: u64,
}

/// What `device` of this thread's network carried; `None` where the kernel does not tell.
pub(crate) fn counters(device: &str) -> Option<Counters> {
    let text = std::fs::read_to_string(DEVICES).ok()?;
    text.lines().find_map(|line| parse_counters(line, device))
}

/// One line: `name: bytes packets errs drop fifo frame compressed multicast bytes ...` (proc_pid_net(5)).
fn parse_counters(line: &str, device: &str) -> Option<Counters> {
    let (name, numbers) = line.split_once(':')?;
    if name.trim() != device {
        return None;
    }
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    Some(Counters {
        received_bytes: numbers.first()?.parse().ok()?,
        sent_bytes: numbers.get(8)?.parse().ok()?,
    })
}

/// Keepalive probes that this thread's network has sent, over all connections (`LINUX_MIB_TCPKEEPALIVE`); `None` where the
/// kernel does not tell.
pub(crate) fn keepalive_probes_sent() -> Option<u64> {
    parse_event(&std::fs::read_to_string(EVENTS).ok()?, "TCPKeepAlive")
}

/// Two lines for each protocol, names and numbers.
fn parse_event(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let column = names.split(' ').position(|word| word == name)?;
    numbers.split(' ').nth(column)?.parse().ok()
}

/// The IPv4 connections of this thread's network; `None` where the kernel does not tell.
pub(crate) fn connections() -> Option<Vec<Connection>> {
    let text = std::fs::read_to_string(TABLE).ok()?;
    Some(text.lines().skip(1).filter_map(parse).collect())
}

/// The open connections that arrived at `local`, newest number last. A table that changes while it is read can list one twice;
/// here each is once.
pub(crate) fn accepted_at(local: SocketAddr) -> Option<Vec<Connection>> {
    let mut found = connections()?;
    found.retain(|connection| connection.established && connection.local == local);
    found.sort_by_key(|connection| (connection.inode, connection.peer));
    found.dedup_by_key(|connection| (connection.inode, connection.peer));
    Some(found)
}

/// One line: `sl local remote st tx:rx tr:when retransmits uid probes inode ...` (get_tcp4_sock in net/ipv4/tcp_ipv4.c).
fn parse(line: &str) -> Option<Connection> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some(Connection {
        local: address(fields.get(1)?)?,
        peer: address(fields.get(2)?)?,
        established: u8::from_str_radix(fields.get(3)?, 16).ok()? == ESTABLISHED,
        unanswered_probes: fields.get(8)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// `0100007F:1F90`: the address as the machine's own number of its bytes in network order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let host = Ipv4Addr::from(u32::from_str_radix(host, 16).ok()?.to_ne_bytes());
    Some(SocketAddrV4::new(host, u16::from_str_radix(port, 16).ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line = "   1: 026433C6:01BB 020200C0:9C40 01 00000010:00000000 02:00000064 00000000     0        0 4711 2 0 \
                    100 0 0 10 0";
        let connection = parse(line).expect("line");
        if cfg!(target_endian = "little") {
            assert_eq!(connection.local, "198.51.100.2:443".parse().expect("address"));
            assert_eq!(connection.peer, "192.0.2.2:40000".parse().expect("address"));
        }
        assert!(connection.established);
        assert_eq!((connection.unanswered_probes, connection.inode), (0, 4711));
        assert_eq!(parse("  sl  local_address rem_address"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_event_is_found_by_its_column() {
        let text = "TcpExt: SyncookiesSent TCPKeepAlive\nTcpExt: 3 17\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(parse_event(text, "TCPKeepAlive"), Some(17));
        assert_eq!(parse_event(text, "InNoRoutes"), None);
    }

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        let line = "mm-demo: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0";
        let counters = parse_counters(line, "mm-demo").expect("counters");
        assert_eq!((counters.received_bytes, counters.sent_bytes), (1000, 2000));
        assert_eq!(parse_counters(line, "demo"), None);
    }

    #[test]
    fn a_real_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let local = listener.local_addr().expect("address");
        let near = TcpStream::connect(local).expect("connect");
        let (_far, _) = listener.accept().expect("accept");
        let Some(found) = accepted_at(local) else {
            // A system without /proc.
            return;
        };
        // Loopback is shared: whoever still calls somebody that had this port before is accepted by the kernel as well.
        let peer = near.local_addr().expect("address");
        let ours: Vec<_> = found.iter().filter(|connection| connection.peer == peer).collect();
        assert_eq!(ours.len(), 1, "{found:?}");
        assert_eq!(ours[0].unanswered_probes, 0);
    }
}
