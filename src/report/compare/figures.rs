//! Figures of two runs: which times changed beyond noise, and what was lost.

use crate::report::Run;
use crate::report::scorecard::{Figure, Scorecard, Trial};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// From so many trials on each side, ranges that do not overlap mean something: with three and three, chance alone does
/// that to one figure in ten.
pub(super) const LEAST_TRIALS: usize = 3;
/// A single time is longer, or shorter, from this factor on ...
pub(super) const FACTOR: f64 = 2.0;
/// ... and from so many seconds: gossip and an election's random delay make up less. A busy machine can make up more.
pub(super) const LEAST_SECONDS: f64 = 2.0;

/// A time in both runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// The case that measured it; absent of trials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// What was measured.
    pub name: String,
    /// In the first run; absent where it was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Range>,
    /// In the second run; absent where it was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Range>,
    /// Whether it changed.
    pub pace: Pace,
}

/// A time, in seconds, over one or several trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The least.
    pub minimum: f64,
    /// The middle one.
    pub median: f64,
    /// The most.
    pub maximum: f64,
    /// In how many trials it was seen.
    pub seen: usize,
}

/// Whether a time changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Pace {
    /// Within noise.
    Same,
    /// Longer, beyond noise.
    Slower,
    /// Shorter, beyond noise.
    Faster,
    /// Much longer, in too few trials to tell that from chance.
    Longer,
    /// Much shorter, in too few trials to tell that from chance.
    Shorter,
}

/// Something that should be none, where the two runs differ in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// The case that measured it; absent of trials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// What was counted: `acknowledged writes lost`.
    pub name: String,
    /// The count in the first run.
    pub before: f64,
    /// The count in the second run.
    pub after: f64,
}

impl Range {
    fn of_one(value: f64) -> Self {
        Self {
            minimum: value,
            median: value,
            maximum: value,
            seen: 1,
        }
    }
}

/// Whether a time changed. Beyond noise, over at least [`LEAST_TRIALS`] trials on each side: the ranges do not overlap, and
/// the medians differ by more than `resolution`, as well as moments are known. Else only much, by the medians: [`FACTOR`]
/// times as long, and at least [`LEAST_SECONDS`] longer.
pub(super) fn pace(before: Range, after: Range, resolution: f64) -> Pace {
    let beyond_noise = |one: Range, other: Range| other.minimum > one.maximum && other.median - one.median > resolution;
    let much =
        |one: Range, other: Range| other.median >= FACTOR * one.median && other.median - one.median >= LEAST_SECONDS;
    match before.seen.min(after.seen) >= LEAST_TRIALS {
        true if beyond_noise(before, after) => Pace::Slower,
        true if beyond_noise(after, before) => Pace::Faster,
        false if much(before, after) => Pace::Longer,
        false if much(after, before) => Pace::Shorter,
        _ => Pace::Same,
    }
}

/// Every figure of the trials of both.
pub(super) fn times_of_trials(before: &Scorecard, after: &Scorecard) -> Vec<Times> {
    let coarsest = |card: &Scorecard| card.trials.iter().map(|trial| trial.coarsest_look).fold(0.0, f64::max);
    let resolution = coarsest(before).max(coarsest(after));
    let range = |card: &Scorecard, figure| {
        card.spread.get(&figure).map(|spread| Range {
            minimum: spread.minimum,
            median: spread.median,
            maximum: spread.maximum,
            seen: spread.seen,
        })
    };
    let both = Figure::ALL.into_iter().filter_map(|figure| {
        let (one, other) = (range(before, figure), range(after, figure));
        (one.is_some() || other.is_some()).then(|| Times {
            case: None,
            name: figure.words().into(),
            before: one,
            after: other,
            pace: match (one, other) {
                (Some(one), Some(other)) => pace(one, other, resolution),
                _ => Pace::Same,
            },
        })
    });
    both.collect()
}

/// The times that cases measured, and that changed much. Only one with a bound to keep, and that keeps it, is a time
/// that should be short: others are of what the case arranged.
pub(super) fn times_of_cases(before: &Run, after: &Run) -> Vec<Times> {
    let kept = |value: f64, bound: Option<f64>| bound.is_some_and(|bound| value <= bound);
    let mut times = Vec::new();
    for (id, name, unit, old, new) in measured(before, after) {
        if unit != "s" || !kept(old.value, old.bound) || new.bound.is_none() {
            continue;
        }
        let (one, other) = (Range::of_one(old.value), Range::of_one(new.value));
        let pace = pace(one, other, 0.0);
        if pace != Pace::Same {
            times.push(Times {
                case: Some(id.to_owned()),
                name: name.to_owned(),
                before: Some(one),
                after: Some(other),
                pace,
            });
        }
    }
    times
}

/// What cases counted as lost, where it differs.
pub(super) fn losses_of_cases(before: &Run, after: &Run) -> Vec<Loss> {
    measured(before, after)
        .into_iter()
        .filter(|(_, name, unit, old, new)| {
            let lost = name.split(|at: char| !at.is_alphabetic()).any(|word| word == "lost");
            lost && *unit != "s" && (old.value - new.value).abs() > f64::EPSILON
        })
        .map(|(id, name, _, old, new)| Loss {
            case: Some(id.to_owned()),
            name: name.to_owned(),
            before: old.value,
            after: new.value,
        })
        .collect()
}

/// Whether the trials of two runs did the same. How many writers there were an earlier suite did not say.
pub(super) fn same_trials(one: &Scorecard, other: &Scorecard) -> bool {
    let writers = one.writers.zip(other.writers);
    one.fault == other.fault && one.rate == other.rate && writers.is_none_or(|(one, other)| one == other)
}

/// What is counted of a trial.
type Count = fn(&Trial) -> usize;

/// What was lost over all trials, or was wrong after them, where it differs.
pub(super) fn losses_of_trials(before: &Scorecard, after: &Scorecard) -> Vec<Loss> {
    let counts: [(&str, Count); 4] = [
        ("acknowledged writes lost", |trial| trial.lost.len()),
        ("refused writes that were there", |trial| trial.phantom.len()),
        ("things read back that cannot be", |trial| trial.strange.len()),
        ("trials not measured to their end", |trial| {
            usize::from(trial.problem.is_some())
        }),
    ];
    let sum = |card: &Scorecard, count: Count| card.trials.iter().map(count).sum::<usize>();
    counts
        .into_iter()
        .map(|(name, count)| (name, sum(before, count), sum(after, count)))
        .filter(|(_, one, other)| one != other)
        .map(|(name, one, other)| Loss {
            case: None,
            name: name.into(),
            before: one as f64,
            after: other as f64,
        })
        .collect()
}

/// A case's id, a figure's name and unit, and the figure in both runs.
type Measured<'a> = (
    &'a str,
    &'a str,
    &'a str,
    &'a crate::context::Measurement,
    &'a crate::context::Measurement,
);

/// What the same case measured under the same name in both runs: id, name, unit, both. Where a case has a name twice, the
/// first of one run goes with the first of the other.
fn measured<'a>(before: &'a Run, after: &'a Run) -> Vec<Measured<'a>> {
    let mut pairs = Vec::new();
    for case in &after.cases {
        let Some(old) = before.cases.iter().find(|old| old.id == case.id) else {
            continue;
        };
        let mut left: Vec<_> = old.measured.iter().collect();
        for new in &case.measured {
            let same = left.iter().position(|old| old.name == new.name && old.unit == new.unit);
            if let Some(at) = same {
                pairs.push((
                    case.id.as_str(),
                    new.name.as_str(),
                    new.unit.as_str(),
                    left.remove(at),
                    new,
                ));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn range(minimum: f64, median: f64, maximum: f64, seen: usize) -> Range {
        Range {
            minimum,
            median,
            maximum,
            seen,
        }
    }

    #[rstest]
    #[case::ranges_apart(range(5.0, 6.0, 7.0, 3), range(7.1, 8.0, 9.0, 3), Pace::Slower)]
    #[case::ranges_apart_the_other_way(range(7.1, 8.0, 9.0, 3), range(5.0, 6.0, 7.0, 3), Pace::Faster)]
    #[case::ranges_that_touch(range(5.0, 6.0, 7.0, 3), range(7.0, 8.0, 9.0, 3), Pace::Same)]
    #[case::apart_by_less_than_is_known(range(5.0, 5.1, 5.2, 9), range(5.3, 5.35, 5.4, 9), Pace::Same)]
    #[case::twice_as_long_but_overlapping(range(1.0, 4.0, 20.0, 3), range(2.0, 9.0, 30.0, 3), Pace::Same)]
    #[case::too_few_trials_apart(range(5.0, 6.0, 7.0, 2), range(7.1, 8.0, 9.0, 3), Pace::Same)]
    #[case::too_few_trials_far_apart(range(5.0, 6.0, 7.0, 2), range(14.0, 15.0, 16.0, 3), Pace::Longer)]
    #[case::one_each(range(3.0, 3.0, 3.0, 1), range(6.0, 6.0, 6.0, 1), Pace::Longer)]
    #[case::one_each_below_the_factor(range(8.0, 8.0, 8.0, 1), range(15.9, 15.9, 15.9, 1), Pace::Same)]
    #[case::one_each_below_the_least_seconds(range(0.1, 0.1, 0.1, 1), range(1.9, 1.9, 1.9, 1), Pace::Same)]
    #[case::one_each_quicker(range(6.0, 6.0, 6.0, 1), range(0.0, 0.0, 0.0, 1), Pace::Shorter)]
    fn noise_is_no_change(#[case] before: Range, #[case] after: Range, #[case] expected: Pace) {
        assert_eq!(pace(before, after, 0.3), expected);
    }
}
