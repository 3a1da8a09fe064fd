//! `[api]`: the socket for `marmot status`, `marmot sessions` and the like.

use crate::document::Document;
use crate::names;

/// `[api]`: who may ask and order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Whether there is a socket.
    pub enabled: bool,
    /// The group that may use it beside root and the daemon's own user; `None` for nobody else.
    pub group: Option<String>,
}

/// Reads `[api]`.
pub(crate) fn read(document: &Document<'_>) -> Api {
    let section = document.section("api");
    Api {
        enabled: section.boolean("enabled", true),
        group: section.default_or_none("group", "marmot", names::USER, names::user),
    }
}
