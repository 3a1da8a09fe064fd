//! Which channel packets take, in the words of our ends.

use anyhow::{Context, Result, ensure};
use lab::{Control, Lab, Mark, PATIENCE, Process, until};

use crate::field;

/// What either of our ends says when packets begin to go over UDP.
pub const TO_DATA: &str = "packets take the data channel";

/// What either of our ends says when they go over TLS again.
pub const TO_CONTROL: &str = "packets take the control channel";

/// What our gateway says of a client whose packets come from elsewhere, once that has been proven.
pub const MOVED: &str = "the client has moved";

/// The suites of our ends: their names in the configuration, in the IANA registry, and in the words of GnuTLS.
pub const SUITES: [(&str, &str, &str); 3] = [
    ("aes-128-gcm", "TLS_PSK_WITH_AES_128_GCM_SHA256", "(PSK)-(AES-128-GCM)"),
    (
        "chacha20-poly1305",
        "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256",
        "(PSK)-(CHACHA20-POLY1305)",
    ),
    ("aes-256-gcm", "TLS_PSK_WITH_AES_256_GCM_SHA384", "(PSK)-(AES-256-GCM)"),
];

/// Waits until one of our ends says, after `mark`, that packets take the data channel. Returns the suite.
///
/// # Errors
/// If it does not.
pub fn data_channel(end: &Process, mark: Mark) -> Result<String> {
    field(end, mark, &[TO_DATA], "suite")
}

/// The suite in the status of the first site's client; `None` while packets take the control channel.
///
/// # Errors
/// If the client does not tell.
pub fn channel_in_status(lab: &Lab) -> Result<Option<String>> {
    let status = Control::of(lab, lab.site().plan.name()).get("/v1/status")?;
    let tunnel = status.get("tunnel").context("the status has a tunnel")?;
    Ok(tunnel["data_channel"].as_str().map(str::to_owned))
}

/// Waits until the status of the first site's client says that packets take the data channel by this suite, or none.
///
/// # Errors
/// If it does not.
pub fn channel_becomes(lab: &Lab, suite: Option<&str>) -> Result<()> {
    until(&format!("{suite:?} in the status"), PATIENCE, || {
        Ok(channel_in_status(lab)?.as_deref() == suite)
    })
}

/// Makes sure that our gateway did not say, after `mark`, that a client has moved.
///
/// # Errors
/// If it did.
pub fn nobody_moved(gateway: &Process, mark: Mark) -> Result<()> {
    let said = gateway.output_since(mark);
    ensure!(!said.contains(MOVED), "the gateway followed somebody");
    Ok(())
}
