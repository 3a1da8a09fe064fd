//! `marmot status`: the tunnel on a page.

use api::{Client, ClientError, Dns, Flows, Housekeeping, Job, JobState, Lockdown, State, Status, Totals, Tunnel};

use crate::cli::Common;
use crate::control::trouble::Trouble;
use crate::control::{down, target, words};
use crate::exit::{Exit, answer};

/// Routes and jobs that are named one by one.
const SHOWN: usize = 8;

pub(super) async fn run(client: &Client, args: &Common) -> Result<(), Trouble> {
    let status = match client.status().await {
        Err(error @ ClientError::NotRunning(_)) => return Err(not_running(error.into(), args)),
        answer => answer?,
    };
    answer(&if args.json {
        api::line(&status)
    } else {
        text(&status, words::now_unix_ms())
    });
    match status.state {
        // An armed tunnel is there for whoever uses it.
        State::Up | State::Armed => Ok(()),
        _ => Err(Trouble::silent(Exit::NotUp)),
    }
}

/// What is owed can be told without a daemon, if the ledger can be read.
fn not_running(trouble: Trouble, args: &Common) -> Trouble {
    let owed = target::config(&args.target).and_then(|config| client::owed(&config).ok());
    let Some(owed) = owed else { return trouble };
    answer(&if args.json {
        api::line(&serde_json::json!({ "error": trouble.words(), "housekeeping": owed }))
    } else {
        let housekeeping = housekeeping(&owed, words::now_unix_ms());
        format!("{}\n{housekeeping}", trouble.message)
    });
    Trouble::silent(Exit::NoDaemon)
}

fn text(status: &Status, now_unix_ms: u64) -> String {
    let mut page = headline(status, now_unix_ms);
    let mut line = |title: &str, text: String| page += &format!("  {title:<13}{text}\n");
    if let Some(problem) = &status.problem {
        let mut text = words::plain(&problem.message);
        let tries = matches!(status.state, State::Starting | State::Reasserting);
        if let Some(next) = problem.next_attempt_unix_ms.filter(|next| tries && *next > now_unix_ms) {
            text += &format!(" (next attempt in {})", words::between(next, now_unix_ms));
        }
        line("problem", text);
    }
    let user = status
        .user
        .as_ref()
        .map_or(String::new(), |user| format!(" as {}", words::plain(user)));
    line("gateway", format!("{}{user}", words::plain(&status.gateway)));
    if let Some(tunnel) = &status.tunnel {
        self::tunnel(tunnel, now_unix_ms, &mut line);
        let traffic = &status.traffic;
        let (inward, outward) = (words::bytes(traffic.bytes_in), words::bytes(traffic.bytes_out));
        let packets = (
            words::count(traffic.packets_in, "packet"),
            words::count(traffic.packets_out, "packet"),
        );
        line(
            "traffic",
            format!(
                "in {inward} ({}), out {outward} ({}), dropped {}",
                packets.0, packets.1, traffic.dropped
            ),
        );
    }
    match status.lockdown {
        Lockdown::Off | Lockdown::Unknown => {}
        Lockdown::On => line("lockdown", "on".to_owned()),
        Lockdown::Failed => line(
            "lockdown",
            "failed: packets may leave this host beside the tunnel".to_owned(),
        ),
    }
    if let Some(flows) = &status.flows {
        self::flows(flows, &mut line);
    }
    let (sessions, losses) = (
        words::count(status.sessions, "session"),
        words::count(status.path_losses, "lost path"),
    );
    line(
        "so far",
        format!("{sessions}, {losses}, {}", words::count(status.clock_gaps, "sleep")),
    );
    if let Some(text) = counted(&status.totals) {
        line("counted", text);
    }
    if let Some(stop) = &status.last_stop {
        line("last stop", down::text(stop).trim_end().to_owned());
    }
    page + &housekeeping(&status.housekeeping, now_unix_ms)
}

/// What is counted of sleeps and reconnects, if there was any; all of it is in `--json`.
fn counted(totals: &Totals) -> Option<String> {
    let sum = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
    let numbers = [
        (sum(&totals.parks_total), "park"),
        (sum(&totals.wakes_total), "wake"),
        (sum(&totals.disconnects_total), "disconnect"),
        (totals.stale_packets_dropped_total, "stale packet"),
    ];
    let ways: Vec<String> = totals
        .unparks_total
        .iter()
        .map(|(via, count)| format!("{count} by {}", words::plain(via)))
        .collect();
    let counted: Vec<String> = numbers
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| words::count(number, word))
        .chain((!ways.is_empty()).then(|| format!("back {}", ways.join(" and "))))
        .collect();
    (!counted.is_empty()).then(|| counted.join(", "))
}

fn headline(status: &Status, now_unix_ms: u64) -> String {
    let mut line = format!("{} is {}", words::plain(&status.name), status.state.word());
    if let Some(since) = status.since_unix_ms {
        line += &format!(" for {}", words::between(now_unix_ms, since));
    }
    let wanted = match (status.wanted, status.state) {
        (api::Wanted::Up, State::Idle) => ", wanted up",
        (_, State::Armed) => ", the first packet connects",
        (_, State::StayDown) => ", by a rule of this network",
        _ => "",
    };
    format!("{line}{wanted} (process {})\n", status.pid)
}

/// Which servers are asked for which names, and by whose hand.
fn names(dns: &Dns) -> String {
    let listed = |names: &[String]| {
        let shown = names
            .iter()
            .take(SHOWN)
            .map(|name| words::plain(name))
            .collect::<Vec<_>>()
            .join(", ");
        match names.len().checked_sub(SHOWN) {
            Some(more @ 1..) => format!("{shown} and {more} more"),
            Some(0) | None => shown,
        }
    };
    let whole = if dns.split.is_empty() {
        "all".to_owned()
    } else {
        format!("those below {}", listed(&dns.split))
    };
    let search = if dns.search.is_empty() {
        String::new()
    } else {
        format!(", searched in {}", listed(&dns.search))
    };
    let how = match (&dns.problem, &dns.way) {
        (Some(problem), _) => format!("NOT applied: {}", words::plain(problem)),
        (None, Some(way)) => format!("by {}", words::plain(way)),
        (None, None) => "applied".to_owned(),
    };
    format!("{whole} from {}{search}; {how}", listed(&dns.servers))
}

fn tunnel(tunnel: &Tunnel, now_unix_ms: u64, line: &mut impl FnMut(&str, String)) {
    let device = tunnel.interface.as_deref().unwrap_or("in memory");
    line("device", format!("{device}, mtu {}", tunnel.mtu));
    let channel = match &tunnel.data_channel {
        Some(suite) => format!("DTLS, {}", words::plain(suite)),
        None => "TLS".to_owned(),
    };
    line("packets", format!("over {channel}"));
    line("addresses", tunnel.addresses.join(", "));
    let mut routes = tunnel.routes.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if tunnel.routes.len() > SHOWN {
        routes += &format!(" and {} more", tunnel.routes.len() - SHOWN);
    }
    line("routes", if routes.is_empty() { "none".to_owned() } else { routes });
    if let Some(dns) = &tunnel.dns {
        line("names", names(dns));
    }
    let name = match (&tunnel.session, tunnel.epoch) {
        (Some(session), Some(epoch)) => format!("{}, epoch {epoch}", words::plain(session)),
        (Some(session), None) => words::plain(session),
        (None, _) => "not named by the gateway".to_owned(),
    };
    let age = tunnel.started_unix_ms.map_or(String::new(), |start| {
        format!(", {}", words::between(now_unix_ms, start))
    });
    line("session", format!("{name}{age}"));
}

/// Flow rules that were used, and where what matched none of them goes.
fn flows(flows: &Flows, line: &mut impl FnMut(&str, String)) {
    let counted = |packets, bytes| format!("{} ({})", words::bytes(bytes), words::count(packets, "packet"));
    let held = match flows.held_packets {
        0 => String::new(),
        held => format!(", held up {}", words::count(held, "packet")),
    };
    let rules = words::count(flows.rules.len() as u64, "rule");
    let default = words::plain(&flows.default);
    let rest = counted(flows.packets, flows.bytes);
    line("flows", format!("{rules}, the rest {default}: {rest}{held}"));
    let numbered = flows
        .rules
        .iter()
        .zip(1..)
        .map(|(rule, number)| (format!("  {number}"), rule));
    let run = flows.run.iter().map(|rule| ("  run".to_owned(), rule));
    let used: Vec<_> = numbered.chain(run).filter(|(_, rule)| rule.packets > 0).collect();
    for (title, rule) in used.iter().take(SHOWN) {
        let (action, words) = (words::plain(&rule.action), words::plain(&rule.rule));
        line(
            title,
            format!("{action} {words}: {}", counted(rule.packets, rule.bytes)),
        );
    }
    if used.len() > SHOWN {
        line("", format!("and {} more that were used", used.len() - SHOWN));
    }
}

/// What is owed, for `marmot housekeep --list` too.
pub(super) fn housekeeping(owed: &Housekeeping, now_unix_ms: u64) -> String {
    let counts = owed.counts;
    let numbers = [
        (counts.due, "due"),
        (counts.running, "running"),
        (counts.waiting, "waiting"),
        (counts.failed, "failed"),
        (counts.done, "done"),
    ];
    let numbers: Vec<String> = numbers
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    let mut text = match (&owed.problem, numbers.is_empty()) {
        (Some(problem), _) => format!("  housekeeping cannot be read: {}\n", words::plain(problem)),
        (None, true) => "  housekeeping nothing owed\n".to_owned(),
        (None, false) => format!("  housekeeping {}\n", numbers.join(", ")),
    };
    for job in owed.jobs.iter().take(SHOWN) {
        text += &self::job(job, now_unix_ms);
    }
    let hidden = owed.jobs.len().saturating_sub(SHOWN) as u64 + owed.omitted;
    if hidden > 0 {
        text += &format!("    and {} more\n", hidden);
    }
    text
}

/// One job, on a line of its own.
fn job(job: &Job, now_unix_ms: u64) -> String {
    let mut line = format!("    {} {}", words::plain(&job.id), job.state.word());
    if !job.chores.is_empty() {
        line += &format!(": {}", words::plain(&job.chores.join(", ")));
    }
    if job.attempts > 0 {
        line += &format!(", {}", words::count(job.attempts.into(), "attempt"));
    }
    if let (JobState::Waiting, Some(next)) = (job.state, job.next_unix_ms) {
        line += &format!(", next in {}", words::between(next.max(now_unix_ms), now_unix_ms));
    }
    if let Some(error) = &job.last_error {
        line += &format!(", {}", words::plain(error));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Counts, Down, Owed, Problem, Traffic, Wanted};

    const NOW: u64 = 1_800_000_000_000;

    fn up() -> Status {
        Status {
            name: "work".to_owned(),
            state: State::Up,
            wanted: Wanted::Up,
            since_unix_ms: Some(NOW - 11_520_000),
            pid: 4711,
            gateway: "vpn.example.com:443".to_owned(),
            user: Some("alice".to_owned()),
            tunnel: Some(Tunnel {
                interface: Some("mm-work".to_owned()),
                addresses: vec!["10.78.0.2/32".to_owned(), "fd00::2/128".to_owned()],
                mtu: 1400,
                data_channel: Some("TLS_PSK_WITH_AES_128_GCM_SHA256".to_owned()),
                routes: (0..10).map(|n| format!("10.{n}.0.0/16")).collect(),
                dns: Some(Dns {
                    servers: vec!["10.77.0.10".to_owned()],
                    search: vec!["corp.test".to_owned()],
                    way: Some("resolved".to_owned()),
                    ..Dns::default()
                }),
                session: Some("s1".to_owned()),
                epoch: Some(3),
                started_unix_ms: Some(NOW - 250_000),
            }),
            traffic: Traffic {
                packets_in: 1,
                bytes_in: 1200,
                packets_out: 2,
                bytes_out: 80,
                dropped: 0,
            },
            sessions: 2,
            path_losses: 1,
            ..Status::default()
        }
    }

    #[test]
    fn a_tunnel_that_is_up_fits_on_a_page() {
        let expected = "\
work is up for 3 h 12 min (process 4711)
  gateway      vpn.example.com:443 as alice
  device       mm-work, mtu 1400
  packets      over DTLS, TLS_PSK_WITH_AES_128_GCM_SHA256
  addresses    10.78.0.2/32, fd00::2/128
  routes       10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, 10.4.0.0/16, 10.5.0.0/16, 10.6.0.0/16, 10.7.0.0/16 and 2 more
  names        all from 10.77.0.10, searched in corp.test; by resolved
  session      s1, epoch 3, 4 min 10 s
  traffic      in 1.2 kB (1 packet), out 80 B (2 packets), dropped 0
  so far       2 sessions, 1 lost path, 0 sleeps
  housekeeping nothing owed
";
        assert_eq!(text(&up(), NOW), expected);
    }

    #[test]
    fn flow_rules_that_were_used_are_counted() {
        let rule = |rule: &str, action: &str, packets| api::FlowRule {
            rule: rule.to_owned(),
            action: action.to_owned(),
            packets,
            bytes: 100 * packets,
        };
        let flows = Flows {
            default: "direct".to_owned(),
            packets: 12,
            bytes: 1200,
            held_packets: 1,
            rules: vec![rule("tcp port 22", "direct", 0), rule("user 1000", "tunnel", 7)],
            run: vec![rule("marmot run", "tunnel", 1)],
            ..Flows::default()
        };
        let status = Status {
            flows: Some(flows),
            ..up()
        };
        let expected = "\
  flows        2 rules, the rest direct: 1.2 kB (12 packets), held up 1 packet
    2          tunnel user 1000: 700 B (7 packets)
    run        tunnel marmot run: 100 B (1 packet)
";
        let page = text(&status, NOW);
        assert!(page.contains(expected), "{page}");
    }

    #[test]
    fn what_is_wrong_and_what_is_owed_is_named() {
        let status = Status {
            name: "work".to_owned(),
            state: State::Starting,
            wanted: Wanted::Up,
            pid: 7,
            gateway: "vpn.example.com:443".to_owned(),
            problem: Some(Problem {
                message: "connection refused".to_owned(),
                next_attempt_unix_ms: Some(NOW + 4000),
                ..Problem::default()
            }),
            last_stop: Some(Down {
                ms: 2.4,
                owed: Owed::Recorded,
                job: Some("j1".to_owned()),
                ..Down::default()
            }),
            housekeeping: Housekeeping {
                counts: Counts {
                    waiting: 1,
                    failed: 1,
                    done: 4,
                    ..Counts::default()
                },
                jobs: vec![
                    Job {
                        id: "j2".to_owned(),
                        state: JobState::Failed,
                        chores: vec!["hooks".to_owned(), "upload".to_owned()],
                        attempts: 12,
                        last_error: Some("10-report: exit status 1\nsecond line".to_owned()),
                        ..Job::default()
                    },
                    Job {
                        id: "j1".to_owned(),
                        state: JobState::Waiting,
                        attempts: 1,
                        next_unix_ms: Some(NOW + 5000),
                        ..Job::default()
                    },
                ],
                omitted: 3,
                problem: None,
            },
            ..Status::default()
        };
        let expected = "\
work is starting (process 7)
  problem      connection refused (next attempt in 4 s)
  gateway      vpn.example.com:443
  so far       0 sessions, 0 lost paths, 0 sleeps
  last stop    down after 2.4 ms; housekeeping j1 follows
  housekeeping 1 waiting, 1 failed, 4 done
    j2 failed: hooks, upload, 12 attempts, 10-report: exit status 1\\u{a}second line
    j1 waiting, 1 attempt, next in 5 s
    and 3 more
";
        assert_eq!(text(&status, NOW), expected);
    }

    #[test]
    fn a_ledger_that_cannot_be_read_does_not_look_like_an_empty_one() {
        let owed = Housekeeping {
            problem: Some("permission denied".to_owned()),
            ..Housekeeping::default()
        };
        assert_eq!(
            housekeeping(&owed, NOW),
            "  housekeeping cannot be read: permission denied\n"
        );
    }
}
