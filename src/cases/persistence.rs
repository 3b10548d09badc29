//! Chapter PERS: what survives a restart.

mod files;
mod full;
mod lost;
mod returning;
mod running;
mod volumes;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};

pub(super) use returning::{keys_survive, numbered, unread, write_numbered};

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("PERS-01"),
        title: "the append-only file is on and healthy on every node",
        requirement: "`appendonly yes` MUST be effective and healthy on every node.",
        source: "Redis documentation, Redis persistence; Redis command page INFO, section persistence; the seed's \
                 redis.conf",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::AppendOnlyFile],
        bound: "-",
        controls: &[
            "aof-missing-on-one",
            "aof-write-failed",
            "frozen",
            "no-persistence",
            "nothing-persisted",
            "other-password",
        ],
        method: "Expects `yes` of `CONFIG GET appendonly` on every node (where CONFIG is denied, of nobody), and \
                 `aof_enabled:1` and `aof_last_write_status:ok` in `INFO persistence`.",
        run: |cx| Box::pin(running::append_only(cx)),
    },
    Case {
        id: CaseId("PERS-02"),
        title: "keys survive the deletion of their pod",
        requirement: "Keys MUST survive the deletion of the pod that holds them, and its recreation.",
        source: "seed, volumeClaimTemplates of the StatefulSet; Kubernetes documentation, StatefulSets, section \
                 Stable Storage",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_shutdown + T_sched until the server is back, then T_fo_retry",
        controls: &["no-persistence"],
        method: "Writes 500 keys to a master, has a replica confirm them by `WAIT` where there are any (a server that does not \
                 know it is unsupported), and stops it as its platform does. Once another process runs in its \
                 place, `GET` on the owner of the slot, which may be the promoted replica, must answer with every \
                 value.",
        run: |cx| Box::pin(returning::deletion_survived(cx)),
    },
    Case {
        id: CaseId("PERS-03"),
        title: "a node comes back with its id, slots and epoch from nodes.conf",
        requirement: "The nodes.conf of a node MUST survive the recreation of its pod, so that the node comes back with \
                      the same id, slots and epoch.",
        source: "Redis Cluster specification, section Cluster nodes attributes; the seed's redis.conf, \
                 cluster-config-file",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[Feature::Config],
        bound: "T_shutdown + T_sched until the server is back, then T_fo_retry",
        controls: &["nodes-conf-lost"],
        method: "Reads nodes.conf of a master with `cat`, where a program can be run beside the server: it must hold the \
                 line `vars currentEpoch … lastVoteEpoch …` and the node's id. Stops the master as its platform does. \
                 Back again, `CLUSTER MYID` must be the same, and the node must claim the same slots at the same epoch, \
                 or be a replica of the node that took them at a higher one; the epoch in nodes.conf must not be lower.",
        run: |cx| Box::pin(returning::identity_kept(cx)),
    },
    Case {
        id: CaseId("PERS-04"),
        title: "topology and data are the same after all servers were killed at once",
        requirement: "After all servers are killed at once and start again at their addresses, the topology and the data of before MUST be back.",
        source: "Redis documentation, Redis persistence; Redis tests, tests/cluster; measured on 7.0.15: identical, after 2.1 s",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A1],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash],
        features: &[],
        bound: "T_sched + T_w + 1 s",
        controls: &["data-lost", "killed-without-nodes-conf", "no-persistence"],
        method: "Writes 100 keys to every master, waits until `INFO persistence` shows `aof_buffer_length:0` where there is an append-only \
                 file, and kills every server at once. In time every node must say `cluster_state:ok` and every master take writes; every \
                 node must have its id, role and epoch of before, and every key be there by value.",
        run: |cx| Box::pin(lost::all_killed(cx)),
    },
    volumes::ONE_EACH,
    volumes::OUTLIVE,
    Case {
        id: CaseId("PERS-07"),
        title: "a replica whose volume was lost is back in its shard, or missed by all",
        requirement: "A replica whose volume was lost MUST be back in its shard, or be missed by every node and serve nothing.",
        source: "Redis Cluster specification, section Nodes handshake; measured on 7.0.15: a new id, alone, while its peers keep \
                 the old one",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A2],
        impact: Impact::Disruptive,
        needs: &[Capability::LoseVolume, Capability::Replicas],
        features: &[],
        bound: "flagged within T_fail; one of both for T_stable, within T_sched + T_sync + 30 s",
        controls: &["empty-server-answers", "flags-hidden"],
        method: "Kills a replica, takes away all that it has on disk, and lets it come back. Two outcomes are legal, and the report says which was seen: \
                 the cluster is whole, with the server in it under whatever id; or the loss is plain to whoever asks: its master's `ROLE` \
                 shows no replica in its place, every other node flags the lost id `fail` or `noaddr`, and the empty \
                 server says `cluster_state:fail` and refuses keys. Afterwards the suite itself makes the cluster whole.",
        run: |cx| Box::pin(lost::volume_of_a_replica(cx)),
    },
    Case {
        id: CaseId("PERS-08"),
        title: "a master whose volume was lost is replaced with its data, and wipes nothing",
        requirement: "When a master's volume is lost its replica MUST take over with the data, and the empty server neither serve nor wipe any.",
        source: "Redis Cluster specification, sections Replica election and promotion, Nodes handshake; Kubernetes documentation, \
                 Persistent Volumes",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::LoseVolume, Capability::Replicas, Capability::Shards],
        features: &[Feature::Wait],
        bound: "T_fo_hard; one lost election: T_fo_retry; the empty server is watched for T_stable",
        controls: &["empty-server-answers", "never-replaced"],
        method: "Writes 500 keys, has every replica confirm them by `WAIT`, kills the master under writes and takes away all that it has on disk. \
                 The promoted replica must take writes and answer with every value. Then the empty server comes back: for T_stable it must answer `GET` with `-CLUSTERDOWN` or `-MOVED`, and \
                 the promoted one must keep slots and values. Afterwards the suite itself makes the cluster whole.",
        run: |cx| Box::pin(lost::volume_of_a_master(cx)),
    },
    Case {
        id: CaseId("PERS-09"),
        title: "a master that is back before it is missed has its data, and so its replica",
        requirement: "A master that is back before its failure is detected MUST NOT be one with an empty data set.",
        source: "Redis documentation, Redis replication, section Safety of replication when master has persistence turned off; measured on \
                 7.0.15: a key with `WAIT 1` gone on both",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Apart,
        needs: &[],
        features: &[Feature::AppendOnlyFile, Feature::Config, Feature::Wait],
        bound: "T_sched + T_sync",
        controls: &["killed-loses-all", "nothing-persisted"],
        method: "Expects of `CONFIG GET appendonly` and `save` on every node that its data are kept: no target of the suite knows of a \
                 platform that would keep a killed server away for longer than 2·NT instead. A server that gives no value is \
                 unsupported. Where the target can, it is tried on a master \
                 and a replica of the same configuration: 500 keys are written with `WAIT 1`, the master is killed and started at once, and \
                 both must have every value.",
        run: |cx| Box::pin(lost::back_before_missed(cx)),
    },
    Case {
        id: CaseId("PERS-10"),
        title: "a server loads an append-only file whose end is cut off, and logs it",
        requirement: "With `aof-load-truncated yes` a server MUST load an append-only file whose last command is cut off, \
                      and log that.",
        source: "Redis documentation, Redis persistence, section What should I do if my AOF gets truncated",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::KeepAway, Capability::Files],
        features: &[Feature::Config],
        bound: "T_sched + T_w + 1 s",
        controls: &["truncated-refused"],
        method: "Makes a master beside the deployment, writes 100 keys, stops it and cuts 5 bytes off its append-only \
                 file (the last incremental file that the manifest names, or `appendonly.aof` before Redis 7). It \
                 must start again, have every key but the last, and log the truncation.",
        run: |cx| Box::pin(files::cut_end_loaded(cx)),
    },
    Case {
        id: CaseId("PERS-11"),
        title: "a full volume refuses writes with MISCONF, and no acknowledged one is lost",
        requirement: "A server whose volume is full MUST refuse writes with an error, answer reads, take writes again once there is \
                      room, and lose no acknowledged one.",
        source: "Redis source, writeCommandsDeniedByDiskError and flushAppendOnlyFile; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[],
        impact: Impact::Apart,
        needs: &[
            Capability::Scratch,
            Capability::Crash,
            Capability::Files,
            Capability::SmallVolume,
        ],
        features: &[Feature::Config],
        bound: "10 s until writes are refused, 10 s until they are taken again, T_sched + T_w + 1 s until the \
                server is back",
        controls: &["data-lost", "full-disk-stops-reads", "full-disk-unnoticed"],
        method: "Makes a master beside the deployment with its data on a volume of 8 MiB (and `appendfsync everysec`: with `always` a \
                 server ends where it cannot write), fills the volume with a file, and goes on writing: within 10 s `SET` must \
                 get `-MISCONF …` (for the append-only file, or for a snapshot that failed), while `GET` answers. Without the file \
                 writes must be taken again. Then the server is killed: every value that was acknowledged must be there.",
        run: |cx| Box::pin(full::volume_full(cx)),
    },
    volumes::LOGS,
    Case {
        id: CaseId("PERS-13"),
        title: "every node can save its nodes.conf",
        requirement: "The data folder of a node MUST be writable for its server, so that it can save nodes.conf.",
        source: "Redis command page CLUSTER SAVECONFIG; the seed's redis.conf, dir",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::SaveConfig],
        bound: "-",
        controls: &["frozen", "nodes-conf-unwritable", "other-password"],
        method: "Sends `CLUSTER SAVECONFIG` to every node: expects `+OK`; a server that cannot write answers `-ERR \
                 error saving the cluster node config: …`.",
        run: |cx| Box::pin(running::configuration_saved(cx)),
    },
    Case {
        id: CaseId("PERS-14"),
        title: "a server that loads its data answers LOADING",
        requirement: "While a server loads its data it MUST answer `-LOADING`, and neither serve nor deny its own keys.",
        source: "Redis source, processCommand and getNodeByQuery; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::KeepAway],
        features: &[Feature::LoadDelay],
        bound: "6 s, the time that loading is made to take, + T_sched",
        controls: &["served-while-loading"],
        method: "Makes three masters beside the deployment, fills one with 100 keys of 256 KiB, stops it and starts \
                 it with `key-load-delay`, which makes loading slow. Meanwhile `PING` must answer `-LOADING …`, `GET` \
                 of its own key `-LOADING …` (or `-CLUSTERDOWN …`: a server that has just started counts its cluster \
                 as down), `GET` of another master's key `-MOVED …` or `-CLUSTERDOWN …`; afterwards its key is there.",
        run: |cx| Box::pin(files::loading_told(cx)),
    },
    Case {
        id: CaseId("PERS-15"),
        title: "a second server on the same nodes.conf ends at once",
        requirement: "Two servers MUST NOT use one nodes.conf: the second one ends with a message that names the file.",
        source: "Redis source, clusterLockConfig; measured on 7.0.15; valkey-io/valkey#4489 on what later servers make of it",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch, Capability::Exec],
        features: &[Feature::Config],
        bound: "T_reply",
        controls: &["second-server-stays"],
        method: "Makes a master beside the deployment and runs its own program once more on the same folder, \
                 listening on no port. It must end by itself with a status other than 0 and say that nodes.conf is \
                 `already used`; the first one must still be the same process. (Servers that save nodes.conf by putting another file \
                 in its place, Redis 8, Valkey and Redict among them, go on holding the lock of the file that is gone.)",
        run: |cx| Box::pin(files::second_server_refused(cx)),
    },
    Case {
        id: CaseId("PERS-16"),
        title: "the append-only file is rewritten while keys are written",
        requirement: "`BGREWRITEAOF` MUST end with the status ok while keys are written, and lose none of them.",
        source: "Redis documentation, Redis persistence, section Log rewriting; Redis command page BGREWRITEAOF",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[],
        features: &[Feature::AppendOnly],
        bound: "T_rewrite; T_sched + T_w + 1 s until a killed server is back",
        controls: &[
            "aof-rewrite-failed",
            "aof-write-failed",
            "data-lost",
            "frozen",
            "master-down",
            "other-password",
        ],
        method: "Writes to every shard all the time and sends `BGREWRITEAOF` to every node. When none is in progress \
                 or scheduled any more, `INFO persistence` must show that one has ended, \
                 `aof_last_bgrewrite_status:ok` and `aof_last_write_status:ok`; every acknowledged write must be \
                 there. Where the target can, a master of the same configuration is killed after such a rewrite: once it has \
                 started anew, from its file, 500 keys written before and every write acknowledged meanwhile must be there. \
                 Elsewhere what the file holds is not read, and a note says so.",
        run: |cx| Box::pin(running::rewritten(cx)),
    },
];
