//! `marmot sessions` and `marmot kick`: the sessions of a gateway on this host, and the end of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::{Attendance, Client, ClientError, GatewayCounters, GatewaySession, GatewaySessions};

use crate::cli::{GATEWAY_FILE, GatewayTarget, KickArgs, SessionsArgs};
use crate::control::trouble::Trouble;
use crate::control::words;
use crate::exit::{Exit, answer};
use crate::load;

/// Where a gateway listens if its configuration cannot be read by whoever asks.
const DEFAULT_SOCKET: &str = "/run/marmot/_gateway.sock";

/// Characters of a user's name that are shown; a table is no place for 128.
const USER_WIDTH: usize = 24;

pub(super) async fn list(client: &Client, args: &SessionsArgs) -> Result<(), Trouble> {
    let sessions = client.sessions().await.map_err(trouble)?;
    answer(&if args.json {
        api::line(&sessions)
    } else {
        text(&sessions, words::now_unix_ms())
    });
    Ok(())
}

pub(super) async fn kick(client: &Client, args: &KickArgs) -> Result<(), Trouble> {
    let kicked = client.kick(&args.id).await.map_err(trouble)?;
    answer(&if args.json {
        api::line(&kicked)
    } else {
        format!("session {} of {} has ended\n", kicked.id, words::plain(&kicked.user))
    });
    Ok(())
}

/// What is wrong, said of a gateway and not of a tunnel.
fn trouble(error: ClientError) -> Trouble {
    match error {
        ClientError::NotRunning(socket) => {
            let message = format!(
                "no gateway listens at {}; start it with `marmot gateway` or its service",
                socket.display()
            );
            Trouble::new(Exit::NoDaemon, "not_running", message)
        }
        other => other.into(),
    }
}

/// The socket of a gateway.
pub(super) fn socket(target: &GatewayTarget) -> Result<PathBuf, Trouble> {
    socket_with(target, Path::new(GATEWAY_FILE), Path::new(DEFAULT_SOCKET))
}

fn socket_with(target: &GatewayTarget, default_file: &Path, default_socket: &Path) -> Result<PathBuf, Trouble> {
    if let Some(socket) = &target.socket {
        return Ok(socket.clone());
    }
    if let Some(file) = &target.config {
        return configured(file);
    }
    // A host without the file may run no gateway at all: nobody who listens is what is to be said then, and not the file.
    let is_missing = |file: &Path| matches!(file.try_exists(), Ok(false));
    configured(default_file).or_else(|trouble| match default_socket.exists() || is_missing(default_file) {
        true => Ok(default_socket.to_owned()),
        false => Err(trouble),
    })
}

fn configured(file: &Path) -> Result<PathBuf, Trouble> {
    let config = load::gateway(file)?;
    gateway::local_socket(&config).ok_or_else(|| {
        let message = format!("{}: there is no local socket; set api.enabled", file.display());
        Trouble::new(Exit::Config, "config", message)
    })
}

fn text(sessions: &GatewaySessions, now_unix_ms: u64) -> String {
    let mut page = String::new();
    if sessions.sessions.is_empty() {
        page += "no session\n";
    } else {
        page += &row([
            "SESSION",
            "USER",
            "ADDRESSES",
            "STATE",
            "EPOCH",
            "BY",
            "PATH",
            "IN",
            "OUT",
            "DROPPED",
        ]);
    }
    for session in &sessions.sessions {
        page += &line(session, now_unix_ms);
    }
    if sessions.left_out > 0 {
        page += &format!("and {} more\n", sessions.left_out);
    }
    page + &counters(&sessions.counters)
}

fn line(session: &GatewaySession, now_unix_ms: u64) -> String {
    let addresses: Vec<_> = session.addresses.iter().map(ToString::to_string).collect();
    let path = match (session.control, session.data_channel) {
        (true, true) => "tls, dtls",
        (true, false) => "tls",
        (false, true) => "dtls",
        (false, false) => "-",
    };
    let user: String = words::plain(&session.user).chars().take(USER_WIDTH).collect();
    row([
        &session.id,
        &user,
        &addresses.join(","),
        &state(session, now_unix_ms),
        &session.epoch.to_string(),
        &session.entrance.as_deref().map_or("-".to_owned(), words::plain),
        path,
        &session.traffic.packets_in.to_string(),
        &session.traffic.packets_out.to_string(),
        &session.traffic.dropped.to_string(),
    ])
}

fn state(session: &GatewaySession, now_unix_ms: u64) -> String {
    match session.state {
        Attendance::Connected => "connected".to_owned(),
        Attendance::Quiet => "quiet".to_owned(),
        Attendance::Waiting => "waiting".to_owned(),
        Attendance::Parked => {
            let kind = session.parked.as_deref().map_or("?".to_owned(), words::plain);
            let since = session.parked_since_unix_ms.unwrap_or(now_unix_ms);
            format!("parked {kind} {}", words::between(since, now_unix_ms))
        }
    }
}

fn counters(counters: &GatewayCounters) -> String {
    let one = |title: &str, counts: &BTreeMap<String, u64>| {
        let words: Vec<_> = counts
            .iter()
            .map(|(word, count)| format!("{} {count}", words::plain(word)))
            .collect();
        match words.is_empty() {
            true => String::new(),
            false => format!("{title:<13}{}\n", words.join(", ")),
        }
    };
    [
        ("parked", &counters.parks_total),
        ("back", &counters.unparks_total),
        ("disconnected", &counters.disconnects_total),
        ("dropped", &counters.packets_dropped_total),
    ]
    .into_iter()
    .map(|(title, counts)| one(title, counts))
    .collect()
}

fn row([id, user, addresses, state, epoch, by, path, inward, outward, dropped]: [&str; 10]) -> String {
    let line = format!(
        "{id:<32}  {user:<12}  {addresses:<15}  {state:<28}  {epoch:>5}  {by:<7}  {path:<9}  {inward:>9}  {outward:>9}  {dropped:>7}"
    );
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Traffic;

    #[test]
    fn a_host_without_a_gateway_is_told_what_was_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, default) = (folder.path().join("gateway.toml"), folder.path().join("_gateway.sock"));
        let find = |target: &GatewayTarget| socket_with(target, &file, &default);
        let nothing = GatewayTarget::default();
        assert_eq!(find(&nothing).expect("the default"), default);
        let gone = trouble(ClientError::NotRunning(default.clone()));
        for words in ["marmot gateway", "_gateway.sock"] {
            assert!(gone.message.contains(words), "{}", gone.message);
        }
        std::fs::write(&file, "nonsense").expect("written");
        assert_eq!(find(&nothing).expect_err("a broken file").exit, 3);
        std::fs::write(&default, "").expect("written");
        assert_eq!(find(&nothing).expect("somebody may listen"), default);
        let named = GatewayTarget {
            config: Some(folder.path().join("other.toml")),
            ..GatewayTarget::default()
        };
        assert!(find(&named).is_err(), "a file that is named must be there");
    }

    #[test]
    fn each_session_has_its_row_and_the_counters_follow() {
        let sessions = GatewaySessions {
            sessions: vec![
                GatewaySession {
                    id: "0a".repeat(16),
                    user: "alice\u{1b}[2J".to_owned(),
                    addresses: vec!["10.78.0.2".parse().expect("address")],
                    state: Attendance::Parked,
                    parked: Some("frozen".to_owned()),
                    parked_since_unix_ms: Some(1_800_000_000_000),
                    epoch: 3,
                    entrance: Some("ticket".to_owned()),
                    control: true,
                    data_channel: true,
                    traffic: Traffic {
                        packets_in: 12,
                        packets_out: 7,
                        dropped: 1,
                        ..Traffic::default()
                    },
                    ..GatewaySession::default()
                },
                GatewaySession {
                    id: "0b".repeat(16),
                    user: "bob".to_owned(),
                    state: Attendance::Waiting,
                    ..GatewaySession::default()
                },
            ],
            left_out: 5,
            counters: GatewayCounters {
                parks_total: BTreeMap::from([("announced".to_owned(), 2), ("frozen".to_owned(), 1)]),
                disconnects_total: BTreeMap::from([("park_ttl".to_owned(), 1)]),
                ..GatewayCounters::default()
            },
        };
        let text = text(&sessions, 1_800_000_000_000 + 3 * 3_600_000);
        assert!(!text.contains('\u{1b}'), "{text}");
        for words in [
            "parked frozen 3 h",
            "  3  ticket   tls, dtls",
            "waiting",
            "and 5 more\n",
            "parked       announced 2, frozen 1\n",
            "disconnected park_ttl 1\n",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(super::text(&GatewaySessions::default(), 0), "no session\n");
    }
}
