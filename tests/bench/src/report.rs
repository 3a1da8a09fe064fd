//! Tables for people, on standard output and in the document. What stands outside the marks there is written by people and stays.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::figures::{Row, Sample, row};
use crate::floors::{Floor, Verdict};

const BEGIN: &str = "<!-- measured: begin; written by `cargo xtask bench` -->";
const END: &str = "<!-- measured: end -->";

/// What a document begins with if there is none.
const HEAD: &str = "# Performance\n\n";

/// How it was measured.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command that did it.
    pub command: String,
    /// Rounds.
    pub rounds: usize,
    /// How long each load lasted, in seconds.
    pub seconds: u32,
    /// The name of the plot, beside the document.
    pub plot: String,
    /// Versions of what was measured.
    pub versions: Vec<String>,
}

type Column = (&'static str, fn(&Sample) -> f64);

const RATES: &[Column] = &[
    ("TCP 1, Gbit/s", |s| s.tcp1),
    ("TCP 4", |s| s.tcp4),
    ("reverse", |s| s.reverse),
    ("100 B, kpps", |s| s.small),
    ("RTT quiet, ms", |s| s.quiet),
    ("RTT loaded, ms", |s| s.loaded),
];

const COSTS: &[Column] = &[
    ("both ends, s/GB", |s| s.cpu),
    ("machine, s/GB", |s| s.machine),
    ("softirq of it", |s| s.softirq),
    ("us a packet at 20 kpps", |s| s.packet),
    ("client, MiB", |s| s.client),
    ("gateway, MiB", |s| s.gateway),
    ("start, ms", |s| s.start),
    ("stop told, ms", |s| s.told),
    ("stop gone, ms", |s| s.gone),
    ("bytes a packet on the cable", |s| s.wire),
];

/// Everything that was measured, as Markdown.
pub fn text(run: &Run, rows: &[Row], floors: &[Floor]) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    say(format!("```\n{}\n```\n", run.command));
    say(format!(
        "{}. {} rounds in which all take turns, medians; each load lasts {} s.\n",
        machine(),
        run.rounds,
        run.seconds
    ));
    say(format!("![TCP and what it costs]({})\n", run.plot));
    say(format!("### Rates\n\n{}", table(rows, RATES)));
    say(format!("### Costs\n\n{}", table(rows, COSTS)));
    say(format!(
        "### Ratios\n\nMedians of the ratios within each round.\n\n{}",
        ratios(rows)
    ));
    say(format!("### What must be reached\n\n{}", bars(floors)));
    let problems: Vec<&Row> = rows.iter().filter(|row| row.problem.is_some()).collect();
    if !problems.is_empty() {
        say("### Not measured, or not in each round\n".to_owned());
        for row in problems {
            say(format!(
                "- {}: {}",
                row.entry.name,
                row.problem.as_deref().unwrap_or_default().replace('\n', " ")
            ));
        }
        say(String::new());
    }
    if !run.versions.is_empty() {
        say(format!("Versions: {}.", run.versions.join(", ")));
    }
    text
}

/// Puts `measured` between the marks of the document at `path`; without a document, makes one.
///
/// # Errors
/// If it cannot be written, or has one mark without the other.
pub fn write(path: &Path, measured: &str) -> Result<()> {
    let old = fs::read_to_string(path).unwrap_or_else(|_| format!("{HEAD}{BEGIN}\n{END}\n"));
    let new = replaced(&old, measured).with_context(|| format!("{} lacks its two marks", path.display()))?;
    fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(old: &str, measured: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", measured.trim_end()))
}

fn table(rows: &[Row], columns: &[Column]) -> String {
    let mut text = format!(
        "| |{}\n|---|",
        columns.iter().map(|(name, _)| format!(" {name} |")).collect::<String>()
    );
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for row in rows.iter().filter(|row| row.is_measured()) {
        let cells = columns
            .iter()
            .map(|(_, of)| row.median(of).map_or_else(|| "-".to_owned(), figure));
        let _ = writeln!(
            text,
            "| {} | {} |",
            row.entry.name,
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
    text
}

/// Our ends over each other row.
fn ratios(rows: &[Row]) -> String {
    let mut text = "| marmot, DTLS, over | TCP 1 | TCP 4 | reverse | 100 B |\n|---|---|---|---|---|\n".to_owned();
    let Some(ours) = row(rows, "marmot") else {
        return text;
    };
    let ways: [fn(&Sample) -> f64; 4] = [|s| s.tcp1, |s| s.tcp4, |s| s.reverse, |s| s.small];
    for other in rows.iter().filter(|row| row.is_measured() && row.entry.id != "marmot") {
        let cells = ways
            .iter()
            .map(|way| ours.ratio(other, way).map_or_else(|| "-".to_owned(), figure));
        let _ = writeln!(
            text,
            "| {} | {} |",
            other.entry.name,
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
    text
}

fn bars(floors: &[Floor]) -> String {
    let mut text = "| | floor | goal | measured | |\n|---|---|---|---|---|\n".to_owned();
    for floor in floors {
        let verdict = match floor.verdict() {
            Verdict::Goal => "goal",
            Verdict::Held => "floor",
            Verdict::Missed => "**missed**",
            Verdict::NotMeasured => "not measured",
        };
        let measured = floor.measured.map_or_else(|| "-".to_owned(), figure);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {measured} | {verdict} |",
            floor.what,
            figure(floor.floor),
            figure(floor.goal)
        );
    }
    text
}

/// Two or three digits that mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What the machine is, without its name.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = field("model name").unwrap_or_else(|| "unknown".to_owned());
    let kind = if cpu.contains(" hypervisor") {
        "a virtual one"
    } else {
        "a real one"
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    format!("Machine: {kind} with {cores} processors ({model}), Linux {kernel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_around_the_figures_stays() {
        let old = format!("# P\n\nbefore\n\n{BEGIN}\nold figures\n{END}\n\nafter\n");
        let new = replaced(&old, "new figures\n").unwrap();
        assert_eq!(
            new,
            format!("# P\n\nbefore\n\n{BEGIN}\n\nnew figures\n\n{END}\n\nafter\n")
        );
        assert_eq!(replaced("no marks", "x"), None);
        assert_eq!(replaced(&new, "new figures").as_deref(), Some(new.as_str()));
    }

    #[test]
    fn figures_have_as_many_digits_as_mean_something() {
        assert_eq!(
            [figure(0.047), figure(5.25), figure(18.31), figure(317.2)],
            ["0.05", "5.25", "18.3", "317"]
        );
    }
}
