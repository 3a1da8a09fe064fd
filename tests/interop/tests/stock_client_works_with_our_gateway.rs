//! Debian's openconnect with our gateway, TLS only.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use interop::{bulk, no_way, ping_both, session_end};
use lab::{Flow, Lab, Openconnect, PATIENCE, Server, Signal, USER, gateway_settings, start_gateway, stock_addresses};

fn main() -> ExitCode {
    lab::run(
        &["openconnect", "ip"],
        lab::tests![
            a_password_carries_bulk_traffic_both_ways,
            a_certificate_gets_in,
            the_old_form_gets_in,
            tls_1_2_over_ipv6_gets_in,
            a_wrong_password_stays_out,
            a_group_of_the_users_is_chosen,
            a_reconnect_keeps_addresses_and_flows,
            a_cookie_from_another_process_opens_the_tunnel,
            a_detached_session_is_found_again,
            a_goodbye_destroys_the_cookie,
        ],
    )
}

fn a_password_carries_bulk_traffic_both_ways(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _server = Server::start(&site.lan)?;
    let gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    no_way(lab.client(), site.plan)?;
    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .good_password()
        .up()?;
    ping_both(lab.client(), site.plan)?;
    bulk(lab, lab.client(), site.plan)?;
    let (status, _) = client.stop(Signal::INT, PATIENCE)?;
    ensure!(status.success(), "openconnect ended with {status}");
    session_end(&gateway, "user_stop")?;
    let (status, time) = gateway.stop(Signal::TERM, PATIENCE)?;
    ensure!(status.success(), "the gateway ended with {status}");
    lab.note(&format!("gateway stopped in {} ms", time.as_millis()));
    Ok(())
}

fn a_certificate_gets_in(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let settings = gateway_settings(lab, site)?
        .with("auth.methods", vec!["certificate"])
        .with_path("auth.client_ca_file", &lab.pki().ca());
    let _gateway = start_gateway(lab, site, "gateway", &settings)?;
    let alice = lab.pki().client(USER)?;
    let _client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .certificate(&alice)
        .up()?;
    ping_both(lab.client(), site.plan)
}

fn the_old_form_gets_in(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?.good_password();
    let client = client.with("--no-xmlpost").up()?;
    ensure!(client.output().contains("GET https://"), "the old form begins with GET");
    ping_both(lab.client(), site.plan)
}

fn tls_1_2_over_ipv6_gets_in(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .over_ipv6(site)
        .good_password();
    let client = client.with("--gnutls-priority=NORMAL:-VERS-TLS1.3").up()?;
    ensure!(client.output().contains("TLS1.2"), "only TLS 1.2 was offered");
    ping_both(lab.client(), site.plan)
}

fn a_wrong_password_stays_out(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .password("wrong")
        .spawn()?;
    ensure!(
        !client.wait_exit(PATIENCE)?.success(),
        "a wrong password must not get in"
    );
    ensure!(client.output().contains("Login failed"), "the user must learn why");
    gateway.wait_for("login denied", PATIENCE)?;
    no_way(lab.client(), site.plan)
}

fn a_group_of_the_users_is_chosen(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let settings = gateway_settings(lab, site)?.with("auth.groups", vec!["guests", "staff"]);
    lab::Users::alice()?
        .with(USER, "groups", vec!["staff"])
        .write(&lab::users_file(lab, site))?;
    let _gateway = start_gateway(lab, site, "gateway", &settings)?;
    let client = Openconnect::new(lab, lab.client(), site, "staff")?.good_password();
    let staff = client.with("--authgroup=staff").up()?;
    ping_both(lab.client(), site.plan)?;
    drop(staff);
    let client = Openconnect::new(lab, lab.client(), site, "guests")?.good_password();
    let guest = client.with("--authgroup=guests").spawn()?;
    ensure!(
        !guest.wait_exit(PATIENCE)?.success(),
        "a group of others must not be chosen"
    );
    Ok(())
}

fn a_reconnect_keeps_addresses_and_flows(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _server = Server::start(&site.lan)?;
    let gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .good_password()
        .up()?;
    let mut flow = Flow::open(lab.client(), site.plan.host_v4())?;
    let addresses = stock_addresses(&client)?;

    let mark = gateway.mark();
    client.signal(Signal::USR2)?;
    gateway.wait_for_after(mark, "session attached again", PATIENCE)?;
    let time = flow.echo(PATIENCE)?;
    lab.note(&format!("a flow answered {} ms after the reconnect", time.as_millis()));
    ping_both(lab.client(), site.plan)?;
    ensure!(stock_addresses(&client)? == addresses);
    ensure!(client.is_running(), "openconnect gives up when an address changes");
    Ok(())
}

fn a_cookie_from_another_process_opens_the_tunnel(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let new = |name| Openconnect::new(lab, lab.client(), site, name);
    let cookie = new("authenticate")?.good_password().authenticate()?;
    let _client = new("with-cookie")?.cookie(&cookie).up()?;
    ping_both(lab.client(), site.plan)
}

fn a_detached_session_is_found_again(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let new = |name| Openconnect::new(lab, lab.client(), site, name);
    let cookie = new("authenticate")?.good_password().authenticate()?;
    let first = new("first")?.cookie(&cookie).up()?;
    let addresses = stock_addresses(&first)?;
    first.stop(Signal::HUP, PATIENCE)?;
    gateway.wait_for("session detached", PATIENCE)?;
    let second = new("second")?.cookie(&cookie).up()?;
    ensure!(
        stock_addresses(&second)? == addresses,
        "other addresses than {addresses}"
    );
    ping_both(lab.client(), site.plan)
}

fn a_goodbye_destroys_the_cookie(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
    let new = |name| Openconnect::new(lab, lab.client(), site, name);
    let cookie = new("authenticate")?.good_password().authenticate()?;
    new("first")?.cookie(&cookie).up()?.stop(Signal::INT, PATIENCE)?;
    session_end(&gateway, "user_stop")?;
    let second = new("second")?.cookie(&cookie).spawn()?;
    ensure!(
        !second.wait_exit(PATIENCE)?.success(),
        "the cookie must be of no use any more"
    );
    ensure!(second.output().contains("401"), "a destroyed cookie is answered 401");
    Ok(())
}
