//! Values of `[tcp]` and `[tls]` that both configuration files share.

use std::time::Duration;

use crate::section::Section;

/// TCP keepalive of the control channel, done by the kernel, also while the process is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe. 1 s to 2 h; default 45 s (lifecycle measurements: below common NAT timeouts).
    pub idle: Duration,
    /// Time between probes. 1 s to 10 min; default 15 s.
    pub interval: Duration,
    /// Unanswered probes before the kernel gives the connection up. 1 to 32; default 8.
    pub count: u32,
}

/// The oldest TLS version that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    V1_2,
    /// TLS 1.3, RFC 8446.
    V1_3,
}

/// Reads the keepalive keys of `[tcp]`.
pub(crate) fn keepalive(section: &Section<'_, '_>) -> Keepalive {
    Keepalive {
        idle: section.whole_seconds("keepalive_idle_s", 45, 1..=7200),
        interval: section.whole_seconds("keepalive_interval_s", 15, 1..=600),
        count: section.integer("keepalive_count", 8, 1..=32),
    }
}

/// Reads `min_version` of `[tls]`.
pub(crate) fn min_version(section: &Section<'_, '_>) -> TlsVersion {
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    section
        .choice("min_version", "1.2", &versions)
        .unwrap_or(TlsVersion::V1_2)
}
