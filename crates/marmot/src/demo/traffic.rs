//! Act 2: packets and data go through the tunnel.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::stage::Stage;
use super::story::line;
use super::{http, setup, stream, world};

/// Pings to each address.
const PINGS: usize = 5;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// How long the download may take: so long, and a second more for every so many bytes (32 Mbit/s).
const DOWNLOAD: Duration = Duration::from_secs(20);
const SLOWEST: u64 = 4 << 20;

/// Plain lines of progress, where no bar can move.
const STEPS: u64 = 4;

/// The seed of the data; any number does.
const SEED: u64 = 0x6d61_726d_6f74;

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    stage.story.act("Pings and a download through the tunnel");
    ping(stage, world::HOST.into())?;
    if stage.ipv6() {
        ping(stage, world::HOST_V6.into())?;
    }
    download(stage)?;
    Ok(())
}

fn ping(stage: &mut Stage, to: IpAddr) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..PINGS {
        times.push(stage.ping(to, ANSWER)?);
    }
    let list: Vec<String> = times
        .iter()
        .map(|time| format!("{:.2}", time.as_secs_f64() * 1e3))
        .collect();
    stage
        .story
        .fact(&format!("ping {to}"), format!("{} ms", list.join(", ")));
    stage
        .story
        .claim(format!("{to} on the LAN answers every ping"), times.len() == PINGS);
    Ok(())
}

fn download(stage: &mut Stage) -> Result<()> {
    let size = stage.size;
    let mebibytes = size >> 20;
    let before = stage.device_counters()?;
    let mut progress = Progress::new(size, stage.bar);
    let limit = DOWNLOAD + Duration::from_secs(size / SLOWEST);
    let download = stage.get(&http::data_path(SEED, size), limit, &mut |arrived| {
        progress.show(arrived)
    });
    progress.end();
    let download = download?;
    let after = stage.device_counters()?;

    let speed = download.megabits_per_second();
    let seconds = download.took.as_secs_f64();
    stage.story.fact(
        "throughput",
        format!("{mebibytes} MiB in {seconds:.2} s: {speed:.0} Mbit/s"),
    );
    let expected = stream::expected_hash(SEED, size);
    stage.story.fact("sha-256 sent", &expected);
    stage.story.fact("sha-256 received", &download.sha256);
    let equal = download.sha256 == expected && download.bytes == size;
    stage
        .story
        .claim(format!("{mebibytes} MiB downloaded, hash equal"), equal);
    if let (Some(before), Some(after)) = (before, after) {
        let carried = after.received_bytes.saturating_sub(before.received_bytes);
        stage.story.claim(
            format!(
                "all of it came through {}: the kernel counted {carried} bytes there",
                setup::DEVICE
            ),
            carried >= size,
        );
    }
    Ok(())
}

/// How far the download is: a bar that moves, or a line per quarter.
enum Progress {
    Bar(ProgressBar),
    Lines { size: u64, next: u64 },
}

impl Progress {
    fn new(size: u64, bar: bool) -> Self {
        if !bar {
            return Self::Lines { size, next: 1 };
        }
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("   {bar:40} {bytes:>11} of {total_bytes}  {bytes_per_sec}");
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        Self::Bar(bar)
    }

    fn show(&mut self, arrived: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(arrived),
            Self::Lines { size, next } => {
                while *next <= STEPS && arrived >= *size / STEPS * *next {
                    line(&format!("   {:3} % of {} MiB", 100 / STEPS * *next, *size >> 20));
                    *next += 1;
                }
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
