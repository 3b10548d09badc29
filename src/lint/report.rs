//! What was found, as compilers say it, and as JSON for programs.

use super::{Finding, Lint, Rule};
use crate::case::Level;
use serde::Serialize;
use std::fmt::Write;

/// The version of the JSON.
pub const SCHEMA_VERSION: u32 = 1;

fn word(level: Level) -> &'static str {
    match level {
        Level::Must => "must",
        Level::Should => "should",
    }
}

/// The findings, one after another: a line of `file:line: level ROW: object: what is there`, then what is expected, and the
/// cases that show the harm. `is_case` says which rows are cases now.
pub fn render(lint: &Lint, is_case: &dyn Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for finding in &lint.findings {
        let flaw = &finding.flaw;
        let line = flaw.line.map_or(String::new(), |line| format!("{line}:"));
        let _ = writeln!(
            text,
            "{}:{line} {} {}: {}: {}",
            flaw.file,
            word(finding.rule.level),
            finding.rule.row,
            flaw.object,
            flaw.found
        );
        let _ = writeln!(text, "    expected: {}", finding.rule.requirement);
        let _ = writeln!(text, "    shown by: {}", shown_by(finding.rule, is_case));
    }
    let (musts, shoulds) = (lint.count(Level::Must), lint.count(Level::Should));
    let judged: Vec<String> = lint
        .workloads
        .iter()
        .map(|workload| format!("{} ({})", workload.object, workload.evidence))
        .collect();
    let _ = writeln!(text, "{musts} must and {shoulds} should in {}", judged.join(", "));
    text
}

fn shown_by(rule: &Rule, is_case: &dyn Fn(&str) -> bool) -> String {
    let (cases, rows): (Vec<&str>, Vec<&str>) = rule.shown_by.iter().partition(|id| is_case(id));
    match (cases.is_empty(), rows.is_empty()) {
        (false, true) => cases.join(", "),
        (true, _) => format!("{} (no case yet)", rows.join(", ")),
        (false, false) => format!("{}; {} (no case yet)", cases.join(", "), rows.join(", ")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    schema_version: u32,
    suite: &'static str,
    workloads: &'a [super::Judged],
    findings: Vec<One<'a>>,
    musts: usize,
    shoulds: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    row: &'static str,
    rule: &'static str,
    level: Level,
    file: &'a str,
    line: Option<usize>,
    object: &'a str,
    field: &'a str,
    expected: &'static str,
    found: &'a str,
    shown_by: Vec<Shown>,
    traps: &'static [&'static str],
}

#[derive(Serialize)]
struct Shown {
    id: &'static str,
    /// Whether it is a case now; else it is a row of the catalogue.
    case: bool,
}

/// The same for programs.
///
/// # Errors
/// Never: everything in it can be written as JSON.
pub fn json(lint: &Lint, is_case: &dyn Fn(&str) -> bool) -> serde_json::Result<String> {
    let one = |finding| one(finding, is_case);
    let findings = lint.findings.iter().map(one);
    serde_json::to_string_pretty(&Whole {
        schema_version: SCHEMA_VERSION,
        suite: env!("CARGO_PKG_VERSION"),
        workloads: &lint.workloads,
        findings: findings.collect(),
        musts: lint.count(Level::Must),
        shoulds: lint.count(Level::Should),
    })
}

fn one<'a>(finding: &'a Finding, is_case: &dyn Fn(&str) -> bool) -> One<'a> {
    let (rule, flaw) = (finding.rule, &finding.flaw);
    One {
        row: rule.row,
        rule: rule.name,
        level: rule.level,
        file: &flaw.file,
        line: flaw.line,
        object: &flaw.object,
        field: &flaw.field,
        expected: rule.requirement,
        found: &flaw.found,
        shown_by: rule.shown_by.iter().map(|id| Shown { id, case: is_case(id) }).collect(),
        traps: rule.traps,
    }
}
