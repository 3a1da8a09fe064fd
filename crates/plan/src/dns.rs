//! Which names are asked of a tunnel's name servers, and how that is told to a resolver of the host.
//!
//! ```text
//!   granted                       names that go to the granted servers      per link (systemd-resolved)
//!   servers                       all                                       ~.  and the search domains
//!   servers and split domains     those below a split or search domain      ~split  and the search domains
//!   no servers                    none: nothing is applied                  -
//! ```
//! It does not matter whether the tunnel takes every packet or some networks only: a gateway that names servers and no domains for them
//! means them for everything, which is how stock clients read it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Name servers and domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers, most wanted first.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Domains that only these servers know.
    pub split: Vec<String>,
}

/// A domain of a link, as a resolver that knows links takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain<'a> {
    /// The name; `.` is every name.
    pub name: &'a str,
    /// It says where names below it are asked for, and is no search domain.
    pub only_routes: bool,
}

impl Dns {
    /// Whether there is anything to be put on a host.
    pub fn is_usable(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Whether every name is asked of these servers.
    pub fn takes_everything(&self) -> bool {
        self.is_usable() && self.split.is_empty()
    }

    /// The domains of the tunnel's link.
    pub fn domains(&self) -> Vec<Domain<'_>> {
        let search = self.search.iter().map(|name| Domain {
            name,
            only_routes: false,
        });
        let split = self.split.iter().filter(|name| !self.search.contains(name));
        let everything = self.takes_everything().then_some(".");
        let routes = split.map(String::as_str).chain(everything);
        search
            .chain(routes.map(|name| Domain {
                name,
                only_routes: true,
            }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: usize, search: &[&str], split: &[&str]) -> Dns {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Dns {
            servers: vec![[10, 77, 0, 1].into(); servers],
            search: own(search),
            split: own(split),
        }
    }

    fn words(dns: &Dns) -> Vec<String> {
        let word = |domain: &Domain<'_>| format!("{}{}", if domain.only_routes { "~" } else { "" }, domain.name);
        dns.domains().iter().map(word).collect()
    }

    #[test]
    fn servers_without_domains_of_their_own_are_asked_for_everything() {
        let dns = dns(1, &["corp.test"], &[]);
        assert!(dns.takes_everything());
        assert_eq!(words(&dns), ["corp.test", "~."]);
    }

    #[test]
    fn servers_with_split_domains_are_asked_for_these_alone() {
        let dns = dns(1, &["corp.test"], &["corp.test", "lab.test"]);
        assert!(!dns.takes_everything());
        assert_eq!(words(&dns), ["corp.test", "~lab.test"]);
    }

    #[test]
    fn domains_without_servers_are_nothing() {
        let dns = dns(0, &["corp.test"], &[]);
        assert!(!dns.is_usable() && !dns.takes_everything());
    }
}
