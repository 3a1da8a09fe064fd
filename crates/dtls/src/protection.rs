//! The key of one direction: nonces and additional data (RFC 5288, RFC 7905, RFC 9146 section 5.3).

use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::connection_id::MAX_LENGTH;
use crate::record::{ContentType, DTLS_1_2};
use crate::{ConnectionId, Suite};

/// Length of the tag of every suite.
pub(crate) const TAG: usize = 16;

/// The epoch of all sealed records: there is no renegotiation.
pub(crate) const EPOCH: u16 = 1;

const NONCE: usize = 12;

/// Length of the additional data with the longest connection id.
const MAX_ADDITIONAL: usize = 23 + MAX_LENGTH;

/// A key and the part of the nonce that belongs to it. The library wipes the key when it frees it.
pub(crate) struct Protection {
    suite: Suite,
    key: LessSafeKey,
    fixed: Zeroizing<[u8; NONCE]>,
}

impl Protection {
    pub(crate) fn new(suite: Suite, key: &[u8], fixed_nonce: &[u8]) -> Self {
        let key = UnboundKey::new(suite.aead(), key).expect("the key block was cut by the lengths of this suite");
        let mut fixed = Zeroizing::new([0; NONCE]);
        fixed[..fixed_nonce.len()].copy_from_slice(fixed_nonce);
        Self {
            suite,
            key: LessSafeKey::new(key),
            fixed,
        }
    }

    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// Seals `text` in place; the tag goes to `tag`, which is [`TAG`] bytes long.
    pub(crate) fn seal(&self, sequence: u64, additional: &[u8], text: &mut [u8], tag: &mut [u8]) -> Option<()> {
        let nonce = self.nonce(&numbered(sequence));
        self.key
            .seal_in_place_scatter(nonce, aead::Aad::from(additional), text, &[], tag)
            .ok()
    }

    /// Opens what stands behind the header of a record, in place. The plaintext is all between explicit nonce and tag.
    pub(crate) fn open(&self, sequence: u64, additional: &[u8], body: &mut [u8]) -> Option<()> {
        let (explicit, sealed) = body.split_at_mut_checked(self.suite.explicit_nonce())?;
        let (text, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG)?)?;
        let nonce = match <&[u8; 8]>::try_from(&*explicit) {
            Ok(explicit) => self.nonce(explicit),
            Err(_) => self.nonce(&numbered(sequence)),
        };
        self.key
            .open_in_place_separate_tag(nonce, aead::Aad::from(additional), tag, text)
            .ok()
            .map(|_| ())
    }

    /// GCM: the fixed four bytes and the explicit eight. ChaCha20: the fixed twelve, xor the numbers of the record.
    fn nonce(&self, last: &[u8; 8]) -> Nonce {
        let mut nonce = *self.fixed;
        for (byte, last) in nonce[NONCE - 8..].iter_mut().zip(last) {
            *byte ^= last;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Epoch and sequence as they stand in the header.
pub(crate) fn numbered(sequence: u64) -> [u8; 8] {
    ((u64::from(EPOCH) << 48) | sequence).to_be_bytes()
}

/// What is authenticated besides the contents: the same for each record of a direction, but for what [`Additional::of`] writes.
pub(crate) struct Additional {
    bytes: [u8; MAX_ADDITIONAL],
    length: usize,
    /// Where epoch and sequence stand.
    numbers: usize,
    /// Where the type stands, if it is told.
    content: Option<usize>,
}

impl Additional {
    /// For records with this connection id (RFC 9146 section 5.3), or without one (RFC 5246 section 6.2.3.3).
    pub(crate) fn new(id: Option<&ConnectionId>) -> Self {
        let mut all = Self {
            bytes: [0; MAX_ADDITIONAL],
            length: 0,
            numbers: 0,
            content: None,
        };
        match id {
            None => {
                all.push(&numbered(0));
                all.content = Some(all.length);
                all.push(&[0]);
                all.push(&DTLS_1_2.to_be_bytes());
            }
            Some(id) => {
                let identified = ContentType::Identified.code();
                let id = id.as_bytes();
                all.push(&[0xff; 8]);
                all.push(&[identified, u8::try_from(id.len()).expect("at most 8 bytes"), identified]);
                all.push(&DTLS_1_2.to_be_bytes());
                all.numbers = all.length;
                all.push(&numbered(0));
                all.push(id);
            }
        }
        all.push(&[0; 2]);
        all
    }

    /// That of one record. With a connection id the true type is inside, and counts in the length.
    pub(crate) fn of(&mut self, sequence: u64, content: ContentType, length: u16) -> &[u8] {
        self.bytes[self.numbers..self.numbers + 8].copy_from_slice(&numbered(sequence));
        if let Some(at) = self.content {
            self.bytes[at] = content.code();
        }
        self.bytes[self.length - 2..self.length].copy_from_slice(&length.to_be_bytes());
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nonce_of_gcm_is_fixed_and_explicit_part_and_that_of_chacha_a_xor() {
        let gcm = Protection::new(Suite::Aes128GcmSha256, &[0; 16], &[1, 2, 3, 4]);
        assert_eq!(gcm.nonce(&numbered(5)).as_ref(), &[1, 2, 3, 4, 0, 1, 0, 0, 0, 0, 0, 5]);
        let chacha = Protection::new(Suite::Chacha20Poly1305Sha256, &[0; 32], &[0xff; 12]);
        let mut expected = [0xff; 12];
        expected[5] = 0xfe;
        expected[11] = 0xfa;
        assert_eq!(chacha.nonce(&numbered(5)).as_ref(), &expected);
    }

    #[test]
    fn the_additional_data_is_that_of_the_standards() {
        let mut plain = Additional::new(None);
        let alert = plain.of(6, ContentType::Alert, 2);
        assert_eq!(alert, [0, 1, 0, 0, 0, 0, 0, 6, 21, 0xfe, 0xfd, 0, 2]);
        let data = plain.of(7, ContentType::Data, 0x0102);
        assert_eq!(data, [0, 1, 0, 0, 0, 0, 0, 7, 23, 0xfe, 0xfd, 1, 2]);
        let id = ConnectionId::new(&[9; 8]).unwrap();
        let mut identified = Additional::new(Some(&id));
        let mut expected = vec![0xff; 8];
        expected.extend([25, 8, 25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7]);
        expected.extend([9; 8]);
        expected.extend([1, 2]);
        assert_eq!(identified.of(7, ContentType::Data, 0x0102), expected);
    }
}
