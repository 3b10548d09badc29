//! Causes on hand-made views of a cluster of six.

use super::*;
use crate::cluster::connection::Address;
use crate::cluster::node::{parse_fields, parse_nodes};
use crate::cluster::resp::Reply;
use crate::target::{Event, Pod};
use rstest::rstest;
use std::collections::BTreeMap;

const SHAPE: Shape = Shape {
    masters: 3,
    replicas_per_master: 1,
};
const SLOTS: [&str; 3] = ["0-5460", "5461-10922", "10923-16383"];
const HEARD: u64 = 1_700_000_000_000;

fn name(pod: usize) -> String {
    format!("redis-cluster-{pod}")
}

fn host(pod: usize) -> String {
    format!("10.244.0.{}", pod + 4)
}

fn member(pod: usize) -> Member {
    Member {
        name: name(pod),
        address: Address::new(host(pod), 6379),
    }
}

fn id(pod: usize) -> String {
    format!("{pod:040x}")
}

/// One node's view: pods 0 to 2 are masters, 3 to 5 their replicas; `flags` are added to the lines of pods.
fn node(asked: usize, knows: &[usize], slots: &[&str], flags: &[(usize, &str)]) -> NodeView {
    let lines: Vec<String> = knows
        .iter()
        .map(|&pod| {
            let added = |pod| flags.iter().filter(move |(at, _)| *at == pod).map(|(_, flag)| *flag);
            let mut all: Vec<&str> = if pod == asked { vec!["myself"] } else { vec![] };
            all.push(if pod < 3 { "master" } else { "slave" });
            all.extend(added(pod));
            let failed = added(pod).any(|flag| flag == "fail" || flag == "fail?");
            let master = if pod < 3 { "-".to_owned() } else { id(pod - 3) };
            let (ping, pong) = if pod == asked {
                (0, 0)
            } else if failed {
                (HEARD - 12_000, HEARD - 12_100)
            } else {
                (0, HEARD)
            };
            let owned = if pod < 3 {
                slots.get(pod).copied().unwrap_or("")
            } else {
                ""
            };
            let link = if failed { "disconnected" } else { "connected" };
            let address = if added(pod).any(|flag| flag == "noaddr") {
                ":0@0".to_owned()
            } else {
                format!("{}:6379@16379", host(pod))
            };
            let (id, flags) = (id(pod), all.join(","));
            format!(
                "{id} {address} {flags} {master} {ping} {pong} {} {link} {owned}",
                pod % 3 + 1
            )
        })
        .collect();
    let text = lines.join("\n");
    let known = knows.len();
    let assigned = if slots.is_empty() { 0 } else { 16384 };
    let info = format!("cluster_state:ok\ncluster_known_nodes:{known}\ncluster_slots_assigned:{assigned}");
    let bulk = |text: &str| Reply::Bulk(text.to_owned().into());
    let replication = if asked < 3 {
        "role:master"
    } else {
        "role:slave\nmaster_link_status:up"
    };
    NodeView {
        member: member(asked),
        raw: [("CLUSTER NODES", text.clone())].into(),
        info: parse_fields(&bulk(&info)).unwrap(),
        nodes: parse_nodes(&bulk(&text)).unwrap(),
        slots: vec![],
        shards: Ok(vec![]),
        role: if asked < 3 {
            Role::Master {
                offset: 1,
                replicas: vec![],
            }
        } else {
            Role::Replica {
                master: Address::new(host(asked - 3), 6379),
                link: "connected".into(),
                offset: 1,
            }
        },
        replication: parse_fields(&bulk(replication)).unwrap(),
    }
}

fn view(nodes: Vec<NodeView>) -> ClusterView {
    ClusterView { nodes, silent: vec![] }
}

fn whole() -> ClusterView {
    view((0..6).map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &SLOTS, &[])).collect())
}

fn never_met() -> ClusterView {
    view((0..6).map(|pod| node(pod, &[pod], &[], &[])).collect())
}

fn refused(pod: usize) -> (Member, LinkError) {
    let address = member(pod).address;
    let reason = "Connection refused".into();
    (member(pod), LinkError::Refused { address, reason })
}

/// Pod 0 is gone; the others flag it; pod 3, its replica, has its link down.
fn master_gone() -> ClusterView {
    let mut seen = view(
        (1..6)
            .map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &SLOTS, &[(0, "fail")]))
            .collect(),
    );
    seen.silent.push(refused(0));
    link_down(&mut seen, 3, "12");
    seen
}

fn link_down(view: &mut ClusterView, pod: usize, since: &str) {
    let node = view
        .nodes
        .iter_mut()
        .find(|node| node.member.name == name(pod))
        .unwrap();
    if let Role::Replica { link, .. } = &mut node.role {
        *link = "connecting".into();
    }
    let down = [
        ("master_link_status", "down"),
        ("master_link_down_since_seconds", since),
    ];
    node.replication
        .extend(down.map(|(field, value)| (field.to_owned(), value.to_owned())));
}

fn pod(at: usize) -> Pod {
    Pod {
        name: name(at),
        uid: at.to_string(),
        address: Some(host(at)),
        phase: "Running".into(),
        ready: true,
        restarts: 0,
        trouble: None,
        host: None,
        claims: Vec::new(),
        leaving: false,
    }
}

fn event(object: &str, reason: &str, message: &str) -> Event {
    Event {
        kind: "Warning".into(),
        reason: reason.into(),
        object: object.into(),
        message: message.into(),
        count: 1,
        at: None,
    }
}

fn hints(log: &str) -> PlatformHints {
    PlatformHints {
        pods: (0..6).map(pod).collect(),
        events: vec![],
        bootstrap_pod: Some(name(5)),
        bootstrap_log: (!log.is_empty()).then(|| log.to_owned()),
        logs: BTreeMap::new(),
    }
}

fn logged(at: usize, log: &str) -> PlatformHints {
    let mut hints = hints("");
    hints.logs.insert(name(at), log.to_owned());
    hints
}

fn pending(trouble: Option<&str>, event: Event) -> PlatformHints {
    let mut hints = hints("");
    hints.pods[5] = Pod {
        ready: false,
        phase: "Pending".into(),
        address: None,
        trouble: trouble.map(str::to_owned),
        ..pod(5)
    };
    hints.events.push(event);
    hints
}

const AS_PUBLISHED: &str = "0:10.244.0.4 1:10.244.0.5 2:10.244.0.6 3:10.244.0.7 4:10.244.0.8 5:fe80::7c2f:e4ff:fe01:a\n\
    Warning: Using a password with '-a' or '-u' option on the command line interface may not be safe.\n\
    Could not connect to Redis at fe80::7c2f:e4ff:fe01:a:6379: Invalid argument\nxxxx.... \nstart save cluster password\n\
    NOAUTH Authentication required.\n\nNOAUTH Authentication required.\n\nend save cluster password\nok......\n";

#[rstest]
#[case::the_address_that_the_published_hook_took(
    never_met(),
    hints(AS_PUBLISHED),
    "",
    "the nodes never met: redis-cluster-5's hook took the address fe80::7c2f:e4ff:fe01:a (IPv6 link-local) for redis-cluster-5: \
     \"Could not connect to Redis at fe80::7c2f:e4ff:fe01:a:6379: Invalid argument\""
)]
#[case::digs_diagnostics(
    never_met(),
    hints(
        "0:;; connection timed out; no servers could be reached 1:10.244.0.5 2: 3:10.244.0.7 4:10.244.0.8 5:10.244.0.9\n\
           Invalid address format: ;;\nxxxx.... \nok......"
    ),
    "",
    "the nodes never met: redis-cluster-5's hook took dig's diagnostic \";; connection timed out; no servers could be reached\" \
     for the address of redis-cluster-0 (and 1 more like it): \"Invalid address format: ;;\""
)]
#[case::names_that_do_not_resolve(
    never_met(),
    hints(
        "0:10.244.0.4 1: 2:10.244.0.6 3:10.244.0.7 4:10.244.0.8 5:10.244.0.9\n\
           Could not connect to Redis at :6379: Name or service not known\nxxxx.... \nok......"
    ),
    "",
    "the nodes never met: redis-cluster-5's hook got no address for redis-cluster-1 (its name did not resolve): \
     \"Could not connect to Redis at :6379: Name or service not known\""
)]
#[case::another_interface(
    never_met(),
    hints(
        "0:10.244.0.4 1:10.244.0.5 2:10.244.0.6 3:10.244.0.7 4:10.244.0.8 5:172.17.0.1\n\
           Could not connect to Redis at 172.17.0.1:6379: Connection refused\nxxxx.... \nok......"
    ),
    "",
    "the nodes never met: redis-cluster-5's hook took the address 172.17.0.1 for redis-cluster-5, whose address is 10.244.0.9: \
     \"Could not connect to Redis at 172.17.0.1:6379: Connection refused\""
)]
#[case::a_loud_bootstrap(
    never_met(),
    hints(
        "2s: waiting, redis-cluster-2: no record\ninit_cluster.sh FAILED: after 61s: redis-cluster-2 (10.244.0.6:6379): no answer"
    ),
    "",
    "the nodes never met: redis-cluster-5's hook says \"init_cluster.sh FAILED: after 61s: redis-cluster-2 (10.244.0.6:6379): no answer\""
)]
#[case::a_quiet_bootstrap(
    never_met(),
    hints("ok......\n"),
    "",
    "the bootstrap ended, but 6 of 6 nodes know only themselves (cluster_known_nodes:1); its log ends \"ok......\""
)]
#[case::no_bootstrap(
    never_met(),
    PlatformHints::default(),
    "",
    "6 of 6 nodes know only themselves (cluster_known_nodes:1): nothing joined them"
)]
#[case::too_little_cpu(
    view((0..5).map(|pod| node(pod, &[pod], &[], &[])).collect()),
    pending(None, event("Pod/redis-cluster-5", "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")), "",
    "the nodes never met: redis-cluster-5 is Pending: 0/1 nodes are available: 1 Insufficient cpu. (FailedScheduling)"
)]
#[case::one_node_alone(
    view((0..6).map(|pod| match pod {
        5 => node(5, &[5], &[], &[]),
        pod => node(pod, &[0, 1, 2, 3, 4], &SLOTS, &[]),
    }).collect()),
    PlatformHints::default(), "",
    "redis-cluster-5 knows only itself (cluster_known_nodes:1)"
)]
#[case::slots_not_assigned(
    view((0..6).map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &[], &[])).collect()), hints("[ERR] Node 10.244.0.4:6379 is not empty."), "",
    "the nodes met, but no slot is assigned: redis-cluster-5's hook says \"[ERR] Node 10.244.0.4:6379 is not empty.\""
)]
#[case::a_replica_that_its_master_refuses(
    master_gone(),
    logged(
        3,
        "1:S * MASTER aborted replication with an error: NOAUTH Authentication required.\n1:S * Connecting"
    ),
    "",
    "slots 0-5460 unserved: master 10.244.0.4 (redis-cluster-0) unreachable since 12.1 s; its replica redis-cluster-3 has its \
     link down: NOAUTH Authentication required."
)]
#[case::a_replica_that_was_refused_once(
    master_gone(),
    logged(3, "1:S * error: NOAUTH x\n1:S * MASTER <-> REPLICA sync: Finished with success\n"),
    "",
    "slots 0-5460 unserved: master 10.244.0.4 (redis-cluster-0) unreachable since 12.1 s; its replica redis-cluster-3 was not \
     promoted (master_link_status:down since 12 s)"
)]
#[case::a_replica_that_is_gone_too(
    ClusterView {
        nodes: [1, 2, 4, 5].map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &SLOTS, &[(0, "fail"), (3, "fail")])).into(),
        silent: vec![refused(0), refused(3)],
    },
    PlatformHints::default(), "",
    "slots 0-5460 unserved: master 10.244.0.4 (redis-cluster-0) unreachable since 12.1 s; its replica redis-cluster-3 does not \
     answer either"
)]
#[case::a_master_not_yet_flagged_and_without_replica(
    ClusterView {
        nodes: [1, 2].map(|pod| node(pod, &[0, 1, 2], &SLOTS, &[])).into(),
        silent: vec![refused(0)],
    },
    PlatformHints::default(), "",
    "slots 0-5460 unserved: master 10.244.0.4 (redis-cluster-0) does not accept connections: Connection refused; it has no replica"
)]
#[case::slots_of_nobody(
    view((0..6).map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &["0-5460", "5461-10900", "10923-16383"], &[])).collect()),
    PlatformHints::default(), "", "slots 10901-10922 unserved: no node owns them"
)]
#[case::a_crash_loop(
    whole(),
    { let mut hints = hints(""); hints.pods[4] = Pod { ready: false, trouble: Some("CrashLoopBackOff: back-off 10s".into()), ..pod(4) }; hints }, "",
    "redis-cluster-4 is Running, not ready: CrashLoopBackOff: back-off 10s"
)]
#[case::no_such_storage_class(
    ClusterView::default(),
    pending(
        None,
        event(
            "PersistentVolumeClaim/data-redis-cluster-5",
            "ProvisioningFailed",
            "storageclass \"x\" not found"
        )
    ),
    "",
    "redis-cluster-5 is Pending: storageclass \"x\" not found (ProvisioningFailed)"
)]
#[case::nobody_answers(
    ClusterView { nodes: vec![], silent: vec![refused(0), refused(1)] }, PlatformHints::default(), "",
    "none of 2 nodes answers: redis-cluster-0 (10.244.0.4:6379): does not accept connections: Connection refused"
)]
#[case::a_link_never_up(
    { let mut view = whole(); link_down(&mut view, 4, "-1"); view }, logged(4, "1:S # Unable to AUTH to MASTER: -WRONGPASS invalid pair"), "",
    "replica redis-cluster-4 has its link to master 10.244.0.5:6379 (redis-cluster-1) down (master_link_status:down, never \
     synchronised): WRONGPASS invalid pair"
)]
#[case::no_address(
    view((0..5).map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &SLOTS, &[(5, "noaddr")])).collect()), PlatformHints::default(), "",
    "redis-cluster-0 knows node 00000000 without an address (noaddr), at :0"
)]
#[case::views_that_differ(
    view((0..6).map(|pod| node(pod, if pod == 5 { &[0, 1, 2, 3, 5] } else { &[0, 1, 2, 3, 4, 5] }, &SLOTS, &[])).collect()),
    PlatformHints::default(), "",
    "the nodes' views disagree: node 00000000: redis-cluster-0 says 10.244.0.8:6379 replica of 00000000, redis-cluster-5 says unknown"
)]
#[case::an_open_node(
    whole(),
    PlatformHints::default(),
    "expected -NOAUTH from every node; saw redis-cluster-3 (10.244.0.7:6379): PING -> +PONG\nredis-cluster-4: PING -> -NOAUTH x",
    "redis-cluster-3 does not ask for a password"
)]
#[case::any_password_will_do(
    whole(),
    PlatformHints::default(),
    "expected -WRONGPASS; saw a: AUTH -> +OK\nb: AUTH -> +OK\nc: AUTH -> +OK",
    "3 nodes (a, b, …) accept a wrong password"
)]
#[case::a_node_without_a_password(
    ClusterView { silent: vec![(member(3), LinkError::Nonsense {
        address: member(3).address, command: "AUTH".into(), reason: "ERR AUTH <password> called without any password configured".into(),
    })], ..whole() },
    PlatformHints::default(), "",
    "redis-cluster-3 does not ask for a password: ERR AUTH <password> called without any password configured"
)]
#[case::the_hooks_error_over_a_whole_cluster(
    whole(),
    hints("NOAUTH Authentication required.\nok......"),
    "expected a log of the bootstrap without errors; saw one",
    "redis-cluster-5's hook says \"NOAUTH Authentication required.\""
)]
fn names_the_cause(#[case] view: ClusterView, #[case] hints: PlatformHints, #[case] failure: &str, #[case] says: &str) {
    pretty_assertions::assert_eq!(cause(Some(&view), SHAPE, &hints, failure).as_deref(), Some(says));
}

#[rstest]
#[case::whole(whole(), hints("NOAUTH\nok......"))]
#[case::nothing_known(ClusterView::default(), PlatformHints::default())]
fn says_nothing_where_nothing_is_found(#[case] view: ClusterView, #[case] hints: PlatformHints) {
    assert_eq!(cause(Some(&view), SHAPE, &hints, "expected 1; saw 2"), None);
    assert_eq!(cause(None, SHAPE, &PlatformHints::default(), "connection closed"), None);
}

#[test]
fn the_suites_own_way_to_a_node_is_no_cause_of_unserved_slots() {
    let mut seen = view((1..6).map(|pod| node(pod, &[0, 1, 2, 3, 4, 5], &SLOTS, &[])).collect());
    let address = member(0).address;
    let reason = "port-forward: 404".into();
    seen.silent
        .push((member(0), LinkError::Unreachable { address, reason }));
    assert_eq!(
        cause(Some(&seen), SHAPE, &PlatformHints::default(), "").unwrap(),
        "redis-cluster-0 (10.244.0.4:6379) cannot be reached by the suite: port-forward: 404"
    );
}
