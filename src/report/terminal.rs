//! The report as a person reads it in a terminal: the verdict, A1 to A6, then what did not pass, then figures and sums.
//!
//! Everything comes from the [`Run`]; text that came from a server is made harmless before it is shown.

use super::text::{one_line, seconds, visible, wrap};
use super::words::{counts, group_line, in_words, not_judged, style, tested};
use super::{CaseResult, Conformance, Run, Tally};
use crate::case::{Level, Profile, Seed};
use crate::verdict::VerdictName;
use owo_colors::{OwoColorize, Style};
use std::path::Path;

/// The most lines of an `actual` that are shown; the rest is in `run.json`.
const MOST_LINES: usize = 24;
/// The widest label, `requirement:`, and a space.
const LABEL: usize = 13;
const INDENT: &str = "  ";

/// The whole report. `width` wraps long lines at spaces; `folder` is where the run's files are, where they were written.
pub fn render(run: &Run, colour: bool, width: Option<usize>, folder: Option<&Path>) -> String {
    let mut page = Page {
        text: String::new(),
        paint: Paint { colour },
        width,
    };
    page.verdict(run);
    page.seed(run);
    page.not_passed(run, folder);
    page.reasons(run);
    page.known(run);
    page.scorecard(run);
    page.figures(run);
    page.sums(run);
    page.ending(run, folder);
    page.text
}

/// One case on one line, for live progress: `pass         SLOT-01  every node reports …  0.03 s`.
pub fn case_line(case: &CaseResult, colour: bool) -> String {
    let paint = Paint { colour };
    let mut line = format!(
        "{}  {:<8}  {}  {}",
        paint.padded(case.verdict, VERDICT),
        visible(&case.id),
        one_line(&case.title),
        seconds(case.seconds)
    );
    if case.verdict != VerdictName::Pass
        && let Some(why) = case.cause.as_ref().or(case.reason.as_ref())
    {
        line.push_str(&format!("\n{:VERDICT$}  {}", "", one_line(why)));
    }
    if let Some(known) = case.known.as_ref().filter(|_| case.verdict != VerdictName::Pass) {
        line.push_str(&format!("\n{:VERDICT$}  {}", "", one_line(&format!("known: {known}"))));
    }
    line
}

/// The widest name of a verdict, `unsupported`.
const VERDICT: usize = 11;

#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn apply(self, text: &str, style: Style) -> String {
        if self.colour {
            text.style(style).to_string()
        } else {
            text.to_owned()
        }
    }

    /// A verdict's name, padded before it is coloured: the codes have no width.
    fn padded(self, verdict: VerdictName, width: usize) -> String {
        self.apply(&format!("{verdict:<width$}"), style(verdict))
    }

    fn bold(self, text: &str) -> String {
        self.apply(text, Style::new().bold())
    }

    fn dim(self, text: &str) -> String {
        self.apply(text, Style::new().dimmed())
    }
}

struct Page {
    text: String,
    paint: Paint,
    width: Option<usize>,
}

impl Page {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.text.push('\n');
        let text = self.paint.bold(text);
        self.line(text);
    }

    /// `label:` and its text, whose further lines stand below its first.
    fn labelled(&mut self, label: &str, text: &str) {
        let room = self
            .width
            .map(|width| width.saturating_sub(INDENT.len() + LABEL).max(20));
        let mut lines = wrap(&visible(text), room);
        if lines.len() > MOST_LINES {
            let more = lines.len() - MOST_LINES;
            lines.truncate(MOST_LINES);
            lines.push(format!("and {more} more lines, in run.json"));
        }
        let mut label = self.paint.dim(&format!("{:<LABEL$}", format!("{label}:")));
        if lines.is_empty() {
            lines.push("(nothing)".into());
        }
        for line in lines {
            self.line(format!("{INDENT}{label}{line}"));
            label = " ".repeat(LABEL);
        }
    }

    /// A text that begins with `first` and goes on below the end of it.
    fn hanging(&mut self, first: &str, text: &str) {
        let indent = first.chars().count();
        let room = self.width.map(|width| width.saturating_sub(indent).max(20));
        for (at, line) in wrap(text, room).into_iter().enumerate() {
            if at == 0 {
                self.line(format!("{first}{line}"));
            } else {
                self.line(format!("{:indent$}{line}", ""));
            }
        }
    }

    fn verdict(&mut self, run: &Run) {
        let style = match run.summary.verdict {
            Conformance::Conformant => Style::new().green().bold(),
            Conformance::NotConformant => Style::new().red().bold(),
            Conformance::Undecided => Style::new().magenta().bold(),
        };
        let words = self.paint.apply(&in_words(run), style);
        self.line(words);
        self.hanging("tested: ", &tested(run));
        if let Some(abort) = &run.aborted {
            self.hanging("ended early: ", &visible(&abort.message));
        }
        if let Some(cause) = &run.cause {
            let label = "cause:  ";
            self.hanging(label, &one_line(cause));
        }
    }

    fn seed(&mut self, run: &Run) {
        self.heading("Seed assertions");
        let widest = Seed::ALL.iter().map(|seed| seed.title().len()).max().unwrap_or(0);
        for seed in Seed::ALL {
            let tally = run.summary.seed.get(&seed).cloned().unwrap_or_default();
            let cases: Vec<&CaseResult> = run.cases.iter().filter(|case| case.seed.contains(&seed)).collect();
            let (word, style, detail) = group_line(&tally, &cases);
            let word = self.paint.apply(&format!("{word:<7}"), style);
            self.line(format!("{INDENT}{seed:?} {:<widest$}  {word}  {detail}", seed.title()));
        }
    }

    /// Every case that failed or broke, in full.
    fn not_passed(&mut self, run: &Run, folder: Option<&Path>) {
        let chosen: Vec<&CaseResult> = run
            .cases
            .iter()
            .filter(|case| matches!(case.verdict, VerdictName::Fail | VerdictName::Error))
            .collect();
        if chosen.is_empty() {
            return;
        }
        self.heading("Failed or broke");
        for (at, case) in chosen.into_iter().enumerate() {
            if at > 0 {
                self.text.push('\n');
            }
            let should = match case.level {
                Level::Must => "",
                Level::Should => " (should)",
            };
            let verdict = self.paint.padded(case.verdict, 5);
            let title = self
                .paint
                .bold(&format!("{}  {}", visible(&case.id), one_line(&case.title)));
            self.line(format!("{verdict}  {title}{should}  {}", seconds(case.seconds)));
            if let Some(known) = &case.known {
                self.labelled("known", &known.to_string());
            }
            self.labelled("requirement", &case.requirement);
            for (at, expected) in case.expected.iter().enumerate() {
                self.labelled(if at == 0 { "expected" } else { "or" }, expected);
            }
            if let Some(actual) = &case.actual {
                self.labelled("actual", actual);
            }
            if let Some(reason) = &case.reason {
                self.labelled("reason", reason);
            }
            if let Some(cause) = &case.cause {
                // Said once above: forty cases of a cluster that never formed have one cause.
                let same = run.cause.as_ref() == Some(cause);
                self.labelled("cause", if same { "the run's, above" } else { cause });
            }
            if let Some(evidence) = &case.evidence {
                let path = folder.map_or_else(
                    || evidence.clone(),
                    |folder| folder.join(evidence).display().to_string(),
                );
                self.labelled("evidence", &path);
            }
        }
    }

    /// What was not judged, grouped by why.
    fn reasons(&mut self, run: &Run) {
        let groups = not_judged(run);
        if groups.is_empty() {
            return;
        }
        self.heading("Not judged");
        for (verdict, reason, ids) in groups {
            let name = self.paint.padded(verdict, VERDICT);
            self.line(format!("{INDENT}{name}  {}  {}", ids.len(), visible(&ids.join(", "))));
            self.hanging(&" ".repeat(INDENT.len() + VERDICT + 2), &reason);
        }
    }

    /// What came of the entries of a `known-failing` file.
    fn known(&mut self, run: &Run) {
        let Some(known) = &run.summary.known else { return };
        self.heading(&format!("Known failing ({})", visible(&known.file)));
        for complaint in known.complaints() {
            let verdict = self.paint.padded(VerdictName::Fail, 6);
            self.hanging(&format!("{INDENT}{verdict}"), &visible(&complaint));
        }
        for (what, ids) in known.lists() {
            if !ids.is_empty() {
                let first = format!("{INDENT}{what:<17}  {:>2}  ", ids.len());
                self.hanging(&first, &visible(&ids.join(", ")));
            }
        }
    }

    fn scorecard(&mut self, run: &Run) {
        let Some(card) = &run.scorecard else { return };
        let measured = card.trials.len();
        self.heading(&format!("Trials: {} of {}, fault {}", measured, card.asked, card.fault));
        for line in card.lines() {
            self.line(format!("{INDENT}{}", one_line(&line)));
        }
    }

    fn figures(&mut self, run: &Run) {
        let figures: Vec<(&str, String)> = run
            .cases
            .iter()
            .flat_map(|case| {
                case.measured
                    .iter()
                    .map(|figure| (case.id.as_str(), figure.to_string()))
            })
            .collect();
        self.by_case("Measured", &figures);
        let notes: Vec<(&str, String)> = run
            .cases
            .iter()
            .flat_map(|case| case.notes.iter().map(|note| (case.id.as_str(), note.clone())))
            .collect();
        self.by_case("Notes", &notes);
        if run.phases.is_empty() {
            return;
        }
        self.heading("Phases");
        let widest = run
            .phases
            .iter()
            .map(|phase| phase.name.chars().count())
            .max()
            .unwrap_or(0);
        for phase in &run.phases {
            let floor = phase
                .floor
                .map(|floor| format!("  (floor {})", seconds(floor)))
                .unwrap_or_default();
            let took = seconds(phase.seconds);
            self.line(format!("{INDENT}{:<widest$}  {took:>9}{floor}", visible(&phase.name)));
        }
    }

    fn by_case(&mut self, heading: &str, lines: &[(&str, String)]) {
        if lines.is_empty() {
            return;
        }
        self.heading(heading);
        for (id, text) in lines {
            self.hanging(&format!("{INDENT}{:<8}  ", visible(id)), &visible(text));
        }
    }

    fn sums(&mut self, run: &Run) {
        self.heading("Sums");
        let named = run.summary.profiles.iter().map(|(profile, tally)| {
            let name = match profile {
                Profile::Core => "core",
                Profile::Extended => "extended",
                Profile::Kubernetes => "kubernetes",
                Profile::Chaos => "chaos",
            };
            (name, tally)
        });
        let rows: Vec<(&str, &Tally)> = named.chain([("all", &run.summary.total)]).collect();
        for (name, tally) in rows {
            self.line(format!("{INDENT}{name:<10}  {:>3}  {}", tally.total(), counts(tally)));
        }
    }

    fn ending(&mut self, run: &Run, folder: Option<&Path>) {
        if !run.left_behind.is_empty() {
            self.heading("Left behind");
            for left in &run.left_behind {
                self.hanging(INDENT, &visible(left));
            }
        }
        if let Some(folder) = folder {
            self.heading("Files");
            let mut files = vec![
                (folder.join(super::json::FILE), "all of this, for machines"),
                (folder.join(super::junit::FILE), "the same for CI"),
                (folder.join(super::html::FILE), "the same for people, in a browser"),
                (folder.join(super::markdown::FILE), "the same for the page of a CI job"),
            ];
            if run.cases.iter().any(|case| case.evidence.is_some()) {
                files.push((folder.join("evidence"), "a folder for each case that failed or broke"));
            }
            let files: Vec<(String, &str)> = files
                .into_iter()
                .map(|(path, what)| (path.display().to_string(), what))
                .collect();
            let widest = files.iter().map(|(path, _)| path.chars().count()).max().unwrap_or(0);
            for (path, what) in files {
                self.line(format!("{INDENT}{path:<widest$}  {what}"));
            }
        }
        let failed = |case: &&CaseResult| case.verdict == VerdictName::Fail && !super::known::excused(case);
        if let Some(case) = run.cases.iter().find(failed) {
            self.heading("Next");
            let id = visible(&case.id);
            self.line(format!(
                "{INDENT}redis-cluster-conformance explain {id}  what it asks for, why, and how to run it alone"
            ));
        }
    }
}
