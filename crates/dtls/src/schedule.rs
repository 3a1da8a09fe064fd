//! From the pre-shared key to the keys of records (RFC 5246 sections 6.3 and 8.1, RFC 7627).
//!
//! ```text
//!   psk -> premaster -> master secret -> key block: client key, server key, client nonce, server nonce
//!                          |       randoms of both hellos, or (extended) the hash of all messages so far
//!                          +--------> what Finished of either side must say
//! ```

use aws_lc_rs::{digest, tls_prf};
use zeroize::Zeroizing;

use crate::{Psk, Suite, message::Message, protection::Protection};

/// Length of what Finished carries.
pub(crate) const VERIFY_DATA: usize = 12;

const MASTER_SECRET: usize = 48;

/// The randoms of both hellos.
#[derive(Clone, Copy)]
pub(crate) struct Randoms {
    pub(crate) client: [u8; 32],
    pub(crate) server: [u8; 32],
}

/// The running hash over all messages from the final ClientHello on, each as if it had come in one fragment.
pub(crate) struct Transcript(digest::Context);

impl Transcript {
    pub(crate) fn new(suite: Suite) -> Self {
        Self(digest::Context::new(suite.digest()))
    }

    pub(crate) fn add(&mut self, message: &Message) {
        self.0.update(&message.header());
        self.0.update(&message.body);
    }

    pub(crate) fn hash(&self) -> digest::Digest {
        self.0.clone().finish()
    }
}

/// Which side says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The master secret of one handshake.
pub(crate) struct MasterSecret {
    suite: Suite,
    secret: Zeroizing<[u8; MASTER_SECRET]>,
}

impl MasterSecret {
    /// Derives it from the randoms (RFC 5246 section 8.1).
    pub(crate) fn from_randoms(suite: Suite, psk: &Psk, randoms: &Randoms) -> Self {
        Self::derive(suite, psk, b"master secret", &randoms.client, &randoms.server)
    }

    /// Derives it from the messages up to ClientKeyExchange (RFC 7627 section 4).
    pub(crate) fn extended(suite: Suite, psk: &Psk, transcript: &Transcript) -> Self {
        Self::derive(suite, psk, b"extended master secret", transcript.hash().as_ref(), &[])
    }

    fn derive(suite: Suite, psk: &Psk, label: &[u8], seed: &[u8], more: &[u8]) -> Self {
        let mut secret = Zeroizing::new([0; MASTER_SECRET]);
        prf(suite, &psk.premaster(), label, seed, more, secret.as_mut());
        Self { suite, secret }
    }

    /// What Finished of this side must say behind these messages (RFC 5246 section 7.4.9).
    pub(crate) fn verify_data(&self, side: Side, transcript: &Transcript) -> [u8; VERIFY_DATA] {
        let label: &[u8] = match side {
            Side::Client => b"client finished",
            Side::Server => b"server finished",
        };
        let mut data = [0; VERIFY_DATA];
        prf(
            self.suite,
            &*self.secret,
            label,
            transcript.hash().as_ref(),
            &[],
            &mut data,
        );
        data
    }

    /// The keys of both directions: what the client seals with, and what the server seals with.
    pub(crate) fn protections(&self, randoms: &Randoms) -> (Protection, Protection) {
        let (key, nonce) = (self.suite.aead().key_len(), self.suite.fixed_nonce());
        let mut block = Zeroizing::new(vec![0; 2 * (key + nonce)]);
        prf(
            self.suite,
            &*self.secret,
            b"key expansion",
            &randoms.server,
            &randoms.client,
            &mut block,
        );
        let (keys, nonces) = block.split_at(2 * key);
        (
            Protection::new(self.suite, &keys[..key], &nonces[..nonce]),
            Protection::new(self.suite, &keys[key..], &nonces[nonce..]),
        )
    }
}

/// The pseudo-random function of TLS 1.2 (RFC 5246 section 5), over `seed` and `more`.
fn prf(suite: Suite, secret: &[u8], label: &[u8], seed: &[u8], more: &[u8], out: &mut [u8]) {
    let secret = tls_prf::Secret::new(suite.prf(), secret).expect("neither key nor master secret is empty");
    let derived = secret
        .derive_with_seed_concatination(label, seed, more, out.len())
        .expect("the output is not empty");
    out.copy_from_slice(derived.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    }

    /// "TLS 1.2 PRF test vectors", posted to the IETF TLS list on 2009-10-21: P_SHA256, 100 bytes.
    #[test]
    fn the_prf_is_that_of_the_published_vector() {
        let mut out = [0; 100];
        let secret = bytes("9bbe436ba940f017b17652849a71db35");
        let seed = bytes("a0ba9f936cda311827a6f796ffd5198c");
        prf(Suite::Aes128GcmSha256, &secret, b"test label", &seed, &[], &mut out);
        let expected = bytes(
            "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a
             6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab
             4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701
             87347b66",
        );
        assert_eq!(out[..], expected[..]);
    }

    /// The same source: P_SHA384, first 32 bytes of 148.
    #[test]
    fn the_prf_with_sha384_is_that_of_the_published_vector() {
        let mut out = [0; 32];
        let secret = bytes("b80b733d6ceefcdc71566ea48e5567df");
        let seed = bytes("cd665cf6a8447dd6ff8b27555edb7465");
        prf(Suite::Aes256GcmSha384, &secret, b"test label", &seed, &[], &mut out);
        assert_eq!(
            out[..],
            bytes("7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cd")[..]
        );
    }

    #[test]
    fn a_seed_in_two_parts_is_one_seed() {
        let (mut one, mut two) = ([0; 40], [0; 40]);
        prf(Suite::Aes128GcmSha256, b"secret", b"label", b"abcdef", &[], &mut one);
        prf(Suite::Aes128GcmSha256, b"secret", b"label", b"abc", b"def", &mut two);
        assert_eq!(one, two);
    }
}
