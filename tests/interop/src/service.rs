//! A tunnel as a service: a gateway, a systemd on the client's host, our units in it, and a hook that waits.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, LongJob, PATIENCE, Process, Settings, Spool, Systemd, client_interface, client_settings, gateway_settings,
    name_free, start_gateway,
};
use platform::network::HostState;

/// The unit of the tunnel.
pub const CLIENT: &str = "marmot-client@site-a.service";

/// A tunnel of the first site that can be started.
#[derive(Debug)]
pub struct Service<'a> {
    lab: &'a Lab,
    /// The gateway it goes to.
    pub gateway: Process,
    /// The manager of the client's host.
    pub systemd: Systemd,
    /// What the daemon says, over its restarts.
    pub output: Process,
    /// What the housekeeping says, for the report of a failure.
    _worker: Process,
    /// Its hook.
    pub job: LongJob,
    /// What it writes down.
    pub spool: Spool,
}

impl<'a> Service<'a> {
    /// With the settings of the lab.
    ///
    /// # Errors
    /// If the gateway or the manager does not come up.
    pub fn new(lab: &'a Lab) -> Result<Self> {
        Self::with(lab, |settings| settings)
    }

    /// With changed settings.
    ///
    /// # Errors
    /// As [`Service::new`].
    pub fn with(lab: &'a Lab, change: impl FnOnce(Settings) -> Settings) -> Result<Self> {
        let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
        let job = LongJob::new(lab, "job")?;
        let settings = change(job.settings(client_settings(lab, lab.site())?));
        settings.write(&lab.folder().join("site-a.toml"))?;
        let systemd = Systemd::start(lab, lab.client(), "systemd")?;
        let output = systemd.listen(lab, "marmot-client@site-a")?;
        let worker = systemd.listen(lab, "marmot-housekeeping@site-a")?;
        Ok(Self {
            lab,
            gateway,
            systemd,
            output,
            _worker: worker,
            job,
            spool: Spool::of(lab, "site-a"),
        })
    }

    /// Starts the service and waits until the tunnel is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(&self) -> Result<()> {
        let mark = self.output.mark();
        self.systemd.systemctl(&["start", CLIENT])?;
        self.output.wait_for_line(mark, &["session.start"], PATIENCE)?;
        Ok(())
    }

    /// When something happened to the service, by the manager's clock: `ActiveExit`, `ExecMainExit` and so on.
    ///
    /// # Errors
    /// If the manager does not know.
    pub fn time_of(&self, event: &str) -> Result<Duration> {
        let time = self.systemd.property(CLIENT, &format!("{event}TimestampMonotonic"))?;
        Ok(Duration::from_micros(time.parse().context("a time in microseconds")?))
    }

    /// The number of the tunnel's device, which no other device gets.
    ///
    /// # Errors
    /// If there is none.
    pub fn interface_index(&self) -> Result<u32> {
        let name = client_interface(self.lab.site());
        let mut command = self.lab.command(self.lab.client(), "ip")?;
        let output = command.args(["-oneline", "link", "show", "dev", &name]).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let index = said.split(':').next().and_then(|number| number.trim().parse().ok());
        index.with_context(|| format!("there is no {name}: {output:?}"))
    }

    /// Makes sure that the host is as it was. The device goes shortly after the acknowledgement; what is left then is left for
    /// good.
    ///
    /// # Errors
    /// If something is left.
    pub fn restored(&self, before: &HostState) -> Result<()> {
        name_free(self.lab.client(), &client_interface(self.lab.site()), PATIENCE)?;
        let changes = before.changes(&self.lab.client().snapshot()?);
        ensure!(changes.is_empty(), "this is left on the host: {changes:#?}");
        Ok(())
    }
}
