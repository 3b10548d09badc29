//! A run's sums in words: the verdict, what was tested, a seed assertion's line.

use super::text::visible;
use super::{CaseResult, Conformance, GroupResult, Run, Tally};
use crate::case::Level;
use crate::verdict::VerdictName;
use owo_colors::Style;

/// The colour of a verdict.
pub(super) fn style(verdict: VerdictName) -> Style {
    match verdict {
        VerdictName::Pass => Style::new().green(),
        VerdictName::Fail => Style::new().red().bold(),
        VerdictName::Error => Style::new().magenta().bold(),
        VerdictName::Blocked | VerdictName::Unsupported | VerdictName::Skipped => Style::new().yellow(),
    }
}

/// The verdict on the deployment: `NOT CONFORMANT: 3 of 52 must failed`.
pub(super) fn in_words(run: &Run) -> String {
    let of = |level: Level| run.cases.iter().filter(move |case| case.level == level);
    let ended = |level: Level, verdict: VerdictName| of(level).filter(|case| case.verdict == verdict).count();
    let must = of(Level::Must).count();
    let should_failed = ended(Level::Should, VerdictName::Fail);
    let total = &run.summary.total;
    let unjudged: usize = [VerdictName::Blocked, VerdictName::Unsupported, VerdictName::Skipped]
        .into_iter()
        .map(|verdict| total.count(verdict))
        .sum();
    let mut asides = Vec::new();
    let head = match run.summary.verdict {
        Conformance::Conformant => format!(
            "CONFORMANT: {} of {must} must passed",
            ended(Level::Must, VerdictName::Pass)
        ),
        Conformance::NotConformant => {
            format!(
                "NOT CONFORMANT: {} of {must} must failed",
                ended(Level::Must, VerdictName::Fail)
            )
        }
        Conformance::Undecided if run.aborted.is_some() => "UNDECIDED: the run ended before its cases".to_owned(),
        Conformance::Undecided if run.cases.is_empty() => "UNDECIDED: no case was selected".to_owned(),
        Conformance::Undecided if total.count(VerdictName::Error) == 0 => "UNDECIDED: no case was judged".to_owned(),
        Conformance::Undecided => "UNDECIDED: the suite or its surroundings broke".to_owned(),
    };
    if should_failed > 0 {
        let of_all = of(Level::Should).count();
        let counted = if run.summary.counted.strict { " (--strict)" } else { "" };
        asides.push(format!("{should_failed} of {of_all} should failed{counted}"));
    }
    if total.count(VerdictName::Error) > 0 {
        asides.push(format!("{} broke", total.count(VerdictName::Error)));
    }
    if unjudged > 0 {
        let counted = if run.summary.counted.require_all {
            " (--require-all)"
        } else {
            ""
        };
        asides.push(format!("{unjudged} not judged{counted}"));
    }
    if let Some(known) = &run.summary.known {
        let complaints = known.passing.len() + known.expired.len();
        if complaints > 0 {
            let are = if complaints == 1 { "entry is" } else { "entries are" };
            asides.push(format!("{complaints} {are} no longer true ({})", known.file));
        }
        let count = known.failing.len();
        match known.gate {
            Conformance::Conformant if run.summary.verdict != Conformance::Conformant => {
                asides.push("nothing but what is known: exit code 0".to_owned());
            }
            _ if count > 0 => asides.push(format!("{count} failed as known")),
            _ => {}
        }
    }
    std::iter::once(head).chain(asides).collect::<Vec<_>>().join("; ")
}

/// What was tested, on one line.
pub(super) fn tested(run: &Run) -> String {
    let mut parts = match &run.server {
        Some(server) => vec![
            format!("{} {}", server.product, server.version),
            format!("{} nodes", server.nodes.len()),
        ],
        None => vec!["no server was reached".to_owned()],
    };
    let descriptor: Vec<String> = run
        .target
        .descriptor
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    parts.push(format!("target {}", run.target.kind));
    if !descriptor.is_empty() {
        parts.push(descriptor.join(", "));
    }
    if let Some(server) = &run.server {
        parts.push(format!("cluster-node-timeout {} ms", server.node_timeout_ms));
    }
    parts.push(format!("suite {}", run.suite));
    visible(&parts.join("; "))
}

/// A seed assertion's word and its counts. What was not judged is counted as such, never as passed.
pub(super) fn group_line(tally: &Tally, cases: &[&CaseResult]) -> (&'static str, Style, String) {
    let total = tally.total();
    let ids = |verdict: VerdictName| -> String {
        let ids = cases
            .iter()
            .filter(|case| case.verdict == verdict)
            .map(|case| match case.level {
                Level::Must => visible(&case.id),
                Level::Should => format!("{} (should)", visible(&case.id)),
            });
        ids.collect::<Vec<_>>().join(", ")
    };
    let rest = |shown: VerdictName| -> String {
        VerdictName::ALL
            .into_iter()
            .filter(|verdict| *verdict != shown && tally.count(*verdict) > 0)
            .map(|verdict| format!("; {} {verdict}", tally.count(verdict)))
            .collect()
    };
    let named = |word: &'static str, verdict: VerdictName| {
        let detail = format!("{} of {total}: {}{}", tally.count(verdict), ids(verdict), rest(verdict));
        (word, style(verdict), detail)
    };
    match tally.result {
        GroupResult::None => ("none", Style::new().dimmed(), "no case was selected".into()),
        GroupResult::Success => ("pass", style(VerdictName::Pass), format!("{total} of {total}")),
        GroupResult::Partial | GroupResult::Unknown => {
            let pass = VerdictName::Pass;
            // A run of an earlier version of the suite may call it partial.
            let word = if tally.count(pass) > 0 { "partial" } else { "unknown" };
            let detail = format!("{} of {total} passed{}", tally.count(pass), rest(pass));
            (word, style(VerdictName::Skipped), detail)
        }
        GroupResult::Failure if tally.count(VerdictName::Fail) > 0 => named("fail", VerdictName::Fail),
        GroupResult::Failure if tally.count(VerdictName::Error) > 0 => named("error", VerdictName::Error),
        GroupResult::Failure => named("blocked", VerdictName::Blocked),
    }
}

/// The verdicts of a group, those that occurred.
pub(super) fn counts(tally: &Tally) -> String {
    let parts: Vec<String> = VerdictName::ALL
        .into_iter()
        .filter_map(|verdict| tally.verdicts.get(&verdict).map(|count| format!("{count} {verdict}")))
        .collect();
    if parts.is_empty() {
        "no case".into()
    } else {
        parts.join(", ")
    }
}

/// What was not judged, grouped by how and why: verdict, reason, ids.
pub(super) fn not_judged(run: &Run) -> Vec<(VerdictName, String, Vec<&str>)> {
    let mut groups: Vec<(VerdictName, String, Vec<&str>)> = Vec::new();
    for verdict in [VerdictName::Blocked, VerdictName::Unsupported, VerdictName::Skipped] {
        for case in run.cases.iter().filter(|case| case.verdict == verdict) {
            let reason = case
                .reason
                .as_deref()
                .map_or_else(|| "no reason was recorded".to_owned(), visible);
            match groups.iter_mut().find(|group| group.0 == verdict && group.1 == reason) {
                Some(group) => group.2.push(&case.id),
                None => groups.push((verdict, reason, vec![&case.id])),
            }
        }
    }
    groups
}
