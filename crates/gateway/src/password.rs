//! Password hashes: Argon2id, with the parameters that OWASP recommends.
//!
//! Each call works for tens of milliseconds on [`MEMORY_KIB`] of memory: never on the thread that serves connections, and
//! at most one at a time per core.

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;

/// Memory of one hash, in KiB (OWASP Password Storage Cheat Sheet: 19 MiB with 2 passes and 1 lane).
pub const MEMORY_KIB: u32 = 19_456;

/// Passes over the memory.
pub const PASSES: u32 = 2;

/// Lanes; more only help whoever has more cores than we want to give to one login.
pub const LANES: u32 = 1;

/// The longest password in bytes; a longer one is refused before any work is done for it.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// A hash of the same cost as [`hash`] makes, of a password that nobody has. Verifying against it for an unknown user
/// takes as long as for a known one.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bWFybW90LW5vLXN1Y2gtdXNlcg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Why a password cannot be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PasswordError {
    /// Nothing was given.
    #[error("the password is empty")]
    Empty,
    /// More than [`MAX_PASSWORD_BYTES`].
    #[error("the password is longer than {MAX_PASSWORD_BYTES} bytes")]
    TooLong,
    /// No memory, or no randomness.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
}

/// Hashes a password with a fresh random salt; the result is a PHC string for the users file.
///
/// # Errors
/// See [`PasswordError`].
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(PasswordError::TooLong);
    }
    let salt = SaltString::generate(&mut OsRng);
    let hash = argon2()
        .hash_password(password.as_bytes(), &salt)
        .map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

/// Whether `password` is the one that `hash` was made of. A hash that cannot be read is the hash of no password.
///
/// The cost is that of `hash`; the users file bounds it when it is read.
pub fn verify(password: &str, hash: &str) -> bool {
    if password.len() > MAX_PASSWORD_BYTES {
        return false;
    }
    let verified = |hash: PasswordHash<'_>| argon2().verify_password(password.as_bytes(), &hash).is_ok();
    PasswordHash::new(hash).is_ok_and(verified)
}

/// The hash to verify against when there is no such user, so that the answer takes as long. No password matches it.
pub fn dummy() -> &'static str {
    DUMMY
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the constants are within Argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_verifies() {
        let hashed = hash("correct horse").expect("hash");
        assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify("correct horse", &hashed));
        assert!(!verify("correct hors", &hashed));
        assert_ne!(hash("correct horse").expect("hash"), hashed);
    }

    #[test]
    fn the_dummy_costs_the_same_and_matches_nothing() {
        let dummy = PasswordHash::new(dummy()).expect("a hash");
        let params = Params::try_from(&dummy).expect("its parameters");
        assert_eq!(
            (params.m_cost(), params.t_cost(), params.p_cost()),
            (MEMORY_KIB, PASSES, LANES)
        );
        assert!(!verify("", DUMMY));
    }

    #[test]
    fn nonsense_is_no_password_and_no_hash() {
        assert_eq!(hash(""), Err(PasswordError::Empty));
        assert_eq!(hash(&"a".repeat(MAX_PASSWORD_BYTES + 1)), Err(PasswordError::TooLong));
        assert!(!verify("x", ""));
        assert!(!verify("x", "$argon2id$v=19$m=1"));
    }
}
