//! Proof of possession: whoever goes on with a session has its key, and not just its cookie.
//!
//! ```text
//!   client: SessionKey, made for the session --CONNECT: public half--> gateway keeps it with the session
//!   client: sign(TLS exporter of the new connection, id, epoch + 1) --CONNECT--> gateway: verify, epoch higher than all before
//! ```
//! The exporter binds a proof to one TLS connection: somebody who has seen it, a stolen cookie in hand, can show neither
//! again. The private half lives in memory, and crosses to the client's next process in a sealed file there.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use thiserror::Error;
use wire::offer::{MarmotSession, ParkKey, Resume};
use zeroize::Zeroizing;

/// Bytes of the exported value that names a connection.
pub const BINDING_BYTES: usize = 32;

/// Bytes that a key is made from.
pub const SEED_BYTES: usize = 32;

/// Keeps a signature from standing for anything else that is ever signed with the same key.
const CONTEXT: &[u8] = b"marmot resume v1";

/// The proof is not by the session's key, or not for this connection, session and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the proof of possession is wrong")]
pub struct WrongProof;

/// The private half of a session's key. Never printed.
pub struct SessionKey {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    pair: Ed25519KeyPair,
    public: ParkKey,
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey")
    }
}

impl SessionKey {
    /// Makes a key of random bytes, which must never be used for another session.
    pub fn from_seed(seed: [u8; SEED_BYTES]) -> Self {
        let seed = Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("32 bytes are a seed (RFC 8032, 5.1.5)");
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .expect("a public key has 32 bytes");
        Self {
            seed,
            pair,
            public: ParkKey(public),
        }
    }

    /// What it was made from, for another process of the same client and for nobody else.
    pub fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> ParkKey {
        self.public
    }

    /// Proves to the other end of the connection that exported `binding` that this end may go on with `session`.
    pub fn sign(&self, binding: &[u8; BINDING_BYTES], session: MarmotSession) -> Resume {
        let signature = self.pair.sign(&message(binding, &session));
        Resume {
            signature: signature.as_ref().try_into().expect("a signature has 64 bytes"),
            session,
        }
    }
}

/// Checks a proof that came over the connection that exported `binding`. Whether its epoch is high enough is for whoever
/// knows the session.
///
/// # Errors
/// [`WrongProof`].
pub fn verify(key: &ParkKey, binding: &[u8; BINDING_BYTES], resume: &Resume) -> Result<(), WrongProof> {
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(&message(binding, &resume.session), &resume.signature)
        .map_err(|_| WrongProof)
}

/// Every part has a fixed length but the id, which stands between two that have.
fn message(binding: &[u8; BINDING_BYTES], session: &MarmotSession) -> Vec<u8> {
    let epoch = session.epoch.to_be_bytes();
    [CONTEXT, binding, session.id.as_bytes(), &epoch].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: [u8; BINDING_BYTES] = [1; BINDING_BYTES];

    fn session(id: &str, epoch: u64) -> MarmotSession {
        MarmotSession {
            id: id.to_owned(),
            epoch,
        }
    }

    #[test]
    fn a_proof_is_good_for_its_key_connection_session_and_epoch_alone() {
        let key = SessionKey::from_seed([7; SEED_BYTES]);
        let proof = key.sign(&BINDING, session("a1", 2));
        assert_eq!(verify(&key.public(), &BINDING, &proof), Ok(()));
        let other = SessionKey::from_seed([8; SEED_BYTES]).public();
        assert_eq!(verify(&other, &BINDING, &proof), Err(WrongProof));
        assert_eq!(verify(&key.public(), &[2; BINDING_BYTES], &proof), Err(WrongProof));
        for moved in [session("a2", 2), session("a1", 3), session("a", 2)] {
            let proof = Resume {
                session: moved,
                ..proof.clone()
            };
            assert_eq!(verify(&key.public(), &BINDING, &proof), Err(WrongProof));
        }
    }

    #[test]
    fn the_same_seed_is_the_same_key_and_is_not_printed() {
        let key = SessionKey::from_seed([7; SEED_BYTES]);
        assert_eq!(SessionKey::from_seed(*key.seed()).public(), key.public());
        assert_eq!(format!("{key:?}"), "SessionKey");
    }
}
