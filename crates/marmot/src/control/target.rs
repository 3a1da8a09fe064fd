//! Which socket a command is about.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use config::client::ClientConfig;

use crate::cli::{CLIENT_FILE, Target};
use crate::control::trouble::Trouble;
use crate::exit::Exit;
use crate::load;

/// Where the configurations of services are.
const CONFIG_DIR: &str = "/etc/marmot";

/// Where daemons listen by default.
const RUNTIME_DIR: &str = "/run/marmot";

/// The socket of a tunnel's daemon.
pub(super) fn socket(target: &Target) -> Result<PathBuf, Trouble> {
    socket_with(target, Path::new(CLIENT_FILE), Path::new(RUNTIME_DIR))
}

fn socket_with(target: &Target, default_file: &Path, runtime_dir: &Path) -> Result<PathBuf, Trouble> {
    if let Some(socket) = &target.socket {
        return Ok(socket.clone());
    }
    if let Some(name) = &target.name {
        return named(runtime_dir, name);
    }
    if let Some(file) = &target.config {
        return configured(file);
    }
    configured(default_file).or_else(|trouble| only(runtime_dir).ok_or(trouble))
}

/// The configuration of a tunnel whose daemon does not answer, if there is one that we can read; by convention a tunnel's
/// file has its name.
pub(super) fn config(target: &Target) -> Option<ClientConfig> {
    let file = match (&target.config, &target.name, &target.socket) {
        (Some(file), ..) => file.clone(),
        (None, Some(name), _) => Path::new(CONFIG_DIR).join(format!("{name}.toml")),
        (None, None, None) => CLIENT_FILE.into(),
        (None, None, Some(_)) => return None,
    };
    load::client(&file).ok()
}

/// The socket that a configuration file leads to.
pub(super) fn configured(file: &Path) -> Result<PathBuf, Trouble> {
    let config = load::client(file)?;
    if !config.api.enabled {
        let message = format!("{}: there is no local socket; set api.enabled", file.display());
        return Err(Trouble::new(Exit::Config, "config", message));
    }
    Ok(config.tunnel.runtime_dir.join(format!("{}.sock", config.tunnel.name)))
}

fn named(runtime_dir: &Path, name: &str) -> Result<PathBuf, Trouble> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match !name.is_empty() && name.bytes().all(known) {
        true => Ok(runtime_dir.join(format!("{name}.sock"))),
        false => {
            let message = "this is no name of a tunnel: a-z, 0-9 and -; a file is named with --config";
            Err(Trouble::new(Exit::Usage, "usage", message))
        }
    }
}

/// The only socket of a folder.
fn only(runtime_dir: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(runtime_dir).ok()?.flatten().map(|entry| entry.path());
    // No tunnel's name begins with a line; the gateway's does.
    let of_tunnel = |path: &PathBuf| {
        !path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"_"))
    };
    let mut sockets = files.filter(|path| path.extension() == Some(OsStr::new("sock")) && of_tunnel(path));
    let first = sockets.next()?;
    sockets.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_found_by_socket_name_file_or_because_it_is_the_only_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, run) = (folder.path().join("client.toml"), folder.path().join("run"));
        std::fs::create_dir(&run).expect("a folder");
        let find = |target: &Target| socket_with(target, &file, &run);

        let by_socket = Target {
            socket: Some("/x/y".into()),
            ..Target::default()
        };
        assert_eq!(find(&by_socket).expect("found"), Path::new("/x/y"));
        let by_name = Target {
            name: Some("work".to_owned()),
            ..Target::default()
        };
        assert_eq!(find(&by_name).expect("found"), run.join("work.sock"));

        let nothing = Target::default();
        assert_eq!(find(&nothing).expect_err("no file").exit, 3);
        std::fs::write(run.join("home.sock"), "").expect("written");
        std::fs::write(run.join("_gateway.sock"), "").expect("written");
        assert_eq!(find(&nothing).expect("the only one"), run.join("home.sock"));
        std::fs::write(run.join("work.sock"), "").expect("written");
        assert_eq!(find(&nothing).expect_err("two").exit, 3);

        let text = "[tunnel]\nname = \"lab\"\nruntime_dir = \"/run/lab\"\n[gateway]\nurl = \"https://a.example\"\n";
        std::fs::write(&file, text).expect("written");
        assert_eq!(find(&nothing).expect("found"), Path::new("/run/lab/lab.sock"));
        std::fs::write(&file, format!("{text}[api]\nenabled = false\n")).expect("written");
        let by_file = Target {
            config: Some(file.clone()),
            ..Target::default()
        };
        assert!(find(&by_file).expect_err("none").message.contains("api.enabled"));
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_folder() {
        for name in ["", "..", "../x", "/etc/passwd", "a/b", "A", "client.toml"] {
            assert_eq!(named(Path::new("/run/marmot"), name).expect_err(name).exit, 2);
        }
    }
}
