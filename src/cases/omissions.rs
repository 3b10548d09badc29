//! The rows of the catalogue that are no case on any target, each with the reason.

use crate::case::{CaseId, Level, Omission, Profile, Seed};

/// The rows, in the catalogue's order.
pub static OMISSIONS: &[Omission] = &[
    Omission {
        id: CaseId("K8S-25"),
        title: "the server's image can be built today",
        requirement: "The file that the server's image is built from SHOULD build today.",
        source: "seed lines 377-393; history of the image redis:5.0, whose base moved from Debian buster to bullseye in 2021",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[],
        reason: "A target is a deployment, whose image is already built; the suite builds none. An image that is not there shows \
             before any case, when the deployment does not come up: the run's error then names the image and the pull's error.",
    },
    Omission {
        id: CaseId("NET-11"),
        title: "clients outside the pod network are served, or told that they are not",
        requirement: "Access from outside the network of the nodes MUST either work by the announced addresses or be documented as \
                  unsupported.",
        source: "seed line 325: it names an address inside the cluster only",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        reason: "Both outcomes conform, and which one is meant stands in a deployment's documentation, which no target reads. That \
             what is announced is where the node listens shows in NET-06, REDIR-01 and TOPO-02, as seen from where the \
             servers are.",
    },
    Omission {
        id: CaseId("NET-13"),
        title: "the bootstrap needs no network that comes after the pod's address",
        requirement: "A bootstrap SHOULD NOT need pod networking that is only programmed after the pod's address is published.",
        source: "projectcalico/calico#3499, felix#2008; openshift/cluster-network-operator#1503",
        level: Level::Should,
        profile: Profile::Kubernetes,
        seed: &[Seed::A6],
        reason: "When a pod's network is programmed is the property of a cluster's network, and no target chooses that. On a cluster whose network comes late the harm shows in BOOT-01, BOOT-11 and NET-04: the hook fails at its first try, or its pod is not Ready in time.",
    },
    Omission {
        id: CaseId("NET-14"),
        title: "the bus is kept out of a service mesh, or passes it unchanged",
        requirement: "Under sidecar injection, traffic of the cluster bus MUST be excluded or passed unchanged.",
        source: "field reports of service meshes before the cluster bus",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A6],
        reason: "No target of the suite has a service mesh. What a mesh does to the bus shows in TOPO-01, BOOT-05 and REPL-03 \
             on a cluster that has one.",
    },
    Omission {
        id: CaseId("NET-15"),
        title: "what polls DNS outlasts a cached answer that a name is not there",
        requirement: "Code that polls DNS MUST tolerate 30 s in which the answer that a name is not there is cached.",
        source: "kubernetes#92559, coredns#2434",
        level: Level::Must,
        profile: Profile::Kubernetes,
        seed: &[Seed::A6],
        reason: "Which code of a deployment polls DNS, and when, cannot be seen from outside, and whether a cluster's DNS caches such answers is not the deployment's. NET-07 and OPS-08 judge what comes of it: all names are gone, and the cluster must be whole within T_names, which has room for that cache, and what the protocol needs after it.",
    },
];
