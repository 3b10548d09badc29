//! Two runs side by side: what the second one fixed, broke, no longer supports, slowed down or lost.
//!
//! Verdicts are compared by case. Times are compared where a difference can mean something: over trials, the ranges must
//! not overlap; a single time must have a bound to keep, and be twice as long. Whatever differs between the two beside the
//! deployment (target, server, suite, what counted) is told first: it may be the reason for everything else.

mod figures;
mod render;

pub use figures::{Loss, Pace, Range, Times};
pub use render::{markdown, text};

use super::known::Known;
use super::text::one_line;
use super::words::{in_words, tested};
use super::{CaseResult, Conformance, Run};
use crate::case::Level;
use crate::verdict::VerdictName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The version of the model of `compare --format json`.
pub const SCHEMA_VERSION: &str = "1";

/// Two runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The version of this model.
    pub schema_version: String,
    /// The first run.
    pub before: Side,
    /// The second run.
    pub after: Side,
    /// What else differs between them, a line each.
    pub differences: Vec<Difference>,
    /// The cases that ended otherwise, or are in one of the runs only; the worst first.
    pub changes: Vec<Change>,
    /// The cases that failed in both.
    pub failing: Vec<String>,
    /// How many cases ended in the same way.
    pub unchanged: usize,
    /// How many cases are in both runs.
    pub in_common: usize,
    /// Every figure of the trials of both, and of the times that cases measured those that changed beyond noise.
    pub times: Vec<Times>,
    /// What was lost, or was wrong after a fault, where the two runs differ.
    pub losses: Vec<Loss>,
    /// What could not be compared, and why, a line each.
    pub not_compared: Vec<String>,
}

/// One of the two runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The file, as it was named.
    pub file: String,
    /// The run's own name.
    pub run_id: String,
    /// Its verdict in words.
    pub verdict: String,
    /// What was tested, on one line.
    pub tested: String,
    /// When it began, in UTC.
    #[schemars(with = "String")]
    pub started: jiff::Timestamp,
    /// Whether it says too little to be compared: it ended early, was left undecided, or the suite broke in a case.
    pub broke: bool,
}

/// Something beside the cases that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What: `server`, `manifest`.
    pub what: String,
    /// In the first run.
    pub before: String,
    /// In the second run.
    pub after: String,
}

/// A case that ended otherwise, or is in one of the runs only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What kind of change it is.
    pub kind: ChangeKind,
    /// The catalogue's identifier.
    pub id: String,
    /// The case's title.
    pub title: String,
    /// How binding it is.
    pub level: Level,
    /// How it ended in the first run; absent where it is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<VerdictName>,
    /// How it ended in the second run; absent where it is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<VerdictName>,
    /// One line that says why it did not pass: in the second run, else in the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What is known of it, by the file that the second run was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
}

/// The kinds of change, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// It fails now, and did not before, or is in the second run only.
    Broken,
    /// What it needs is no longer there.
    Unsupported,
    /// It is no longer judged: skipped, blocked, or the suite broke.
    Unjudged,
    /// It is in the first run only.
    Removed,
    /// It changed, but is known to fail, or to be flaky.
    Known,
    /// It passes now, and failed before.
    Fixed,
    /// It passes now; before, what it needs was not there.
    Supported,
    /// It passes now, and was not judged before.
    Judged,
    /// It is in the second run only, and does not fail there.
    Added,
}

impl ChangeKind {
    /// Every kind, the worst first.
    pub const ALL: [Self; 9] = [
        Self::Broken,
        Self::Unsupported,
        Self::Unjudged,
        Self::Removed,
        Self::Known,
        Self::Fixed,
        Self::Supported,
        Self::Judged,
        Self::Added,
    ];

    /// The kind in words: `no longer judged`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Unsupported => "no longer supported",
            Self::Unjudged => "no longer judged",
            Self::Removed => "not in the second run",
            Self::Known => "changed, as known",
            Self::Fixed => "fixed",
            Self::Supported => "supported now",
            Self::Judged => "judged now",
            Self::Added => "not in the first run",
        }
    }

    /// What a case's two verdicts come to; `None` where they are the same, or neither is a judgement: what was not judged before
    /// cannot be lost. That the suite broke is told in any case.
    pub fn of(before: VerdictName, after: VerdictName) -> Option<Self> {
        use VerdictName::{Blocked, Error, Fail, Pass, Skipped, Unsupported};
        if before == after {
            return None;
        }
        Some(match (before, after) {
            (_, Fail) => Self::Broken,
            (Fail, Pass) => Self::Fixed,
            (Unsupported, Pass) => Self::Supported,
            (_, Pass) => Self::Judged,
            (Pass | Fail, Unsupported) => Self::Unsupported,
            (Pass | Fail, Skipped | Blocked) | (_, Error) => Self::Unjudged,
            (Unsupported | Skipped | Blocked | Error, Unsupported | Skipped | Blocked) => return None,
        })
    }
}

/// What a policy may count as worse (`--fail-on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worse {
    /// A case fails now, and did not before, or is in the second run only; and is not known.
    Broken,
    /// A case is no longer supported.
    Unsupported,
    /// A case is no longer judged: skipped, blocked, or the suite broke.
    Unjudged,
    /// A case is not in the second run.
    Removed,
    /// A time is longer beyond noise.
    Slower,
    /// More acknowledged writes were lost, or more was wrong after a fault.
    Lossier,
    /// The runs differ in target, server, suite, or what counted.
    Different,
}

impl Comparison {
    /// Compares two runs; each with the name of its file.
    pub fn of(before: (&str, &Run), after: (&str, &Run)) -> Self {
        let (of_before, of_after) = (before.1, after.1);
        let mut changes = changes(of_before, of_after);
        // The order of the catalogue stays within a kind.
        changes.sort_by_key(|change| change.kind);
        let ids = |run: &Run| -> BTreeSet<String> { run.cases.iter().map(|case| case.id.clone()).collect() };
        let in_common = ids(of_before).intersection(&ids(of_after)).count();
        let changed = changes
            .iter()
            .filter(|change| change.before.is_some() && change.after.is_some())
            .count();
        let failing = |run: &Run, id: &str| {
            let case = run.cases.iter().find(|case| case.id == id);
            case.is_some_and(|case| case.verdict == VerdictName::Fail)
        };
        let mut times = figures::times_of_cases(of_before, of_after);
        let mut losses = figures::losses_of_cases(of_before, of_after);
        let mut not_compared = Vec::new();
        match (&of_before.scorecard, &of_after.scorecard) {
            (Some(one), Some(other)) if figures::same_trials(one, other) => {
                times.splice(0..0, figures::times_of_trials(one, other));
                match (one.trials.len(), other.trials.len()) {
                    (same, as_many) if same == as_many => {
                        losses.splice(0..0, figures::losses_of_trials(one, other));
                    }
                    (few, many) => not_compared.push(format!("what was lost: over {few} trials, and over {many}")),
                }
            }
            (Some(_), Some(_)) => {
                not_compared.push("the trials: their fault, rate or writers are not the same".to_owned());
            }
            (Some(_), None) => not_compared.push("the trials: only the first run has some".to_owned()),
            (None, Some(_)) => not_compared.push("the trials: only the second run has some".to_owned()),
            (None, None) => {}
        }
        Self {
            schema_version: SCHEMA_VERSION.into(),
            before: Side::of(before.0, of_before),
            after: Side::of(after.0, of_after),
            differences: differences(of_before, of_after),
            failing: (of_after.cases.iter())
                .filter(|case| case.verdict == VerdictName::Fail && failing(of_before, &case.id))
                .map(|case| case.id.clone())
                .collect(),
            unchanged: in_common - changed,
            in_common,
            changes,
            times,
            losses,
            not_compared,
        }
    }

    /// The changes of a kind.
    pub fn changes_of(&self, kind: ChangeKind) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.kind == kind)
    }

    /// Whether the second run is worse in a way that a policy may count.
    pub fn is(&self, worse: Worse) -> bool {
        let has = |kind| self.changes_of(kind).next().is_some();
        match worse {
            Worse::Broken => has(ChangeKind::Broken),
            Worse::Unsupported => has(ChangeKind::Unsupported),
            Worse::Unjudged => has(ChangeKind::Unjudged),
            Worse::Removed => has(ChangeKind::Removed),
            Worse::Slower => self.times.iter().any(|times| times.pace == Pace::Slower),
            Worse::Lossier => self.losses.iter().any(|loss| loss.after > loss.before),
            Worse::Different => !self.differences.is_empty(),
        }
    }
}

impl Side {
    fn of(file: &str, run: &Run) -> Self {
        Self {
            file: file.into(),
            run_id: run.run_id.clone(),
            verdict: in_words(run),
            tested: tested(run),
            started: run.started,
            broke: run.aborted.is_some() || run.summary.gate() == Conformance::Undecided || the_suite_broke(run),
        }
    }
}

/// Whether the suite broke in a case that decides: one that failed beside it makes a verdict, and says nothing of this one.
fn the_suite_broke(run: &Run) -> bool {
    let broke = |case: &CaseResult| case.verdict == VerdictName::Error && !super::known::excused(case);
    run.cases.iter().any(broke)
}

fn changes(before: &Run, after: &Run) -> Vec<Change> {
    let find = |run: &Run, id: &str| run.cases.iter().position(|case| case.id == id);
    let mut changes = Vec::new();
    for case in &after.cases {
        match find(before, &case.id).map(|at| &before.cases[at]) {
            Some(old) => {
                if let Some(kind) = ChangeKind::of(old.verdict, case.verdict) {
                    changes.push(change(kind, Some(old), Some(case)));
                }
            }
            None => {
                // A failure is none the less one where the first run did not ask.
                let kind = match case.verdict {
                    VerdictName::Fail => ChangeKind::Broken,
                    VerdictName::Pass
                    | VerdictName::Error
                    | VerdictName::Blocked
                    | VerdictName::Unsupported
                    | VerdictName::Skipped => ChangeKind::Added,
                };
                changes.push(change(kind, None, Some(case)));
            }
        }
    }
    let removed = before.cases.iter().filter(|case| find(after, &case.id).is_none());
    changes.extend(removed.map(|case| change(ChangeKind::Removed, Some(case), None)));
    changes.retain(|change| change.before.is_some() || change.after.is_some());
    changes
}

fn change(kind: ChangeKind, before: Option<&CaseResult>, after: Option<&CaseResult>) -> Change {
    // One of the two is there.
    let shown = after.or(before);
    let known = after.and_then(|case| case.known.clone());
    let expected =
        known.as_ref().is_some_and(|known| !known.expired && known.flaky) || after.is_some_and(super::known::excused);
    let kind = match kind {
        ChangeKind::Added | ChangeKind::Removed => kind,
        _ if expected => ChangeKind::Known,
        kind => kind,
    };
    Change {
        kind,
        id: shown.map(|case| case.id.clone()).unwrap_or_default(),
        title: shown.map(|case| case.title.clone()).unwrap_or_default(),
        level: shown.map_or(Level::Must, |case| case.level),
        before: before.map(|case| case.verdict),
        after: after.map(|case| case.verdict),
        why: after.and_then(why).or_else(|| before.and_then(why)),
        known,
    }
}

/// One line that says why a case did not pass.
pub(super) fn why(case: &CaseResult) -> Option<String> {
    [&case.cause, &case.reason, &case.actual]
        .into_iter()
        .flatten()
        .map(|text| one_line(text))
        .find(|line| !line.is_empty())
}

/// What differs beside the cases. A run's own name, and what is named after it, is no difference.
fn differences(before: &Run, after: &Run) -> Vec<Difference> {
    let (one, other) = (facts(before), facts(after));
    let names: BTreeSet<&String> = one.iter().chain(&other).map(|(name, _)| name).collect();
    let of = |facts: &[(String, String)], name: &str| {
        let fact = facts.iter().find(|(known, _)| known == name);
        fact.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
    };
    let mut differences: Vec<Difference> = names
        .into_iter()
        .map(|name| Difference {
            what: name.clone(),
            before: of(&one, name),
            after: of(&other, name),
        })
        .filter(|difference| difference.before != difference.after)
        .collect();
    let place = |name: &str| one.iter().chain(&other).position(|(known, _)| known == name);
    differences.sort_by_key(|difference| place(&difference.what));
    differences
}

fn facts(run: &Run) -> Vec<(String, String)> {
    let mut facts = vec![
        ("target".to_owned(), run.target.kind.to_string()),
        ("suite".to_owned(), run.suite.to_string()),
    ];
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    if let Some(server) = &run.server {
        add("server", format!("{} {}", server.product, server.version));
        add("nodes", server.nodes.len().to_string());
        add("cluster-node-timeout", format!("{} ms", server.node_timeout_ms));
    } else {
        add("server", "none was reached".into());
    }
    add("masters", run.target.shape.masters.to_string());
    add("replicas of each", run.target.shape.replicas_per_master.to_string());
    for (name, value) in &run.target.descriptor {
        add(&format!("target's {name}"), value.replace(&run.run_id, "<run>"));
    }
    let counted = run.summary.counted;
    add("--strict", counted.strict.to_string());
    add("--require-all", counted.require_all.to_string());
    if let Some(known) = &run.summary.known {
        add("--known-failing", known.file.clone());
    }
    if let Some(card) = &run.scorecard {
        add("fault of the trials", card.fault.clone());
        add("trials", card.trials.len().to_string());
        if let Some(rate) = card.rate {
            add("writes a second", rate.to_string());
        }
    }
    facts
}
