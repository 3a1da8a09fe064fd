//! What a change around the tunnel asks of the host: a look at it, what is missing put back, and another plan in place of the one that is there.

use std::future::Future;
use std::net::IpAddr;

use ipnet::IpNet;
use plan::NetworkPlan;
use platform::PlatformError;
use platform::network::Path;
use platform::watch::NetworkWatch;

use super::{Host, InstallError, Installer, Kernel, Onto};
use crate::ClientError;

/// What the host looks like.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The way to each of the targets, where there is one.
    pub(crate) ways: Vec<Option<Path>>,
    /// The networks this host reaches directly, but for the tunnel's own.
    pub(crate) networks: Result<Vec<(String, IpNet)>, ClientError>,
    /// What was missing of the plan and is there again; nothing if nobody looked.
    pub(crate) mended: Option<Result<Vec<String>, PlatformError>>,
}

impl Host {
    /// Listens to changes of this host's network; nothing where nobody tells of them.
    pub(crate) fn watch(&self) -> Option<NetworkWatch> {
        let watch = NetworkWatch::open(self.interface()?);
        watch
            .inspect_err(|error| tracing::debug!("changes of the network are noticed by looking: {error}"))
            .ok()
    }

    /// Looks at the ways to `targets` for the tunnel's own packets, and at the networks around; and puts back what is missing of the plan
    /// if `mend` says so. Nothing if the tunnel is in memory.
    pub(crate) fn survey(
        &self,
        targets: Vec<IpAddr>,
        mend: bool,
    ) -> Option<impl Future<Output = Survey> + Send + use<>> {
        let (kernel, mark) = (self.kernel()?, self.mark());
        let networks = self.local_networks();
        Some(async move {
            let mut ways = Vec::new();
            for target in targets {
                ways.push(kernel.network.path_to(target, mark).await.ok());
            }
            let networks = networks.await;
            let mended = match mend {
                // A task of its own: nobody who loses interest leaves it half done.
                true => tokio::spawn(async move { kernel.mend().await }).await.ok().flatten(),
                false => None,
            };
            Survey { ways, networks, mended }
        })
    }
}

impl Installer {
    /// Puts `plan` in place of the one that is on the host, if one is. Once begun, it goes on when the future is dropped.
    pub(crate) async fn replace(self, plan: NetworkPlan) -> Result<(), InstallError> {
        let Some(kernel) = self.kernel else { return Ok(()) };
        let replaced = tokio::spawn(async move { kernel.install(plan, Onto::Plan).await });
        replaced.await.unwrap_or_else(|_| {
            let broken = ClientError::Local("the host's set-up failed".to_owned());
            Err(InstallError::Damaged(broken))
        })
    }
}

impl Kernel {
    /// Puts back what is missing of the plan that is on the host, if one is.
    async fn mend(&self) -> Option<Result<Vec<String>, PlatformError>> {
        let on_host = self.on_host.lock().await;
        let applied = on_host.applied.as_ref()?;
        let slot = self.lock.slot();
        Some(self.network.mend(&slot, applied.tun_index, &applied.plan).await)
    }
}
