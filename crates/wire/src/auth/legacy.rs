//! The legacy reply: `application/x-www-form-urlencoded`, for `openconnect --no-xmlpost` and old clients.

use super::Field;
use crate::error::AuthError;

/// The body that answers with these fields, in order.
pub fn encode(_fields: &[(&str, &str)]) -> String {
    String::new()
}

/// Reads the fields of a body, in order. `+` is a space.
///
/// # Errors
/// [`AuthError::TooLong`], [`AuthError::TooMuch`], [`AuthError::Encoding`], [`AuthError::Field`].
pub fn parse(_body: &[u8]) -> Result<Vec<Field>, AuthError> {
    Err(AuthError::Field)
}
