use super::*;
use rstest::rstest;

const GOOD: &str = include_str!("tests/good.yaml");
const CANONICAL: &str = include_str!("../../manifests/redis-cluster.yaml");

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

const OTHER: &str = "\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: other}\nspec:\n  selector: {matchLabels: {app: redis}}\n  \
                     template:\n    metadata: {labels: {app: redis}}\n    spec: {containers: [{name: c, image: busybox}]}\n---\n# A deployment";

/// For every rule: what is changed in the good deployment, and a word of the line that must then be named.
const SPOILT: &[(&str, &str, &str, &str)] = &[
    (
        "readiness-probe",
        "readinessProbe",
        "unreadinessProbe",
        "- name: server",
    ),
    (
        "readiness-probe",
        "readinessProbe:\n          exec: {command: [sh, /scripts/ready.sh]}",
        "readinessProbe:\n          tcpSocket: {port: 6379}",
        "tcpSocket",
    ),
    ("liveness-probe", "livenessProbe", "unlivenessProbe", "- name: server"),
    (
        "liveness-probe",
        "livenessProbe:\n          exec: {command: [sh, /scripts/ready.sh]}",
        "livenessProbe:\n          tcpSocket: {port: redis}",
        "tcpSocket",
    ),
    ("startup-probe", "startupProbe", "unstartupProbe", "- name: server"),
    (
        "probe-reply",
        "[ \"$(timeout 3 redis-cli ping)\" = PONG ]",
        "redis-cli ping",
        "redis-cli ping",
    ),
    (
        "probe-password",
        "name: REDISCLI_AUTH",
        "name: REDISCLI_AUTHOR",
        "timeout 3 redis-cli ping",
    ),
    (
        "disruption-budget",
        "kind: PodDisruptionBudget",
        "kind: PodDisruption",
        "apiVersion: apps/v1",
    ),
    (
        "disruption-budget",
        "maxUnavailable: 1",
        "maxUnavailable: 2",
        "maxUnavailable: 2",
    ),
    (
        "disruption-budget",
        "maxUnavailable: 1",
        "minAvailable: 50%",
        "minAvailable: 50%",
    ),
    (
        "disruption-budget",
        "maxUnavailable: 1",
        "minAvailable: 6",
        "minAvailable: 6",
    ),
    (
        "spread",
        "topologyKey: kubernetes.io/hostname",
        "topologyKey: topology.kubernetes.io/region",
        "terminationGracePeriodSeconds",
    ),
    (
        "spread",
        "- labelSelector: {matchLabels: {app: redis}}\n            topo",
        "- labelSelector: {matchLabels: {app: other}}\n            topo",
        "app: other",
    ),
    (
        "spread-guaranteed",
        "podAntiAffinity:\n          requiredDuringSchedulingIgnoredDuringExecution:\n          - labelSelector: {matchLabels: {app: redis}}\n            topologyKey: kubernetes.io/hostname",
        "podAntiAffinity:\n          preferredDuringSchedulingIgnoredDuringExecution:\n          - weight: 1\n            podAffinityTerm: {labelSelector: {matchLabels: {app: redis}}, topologyKey: kubernetes.io/hostname}",
        "podAffinityTerm",
    ),
    (
        "zones",
        "topologySpreadConstraints",
        "noSpreadConstraints",
        "values: [a, b]",
    ),
    (
        "grace-period",
        "terminationGracePeriodSeconds: 60",
        "terminationGracePeriodSeconds: 15",
        "terminationGracePeriodSeconds: 15",
    ),
    (
        "grace-period",
        "sleep 5\n",
        "sleep 55\n",
        "terminationGracePeriodSeconds: 60",
    ),
    ("handover", "redis-cli cluster failover", "redis-cli save", "preStop:"),
    ("handover", "preStop", "unpreStop", "lifecycle:"),
    (
        "parallel-start",
        "podManagementPolicy: Parallel",
        "podManagementPolicy: OrderedReady",
        "OrderedReady",
    ),
    ("parallel-start", "  podManagementPolicy: Parallel\n", "", "spec:"),
    ("resources", "limits: {memory: 1Gi}", "limits: {cpu: 1}", "resources:"),
    (
        "resources",
        "requests: {cpu: 500m, memory: 1Gi}",
        "requests: {memory: 1Gi}",
        "resources:",
    ),
    ("maxmemory", "    maxmemory 768mb\n", "", "redis.conf:"),
    ("maxmemory", "maxmemory 768mb", "maxmemory 900mb", "maxmemory 900mb"),
    ("maxmemory", "maxmemory 768mb", "maxmemory 0", "maxmemory 0"),
    (
        "image",
        "@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "",
        "image:",
    ),
    ("image", "redis:7.2@", "redis:5.0@", "image:"),
    ("image", "IfNotPresent", "Always", "Always"),
    (
        "non-root",
        "securityContext: {runAsNonRoot: true, runAsUser: 999}",
        "securityContext: {}",
        "- name: server",
    ),
    (
        "non-root",
        "runAsNonRoot: true, runAsUser: 999",
        "runAsUser: 0",
        "runAsUser: 0",
    ),
    (
        "mounts",
        "mountPath: /data}",
        "mountPath: /data}\n        - {name: more, mountPath: /usr/local/bin}",
        "/usr/local/bin",
    ),
    (
        "mounts",
        "[sh, /scripts/leave.sh]}",
        "[sh, /scripts/leave.sh, /scripts/gone.sh]}",
        "gone.sh",
    ),
    (
        "rollout",
        "annotations: {checksum/configuration: \"1\"}",
        "annotations: {}",
        "apiVersion: v1",
    ),
    (
        "volume-per-pod",
        "{name: data, mountPath: /data}",
        "{name: data, mountPath: /var/data}",
        "volumeMounts",
    ),
    (
        "volume-per-pod",
        "volumes:\n",
        "volumes:\n      - {name: data, emptyDir: {}}\n",
        "emptyDir",
    ),
    (
        "volume-per-pod",
        "volumes:\n",
        "volumes:\n      - {name: data, persistentVolumeClaim: {claimName: all}}\n",
        "claimName: all",
    ),
    (
        "governing-service",
        "serviceName: nodes",
        "serviceName: knots",
        "serviceName: knots",
    ),
    (
        "governing-service",
        "clusterIP: None",
        "clusterIP: 10.0.0.1",
        "clusterIP: 10.0.0.1",
    ),
    (
        "selectors",
        "# A deployment",
        OTHER,
        "selector: {matchLabels: {app: redis}}",
    ),
    (
        "announced-address",
        "fieldPath: status.podIP",
        "fieldPath: metadata.name",
        "fieldPath: metadata.name",
    ),
    (
        "announced-address",
        ", --cluster-announce-ip, $(POD_IP)]",
        "]",
        "command:",
    ),
    ("announced-address", "$(POD_IP)", "10.0.0.7", "10.0.0.7"),
    ("announced-address", "$(POD_IP)", "$(PODIP)", "$(PODIP)"),
    (
        "ports-declared",
        "        - {name: bus, containerPort: 16379}\n",
        "",
        "ports:",
    ),
    (
        "ports-allowed",
        "ports: [{port: 6379}, {port: 16379}]",
        "ports: [{port: 6379}]",
        "ingress:",
    ),
    (
        "publish-not-ready",
        "publishNotReadyAddresses: true",
        "publishNotReadyAddresses: false",
        "publishNotReadyAddresses",
    ),
    (
        "bus-fenced",
        "kind: NetworkPolicy",
        "kind: NetworkPolice",
        "apiVersion: apps/v1",
    ),
    (
        "bus-fenced",
        "- from: [{podSelector: {matchLabels: {app: redis}}}]\n    ports",
        "- ports",
        "- ports: [{port: 6379}, {port: 16379}]",
    ),
    (
        "bus-isolated",
        "ports: [{port: redis}]",
        "ports: [{port: 6379, endPort: 16379}]",
        "client: \"yes\"",
    ),
    ("append-only", "appendonly yes", "appendonly no", "appendonly no"),
    ("append-only", "    appendonly yes\n", "", "redis.conf:"),
    ("log-to-stdout", "logfile \"\"", "logfile \"redis.log\"", "redis.log"),
    ("bind-ipv6", "bind * -::*", "bind 0.0.0.0", "bind 0.0.0.0"),
    (
        "placeholders",
        "password: wolframite",
        "password: change-me",
        "change-me",
    ),
    (
        "placeholders",
        "  volumeClaimTemplates:\n  - metadata: {name: data}\n    spec:\n",
        "  volumeClaimTemplates:\n  - metadata: {name: data}\n    spec:\n      storageClassName: YOUR-CLASS\n",
        "YOUR-CLASS",
    ),
    (
        "placeholders",
        "image: docker.io/library/redis:7.2@",
        "image: ${REGISTRY}/redis:7.2@",
        "REGISTRY",
    ),
    (
        "password-in-secret",
        "    maxmemory 768mb\n",
        "    maxmemory 768mb\n    requirepass wolframite\n",
        "requirepass wolframite",
    ),
    (
        "password-in-secret",
        "redis-cli ping)\" = PONG ]; do",
        "redis-cli -a \"$REDIS_PASSWORD\" ping)\" = PONG ]; do",
        "redis-cli -a",
    ),
    (
        "password-in-secret",
        "valueFrom: {secretKeyRef: {name: password, key: password}}",
        "value: wolframite",
        "value: wolframite",
    ),
    (
        "password-in-secret",
        "$(POD_IP)]",
        "$(POD_IP), --requirepass, $(REDIS_PASSWORD)]",
        "--requirepass",
    ),
    ("unattended", " --cluster-yes", "", "redis-cli --cluster create"),
    (
        "visible-failure",
        "--cluster-yes\n",
        "--cluster-yes || true\n",
        "redis-cli --cluster create",
    ),
    (
        "visible-failure",
        "bash /scripts/form.sh\n",
        "bash /scripts/form.sh &\n",
        "form.sh &",
    ),
    (
        "own-name",
        "    set -e\n",
        "    set -e\n    dig +short $HOSTNAME.nodes\n",
        "dig",
    ),
    (
        "search-path",
        "    set -e\n",
        "    set -e\n    domain=`awk '/search/{print $NF}' /etc/resolv.conf`\n",
        "awk",
    ),
    (
        "search-path",
        "    set -e\n",
        "    set -e\n    domain=svc.cluster.local\n",
        "svc.cluster.local",
    ),
    (
        "own-address",
        "    set -e\n",
        "    set -e\n    own=`ip a | tail -1`\n",
        "ip a",
    ),
    (
        "bounded",
        "timeout 60 redis-cli --cluster",
        "redis-cli --cluster",
        "redis-cli --cluster",
    ),
    (
        "hard-coded-names",
        "if [ \"${HOSTNAME##*-}\" = 0 ]",
        "if [ \"$HOSTNAME\" = store-5 ]",
        "store-5",
    ),
    (
        "exit-codes",
        "until [ \"$(redis-cli -h \"$peer\" ping)\" = PONG ]; do",
        "until redis-cli -h \"$peer\" ping; do",
        "until redis-cli",
    ),
    (
        "every-node-the-same",
        "    set -e\n",
        "    set -e\n    redis-cli -h clients config set requirepass x\n",
        "redis-cli -h clients",
    ),
    (
        "bootstrap-log",
        "bash /scripts/form.sh\n",
        "bash /scripts/form.sh > /tmp/form.log 2>&1\n",
        "form.log",
    ),
    (
        "namespace-neutral",
        "    set -e\n",
        "    set -e\n    dig +short store-$1.nodes.shop.svc.$domain\n",
        "shop.svc",
    ),
];

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

#[test]
fn no_pattern_is_broken() {
    // A pattern that does not compile matches nothing: its rule would be silent, and the table above would tell.
    assert!(words::pattern("a").is_match("a"));
    assert!(!words::pattern("(").is_match("("));
    assert!(names(&lint(CANONICAL)).contains(&"disruption-budget"));
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
        .replacen("redis-cli ping)", "redis-cli -a s3cret ping)", 1);
    let lint = lint(&text);
    assert!(lint.findings.len() > 2);
    assert!(!report::render(&lint, &|_| true).contains("s3cret"));
    assert!(!report::json(&lint, &|_| true).unwrap().contains("s3cret"));
}
