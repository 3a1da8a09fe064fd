//! Damaged files are refused or read, never a panic: every line of the samples dropped, doubled and torn.

use std::path::Path;

use config::Kind;
use config::client::ClientConfig;
use config::gateway::GatewayConfig;
use config::users::Users;

const CLIENT: &str = include_str!("../../../config/client.toml");
const GATEWAY: &str = include_str!("../../../config/gateway.toml");
const USERS: &str = "[users.alice]\npassword = \"$argon2id$v=19$m=1,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\"\n\
                     groups = [\"staff\"]\nipv4 = \"10.78.0.9\"\n[users.\"b@c\"]\ndisabled = true\n";

/// What is put in the place of a value.
const VALUES: [&str; 16] = [
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "0x10",
    "\"\"",
    "\"\\u0000\"",
    "[]",
    "[\"\"]",
    "[[[]]]",
    "{ a = 1 }",
    "true",
    "1979-05-27",
    "9223372036854775807",
];

/// Reads `text` as everything that it could be, and prints the errors as a user would see them.
fn read(text: &str) {
    let base = Path::new("/etc/marmot");
    let _ = Kind::guess(text);
    let _ = ClientConfig::parse(text, "f", base).map_err(|errors| errors.to_string());
    let _ = GatewayConfig::parse(text, "f", base).map_err(|errors| errors.to_string());
    let _ = Users::parse(text, "f").map_err(|errors| errors.to_string());
}

#[test]
fn a_torn_file_is_no_panic() {
    for sample in [CLIENT, GATEWAY, USERS] {
        for end in (0..sample.len()).filter(|end| sample.is_char_boundary(*end)).step_by(7) {
            read(&sample[..end]);
        }
    }
}

#[test]
fn a_wrong_value_is_no_panic() {
    for sample in [CLIENT, GATEWAY, USERS] {
        let lines: Vec<&str> = sample.lines().collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ")) {
            let key = line.split(" = ").next().unwrap_or_default();
            for value in VALUES {
                let changed = format!("{key} = {value}");
                let mut lines = lines.clone();
                lines[index] = &changed;
                read(&lines.join("\n"));
            }
        }
    }
}

#[test]
fn lines_dropped_or_doubled_are_no_panic() {
    for sample in [CLIENT, GATEWAY, USERS] {
        let lines: Vec<&str> = sample.lines().collect();
        for index in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(index);
            read(&fewer.join("\r\n"));
            let mut more = lines.clone();
            more.insert(index, lines[index]);
            read(&more.join("\n"));
        }
    }
}

#[test]
fn a_file_of_mistakes_only_ends_with_a_bounded_answer() {
    let text: String = (0..20_000).map(|n| format!("k{n} = {n}\n")).collect();
    let errors = ClientConfig::parse(&text, "f", Path::new("")).expect_err("no such keys");
    assert!(errors.0.len() <= 200);
    assert!(errors.to_string().len() < 20_000);
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    read(&deep);
}
