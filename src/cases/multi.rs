//! Chapter MULTI: commands over several keys, transactions, scripts, databases, publish and subscribe.

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};

mod arrange;
mod blocked;
pub(super) mod keys;
mod scripts;
mod subscriptions;
mod transactions;
use blocked::*;
use keys::*;
use scripts::*;
use subscriptions::*;
use transactions::*;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("MULTI-01"),
        title: "commands over several keys of one slot are carried out",
        requirement: "Commands over several keys that share a slot MUST work.",
        source: "seed line 53; Redis Cluster specification, section Implemented subset",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "same-slot-refused",
        ],
        method: "Sends MSET, MGET, EXISTS, TOUCH, RENAME, UNLINK, SUNIONSTORE, SMOVE, RPOPLPUSH, ZUNIONSTORE, PFMERGE \
                 and DEL over keys of one slot to every master: each must answer as it does on a server without a \
                 cluster, for example `SUNIONSTORE` of two sets with three members -> `:3`.",
        run: |cx| Box::pin(one_slot(cx)),
    },
    Case {
        id: CaseId("MULTI-02"),
        title: "a command over keys of several slots gets CROSSSLOT and changes nothing",
        requirement: "A command over keys of several slots MUST get CROSSSLOT and change nothing.",
        source: "Redis Cluster specification, section Implemented subset; measured on 7.0.15 with 22 commands",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "blocked-clients-told-nothing",
            "cross-slot-taken",
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "stored-across-slots",
        ],
        method: "Sends 22 commands (MGET, MSET, MSETNX, DEL, UNLINK, EXISTS, TOUCH, RENAME, COPY, BITOP, PFMERGE, \
                 SMOVE, LMOVE, BLPOP, LMPOP, SUNIONSTORE, SINTERCARD, ZUNIONSTORE, XREAD, SORT with STORE, WATCH, \
                 GEOSEARCHSTORE), as far as `COMMAND INFO` knows them, over two of its own slots to every master: each \
                 must answer `-CROSSSLOT`, and then `EXISTS` of either key `:0`.",
        run: |cx| Box::pin(several_slots(cx)),
    },
    Case {
        id: CaseId("MULTI-03"),
        title: "one key given twice is one slot",
        requirement: "A command that is given one key twice MUST be carried out, as for any keys of one slot.",
        source: "Redis source, cluster.c; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "repeated-key-refused",
        ],
        method: "Writes a key on every master; `MGET key key` must answer its value twice, and `EXISTS key key` `:2`.",
        run: |cx| Box::pin(one_key_twice(cx)),
    },
    Case {
        id: CaseId("MULTI-04"),
        title: "a transaction over one slot is carried out as a whole",
        requirement: "MULTI and EXEC over one slot MUST be atomic.",
        source: "seed line 53; Redis documentation, Transactions",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "hang-up", "last-reply-alone", "master-down", "other-password"],
        method: "On every master: `MULTI`, `SET key 1` and `INCR key` (each `+QUEUED`); another client's `GET key` -> \
                 nil; `EXEC` -> `[+OK, :2]`; the other client's `GET key` -> `2`.",
        run: |cx| Box::pin(all_at_once(cx)),
    },
    Case {
        id: CaseId("MULTI-05"),
        title: "a key of another node within MULTI gets MOVED, and EXEC aborts",
        requirement: "Queueing a command about another node's key MUST answer MOVED and make EXEC abort.",
        source: "Redis source, server.c and multi.c; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &[
            "aborted-exec-done",
            "frozen",
            "hang-up",
            "master-down",
            "moved-astray",
            "other-password",
            "second-address",
        ],
        method: "On every master: `MULTI`, `SET` of an own key -> `+QUEUED`, `SET` of another master's key -> `-MOVED \
                 <slot> <address>`, `EXEC` -> `-EXECABORT`; then neither key exists, each asked of its owner.",
        run: |cx| Box::pin(foreign_key_queued(cx)),
    },
    Case {
        id: CaseId("MULTI-06"),
        title: "keys of two slots of one node fail together at EXEC",
        requirement: "A transaction over two slots of one node MUST fail at EXEC.",
        source: "Redis source, cluster.c; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["cross-slot-taken", "frozen", "hang-up", "master-down", "other-password"],
        method: "On every master: `MULTI`, `SET` of two keys of two of its own slots (each `+QUEUED`), `EXEC` -> \
                 `-CROSSSLOT`; then neither key exists.",
        run: |cx| Box::pin(two_slots_queued(cx)),
    },
    Case {
        id: CaseId("MULTI-07"),
        title: "EXEC answers nil after a watched key was changed",
        requirement: "A watched key that another client changes MUST make EXEC answer nil and do nothing.",
        source: "Redis documentation, Transactions; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "hang-up", "master-down", "other-password", "watch-ignored"],
        method: "On every master: `WATCH key`, another client's `SET key`, `MULTI`, `SET` of a second key, `EXEC` -> \
                 nil, and the second key does not exist. Once more with nobody's `SET` in between: `EXEC` -> `[+OK]`.",
        run: |cx| Box::pin(watched_key(cx)),
    },
    Case {
        id: CaseId("MULTI-08"),
        title: "EXEC and DISCARD without MULTI are errors",
        requirement: "EXEC and DISCARD without MULTI MUST answer an error.",
        source: "Redis command pages EXEC and DISCARD; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["exec-alone", "frozen", "other-password"],
        method: "Sends `EXEC` and `DISCARD` to every node: `-ERR EXEC without MULTI`, `-ERR DISCARD without MULTI`.",
        run: |cx| Box::pin(without_multi(cx)),
    },
    Case {
        id: CaseId("MULTI-09"),
        title: "scripts run on the owner of their keys, and get MOVED elsewhere",
        requirement: "EVAL, EVALSHA and FCALL with keys of one slot MUST run on its owner and get MOVED from every \
                      other node.",
        source: "seed line 53; Redis documentation, Scripting with Lua; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[Capability::Shards],
        features: &[Feature::Scripts],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "moved-astray",
            "moved-other-slot",
            "no-endpoint",
            "other-password",
            "replica-redirects-nothing",
            "script-not-redirected",
            "second-address",
        ],
        method: "On every master: `EVAL`, `EVALSHA` and (where `COMMAND INFO` knows it) `FCALL` of a script that \
                 writes its key -> `+OK`, and `GET` -> the value. The same calls to every other node, replicas too -> \
                 `-MOVED <slot> <address>`. The function's library is deleted afterwards.",
        run: |cx| Box::pin(keys_of_one_slot(cx)),
    },
    Case {
        id: CaseId("MULTI-10"),
        title: "a script with keys of two slots gets CROSSSLOT and does not run",
        requirement: "A script that is given keys of two slots MUST get CROSSSLOT before it runs.",
        source: "Redis documentation, Scripting with Lua; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::Scripts],
        bound: "-",
        controls: &["cross-slot-taken", "frozen", "master-down", "other-password"],
        method: "Sends `EVAL` of a script that writes its first key, with keys of two of its own slots, to every \
                 master: `-CROSSSLOT`, and then neither key exists.",
        run: |cx| Box::pin(keys_of_two_slots(cx)),
    },
    Case {
        id: CaseId("MULTI-11"),
        title: "a script fails when it uses another node's key without declaring it",
        requirement: "A script that uses a key of another node without declaring it MUST fail.",
        source: "Redis source, script.c; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[Capability::Shards],
        features: &[Feature::Scripts],
        bound: "-",
        controls: &["frozen", "master-down", "other-password", "script-beyond-node"],
        method: "Sends `EVAL` of a script that writes another master's key, which it is given as an argument, to every \
                 master, with no key and with an own one: an error that holds `non local key` (its code and the rest \
                 differ by version), and on its owner the key does not exist.",
        run: |cx| Box::pin(undeclared_foreign_key(cx)),
    },
    Case {
        id: CaseId("MULTI-12"),
        title: "a #!lua script uses one slot alone unless its flag allows more",
        requirement: "A `#!lua` script without the flag `allow-cross-slot-keys` MUST NOT use keys of two slots.",
        source: "Redis documentation, Redis Lua API, section Script flags; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::ScriptFlags, Feature::Scripts],
        bound: "-",
        controls: &["frozen", "master-down", "other-password", "shebang-ignored"],
        method: "Sends `EVAL` of a `#!lua` script that writes two undeclared keys of two of its own slots to every \
                 master: an error that holds `same slot`, and the second key does not exist. With \
                 `flags=allow-cross-slot-keys` -> `[+OK, +OK]`. A script without `#!` may do either, and is not \
                 judged.",
        run: |cx| Box::pin(script_flags(cx)),
    },
    Case {
        id: CaseId("MULTI-13"),
        title: "a script or function is known on the shard where it was loaded, and no other",
        requirement: "SCRIPT LOAD and FUNCTION LOAD MUST take effect on the node that gets them, and on no other \
                      shard.",
        source: "Redis command pages SCRIPT LOAD and FUNCTION LOAD; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[Capability::Shards],
        features: &[Feature::Scripts],
        bound: "T_catch_up",
        controls: &["frozen", "links-down", "other-password", "scripts-everywhere"],
        method: "Loads a script of its own into every master: `EVALSHA` answers there, and `-NOSCRIPT` on every node \
                 of every other shard. The same with a function, where `COMMAND INFO` knows FCALL: the master's \
                 replicas must have its library within T_catch_up, and other shards answer `-ERR Function not found`. \
                 The library is deleted afterwards; one small script stays in each master's cache.",
        run: |cx| Box::pin(known_where_loaded(cx)),
    },
    Case {
        id: CaseId("MULTI-14"),
        title: "there is one database: SELECT 0 works, others are refused",
        requirement: "SELECT 0 MUST work, and every other database be refused.",
        source: "Redis Cluster specification, section Implemented subset; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "move-taken",
            "other-password",
            "second-database",
        ],
        method: "Sends `SELECT 0` (`+OK`) and `SELECT 1` (`-ERR`) to every node, and `MOVE`, `COPY` with DB 1 and \
                 `SWAPDB 0 0` to every master (each `-ERR`), about keys that do not exist. Where `CONFIG GET \
                 cluster-databases` says more than 1, as Valkey 9 can, the rest does not apply.",
        run: |cx| Box::pin(one_database(cx)),
    },
    Case {
        id: CaseId("MULTI-15"),
        title: "a message published on any node reaches every subscriber once",
        requirement: "PUBLISH on any node MUST reach the subscribers of every node, exactly once.",
        source: "Redis Cluster specification, section Publish/Subscribe; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[Capability::Peers],
        features: &[],
        bound: "T_reply",
        controls: &["forgotten", "frozen", "message-lost", "message-twice", "other-password"],
        method: "Subscribes to one channel on every node and publishes two messages on every node, replicas too. Every \
                 subscriber must get each message once, the last within T_reply; a second copy of a node's first \
                 message would come before its second. What is lost with a link of the bus that was made anew meanwhile (by \
                 `CLUSTER LINKS`) is noted, and all is published again. `PUBLISH` answers how many got it on its own node, which is not \
                 judged.",
        run: |cx| Box::pin(broadcast(cx)),
    },
    Case {
        id: CaseId("MULTI-16"),
        title: "SSUBSCRIBE and SPUBLISH belong to the owner of the channel's slot",
        requirement: "SSUBSCRIBE and SPUBLISH MUST be routed by the slot of their channel.",
        source: "Redis Cluster specification, section Publish/Subscribe; Redis command pages SSUBSCRIBE and SPUBLISH",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[Feature::ShardedPubSub],
        bound: "T_reply",
        controls: &[
            "cross-slot-taken",
            "frozen",
            "moved-astray",
            "moved-other-slot",
            "no-endpoint",
            "other-password",
            "replica-redirects-nothing",
            "second-address",
            "shard-channel-anywhere",
            "shard-message-lost",
        ],
        method: "On every master: `SSUBSCRIBE` of a channel of one of its slots, `SPUBLISH` -> `:1`, and the \
                 subscriber gets `smessage` within T_reply; `SSUBSCRIBE` of channels of two slots -> `-CROSSSLOT`. On \
                 every node of every other shard both -> `-MOVED <slot> <address>`.",
        run: |cx| Box::pin(by_slot(cx)),
    },
    Case {
        id: CaseId("MULTI-17"),
        title: "commands over the key space concern one node, and together all keys",
        requirement: "DBSIZE, KEYS, SCAN and RANDOMKEY MUST act on one node alone, so that the masters together hold \
                      the data set.",
        source: "Redis Cluster specification, section Main properties and rationales of the design: no proxies; \
                 measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[Feature::SlotKeys],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "keys-of-others",
            "master-down",
            "other-password",
            "random-key-of-others",
            "scan-short",
            "size-of-all",
        ],
        method: "Writes 20 keys to a slot of every master. On each, `KEYS` and a whole `SCAN` with the pattern of all \
                 keys must name exactly its own 20, `RANDOMKEY` a key of its slots, and `DBSIZE` the sum of `CLUSTER \
                 COUNTKEYSINSLOT` over its slots, asked in one transaction. FLUSHALL would delete keys of others and \
                 is not sent; `KEYS` is left \
                 out where it is forbidden, and on a node with over a million keys.",
        run: |cx| Box::pin(local_key_space(cx)),
    },
    Case {
        id: CaseId("MULTI-18"),
        title: "a waiting client is released when its slot leaves or its master is demoted",
        requirement: "A client blocked on a key MUST be released with MOVED when the slot leaves, and with UNBLOCKED \
                      when its master becomes a replica.",
        source: "Redis source, blocked.c and replication.c",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Replicas, Capability::Shards],
        features: &[Feature::ManualFailover, Feature::SetSlot],
        bound: "T_gossip + T_visible",
        controls: &["blocked-when-demoted", "blocked-when-moved"],
        method: "A client waits in `BLPOP` on a master, as `CLIENT LIST` shows. The empty slot of its key is moved to \
                 another master: it gets `-MOVED <slot> <address>` within the bound, and the slot is moved back. \
                 Another waits while the master hands over to its replica by `CLUSTER FAILOVER`: it gets `-UNBLOCKED`, \
                 and the roles are given back.",
        run: |cx| Box::pin(released_with_redirection(cx)),
    },
];
