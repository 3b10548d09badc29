//! Who is selected, and where pods are.

use super::objects::{permitted, rules, with_workload};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Host, Pod};
use crate::verdict::{Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const SELECTED: Case = Case {
    id: CaseId("K8S-04"),
    title: "selectors select all and only the servers' pods",
    requirement: "The workload's selector MUST match its pods' labels, and Services MUST lead to all and only these pods.",
    source: "seed lines 78-80, 94-96 and 106-113 of its listing; Kubernetes documentation, Labels and Selectors",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "T_names",
    controls: &["manifest:selector-astray", "manifest:client-service-too-narrow"],
    method: "Applies the rules of `lint` for this row to the live objects. Then the Endpoints of every Service whose selector matches the \
             pods, of the governing one and of the clients' must be the addresses of the pods: all of them, and no other.",
    run: |cx| Box::pin(selected(cx)),
};

pub(super) const SPREAD: Case = Case {
    id: CaseId("K8S-09"),
    title: "the pods are spread over the Kubernetes nodes",
    requirement: "The pods MUST be spread over nodes, by anti-affinity or a topology spread constraint.",
    source: "seed lines 116-127 of its listing, commented out; Kubernetes documentation, Assigning Pods to Nodes",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A2],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:not-spread"],
    method: "Applies the rules of `lint` for this row to the live objects; that spreading is only preferred is a remark. Then no node may \
             have more pods than their number divided by that of the nodes that take pods, rounded up. With one such node where \
             pods are says nothing: unsupported.",
    run: |cx| Box::pin(spread(cx)),
};

pub(super) const ZONES: Case = Case {
    id: CaseId("K8S-10"),
    title: "every shard spans two zones where there are several",
    requirement: "Where nodes are in several zones the servers of a shard SHOULD be in at least two.",
    source: "redis#11306; Kubernetes documentation, Running in multiple zones",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A2],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:zones-not-spanned"],
    method: "Applies the rules of `lint` for this row to the live objects. Then the nodes' label `topology.kubernetes.io/zone` says in which \
             zone each server is: master and replicas of a shard must be in two at least. With fewer zones: unsupported.",
    run: |cx| Box::pin(zones(cx)),
};

async fn selected(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    let services: BTreeSet<String> = with_workload(&objects, |deployment, workload| {
        let behind = deployment.services(workload).into_iter();
        let named = behind.chain(deployment.governing(workload));
        named.map(|service| service.document.name().to_owned()).collect()
    })?;
    let deployment = cx.deployment()?;
    let services: BTreeSet<String> = services
        .into_iter()
        .chain(deployment.client_service().map(|(name, _)| name))
        .collect();
    eventually(cx, "every Service leads to the pods", cx.timing().names(), async || {
        let pods = deployment.pods().await?;
        let mut astray = Vec::new();
        for service in &services {
            let behind = permitted(deployment.behind(service).await)?;
            astray.extend(misled(service, &pods, &behind));
        }
        Ok(match astray.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(astray.join("\n")),
        })
    })
    .await
}

/// In what a Service's addresses are not the pods'.
fn misled(service: &str, pods: &[Pod], behind: &[String]) -> Vec<String> {
    let of_pods: BTreeMap<&str, &str> = pods
        .iter()
        .filter_map(|pod| Some((pod.address.as_deref()?, pod.name.as_str())))
        .collect();
    let missing = of_pods
        .iter()
        .filter(|(address, _)| !behind.iter().any(|other| other == *address));
    let missing = missing.map(|(_, pod)| format!("Service/{service} does not lead to {pod}"));
    let foreign = behind.iter().filter(|address| !of_pods.contains_key(address.as_str()));
    let foreign = foreign.map(|address| format!("Service/{service} leads to {address}, which is no server's"));
    missing.chain(foreign).collect()
}

async fn spread(cx: &Context) -> Outcome {
    rules(cx, Level::Must).await?;
    let deployment = cx.deployment()?;
    let hosts = permitted(deployment.hosts().await)?;
    let taking = hosts.iter().filter(|host| host.schedulable).count();
    if taking < 2 {
        return Err(Stop::Unsupported(
            "the objects ask for spreading; one node alone takes pods here, so where they are says nothing".into(),
        ));
    }
    let pods = deployment.pods().await?;
    Ok(no_findings(
        format!(
            "at most {} of {} pods on each of {taking} nodes",
            pods.len().div_ceil(taking),
            pods.len()
        ),
        &crowded(&pods, taking),
    )?)
}

/// The nodes that have more pods than their share.
fn crowded(pods: &[Pod], hosts: usize) -> Vec<String> {
    let mut on: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in pods {
        on.entry(pod.host.as_deref().unwrap_or("no node"))
            .or_default()
            .push(&pod.name);
    }
    let share = pods.len().div_ceil(hosts.max(1));
    let over = on.iter().filter(|(_, pods)| pods.len() > share);
    over.map(|(host, pods)| format!("{host}: {} pods: {}", pods.len(), pods.join(", ")))
        .collect()
}

async fn zones(cx: &Context) -> Outcome {
    rules(cx, Level::Should).await?;
    let deployment = cx.deployment()?;
    let hosts = permitted(deployment.hosts().await)?;
    let there: BTreeSet<&str> = hosts.iter().filter_map(|host| host.zone.as_deref()).collect();
    if there.len() < 2 {
        return Err(Stop::Unsupported(format!(
            "the nodes' labels tell {} zones",
            there.len()
        )));
    }
    let pods = deployment.pods().await?;
    let view = cx.view().await?;
    let alone = in_one_zone(&shards(&view), &pods, &hosts);
    Ok(no_findings("servers of every shard in two zones at least", &alone)?)
}

/// The servers of every shard, by their pods' names, the master's first.
fn shards(view: &ClusterView) -> Vec<Vec<String>> {
    let shard = |master: &crate::cluster::node::NodeView| {
        let id = master.myself().map(|line| line.id.clone()).unwrap_or_default();
        let replicas = view.replicas_of(&id).map(|node| node.member.name.clone());
        std::iter::once(master.member.name.clone()).chain(replicas).collect()
    };
    view.masters().map(shard).collect()
}

/// The shards whose servers are all in one zone.
fn in_one_zone(shards: &[Vec<String>], pods: &[Pod], hosts: &[Host]) -> Vec<String> {
    let zone = |name: &String| {
        let pod = pods.iter().find(|pod| pod.name == *name)?;
        let host = hosts.iter().find(|host| Some(&host.name) == pod.host.as_ref())?;
        host.zone.as_deref()
    };
    let told = |servers: &Vec<String>| {
        let zones: BTreeSet<Option<&str>> = servers.iter().map(zone).collect();
        (zones.len() < 2).then(|| {
            let zone = zones.into_iter().flatten().next().unwrap_or("no known zone");
            format!("all in {zone}: {}", servers.join(", "))
        })
    };
    shards.iter().filter_map(told).collect()
}

/// A replica, which the cluster can do without for a while.
pub(super) async fn a_replica(cx: &Context) -> Result<crate::cluster::node::Member, Stop> {
    let view = cx.view().await?;
    let replica = view.nodes.iter().find(|node| !node.role.is_master());
    expect(replica.is_some(), "a replica", "none")?;
    let found = replica.map(|node| node.member.clone());
    found.ok_or_else(|| anyhow::anyhow!("no replica").into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rstest::rstest;

    pub(in crate::cases::kubernetes) fn pod(name: &str, host: &str, address: &str) -> Pod {
        Pod {
            name: name.into(),
            uid: format!("uid of {name}"),
            address: Some(address.into()),
            phase: "Running".into(),
            ready: true,
            restarts: 0,
            trouble: None,
            host: Some(host.into()),
            claims: Vec::new(),
            leaving: false,
        }
    }

    #[rstest]
    #[case(&["10.0.0.1", "10.0.0.2"], &[])]
    #[case(&["10.0.0.1"], &["Service/s does not lead to r-1"])]
    #[case(&["10.0.0.1", "10.0.0.2", "10.0.0.9"], &["Service/s leads to 10.0.0.9, which is no server's"])]
    #[case(&[], &["Service/s does not lead to r-0", "Service/s does not lead to r-1"])]
    fn a_service_leads_to_all_and_only_the_pods(#[case] behind: &[&str], #[case] expected: &[&str]) {
        let pods = [pod("r-0", "a", "10.0.0.1"), pod("r-1", "a", "10.0.0.2")];
        let behind: Vec<String> = behind.iter().map(|address| (*address).to_owned()).collect();
        assert_eq!(misled("s", &pods, &behind), expected);
    }

    #[rstest]
    #[case(&["a", "a", "b", "b", "c", "c"], 3, 0)]
    #[case(&["a", "a", "a", "b", "b", "c"], 3, 1)]
    #[case(&["a", "a", "a", "b", "b", "b"], 2, 0)]
    // Five nodes: two each at most, which leaves one free.
    #[case(&["a", "a", "b", "b", "c", "c"], 5, 0)]
    fn no_node_has_more_than_its_share(#[case] on: &[&str], #[case] hosts: usize, #[case] expected: usize) {
        let pods: Vec<Pod> = on
            .iter()
            .enumerate()
            .map(|(number, host)| pod(&format!("r-{number}"), host, "x"))
            .collect();
        assert_eq!(crowded(&pods, hosts).len(), expected);
    }

    #[rstest]
    #[case("a", "b", 0)]
    #[case("a", "a2", 1)]
    fn a_shard_in_one_zone_is_told(#[case] master: &str, #[case] replica: &str, #[case] expected: usize) {
        let host = |name: &str, zone: &str| Host {
            name: name.into(),
            zone: Some(zone.into()),
            schedulable: true,
        };
        let hosts = [host("a", "z1"), host("a2", "z1"), host("b", "z2")];
        let pods = [pod("m", master, "x"), pod("r", replica, "y")];
        let shards = [vec!["m".to_owned(), "r".to_owned()]];
        assert_eq!(in_one_zone(&shards, &pods, &hosts).len(), expected);
    }
}
