//! Rules about what keeps the cluster serving: disruption budgets, spreading, the end of a pod, the order of starts.

use super::field::{Field, selects};
use super::program::Program;
use super::words::pattern;
use super::workload::{Deployment, Workload};
use super::{Flaw, Rule};
use crate::case::Level;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "K8S-08",
        name: "disruption-budget",
        level: Level::Must,
        requirement: "A PodDisruptionBudget that lets one pod go at a time MUST select the servers' pods.",
        shown_by: &["FAIL-14", "FAIL-17"],
        traps: &["T-25"],
        check: budget,
    },
    Rule {
        row: "K8S-09",
        name: "spread",
        level: Level::Must,
        requirement: "The pods MUST be spread over nodes, by anti-affinity or a topology spread constraint.",
        shown_by: &["REPL-12", "REPL-13", "FAIL-14"],
        traps: &["T-20", "T-21"],
        check: spread,
    },
    Rule {
        row: "K8S-09",
        name: "spread-guaranteed",
        level: Level::Should,
        requirement: "Spreading over nodes SHOULD be required, or DoNotSchedule: what is preferred is no guarantee.",
        shown_by: &["REPL-12", "REPL-13"],
        traps: &["T-20"],
        check: spread_guaranteed,
    },
    Rule {
        row: "K8S-10",
        name: "zones",
        level: Level::Should,
        requirement: "Where pods may run in several zones a shard SHOULD span two.",
        shown_by: &["REPL-12", "REPL-13"],
        traps: &[],
        check: zones,
    },
    Rule {
        row: "K8S-12",
        name: "grace-period",
        level: Level::Must,
        requirement: "terminationGracePeriodSeconds MUST exceed the preStop hook and the server's shutdown-timeout together.",
        shown_by: &["FAIL-04", "CONS-06"],
        traps: &["T-41"],
        check: grace,
    },
    Rule {
        row: "K8S-13",
        name: "handover",
        level: Level::Should,
        requirement: "A preStop hook SHOULD fail a master over before it gets SIGTERM.",
        shown_by: &["FAIL-04", "OPS-02"],
        traps: &["T-24"],
        check: handover,
    },
    Rule {
        row: "K8S-20",
        name: "parallel-start",
        level: Level::Should,
        requirement: "podManagementPolicy SHOULD be Parallel: with OrderedReady a pod that is stuck holds up all others after an outage.",
        shown_by: &["OPS-08"],
        traps: &["T-26"],
        check: parallel,
    },
];

/// The least number of pods that a value (a number or a share) stands for, of so many.
fn pods_of(value: &Field<'_>, of: i64) -> Option<i64> {
    if let Some(number) = value.integer() {
        return Some(number);
    }
    let share: i64 = value.text()?.strip_suffix('%')?.parse().ok()?;
    // Kubernetes rounds up, for both fields.
    Some((share * of + 99) / 100)
}

fn budget<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let labels = workload.labels();
    let budgets: Vec<_> = deployment
        .of_kind("PodDisruptionBudget", workload)
        .filter(|object| selects(&object.at("spec/selector"), &labels))
        .collect();
    let Some(first) = budgets.first() else {
        let found = format!(
            "no PodDisruptionBudget selects the pods: a drain may take any {} at once",
            number(workload.replicas())
        );
        return vec![Flaw::at(&workload.object.root(), found)];
    };
    if budgets.len() > 1 {
        let found = "more than one PodDisruptionBudget selects the pods: evictions are then refused";
        return vec![Flaw::at(&budgets[1].at("spec/selector"), found)];
    }
    let (most, least) = (first.at("spec/maxUnavailable"), first.at("spec/minAvailable"));
    let same =
        |other: &&Workload<'_>| other.object.may_meet(*first) && selects(&first.at("spec/selector"), &other.labels());
    let pods: i64 = deployment.workloads.iter().filter(same).map(Workload::replicas).sum();
    let (field, goes) = if most.is_there() {
        (&most, pods_of(&most, pods))
    } else {
        (&least, pods_of(&least, pods).map(|least| pods - least))
    };
    match goes {
        Some(goes) if goes > 1 => vec![Flaw::at(field, format!("{goes} of {pods} pods may be evicted at once"))],
        Some(goes) if goes < 1 && pods > 1 => {
            vec![Flaw::at(field, "no pod may ever be evicted: a drain waits for ever")]
        }
        _ => Vec::new(),
    }
}

fn number(pods: i64) -> String {
    match pods {
        1 => "pod".to_owned(),
        pods => format!("of {pods} pods"),
    }
}

/// A term or constraint that keeps pods of a kind apart.
struct Apart<'a> {
    field: Field<'a>,
    key: &'a str,
    guaranteed: bool,
    /// Where it does not keep the workload's own pods apart: why, and the field that says so.
    idle: Option<(Field<'a>, &'static str)>,
}

impl Apart<'_> {
    fn own(&self) -> bool {
        self.idle.is_none()
    }
}

fn apart<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Apart<'a>> {
    let labels = workload.labels();
    let idle = |term: &Field<'a>| {
        let selector = term.at("labelSelector");
        let others = "the selector does not select the servers' own pods: nothing is spread";
        (!selects(&selector, &labels)).then_some((selector, others))
    };
    // Without a list of its own a term is about the pods' own namespace.
    let elsewhere = |term: &Field<'a>| {
        let (names, own) = (term.at("namespaces"), workload.object.namespace());
        let known = !own.is_empty() && !term.at("namespaceSelector").is_there() && !names.items().is_empty();
        let others = "other namespaces than the servers' own: nothing is spread";
        (known && !names.items().iter().any(|name| name.is(own))).then_some((names, others))
    };
    // Scheduled anyway, they are spread as far as that goes, whatever maxSkew is.
    let loose = |constraint: &Field<'a>| {
        let skew = constraint.at("maxSkew");
        let selector = constraint.at("labelSelector");
        let same =
            |other: &&Workload<'_>| other.object.may_meet(workload.object) && selects(&selector, &other.labels());
        let pods: i64 = deployment.workloads.iter().filter(same).map(Workload::replicas).sum();
        let all = "maxSkew lets all pods be on one node: nothing is spread";
        let is_loose = pods > 1
            && skew.integer().is_some_and(|skew| skew >= pods)
            && !constraint.at("whenUnsatisfiable").is("ScheduleAnyway");
        is_loose.then_some((skew, all))
    };
    let anti = workload.pod.at("affinity/podAntiAffinity");
    let mut found = Vec::new();
    let required = anti.at("requiredDuringSchedulingIgnoredDuringExecution").items();
    let preferred = anti.at("preferredDuringSchedulingIgnoredDuringExecution").items();
    let terms = required
        .into_iter()
        .map(|term| (term, true))
        .chain(preferred.into_iter().map(|term| (term.at("podAffinityTerm"), false)));
    for (term, guaranteed) in terms {
        found.push(Apart {
            key: term.at("topologyKey").text().unwrap_or_default(),
            idle: idle(&term).or_else(|| elsewhere(&term)),
            guaranteed,
            field: term,
        });
    }
    for constraint in workload.pod.at("topologySpreadConstraints").items() {
        found.push(Apart {
            key: constraint.at("topologyKey").text().unwrap_or_default(),
            idle: idle(&constraint).or_else(|| loose(&constraint)),
            guaranteed: !constraint.at("whenUnsatisfiable").is("ScheduleAnyway"),
            field: constraint,
        });
    }
    found
}

fn is_of_a_host(key: &str) -> bool {
    key.ends_with("/hostname") || key == "hostname"
}

fn is_of_a_zone(key: &str) -> bool {
    key.ends_with("/zone") || key.ends_with("/region")
}

/// Where the pods' node is written down.
fn node<'a>(workload: &Workload<'a>) -> Option<Field<'a>> {
    let selected = workload.pod.at("nodeSelector").entries().into_iter();
    let mut hosts = selected.filter(|(key, _)| is_of_a_host(key)).map(|(_, field)| field);
    Some(workload.pod.at("nodeName"))
        .filter(Field::is_there)
        .or_else(|| hosts.next())
}

/// Whether the one pod's node is written down, or left to the host's own ports, of which each node has one.
fn is_placed(workload: &Workload<'_>) -> bool {
    let ports = workload.container.at("ports").items();
    workload.is("DaemonSet")
        || workload.replicas() < 2 && node(workload).is_some()
        || workload.pod.at("hostNetwork").value() == true
        || ports.iter().any(|port| port.at("hostPort").is_there())
}

fn spread<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    if is_placed(workload) {
        return Vec::new();
    }
    if let Some(node) = node(workload) {
        let found = format!("one node is written down for {} pods", workload.replicas());
        return vec![Flaw::at(&node, found)];
    }
    let apart = apart(deployment, workload);
    let of_hosts: Vec<&Apart<'_>> = apart.iter().filter(|term| is_of_a_host(term.key)).collect();
    if of_hosts.iter().any(|term| term.own()) {
        return Vec::new();
    }
    // Another key may be a host's as well: a label of the cluster's own.
    if apart.iter().any(|term| term.own() && !is_of_a_zone(term.key)) {
        return Vec::new();
    }
    match of_hosts.first().and_then(|term| term.idle.as_ref()) {
        Some((field, why)) => vec![Flaw::at(field, *why)],
        None => vec![Flaw::at(
            &workload.pod,
            "neither podAntiAffinity nor topologySpreadConstraints over kubernetes.io/hostname: all pods may be on one node",
        )],
    }
}

fn spread_guaranteed<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let apart = apart(deployment, workload);
    let own: Vec<&Apart<'_>> = apart
        .iter()
        .filter(|term| term.own() && is_of_a_host(term.key))
        .collect();
    match own.first() {
        Some(first) if !is_placed(workload) && !own.iter().any(|term| term.guaranteed) => {
            vec![Flaw::at(
                &first.field,
                "preferred only: on a full or small cluster a master and its replica share a node",
            )]
        }
        _ => Vec::new(),
    }
}

fn zones<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let terms = workload
        .pod
        .at("affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
        .items();
    let expressions = terms.iter().flat_map(|term| term.at("matchExpressions").items());
    let several = expressions
        .filter(|expression| expression.at("key").text().is_some_and(is_of_a_zone))
        .find(|expression| expression.at("operator").is("In") && expression.at("values").items().len() > 1);
    let spread = apart(deployment, workload)
        .iter()
        .any(|term| term.own() && is_of_a_zone(term.key));
    let flaw = several.filter(|_| !spread).map(|expression| {
        Flaw::at(
            &expression,
            "several zones are named, and neither anti-affinity nor a spread constraint is over zones",
        )
    });
    flaw.into_iter().collect()
}

/// The end of a loop.
static DONE: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \t;])done([ \t;|&)]|$)"));

/// The seconds that a hook's `sleep`s take, where they are written as numbers.
fn slept(hook: &Program<'_>) -> i64 {
    static SLEEP: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \t;&|(])sleep[ \t]+([0-9]+)([ \t;&|)]|$)"));
    // A loop that counts: its sleeps come as often, unless it ends early.
    static COUNTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern("for[ \t]+\\w+[ \t]+in[ \t]+(?:\\$\\(|`)?(?:seq[ \t]+(?:1[ \t]+)?|\\{1\\.\\.)([0-9]+)")
    });
    let (mut seconds, mut times) = (0i64, 1i64);
    for (_, _, command) in hook.commands() {
        if let Some(found) = COUNTED.captures(&command) {
            times = found[1].parse().unwrap_or(1);
        }
        for found in SLEEP.captures_iter(&command) {
            let one: i64 = found[2].parse().unwrap_or(0);
            seconds = seconds.saturating_add(one.saturating_mul(times));
        }
        if DONE.is_match(&command) {
            times = 1;
        }
    }
    seconds
}

fn grace<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let field = workload.pod.at("terminationGracePeriodSeconds");
    let grace = field.integer().unwrap_or(30);
    let built_in_sleep = workload
        .container
        .at("lifecycle/preStop/sleep/seconds")
        .integer()
        .unwrap_or(0);
    let hook = slept(&workload.pre_stop) + built_in_sleep;
    let major = super::pod::major_version(workload);
    // Before 7.0 a server waits for no replica when it ends.
    let server = match workload.configuration.number("shutdown-timeout") {
        Some(seconds) => i64::try_from(seconds).unwrap_or(i64::MAX / 2),
        None if major.is_some_and(|major| major < 7) => 0,
        None if workload.mentions(&SHUTDOWN_TIMEOUT) => return Vec::new(),
        None => 10,
    };
    if grace > hook + server {
        return Vec::new();
    }
    let found = format!(
        "{grace} s, of which the preStop hook may take {hook} s and the server's shutdown-timeout {server} s: SIGKILL comes before the end"
    );
    vec![Flaw::at(&field, found)]
}

static SHUTDOWN_TIMEOUT: LazyLock<Regex> = LazyLock::new(|| pattern("shutdown-timeout"));

fn handover<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static FAILOVER: LazyLock<Regex> = LazyLock::new(|| pattern("[Ff][Aa][Ii][Ll][Oo][Vv][Ee][Rr]"));
    let hook = workload.container.at("lifecycle/preStop");
    let by_server = workload.mentions(&SHUTDOWN_ON_SIGTERM);
    if by_server || workload.start.has(&FAILOVER) || !workload.pre_stop.in_sight || workload.pre_stop.has(&FAILOVER) {
        return Vec::new();
    }
    let found = if hook.is_there() {
        "the preStop hook hands no master over: no CLUSTER FAILOVER in it"
    } else {
        "no preStop hook: a master that is stopped is missed only after the node-timeout"
    };
    vec![Flaw::at(&hook, format!("{}: {found}", workload.container_name()))]
}

/// Valkey 9's own way.
static SHUTDOWN_ON_SIGTERM: LazyLock<Regex> = LazyLock::new(|| pattern("shutdown-on-sigterm.*failover"));

fn parallel<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let policy = workload.object.at("spec/podManagementPolicy");
    if !workload.is("StatefulSet") || workload.replicas() < 2 || policy.is("Parallel") {
        return Vec::new();
    }
    let found = match policy.text() {
        Some(named) => named.to_owned(),
        None => "OrderedReady, the default".to_owned(),
    };
    vec![Flaw::at(&policy, found)]
}
