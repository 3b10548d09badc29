//! Chapter SHARD: slots that move, nodes that join and leave.

mod halfway;
mod joining;
mod moving;
mod repairing;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::cluster::view::Shape;
use crate::context::{Context, Scratch};
use std::time::Duration;

/// Servers beside the deployment, few and with a short node-timeout: masters without replicas, and servers that have
/// joined nothing.
pub(crate) fn beside(cx: &Context, masters: usize, spare: usize) -> Scratch {
    Scratch {
        shape: Shape {
            masters,
            replicas_per_master: 0,
        },
        spare,
        node_timeout: Duration::from_secs(2),
        ..cx.scratch_like_the_deployment()
    }
}

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("SHARD-01"),
        title: "slots move under write load without a failed write",
        requirement: "Moving slots under write load MUST NOT cause failed operations for a client that follows \
                      redirections.",
        source: "seed lines 49-51; Redis Cluster tutorial, section Reshard the cluster; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "-",
        controls: &["given-slots-unserved"],
        method: "Moves up to 100 empty slots from one master to another and back, by SETSLOT and MIGRATE, while a \
                 writer appends to lists in ten of them; it follows MOVED and ASK. No write may be refused or \
                 unanswered, each list must be written at the new owner, and every acknowledged number must be \
                 there. The speed is reported, not judged.",
        run: |cx| Box::pin(moving::live(cx)),
    },
    Case {
        id: CaseId("SHARD-02"),
        title: "a reshard neither loses nor doubles a key, nor alters its time to live",
        requirement: "After a reshard every key MUST exist exactly once, with its value and its time to live.",
        source: "Redis command pages CLUSTER SETSLOT and MIGRATE",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "-",
        controls: &["given-slots-unserved", "life-forgotten"],
        method: "Writes 10 keys to each of up to 100 empty slots, every second one with an hour to live, and moves \
                 the slots to another master: there `GET` gives every value, `PTTL` what is left to within a second, \
                 and COUNTKEYSINSLOT says that the old owner has none. The slots are then moved back.",
        run: |cx| Box::pin(moving::keys_kept(cx)),
    },
    Case {
        id: CaseId("SHARD-03"),
        title: "a reshard moves exactly the slots asked for, on every node's account",
        requirement: "After n slots were moved, every node MUST count n slots fewer for the old owner, n more for \
                      the new one, and 16384 in all.",
        source: "Redis Cluster tutorial, section Reshard the cluster",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::SetSlot],
        bound: "T_gossip",
        controls: &["slots-seen-as-made"],
        method: "Moves up to 100 empty slots from one master to another and counts both masters' slots in `CLUSTER \
                 NODES` of every node, within T_gossip after the last step. The slots are then moved back.",
        run: |cx| Box::pin(moving::counts_move(cx)),
    },
    Case {
        id: CaseId("SHARD-04"),
        title: "a new master joins without slots, and counts once it owns some",
        requirement: "`add-node` MUST join a master without slots, which counts for elections only once it owns \
                      some.",
        source: "Redis Cluster tutorial, section Add a new node",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec],
        features: &[Feature::SetSlot],
        bound: "2·NT",
        controls: &["size-stuck"],
        method: "On three masters of its own, `redis-cli --cluster add-node` joins a fourth server: within 2·NT \
                 every node says `cluster_known_nodes:4` and `cluster_size:3`. Three slots are moved to it: \
                 `cluster_size:4` on every node.",
        run: |cx| Box::pin(joining::empty_master(cx)),
    },
    Case {
        id: CaseId("SHARD-05"),
        title: "a replica joins the master named, or one that has the fewest",
        requirement: "`add-node` of a replica MUST attach it to the master named, or else to a master with the \
                      fewest replicas.",
        source: "Redis Cluster tutorial, section Add a new node as a replica",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A2],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec],
        features: &[],
        bound: "2·NT + T_sync",
        controls: &["last-server-locked-out"],
        method: "On three masters of its own, `redis-cli --cluster add-node … --cluster-slave` (`--cluster-replica` \
                 where that is the word) joins a server to a master named by its id, then another with none named: \
                 each must become a replica with its link up, the second one of a master that had none.",
        run: |cx| Box::pin(joining::new_replica(cx)),
    },
    Case {
        id: CaseId("SHARD-06"),
        title: "a node that owns slots cannot be removed",
        requirement: "`del-node` MUST refuse to remove a node that owns slots.",
        source: "seed line 49; Redis Cluster tutorial, section Remove a node",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec],
        features: &[],
        bound: "-",
        controls: &["tool-removes-anything"],
        method: "On three masters of its own, `redis-cli --cluster del-node` of one: status 1 and `… is not empty! \
                 Reshard data away and try again.`, and every node still knows it.",
        run: |cx| Box::pin(joining::full_node_stays(cx)),
    },
    Case {
        id: CaseId("SHARD-07"),
        title: "a node stays away only when all forget it",
        requirement: "A node that every other node forgot within the ban MUST stay away, and one that a single node \
                      forgot MUST NOT stay unknown to that node alone.",
        source: "Redis Cluster specification, section Removing nodes from a cluster; Redis command page CLUSTER \
                 FORGET; Redis source, CLUSTER_BLACKLIST_TTL",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[],
        bound: "T_ban",
        controls: &["forgotten-lingers"],
        method: "On a cluster of its own, one replica is forgotten by all others and reset, another is forgotten by one node alone. For \
                 T_ban (`cluster-blacklist-ttl` of 5 s where there is one) the first is in no view; after it the second is \
                 known to all again, or to nobody (7.2 tells on what it forgets). A replica must refuse to forget \
                 itself, its master and an unknown id with `-ERR`.",
        run: |cx| Box::pin(joining::forgetting(cx)),
    },
    Case {
        id: CaseId("SHARD-08"),
        title: "a rebalance levels the slots and keeps the data",
        requirement: "`--cluster rebalance` MUST level slots within its threshold of 2 % and keep every key.",
        source: "redis-cli source, clusterManagerCommandRebalance; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "T_reshape",
        controls: &["migrate-disabled"],
        method: "On three masters of its own, 160 slots with a key each are moved from one to another; once all \
                 nodes agree, `redis-cli --cluster rebalance` must end with status 0, each master own 5461 slots \
                 within 2 %, and every key be served.",
        run: |cx| Box::pin(repairing::rebalance(cx)),
    },
    Case {
        id: CaseId("SHARD-09"),
        title: "a migration cut short leaves the slot served, and can be repaired",
        requirement: "After a migration that was cut short, the slot MUST still be served and be repairable by \
                      `--cluster fix`.",
        source: "redis-cli source, clusterManagerFixOpenSlot; Redis Cluster specification, section ASK redirection",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "T_reshape",
        controls: &["fix-refused", "given-slots-unserved"],
        method: "On three masters of its own, a slot is left open with half of its 20 keys moved: the source serves \
                 the rest and sends on with ASK for the others. `redis-cli --cluster check` must tell the open slot, \
                 `--cluster fix` end with status 0, the slot be closed, and every key be served.",
        run: |cx| Box::pin(repairing::repair(cx)),
    },
    Case {
        id: CaseId("SHARD-10"),
        title: "SETSLOT refuses steps that are not allowed",
        requirement: "`CLUSTER SETSLOT` MUST refuse steps that are not allowed: from who is not the owner, to who \
                      already is, with keys left, to nobody, and on replicas.",
        source: "Redis command page CLUSTER SETSLOT; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::SetSlot],
        bound: "-",
        controls: &["guards-missing"],
        method: "With a key of its own in an empty slot: `IMPORTING` at its owner, `NODE` to another at its owner, \
                 `MIGRATING` at another master, any of them with an unknown id, and `MIGRATING` on every replica \
                 must all be `-ERR`; then no slot is open and the owner is the same.",
        run: |cx| Box::pin(moving::guards(cx)),
    },
    Case {
        id: CaseId("SHARD-11"),
        title: "finishing an import raises the importer's configuration epoch",
        requirement: "Finishing an import MUST raise the importer's configuration epoch above all others, so that \
                      the change spreads.",
        source: "Redis Cluster specification, section Hash slots configuration propagation",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::SetSlot],
        bound: "T_gossip",
        controls: &["epoch-unraised"],
        method: "Moves an empty slot to a master whose epoch is not the highest: within T_gossip every node's \
                 `CLUSTER NODES` shows it with an epoch above the highest before, and so does its own \
                 `cluster_my_epoch`. The slot is then moved back.",
        run: |cx| Box::pin(moving::epoch_raised(cx)),
    },
    Case {
        id: CaseId("SHARD-12"),
        title: "a master that loses its last slot becomes a replica",
        requirement: "With `cluster-allow-replica-migration yes`, a master that loses its last slot MUST become a \
                      replica of the master that took it.",
        source: "Redis Cluster specification, section Replica migration; redis.conf of 7.0, \
                 cluster-allow-replica-migration",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A2],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::ReplicaMigration, Feature::SetSlot],
        bound: "T_gossip",
        controls: &["no-role-switch"],
        method: "On servers of its own with `cluster-allow-replica-migration yes`, a new master is given three \
                 slots, which are then moved away: within T_gossip its `ROLE` is `slave`, and every node shows it as \
                 a replica of their new owner.",
        run: |cx| Box::pin(joining::emptied(cx)),
    },
    Case {
        id: CaseId("SHARD-13"),
        title: "slots that the servers move by themselves go without ASK and lose nothing",
        requirement: "A migration by `CLUSTER MIGRATION IMPORT` or `CLUSTER MIGRATESLOTS` MUST complete without ASK \
                      and without the loss of a key.",
        source: "Redis command page CLUSTER MIGRATION; Valkey documentation, Atomic slot migration",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::AtomicMigration, Feature::Migrate, Feature::SetSlot],
        bound: "T_reshape",
        controls: &["promised-migration"],
        method: "Writes 10 keys to each of up to 100 empty slots, half of them with an hour to live, and has the \
                 servers move the slots: the job must say `completed` (Redis) or `success` (Valkey) within \
                 T_reshape, an absent key must never give `-ASK`, and every key be at the new owner with its value \
                 and time to live. The slots are then moved back, by SETSLOT and MIGRATE.",
        run: |cx| Box::pin(moving::atomic(cx)),
    },
    Case {
        id: CaseId("SHARD-14"),
        title: "a master killed half way through a reshard costs no key, and it can be ended",
        requirement: "When the source or the destination of a reshard is killed half way, no acknowledged key MUST be lost, and each \
                      slot be owned once after `--cluster fix`.",
        source: "Redis Cluster specification, section Live reconfiguration; redis-cli source, clusterManagerFixOpenSlot; Valkey \
                 documentation, CLUSTER SETSLOT (before Valkey 8 a replica knows nothing of an open slot); measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec, Capability::Kill],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "T_fo_retry until the promotion, T_sched + T_heal until the server is back, T_reshape for the repair, T_fail until \
                all agree",
        controls: &["fix-refused", "given-slots-unserved", "replicas-emptied"],
        method: "On servers of its own, three masters with a replica each: of 20 slots with 10 keys each, ten are moved and half of \
                 the next one's keys. Once all nodes know the new owners and every replica has what its master has, the \
                 source is killed, its replica promoted, and the server comes back as its replica. Then `redis-cli --cluster fix` \
                 must end well, as an operator would run it: it does nothing while a master is missing. No slot may be open, every \
                 one have one owner, and each key be at its owner alone, with its value and time to live. Then the same with the \
                 destination. Before the repair the slot may be half here and half there, and a node that imports it call the \
                 cluster down: a note says so.",
        run: |cx| Box::pin(halfway::killed(cx)),
    },
    Case {
        id: CaseId("SHARD-15"),
        title: "a value of 50 MiB moves without a node being taken for failed",
        requirement: "A value of 50 MiB SHOULD move without any node being flagged as failing.",
        source: "Redis Cluster specification, section Live reconfiguration (big keys are unwise)",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "T_reshape",
        controls: &["small-values-only"],
        method: "On three masters of its own with a node-timeout of 10 s, a slot with one value of 50 MiB is moved; the third \
                 master flags nobody `fail?` or `fail` meanwhile, and no node does after it, and the value is whole at the \
                 new owner. The time is reported.",
        run: |cx| Box::pin(repairing::big_value(cx)),
    },
    Case {
        id: CaseId("SHARD-16"),
        title: "a master with keys refuses to be reset",
        requirement: "`CLUSTER RESET` and `CLUSTER FLUSHSLOTS` MUST be refused by a master that has keys.",
        source: "Redis Cluster specification, section Node resets; Redis command pages CLUSTER RESET and CLUSTER \
                 FLUSHSLOTS",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[],
        bound: "-",
        controls: &["reset-promised"],
        method: "On a master of its own with one key: `CLUSTER RESET`, with `SOFT` and with `HARD`, and `CLUSTER \
                 FLUSHSLOTS` must be `-ERR`; its id, its slots and the key are the same after it.",
        run: |cx| Box::pin(repairing::reset_refused(cx)),
    },
];
