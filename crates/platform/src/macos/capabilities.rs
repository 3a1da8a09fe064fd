//! What this system lacks. Never run on this system yet.

/// Says what keeps this build from running a tunnel here.
pub fn explain_missing() -> Vec<String> {
    vec!["this build cannot configure routes on macOS yet, so it runs no tunnel here".to_owned()]
}

/// Not known on this system: no.
pub fn has_net_admin() -> bool {
    false
}
