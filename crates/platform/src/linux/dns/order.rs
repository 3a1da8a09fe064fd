//! What is asked of whoever may write to `/etc`, and the answer: a line of JSON each. Between the daemon and its helper, or within the
//! daemon where that is root.

use std::net::IpAddr;

use plan::resolv_conf::Wish;
use plan::{Dns, MAX_DNS_SERVERS, MAX_DOMAINS};
use serde::{Deserialize, Serialize};

use crate::dns::Way;

/// The form of these lines.
const VERSION: u8 = 1;

/// The longest line: 64 domains of 253 bytes and what is around them.
pub(super) const MAX_LINE: u64 = 20 * 1024;

/// The longest name of an interface (IFNAMSIZ less its end).
const MAX_INTERFACE: usize = 15;

/// By whom `/etc/resolv.conf` is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum How {
    /// By whoever makes it.
    Auto,
    /// By resolvconf.
    Resolvconf,
    /// By us.
    File,
}

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    version: u8,
    pub(super) interface: String,
    pub(super) what: What,
}

/// What is to be done for an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum What {
    /// These servers and domains are its own, in place of any before.
    Apply {
        how: How,
        servers: Vec<IpAddr>,
        search: Vec<String>,
    },
    /// It has none any more.
    Revert,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    /// Who was told.
    pub(super) way: Option<Way>,
    /// There was something of the interface.
    pub(super) was_there: bool,
    /// What is worth a word.
    pub(super) note: Option<String>,
    /// Why it was not done.
    pub(super) error: Option<String>,
}

impl Order {
    pub(super) fn apply(interface: &str, how: How, dns: &Dns) -> Self {
        Self {
            version: VERSION,
            interface: interface.to_owned(),
            what: What::Apply {
                how,
                servers: dns.servers.clone(),
                search: dns.search.clone(),
            },
        }
    }

    pub(super) fn revert(interface: &str) -> Self {
        Self {
            version: VERSION,
            interface: interface.to_owned(),
            what: What::Revert,
        }
    }

    /// Reads a line of somebody who is not to be believed: nothing but a name of an interface, addresses and domains can come of it.
    pub(super) fn read(line: &[u8]) -> Result<Self, String> {
        let order: Self = serde_json::from_slice(line).map_err(|error| format!("this is no order: {error}"))?;
        order.vet().map(|()| order).map_err(str::to_owned)
    }

    /// Whether it can be carried out as it is.
    pub(super) fn vet(&self) -> Result<(), &'static str> {
        let of_interface = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let name = &self.interface;
        if self.version != VERSION {
            return Err("this is an order of another version");
        }
        if !(1..=MAX_INTERFACE).contains(&name.len()) || !name.bytes().all(of_interface) || name.starts_with(['.', '-'])
        {
            return Err("this is not the name of an interface");
        }
        let What::Apply { servers, search, .. } = &self.what else {
            return Ok(());
        };
        if !(1..=MAX_DNS_SERVERS).contains(&servers.len()) || search.len() > MAX_DOMAINS {
            return Err("there are too few or too many name servers or domains");
        }
        if !servers.iter().all(|server| plan::is_name_server(*server)) {
            return Err("one of the addresses cannot be a name server's");
        }
        if !search.iter().all(|name| plan::domain(name).as_ref() == Some(name)) {
            return Err("one of the domains is none");
        }
        Ok(())
    }
}

/// The servers and domains of an order, as `/etc/resolv.conf` knows them.
pub(super) fn wish(interface: &str, servers: &[IpAddr], search: &[String]) -> Wish {
    Wish {
        interface: interface.to_owned(),
        servers: servers.to_vec(),
        search: search.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(interface: &str, servers: &str, search: &str) -> String {
        format!(
            r#"{{"version":1,"interface":{interface},"what":{{"apply":{{"how":"auto","servers":{servers},"search":{search}}}}}}}"#
        )
    }

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let dns = Dns {
            servers: vec![[10, 77, 0, 1].into()],
            search: vec!["corp.test".to_owned()],
            split: Vec::new(),
        };
        for order in [Order::apply("mm-work", How::File, &dns), Order::revert("mm-work")] {
            let line = serde_json::to_vec(&order).expect("json");
            assert_eq!(Order::read(&line), Ok(order));
        }
    }

    #[test]
    fn the_longest_order_fits_a_line() {
        let domain = format!("{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(61));
        let dns = Dns {
            servers: vec!["fd00:1111:2222:3333:4444:5555:6666:7777".parse().expect("address"); MAX_DNS_SERVERS],
            search: vec![domain; MAX_DOMAINS],
            split: Vec::new(),
        };
        let order = Order::apply("mm-123456789012", How::Resolvconf, &dns);
        order.vet().expect("an order");
        let line = serde_json::to_vec(&order).expect("json");
        assert!(line.len() < MAX_LINE as usize, "{}", line.len());
    }

    #[test]
    fn what_is_no_name_server_domain_or_interface_is_refused() {
        let good = line(r#""mm-work""#, r#"["10.77.0.1"]"#, r#"["corp.test"]"#);
        Order::read(good.as_bytes()).expect("an order");
        for bad in [
            line(r#""../work""#, r#"["10.77.0.1"]"#, "[]"),
            line(r#""""#, r#"["10.77.0.1"]"#, "[]"),
            line(r#""-d""#, r#"["10.77.0.1"]"#, "[]"),
            line(r#""a234567890123456""#, r#"["10.77.0.1"]"#, "[]"),
            line(r#""mm\nnameserver 1.2.3.4""#, r#"["10.77.0.1"]"#, "[]"),
            line(r#""mm-work""#, "[]", "[]"),
            line(r#""mm-work""#, r#"["127.0.0.1"]"#, "[]"),
            line(r#""mm-work""#, r#"["10.77.0.1\noptions x"]"#, "[]"),
            line(
                r#""mm-work""#,
                r#"["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4","1.1.1.5","1.1.1.6","1.1.1.7"]"#,
                "[]",
            ),
            line(
                r#""mm-work""#,
                r#"["10.77.0.1"]"#,
                r#"["corp.test\nnameserver 192.0.2.66"]"#,
            ),
            line(r#""mm-work""#, r#"["10.77.0.1"]"#, r#"["corp test"]"#),
            line(r#""mm-work""#, r#"["10.77.0.1"]"#, r#"["Corp.test"]"#),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace("\"version\":1", "\"version\":1,\"path\":\"/etc/shadow\""),
            "{}".to_owned(),
            "[".repeat(10_000),
            String::new(),
        ] {
            Order::read(bad.as_bytes()).expect_err(&bad);
        }
    }
}
