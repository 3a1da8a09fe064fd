//! Replays the corpora of the fuzz targets: what they ever found stays found.
#![expect(
    clippy::disallowed_methods,
    reason = "the inputs are files; the crate itself reads none"
)]

use std::path::Path;

#[path = "../../../tests/fuzz/src/offloads.rs"]
#[expect(unreachable_pub, reason = "the fuzzer includes the file as well")]
mod offloads;

/// What a target does with its bytes.
type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 3] = [
    ("super_packet", offloads::super_packet),
    ("bundle", offloads::bundle),
    ("packets", offloads::packets),
];

#[test]
fn every_corpus_runs_through_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for (name, target) in TARGETS {
        let folder = corpora.join(name);
        let files: Vec<_> = std::fs::read_dir(&folder).expect("a corpus for each target").collect();
        assert!(files.len() >= 2, "{} has {} inputs", folder.display(), files.len());
        for file in files {
            let path = file.expect("a readable corpus").path();
            target(&std::fs::read(&path).expect("a readable input"));
        }
    }
}
