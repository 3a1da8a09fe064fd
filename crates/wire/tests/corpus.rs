//! Replays the corpora of the fuzz targets: what they ever found stays found.
#![expect(
    clippy::disallowed_methods,
    reason = "the inputs are files; the crate itself reads none"
)]

use std::path::Path;

#[path = "../../../tests/fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the file is a library of its own for the fuzzer")]
mod targets;

#[test]
fn every_corpus_runs_through_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let folder = corpora.join(name);
        let files: Vec<_> = std::fs::read_dir(&folder).expect("a corpus for each target").collect();
        assert!(files.len() >= 2, "{} has {} inputs", folder.display(), files.len());
        for file in files {
            let path = file.expect("a readable corpus").path();
            target(&std::fs::read(&path).expect("a readable input"));
        }
    }
}

#[test]
fn every_corpus_has_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz");
    for folder in std::fs::read_dir(fuzz.join("corpus")).expect("corpora") {
        let name = folder.expect("a readable folder").file_name();
        let target = fuzz.join("fuzz_targets").join(&name).with_extension("rs");
        assert!(target.is_file(), "{name:?} has no target");
    }
}
