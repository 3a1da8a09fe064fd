//! The three suites, and everything in which they differ.

use aws_lc_rs::{aead, digest, tls_prf};

use crate::record::MAX_SEQUENCE;

/// Records that one AES-GCM key may seal: 2^24.5 (RFC 8446 section 5.5; RFC 9147 section 4.5.3 repeats it for datagrams).
const AES_GCM_RECORDS: u64 = 23_726_566;

/// A plain-PSK suite with an AEAD (RFC 5487, RFC 7905).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// `TLS_PSK_WITH_AES_128_GCM_SHA256`.
    Aes128GcmSha256,
    /// `TLS_PSK_WITH_AES_256_GCM_SHA384`.
    Aes256GcmSha384,
    /// `TLS_PSK_WITH_CHACHA20_POLY1305_SHA256`.
    Chacha20Poly1305Sha256,
}

impl Suite {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [
        Self::Aes128GcmSha256,
        Self::Aes256GcmSha384,
        Self::Chacha20Poly1305Sha256,
    ];

    /// The number in hellos.
    pub const fn code(self) -> u16 {
        match self {
            Self::Aes128GcmSha256 => 0x00a8,
            Self::Aes256GcmSha384 => 0x00a9,
            Self::Chacha20Poly1305Sha256 => 0xccab,
        }
    }

    /// The name in the IANA registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128GcmSha256 => "TLS_PSK_WITH_AES_128_GCM_SHA256",
            Self::Aes256GcmSha384 => "TLS_PSK_WITH_AES_256_GCM_SHA384",
            Self::Chacha20Poly1305Sha256 => "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256",
        }
    }

    pub(crate) fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.code() == code)
    }

    pub(crate) fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128GcmSha256 => &aead::AES_128_GCM,
            Self::Aes256GcmSha384 => &aead::AES_256_GCM,
            Self::Chacha20Poly1305Sha256 => &aead::CHACHA20_POLY1305,
        }
    }

    pub(crate) fn prf(self) -> &'static tls_prf::Algorithm {
        match self {
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => &tls_prf::P_SHA256,
            Self::Aes256GcmSha384 => &tls_prf::P_SHA384,
        }
    }

    pub(crate) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => &digest::SHA256,
            Self::Aes256GcmSha384 => &digest::SHA384,
        }
    }

    /// Bytes of the nonce that come from the key block (RFC 5288 section 3, RFC 7905 section 2).
    pub(crate) const fn fixed_nonce(self) -> usize {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 => 4,
            Self::Chacha20Poly1305Sha256 => 12,
        }
    }

    /// Bytes of the nonce that stand in each record.
    pub(crate) const fn explicit_nonce(self) -> usize {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 => 8,
            Self::Chacha20Poly1305Sha256 => 0,
        }
    }

    /// Records that one key may seal. ChaCha20-Poly1305 is bound by the sequence alone (RFC 9147 section 4.5.3).
    pub(crate) const fn seal_limit(self) -> u64 {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 => AES_GCM_RECORDS,
            Self::Chacha20Poly1305Sha256 => MAX_SEQUENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_found_by_its_code() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_code(suite.code()), Some(suite));
        }
        assert_eq!(Suite::from_code(0x00ff), None);
    }

    #[test]
    fn the_limit_of_aes_gcm_is_2_to_the_24_and_a_half() {
        let square = u128::from(AES_GCM_RECORDS) * u128::from(AES_GCM_RECORDS);
        let next = u128::from(AES_GCM_RECORDS + 1) * u128::from(AES_GCM_RECORDS + 1);
        assert!(square <= 1 << 49 && next > 1 << 49);
    }
}
