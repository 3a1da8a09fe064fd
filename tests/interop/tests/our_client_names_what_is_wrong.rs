//! Our client and what its user or its host gets wrong: an error that says what and where, and a host that stays as it was.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{Failing, ping_both, second_settings};
use lab::{
    Lab, Mark, PATIENCE, Settings, Signal, client_settings, gateway_settings, spawn_client, start_client, start_gateway,
};

fn main() -> ExitCode {
    lab::run(
        &["ip"],
        lab::tests![
            a_wrong_password_and_an_unknown_user_are_refused_alike,
            a_missing_password_is_not_waited_for,
            an_exhausted_pool_is_named_and_waited_for,
            a_missing_privilege_is_named,
            a_missing_tun_device_is_named,
            an_interface_that_exists_is_named_and_left_alone,
            mistakes_in_the_configuration_are_named,
            unusable_files_are_named,
        ],
    )
}

fn a_wrong_password_and_an_unknown_user_are_refused_alike(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let wrong = lab.file("wrong", "not the password")?;
    let said = "marmot: the gateway refused the login: Login failed.";
    let settings = settings(lab)?.with_path("login.password_file", &wrong);
    failing(lab, "wrong-password", &settings)?.ends_with(4, &[said])?;
    failing(lab, "unknown-user", &settings.with("login.user", "nobody"))?.ends_with(4, &[said])
}

fn a_missing_password_is_not_waited_for(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    // Standard input is no terminal here, so there is nobody to ask.
    failing(lab, "no-password", &settings(lab)?.without("login.password_file"))?.ends_with(4, &["marmot: ", "password"])
}

fn an_exhausted_pool_is_named_and_waited_for(lab: &Lab) -> Result<()> {
    let gateway = gateway_settings(lab, lab.site())?
        .without("pool.ipv6")
        .with("network.routes", vec!["10.77.0.0/24"])
        .with("pool.ipv4", "10.78.0.0/30");
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway)?;
    let first = start_client(lab, lab.client(), "first", &settings(lab)?)?;
    let second_host = lab.add_client()?;
    let before = second_host.snapshot()?;
    let second = spawn_client(lab, &second_host, "second", &second_settings(lab)?)?;
    let line = second.wait_for_line(Mark::default(), &["trying again", "pool"], PATIENCE)?;
    lab.note(&line);
    ensure!(
        before.changes(&second_host.snapshot()?).is_empty(),
        "no address, no device"
    );
    // When the first one goes, the second one gets its place.
    first.stop(Signal::TERM, PATIENCE)?;
    second.wait_for("session.start", PATIENCE)?;
    second.stop(Signal::TERM, PATIENCE)?;
    ensure!(
        before.changes(&second_host.snapshot()?).is_empty(),
        "the host must be as it was"
    );
    Ok(())
}

fn a_missing_privilege_is_named(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    failing(lab, "client", &settings(lab)?)?
        .without_privilege()
        .ends_with(5, &["marmot: ", "CAP_NET_ADMIN"])
}

fn a_missing_tun_device_is_named(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    failing(lab, "client", &settings(lab)?)?
        .without_tun()
        .ends_with(5, &["marmot: /dev/net/tun is missing"])
}

fn an_interface_that_exists_is_named_and_left_alone(lab: &Lab) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let mut add = lab.command(lab.client(), "ip")?;
    add.args(["tuntap", "add", "name", "mine", "mode", "tun"]);
    ensure!(
        lab.spawn("ip", add)?.wait_exit(PATIENCE)?.success(),
        "a device of somebody else"
    );
    for (name, interface) in [("somebody-elses", "mine"), ("a-real-one", "eth0")] {
        let settings = settings(lab)?.with("tunnel.interface", interface);
        failing(lab, name, &settings)?
            .ends_with(1, &[&format!("device {interface}: an interface of this name exists")])?;
    }
    Ok(())
}

fn mistakes_in_the_configuration_are_named(lab: &Lab) -> Result<()> {
    let good = settings(lab)?;
    let cases: [(&str, Settings, &[&str]); 6] = [
        (
            "unknown-key",
            good.clone().with("gateway.adresses", "x"),
            &[
                "gateway.adresses: unknown key",
                "did you mean `addresses`?",
                "unknown-key.toml:",
            ],
        ),
        ("no-gateway", good.clone().without("gateway.url"), &["gateway.url"]),
        (
            "http",
            good.clone().with("gateway.url", "http://gw.test"),
            &["gateway.url", "https"],
        ),
        ("bad-mtu", good.clone().with("tunnel.mtu", 100), &["tunnel.mtu", "576"]),
        ("bad-name", good.clone().with("tunnel.name", "UPPER"), &["tunnel.name"]),
        ("bad-pin", good.with("trust.pins", vec!["sha256:zz"]), &["trust.pins"]),
    ];
    for (name, settings, texts) in cases {
        failing(lab, name, &settings)?.ends_with(3, texts)?;
    }
    Ok(())
}

fn unusable_files_are_named(lab: &Lab) -> Result<()> {
    let good = settings(lab)?;
    let missing = lab.folder().join("missing");
    let open = lab.file("open", "not secret any more")?;
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).context("cannot open a file up")?;
    let nonsense = lab.file("nonsense", "this is not PEM")?;
    let alice = lab.pki().client(lab::USER)?;
    let bob = lab.pki().client("bob")?;
    let with_pair = |certificate: &Path, key: &Path| {
        good.clone()
            .with_path("login.certificate_file", certificate)
            .with_path("login.key_file", key)
    };
    let cases: [(&str, Settings, &[&str]); 8] = [
        (
            "missing-password",
            good.clone().with_path("login.password_file", &missing),
            &["missing", "No such file"],
        ),
        (
            "open-password",
            good.clone().with_path("login.password_file", &open),
            &["open", "chmod"],
        ),
        (
            "missing-authority",
            good.clone().with_path("trust.ca_file", &missing),
            &["missing", "No such file"],
        ),
        (
            "nonsense-authority",
            good.clone().with_path("trust.ca_file", &nonsense),
            &["nonsense"],
        ),
        (
            "missing-key",
            with_pair(&alice.certificate, &missing),
            &["missing", "No such file"],
        ),
        ("folder-as-key", with_pair(&alice.certificate, lab.folder()), &["key"]),
        ("open-key", with_pair(&alice.certificate, &open), &["open", "chmod"]),
        ("other-key", with_pair(&alice.certificate, &bob.key), &["key"]),
    ];
    for (name, settings, texts) in cases {
        failing(lab, name, &settings)?.ends_with(3, texts)?;
    }
    // And with everything right it works.
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let _client = start_client(lab, lab.client(), "client", &with_pair(&alice.certificate, &alice.key))?;
    ping_both(lab.client(), lab.site().plan)
}

fn settings(lab: &Lab) -> Result<Settings> {
    client_settings(lab, lab.site())
}

fn failing<'a>(lab: &'a Lab, name: &'a str, settings: &Settings) -> Result<Failing<'a>> {
    Failing::new(lab, lab.client(), "client", name, settings)
}
