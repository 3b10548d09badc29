//! Failures that are known: what a `known-failing` file lists, beside what came of the cases it names.
//!
//! An entry never bends a verdict: what fails is a `fail` in every report. It says only that this failure is expected until
//! a date, and the run fails when that is no longer true: when the case passes, or the date is past.

use super::{CaseResult, Conformance, Strictness, conformance};
use crate::verdict::VerdictName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a `known-failing` file lists, with the day on which it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The file, as it was named.
    pub file: String,
    /// Its entries, in order: a case's id, and what is known of it.
    pub entries: Vec<(String, Known)>,
}

/// What is known of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Why it fails.
    pub reason: String,
    /// The last day (UTC) on which the entry holds.
    #[schemars(with = "String")]
    pub until: jiff::civil::Date,
    /// Whether it fails only sometimes: then it never decides.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub flaky: bool,
    /// Whether `until` was past when the run began: then the entry excuses nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub expired: bool,
}

impl fmt::Display for Known {
    /// `until 2027-03-01: its reason`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flaky = if self.flaky { "flaky, " } else { "" };
        let until = if self.expired { "expired, was until" } else { "until" };
        write!(f, "{flaky}{until} {}: {}", self.until, self.reason)
    }
}

impl Listed {
    /// What is known of a case.
    pub fn of(&self, id: &str) -> Option<&Known> {
        self.entries
            .iter()
            .find(|(listed, _)| listed == id)
            .map(|(_, known)| known)
    }
}

/// What came of the entries of a `known-failing` file. Each entry is in one list, by the id of its case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KnownFailing {
    /// The file, as it was named.
    pub file: String,
    /// Failed, as listed.
    pub failing: Vec<String>,
    /// Listed as flaky, and passed.
    pub flaky_passed: Vec<String>,
    /// Listed as flaky, and failed or broke.
    pub flaky_failed: Vec<String>,
    /// Listed, but passed: the entry must go. This fails the run.
    pub passing: Vec<String>,
    /// Ran, but the entry's date is past. This fails the run.
    pub expired: Vec<String>,
    /// Not selected, not run, or broke before a judgement: nothing is known of the entry.
    pub not_judged: Vec<String>,
    /// What the run comes to when expected failures and flaky cases do not decide, and an entry that is not true does: the
    /// exit code follows from this.
    pub gate: Conformance,
}

impl KnownFailing {
    /// Sums up what came of the entries, over the cases of a run, which carry what is known of them.
    pub fn of(listed: &Listed, cases: &[CaseResult], aborted: bool, strictness: Strictness) -> Self {
        let mut sums = Self {
            file: listed.file.clone(),
            failing: Vec::new(),
            flaky_passed: Vec::new(),
            flaky_failed: Vec::new(),
            passing: Vec::new(),
            expired: Vec::new(),
            not_judged: Vec::new(),
            gate: Conformance::Undecided,
        };
        for (id, known) in &listed.entries {
            let verdict = cases.iter().find(|case| case.id == *id).map(|case| case.verdict);
            sums.list(verdict, known).push(id.clone());
        }
        sums.gate = if sums.passing.is_empty() && sums.expired.is_empty() {
            conformance(cases, aborted, strictness, excused)
        } else {
            Conformance::NotConformant
        };
        sums
    }

    /// The list in which an entry belongs, by how its case ended; `None` where it was not selected.
    fn list(&mut self, verdict: Option<VerdictName>, known: &Known) -> &mut Vec<String> {
        use VerdictName::{Blocked, Error, Fail, Pass, Skipped, Unsupported};
        match (verdict, known.flaky, known.expired) {
            (None | Some(Skipped | Blocked | Unsupported), ..) | (Some(Error), false, _) => &mut self.not_judged,
            (Some(Pass | Fail | Error), _, true) => &mut self.expired,
            (Some(Pass), true, false) => &mut self.flaky_passed,
            (Some(Fail | Error), true, false) => &mut self.flaky_failed,
            (Some(Pass), false, false) => &mut self.passing,
            (Some(Fail), false, false) => &mut self.failing,
        }
    }

    /// The entries that do not fail the run, by what came of them.
    pub fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("failed, as listed", &self.failing),
            ("flaky, and failed", &self.flaky_failed),
            ("flaky, and passed", &self.flaky_passed),
            ("not judged", &self.not_judged),
        ]
    }

    /// Why the entries themselves fail the run, a line each, with what to do.
    pub fn complaints(&self) -> Vec<String> {
        let passing = self.passing.iter().map(|id| {
            format!(
                "{id} passes, though it is listed as failing: remove its entry from {}",
                self.file
            )
        });
        let expired = self.expired.iter().map(|id| {
            format!(
                "the entry of {id} has expired: repair what it excuses, or give it another date, in {}",
                self.file
            )
        });
        passing.chain(expired).collect()
    }
}

/// Whether a case does not decide, because of what is known of it: a listed one that fails; a flaky one that broke, too. What
/// was not judged stays so: `--require-all` asks for it in any case.
pub fn excused(case: &CaseResult) -> bool {
    case.known.as_ref().is_some_and(|known| {
        let excusable = match case.verdict {
            VerdictName::Fail => true,
            VerdictName::Error => known.flaky,
            VerdictName::Pass | VerdictName::Unsupported | VerdictName::Skipped | VerdictName::Blocked => false,
        };
        excusable && !known.expired
    })
}
