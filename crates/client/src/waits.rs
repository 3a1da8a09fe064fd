//! Waiting for what may not be there: for ever, if it is not. All of it cancel safe.

use lifecycle::Generation;

use crate::attempt::{Failure, Opened};
use crate::host::InstallError;
use crate::opening::{Opening, Prepared};
use crate::pump::{Pump, PumpEvent};
use crate::shell::{Boxed, Running};

pub(crate) async fn optional<T>(future: &mut Option<Boxed<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

pub(crate) async fn running(attempt: &mut Option<Running>) -> (Running, Result<Box<Opened>, Failure>) {
    if let Some(running) = attempt {
        let result = (&mut running.result).await;
        if let Some(running) = attempt.take() {
            return (running, result);
        }
    }
    std::future::pending().await
}

pub(crate) async fn opening(opening: &mut Option<Opening>) -> (Opening, Result<Box<Prepared>, InstallError>) {
    if let Some(running) = opening {
        let result = (&mut running.work).await;
        if let Some(opening) = opening.take() {
            return (opening, result);
        }
    }
    std::future::pending().await
}

pub(crate) async fn pumping(pump: &mut Option<(Generation, Pump)>) -> PumpEvent {
    match pump {
        Some((_, pump)) => pump.next().await,
        None => std::future::pending().await,
    }
}
