//! `init`, `check` and `user` as a shell sees them: files, answers, exit codes.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use config::users::Users;
use tempfile::TempDir;

const OK: Option<i32> = Some(0);
const ERROR: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const CONFIG: Option<i32> = Some(3);

/// Runs marmot in `dir` with `words` as arguments and `input` on standard input.
fn marmot_with(dir: &Path, words: &str, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_marmot"))
        .args(words.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the binary ends")
}

fn marmot(dir: &Path, words: &str) -> Output {
    marmot_with(dir, words, "")
}

#[track_caller]
fn ends(output: &Output, code: Option<i32>) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), code, "{text}");
    text
}

/// A folder with what `marmot init gateway` writes.
fn gateway() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let words = "init gateway --dir gw --name vpn.example.com --address 192.0.2.1 --user alice --password-file -";
    ends(&marmot_with(dir.path(), words, "wonderland\n"), OK);
    let gw = dir.path().join("gw");
    (dir, gw)
}

fn chmod(mode: &str, path: &Path) {
    assert!(
        Command::new("chmod")
            .arg(mode)
            .arg(path)
            .status()
            .expect("chmod")
            .success()
    );
}

fn users(gw: &Path) -> Users {
    let text = fs::read_to_string(gw.join("users.toml")).expect("the users file");
    Users::parse(&text, "users.toml").expect("a good users file")
}

#[test]
fn a_password_from_standard_input_passes_the_check() {
    let dir = tempfile::tempdir().expect("a folder");
    let toml = "[gateway]\nurl = \"https://vpn.example.com\"\n[login]\nuser = \"alice\"\npassword_file = \"-\"\n";
    fs::write(dir.path().join("client.toml"), toml).expect("written");
    ends(&marmot(dir.path(), "check client.toml"), OK);
}

#[test]
fn what_init_writes_for_a_gateway_passes_the_check() {
    let (dir, gw) = gateway();
    let text = ends(&marmot(dir.path(), "check gw/gateway.toml"), OK);
    // Whole days are shown; a second after its making a certificate of 730 days has 729 of them.
    let expiry = |days| {
        text.contains(&format!(
            "server.pem: vpn.example.com, 192.0.2.1, expires in {days} days"
        ))
    };
    assert!(expiry(730) || expiry(729), "{text}");
    assert!(text.contains("server.key: belongs to the certificate"), "{text}");
    assert!(text.contains("users.toml: one user"), "{text}");
    ends(&marmot(dir.path(), "check gw/users.toml"), OK);
    let hash = users(&gw).0["alice"].password.clone().expect("a hash");
    assert!(::gateway::password::verify("wonderland", &hash));
}

#[test]
fn a_random_password_is_shown_once_and_kept_as_a_hash() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = ends(&marmot(dir.path(), "init gateway --dir . --name vpn.example.com"), OK);
    let shown = text
        .lines()
        .find(|line| line.starts_with("Password of alice"))
        .expect("the password");
    let password = shown.rsplit(' ').next().expect("a word");
    let hash = users(dir.path()).0["alice"].password.clone().expect("a hash");
    assert!(::gateway::password::verify(password, &hash));
}

#[test]
fn what_init_writes_for_a_client_passes_the_check() {
    let (dir, _) = gateway();
    let words = "init client --dir cl --gateway https://vpn.example.com:8443 --user alice --certificate-from gw \
                 --password-file - --name work";
    ends(&marmot_with(dir.path(), words, "wonderland\n"), OK);
    let text = ends(&marmot(dir.path(), "check cl/work.toml"), OK);
    assert!(
        text.contains("work.pem: CN=alice, uid=alice, expires in 730 days"),
        "{text}"
    );
    assert!(text.contains("work.key: belongs to the certificate"), "{text}");
    assert!(text.contains("work.password: readable by its owner only"), "{text}");

    ends(
        &marmot(
            dir.path(),
            "init client --dir plain --gateway https://vpn.example.com --ca gw/ca.pem",
        ),
        OK,
    );
    ends(&marmot(dir.path(), "check plain/client.toml"), OK);
}

#[test]
fn a_client_and_a_gateway_share_a_folder() {
    let (dir, _) = gateway();
    let words = "init client --dir gw --gateway https://vpn.example.com --ca gw/ca.pem --user alice";
    ends(&marmot(dir.path(), words), OK);
    ends(&marmot(dir.path(), "check gw/client.toml"), OK);
    ends(&marmot(dir.path(), "check gw/gateway.toml"), OK);
}

#[test]
fn init_replaces_nothing_unless_told_to() {
    let (dir, gw) = gateway();
    let before = fs::read(gw.join("ca.key")).expect("the key");
    fs::remove_file(gw.join("server.pem")).expect("removed");
    let again = "init gateway --dir gw --name vpn.example.com";
    let text = ends(&marmot(dir.path(), again), ERROR);
    assert!(
        text.contains("nothing was written") && text.contains("--force"),
        "{text}"
    );
    assert_eq!(fs::read(gw.join("ca.key")).expect("the key"), before);
    assert!(!gw.join("server.pem").exists());
    ends(&marmot(dir.path(), &format!("{again} --force")), OK);
    assert_ne!(fs::read(gw.join("ca.key")).expect("the key"), before);
    ends(&marmot(dir.path(), "check gw/gateway.toml"), OK);
}

#[test]
fn init_refuses_what_check_would() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = ends(
        &marmot(
            dir.path(),
            "init gateway --dir . --name a --route 10.0.0.0/8 --route 10.1.0.0/16",
        ),
        CONFIG,
    );
    assert!(text.contains("10.1.0.0/16 overlaps 10.0.0.0/8"), "{text}");
    ends(
        &marmot(dir.path(), "init client --dir . --gateway http://vpn.example.com"),
        USAGE,
    );
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 0);
}

#[test]
fn users_come_change_and_go() {
    let (dir, gw) = gateway();
    let add = "user add --users gw/users.toml --ipv4 10.78.0.9 bob";
    let text = ends(&marmot_with(dir.path(), add, "builder\n"), OK);
    assert!(text.contains("SIGHUP"), "{text}");
    let bob = users(&gw).0["bob"].clone();
    assert!(::gateway::password::verify(
        "builder",
        bob.password.as_deref().expect("a hash")
    ));
    assert_eq!(bob.ipv4, "10.78.0.9".parse().ok());

    ends(
        &marmot_with(dir.path(), "user passwd --users gw/users.toml bob", "architect\n"),
        OK,
    );
    let bob = users(&gw).0["bob"].clone();
    assert!(::gateway::password::verify(
        "architect",
        bob.password.as_deref().expect("a hash")
    ));

    ends(
        &marmot(dir.path(), "user add --users gw/users.toml --no-password carol"),
        OK,
    );
    let text = ends(&marmot(dir.path(), "user list --users gw/users.toml"), OK);
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["alice", "bob", "carol"]);

    ends(&marmot(dir.path(), "user remove --users gw/users.toml alice"), OK);
    assert!(!users(&gw).0.contains_key("alice"));
    ends(&marmot(dir.path(), "check gw/gateway.toml"), OK);
}

#[test]
fn a_wrong_user_command_changes_nothing() {
    let (dir, gw) = gateway();
    let before = users(&gw);
    for (words, input, code) in [
        ("user add --users gw/users.toml alice", "x\n", ERROR),
        ("user add --users gw/users.toml bob", "", ERROR),
        ("user passwd --users gw/users.toml bob", "x\n", ERROR),
        ("user remove --users gw/users.toml bob", "", ERROR),
        ("user add --users gw/users.toml -- -rf", "x\n", USAGE),
        ("user list --users gw/none.toml", "", CONFIG),
    ] {
        ends(&marmot_with(dir.path(), words, input), code);
    }
    assert_eq!(users(&gw), before);
}

#[test]
fn a_reservation_given_twice_is_not_written() {
    let (dir, gw) = gateway();
    ends(
        &marmot(
            dir.path(),
            "user add --users gw/users.toml --no-password --ipv4 10.78.0.9 bob",
        ),
        OK,
    );
    let before = users(&gw);
    let text = ends(
        &marmot(
            dir.path(),
            "user add --users gw/users.toml --no-password --ipv4 10.78.0.9 carol",
        ),
        CONFIG,
    );
    assert!(text.contains("10.78.0.9 is reserved for users.bob already"), "{text}");
    assert_eq!(users(&gw), before);
}

#[test]
fn check_looks_into_the_files_that_are_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 9] = [
        ("server.pem: cannot be read: No such file", |gw| {
            fs::remove_file(gw.join("server.pem")).expect("removed")
        }),
        ("server.pem: there is no certificate in it", |gw| {
            fs::write(gw.join("server.pem"), "x").expect("written")
        }),
        ("server.key: there is no private key in it", |gw| {
            fs::write(gw.join("server.key"), "x").expect("written")
        }),
        ("server.key: does not belong to the certificate", |gw| {
            fs::copy(gw.join("ca.key"), gw.join("server.key"))
                .map(drop)
                .expect("copied");
        }),
        ("others may read or change it (mode 0644); run `chmod 600", |gw| {
            chmod("644", &gw.join("server.key"))
        }),
        ("the certificate expired", |gw| write_expired(&gw.join("server.pem"))),
        ("ca.pem: the certificate is not that of an authority", |gw| {
            fs::copy(gw.join("server.pem"), gw.join("ca.pem"))
                .map(drop)
                .expect("copied");
        }),
        (
            "users.toml:2:1: users.alice.pasword: unknown key in [users.alice]; did you mean `password`?",
            |gw| {
                fs::write(gw.join("users.toml"), "[users.alice]\npasword = \"x\"\n").expect("written");
            },
        ),
        ("others may read or change it (mode 0666)", |gw| {
            chmod("666", &gw.join("users.toml"))
        }),
    ];
    for (expected, damage) in cases {
        let (dir, gw) = gateway();
        damage(&gw);
        let text = ends(&marmot(dir.path(), "check gw/gateway.toml"), CONFIG);
        assert!(text.contains(expected), "expected {expected:?} in:\n{text}");
    }
}

fn write_expired(path: &Path) {
    let mut params = rcgen::CertificateParams::new(["vpn.example.com".to_string()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    fs::write(path, params.self_signed(&key).expect("a certificate").pem()).expect("written");
}

#[test]
fn check_explains_a_bad_configuration_and_what_it_cannot_guess() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.toml"), "[listen]\nadress = []\n[pool]\n").expect("written");
    let text = ends(&marmot(dir.path(), "check a.toml"), CONFIG);
    assert!(
        text.contains("a.toml:2:1: listen.adress: unknown key in [listen]; did you mean `addresses`?"),
        "{text}"
    );
    assert!(text.contains("  2 | adress = []\n    | ^^^^^^"), "{text}");

    fs::write(dir.path().join("b.toml"), "[log]\n").expect("written");
    assert!(ends(&marmot(dir.path(), "check b.toml"), CONFIG).contains("--kind"));
    assert!(ends(&marmot(dir.path(), "check b.toml --kind client"), CONFIG).contains("gateway.url: is missing"));
    fs::write(dir.path().join("c.toml"), b"\xff").expect("written");
    assert!(ends(&marmot(dir.path(), "check c.toml"), CONFIG).contains("is not UTF-8"));
    assert!(ends(&marmot(dir.path(), "check none.toml"), CONFIG).contains("cannot be read"));
}

#[test]
fn a_daemon_with_a_bad_configuration_ends_with_its_exit_code() {
    let dir = tempfile::tempdir().expect("a folder");
    for command in ["client", "gateway"] {
        ends(&marmot(dir.path(), &format!("{command} -c none.toml")), CONFIG);
    }
    ends(&marmot(dir.path(), "nonsense"), USAGE);
}
