//! A gateway's table in the host's packet filter: its clients go out by the gateway's own addresses, and nothing comes in that they did not ask for.
//!
//! ```text
//!   sources     before routing    who comes out of the device is of a pool; who comes from elsewhere is not
//!   forward     between           out: only what is tracked, as nothing else is translated;   in: only answers
//!   translate   after routing     from a pool, to anywhere but the device: masquerade
//! ```

use std::fmt::{self, Write as _};

use ipnet::IpNet;

/// What is to be translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The gateway's device.
    pub device: String,
    /// The pools that its clients have their addresses from.
    pub pools: Vec<IpNet>,
    /// The only interface towards which it is done; `None` is all but the device.
    pub towards: Option<String>,
    /// Lower the segment size of TCP connections to what fits the way out. Into the tunnel, the gateway does it itself.
    pub mss_clamp: bool,
}

impl Translation {
    /// The name of the table, in the family `inet`, of a gateway with this device. Whatever an interface may be called here is good in it.
    pub fn table(device: &str) -> String {
        format!("marmot_gw_{device}")
    }

    /// Makes the table anew, in one transaction.
    pub fn script(&self) -> String {
        let (table, device) = (Self::table(&self.device), format!("\"{}\"", self.device));
        let outside = match &self.towards {
            Some(interface) => format!("\"{interface}\""),
            None => format!("!= {device}"),
        };
        let mut script = Script(format!(
            "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n"
        ));
        for counter in ["foreign_inside", "foreign_outside", "untracked", "unasked"] {
            script.line(format_args!("counter {counter} {{ }}"));
        }
        let (v4, v6) = (self.pools_of(true), self.pools_of(false));
        script.chain("sources", "filter hook prerouting priority raw");
        for (family, word, pools) in [("ipv4", "ip", &v4), ("ipv6", "ip6", &v6)] {
            match pools {
                Some(pools) => {
                    script.rule(format_args!(
                        "iifname {device} {word} saddr != {pools} counter name foreign_inside drop"
                    ));
                    script.rule(format_args!(
                        "iifname != {{ {device}, \"lo\" }} {word} saddr {pools} counter name foreign_outside drop"
                    ));
                }
                None => script.rule(format_args!(
                    "iifname {device} meta nfproto {family} counter name foreign_inside drop"
                )),
            }
        }
        script.end();
        script.chain("forward", "filter hook forward priority filter");
        let (out, back) = (
            format!("iifname {device} oifname {outside}"),
            format!("iifname {outside} oifname {device}"),
        );
        script.rule(format_args!("{out} ct state invalid counter name untracked drop"));
        if self.mss_clamp {
            script.rule(format_args!(
                "{out} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
            ));
        }
        script.rule(format_args!("{back} ct state established,related accept"));
        script.rule(format_args!("{back} counter name unasked drop"));
        script.end();
        script.chain("translate", "nat hook postrouting priority srcnat");
        for (word, pools) in [("ip", &v4), ("ip6", &v6)] {
            if let Some(pools) = pools {
                script.rule(format_args!("{word} saddr {pools} oifname {outside} masquerade"));
            }
        }
        script.end();
        script.0 + "}\n"
    }

    /// The pools of a family as a set.
    fn pools_of(&self, v4: bool) -> Option<String> {
        let of_family = self.pools.iter().filter(|net| net.addr().is_ipv4() == v4);
        let pools: Vec<String> = of_family.map(|net| net.trunc().to_string()).collect();
        (!pools.is_empty()).then(|| format!("{{ {} }}", pools.join(", ")))
    }
}

/// A script under way.
struct Script(String);

impl Script {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.0, "\t{line}").expect("text takes text");
    }

    fn rule(&mut self, rule: fmt::Arguments<'_>) {
        self.line(format_args!("\t{rule}"));
    }

    fn chain(&mut self, name: &str, hook: &str) {
        self.line(format_args!("chain {name} {{"));
        self.rule(format_args!("type {hook}; policy accept;"));
    }

    fn end(&mut self) {
        self.line(format_args!("}}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translation() -> Translation {
        Translation {
            device: "marmot-gw".to_owned(),
            pools: vec![
                "10.78.0.1/24".parse().expect("net"),
                "fd00:78::1/64".parse().expect("net"),
            ],
            towards: None,
            mss_clamp: true,
        }
    }

    #[test]
    fn the_table_of_both_families() {
        let expected = "\
add table inet marmot_gw_marmot-gw
delete table inet marmot_gw_marmot-gw
table inet marmot_gw_marmot-gw {
\tcounter foreign_inside { }
\tcounter foreign_outside { }
\tcounter untracked { }
\tcounter unasked { }
\tchain sources {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname \"marmot-gw\" ip saddr != { 10.78.0.0/24 } counter name foreign_inside drop
\t\tiifname != { \"marmot-gw\", \"lo\" } ip saddr { 10.78.0.0/24 } counter name foreign_outside drop
\t\tiifname \"marmot-gw\" ip6 saddr != { fd00:78::/64 } counter name foreign_inside drop
\t\tiifname != { \"marmot-gw\", \"lo\" } ip6 saddr { fd00:78::/64 } counter name foreign_outside drop
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"marmot-gw\" oifname != \"marmot-gw\" ct state invalid counter name untracked drop
\t\tiifname \"marmot-gw\" oifname != \"marmot-gw\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
\t\tiifname != \"marmot-gw\" oifname \"marmot-gw\" ct state established,related accept
\t\tiifname != \"marmot-gw\" oifname \"marmot-gw\" counter name unasked drop
\t}
\tchain translate {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr { 10.78.0.0/24 } oifname != \"marmot-gw\" masquerade
\t\tip6 saddr { fd00:78::/64 } oifname != \"marmot-gw\" masquerade
\t}
}
";
        assert_eq!(translation().script(), expected);
    }

    #[test]
    fn one_family_towards_one_interface() {
        let script = Translation {
            pools: vec!["10.78.0.1/24".parse().expect("net")],
            towards: Some("eth0".to_owned()),
            mss_clamp: false,
            ..translation()
        }
        .script();
        for line in [
            "iifname \"marmot-gw\" meta nfproto ipv6 counter name foreign_inside drop",
            "iifname \"eth0\" oifname \"marmot-gw\" ct state established,related accept",
            "ip saddr { 10.78.0.0/24 } oifname \"eth0\" masquerade",
        ] {
            assert!(script.contains(line), "{line}\n{script}");
        }
        assert!(!script.contains("maxseg") && !script.contains("ip6 "), "{script}");
    }
}
