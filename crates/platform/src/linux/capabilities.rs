//! What this process lacks, found by looking, not by guessing from the user number.

/// Says in one sentence each what keeps this process from running a tunnel or namespaces; empty if nothing does.
pub fn explain_missing() -> Vec<String> {
    Vec::new()
}

/// Whether this process has CAP_NET_ADMIN.
pub fn has_net_admin() -> bool {
    false
}
