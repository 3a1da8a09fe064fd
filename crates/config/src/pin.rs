//! A public-key pin: SHA-256 over the SubjectPublicKeyInfo of a certificate (RFC 7469 section 2.4).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// SHA-256 of a certificate's SubjectPublicKeyInfo in DER, written `sha256:` and then hex or base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digest = text.strip_prefix("sha256:").ok_or("does not start with `sha256:`")?;
        let bytes = match digest.len() {
            64 => hex::decode(digest).map_err(|_| "has something other than hex digits behind `sha256:`")?,
            43 | 44 => base64(digest).ok_or("is not base64 behind `sha256:`")?,
            length => {
                return Err(format!(
                    "has {length} characters behind `sha256:`; hex has 64, base64 44"
                ));
            }
        };
        Ok(Pin(bytes
            .try_into()
            .map_err(|_| "is not a SHA-256 digest of 32 bytes")?))
    }
}

fn base64(digest: &str) -> Option<Vec<u8>> {
    let padded = if digest.ends_with('=') {
        digest.to_string()
    } else {
        format!("{digest}=")
    };
    BASE64_STANDARD.decode(padded).ok()
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", BASE64_STANDARD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_base64_mean_the_same() {
        let pin = Pin(std::array::from_fn(|i| i as u8 * 7));
        let base64 = pin.to_string();
        assert_eq!(base64.parse(), Ok(pin));
        assert_eq!(base64.trim_end_matches('=').parse(), Ok(pin));
        assert_eq!(format!("sha256:{}", hex::encode(pin.0)).parse(), Ok(pin));
        assert_eq!(format!("sha256:{}", hex::encode_upper(pin.0)).parse(), Ok(pin));
    }

    #[test]
    fn anything_else_says_what_is_missing() {
        let fault = |text: &str| text.parse::<Pin>().expect_err("not a pin");
        assert!(fault("d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=").contains("`sha256:`"));
        assert!(fault("sha256:abcd").contains("4 characters"));
        assert!(fault(&format!("sha256:{}", "g".repeat(64))).contains("hex"));
        assert!(fault(&format!("sha256:{}", "-".repeat(44))).contains("base64"));
        assert!(fault(&format!("sha256:{}é", "a".repeat(42))).contains("base64"));
    }
}
