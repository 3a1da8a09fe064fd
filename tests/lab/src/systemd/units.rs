//! Our units as a user manager of root's can run them: without the host's users and folders.

use std::path::Path;

/// Directives that name users and folders of the host. Everything else stays as it is shipped, sandboxes too: the manager is
/// root's, and what they forbid must not get in the way.
const OF_THE_HOST: &[&str] = &[
    "User",
    "Group",
    "SocketUser",
    "SocketGroup",
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
    "StateDirectory",
    "StateDirectoryMode",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "RuntimeDirectoryPreserve",
];

/// Where a test keeps what lies in the host's folders otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// In place of `/usr/bin/marmot`.
    pub(super) program: &'a Path,
    /// In place of `/etc/marmot`.
    pub(super) config: &'a Path,
    /// What the sandbox must not hide: holds all of these.
    pub(super) lab: &'a Path,
    /// In place of `/var/lib/marmot`.
    pub(super) state: &'a Path,
    /// Where services write to; a user manager in a namespace has no journal.
    pub(super) log: &'a Path,
}

/// A unit of ours for a user manager: [`OF_THE_HOST`] left out, folders
/// changed to `places` (which lie in /tmp, so they are bound into a private one), and what a service writes sent to a file.
pub(super) fn for_user_manager(unit: &str, places: Places<'_>) -> String {
    let mut text = String::new();
    for line in unit.lines() {
        let key = line.split('=').next().unwrap_or_default();
        if OF_THE_HOST.contains(&key) {
            continue;
        }
        let line = line
            .replace("/usr/bin/marmot", &places.program.display().to_string())
            .replace("/etc/marmot", &places.config.display().to_string())
            .replace("/var/lib/marmot", &places.state.display().to_string());
        text.push_str(&line);
        text.push('\n');
        if line == "[Service]" {
            text.push_str(&format!(
                "StandardOutput=append:{}/%p@%i.out\nStandardError=inherit\nBindPaths={}\n",
                places.log.display(),
                places.lab.display()
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
            lab: Path::new("/t"),
            state: Path::new("/s"),
            log: Path::new("/l"),
        };
        assert_eq!(
            for_user_manager(unit, places),
            "[Service]\nStandardOutput=append:/l/%p@%i.out\nStandardError=inherit\nBindPaths=/t\nType=notify\nExecStopPost=+/b/marmot cleanup -c /c/%i.toml\nProtectHome=yes\nKillMode=mixed\n"
        );
    }
}
