//! Addresses of others as URLs: scheme, host, port and path, nothing else.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The port of a URL that names none (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// The port of an `http` URL that names none (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// The longest path; group URLs of gateways are short.
const MAX_PATH_BYTES: usize = 256;

/// Where the gateway is. Only `https`; no user name, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    /// Name or address; also what the certificate is checked against.
    pub host: Host,
    /// TCP port, 443 if the URL names none.
    pub port: u16,
    /// Path with its leading slash, `/` if the URL has none. Anything but `/` selects a group on gateways that have
    /// group URLs.
    pub path: String,
}

/// Where summaries of sessions go. `http` or `https`; no user name, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// Name or address; also what a certificate is checked against.
    pub host: Host,
    /// TCP port; 80 or 443 if the URL names none.
    pub port: u16,
    /// Path with its leading slash, `/` if the URL has none.
    pub path: String,
}

/// A host name or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name, in lower case, ASCII, at most 253 bytes (RFC 1035 section 2.3.4), without a dot at its end.
    Name(String),
    /// An IPv4 address, or an IPv6 address (in brackets within the URL).
    Address(IpAddr),
}

impl GatewayUrl {
    /// Host and port as a `Host:` header has them: IPv6 in brackets, port 443 left out.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, HTTPS_PORT)
    }
}

impl CollectorUrl {
    /// Host and port as a `Host:` header has them: IPv6 in brackets, the scheme's own port left out.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, if self.tls { HTTPS_PORT } else { HTTP_PORT })
    }
}

fn authority(host: &Host, port: u16, default_port: u16) -> String {
    let host = match host {
        Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
        Host::Address(IpAddr::V4(address)) => address.to_string(),
        Host::Name(name) => name.clone(),
    };
    if port == default_port {
        host
    } else {
        format!("{host}:{port}")
    }
}

impl FromStr for GatewayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => return Err("has a scheme other than https; the control channel is always TLS".into()),
            None => return Err("has no scheme; it starts with https://".into()),
        };
        if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
            return Err("has a user name in it; that belongs to login.user".into());
        }
        let (host, port, path) = split(rest, HTTPS_PORT)?;
        Ok(GatewayUrl { host, port, path })
    }
}

impl FromStr for CollectorUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("has no scheme; it starts with http:// or https://")?;
        let tls = scheme.eq_ignore_ascii_case("https");
        if !tls && !scheme.eq_ignore_ascii_case("http") {
            return Err("has a scheme other than http and https".into());
        }
        let (host, port, path) = split(rest, if tls { HTTPS_PORT } else { HTTP_PORT })?;
        Ok(CollectorUrl { tls, host, port, path })
    }
}

/// Host, port and path of what stands behind the scheme.
fn split(rest: &str, default_port: u16) -> Result<(Host, u16, String), String> {
    if let Some(c) = rest
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '`'))
    {
        return Err(format!("contains `{}`, which a URL cannot", c.escape_default()));
    }
    if rest.contains(['?', '#']) {
        return Err("has a query or fragment, which has no meaning here".into());
    }
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    if authority.contains('@') {
        return Err("has a user name in it, which has no meaning here".into());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("has a path longer than {MAX_PATH_BYTES} bytes"));
    }
    let (host, port) = split_port(authority, default_port)?;
    Ok((host, port, path.to_string()))
}

fn split_port(authority: &str, default_port: u16) -> Result<(Host, u16), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (address, port) = literal.split_once(']').ok_or("has a `[` without its `]`")?;
            let address: Ipv6Addr = address
                .parse()
                .map_err(|_| "has no IPv6 address between its brackets")?;
            (Host::Address(address.into()), port)
        }
        None => {
            let (name, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            if port.matches(':').count() > 1 {
                return Err("has an IPv6 address without brackets; write https://[2001:db8::1]".into());
            }
            (name.parse()?, port)
        }
    };
    let port = match port {
        "" => default_port,
        _ => port
            .strip_prefix(':')
            .and_then(parse_port)
            .ok_or("has a port that is not 1 to 65535")?,
    };
    Ok((host, port))
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "https://{}{}",
            self.authority(),
            if self.path == "/" { "" } else { &self.path }
        )
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = if self.path == "/" { "" } else { &self.path };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Host::Address(address)),
            Err(_) => dns_name(text).map(Host::Name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

/// A DNS name in lower case without a dot at its end (RFC 1035 section 2.3.1, digits first as in RFC 1123 section 2.1,
/// underscores as found in practice). A last label of digits alone is a mistyped address, not a name.
pub(crate) fn dns_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !name.is_ascii() {
        return Err("is not ASCII; write an international name in its xn-- form".into());
    }
    let good = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.is_empty() || name.len() > 253 || !name.split('.').all(good) {
        return Err("is not a host name or address".into());
    }
    if name
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err("is neither a host name nor an address".into());
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GatewayUrl, String> {
        text.parse()
    }

    #[test]
    fn host_port_and_path_are_taken_apart() {
        let url = parse("HTTPS://VPN.Example.com.:8443/staff").expect("good");
        assert_eq!(url.host, Host::Name("vpn.example.com".into()));
        assert_eq!((url.port, url.path.as_str()), (8443, "/staff"));
        assert_eq!(url.to_string(), "https://vpn.example.com:8443/staff");
        assert_eq!(parse("https://vpn.example.com").expect("good").path, "/");
    }

    #[test]
    fn address_literals_keep_their_brackets_in_the_authority() {
        let six = parse("https://[2001:db8::1]:4443/").expect("good");
        assert_eq!(six.host, Host::Address("2001:db8::1".parse().expect("an address")));
        assert_eq!(six.authority(), "[2001:db8::1]:4443");
        assert_eq!(parse("https://[::1]").expect("good").authority(), "[::1]");
        assert_eq!(parse("https://192.0.2.1").expect("good").authority(), "192.0.2.1");
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (text, reason) in [
            ("http://vpn.example.com", "scheme other than https"),
            ("vpn.example.com", "no scheme"),
            ("https://", "not a host name"),
            ("https://alice@vpn.example.com", "login.user"),
            ("https://vpn.example.com?x=1", "query"),
            ("https://vpn.example.com/#top", "fragment"),
            ("https://vpn.example.com:0", "port"),
            ("https://vpn.example.com:", "port"),
            ("https://vpn.example.com:+443", "port"),
            ("https://vpn.example.com:65536", "port"),
            ("https://2001:db8::1", "brackets"),
            ("https://[2001:db8::1", "without its `]`"),
            ("https://[vpn]", "IPv6"),
            ("https://[::1]443", "port"),
            ("https://192.0.2.300", "neither"),
            ("https://vpn example.com", "cannot"),
            ("https://vpn.example.com/\r\nX: y", "cannot"),
            ("https://bücher.example", "cannot"),
            ("https://-vpn.example.com", "not a host name"),
        ] {
            let fault = parse(text).expect_err(text);
            assert!(fault.contains(reason), "{text}: {fault}");
        }
        assert!(parse(&format!("https://a/{}", "b".repeat(300))).is_err());
    }

    #[test]
    fn a_collector_may_be_plain_http_and_each_scheme_has_its_port() {
        for (text, tls, port) in [
            ("http://stats.example.com/in", false, 80),
            ("https://stats.example.com/in", true, 443),
            ("http://stats.example.com:8080/in", false, 8080),
        ] {
            let url: CollectorUrl = text.parse().expect(text);
            assert_eq!((url.tls, url.port, url.path.as_str()), (tls, port, "/in"), "{text}");
            assert_eq!(url.to_string(), text);
        }
        let plain: CollectorUrl = "http://[::1]:443".parse().expect("good");
        assert_eq!(plain.authority(), "[::1]:443");
        for bad in ["ftp://a", "stats.example.com", "http://", "http://a@b", "http://a?x=1"] {
            bad.parse::<CollectorUrl>().expect_err(bad);
        }
    }
}
