//! Replays the corpora of the fuzz targets: what they ever found stays found, and what real peers said is understood.
#![expect(
    clippy::disallowed_methods,
    reason = "the inputs are files; the crate itself reads none"
)]
#![expect(
    clippy::disallowed_macros,
    reason = "a fuzz target keeps connections from one input to the next"
)]

use std::path::{Path, PathBuf};

#[path = "../../../tests/fuzz/src/datagrams.rs"]
#[expect(unreachable_pub, reason = "the fuzzer includes the file as well")]
mod datagrams;

/// What a target does with its bytes.
type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 5] = [
    ("dtls_client", datagrams::dtls_client),
    ("dtls_server", datagrams::dtls_server),
    ("dtls_peek", datagrams::dtls_peek),
    ("dtls_open", datagrams::dtls_open),
    ("dtls_reassembly", datagrams::dtls_reassembly),
];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target)
}

fn input(target: &str, name: &str) -> Vec<u8> {
    std::fs::read(corpus(target).join(name)).expect("a readable input")
}

#[test]
fn every_corpus_runs_through_its_target() {
    for (name, target) in TARGETS {
        let files: Vec<_> = std::fs::read_dir(corpus(name)).expect("a corpus").collect();
        assert!(files.len() >= 2, "{name} has {} inputs", files.len());
        for file in files {
            target(&std::fs::read(file.expect("a readable corpus").path()).expect("a readable input"));
        }
    }
}

/// Recorded from OpenSSL 3.0 and GnuTLS 3.7 servers, which answered this client with this random: a client that derives
/// other keys, or hashes other messages, than they do is not established.
#[test]
fn what_openssl_and_gnutls_servers_said_establishes_a_client() {
    let recorded = [
        ("openssl-a8", "hi from openssl\n"),
        ("openssl-a9-listen", "hi from openssl\n"),
        ("gnutls-ccab", "hello from marmot\n"),
        ("lost-and-late", "hi from openssl\n"),
    ];
    for (name, data) in recorded {
        let run = datagrams::run_client(&input("dtls_client", name));
        assert!(run.established, "{name}");
        assert_eq!(run.data, [data.as_bytes()], "{name}");
    }
    assert!(datagrams::run_client(&input("dtls_client", "alert-of-epoch-0")).established);
    assert!(!datagrams::run_client(&input("dtls_client", "plaintext-finished")).established);
}

/// Recorded from clients of both, against a server with this random.
#[test]
fn what_openssl_and_gnutls_clients_said_establishes_a_server() {
    let recorded = [
        ("openssl-a8", "hi from openssl client\n", false),
        ("openssl-ccab-cookie", "hi from openssl client\n", false),
        ("finished-before-change", "hi from openssl client\n", false),
        ("gnutls-a9", "hi from gnutls client\n", true),
        ("gnutls-a9-no-secret", "hi from gnutls client\n", true),
        ("gnutls-compat", "hi from gnutls client\n", true),
    ];
    for (name, data, closed) in recorded {
        let run = datagrams::run_server(&input("dtls_server", name));
        assert!(run.established, "{name}");
        assert_eq!(
            (run.data, run.closed),
            (vec![data.as_bytes().to_vec()], closed),
            "{name}"
        );
    }
    for name in [
        "plaintext-finished",
        "highest-message-sequence",
        "highest-record-sequence",
    ] {
        assert!(
            !datagrams::run_server(&input("dtls_server", name)).established,
            "{name}"
        );
    }
}
