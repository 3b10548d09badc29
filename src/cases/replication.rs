//! Chapter REPL: every master has its replicas, every replica follows its master, and both say so.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};

mod losing;
pub(super) mod pairing;
mod reading;
use losing::*;
use pairing::*;
use reading::*;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("REPL-01"),
        title: "every node sees each master with exactly its replicas",
        requirement: "There MUST be exactly the declared number of slot-owning masters and of replicas (seed: 3 and \
                      3), each master having exactly its share (seed: 1).",
        source: "seed lines 63 and 103; Redis command page CLUSTER NODES",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["forgotten", "frozen", "other-password", "uneven-replicas"],
        method: "Counts on every node's `CLUSTER NODES`, leaving out lines flagged `fail`, `noaddr` or `handshake`: \
                 lines flagged `master` with slots, lines flagged `slave`, and how often each master's id is named \
                 as a master.",
        run: |cx| Box::pin(three_and_three(cx)),
    },
    Case {
        id: CaseId("REPL-02"),
        title: "every replica replicates a master, never a replica",
        requirement: "A replica MUST replicate a master, never a replica.",
        source: "Redis command pages CLUSTER REPLICATE and ROLE",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "links-down",
            "other-password",
            "role-denied",
            "second-address",
        ],
        method: "Asks every node for `ROLE`. As many as the deployment has replicas must answer `[\"slave\", ip, \
                 port, \"connected\", offset]`, and the server at that address must answer `ROLE` as a master.",
        run: |cx| Box::pin(no_chains(cx)),
    },
    Case {
        id: CaseId("REPL-03"),
        title: "every replica's link is up, seen from both ends",
        requirement: "Every replica MUST show `master_link_status:up`, and every master its number of \
                      `connected_slaves` (seed: 1), all with `state=online`.",
        source: "Redis command page INFO, section Replication; seed line 63",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "T_sync",
        controls: &["frozen", "links-down", "other-password", "uneven-replicas"],
        method: "Asks every node for `INFO replication` until all show it, for at most T_sync: \
                 `master_link_status:up` on replicas; `connected_slaves` and as many lines `slaveN:...,state=online` \
                 on masters.",
        run: |cx| Box::pin(links_up(cx)),
    },
    Case {
        id: CaseId("REPL-04"),
        title: "CLUSTER NODES, ROLE and INFO replication agree on every pair",
        requirement: "`CLUSTER NODES`, `ROLE` and `INFO replication` MUST agree on every pair of master and replica.",
        source: "Redis command pages CLUSTER NODES, ROLE and INFO",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "forgotten",
            "frozen",
            "links-down",
            "other-password",
            "role-denied",
            "second-address",
        ],
        method: "Takes each replica's master from its own line of `CLUSTER NODES`. Every other node's `CLUSTER \
                 NODES`, the replica's `ROLE` and `master_host:master_port`, and the master's `ROLE` and `slaveN` \
                 lines must name the same pair, and no other.",
        run: |cx| Box::pin(three_sources(cx)),
    },
    Case {
        id: CaseId("REPL-05"),
        title: "after writes stop, every replica reaches its master's offset",
        requirement: "After writes stop, the offset of every replica MUST reach its master's.",
        source: "Redis command page INFO, section Replication; Redis Cluster tutorial, Upgrade nodes in a Redis \
                 Cluster",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "T_catch_up",
        controls: &[
            "frozen",
            "hang-up",
            "links-down",
            "master-down",
            "no-readonly",
            "offset-missing",
            "offset-stuck",
            "other-password",
            "replica-holds-nothing",
        ],
        method: "Writes 1000 times to one key of every shard (each `+OK`), reads `master_repl_offset`, which must \
                 have grown, and asks each replica until `slave_repl_offset` is at least that, for at most \
                 T_catch_up; the last value must be read there (`READONLY`, `GET`).",
        run: |cx| Box::pin(offsets_converge(cx)),
    },
    Case {
        id: CaseId("REPL-06"),
        title: "after READONLY a replica serves reads of its master's slots",
        requirement: "After `READONLY` a replica MUST serve reads of its master's slots.",
        source: "Redis Cluster specification, section Scaling reads using replica nodes",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "T_visible",
        controls: &[
            "frozen",
            "hang-up",
            "links-down",
            "master-down",
            "no-readonly",
            "other-password",
            "replica-holds-nothing",
        ],
        method: "On every replica: `READONLY` -> `+OK`; a key is written on its master, and `GET` on the replica \
                 must give the value within T_visible of the write's reply.",
        run: |cx| Box::pin(readonly_reads(cx)),
    },
    Case {
        id: CaseId("REPL-07"),
        title: "without READONLY a replica redirects to its master",
        requirement: "Without `READONLY` a replica MUST answer a keyed command with MOVED to its master.",
        source: "Redis Cluster specification, section Scaling reads using replica nodes",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "moved-other-slot",
            "no-endpoint",
            "other-password",
            "replica-redirects-nothing",
            "second-address",
        ],
        method: "On every replica, over a new connection: `GET` of a key in a slot of its master must answer exactly \
                 `-MOVED <slot> <master's address>`.",
        run: |cx| Box::pin(redirects_by_default(cx)),
    },
    Case {
        id: CaseId("REPL-09"),
        title: "no write is executed on a replica",
        requirement: "A write on a replica MUST be redirected even in READONLY mode, and a write without keys be \
                      refused with READONLY.",
        source: "Redis Cluster specification, section Scaling reads using replica nodes",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "moved-other-slot",
            "no-endpoint",
            "no-readonly",
            "other-password",
            "readonly-takes-all",
            "replica-redirects-nothing",
            "second-address",
        ],
        method: "On every replica, after `READONLY`: `SET` and `DEL` of a key in a slot of its master -> `-MOVED \
                 <slot> <master's address>`, `GET` of it -> nil, and `SWAPDB 0 0` -> `-READONLY`: a write without \
                 keys that changes nothing where it is wrongly executed, unlike FLUSHALL. Where the server does not \
                 know `SWAPDB`, a note says so.",
        run: |cx| Box::pin(writes_refused(cx)),
    },
    Case {
        id: CaseId("REPL-10"),
        title: "a READONLY replica redirects reads of other shards",
        requirement: "A READONLY replica MUST answer MOVED for slots of another master.",
        source: "Redis Cluster specification, section Scaling reads using replica nodes",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "moved-other-slot",
            "no-endpoint",
            "no-readonly",
            "other-password",
            "readonly-takes-all",
            "replica-redirects-nothing",
            "second-address",
        ],
        method: "On every replica, after `READONLY`: `GET` of a key in a slot of each other master must answer \
                 exactly `-MOVED <slot> <that master's address>`.",
        run: |cx| Box::pin(foreign_slots_redirected(cx)),
    },
    Case {
        id: CaseId("REPL-16"),
        title: "losing a replica stops no write and keeps every node's state ok",
        requirement: "Failure of a replica MUST NOT stop reads or writes on any shard.",
        source: "Redis Cluster specification, section Availability; seed line 63",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "no failed write (through an API server: none refused, no shard silent for T_reply); flag `fail` within T_fail",
        controls: &[],
        method: "Keeps one replica away for longer than T_fail, with a continuous writer on every shard. No owner \
                 may refuse a write, no shard may be silent while others are served, every other node must say `cluster_state:ok` throughout, and all of them must flag the \
                 replica `fail` within T_fail.",
        run: |cx| Box::pin(replica_lost(cx)),
    },
    Case {
        id: CaseId("REPL-17"),
        title: "a restarted replica comes back with its link up",
        requirement: "A restarted replica MUST reconnect to its master and reach `master_link_status:up`.",
        source: "Redis Cluster tutorial, Test the failover; Redis command page INFO, section Replication",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_sched + T_sync",
        controls: &[],
        method: "Restarts one replica gracefully. A new process (another `run_id`) with the same node id must answer \
                 as a replica with `master_link_status:up`, and its master list it with `state=online`, within \
                 T_sched + T_sync.",
        run: |cx| Box::pin(replica_returns(cx)),
    },
    Case {
        id: CaseId("REPL-24"),
        title: "every master has an online replica again after a failure has healed",
        requirement: "After any single failure has healed, every master MUST again have at least one online replica.",
        source: "seed line 63; Redis Cluster specification, section Availability",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2, Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_sched + T_sync + NT",
        controls: &[],
        method: "Restarts one replica gracefully and asks every node until each master that owns slots lists a \
                 replica with `state=online`, and that replica shows `master_link_status:up`, within T_sched + \
                 T_sync + NT.",
        run: |cx| Box::pin(protected_again(cx)),
    },
];
