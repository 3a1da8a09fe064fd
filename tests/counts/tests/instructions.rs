//! The hot functions take no more instructions than they did: a number that does not depend on what else the machine does.
//!
//! ```text
//!   count(2 N) - count(N)              instructions of N calls, without start, set-up and first allocations
//!   ---------------------
//!            N                         counted by callgrind, in our own program only: what libc does depends on the processor
//! ```
//! The AEAD is chosen by the processor as well, so it is taken off: `seal` is what is ours of it, `open` too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Calls in the shorter run. Enough that one call's share of what happens now and then does not matter.
const CALLS: u32 = 20;

/// How far a count may be from the baseline, in percent, if the same compiler made it.
const TOLERANCE: f64 = 5.0;

/// The same for another compiler: its choices are not ours.
const TOLERANCE_OTHER: f64 = 40.0;

/// What the baseline is for. Another kind of processor has other instructions.
const ARCHITECTURE: &str = "x86_64";

type Counts = BTreeMap<&'static str, f64>;

#[test]
fn the_hot_functions_take_no_more_instructions_than_they_did() {
    if ARCHITECTURE != env::consts::ARCH {
        println!(
            "SKIPPED the_hot_functions_take_no_more_instructions_than_they_did: the baseline is for {ARCHITECTURE}"
        );
        return;
    }
    if let Some(reason) = obstacle() {
        println!("SKIPPED the_hot_functions_take_no_more_instructions_than_they_did: {reason}");
        assert!(!required(), "MARMOT_LAB=required forbids skipping, but {reason}");
        return;
    }
    let counts = count();
    let told = table(&counts);
    println!("{told}");
    if env::var_os("MARMOT_COUNTS").is_some_and(|value| value == "update") {
        fs::write(baseline(), format!("{HEAD}compiler {}\n{told}", compiler())).expect("the baseline can be written");
        return;
    }
    let text = fs::read_to_string(baseline()).expect("there is a baseline");
    let wrong = compare(&counts, &text, &compiler());
    assert!(wrong.is_empty(), "{}\n{ADVICE}", wrong.join("\n"));
}

const HEAD: &str = "\
# Instructions of one call of each hot function, counted by `cargo test -p counts`; see docs/TESTING.md.
# Made anew by `MARMOT_COUNTS=update cargo test -p counts`.
";

const ADVICE: &str =
    "If that is meant, `MARMOT_COUNTS=update cargo test -p counts` makes a new baseline; say in the commit why.";

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.txt")
}

fn table(counts: &Counts) -> String {
    counts.iter().fold(String::new(), |mut text, (name, count)| {
        let _ = writeln!(text, "{name} {count:.0}");
        text
    })
}

/// What differs too much, in words.
fn compare(counts: &Counts, baseline: &str, compiler: &str) -> Vec<String> {
    let same = baseline.lines().any(|line| line == format!("compiler {compiler}"));
    let tolerance = if same { TOLERANCE } else { TOLERANCE_OTHER };
    let mut wrong = Vec::new();
    for (name, count) in counts {
        let line = baseline
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let Some(before) = line.and_then(|line| line.parse::<f64>().ok()) else {
            wrong.push(format!("{name}: {count:.0} instructions, and none in the baseline"));
            continue;
        };
        let change = (count - before) / before * 100.0;
        if change.abs() > tolerance {
            wrong.push(format!(
                "{name}: {count:.0} instructions instead of {before:.0} ({change:+.1} %, {tolerance} are allowed)"
            ));
        }
    }
    wrong
}

fn count() -> Counts {
    let all: BTreeMap<&str, f64> = counts::ALL.iter().map(|(name, _)| (*name, one(name))).collect();
    let seal = all["seal"] - all["bare_seal"];
    let record = all["record"] - all["bare_record"];
    Counts::from([
        ("segment", all["segment"]),
        ("coalesce", all["coalesce"]),
        ("checksum", all["checksum"]),
        ("access_10", all["access_10"]),
        ("access_1000", all["access_1000"]),
        ("seal", seal),
        ("open", record - seal),
    ])
}

/// Instructions of one call.
fn one(name: &str) -> f64 {
    let folder = tempfile::tempdir().expect("there is room for a file");
    let run = |times: u32| {
        let file = folder.path().join(times.to_string());
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--dump-line=no", "--quiet"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(env!("CARGO_BIN_EXE_counts"))
            .args([name, &times.to_string()])
            .output()
            .expect("valgrind can be started: it was found before");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "valgrind ended with {}: {said}", output.status);
        ours(&fs::read_to_string(file).expect("callgrind writes its counts"))
    };
    let (short, long) = (run(CALLS), run(2 * CALLS));
    assert!(
        long > short,
        "{name}: {long} instructions of twice as many calls, {short} of these"
    );
    (long - short) as f64 / f64::from(CALLS)
}

/// The instructions in our own program of what callgrind wrote (its manual, section "Callgrind Format Specification").
///
/// ```text
///   ob=(2) /path/counts    the object of what follows; later only ob=(2)
///   fn=(17) a_function
///   0 1234                 position and instructions
///   calls=1 0
///   0 5678                 of the function that was called: counted there
/// ```
fn ours(text: &str) -> u64 {
    let mut names: BTreeMap<&str, bool> = BTreeMap::new();
    let (mut own, mut called, mut sum) = (false, false, 0);
    for line in text.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            let (number, name) = object.split_once(' ').unwrap_or((object, ""));
            if !name.is_empty() {
                names.insert(number, Path::new(name).file_name().is_some_and(|name| name == "counts"));
            }
            own = names.get(number).copied().unwrap_or(false);
        } else if line.starts_with("calls=") {
            called = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let count: u64 = line.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
            if own && !called {
                sum += count;
            }
            called = false;
        } else if let Some(object) = line.strip_prefix("cob=") {
            // Objects are named where they are met first, and that may be in a call.
            if let Some((number, name)) = object.split_once(' ') {
                names.insert(number, Path::new(name).file_name().is_some_and(|name| name == "counts"));
            }
        }
    }
    sum
}

fn obstacle() -> Option<String> {
    let found = Command::new("valgrind").arg("--version").output();
    found.is_err().then(|| "valgrind is not installed".to_owned())
}

fn required() -> bool {
    env::var_os("MARMOT_LAB").is_some_and(|value| value == "required")
}

fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("the compiler built this");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn only_what_our_own_program_did_itself_is_counted() {
    let text = "\
events: Ir
ob=(1) /lib/libc.so.6
fn=(1) memcpy
0 100
ob=(2) /target/debug/counts
fn=(2) work
0 7
cob=(1)
cfn=(1)
calls=3 0
0 100
+3 2
ob=(1)
fn=(3)
0 50
ob=(2)
fn=(4) other
0 11
";
    assert_eq!(ours(text), 20);
}

#[test]
fn a_count_that_grew_or_fell_too_far_or_is_new_is_found() {
    let counts = Counts::from([
        ("checksum", 104.0),
        ("coalesce", 94.0),
        ("seal", 106.0),
        ("segment", 9.0),
    ]);
    let baseline = "compiler rustc 1\nchecksum 100\ncoalesce 100\nseal 100\n";
    let wrong = compare(&counts, baseline, "rustc 1");
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(wrong[0].starts_with("coalesce: 94") && wrong[1].starts_with("seal: 106"));
    assert!(wrong[2].contains("none in the baseline"));
    assert_eq!(
        compare(&counts, baseline, "rustc 2").len(),
        1,
        "another compiler may choose otherwise"
    );
}
