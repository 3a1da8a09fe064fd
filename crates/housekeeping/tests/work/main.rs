//! A worker on a real disk, with real executables as hooks and a real HTTP server as collector.

mod chores;
mod desk;
mod hooks;
mod stops;
mod uploads;
