//! The finished run as data, and its renderings. A renderer sees a [`Run`] and nothing else.
//!
//! The model is versioned: names and meanings change only with [`SCHEMA_VERSION`], as CONTRIBUTING.md, "Versions", says.

pub mod compare;
pub mod course;
pub mod html;
pub mod json;
pub mod junit;
pub mod known;
pub mod markdown;
pub mod matrix;
pub mod picture;
#[cfg(test)]
mod promise;
pub mod repeat;
pub mod scorecard;
pub mod terminal;
mod text;
mod words;

pub(crate) use text::visible;

use crate::case::{Impact, Level, Profile, Seed};
use crate::context::Measurement;
use crate::target::{Phase, Secret, TargetDescription};
use crate::verdict::VerdictName;
use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The version of the model of `run.json`, MAJOR.MINOR. A minor version adds: readers of the ones before it get along. Whatever
/// else changes raises the major one.
pub const SCHEMA_VERSION: &str = "1.0";

/// One execution over one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The version of this model, MAJOR.MINOR.
    pub schema_version: String,
    /// The run's own name, part of its keys and labels.
    pub run_id: String,
    /// The suite that ran.
    pub suite: Suite,
    /// The deployment that was judged, with nothing secret in it.
    pub target: TargetDescription,
    /// What the servers said they are; absent when none was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// When the run began, in UTC.
    #[schemars(with = "String")]
    pub started: jiff::Timestamp,
    /// When it ended, in UTC.
    #[schemars(with = "String")]
    pub ended: jiff::Timestamp,
    /// What took how long, in order.
    pub phases: Vec<Phase>,
    /// One entry for each selected case, in the catalogue's order.
    pub cases: Vec<CaseResult>,
    /// Why the run ended before its cases, where it did: the target did not come up, a signal came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted: Option<Abort>,
    /// The one line that names what is wrong with the deployment as a whole, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What was left behind and could not be removed, one line each, with how to remove it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_behind: Vec<String>,
    /// One fault done several times, and what was measured each time (`--trials`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scorecard: Option<scorecard::Scorecard>,
    /// What every node said of the cluster, before the cases and after them; empty where none was reached.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub pictures: Vec<picture::Picture>,
    /// The sums.
    pub summary: Summary,
}

/// Why a run ended before its cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// `target` (it could not be made or reached), `usage` (what the user gave cannot be used) or `interrupted`.
    pub kind: AbortKind,
    /// What happened, and what to do next.
    pub message: String,
}

/// The kinds of [`Abort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AbortKind {
    /// The target could not be made or reached.
    Target,
    /// What the user gave cannot be used.
    Usage,
    /// A signal came.
    Interrupted,
}

/// The suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suite {
    /// Its version.
    pub version: String,
    /// The commit that it was built from, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.version)?;
        match &self.commit {
            Some(commit) => write!(f, " ({})", commit.chars().take(12).collect::<String>()),
            None => Ok(()),
        }
    }
}

/// The servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// `Redis`, `Valkey`, `Redict`: by the field of `INFO server` that names the version.
    pub product: String,
    /// The version; several where nodes differ, joined by `, `.
    pub version: String,
    /// The node-timeout that bounds derive from, in milliseconds.
    pub node_timeout_ms: u64,
    /// The nodes, as the target knows them: name and address.
    pub nodes: Vec<crate::cluster::node::Member>,
}

/// The end of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// The catalogue's identifier.
    pub id: String,
    /// The case's title.
    pub title: String,
    /// The requirement.
    pub requirement: String,
    /// Where the requirement comes from: a section of the specification, or a line of the canonical deployment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<String>,
    /// How binding it is.
    pub level: Level,
    /// The part of the catalogue.
    pub profile: Profile,
    /// The seed assertions that it belongs to.
    pub seed: Vec<Seed>,
    /// What it does to the deployment.
    pub impact: Impact,
    /// How it ended.
    pub verdict: VerdictName,
    /// What a `known-failing` file says of it, where one lists it. The verdict stays what it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub known: Option<known::Known>,
    /// How long it took.
    pub seconds: f64,
    /// For `fail`: every acceptable observation.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub expected: Vec<String>,
    /// For `fail`: what was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// For `fail` and `error`: one line that names the cause in Redis's and Kubernetes' words, where one was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// For `unsupported`, `skipped`, `blocked` and `error`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The folder of evidence, relative to `run.json`: of a case that did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// What happened when, a file relative to `run.json`: of every disruptive case that ran, and of every case of which
    /// there is evidence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<String>,
    /// The gaps of the workload, and what happened around them: of every case whose writers met one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub course: Option<course::Course>,
    /// Figures, with the floor and the bound that apply to them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub measured: Vec<Measurement>,
    /// Remarks: which of two legal outcomes was seen.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

impl CaseResult {
    /// The chapter of the catalogue: `SLOT` of `SLOT-03`.
    pub fn chapter(&self) -> &str {
        self.id.split('-').next().unwrap_or(&self.id)
    }
}

/// The verdicts of a group of cases, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// How many cases ended how; verdicts that did not occur are absent.
    pub verdicts: BTreeMap<VerdictName, usize>,
    /// `success` (all passed), `partial` (nothing failed or broke, but not all passed), `unknown` (none failed or broke, and
    /// none passed), `failure`, or `none` (no case).
    pub result: GroupResult,
}

/// What a group's tally comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupResult {
    /// No case of the group was selected.
    #[default]
    None,
    /// Every case passed.
    Success,
    /// None failed or broke, some passed, but not all.
    Partial,
    /// None failed or broke, and none passed: all were unsupported, or skipped. Nothing is known.
    Unknown,
    /// A case failed, broke, or was blocked.
    Failure,
}

/// The sums of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Whether no `must` failed and nothing broke: `conformant`, `not-conformant` or `undecided` (an error, an
    /// abort, or no case that came to a judgement).
    pub verdict: Conformance,
    /// By seed assertion, all six.
    pub seed: BTreeMap<Seed, Tally>,
    /// By profile, those with cases.
    pub profiles: BTreeMap<Profile, Tally>,
    /// All cases.
    pub total: Tally,
    /// What counted beside a failed `must`: without it the verdict could not be followed from the cases.
    #[serde(default)]
    pub counted: Strictness,
    /// What came of the failures that are known (`--known-failing`). The verdict does not heed it; the exit code does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub known: Option<known::KnownFailing>,
}

/// The answer to the question that the run was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Conformance {
    /// Every `must` that could be judged was met.
    Conformant,
    /// A `must` was not met.
    NotConformant,
    /// The run broke before that could be said, or judged nothing.
    Undecided,
}

/// What counts beside a failed `must`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Strictness {
    /// A failed `should` counts too (`--strict`).
    pub strict: bool,
    /// `unsupported`, `skipped` and `blocked` count as failures (`--require-all`).
    pub require_all: bool,
}

impl Summary {
    /// Sums up a run's cases.
    pub fn of(cases: &[CaseResult], aborted: bool, strictness: Strictness) -> Self {
        let tally = |chosen: &dyn Fn(&CaseResult) -> bool| Tally::of(cases.iter().filter(|case| chosen(case)));
        Self {
            verdict: conformance(cases, aborted, strictness, |_| false),
            seed: Seed::ALL
                .into_iter()
                .map(|seed| (seed, tally(&|case| case.seed.contains(&seed))))
                .collect(),
            profiles: [Profile::Core, Profile::Extended, Profile::Kubernetes, Profile::Chaos]
                .into_iter()
                .map(|profile| (profile, tally(&|case| case.profile == profile)))
                .filter(|(_, tally)| tally.result != GroupResult::None)
                .collect(),
            total: tally(&|_| true),
            counted: strictness,
            known: None,
        }
    }

    /// What the run comes to for whoever waits for it: the verdict, but for failures that are known.
    pub fn gate(&self) -> Conformance {
        self.known.as_ref().map_or(self.verdict, |known| known.gate)
    }
}

impl Tally {
    /// Counts cases.
    pub fn of<'a>(cases: impl Iterator<Item = &'a CaseResult>) -> Self {
        let mut verdicts = BTreeMap::new();
        for case in cases {
            *verdicts.entry(case.verdict).or_insert(0) += 1;
        }
        let has = |verdict| verdicts.contains_key(&verdict);
        let result = if verdicts.is_empty() {
            GroupResult::None
        } else if has(VerdictName::Fail) || has(VerdictName::Error) || has(VerdictName::Blocked) {
            GroupResult::Failure
        } else if verdicts.len() == 1 && has(VerdictName::Pass) {
            GroupResult::Success
        } else if has(VerdictName::Pass) {
            GroupResult::Partial
        } else {
            GroupResult::Unknown
        };
        Self { verdicts, result }
    }

    /// How many cases ended with a verdict.
    pub fn count(&self, verdict: VerdictName) -> usize {
        self.verdicts.get(&verdict).copied().unwrap_or(0)
    }

    /// How many cases there are.
    pub fn total(&self) -> usize {
        self.verdicts.values().sum()
    }
}

fn conformance(
    cases: &[CaseResult],
    aborted: bool,
    strictness: Strictness,
    excused: fn(&CaseResult) -> bool,
) -> Conformance {
    let mut deciding = cases.iter().filter(|case| !excused(case));
    let failed = deciding.clone().any(|case| match case.verdict {
        VerdictName::Fail => case.level == Level::Must || strictness.strict,
        VerdictName::Unsupported | VerdictName::Skipped | VerdictName::Blocked => strictness.require_all,
        VerdictName::Pass | VerdictName::Error => false,
    });
    let broke = aborted || deciding.any(|case| case.verdict == VerdictName::Error);
    // A run that judged nothing has not found the deployment conformant.
    let judged = cases
        .iter()
        .any(|case| matches!(case.verdict, VerdictName::Pass | VerdictName::Fail));
    if failed {
        Conformance::NotConformant
    } else if broke || !judged {
        Conformance::Undecided
    } else {
        Conformance::Conformant
    }
}

impl Run {
    /// The run with a password taken out of every text that came from outside. A second lock on the door: whoever
    /// fills a run in has redacted it already.
    #[must_use]
    pub fn redacted(mut self, password: &Secret) -> Self {
        let clean = |text: &mut String| *text = password.redact(text);
        self.target.descriptor.values_mut().for_each(clean);
        self.cause.iter_mut().for_each(clean);
        let silent = self.pictures.iter_mut().flat_map(|picture| &mut picture.silent);
        silent.for_each(|silent| clean(&mut silent.why));
        self.left_behind.iter_mut().for_each(clean);
        if let Some(abort) = &mut self.aborted {
            clean(&mut abort.message);
        }
        for case in &mut self.cases {
            case.expected.iter_mut().for_each(clean);
            case.notes.iter_mut().for_each(clean);
            for text in [&mut case.actual, &mut case.cause, &mut case.reason] {
                text.iter_mut().for_each(clean);
            }
            if let Some(course) = &mut case.course {
                course.gaps.iter_mut().for_each(|gap| clean(&mut gap.met));
                course.moments.iter_mut().for_each(|moment| clean(&mut moment.what));
            }
            if let Some(known) = &mut case.known {
                clean(&mut known.reason);
            }
        }
        self
    }
}

/// Writes `run.json`, `junit.xml`, `summary.md` and `report.html` into `folder`, which is made where it is missing. The JSON comes first: every
/// other report can be made from it.
///
/// # Errors
/// When one cannot be written; the text names it.
pub fn write(run: &Run, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    json::write(run, folder)?;
    junit::write(run, folder)?;
    html::write(run, folder)?;
    markdown::write(run, folder)?;
    Ok(())
}

/// Writes a file whole or not at all: a reader, or a kill at any moment, never meets half of it.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let attempt = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // A temporary file is its maker's alone; a report is for others too.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let mut file = builder.prefix(".report-").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path.to_owned())
}
