//! Where the client's orders come from.

use platform::signals::{Signal, Signals};
use tokio::sync::mpsc;

use crate::ClientError;

/// Where orders come from.
#[derive(Debug, Default)]
pub enum SignalSource {
    /// The signals of this process.
    #[default]
    Process,
    /// Another task of this process. Its end counts as one [`Signal::Terminate`].
    Channel(mpsc::Receiver<Signal>),
}

/// Orders, one after the other.
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
