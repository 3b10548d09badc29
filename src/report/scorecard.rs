//! The scorecard: one fault done several times, and what was measured each time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One fault, done several times, with what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scorecard {
    /// The fault, as `--fault` takes it.
    pub fault: String,
    /// How many trials were asked for.
    pub asked: usize,
    /// Writes a second that were asked for (`--rate`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<u32>,
    /// How many writers each shard had as a client of the cluster has, and each node directly (`--writers`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub writers: Option<u16>,
    /// The trials, in order.
    pub trials: Vec<Trial>,
    /// Minimum, median and maximum over the trials, beside what the protocol says.
    pub spread: BTreeMap<Figure, Spread>,
}

/// What is measured of a trial, in seconds: the moments count from the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Figure {
    /// A survivor first flagged the node `fail?` (PFAIL).
    Suspected,
    /// A survivor first flagged the node `fail` (FAIL).
    Failed,
    /// The cluster's current epoch first rose: an election had begun.
    Election,
    /// Another node of the shard first called itself a master.
    Promoted,
    /// The first acknowledged write to the shard, by its new master or by the old one that had come back.
    FirstWrite,
    /// The first read of the shard's value, likewise.
    FirstRead,
    /// The node that was hit first answered again.
    Returned,
    /// The shard had one master and a connected replica, and went on having them.
    Redundant,
    /// All views agreed that the cluster is whole.
    Whole,
    /// The longest time without an acknowledged write to the shard.
    WriteGap,
    /// The longest time without an acknowledged write to another shard.
    OtherGap,
    /// How long Kubernetes called every pod ready while the shard acknowledged no write.
    ReadyAndRefusing,
}

impl Figure {
    /// Every figure, in the order of a failover.
    pub const ALL: [Self; 12] = [
        Self::Suspected,
        Self::Failed,
        Self::Election,
        Self::Promoted,
        Self::FirstWrite,
        Self::FirstRead,
        Self::Returned,
        Self::Redundant,
        Self::Whole,
        Self::WriteGap,
        Self::OtherGap,
        Self::ReadyAndRefusing,
    ];

    /// The figure in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Suspected => "first flag fail? (PFAIL)",
            Self::Failed => "first flag fail (FAIL)",
            Self::Election => "election begun",
            Self::Promoted => "another master",
            Self::FirstWrite => "first acknowledged write",
            Self::FirstRead => "first read",
            Self::Returned => "node answers again",
            Self::Redundant => "replica connected again",
            Self::Whole => "cluster whole",
            Self::WriteGap => "write gap of the shard",
            Self::OtherGap => "write gap of another shard",
            Self::ReadyAndRefusing => "ready, and no write served",
        }
    }
}

/// How a figure is spread over the trials, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The least.
    pub minimum: f64,
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The most.
    pub maximum: f64,
    /// In how many trials it was seen.
    pub seen: usize,
    /// What the protocol cannot go below, where it sets that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// What the protocol's arithmetic allows, where it sets that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Counted from 1.
    pub number: usize,
    /// The master that was hit.
    pub victim: String,
    /// The node that is the shard's master at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// What the node that was hit is at the end: `master` or `replica`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returned_as: Option<String>,
    /// What was measured, in seconds; what did not happen is absent.
    pub figures: BTreeMap<Figure, f64>,
    /// The longest time between a look that showed something new and the look before, in seconds: every moment of what nodes
    /// said is known at least as well as that.
    pub coarsest_look: f64,
    /// The longest time that a write was sent later than it was due, in seconds, by the suite's own fault: a shorter gap
    /// may be its own.
    #[serde(default)]
    pub latest_write: f64,
    /// Writes that were acknowledged.
    pub acked: usize,
    /// Writes that were refused, or never sent: certainly not done.
    pub refused: usize,
    /// Writes that may have been done.
    pub indeterminate: usize,
    /// Acknowledged writes that were not there at the end.
    pub lost: Vec<LostWrite>,
    /// Refused writes that were there at the end.
    pub phantom: Vec<String>,
    /// What was read back and cannot be, one line each: a number twice, acknowledged numbers out of their order, a replica
    /// that holds something else than its master.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub strange: Vec<String>,
    /// Why the trial could not be measured to its end, where it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The clients' writes around the fault, step by step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub series: Option<super::course::Series>,
}

/// An acknowledged write that was not there at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostWrite {
    /// The slot of its shard.
    pub slot: u16,
    /// The node that was the shard's master before the fault.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<String>,
    /// Its key and the number written.
    pub what: String,
    /// The node that acknowledged it, where one alone was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked_by: Option<String>,
    /// That node's own epoch when it was last asked before; of a write by a client to the shard that was hit, the highest
    /// that a master of the shard had told by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// When it was acknowledged, in seconds from the fault; before it, if negative.
    pub since_fault: f64,
}

impl LostWrite {
    /// The write on one line.
    pub fn line(&self) -> String {
        let shard = self
            .shard
            .as_ref()
            .map_or(String::new(), |master| format!(" (shard of {master})"));
        let by = self
            .acked_by
            .as_ref()
            .map_or(String::new(), |node| format!(" by {node}"));
        let epoch = self.epoch.map_or(String::new(), |epoch| format!(" at epoch {epoch}"));
        format!(
            "{} of slot {}{shard}, acknowledged{by}{epoch} {:.2} s {} the fault",
            self.what,
            self.slot,
            self.since_fault.abs(),
            if self.since_fault < 0.0 { "before" } else { "after" }
        )
    }
}

impl Trial {
    /// The trial on one line, for live progress.
    pub fn line(&self) -> String {
        let figure = |figure: Figure| match self.figures.get(&figure) {
            Some(seconds) => format!("{seconds:.2} s"),
            None => "-".into(),
        };
        format!(
            "trial {}: {} hit, master now {}; first write {}, write gap {}, whole {}; {} acknowledged, {} lost{}",
            self.number,
            self.victim,
            self.master.as_deref().unwrap_or("none"),
            figure(Figure::FirstWrite),
            figure(Figure::WriteGap),
            figure(Figure::Whole),
            self.acked,
            self.lost.len(),
            self.problem
                .as_ref()
                .map_or_else(String::new, |problem| format!("; {problem}"))
        )
    }
}

impl Scorecard {
    /// A scorecard of the trials so far; `protocol` gives the floor and the bound of a figure, in seconds.
    pub fn of(
        fault: &str,
        asked: usize,
        trials: Vec<Trial>,
        protocol: impl Fn(Figure) -> (Option<f64>, Option<f64>),
    ) -> Self {
        let spread = Figure::ALL.into_iter().filter_map(|figure| {
            let mut values: Vec<f64> = trials
                .iter()
                .filter_map(|trial| trial.figures.get(&figure).copied())
                .collect();
            values.sort_by(f64::total_cmp);
            let (first, last) = (*values.first()?, *values.last()?);
            let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
            let (floor, bound) = protocol(figure);
            let spread = Spread {
                minimum: first,
                median: f64::midpoint(low, high),
                maximum: last,
                seen: values.len(),
                floor,
                bound,
            };
            Some((figure, spread))
        });
        Self {
            spread: spread.collect(),
            fault: fault.into(),
            asked,
            rate: None,
            writers: None,
            trials,
        }
    }

    /// The scorecard as lines of a table.
    pub fn lines(&self) -> Vec<String> {
        let time = |seconds: Option<f64>| seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.2}"));
        let mut lines = vec![format!(
            "{:<28}{:>8}{:>8}{:>8}{:>7}{:>8}{:>8}",
            "seconds from the fault", "minimum", "median", "maximum", "seen", "floor", "bound"
        )];
        for (figure, spread) in &self.spread {
            lines.push(format!(
                "{:<28}{:>8}{:>8}{:>8}{:>7}{:>8}{:>8}",
                figure.words(),
                time(Some(spread.minimum)),
                time(Some(spread.median)),
                time(Some(spread.maximum)),
                format!("{}/{}", spread.seen, self.trials.len()),
                time(spread.floor),
                time(spread.bound)
            ));
        }
        let sum = |count: fn(&Trial) -> usize| self.trials.iter().map(count).sum::<usize>();
        let coarsest = self.trials.iter().map(|trial| trial.coarsest_look);
        lines.push(format!(
            "{} writes acknowledged, {} refused, {} of unknown fate; {} lost, {} phantom; moments known to {:.0} ms",
            sum(|trial| trial.acked),
            sum(|trial| trial.refused),
            sum(|trial| trial.indeterminate),
            sum(|trial| trial.lost.len()),
            sum(|trial| trial.phantom.len()),
            1000.0 * coarsest.fold(0.0, f64::max)
        ));
        if let Some(rate) = self.rate {
            let latest = self.trials.iter().map(|trial| trial.latest_write);
            lines.push(format!(
                "{rate} writes a second were due, and sent at most {:.0} ms late",
                1000.0 * latest.fold(0.0, f64::max)
            ));
        }
        for trial in &self.trials {
            if let Some(problem) = &trial.problem {
                lines.push(format!("trial {}: {problem}", trial.number));
            }
            for strange in &trial.strange {
                lines.push(format!("trial {}: {strange}", trial.number));
            }
            for lost in trial.lost.iter().take(MOST_LOST) {
                lines.push(format!("trial {}: lost: {}", trial.number, lost.line()));
            }
            if trial.lost.len() > MOST_LOST {
                lines.push(format!(
                    "trial {}: {} more lost writes, in run.json",
                    trial.number,
                    trial.lost.len() - MOST_LOST
                ));
            }
        }
        lines
    }
}

/// How many lost writes of a trial are shown; all are in `run.json`.
const MOST_LOST: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn trial(number: usize, gap: Option<f64>) -> Trial {
        Trial {
            number,
            victim: "a".into(),
            master: None,
            returned_as: None,
            figures: gap.into_iter().map(|gap| (Figure::WriteGap, gap)).collect(),
            coarsest_look: 0.01,
            latest_write: 0.0,
            acked: 1,
            refused: 0,
            indeterminate: 0,
            lost: Vec::new(),
            phantom: Vec::new(),
            strange: Vec::new(),
            problem: None,
            series: None,
        }
    }

    #[rstest]
    #[case::of_one(&[Some(3.0)], Some((3.0, 3.0, 3.0, 1)))]
    #[case::the_middle_one(&[Some(9.0), Some(1.0), Some(2.0)], Some((1.0, 2.0, 9.0, 3)))]
    #[case::the_mean_of_the_middle_two(&[Some(4.0), Some(1.0), Some(2.0), Some(9.0)], Some((1.0, 3.0, 9.0, 4)))]
    #[case::what_was_not_seen_does_not_count(&[None, Some(5.0)], Some((5.0, 5.0, 5.0, 1)))]
    #[case::seen_in_none(&[None, None], None)]
    fn figures_are_spread(#[case] gaps: &[Option<f64>], #[case] expected: Option<(f64, f64, f64, usize)>) {
        let trials = gaps.iter().enumerate().map(|(at, gap)| trial(at + 1, *gap)).collect();
        let card = Scorecard::of("crash", gaps.len(), trials, |_| (None, Some(20.0)));
        let spread = card.spread.get(&Figure::WriteGap);
        assert_eq!(
            spread.map(|spread| (spread.minimum, spread.median, spread.maximum, spread.seen)),
            expected
        );
    }
}
