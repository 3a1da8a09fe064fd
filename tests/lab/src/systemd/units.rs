//! Our units as a user manager can run them: without users, capabilities, sandboxes and the host's folders.

use std::path::Path;

/// Directives that need a system manager, or that only its sandboxes understand. Everything else stays as it is shipped:
/// that is what the tests are about.
const SYSTEM_ONLY: &[&str] = &[
    "User",
    "Group",
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "NoNewPrivileges",
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
    "StateDirectory",
    "StateDirectoryMode",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "RuntimeDirectoryPreserve",
    "DevicePolicy",
    "DeviceAllow",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "PrivateDevices",
    "PrivateTmp",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "RemoveIPC",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "LimitNOFILE",
];

/// Where a test keeps what lies in the host's folders otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// In place of `/usr/bin/marmot`.
    pub(super) program: &'a Path,
    /// In place of `/etc/marmot`.
    pub(super) config: &'a Path,
    /// In place of `/var/lib/marmot`.
    pub(super) state: &'a Path,
    /// Where services write to; a user manager in a namespace has no journal.
    pub(super) log: &'a Path,
}

/// A unit of ours for a user manager: [`SYSTEM_ONLY`] left out, `+` (a privilege of system managers) taken away, folders
/// changed to `places`, and what a service writes sent to a file.
pub(super) fn for_user_manager(unit: &str, places: Places<'_>) -> String {
    let mut text = String::new();
    for line in unit.lines() {
        let key = line.split('=').next().unwrap_or_default();
        if SYSTEM_ONLY.contains(&key) {
            continue;
        }
        let line = line
            .replace("=+/", "=/")
            .replace("/usr/bin/marmot", &places.program.display().to_string())
            .replace("/etc/marmot", &places.config.display().to_string())
            .replace("/var/lib/marmot", &places.state.display().to_string());
        text.push_str(&line);
        text.push('\n');
        if line == "[Service]" {
            text.push_str(&format!(
                "StandardOutput=append:{}/%p@%i.out\nStandardError=inherit\n",
                places.log.display()
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_user_manager_cannot_do_is_left_out() {
        let unit = "[Service]\nUser=marmot\nType=notify\nExecStopPost=+/usr/bin/marmot cleanup -c /etc/marmot/%i.toml\nProtectHome=yes\nKillMode=mixed\n";
        let places = Places {
            program: Path::new("/b/marmot"),
            config: Path::new("/c"),
            state: Path::new("/s"),
            log: Path::new("/l"),
        };
        assert_eq!(
            for_user_manager(unit, places),
            "[Service]\nStandardOutput=append:/l/%p@%i.out\nStandardError=inherit\nType=notify\nExecStopPost=/b/marmot cleanup -c /c/%i.toml\nKillMode=mixed\n"
        );
    }
}
