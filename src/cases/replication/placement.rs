//! The cases of chapter REPL about the hosts that servers are on.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::no_findings;
use crate::context::{Context, Host};
use crate::placement::{can_avoid_majorities, hosts, majorities, on_one_host, placed};
use crate::verdict::{Outcome, Stop};

pub(super) const NO_SHARD_ON_ONE_HOST: Case = Case {
    id: CaseId("REPL-12"),
    title: "no shard is on one Kubernetes node alone",
    requirement: "A master and its replica MUST NOT run on the same Kubernetes node where there are two or more for them.",
    source: "seed, lines 107 and 116-127; Kubernetes documentation, Assigning Pods to Nodes, section Inter-pod affinity; bitnami/charts#17712, #8441 and #30728",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A2],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Replicas],
    features: &[],
    bound: "-",
    controls: &[],
    method: "Joins who replicates whom, by `ROLE` and `CLUSTER NODES`, with each pod's `spec.nodeName`: no node may hold a master and \
             all its replicas. Unsupported where fewer than two nodes can be given pods.",
    run: |cx| Box::pin(no_shard_on_one_host(cx)),
};

pub(super) const NO_MAJORITY_ON_ONE_HOST: Case = Case {
    id: CaseId("REPL-13"),
    title: "no Kubernetes node holds a majority of the masters",
    requirement: "No Kubernetes node SHOULD hold a majority of the masters: the others could not vote for their replicas.",
    source: "Redis Cluster specification, section Availability; ucloud/redis-cluster-operator#17",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A2],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &[],
    method: "Counts the masters that own slots by their pods' `spec.nodeName`: no node may hold ⌊M/2⌋+1 of M, or more. Unsupported where \
             so few nodes can be given pods that one of them must.",
    run: |cx| Box::pin(no_majority_on_one_host(cx)),
};

/// The hosts that can be given pods; unsupported where there are fewer than two.
async fn several(cx: &Context) -> Result<usize, Stop> {
    let hosts = cx.deployment()?.hosts().await;
    // Who attaches to a namespace may not be allowed to see nodes.
    let hosts =
        hosts.map_err(|error| Stop::Unsupported(format!("it cannot be said which nodes there are: {error}")))?;
    let free = schedulable(&hosts);
    match free {
        0 | 1 => Err(Stop::Unsupported(format!(
            "of {} nodes {free} can be given pods: there is nothing to spread over",
            hosts.len()
        ))),
        several => Ok(several),
    }
}

fn schedulable(hosts: &[Host]) -> usize {
    hosts.iter().filter(|host| host.schedulable).count()
}

async fn no_shard_on_one_host(cx: &Context) -> Outcome {
    several(cx).await?;
    let shards = placed(&cx.view().await?, &hosts(cx).await?)?;
    cx.count("shards looked at", shards.len(), "shards");
    Ok(no_findings(
        "every master with a replica on another node",
        &on_one_host(&shards),
    )?)
}

async fn no_majority_on_one_host(cx: &Context) -> Outcome {
    let free = several(cx).await?;
    let shards = placed(&cx.view().await?, &hosts(cx).await?)?;
    if !can_avoid_majorities(shards.len(), free) {
        return Err(Stop::Unsupported(format!(
            "of {free} nodes that can be given pods one must hold a majority of {} masters",
            shards.len()
        )));
    }
    Ok(no_findings(
        "no node with a majority of the masters",
        &majorities(&shards),
    )?)
}
