//! Chapter NET: names and addresses: what happens when they change, and what they may be.

mod changing;
mod inside;
mod names;
mod platform;
mod tls;
mod together;

pub(super) use together::all_known;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    inside::POD_NAMES,
    inside::ALL_PODS,
    platform::UNREADY_PODS_HAVE_NAMES,
    platform::OWN_NAME_UNUSED,
    inside::CLIENTS_SERVICE,
    Case {
        id: CaseId("NET-06"),
        title: "a node that comes back under another address is known there to all",
        requirement: "A node that comes back under another address MUST be known under it on every node, with the same id.",
        source: "Redis Cluster specification, section Cluster node attributes; redis#4645, #6128, #12605; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::NewAddress, Capability::Replicas],
        features: &[],
        bound: "T_sched + NT + 2 s",
        controls: &["old-address-announced"],
        method: "Stops a master gracefully and has it come back under another address (Kubernetes: its pod is made again). From the end \
                 of its server on, within the bound: every node's `CLUSTER NODES` shows its id at the new address, none names \
                 the old one, every node says `cluster_state:ok`, and `GET` of a key in its slots is redirected by \
                 `-MOVED` to the present address of the owner.",
        run: |cx| Box::pin(changing::one_address(cx)),
    },
    Case {
        id: CaseId("NET-07"),
        title: "the cluster recovers by itself when every address changes at once",
        requirement: "After all servers were made again at once under other addresses the cluster MUST recover without manual action.",
        source: "redis#15136; redis-operator#1722, #1782; bitnami-docker-redis#146; measured on 7.0.15: servers alone never recover",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A6],
        impact: Impact::Disruptive,
        needs: &[Capability::NewAddress, Capability::Tended],
        features: &[],
        bound: "all back within T_sched for each; whole T_names + 2·NT + 10 s after that",
        controls: &["left-alone-at-new-addresses"],
        method: "Stops every server gracefully at once, so that each comes back under another address (Kubernetes: all pods are deleted). \
                 In time the cluster must be whole, as after every disruptive case, and no address lead astray: every line of \
                 `CLUSTER NODES`, `CLUSTER SLOTS` and nodes.conf shows a node where it is, and `-MOVED` leads to the owner.",
        run: |cx| Box::pin(together::every_address_at_once(cx)),
    },
    Case {
        id: CaseId("NET-08"),
        title: "every node in turn may change its address, and the cluster is whole each time",
        requirement: "When every node in turn comes back under another address, the cluster MUST be ok and know it each time.",
        source: "Redis Cluster specification, section Cluster node attributes; measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::NewAddress],
        features: &[],
        bound: "a node: T_sched + NT + 2 s; without an acknowledged write: T_shutdown + T_fo_retry",
        controls: &["old-address-announced"],
        method: "Writes to every shard all the time and does to one node after the other, masters first, what NET-06 does to one, with \
                 the same expectations and a wait for a whole cluster (T_sched + T_sync + 2·NT) after each. No shard may be \
                 without an acknowledged write for longer than a lost election takes.",
        run: |cx| Box::pin(changing::every_address(cx)),
    },
    platform::BUS_ISOLATED,
    inside::NO_TRANSLATION,
    Case {
        id: CaseId("NET-12"),
        title: "servers bound to IPv6 meet, announce and redirect by IPv6 addresses",
        requirement: "On networks with IPv6 the deployment's servers SHOULD listen, announce themselves and redirect by IPv6 addresses.",
        source: "seed lines 53 (`bind 0.0.0.0`) and 20 of its script; Redis command page CLUSTER NODES, address format",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[Seed::A6],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[],
        bound: "-",
        controls: &["scratch-without-ipv6"],
        method: "Starts three servers of the deployment's program and configuration on `::1` beside it, where this machine has that \
                 address; lets them meet there, and expects `::1:<port>@<cport>` in every line of `CLUSTER NODES`, links \
                 `connected`, and `-MOVED <slot> ::1:<port>` that leads to the owner. It says nothing of a manifest's own `bind`.",
        run: |cx| Box::pin(names::ipv6(cx)),
    },
    Case {
        id: CaseId("NET-16"),
        title: "what the nodes announce fits the server's limits, and nothing longer is taken",
        requirement: "Announced host names MUST fit the server's limit of 255 bytes, and announced addresses that of 45 bytes.",
        source: "redis#4289, #11914; Redis source, NET_HOST_STR_LEN and NET_IP_STR_LEN",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[],
        features: &[Feature::AnnounceHostname, Feature::Config],
        bound: "T_gossip",
        controls: &["any-host-name"],
        method: "Every node's `cluster-announce-hostname` and `cluster-announce-ip` must be short enough, and stand unshortened on its \
                 own line of `CLUSTER NODES`. Where the target can make servers beside the deployment, `CONFIG SET \
                 cluster-announce-hostname` there must take 255 bytes and show them to a peer, and refuse (`-ERR`) 256 bytes and a \
                 name with a space.",
        run: |cx| Box::pin(names::host_names(cx)),
    },
    Case {
        id: CaseId("NET-17"),
        title: "a connected cluster client keeps up until every address that it knew is gone",
        requirement: "A cluster client that stays connected MUST reach every shard again each time a node changes its address, until \
                      every address that it began with is gone.",
        source: "node-redis#3252; Redis Cluster specification, section Client first connection and handling of redirections",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::NewAddress],
        features: &[],
        bound: "T_fo_hard",
        controls: &["old-address-announced"],
        method: "A client library's cluster connection, made before NET-08 by one address, writes a key to every shard after each of its \
                 steps, without being told anything: it must succeed within T_fo_hard. At the end no address is left that it \
                 knew at its beginning.",
        run: |cx| Box::pin(changing::client_keeps_up(cx)),
    },
    Case {
        id: CaseId("NET-18"),
        title: "over TLS the cluster names its TLS ports, and without it the plain ones",
        requirement: "With TLS on, the ports in `CLUSTER SLOTS` and in redirections MUST be those of the connection's kind.",
        source: "Redis documentation, page TLS support; Redis's own test unit/cluster/cluster-response-tls",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Apart,
        needs: &[Capability::Scratch],
        features: &[Feature::Tls],
        bound: "-",
        controls: &["tls-port-astray"],
        method: "Starts two servers beside the deployment with `tls-port`, `tls-cluster yes` and a certificate of the suite's own, lets them \
                 meet and gives a slot to each. Over TLS, `CLUSTER SLOTS` of each must name the `tls-port` of both, and \
                 `-MOVED` the owner's; over a plain connection the same with `port`.",
        run: |cx| Box::pin(tls::ports_by_connection(cx)),
    },
    Case {
        id: CaseId("NET-19"),
        title: "servers that come back at each other's addresses are told apart by all",
        requirement: "After servers came back at the addresses of each other every node MUST again know each under its right address.",
        source: "bitnami/charts#11341; Redis source, clusterProcessPacket: another id than awaited makes a node `noaddr`; measured on \
                 7.0.15: two views stay `:0@0 noaddr` for ever, and the state `ok`",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A6],
        impact: Impact::Disruptive,
        needs: &[
            Capability::SwapAddresses,
            Capability::Tended,
            Capability::Replicas,
            Capability::Shards,
        ],
        features: &[],
        bound: "T_names + 2·NT + 10 s",
        controls: &["left-alone-at-swapped-addresses"],
        method: "Stops two replicas gracefully and brings each back at the address of the other (kind: all other addresses of the pod network \
                 are held meanwhile). The expectations are those of NET-07: `cluster_state:ok` alone does not do, which all say all the time.",
        run: |cx| Box::pin(together::exchanged(cx)),
    },
];
