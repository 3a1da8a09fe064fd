//! What a worker cannot do by itself: chores that need the shell and its way to the gateway.

use ledger::{OpenRecord, Token};

/// Carries out chores for a worker. Each may be asked for again after a failure or a crash, so doing it twice must be the
/// same as doing it once. Dropping a future gives the attempt up.
pub trait Office: Send + Sync {
    /// Ends the session of `record` at its gateway; `token` can do that and nothing else. A gateway that does not know the
    /// session (any more) counts as success.
    ///
    /// # Errors
    /// Why it may still be there, in words for the administrator, without the token.
    fn logout(&self, record: &OpenRecord, token: &Token) -> impl Future<Output = Result<(), String>> + Send;

    /// Forgets tickets and cookies of the session of `record`.
    ///
    /// # Errors
    /// Why not, in words for the administrator.
    fn forget(&self, record: &OpenRecord) -> impl Future<Output = Result<(), String>> + Send {
        let _ = record;
        async { Ok(()) }
    }
}

/// For a gateway: it is the one that others log out from.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOffice;

impl Office for NoOffice {
    async fn logout(&self, _: &OpenRecord, _: &Token) -> Result<(), String> {
        Err("there is nobody here to log out with".to_owned())
    }
}
