//! A histogram that threads add to without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of a histogram's buckets, in whole steps, and how many steps are one unit of what is shown.
#[derive(Debug)]
pub struct Bounds {
    /// In ascending order.
    pub upper: &'static [u64],
    /// Steps in a unit, such as a million of microseconds in a second.
    pub steps_in_unit: f64,
}

/// Bounds for durations: from a cached reply to the longest answer of a model.
pub static SECONDS: Bounds = Bounds {
    upper: &[
        500,
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
    ],
    steps_in_unit: 1_000_000.0,
};

/// Counts values by their size. Additions from several threads may be seen one before the other: a sum can be of one
/// more or one fewer than are counted.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One for each bound, and one for what is above all of them.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram held at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// The upper bound of each bucket, of which the last is infinite, and how many values were in that bucket alone.
    pub buckets: Vec<(f64, u64)>,
    /// How many values there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static Bounds) -> Histogram {
        let buckets = (0..=bounds.upper.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Adds a value, in steps.
    pub fn add(&self, steps: u64) {
        let bucket = self.bounds.upper.partition_point(|upper| *upper < steps);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(steps, Relaxed);
    }

    /// Adds a duration, where steps are microseconds.
    pub fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// What it holds now.
    #[allow(clippy::cast_precision_loss)] // Far less than 2^53 of anything is counted.
    pub fn counted(&self) -> Counted {
        let unit = self.bounds.steps_in_unit;
        let upper = self.bounds.upper.iter().map(|upper| *upper as f64 / unit).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = upper.zip(self.buckets.iter().map(|bucket| bucket.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Counted { buckets, count, sum: self.sum.load(Relaxed) as f64 / unit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        static BOUNDS: Bounds = Bounds { upper: &[10, 20], steps_in_unit: 10.0 };
        let histogram = Histogram::new(&BOUNDS);
        for steps in [0, 10, 11, 20, 21, 1000] {
            histogram.add(steps);
        }
        let counted = histogram.counted();
        assert_eq!(counted.buckets, [(1.0, 2), (2.0, 2), (f64::INFINITY, 2)]);
        assert_eq!((counted.count, histogram.count()), (6, 6));
        assert!((counted.sum - 106.2).abs() < 1e-9, "{}", counted.sum);
    }

    #[test]
    fn no_addition_is_lost_between_threads() {
        let histogram = Histogram::new(&SECONDS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| histogram.add_time(Duration::from_millis(3))));
            }
        });
        let counted = histogram.counted();
        assert_eq!((counted.count, counted.buckets[3]), (40_000, (0.005, 40_000)));
        assert!((counted.sum - 120.0).abs() < 1e-6);
    }
}
