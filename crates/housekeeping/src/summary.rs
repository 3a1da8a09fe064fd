//! A session that is over, as the administrator's programs get it: the environment of a hook, the JSON of an upload.

use ledger::{Job, Role, SessionFacts};
use serde::Serialize;

use crate::rfc3339;

/// Longest value of the environment, in bytes. Names of users and gateways are far below.
const MAX_VALUE: usize = 1024;

/// Where a hook finds other programs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The whole environment of a hook. Every name is always there; what is not known is empty. `attempt` is 1 for the first.
pub(crate) fn environment(job: &Job, attempt: u32) -> Vec<(String, String)> {
    let record = &job.record;
    let facts = &record.facts;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let end = facts.end.as_ref();
    let values = [
        ("MARMOT_JOB", record.id.to_string()),
        ("MARMOT_EVENT", "session-end".to_owned()),
        ("MARMOT_TUNNEL", record.tunnel.clone()),
        ("MARMOT_ROLE", role(record.role).to_owned()),
        ("MARMOT_SESSION", text(&facts.session)),
        (
            "MARMOT_EPOCH",
            facts.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
        ),
        ("MARMOT_USER", text(&facts.user)),
        ("MARMOT_GATEWAY", facts.gateway.clone()),
        (
            "MARMOT_PEER",
            facts.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        ),
        ("MARMOT_ADDRESSES", addresses(facts).join(" ")),
        ("MARMOT_STARTED", rfc3339(facts.started.wall_ms)),
        (
            "MARMOT_ENDED",
            end.map(|end| rfc3339(end.at.wall_ms)).unwrap_or_default(),
        ),
        ("MARMOT_SECONDS", (facts.lasted_ms().unwrap_or(0) / 1000).to_string()),
        (
            "MARMOT_END_REASON",
            end.map(|end| end.reason.clone()).unwrap_or_default(),
        ),
        ("MARMOT_BYTES_IN", facts.bytes_in.to_string()),
        ("MARMOT_BYTES_OUT", facts.bytes_out.to_string()),
        ("MARMOT_PACKETS_IN", facts.packets_in.to_string()),
        ("MARMOT_PACKETS_OUT", facts.packets_out.to_string()),
        ("MARMOT_ATTEMPT", attempt.to_string()),
        ("PATH", PATH.to_owned()),
    ];
    values.map(|(name, value)| (name.to_owned(), harmless(&value))).into()
}

/// The JSON of an upload.
pub(crate) fn json(job: &Job, attempt: u32) -> String {
    let record = &job.record;
    let facts = &record.facts;
    let end = facts.end.as_ref();
    let summary = Summary {
        version: 1,
        event: "session-end",
        job: record.id.to_string(),
        attempt,
        tunnel: &record.tunnel,
        role: role(record.role),
        session: facts.session.as_deref(),
        epoch: facts.epoch,
        user: facts.user.as_deref(),
        gateway: &facts.gateway,
        peer: facts.peer.map(|peer| peer.to_string()),
        addresses: addresses(facts),
        started: rfc3339(facts.started.wall_ms),
        ended: end.map(|end| rfc3339(end.at.wall_ms)),
        seconds: facts.lasted_ms().unwrap_or(0) / 1000,
        end_reason: end.map(|end| end.reason.as_str()),
        detail: end.and_then(|end| end.detail.as_deref()),
        packets_in: facts.packets_in,
        packets_out: facts.packets_out,
        bytes_in: facts.bytes_in,
        bytes_out: facts.bytes_out,
        dropped: facts.dropped,
        path_losses: facts.path_losses,
        wakes: facts.wakes,
    };
    serde_json::to_string(&summary).expect("numbers and texts are JSON")
}

#[derive(Serialize)]
struct Summary<'a> {
    version: u32,
    event: &'static str,
    job: String,
    attempt: u32,
    tunnel: &'a str,
    role: &'static str,
    session: Option<&'a str>,
    epoch: Option<u64>,
    user: Option<&'a str>,
    gateway: &'a str,
    peer: Option<String>,
    addresses: Vec<String>,
    started: String,
    ended: Option<String>,
    seconds: u64,
    end_reason: Option<&'a str>,
    detail: Option<&'a str>,
    packets_in: u64,
    packets_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    dropped: u64,
    path_losses: u64,
    wakes: u64,
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Gateway => "gateway",
    }
}

fn addresses(facts: &SessionFacts) -> Vec<String> {
    facts.addresses.iter().map(|net| net.addr().to_string()).collect()
}

/// `value` as a shell script may print it: one line, no control characters, at most [`MAX_VALUE`] bytes.
fn harmless(value: &str) -> String {
    let mut kept = String::with_capacity(value.len().min(MAX_VALUE));
    for c in value.chars() {
        if kept.len() + c.len_utf8() > MAX_VALUE {
            break;
        }
        kept.push(if c.is_control() { '?' } else { c });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_line_of_bounded_length() {
        assert_eq!(harmless("alice\n\u{1b}[2J\0\u{85}b"), "alice??[2J??b");
        assert_eq!(harmless(&"ä".repeat(1000)).len(), MAX_VALUE);
        assert_eq!(harmless("zoë $(reboot)"), "zoë $(reboot)");
    }
}
