//! The cases: those that did not pass, what they measured, and all of them.

use super::super::{CaseResult, Run};
use super::plot::Range;
use super::summary::{mark, profile};
use crate::case::{Impact, Level};
use crate::context::Measurement;
use crate::verdict::VerdictName;

/// The most lines of a text that are shown; the rest is in `run.json`.
const MOST_LINES: usize = 40;
/// The longest text that is shown, in characters.
const MOST_TEXT: usize = 8000;

/// Up to so many cases that did not pass are all unfolded; of more, those of a must alone.
const MOST_OPEN: usize = 8;

/// A case that failed or broke.
pub(super) struct Missed<'a> {
    pub(super) case: &'a CaseResult,
    pub(super) words: Words,
    /// Whether it is unfolded.
    pub(super) open: bool,
    pub(super) expected: Vec<String>,
    pub(super) actual: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) evidence: Option<Link<'a>>,
    pub(super) timeline: Option<Link<'a>>,
}

/// Cases that were not judged, for one reason.
pub(super) struct Reason<'a> {
    pub(super) verdict: VerdictName,
    pub(super) mark: &'static str,
    pub(super) reason: &'a str,
    pub(super) cases: Vec<(&'a CaseResult, Words)>,
}

/// The words for what a case is.
pub(super) struct Words {
    pub(super) mark: &'static str,
    pub(super) level: &'static str,
    pub(super) profile: &'static str,
    pub(super) impact: &'static str,
    pub(super) seed: String,
    pub(super) seconds: String,
}

/// A path, and whether it may be a link: only one that stays below the folder of the run.
pub(super) struct Link<'a> {
    pub(super) path: &'a str,
    pub(super) safe: bool,
}

/// A figure with its limits.
pub(super) struct Measured<'a> {
    pub(super) case: &'a CaseResult,
    pub(super) figure: &'a Measurement,
    pub(super) value: String,
    pub(super) floor: Option<String>,
    pub(super) bound: Option<String>,
    pub(super) beyond: bool,
    pub(super) range: Range,
}

/// The cases of a chapter.
pub(super) struct Chapter<'a> {
    pub(super) name: &'a str,
    pub(super) counts: String,
    pub(super) cases: Vec<(&'a CaseResult, Words)>,
}

impl<'a> Link<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
        let safe =
            path.starts_with("evidence/") && path.chars().all(plain) && !path.split('/').any(|part| part == "..");
        Self { path, safe }
    }
}

fn words(case: &CaseResult) -> Words {
    let seed: Vec<String> = case.seed.iter().map(|seed| format!("{seed:?}")).collect();
    Words {
        mark: mark(case.verdict),
        level: match case.level {
            Level::Must => "must",
            Level::Should => "should",
        },
        profile: profile(case.profile),
        impact: match case.impact {
            Impact::ReadOnly => "read-only",
            Impact::Writes => "writes",
            Impact::Apart => "apart",
            Impact::Disruptive => "disruptive",
        },
        seed: seed.join(" "),
        seconds: format!("{:.2}", case.seconds),
    }
}

/// A text as far as it is read; what is left out is said to be.
fn shortened(text: &str) -> String {
    let lines = text.lines().count();
    let mut kept: String = text.lines().take(MOST_LINES).collect::<Vec<_>>().join("\n");
    if let Some((end, _)) = kept.char_indices().nth(MOST_TEXT) {
        kept.truncate(end);
        kept.push_str("\n… the rest is in run.json");
    } else if lines > MOST_LINES {
        kept.push_str(&format!("\n… {} more lines are in run.json", lines - MOST_LINES));
    }
    kept
}

/// Cases that failed or broke: a must before a should.
pub(super) fn missed(run: &Run) -> Vec<Missed<'_>> {
    let bad = |case: &&CaseResult| matches!(case.verdict, VerdictName::Fail | VerdictName::Error);
    let mut cases: Vec<&CaseResult> = run.cases.iter().filter(bad).collect();
    // A stable sort: within each, the catalogue's order stays.
    cases.sort_by_key(|case| match (case.verdict, case.level) {
        (VerdictName::Fail, Level::Must) => 0,
        (VerdictName::Error, _) => 1,
        (_, _) => 2,
    });
    let few = cases.len() <= MOST_OPEN;
    let missed = cases.into_iter().map(|case| Missed {
        open: few || case.verdict == VerdictName::Error || case.level == Level::Must,
        case,
        words: words(case),
        expected: case.expected.iter().map(|text| shortened(text)).collect(),
        actual: case.actual.as_deref().map(shortened),
        reason: case.reason.as_deref().map(shortened),
        evidence: case.evidence.as_deref().map(Link::of),
        timeline: case.timeline.as_deref().map(Link::of),
    });
    missed.collect()
}

/// Cases that were not judged, by reason, the most frequent first.
pub(super) fn reasons(run: &Run) -> Vec<Reason<'_>> {
    let mut reasons: Vec<Reason<'_>> = Vec::new();
    for case in &run.cases {
        match case.verdict {
            VerdictName::Pass | VerdictName::Fail | VerdictName::Error => continue,
            VerdictName::Blocked | VerdictName::Unsupported | VerdictName::Skipped => {}
        }
        let reason = case.reason.as_deref().unwrap_or("no reason was recorded");
        let same = |known: &&mut Reason<'_>| known.verdict == case.verdict && known.reason == reason;
        match reasons.iter_mut().find(same) {
            Some(known) => known.cases.push((case, words(case))),
            None => reasons.push(Reason {
                verdict: case.verdict,
                mark: mark(case.verdict),
                reason,
                cases: vec![(case, words(case))],
            }),
        }
    }
    reasons.sort_by_key(|reason| {
        (
            reason.verdict != VerdictName::Blocked,
            std::cmp::Reverse(reason.cases.len()),
        )
    });
    reasons
}

/// Every figure of a time that has a floor or a bound.
pub(super) fn measured(run: &Run) -> Vec<Measured<'_>> {
    let figures = run
        .cases
        .iter()
        .flat_map(|case| case.measured.iter().map(move |figure| (case, figure)));
    figures
        .filter(|(_, figure)| figure.floor.is_some() || figure.bound.is_some())
        .map(|(case, figure)| {
            let number = |value: f64| match figure.unit.as_str() {
                "s" => format!("{value:.2} s"),
                unit => format!("{value} {unit}"),
            };
            Measured {
                case,
                value: number(figure.value),
                floor: figure.floor.map(number),
                bound: figure.bound.map(number),
                beyond: figure.bound.is_some_and(|bound| figure.value > bound),
                range: Range::of(
                    (figure.value, figure.value, figure.value),
                    figure.floor,
                    figure.bound,
                    [Some(figure.value), figure.floor, figure.bound]
                        .into_iter()
                        .flatten()
                        .fold(0.0, f64::max),
                ),
                figure,
            }
        })
        .collect()
}

pub(super) fn chapters(run: &Run) -> Vec<Chapter<'_>> {
    let mut chapters: Vec<Chapter<'_>> = Vec::new();
    for case in &run.cases {
        let row = (case, words(case));
        match chapters.iter_mut().find(|chapter| chapter.name == case.chapter()) {
            Some(chapter) => chapter.cases.push(row),
            None => chapters.push(Chapter {
                name: case.chapter(),
                counts: String::new(),
                cases: vec![row],
            }),
        }
    }
    for chapter in &mut chapters {
        let tally = super::super::Tally::of(chapter.cases.iter().map(|(case, _)| *case));
        chapter.counts = super::super::words::counts(&tally);
    }
    chapters
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("evidence/FAIL-01/timeline.txt", true)]
    #[case("evidence/../../etc/passwd", false)]
    #[case("javascript:alert(1)", false)]
    #[case("evidence/a?b", false)]
    #[case("/evidence/a", false)]
    fn only_a_path_within_the_run_is_a_link(#[case] path: &str, #[case] safe: bool) {
        assert_eq!(Link::of(path).safe, safe);
    }

    #[test]
    fn a_long_text_is_shortened_and_says_so() {
        assert_eq!(shortened("a\nb"), "a\nb");
        let lines = "x\n".repeat(50);
        assert!(shortened(&lines).ends_with("\n… 10 more lines are in run.json"));
        let long = "ü".repeat(9000);
        let short = shortened(&long);
        assert!(short.starts_with("üü") && short.ends_with("\n… the rest is in run.json"));
        assert!(short.chars().count() < 8100);
    }
}
