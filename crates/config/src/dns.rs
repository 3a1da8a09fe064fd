//! `[dns]` of the client: who on this host is told of the name servers that a gateway grants.

use std::path::PathBuf;

use crate::document::Document;

/// `[dns]`: whether and how granted name servers are put to use. Only together with `session.accept_dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Who is told.
    pub mode: DnsMode,
    /// Socket of the helper that writes to `/etc` where the client is not root.
    pub helper: PathBuf,
}

/// Who is told of name servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsMode {
    /// Whoever looks after the names of this host: systemd-resolved, resolvconf, or else nobody but the file.
    Auto,
    /// systemd-resolved, over the system bus.
    Resolved,
    /// resolvconf or openresolv.
    Resolvconf,
    /// `/etc/resolv.conf`.
    File,
    /// Nobody.
    Off,
}

/// Reads `[dns]`.
pub(crate) fn read(document: &Document<'_>) -> Option<Dns> {
    let section = document.section("dns");
    let modes = [
        ("auto", DnsMode::Auto),
        ("resolved", DnsMode::Resolved),
        ("resolvconf", DnsMode::Resolvconf),
        ("file", DnsMode::File),
        ("off", DnsMode::Off),
    ];
    let mode = section.choice("mode", "auto", &modes);
    let helper = section.path("helper", "/run/marmot-dns.sock");
    Some(Dns {
        mode: mode?,
        helper: helper?,
    })
}
