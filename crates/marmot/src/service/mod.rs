//! `marmot install-service` and `marmot uninstall-service`: the units of a tunnel or of the gateway.

use crate::cli::{InstallService, UninstallService};
use crate::exit::{Exit, Failure};

/// Writes the units, and enables them if asked.
pub(crate) fn install(_args: &InstallService) -> Result<(), Failure> {
    Err(Failure::new(Exit::Error, "services cannot be installed yet"))
}

/// Takes away what [`install`] wrote.
pub(crate) fn uninstall(_args: &UninstallService) -> Result<(), Failure> {
    Err(Failure::new(Exit::Error, "services cannot be removed yet"))
}
