//! `[lockdown]` of the client, and which of the host's own networks stay reachable.

use crate::document::Document;
use crate::names;
use crate::section::Section;

/// `[lockdown]`: nothing leaves this host beside the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockdown {
    /// When.
    pub mode: LockdownMode,
    /// Private and link-local networks stay reachable.
    pub allow_lan: bool,
    /// One query for the gateway's name may leave, marked and counted, if no address is known or none answers.
    pub allow_dns_lookup: bool,
    /// Interfaces that everything may leave by beside the tunnel's own, such as those of other tunnels; at most 16.
    pub allow_interfaces: Vec<String>,
}

/// When nothing leaves this host beside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockdownMode {
    /// Never.
    Off,
    /// From the order to start until the tunnel is stopped by somebody.
    WhileUp,
    /// From the first start on, whether or not the client runs, until `marmot cleanup --unlock`.
    Always,
}

/// Which of the host's own, more specific routes go on working beside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalNetworks {
    /// Those into private and link-local networks.
    Private,
    /// All.
    All,
    /// None.
    Never,
}

/// The limit of `allow_interfaces`.
const MAX_INTERFACES: usize = 16;

/// Reads `[lockdown]`. `own` is the tunnel's interface.
pub(crate) fn read(document: &Document<'_>, own: Option<&str>, local: Option<LocalNetworks>) -> Option<Lockdown> {
    let section = document.section("lockdown");
    let modes = [
        ("off", LockdownMode::Off),
        ("while_up", LockdownMode::WhileUp),
        ("always", LockdownMode::Always),
    ];
    let mode = section.choice("mode", "off", &modes);
    let allow_lan = section.boolean("allow_lan", false);
    let allow_dns_lookup = section.boolean("allow_dns_lookup", true);
    let allow_interfaces = section.list(
        "allow_interfaces",
        &[],
        MAX_INTERFACES,
        "names of interfaces",
        names::interface,
    );
    if allow_lan && local == Some(LocalNetworks::Never) {
        let help = "they go into the tunnel; set session.local_networks = \"private\"".to_owned();
        section.wrong(
            "allow_lan",
            "conflicts with session.local_networks = \"never\"",
            Some(help),
        );
    }
    for (index, name) in allow_interfaces.iter().enumerate() {
        if Some(name.as_str()) == own || name == "lo" {
            let help = "leave it out".to_owned();
            section.wrong_item("allow_interfaces", index, "is allowed in any case", Some(help));
        }
    }
    Some(Lockdown {
        mode: mode?,
        allow_lan,
        allow_dns_lookup,
        allow_interfaces,
    })
}

/// Reads `local_networks` of `[session]`.
pub(crate) fn local_networks(session: &Section<'_, '_>) -> Option<LocalNetworks> {
    let words = [
        ("private", LocalNetworks::Private),
        ("all", LocalNetworks::All),
        ("never", LocalNetworks::Never),
    ];
    session.choice("local_networks", "private", &words)
}
