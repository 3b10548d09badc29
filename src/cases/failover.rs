//! Chapter FAIL: a master that goes away is replaced, within the protocol's time, and comes back as a replica.

mod apart;
mod draining;
mod losing;
mod observed;
pub(super) mod outages;
mod service;
mod stale;
pub(super) mod swapping;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check::expect;
use crate::context::Context;
use crate::verdict::Mismatch;
use observed::*;
use std::time::Duration;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("FAIL-01"),
        title: "writes come back after a master's pod is deleted",
        requirement: "After deletion of a pod that is a master, all 16384 slots MUST be writable again within T_fo_hard.",
        source: "seed lines 61-65; Redis Cluster tutorial, section Test the failover; redis-doc#2667",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &["never-replaced"],
        method: "Finds a master by `ROLE`, writes to every shard all the time, and stops it as its platform does. Two outcomes are \
                 legal, and the report says which was seen: a replica of it was promoted with a higher epoch, or it came back in time and \
                 is the master under the same id and epoch. `cluster_state:ok` counts when it holds for T_stable on every node. The \
                 longer bound is for an election that was lost, as the epochs show.",
        run: |cx| Box::pin(losing::deleting_a_master(cx)),
    },
    Case {
        id: CaseId("FAIL-02"),
        title: "a master that stays away is replaced by its replica",
        requirement: "If a master stays away longer than the failover window, its replica MUST be promoted.",
        source: "seed line 65; Redis Cluster specification, section Replica election and promotion",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Wait],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &["min-replicas", "never-replaced"],
        method: "Stops a master and keeps it away; `ROLE` of a replica of it must become `master`, and the survivors must take writes to its \
                 shard before it comes back. The longer bound is for an election that was lost: then `cluster_current_epoch` has risen by two.",
        run: |cx| Box::pin(promotion(cx)),
    },
    Case {
        id: CaseId("FAIL-03"),
        title: "writes come back after a master's server is killed",
        requirement: "After a master's server is killed without warning, all 16384 slots MUST be writable again within T_fo_hard.",
        source: "Redis Cluster specification, section Availability; measured on 7.0.15: gaps of 7.0 s to 8.6 s with NT 5 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[],
        bound: "T_fo_hard; one lost election: T_fo_retry",
        controls: &["never-replaced"],
        method: "Finds a master by `ROLE`, writes to every shard all the time, and kills its server. Two outcomes are legal, and the report \
                 says which was seen: its replica was promoted with a higher epoch, or its platform started it again in time and it is the \
                 master under the same id and epoch. `cluster_state:ok` counts when it holds for T_stable on every node.",
        run: |cx| Box::pin(outages::killed_master(cx)),
    },
    Case {
        id: CaseId("FAIL-04"),
        title: "after a graceful stop the gap is that of a failover or of a handover",
        requirement: "A graceful stop MUST be followed by a failover in the protocol's time, unless the deployment hands its slots over before it.",
        source: "Redis source, prepareForShutdown; measured; redis#14559",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Wait],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &["min-replicas", "never-replaced"],
        method: "Looks at the graceful stop of FAIL-02: writes must come back while the master is away; the longest gap without an \
                 acknowledged write to its shard is judged, and whether the deployment handed over (a gap shorter than the node-timeout). No handover is expected of Redis; the report says what was seen.",
        run: |cx| Box::pin(graceful_stop(cx)),
    },
    Case {
        id: CaseId("FAIL-05"),
        title: "a frozen master is replaced, and follows its successor once it goes on",
        requirement: "A master whose server is frozen MUST be replaced like a dead one, and demote itself once it goes on.",
        source: "Redis Cluster specification, section Failure detection; measured on 7.0.15: gaps of 8.0 s to 9.0 s with NT 5 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Pause],
        features: &[],
        bound: "T_fo_hard; one lost election: T_fo_retry; demoted within T_gossip + T_sync",
        controls: &["demoted-serves-on", "min-replicas", "never-replaced"],
        method: "Writes to every shard all the time and freezes a master's process. A replica must be promoted and take writes before it \
                 goes on; the longer bound is for an election that was lost, as the epochs show. Once \
                 the process goes on, `ROLE` must become `slave` with its link up (`connected`, or `master_link_status:up`), and `GET` of a key of its old slots must \
                 get `-MOVED` to the successor.",
        run: |cx| Box::pin(outages::frozen_master(cx)),
    },
    Case {
        id: CaseId("FAIL-06"),
        title: "survivors flag the dead master fail? and then fail, in the protocol's time",
        requirement: "Survivors MUST flag a dead node `fail?` and then `fail`, not before the node-timeout and within T_fail.",
        source: "Redis Cluster specification, section Failure detection; Redis source, clusterCron; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Bus, Feature::Wait],
        bound: "not before NT; the first flag within T_pfail, `fail` on every survivor within T_fail",
        controls: &["flags-hidden", "hasty-suspicion"],
        method: "Asks every survivor of the stop of FAIL-02 for `CLUSTER NODES` ten times a second. No survivor may flag the master before the node-timeout or take a flag back while it is away, somebody must flag it within T_pfail, and every survivor must show `fail` within T_fail of the server's end.",
        run: |cx| Box::pin(detection(cx)),
    },
    Case {
        id: CaseId("FAIL-07"),
        title: "the other shards are refused only between detection and promotion",
        requirement: "With full coverage required, other shards MUST refuse writes only between detection and promotion, for at most 2 s.",
        source: "Redis Cluster tutorial, section Redis Cluster configuration parameters; measured on 7.0.15: 0.65-1.03 s",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1, Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Bus, Feature::Wait],
        bound: "2 s; one lost election: 2 s + max(4·NT, 4 s)",
        controls: &["never-replaced"],
        method: "Takes the longest gap of every other shard's writer in the stop of FAIL-02: it must be within the bound (the longer one where the epochs show a lost election), and no `-CLUSTERDOWN` may come before the node-timeout. Where coverage is not required there is no gap, which is as good.",
        run: |cx| Box::pin(other_shards(cx)),
    },
    Case {
        id: CaseId("FAIL-08"),
        title: "a promotion raises the epoch, and the new master has the highest",
        requirement: "A promotion MUST raise `cluster_current_epoch` and give the new master the highest configuration epoch.",
        source: "Redis Cluster specification, section Configuration epoch",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Bus, Feature::Wait],
        bound: "T_fo",
        controls: &["epoch-lost", "never-replaced"],
        method: "Compares `cluster_current_epoch` of every survivor before and after the promotion of FAIL-02, and the masters' epochs in \
                 every survivor's `CLUSTER NODES`.",
        run: |cx| Box::pin(new_epoch(cx)),
    },
    Case {
        id: CaseId("FAIL-09"),
        title: "the old master comes back as a replica of its successor",
        requirement: "A failed-over master MUST rejoin as a replica of the node that took its slots, with the same node id.",
        source: "Redis Cluster specification, section How nodes rejoin the cluster",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5, Seed::A2],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Wait],
        bound: "T_sched + T_sync + 2 s",
        controls: &["never-replaced", "volume-lost"],
        method: "Lets the master of FAIL-02 come back; its `ROLE` must become `slave` of the promoted node with its link up (`connected`, or `master_link_status:up`), and \
                 `CLUSTER MYID` must be the old one.",
        run: |cx| Box::pin(rejoin(cx)),
    },
    Case {
        id: CaseId("FAIL-10"),
        title: "a master that is back before detection stays the master",
        requirement: "A master whose process is back before the node-timeout MUST stay master, and take writes again T_w later.",
        source: "Redis source, CLUSTER_WRITABLE_DELAY; measured on 7.0.15: back after 0.2, 1, 3 s, gaps of 2.2, 3.0, 5.0 s",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[],
        bound: "the time away + T_w + 1 s",
        controls: &["impatient-operator"],
        method: "Kills a master's process under writes and lets its platform start it again; it is back once it has loaded its data. It must answer `ROLE` as a master under its id and epoch, with no gap longer than the time it was away and T_w and a second. Where its platform takes longer than the node-timeout the case is unsupported: then FAIL-01 judges.",
        run: |cx| Box::pin(losing::fast_return(cx)),
    },
    Case {
        id: CaseId("FAIL-11"),
        title: "a manual failover swaps the roles and loses nothing",
        requirement: "`CLUSTER FAILOVER` on a replica MUST swap the roles without losing acknowledged writes and with a short pause.",
        source: "Redis command page CLUSTER FAILOVER",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[],
        features: &[Feature::ManualFailover],
        bound: "T_manual",
        controls: &["failover-ignored", "successor-forgets"],
        method: "Writes to the shard all the time, sends `CLUSTER FAILOVER` to the replica (`+OK`), waits until the roles are swapped, \
                 reads every acknowledged write back, and swaps the roles again.",
        run: |cx| Box::pin(swapping::manual_failover(cx)),
    },
    Case {
        id: CaseId("FAIL-12"),
        title: "CLUSTER FAILOVER is refused where it is illegal",
        requirement: "`CLUSTER FAILOVER` MUST be refused on a master, with an unknown option, and without FORCE when the master is down.",
        source: "Redis command page CLUSTER FAILOVER; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[Feature::Config, Feature::ManualFailover],
        bound: "-",
        controls: &["dead-master-handover", "failover-anywhere"],
        method: "On servers beside the deployment: `CLUSTER FAILOVER` on every master, and `CLUSTER FAILOVER BOGUS` on every replica, must give an error and change no role. Then a master is stopped whose replica may not replace it; once the replica flags it `fail`, `CLUSTER FAILOVER` there must give an error.",
        run: |cx| Box::pin(apart::illegal_failovers(cx)),
    },
    Case {
        id: CaseId("FAIL-13"),
        title: "with most masters dead FORCE promotes nobody, and TAKEOVER does",
        requirement: "With most masters dead `CLUSTER FAILOVER FORCE` MUST NOT promote a replica, and `CLUSTER FAILOVER TAKEOVER` MUST.",
        source: "Redis command page CLUSTER FAILOVER; measured on 7.0.15: served again 3.1 s after TAKEOVER",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[Feature::ManualFailover],
        bound: "FORCE: no promotion for max(2·NT, 2 s) + 1 s, the time for votes; TAKEOVER: served again within T_back",
        controls: &["failover-ignored", "impatient-operator"],
        method: "On servers beside the deployment: two of three masters are stopped. `CLUSTER FAILOVER FORCE` on the replica of one must \
                 not make it a master. `CLUSTER FAILOVER TAKEOVER` on both replicas must, and every survivor must say `cluster_state:ok`. \
                 The old masters come back and must follow them.",
        run: |cx| Box::pin(stale::without_majority(cx)),
    },
    Case {
        id: CaseId("FAIL-14"),
        title: "a cluster stops when a whole shard is lost, and goes on when it is back",
        requirement: "When a master and its replicas are lost together the cluster MUST stop, and go on with the data once they are back.",
        source: "seed line 67; Redis Cluster specification, section Availability; measured on 7.0.15: served 2.1 s after the restart",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Bus, Feature::Config, Feature::Wait],
        bound: "refused within T_fail; served again within T_sched + T_undo + T_w + 1 s",
        controls: &["coverage-lifted", "data-lost"],
        method: "Writes a key, takes a master and all its replicas away together (killed, where the target can, else stopped). With `cluster-require-full-coverage yes` \
                 (set for the time of it, where the deployment says otherwise) every survivor must refuse keys of every shard with \
                 `-CLUSTERDOWN`. Once they are back, every node must say `cluster_state:ok`, every shard take writes, and the key be there.",
        run: |cx| Box::pin(outages::whole_shard_lost(cx)),
    },
    Case {
        id: CaseId("FAIL-15"),
        title: "a replica that restarted while its master was dead waits for a command",
        requirement: "A replica that was started while its master is dead MUST NOT fail over by itself, and MUST by `CLUSTER FAILOVER FORCE`.",
        source: "Redis source, clusterHandleSlaveFailover: its data has no age; measured on 7.0.15: nothing in 25 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Restart, Capability::Scratch],
        features: &[Feature::Config, Feature::ManualFailover],
        bound: "no promotion for T_fo_hard; promoted by FORCE within T_manual + T_gossip",
        controls: &["validity-ignored"],
        method: "On servers beside the deployment, with `cluster-replica-validity-factor 10`: a replica is barred from failover by `CONFIG SET` \
                 until its master is flagged `fail`, and is then restarted, which lifts the bar. It must remain a replica, on a cluster that \
                 is down, until `CLUSTER FAILOVER FORCE` makes it the master.",
        run: |cx| Box::pin(stale::restarted_replica(cx)),
    },
    Case {
        id: CaseId("FAIL-16"),
        title: "a replica whose data is too old is not promoted",
        requirement: "A replica cut off its master for longer than the validity time MUST NOT start an election.",
        source: "Redis Cluster specification, section Replica election and promotion; redis.conf, cluster-replica-validity-factor",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[Feature::Config],
        bound: "cut off for 2·NT + repl-ping-replica-period (1 s) + 1 s with a validity factor of 1; no promotion for T_fo_hard",
        controls: &["validity-ignored"],
        method: "On servers beside the deployment, with `cluster-replica-validity-factor 1` and `repl-ping-replica-period 1`: the link of a \
                 replica to its master is cut (no masterauth, link closed) for longer than both allow, while the bus stays. Then the \
                 master is stopped: every survivor must say `cluster_state:fail`, and the replica must remain one.",
        run: |cx| Box::pin(stale::old_data(cx)),
    },
    Case {
        id: CaseId("FAIL-17"),
        title: "with most masters lost nobody is elected, and the survivors refuse",
        requirement: "With most masters lost no election MUST happen, and the survivors MUST refuse writes within T_min until enough are back.",
        source: "seed line 5; Redis Cluster specification, section Availability; measured on 7.0.15: refused after 3.8 s with NT 3 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Bus],
        bound: "refused within T_min + 0.5 s; for 3·NT nobody is promoted; served again within T_sched + T_undo + T_w + 1 s",
        controls: &["impatient-operator", "minority-serves"],
        method: "Takes as many masters away together as leave no majority: killed, where the target can, else stopped. Every survivor must say `cluster_state:fail`, a \
                 surviving master must refuse writes with `-CLUSTERDOWN`, and every replica must remain one. Once they are back, every node \
                 must say `cluster_state:ok` and every shard take writes.",
        run: |cx| Box::pin(outages::majority_lost(cx)),
    },
    Case {
        id: CaseId("FAIL-18"),
        title: "each master in turn, and each promoted one again, is replaced",
        requirement: "A master that stays away MUST be replaced whichever shard it belongs to, and its successor after it, with all replicated data.",
        source: "Redis Cluster specification, section Replica election and promotion; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[Feature::Wait],
        bound: "each T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &["one-barred-replica"],
        method: "On servers beside the deployment: for each of three shards, and then for each once more, writes a key, `WAIT 1`, stops the master, waits until `ROLE` of its replica is `master`, reads the key there, and lets the old one come back until the cluster is whole. The longer bound is for an election that was lost: then `cluster_current_epoch` has risen by two.",
        run: |cx| Box::pin(apart::one_after_another(cx)),
    },
    Case {
        id: CaseId("FAIL-19"),
        title: "of several replicas the one with the most data is promoted",
        requirement: "With several replicas, the one with the most data MUST be preferred.",
        source: "Redis Cluster specification, section Replica rank",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[Feature::Config, Feature::Wait],
        bound: "T_shutdown + T_fo_retry",
        controls: &["one-barred-replica"],
        method: "On servers beside the deployment, three masters with two replicas each: cuts one replica of a master off its data (no masterauth, link closed), writes, `WAIT 1`, stops the master. The other replica must be promoted, and hold what was written.",
        run: |cx| Box::pin(apart::best_replica(cx)),
    },
    Case {
        id: CaseId("FAIL-20"),
        title: "a replica with cluster-replica-no-failover yes does not promote itself",
        requirement: "A replica with `cluster-replica-no-failover yes` MUST be flagged `nofailover` and not promote itself.",
        source: "redis.conf of Redis 7.0, cluster-replica-no-failover; Redis source, tests/cluster",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[],
        bound: "T_gossip for the flag; no promotion for T_fail + T_fo_hard",
        controls: &["barrier-lifted"],
        method: "On servers beside the deployment: the replica of one master has the option, and every node's `CLUSTER NODES` must flag it `nofailover`. Its master is stopped; every survivor must say `cluster_state:fail`, and the replica must still be one when any other would long have been promoted.",
        run: |cx| Box::pin(apart::no_failover_option(cx)),
    },
    Case {
        id: CaseId("FAIL-21"),
        title: "replicated data is there by value after a promotion",
        requirement: "After a promotion every key of the shard that was acknowledged and replicated before the failure MUST be readable.",
        source: "Redis Cluster tutorial, section Test the failover; measured",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Wait],
        bound: "T_fo",
        controls: &["never-replaced", "promoted-tells-wrong"],
        method: "Writes 1000 keys and has every replica confirm them by `WAIT` before the fault of FAIL-02, and reads each by value from the promoted node.",
        run: |cx| Box::pin(data_kept(cx)),
    },
    Case {
        id: CaseId("FAIL-22"),
        title: "during a failover clients get clean errors, never a wrong value",
        requirement: "During a failover clients MUST see only right values, MOVED, CLUSTERDOWN or another refusal, or a connection that fails.",
        source: "Redis Cluster tutorial, section Test the failover; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[Feature::Wait],
        bound: "-",
        controls: &["promoted-tells-wrong"],
        method: "In the stop of FAIL-02 every node is asked ten times a second for a key of the master's shard, and every shard is written to. Each reply must be the value, an integer for a write, `-MOVED` to one of the nodes, `-CLUSTERDOWN`, `-MASTERDOWN`, `-LOADING` or `-NOREPLICAS`; connections may fail.",
        run: |cx| Box::pin(clean_errors(cx)),
    },
    service::DROPS_THE_DEAD,
    draining::DRAINED,
    Case {
        id: CaseId("FAIL-25"),
        title: "a master and another shard's replica lost together are one failover",
        requirement: "The loss of a master and of another shard's replica at once MUST end in one failover, of that master.",
        source: "Redis Cluster specification, section Availability",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &["min-replicas", "never-replaced", "second-takeover"],
        method: "Writes to every shard all the time and takes a master and a replica of another shard away together: killed, where the target can, else stopped. A replica of the master must be \
                 promoted, every shard take writes before they come back, every other master be one at the epoch of before, and no shard \
                 be without an acknowledged write for longer than one failover takes.",
        run: |cx| Box::pin(outages::master_and_foreign_replica(cx)),
    },
    Case {
        id: CaseId("FAIL-26"),
        title: "a client blocked on a master is released when the master is demoted",
        requirement: "Clients that are blocked on a master MUST be released by an error or a closed connection when it is demoted.",
        source: "Redis source, blocked.c, disconnectAllBlockedClients; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[],
        features: &[Feature::ManualFailover],
        bound: "T_manual + T_reply",
        controls: &["blocked-clients-told-nothing", "failover-ignored"],
        method: "Blocks with `BLPOP key 0` on a master and sends `CLUSTER FAILOVER` to its replica. The blocked client must get `-UNBLOCKED`, `-MOVED`, or a closed connection; the roles are swapped back afterwards.",
        run: |cx| Box::pin(swapping::blocked_clients(cx)),
    },
    Case {
        id: CaseId("FAIL-27"),
        title: "without masterauth a lost master is not replaced, and every node says so",
        requirement: "A master whose replicas lack masterauth MUST NOT be replaced when it is lost, and the survivors MUST say `cluster_state:fail`.",
        source: "Redis source, clusterHandleSlaveFailover (replica validity factor); measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A3, Seed::A5],
        impact: Impact::Apart,
        needs: &[Capability::KeepAway, Capability::Scratch],
        features: &[],
        bound: "`cluster_state:fail` within T_fail; no promotion for T_fo_hard",
        controls: &["masterauth-after-all"],
        method: "On servers beside the deployment, three masters with a password and a replica each without masterauth: one master is stopped. Every survivor must say `cluster_state:fail`, and its replica must still be one after T_fo_hard: a deployment that forgot masterauth is not saved.",
        run: |cx| Box::pin(apart::unauthenticated_replica(cx)),
    },
    Case {
        id: CaseId("FAIL-28"),
        title: "deleting a replica's pod interrupts nobody",
        requirement: "Deleting a replica's pod MUST cause no outage.",
        source: "seed line 63; Redis Cluster specification, section Availability",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "no failed write (through an API server: none refused, no shard silent for T_reply); back within T_shutdown + T_sched + T_sync",
        controls: &["masterauth-forgotten", "min-replicas"],
        method: "Writes to every shard all the time while a replica is stopped and comes back: no owner may refuse a write, no shard \
                 may be silent while others are served, and every other node must say `cluster_state:ok` at every look.",
        run: |cx| Box::pin(losing::deleting_a_replica(cx)),
    },
    Case {
        id: CaseId("FAIL-29"),
        title: "under load, rewrites and snapshots nobody is suspected of having failed",
        requirement: "Under normal load, and while files are rewritten, no node SHOULD be flagged `fail?` and no epoch change.",
        source: "Redis Cluster specification, section Failure detection; seed lines 57 and 151-154",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::Bus],
        bound: "T_soak",
        controls: &[
            "epoch-falls",
            "failures-counted",
            "frozen",
            "master-down",
            "other-password",
        ],
        method: "Writes to every shard for T_soak while append-only files are rewritten and snapshots are taken, and looks at every node: no `fail?` or `fail`, no FAIL message counted, no role and no epoch changed.",
        run: |cx| Box::pin(no_false_failovers(cx)),
    },
    Case {
        id: CaseId("FAIL-30"),
        title: "masters are found by their role, on every node alike",
        requirement: "After failovers nobody MUST assume that the first pods are the masters: `ROLE`, flags and slots say which they are.",
        source: "Redis Cluster specification, section Replica election and promotion",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "T_gossip",
        controls: &["frozen", "other-password", "role-denied"],
        method: "Compares the nodes whose `ROLE` is master with those that every node's `CLUSTER NODES` flags as masters and gives slots.",
        run: |cx| Box::pin(roles_by_discovery(cx)),
    },
];

/// The longest legal gap after a crash, and the one with a lost election.
pub(in crate::cases) fn crash_bounds(cx: &Context) -> (Duration, Duration) {
    (cx.timing().failover_hard(), cx.timing().failover_retry())
}

/// The longest legal gap after a graceful stop, and the one with a lost election.
fn gap_bounds(cx: &Context) -> (Duration, Duration) {
    let timing = cx.timing();
    (
        timing.shutdown() + timing.failover_hard(),
        timing.shutdown() + timing.failover_retry(),
    )
}

/// What is known of elections that were lost before one was won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cases) enum Lost {
    /// The epochs before and after say whether there was one.
    Seen(bool),
    /// Nobody looked at the epochs, or they rose for other reasons too.
    Unknown,
}

impl Lost {
    /// The longest legal time, and whether it is the one with a lost election: that one is for whoever lost one.
    fn limit(self, took: Duration, (bound, with_lost_election): (Duration, Duration)) -> (Duration, bool) {
        match self {
            Self::Seen(false) => (bound, false),
            Self::Seen(true) | Self::Unknown => {
                let limit = bound.max(with_lost_election);
                (limit, took > bound && took <= limit)
            }
        }
    }

    /// What a report says of a time within the longer bound.
    fn note(self, cx: &Context) {
        cx.note(match self {
            Self::Seen(_) => "one election was lost: the time is within the bound for that",
            Self::Unknown => "the time is within the bound for one lost election; whether one was lost is not known",
        });
    }
}

/// Expects a gap within the bound; with one lost election, within the longer one, and then says so. The floor is that of
/// an election: a master that comes back in time needs none.
fn judge_gap(cx: &Context, gap: Duration, floor: Option<Duration>, lost: Lost) -> Result<(), Mismatch> {
    judge_gap_within(cx, gap, floor, lost, gap_bounds(cx))
}

/// [`judge_gap`] with other bounds: where nothing is waited for before the server ends.
pub(in crate::cases) fn judge_gap_within(
    cx: &Context,
    gap: Duration,
    floor: Option<Duration>,
    lost: Lost,
    bounds: (Duration, Duration),
) -> Result<(), Mismatch> {
    cx.measure("write gap", gap, floor, Some(bounds.0));
    let (limit, longer) = lost.limit(gap, bounds);
    if longer {
        lost.note(cx);
    }
    expect(
        gap <= limit,
        format!(
            "no longer than {:.1} s without an acknowledged write",
            limit.as_secs_f64()
        ),
        format!("{:.1} s", gap.as_secs_f64()),
    )
}

/// Expects a state after so long within the bound; with one lost election, within the longer one, and then says so.
pub(in crate::cases) fn judge_in_time(
    cx: &Context,
    what: &str,
    took: Duration,
    lost: Lost,
    bounds: (Duration, Duration),
) -> Result<(), Mismatch> {
    let (limit, longer) = lost.limit(took, bounds);
    if longer {
        lost.note(cx);
    }
    expect(
        took <= limit,
        format!("{what}, within {:.1} s", limit.as_secs_f64()),
        format!("after {:.1} s", took.as_secs_f64()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::in_time(Lost::Seen(false), 20, 20, false)]
    #[case::slow_without_a_lost_election(Lost::Seen(false), 21, 20, false)]
    #[case::in_time_with_one(Lost::Seen(true), 20, 40, false)]
    #[case::slow_with_one(Lost::Seen(true), 21, 40, true)]
    #[case::too_slow_with_one(Lost::Seen(true), 41, 40, false)]
    #[case::slow_and_nobody_knows(Lost::Unknown, 40, 40, true)]
    fn the_longer_bound_is_for_a_lost_election(
        #[case] lost: Lost,
        #[case] took: u64,
        #[case] limit: u64,
        #[case] longer: bool,
    ) {
        let bounds = (Duration::from_secs(20), Duration::from_secs(40));
        let (limit_given, longer_given) = lost.limit(Duration::from_secs(took), bounds);
        assert_eq!((limit_given, longer_given), (Duration::from_secs(limit), longer));
    }
}
