//! Chapter REDIR: a node that does not own a slot says who does, exactly and truthfully.

use crate::case::{Case, CaseId, Impact, Level, Profile, Seed};

mod checks;
use checks::*;

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
        needs: &[],
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
                 client port.",
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
        needs: &[],
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
                 the same `GET` is executed.",
        run: |cx| Box::pin(one_hop(cx)),
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
        needs: &[],
        features: &[],
        bound: "T_gossip",
        controls: &[],
        method: "Opens an empty slot from one master to another and moves two of four keys of its own with \
                 MIGRATE. `MGET` of one moved and one left key: `-TRYAGAIN` on the source (before Redis 7.0 \
                 also `-ASK`), and on the destination after `ASKING`. Two left keys are served by the source, \
                 two moved ones by the destination after `ASKING`; without it the destination answers `-MOVED`; \
                 absent keys get `-ASK` from the source. The keys are then deleted and the slot closed, and all \
                 nodes must agree again within T_gossip.",
        run: |cx| Box::pin(try_again(cx)),
    },
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
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "hang-up",
            "master-down",
            "no-endpoint",
            "other-password",
            "replica-redirects-nothing",
            "second-address",
        ],
        method: "Reads every address in `CLUSTER NODES`, `CLUSTER SLOTS` and `CLUSTER SHARDS` of every node, and the \
                 MOVED for a key of every range from every node: the latter must be the address of a server of the \
                 deployment.",
        run: |cx| Box::pin(no_empty_endpoint(cx)),
    },
];
