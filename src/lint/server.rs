//! Rules about the server's configuration: redis.conf in a ConfigMap, and the command's options.

use super::configuration::Directive;
use super::words::pattern;
use super::workload::{Deployment, Workload};
use super::{Flaw, Rule};
use crate::case::Level;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "PERS-01",
        name: "append-only",
        level: Level::Must,
        requirement: "The append-only file MUST be on.",
        shown_by: &["PERS-01", "PERS-04"],
        traps: &[],
        check: append_only,
    },
    Rule {
        row: "PERS-12",
        name: "log-to-stdout",
        level: Level::Should,
        requirement: "The server's log SHOULD go to standard output, and not grow on the data volume.",
        shown_by: &["PERS-12", "OPS-12"],
        traps: &["T-37"],
        check: log,
    },
    Rule {
        row: "AUTH-17",
        name: "protected-mode",
        level: Level::Must,
        requirement: "protected-mode MUST be off only where a password protects.",
        shown_by: &["AUTH-17", "AUTH-01"],
        traps: &["T-44"],
        check: protected_mode,
    },
    Rule {
        row: "NET-12",
        name: "bind-ipv6",
        level: Level::Should,
        requirement: "The server SHOULD be bound so that it can be reached on IPv6 and dual-stack clusters too.",
        shown_by: &["NET-12"],
        traps: &["T-44"],
        check: bind,
    },
];

fn append_only<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static APPEND_ONLY: LazyLock<Regex> = LazyLock::new(|| pattern("appendonly|APPENDONLY|AOF"));
    let configuration = &workload.configuration;
    if !configuration.is_whole {
        return Vec::new();
    }
    match configuration.get("appendonly") {
        Some(directive) if directive.value().eq_ignore_ascii_case("no") => {
            vec![Flaw::in_text(
                &directive.text,
                directive.line,
                "appendonly",
                "appendonly no",
            )]
        }
        None if !workload.mentions(&APPEND_ONLY) => {
            let place = configuration
                .files
                .first()
                .map_or(&workload.start.field, |text| &text.field);
            vec![Flaw::at(
                place,
                "no appendonly, whose default is no: what was acknowledged since the last snapshot is lost with a pod",
            )]
        }
        _ => Vec::new(),
    }
}

fn log<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let Some(directive) = workload.configuration.get("logfile") else {
        return Vec::new();
    };
    let value = directive.value();
    let stdout = value.is_empty() || value.starts_with("/dev/") || value.starts_with("/proc/");
    if stdout || directive.is_open() || !workload.configuration.is_whole {
        return Vec::new();
    }
    let found = format!("logfile {value}: kubectl logs shows nothing of the server, and nothing ever cuts the file");
    vec![Flaw::in_text(&directive.text, directive.line, "logfile", found)]
}

fn protected_mode<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    // A script may write one, too.
    static ACCOUNT: LazyLock<Regex> = LazyLock::new(|| pattern("(?i)user[ \t]+default[ \t].*[>#]"));
    let configuration = &workload.configuration;
    let off = configuration
        .get("protected-mode")
        .filter(|directive| directive.value().eq_ignore_ascii_case("no"));
    let users: Vec<&Directive<'_>> = configuration
        .directives
        .iter()
        .filter(|directive| directive.name == "user")
        .collect();
    // `user default on nopass` lets everybody in.
    let has = |user: &Directive<'_>, word: &str| user.values.iter().any(|value| value == word);
    let open = users.iter().any(|user| has(user, "default") && has(user, "nopass"));
    let accounts =
        workload.container.at("envFrom").is_there() || workload.mentions(&ACCOUNT) || !users.is_empty() && !open;
    match off {
        Some(directive) if configuration.is_whole && !workload.has_password() && !accounts => {
            let found = "protected-mode no, and no password: whoever reaches the port may do anything";
            vec![Flaw::in_text(&directive.text, directive.line, "protected-mode", found)]
        }
        _ => Vec::new(),
    }
}

fn bind<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let Some(directive) = workload.configuration.get("bind") else {
        return Vec::new();
    };
    let only_ipv4 = directive
        .values
        .iter()
        .all(|address| address.trim_start_matches('-').parse::<std::net::Ipv4Addr>().is_ok());
    if !only_ipv4 || directive.values.is_empty() || !workload.configuration.is_whole {
        return Vec::new();
    }
    vec![Flaw::in_text(
        &directive.text,
        directive.line,
        "bind",
        format!("bind {}: IPv4 only", directive.value()),
    )]
}
