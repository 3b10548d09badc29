//! Chapter REDIR: a node that does not own a slot says who does, exactly and truthfully.

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};

mod checks;
mod endpoints;
mod inside;
mod migrating;
use checks::*;
use endpoints::*;
use migrating::*;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("REDIR-01"),
        title: "a node that does not own a slot answers -MOVED slot owner:port",
        requirement: "A keyed command on a node that does not own the slot MUST answer `-MOVED <slot> \
                      <endpoint>:<port>`.",
        source: "Redis Cluster specification, section MOVED Redirection",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1, Seed::A4],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[],
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
            "second-address",
        ],
        method: "Sends `GET` of a key in a slot of every master to every other node, replicas too: the reply must be \
                 exactly `-MOVED <slot> <owner's address>`, the slot that of the suite's own CRC16, the port the \
                 client port. A host name that the owner announces, and no other node, may stand for its address.",
        run: |cx| Box::pin(moved_format(cx)),
    },
    Case {
        id: CaseId("REDIR-02"),
        title: "from any node one MOVED leads to the node that executes",
        requirement: "Following one MOVED MUST reach the executing node when the cluster is stable.",
        source: "Redis Cluster specification, section MOVED Redirection",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "moved-astray",
            "no-endpoint",
            "other-password",
            "second-address",
        ],
        method: "For a key in each boundary slot (0, 5460, 5461, 10922, 10923, 16383, both ends of every range) and \
                 each node as entry: `GET` is executed there, or answers MOVED to a server of the deployment, where \
                 the same `GET` is executed. Where an announced host name leads nowhere from the suite, its node is \
                 asked at its address, and a note says so.",
        run: |cx| Box::pin(one_hop(cx)),
    },
    inside::REACHABLE,
    Case {
        id: CaseId("REDIR-04"),
        title: "errors come in their order: arity, password, slot, then the key's kind",
        requirement: "Errors MUST come in the order: unknown command or wrong number of arguments, missing \
                      authentication, slot checks, and the key's wrong kind last.",
        source: "Redis source, processCommand and getNodeByQuery; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A4],
        impact: Impact::Writes,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &[
            "cross-slot-taken",
            "frozen",
            "hang-up",
            "master-down",
            "open-node",
            "other-password",
            "redirected-across-slots",
            "replica-redirects-nothing",
        ],
        method: "Writes a string on its owner and asks every node: an unknown command and `GET` without a key give \
                 `-ERR`, `MGET` of two slots `-CROSSSLOT`, `LPUSH` on the string `-MOVED` (on its owner \
                 `-WRONGTYPE`), and `GET` without authentication `-NOAUTH`.",
        run: |cx| Box::pin(precedence(cx)),
    },
    Case {
        id: CaseId("REDIR-05"),
        title: "commands without keys run on every node",
        requirement: "Commands without keys MUST be executed by whichever node is asked.",
        source: "Redis source, getNodeByQuery; Redis Cluster specification, section Implemented subset",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "keyless-redirected", "other-password"],
        method: "Sends `PING`, `ECHO`, `TIME`, `DBSIZE`, `INFO server`, `SCRIPT EXISTS` and `PUBLISH` (to a channel \
                 of its own) to every node; each must answer in its own kind, none with an error. Where the server \
                 has no scripts, or they are switched off, `SCRIPT EXISTS` is left out, with a note.",
        run: |cx| Box::pin(keyless(cx)),
    },
    Case {
        id: CaseId("REDIR-06"),
        title: "a slot that is migrating sends clients on with ASK for absent keys only",
        requirement: "A node MUST serve the keys of a migrating slot that it has, and answer `-ASK <slot> \
                      <destination>` for others.",
        source: "Redis Cluster specification, section ASK redirection; Redis command page CLUSTER SETSLOT",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::SetSlot],
        bound: "-",
        controls: &["ask-as-moved"],
        method: "Opens an empty slot between two masters, with one key of its own in it. On the source `GET` of it \
                 gives its value, `GET` and `SET` of an absent key exactly `-ASK <slot> <destination>`. The slot is \
                 then closed again.",
        run: |cx| Box::pin(ask(cx)),
    },
    Case {
        id: CaseId("REDIR-07"),
        title: "ASKING opens an importing slot for one command",
        requirement: "A node that imports a slot MUST execute exactly the next command after `ASKING`.",
        source: "Redis Cluster specification, section ASK redirection; Redis command page ASKING",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "-",
        controls: &["asking-sticks", "given-slots-unserved"],
        method: "Opens an empty slot and sends to the destination: `ASKING`, `SET` (both `+OK`), then `GET`, which \
                 must be `-MOVED <slot> <source>`; after another `ASKING` the same `GET` gives the value, and the \
                 next one `-MOVED` again. The key is then moved to the source by MIGRATE, and the slot closed again.",
        run: |cx| Box::pin(asking_once(cx)),
    },
    Case {
        id: CaseId("REDIR-08"),
        title: "without ASKING an importing node sends clients to the old owner",
        requirement: "A node that imports a slot MUST answer `-MOVED <slot> <source>` to whoever has not sent \
                      `ASKING`.",
        source: "Redis Cluster specification, section ASK redirection",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "-",
        controls: &["served-unasked"],
        method: "Opens an empty slot and moves a key. `GET` and `SET` of it, and of an absent one, without `ASKING` \
                 on the destination: each must be exactly `-MOVED <slot> <source>`.",
        run: |cx| Box::pin(not_asked(cx)),
    },
    Case {
        id: CaseId("REDIR-09"),
        title: "keys split by a migration get TRYAGAIN from both nodes",
        requirement: "Multi-key commands with only some keys present during a migration MUST get TRYAGAIN from the \
                      source and, after ASKING, from the destination.",
        source: "Redis Cluster specification, section Multiple keys operations; Redis command page CLUSTER SETSLOT",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A4],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::Migrate, Feature::SetSlot],
        bound: "T_gossip",
        controls: &[
            "ask-as-moved",
            "given-slots-unserved",
            "served-unasked",
            "split-keys-served",
        ],
        method: "Opens an empty slot from one master to another and moves two of four keys of its own with \
                 MIGRATE. `MGET` of one moved and one left key: `-TRYAGAIN` on the source (before Redis 7.0 \
                 also `-ASK`), and on the destination after `ASKING`. Two left keys are served by the source, \
                 two moved ones by the destination after `ASKING`; without it the destination answers `-MOVED`; \
                 absent keys get `-ASK` from the source. The keys are then deleted and the slot closed, and all \
                 nodes must agree again within T_gossip.",
        run: |cx| Box::pin(try_again(cx)),
    },
    Case {
        id: CaseId("REDIR-10"),
        title: "nodes with no part in a migration learn the new owner in time",
        requirement: "Nodes that have no part in a migration MUST name the source until the slot is assigned, and \
                      the destination within T_gossip after that.",
        source: "Redis Cluster specification, section Live reconfiguration; measured (33 ms)",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Disruptive,
        needs: &[Capability::Shards],
        features: &[Feature::Bus, Feature::Migrate, Feature::SetSlot],
        bound: "T_gossip",
        controls: &["third-party-behind"],
        method: "Opens an empty slot, moves its key, and assigns it by `CLUSTER SETSLOT NODE` on the destination and \
                 the source alone. Before, every other node, replicas too, must answer `-MOVED <slot> <source>`; \
                 after it, within T_gossip, `-MOVED <slot> <destination>`, and nobody else's address meanwhile. Where \
                 the two masters are all nodes, the rest does not apply.",
        run: |cx| Box::pin(third_parties(cx)),
    },
    Case {
        id: CaseId("REDIR-11"),
        title: "the reasons for CLUSTERDOWN are told apart",
        requirement: "A node that serves nothing MUST answer `-CLUSTERDOWN` with a text that tells an unserved slot, \
                      a cluster that is down, and one that takes reads only apart.",
        source: "Redis source, clusterRedirectClient",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A1],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::Config, Feature::ReadsWhenDown],
        bound: "-",
        controls: &["one-text-for-down"],
        method: "On a master of its own: a slot is deleted, and its key gives `-CLUSTERDOWN` (`Hash slot not \
                 served`); with `cluster-require-full-coverage yes` so does every key (`The cluster is down`); with \
                 `cluster-allow-reads-when-down yes` reads are served and writes refused (`… only accepts read \
                 commands`). Only the prefix is judged, and that the three texts differ.",
        run: |cx| Box::pin(down_texts(cx)),
    },
    Case {
        id: CaseId("REDIR-12"),
        title: "clients that follow MOVED come to rest after a failover",
        requirement: "A client that learns from MOVED MUST reach every slot's owner with at most 5 redirections \
                      after a change of topology.",
        source: "Redis Cluster specification, section Clients first connection and handling of redirections",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        // Masters of other shards elect the replica.
        needs: &[Capability::KeepAway, Capability::Replicas, Capability::Shards],
        features: &[Feature::Wait],
        bound: "5 redirections",
        controls: &["writes-in-circles"],
        method: "Looks at the writers of the failover of FAIL-02, which remember what MOVED says: no operation was still \
                 redirected after 5 redirections, at least one was redirected, and at the end (of the last 10 acknowledged \
                 writes to each slot) not every one needed it.",
        run: |cx| Box::pin(convergence(cx)),
    },
    Case {
        id: CaseId("REDIR-13"),
        title: "an IPv6 endpoint is not bracketed, and its port follows the last colon",
        requirement: "A redirection to an IPv6 address MUST be `<address>:<port>` without brackets, which clients \
                      split at the last colon.",
        source: "Valkey Cluster specification, section MOVED Redirection; Redis source, clusterRedirectClient",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::Config],
        bound: "T_gossip",
        controls: &["ipv6-bracketed"],
        method: "One of two masters of its own announces `::1` (`CONFIG SET cluster-announce-ip`); the other's \
                 redirection must become exactly `-MOVED <slot> ::1:<port>`, and is taken apart by the suite's own \
                 parser. A server that does not take the setting is unsupported.",
        run: |cx| Box::pin(ipv6(cx)),
    },
    Case {
        id: CaseId("REDIR-14"),
        title: "an endpoint that is not known is left out, or is a question mark",
        requirement: "A redirection MUST leave the host out where it is the one that the client knows already, give \
                      `?` where it is not known, and give the port in both.",
        source: "Redis Cluster specification, section MOVED Redirection; Redis command page CLUSTER SLOTS",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::Config, Feature::PreferredEndpoint],
        bound: "T_gossip",
        controls: &["no-host-marked"],
        method: "Two masters of its own with `cluster-preferred-endpoint-type unknown-endpoint`: `-MOVED <slot> \
                 :<port>`, nil in `CLUSTER SLOTS`, and the key is served at the same host under that port. With \
                 `hostname` and no name announced: `-MOVED <slot> ?:<port>` and `?`.",
        run: |cx| Box::pin(unknown_endpoint(cx)),
    },
    Case {
        id: CaseId("REDIR-15"),
        title: "announced host names stand in redirections and in CLUSTER SLOTS",
        requirement: "With `cluster-announce-hostname` and `cluster-preferred-endpoint-type hostname`, MOVED and \
                      `CLUSTER SLOTS` MUST carry the host name.",
        source: "Redis command page CLUSTER SLOTS; redis.conf of 7.0, cluster-announce-hostname",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::AnnounceHostname, Feature::PreferredEndpoint],
        bound: "T_gossip",
        controls: &["nameless-node"],
        method: "Two masters of its own announce the name `localhost`: a redirection must be `-MOVED <slot> \
                 localhost:<port>`, `CLUSTER SLOTS` must name it too, and the key must be served there.",
        run: |cx| Box::pin(host_names(cx)),
    },
    Case {
        id: CaseId("REDIR-16"),
        title: "redirections are counted in INFO errorstats",
        requirement: "Every redirection SHOULD be counted in `INFO errorstats`.",
        source: "Redis command page INFO, section errorstats; measured on 7.0.15",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[Feature::ErrorStats],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "logins-uncounted",
            "master-down",
            "other-password",
            "redirections-uncounted",
            "replica-redirects-nothing",
        ],
        method: "Asks every node three times for a key of another: each answers `-MOVED`, and \
                 `errorstat_MOVED:count` must have risen by at least three.",
        run: |cx| Box::pin(counted(cx)),
    },
    Case {
        id: CaseId("REDIR-17"),
        title: "a pipeline's replies come in its order, redirections among them",
        requirement: "In a pipeline each command MUST get its own reply in order, whether it is executed or \
                      redirected.",
        source: "Redis Cluster specification, section Redirection and resharding (nodes do not proxy); Redis \
                 documentation, Pipelining",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "moved-other-slot",
            "other-password",
            "replica-redirects-nothing",
        ],
        method: "Sends every node one pipeline of `SET` of a key in a slot of each master, each followed by an \
                 `ECHO` that marks its place, twice: `+OK` for its own slots, `-MOVED <slot>` with the right slot \
                 for the others, the marks between them.",
        run: |cx| Box::pin(in_order(cx)),
    },
    inside::SEEDS_OWN,
    Case {
        id: CaseId("REDIR-19"),
        title: "no reply carries an empty host or port 0",
        requirement: "A MOVED, `CLUSTER SLOTS` or `CLUSTER NODES` entry MUST NOT carry an empty host or port 0 while \
                      `cluster_state:ok`.",
        source: "Redis command page CLUSTER NODES (`:0@0` stands for no address)",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[Capability::Shards],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "leftover-line",
            "master-down",
            "no-endpoint",
            "other-password",
            "replica-redirects-nothing",
            "second-address",
        ],
        method: "Reads every address in `CLUSTER NODES`, `CLUSTER SLOTS` and `CLUSTER SHARDS` of every node, and the \
                 MOVED for a key of every range from every node: the latter must be the address of a server of the \
                 deployment, or the host name that it announces.",
        run: |cx| Box::pin(no_empty_endpoint(cx)),
    },
];
