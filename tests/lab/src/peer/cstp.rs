//! CSTP frames: `53 54 46 01 | length16 | type | 00 | payload`.

use anyhow::{Result, ensure};

/// An IP packet.
pub const DATA: u8 = 0;
/// "Are you there?"
pub const DPD_REQUEST: u8 = 3;
/// "I am."
pub const DPD_RESPONSE: u8 = 4;
/// The end, by either side.
pub const DISCONNECT: u8 = 5;
/// Nothing.
pub const KEEPALIVE: u8 = 7;
/// The end, by the gateway.
pub const TERMINATE: u8 = 9;

const MAGIC: [u8; 4] = [b'S', b'T', b'F', 1];

const HEADER: usize = 8;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cstp {
    /// Its type.
    pub kind: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Cstp {
    /// A frame.
    pub fn new(kind: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            payload: payload.into(),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((self.payload.len() as u16).to_be_bytes());
        bytes.extend([self.kind, 0]);
        bytes.extend(&self.payload);
        bytes
    }

    /// Takes the first frame off `bytes`, if it is whole.
    ///
    /// # Errors
    /// If no frame begins like this.
    pub fn take(bytes: &mut Vec<u8>) -> Result<Option<Self>> {
        if bytes.len() < HEADER {
            return Ok(None);
        }
        ensure!(bytes[..4] == MAGIC, "not a frame: {:02x?}", &bytes[..HEADER]);
        let length = HEADER + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        if bytes.len() < length {
            return Ok(None);
        }
        let rest = bytes.split_off(length);
        let frame = std::mem::replace(bytes, rest);
        Ok(Some(Self::new(frame[6], &frame[HEADER..])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (first, second) = (Cstp::new(DATA, [1, 2, 3]), Cstp::new(KEEPALIVE, []));
        let mut bytes = [first.bytes(), second.bytes(), vec![b'S']].concat();
        assert_eq!(Cstp::take(&mut bytes).unwrap(), Some(first));
        assert_eq!(Cstp::take(&mut bytes).unwrap(), Some(second));
        assert_eq!(Cstp::take(&mut bytes).unwrap(), None);
    }
}
