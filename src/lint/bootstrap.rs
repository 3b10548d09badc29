//! Rules about what forms the cluster: postStart hooks and Jobs, and the scripts that they call.

use super::program::{Program, Text};
use super::words::{CREATE, REDIS_CLI, creates, pattern};
use super::workload::{Deployment, Workload};
use super::{Flaw, Rule};
use crate::case::Level;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "BOOT-07",
        name: "unattended",
        level: Level::Must,
        requirement: "The bootstrap MUST need nobody to type yes.",
        shown_by: &["BOOT-07"],
        traps: &[],
        check: unattended,
    },
    Rule {
        row: "BOOT-09",
        name: "visible-failure",
        level: Level::Must,
        requirement: "A bootstrap that fails MUST end in failure: nothing may hide its exit code.",
        shown_by: &["BOOT-09", "BOOT-20"],
        traps: &["T-01"],
        check: hidden_failure,
    },
    Rule {
        row: "BOOT-10",
        name: "waits-for-peers",
        level: Level::Must,
        requirement: "The bootstrap MUST ask each peer again until it answers: servers start at the same time and may load for long.",
        shown_by: &["BOOT-10", "BOOT-03"],
        traps: &["T-02", "T-06"],
        check: single_attempt,
    },
    Rule {
        row: "BOOT-11",
        name: "own-name",
        level: Level::Must,
        requirement: "A postStart hook MUST NOT resolve its own pod's DNS name, which is there only after the hook has ended.",
        shown_by: &["BOOT-01", "BOOT-03"],
        traps: &["T-09"],
        check: own_name,
    },
    Rule {
        row: "BOOT-12",
        name: "search-path",
        level: Level::Must,
        requirement: "The bootstrap MUST work whatever the pod's search domains are, and with another cluster domain than cluster.local.",
        shown_by: &["BOOT-12"],
        traps: &["T-04", "T-05", "T-07"],
        check: search_path,
    },
    Rule {
        row: "BOOT-13",
        name: "own-address",
        level: Level::Must,
        requirement: "The bootstrap MUST use the address that Kubernetes has assigned, not one that it reads from the interfaces.",
        shown_by: &["BOOT-13", "BOOT-03"],
        traps: &["T-03", "T-49"],
        check: own_address,
    },
    Rule {
        row: "BOOT-14",
        name: "bounded",
        level: Level::Must,
        requirement: "The bootstrap MUST end in bounded time: redis-cli --cluster create waits for ever for nodes that do not join.",
        shown_by: &["BOOT-14"],
        traps: &["T-31"],
        check: unbounded,
    },
    Rule {
        row: "BOOT-18",
        name: "hard-coded-names",
        level: Level::Should,
        requirement: "The bootstrap SHOULD work for any name of the workload and any number of pods.",
        shown_by: &["OPS-05"],
        traps: &["T-18", "T-19"],
        check: hard_coded,
    },
    Rule {
        row: "AUTH-19",
        name: "exit-codes",
        level: Level::Must,
        requirement: "Scripts MUST look at replies: redis-cli exits with 0 on an error reply.",
        shown_by: &["AUTH-19"],
        traps: &["T-08"],
        check: exit_codes,
    },
    Rule {
        row: "AUTH-14",
        name: "every-node-the-same",
        level: Level::Must,
        requirement: "All nodes MUST get the same password: a command through a Service reaches one of them.",
        shown_by: &["AUTH-14"],
        traps: &["T-10"],
        check: through_a_service,
    },
    Rule {
        row: "OPS-12",
        name: "bootstrap-log",
        level: Level::Must,
        requirement: "The bootstrap's log MUST be reachable after the container has gone: in kubectl logs, or an event.",
        shown_by: &["BOOT-09"],
        traps: &["T-47"],
        check: log,
    },
    Rule {
        row: "K8S-24",
        name: "namespace-neutral",
        level: Level::Must,
        requirement: "The manifest MUST work in any namespace.",
        shown_by: &["BOOT-03"],
        traps: &["T-46"],
        check: namespace,
    },
];

/// The places in the bootstraps where a cluster is created.
fn creations<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<(Program<'a>, Text<'a>, usize, String)> {
    let mut found = Vec::new();
    for program in deployment.bootstraps(workload) {
        for (text, line, command) in program.commands() {
            if creates(&command).is_some() {
                found.push((program.clone(), text.clone(), line, command));
            }
        }
    }
    found
}

fn unattended<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static ANSWERED: LazyLock<Regex> = LazyLock::new(|| pattern("--cluster-yes|yes|<<<|expect"));
    let asks = creations(deployment, workload)
        .into_iter()
        .filter(|(.., command)| !ANSWERED.is_match(command));
    asks.map(|(_, text, line, _)| {
        Flaw::in_text(
            &text,
            line,
            "create",
            "create asks before it begins, and neither --cluster-yes nor a \"yes\" answers",
        )
    })
    .collect()
}

fn hidden_failure<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static HIDDEN: LazyLock<Regex> = LazyLock::new(|| {
        pattern("\\|\\|[ \t]*(true|:|echo|printf|exit[ \t]+0)([ \t;]|$)|;[ \t]*(true|exit[ \t]+0)[ \t]*;?$")
    });
    static FAILS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "exit[ \t]+([1-9]|[\"']?\\$)|(^|[ \t;|&{(])exit[ \t]*($|[;)}])|set[ \t]+-[a-z]*e|errexit|return[ \t]+([1-9]|[\"']?\\$)|(^|[ \t;])kill[ \t]",
        )
    });
    // `sh -e`, also where it is asked for in the script's first line.
    static SHELL_FAILS: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(^|[ \t/#!;&|(])(ba|da|k|a)?sh([ \t]+-[a-zA-Z-]+)*[ \t]+-[a-zA-Z]*e[a-zA-Z]*([ \t]|$)")
    });
    static WAITS: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \t;])wait([ \t;]|$)"));
    static PIPED: LazyLock<Regex> = LazyLock::new(|| pattern("[^|]\\|&?[ \t]*(tee|cat|ts|logger)([ \t]|$)"));
    static LOOKED_AT: LazyLock<Regex> =
        LazyLock::new(|| pattern("pipefail|PIPESTATUS|pipestatus|cluster[ \t_]+(info|check|state|nodes)"));
    static QUIET_END: LazyLock<Regex> = LazyLock::new(|| pattern("^(echo|printf|true|:|exit[ \t]+0)([ \t;]|$)"));
    static BEHIND: LazyLock<Regex> = LazyLock::new(|| pattern("[^&>]&[ \t]*(;|$|fi)"));
    let mut flaws = Vec::new();
    for (program, text, line, command) in creations(deployment, workload) {
        // Up to where the whole command's own end is.
        if let Some(hidden) = HIDDEN
            .find(&command)
            .filter(|hidden| hidden.start() > creates(&command).unwrap_or(0))
        {
            let found = format!("what follows create hides its failure: {}", hidden.as_str().trim());
            flaws.push(Flaw::in_text(&text, line, "create", found));
        }
        if let (Some(at), Some(piped)) = (creates(&command), PIPED.find(&command)) {
            let read_later = text
                .lines()
                .any(|(number, code)| number > line && code.contains("grep"));
            let captured = command[..at].contains(['`', '(']);
            if piped.start() > at && !captured && !read_later && !program.has(&LOOKED_AT) {
                flaws.push(Flaw::in_text(
                    &text,
                    line,
                    "create",
                    "the exit code is that of what create is piped to, and no pipefail makes it create's",
                ));
            }
        }
        let mut first_lines = program.texts().filter_map(|text| text.text.lines().next());
        let fails = program.texts().any(|text| text.has(&FAILS))
            || program
                .commands()
                .iter()
                .any(|(_, _, command)| SHELL_FAILS.is_match(command))
            || first_lines.any(|first| first.starts_with("#!") && SHELL_FAILS.is_match(first));
        let last = text.commands().last().cloned();
        if let Some((end, last)) = last.filter(|(end, last)| !fails && *end > line && QUIET_END.is_match(last)) {
            flaws.push(Flaw::in_text(
                &text,
                end,
                &last,
                "the script's last command always succeeds, and no other ends it: its exit code is 0 whatever happened",
            ));
        }
        if program.field.name().contains("postStart") && !program.has(&WAITS) {
            for (caller, line, command) in program.commands() {
                let calls = command.contains(".sh") || creates(&command).is_some();
                if calls && BEHIND.is_match(&command) {
                    flaws.push(Flaw::in_text(
                        caller,
                        line,
                        "&",
                        "the hook goes on without waiting for the bootstrap: it succeeds whatever comes of that",
                    ));
                }
            }
        }
    }
    flaws
}

fn single_attempt<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static LOOP: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(^|[ \t;])(until|while|wait-for|retry|timeout[ \t]+[0-9]+[ \t]+bash)([ \t]|$)|nc[ \t]+-z|wait4x|kubectl[ \t]+wait|rollout[ \t]+status",
        )
    });
    // A `for` may only put a list together.
    static FOR: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \t;])for[ \t]"));
    static ASKS: LazyLock<Regex> =
        LazyLock::new(|| pattern("(^|[^a-z])(sleep|ping|PING|nc|wait|dig|getent|nslookup|curl|tcp)([^a-z]|$)"));
    let waits =
        |program: &Program<'_>| program.has(&LOOP) || program.texts().any(|text| text.has(&FOR) && text.has(&ASKS));
    // What runs in a Job's pod before.
    let before = |program: &Program<'a>| {
        let earlier = deployment.initial(program.field.object);
        earlier
            .iter()
            .any(|other| !other.in_sight || !other.is_there() || waits(other))
    };
    // A Job's pods are made anew when they fail, six times where it does not say how often.
    let is_retried = |program: &Program<'_>| {
        let object = program.field.object;
        object.is("Job") && object.at("spec/backoffLimit").integer() != Some(0)
    };
    let once = creations(deployment, workload)
        .into_iter()
        .filter(|(program, ..)| program.in_sight && !waits(program) && !is_retried(program) && !before(program));
    once.map(|(_, text, line, _)| {
        Flaw::in_text(
            &text,
            line,
            "create",
            "one attempt: nothing in the bootstrap waits for a peer in a loop",
        )
    })
    .collect()
}

fn own_name<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static LOOKS_UP: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "dig[ \t]|nslookup[ \t]|getent[ \t]|(^|[ \t`(])host[ \t]|ping[ \t]|-cli[ \t].*-h[ \t]|curl[ \t]|nc[ \t]|/dev/tcp/",
        )
    });
    static OWN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(\\$\\(hostname\\)|`hostname`|\\$\\{?HOSTNAME\\}?|\\$\\{?POD_NAME\\}?)\\.[^ \t;\"'`]+|\\$\\(hostname -f\\)|`hostname -f`",
        )
    });
    static GUARD: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(hostname`|hostname\\)|HOSTNAME\\}?|POD_NAME\\}?)\"?[ \t]*==?[ \t]*\"?([a-z0-9-]+)\"?")
    });
    // These ask the name server; what else looks up a name finds the pod's own whole one in /etc/hosts, where the kubelet writes it
    // before the container starts.
    static BY_DNS: LazyLock<Regex> = LazyLock::new(|| pattern("dig[ \t]|nslookup[ \t]|(^|[ \t`(])host[ \t]"));
    let hook = &workload.post_start;
    // The pod that the hook is for, where it names one: then that name is its own.
    let guard = hook
        .texts()
        .flat_map(Text::lines)
        .find_map(|(_, code)| Some(GUARD.captures(code)?[2].to_owned()));
    let mut flaws = Vec::new();
    for text in hook.texts() {
        for (line, code) in text.lines().filter(|(_, code)| LOOKS_UP.is_match(code)) {
            let guarded = guard
                .as_ref()
                .map(|name| format!("{name}."))
                .filter(|name| code.contains(name.as_str()));
            let own = OWN.find(code).map(|own| own.as_str().to_owned()).or(guarded);
            let whole = |own: &String| own.contains("hostname -f") || code.contains(".svc");
            let own = own.filter(|own| BY_DNS.is_match(code) || !whole(own));
            if let Some(own) = own {
                flaws.push(Flaw::in_text(
                    text,
                    line,
                    &own,
                    "looks up the name of its own pod, which has no address before this hook has ended",
                ));
            }
        }
    }
    flaws
}

/// A flaw at the first line of each text of the bootstraps that a pattern fits.
fn first_lines<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>, what: &Regex, found: &str) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for program in deployment.bootstraps(workload) {
        for text in program.shell() {
            let first = text
                .lines()
                .find_map(|(line, code)| Some((line, what.find(code)?.as_str())));
            flaws.extend(first.map(|(line, words)| Flaw::in_text(text, line, words, found)));
        }
    }
    flaws
}

fn search_path<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static LAST: LazyLock<Regex> =
        LazyLock::new(|| pattern("search.*(\\$NF|tail|rev).*resolv\\.conf|resolv\\.conf.*search.*(\\$NF|tail|rev)"));
    static LITERAL: LazyLock<Regex> = LazyLock::new(|| pattern("svc\\.cluster\\.local"));
    let mut flaws = first_lines(
        deployment,
        workload,
        &LAST,
        "takes the last search domain for the cluster's: on many clusters another one follows it",
    );
    if !workload.is_rendered() {
        flaws.extend(first_lines(
            deployment,
            workload,
            &LITERAL,
            "cluster.local is written down: clusters may have another domain",
        ));
    }
    flaws
}

fn own_address<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static INTERFACES: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(^|[ \t`(/])(ip[ \t]+(-[0-9a-z]+[ \t]+)*a(ddr|ddress)?([ \t|`)]|$)|ifconfig([ \t|`)]|$))")
    });
    let found = "takes one of the interfaces' addresses for the pod's: it may be link-local, or of another network";
    first_lines(deployment, workload, &INTERFACES, found)
}

fn unbounded<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static LIMIT: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \t;/`(])timeout[ \t]"));
    // A script that is called, by a shell or by itself.
    static CALL: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(^|[ \t;/`(])timeout[ \t]([^;|&]*[ \t])?(\\S*\\.sh|(ba|da|k|a)?sh[ \t]+[\"']?[/$.])")
    });
    // A function that a shell is called for.
    static FUNCTION: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(^|[ \t;/`(])timeout[ \t][^;|&]*sh[ \t]+-[a-z]*c[ \t]+[\"']?([A-Za-z_][A-Za-z0-9_]*)")
    });
    static WHOLE: LazyLock<Regex> = LazyLock::new(|| pattern("^([a-z/]*/)?timeout[ \t]"));
    let mut flaws = Vec::new();
    for (program, text, line, command) in creations(deployment, workload) {
        let before = creates(&command).map_or("", |at| &command[..at]);
        let called = program.texts().filter(|other| !std::ptr::eq(other.text, text.text));
        let limited_call = called
            .flat_map(|other| other.commands())
            .any(|(_, call)| CALL.is_match(&call));
        let is_function =
            |name: &str| text.text.contains(&format!("{name}()")) || text.text.contains(&format!("function {name}"));
        let mut calls = text.commands().into_iter();
        let limited_function =
            calls.any(|(_, call)| FUNCTION.captures(&call).is_some_and(|found| is_function(&found[2])));
        // Each word by itself: [timeout, "300", sh, -c, …].
        let whole = program
            .commands()
            .first()
            .is_some_and(|(_, _, words)| WHOLE.is_match(words));
        let limited_call = limited_call || limited_function || whole;
        let object = program.field.object;
        let deadline = object.at("spec/activeDeadlineSeconds").is_there()
            || object.at("spec/template/spec/activeDeadlineSeconds").is_there();
        if !LIMIT.is_match(before) && !limited_call && !deadline {
            flaws.push(Flaw::in_text(
                &text,
                line,
                "create",
                "no timeout around it: with a bus port blocked it never ends, and the pod stays ContainerCreating",
            ));
        }
    }
    flaws
}

fn hard_coded<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    if workload.is_rendered() || !workload.is("StatefulSet") {
        return Vec::new();
    }
    let name = regex::escape(workload.object.document.name());
    let pod = pattern(&format!("(^|[^A-Za-z0-9-]){name}-[0-9$]"));
    let mut flaws = Vec::new();
    for program in deployment.bootstraps(workload) {
        for text in program.shell() {
            let lines: Vec<(usize, &str)> = text.lines().filter(|(_, code)| pod.is_match(code)).collect();
            let Some((line, code)) = lines.first() else {
                continue;
            };
            let words = pod.find(code).map_or("", |found| found.as_str().trim());
            let more = match lines.len() {
                1 => String::new(),
                lines => format!(", on {lines} lines"),
            };
            let found = format!(
                "the name of the workload is written down{more}: another name, or more pods, and they are not found"
            );
            flaws.push(Flaw::in_text(text, *line, words, found));
        }
    }
    flaws
}

fn exit_codes<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    // A client call outside $(…) and backquotes, piped nowhere, that && or a loop judges by its exit code.
    static JUDGED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(^|[ \t;/])(redis|valkey|keydb|redict)-cli[ \t]([^|;`&]*[ \t])?(config[ \t]+set|CONFIG[ \t]+SET|ping|PING|auth|AUTH)([ \t>]([^|;`)&]|>&[0-9])*)?&&|(^|[ \t;])(if|until|while)[ \t]+(![ \t]+)?(timeout[ \t]+[0-9a-z]+[ \t]+)?([a-z/]*/)?(redis|valkey|keydb|redict)-cli[ \t]([^|`)]*[ \t])?(ping|PING)([ \t>][^|`)]*)?(;|$)",
        )
    });
    static OWN_CHECK: LazyLock<Regex> = LazyLock::new(|| pattern("[ \t]-e[ \t]|\\$\\(|>.*&&.*grep[ \t]"));
    let mut flaws = Vec::new();
    let mut programs = deployment.bootstraps(workload);
    programs.push(workload.start.clone());
    programs.push(workload.pre_stop.clone());
    for program in programs {
        for text in program.shell() {
            // Of --cluster the exit code is right.
            let by_code = |command: &str| {
                JUDGED
                    .find_iter(command)
                    .any(|call| !call.as_str().contains("--cluster "))
            };
            let judged =
                |command: &str| REDIS_CLI.is_match(command) && by_code(command) && !OWN_CHECK.is_match(command);
            for (line, _) in text.commands().into_iter().filter(|(_, command)| judged(command)) {
                flaws.push(Flaw::in_text(
                    text,
                    line,
                    "-cli",
                    "goes by the exit code of redis-cli, which is 0 also for NOAUTH and LOADING",
                ));
            }
        }
    }
    flaws
}

fn through_a_service<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static SETS: LazyLock<Regex> = LazyLock::new(|| {
        pattern("-cli[ \t].*-h[ \t]+[\"']?([a-z0-9-]+)[\"'. \t].*(?i:config[ \t]+set)[ \t]+(requirepass|masterauth)")
    });
    let services = deployment.services(workload);
    let balanced = |name: &str| {
        services
            .iter()
            .any(|service| service.document.name() == name && !service.at("spec/clusterIP").is("None"))
    };
    let mut flaws = Vec::new();
    for program in deployment.bootstraps(workload) {
        for text in program.shell() {
            let sets = |(line, code): (usize, &str)| {
                SETS.captures(code)
                    .filter(|found| balanced(&found[1]))
                    .map(|found| (line, found[1].to_owned()))
            };
            if let Some((line, name)) = text.lines().find_map(sets) {
                let found = format!(
                    "sets the password through Service/{name}: on one node of {}, whichever it is",
                    workload.replicas()
                );
                flaws.push(Flaw::in_text(text, line, "-cli", found));
            }
        }
    }
    flaws
}

fn log<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static TO_FILE: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(1?>>?|&>)[ \t]*/(tmp|var|data|opt)/[^ \t;&|]+[ \t]+2>&1|&>>?[ \t]*/(tmp|var|data|opt)/")
    });
    static TO_LOG: LazyLock<Regex> = LazyLock::new(|| pattern("/proc/1/fd/[12]|/dev/termination-log|kubectl|curl"));
    let hook = &workload.post_start;
    if !hook.has(&CREATE) || hook.has(&TO_LOG) {
        return Vec::new();
    }
    let to_file = hook.texts().find_map(|text| {
        let (line, words) = text
            .lines()
            .find_map(|(line, code)| Some((line, TO_FILE.find(code)?.as_str())))?;
        let found =
            format!("all that the bootstrap says goes to a file in the container ({words}), and with it when it ends");
        Some(Flaw::in_text(text, line, words, found))
    });
    to_file.into_iter().collect()
}

fn namespace<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static LITERAL: LazyLock<Regex> = LazyLock::new(|| pattern("([a-z0-9-]+)\\.([a-z][a-z0-9-]*)\\.svc([^a-z0-9]|$)"));
    // An object that names its namespace was made for that one: by a chart, or with it in mind.
    if !workload.object.namespace().is_empty() {
        return Vec::new();
    }
    let mut texts: Vec<Text<'a>> = deployment
        .bootstraps(workload)
        .iter()
        .chain([&workload.start, &workload.pre_stop])
        .flat_map(|program| program.texts().cloned().collect::<Vec<_>>())
        .collect();
    texts.extend(workload.configuration.files.iter().cloned());
    let values = workload
        .container
        .at("env")
        .items()
        .into_iter()
        .filter_map(|variable| Text::of(&variable.at("value")));
    texts.extend(values);
    // What else is named may well be in a namespace of its own.
    let is_own = |service: &str| {
        workload.object.at("spec/serviceName").is(service)
            || deployment
                .of_kind("Service", workload)
                .any(|object| object.document.name() == service)
    };
    let mut flaws = Vec::new();
    for text in &texts {
        let first = text.lines().find_map(|(line, code)| {
            let mut named = LITERAL.captures_iter(code);
            let own = named.find(|found| is_own(&found[1]))?;
            Some((line, own[2].to_owned()))
        });
        if let Some((line, name)) = first {
            let found = format!("the namespace {name} is written down, and the manifest may be applied to any");
            flaws.push(Flaw::in_text(text, line, &name, found));
        }
    }
    flaws
}
