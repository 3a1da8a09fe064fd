//! A grant from the head of a reply.
//!
//! Names are compared with case and the last of two equal headers counts, both as in openconnect 9.01.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::datagram::{DATAGRAM, MarmotDatagram};
use super::park::{PARK, TICKET, read_park, read_ticket};
use super::request::BUNDLE;
use super::values::{self, Malformed};
use super::{DtlsGrant, Grant, Logout, MarmotSession, Rekey, RekeyMethod};
use crate::error::GrantError;
use crate::http::ResponseHead;
use crate::limits::{MAX_APP_ID, MAX_GRANT_TEXT, MAX_NAMES, MAX_ROUTES};
use crate::secret::Secret;

impl Grant {
    /// Reads a reply whose status is 200; see [`super::parse_connect_reply`] for any status. Headers it does not know
    /// are passed over.
    ///
    /// # Errors
    /// Any [`GrantError`].
    pub fn parse(head: &ResponseHead) -> Result<Self, GrantError> {
        let mut draft = Draft::default();
        for (name, value) in head.headers.iter() {
            draft.header(name, value)?;
        }
        draft.finish()
    }
}

/// What was read so far, where one header alone does not make a value.
#[derive(Default)]
struct Draft {
    grant: Grant,
    mtu: Option<u16>,
    address: Option<IpAddr>,
    netmask: Option<String>,
    session_timeout: Option<Duration>,
    rekey: RekeyDraft,
    dtls_rekey: RekeyDraft,
    port: Option<u16>,
    app_id: Option<Vec<u8>>,
    cipher: Option<String>,
    dtls_mtu: Option<u16>,
    dtls_dpd: Option<Duration>,
    dtls_keepalive: Option<Duration>,
}

#[derive(Default)]
struct RekeyDraft {
    time: Option<Duration>,
    method: Option<RekeyMethod>,
}

impl RekeyDraft {
    /// Both or nothing, as the stock client has it.
    fn finish(&self) -> Option<Rekey> {
        Some(Rekey {
            time: self.time?,
            method: self.method?,
        })
    }
}

/// Names the header whose value does not parse.
trait Named<T> {
    fn of(self, name: &'static str) -> Result<T, GrantError>;
}

impl<T> Named<T> for Result<T, Malformed> {
    fn of(self, name: &'static str) -> Result<T, GrantError> {
        self.map_err(|Malformed| GrantError::Header(name))
    }
}

impl Draft {
    fn header(&mut self, name: &str, value: &str) -> Result<(), GrantError> {
        match name.split_at_checked(7) {
            Some(("X-CSTP-", rest)) => self.cstp(rest, value),
            Some(("X-DTLS-", rest)) => self.dtls(rest, value),
            _ if name == DATAGRAM => {
                self.grant.marmot_datagram = MarmotDatagram::parse(value);
                Ok(())
            }
            _ if name == BUNDLE => {
                self.grant.marmot_bundle = values::is_version_1(value);
                Ok(())
            }
            _ if name == PARK => {
                self.grant.park = read_park(value).of(PARK)?;
                Ok(())
            }
            _ if name == TICKET => {
                self.grant.ticket = Some(read_ticket(value).of(TICKET)?);
                Ok(())
            }
            _ if name == "X-Marmot-Session" => {
                self.grant.session = Some(MarmotSession::parse(value).ok_or(Malformed).of("X-Marmot-Session")?);
                Ok(())
            }
            _ if name == "X-Marmot-Logout" => {
                let token = Logout::is_token(value).then(|| Secret::from(value));
                self.grant.logout = Some(token.ok_or(Malformed).of("X-Marmot-Logout")?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn cstp(&mut self, rest: &str, value: &str) -> Result<(), GrantError> {
        let grant = &mut self.grant;
        match rest {
            "Address" => self.address = Some(values::address(value).of("X-CSTP-Address")?),
            "Netmask" => self.netmask = Some(value.to_owned()),
            "Address-IP6" => grant.v6 = Some(values::v6_address(value).of("X-CSTP-Address-IP6")?),
            "DNS" => push(&mut grant.dns, values::address(value).of("X-CSTP-DNS")?, "name servers")?,
            "DNS-IP6" => push(
                &mut grant.dns,
                values::address(value).of("X-CSTP-DNS-IP6")?,
                "name servers",
            )?,
            "NBNS" => push(
                &mut grant.nbns,
                values::address(value).of("X-CSTP-NBNS")?,
                "NBNS servers",
            )?,
            "Default-Domain" => push_words(&mut grant.default_domains, value, "default domains")?,
            "Split-DNS" => push_words(&mut grant.split_dns, value, "split DNS domains")?,
            "Split-Include" => self.include(value, "X-CSTP-Split-Include")?,
            "Split-Include-IP6" => self.include(value, "X-CSTP-Split-Include-IP6")?,
            "Split-Exclude" => self.exclude(value, "X-CSTP-Split-Exclude")?,
            "Split-Exclude-IP6" => self.exclude(value, "X-CSTP-Split-Exclude-IP6")?,
            "DPD" => grant.dpd = values::seconds(value).of("X-CSTP-DPD")?,
            "Keepalive" => grant.keepalive = values::seconds(value).of("X-CSTP-Keepalive")?,
            "Idle-Timeout" => grant.idle_timeout = values::seconds(value).of("X-CSTP-Idle-Timeout")?,
            "Session-Timeout" => self.session_timeout = values::seconds(value).of("X-CSTP-Session-Timeout")?,
            "Session-Timeout-Remaining" => {
                grant.session_timeout = values::seconds(value).of("X-CSTP-Session-Timeout-Remaining")?;
            }
            "Lease-Duration" => grant.lease = values::seconds(value).of("X-CSTP-Lease-Duration")?,
            "Disconnected-Timeout" => {
                grant.disconnected_timeout = values::seconds(value).of("X-CSTP-Disconnected-Timeout")?;
            }
            "Rekey-Time" => self.rekey.time = values::seconds(value).of("X-CSTP-Rekey-Time")?,
            "Rekey-Method" => self.rekey.method = rekey_method(value),
            "Base-MTU" => grant.base_mtu = values::mtu(value).of("X-CSTP-Base-MTU")?,
            "MTU" => self.mtu = values::mtu(value).of("X-CSTP-MTU")?,
            "Tunnel-All-DNS" => grant.tunnel_all_dns = value == "true",
            "Client-Bypass-Protocol" => grant.client_bypass = value == "true",
            "Keep" => grant.keep = value == "true",
            "DynDNS" => grant.dyndns = value == "true",
            "Banner" => grant.banner = text(value),
            "Hostname" => grant.hostname = text(value),
            "Server-Name" => grant.server_name = text(value),
            "Content-Encoding" => return Err(GrantError::ContentEncoding("X-CSTP-Content-Encoding")),
            _ => {}
        }
        Ok(())
    }

    fn dtls(&mut self, rest: &str, value: &str) -> Result<(), GrantError> {
        match rest {
            "Port" => self.port = Some(values::port(value).of("X-DTLS-Port")?),
            "App-ID" => self.app_id = Some(values::hex(value, MAX_APP_ID).of("X-DTLS-App-ID")?),
            "CipherSuite" => self.cipher = text(value),
            "MTU" => self.dtls_mtu = values::mtu(value).of("X-DTLS-MTU")?,
            "DPD" => self.dtls_dpd = values::seconds(value).of("X-DTLS-DPD")?,
            "Keepalive" => self.dtls_keepalive = values::seconds(value).of("X-DTLS-Keepalive")?,
            "Rekey-Time" => self.dtls_rekey.time = values::seconds(value).of("X-DTLS-Rekey-Time")?,
            "Rekey-Method" => self.dtls_rekey.method = rekey_method(value),
            "Content-Encoding" => return Err(GrantError::ContentEncoding("X-DTLS-Content-Encoding")),
            _ => {}
        }
        Ok(())
    }

    fn include(&mut self, value: &str, name: &'static str) -> Result<(), GrantError> {
        let net = self.route(value, name)?;
        self.grant.include.push(net);
        Ok(())
    }

    fn exclude(&mut self, value: &str, name: &'static str) -> Result<(), GrantError> {
        let net = self.route(value, name)?;
        self.grant.exclude.push(net);
        Ok(())
    }

    fn route(&self, value: &str, name: &'static str) -> Result<IpNet, GrantError> {
        if self.grant.include.len() + self.grant.exclude.len() == MAX_ROUTES {
            return Err(GrantError::TooManyRoutes);
        }
        values::network(value).of(name)
    }

    fn finish(self) -> Result<Grant, GrantError> {
        let mut grant = self.grant;
        match self.address {
            Some(IpAddr::V4(address)) => {
                let mask = self.netmask.as_deref().unwrap_or("255.255.255.255");
                grant.v4 = Some(values::v4_net(address, mask).of("X-CSTP-Netmask")?);
            }
            // What a gateway sends that does not know X-CSTP-Full-IPv6-Capability; the mask is an address/length.
            Some(IpAddr::V6(address)) if grant.v6.is_none() => {
                let length = self
                    .netmask
                    .as_deref()
                    .and_then(|mask| mask.split_once('/'))
                    .map_or("128", |(_, l)| l);
                grant.v6 = Some(values::v6_net(address, length).of("X-CSTP-Netmask")?);
            }
            Some(IpAddr::V6(_)) | None => {}
        }
        if grant.v4.is_none() && grant.v6.is_none() {
            return Err(GrantError::NoAddress);
        }
        grant.mtu = self.mtu.max(self.dtls_mtu).ok_or(GrantError::NoMtu)?;
        grant.session_timeout = grant.session_timeout.or(self.session_timeout);
        grant.rekey = self.rekey.finish();
        if grant.session.is_none() {
            grant.logout = None;
            grant.ticket = None;
            grant.park = None;
        }
        if let (Some(port), Some(app_id), Some(cipher)) = (self.port, self.app_id, self.cipher) {
            grant.dtls = Some(DtlsGrant {
                port,
                app_id,
                cipher,
                mtu: self.dtls_mtu,
                dpd: self.dtls_dpd,
                keepalive: self.dtls_keepalive,
                rekey: self.dtls_rekey.finish(),
            });
        }
        Ok(grant)
    }
}

/// What the stock client does not know means none to it, too.
fn rekey_method(value: &str) -> Option<RekeyMethod> {
    match value {
        "ssl" => Some(RekeyMethod::Ssl),
        "new-tunnel" => Some(RekeyMethod::NewTunnel),
        _ => None,
    }
}

/// Peer text of at most [`MAX_GRANT_TEXT`] bytes, if there is any.
fn text(value: &str) -> Option<String> {
    let kept = value
        .char_indices()
        .take_while(|(start, c)| start + c.len_utf8() <= MAX_GRANT_TEXT);
    let kept: String = kept.map(|(_, c)| c).collect();
    let kept = kept.trim_end_matches([' ', '\t']);
    (!kept.is_empty()).then(|| kept.to_owned())
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str) -> Result<(), GrantError> {
    if list.len() == MAX_NAMES {
        return Err(GrantError::TooMany(what));
    }
    list.push(item);
    Ok(())
}

/// Words separated by spaces or commas.
fn push_words(list: &mut Vec<String>, value: &str, what: &'static str) -> Result<(), GrantError> {
    let words = value.split([' ', ',', '\t']).filter(|word| !word.is_empty());
    words.map(str::to_owned).try_for_each(|word| push(list, word, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_response;
    use crate::limits::MAX_CONNECT_HEAD;

    const BASE: &str = "X-CSTP-Address: 10.78.0.2\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-MTU: 1406\r\n";

    fn parse(lines: &str) -> Result<Grant, GrantError> {
        let bytes = format!("HTTP/1.1 200 CONNECTED\r\n{lines}\r\n");
        let (head, _) = parse_response(bytes.as_bytes(), MAX_CONNECT_HEAD)
            .expect("valid")
            .expect("complete");
        Grant::parse(&head)
    }

    fn with(lines: &str) -> Result<Grant, GrantError> {
        parse(&format!("{BASE}{lines}"))
    }

    fn some_seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn an_address_and_an_mtu_are_enough() {
        let expected = Grant {
            v4: "10.78.0.2/24".parse().ok(),
            mtu: 1406,
            ..Grant::default()
        };
        assert_eq!(parse(BASE), Ok(expected));
    }

    #[test]
    fn without_address_or_mtu_there_is_no_grant() {
        assert_eq!(parse("X-CSTP-MTU: 1406\r\n"), Err(GrantError::NoAddress));
        assert_eq!(parse("X-CSTP-Address: 10.0.0.2\r\n"), Err(GrantError::NoMtu));
        assert_eq!(
            parse("X-CSTP-Address: 10.0.0.2\r\nX-CSTP-MTU: 0\r\n"),
            Err(GrantError::NoMtu)
        );
        assert_eq!(
            parse("X-CSTP-Address: 10.0.0.2\r\nX-DTLS-MTU: 1300\r\n").map(|grant| grant.mtu),
            Ok(1300)
        );
    }

    #[test]
    fn the_larger_mtu_counts() {
        assert_eq!(with("X-DTLS-MTU: 1434\r\n").map(|grant| grant.mtu), Ok(1434));
        assert_eq!(with("X-DTLS-MTU: 1300\r\n").map(|grant| grant.mtu), Ok(1406));
    }

    #[test]
    fn names_of_headers_have_a_case() {
        assert_eq!(
            parse("x-cstp-address: 10.0.0.2\r\nX-CSTP-MTU: 1406\r\n"),
            Err(GrantError::NoAddress)
        );
        assert_eq!(with("X-Cstp-DPD: 30\r\n").map(|grant| grant.dpd), Ok(None));
    }

    #[test]
    fn ipv6_comes_in_two_forms() {
        let v6 = |lines: &str| parse(&format!("X-CSTP-MTU: 1406\r\n{lines}")).map(|grant| grant.v6);
        let expected = "fd00::2/64".parse().ok();
        assert_eq!(v6("X-CSTP-Address-IP6: fd00::2/64\r\n"), Ok(expected));
        assert_eq!(
            v6("X-CSTP-Address: fd00::2\r\nX-CSTP-Netmask: fd00::/64\r\n"),
            Ok(expected)
        );
        assert_eq!(v6("X-CSTP-Address-IP6: fd00::2\r\n"), Ok("fd00::2/128".parse().ok()));
    }

    #[test]
    fn timers_are_seconds_or_nothing() {
        let grant = with(
            "X-CSTP-DPD: 90\r\nX-CSTP-Keepalive: 32400\r\nX-CSTP-Idle-Timeout: none\r\nX-CSTP-Lease-Duration: 0\r\n\
             X-CSTP-Session-Timeout: 7200\r\nX-CSTP-Disconnected-Timeout: 300\r\nX-CSTP-Rekey-Time: 172787\r\n\
             X-CSTP-Rekey-Method: ssl\r\n",
        )
        .expect("valid");
        assert_eq!(
            (grant.dpd, grant.keepalive, grant.idle_timeout),
            (some_seconds(90), some_seconds(32_400), None)
        );
        assert_eq!((grant.lease, grant.session_timeout), (None, some_seconds(7_200)));
        assert_eq!(grant.disconnected_timeout, some_seconds(300));
        assert_eq!(
            grant.rekey,
            Some(Rekey {
                time: Duration::from_secs(172_787),
                method: RekeyMethod::Ssl
            })
        );
        let remaining = with("X-CSTP-Session-Timeout-Remaining: 60\r\nX-CSTP-Session-Timeout: 7200\r\n");
        assert_eq!(remaining.map(|grant| grant.session_timeout), Ok(some_seconds(60)));
        assert_eq!(
            with("X-CSTP-Rekey-Time: 60\r\nX-CSTP-Rekey-Method: none\r\n").map(|grant| grant.rekey),
            Ok(None)
        );
    }

    #[test]
    fn names_and_servers_are_listed() {
        let grant = with(
            "X-CSTP-DNS: 10.0.0.1\r\nX-CSTP-DNS: fd00::1\r\nX-CSTP-DNS-IP6: fd00::2\r\nX-CSTP-NBNS: 10.0.0.3\r\n\
             X-CSTP-Default-Domain: a.test b.test\r\nX-CSTP-Split-DNS: c.test\r\nX-CSTP-Split-DNS: d.test,e.test\r\n",
        )
        .expect("valid");
        let shown: Vec<_> = grant.dns.iter().chain(&grant.nbns).map(IpAddr::to_string).collect();
        assert_eq!(shown, ["10.0.0.1", "fd00::1", "fd00::2", "10.0.0.3"]);
        assert_eq!(grant.default_domains, ["a.test", "b.test"]);
        assert_eq!(grant.split_dns, ["c.test", "d.test", "e.test"]);
    }

    #[test]
    fn a_malformed_header_is_named() {
        for (line, name) in [
            ("X-CSTP-Split-Include: 10.0.0.0", "X-CSTP-Split-Include"),
            ("X-CSTP-Split-Include: 10.0.0.0/255.0.255.0", "X-CSTP-Split-Include"),
            ("X-CSTP-Split-Exclude-IP6: fd00::/200", "X-CSTP-Split-Exclude-IP6"),
            ("X-CSTP-Netmask: 255.0.255.0", "X-CSTP-Netmask"),
            ("X-CSTP-DNS: resolver", "X-CSTP-DNS"),
            ("X-CSTP-DPD: soon", "X-CSTP-DPD"),
            ("X-DTLS-Port: 0", "X-DTLS-Port"),
            ("X-DTLS-App-ID: xyz", "X-DTLS-App-ID"),
            ("X-Marmot-Session: a b;1", "X-Marmot-Session"),
            ("X-Marmot-Session: a;+1", "X-Marmot-Session"),
            ("X-Marmot-Session: a;99999999999999999999", "X-Marmot-Session"),
        ] {
            assert_eq!(with(&format!("{line}\r\n")), Err(GrantError::Header(name)), "{line}");
        }
    }

    #[test]
    fn compression_we_did_not_offer_is_refused() {
        let error = Err(GrantError::ContentEncoding("X-CSTP-Content-Encoding"));
        assert_eq!(with("X-CSTP-Content-Encoding: lzs\r\n"), error);
        let error = Err(GrantError::ContentEncoding("X-DTLS-Content-Encoding"));
        assert_eq!(with("X-DTLS-Content-Encoding: oc-lz4\r\n"), error);
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        let lines = "X-CSTP-License: accept\r\nX-CSTP-\r\nX-Other: 1\r\nX-DTLS12-CipherSuite: x\r\n";
        assert_eq!(with(&lines.replace("X-CSTP-\r\n", "X-CSTP-: 1\r\n")), parse(BASE));
    }

    #[test]
    fn dtls_needs_port_app_id_and_suite() {
        let whole = "X-DTLS-Port: 443\r\nX-DTLS-App-ID: 00ff\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\n";
        let dtls = with(&format!("{whole}X-DTLS-DPD: 90\r\nX-DTLS-Rekey-Time: 172797\r\n"))
            .expect("valid")
            .dtls;
        let expected = DtlsGrant {
            port: 443,
            app_id: vec![0, 255],
            cipher: "PSK-NEGOTIATE".into(),
            mtu: None,
            dpd: some_seconds(90),
            keepalive: None,
            rekey: None,
        };
        assert_eq!(dtls, Some(expected));
        assert_eq!(
            with(&whole.replace("X-DTLS-Port", "X-Other")).map(|grant| grant.dtls),
            Ok(None)
        );
    }

    #[test]
    fn routes_and_lists_have_limits() {
        let routes = "X-CSTP-Split-Include: 10.0.0.0/255.0.0.0\r\n".repeat(MAX_ROUTES);
        assert_eq!(with(&routes).map(|grant| grant.include.len()), Ok(MAX_ROUTES));
        let more = format!("{routes}X-CSTP-Split-Exclude: 10.0.0.0/8\r\n");
        assert_eq!(with(&more), Err(GrantError::TooManyRoutes));
        let domains = "a ".repeat(MAX_NAMES + 1);
        assert_eq!(
            with(&format!("X-CSTP-Split-DNS: {domains}\r\n")),
            Err(GrantError::TooMany("split DNS domains"))
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let grant = with(&format!("X-CSTP-Banner: {}\r\n", "é".repeat(MAX_GRANT_TEXT))).expect("valid");
        assert_eq!(grant.banner, Some("é".repeat(MAX_GRANT_TEXT / 2)));
        let words = "x".repeat(MAX_GRANT_TEXT - 1);
        let grant = with(&format!("X-CSTP-Banner: {words} and more\r\n")).expect("valid");
        assert_eq!(grant.banner, Some(words));
    }

    #[test]
    fn a_channel_of_our_kind_is_granted_in_a_word() {
        let ours = |line: &str| with(line).map(|grant| grant.marmot_datagram);
        for (line, ecn) in [("v=1", false), ("v=1;ecn", true)] {
            let line = format!("X-Marmot-Datagram: {line}\r\n");
            assert_eq!(ours(&line), Ok(Some(MarmotDatagram { ecn })));
        }
        assert_eq!(ours("X-Marmot-Datagram: v=2\r\n"), Ok(None));
        assert_eq!(ours("x-marmot-datagram: v=1\r\n"), Ok(None));
        assert_eq!(ours(""), Ok(None));
        let bundles = |line: &str| with(line).map(|grant| grant.marmot_bundle);
        assert_eq!(bundles("X-Marmot-Bundle: v=1\r\n"), Ok(true));
        assert_eq!(bundles("X-Marmot-Bundle: v=2\r\n"), Ok(false));
        assert_eq!(bundles("x-marmot-bundle: v=1\r\n"), Ok(false));
        assert_eq!(bundles("X-Marmot-Datagram: v=1\r\n"), Ok(false));
    }

    #[test]
    fn a_session_of_ours_has_an_id_and_an_epoch() {
        let session = with("X-Marmot-Session: 0aF9;12\r\n").map(|grant| grant.session);
        assert_eq!(
            session,
            Ok(Some(MarmotSession {
                id: "0aF9".into(),
                epoch: 12
            }))
        );
    }
}
