//! Figures of repeated measurements: the median, the 99th percentile, and a table of several rows.

use std::time::Duration;

/// How long something took, each time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the upper of the two; nothing of nothing is zero.
    pub fn median(&self) -> Duration {
        self.quantile(50)
    }

    /// The one that at least 99 of 100 do not exceed; of fewer than 100 that is the longest.
    pub fn p99(&self) -> Duration {
        self.quantile(99)
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.quantile(100)
    }

    /// Median as a multiple of another's; 1 if that is zero.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        let other = other.median().as_secs_f64();
        if other > 0.0 {
            self.median().as_secs_f64() / other
        } else {
            1.0
        }
    }

    fn quantile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "median {} ms, p99 {} ms, longest {} ms of {}",
            ms(self.median()),
            ms(self.p99()),
            ms(self.longest()),
            self.count()
        )
    }
}

/// Milliseconds, with as many decimals as mean something.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: impl IntoIterator<Item = u64>) -> Times {
        Times(ms.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn the_middle_and_the_end_of_a_hundred_are_found() {
        let all = times((1..=100).rev());
        assert_eq!(all.median(), Duration::from_millis(51));
        assert_eq!(all.p99(), Duration::from_millis(100));
        assert!((all.ratio_to(&times([17])) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn few_or_none_make_no_trouble() {
        assert_eq!(times([]).p99(), Duration::ZERO);
        assert_eq!(times([3]).median(), Duration::from_millis(3));
        assert_eq!(
            times([7, 1]).to_string(),
            "median 7.0 ms, p99 7.0 ms, longest 7.0 ms of 2"
        );
    }
}
