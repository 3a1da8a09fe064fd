//! Our ends and the stock ones, in every combination; all log in with a certificate.

use std::time::Instant;

use anyhow::Result;
use lab::{
    Identity, Mark, Ocserv, Openconnect, PATIENCE, Process, Settings, Signal, StockFigures, StockLogin, USER,
    client_settings, gateway_settings, spawn_client, start_gateway, stock_channel,
};

use super::{Peer, Stop, ended};
use crate::rig::Rig;

/// Which of two makes an end is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Ours,
    Stock,
}

/// What packets take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    Dtls,
    Tls,
}

struct Ends {
    client: Make,
    gateway: Make,
    channel: Channel,
    alice: Identity,
}

type Made<'a> = Result<Box<dyn Peer + 'a>>;

pub(super) fn ours_dtls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Ours, Make::Ours, Channel::Dtls)
}

pub(super) fn ours_tls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Ours, Make::Ours, Channel::Tls)
}

pub(super) fn our_client_dtls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Ours, Make::Stock, Channel::Dtls)
}

pub(super) fn our_client_tls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Ours, Make::Stock, Channel::Tls)
}

pub(super) fn our_gateway_dtls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Stock, Make::Ours, Channel::Dtls)
}

pub(super) fn our_gateway_tls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Stock, Make::Ours, Channel::Tls)
}

pub(super) fn stock_dtls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Stock, Make::Stock, Channel::Dtls)
}

pub(super) fn stock_tls<'a>(rig: &Rig<'a>) -> Made<'a> {
    ends(rig, Make::Stock, Make::Stock, Channel::Tls)
}

fn ends<'a>(rig: &Rig<'a>, client: Make, gateway: Make, channel: Channel) -> Made<'a> {
    Ok(Box::new(Ends {
        client,
        gateway,
        channel,
        alice: rig.lab.pki().client(USER)?,
    }))
}

impl Ends {
    fn our_gateway(&self, rig: &Rig<'_>) -> Result<Settings> {
        Ok(gateway_settings(rig.lab, rig.site())?
            .with("auth.methods", vec!["certificate"])
            .with_path("auth.client_ca_file", &rig.lab.pki().ca())
            .with("log.level", "info"))
    }

    fn our_client(&self, rig: &Rig<'_>) -> Result<Settings> {
        Ok(client_settings(rig.lab, rig.site())?
            .without("login.user")
            .without("login.password_file")
            .with_path("login.certificate_file", &self.alice.certificate)
            .with_path("login.key_file", &self.alice.key)
            .with("dtls.enabled", self.channel == Channel::Dtls)
            .with("log.level", "info"))
    }

    fn openconnect(&self, rig: &Rig<'_>) -> Result<Process> {
        let call = Openconnect::new(rig.lab, rig.lab.client(), rig.site(), "openconnect")?.certificate(&self.alice);
        let call = match self.channel {
            Channel::Dtls => call.with_dtls(),
            Channel::Tls => call,
        };
        call.spawn()
    }
}

impl Peer for Ends {
    fn gateway(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let process = match self.gateway {
            Make::Ours => start_gateway(rig.lab, rig.site(), "gateway", &self.our_gateway(rig)?)?,
            Make::Stock => {
                Ocserv::configure(rig.lab, rig.site(), StockLogin::Certificate, StockFigures::Quick)?.start()?
            }
        };
        Ok(vec![process])
    }

    fn client(&self, rig: &Rig<'_>) -> Result<Vec<Process>> {
        let process = match self.client {
            Make::Ours => spawn_client(rig.lab, rig.lab.client(), "client", &self.our_client(rig)?)?,
            Make::Stock => self.openconnect(rig)?,
        };
        Ok(vec![process])
    }

    fn settle(&self, client: &[Process]) -> Result<()> {
        for process in client {
            match (self.client, self.channel) {
                (Make::Ours, Channel::Dtls) => drop(process.wait_for("packets take the data channel", PATIENCE)?),
                (Make::Stock, Channel::Dtls) => drop(stock_channel(process)?),
                (Make::Ours, Channel::Tls) => drop(process.wait_for("session.start", PATIENCE)?),
                (Make::Stock, Channel::Tls) => drop(process.wait_for("Configured as", PATIENCE)?),
            }
        }
        Ok(())
    }

    fn stop(&self, _rig: &Rig<'_>, client: &[Process]) -> Result<Stop> {
        if self.client == Make::Stock {
            return ended(client, Signal::INT);
        }
        let began = Instant::now();
        for process in client {
            process.signal(Signal::TERM)?;
        }
        for process in client {
            process.wait_for_line(Mark::default(), &["stop.ack"], PATIENCE)?;
        }
        let told = began.elapsed();
        for process in client {
            process.wait_exit(PATIENCE)?;
        }
        Ok(Stop {
            told,
            gone: began.elapsed(),
        })
    }
}
