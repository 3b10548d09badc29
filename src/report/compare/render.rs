//! A comparison as text and as Markdown: the same parts in the same order, the reasons to stop first.

use super::figures::{FACTOR, LEAST_SECONDS, LEAST_TRIALS, Range};
use super::{Change, ChangeKind, Comparison, Loss, Pace, Side, Times};
use crate::case::Level;
use crate::report::markdown::{escape, mark};
use crate::report::text::visible;
use crate::verdict::VerdictName;
use std::fmt::Write as _;

/// The one line above all: `WORSE: 2 broken, 1 slower; 1 fixed`.
fn headline(comparison: &Comparison) -> String {
    let count = |kind: ChangeKind| comparison.changes_of(kind).count();
    let paced = |pace: Pace| comparison.times.iter().filter(|times| times.pace == pace).count();
    let lost = |worse: bool| {
        let more = |loss: &&Loss| (loss.after > loss.before) == worse;
        comparison.losses.iter().filter(more).count()
    };
    let some = |parts: Vec<(usize, &str)>| -> Vec<String> {
        (parts.into_iter())
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    };
    let kinds = |kinds: &[ChangeKind]| -> Vec<(usize, &str)> {
        kinds.iter().map(|kind| (count(*kind), kind.words())).collect()
    };
    use ChangeKind::{Added, Broken, Fixed, Judged, Known, Removed, Supported, Unjudged, Unsupported};
    let mut worse = kinds(&[Broken, Unsupported, Unjudged]);
    worse.extend([(lost(true), "lossier"), (paced(Pace::Slower), "slower")]);
    let mut better = kinds(&[Fixed, Supported, Judged]);
    better.extend([(lost(false), "less lossy"), (paced(Pace::Faster), "faster")]);
    let (worse, better) = (some(worse), some(better));
    let mut other = kinds(&[Known, Removed, Added]);
    other.extend([
        (paced(Pace::Longer), "longer in one run"),
        (paced(Pace::Shorter), "shorter in one run"),
    ]);
    let other = some(other);
    let word = match (worse.is_empty(), better.is_empty()) {
        _ if comparison.before.broke || comparison.after.broke => "INCOMPLETE",
        (false, true) => "WORSE",
        (false, false) => "WORSE AND BETTER",
        (true, false) => "BETTER",
        (true, true) => "THE SAME",
    };
    let parts: Vec<String> = [worse, better, other]
        .into_iter()
        .filter(|parts| !parts.is_empty())
        .map(|parts| parts.join(", "))
        .collect();
    if parts.is_empty() {
        format!("{word}: {} cases ended as before", comparison.unchanged)
    } else {
        format!("{word}: {}", parts.join("; "))
    }
}

fn incomplete(side: &Side) -> Option<String> {
    side.broke
        .then(|| format!("{} is not complete: what it does not say cannot be compared", side.file))
}

fn verdict(verdict: Option<VerdictName>) -> String {
    verdict.map_or_else(|| "absent".to_owned(), |verdict| verdict.to_string())
}

/// More cases than so many that changed alike and for the same reason are told together.
const FEW: usize = 3;

/// The changes in their order; those that many cases share, a run that ended early above all, stand together in the place of
/// the first of them.
fn together<'a>(changes: &[&'a Change]) -> Vec<Vec<&'a Change>> {
    let why = |change: &Change| {
        change
            .why
            .is_some()
            .then(|| (change.before, change.after, change.why.clone(), change.known.clone()))
    };
    let mut told = Vec::new();
    for change in changes {
        let alike = changes
            .iter()
            .copied()
            .filter(|other| why(change).is_some() && why(other) == why(change));
        let alike: Vec<&Change> = alike.collect();
        match alike.first() {
            Some(first) if alike.len() > FEW => {
                if first.id == change.id {
                    told.push(alike);
                }
            }
            Some(_) | None => told.push(vec![*change]),
        }
    }
    told
}

/// The cases of changes that are told together.
fn ids(changes: &[&Change]) -> String {
    let ids: Vec<&str> = changes.iter().map(|change| change.id.as_str()).collect();
    ids.join(", ")
}

fn should(change: &Change) -> &'static str {
    match change.level {
        Level::Must => "",
        Level::Should => " (should)",
    }
}

fn range(range: Option<Range>) -> String {
    match range {
        None => "not seen".to_owned(),
        Some(Range { median, seen: 1, .. }) => format!("{median:.2} s"),
        Some(Range {
            minimum,
            median,
            maximum,
            seen,
        }) => format!("{median:.2} s ({minimum:.2} to {maximum:.2}, {seen} trials)"),
    }
}

fn place(case: Option<&String>) -> &str {
    case.map_or("trials", String::as_str)
}

fn pace(times: &Times) -> &'static str {
    match times.pace {
        Pace::Same => "",
        Pace::Slower => "slower",
        Pace::Faster => "faster",
        Pace::Longer => "longer",
        Pace::Shorter => "shorter",
    }
}

fn known(change: &Change) -> Option<String> {
    change.known.as_ref().map(|known| format!("known: {known}"))
}

/// Which rule calls a time slower or longer; said wherever times are shown.
fn rule() -> String {
    format!(
        "Slower or faster: over {LEAST_TRIALS} trials or more on each side, ranges that do not overlap, and medians further apart than \
         moments are known. Longer or shorter: in fewer trials, or a case's single time, {FACTOR:.0} times as long and {LEAST_SECONDS:.0} s \
         longer; a busy machine can do that, so it makes nothing worse or better."
    )
}

/// The comparison as a person reads it in a terminal or a log.
pub fn text(comparison: &Comparison) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail; `let _` says so at each place.
    let mut line = |text: String| {
        let _ = writeln!(page, "{}", visible(text.trim_end()));
    };
    line(headline(comparison));
    for (name, side) in [("before", &comparison.before), ("after", &comparison.after)] {
        line(format!("{name:<7} {}: {}", side.file, side.verdict));
        line(format!("        {}", side.tested));
    }
    for side in [&comparison.before, &comparison.after] {
        incomplete(side).into_iter().for_each(&mut line);
    }
    if !comparison.differences.is_empty() {
        line("\nNot the same in both runs".to_owned());
        for difference in &comparison.differences {
            line(format!(
                "  {}: {} -> {}",
                difference.what, difference.before, difference.after
            ));
        }
    }
    for kind in ChangeKind::ALL {
        let changes: Vec<&Change> = comparison.changes_of(kind).collect();
        if changes.is_empty() {
            continue;
        }
        let words = kind.words();
        line(format!("\n{}{}", words[..1].to_uppercase(), &words[1..]));
        for changes in together(&changes) {
            let Some(change) = changes.first() else { continue };
            let (before, after) = (verdict(change.before), verdict(change.after));
            line(match changes.len() {
                1 => format!(
                    "  {:<8}  {before} -> {after}  {}{}",
                    change.id,
                    change.title,
                    should(change)
                ),
                many => format!("  {many} cases  {before} -> {after}  {}", ids(&changes)),
            });
            for told in change.why.iter().cloned().chain(known(change)) {
                line(format!("            {told}"));
            }
        }
    }
    if !comparison.failing.is_empty() {
        line(format!("\nFailed in both\n  {}", comparison.failing.join(", ")));
    }
    if !comparison.losses.is_empty() {
        line("\nLost, or wrong after a fault".to_owned());
        for loss in &comparison.losses {
            let word = if loss.after > loss.before { "more" } else { "less" };
            let place = place(loss.case.as_ref());
            line(format!(
                "  {place:<8}  {}: {} -> {}  {word}",
                loss.name, loss.before, loss.after
            ));
        }
    }
    if !comparison.times.is_empty() {
        line("\nTimes".to_owned());
        for times in &comparison.times {
            let place = place(times.case.as_ref());
            let (before, after) = (range(times.before), range(times.after));
            line(format!(
                "  {place:<8}  {}: {before} -> {after}  {}",
                times.name,
                pace(times)
            ));
        }
        line(format!("  {}", rule()));
    }
    if !comparison.not_compared.is_empty() {
        line("\nNot compared".to_owned());
        for told in &comparison.not_compared {
            line(format!("  {told}"));
        }
    }
    line(format!(
        "\n{} cases ended as before, of {} in both runs",
        comparison.unchanged, comparison.in_common
    ));
    if let Some(change) = comparison.changes_of(ChangeKind::Broken).next() {
        let next = "what it asks for, why, and how to run it alone";
        line(format!("Next: redis-cluster-conformance explain {}  {next}", change.id));
    }
    page
}

/// The comparison for the page of a CI job.
pub fn markdown(comparison: &Comparison) -> String {
    let mut page = format!("## {}\n\n", escape(&headline(comparison)));
    let mut line = |text: String| {
        let _ = writeln!(page, "{text}");
    };
    line("| | | |\n|---|---|---|".to_owned());
    for (name, side) in [("before", &comparison.before), ("after", &comparison.after)] {
        let (file, verdict, tested) = (escape(&side.file), escape(&side.verdict), escape(&side.tested));
        line(format!("| {name} | **{verdict}** | {tested}; {file} |"));
    }
    line(String::new());
    for told in [&comparison.before, &comparison.after]
        .into_iter()
        .filter_map(incomplete)
    {
        line(format!("**{}**\n", escape(&told)));
    }
    if !comparison.differences.is_empty() {
        line("### Not the same in both runs\n\n| | before | after |\n|---|---|---|".to_owned());
        for difference in &comparison.differences {
            let (what, before, after) = (&difference.what, &difference.before, &difference.after);
            line(format!("| {} | {} | {} |", escape(what), escape(before), escape(after)));
        }
        line(String::new());
    }
    for kind in ChangeKind::ALL {
        let changes: Vec<&Change> = comparison.changes_of(kind).collect();
        if changes.is_empty() {
            continue;
        }
        let words = kind.words();
        line(format!("### {}{}\n", words[..1].to_uppercase(), &words[1..]));
        for changes in together(&changes) {
            let Some(change) = changes.first() else { continue };
            let sign = change.after.or(change.before).map_or("", mark);
            let (id, title) = (escape(&change.id), escape(&change.title));
            let (before, after) = (verdict(change.before), verdict(change.after));
            line(match changes.len() {
                1 => format!("- {sign} **{id}** {title}{}: {before} → {after}", should(change)),
                many => format!(
                    "- {sign} **{many} cases**: {before} → {after}: {}",
                    escape(&ids(&changes))
                ),
            });
            for told in change.why.iter().cloned().chain(known(change)) {
                line(format!("  - {}", escape(&told)));
            }
        }
        line(String::new());
    }
    if !comparison.failing.is_empty() {
        line(format!(
            "### Failed in both\n\n{}\n",
            escape(&comparison.failing.join(", "))
        ));
    }
    if !comparison.losses.is_empty() {
        line("### Lost, or wrong after a fault\n\n| | | before | after |\n|---|---|---|---|".to_owned());
        for loss in &comparison.losses {
            let (place, name) = (escape(place(loss.case.as_ref())), escape(&loss.name));
            let after = if loss.after > loss.before {
                format!("**{}**", loss.after)
            } else {
                loss.after.to_string()
            };
            line(format!("| {place} | {name} | {} | {after} |", loss.before));
        }
        line(String::new());
    }
    if !comparison.times.is_empty() {
        line("### Times\n\n| | | before | after | |\n|---|---|---|---|---|".to_owned());
        for times in &comparison.times {
            let (place, name) = (escape(place(times.case.as_ref())), escape(&times.name));
            let (before, after) = (range(times.before), range(times.after));
            let word = match times.pace {
                Pace::Slower => "**slower**",
                _ => pace(times),
            };
            line(format!("| {place} | {name} | {before} | {after} | {word} |"));
        }
        line(format!("\n{}\n", rule()));
    }
    for told in &comparison.not_compared {
        line(format!("Not compared: {}\n", escape(told)));
    }
    line(format!(
        "{} cases ended as before, of {} in both runs.",
        comparison.unchanged, comparison.in_common
    ));
    page
}
