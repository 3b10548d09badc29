//! Rules about the password, where it stands and how it is handed on, and about values that were never filled in.

use super::field::{Field, Object};
use super::program::Text;
use super::words::{REDIS_CLI, pattern};
use super::workload::{Deployment, Workload};
use super::{Flaw, Rule};
use crate::case::Level;
use crate::manifest::redact::is_placeholder;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "K8S-02",
        name: "placeholders",
        level: Level::Must,
        requirement: "Placeholders for passwords, images and storage classes MUST be replaced.",
        shown_by: &["BOOT-01", "AUTH-02"],
        traps: &["T-13", "T-17", "T-45"],
        check: placeholders,
    },
    Rule {
        row: "AUTH-11",
        name: "password-in-secret",
        level: Level::Should,
        requirement: "The password SHOULD come from a Secret, and stand in no ConfigMap, pod specification or argument.",
        shown_by: &["BOOT-20", "AUTH-15"],
        traps: &["T-13", "T-16"],
        check: plain_text,
    },
    Rule {
        row: "AUTH-12",
        name: "password-quoted",
        level: Level::Must,
        requirement: "A password of any characters MUST be the same to server, bootstrap and client: no shell may split or expand it.",
        shown_by: &["AUTH-12", "AUTH-13"],
        traps: &["T-14", "T-15"],
        check: unquoted,
    },
];

/// Whether a value is a template that nothing has filled in.
fn is_template(value: &str) -> bool {
    value.contains("{{")
        || value.contains("${")
        || (value.starts_with("__") && value.ends_with("__") && value.len() > 4)
}

fn unfilled(field: &Field<'_>, what: &str) -> Option<Flaw> {
    let value = field.text()?;
    if is_placeholder(value) {
        Some(Flaw::at(field, format!("{what} is a placeholder")))
    } else if is_template(value) {
        Some(Flaw::at(
            field,
            format!("{what} is a template that nothing has filled in"),
        ))
    } else {
        None
    }
}

/// Whether a name is one of a password.
fn is_of_a_password(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let asks = ["enabled", "allow_empty", "file", "path", "name", "secret_key"]
        .iter()
        .any(|other| name.contains(other));
    !asks
        && [
            "password",
            "passwd",
            "requirepass",
            "masterauth",
            "redis_pass",
            "cli_auth",
        ]
        .iter()
        .any(|word| name.contains(word))
}

fn placeholders<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    flaws.extend(unfilled(&workload.container.at("image"), "the image"));
    for claim in workload.object.at("spec/volumeClaimTemplates").items() {
        let class = claim.at("spec/storageClassName");
        flaws.extend(unfilled(
            &class,
            &format!("the storage class {}", class.text().unwrap_or_default()),
        ));
    }
    for variable in workload.container.at("env").items() {
        if is_of_a_password(variable.at("name").text().unwrap_or_default())
            && !is_template(variable.at("value").text().unwrap_or_default())
        {
            flaws.extend(unfilled(&variable.at("value"), "the password"));
        }
    }
    for secret in secrets(deployment, workload) {
        for (key, field) in secret.at("stringData").entries() {
            if is_of_a_password(key) || key == "auth" {
                flaws.extend(unfilled(&field, "the password"));
            }
        }
        for (key, field) in secret.at("data").entries() {
            let decoded = serde_json::from_value::<k8s_openapi::ByteString>(field.value().clone());
            let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes.0).ok());
            if (is_of_a_password(key) || key == "auth") && text.is_some_and(|text| is_placeholder(&text)) {
                flaws.push(Flaw::at(&field, "the password is a placeholder"));
            }
        }
    }
    for directive in &workload.configuration.directives {
        if is_secret(&directive.name) && is_placeholder(&directive.value()) {
            flaws.push(Flaw::in_text(
                &directive.text,
                directive.line,
                &directive.name,
                format!("{} is a placeholder", directive.name),
            ));
        }
    }
    flaws.extend(in_scripts(workload));
    flaws
}

/// Placeholders that scripts are called with, or hand to the client.
fn in_scripts(workload: &Workload<'_>) -> Vec<Flaw> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(-a[ \t]+|--pass[ \t]+|\\.sh[ \t]+(?:[^;&|]*[ \t])?)[\"']?(PASSWORD|YOUR[-_]?PASSWORD|changeme|CHANGEME|change-me)[\"']?([ \t;&|]|$)",
        )
    });
    let mut flaws = Vec::new();
    for program in [&workload.start, &workload.post_start, &workload.pre_stop] {
        for text in program.shell() {
            for (line, code) in text.lines() {
                if let Some(found) = WORD.captures(code) {
                    flaws.push(Flaw::in_text(
                        text,
                        line,
                        &found[2],
                        "a script is called with a placeholder for the password",
                    ));
                }
            }
        }
    }
    flaws
}

/// The Secrets that the workload's pods take something from.
fn secrets<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Object<'a>> {
    let container = &workload.container;
    let mut names: Vec<&str> = Vec::new();
    names.extend(
        container
            .at("env")
            .items()
            .iter()
            .filter_map(|variable| variable.at("valueFrom/secretKeyRef/name").text()),
    );
    names.extend(
        container
            .at("envFrom")
            .items()
            .iter()
            .filter_map(|source| source.at("secretRef/name").text()),
    );
    let volumes = workload.pod.at("volumes").items();
    names.extend(
        volumes
            .iter()
            .filter_map(|volume| volume.at("secret/secretName").text()),
    );
    let projected = volumes.iter().flat_map(|volume| volume.at("projected/sources").items());
    names.extend(projected.filter_map(|source| source.at("secret/name").text()));
    deployment
        .of_kind("Secret", workload)
        .filter(|object| names.contains(&object.document.name()))
        .collect()
}

fn is_secret(directive: &str) -> bool {
    directive == "requirepass" || directive == "masterauth"
}

fn plain_text<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for directive in workload
        .configuration
        .directives
        .iter()
        .filter(|directive| is_secret(&directive.name))
    {
        let at = |found: String| Flaw::in_text(&directive.text, directive.line, &directive.name, found);
        let empty = directive.value().is_empty();
        if directive.option && !empty && !directive.text.text.contains("#!") {
            flaws.push(at(format!(
                "--{}: the password is among the process's arguments",
                directive.name
            )));
        } else if !directive.option && !empty && !directive.is_open() {
            let map = directive.text.field.object.document.to_string();
            flaws.push(at(format!("{} in plain text in {map}", directive.name)));
        }
    }
    for variable in workload.container.at("env").items() {
        let name = variable.at("name").text().unwrap_or_default();
        let value = variable.at("value").text().unwrap_or_default();
        if is_of_a_password(name)
            && !value.is_empty()
            && !value.starts_with('/')
            && !value.contains("$(")
            && !["yes", "no", "true", "false"].contains(&value)
        {
            flaws.push(Flaw::at(
                &variable.at("value"),
                format!("{name} in plain text in the pod's specification"),
            ));
        }
    }
    flaws.extend(in_arguments(deployment, workload));
    flaws
}

/// The first line of each text that hands a password to the client, or to a script, as an argument: of the servers'
/// own, and of Jobs that form the cluster.
fn in_arguments<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static OPTION: LazyLock<Regex> = LazyLock::new(|| pattern("[ \t](-a|--pass)[ \t=]+[^ \t-]"));
    static TO_SCRIPT: LazyLock<Regex> =
        LazyLock::new(|| pattern("\\.sh[ \t]+[\"']?(PASSWORD|\\$\\{?[A-Z_]*(PASSWORD|PASSWD)[A-Z_]*\\}?)[\"']?"));
    let ways = ["startupProbe", "livenessProbe", "readinessProbe"];
    let probes = ways.map(|way| workload.program(way));
    let programs = [&workload.start, &workload.post_start, &workload.pre_stop];
    let mut flaws: Vec<Flaw> = Vec::new();
    let jobs = deployment.jobs_beside(workload);
    for program in programs.into_iter().chain(&probes).chain(jobs) {
        let mut told: Vec<*const str> = Vec::new();
        for (text, line, command) in program.commands() {
            let by_option = REDIS_CLI.is_match(&command) && OPTION.is_match(&command);
            let (words, found) = if by_option {
                (
                    "-cli",
                    "the password is an argument of redis-cli, which every process list shows; REDISCLI_AUTH is none",
                )
            } else if TO_SCRIPT.is_match(&command) {
                (
                    ".sh",
                    "the password is an argument of the script, which every process list shows",
                )
            } else {
                continue;
            };
            let whole: *const str = text.text;
            if !told.contains(&whole) {
                told.push(whole);
                flaws.push(Flaw::in_text(text, line, words, found));
            }
        }
    }
    flaws
}

fn unquoted<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static BARE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "[ \t](-a|--pass|--requirepass|--masterauth|requirepass|masterauth)[ \t]+\\$\\{?([A-Za-z_0-9]+)\\}?([ \t;&|)`\"]|$)",
        )
    });
    let ways = ["startupProbe", "livenessProbe", "readinessProbe"];
    let mut programs = vec![
        workload.start.clone(),
        workload.post_start.clone(),
        workload.pre_stop.clone(),
    ];
    programs.extend(ways.map(|way| workload.program(way)));
    let mut flaws = Vec::new();
    for program in &programs {
        for text in program.shell() {
            flaws.extend(bare(text, &BARE));
            flaws.extend(pasted(text, workload));
        }
    }
    flaws
}

/// The first line of a text on which a shell splits the password at blanks.
fn bare(text: &Text<'_>, what: &Regex) -> Option<Flaw> {
    let (line, name) = text.lines().find_map(|(line, code)| {
        // echo and printf to a file are read by redis.conf's own rules; only a command's words are split.
        let command = REDIS_CLI.is_match(code) || super::words::REDIS_SERVER.is_match(code);
        Some((line, what.captures(code).filter(|_| command)?[2].to_owned()))
    })?;
    let found = format!(
        "${name} stands without quotes: the shell splits it at blanks and expands * in it, and an empty one swallows the next word"
    );
    Some(Flaw::in_text(text, line, &name, found))
}

/// Where Kubernetes itself writes the password into a shell's text: `$(NAME)` of a variable from a Secret.
fn pasted(text: &Text<'_>, workload: &Workload<'_>) -> Option<Flaw> {
    // Only the container's own command and args are expanded.
    let own = workload
        .start
        .words
        .iter()
        .any(|word| std::ptr::eq(word.text, text.text));
    let variables = workload.container.at("env").items().into_iter().filter(|_| own);
    let secret = variables.filter(|variable| variable.at("valueFrom/secretKeyRef").is_there());
    let names: Vec<&str> = secret.filter_map(|variable| variable.at("name").text()).collect();
    text.lines().find_map(|(line, code)| {
        let name = names
            .iter()
            .find(|name| code.contains(&format!("$({name})")) && !code.contains(&format!("$$({name})")))?;
        let found = format!(
            "$({name}) writes the password into the shell's text, which then reads its quotes and dollars as its own"
        );
        Some(Flaw::in_text(text, line, name, found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::Lint;
    use crate::manifest::Manifest;
    use rstest::rstest;

    const GOOD: &str = include_str!("tests/good.yaml");

    #[rstest]
    #[case::option("[redis-cli, -a, s3cret, --cluster, create, \"store-0:6379\"]", 1)]
    #[case::variable("[sh, -c, 'redis-cli -a \"$WORD\" --cluster create store-0:6379']", 1)]
    #[case::from_the_environment("[redis-cli, --cluster, create, \"store-0:6379\"]", 0)]
    #[case::of_something_else("[redis-cli, -a, s3cret, ping]", 0)]
    fn a_job_that_forms_the_cluster_takes_no_password_as_an_argument(#[case] args: &str, #[case] count: usize) {
        let spec = format!("{{template: {{spec: {{containers: [{{name: join, image: redis, args: {args}}}]}}}}}}");
        let job = format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: join}}\nspec: {spec}\n");
        let lint = Lint::of(&[Manifest::parse("m.yaml", &format!("{GOOD}\n---\n{job}")).unwrap()]);
        let (found, _) = lint.of_row("AUTH-11", Level::Should);
        assert_eq!(found.len(), count, "{found:?}");
    }
}
