//! What must be reached and what would be good, as ratios of one run where it can be, beside what was.

use counts::{Tunnel, bare_record, record};

use crate::comparison::Comparison;
use crate::figures::{Row, Sample, row};

/// One thing that must be reached.
#[derive(Clone, Debug)]
pub struct Floor {
    /// What.
    pub what: String,
    /// What must be.
    pub floor: f64,
    /// What would be good.
    pub goal: f64,
    /// What was measured, if it was.
    pub measured: Option<f64>,
    /// Whether less is better.
    less: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The goal was reached.
    Goal,
    /// The floor was reached.
    Held,
    /// It was not.
    Missed,
    /// Nobody was there to compare with.
    NotMeasured,
}

impl Floor {
    fn least(what: &str, measured: Option<f64>, floor: f64, goal: f64) -> Self {
        Self {
            what: what.to_owned(),
            floor,
            goal,
            measured,
            less: false,
        }
    }

    fn most(what: &str, measured: Option<f64>, floor: f64, goal: f64) -> Self {
        Self {
            less: true,
            ..Self::least(what, measured, floor, goal)
        }
    }

    /// What became of it.
    pub fn verdict(&self) -> Verdict {
        let Some(measured) = self.measured else {
            return Verdict::NotMeasured;
        };
        let reached = |bar: f64| if self.less { measured <= bar } else { measured >= bar };
        match (reached(self.goal), reached(self.floor)) {
            (true, _) => Verdict::Goal,
            (false, true) => Verdict::Held,
            (false, false) => Verdict::Missed,
        }
    }
}

/// All of them, from what was measured; records are measured here.
pub fn all(rows: &[Row]) -> Vec<Floor> {
    let ours = row(rows, "marmot");
    let of = |sample: fn(&Sample) -> f64| ours.and_then(|row| row.median(sample));
    let larger = |a: Option<f64>, b: Option<f64>| Some(a?.max(b?));
    // Three ways, the worst of which counts.
    let worst = |id: &str, other: &str| -> Option<f64> {
        let (a, b) = (row(rows, id)?, row(rows, other)?);
        let ways: [fn(&Sample) -> f64; 3] = [|s| s.tcp1, |s| s.tcp4, |s| s.reverse];
        let ratios: Vec<f64> = ways.iter().filter_map(|way| a.ratio(b, way)).collect();
        ratios.into_iter().min_by(f64::total_cmp)
    };
    let tunnel = Tunnel::default();
    let record = Comparison::measure(record(tunnel), bare_record(tunnel)).ratio();
    vec![
        Floor::least(
            "TCP over DTLS, of no tunnel (the worst of 1, 4, reverse)",
            worst("marmot", "none"),
            0.47,
            0.6,
        ),
        Floor::least(
            "the same, over openconnect + ocserv, DTLS",
            worst("marmot", "openconnect"),
            6.5,
            8.0,
        ),
        Floor::least(
            "the same, over Debian's wireguard-go",
            worst("marmot", "wireguard-go"),
            12.0,
            14.0,
        ),
        Floor::least(
            "the same, over the newest wireguard-go",
            worst("marmot", "wireguard-go-new"),
            2.5,
            3.0,
        ),
        Floor::least(
            "our client with ocserv, DTLS, over stock with stock",
            worst("marmot+ocserv", "openconnect"),
            1.0,
            1.0,
        ),
        Floor::least(
            "openconnect with our gateway, DTLS, over stock with stock",
            worst("openconnect+marmot", "openconnect"),
            1.0,
            1.0,
        ),
        Floor::least(
            "our client with ocserv, TLS, over stock with stock",
            worst("marmot+ocserv-tls", "openconnect-tls"),
            1.0,
            1.0,
        ),
        Floor::least(
            "openconnect with our gateway, TLS, over stock with stock",
            worst("openconnect+marmot-tls", "openconnect-tls"),
            1.0,
            1.0,
        ),
        Floor::least(
            "TLS between our ends, over openconnect + ocserv, TLS",
            worst("marmot-tls", "openconnect-tls"),
            5.0,
            6.5,
        ),
        Floor::least(
            "TLS between our ends, of our DTLS",
            worst("marmot-tls", "marmot"),
            0.8,
            1.0,
        ),
        Floor::most("processor time, both ends, s/GB", of(|s| s.cpu), 2.9, 2.2),
        Floor::most(
            "processor time of a small packet at 20 kpps, both ends, us",
            of(|s| s.packet),
            9.0,
            7.0,
        ),
        Floor::most("round trip in quiet, ms", of(|s| s.quiet), 0.35, 0.28),
        Floor::most("round trip under load, ms", of(|s| s.loaded), 2.5, 1.0),
        Floor::most(
            "memory of the larger end at full rate, MiB",
            larger(of(|s| s.client), of(|s| s.gateway)),
            16.0,
            12.0,
        ),
        Floor::most("start to first answered ping, ms", of(|s| s.start), 80.0, 60.0),
        Floor::most("a record sealed and opened, of the bare AEAD", Some(record), 1.15, 1.05),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_or_less_is_better_as_it_was_said() {
        let least = |measured| Floor::least("x", measured, 2.0, 3.0).verdict();
        assert_eq!(least(Some(3.0)), Verdict::Goal);
        assert_eq!(least(Some(2.5)), Verdict::Held);
        assert_eq!(least(Some(1.9)), Verdict::Missed);
        assert_eq!(least(None), Verdict::NotMeasured);
        let most = |measured| Floor::most("x", Some(measured), 3.0, 2.0).verdict();
        assert_eq!(
            [most(2.0), most(2.5), most(3.1)],
            [Verdict::Goal, Verdict::Held, Verdict::Missed]
        );
    }
}
