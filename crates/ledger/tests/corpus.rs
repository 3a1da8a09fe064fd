//! Replays the corpus of the fuzz target for files of the ledger: what it ever found stays found.
#![expect(
    clippy::disallowed_methods,
    reason = "the inputs are files; the crate itself reads none"
)]

use std::path::Path;

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
