//! What is gathered of a case that did not pass, before anything is cleaned up, and the one line that names the cause.
//!
//! Gathering never fails as a whole: what cannot be had is said in a file. Nothing is written with the password in it.

mod bootstrap;
mod cause;
mod platform;

pub use cause::cause;
pub use platform::PlatformHints;

use crate::cluster::node::NodeView;
use crate::cluster::view::ClusterView;
use crate::target::{Deployment, Event, Secret, Target, TargetError};
use crate::timeline::{self, Entry};
use crate::verdict::Verdict;
use jiff::Timestamp;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the platform may take to hand over its logs and events: evidence must not outlast the run.
const PLATFORM_LIMIT: Duration = Duration::from_secs(60);
/// How long one question to the platform may take when a cause is looked for.
const HINT_LIMIT: Duration = Duration::from_secs(10);
/// The file that says what could not be gathered.
const ERRORS: &str = "not-gathered.txt";

/// The case that evidence is gathered for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its title.
    pub title: &'a str,
    /// Its requirement.
    pub requirement: &'a str,
    /// How it ended.
    pub verdict: &'a Verdict,
    /// The line that names the cause, where one was found.
    pub cause: Option<&'a str>,
    /// What happened when, with nothing secret in it.
    pub timeline: &'a Told,
}

/// A timeline as it is written down.
#[derive(Clone, Debug)]
pub struct Told {
    /// When the case began, by the clock.
    pub began: Timestamp,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

/// The timeline's file in a case's folder.
pub const TIMELINE: &str = "timeline.txt";

/// Writes what happened during a case into `folder`: `timeline.txt`, and `timeline.json` for programs. Returns whether it
/// is there.
pub fn keep_timeline(target: &dyn Target, folder: &Path, told: &Told) -> bool {
    let mut files = Files::new(folder, target.password());
    files.write_timeline(told);
    for problem in &files.missing {
        tracing::warn!("no timeline in {}: {problem}", folder.display());
    }
    files.missing.is_empty()
}

/// Writes what is known of a case that did not pass into `folder`: `case.txt`, the timeline, every node's replies
/// (`nodes/<name>/<command>.txt`), and what the platform knows. Returns whether there is anything to point to.
pub async fn gather(target: &dyn Target, view: Option<&ClusterView>, folder: &Path, subject: &Subject<'_>) -> bool {
    let mut files = Files::new(folder, target.password());
    if let Err(error) = std::fs::create_dir_all(folder) {
        tracing::warn!(
            "no evidence of {}: {} cannot be made: {error}",
            subject.id,
            folder.display()
        );
        return false;
    }
    files.write("case.txt", &case_text(subject));
    files.write_timeline(subject.timeline);
    match view {
        None => files.missing("the nodes' replies: the nodes could not be asked"),
        Some(view) => {
            for node in &view.nodes {
                write_node(&mut files, node);
            }
            for (member, error) in &view.silent {
                files.write(
                    &format!("nodes/{}/error.txt", file_name(&member.name)),
                    &error.to_string(),
                );
            }
            let findings = view.not_whole(target.description().shape);
            files.write("not-whole.txt", &findings.join("\n"));
        }
    }
    let platform = target.collect_evidence(folder);
    if tokio::time::timeout(PLATFORM_LIMIT, platform).await.is_err() {
        files.missing(&format!("the platform's side, within {} s", PLATFORM_LIMIT.as_secs()));
    }
    files.finish();
    true
}

/// What the platform can say about a cause. What it does not say in time, or at all, is absent.
pub async fn hints(target: &dyn Target) -> PlatformHints {
    match target.deployment() {
        Some(deployment) => hints_of(deployment, target.password().as_ref()).await,
        None => PlatformHints::default(),
    }
}

/// [`hints`], of a deployment that may be an altered copy.
pub async fn hints_of(deployment: &dyn Deployment, password: Option<&Secret>) -> PlatformHints {
    let (pods, events, bootstrap_log) = tokio::join!(
        answer(deployment.pods()),
        answer(deployment.events()),
        answer(deployment.bootstrap_log())
    );
    let pods = pods.unwrap_or_default();
    let logs = futures::future::join_all(pods.iter().map(async |pod| {
        let log = answer(deployment.log(&pod.name, false)).await?;
        Some((pod.name.clone(), log))
    }))
    .await;
    let mut hints = PlatformHints {
        pods,
        events: events.unwrap_or_default(),
        bootstrap_pod: deployment.bootstrap_pod(),
        bootstrap_log,
        logs: logs.into_iter().flatten().collect(),
    };
    if let Some(password) = password {
        hints.redact(password);
    }
    hints
}

/// The events that the platform has; none where it has none, or does not tell in time.
pub async fn events(target: &dyn Target) -> Vec<Event> {
    match target.deployment() {
        Some(deployment) => answer(deployment.events()).await.unwrap_or_default(),
        None => Vec::new(),
    }
}

async fn answer<T>(question: impl Future<Output = Result<T, TargetError>>) -> Option<T> {
    match tokio::time::timeout(HINT_LIMIT, question).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            tracing::debug!("the platform has no answer: {error}");
            None
        }
        Err(_) => None,
    }
}

fn case_text(subject: &Subject<'_>) -> String {
    let mut lines = vec![
        format!("{}  {}", subject.id, subject.title),
        format!("requirement: {}", subject.requirement),
        format!("verdict:     {}", subject.verdict.name()),
    ];
    match subject.verdict {
        Verdict::Pass => {}
        Verdict::Fail(mismatch) => {
            lines.extend(
                mismatch
                    .expected
                    .iter()
                    .map(|expected| format!("expected:    {expected}")),
            );
            lines.push(format!("actual:\n{}", mismatch.actual));
        }
        Verdict::Unsupported(reason) | Verdict::Skipped(reason) | Verdict::Error(reason) => {
            lines.push(format!("reason:      {reason}"));
        }
        Verdict::Blocked { by, reason } => lines.push(format!("blocked by:  {by}: {reason}")),
    }
    lines.extend(subject.cause.map(|cause| format!("cause:       {cause}")));
    lines.join("\n")
}

fn write_node(files: &mut Files<'_>, node: &NodeView) {
    let folder = file_name(&node.member.name);
    for (command, reply) in &node.raw {
        let command = file_name(&command.to_lowercase());
        files.write(&format!("nodes/{folder}/{command}.txt"), reply);
    }
}

/// A name as one part of a path: nothing in it leads elsewhere.
fn file_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => character,
            ' ' => '-',
            _ => '_',
        })
        .collect();
    if safe.chars().all(|character| character == '.') {
        "unnamed".into()
    } else {
        safe
    }
}

/// The files of one case. What cannot be written is remembered, and written down at the end.
struct Files<'a> {
    folder: &'a Path,
    password: Option<Secret>,
    missing: Vec<String>,
}

impl<'a> Files<'a> {
    fn new(folder: &'a Path, password: Option<Secret>) -> Self {
        Self {
            folder,
            password,
            missing: Vec::new(),
        }
    }

    fn missing(&mut self, what: &str) {
        self.missing.push(what.to_owned());
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = self.folder.join(name);
        let text = match &self.password {
            Some(password) => password.redact(text),
            None => text.to_owned(),
        };
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, text.trim_end().to_owned() + "\n"));
        if let Err(error) = written {
            self.missing.push(format!("{name}: {error}"));
        }
    }

    fn write_timeline(&mut self, told: &Told) {
        self.write(TIMELINE, &timeline::text(told.began, &told.entries));
        match serde_json::to_string_pretty(&told.entries) {
            Ok(text) => self.write("timeline.json", &text),
            Err(error) => self.missing(&format!("timeline.json: {error}")),
        }
    }

    /// Takes the password out of what the platform wrote, and says what is missing.
    fn finish(mut self) {
        if let Some(password) = self.password.clone() {
            let mut folders = vec![self.folder.to_owned()];
            while let Some(folder) = folders.pop() {
                match redact_files(&folder, &password) {
                    Ok(inner) => folders.extend(inner),
                    Err(error) => self.missing(&format!("{}: cannot be redacted: {error}", folder.display())),
                }
            }
        }
        if !self.missing.is_empty() {
            let text = self.missing.join("\n");
            self.write(ERRORS, &text);
        }
    }
}

/// Redacts the files of one folder; returns the folders in it. A file that cannot be rewritten is removed: evidence that
/// is lost is better than a password that is told.
fn redact_files(folder: &Path, password: &Secret) -> std::io::Result<Vec<PathBuf>> {
    let mut inner = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            inner.push(path);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path)?;
            let text = String::from_utf8_lossy(&bytes);
            let redacted = password.redact(&text);
            if redacted != text
                && let Err(error) = std::fs::write(&path, redacted)
            {
                std::fs::remove_file(&path)?;
                return Err(error);
            }
        }
    }
    Ok(inner)
}

#[cfg(test)]
mod tests;
