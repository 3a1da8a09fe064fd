//! Our units with an ordinary user in them: the capabilities and the sandboxes that are shipped are enough, and are all.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{CLIENT, Service, ping_both, session_end};
use lab::{Lab, PATIENCE, Systemd, client_settings, gateway_settings, start_client, until, users_file, write_hook};

/// An ordinary user that every host has.
const NOBODY: u32 = 65534;

/// The name of the group of the same number.
const GROUP: &str = "nogroup";

fn main() -> ExitCode {
    lab::run(
        &["systemctl", "ip"],
        lab::tests![
            an_ordinary_user_with_one_capability_is_enough,
            an_ordinary_user_with_two_capabilities_is_enough_for_a_gateway,
            what_root_cleans_up_stays_the_users,
        ],
    )
}

fn an_ordinary_user_with_one_capability_is_enough(lab: &Lab) -> Result<()> {
    let (service, told) = ordinary(lab)?;
    let before = lab.client().snapshot()?;
    service.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    let status = fs::read_to_string(format!("/proc/{}/status", service.systemd.main_pid(CLIENT)?))?;
    // CAP_NET_ADMIN is number 12.
    has_rights(&status, "0000000000001000").context("the daemon")?;
    for_its_group(&lab.folder().join("run/site-a.sock"))?;
    let mark = service.output.mark();
    service.systemd.systemctl(&["restart", CLIENT])?;
    service.output.wait_for_line(mark, &["session.unpark"], PATIENCE)?;
    ping_both(lab.client(), lab.site().plan)?;
    for_its_group(&lab.folder().join("run/site-a.sock"))?;
    service.systemd.systemctl(&["stop", CLIENT])?;
    service.restored(&before)?;

    until("the hook", PATIENCE, || Ok(told.exists()))?;
    has_rights(&fs::read_to_string(told)?, "0000000000000000").context("the hook")?;
    service.spool.wait_settled()
}

fn an_ordinary_user_with_two_capabilities_is_enough_for_a_gateway(lab: &Lab) -> Result<()> {
    let settings = gateway_settings(lab, lab.site())?.with_path("storage.state_dir", &lab.folder().join("state"));
    settings.write(&lab.folder().join("gateway.toml"))?;
    fs::set_permissions(lab.folder(), Permissions::from_mode(0o755))?;
    fs::create_dir_all(lab.folder().join("state"))?;
    let identity = lab.pki().server()?;
    let named = ["gateway.toml", "state"].map(|name| lab.folder().join(name));
    for path in named
        .iter()
        .chain([&identity.certificate, &identity.key, &users_file(lab, lab.site())])
    {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    let systemd = Systemd::start(lab, &lab.site().gateway, "systemd")?;
    let output = systemd.listen(lab, "marmot-gateway")?;
    let user = format!("[Service]\nUser={NOBODY}\nGroup={NOBODY}\n");
    systemd.unit("marmot-gateway.service.d/user.conf", &user)?;
    systemd.systemctl(&["start", "marmot-gateway.service"])?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    ping_both(lab.client(), lab.site().plan)?;
    let status = fs::read_to_string(format!("/proc/{}/status", systemd.main_pid("marmot-gateway.service")?))?;
    // CAP_NET_ADMIN and CAP_NET_BIND_SERVICE, numbers 12 and 10.
    has_rights(&status, "0000000000001400").context("the gateway")?;
    client.stop(lab::Signal::TERM, PATIENCE)?;
    session_end(&output, "user_stop")?;
    Ok(())
}

fn what_root_cleans_up_stays_the_users(lab: &Lab) -> Result<()> {
    let (service, _) = ordinary(lab)?;
    let before = lab.client().snapshot()?;
    let change = format!("{CLIENT}.d/change.conf");
    service.systemd.unit(&change, "[Service]\nKillSignal=SIGKILL\n")?;
    service.up()?;
    service.systemd.systemctl(&["stop", CLIENT])?;
    service.restored(&before)?;
    service.spool.wait_settled()?;
    for path in service.spool.files()?.into_keys() {
        let path = service.spool.folder().join(path);
        let owner = fs::metadata(&path).map(|about| about.uid());
        // What is pruned meanwhile needs no owner.
        ensure!(
            owner.as_ref().map_or(true, |uid| *uid == NOBODY),
            "{} is of {owner:?}",
            path.display()
        );
    }
    service.systemd.unit(&change, "[Service]\n")?;
    service.up()?;
    ping_both(lab.client(), lab.site().plan)?;
    service.systemd.systemctl(&["stop", CLIENT])?;
    service.restored(&before)?;
    service.spool.wait_settled()
}

/// A tunnel whose services run as shipped but for the user's name: that one exists where the services are installed. Also
/// returns the file in which a hook tells what it may.
fn ordinary(lab: &Lab) -> Result<(Service<'_>, PathBuf)> {
    let hooks = lab.folder().join("hooks");
    let told = lab.folder().join("told");
    for (folder, mode) in [(lab.folder(), 0o755), (&hooks, 0o755), (&told, 0o777)] {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
    }
    let hook = format!(
        "#!/bin/sh\nset -e\ncat /proc/self/status >{0}/new\nmv {0}/new {0}/hook\n",
        told.display()
    );
    write_hook(&hooks.join("tell"), &hook)?;
    fs::set_permissions(hooks.join("tell"), Permissions::from_mode(0o755))?;
    let service = Service::with(lab, |settings| {
        settings
            .with_path("housekeeping.hooks_dir", &hooks)
            .with("api.group", GROUP)
    })?;
    for name in ["site-a.toml", "password", "state", "run"] {
        chown(lab.folder().join(name), Some(NOBODY), Some(NOBODY))?;
    }
    chown(lab.pki().ca(), Some(NOBODY), Some(NOBODY))?;
    for template in ["marmot-client@", "marmot-housekeeping@"] {
        let user = format!("[Service]\nUser={NOBODY}\nGroup={NOBODY}\n");
        service
            .systemd
            .unit(&format!("{template}.service.d/user.conf"), &user)?;
    }
    Ok((service, told.join("hook")))
}

/// Whether the group may use the socket, and nobody else.
fn for_its_group(socket: &Path) -> Result<()> {
    let about = fs::metadata(socket).with_context(|| format!("no {}", socket.display()))?;
    let (mode, group) = (about.mode() & 0o777, about.gid());
    ensure!((mode, group) == (0o660, NOBODY), "mode {mode:o}, group {group}");
    Ok(())
}

/// Whether a process is [`NOBODY`]'s, with these capabilities and no way to get more, and system calls are filtered.
fn has_rights(status: &str, capabilities: &str) -> Result<()> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default()
    };
    ensure!(field("Uid:") == NOBODY.to_string(), "it is user {}", field("Uid:"));
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        ensure!(field(set) == capabilities, "{set} {}", field(set));
    }
    ensure!(
        field("NoNewPrivs:") == "1" && field("Seccomp:") == "2",
        "it is not locked in"
    );
    Ok(())
}
