//! What the programs say when something happened: the only place that knows their log lines.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::event::Event;

/// The word of the gateway for a session that its user ended.
pub(crate) const USER_STOP: &str = "user_stop";

/// The gateway listens, and where.
pub(crate) fn gateway_ready(event: &Event) -> Option<SocketAddr> {
    let addresses = event.message().strip_prefix("gateway ready on ")?;
    addresses.split(", ").next()?.parse().ok()
}

/// A tunnel that is up, as the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Up {
    /// TLS version and what belongs to it.
    pub(crate) tls: String,
    /// Addresses inside the tunnel.
    pub(crate) addresses: Vec<String>,
}

/// The client's tunnel is up.
pub(crate) fn up(event: &Event) -> Option<Up> {
    if event.message() != "session.start" {
        return None;
    }
    let version = event.text("tls")?.replace("TLSv", "TLS ").replace('_', ".");
    let details = ["cipher", "group"].iter().filter_map(|name| event.text(name));
    Some(Up {
        tls: [version].into_iter().chain(details).collect::<Vec<_>>().join(", "),
        addresses: event.text("addresses")?.split_whitespace().map(str::to_owned).collect(),
    })
}

/// An acknowledged stop, as the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// When we heard of it.
    pub(crate) at: Instant,
    /// What became of the record of what is owed.
    pub(crate) owed: String,
    /// Which job it is.
    pub(crate) job: Option<String>,
}

/// The client's tunnel is down.
pub(crate) fn stop(event: &Event) -> Option<Stop> {
    (event.message() == "stop.ack").then(|| Stop {
        at: event.at,
        owed: event.text("owed").unwrap_or_default(),
        job: event.text("job"),
    })
}

/// The client has done `job`; how many tries that took.
pub(crate) fn job_done(event: &Event, job: &str) -> Option<u64> {
    let done = event.message() == "housekeeping.done" && event.text("job").as_deref() == Some(job);
    done.then(|| event.number("tries").unwrap_or(1))
}

/// The client noticed that it did not run, and for how long, in seconds.
pub(crate) fn clock_gap(event: &Event) -> Option<f64> {
    if event.message() != "clock.gap" {
        return None;
    }
    event.value("seconds")?.as_f64()
}

/// The client lost its connection or has another one.
pub(crate) fn path_change(event: &Event) -> bool {
    matches!(event.message(), "path.lost" | "path.back" | "session.end")
}

/// A session as the gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Its identity.
    pub(crate) id: String,
    /// Counts its connections from 1.
    pub(crate) epoch: u64,
    /// The client's end of its newest connection.
    pub(crate) from: Option<SocketAddr>,
    /// Connections of all sessions so far.
    pub(crate) connections: usize,
}

impl Session {
    /// The beginning of the identity, enough to tell it from others.
    pub(crate) fn short_id(&self) -> String {
        self.id.chars().take(8).collect()
    }
}

/// The newest session and its newest connection, from all that the gateway said.
pub(crate) fn session(events: &VecDeque<Event>) -> Option<Session> {
    let starts = |event: &&Event| matches!(event.message(), "session.start" | "session attached again");
    let newest = events.iter().rfind(starts)?;
    Some(Session {
        id: newest.text("session")?,
        epoch: newest.number("epoch").unwrap_or(1),
        from: newest.text("from").and_then(|from| from.parse().ok()),
        connections: events.iter().filter(starts).count(),
    })
}

/// The end of a session, as the gateway says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Why.
    pub(crate) reason: String,
    /// Connections it had.
    pub(crate) connections: u64,
    /// What it carried, in words.
    pub(crate) counters: String,
}

/// A session is over.
pub(crate) fn session_end(event: &Event) -> Option<End> {
    if event.message() != "session.end" {
        return None;
    }
    let number = |name| event.number(name).unwrap_or_default();
    let drops = event.text("drops").unwrap_or_default();
    Some(End {
        reason: event.text("reason")?,
        connections: number("connections"),
        counters: format!(
            "{} packets ({} bytes) from the client, {} packets ({} bytes) to it, drops: {drops}",
            number("packets_in"),
            number("bytes_in"),
            number("packets_out"),
            number("bytes_out"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Event {
        Event::new(json.to_owned())
    }

    #[test]
    fn the_newest_connection_of_the_newest_session_counts() {
        let start = r#"{"message":"session.start","session":"0707","from":"192.0.2.2:4000"}"#;
        let again = r#"{"message":"session attached again","session":"0707","epoch":2,"from":"192.0.2.2:4001"}"#;
        let mut events = VecDeque::from([event(start)]);
        let first = session(&events).expect("session");
        assert_eq!((first.epoch, first.connections), (1, 1));
        events.push_back(event(again));
        let second = session(&events).expect("session");
        assert_eq!((second.id, second.epoch, second.connections), (first.id, 2, 2));
    }

    #[test]
    fn the_facts_of_a_tunnel_are_read() {
        let line = r#"{"message":"session.start","addresses":"10.78.0.10/32 fd00:78::10/128","tls":"TLSv1_3","cipher":"C",
            "group":"G","session":"0707;1"}"#;
        let up = up(&event(line)).expect("up");
        assert_eq!(up.tls, "TLS 1.3, C, G");
        assert_eq!(up.addresses.len(), 2);
        assert_eq!(
            clock_gap(&event(r#"{"message":"clock.gap","seconds":8.25}"#)),
            Some(8.25)
        );
        assert!(path_change(&event(r#"{"message":"path.lost","kind":"eof"}"#)));
    }

    #[test]
    fn a_stop_and_its_job_are_read() {
        let line = r#"{"message":"stop.ack","ms":1.98,"owed":"recorded","job":"1795340359-bcf26ea829b51f44"}"#;
        let stop = stop(&event(line)).expect("a stop");
        let job = stop.job.expect("a job");
        assert_eq!(
            (stop.owed.as_str(), job.as_str()),
            ("recorded", "1795340359-bcf26ea829b51f44")
        );
        let done = event(r#"{"message":"housekeeping.done","job":"1795340359-bcf26ea829b51f44","ms":12,"tries":2}"#);
        assert_eq!(job_done(&done, &job), Some(2));
        assert_eq!(job_done(&done, "1795340359-0000000000000000"), None);
    }

    #[test]
    fn the_address_of_a_ready_gateway_is_read() {
        let ready = event(r#"{"message":"gateway ready on 198.51.100.2:443, [::1]:443"}"#);
        assert_eq!(gateway_ready(&ready), "198.51.100.2:443".parse().ok());
        assert_eq!(gateway_ready(&event(r#"{"message":"gateway stopped"}"#)), None);
    }
}
