//! How long a stop takes, ours and other programs', in one run on one machine, taking turns.
//!
//! Each program carries packets from the same client's host to a LAN. A stop begins when its signal is sent, or when its command
//! is started. The tunnel is
//!
//! - **acknowledged** to be down when the program says so: ours by the line `stop.ack`, the others by the end of the process that
//!   was asked;
//! - **restartable** when nothing of the stop can make a new start of the same tunnel fail. Where a start is a new process: when
//!   the old one is gone and its device's name is free. Where the daemon stays: when it has begun to carry out the order to come
//!   up that it was given upon its acknowledgement. Either way the test does start it again, at once, and a packet must get through.
//!
//! The others have nothing to do afterwards and write nothing down. Ours records the session durably before it acknowledges,
//! and in the rows that say so a housekeeping job is under way that would last for an hour.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{
    Identity, Lab, LongJob, OPENVPN_INTERFACE, Ocserv, Openconnect, Openvpn, PATIENCE, Ping, Process, STOCK_INTERFACE,
    Settings, Signal, Site, StockFigures, StockLogin, Times, WIREGUARD_INTERFACE, WgQuick, client_settings,
    gateway_settings, is_long, ms, name_free, start_client, start_gateway, until,
};

/// Rounds, with two stops of each program.
const ROUNDS: usize = 5;
const LONG_ROUNDS: usize = 30;

fn main() -> ExitCode {
    lab::run_scaled(
        &["openconnect", "ocserv", "openvpn", "wireguard-go", "wg-quick", "ip"],
        lab::tests![marmot_acknowledges_a_stop_before_all_others],
    )
}

fn marmot_acknowledges_a_stop_before_all_others(lab: &Lab) -> Result<()> {
    let (here, there) = (lab.site(), lab.add_site()?);
    let alice = lab.pki().client("alice")?;
    let _gateway = start_gateway(lab, here, "gateway", &gateway_settings(lab, here)?)?;
    let _ocserv = Ocserv::configure(lab, &there, StockLogin::Certificate, StockFigures::Quick)?.start()?;
    let openvpn = Openvpn::configure(lab, here)?;
    let _openvpn = openvpn.serve()?;
    let [wg_server, wg_client] = WgQuick::pair(lab, here)?;
    wg_server.up()?;

    let mut ours = [
        Row::new(
            lab,
            "marmot, SIGUSR1 (the daemon stays), job under way",
            Resident::new(lab)?,
        ),
        Row::new(lab, "marmot, SIGTERM, job under way", Client::with_job(lab)?),
        Row::new(lab, "marmot, SIGTERM", Client::new(lab)?),
    ];
    let openconnect = |signal| Stock::new(lab, &there, &alice, signal);
    let mut others = [
        Row::new(lab, "openconnect, SIGINT", openconnect(Signal::INT)),
        Row::new(lab, "openconnect, SIGTERM", openconnect(Signal::TERM)),
        Row::new(lab, "openvpn, SIGTERM", Vpn::new(lab, &openvpn)),
        Row::new(lab, "wg-quick down, wireguard-go", Wg { lab, end: &wg_client }),
    ];
    let before = lab.client().snapshot()?;
    let rounds = if is_long() { LONG_ROUNDS } else { ROUNDS };
    for _ in 0..rounds {
        for row in ours.iter_mut().chain(&mut others) {
            row.stop_twice().with_context(|| row.name.to_owned())?;
            // The guard of our addresses goes a moment after the device.
            let clean = || Ok(before.changes(&lab.client().snapshot()?).is_empty());
            let cleared = until("a clean host", PATIENCE, clean);
            let changes = before.changes(&lab.client().snapshot()?);
            cleared.with_context(|| format!("left by {}: {changes:#?}", row.name))?;
        }
    }

    lab.note("| stop | acknowledged, median | p99 | restartable, median | p99 |");
    lab.note("|---|---|---|---|---|");
    for row in ours.iter().chain(&others) {
        lab.note(&row.line());
    }
    lab.note(&format!(
        "{} stops each; p99 of fewer than 100 is the longest",
        2 * rounds
    ));
    for row in &ours {
        for other in &others {
            let ratio = row.acknowledged.ratio_to(&other.acknowledged);
            let (name, other) = (row.name, other.name);
            ensure!(
                ratio < 1.0,
                "{name}: acknowledged after {ratio:.2} times what {other} takes"
            );
        }
    }
    Ok(())
}

/// One stop, from its signal on.
struct Stop {
    acknowledged: Duration,
    restartable: Duration,
}

/// Who comes up and goes down.
trait Program {
    /// Starts the tunnel and waits until it is up.
    fn up(&mut self) -> Result<()>;

    /// The site whose LAN it reaches.
    fn site(&self) -> &Site;

    /// Stops it.
    fn down(&mut self) -> Result<Stop>;
}

/// All stops of one program.
struct Row<'a> {
    name: &'static str,
    program: Box<dyn Program + 'a>,
    lab: &'a Lab,
    acknowledged: Times,
    restartable: Times,
}

impl<'a> Row<'a> {
    fn new(lab: &'a Lab, name: &'static str, program: impl Program + 'a) -> Self {
        Self {
            name,
            program: Box::new(program),
            lab,
            acknowledged: Times::default(),
            restartable: Times::default(),
        }
    }

    /// The second start follows the first stop at once.
    fn stop_twice(&mut self) -> Result<()> {
        for _ in 0..2 {
            self.program.up()?;
            Ping::new(self.lab.client(), self.program.site().plan.host_v4()).answered(PATIENCE)?;
            let stop = self.program.down()?;
            self.acknowledged.push(stop.acknowledged);
            self.restartable.push(stop.restartable);
        }
        Ok(())
    }

    fn line(&self) -> String {
        let figures = [&self.acknowledged, &self.restartable].map(|times| {
            let (median, p99) = (ms(times.median()), ms(times.p99()));
            format!("{median} ms | {p99} ms")
        });
        format!("| {} | {} |", self.name, figures.join(" | "))
    }
}

/// Our client as a daemon that stays. Its job is that of its first session.
struct Resident<'a> {
    lab: &'a Lab,
    job: LongJob,
    process: Process,
}

impl<'a> Resident<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let job = LongJob::new(lab, "job-of-resident")?;
        let settings = job.settings(client_settings(lab, lab.site())?.with("tunnel.name", "resident"));
        let process = start_client(lab, lab.client(), "resident", &settings)?;
        let resident = Self { lab, job, process };
        resident.order(Signal::USR1, "stop.ack")?;
        resident.job.wait_begun(0)?;
        resident.gone()?;
        Ok(resident)
    }

    /// Sends a signal and waits for a word that it brings. Returns how long that took.
    fn order(&self, signal: Signal, word: &str) -> Result<Duration> {
        let mark = self.process.mark();
        let began = Instant::now();
        self.process.signal(signal)?;
        self.process.wait_for_line(mark, &[word], PATIENCE)?;
        Ok(began.elapsed())
    }

    fn gone(&self) -> Result<Instant> {
        name_free(self.lab.client(), "mm-resident", PATIENCE)
    }
}

impl Program for Resident<'_> {
    fn up(&mut self) -> Result<()> {
        self.order(Signal::USR2, "session.start").map(drop)
    }

    fn site(&self) -> &Site {
        self.lab.site()
    }

    fn down(&mut self) -> Result<Stop> {
        let acknowledged = self.order(Signal::USR1, "stop.ack")?;
        let mark = self.process.mark();
        let heard = self.order(Signal::USR2, "connecting")?;
        self.process.wait_for_line(mark, &["session.start"], PATIENCE)?;
        Ping::new(self.lab.client(), self.site().plan.host_v4()).answered(PATIENCE)?;
        self.order(Signal::USR1, "stop.ack")?;
        self.gone()?;
        ensure!(self.job.ended()?.is_empty(), "the job lasts all the time");
        Ok(Stop {
            acknowledged,
            restartable: acknowledged + heard,
        })
    }
}

/// Our client as a process for each session, perhaps with a job that it finds when it starts.
struct Client<'a> {
    lab: &'a Lab,
    settings: Settings,
    device: &'static str,
    job: Option<LongJob>,
    process: Option<Process>,
    starts: u32,
}

impl<'a> Client<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        Ok(Self {
            lab,
            settings: client_settings(lab, lab.site())?.with("tunnel.name", "plain"),
            device: "mm-plain",
            job: None,
            process: None,
            starts: 0,
        })
    }

    fn with_job(lab: &'a Lab) -> Result<Self> {
        let job = LongJob::new(lab, "job")?;
        let settings = job.settings(client_settings(lab, lab.site())?.with("tunnel.name", "busy"));
        let mut client = Self {
            settings,
            device: "mm-busy",
            ..Self::new(lab)?
        };
        // The job of this session waits for the next process.
        client.up()?;
        client.down()?;
        client.job = Some(job);
        Ok(client)
    }
}

impl Program for Client<'_> {
    fn up(&mut self) -> Result<()> {
        self.starts += 1;
        let begun = self
            .job
            .as_ref()
            .map_or(Ok(0), |job| job.began().map(|jobs| jobs.len()))?;
        let name = format!("{}-{}", self.device, self.starts);
        self.process = Some(start_client(self.lab, self.lab.client(), &name, &self.settings)?);
        self.job.as_ref().map_or(Ok(()), |job| job.wait_begun(begun))
    }

    fn site(&self) -> &Site {
        self.lab.site()
    }

    fn down(&mut self) -> Result<Stop> {
        let process = self.process.take().context("it is up")?;
        let stop = ended(self.lab, &process, Signal::TERM, self.device, Some("stop.ack"))?;
        if let Some(job) = &self.job {
            ensure!(job.ended()?.is_empty(), "the job lasts all the time");
        }
        Ok(stop)
    }
}

/// openconnect with its standard script, against ocserv.
struct Stock<'a> {
    lab: &'a Lab,
    site: &'a Site,
    identity: &'a Identity,
    signal: Signal,
    process: Option<Process>,
    starts: u32,
}

impl<'a> Stock<'a> {
    fn new(lab: &'a Lab, site: &'a Site, identity: &'a Identity, signal: Signal) -> Self {
        Self {
            lab,
            site,
            identity,
            signal,
            process: None,
            starts: 0,
        }
    }
}

impl Program for Stock<'_> {
    fn up(&mut self) -> Result<()> {
        self.starts += 1;
        let name = format!("openconnect-{}-{}", self.signal.as_raw(), self.starts);
        let call = Openconnect::new(self.lab, self.lab.client(), self.site, &name)?;
        self.process = Some(call.certificate(self.identity).standard_script().up()?);
        Ok(())
    }

    fn site(&self) -> &Site {
        self.site
    }

    fn down(&mut self) -> Result<Stop> {
        let process = self.process.take().context("it is up")?;
        ended(self.lab, &process, self.signal, STOCK_INTERFACE, None)
    }
}

/// OpenVPN, as its service stops it.
struct Vpn<'a> {
    lab: &'a Lab,
    ends: &'a Openvpn<'a>,
    process: Option<Process>,
    starts: u32,
}

impl<'a> Vpn<'a> {
    fn new(lab: &'a Lab, ends: &'a Openvpn<'a>) -> Self {
        Self {
            lab,
            ends,
            process: None,
            starts: 0,
        }
    }
}

impl Program for Vpn<'_> {
    fn up(&mut self) -> Result<()> {
        self.starts += 1;
        self.process = Some(self.ends.up(self.lab.client(), &format!("openvpn-{}", self.starts))?);
        Ok(())
    }

    fn site(&self) -> &Site {
        self.lab.site()
    }

    fn down(&mut self) -> Result<Stop> {
        let process = self.process.take().context("it is up")?;
        ended(self.lab, &process, Signal::TERM, OPENVPN_INTERFACE, None)
    }
}

/// WireGuard, by commands. The daemon ends by itself when its device goes.
struct Wg<'a> {
    lab: &'a Lab,
    end: &'a WgQuick<'a>,
}

impl Program for Wg<'_> {
    fn up(&mut self) -> Result<()> {
        self.end.up()
    }

    fn site(&self) -> &Site {
        self.lab.site()
    }

    fn down(&mut self) -> Result<Stop> {
        let began = Instant::now();
        let status = self.end.down()?.wait_exit(PATIENCE)?;
        let acknowledged = began.elapsed();
        ensure!(status.success(), "wg-quick down ended with {status}");
        let free = name_free(self.lab.client(), WIREGUARD_INTERFACE, PATIENCE)?;
        Ok(Stop {
            acknowledged,
            restartable: free.duration_since(began),
        })
    }
}

/// Signals a process and watches it and its device go; it acknowledges by a word in its log, or else by its end.
fn ended(lab: &Lab, process: &Process, signal: Signal, device: &str, word: Option<&str>) -> Result<Stop> {
    let mark = process.mark();
    thread::scope(|scope| {
        let free = scope.spawn(move || name_free(lab.client(), device, PATIENCE));
        let said = word.map(|word| {
            scope.spawn(move || {
                process.wait_for_line(mark, &[word], PATIENCE)?;
                anyhow::Ok(Instant::now())
            })
        });
        let asked = Instant::now();
        let (_, exit) = process.stop(signal, PATIENCE)?;
        let free = free.join().map_err(|_| anyhow!("the watch of a device panicked"))??;
        let acknowledged = match said {
            None => exit,
            Some(said) => {
                let at = said.join().map_err(|_| anyhow!("the watch of a log panicked"))??;
                at.duration_since(asked)
            }
        };
        Ok(Stop {
            acknowledged,
            restartable: exit.max(free.saturating_duration_since(asked)),
        })
    })
}
