//! What was measured: one sample for each peer and round, medians and ratios over the rounds.

use crate::peers::Entry;

/// One peer in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// TCP from client to LAN, one connection, in Gbit/s.
    pub tcp1: f64,
    /// The same with four connections together.
    pub tcp4: f64,
    /// TCP from LAN to client, one connection, in Gbit/s.
    pub reverse: f64,
    /// Processor time of both ends for 10^9 bytes of `tcp1`, in seconds.
    pub cpu: f64,
    /// Processor time of the whole machine but iperf3 for 10^9 bytes of `tcp1`, in seconds.
    pub machine: f64,
    /// Of that, softirqs.
    pub softirq: f64,
    /// Datagrams of 100 bytes that arrived, flat out, in thousands a second.
    pub small: f64,
    /// Processor time of both ends for each such datagram at 20,000 a second, in microseconds.
    pub packet: f64,
    /// Round trip without other traffic, in milliseconds.
    pub quiet: f64,
    /// Round trip during `tcp1`, in milliseconds.
    pub loaded: f64,
    /// Resident memory of the client during `tcp1`, in MiB.
    pub client: f64,
    /// Resident memory of the gateway during `tcp1`, in MiB.
    pub gateway: f64,
    /// From the start of the client's command to the first answered ping, in milliseconds.
    pub start: f64,
    /// From the signal to stop until it was said to be done, in milliseconds.
    pub told: f64,
    /// From the signal to stop until the process was gone, in milliseconds.
    pub gone: f64,
    /// Bytes of each packet on the cable during `tcp1`.
    pub wire: f64,
}

/// All samples of one peer.
pub struct Row {
    /// Who.
    pub entry: Entry,
    /// One for each round, `None` where it failed.
    pub samples: Vec<Option<Sample>>,
    /// Why it was not measured, or not in each round.
    pub problem: Option<String>,
}

impl Row {
    /// Whether there is anything to tell.
    pub fn is_measured(&self) -> bool {
        self.samples.iter().any(Option::is_some)
    }

    /// The median over the rounds of what `of` picks.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().flatten().map(of))
    }

    /// The median over the rounds of the ratio to another row in the same round.
    pub fn ratio(&self, other: &Self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let both = self.samples.iter().zip(&other.samples);
        let pairs = both.filter_map(|(ours, theirs)| Some((of(ours.as_ref()?), of(theirs.as_ref()?))));
        median(
            pairs
                .filter(|(_, theirs)| *theirs > 0.0)
                .map(|(ours, theirs)| ours / theirs),
        )
    }
}

/// The row of this peer, if it was measured.
pub fn row<'a>(rows: &'a [Row], id: &str) -> Option<&'a Row> {
    rows.iter()
        .find(|row| row.entry.id == id)
        .filter(|row| row.is_measured())
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (
        sorted.get(sorted.len().checked_sub(1)? / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::ALL;

    fn row(tcp1: &[Option<f64>]) -> Row {
        let sample = |tcp1| Sample {
            tcp1,
            ..Sample::default()
        };
        Row {
            entry: ALL[0],
            samples: tcp1.iter().map(|tcp1| tcp1.map(sample)).collect(),
            problem: None,
        }
    }

    #[test]
    fn a_median_lies_in_the_middle_and_of_nothing_there_is_none() {
        assert_eq!(row(&[Some(3.0), Some(1.0), Some(2.0)]).median(|s| s.tcp1), Some(2.0));
        assert_eq!(row(&[Some(4.0), None, Some(2.0)]).median(|s| s.tcp1), Some(3.0));
        assert_eq!(row(&[None]).median(|s| s.tcp1), None);
    }

    #[test]
    fn ratios_are_taken_within_each_round() {
        // The machine was four times as slow in the second round, for both.
        let (ours, theirs) = (
            row(&[Some(8.0), Some(2.0), None]),
            row(&[Some(4.0), Some(1.0), Some(9.0)]),
        );
        assert_eq!(ours.ratio(&theirs, |s| s.tcp1), Some(2.0));
    }
}
