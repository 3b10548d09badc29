//! The programs that hooks, probes and the server's command call: they must be in the image.

use super::program::Program;
use super::words::pattern;
use super::workload::Workload;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What is a program and nothing else where a command begins: no built-in of a shell, no word of a sentence.
const KNOWN: &[&str] = &[
    "awk",
    "base64",
    "bash",
    "cat",
    "chmod",
    "chown",
    "cp",
    "curl",
    "cut",
    "date",
    "dig",
    "egrep",
    "envsubst",
    "find",
    "gawk",
    "getent",
    "gosu",
    "grep",
    "head",
    "hostname",
    "ifconfig",
    "install",
    "ip",
    "jq",
    "keydb-cli",
    "keydb-server",
    "kubectl",
    "ln",
    "mkdir",
    "mktemp",
    "mv",
    "nc",
    "ncat",
    "nslookup",
    "od",
    "openssl",
    "perl",
    "pgrep",
    "pkill",
    "python",
    "python3",
    "redict-cli",
    "redict-server",
    "redis-cli",
    "redis-server",
    "rm",
    "sed",
    "seq",
    "setpriv",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "ss",
    "stat",
    "su-exec",
    "tail",
    "tee",
    "timeout",
    "touch",
    "tr",
    "uniq",
    "valkey-cli",
    "valkey-server",
    "wc",
    "wget",
    "xargs",
    "xxd",
];

/// What comes before a command and is not the command itself.
const BEFORE: &[&str] = &[
    "if", "elif", "while", "until", "then", "do", "else", "exec", "time", "nice", "nohup", "env", "command", "!",
];

/// The programs that a workload's hooks, its probes and its server's command call, each with where; a program that is
/// asked for first (`command -v ip`) is not needed.
pub fn tools(workload: &Workload<'_>) -> BTreeMap<String, String> {
    let ways = [
        "lifecycle/postStart",
        "lifecycle/preStop",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
    ];
    let mut found = BTreeMap::new();
    let hooks = ways.iter().map(|way| (workload.program(way), (*way).to_owned()));
    let is_own_command = workload.container.at("command").is_there();
    let start = Some((workload.start.clone(), "command".to_owned())).filter(|_| is_own_command);
    for (program, way) in hooks.chain(start) {
        for tool in called(&program) {
            found.entry(tool).or_insert_with(|| way.clone());
        }
    }
    found
}

fn called(program: &Program<'_>) -> Vec<String> {
    let mut tools = Vec::new();
    // The first word of a command that no shell reads is a program, whatever its name is.
    if let Some(first) = program.words.first().map(|word| word.text.trim())
        && !first.contains(['$', ' ', '\n'])
    {
        tools.push(first.to_owned());
    }
    for (text, _, command) in program.commands() {
        tools.extend(
            of_command(&command)
                .into_iter()
                .filter(|tool| !is_optional(text.text, tool)),
        );
    }
    tools
}

/// Whether a text asks for a program before it uses it, or has a function of that name.
fn is_optional(text: &str, tool: &str) -> bool {
    let name = regex::escape(tool);
    let asked = pattern(&format!(
        "(command[ \\t]+-v|which|type|hash)[ \\t]+(-[a-z]+[ \\t]+)?{name}([ \\t;)&|>]|$)"
    ));
    let defined = pattern(&format!("(?m)(^|[ \\t;])(function[ \\t]+)?{name}[ \\t]*\\(\\)"));
    asked.is_match(text) || defined.is_match(text)
}

/// The known programs that a line of shell calls.
fn of_command(line: &str) -> Vec<String> {
    static QUOTED: LazyLock<Regex> = LazyLock::new(|| pattern("'[^']*'"));
    static EXPANSION: LazyLock<Regex> = LazyLock::new(|| pattern("\\$\\{[^}]*\\}"));
    static BREAKS: LazyLock<Regex> = LazyLock::new(|| pattern("\\$\\(|<\\(|[;|&(){}`]"));
    static COMMENT: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \\t])#.*$"));
    static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| pattern("^[A-Za-z_][A-Za-z0-9_]*=\\S*$"));
    static DURATION: LazyLock<Regex> = LazyLock::new(|| pattern("^(-\\S+|[0-9.]+[smhd]?|\\$\\S*)$"));
    let plain = QUOTED.replace_all(line, "''");
    let plain = EXPANSION.replace_all(&plain, "$$v");
    let plain = COMMENT.replace(&plain, "");
    let mut found = Vec::new();
    for part in BREAKS.split(&plain) {
        let mut words = part.split_whitespace().map(|word| word.trim_matches('"')).peekable();
        while let Some(word) = words.next() {
            if BEFORE.contains(&word) || ASSIGNMENT.is_match(word) {
                continue;
            }
            let name = word.rsplit('/').next().unwrap_or(word);
            let is_program = KNOWN.contains(&name) && (name == word || word.starts_with('/'));
            // `{ip = $1}` is awk's.
            let is_assigned = words.peek().is_some_and(|next| next.starts_with('='));
            if !is_program || is_assigned {
                break;
            }
            found.push(word.to_owned());
            if name != "timeout" && name != "xargs" {
                break;
            }
            // What it runs is a program as well.
            while words.peek().is_some_and(|word| DURATION.is_match(word)) {
                words.next();
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::recognise;
    use crate::manifest::Manifest;
    use rstest::rstest;

    #[rstest]
    #[case("ip=$(timeout 5 /usr/bin/dig +short \"$name\" | tail -n 1)", &["timeout", "/usr/bin/dig", "tail"])]
    #[case("if [ \"$(redis-cli ping)\" = PONG ]; then exec redis-server \"$@\"; fi", &["redis-cli", "redis-server"])]
    #[case("LC_ALL=C sort -u < <(awk '{print; sed}' /x) || sleep 1", &["sort", "awk", "sleep"])]
    #[case("echo use dig or ip # then sed it", &[])]
    #[case("local ip=$1; ip=5; dig_again", &[])]
    #[case("echo \"${ip} ${host}\"; x=${id}", &[])]
    #[case("$3 ~ /myself/ {ip = $1; role = $3}", &[])]
    #[case("while sleep 5; do hostname; done", &["sleep", "hostname"])]
    fn programs_are_told_from_words(#[case] line: &str, #[case] expected: &[&str]) {
        assert_eq!(of_command(line), expected);
    }

    #[rstest]
    #[case("command -v ip >/dev/null && ip addr", true)]
    #[case("ip() { :; }\nip", true)]
    #[case("ip addr", false)]
    fn what_is_asked_for_first_is_not_needed(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_optional(text, "ip"), expected);
    }

    #[test]
    fn the_canonical_deployment_needs_what_its_scripts_call() {
        let manifest = Manifest::parse("m.yaml", include_str!("../../manifests/redis-cluster.yaml")).unwrap();
        let deployment = recognise(&manifest);
        let tools = tools(&deployment.workloads[0]);
        for tool in ["bash", "awk", "dig", "redis-cli", "redis-server", "timeout", "od"] {
            assert!(
                tools.keys().any(|known| known.rsplit('/').next() == Some(tool)),
                "{tool}: {tools:?}"
            );
        }
    }
}
