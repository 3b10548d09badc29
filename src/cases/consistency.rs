//! Chapter CONS: what an acknowledged write is worth.

mod counting;
mod doubled;
mod history;
mod losing;
mod reading;
mod registers;
mod waiting;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check;
use crate::cluster::node::NodeView;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::verdict::Mismatch;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("CONS-01"),
        title: "WAIT counts the replicas that have the write",
        requirement: "`WAIT 1` after a write MUST answer with the number of replicas that have acknowledged it, which is \
                      at least 1.",
        source: "Redis command page WAIT; seed line 85; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Writes,
        needs: &[Capability::Replicas],
        features: &[Feature::Wait],
        bound: "0.8·T_reply",
        controls: &[
            "frozen",
            "hang-up",
            "links-down",
            "master-down",
            "other-password",
            "uneven-replicas",
            "wait-answers-none",
        ],
        method: "Writes a key to every master and sends `WAIT 1` with a time limit of 0.8·T_reply on the same \
                 connection: expects at least `:1`.",
        run: |cx| Box::pin(waiting::replicas_counted(cx)),
    },
    Case {
        id: CaseId("CONS-02"),
        title: "WAIT for more replicas than there are ends at its time limit",
        requirement: "`WAIT` for more replicas than there are MUST answer when its time limit is over, with the number of \
                      those that have the write.",
        source: "Redis command page WAIT; measured on 7.0.15: 0.53 s for a limit of 0.5 s",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::Wait],
        bound: "T_visible, the time limit that is given; answered within T_catch_up of it",
        controls: &[
            "frozen",
            "hang-up",
            "links-down",
            "master-down",
            "other-password",
            "uneven-replicas",
            "wait-answers-none",
            "wait-counts-too-many",
        ],
        method: "Writes a key to every master and sends `WAIT` for one replica more than each has, with a time limit \
                 of T_visible: expects the number of replicas that each has, no earlier than the limit and at most \
                 T_catch_up after it: a server ends it in its next turn, and it, the way to it and the suite may be busy.",
        run: |cx| Box::pin(waiting::time_limit_kept(cx)),
    },
    Case {
        id: CaseId("CONS-03"),
        title: "WAIT on a replica is refused",
        requirement: "A replica MUST refuse `WAIT`.",
        source: "Redis source, waitCommand; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Wait],
        bound: "-",
        controls: &["frozen", "other-password", "replica-waits"],
        method: "Sends `WAIT 1 100` to every replica: expects `-ERR WAIT cannot be used with replica instances …`, of \
                 which only `-ERR` is matched.",
        run: |cx| Box::pin(waiting::refused_by_replicas(cx)),
    },
    Case {
        id: CaseId("CONS-04"),
        title: "writes confirmed by WAIT survive the crash of their master",
        requirement: "A write that `WAIT 1` has confirmed MUST survive the crash of its master.",
        source: "Redis command page WAIT; seed line 85; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[Feature::Wait],
        bound: "T_shutdown + T_sched until the server is back, then T_fo_retry",
        controls: &["no-persistence"],
        method: "Writes 500 keys to a master, has `WAIT 1` confirm them, and kills the server without warning. \
                 Whether the server comes back in time or its replica is promoted, `GET` on the owner must answer \
                 with every value.",
        run: |cx| Box::pin(losing::crash_survived(cx)),
    },
    Case {
        id: CaseId("CONS-05"),
        title: "what WAIT confirmed can be lost when two servers fail, and that is counted",
        requirement: "The loss of writes that `WAIT` confirmed MUST be told and not failed when all servers that had them fail, \
                      and nothing that another server had be lost.",
        source: "Redis command page WAIT, section Consistency and WAIT; seed line 85; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Kill],
        features: &[Feature::Config, Feature::Wait],
        bound: "T_fo_retry until the promotion, T_sched + T_fo_retry until all agree",
        controls: &["never-written-value", "replicas-emptied"],
        method: "On servers of its own, three masters with two replicas each, `WAIT 2` confirms 100 writes; then one replica is kept \
                 from its master's data and `WAIT 1` confirms 100 more. The master and the other replica are killed together, \
                 so that the one that is behind is promoted, and come back. How many of the second hundred are lost is \
                 reported, and both outcomes are legal; the first hundred, which a third server had, must be there, and no key \
                 have a value that nobody wrote.",
        run: |cx| Box::pin(doubled::double_failure(cx)),
    },
    Case {
        id: CaseId("CONS-06"),
        title: "a crash loses nothing but what was written last, and the loss is counted",
        requirement: "When a master's server is killed no acknowledged write MUST be lost but of its shard and of the last moment before.",
        source: "Redis Cluster specification, section Write safety; seed lines 71-79; measured on 7.0.15: 0 lost in 9 kills",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[],
        bound: "max(T_visible, T_catch_up) before the crash",
        controls: &["data-lost"],
        method: "Writes numbers to a list in every shard, with no `WAIT`, while a master's server is killed and its platform brings it back \
                 or its replica is promoted. The report says how many acknowledged ones are not there at the end, and from how long before \
                 the crash. Those may be of the killed master's shard alone, and not acknowledged longer before than a replica may lag or \
                 `appendfsync everysec` may put writing off, nor after writes had come back.",
        run: |cx| Box::pin(counting::loss_window(cx)),
    },
    Case {
        id: CaseId("CONS-07"),
        title: "a counter is never above the attempts, nor below what was acknowledged",
        requirement: "After a crash a counter MUST NOT be above the attempts to count, nor below the acknowledged ones but for those lost at the crash.",
        source: "Redis Cluster tutorial, section Interacting with the cluster (consistency-test)",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[],
        bound: "max(T_visible, T_catch_up) before the crash",
        controls: &["counted-twice", "data-lost"],
        method: "In the crash of CONS-06 a counter in the killed master's shard is raised with `INCR` all the time; each attempt is \
                 acknowledged, refused, or of unknown fate. At the end `GET` must be at most the acknowledged and the unknown ones together, \
                 and at least the acknowledged ones without those of the last moment before the crash.",
        run: |cx| Box::pin(counting::counter(cx)),
    },
    Case {
        id: CaseId("CONS-08"),
        title: "a client reads its own writes on the master",
        requirement: "A read on the owner of a key MUST show the last write that was acknowledged to the same client.",
        source: "Redis Cluster specification, section Redis Cluster goals",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "own-writes-unseen",
        ],
        method: "Writes the numbers 1 to 200 to a key of every master and reads the key after each: expects the \
                 number that was just written.",
        run: |cx| Box::pin(reading::own_writes(cx)),
    },
    Case {
        id: CaseId("CONS-09"),
        title: "reads on a replica never step back and reach the master's value",
        requirement: "Reads on a replica MUST show the master's values in the order in which they were written, and the \
                      last one once writes stop.",
        source: "Redis Cluster specification, section Scaling reads using replica nodes",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A2],
        impact: Impact::Writes,
        needs: &[Capability::Replicas],
        features: &[],
        bound: "T_catch_up",
        controls: &[
            "frozen",
            "hang-up",
            "links-down",
            "master-down",
            "no-readonly",
            "other-password",
            "replica-holds-nothing",
            "replica-steps-back",
        ],
        method: "Writes the numbers 1 to 300 to a key of each master, while the key is read on each of its replicas \
                 after `READONLY`: no read may show a lower number than the one before, and 300 must be read within \
                 T_catch_up of the last write.",
        run: |cx| Box::pin(reading::converges(cx)),
    },
    Case {
        id: CaseId("CONS-10"),
        title: "min-replicas-to-write stops writes to a master without replicas",
        requirement: "A master with fewer good replicas than `min-replicas-to-write` MUST refuse writes.",
        source: "redis.conf of Redis, directives min-replicas-to-write and min-replicas-max-lag",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::KeepAway],
        features: &[],
        bound: "min-replicas-max-lag (2 s) + 1 s + T_visible; writes come back within T_sched + T_sync",
        controls: &["lonely-writes"],
        method: "Makes a master and a replica beside the deployment with `min-replicas-to-write 1` and \
                 `min-replicas-max-lag 2`. Writes are taken until the replica is stopped, then `SET` must get \
                 `-NOREPLICAS …`, while `GET` is answered; once the replica is back, writes are taken again.",
        run: |cx| Box::pin(losing::too_few_replicas(cx)),
    },
    Case {
        id: CaseId("CONS-11"),
        title: "the fsync policy is a safe one, and a killed server has every write",
        requirement: "`appendfsync` MUST be the same on all nodes, `everysec` or `always`, and a server that is killed \
                      must come back with every write that its append-only file took.",
        source: "Redis documentation, Redis persistence; seed line 81; measured on 7.0.15: 0 lost",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Crash],
        features: &[Feature::AppendOnly, Feature::Config],
        bound: "T_sched + T_w + 1 s",
        controls: &["fsync-never-on-one", "killed-loses-all"],
        method: "Asks every node for `CONFIG GET appendfsync`. Then makes a master beside the deployment from the \
                 same configuration, writes 500 keys, waits until `INFO persistence` shows `aof_buffer_length:0`, \
                 kills the server, and reads every value once it is back.",
        run: |cx| Box::pin(losing::fsync_policy(cx)),
    },
    Case {
        id: CaseId("CONS-12"),
        title: "WAITAOF confirms that a write is on disk, here and on the replica",
        requirement: "`WAITAOF 1 1` after a write SHOULD confirm it on disk on the master and on a replica.",
        source: "Redis command page WAITAOF",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::AppendOnly, Feature::WaitAof],
        bound: "0.8·T_reply",
        controls: &["waitaof-unfulfilled"],
        method: "Writes a key to every master and sends `WAITAOF 1 1` with a time limit of 0.8·T_reply on the same \
                 connection: expects 1 and at least 1.",
        run: |cx| Box::pin(waiting::on_disk(cx)),
    },
    Case {
        id: CaseId("CONS-13"),
        title: "after a partition the last elected master's data are everyone's",
        requirement: "After the heal every node of a shard MUST hold the data of the master that was elected last, and nothing of another's.",
        source: "Redis Cluster specification, section Write safety; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::CutLink],
        features: &[Feature::Bus],
        bound: "T_sync",
        controls: &["cut-ignored", "heal-ignored", "never-replaced", "data-merged"],
        method: "After the partition of PART-01, once the old master is a synchronised replica: `LRANGE` on every node of the shard must give the same list, with every write that the successor acknowledged, and none that the old master was sent once its successor had taken over.",
        run: |cx| Box::pin(super::partitions::observed::last_failover_wins(cx)),
    },
    Case {
        id: CaseId("CONS-14"),
        title: "a key expires at the same instant on master, replica and promoted replica",
        requirement: "A key with a time to live MUST expire at the same instant on the master and on its replica, also \
                      once that has been promoted.",
        source: "Redis documentation, EXPIRE, section How expires are handled in the replication link and AOF file",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Wait],
        bound: "T_shutdown + T_fo_retry until the promotion; an instant within 1 s",
        controls: &["expired-key-kept", "expiry-lost"],
        method: "Gives a key of a master NT to live, another ten minutes. `PTTL` of the second must agree within 1 s \
                 on master and replica. Then keeps the master away until a replica of it is promoted: `GET` of the first \
                 key must answer nil there, `PTTL` of the second what is left, within 1 s.",
        run: |cx| Box::pin(losing::expiry_kept(cx)),
    },
    Case {
        id: CaseId("CONS-15"),
        title: "without faults the operations on a key happen in one order for all",
        requirement: "Without faults the operations on a single key MUST be linearizable through its owner.",
        source: "Redis runs commands one at a time; published analyses of Redis Cluster by fault injection lose \
                 writes with faults only",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "reads-lag",
            "value-steps-back",
        ],
        method: "Three clients append to a list in each shard while two read it. There must be one order: every \
                 append has the place in the list that its reply named, every read is a beginning of the final list, \
                 and what ended before another began comes before it. Then three clients write 100 numbers each to one \
                 key while two read it, and a last one when they have ended: a search for one order of all must not \
                 come to a contradiction.",
        run: |cx| Box::pin(reading::one_order(cx)),
    },
];

/// A shard, as its nodes' own lines of `CLUSTER NODES` show it.
pub(super) struct Shard<'a> {
    /// The master.
    pub(super) master: &'a NodeView,
    /// A slot well inside what it claims.
    pub(super) slot: u16,
    /// Its replicas.
    pub(super) replicas: Vec<&'a NodeView>,
}

/// Every shard with slots, expecting as many as the deployment is meant to have.
pub(super) fn shards<'a>(cx: &Context, view: &'a ClusterView) -> Result<Vec<Shard<'a>>, Mismatch> {
    let shards: Vec<Shard<'a>> = view
        .nodes
        .iter()
        .filter_map(|node| {
            let line = node.myself().filter(|line| line.is_master())?;
            Some(Shard {
                master: node,
                slot: node.inner_slot()?,
                replicas: view.replicas_of(&line.id).collect(),
            })
        })
        .collect();
    let expected = cx.shape().masters;
    check::expect(
        shards.len() == expected,
        format!("{expected} masters with slots"),
        shards.len().to_string(),
    )?;
    Ok(shards)
}
