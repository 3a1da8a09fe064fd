//! Signals as orders to the provider: one of those who stand above it.

use lifecycle::StopReason;
use platform::signals::{Signal, Signals};
use tokio::sync::mpsc;
use tracing::debug;

use crate::ClientError;
use crate::provider::{Order, Provider, Refused};

/// Signals that are kept while the client opens. Nobody sends more in so short a time.
const MAX_EARLY: usize = 16;

/// Where orders come from.
#[derive(Debug, Default)]
pub enum SignalSource {
    /// The signals of this process.
    #[default]
    Process,
    /// Another task of this process. Its end counts as one [`Signal::Terminate`].
    Channel(mpsc::Receiver<Signal>),
}

/// Signals, one after the other.
pub(crate) enum SignalStream {
    Process(Signals),
    Channel(mpsc::Receiver<Signal>),
    Ended,
}

impl SignalStream {
    pub(crate) fn open(source: SignalSource) -> Result<Self, ClientError> {
        match source {
            SignalSource::Channel(receiver) => Ok(Self::Channel(receiver)),
            SignalSource::Process => match Signals::new() {
                Ok(signals) => Ok(Self::Process(signals)),
                Err(error) => Err(ClientError::Local(format!("cannot listen for signals: {error}"))),
            },
        }
    }

    /// Waits until somebody wants the process to end; what else is wanted meanwhile is kept in `others`. Cancel safe.
    pub(crate) async fn termination(&mut self, others: &mut Vec<Signal>) {
        loop {
            match self.next().await {
                Signal::Terminate | Signal::Interrupt | Signal::Quit => return,
                other if others.len() < MAX_EARLY => others.push(other),
                Signal::TunnelDown | Signal::TunnelUp | Signal::Reload => {}
            }
        }
    }

    /// The next order. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        match self {
            Self::Process(signals) => signals.next().await,
            Self::Channel(receiver) => match receiver.recv().await {
                Some(signal) => signal,
                None => {
                    *self = Self::Ended;
                    Signal::Terminate
                }
            },
            Self::Ended => std::future::pending().await,
        }
    }
}

/// Passes on what signals say, the `early` ones first. Nobody waits for the answers. Never ends.
pub(crate) async fn obey(mut signals: SignalStream, early: Vec<Signal>, provider: Provider) {
    let mut early = early.into_iter();
    loop {
        let signal = match early.next() {
            Some(signal) => signal,
            None => signals.next().await,
        };
        debug!(?signal, "signal");
        let told = match signal {
            Signal::Terminate | Signal::Interrupt => stop(&provider, StopReason::User, true).await,
            Signal::Quit => stop(&provider, StopReason::Restart, true).await,
            Signal::TunnelDown => stop(&provider, StopReason::User, false).await,
            Signal::TunnelUp => provider.tell(Order::Reconnect).await,
            Signal::Reload => provider.tell(Order::Reload).await,
        };
        if told.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn stop(provider: &Provider, reason: StopReason, exit: bool) -> Result<(), Refused> {
    provider.tell(|answer| Order::Stop { reason, exit, answer }).await
}
