//! Several runs of the same cases, one after another, side by side: how often each case passed, and every verdict that
//! changed. A verdict that changes though nothing was changed is a defect, of the deployment or of the suite, until it is
//! shown otherwise; it is told as loudly as a failure.

use super::text::{seconds, visible};
use super::words::in_words;
use super::{AbortKind, CaseResult, Run};
use crate::case::Level;
use crate::verdict::VerdictName;
use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The name of the file beside the runs' folders.
pub const FILE: &str = "repeat.json";

/// Several runs of the same cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repeat {
    /// The version of this model.
    pub schema_version: String,
    /// How many runs were asked for.
    pub asked: usize,
    /// The runs that took place, in order.
    pub runs: Vec<RunLine>,
    /// Every case, in the catalogue's order.
    pub cases: Vec<CaseLine>,
    /// The exit code: see [`Repeat::exit_code()`].
    pub exit_code: u8,
}

/// One of the runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunLine {
    /// Its number, from 1, and the name of its folder.
    pub run: usize,
    /// Its own name.
    pub run_id: String,
    /// Its verdict in words.
    pub verdict: String,
    /// The exit code that it would have had alone.
    pub exit_code: u8,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Why it ended before its cases, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
}

/// One case over all runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaseLine {
    /// The catalogue's identifier.
    pub id: String,
    /// How binding it is.
    pub level: Level,
    /// The share of passes among the runs in which it ended at all, from 0 to 1; absent where it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_rate: Option<f64>,
    /// The numbers of the runs by how it ended in them. Runs that ended before it are in none.
    pub verdicts: BTreeMap<VerdictName, Vec<usize>>,
    /// Whether it ended in more than one way.
    pub changed: bool,
    /// Whether it is known to be flaky (`--known-failing`): then a change is told, and decides nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub flaky: bool,
    /// The folders of its evidence, relative to this file.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evidence: Vec<String>,
}

impl Repeat {
    /// Sums up runs in their order, each with the exit code that it has alone.
    pub fn of(asked: usize, runs: &[(Run, u8)]) -> Self {
        let numbered = || (1..).zip(runs);
        let mut cases: Vec<CaseLine> = Vec::new();
        let Some((first, _)) = runs.first() else {
            return Self {
                schema_version: super::SCHEMA_VERSION.into(),
                asked,
                runs: Vec::new(),
                cases,
                exit_code: crate::exit::NOTHING_SELECTED,
            };
        };
        for case in &first.cases {
            let mut line = CaseLine {
                id: case.id.clone(),
                level: case.level,
                pass_rate: None,
                verdicts: BTreeMap::new(),
                changed: false,
                flaky: case.known.as_ref().is_some_and(|known| known.flaky && !known.expired),
                evidence: Vec::new(),
            };
            for (number, (run, _)) in numbered() {
                let Some(result) = run.cases.iter().find(|result| result.id == case.id) else {
                    continue;
                };
                if !never_ran(run, result) {
                    line.verdicts.entry(result.verdict).or_default().push(number);
                    line.evidence
                        .extend(result.evidence.iter().map(|at| format!("{number}/{at}")));
                }
            }
            let ended: usize = line.verdicts.values().map(Vec::len).sum();
            let passed = line.verdicts.get(&VerdictName::Pass).map_or(0, Vec::len);
            line.pass_rate = (ended > 0).then(|| (passed as f64 / ended as f64 * 1000.0).round() / 1000.0);
            line.changed = line.verdicts.len() > 1;
            cases.push(line);
        }
        let runs: Vec<RunLine> = numbered()
            .map(|(number, (run, exit_code))| RunLine {
                run: number,
                run_id: run.run_id.clone(),
                verdict: in_words(run),
                exit_code: *exit_code,
                seconds: ((run.ended - run.started).total(jiff::Unit::Second).unwrap_or_default() * 10.0).round()
                    / 10.0,
                aborted: run.aborted.as_ref().map(|abort| abort.message.clone()),
            })
            .collect();
        Self {
            schema_version: super::SCHEMA_VERSION.into(),
            asked,
            exit_code: worst(&runs, cases.iter().any(|case| case.changed && !case.flaky)),
            runs,
            cases,
        }
    }

    /// The exit code of all: 1 when a run was not conformant, or a verdict changed that is not known to be flaky; else that of
    /// the first run that was not conformant for another reason (3: it broke or was interrupted, 2: usage); else 0.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// The cases whose verdict changed.
    pub fn changed(&self) -> impl Iterator<Item = &CaseLine> {
        self.cases.iter().filter(|case| case.changed)
    }

    /// The summary as a person reads it; `folder` is where the runs' folders are.
    pub fn render(&self, folder: &Path) -> String {
        let mut text = format!("\nRepeated: {} of {} runs\n", self.runs.len(), self.asked);
        for run in &self.runs {
            let place = folder.join(run.run.to_string());
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  {:>3}  {:>9}  {}  ({})",
                run.run,
                seconds(run.seconds),
                visible(&run.verdict),
                place.display()
            );
        }
        let changed: Vec<&CaseLine> = self.changed().collect();
        if !changed.is_empty() {
            text.push_str("\nVerdicts that changed though nothing was changed:\n");
        }
        for case in &changed {
            let _ = writeln!(text, "{}", visible(&case.in_words(folder)));
        }
        text.push_str("\nThe same in every run:\n");
        let steady = || self.cases.iter().filter(|case| !case.changed);
        for verdict in VerdictName::ALL {
            let ids: Vec<String> = steady()
                .filter(|case| case.verdicts.contains_key(&verdict))
                .map(|case| visible(&case.id))
                .collect();
            let shown = match verdict {
                VerdictName::Pass => String::new(),
                _ => format!("  {}", ids.join(", ")),
            };
            if !ids.is_empty() {
                let _ = writeln!(text, "  {verdict:<11}  {:>3}{shown}", ids.len());
            }
        }
        let unknown = steady().filter(|case| case.verdicts.is_empty()).count();
        if unknown > 0 {
            let _ = writeln!(text, "  never ended  {unknown:>3}");
        }
        let _ = writeln!(text, "\nPass rates: {}", folder.join(FILE).display());
        text
    }

    /// Writes `repeat.json` into `folder`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; the text names it.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let mut text = serde_json::to_string_pretty(self).context("the runs cannot be written as JSON")?;
        text.push('\n');
        super::write_whole(&folder.join(FILE), &text)
    }
}

impl CaseLine {
    /// `CHANGED: FAIL-11 pass ×9, fail ×1 (run 7), see out/7/evidence/FAIL-11`. The runs of the most frequent verdict
    /// are not named: they are the others.
    fn in_words(&self, folder: &Path) -> String {
        let most = self.verdicts.values().map(Vec::len).max().unwrap_or(0);
        let mut unnamed = true;
        let parts: Vec<String> = self
            .verdicts
            .iter()
            .map(|(verdict, runs)| {
                let count = format!("{verdict} ×{}", runs.len());
                if unnamed && runs.len() == most {
                    unnamed = false;
                    return count;
                }
                let numbers: Vec<String> = runs.iter().map(ToString::to_string).collect();
                let word = if runs.len() == 1 { "run" } else { "runs" };
                format!("{count} ({word} {})", numbers.join(", "))
            })
            .collect();
        let evidence: Vec<String> = self
            .evidence
            .iter()
            .map(|at| folder.join(at).display().to_string())
            .collect();
        let see = if evidence.is_empty() {
            String::new()
        } else {
            format!(", see {}", evidence.join(", "))
        };
        let should = match self.level {
            Level::Must => "",
            Level::Should => " (should)",
        };
        let known = if self.flaky { " (known to be flaky)" } else { "" };
        format!("CHANGED: {}{should}{known} {}{see}", self.id, parts.join(", "))
    }
}

/// In a run that ended early, what was skipped did not end at all.
pub(super) fn never_ran(run: &Run, result: &CaseResult) -> bool {
    run.aborted.is_some() && result.verdict == VerdictName::Skipped
}

fn worst(runs: &[RunLine], changed: bool) -> u8 {
    use crate::exit::{BROKEN, CONFORMANT, NOT_CONFORMANT};
    let codes = || runs.iter().map(|run| run.exit_code);
    if changed || codes().any(|code| code == NOT_CONFORMANT) {
        NOT_CONFORMANT
    } else if codes().any(|code| code == BROKEN) {
        BROKEN
    } else {
        codes().find(|code| *code != CONFORMANT).unwrap_or(CONFORMANT)
    }
}

/// Whether a further run makes sense after this one: not after an interrupt, nor where what the user gave is of no use.
pub fn goes_on(run: &Run) -> bool {
    !run.aborted
        .as_ref()
        .is_some_and(|abort| matches!(abort.kind, AbortKind::Interrupted | AbortKind::Usage))
}
