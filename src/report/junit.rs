//! `junit.xml`: fail is `<failure>`, error is `<error>`, all else that did not pass is `<skipped>` with its reason; so is a
//! failure that does not count, as that of a `should` without `--strict`.
//!
//! One test suite a chapter, in the catalogue's order, and a last one, `run`, about the run itself: it fails where the
//! cases alone would look green although the run says something else (it was aborted, judged nothing, or lacks cases
//! that `--require-all` asks for).

use super::known::excused;
use super::text::{one_line, seconds, visible};
use super::{AbortKind, CaseResult, Conformance, Run};
use crate::case::Level;
use crate::verdict::VerdictName;
use anyhow::Context as _;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the file in the folder of a run.
pub const FILE: &str = "junit.xml";

/// Writes `junit.xml` into `folder`, whole or not at all, and returns its path.
///
/// # Errors
/// When the file cannot be written; the text names it.
pub fn write(run: &Run, folder: &Path) -> anyhow::Result<PathBuf> {
    super::write_whole(&folder.join(FILE), &render(run)?)
}

/// The run as JUnit XML.
///
/// # Errors
/// When it cannot be written as XML.
pub fn render(run: &Run) -> anyhow::Result<String> {
    let mut report = Report::new("redis-cluster-conformance");
    report.set_time(duration(
        run.ended.as_millisecond().saturating_sub(run.started.as_millisecond()) as f64 / 1000.0,
    ));
    let mut chapters: Vec<(&str, Vec<&CaseResult>)> = Vec::new();
    for case in &run.cases {
        let chapter = case.chapter();
        match chapters.iter_mut().find(|(name, _)| *name == chapter) {
            Some((_, cases)) => cases.push(case),
            None => chapters.push((chapter, vec![case])),
        }
    }
    for (chapter, cases) in chapters {
        let mut suite = suite(run, chapter);
        suite.set_time(duration(cases.iter().map(|case| case.seconds).sum()));
        let strict = run.summary.counted.strict;
        suite.add_test_cases(cases.into_iter().map(|case| test_case(case, strict)));
        report.add_test_suite(suite);
    }
    let mut itself = suite(run, "run");
    itself.set_time(Duration::ZERO);
    itself.add_test_case(about_the_run(run));
    report.add_test_suite(itself);
    report.to_string().context("the run cannot be written as JUnit XML")
}

fn suite(run: &Run, name: &str) -> TestSuite {
    let mut suite = TestSuite::new(visible(name));
    let mut add = |name: &str, value: String| {
        suite.add_property(Property::new(name, visible(&value)));
    };
    add("run", run.run_id.clone());
    add("suite", run.suite.to_string());
    add("target", run.target.kind.to_string());
    for (name, value) in &run.target.descriptor {
        add(&format!("target.{}", visible(name)), value.clone());
    }
    if let Some(server) = &run.server {
        add("server", format!("{} {}", server.product, server.version));
        add("nodes", server.nodes.len().to_string());
        add("cluster-node-timeout", format!("{} ms", server.node_timeout_ms));
    }
    add("started", run.started.to_string());
    suite
}

/// Whether a case failed, and yet decides nothing.
fn is_let_pass(case: &CaseResult, strict: bool) -> bool {
    case.verdict == VerdictName::Fail && case.level == Level::Should && !strict
}

fn test_case(case: &CaseResult, strict: bool) -> TestCase {
    let status = match case.verdict {
        VerdictName::Pass => TestCaseStatus::success(),
        // The file's reader decides by failures alone, as the exit code does.
        VerdictName::Fail | VerdictName::Error if excused(case) => {
            let mut status = TestCaseStatus::skipped();
            status.set_type("known-failing");
            let known = case.known.as_ref().map(ToString::to_string).unwrap_or_default();
            status.set_message(format!("{}, known: {}", case.verdict, one_line(&known)));
            status.set_description(body(case));
            status
        }
        VerdictName::Fail if is_let_pass(case, strict) => {
            let mut status = TestCaseStatus::skipped();
            status.set_type("should");
            status.set_message(format!("fail, and only a should: {}", headline(case)));
            status.set_description(body(case));
            status
        }
        VerdictName::Fail => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type(match case.level {
                Level::Must => "must",
                Level::Should => "should",
            });
            status.set_message(headline(case));
            status.set_description(body(case));
            status
        }
        VerdictName::Error => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_type("error");
            status.set_message(headline(case));
            status.set_description(body(case));
            status
        }
        VerdictName::Unsupported | VerdictName::Skipped | VerdictName::Blocked => {
            let mut status = TestCaseStatus::skipped();
            status.set_type(case.verdict.to_string());
            status.set_message(format!("{}: {}", case.verdict, headline(case)));
            status
        }
    };
    let mut test = TestCase::new(visible(&format!("{} {}", case.id, case.title)), status);
    test.set_classname(visible(case.chapter()));
    test.set_time(duration(case.seconds));
    let remarks: Vec<String> = (case.measured.iter().map(ToString::to_string))
        .chain(case.notes.iter().cloned())
        .collect();
    if !remarks.is_empty() {
        test.set_system_out(visible(&remarks.join("\n")));
    }
    test
}

/// The one line that a list of failures shows.
fn headline(case: &CaseResult) -> String {
    let told = [&case.cause, &case.reason, &case.actual]
        .into_iter()
        .flatten()
        .map(|text| one_line(text))
        .find(|line| !line.is_empty());
    told.or_else(|| {
        case.expected
            .first()
            .map(|expected| format!("expected {}", one_line(expected)))
    })
    .unwrap_or_else(|| "no reason was recorded".into())
}

fn body(case: &CaseResult) -> String {
    let mut lines = vec![format!("requirement: {}", case.requirement)];
    lines.extend(case.expected.iter().map(|expected| format!("expected: {expected}")));
    let labelled = [
        ("actual", &case.actual),
        ("cause", &case.cause),
        ("reason", &case.reason),
        ("evidence", &case.evidence),
    ];
    lines.extend(
        labelled
            .into_iter()
            .filter_map(|(label, text)| text.as_ref().map(|text| format!("{label}: {text}"))),
    );
    visible(&lines.join("\n"))
}

/// The test case that says whether the run as a whole can be believed.
fn about_the_run(run: &Run) -> TestCase {
    let broken = |kind: NonSuccessKind, type_name: &str, message: String| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_type(type_name);
        status.set_message(one_line(&message));
        status.set_description(visible(&message));
        status
    };
    let all_green = |verdicts: &[VerdictName]| {
        let strict = run.summary.counted.strict;
        let mut red = (run.cases.iter()).filter(|case| !excused(case) && !is_let_pass(case, strict));
        red.all(|case| !verdicts.contains(&case.verdict))
    };
    let complaints = run
        .summary
        .known
        .as_ref()
        .map(|known| known.complaints())
        .unwrap_or_default();
    let status = if let Some(abort) = &run.aborted {
        let kind = match abort.kind {
            AbortKind::Target => "target",
            AbortKind::Usage => "usage",
            AbortKind::Interrupted => "interrupted",
        };
        broken(NonSuccessKind::Error, kind, abort.message.clone())
    } else if run.cases.is_empty() {
        broken(
            NonSuccessKind::Error,
            "empty",
            "no case was selected: nothing was judged".into(),
        )
    } else if !complaints.is_empty() {
        broken(NonSuccessKind::Failure, "known-failing", complaints.join("\n"))
    } else {
        match run.summary.gate() {
            Conformance::Undecided if all_green(&[VerdictName::Fail, VerdictName::Error]) => broken(
                NonSuccessKind::Error,
                "undecided",
                "no case came to a judgement of the deployment".into(),
            ),
            Conformance::NotConformant if all_green(&[VerdictName::Fail]) => broken(
                NonSuccessKind::Failure,
                "require-all",
                "cases were not judged, and --require-all asks for all of them".into(),
            ),
            Conformance::Conformant | Conformance::NotConformant | Conformance::Undecided => TestCaseStatus::success(),
        }
    };
    let mut test = TestCase::new("run is complete", status);
    test.set_classname("run");
    test.set_time(Duration::ZERO);
    let mut remarks: Vec<String> = (run.phases.iter())
        .map(|phase| format!("{} {}", phase.name, seconds(phase.seconds)))
        .collect();
    remarks.extend(run.cause.iter().map(|cause| format!("cause: {cause}")));
    remarks.extend(run.left_behind.iter().map(|left| format!("left behind: {left}")));
    if !remarks.is_empty() {
        test.set_system_out(visible(&remarks.join("\n")));
    }
    test
}

/// A figure from a file may be anything; a duration may not.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
