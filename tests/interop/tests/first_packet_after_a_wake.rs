//! How long the first packet takes after a host's sleep: ours and the stock ends, side by side, after the same silences.
//!
//! ```text
//!   up, pinged --> stopped, cable out --> silence --> cable in, goes on --> the first answer
//!                                          CI: seconds; long: 50, 125 and 220 s
//! ```
//! ocserv runs with dpd 20 and cookie-timeout 60: it gives a silent client up after 60 to 90 s and forgets its cookie 75 s
//! later. Times begin with the end of the sleep, when the cable works again. Our gateway runs with its defaults. All tests run at once, in labs of their own.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use interop::{TO_DATA, Wires, first_answer};
use lab::{
    Clock, Lab, Ocserv, Openconnect, PATIENCE, Ping, Process, Settings, Sleeper, StockFigures, StockLogin, USER,
    client_settings, gateway_settings, is_long, ms, start_gateway, stock_channel, until,
};

fn main() -> ExitCode {
    lab::run_scaled_together(
        &["ip", "nft", "openconnect", "ocserv", "ocpasswd"],
        lab::tests![
            the_stock_ends_after_a_short_silence,
            the_stock_ends_after_a_longer_one,
            the_stock_ends_after_the_longest,
            our_ends_after_a_short_silence,
            our_ends_after_a_longer_one,
            our_ends_after_the_longest,
            our_client_with_ocserv_after_a_short_silence,
            our_client_with_ocserv_after_a_longer_one,
            our_client_with_ocserv_after_the_longest,
            our_client_with_ocserv_by_certificate_after_a_short_silence,
            our_client_with_ocserv_by_certificate_after_a_longer_one,
            our_client_with_ocserv_by_certificate_after_the_longest,
        ],
    )
}

fn the_stock_ends_after_a_short_silence(lab: &Lab) -> Result<()> {
    show(lab, Ends::Stock, 0)
}

fn the_stock_ends_after_a_longer_one(lab: &Lab) -> Result<()> {
    show(lab, Ends::Stock, 1)
}

fn the_stock_ends_after_the_longest(lab: &Lab) -> Result<()> {
    show(lab, Ends::Stock, 2)
}

fn our_ends_after_a_short_silence(lab: &Lab) -> Result<()> {
    show(lab, Ends::Ours, 0)
}

fn our_ends_after_a_longer_one(lab: &Lab) -> Result<()> {
    show(lab, Ends::Ours, 1)
}

fn our_ends_after_the_longest(lab: &Lab) -> Result<()> {
    show(lab, Ends::Ours, 2)
}

fn our_client_with_ocserv_after_a_short_silence(lab: &Lab) -> Result<()> {
    show(lab, Ends::OursAndStock(StockLogin::Password), 0)
}

fn our_client_with_ocserv_after_a_longer_one(lab: &Lab) -> Result<()> {
    show(lab, Ends::OursAndStock(StockLogin::Password), 1)
}

fn our_client_with_ocserv_after_the_longest(lab: &Lab) -> Result<()> {
    show(lab, Ends::OursAndStock(StockLogin::Password), 2)
}

fn our_client_with_ocserv_by_certificate_after_a_short_silence(lab: &Lab) -> Result<()> {
    show(lab, Ends::OursAndStock(StockLogin::Certificate), 0)
}

fn our_client_with_ocserv_by_certificate_after_a_longer_one(lab: &Lab) -> Result<()> {
    show(lab, Ends::OursAndStock(StockLogin::Certificate), 1)
}

fn our_client_with_ocserv_by_certificate_after_the_longest(lab: &Lab) -> Result<()> {
    show(lab, Ends::OursAndStock(StockLogin::Certificate), 2)
}

/// Who speaks with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Stock,
    Ours,
    OursAndStock(StockLogin),
}

/// The internet's end of the client's cable.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn silence(number: usize) -> Duration {
    Duration::from_secs(if is_long() { [50, 125, 220] } else { [2, 4, 6] }[number])
}

fn show(lab: &Lab, ends: Ends, number: usize) -> Result<()> {
    let clock = Clock::new(lab)?;
    let (gateway, client) = start(lab, ends, &clock)?;
    let plan = lab.site().plan;
    Ping::new(lab.client(), plan.host_v4()).answered(PATIENCE)?;
    let wires = Wires::of_client(lab)?;
    let mark = gateway.mark();

    let sleeper = Sleeper::new(&client, &clock);
    let silence = silence(number);
    lab.internet().down("client")?;
    sleeper.fall_asleep()?;
    let began = Instant::now();
    until("the end of a silence", silence + PATIENCE, || {
        Ok(began.elapsed() >= silence)
    })?;
    lab.internet().up("client")?;
    // Neighbours find each other again before anything is measured: that may take the kernel a second.
    Ping::new(lab.client(), ROUTER).answered(PATIENCE)?;
    let at = sleeper.wake(silence)?;

    let answered = first_answer(lab.client(), plan.host_v4(), at, || !client.is_running())?;
    let dropped = gateway.count_since(mark, &["user disconnected"]) + gateway.count_since(mark, &["session detached"]);
    let logins = gateway.count_since(mark, &["user logged in"]) + gateway.count_since(mark, &["logged in", "session="]);
    let outcome = match answered {
        Some(time) => format!("first answer after {} ms", ms(time)),
        None => {
            let output = client.output();
            format!("it has ended: {}", output.lines().last().unwrap_or_default())
        }
    };
    lab.note(&format!(
        "{ends:?}, {} s of silence: {outcome}; {} connections, {logins} logins; dropped by the gateway {dropped} times",
        silence.as_secs(),
        wires.count()?.connects
    ));
    // What the stock client does is a measurement; ours comes back whatever happened meanwhile.
    ensure!(
        ends == Ends::Stock || answered.is_some(),
        "our client must come back: {outcome}"
    );
    if ends == Ends::Ours {
        ensure!(logins == 0 && dropped == 0, "our gateway must keep the session");
    }
    Ok(())
}

/// Both ends, up. The gateway first.
fn start(lab: &Lab, ends: Ends, clock: &Clock) -> Result<(Process, Process)> {
    let site = lab.site();
    match ends {
        Ends::Stock => {
            let gateway = ocserv(lab, StockLogin::Password)?;
            let client = Openconnect::new(lab, lab.client(), site, "openconnect")?;
            let client = client.with_dtls().good_password().under(clock).up()?;
            stock_channel(&client)?;
            Ok((gateway, client))
        }
        Ends::Ours => {
            let gateway = start_gateway(lab, site, "gateway", &gateway_settings(lab, site)?)?;
            Ok((gateway, ours(lab, clock, client_settings(lab, site)?)?))
        }
        Ends::OursAndStock(login) => {
            let gateway = ocserv(lab, login)?;
            let settings = client_settings(lab, site)?;
            let settings = match login {
                StockLogin::Password => settings,
                StockLogin::Certificate => {
                    let alice = lab.pki().client(USER)?;
                    settings
                        .without("login.user")
                        .without("login.password_file")
                        .with_path("login.certificate_file", &alice.certificate)
                        .with_path("login.key_file", &alice.key)
                }
            };
            Ok((gateway, ours(lab, clock, settings)?))
        }
    }
}

fn ours(lab: &Lab, clock: &Clock, settings: Settings) -> Result<Process> {
    let client = clock.start_client(lab, lab.client(), "client", &settings)?;
    client.wait_for(TO_DATA, PATIENCE)?;
    Ok(client)
}

fn ocserv(lab: &Lab, login: StockLogin) -> Result<Process> {
    Ocserv::configure(lab, lab.site(), login, StockFigures::Quick)?.start()
}
