//! What became of the workload around a fault: its gaps during a case, and its writes during a trial, in steps of time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The part of a case's timeline around the gaps of its workload: of cases that had writers, and gaps longer than 0.5 s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Course {
    /// The times without an acknowledged write to a slot.
    pub gaps: Vec<Gap>,
    /// What the suite did, what Kubernetes told, and what nodes said, each saying when the first node said it.
    pub moments: Vec<Moment>,
}

/// A time without an acknowledged write to a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// The slot that was written to.
    pub slot: u16,
    /// The last acknowledged write before it, in seconds since the case began.
    pub from: f64,
    /// The first acknowledged write after it, or the end of the writing, in seconds since the case began.
    pub until: f64,
    /// Whether a write was acknowledged at its end.
    pub ended: bool,
    /// What the last attempt within it met.
    pub met: String,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    /// When, in seconds since the case began.
    pub at: f64,
    /// Who says so: `suite`, `kubernetes`, or a node's name.
    pub source: String,
    /// What.
    pub what: String,
}

/// The writes of a trial's clients, by when they were due, in equal steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// When the first step begins, in seconds from the fault; negative before it.
    pub from: f64,
    /// How long a step is, in seconds.
    pub step: f64,
    /// The writes to the shard that was hit.
    pub hit: Writes,
    /// The writes to all other shards.
    pub others: Writes,
}

/// Writes, step by step. All lists are of one length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Writes {
    /// How many were acknowledged.
    pub acked: Vec<u32>,
    /// How many were refused, or never sent.
    pub refused: Vec<u32>,
    /// How many may have been done.
    pub indeterminate: Vec<u32>,
    /// The longest time from when an acknowledged one was due to its reply, in milliseconds; null where none was.
    pub slowest: Vec<Option<u32>>,
}

/// The longest series that is kept.
const MOST_STEPS: f64 = 150.0;

/// One write of a client: when it was due, in seconds from the fault, how long it took, in seconds, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Whether it went to the shard that was hit.
    pub hit: bool,
    /// When it was due.
    pub due: f64,
    /// From when it was due until its end was known.
    pub took: f64,
    /// How it ended.
    pub end: End,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was acknowledged.
    Acked,
    /// It was certainly not done.
    Refused,
    /// It may have been done.
    Indeterminate,
}

impl Series {
    /// The series from `from` until `until`, in seconds from the fault, in steps as short as its greatest length allows.
    pub fn of(from: f64, until: f64, attempts: impl IntoIterator<Item = Attempt>) -> Self {
        let span = (until - from).max(0.0);
        let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
            .into_iter()
            .find(|step| span / step <= MOST_STEPS)
            .unwrap_or(span / MOST_STEPS);
        let steps = (span / step).ceil() as usize;
        let mut series = Self {
            from: (from * 1000.0).round() / 1000.0,
            step,
            hit: Writes::of_length(steps),
            others: Writes::of_length(steps),
        };
        for attempt in attempts {
            // What was due before the first step does not belong to the second one of it.
            if attempt.due < from {
                continue;
            }
            let at = ((attempt.due - from) / step) as usize;
            let writes = if attempt.hit {
                &mut series.hit
            } else {
                &mut series.others
            };
            writes.add(at, attempt);
        }
        series
    }
}

impl Writes {
    fn of_length(steps: usize) -> Self {
        Self {
            acked: vec![0; steps],
            refused: vec![0; steps],
            indeterminate: vec![0; steps],
            slowest: vec![None; steps],
        }
    }

    fn add(&mut self, at: usize, attempt: Attempt) {
        let counts = match attempt.end {
            End::Acked => &mut self.acked,
            End::Refused => &mut self.refused,
            End::Indeterminate => &mut self.indeterminate,
        };
        let Some(count) = counts.get_mut(at) else { return };
        *count += 1;
        if attempt.end == End::Acked {
            let millis = (attempt.took * 1000.0).round().clamp(0.0, f64::from(u32::MAX)) as u32;
            self.slowest[at] = self.slowest[at].max(Some(millis));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use rstest::rstest;

    fn attempt(due: f64, took: f64, end: End) -> Attempt {
        Attempt {
            hit: true,
            due,
            took,
            end,
        }
    }

    #[test]
    fn writes_stand_in_the_step_in_which_they_were_due() {
        let series = Series::of(
            -0.1,
            0.15,
            [
                attempt(-0.2, 0.001, End::Acked),
                attempt(-0.05, 0.002, End::Acked),
                attempt(-0.01, 0.2504, End::Acked),
                attempt(0.05, 1.0, End::Refused),
                attempt(0.12, 1.0, End::Indeterminate),
                attempt(9.0, 1.0, End::Refused),
            ],
        );
        assert_eq!(series.step, 0.1);
        let hit = Writes {
            acked: vec![2, 0, 0],
            refused: vec![0, 1, 0],
            indeterminate: vec![0, 0, 1],
            slowest: vec![Some(250), None, None],
        };
        assert_eq!(series.hit, hit);
        assert_eq!(series.others, Writes::of_length(3));
    }

    #[rstest]
    #[case::short(3.0, 0.1)]
    #[case::a_failover(29.0, 0.2)]
    #[case::long(400.0, 5.0)]
    #[case::longer_than_any_step_allows(150_000.0, 1000.0)]
    #[case::nothing(-1.0, 0.1)]
    fn a_series_has_an_end(#[case] until: f64, #[case] step: f64) {
        let series = Series::of(0.0, until, []);
        assert_eq!(series.step, step);
        assert!(series.hit.acked.len() <= 151, "{}", series.hit.acked.len());
    }
}
