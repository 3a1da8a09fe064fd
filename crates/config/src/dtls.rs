//! Values of `[dtls]` that both configuration files share.

use crate::section::Section;

/// A cipher suite of the UDP channel, DTLS 1.2 with a pre-shared key. All that our ends speak are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsSuite {
    /// TLS_PSK_WITH_AES_128_GCM_SHA256, 0x00a8 (RFC 5487 section 2).
    Aes128Gcm,
    /// TLS_PSK_WITH_CHACHA20_POLY1305_SHA256, 0xccab (RFC 7905 section 2).
    ChaCha20Poly1305,
    /// TLS_PSK_WITH_AES_256_GCM_SHA384, 0x00a9 (RFC 5487 section 2).
    Aes256Gcm,
}

impl DtlsSuite {
    /// The order of preference unless the file has another one: the cheapest first where the processor knows AES.
    pub const DEFAULT: [DtlsSuite; 3] = [DtlsSuite::Aes128Gcm, DtlsSuite::ChaCha20Poly1305, DtlsSuite::Aes256Gcm];

    /// The word for it in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            DtlsSuite::Aes128Gcm => "aes-128-gcm",
            DtlsSuite::ChaCha20Poly1305 => "chacha20-poly1305",
            DtlsSuite::Aes256Gcm => "aes-256-gcm",
        }
    }
}

/// Reads `suites` of `[dtls]`. Never empty without a mistake in the file.
pub(crate) fn suites(section: &Section<'_, '_>) -> Vec<DtlsSuite> {
    let names = DtlsSuite::DEFAULT.map(DtlsSuite::as_str);
    let what = "suites: \"aes-128-gcm\", \"chacha20-poly1305\", \"aes-256-gcm\"";
    let suites = section.list("suites", &names, names.len(), what, |text| {
        let known = DtlsSuite::DEFAULT.into_iter().find(|suite| suite.as_str() == text);
        known.ok_or_else(|| "is not a suite".to_string())
    });
    if section.length("suites") == Some(0) {
        let help = "list one, or set dtls.enabled to false".to_string();
        section.wrong("suites", "is empty, so no packet could go over UDP", Some(help));
    }
    let placed = section.length("suites") == Some(suites.len());
    for (index, suite) in suites.iter().enumerate().filter(|_| placed) {
        if suites[..index].contains(suite) {
            section.wrong_item("suites", index, format!("{} is there twice", suite.as_str()), None);
        }
    }
    suites
}
