//! When the writes of one writer are due: at even intervals over all writers together, whatever becomes of the writes.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// One writer's share of a rate. The writers take turns, so that all their writes together come at even intervals; and
/// each instant is reckoned from the beginning, so that no delay is ever handed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    began: Instant,
    /// Writes a second, of all writers together.
    rate: NonZeroU32,
    writers: usize,
    /// The writer's turn, from 0.
    place: usize,
}

impl Schedule {
    /// The schedules of so many writers.
    pub(super) fn of_all(began: Instant, rate: NonZeroU32, writers: usize) -> impl Iterator<Item = Self> {
        (0..writers).map(move |place| Self {
            began,
            rate,
            writers,
            place,
        })
    }

    /// When the write with a number is due, numbers beginning at 0.
    pub(super) fn due(&self, number: u64) -> Instant {
        let turn = u128::from(number) * self.writers as u128 + self.place as u128;
        let nanos = turn * 1_000_000_000 / u128::from(self.rate.get());
        // Five hundred years are enough.
        self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dues(rate: u32, writers: usize, each: u64) -> (Instant, Vec<Instant>) {
        let began = Instant::now();
        let rate = NonZeroU32::new(rate).unwrap();
        let schedules: Vec<Schedule> = Schedule::of_all(began, rate, writers).collect();
        let dues = (0..each).flat_map(|number| schedules.iter().map(move |one| one.due(number)));
        (began, dues.collect())
    }

    proptest! {
        /// In turn, each a rate's part of a second after the other, to the nanosecond; none is left out.
        #[test]
        fn all_writes_together_come_at_even_intervals(rate in 1_u32..100_000, writers in 1_usize..50, each in 1_u64..50) {
            let (began, dues) = dues(rate, writers, each);
            prop_assert_eq!(dues[0], began);
            for (turn, due) in dues.iter().enumerate() {
                let exact = turn as f64 * 1e9 / f64::from(rate);
                let off = due.duration_since(began).as_nanos() as f64 - exact;
                prop_assert!(off.abs() <= 1.0 + exact * 1e-12, "turn {} is {} ns off", turn, off);
            }
        }

        /// However long it goes on: so many writes a second, and not one fewer.
        #[test]
        fn nothing_adds_up_over_hours(rate in 1_u32..100_000, hours in 1_u64..1000) {
            let schedule = Schedule { began: Instant::now(), rate: NonZeroU32::new(rate).unwrap(), writers: 1, place: 0 };
            let writes = u64::from(rate) * hours * 3600;
            prop_assert_eq!(schedule.due(writes) - schedule.began, Duration::from_secs(hours * 3600));
        }
    }
}
