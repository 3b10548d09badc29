//! `summary.md`: the run for the page of a CI job: verdict, A1 to A6, profiles, what did not pass, times.
//!
//! Text that came from a server is shown as it is and does nothing: no markup, no HTML, no mention, no link.

use super::scorecard::Scorecard;
use super::text::{one_line, seconds, visible};
use super::words::{counts, group_line, in_words, tested};
use super::{CaseResult, Conformance, Run};
use crate::case::{Level, Profile, Seed};
use crate::verdict::VerdictName;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The name of the file in the folder of a run.
pub const FILE: &str = "summary.md";
/// So many cases are shown in full; a page of a CI job takes 1 MiB.
const MOST_CASES: usize = 50;
/// So many lines of what was seen, and characters of each.
const MOST_LINES: usize = 24;
const MOST_CHARACTERS: usize = 400;

/// Writes `summary.md` into `folder`, whole or not at all, and returns its path.
///
/// # Errors
/// When the file cannot be written; the text names it.
pub fn write(run: &Run, folder: &Path) -> anyhow::Result<PathBuf> {
    super::write_whole(&folder.join(FILE), &render(run))
}

/// Text as Markdown that shows it and nothing else, on one line.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in visible(text).replace('\n', " ").trim().chars() {
        match character {
            // As entities: some readers of Markdown let tags, and mentions of people, through a backslash.
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '@' => escaped.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '!' | '$' | '^' => {
                escaped.push('\\');
                escaped.push(character);
            }
            // These do something only where a line begins: a list, a rule, a heading.
            ':' if escaped.is_empty() => escaped.push_str("&#58;"),
            '-' | '+' | '=' if escaped.is_empty() => {
                escaped.push('\\');
                escaped.push(character);
            }
            other => escaped.push(other),
        }
    }
    // A numbered list.
    let number = escaped.find(|at: char| !at.is_ascii_digit()).unwrap_or(escaped.len());
    let after = &escaped[number..];
    if number > 0 && (after.starts_with(". ") || after.starts_with(") ") || after == "." || after == ")") {
        escaped.insert(number, '\\');
    }
    // What makes a link of itself.
    escaped.replace("://", "&#58;//").replace("www.", "www&#46;")
}

/// Text of several lines as a block that shows it as it is; the fence is longer than any in it.
fn block(text: &str, indent: &str) -> String {
    let text = visible(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = lines.iter().take(MOST_LINES).map(|line| shortened(line)).collect();
    if lines.len() > MOST_LINES {
        shown.push(format!("and {} more lines, in run.json", lines.len() - MOST_LINES));
    }
    let longest = text.split(|at| at != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    std::iter::once(format!("{fence}text"))
        .chain(shown)
        .chain([fence.clone()])
        .map(|line| format!("{indent}{line}\n"))
        .collect()
}

pub(super) fn shortened(line: &str) -> String {
    if line.chars().count() <= MOST_CHARACTERS {
        return line.to_owned();
    }
    line.chars().take(MOST_CHARACTERS).chain([' ', '…']).collect()
}

/// The mark before a verdict, for eyes that run down a list.
pub(super) fn mark(verdict: VerdictName) -> &'static str {
    match verdict {
        VerdictName::Pass => "✅",
        VerdictName::Fail => "❌",
        VerdictName::Error => "💥",
        VerdictName::Blocked | VerdictName::Unsupported | VerdictName::Skipped => "⚪",
    }
}

/// The whole summary.
pub fn render(run: &Run) -> String {
    let mut page = String::new();
    let sign = match (run.summary.verdict, run.summary.gate()) {
        (Conformance::Conformant, Conformance::NotConformant) => "⚠️",
        (Conformance::Conformant, _) => "✅",
        (Conformance::NotConformant, Conformance::Conformant) => "⚠️",
        (Conformance::NotConformant, _) => "❌",
        (Conformance::Undecided, _) => "💥",
    };
    // Writing to a String cannot fail; `let _` says so at each place.
    let _ = writeln!(
        page,
        "## {sign} {}\n\n{}\n",
        escape(&in_words(run)),
        escape(&tested(run))
    );
    if let Some(abort) = &run.aborted {
        let _ = writeln!(page, "**Ended early:**\n\n{}", block(&abort.message, ""));
    }
    if let Some(cause) = &run.cause {
        let _ = writeln!(page, "**Cause:** {}\n", escape(&one_line(cause)));
    }
    sums(&mut page, run);
    known_failing(&mut page, run);
    not_passed(&mut page, run);
    not_judged(&mut page, run);
    times(&mut page, run);
    if !run.left_behind.is_empty() {
        page.push_str("### Left behind\n\n");
        for left in &run.left_behind {
            let _ = writeln!(page, "- {}", escape(left));
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn sums(page: &mut String, run: &Run) {
    page.push_str("| | | |\n|---|---|---|\n");
    for seed in Seed::ALL {
        let tally = run.summary.seed.get(&seed).cloned().unwrap_or_default();
        let cases: Vec<&CaseResult> = run.cases.iter().filter(|case| case.seed.contains(&seed)).collect();
        let (word, _, detail) = group_line(&tally, &cases);
        let word = if word == "pass" {
            word.to_owned()
        } else {
            format!("**{word}**")
        };
        let _ = writeln!(
            page,
            "| {seed:?} {} | {word} | {} |",
            escape(seed.title()),
            escape(&detail)
        );
    }
    for (profile, tally) in &run.summary.profiles {
        let name = match profile {
            Profile::Core => "core",
            Profile::Extended => "extended",
            Profile::Kubernetes => "kubernetes",
            Profile::Chaos => "chaos",
        };
        let _ = writeln!(page, "| profile {name} | {} | {} |", tally.total(), counts(tally));
    }
    let _ = writeln!(
        page,
        "| all | {} | {} |\n",
        run.summary.total.total(),
        counts(&run.summary.total)
    );
}

fn known_failing(page: &mut String, run: &Run) {
    let Some(known) = &run.summary.known else { return };
    let _ = writeln!(page, "### Known failing ({})\n", escape(&known.file));
    for complaint in known.complaints() {
        let _ = writeln!(page, "- ❌ **{}**", escape(&complaint));
    }
    for (what, ids) in known.lists() {
        if !ids.is_empty() {
            let _ = writeln!(page, "- {what}: {}", escape(&ids.join(", ")));
        }
    }
    page.push('\n');
}

fn not_passed(page: &mut String, run: &Run) {
    let chosen: Vec<&CaseResult> = (run.cases.iter())
        .filter(|case| matches!(case.verdict, VerdictName::Fail | VerdictName::Error))
        .collect();
    if chosen.is_empty() {
        return;
    }
    page.push_str("### Failed or broke\n\n");
    for case in chosen.iter().take(MOST_CASES) {
        let should = match case.level {
            Level::Must => "",
            Level::Should => " (should)",
        };
        let _ = writeln!(
            page,
            "- {} **{}** {}{should}, {}",
            mark(case.verdict),
            escape(&case.id),
            escape(&case.title),
            seconds(case.seconds)
        );
        if let Some(known) = &case.known {
            let _ = writeln!(page, "  - known: {}", escape(&known.to_string()));
        }
        let _ = writeln!(page, "  - requirement: {}", escape(&case.requirement));
        for (at, expected) in case.expected.iter().enumerate() {
            let label = if at == 0 { "expected" } else { "or" };
            let _ = writeln!(page, "  - {label}: {}", escape(&shortened(expected)));
        }
        for (label, text) in [("actual", &case.actual), ("reason", &case.reason)] {
            if let Some(text) = text {
                let _ = write!(page, "  - {label}:\n\n{}", block(text, "    "));
            }
        }
        if let Some(cause) = &case.cause {
            let same = run.cause.as_ref() == Some(cause);
            let cause = if same {
                "the run's, above".to_owned()
            } else {
                escape(&one_line(cause))
            };
            let _ = writeln!(page, "  - cause: {cause}");
        }
        if let Some(evidence) = &case.evidence {
            let _ = writeln!(page, "  - evidence: {}", escape(evidence));
        }
    }
    if chosen.len() > MOST_CASES {
        let _ = writeln!(page, "- and {} more, in run.json", chosen.len() - MOST_CASES);
    }
    page.push('\n');
}

fn not_judged(page: &mut String, run: &Run) {
    let groups = super::words::not_judged(run);
    if groups.is_empty() {
        return;
    }
    let count: usize = groups.iter().map(|(_, _, ids)| ids.len()).sum();
    let _ = writeln!(page, "<details><summary>Not judged: {count}</summary>\n");
    for (verdict, reason, ids) in groups {
        let _ = writeln!(
            page,
            "- {verdict}, {}: {}",
            escape(&ids.join(", ")),
            escape(&shortened(&reason))
        );
    }
    page.push_str("\n</details>\n\n");
}

fn times(page: &mut String, run: &Run) {
    if let Some(card) = &run.scorecard {
        let _ = writeln!(
            page,
            "### Trials: {} of {}, fault {}\n\n{}",
            card.trials.len(),
            card.asked,
            escape(&card.fault),
            block(&Scorecard::lines(card).join("\n"), "")
        );
    }
    let figures: Vec<(&str, String)> = (run.cases.iter())
        .flat_map(|case| {
            case.measured
                .iter()
                .map(|figure| (case.id.as_str(), figure.to_string()))
        })
        .collect();
    if figures.is_empty() && run.phases.is_empty() {
        return;
    }
    page.push_str("<details><summary>Times and figures</summary>\n\n| | |\n|---|---|\n");
    for phase in &run.phases {
        let floor = phase
            .floor
            .map(|floor| format!(" (floor {})", seconds(floor)))
            .unwrap_or_default();
        let _ = writeln!(page, "| {} | {}{floor} |", escape(&phase.name), seconds(phase.seconds));
    }
    for (id, figure) in figures {
        let _ = writeln!(page, "| {} | {} |", escape(id), escape(&figure));
    }
    page.push_str("\n</details>\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

    /// The text that a reader of Markdown sees, where all of it is plain text in a paragraph.
    fn plain(markdown: &str) -> Option<String> {
        let mut seen = String::new();
        for event in Parser::new_ext(markdown, Options::all()) {
            match event {
                Event::Text(text) => seen.push_str(&text),
                Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph) => {}
                _ => return None,
            }
        }
        Some(seen)
    }

    proptest! {
        #[test]
        fn escaped_text_shows_itself_and_does_nothing(text in "[ -~äß鍵\u{1b}\u{202e}]{0,40}|\\PC{0,20}") {
            let spaces = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let seen = plain(&escape(&text));
            // A reader may make one typographic quote of another.
            let quotes = |text: String| text.replace(['‘', '’'], "'").replace(['“', '”'], "\"").replace('…', "...")
                .replace('—', "---").replace('–', "--");
            prop_assert_eq!(seen.map(|seen| quotes(spaces(&seen))), Some(quotes(spaces(&visible(&text)))), "{}", escape(&text));
        }

        #[test]
        fn a_block_shows_its_text_whatever_fences_are_in_it(text in "[`~ab\n]{0,40}") {
            let shown = block(&text, "");
            let events: Vec<Event> = Parser::new_ext(&shown, Options::all()).collect();
            let starts = events.iter().filter(|event| matches!(event, Event::Start(_))).count();
            prop_assert_eq!(starts, 1, "{}", shown);
            let seen: String = events.into_iter().filter_map(|event| match event {
                Event::Text(text) => Some(text.into_string()),
                _ => None,
            }).collect();
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            prop_assume!(text.lines().count() <= MOST_LINES);
            prop_assert_eq!(lines(&seen), lines(&visible(&text)));
        }
    }
}
