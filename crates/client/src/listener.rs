//! The API socket: served by a thread of its own, so that a flood there costs the tunnel nothing.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;

use api::{Peer, owner};
use config::client::ClientConfig;
use platform::PlatformError;
use platform::service::Descriptor;
use platform::socket::{UnixListener, adopt_unix, listen_unix, set_access_unix};
use tokio::sync::oneshot;
use tracing::warn;

use crate::ClientError;
use crate::provider::Provider;

/// Access to the socket: its group may use it.
const MODE: u32 = 0o660;

/// A socket that listens and is not served yet.
pub(crate) struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    /// It is the one of the process before.
    pub(crate) adopted: bool,
}

/// A socket that is served until this is dropped.
pub(crate) struct Served {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl ApiSocket {
    /// Where the socket of this tunnel is.
    pub(crate) fn path(config: &ClientConfig) -> PathBuf {
        let tunnel = &config.tunnel;
        tunnel.runtime_dir.join(format!("{}.sock", tunnel.name))
    }

    /// Listens, if the configuration wants it, or goes on with the socket of the process before. A socket that somebody else
    /// listens on is an error, for then the tunnel runs; a folder that cannot be used costs the socket only.
    pub(crate) fn open(config: &ClientConfig, kept: Option<Descriptor>) -> Result<Option<Self>, ClientError> {
        let path = Self::path(config);
        if !config.api.enabled {
            if kept.is_some() {
                // Whoever finds it would wait for ever.
                let _ = fs::remove_file(&path);
            }
            return Ok(None);
        }
        // Without its file nobody can find it.
        if let Some(kept) = kept.filter(|_| path.exists()) {
            let adopted = adopt_unix(kept).and_then(|listener| {
                // The group may be another today.
                set_access_unix(&path, MODE, config.api.group.as_deref())?;
                Ok(listener)
            });
            match adopted {
                Ok(listener) => {
                    let adopted = true;
                    return Ok(Some(Self {
                        listener,
                        path,
                        adopted,
                    }));
                }
                Err(error) => warn!("{error}"),
            }
        }
        match listen_unix(&path, MODE, config.api.group.as_deref()) {
            Ok(listener) => Ok(Some(Self {
                listener,
                path,
                adopted: false,
            })),
            Err(PlatformError::Io { what, source }) if source.kind() == io::ErrorKind::AddrInUse => {
                let name = &config.tunnel.name;
                Err(ClientError::Local(format!(
                    "tunnel `{name}` is run by another process: cannot {what}: {source}"
                )))
            }
            Err(error) => {
                warn!("no local socket, so that `marmot up` and the like cannot reach this tunnel: {error}");
                Ok(None)
            }
        }
    }

    /// Another descriptor of the socket.
    pub(crate) fn descriptor(&self) -> io::Result<Descriptor> {
        self.listener.try_clone().map(Descriptor::from)
    }

    /// Answers for `provider`.
    pub(crate) fn serve(self, provider: Provider) -> Result<Served, ClientError> {
        let failed = |error: io::Error| ClientError::Local(format!("cannot serve the local socket: {error}"));
        let own = Peer::own().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let listener = self.listener;
        let serve = move || {
            runtime.block_on(async move {
                let until = async {
                    let _ = stopped.await;
                };
                match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => api::serve(listener, provider, owner(own.uid), until).await,
                    Err(error) => warn!("cannot serve the local socket: {error}"),
                }
            });
            let _ = end.send(());
        };
        thread::Builder::new()
            .name("api".to_owned())
            .spawn(serve)
            .map_err(failed)?;
        Ok(Served {
            path: self.path,
            stop: Some(stop),
            ended,
        })
    }
}

impl Served {
    /// Ends it, once the answers that are on their way are out; `keep` leaves the socket for the next process.
    pub(crate) async fn end(mut self, keep: bool) {
        if !keep {
            let _ = fs::remove_file(&self.path);
        }
        self.stop.take();
        let _ = (&mut self.ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};
    use std::os::unix::fs::PermissionsExt;

    fn kept(config: &ClientConfig) -> Descriptor {
        let socket = ApiSocket::open(config, None).expect("usable").expect("a socket");
        socket.descriptor().expect("another")
    }

    #[test]
    fn a_kept_socket_gets_the_access_of_today() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "[api]\ngroup = \"\"\n");
        let kept = kept(&config);
        let path = ApiSocket::path(&config);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changed");
        let socket = ApiSocket::open(&config, Some(kept)).expect("usable");
        assert!(socket.is_some());
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_kept_socket_that_is_not_wanted_any_more_is_found_by_nobody() {
        let pki = Pki::new("vpn.test");
        let kept = kept(&client_config(&pki, ""));
        let config = client_config(&pki, "[api]\nenabled = false\n");
        assert!(ApiSocket::open(&config, Some(kept)).expect("usable").is_none());
        assert!(!ApiSocket::path(&config).exists());
    }
}
