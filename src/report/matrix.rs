//! Many runs on one page: the cells of a matrix (server × deployment × target) side by side, by profile and by case.
//!
//! What is kept of a cell in its folder is the run itself ([`super::json::FILE`]) and a record of the process that made it
//! ([`RECORD`]): the page is made from these two alone, and can be made again. What it needs of them is kept beside the page,
//! too ([`kept`]).

pub mod kept;

use super::markdown::{escape, mark, shortened};
use super::repeat::never_ran;
use super::text::{one_line, visible};
use super::words::{counts, in_words, tested};
use super::{CaseResult, Conformance, GroupResult, Run, Tally};
use crate::case::{Level, Profile};
use crate::verdict::VerdictName;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The name of the file, beside `run.json`, that says how the run of a cell was started and how it ended.
pub const RECORD: &str = "cell.json";
/// The name of the page in the folder of all cells.
pub const PAGE: &str = "conformance.md";

/// How the run of a cell was started and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version of this model.
    pub schema_version: String,
    /// The cell's name.
    pub cell: String,
    /// What followed `run` on its command line, but for `--out`.
    pub arguments: Vec<String>,
    /// When it began, in UTC.
    pub started: jiff::Timestamp,
    /// When it ended, in UTC.
    pub ended: jiff::Timestamp,
    /// Its exit code; absent where a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<u8>,
    /// The last that it said, where it left no `run.json`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

impl Record {
    /// Writes `cell.json` into the cell's folder, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; the text names it.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let mut text = serde_json::to_string_pretty(self).context("the record of a cell cannot be written as JSON")?;
        text.push('\n');
        super::write_whole(&folder.join(RECORD), &text)
    }

    fn seconds(&self) -> f64 {
        (self.ended - self.started)
            .total(jiff::Unit::Second)
            .unwrap_or_default()
    }
}

/// A cell, and what there is of it.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its name.
    pub name: String,
    /// What follows `run` on its command line by the list, but for `--out`.
    pub arguments: Vec<String>,
    /// How its run was started and ended; absent where it has not ended yet.
    pub record: Option<Record>,
    /// The run, where it left one.
    pub run: Option<Run>,
}

impl Cell {
    /// What there is of a cell in its folder. Without a record there is nothing: a run that was killed is none.
    ///
    /// # Errors
    /// When a file there cannot be read, or is of another version; the text names it.
    pub fn read(name: &str, arguments: &[String], folder: &Path) -> anyhow::Result<Self> {
        let mut cell = Self {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            record: None,
            run: None,
        };
        let path = folder.join(RECORD);
        if path.exists() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            let record = serde_json::from_str(&text);
            cell.record = Some(record.with_context(|| format!("{} is not the record of a cell", path.display()))?);
            let path = folder.join(super::json::FILE);
            if path.exists() {
                cell.run = Some(super::json::read(&path)?);
            }
        }
        Ok(cell)
    }

    /// Whether it need not run again: what is there was asked for as the list asks now, and came to a verdict.
    pub fn is_done(&self) -> bool {
        let asked = (self.record.as_ref()).is_some_and(|record| record.arguments == self.arguments);
        asked && matches!(self.end(), End::Judged(run) if run.summary.verdict != Conformance::Undecided)
    }

    /// The command line that runs this cell alone; `folder` is that of all cells.
    pub fn command_line(&self, folder: &str) -> String {
        let out = Path::new(folder).join(&self.name).display().to_string();
        let asked = self.record.as_ref().map_or(&self.arguments, |record| &record.arguments);
        let words = ["redis-cluster-conformance", "run"].into_iter();
        let words = words.chain(asked.iter().map(String::as_str));
        let words: Vec<&str> = words.chain(["--out", &out]).collect();
        // Only a NUL cannot be quoted, and no argument of a process has one.
        shlex::try_join(words.iter().copied()).unwrap_or_else(|_| words.join(" "))
    }

    fn end(&self) -> End<'_> {
        match (&self.record, &self.run) {
            (None, _) => End::NotRun,
            (Some(record), Some(run)) if run.aborted.is_none() && record.exit_code.is_some() => End::Judged(run),
            (Some(record), run) => End::Broke(record, run.as_ref()),
        }
    }

    /// The run, where its cases are worth a column: those that never ran say nothing.
    fn judged(&self) -> Option<&Run> {
        let run = match self.end() {
            End::NotRun => None,
            End::Judged(run) => Some(run),
            End::Broke(_, run) => run,
        }?;
        run.cases.iter().any(|case| !never_ran(run, case)).then_some(run)
    }
}

/// What came of a cell.
enum End<'a> {
    NotRun,
    /// It ran to its end.
    Judged(&'a Run),
    /// It left no run, or one that ended before its cases.
    Broke(&'a Record, Option<&'a Run>),
}

/// The cells of a list, in its order.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The list's file, as it was named.
    pub list: String,
    /// The folder of all cells, as it was named.
    pub folder: String,
    /// The cells.
    pub cells: Vec<Cell>,
}

impl Matrix {
    /// How long all cells took, in seconds.
    fn seconds(&self) -> f64 {
        (self.cells.iter().filter_map(|cell| cell.record.as_ref()))
            .map(Record::seconds)
            .sum()
    }

    /// `5 cells: 3 conformant, 1 not conformant, 1 not run`.
    fn headline(&self) -> String {
        let words = [
            "conformant",
            "conformant, not as listed",
            "not conformant, as known",
            "not conformant",
            "undecided",
            "broke",
            "not run",
        ];
        let of = |word: &str| self.cells.iter().filter(|cell| word_of(cell) == word).count();
        let parts: Vec<String> = (words.iter())
            .map(|word| (of(word), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        format!("{} cells: {}", self.cells.len(), parts.join("; "))
    }
}

/// What a cell comes to, in a word.
fn word_of(cell: &Cell) -> &'static str {
    match cell.end() {
        End::NotRun => "not run",
        End::Broke(..) => "broke",
        End::Judged(run) => match (run.summary.verdict, run.summary.gate()) {
            // An entry of the failures that are known is not true any more, which fails the run.
            (Conformance::Conformant, Conformance::NotConformant) => "conformant, not as listed",
            (Conformance::Conformant, _) => "conformant",
            (Conformance::NotConformant, Conformance::Conformant) => "not conformant, as known",
            (Conformance::NotConformant, _) => "not conformant",
            (Conformance::Undecided, _) => "undecided",
        },
    }
}

/// Why a cell came to no verdict: the cause, and else what the process said last.
fn why(record: &Record, run: Option<&Run>) -> String {
    let code = match record.exit_code {
        Some(code) => format!("exit code {code}"),
        None => "ended by a signal".to_owned(),
    };
    let abort = run
        .and_then(|run| run.aborted.as_ref())
        .map(|abort| abort.message.as_str());
    let said = (run.and_then(|run| run.cause.as_deref()))
        .or(abort)
        .or(record.message.as_deref())
        .unwrap_or("it said nothing");
    format!("{code}: {}", one_line(said))
}

/// A time as people say it: `41 s`, `12 min 05 s`, `1 h 02 min`.
fn duration(seconds: f64) -> String {
    // Times are far below the point where this loses anything.
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// The cells as a person reads them in a terminal or a log.
pub fn text(matrix: &Matrix) -> String {
    let width = matrix.cells.iter().map(|cell| cell.name.len()).max().unwrap_or(0);
    let mut page = format!("{}\n", matrix.headline());
    for cell in &matrix.cells {
        let time = (cell.record.as_ref()).map_or_else(|| "-".to_owned(), |record| duration(record.seconds()));
        let words = match cell.end() {
            End::NotRun => "not run".to_owned(),
            End::Judged(run) => in_words(run),
            End::Broke(record, run) => format!("BROKE: {}", why(record, run)),
        };
        // Writing to a String cannot fail; `let _` says so at each place.
        let _ = writeln!(page, "  {:<width$}  {time:>12}  {}", cell.name, visible(&words));
    }
    let _ = writeln!(page, "  {:<width$}  {:>12}", "all", duration(matrix.seconds()));
    page
}

/// Writes the page and its cells as data, each whole or not at all, and returns the page's path; its folder is made where it is
/// missing.
///
/// # Errors
/// When it cannot be written; the text names it.
pub fn write(matrix: &Matrix, path: &Path) -> anyhow::Result<PathBuf> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    super::write_whole(&kept::beside(path), &kept::render(matrix)?)?;
    super::write_whole(path, &markdown(matrix))
}

/// The page.
pub fn markdown(matrix: &Matrix) -> String {
    let mut page = String::from("# Conformance by server and deployment\n\n");
    let _ = writeln!(
        page,
        "<!-- Written by `redis-cluster-conformance matrix`, not by hand. -->\n\n\
         {}, by {}; {} in all. Each cell is a run of its own: [how to repeat one](#the-cells-again).\n\n\
         By profile: **success**, every case passed; **partial**, none failed, but not all passed; **unknown**, none passed and none failed; **failure**, a case failed, broke \
         or was blocked. What is `unsupported` (the target cannot do it, or the server was asked and lacks it) or `skipped` is counted as \
         such, never as passed. A cell is conformant when no *must* failed.\n",
        escape(&matrix.headline()),
        escape(&matrix.list),
        duration(matrix.seconds()),
    );
    cells(&mut page, matrix);
    not_everywhere(&mut page, matrix);
    failures(&mut page, matrix);
    not_judged(&mut page, matrix);
    again(&mut page, matrix);
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn cells(page: &mut String, matrix: &Matrix) {
    let profiles: Vec<(Profile, &str)> = [
        (Profile::Core, "core"),
        (Profile::Extended, "extended"),
        (Profile::Kubernetes, "kubernetes"),
        (Profile::Chaos, "chaos"),
    ]
    .into_iter()
    .filter(|(profile, _)| {
        (matrix.cells.iter().filter_map(Cell::judged)).any(|run| run.summary.profiles.contains_key(profile))
    })
    .collect();
    let names: String = profiles.iter().map(|(_, name)| format!(" {name} |")).collect();
    let _ = writeln!(
        page,
        "| cell | server, by its own word | verdict |{names} time |\n|---|---|---|{}---|",
        "---|".repeat(profiles.len())
    );
    for cell in &matrix.cells {
        let run = cell.judged();
        let server = match cell.run.as_ref().and_then(|run| run.server.as_ref()) {
            Some(server) => escape(&format!("{} {}", server.product, server.version)),
            None => "–".to_owned(),
        };
        let word = word_of(cell);
        let word = match word {
            "conformant" => format!("✅ {word}"),
            "conformant, not as listed" | "not conformant, as known" => format!("⚠️ {word}"),
            "not conformant" => format!("❌ **{word}**"),
            "not run" => "–".to_owned(),
            _ => format!("💥 **{word}**"),
        };
        let by_profile: String = (profiles.iter())
            .map(
                |(profile, _)| match run.and_then(|run| run.summary.profiles.get(profile)) {
                    Some(tally) => format!(" {} |", outcome(tally)),
                    None => " – |".to_owned(),
                },
            )
            .collect();
        let time = (cell.record.as_ref()).map_or_else(|| "–".to_owned(), |record| duration(record.seconds()));
        let _ = writeln!(page, "| {} | {server} | {word} |{by_profile} {time} |", cell.name);
    }
    page.push('\n');
    let broken: Vec<String> = (matrix.cells.iter())
        .filter_map(|cell| match cell.end() {
            End::Broke(record, run) => Some(format!(
                "- 💥 **{}**: {}\n",
                cell.name,
                escape(&shortened(&why(record, run)))
            )),
            End::NotRun | End::Judged(_) => None,
        })
        .collect();
    if !broken.is_empty() {
        let _ = writeln!(page, "## Cells that broke\n\n{}", broken.concat());
    }
}

/// A profile's outcome, as the Gateway API's conformance reports have it, and its counts.
fn outcome(tally: &Tally) -> String {
    let word = match tally.result {
        GroupResult::None => "none",
        GroupResult::Success => "success",
        GroupResult::Partial => "partial",
        GroupResult::Unknown => "unknown",
        GroupResult::Failure => "**failure**",
    };
    format!("{word}: {}", counts(tally))
}

/// Every case of every cell, each once, in the catalogue's order: that of the cells, which agree in it.
fn cases(matrix: &Matrix) -> Vec<&CaseResult> {
    cases_of(matrix.cells.iter().filter_map(Cell::judged))
}

fn cases_of<'a>(runs: impl Iterator<Item = &'a Run>) -> Vec<&'a CaseResult> {
    let mut all: Vec<&CaseResult> = Vec::new();
    for run in runs {
        let mut next = 0;
        for case in &run.cases {
            match all.iter().position(|known| known.id == case.id) {
                Some(at) => next = at + 1,
                None => {
                    all.insert(next, case);
                    next += 1;
                }
            }
        }
    }
    all
}

/// How a case ended in a cell; nothing where it was not selected, or never ran.
fn result<'a>(cell: &'a Cell, id: &str) -> Option<&'a CaseResult> {
    let run = cell.judged()?;
    run.cases.iter().find(|case| case.id == id && !never_ran(run, case))
}

fn title(case: &CaseResult) -> String {
    let should = match case.level {
        Level::Must => "",
        Level::Should => " (should)",
    };
    format!("{}{should}", escape(&case.title))
}

fn not_everywhere(page: &mut String, matrix: &Matrix) {
    let columns: Vec<&Cell> = matrix.cells.iter().filter(|cell| cell.judged().is_some()).collect();
    let all = cases(matrix);
    let ended: Vec<&&CaseResult> = (all.iter())
        .filter(|case| columns.iter().any(|cell| result(cell, &case.id).is_some()))
        .collect();
    let shown: Vec<&&&CaseResult> = (ended.iter())
        .filter(|case| {
            let mut results = columns.iter().filter_map(|cell| result(cell, &case.id));
            results.any(|result| result.verdict != VerdictName::Pass)
        })
        .collect();
    if columns.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Cases that did not pass everywhere\n\n{} of {} cases passed in every cell that ran them; these did not. –: not asked for in that cell.\n",
        ended.len() - shown.len(),
        ended.len()
    );
    if shown.is_empty() {
        return;
    }
    let names: String = columns.iter().map(|cell| format!(" {} |", cell.name)).collect();
    let _ = writeln!(page, "| case | |{names}\n|---|---|{}", "---|".repeat(columns.len()));
    for case in shown {
        let verdicts: String = columns
            .iter()
            .map(|cell| match result(cell, &case.id) {
                None => " – |".to_owned(),
                Some(result) => match result.verdict {
                    VerdictName::Pass => " pass |".to_owned(),
                    VerdictName::Fail | VerdictName::Error | VerdictName::Blocked => {
                        format!(" {} **{}** |", mark(result.verdict), result.verdict)
                    }
                    VerdictName::Unsupported | VerdictName::Skipped => format!(" {} |", result.verdict),
                },
            })
            .collect();
        let _ = writeln!(page, "| {} | {} |{verdicts}", escape(&case.id), title(case));
    }
    page.push('\n');
}

/// What is told of a case, and the cells that it holds in.
#[derive(PartialEq)]
struct Told {
    text: String,
    cells: Vec<String>,
}

/// What is told of a case, each text once, in the order of the cells.
fn told(matrix: &Matrix, id: &str, tell: impl Fn(&CaseResult) -> Option<String>) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    for cell in &matrix.cells {
        let Some(text) = result(cell, id).and_then(&tell) else {
            continue;
        };
        match told.iter_mut().find(|known| known.text == text) {
            Some(known) => known.cells.push(cell.name.clone()),
            None => told.push(Told {
                text,
                cells: vec![cell.name.clone()],
            }),
        }
    }
    told
}

fn failures(page: &mut String, matrix: &Matrix) {
    let tell = |result: &CaseResult| {
        if !matches!(result.verdict, VerdictName::Fail | VerdictName::Error) {
            return None;
        }
        let mut parts = Vec::new();
        if let Some(expected) = result.expected.first() {
            let others = match result.expected.len() {
                1 => String::new(),
                count => format!(" (or {} more)", count - 1),
            };
            parts.push(format!("expected: {}{others}", shortened(&one_line(expected))));
        }
        let told = [
            ("saw", &result.actual),
            ("reason", &result.reason),
            ("cause", &result.cause),
        ];
        for (label, text) in told {
            if let Some(text) = text {
                parts.push(format!("{label}: {}", shortened(&one_line(text))));
            }
        }
        if let Some(known) = &result.known {
            parts.push(format!("known: {known}"));
        }
        if parts.is_empty() {
            parts.push(format!("{}, and no reason was recorded", result.verdict));
        }
        Some(parts.join("; "))
    };
    let mut found = String::new();
    for case in cases(matrix) {
        let told = told(matrix, &case.id, tell);
        if told.is_empty() {
            continue;
        }
        let _ = writeln!(
            found,
            "- **{}** {}\n  - requirement: {}",
            escape(&case.id),
            title(case),
            escape(&case.requirement)
        );
        for Told { text, cells } in told {
            let _ = writeln!(found, "  - {}: {}", cells.join(", "), escape(&text));
        }
    }
    if !found.is_empty() {
        let _ = writeln!(page, "## Failed or broke\n\n{found}");
    }
}

fn not_judged(page: &mut String, matrix: &Matrix) {
    let tell = |result: &CaseResult| match result.verdict {
        VerdictName::Unsupported | VerdictName::Skipped | VerdictName::Blocked => {
            let reason = result.reason.as_deref().unwrap_or("no reason was recorded");
            Some(format!("{}: {}", result.verdict, shortened(&one_line(reason))))
        }
        VerdictName::Pass | VerdictName::Fail | VerdictName::Error => None,
    };
    // One line for all cases that share a reason in the same cells.
    let mut groups: Vec<(Told, Vec<&str>)> = Vec::new();
    let all = cases(matrix);
    for case in &all {
        for group in told(matrix, &case.id, tell) {
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, ids)) => ids.push(&case.id),
                None => groups.push((group, vec![&case.id])),
            }
        }
    }
    if groups.is_empty() {
        return;
    }
    page.push_str("## Not judged\n\n");
    for (Told { text, cells }, ids) in groups {
        let _ = writeln!(
            page,
            "- {} ({}): {}",
            escape(&ids.join(", ")),
            cells.join(", "),
            escape(&text)
        );
    }
    page.push('\n');
}

fn again(page: &mut String, matrix: &Matrix) {
    page.push_str("## The cells again\n\nFrom this project's folder, each by itself:\n\n");
    for cell in &matrix.cells {
        let _ = writeln!(page, "### {}\n", cell.name);
        if let Some(record) = &cell.record {
            let what = match &cell.run {
                Some(run) => tested(run),
                None => "no run was left".to_owned(),
            };
            let day = record.started.strftime("%Y-%m-%d %H:%M UTC");
            let _ = writeln!(page, "{day}, {}: {}\n", duration(record.seconds()), escape(&what));
            if record.arguments != cell.arguments {
                page.push_str("The list asks for something else by now.\n\n");
            }
        }
        let _ = writeln!(page, "```sh\n{}\n```\n", visible(&cell.command_line(&matrix.folder)));
    }
}
