//! The gateway as a process: runtime and signals.

use std::path::PathBuf;

use config::gateway::GatewayConfig;
use platform::service::Manager;
use platform::signals::{Signal, Signals};
use tracing::{debug, info};

use crate::{Device, Gateway, GatewayError, Reload};

/// Runs a gateway on a TUN device until a signal ends it. Blocks; brings its own runtime.
///
/// | signal | what |
/// |---|---|
/// | `SIGTERM`, `SIGINT`, `SIGQUIT` | stop and return |
/// | `SIGHUP` | read `config_path` and the files it names again; apply all of it or nothing |
///
/// # Errors
/// Why it did not start, or stopped by itself; see [`GatewayError::exit_code`].
pub fn run(config: GatewayConfig, config_path: PathBuf) -> Result<(), GatewayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| GatewayError::Io {
            what: "start the runtime",
            source,
        })?;
    let outcome = runtime.block_on(async {
        let signals = Signals::new().map_err(|source| GatewayError::Io {
            what: "listen for signals",
            source,
        })?;
        let gateway = Gateway::open(config, Some(config_path), Device::Tun)?.managed_by(Manager::from_env());
        let stop = until_told_to_stop(signals, gateway.reload());
        gateway.serve(stop).await
    });
    // A password that is still being checked must not hold up the stop.
    runtime.shutdown_background();
    outcome
}

async fn until_told_to_stop(mut signals: Signals, reload: Reload) {
    loop {
        match signals.next().await {
            signal @ (Signal::Terminate | Signal::Interrupt | Signal::Quit) => {
                info!(?signal, "stopping");
                return;
            }
            Signal::Reload => reload.ask(),
            signal @ (Signal::TunnelDown | Signal::TunnelUp) => {
                debug!(?signal, "ignored: it means something to a client only");
            }
        }
    }
}
