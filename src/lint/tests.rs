mod spoilt;
mod verdicts;

use super::*;
use rstest::rstest;
use spoilt::SPOILT;

const GOOD: &str = include_str!("tests/good.yaml");

fn lint(text: &str) -> Lint {
    Lint::of(&[Manifest::parse("m.yaml", text).unwrap()])
}

/// The rules that find something.
fn names(lint: &Lint) -> Vec<&'static str> {
    let mut names: Vec<&str> = lint.findings.iter().map(|finding| finding.rule.name).collect();
    names.dedup();
    names
}

/// What `spoil` makes of the good deployment: the first occurrence of `from` becomes `to`.
fn spoilt(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good deployment has no {from}");
    GOOD.replacen(from, to, 1)
}

/// The deployments that come with the project; `RCC_UPDATE=1` writes what is kept anew.
#[rstest]
#[case("redis-cluster")]
#[case("hardened")]
#[case("as-published")]
#[case("others/deployments-and-job")]
#[case("others/leaders-and-followers")]
#[case("others/chart-like")]
fn what_the_project_s_own_manifests_miss_is_as_kept(#[case] name: &str) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = format!("manifests/{name}.yaml");
    let text = std::fs::read_to_string(root.join(&file)).unwrap();
    let lint = Lint::of(&[Manifest::parse(&file, &text).unwrap()]);
    let now = report::render(&lint, &|id| crate::cases::find(id).is_some());
    let path = root.join(format!("tests/golden/lint-{}.txt", name.trim_start_matches("others/")));
    if std::env::var_os("RCC_UPDATE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    pretty_assertions::assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), now);
}

/// What a rule rests on must be a row of the catalogue, whether it is a case yet or not.
#[test]
fn every_row_that_a_rule_names_is_in_the_catalogue() {
    let catalogue = include_str!("../../tests/catalogue-ids.csv");
    let rows: BTreeSet<&str> = catalogue.lines().filter_map(|line| line.split(',').next()).collect();
    let named = rules().flat_map(|rule| rule.shown_by.iter().chain([&rule.row]));
    let unknown: Vec<&&str> = named.filter(|row| !rows.contains(**row)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_message_about_the_creation_of_a_cluster_creates_none() {
    assert!(words::creates("echo yes | redis-cli --cluster create $nodes").is_some());
    assert!(words::creates("fail \"redis-cli --cluster create did not end\"").is_none());
}

#[test]
fn a_good_deployment_gives_no_finding() {
    let lint = lint(GOOD);
    assert_eq!(
        report::render(&lint, &|_| true),
        "0 must and 0 should in StatefulSet/store (cluster-enabled yes)\n"
    );
}

#[test]
fn every_rule_finds_what_is_spoilt_at_its_line_and_nothing_else_does() {
    let mut complaints = Vec::new();
    for (rule, from, to, at) in SPOILT {
        let text = spoilt(from, to);
        let lint = lint(&text);
        let lines: Vec<&str> = text.lines().collect();
        let shown: Vec<String> = lint
            .findings
            .iter()
            .map(|finding| {
                let line = finding.flaw.line.unwrap_or(0);
                format!(
                    "{} at {line}: {}",
                    finding.rule.name,
                    lines.get(line.wrapping_sub(1)).unwrap_or(&"?")
                )
            })
            .collect();
        // A name that is written down is one of the harms of a file of addresses, too.
        let of_rule = |name: &str| name == *rule || (*rule == "namespace-neutral" && name == "hard-coded-names");
        let right = !shown.is_empty()
            && names(&lint).iter().all(|name| of_rule(name))
            && shown.iter().any(|shown| shown.contains(at));
        if !right {
            complaints.push(format!("{rule}: {from:?} -> {to:?} gives {shown:?}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A Job is a bootstrap too, each word of its command by itself or not; what makes its pods anew waits for the peers.
#[rstest]
#[case::asks_once("backoffLimit: 0, ", "[redis-cli, --cluster, create, 'store-0:6379']", &["unattended", "waits-for-peers", "bounded"])]
#[case::by_a_shell("backoffLimit: 0, ", "[sh, -c, 'redis-cli --cluster create a:6379']", &["unattended", "waits-for-peers", "bounded"])]
#[case::made_anew("", "[redis-cli, --cluster, create, 'store-0:6379', --cluster-yes]", &["bounded"])]
#[case::in_time("activeDeadlineSeconds: 60, ", "[redis-cli, --cluster, create, 'store-0:6379', --cluster-yes]", &[])]
#[case::of_something_else("backoffLimit: 0, ", "[redis-cli, ping]", &[])]
fn a_job_that_forms_the_cluster_is_a_bootstrap(#[case] spec: &str, #[case] args: &str, #[case] expected: &[&str]) {
    let pod = format!("{{containers: [{{name: join, image: redis, args: {args}}}]}}");
    let job = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: join}}\nspec: {{{spec}template: {{spec: {pod}}}}}\n"
    );
    let lint = lint(&format!("{GOOD}\n---\n{job}"));
    assert_eq!(names(&lint), expected);
}

/// What only shows in another deployment than the good one.
#[rstest]
#[case("readiness-before-bootstrap", &[("podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady"), ("redis-cli ping)\" = PONG ]\n", "redis-cli cluster info | grep -c cluster_state:ok)\" = 1 ]\n")], "grep")]
#[case("protected-mode", &[("    (umask 077; printf 'requirepass \"%s\"\\n' \"$REDIS_PASSWORD\" > /dev/shm/auth.conf)\n", ""), (" --include /dev/shm/auth.conf", ""), ("name: REDIS_PASSWORD", "name: REDIS_WORD"), ("name: REDISCLI_AUTH", "name: REDISCLI_NAME")], "protected-mode no")]
#[case("waits-for-peers", &[("    for peer in $PEERS; do\n        until [ \"$(redis-cli -h \"$peer\" ping)\" = PONG ]; do sleep 1; done\n        addresses+=(\"$peer:6379\")\n    done\n", "    sleep 3\n")], "redis-cli --cluster")]
#[case("visible-failure", &[("    set -e\n", ""), ("--cluster-yes\n", "--cluster-yes\n    echo ok\n")], "echo ok")]
#[case("password-quoted", &[("redis-cli -h \"$peer\" ping)", "redis-cli -a $REDIS_PASSWORD ping)")], "redis-cli -a")]
fn what_takes_two_changes_is_found(#[case] rule: &str, #[case] changes: &[(&str, &str)], #[case] at: &str) {
    let mut text = GOOD.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let lint = lint(&text);
    let line = |finding: &Finding| text.lines().nth(finding.flaw.line.unwrap() - 1).unwrap().to_owned();
    let found = lint
        .findings
        .iter()
        .find(|finding| finding.rule.name == rule && line(finding).contains(at));
    assert!(found.is_some(), "{}", report::render(&lint, &|_| true));
}

#[test]
fn every_rule_has_a_deployment_that_it_finds_fault_with() {
    let two = [
        "readiness-before-bootstrap",
        "protected-mode",
        "waits-for-peers",
        "password-quoted",
    ];
    let without: Vec<&str> = rules()
        .map(|rule| rule.name)
        .filter(|name| !two.contains(name) && !SPOILT.iter().any(|(rule, ..)| rule == name))
        .collect();
    assert_eq!(without, Vec::<&str>::new());
}

#[test]
fn a_rule_s_wording_agrees_with_its_level() {
    for rule in rules() {
        let words: Vec<&str> = rule.requirement.split(|at: char| !at.is_ascii_alphabetic()).collect();
        let found = (words.contains(&"MUST"), words.contains(&"SHOULD"));
        assert_eq!(
            found,
            (rule.level == Level::Must, rule.level == Level::Should),
            "{}",
            rule.requirement
        );
        assert!(
            rule.requirement.ends_with('.') && !rule.shown_by.is_empty(),
            "{}",
            rule.name
        );
    }
    let names: BTreeSet<&str> = rules().map(|rule| rule.name).collect();
    assert_eq!(names.len(), rules().count());
}

/// Other people's ways to write a Redis Cluster.
#[rstest]
// Six Deployments of one pod each, options as arguments of the image's own program.
#[case("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: r1}\nspec:\n  template:\n    spec:\n      containers:\n      - name: c\n        image: redis:7\n        args: [redis-server, --cluster-enabled, 'yes', --port, '7000']\n", &["Deployment/r1"])]
// A bare pod with a bus port.
#[case("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: exporter\n    image: oliver006/redis_exporter\n  - name: c\n    image: valkey/valkey:9\n    ports: [{containerPort: 6379}, {containerPort: 16379}]\n", &["Pod/p"])]
// Several StatefulSets in a List, whose image has its own program.
#[case("apiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: StatefulSet\n  metadata: {name: a}\n  spec: {template: {spec: {containers: [{name: redis, image: quay.io/opstree/redis, env: [{name: SETUP_MODE, value: cluster}, {name: REDIS_CLUSTER_SIZE, value: '3'}]}]}}}\n- apiVersion: apps/v1\n  kind: StatefulSet\n  metadata: {name: b}\n  spec: {template: {spec: {containers: [{name: redis, image: quay.io/opstree/redis, ports: [{containerPort: 16379}]}]}}}\n", &["StatefulSet/a", "StatefulSet/b"])]
// A server alone, a client, a sentinel: none of a cluster.
#[case("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: cache}\nspec: {template: {spec: {containers: [{name: c, image: redis:7}]}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: cli}\nspec: {containers: [{name: c, image: redis:7, command: [redis-cli, --cluster, create]}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: s}\nspec: {containers: [{name: c, image: redis:7, command: [redis-server, /s.conf, --sentinel]}]}\n", &[])]
fn servers_are_recognised_by_what_they_are(#[case] text: &str, #[case] expected: &[&str]) {
    let lint = lint(text);
    let found: Vec<&str> = lint.workloads.iter().map(|workload| workload.object.as_str()).collect();
    assert_eq!(found, expected);
}

/// Policies for what goes out, in the place of the good one's types.
#[rstest]
#[case("policyTypes: [Ingress, Egress]\n  egress: [{ports: [{port: 53}]}, {to: [{podSelector: {matchLabels: {app: redis}}}], ports: [{port: 6379, endPort: 16379}]}]", &[])]
#[case("policyTypes: [Ingress, Egress]\n  egress: [{}]", &[])]
#[case("policyTypes: [Ingress, Egress]\n  egress: [{to: [{podSelector: {matchLabels: {app: other}}}]}]", &["ports-allowed"])]
#[case("policyTypes: [Ingress, Egress]", &["ports-allowed"])]
#[case("policyTypes: [Egress]\n  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]", &["bus-fenced"])]
fn what_goes_out_is_judged_like_what_comes_in(#[case] to: &str, #[case] expected: &[&str]) {
    assert_eq!(names(&lint(&spoilt("policyTypes: [Ingress]", to))), expected);
}

#[test]
fn a_script_in_the_image_gives_no_finding() {
    // Everything that form.sh, leave.sh, ready.sh and start.sh would tell is out of sight.
    let hidden = GOOD.replacen("name: scripts\ndata:", "name: elsewhere\ndata:", 1);
    assert_eq!(
        report::render(&lint(&hidden), &|_| true),
        "0 must and 0 should in StatefulSet/store (cluster-enabled yes)\n"
    );
}

#[test]
fn several_files_are_one_deployment() {
    let (first, second) = GOOD.split_once("---\napiVersion: apps/v1\n").unwrap();
    let second = format!("apiVersion: apps/v1\n{second}");
    let both = [
        Manifest::parse("a.yaml", first).unwrap(),
        Manifest::parse("b.yaml", &second).unwrap(),
    ];
    assert_eq!(names(&Lint::of(&both)), Vec::<&str>::new());
}

/// What a case compares with the files in the containers.
#[test]
fn the_files_of_config_maps_have_their_paths() {
    let manifest = Manifest::parse("m.yaml", GOOD).unwrap();
    let deployment = recognise(&manifest);
    let files = deployment.workloads[0].mounts.files();
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    for path in ["/scripts/ready.sh", "/scripts/leave.sh"] {
        assert!(paths.contains(&path), "{path}: {paths:?}");
    }
}

/// Where several workloads are in sight one alone may be judged, among the others.
#[test]
fn one_workload_of_several_is_judged() {
    let manifest = Manifest::parse("m.yaml", &spoilt("maxUnavailable: 1", "maxUnavailable: 2")).unwrap();
    assert_eq!(
        names(&Lint::of_workloads(&manifest, &["StatefulSet/store".to_owned()])),
        ["disruption-budget"]
    );
    let other = Lint::of_workloads(&manifest, &["StatefulSet/other".to_owned()]);
    assert!(other.workloads.is_empty() && other.findings.is_empty());
}

#[test]
fn no_password_is_shown() {
    let text = GOOD
        .replacen(
            "    maxmemory 768mb\n",
            "    maxmemory 768mb\n    requirepass s3cret\n",
            1,
        )
        .replacen(
            "valueFrom: {secretKeyRef: {name: password, key: password}}",
            "value: s3cret",
            1,
        )
        .replacen("timeout 3 redis-cli ping)", "timeout 3 redis-cli -a s3cret ping)", 1);
    let lint = lint(&text);
    assert!(lint.findings.len() > 2);
    assert!(!report::render(&lint, &|_| true).contains("s3cret"));
    assert!(!report::json(&lint, &|_| true).unwrap().contains("s3cret"));
}
