//! Debian's openconnect with Debian's ocserv: shows that the lab is sound, and what our ends are measured against.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use interop::{bulk, no_way, ping_both};
use lab::{
    Lab, Ocserv, Openconnect, PATIENCE, Server, Signal, StockFigures, StockLogin, stock_addresses, stock_channel, until,
};

fn main() -> ExitCode {
    lab::run(
        &["openconnect", "ocserv", "ip"],
        lab::tests![
            a_password_carries_bulk_traffic,
            a_certificate_gets_in,
            debians_sample_figures_work_over_ipv6,
            packets_go_over_udp_where_both_are_told_so,
        ],
    )
}

fn a_password_carries_bulk_traffic(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _server = Server::start(&site.lan)?;
    let gateway = Ocserv::configure(lab, site, StockLogin::Password, StockFigures::Quick)?.start()?;
    no_way(lab.client(), site.plan)?;

    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .good_password()
        .up()?;
    ping_both(lab.client(), site.plan)?;
    bulk(lab, lab.client(), site.plan)?;
    ensure!(stock_addresses(&client)?.contains("10.78.0."));

    let (status, time) = client.stop(Signal::INT, PATIENCE)?;
    lab.note(&format!("openconnect stopped in {} ms with {status}", time.as_millis()));
    let time = lab::stop_ocserv(&gateway)?;
    lab.note(&format!("ocserv stopped in {} ms", time.as_millis()));
    Ok(())
}

fn a_certificate_gets_in(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _gateway = Ocserv::configure(lab, site, StockLogin::Certificate, StockFigures::Quick)?.start()?;
    let alice = lab.pki().client(lab::USER)?;
    let _client = Openconnect::new(lab, lab.client(), site, "openconnect")?
        .certificate(&alice)
        .up()?;
    ping_both(lab.client(), site.plan)
}

fn debians_sample_figures_work_over_ipv6(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let _gateway = Ocserv::configure(lab, site, StockLogin::Password, StockFigures::DebianSample)?.start()?;
    let client = Openconnect::new(lab, lab.client(), site, "openconnect")?;
    let client = client.over_ipv6(site).good_password().up()?;
    ensure!(client.output().contains("TLS1.2"), "the sample allows TLS 1.2 only");
    ping_both(lab.client(), site.plan)
}

fn packets_go_over_udp_where_both_are_told_so(lab: &Lab) -> Result<()> {
    let site = lab.site();
    let mut ocserv = Ocserv::configure(lab, site, StockLogin::Password, StockFigures::Quick)?;
    let gateway = ocserv.start()?;
    let stock = Openconnect::new(lab, lab.client(), site, "openconnect")?.good_password();
    let client = stock.up()?;
    ping_both(lab.client(), site.plan)?;
    ensure!(ocserv.channel()?.is_none(), "TLS only, unless told otherwise");
    client.stop(Signal::INT, PATIENCE)?;
    until("the end of the first session", PATIENCE, || {
        Ok(ocserv.channel().is_err())
    })?;

    let client = stock.with_dtls().up()?;
    let suite = stock_channel(&client)?;
    until("the gateway's word for it", PATIENCE, || {
        Ok(ocserv.channel()?.is_some())
    })?;
    ensure!(
        ocserv.channel()? == Some(suite.clone()),
        "{suite} and {:?}",
        ocserv.channel()?
    );
    ping_both(lab.client(), site.plan)?;
    lab.note(&format!("the stock ends agree on {suite}"));
    client.stop(Signal::INT, PATIENCE)?;
    lab::stop_ocserv(&gateway)?;

    let mut ocserv = ocserv.with("udp-port = 0")?;
    let _gateway = ocserv.start()?;
    let _client = Openconnect::new(lab, lab.client(), site, "openconnect-2")?
        .good_password()
        .with_dtls()
        .up()?;
    ping_both(lab.client(), site.plan)?;
    ensure!(ocserv.channel()?.is_none(), "no port, no UDP");
    Ok(())
}
