//! Chapter TOPO: what the nodes know of each other, and the bus.

mod bus;
mod identity;
mod inside;
mod joining;
mod lines;
mod separate;
mod spreading;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::Member;
use crate::context::Context;
use crate::verdict::{Outcome, Stop};
use std::time::Duration;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("TOPO-01"),
        title: "every node has a bus link to and from every other, all connected",
        requirement: "Every node MUST hold one bus link to and one from each of the others, and see all of them `connected`.",
        source: "Redis Cluster specification, section Cluster topology; Redis command page CLUSTER LINKS; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[Capability::Peers],
        features: &[Feature::Bus],
        bound: "2·NT",
        controls: &["forgotten", "frozen", "leftover-line", "other-password"],
        method: "Asks every node for `CLUSTER NODES` and `CLUSTER LINKS` until, within 2·NT, every line's eighth field is \
                 `connected` and there is exactly one link `to` and one link `from` each other node (10 links with 6 \
                 nodes). Where the server does not know `CLUSTER LINKS`, the lines alone are judged, and a note says so.",
        run: |cx| Box::pin(bus::full_mesh(cx)),
    },
    Case {
        id: CaseId("TOPO-02"),
        title: "the bus listens on the client port + 10000, or on cluster-port",
        requirement: "The bus port MUST be the client port (with `tls-cluster yes` that of TLS) + 10000, or what `cluster-port` \
                      says, and be announced to all.",
        source: "seed line 16; Redis Cluster specification, section The cluster bus",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Bus],
        bound: "-",
        controls: &["bus-on-client-port", "frozen", "no-bus-port", "other-password"],
        method: "Reads `ip:port@cport` of every line of `CLUSTER NODES` on every node: cport must be what `CONFIG GET` gives for \
                 `cluster-announce-bus-port` or `cluster-port`, else for `tls-port` with `tls-cluster yes` and for `port` without \
                 it, + 10000; the port that the line shows, which may be the other one, + 10000 only where `CONFIG GET` gives \
                 none of these. Then opens each bus port: it must not \
                 refuse. It is not opened where only addresses are known, since a firewall may well stand before it.",
        run: |cx| Box::pin(bus::bus_port(cx)),
    },
    inside::PODS_REACH_EACH_OTHER,
    Case {
        id: CaseId("TOPO-04"),
        title: "the bus port answers no command of a client",
        requirement: "The bus port MUST NOT answer the commands of clients.",
        source: "seed line 18; Redis Cluster specification, section The cluster bus",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Bus],
        bound: "-",
        controls: &["bus-on-client-port", "frozen", "no-bus-port", "other-password"],
        method: "Sends `PING` to the bus port that each node announces, as a line and as an array: nothing may come back (no \
                 `+PONG`, no error), and the connection may end. Afterwards `PING` on the client port must answer `+PONG`.",
        run: |cx| Box::pin(bus::bus_is_not_for_clients(cx)),
    },
    Case {
        id: CaseId("TOPO-05"),
        title: "servers that meet in a chain find each other",
        requirement: "Joining in a chain (the first meets the second, the second the third) MUST give a full mesh.",
        source: "Redis Cluster specification, section Node handshake",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[],
        bound: "2·NT + 5 s",
        controls: &["scratch-bus-astray"],
        method: "Starts three servers beside the deployment, sends `CLUSTER MEET` to the first about the second and to the second \
                 about the third (`+OK`), and waits until `CLUSTER NODES` of each shows all three `connected`.",
        run: |cx| Box::pin(joining::discovery(cx)),
    },
    Case {
        id: CaseId("TOPO-06"),
        title: "a node keeps its id over a restart, another role and another address",
        requirement: "A node id MUST NOT change over a restart, a change of address or a change of role.",
        source: "Redis Cluster specification, section Cluster node attributes",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway, Capability::Replicas, Capability::Shards],
        features: &[Feature::Wait],
        bound: "-",
        controls: &["identity-lost"],
        method: "Compares every node's own id before and after the failover of FAIL-02 (a master is stopped and comes back as a \
                 replica, its replica becomes the master), and before and after the change of address of NET-06 where \
                 the target can make one; a note says where it cannot.",
        run: |cx| Box::pin(identity::ids_stay(cx)),
    },
    Case {
        id: CaseId("TOPO-07"),
        title: "no node's current epoch ever falls",
        requirement: "`cluster_current_epoch` MUST NOT decrease on any node, also over restarts.",
        source: "Redis Cluster specification, section Cluster current epoch",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway, Capability::Replicas, Capability::Shards],
        features: &[Feature::Wait],
        bound: "-",
        controls: &["epoch-falls"],
        method: "Compares `cluster_current_epoch` of every node before, during and after the failover of FAIL-02, and the last \
                 before with the first after the change of address of NET-06 where the target can make one; a note \
                 says where it cannot.",
        run: |cx| Box::pin(identity::epochs_stay(cx)),
    },
    Case {
        id: CaseId("TOPO-08"),
        title: "no node's table holds a leftover or a failing node",
        requirement: "In steady state a line of `CLUSTER NODES` MUST NOT carry `handshake`, `noaddr`, `fail`, `fail?` or `noflags`.",
        source: "Redis command page CLUSTER NODES; measured on 7.0.15 after the loss of a volume: `:0@0 slave,noaddr`",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Bus],
        bound: "2·NT",
        controls: &["frozen", "leftover-line", "other-password"],
        method: "Reads the flags of every line of `CLUSTER NODES` on every node until none of the five is there, for at most 2·NT: a \
                 failure that has just healed takes so long to be forgotten.",
        run: |cx| Box::pin(lines::no_leftovers(cx)),
    },
    inside::POD_ADDRESSES,
    Case {
        id: CaseId("TOPO-10"),
        title: "every line of CLUSTER NODES has the documented form",
        requirement: "Every line of `CLUSTER NODES` MUST have the eight documented fields and then slots, where more after the bus \
                      port is allowed.",
        source: "Redis command page CLUSTER NODES, section Serialization format",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "no-bus-port", "other-password"],
        method: "Takes apart every line on every node: `<id> <ip:port@cport[,hostname[,key=value]]> <flags> <master> <ping> <pong> \
                 <epoch> <link> <slot>...`, with ids of 40 hexadecimal digits, one of the flags master and slave, numbers \
                 where numbers belong; and exactly one line flagged `myself`.",
        run: |cx| Box::pin(lines::node_lines(cx)),
    },
    Case {
        id: CaseId("TOPO-11"),
        title: "CLUSTER INFO has every documented field on every node",
        requirement: "`CLUSTER INFO` MUST contain the state, the four counts of slots, the known nodes, the size, both epochs and \
                      the counts of messages.",
        source: "Redis command page CLUSTER INFO",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "my-epoch-missing", "other-password"],
        method: "Asks every node: `cluster_state` is `ok` or `fail`; `cluster_slots_assigned`, `_ok`, `_pfail`, `_fail`, \
                 `cluster_known_nodes`, `cluster_size`, `cluster_current_epoch`, `cluster_my_epoch`, \
                 `cluster_stats_messages_sent` and `_received` are numbers. Further fields are no fault.",
        run: |cx| Box::pin(lines::info_fields(cx)),
    },
    Case {
        id: CaseId("TOPO-12"),
        title: "the nodes ping each other all the time",
        requirement: "The counts of pings and pongs, sent and received, MUST grow on every node.",
        source: "Redis Cluster specification, section Heartbeat and gossip messages",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[Capability::Peers],
        features: &[Feature::Bus],
        bound: "T_stable",
        controls: &["frozen", "gossip-stuck", "other-password"],
        method: "Asks every node for `cluster_stats_messages_ping_sent`, `_ping_received`, `_pong_sent` and `_pong_received` of \
                 `CLUSTER INFO` until each has grown since the first look, for at most T_stable: a node pings another every \
                 second, and each at least every NT/2.",
        run: |cx| Box::pin(bus::gossip_lives(cx)),
    },
    Case {
        id: CaseId("TOPO-13"),
        title: "two clusters in one network stay two, whoever gets whose address",
        requirement: "Two clusters in one network MUST NEVER merge, also when servers come back at addresses that the other's servers had.",
        source: "Redis Cluster specification, section Node handshake: only MEET, and gossip of a known node, make a node known; \
                 redis/redis issues 6174 and 7287; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::SwapAddresses],
        features: &[],
        bound: "10 cycles, each within T_sched + T_heal",
        controls: &["clusters-introduced", "other-cluster-answers"],
        method: "Makes two clusters of three masters with a replica each in one network beside the deployment, with one password and the \
                 same keys with values of their own. Ten times a server of each is killed and both come back with each other's \
                 addresses, masters and replicas in turn. At every look each node must know the six ids of its own cluster and \
                 no other; after each time both must serve again with all their nodes, each where it now is, and every node \
                 answer with its own cluster's values. Epochs are not judged: 7.0.15 takes some of the other cluster's, and a note says so. (A replica follows whoever is at its \
                 master's old address until it hears of its own master again, and serves the other cluster's data for ever if it is elected before: \
                 seen on 7.0.15, on a machine so slow that the master was away for longer than the node-timeout.) No `CLUSTER MEET` is pending meanwhile: one to an address that has changed hands does merge \
                 two clusters, since the bus has no password.",
        run: |cx| Box::pin(separate::stay_separate(cx)),
    },
    Case {
        id: CaseId("TOPO-14"),
        title: "MYID is a node's own id, MYSHARDID the same for a master and its replicas",
        requirement: "`CLUSTER MYID` MUST be the id of a node's own line, and `CLUSTER MYSHARDID` (Redis 7.2 and later) be equal for \
                      a master and its replicas.",
        source: "Redis command pages CLUSTER MYID and CLUSTER MYSHARDID",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::MyId],
        bound: "-",
        controls: &["frozen", "id-denied", "id-given-twice", "other-password"],
        method: "Compares `CLUSTER MYID` with the line flagged `myself` on every node; then `CLUSTER MYSHARDID` of each master with \
                 that of its replicas, which must be equal, and with the other shards', which must differ. Where the \
                 server does not know `MYSHARDID`, a note says so.",
        run: |cx| Box::pin(identity::ids_and_shards(cx)),
    },
    Case {
        id: CaseId("TOPO-15"),
        title: "CLUSTER MEET refuses a bad address",
        requirement: "`CLUSTER MEET` MUST refuse an address that is none, or a port that is none.",
        source: "Redis command page CLUSTER MEET; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Meet],
        bound: "-",
        controls: &["frozen", "meets-anybody", "other-password"],
        method: "Sends `CLUSTER MEET notanip 6379` and `CLUSTER MEET 192.0.2.1 99999` to every node: each must answer `-ERR` (Redis: \
                 `-ERR Invalid node address specified: notanip:6379`), and `CLUSTER NODES` must not show such a node.",
        run: |cx| Box::pin(joining::bad_addresses(cx)),
    },
    Case {
        id: CaseId("TOPO-16"),
        title: "a new owner of slots is known to every node within the node-timeout",
        requirement: "A changed owner of slots MUST be visible on all nodes within the node-timeout.",
        source: "Redis Cluster specification, section Hash slots configuration propagation",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::Replicas],
        features: &[Feature::Bus, Feature::ManualFailover],
        bound: "T_gossip",
        controls: &["promotion-unseen"],
        method: "Sends `CLUSTER FAILOVER` to a replica (`+OK`). From the moment at which it says that the slots are its own, every \
                 node's `CLUSTER NODES` must give them to it within T_gossip. Then the roles are swapped back.",
        run: |cx| Box::pin(spreading::owner_spreads(cx)),
    },
    Case {
        id: CaseId("TOPO-17"),
        title: "all nodes run under the same cluster settings",
        requirement: "All nodes SHOULD run under the same settings of the cluster, of persistence and of memory.",
        source: "seed lines 52-64: one ConfigMap for all pods; Redis Cluster tutorial, section Creating a Redis Cluster",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[Capability::Peers],
        features: &[Feature::Config],
        bound: "-",
        controls: &[
            "aof-missing-on-one",
            "frozen",
            "late-return",
            "never-replaced",
            "no-endpoint",
            "other-password",
        ],
        method: "Compares `CONFIG GET cluster-*`, `appendonly` and `maxmemory*` of all nodes. What each node announces \
                 (`cluster-announce-*`), `cluster-port` and `cluster-config-file` are its own, and are left out. \
                 What no node knows of these is no setting: a note says so.",
        run: |cx| Box::pin(spreading::same_settings(cx)),
    },
];

/// Asks every node one question again and again until, within `bound`, no answer holds a finding.
async fn settled<F>(cx: &Context, what: &str, bound: Duration, question: F) -> Outcome
where
    F: AsyncFn(&Member, &mut Connection) -> Result<Vec<String>, Stop>,
{
    eventually(cx, what, bound, async || {
        let answers = cx.on_every_node(async |member, connection| question(member, connection).await);
        let findings: Vec<String> = answers.await?.into_iter().flatten().collect();
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}
