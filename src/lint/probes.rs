//! Rules about probes: what they ask, and what they make of the answer.

use super::field::Field;
use super::program::{Program, Text};
use super::words::{REDIS_CLI, pattern};
use super::workload::{Deployment, Workload};
use super::{Flaw, Rule};
use crate::case::Level;
use crate::cluster::client_program;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "K8S-05",
        name: "readiness-probe",
        level: Level::Must,
        requirement: "A readiness probe MUST exist and ask the server: an authenticated PING that a loading server does not pass.",
        shown_by: &["OPS-02", "OPS-03", "FAIL-23"],
        traps: &["T-23"],
        check: readiness,
    },
    Rule {
        row: "K8S-05",
        name: "readiness-before-bootstrap",
        level: Level::Should,
        requirement: "A readiness probe SHOULD NOT require cluster_state:ok before the bootstrap, for which OrderedReady pods would wait for ever.",
        shown_by: &["BOOT-01"],
        traps: &[],
        check: readiness_before_bootstrap,
    },
    Rule {
        row: "K8S-06",
        name: "liveness-probe",
        level: Level::Should,
        requirement: "A liveness probe SHOULD exist and ask the server with the password: a frozen server still accepts connections.",
        shown_by: &["FAIL-05"],
        traps: &["T-23"],
        check: liveness,
    },
    Rule {
        row: "K8S-07",
        name: "startup-probe",
        level: Level::Should,
        requirement: "A startup probe SHOULD cover the loading of a long append-only file.",
        shown_by: &["PERS-14"],
        traps: &["T-23"],
        check: startup,
    },
    Rule {
        row: "AUTH-16",
        name: "probe-reply",
        level: Level::Must,
        requirement: "Probes MUST look at the reply's text: redis-cli exits with 0 on NOAUTH and LOADING.",
        shown_by: &["AUTH-19"],
        traps: &["T-08"],
        check: reply,
    },
    Rule {
        row: "AUTH-16",
        name: "probe-password",
        level: Level::Must,
        requirement: "Probes MUST authenticate where the servers have a password.",
        shown_by: &["AUTH-01"],
        traps: &[],
        check: password,
    },
];

const KINDS: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

fn missing(workload: &Workload<'_>, kind: &str) -> Option<Flaw> {
    let probe = workload.container.at(kind);
    (!probe.is_there()).then(|| Flaw::at(&probe, format!("{} has no {kind}", workload.container_name())))
}

/// A probe that does not ask the server.
fn asks_nothing(workload: &Workload<'_>, kind: &str) -> Option<Flaw> {
    let probe = workload.container.at(kind);
    let socket = probe.at("tcpSocket");
    if socket.is_there() {
        let found = "tcpSocket: the port is open also while the server loads, and when it is frozen";
        return Some(Flaw::at(&socket, found));
    }
    for way in ["httpGet", "grpc"] {
        // Another port may be that of a program beside the server, which asks it.
        let field = probe.at(way);
        if is_client_port(workload, &field.at("port")) {
            return Some(Flaw::at(&field, format!("{way}: the server does not speak that")));
        }
    }
    blind(&workload.program(kind))
}

fn is_client_port(workload: &Workload<'_>, port: &Field<'_>) -> bool {
    let named = workload.container.at("ports").items();
    let number = port.integer().or_else(|| {
        let name = port.text()?;
        let item = named.iter().find(|item| item.at("name").is(name))?;
        item.at("containerPort").integer()
    });
    number.is_some_and(|number| workload.ports().is_some_and(|(client, _)| client == number))
}

/// A command of which every part is known to ask no server anything; what another program does is not known.
fn blind(program: &Program<'_>) -> Option<Flaw> {
    static BLIND: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "^([a-z/]*/)?((true|:|exit|echo|pgrep|pidof|ps)([ \t][^|;&(`<]*)?|(nc|ncat|netcat)[ \t]([^|;&(`<]*[ \t])?-[a-z]*z[^|;&(`<]*|(ba|da)?sh([ \t]+-[a-z]+)*)(\\|\\|[ \t]*exit([ \t]+[0-9]+)?)?$",
        )
    });
    static ASKS: LazyLock<Regex> = LazyLock::new(|| pattern("(?i)-cli|ping|/dev/tcp"));
    let commands = program.commands();
    let (text, line, command) = commands.last()?;
    let blind = program.in_sight
        && !program.has(&ASKS)
        && commands.iter().all(|(_, _, command)| BLIND.is_match(command.trim()));
    let word = command.split_whitespace().next().unwrap_or_default();
    blind.then(|| Flaw::in_text(text, *line, word, format!("{word}: the server is asked nothing")))
}

fn readiness<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static LOADING: LazyLock<Regex> =
        LazyLock::new(|| pattern("PONG.{0,6}\\|.{0,6}LOADING|LOADING.{0,6}\\|.{0,6}PONG"));
    let found = missing(workload, "readinessProbe").or_else(|| asks_nothing(workload, "readinessProbe"));
    let found = found.or_else(|| {
        let loading = "readinessProbe takes LOADING for an answer of a server that is ready";
        first(&workload.program("readinessProbe"), &LOADING, loading)
    });
    found.into_iter().collect()
}

fn liveness<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let found = missing(workload, "livenessProbe").or_else(|| asks_nothing(workload, "livenessProbe"));
    found.into_iter().collect()
}

fn startup<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    missing(workload, "startupProbe").into_iter().collect()
}

fn readiness_before_bootstrap<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static STATE: LazyLock<Regex> = LazyLock::new(|| pattern("cluster_state:?[ \t\"']*ok|cluster_state"));
    // A probe that first looks whether there is a cluster yet is none of these.
    static GUARD: LazyLock<Regex> = LazyLock::new(|| pattern("cluster_known_nodes|cluster_size|-f |-e |nodes\\.conf"));
    let one_by_one = workload.is("StatefulSet")
        && workload.replicas() > 1
        && !workload.object.at("spec/podManagementPolicy").is("Parallel");
    let probe = workload.program("readinessProbe");
    if !one_by_one || !probe.in_sight || probe.has(&GUARD) {
        return Vec::new();
    }
    let found = "the probe asks for cluster_state, which is ok only once all pods run; OrderedReady starts the second when the first is ready";
    first(&probe, &STATE, found).into_iter().collect()
}

/// A flaw on the first line of a program that holds it.
fn first(program: &Program<'_>, what: &Regex, found: &str) -> Option<Flaw> {
    program.texts().find_map(|text| {
        let (line, words) = text
            .lines()
            .find_map(|(line, code)| Some((line, what.find(code)?.as_str())))?;
        Some(Flaw::in_text(text, line, words, found))
    })
}

/// The probes that ask with the client, each with the text that does and its line.
fn asking<'p, 'a>(probes: &'p [(&str, Program<'a>)]) -> Vec<(&'p str, &'p Program<'a>, &'p Text<'a>, usize)> {
    let asks = |(kind, program): &'p (&str, Program<'a>)| {
        let (text, line) = program.texts().find_map(|text| {
            let line = text.lines().find(|(_, code)| REDIS_CLI.is_match(code))?.0;
            Some((text, line))
        })?;
        program.in_sight.then_some((*kind, program, text, line))
    };
    probes.iter().filter_map(asks).collect()
}

fn probes<'a>(workload: &Workload<'a>) -> Vec<(&'static str, Program<'a>)> {
    KINDS.iter().map(|kind| (*kind, workload.program(kind))).collect()
}

fn reply<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    // What reads a reply: a pipe, a comparison, the client's own -e, which turns error replies into exit codes.
    static READS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "\\|[ \t]*(grep|egrep|awk|sed|tr|head|tail|cut|tee|xargs|while)|\\[[ \t]|\\[\\[|case[ \t]|test[ \t]|grep[ \t]|<<<|(^|[ \t])-e([ \t]|$)|python|perl|=~|==",
        )
    });
    // Where the client is called by a name of the script's own, what reads may stand anywhere.
    static BY_NAME: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "\\(\\)|(^|[ \t;])(function|alias)[ \t]|python|perl|\\$[@*]|[A-Za-z_]=[\"']?[^ \t\"'$`(]*(redis|valkey|keydb|redict)-cli",
        )
    });
    // Else it is what takes the client's own output: $(…), a pipe or a redirection after it; or the client's own -e.
    static TAKES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(?s)(\\$\\(|`|<\\()[^)`]*-cli|-cli([^|;&\n]|[0-9]>&[0-9])*(;?[ \t\n]*([})]|done)[^|;&\n]*)?\\|&?([^|]|$)|-cli([ \t][^|;&\n]*)?[ \t]-e([ \t\"']|$)",
        )
    });
    static TO_FILE: LazyLock<Regex> = LazyLock::new(|| pattern("-cli[^|;\n]*?[^0-9&>]1?>>?[ \t]*([^ \t;&|]+)"));
    // So may a script that calls the one with the client in it.
    static CAPTURES: LazyLock<Regex> = LazyLock::new(|| pattern("\\$\\(|`|(^|[^|])\\|([^|]|$)"));
    let takes = |command: &str| {
        TAKES.is_match(command) || TO_FILE.captures(command).is_some_and(|found| &found[1] != "/dev/null")
    };
    static ACCEPTS: LazyLock<Regex> = LazyLock::new(|| pattern("PONG.{0,6}\\|.{0,6}NOAUTH|NOAUTH.{0,6}\\|.{0,6}PONG"));
    let probes = probes(workload);
    let mut flaws = Vec::new();
    for (kind, program, text, line) in asking(&probes) {
        let by_caller = program
            .shell()
            .iter()
            .any(|other| !std::ptr::eq(other.text, text.text) && CAPTURES.is_match(other.text));
        let reads = if by_caller || program.has(&BY_NAME) {
            program.texts().any(|text| READS.is_match(text.text))
        } else {
            program.texts().any(|text| takes(text.text))
                || program.commands().iter().any(|(_, _, command)| takes(command))
        };
        if !reads {
            flaws.push(Flaw::in_text(
                text,
                line,
                "-cli",
                format!("{kind} takes the exit code of redis-cli, which is 0 for any reply, also NOAUTH and LOADING"),
            ));
        }
        flaws.extend(first(
            program,
            &ACCEPTS,
            &format!("{kind} takes NOAUTH for an answer of a server that is well"),
        ));
    }
    flaws
}

fn password<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static AUTHENTICATES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(^|[ \t\"'])(-a|--pass|--askpass|-u)([ \t\"'=$]|$)|(REDIS|VALKEY|REDICT)CLI_AUTH|[Aa][Uu][Tt][Hh][ \t]",
        )
    });
    if !workload.has_password() || workload.container.at("envFrom").is_there() {
        return Vec::new();
    }
    let by_environment = client_program::PASSWORDS
        .iter()
        .any(|name| workload.variable(name).is_some());
    if by_environment {
        return Vec::new();
    }
    let probes = probes(workload);
    let asking = asking(&probes).into_iter();
    asking
        .filter(|(_, program, ..)| !program.has(&AUTHENTICATES))
        .map(|(kind, _, text, line)| {
            let found =
                format!("{kind} calls redis-cli with no password: no -a, and no REDISCLI_AUTH in the container");
            Flaw::in_text(text, line, "-cli", found)
        })
        .collect()
}
