//! A grant as the head of a reply.

use std::time::Duration;

use ipnet::IpNet;

use super::datagram::DATAGRAM;
use super::park::{PARK, TICKET};
use super::request::BUNDLE;
use super::values;
use super::{DtlsGrant, Grant, Rekey, RekeyMethod};
use crate::http::{Headers, ResponseHead};

impl Grant {
    /// The reply as it goes out: head only, CSTP follows. Header names are in the case that stock `openconnect`
    /// insists on, and the status line is the one it looks for.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Headers::new();
        out.push("X-CSTP-Version", "1");
        push_text(&mut out, "X-CSTP-Server-Name", self.server_name.as_deref());
        push_text(&mut out, "X-CSTP-Hostname", self.hostname.as_deref());
        push_text(&mut out, "X-CSTP-Banner", self.banner.as_deref());
        self.push_addresses(&mut out);
        self.push_names(&mut out);
        self.push_routes(&mut out);
        self.push_timers(&mut out);
        self.push_switches(&mut out);
        push_number(&mut out, "X-CSTP-Base-MTU", self.base_mtu);
        push_number(&mut out, "X-CSTP-MTU", Some(self.mtu));
        if let Some(dtls) = &self.dtls {
            push_dtls(&mut out, dtls);
        }
        if let Some(datagram) = self.marmot_datagram {
            out.push(DATAGRAM, datagram.write());
        }
        if self.marmot_bundle {
            out.push(BUNDLE, values::VERSION_1);
        }
        if let Some(session) = &self.session {
            out.push("X-Marmot-Session", format!("{};{}", session.id, session.epoch));
            if let Some(token) = &self.logout {
                out.push("X-Marmot-Logout", token.expose());
            }
            push_seconds(&mut out, PARK, self.park);
            if let Some(ticket) = &self.ticket {
                out.push(TICKET, ticket.expose());
            }
        }
        ResponseHead {
            status: 200,
            reason: "CONNECTED".to_owned(),
            headers: out,
        }
        .encode_without_body()
    }

    fn push_addresses(&self, out: &mut Headers) {
        if let Some(net) = self.v4 {
            out.push("X-CSTP-Address", net.addr().to_string());
            out.push("X-CSTP-Netmask", net.netmask().to_string());
        }
        if let Some(net) = self.v6 {
            out.push("X-CSTP-Address-IP6", net.to_string());
        }
    }

    /// Name servers of both families go into `X-CSTP-DNS`, as `ocserv` does it for `openconnect`.
    fn push_names(&self, out: &mut Headers) {
        for server in &self.dns {
            out.push("X-CSTP-DNS", server.to_string());
        }
        for server in &self.nbns {
            out.push("X-CSTP-NBNS", server.to_string());
        }
        if !self.default_domains.is_empty() {
            out.push("X-CSTP-Default-Domain", self.default_domains.join(" "));
        }
        for domain in &self.split_dns {
            out.push("X-CSTP-Split-DNS", domain.as_str());
        }
    }

    fn push_routes(&self, out: &mut Headers) {
        for net in &self.include {
            out.push(
                by_family(net, "X-CSTP-Split-Include", "X-CSTP-Split-Include-IP6"),
                values::write_network(net),
            );
        }
        for net in &self.exclude {
            out.push(
                by_family(net, "X-CSTP-Split-Exclude", "X-CSTP-Split-Exclude-IP6"),
                values::write_network(net),
            );
        }
    }

    fn push_timers(&self, out: &mut Headers) {
        push_seconds(out, "X-CSTP-DPD", self.dpd);
        push_seconds(out, "X-CSTP-Keepalive", self.keepalive);
        push_seconds(out, "X-CSTP-Idle-Timeout", self.idle_timeout);
        push_seconds(out, "X-CSTP-Session-Timeout", self.session_timeout);
        push_seconds(out, "X-CSTP-Session-Timeout-Remaining", self.session_timeout);
        push_seconds(out, "X-CSTP-Lease-Duration", self.lease);
        push_seconds(out, "X-CSTP-Disconnected-Timeout", self.disconnected_timeout);
        match self.rekey {
            Some(rekey) => push_rekey(out, "X-CSTP-Rekey-Time", "X-CSTP-Rekey-Method", rekey),
            None => out.push("X-CSTP-Rekey-Method", "none"),
        }
    }

    fn push_switches(&self, out: &mut Headers) {
        for (name, on) in [
            ("X-CSTP-Tunnel-All-DNS", self.tunnel_all_dns),
            ("X-CSTP-Client-Bypass-Protocol", self.client_bypass),
            ("X-CSTP-Keep", self.keep),
            ("X-CSTP-DynDNS", self.dyndns),
        ] {
            out.push(name, if on { "true" } else { "false" });
        }
    }
}

fn push_dtls(out: &mut Headers, dtls: &DtlsGrant) {
    out.push("X-DTLS-App-ID", values::write_hex(&dtls.app_id));
    out.push("X-DTLS-CipherSuite", dtls.cipher.as_str());
    push_number(out, "X-DTLS-Port", Some(dtls.port));
    push_number(out, "X-DTLS-MTU", dtls.mtu);
    push_seconds(out, "X-DTLS-DPD", dtls.dpd);
    push_seconds(out, "X-DTLS-Keepalive", dtls.keepalive);
    if let Some(rekey) = dtls.rekey {
        push_rekey(out, "X-DTLS-Rekey-Time", "X-DTLS-Rekey-Method", rekey);
    }
}

fn push_rekey(out: &mut Headers, time: &str, method: &str, rekey: Rekey) {
    push_seconds(out, time, Some(rekey.time));
    out.push(
        method,
        match rekey.method {
            RekeyMethod::Ssl => "ssl",
            RekeyMethod::NewTunnel => "new-tunnel",
        },
    );
}

fn push_text(out: &mut Headers, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.push(name, text);
    }
}

fn push_number(out: &mut Headers, name: &str, number: Option<u16>) {
    if let Some(number) = number {
        out.push(name, number.to_string());
    }
}

fn push_seconds(out: &mut Headers, name: &str, time: Option<Duration>) {
    if let Some(time) = time {
        out.push(name, values::write_seconds(time));
    }
}

fn by_family<'a>(net: &IpNet, v4: &'a str, v6: &'a str) -> &'a str {
    match net {
        IpNet::V4(_) => v4,
        IpNet::V6(_) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offer::{MarmotDatagram, MarmotSession, PSK_NEGOTIATE};

    fn some_seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn a_grant_is_written_as_openconnect_wants_it() {
        let grant = Grant {
            v4: "10.78.0.2/24".parse().ok(),
            v6: "fd00:78::2/128".parse().ok(),
            dns: vec!["10.78.0.1".parse().expect("address")],
            default_domains: vec!["a.test".into(), "b.test".into()],
            include: vec![
                "10.0.0.0/8".parse().expect("network"),
                "fd00::/16".parse().expect("network"),
            ],
            dpd: some_seconds(90),
            mtu: 1406,
            base_mtu: Some(1500),
            rekey: Some(Rekey {
                time: Duration::from_secs(3600),
                method: RekeyMethod::NewTunnel,
            }),
            dtls: Some(DtlsGrant {
                port: 443,
                app_id: vec![0, 171],
                cipher: "PSK-NEGOTIATE".into(),
                mtu: Some(1400),
                dpd: some_seconds(90),
                keepalive: some_seconds(20),
                rekey: None,
            }),
            marmot_datagram: Some(MarmotDatagram { ecn: true }),
            marmot_bundle: true,
            session: Some(MarmotSession {
                id: "a1".into(),
                epoch: 7,
            }),
            logout: Some("00112233445566778899aabbccddeeff".into()),
            ..Grant::default()
        };
        let expected = "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Address: 10.78.0.2\r\n\
            X-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-Address-IP6: fd00:78::2/128\r\nX-CSTP-DNS: 10.78.0.1\r\n\
            X-CSTP-Default-Domain: a.test b.test\r\nX-CSTP-Split-Include: 10.0.0.0/255.0.0.0\r\n\
            X-CSTP-Split-Include-IP6: fd00::/16\r\nX-CSTP-DPD: 90\r\nX-CSTP-Rekey-Time: 3600\r\n\
            X-CSTP-Rekey-Method: new-tunnel\r\nX-CSTP-Tunnel-All-DNS: false\r\n\
            X-CSTP-Client-Bypass-Protocol: false\r\nX-CSTP-Keep: false\r\nX-CSTP-DynDNS: false\r\n\
            X-CSTP-Base-MTU: 1500\r\nX-CSTP-MTU: 1406\r\nX-DTLS-App-ID: 00ab\r\n\
            X-DTLS-CipherSuite: PSK-NEGOTIATE\r\nX-DTLS-Port: 443\r\nX-DTLS-MTU: 1400\r\nX-DTLS-DPD: 90\r\n\
            X-DTLS-Keepalive: 20\r\nX-Marmot-Datagram: v=1;ecn\r\nX-Marmot-Bundle: v=1\r\nX-Marmot-Session: a1;7\r\nX-Marmot-Logout: 00112233445566778899aabbccddeeff\r\n\r\n";
        assert_eq!(String::from_utf8(grant.encode()).as_deref(), Ok(expected));
    }

    #[test]
    fn what_a_dtls_channel_needs_is_written_and_nothing_else() {
        let grant = Grant {
            dtls: Some(DtlsGrant {
                port: 4443,
                app_id: vec![0xfe; 32],
                cipher: PSK_NEGOTIATE.into(),
                mtu: None,
                dpd: None,
                keepalive: None,
                rekey: None,
            }),
            ..Grant::default()
        };
        let text = String::from_utf8(grant.encode()).expect("text");
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("X-DTLS-") || line.starts_with("X-Marmot-"))
            .collect();
        let app_id = format!("X-DTLS-App-ID: {}", "fe".repeat(32));
        assert_eq!(
            lines,
            [
                app_id.as_str(),
                "X-DTLS-CipherSuite: PSK-NEGOTIATE",
                "X-DTLS-Port: 4443"
            ]
        );
    }

    #[test]
    fn a_banner_cannot_add_a_header() {
        let grant = Grant {
            banner: Some("hi\r\nX-CSTP-Split-Include: 0.0.0.0/0".into()),
            ..Grant::default()
        };
        let text = String::from_utf8(grant.encode()).expect("text");
        assert!(text.contains("X-CSTP-Banner: hi  X-CSTP-Split-Include: 0.0.0.0/0\r\n"));
    }
}
