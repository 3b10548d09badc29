//! The cells of a page as data, in a file beside it: what the page needs of them and no more, so that a page can be made cell
//! by cell, on one machine today and on another tomorrow.

use super::{Cell, Matrix, Record, cases_of};
use crate::case::{Impact, Level, Profile, Seed};
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::report::known::{Known, KnownFailing};
use crate::report::{Abort, CaseResult, Conformance, Run, SCHEMA_VERSION, Server, Strictness, Suite, Summary, json};
use crate::target::TargetDescription;
use crate::verdict::VerdictName;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the data of a page is.
pub fn beside(page: &Path) -> PathBuf {
    page.with_extension("json")
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    schema_version: String,
    /// Every case that any cell has, in the catalogue's order.
    cases: Vec<Head>,
    cells: Vec<KeptCell>,
}

/// What a case is, whatever came of it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    id: String,
    title: String,
    requirement: String,
    level: Level,
    profile: Profile,
    seed: Vec<Seed>,
    impact: Impact,
}

impl Head {
    fn of(case: &CaseResult) -> Self {
        Self {
            id: case.id.clone(),
            title: case.title.clone(),
            requirement: case.requirement.clone(),
            level: case.level,
            profile: case.profile,
            seed: case.seed.clone(),
            impact: case.impact,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct KeptCell {
    record: Record,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    run: Option<KeptRun>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptRun {
    suite: Suite,
    target: TargetDescription,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    server: Option<KeptServer>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    aborted: Option<Abort>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cause: Option<String>,
    /// What it came to; of what an earlier suite kept, its cases say that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    verdict: Option<Conformance>,
    counted: Strictness,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    known: Option<KnownFailing>,
    /// Of its cases those that were something else when it ran, as another suite had them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    heads: Vec<Head>,
    /// The cases that passed, by id, with spaces between them.
    passed: String,
    /// The others.
    others: Vec<Other>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptServer {
    product: String,
    version: String,
    node_timeout_ms: u64,
    /// How many.
    nodes: usize,
}

/// A case that did not pass, or of which more is to be told.
#[derive(Serialize, Deserialize)]
struct Other {
    id: String,
    verdict: VerdictName,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    known: Option<Known>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    expected: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    actual: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<String>,
}

impl Other {
    fn of(case: &CaseResult) -> Self {
        Self {
            id: case.id.clone(),
            verdict: case.verdict,
            known: case.known.clone(),
            expected: case.expected.clone(),
            actual: case.actual.clone(),
            cause: case.cause.clone(),
            reason: case.reason.clone(),
        }
    }

    fn into_result(self, head: &Head) -> CaseResult {
        CaseResult {
            id: self.id,
            title: head.title.clone(),
            requirement: head.requirement.clone(),
            source: None,
            level: head.level,
            profile: head.profile,
            seed: head.seed.clone(),
            impact: head.impact,
            verdict: self.verdict,
            known: self.known,
            seconds: 0.0,
            expected: self.expected,
            actual: self.actual,
            cause: self.cause,
            reason: self.reason,
            evidence: None,
            timeline: None,
            course: None,
            measured: Vec::new(),
            notes: Vec::new(),
        }
    }
}

fn has_passed(case: &CaseResult) -> bool {
    case.verdict == VerdictName::Pass && case.known.is_none()
}

impl KeptRun {
    fn of(run: &Run, heads: &[Head]) -> Self {
        let passed: Vec<&str> = (run.cases.iter())
            .filter(|case| has_passed(case))
            .map(|case| case.id.as_str())
            .collect();
        let server = run.server.as_ref().map(|server| KeptServer {
            product: server.product.clone(),
            version: server.version.clone(),
            node_timeout_ms: server.node_timeout_ms,
            nodes: server.nodes.len(),
        });
        Self {
            suite: run.suite.clone(),
            target: run.target.clone(),
            server,
            aborted: run.aborted.clone(),
            cause: run.cause.clone(),
            verdict: Some(run.summary.verdict),
            counted: run.summary.counted,
            known: run.summary.known.clone(),
            heads: (run.cases.iter().map(Head::of))
                .filter(|head| !heads.contains(head))
                .collect(),
            passed: passed.join(" "),
            others: run
                .cases
                .iter()
                .filter(|case| !has_passed(case))
                .map(Other::of)
                .collect(),
        }
    }

    /// The run as far as a page needs it.
    fn into_run(self, record: &Record, heads: &[Head]) -> anyhow::Result<Run> {
        let passed = self.passed.split_whitespace().map(|id| Other {
            id: id.to_owned(),
            verdict: VerdictName::Pass,
            known: None,
            expected: Vec::new(),
            actual: None,
            cause: None,
            reason: None,
        });
        let mut cases: Vec<(usize, CaseResult)> = Vec::new();
        for case in passed.chain(self.others) {
            let at = heads.iter().position(|head| head.id == case.id);
            let at = at.with_context(|| format!("{} is not among its cases", case.id))?;
            let own = self.heads.iter().find(|head| head.id == case.id);
            cases.push((at, case.into_result(own.unwrap_or(&heads[at]))));
        }
        cases.sort_by_key(|(at, _)| *at);
        let cases: Vec<CaseResult> = cases.into_iter().map(|(_, case)| case).collect();
        // Which they were does not matter on a page, nor what the run was called.
        let nameless = Member {
            name: String::new(),
            address: Address::new(String::new(), 0),
        };
        let server = self.server.map(|server| Server {
            product: server.product,
            version: server.version,
            node_timeout_ms: server.node_timeout_ms,
            nodes: vec![nameless; server.nodes],
        });
        let mut summary = Summary::of(&cases, self.aborted.is_some(), self.counted);
        summary.known = self.known;
        summary.verdict = self.verdict.unwrap_or(summary.verdict);
        Ok(Run {
            schema_version: SCHEMA_VERSION.into(),
            run_id: String::new(),
            suite: self.suite,
            target: self.target,
            server,
            started: record.started,
            ended: record.ended,
            phases: Vec::new(),
            cases,
            aborted: self.aborted,
            cause: self.cause,
            left_behind: Vec::new(),
            scorecard: None,
            pictures: Vec::new(),
            summary,
        })
    }
}

/// The cells that have run, as the text of the file.
///
/// # Errors
/// When a field cannot be written as JSON.
pub fn render(matrix: &Matrix) -> anyhow::Result<String> {
    let runs = matrix.cells.iter().filter_map(|cell| cell.run.as_ref());
    let heads: Vec<Head> = cases_of(runs).into_iter().map(Head::of).collect();
    let cells = matrix.cells.iter().filter_map(|cell| {
        Some(KeptCell {
            record: cell.record.clone()?,
            run: cell.run.as_ref().map(|run| KeptRun::of(run, &heads)),
        })
    });
    let kept = Kept {
        schema_version: SCHEMA_VERSION.into(),
        cells: cells.collect(),
        cases: heads,
    };
    let mut text = serde_json::to_string_pretty(&kept).context("the cells cannot be written as JSON")?;
    text.push('\n');
    Ok(text)
}

/// Reads the cells of a page, each with how it was started and what it left; none where there is no such file.
///
/// # Errors
/// When it cannot be read, or is of another version or something else; the text names it.
pub fn read(path: &Path) -> anyhow::Result<Vec<(Record, Option<Run>)>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("{} does not hold the cells of a page", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<(Record, Option<Run>)>> {
    let kept: Kept = serde_json::from_str(text)?;
    let major = |text: &str| json::version(text).map(|(major, _)| major);
    if major(&kept.schema_version) != major(SCHEMA_VERSION) {
        bail!(
            "its schemaVersion is {:?}; this suite reads {SCHEMA_VERSION:?}",
            kept.schema_version
        );
    }
    let cells = kept.cells.into_iter().map(|KeptCell { record, run }| {
        let run = run.map(|run| run.into_run(&record, &kept.cases)).transpose();
        let run = run.with_context(|| format!("the cell {}", record.cell))?;
        Ok((record, run))
    });
    cells.collect()
}

impl Cell {
    /// The later of what is in its folder and what a page has of it.
    #[must_use]
    pub fn or_kept(mut self, kept: &[(Record, Option<Run>)]) -> Self {
        let own = self.record.as_ref().map(|record| record.started);
        let of_page = kept.iter().find(|(record, _)| record.cell == self.name);
        if let Some((record, run)) = of_page.filter(|(record, _)| own.is_none_or(|own| record.started > own)) {
            self.record = Some(record.clone());
            self.run.clone_from(run);
        }
        self
    }
}
