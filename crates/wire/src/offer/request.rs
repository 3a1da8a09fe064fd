//! The CONNECT request.

use std::net::IpAddr;

use super::datagram::{DATAGRAM, MarmotDatagram};
use super::park::{PARK, ParkKey, RESUME, Resume};
use super::values;
use crate::auth::COOKIE;
use crate::error::OfferError;
use crate::http::{Headers, Method, RequestHead};
use crate::secret::Secret;

/// The path every tunnel is asked for on.
pub const TUNNEL_PATH: &str = "/CSCOSSLC/tunnel";

/// The word for a DTLS channel with a pre-shared key from the exporter of the TLS connection that carries CONNECT, and a
/// suite that its handshake agrees on. An offer has it somewhere in a list separated by colons, a grant alone.
pub const PSK_NEGOTIATE: &str = "PSK-NEGOTIATE";

/// The header by which our own ends agree on frames of several packets; the same in both directions.
pub(super) const BUNDLE: &str = "X-Marmot-Bundle";

/// How a client of this name and version calls itself: stock `ocserv` 1.1.6 grants no IPv6 routes and name servers to
/// agents that it does not know, and this is a beginning that it does (measured).
pub fn user_agent(name: &str) -> String {
    format!("OpenConnect VPN Agent ({name})")
}

/// What a client offers when it asks for a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The gateway as the client calls it, for the `Host` header.
    pub host: String,
    /// Who the client says it is, from [`user_agent`]; peer text.
    pub user_agent: String,
    /// The `webvpn` cookie.
    pub cookie: Secret,
    /// Name of the client's host, shown to the administrator; peer text.
    pub hostname: Option<String>,
    /// Path MTU towards the gateway, in bytes of IP packet. More than 65,535 reads as 65,535 (a loopback has 65,536).
    pub base_mtu: Option<u16>,
    /// Wanted MTU of the tunnel, in bytes.
    pub mtu: Option<u16>,
    /// The client can use an IPv4 address.
    pub want_v4: bool,
    /// The client can use an IPv6 address.
    pub want_v6: bool,
    /// Addresses it had before. What does not parse is left out.
    pub previous: Vec<IpAddr>,
    /// It can use a DTLS channel with a key from the TLS exporter (`PSK-NEGOTIATE`).
    pub dtls: bool,
    /// It understands [`super::MarmotSession`].
    pub session: bool,
    /// `X-Marmot-Datagram`: its DTLS channel is of our kind.
    pub marmot_datagram: Option<MarmotDatagram>,
    /// `X-Marmot-Bundle: v=1`: it takes several packets in one frame, see [`super::Grant::marmot_bundle`].
    pub marmot_bundle: bool,
    /// `X-Marmot-Park`: it can park, and this is its key for the session.
    pub park: Option<ParkKey>,
    /// `X-Marmot-Resume`: it goes on with a session.
    pub resume: Option<Resume>,
}

impl Offer {
    /// The request as it goes out. Header names are in the case that stock `ocserv` insists on.
    pub fn encode(&self) -> Vec<u8> {
        let mut headers = Headers::new();
        headers.push("Host", self.host.as_str());
        headers.push("User-Agent", self.user_agent.as_str());
        headers.push("Cookie", format!("{COOKIE}={}", self.cookie.expose()));
        headers.push("X-CSTP-Version", "1");
        if let Some(hostname) = &self.hostname {
            headers.push("X-CSTP-Hostname", hostname.as_str());
        }
        if let Some(bytes) = self.base_mtu {
            headers.push("X-CSTP-Base-MTU", bytes.to_string());
        }
        if let Some(bytes) = self.mtu {
            headers.push("X-CSTP-MTU", bytes.to_string());
        }
        let families = [(self.want_v6, "IPv6"), (self.want_v4, "IPv4")];
        let families: Vec<_> = families
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, word)| *word)
            .collect();
        headers.push("X-CSTP-Address-Type", families.join(","));
        if self.want_v6 {
            headers.push("X-CSTP-Full-IPv6-Capability", "true");
        }
        for address in &self.previous {
            headers.push("X-CSTP-Address", address.to_string());
        }
        if self.dtls {
            headers.push("X-DTLS-CipherSuite", PSK_NEGOTIATE);
        }
        if self.session {
            headers.push("X-Marmot-Session", "1");
        }
        if let Some(datagram) = self.marmot_datagram {
            headers.push(DATAGRAM, datagram.write());
        }
        if self.marmot_bundle {
            headers.push(BUNDLE, values::VERSION_1);
        }
        if let Some(key) = &self.park {
            headers.push(PARK, key.write());
        }
        if let Some(resume) = &self.resume {
            headers.push(RESUME, resume.write());
        }
        RequestHead {
            method: Method::Connect,
            target: TUNNEL_PATH.to_owned(),
            headers,
        }
        .encode(&[])
    }

    /// Reads a request. Headers it does not know are passed over, compression among them.
    ///
    /// # Errors
    /// Any [`OfferError`].
    pub fn parse(head: &RequestHead) -> Result<Self, OfferError> {
        if head.method != Method::Connect || head.target != TUNNEL_PATH {
            return Err(OfferError::NotATunnel);
        }
        let headers = &head.headers;
        let text = |name| headers.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let (want_v4, want_v6) = families(headers);
        if !want_v4 && !want_v6 {
            return Err(OfferError::NoFamily);
        }
        Ok(Self {
            host: text("Host").unwrap_or_default(),
            user_agent: text("User-Agent").unwrap_or_default(),
            cookie: headers.cookie(COOKIE).ok_or(OfferError::NoCookie)?,
            hostname: text("X-CSTP-Hostname"),
            base_mtu: mtu(headers, "X-CSTP-Base-MTU")?,
            mtu: mtu(headers, "X-CSTP-MTU")?,
            want_v4,
            want_v6,
            previous: headers
                .all("X-CSTP-Address")
                .filter_map(|value| value.parse().ok())
                .collect(),
            dtls: headers
                .all("X-DTLS-CipherSuite")
                .flat_map(|list| list.split(':'))
                .any(|word| word == PSK_NEGOTIATE),
            session: headers.get("X-Marmot-Session") == Some("1"),
            marmot_datagram: headers.get(DATAGRAM).and_then(MarmotDatagram::parse),
            marmot_bundle: headers.get(BUNDLE).is_some_and(values::is_version_1),
            park: match headers.get(PARK) {
                Some(value) => ParkKey::parse(value).map_err(|_| OfferError::Header(PARK))?,
                None => None,
            },
            resume: headers
                .get(RESUME)
                .map(Resume::parse)
                .transpose()
                .map_err(|_| OfferError::Header(RESUME))?,
        })
    }
}

/// Whether IPv4 and IPv6 are wanted. Without a word about it both are, but IPv6 only by clients that understand the
/// headers it comes in.
fn families(headers: &Headers) -> (bool, bool) {
    let has = |word: &str| match headers.get("X-CSTP-Address-Type") {
        Some(list) => list.split(',').any(|have| have.trim().eq_ignore_ascii_case(word)),
        None => true,
    };
    let full_v6 = headers
        .get("X-CSTP-Full-IPv6-Capability")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    (has("IPv4"), has("IPv6") && full_v6)
}

fn mtu(headers: &Headers, name: &'static str) -> Result<Option<u16>, OfferError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    values::mtu(value).map_err(|_| OfferError::Header(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_request;
    use crate::limits::MAX_HEAD;

    fn parse(lines: &str) -> Result<Offer, OfferError> {
        parse_at("CONNECT /CSCOSSLC/tunnel", &format!("Cookie: webvpn=c\r\n{lines}"))
    }

    fn parse_at(start: &str, lines: &str) -> Result<Offer, OfferError> {
        let bytes = format!("{start} HTTP/1.1\r\n{lines}\r\n");
        let (head, _) = parse_request(bytes.as_bytes(), MAX_HEAD)
            .expect("valid")
            .expect("complete");
        Offer::parse(&head)
    }

    #[test]
    fn an_offer_is_written_in_the_case_ocserv_wants() {
        let offer = Offer {
            host: "gw.test:8443".into(),
            user_agent: user_agent("marmot 0.1"),
            cookie: "YWJj==".into(),
            hostname: Some("burrow".into()),
            base_mtu: Some(1500),
            mtu: None,
            want_v4: true,
            want_v6: true,
            previous: vec!["10.0.0.2".parse().expect("address")],
            dtls: true,
            session: true,
            marmot_datagram: Some(MarmotDatagram { ecn: true }),
            marmot_bundle: true,
            park: Some(ParkKey([0xab; 32])),
            resume: None,
        };
        let expected = "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: gw.test:8443\r\nUser-Agent: OpenConnect VPN Agent (marmot 0.1)\r\n\
            Cookie: webvpn=YWJj==\r\nX-CSTP-Version: 1\r\nX-CSTP-Hostname: burrow\r\nX-CSTP-Base-MTU: 1500\r\n\
            X-CSTP-Address-Type: IPv6,IPv4\r\nX-CSTP-Full-IPv6-Capability: true\r\nX-CSTP-Address: 10.0.0.2\r\n\
            X-DTLS-CipherSuite: PSK-NEGOTIATE\r\nX-Marmot-Session: 1\r\nX-Marmot-Datagram: v=1;ecn\r\nX-Marmot-Bundle: v=1\r\nX-Marmot-Park: v=1;key={}\r\n\r\n";
        let expected = expected.replace("{}", &"ab".repeat(32));
        assert_eq!(String::from_utf8(offer.encode()), Ok(expected));
        let (head, _) = parse_request(&offer.encode(), MAX_HEAD)
            .expect("valid")
            .expect("complete");
        assert_eq!(Offer::parse(&head), Ok(offer));
    }

    #[test]
    fn only_a_connect_to_the_tunnel_with_a_cookie_is_an_offer() {
        assert_eq!(
            parse_at("GET /CSCOSSLC/tunnel", "Cookie: webvpn=c\r\n"),
            Err(OfferError::NotATunnel)
        );
        assert_eq!(
            parse_at("CONNECT /CSCOSSLC/tunnel/", "Cookie: webvpn=c\r\n"),
            Err(OfferError::NotATunnel)
        );
        assert_eq!(
            parse_at("CONNECT example.com:443", "Cookie: webvpn=c\r\n"),
            Err(OfferError::NotATunnel)
        );
        assert_eq!(
            parse_at("CONNECT /CSCOSSLC/tunnel", "Cookie: webvpn=\r\n"),
            Err(OfferError::NoCookie)
        );
        assert_eq!(
            parse_at("CONNECT /CSCOSSLC/tunnel", "Cookie: webvpncontext=c\r\n"),
            Err(OfferError::NoCookie)
        );
    }

    #[test]
    fn a_missing_family_word_switches_the_family_off() {
        let wants = |lines: &str| parse(lines).map(|offer| (offer.want_v4, offer.want_v6));
        let full = "X-CSTP-Full-IPv6-Capability: true\r\n";
        assert_eq!(wants(""), Ok((true, false)));
        assert_eq!(wants(full), Ok((true, true)));
        assert_eq!(
            wants(&format!("X-CSTP-Address-Type: IPv6,IPv4\r\n{full}")),
            Ok((true, true))
        );
        assert_eq!(
            wants(&format!("X-CSTP-Address-Type: IPv6, IPv4\r\n{full}")),
            Ok((true, true))
        );
        assert_eq!(wants("X-CSTP-Address-Type: IPv6,IPv4\r\n"), Ok((true, false)));
        assert_eq!(wants("X-CSTP-Address-Type: IPv4\r\n"), Ok((true, false)));
        assert_eq!(
            wants(&format!("X-CSTP-Address-Type: IPv6\r\n{full}")),
            Ok((false, true))
        );
        assert_eq!(wants("X-CSTP-Address-Type: IPv6\r\n"), Err(OfferError::NoFamily));
        assert_eq!(wants("X-CSTP-Address-Type: \r\n"), Err(OfferError::NoFamily));
    }

    #[test]
    fn the_psk_word_may_stand_anywhere_in_the_list() {
        let dtls = |lines: &str| parse(lines).map(|offer| offer.dtls);
        assert_eq!(
            dtls("X-DTLS-CipherSuite: PSK-NEGOTIATE:OC-DTLS1_2-AES256-GCM:AES128-SHA\r\n"),
            Ok(true)
        );
        assert_eq!(dtls("X-DTLS-CipherSuite: AES128-SHA:PSK-NEGOTIATE\r\n"), Ok(true));
        assert_eq!(dtls("X-DTLS-CipherSuite: PSK-NEGOTIATED\r\n"), Ok(false));
        assert_eq!(dtls("X-DTLS12-CipherSuite: PSK-NEGOTIATE\r\n"), Ok(false));
    }

    #[test]
    fn a_channel_of_our_kind_is_known_by_its_version() {
        let ours = |value: &str| parse(&format!("X-Marmot-Datagram: {value}\r\n")).map(|offer| offer.marmot_datagram);
        assert_eq!(ours("v=1"), Ok(Some(MarmotDatagram { ecn: false })));
        assert_eq!(ours("v=1;more=2;ecn"), Ok(Some(MarmotDatagram { ecn: true })));
        for other in ["1", "v=2", "v=10", "V=1"] {
            assert_eq!(ours(other), Ok(None), "{other}");
        }
        assert_eq!(parse("").map(|offer| offer.marmot_datagram), Ok(None));
        let bundles = |value: &str| parse(&format!("X-Marmot-Bundle: {value}\r\n")).map(|offer| offer.marmot_bundle);
        for value in ["v=1", "v=1;more=2"] {
            assert_eq!(bundles(value), Ok(true), "{value}");
        }
        for other in ["1", "v=2", "v=10", "V=1"] {
            assert_eq!(bundles(other), Ok(false), "{other}");
        }
    }

    #[test]
    fn odd_values_are_told_by_their_header() {
        assert_eq!(
            parse("X-CSTP-Base-MTU: 65536\r\n").map(|offer| offer.base_mtu),
            Ok(Some(65_535))
        );
        assert_eq!(
            parse("X-CSTP-Base-MTU: big\r\n"),
            Err(OfferError::Header("X-CSTP-Base-MTU"))
        );
        assert_eq!(parse("X-CSTP-MTU: -1\r\n"), Err(OfferError::Header("X-CSTP-MTU")));
        assert_eq!(
            parse("X-CSTP-Address: nowhere\r\n").map(|offer| offer.previous),
            Ok(Vec::new())
        );
    }
}
