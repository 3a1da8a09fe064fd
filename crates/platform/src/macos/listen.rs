//! Listening sockets: opened as on every Unix. Never run on this system yet.

use crate::PlatformError;
use crate::listen::Inherited;

pub use crate::unix::listen::listen;

/// launchd hands sockets over in another way, which is not supported yet: none.
pub fn inherited() -> Result<Inherited, PlatformError> {
    Ok(Inherited::default())
}
