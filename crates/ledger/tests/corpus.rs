//! Replays the corpus of the fuzz target for files of the ledger: what it ever found stays found.
#![expect(
    clippy::disallowed_methods,
    reason = "the inputs are files; the crate itself reads none"
)]

use std::path::Path;

use ledger::{Damage, HistoryEntry, Job, OpenRecord, Record};

#[path = "../../../tests/fuzz/src/records.rs"]
#[expect(unreachable_pub, reason = "the fuzzer includes the file as well")]
mod records;

#[test]
fn every_file_of_the_corpus_runs_through_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/ledger_record");
    let files: Vec<_> = std::fs::read_dir(folder).expect("a corpus").collect();
    assert!(files.len() >= 2, "{} inputs", files.len());
    for file in files {
        let path = file.expect("a readable corpus").path();
        records::ledger_record(&std::fs::read(&path).expect("a readable input"));
    }
}

#[test]
fn records_of_version_1_are_still_read() {
    assert!(
        OpenRecord::from_bytes(include_bytes!(
            "../../../tests/fuzz/corpus/ledger_record/open-with-undo"
        ))
        .is_ok()
    );
    assert!(Job::from_bytes(include_bytes!("../../../tests/fuzz/corpus/ledger_record/waiting-job")).is_ok());
    assert!(Job::from_bytes(include_bytes!("../../../tests/fuzz/corpus/ledger_record/gateway-job")).is_ok());
    assert!(HistoryEntry::from_bytes(include_bytes!("../../../tests/fuzz/corpus/ledger_record/history-entry")).is_ok());
}

#[test]
fn a_field_of_a_later_program_is_passed_over_and_a_chore_of_one_is_not() {
    let field = include_bytes!("../../../tests/fuzz/corpus/ledger_record/unknown-field");
    assert!(OpenRecord::from_bytes(field).is_ok());
    let chore = include_bytes!("../../../tests/fuzz/corpus/ledger_record/unknown-chore");
    assert_eq!(OpenRecord::from_bytes(chore), Err(Damage::Content));
}
