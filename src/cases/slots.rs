//! Chapter SLOT: every slot is assigned, served, and seen the same by every node.

mod assigning;
mod keys;
mod lost;
mod maps;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};

pub(super) use maps::boundary_slots;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("SLOT-01"),
        title: "every node reports all 16384 slots assigned",
        requirement: "Every node MUST report `cluster_slots_assigned:16384`.",
        source: "Redis command page CLUSTER INFO; seed line 41",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "master-down", "other-password", "slot-deleted"],
        method: "Asks every node for `CLUSTER INFO` and expects the line `cluster_slots_assigned:16384`.",
        run: |cx| Box::pin(maps::all_slots_assigned(cx)),
    },
    Case {
        id: CaseId("SLOT-02"),
        title: "every node reports all 16384 slots ok, none failing",
        requirement: "In steady state every node MUST report `cluster_slots_ok:16384`, `cluster_slots_pfail:0` and \
                      `cluster_slots_fail:0`.",
        source: "Redis command page CLUSTER INFO",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Bus],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "other-password",
            "slot-deleted",
            "slot-failing",
        ],
        method: "Asks every node for `CLUSTER INFO` and expects the three lines `cluster_slots_ok:16384`, \
                 `cluster_slots_pfail:0`, `cluster_slots_fail:0`.",
        run: |cx| Box::pin(maps::all_slots_ok(cx)),
    },
    Case {
        id: CaseId("SLOT-03"),
        title: "the masters' ranges cover every slot exactly once",
        requirement: "The slot ranges of the masters MUST cover 0 to 16383 exactly once, with no hole and no overlap.",
        source: "Redis Cluster specification, section Key distribution model; seed lines 43-47",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "other-password",
            "slot-deleted",
            "slots-cut-short",
        ],
        method: "Spreads the reply of `CLUSTER SLOTS` of every node over an array of 16384 entries; each entry must be \
                 set exactly once. The ranges that each master claims on its own line of `CLUSTER NODES` likewise.",
        run: |cx| Box::pin(maps::exact_partition(cx)),
    },
    Case {
        id: CaseId("SLOT-04"),
        title: "CLUSTER SLOTS, SHARDS and NODES give the same slot map on every node",
        requirement: "`CLUSTER SLOTS`, `CLUSTER SHARDS` (Redis 7.0 and later) and `CLUSTER NODES` MUST describe the \
                      same slot map.",
        source: "Redis command pages CLUSTER SLOTS, CLUSTER SHARDS, CLUSTER NODES",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "other-password",
            "replica-with-slots",
            "slot-deleted",
            "slots-cut-short",
        ],
        method: "Makes an array of 16384 owners of each of the three replies of every node; all arrays must be equal. \
                 The order of the replies does not count. Where the server does not know `CLUSTER SHARDS`, the other \
                 two are compared, and a note says so.",
        run: |cx| Box::pin(maps::three_commands_agree(cx)),
    },
    Case {
        id: CaseId("SLOT-05"),
        title: "the slots are divided evenly, as `redis-cli --cluster create` divides them",
        requirement: "A cluster that was made at once SHOULD have its slots divided evenly: 0-5460, 5461-10922 and \
                      10923-16383 for three masters.",
        source: "redis-cli source, clusterManagerCommandCreate; measured on 7.0.15; seed lines 43-47 give another \
                 split as an illustration",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &["frozen", "master-down", "other-password", "slot-deleted", "slot-moved"],
        method: "Takes the ranges of the masters from `CLUSTER NODES` of every node, and expects those of the even \
                 split over as many masters. Another split that is exact breaks nothing: the case is a SHOULD.",
        run: |cx| Box::pin(assigning::even_split(cx)),
    },
    Case {
        id: CaseId("SLOT-06"),
        title: "a key in each boundary slot is written and read on its owner",
        requirement: "A write and a read of a key in each boundary slot MUST succeed on the slot's owner.",
        source: "Redis Cluster specification, section Key distribution model",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "T_reply",
        controls: &["frozen", "hang-up", "last-slot-lost", "master-down", "other-password"],
        method: "For slots 0, 5460, 5461, 10922, 10923, 16383 and both ends of every range that a master owns: `SET` on \
                 the owner must answer `+OK`, and `GET` the value, each within T_reply.",
        run: |cx| Box::pin(maps::boundary_slots_served(cx)),
    },
    Case {
        id: CaseId("SLOT-07"),
        title: "a key in every slot is written on its owner",
        requirement: "A command about a key of any slot MUST be executed by the node that is listed as its owner, with no \
                      redirection and no refusal.",
        source: "Redis Cluster specification, section Key distribution model",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "T_reply for a batch",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "slot-deleted",
            "slot-refused",
        ],
        method: "Sends `SET` of one key in each of the 16384 slots to the master that claims the slot, in batches, and \
                 expects `+OK` for each. The keys live for a millisecond.",
        run: |cx| Box::pin(keys::every_slot_served(cx)),
    },
    Case {
        id: CaseId("SLOT-08"),
        title: "no replica is shown with slots",
        requirement: "Lines of replicas in `CLUSTER NODES` MUST list no slots.",
        source: "Redis command page CLUSTER NODES",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[Capability::Replicas],
        features: &[],
        bound: "-",
        controls: &["forgotten", "frozen", "other-password", "replica-with-slots"],
        method: "Reads every line of `CLUSTER NODES` on every node: only lines flagged `master` may end in slots, and as \
                 many lines as the deployment has replicas must be flagged `slave`.",
        run: |cx| Box::pin(maps::only_masters_own_slots(cx)),
    },
    Case {
        id: CaseId("SLOT-09"),
        title: "no node holds an open slot",
        requirement: "In steady state a node MUST NOT show a migrating `[n->-id]` or importing `[n-<-id]` entry.",
        source: "Redis command page CLUSTER NODES, section Special slot entries",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::SetSlot],
        bound: "-",
        controls: &["frozen", "open-slot", "other-password"],
        method: "Reads the line flagged `myself` of `CLUSTER NODES` on every node, since open slots are known to their \
                 own node only; it must hold no entry in brackets.",
        run: |cx| Box::pin(maps::no_open_slots(cx)),
    },
    Case {
        id: CaseId("SLOT-10"),
        title: "with full coverage required a lost shard stops key commands everywhere",
        requirement: "With `cluster-require-full-coverage yes` the loss of one whole shard MUST stop key commands on all nodes.",
        source: "seed lines 61 and 67; Redis Cluster tutorial, section Redis Cluster configuration parameters; measured on 7.0.15: \
                 after 4.8 s with NT 3 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A1, Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway, Capability::Replicas, Capability::Shards],
        features: &[Feature::Bus, Feature::Config, Feature::Wait],
        bound: "T_fail",
        controls: &["coverage-lifted", "failed-slots-uncounted"],
        method: "Takes a master and all its replicas away together: killed, where the target can, else stopped. Every survivor must answer `SET` and `GET` of keys of every shard with \
                 `-CLUSTERDOWN`, and all the same `PING` with `+PONG`, `CLUSTER NODES` with its table, and count the shard's slots in \
                 `cluster_slots_fail`. The setting is `yes` for that time, whatever the deployment says, and then as it was.",
        run: |cx| Box::pin(lost::covered(cx)),
    },
    Case {
        id: CaseId("SLOT-11"),
        title: "without full coverage the other shards go on when one is lost",
        requirement: "With `cluster-require-full-coverage no` the surviving shards MUST go on serving, and lost slots answer MOVED to their owner.",
        source: "Redis Cluster tutorial, section Redis Cluster configuration parameters; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway, Capability::Replicas, Capability::Shards],
        features: &[Feature::Bus, Feature::Config, Feature::Wait],
        bound: "T_back",
        controls: &["coverage-kept"],
        method: "In the outage of SLOT-10 `CONFIG SET cluster-require-full-coverage no` is sent to every survivor. `SET` of a key of every \
                 other shard must then get `+OK` from its owner, and `GET` of a key of the lost one `-MOVED <slot> <its master's address>`, or its \
                 announced host name, from every survivor. The setting is as it was afterwards.",
        run: |cx| Box::pin(lost::uncovered(cx)),
    },
    Case {
        id: CaseId("SLOT-12"),
        title: "commands that assign slots refuse invalid use",
        requirement: "Commands that assign slots MUST refuse a slot that is taken, a slot that does not exist, and a slot \
                      that is given twice, and change nothing.",
        source: "Redis command pages CLUSTER ADDSLOTS, CLUSTER DELSLOTS; Redis tests, \
                 unit/cluster/multi-slot-operations; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::SlotAssignment],
        bound: "-",
        controls: &["frozen", "other-password", "slot-taken-twice"],
        method: "Sends to every node `CLUSTER ADDSLOTS` of a slot that has an owner, of 16384 and of -1, and to every \
                 master `CLUSTER DELSLOTS n n` of one of its own slots: each must be answered with `-ERR …`, and the \
                 node must claim the same slots as before.",
        run: |cx| Box::pin(assigning::invalid_use_refused(cx)),
    },
    Case {
        id: CaseId("SLOT-13"),
        title: "a node counts and lists the keys that it holds itself, and no others",
        requirement: "`CLUSTER COUNTKEYSINSLOT` and `CLUSTER GETKEYSINSLOT` MUST show the keys of the node that is asked, \
                      and those alone.",
        source: "Redis command pages CLUSTER COUNTKEYSINSLOT, CLUSTER GETKEYSINSLOT; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1, Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::SlotKeys],
        bound: "T_visible",
        controls: &[
            "frozen",
            "hang-up",
            "keys-counted-elsewhere",
            "keys-refused",
            "keys-unnamed",
            "master-down",
            "other-password",
        ],
        method: "Writes a key to each master. Its owner must list it with `CLUSTER GETKEYSINSLOT` and count as many \
                 as it lists; every other master must answer `:0` and an empty list for that slot, and `-ERR …` for \
                 slot 16384.",
        run: |cx| Box::pin(keys::own_keys_counted(cx)),
    },
    Case {
        id: CaseId("SLOT-14"),
        title: "a key in a slot without an owner is refused, whatever the coverage setting",
        requirement: "A key in a slot that has no owner MUST be refused with `-CLUSTERDOWN Hash slot not served`, whether \
                      or not full coverage is required.",
        source: "Redis source, getNodeByQuery; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::Config],
        bound: "T_fail",
        controls: &["unowned-slot-served"],
        method: "Takes a slot from every node of a cluster beside the deployment with `CLUSTER DELSLOTS`. `GET` and \
                 `SET` of a key in it must get `-CLUSTERDOWN … not served` from every node, with \
                 `cluster-require-full-coverage yes`; and again with `no`, while a key of another slot is written.",
        run: |cx| Box::pin(assigning::unowned_slot_refused(cx)),
    },
    Case {
        id: CaseId("SLOT-15"),
        title: "keys spread over the masters as the slots do",
        requirement: "Keys SHOULD spread over the masters in proportion to the slots that these own.",
        source: "Redis Cluster specification, section Key distribution model",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &["frozen", "hang-up", "keys-drawn", "master-down", "other-password"],
        method: "Asks the masters in turn for 3000 keys that differ in a number, with `GET`; each is executed, or \
                 redirected with `-MOVED` to the master that has it. The share of each master must be within 3 \
                 percentage points of its share of the slots.",
        run: |cx| Box::pin(keys::even_spread(cx)),
    },
    Case {
        id: CaseId("SLOT-16"),
        title: "the slot map is the same after all servers were killed at once",
        requirement: "The slot map MUST be the same before and after all servers are killed and start again.",
        source: "Redis Cluster specification, section Cluster nodes attributes (nodes.conf); measured on 7.0.15: identical, after 2.1 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[],
        bound: "T_sched + T_w + 1 s",
        controls: &["killed-without-nodes-conf"],
        method: "Kills every server at once; their platform starts them again. Every node must then claim the slots of before, under the id of \
                 before, and be shown with them by every other node.",
        run: |cx| Box::pin(lost::map_after_crash(cx)),
    },
    Case {
        id: CaseId("SLOT-17"),
        title: "CLUSTER SHARDS lists every node once, and one master in each shard",
        requirement: "`CLUSTER SHARDS` MUST list every node in exactly one shard, and one master in each shard.",
        source: "Redis command page CLUSTER SHARDS; Redis tests, unit/cluster/cluster-shards",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1, Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::ClusterShards],
        bound: "-",
        controls: &["forgotten", "frozen", "node-in-two-shards", "other-password"],
        method: "Reads `CLUSTER SHARDS` on every node: as many different nodes as the deployment has, none listed \
                 twice; in each shard one `role` is `master`, all others `replica`; `health` is `online`, `loading`, \
                 `fail` or `failed`.",
        run: |cx| Box::pin(maps::sane_shards(cx)),
    },
];
