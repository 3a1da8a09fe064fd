//! A client that gets other addresses, as after a change of the network it is in.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use crate::{Lab, PATIENCE};

/// Gives the client's host the addresses of this number instead of those that it has (it starts with 2): first it gets the
/// new ones, then it loses the old ones. Its connections lose their source address; its routes stay.
///
/// # Errors
/// If it has other addresses, or cannot get these.
pub fn move_client(lab: &Lab, from: u8, to: u8) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let client = lab.client();
    let v4 = |host| Ipv4Addr::new(192, 0, 2, host);
    let v6 = |host: u8| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host.into());
    // Or the kernel would take away with an address all those that came to its network later.
    let promoted = client.run(|| fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "1"))?;
    promoted.context("cannot have addresses stay")?;
    client.address("eth0", format!("{}/24", v4(to)).parse()?)?;
    client.address("eth0", format!("{}/64", v6(to)).parse()?)?;
    client.settle()?;
    for old in [format!("{}/24", v4(from)), format!("{}/64", v6(from))] {
        let mut command = lab.command(client, "ip")?;
        command.args(["address", "delete", &old, "dev", "eth0"]);
        let status = lab.spawn("ip", command)?.wait_exit(PATIENCE)?;
        ensure!(status.success(), "ip cannot remove {old}: {status}");
    }
    Ok((v4(to), v6(to)))
}
