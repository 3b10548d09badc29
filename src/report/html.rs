//! `report.html`: the run as one page that needs nothing else: no network, no script (a small one adds the filter), no font.
//!
//! Everything on it comes from the [`Run`]. Every text of the run is made visible before the page is put together, and
//! the templates escape it. What the run does not hold is not drawn, and the page says why.

mod cases;
mod course;
mod plot;
mod scorecard;
mod slots;
mod summary;

use self::cases::{Chapter, Measured, Missed, Reason};
use self::course::CourseOf;
use self::scorecard::Card;
use self::slots::Drawn;
use self::summary::{Group, Profiled, Timed};
use super::text::visible;
use super::{Conformance, Run};
use crate::case::Level;
use crate::target::TargetKind;
use crate::verdict::VerdictName;
use anyhow::Context as _;
use askama::Template;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The name of the file in the folder of a run.
pub const FILE: &str = "report.html";

/// What the page's own policy lets run: `script.js`, and nothing that a run may have smuggled in.
const SCRIPT_HASH: &str = "sha256-kycOk/jDDEqcRi0eMlTUHRNJytzWFSzDC7JuPWYOUP0=";

/// Writes `report.html` into `folder`, whole or not at all, and returns its path.
///
/// # Errors
/// When the file cannot be written; the text names it.
pub fn write(run: &Run, folder: &Path) -> anyhow::Result<PathBuf> {
    write_to(run, &folder.join(FILE))
}

/// Writes the page as this file, whole or not at all, and returns its path.
///
/// # Errors
/// When the file cannot be written; the text names it.
pub fn write_to(run: &Run, file: &Path) -> anyhow::Result<PathBuf> {
    super::write_whole(file, &render(run)?)
}

/// The run as a page. Links to evidence lead from the folder of `run.json`.
///
/// # Errors
/// When a field of the run cannot be shown.
pub fn render(run: &Run) -> anyhow::Result<String> {
    let run = &shown(run)?;
    let mut page = Page::of(run).render().context("the run cannot be written as HTML")?;
    page.push('\n');
    Ok(page)
}

/// The run with every text in it made [`visible`], whichever field it is in.
fn shown(run: &Run) -> anyhow::Result<Run> {
    fn clean(value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(visible(&text)),
            Value::Array(items) => items.into_iter().map(clean).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (visible(&name), clean(value)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
    let value = serde_json::to_value(run).context("the run cannot be shown")?;
    serde_json::from_value(clean(value)).context("the run cannot be shown")
}

/// What `page.html` shows.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    run: &'a Run,
    style: &'static str,
    script: &'static str,
    script_hash: &'static str,
    verdict: Verdict,
    sentence: String,
    lasted: String,
    seeds: Vec<Group<'a>>,
    profiles: Vec<Profiled>,
    missed: Vec<Missed<'a>>,
    reasons: Vec<Reason<'a>>,
    pictures: Vec<Drawn<'a>>,
    card: Option<Card<'a>>,
    courses: Vec<CourseOf<'a>>,
    measured: Vec<Measured<'a>>,
    phases: Vec<Timed<'a>>,
    chapters: Vec<Chapter<'a>>,
}

/// The verdict as the page's head shows it.
struct Verdict {
    class: &'static str,
    mark: &'static str,
    word: &'static str,
}

impl<'a> Page<'a> {
    fn of(run: &'a Run) -> Self {
        let (class, mark, word) = match (run.summary.verdict, run.summary.gate()) {
            // The failures that are listed as known are not those that there are, and the run fails for it.
            (Conformance::Conformant, Conformance::NotConformant) => ("error", "!", "Conformant"),
            (Conformance::Conformant, _) => ("pass", "✓", "Conformant"),
            (Conformance::NotConformant, _) => ("fail", "✗", "Not conformant"),
            (Conformance::Undecided, _) => ("error", "?", "Undecided"),
        };
        let sentence = super::words::in_words(run);
        Self {
            run,
            style: include_str!("html/style.css"),
            script: include_str!("html/script.js"),
            script_hash: SCRIPT_HASH,
            verdict: Verdict { class, mark, word },
            // The word itself stands above it.
            sentence: sentence
                .split_once(": ")
                .map_or(sentence.clone(), |(_, rest)| rest.to_owned()),
            lasted: plot::duration((run.ended.as_millisecond() - run.started.as_millisecond()) as f64 / 1000.0),
            seeds: summary::seeds(run),
            profiles: summary::profiles(run),
            missed: cases::missed(run),
            reasons: cases::reasons(run),
            pictures: run.pictures.iter().rev().map(slots::drawn).collect(),
            card: run.scorecard.as_ref().map(scorecard::card),
            courses: course::courses(run),
            measured: cases::measured(run),
            phases: summary::phases(run),
            chapters: cases::chapters(run),
        }
    }

    /// When the run began, to the second.
    fn started(&self) -> String {
        self.run.started.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    }

    /// How many figures are beyond their bounds.
    fn beyond(&self) -> usize {
        self.measured.iter().filter(|figure| figure.beyond).count()
    }

    /// Whether the target is on Kubernetes.
    fn kubernetes(&self) -> bool {
        matches!(self.run.target.kind, TargetKind::Kind | TargetKind::Kubernetes)
    }

    /// What was tested, as names and values.
    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
        match &self.run.server {
            Some(server) => {
                let nodes = server.nodes.len();
                add(
                    "servers",
                    format!("{} {}, {nodes} nodes", server.product, server.version),
                );
                add("cluster-node-timeout", format!("{} ms", server.node_timeout_ms));
            }
            None => add("servers", "none was reached".into()),
        }
        let shape = self.run.target.shape;
        add(
            "expected shape",
            format!(
                "masters {}, replicas of each {}",
                shape.masters, shape.replicas_per_master
            ),
        );
        add("target", self.run.target.kind.to_string());
        for (name, value) in &self.run.target.descriptor {
            add(name, value.clone());
        }
        let counted = self.run.summary.counted;
        for (name, on) in [("--strict", counted.strict), ("--require-all", counted.require_all)] {
            if on {
                add("counted by", name.into());
            }
        }
        facts
    }
}
