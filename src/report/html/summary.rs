//! The sums: seed assertions, profiles, and the phases of the run.

use super::super::words::group_line;
use super::super::{CaseResult, GroupResult, Run, Tally};
use super::plot::duration;
use crate::case::{Profile, Seed};
use crate::verdict::VerdictName;

/// A seed assertion.
pub(super) struct Group<'a> {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) class: &'static str,
    pub(super) mark: &'static str,
    pub(super) word: &'static str,
    pub(super) counts: String,
    /// The cases that make it what it is: those that failed, broke or were blocked.
    pub(super) bad: Vec<&'a CaseResult>,
    pub(super) bar: Vec<Part>,
}

/// A part of a bar of verdicts.
pub(super) struct Part {
    pub(super) verdict: VerdictName,
    pub(super) count: usize,
}

/// A profile.
pub(super) struct Profiled {
    pub(super) name: &'static str,
    pub(super) word: &'static str,
    pub(super) class: &'static str,
    pub(super) total: usize,
    pub(super) cells: Vec<usize>,
    pub(super) bar: Vec<Part>,
}

/// A phase of the run.
pub(super) struct Timed<'a> {
    pub(super) name: &'a str,
    pub(super) time: String,
    pub(super) floor: Option<String>,
    /// Its share of the longest one, in percent.
    pub(super) share: f64,
}

/// The sign of a verdict, which no colour is needed for.
pub(super) fn mark(verdict: VerdictName) -> &'static str {
    match verdict {
        VerdictName::Pass => "✓",
        VerdictName::Fail => "✗",
        VerdictName::Error => "!",
        VerdictName::Blocked => "⊘",
        VerdictName::Unsupported => "–",
        VerdictName::Skipped => "○",
    }
}

/// The name of a profile.
pub(super) fn profile(profile: Profile) -> &'static str {
    match profile {
        Profile::Core => "core",
        Profile::Extended => "extended",
        Profile::Kubernetes => "kubernetes",
        Profile::Chaos => "chaos",
    }
}

fn bar(tally: &Tally) -> Vec<Part> {
    let parts = VerdictName::ALL.into_iter().map(|verdict| Part {
        verdict,
        count: tally.count(verdict),
    });
    parts.filter(|part| part.count > 0).collect()
}

/// A word for a group, and the class and the sign that go with it.
fn as_class(word: &str) -> (&'static str, &'static str) {
    match word {
        "pass" | "success" => ("pass", "✓"),
        "fail" | "failure" => ("fail", "✗"),
        "error" => ("error", "!"),
        "blocked" => ("blocked", "⊘"),
        "partial" => ("partial", "◐"),
        _ => ("skipped", "○"),
    }
}

pub(super) fn seeds(run: &Run) -> Vec<Group<'_>> {
    let group = |seed: Seed| {
        let cases: Vec<&CaseResult> = run.cases.iter().filter(|case| case.seed.contains(&seed)).collect();
        let tally = run.summary.seed.get(&seed).cloned().unwrap_or_default();
        let (word, _, _) = group_line(&tally, &cases);
        let (class, mark) = as_class(word);
        let bad = |case: &&CaseResult| {
            matches!(
                case.verdict,
                VerdictName::Fail | VerdictName::Error | VerdictName::Blocked
            )
        };
        Group {
            name: match seed {
                Seed::A1 => "A1",
                Seed::A2 => "A2",
                Seed::A3 => "A3",
                Seed::A4 => "A4",
                Seed::A5 => "A5",
                Seed::A6 => "A6",
            },
            title: seed.title(),
            class,
            mark,
            word,
            counts: match tally.total() {
                0 => "no case was selected".into(),
                total => format!("{} of {total} cases passed", tally.count(VerdictName::Pass)),
            },
            bad: cases.into_iter().filter(bad).collect(),
            bar: bar(&tally),
        }
    };
    Seed::ALL.into_iter().map(group).collect()
}

pub(super) fn profiles(run: &Run) -> Vec<Profiled> {
    let named = run.summary.profiles.iter();
    let named = named.map(|(name, tally)| (profile(*name), tally));
    named
        .chain([("all", &run.summary.total)])
        .map(|(name, tally)| {
            let word = match tally.result {
                GroupResult::None => "none",
                GroupResult::Success => "success",
                GroupResult::Partial => "partial",
                GroupResult::Unknown => "unknown",
                GroupResult::Failure => "failure",
            };
            Profiled {
                name,
                word,
                class: as_class(word).0,
                total: tally.total(),
                cells: VerdictName::ALL
                    .into_iter()
                    .map(|verdict| tally.count(verdict))
                    .collect(),
                bar: bar(tally),
            }
        })
        .collect()
}

pub(super) fn phases(run: &Run) -> Vec<Timed<'_>> {
    let longest = run.phases.iter().map(|phase| phase.seconds).fold(0.0, f64::max);
    let phases = run.phases.iter().map(|phase| Timed {
        name: &phase.name,
        time: duration(phase.seconds),
        floor: phase.floor.map(duration),
        share: if longest > 0.0 {
            (phase.seconds / longest * 1000.0).round().clamp(0.0, 1000.0) / 10.0
        } else {
            0.0
        },
    });
    phases.collect()
}
