//! Deployments that differ from the good one in one way, and exactly the rules that find something in them: what a rule must
//! find, beside what looks like that and is none.

use super::{GOOD, lint, names};
use rstest::rstest;

/// The good deployment with every occurrence of each first text as the second; what takes no text's place is added to it.
fn changed(changes: &[(&str, &str)]) -> String {
    let mut text = GOOD.to_owned();
    for (from, to) in changes {
        if from.is_empty() {
            text.push_str(to);
        } else {
            assert!(text.contains(from), "the good deployment has no {from}");
            text = text.replace(from, to);
        }
    }
    text
}

fn found(changes: &[(&str, &str)]) -> Vec<&'static str> {
    names(&lint(&changed(changes)))
}

/// Ports other than the usual ones, declared and let through, so that only the configuration may say something else.
const SEVEN: [(&str, &str); 4] = [
    ("    port 6379\n", ""),
    ("containerPort: 6379", "containerPort: 7000"),
    ("containerPort: 16379", "containerPort: 17000"),
    ("[{port: 6379}, {port: 16379}]", "[{port: 7000}, {port: 17000}]"),
];

const ARGUMENTS: &str = "args: [/etc/redis/redis.conf, ";
const FIRST_VARIABLE: &str = "        - name: POD_IP";
const EXEC: &str = "exec redis-server \"$@\"";

#[rstest]
#[case::unset_is_the_usual_one(&[], &["ports-allowed", "ports-declared"])]
#[case::of_the_environment(&[
    (ARGUMENTS, "args: [/etc/redis/redis.conf, --port, $(REDIS_PORT), "),
    (FIRST_VARIABLE, "        - {name: REDIS_PORT, value: '7000'}\n        - name: POD_IP"),
], &[])]
#[case::of_the_environment_and_another(&[
    (ARGUMENTS, "args: [/etc/redis/redis.conf, --port, $(REDIS_PORT), "),
    (FIRST_VARIABLE, "        - {name: REDIS_PORT, value: '7001'}\n        - name: POD_IP"),
], &["ports-allowed", "ports-declared"])]
#[case::of_a_shell_s_variable(&[(EXEC, "exec redis-server \"$@\" --port \"$REDIS_PORT\"")], &[])]
#[case::in_an_array(&[(EXEC, "args=(--port 7000)\n    exec redis-server \"$@\" \"${args[@]}\"")], &[])]
fn ports_are_those_that_are_in_sight(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    let mut found = found(&[&SEVEN, changes].concat());
    found.sort_unstable();
    assert_eq!(found, expected);
}

const FROM_SECRET: (&str, &str) = ("configMap: {name: configuration}", "secret: {secretName: conf}");
const ONLY_SERVER: (&str, &str) = ("command: [sh, /scripts/start.sh]", "command: [redis-server]");
const ANNOUNCED: &str = "args: [/etc/redis/redis.conf, --cluster-announce-ip, $(POD_IP)]";

/// What a server reads that nobody sees gives no finding about what is not in the rest.
#[rstest]
#[case::by_a_variable_without_value(&[ONLY_SERVER, FROM_SECRET, (ANNOUNCED, "args: [$(REDIS_CONF)]")], &[])]
#[case::by_a_variable_of_a_secret_s_file(&[
    ONLY_SERVER, FROM_SECRET,
    (ANNOUNCED, "args: [$(REDIS_CONF)]"),
    (FIRST_VARIABLE, "        - {name: REDIS_CONF, value: /etc/redis/redis.conf}\n        - name: POD_IP"),
], &[])]
#[case::by_a_variable_of_a_config_map_s_file(&[
    ONLY_SERVER,
    (ANNOUNCED, "args: [$(REDIS_CONF)]"),
    (FIRST_VARIABLE, "        - {name: REDIS_CONF, value: /etc/redis/redis.conf}\n        - name: POD_IP"),
], &["announced-address"])]
#[case::of_another_ending(&[ONLY_SERVER, FROM_SECRET, (ANNOUNCED, "args: [/etc/redis/redis.cfg]")], &[])]
#[case::options_alone(&[ONLY_SERVER, (ANNOUNCED, "args: [--cluster-enabled, 'yes', --appendonly, 'yes', --maxmemory, 768mb]")], &["announced-address"])]
#[case::included(&[("    maxmemory 768mb\n", "    include /auth/auth.conf\n")], &[])]
#[case::put_together(&[
    ("    maxmemory 768mb\n", ""),
    (EXEC, "cat /etc/redis/redis.conf /run/auth/auth > /data/redis.conf\n    exec redis-server /data/redis.conf"),
], &[])]
#[case::copied(&[
    ("    maxmemory 768mb\n", ""),
    (EXEC, "cat /etc/redis/redis.conf > /data/redis.conf\n    exec redis-server /data/redis.conf"),
], &["maxmemory"])]
#[case::told_of(&[
    ("    maxmemory 768mb\n", ""),
    (EXEC, "echo \"redis-server at $POD_IP\"\n    exec redis-server \"$@\""),
], &["maxmemory"])]
#[case::no_shell_fills_it_in(&[ONLY_SERVER, (ANNOUNCED, "args: [/etc/redis/redis.conf, --cluster-announce-ip, $POD_IP]")], &["announced-address"])]
#[case::off_in_capitals(&[("appendonly yes", "appendonly NO")], &["append-only"])]
fn a_configuration_is_judged_where_all_of_it_is_in_sight(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    assert_eq!(found(changes), expected);
}

const OPEN: [(&str, &str); 3] = [
    (
        "        - name: REDIS_PASSWORD\n          valueFrom: {secretKeyRef: {name: password, key: password}}\n        - name: REDISCLI_AUTH\n          valueFrom: {secretKeyRef: {name: password, key: password}}\n",
        "",
    ),
    (
        "    (umask 077; printf 'requirepass \"%s\"\\n' \"$REDIS_PASSWORD\" > /dev/shm/auth.conf)\n",
        "",
    ),
    (" --include /dev/shm/auth.conf", ""),
];

#[rstest]
#[case::none(&[], &["protected-mode"])]
#[case::empty_is_allowed(&[(FIRST_VARIABLE, "        - {name: ALLOW_EMPTY_PASSWORD, value: 'yes'}\n        - name: POD_IP")], &["protected-mode"])]
#[case::empty(&[("protected-mode no", "protected-mode no\n    requirepass \"\"")], &["protected-mode"])]
#[case::of_a_database(&[(FIRST_VARIABLE, "        - {name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: p}}}\n        - name: POD_IP")], &["protected-mode"])]
#[case::everybody_may(&[("protected-mode no", "protected-mode no\n    user default on nopass ~* &* +@all")], &["protected-mode"])]
#[case::an_account(&[("protected-mode no", "protected-mode no\n    user default on #0123 ~* &* +@all")], &[])]
#[case::an_account_of_a_script(&[(EXEC, "echo \"user default on >$WORD ~* &* +@all\" > /data/users\n    exec redis-server \"$@\"")], &[])]
#[case::of_the_servers(&[(FIRST_VARIABLE, "        - {name: REDIS_PASSWORD, valueFrom: {secretKeyRef: {name: password, key: p}}}\n        - name: POD_IP")], &["probe-password"])]
#[case::a_sourced_file_may_have_it(&[
    (FIRST_VARIABLE, "        - {name: REDIS_PASSWORD, valueFrom: {secretKeyRef: {name: password, key: p}}}\n        - name: POD_IP"),
    ("    [ \"$(timeout 3", "    . /run/secrets/auth.env\n    [ \"$(timeout 3"),
], &[])]
fn a_password_is_one_of_the_servers(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    assert_eq!(found(&[&OPEN, changes].concat()), expected);
}

#[rstest]
#[case::exported("    export PASSWORD\n", &[])]
#[case::read("    read -r PASSWORD < /run/secrets/redis\n", &[])]
#[case::told("    [ -n \"$REDIS_PASSWORD\" ] || echo \"no PASSWORD set\"\n", &[])]
#[case::given_to_a_script("    sh /scripts/leave.sh PASSWORD\n", &["password-in-secret", "placeholders"])]
#[case::given_to_the_client("    redis-cli -a changeme ping\n", &["password-in-secret", "placeholders"])]
fn a_placeholder_is_what_is_handed_on(#[case] line: &str, #[case] expected: &[&str]) {
    let line = format!("{line}    (umask 077;");
    let mut found = found(&[("    (umask 077;", &line)]);
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_secret_may_be_one_source_of_several() {
    let changes = [
        OPEN[0],
        ("password: wolframite", "password: changeme"),
        (
            "      volumes:\n",
            "      volumes:\n      - {name: auth, projected: {sources: [{secret: {name: password}}]}}\n",
        ),
    ];
    assert!(found(&changes).contains(&"placeholders"));
}

#[rstest]
#[case::a_pattern("cp /etc/redis/* /data/", &[])]
#[case::a_variable_within("cat /etc/redis/redis-${ROLE}.conf", &[])]
#[case::a_quoted_variable_within("cat /etc/redis/\"$ROLE\".conf", &[])]
#[case::asked_for_first("[ -f /etc/redis/extra.conf ] && cat /etc/redis/extra.conf", &[])]
#[case::its_lack_is_taken("cat /etc/redis/extra.conf 2>/dev/null || true", &[])]
#[case::in_a_comment("# see /scripts/README", &[])]
#[case::a_script("bash /scripts/other.sh", &["mounts"])]
#[case::a_file("cat /etc/redis/extra.conf", &["mounts"])]
fn a_mount_hides_only_what_is_needed(#[case] line: &str, #[case] expected: &[&str]) {
    let line = format!("                {line}\n                if [ \"${{HOST");
    assert_eq!(found(&[("                if [ \"${HOST", &line)]), expected);
}

#[rstest]
#[case::of_a_sum("checksum/configuration", &[])]
#[case::of_a_hash("example.com/config-hash", &[])]
#[case::in_one_word("example.com/configSha256", &["rollout"])]
#[case::by_sha("example.com/conf-sha256", &[])]
#[case::of_hashicorp("vault.hashicorp.com/agent-inject", &["rollout"])]
#[case::of_a_shard("example.com/shard", &["rollout"])]
fn an_annotation_is_a_checksum_by_its_name(#[case] key: &str, #[case] expected: &[&str]) {
    let changes = [("checksum/configuration: \"1\"", &*format!("{key}: \"1\""))];
    assert_eq!(found(&changes), expected);
}

const MEMBERS: &str = "- from: [{podSelector: {matchLabels: {app: redis}}}]";

#[rstest]
#[case::every_pod("- from: [{podSelector: {}}]", &["bus-fenced"])]
#[case::every_pod_in_words("- from: [{podSelector: {matchLabels: {}}}]", &["bus-fenced"])]
#[case::every_namespace("- from: [{namespaceSelector: {matchLabels: {}}}]", &["bus-fenced"])]
#[case::another_namespace("- from: [{namespaceSelector: {matchLabels: {name: data}}}]", &[])]
#[case::others("- from: [{podSelector: {matchLabels: {app: redis}}}, {podSelector: {matchLabels: {app: web}}}]", &["bus-isolated"])]
fn a_policy_fences_the_bus_off_from_all_but_members(#[case] to: &str, #[case] expected: &[&str]) {
    assert_eq!(found(&[(MEMBERS, to)]), expected);
}

/// Leaders and followers, each with a policy of its own, behind one Service or not.
#[rstest]
#[case::each_its_own("redis", &["leader"], &["follower"], &["ports-allowed", "ports-allowed"])]
#[case::one_lets_both_in("redis", &["leader", "follower"], &["follower"], &["ports-allowed"])]
#[case::both("redis", &["leader", "follower"], &["leader", "follower"], &[])]
#[case::clients("redis", &["leader", "follower", "web"], &["leader", "follower"], &["bus-isolated"])]
// Behind no Service together, they may be two clusters.
#[case::two_clusters("other", &["leader"], &["follower"], &[])]
fn every_workload_of_a_cluster_is_let_in(
    #[case] service: &str,
    #[case] leader: &[&str],
    #[case] follower: &[&str],
    #[case] expected: &[&str],
) {
    let workload = |role: &str, from: &[&str]| {
        let from: Vec<String> = from
            .iter()
            .map(|role| format!("{{podSelector: {{matchLabels: {{role: {role}}}}}}}"))
            .collect();
        format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {role}}}\nspec:\n  template:\n    metadata: {{labels: {{app: redis, role: {role}}}}}\n    \
             spec: {{containers: [{{name: c, image: redis, ports: [{{containerPort: 6379}}, {{containerPort: 16379}}]}}]}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {role}}}\nspec:\n  podSelector: {{matchLabels: {{role: {role}}}}}\n  \
             ingress: [{{from: [{}], ports: [{{port: 6379}}, {{port: 16379}}]}}]\n---\n",
            from.join(", ")
        )
    };
    let text = format!(
        "{}{}apiVersion: v1\nkind: Service\nmetadata: {{name: all}}\nspec: {{selector: {{app: {service}}}}}\n",
        workload("leader", leader),
        workload("follower", follower)
    );
    let of_policies = ["ports-allowed", "bus-fenced", "bus-isolated"];
    let mut found: Vec<&str> = lint(&text).findings.iter().map(|finding| finding.rule.name).collect();
    found.retain(|name| of_policies.contains(name));
    assert_eq!(found, expected);
}

#[rstest]
#[case::http("httpGet: {path: /, port: 6379}", &["readiness-probe"])]
#[case::http_by_name("httpGet: {path: /, port: redis}", &["readiness-probe"])]
#[case::http_of_a_program_beside("httpGet: {path: /, port: 8080}", &[])]
#[case::grpc("grpc: {port: 6379}", &["readiness-probe"])]
#[case::nothing("exec: {command: ['true']}", &["readiness-probe"])]
#[case::the_port("exec: {command: [sh, -c, 'nc -z localhost 6379 || exit 1']}", &["readiness-probe"])]
#[case::by_hand("exec: {command: [sh, -c, \"echo PING | nc localhost 6379 | grep PONG\"]}", &[])]
#[case::of_the_image("exec: {command: [healthy]}", &[])]
#[case::what_another_program_writes("exec: {command: [cat, /tmp/healthy]}", &[])]
#[case::loading("exec: {command: [sh, -c, \"redis-cli ping | grep -qE 'PONG|LOADING'\"]}", &["readiness-probe"])]
#[case::exit_code("exec: {command: [sh, -c, 'redis-cli ping; if [ $? -ne 0 ]; then exit 1; fi']}", &["probe-reply"])]
#[case::first_failure("exec: {command: [sh, -c, 'set -e; redis-cli ping']}", &["probe-reply"])]
#[case::another_comparison("exec: {command: [sh, -c, '[ -n \"$X\" ] && export Y=$X; redis-cli ping > /dev/null']}", &["probe-reply"])]
#[case::own_e("exec: {command: [redis-cli, -e, ping]}", &[])]
#[case::piped("exec: {command: [sh, -c, 'redis-cli ping 2>&1 | grep PONG']}", &[])]
#[case::piped_as_one("exec: {command: [sh, -c, '{ redis-cli ping; } | grep PONG']}", &[])]
#[case::taken("exec: {command: [sh, -c, '[ \"$(timeout 1 redis-cli ping)\" = PONG ]']}", &[])]
#[case::taken_over_lines("exec: {command: [sh, -c, \"r=$(\\n timeout 1 redis-cli ping\\n)\\n[ $r = PONG ]\"]}", &[])]
#[case::to_a_file("exec: {command: [sh, -c, 'redis-cli ping > /tmp/r; grep PONG /tmp/r']}", &[])]
#[case::by_its_caller("exec: {command: [sh, -c, '[ \"$(sh /scripts/leave.sh)\" = OK ]']}", &[])]
#[case::by_a_function("exec: {command: [sh, -c, 'c() { redis-cli \"$@\"; }; [ \"$(c ping)\" = PONG ]']}", &[])]
#[case::by_a_variable("exec: {command: [sh, -c, 'C=\"redis-cli -h x\"; [ \"$($C ping)\" = PONG ]']}", &[])]
fn a_readiness_probe_asks_the_server_and_reads_the_reply(#[case] to: &str, #[case] expected: &[&str]) {
    let probe = format!("readinessProbe:\n          {to}");
    let from = "readinessProbe:\n          exec: {command: [sh, /scripts/ready.sh]}";
    assert_eq!(found(&[(from, &probe)]), expected);
}

const CLAIM: &str = "  volumeClaimTemplates:\n  - metadata: {name: data}\n    spec:\n      accessModes: [ReadWriteOnce]\n      resources: {requests: {storage: 1Gi}}\n";
const OWN_PROGRAM: (&str, &str) = (
    "        command: [sh, /scripts/start.sh]\n        args: [/etc/redis/redis.conf, --cluster-announce-ip, $(POD_IP)]\n",
    "",
);

#[rstest]
#[case::an_empty_one(&[(CLAIM, "      - {name: data, emptyDir: {}}\n"), OWN_PROGRAM], &["volume-per-pod"])]
#[case::an_ephemeral_one(&[(CLAIM, "      - {name: data, ephemeral: {volumeClaimTemplate: {}}}\n")], &["volume-per-pod"])]
#[case::a_claim_of_the_image_s_own_program(&[OWN_PROGRAM], &[])]
#[case::a_claim_that_may_hold_it(&[("mountPath: /data}", "mountPath: /var/data}\n        - {name: more, mountPath: /tmp}"), ("      volumes:\n", "      volumes:\n      - {name: more, emptyDir: {}}\n"), OWN_PROGRAM], &[])]
fn data_is_on_a_volume_that_outlives_the_pod(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    assert_eq!(found(changes), expected);
}

const APART: &str = "        podAntiAffinity:\n          requiredDuringSchedulingIgnoredDuringExecution:\n          - labelSelector: {matchLabels: {app: redis}}\n            topologyKey: kubernetes.io/hostname\n";
const GRACE: &str = "      terminationGracePeriodSeconds: 60\n";
const ZONES: &str = "      topologySpreadConstraints:\n";

#[rstest]
#[case::on_one_node(&[(GRACE, "      terminationGracePeriodSeconds: 60\n      nodeName: a\n")], &["spread"])]
#[case::on_one_node_by_its_label(&[(GRACE, "      terminationGracePeriodSeconds: 60\n      nodeSelector: {kubernetes.io/hostname: a}\n")], &["spread"])]
#[case::one_pod_on_one_node(&[(GRACE, "      terminationGracePeriodSeconds: 60\n      nodeName: a\n"), ("replicas: 6", "replicas: 1"), (APART, "")], &[])]
#[case::loose(&[(APART, ""), (ZONES, "      topologySpreadConstraints:\n      - {maxSkew: 6, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: redis}}}\n")], &["spread"])]
#[case::tight(&[(APART, ""), (ZONES, "      topologySpreadConstraints:\n      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: redis}}}\n")], &[])]
#[case::from_another_namespace(&[
    ("  name: store\n", "  name: store\n  namespace: shop\n"),
    ("            topologyKey: kubernetes.io/hostname", "            namespaces: [other]\n            topologyKey: kubernetes.io/hostname"),
], &["spread"])]
#[case::from_a_namespace_that_may_be_its_own(&[
    ("            topologyKey: kubernetes.io/hostname", "            namespaces: [other]\n            topologyKey: kubernetes.io/hostname"),
], &[])]
fn pods_are_spread_over_nodes(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    assert_eq!(found(changes), expected);
}

#[rstest]
#[case::whole_from_hosts("redis-cli -h \"$(hostname -f)\" info", &[])]
#[case::whole_by_getent("getent hosts $(hostname -f)", &[])]
#[case::whole_in_parts("getent hosts $HOSTNAME.nodes.$NS.svc.$domain", &[])]
#[case::whole_by_dns("dig +short $(hostname -f)", &["own-name"])]
#[case::in_part("getent hosts $HOSTNAME.nodes", &["own-name"])]
#[case::in_part_by_dns("nslookup $(hostname).nodes", &["own-name"])]
fn a_hook_may_look_up_what_the_kubelet_has_written(#[case] line: &str, #[case] expected: &[&str]) {
    let line = format!("    set -e\n    {line}\n");
    assert_eq!(found(&[("    set -e\n", &line)]), expected);
}

#[rstest]
#[case::of_another_service("http://vault.vault.svc:8200", &[])]
#[case::of_its_own("nodes.shop.svc", &["namespace-neutral"])]
#[case::of_one_of_its_pods("store-0.nodes.shop.svc", &["namespace-neutral"])]
#[case::beside_another("vault.vault.svc,clients.shop.svc", &["namespace-neutral"])]
fn a_namespace_is_written_down_where_it_is_the_deployment_s(#[case] value: &str, #[case] expected: &[&str]) {
    let variable = format!("        - {{name: PEERS, value: '{value}'}}\n{FIRST_VARIABLE}");
    assert_eq!(found(&[(FIRST_VARIABLE, &variable)]), expected);
}

const CREATE: &str =
    "    timeout 60 redis-cli --cluster create \"${addresses[@]}\" \\\n        --cluster-replicas 1 --cluster-yes\n";

/// What becomes of the bootstrap's failure, in place of `set -e` and the creation.
#[rstest]
#[case::quoted_status("timeout 60 redis-cli --cluster create a --cluster-yes; rc=$?\n    [ $rc = 0 ] || exit \"$rc\"\n    echo formed\n", &[])]
#[case::last_status("timeout 60 redis-cli --cluster create a --cluster-yes || exit\n    echo formed\n", &[])]
#[case::hidden("timeout 60 redis-cli --cluster create a --cluster-yes\n    echo formed\n", &["visible-failure"])]
#[case::piped("timeout 60 redis-cli --cluster create a --cluster-yes | tee /tmp/log\n", &["visible-failure"])]
#[case::piped_as_it_fails("set -o pipefail\n    timeout 60 redis-cli --cluster create a --cluster-yes | tee /tmp/log\n", &[])]
#[case::piped_and_read("timeout 60 redis-cli --cluster create a --cluster-yes | tee /tmp/log\n    grep -q OK /tmp/log\n", &[])]
fn a_failure_shows(#[case] end: &str, #[case] expected: &[&str]) {
    let end = format!("    {end}");
    assert_eq!(found(&[("    set -e\n", ""), (CREATE, &end)]), expected);
}

#[rstest]
#[case::waited_for("bash /scripts/form.sh > /proc/1/fd/1 2>&1 &\n                    wait $!\n", &[])]
#[case::not_waited_for("bash /scripts/form.sh &\n", &["visible-failure"])]
fn a_hook_waits_for_what_it_starts(#[case] to: &str, #[case] expected: &[&str]) {
    assert_eq!(found(&[("bash /scripts/form.sh\n", to)]), expected);
}

/// In place of the loop over the peers.
#[rstest]
#[case::to_a_file("redis-cli -h a ping > /tmp/r && grep -q PONG /tmp/r\n    sleep 1", &[])]
#[case::by_its_exit_code("redis-cli -h a ping && sleep 1", &["exit-codes"])]
#[case::discarded("redis-cli -h a ping > /dev/null 2>&1 && sleep 1", &["exit-codes"])]
#[case::of_a_whole_cluster("redis-cli --no-auth-warning --cluster check a:6379 && sleep 1", &[])]
#[case::beside_a_whole_cluster_s("redis-cli -h a ping && redis-cli --cluster check a:6379 && sleep 1", &["exit-codes"])]
#[case::of_a_host_s_name("redis-cli -h shopping-0 get x && sleep 1", &[])]
fn exit_codes_of_replies_are_none(#[case] line: &str, #[case] expected: &[&str]) {
    let line = format!("    until [ \"$(redis-cli ping)\" = PONG ]; do sleep 1; done\n    {line}\n    timeout 60");
    assert_eq!(found(&[("    timeout 60", &line)]), expected);
}

#[rstest]
#[case::by_any_script(&[("form.sh", "form"), ("timeout 60 redis-cli", "redis-cli"), ("bash /scripts/form\n", "timeout 60 bash /scripts/form\n")], &[])]
#[case::by_a_function(&[(CREATE, "    make() { redis-cli --cluster create \"${addresses[@]}\" --cluster-yes; }\n    export -f make\n    timeout 60 bash -c make\n")], &[])]
#[case::by_nothing(&[(CREATE, "    make() { redis-cli --cluster create \"${addresses[@]}\" --cluster-yes; }\n    make\n")], &["bounded"])]
#[case::told_of(&[("    set -e\n", "    set -e\n    echo 'next: redis-cli --cluster create'\n")], &[])]
fn a_bootstrap_is_bounded_and_unattended(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    assert_eq!(found(changes), expected);
}

/// A Job's specification, what runs in its pod before, and its command.
#[rstest]
#[case::each_word("", "", "[timeout, '300', sh, -c, 'redis-cli --cluster create a --cluster-yes']", &[])]
#[case::it_ends_as_its_shell_says("activeDeadlineSeconds: 60, ", "", "[/bin/sh, -ec, \"redis-cli --cluster create a --cluster-yes\\necho formed\"]", &[])]
#[case::it_ends_well("activeDeadlineSeconds: 60, ", "", "[/bin/sh, -c, \"redis-cli --cluster create a --cluster-yes\\necho formed\"]", &["visible-failure"])]
#[case::once("backoffLimit: 0, activeDeadlineSeconds: 60, ", "", "[redis-cli, --cluster, create, a, --cluster-yes]", &["waits-for-peers"])]
#[case::waited_before("backoffLimit: 0, activeDeadlineSeconds: 60, ", "[sh, -c, 'until redis-cli -h a ping | grep PONG; do sleep 1; done']", "[redis-cli, --cluster, create, a, --cluster-yes]", &[])]
#[case::something_else_before("backoffLimit: 0, activeDeadlineSeconds: 60, ", "[sh, -c, 'echo begin']", "[redis-cli, --cluster, create, a, --cluster-yes]", &["waits-for-peers"])]
#[case::a_list("backoffLimit: 0, activeDeadlineSeconds: 60, ", "", "[sh, -c, 'for i in 0 1 2; do n=\"$n a-$i:6379\"; done; redis-cli --cluster create $n --cluster-yes']", &["waits-for-peers"])]
#[case::a_loop_that_asks("backoffLimit: 0, activeDeadlineSeconds: 60, ", "", "[sh, -c, 'for i in 0 1 2; do redis-cli -h a ping | grep PONG; sleep 1; done; redis-cli --cluster create a --cluster-yes']", &[])]
fn a_job_waits_ends_and_fails(
    #[case] spec: &str,
    #[case] before: &str,
    #[case] command: &str,
    #[case] expected: &[&str],
) {
    let first = match before {
        "" => String::new(),
        before => format!("initContainers: [{{name: wait, image: redis, command: {before}}}], "),
    };
    let pod = format!("{{{first}containers: [{{name: join, image: redis, command: {command}}}]}}");
    let job = format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: join}}\nspec: {{{spec}template: {{spec: {pod}}}}}\n"
    );
    assert_eq!(found(&[("", &job)]), expected);
}

#[rstest]
#[case::a_loop("for i in $(seq 1 120); do redis-cli role | grep -q slave && exit 0; sleep 1; done", &["grace-period"])]
#[case::a_short_loop("for i in {1..10}; do sleep 1; done", &[])]
#[case::over_lines("for i in `seq 120`; do\n        sleep 1\n    done", &["grace-period"])]
#[case::after_a_loop("for i in $(seq 1 120); do :; done\n    sleep 5", &[])]
fn sleeps_in_a_loop_add_up(#[case] to: &str, #[case] expected: &[&str]) {
    assert_eq!(found(&[("sleep 5", to)]), expected);
}

#[rstest]
#[case::of_the_pod(&[("        resources:\n          requests: {cpu: 500m, memory: 1Gi}\n          limits: {memory: 1Gi}\n", ""), (GRACE, "      terminationGracePeriodSeconds: 60\n      resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 1Gi}}\n")], &[])]
#[case::the_bus_asks_for_a_certificate(&[("kind: NetworkPolicy", "kind: Other"), (FIRST_VARIABLE, "        - {name: REDIS_TLS_ENABLED, value: 'yes'}\n        - name: POD_IP")], &[])]
#[case::it_does_not(&[("kind: NetworkPolicy", "kind: Other"), (FIRST_VARIABLE, "        - {name: REDIS_TLS_ENABLED, value: 'no'}\n        - name: POD_IP")], &["bus-fenced"])]
fn what_stands_elsewhere_counts(#[case] changes: &[(&str, &str)], #[case] expected: &[&str]) {
    assert_eq!(found(changes), expected);
}

/// Of two namespaces each has a budget of its own.
#[test]
fn a_budget_is_one_of_its_namespace() {
    let text = changed(&[("maxUnavailable: 1", "minAvailable: 5")]);
    let within = |namespace: &str| {
        let named = regex::Regex::new("(?m)^  name: ([a-z-]+)$").unwrap();
        named
            .replace_all(&text, format!("  name: $1\n  namespace: {namespace}"))
            .into_owned()
    };
    let both = format!("{}---\n{}", within("a"), within("b"));
    assert_eq!(names(&lint(&both)), Vec::<&str>::new());
}

/// The name of a variable says that a server is one of a cluster where it says of which server.
#[rstest]
#[case::of_something_else("CLUSTER_NAME", 0)]
#[case::of_the_server("REDIS_CLUSTER_NAME", 1)]
fn a_server_alone_is_none_of_a_cluster(#[case] name: &str, #[case] count: usize) {
    let pod = format!("{{containers: [{{name: c, image: redis, env: [{{name: {name}, value: prod-eu}}]}}]}}");
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: cache}}\nspec: {pod}\n");
    assert_eq!(lint(&text).workloads.len(), count);
}
