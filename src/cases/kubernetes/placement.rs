//! Who is selected, and where pods are.

use super::objects::{described, each_workload, permitted, rules};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Host, Pod};
use crate::lint::field::Field;
use crate::lint::workload::{Deployment, Workload};
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
             pods of a workload, of its governing one and of the clients' must be the addresses of its pods: all of them, and none that \
             is no server's. Where several workloads have the servers, a Service leads to the pods of those that it is for, and some \
             Service to each pod; one for clients that is for none alone, to all.",
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
             have more pods than their number divided by that of the nodes that take them, rounded up: those that `nodeSelector` and \
             required node affinity allow and that take pods, or have some of these. Workloads that may run on other nodes are \
             judged apart. With one such node where pods are says nothing, nor where only nodes that keep ordinary pods away make \
             the difference: unsupported.",
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
    let deployment = cx.deployment()?;
    let client = deployment.client_service().map(|(name, _)| name);
    eventually(cx, "every Service leads to the pods", cx.timing().names(), async || {
        let described = described(cx).await?;
        let workloads = each_workload(&objects, &described, services_of)?;
        let servers: Vec<Pod> = described.into_iter().map(|described| described.pod).collect();
        let meant = meant(&workloads, client.as_deref(), &servers);
        let mut astray = left_out(&workloads, &meant);
        for (service, pods) in &meant {
            let behind = permitted(deployment.behind(service).await)?;
            astray.extend(misled(service, pods, &servers, &behind));
        }
        Ok(match astray.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(astray.join("\n")),
        })
    })
    .await
}

/// The Services that are for a workload's pods, by their names.
fn services_of(deployment: &Deployment<'_>, workload: &Workload<'_>) -> BTreeSet<String> {
    let behind = deployment.services(workload).into_iter();
    let named = behind.chain(deployment.governing(workload));
    named.map(|service| service.document.name().to_owned()).collect()
}

/// What makes servers, by the names of its Services and its pods.
type Served = (BTreeSet<String>, Vec<Pod>);

/// To which pods each Service must lead: to those of every workload that it is for; the clients' to all, where it is for none.
fn meant(workloads: &[Served], client: Option<&str>, servers: &[Pod]) -> BTreeMap<String, Vec<Pod>> {
    let mut meant: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    for (services, pods) in workloads {
        for service in services {
            meant.entry(service.clone()).or_default().extend(pods.iter().cloned());
        }
    }
    if let Some(client) = client {
        meant.entry(client.to_owned()).or_insert_with(|| servers.to_vec());
    }
    meant
}

/// The pods of workloads that no Service is for, where others have one.
fn left_out(workloads: &[Served], meant: &BTreeMap<String, Vec<Pod>>) -> Vec<String> {
    if meant.is_empty() {
        return Vec::new();
    }
    let led_to = |pod: &&Pod| meant.values().flatten().any(|other| other.name == pod.name);
    let pods = workloads.iter().flat_map(|(_, pods)| pods);
    pods.filter(|pod| !led_to(pod))
        .map(|pod| format!("no Service leads to {}", pod.name))
        .collect()
}

/// In what a Service's addresses are not those of its pods, or are no server's.
fn misled(service: &str, pods: &[Pod], servers: &[Pod], behind: &[String]) -> Vec<String> {
    let by_address = |pods: &[Pod]| -> BTreeMap<String, String> {
        let addressed = pods
            .iter()
            .filter_map(|pod| Some((pod.address.clone()?, pod.name.clone())));
        addressed.collect()
    };
    let (own, known) = (by_address(pods), by_address(servers));
    let missing = own.iter().filter(|(address, _)| !behind.contains(address));
    let missing = missing.map(|(_, pod)| format!("Service/{service} does not lead to {pod}"));
    let foreign = behind.iter().filter(|address| !known.contains_key(*address));
    let foreign = foreign.map(|address| format!("Service/{service} leads to {address}, which is no server's"));
    missing.chain(foreign).collect()
}

async fn spread(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    let hosts = permitted(cx.deployment()?.hosts().await)?;
    let described = described(cx).await?;
    let workloads = each_workload(&objects, &described, |_, workload| may_run_on(&workload.pod, &hosts))?;
    let (mut expected, mut over) = (Vec::new(), Vec::new());
    for (nodes, pods) in pools(workloads, &hosts) {
        let (all, taking) = (pods.len(), nodes.len());
        if taking < 2 {
            continue;
        }
        let found = crowded(&pods, taking);
        let open = hosts
            .iter()
            .filter(|host| host.schedulable && nodes.contains(&host.name));
        let open = open.count();
        if !found.is_empty() && open > 1 && crowded(&pods, open).is_empty() {
            return Err(Stop::Unsupported(format!(
                "{open} nodes take ordinary pods, {taking} have some of these or take them: the pods are spread over the former, and \
                 whether more may come to the others cannot be said"
            )));
        }
        expected.push(format!(
            "at most {} of {all} pods on each of {taking} nodes",
            all.div_ceil(taking)
        ));
        over.extend(found);
    }
    if expected.is_empty() {
        return Err(Stop::Unsupported(
            "the objects ask for spreading; one node alone takes the pods here, so where they are says nothing".into(),
        ));
    }
    Ok(no_findings(expected.join("; "), &over)?)
}

/// The nodes that pods of a description may be given to, by their names: its `nodeSelector` and what it requires by node
/// affinity.
fn may_run_on(pod: &Field<'_>, hosts: &[Host]) -> BTreeSet<String> {
    let terms = pod
        .at("affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
        .items();
    let selector = pod.at("nodeSelector").entries();
    let allowed = hosts.iter().filter(|host| {
        let label = |key: &str| host.labels.get(key).map(String::as_str);
        let selected = selector.iter().all(|(key, value)| label(key) == value.text());
        let of_term = |term: &Field<'_>| {
            let (labels, fields) = (term.at("matchExpressions").items(), term.at("matchFields").items());
            let labelled = |asked: &Field<'_>| asked.at("key").text().is_some_and(|key| fits(asked, label(key)));
            // The name is the only field that a term can ask for.
            let named =
                |asked: &Field<'_>| asked.at("key").is("metadata.name") && fits(asked, Some(host.name.as_str()));
            !(labels.is_empty() && fields.is_empty()) && labels.iter().all(labelled) && fields.iter().all(named)
        };
        selected && (terms.is_empty() || terms.iter().any(of_term))
    });
    allowed.map(|host| host.name.clone()).collect()
}

/// Whether a node's value is what a requirement of node affinity asks for.
fn fits(asked: &Field<'_>, value: Option<&str>) -> bool {
    let values = asked.at("values").items();
    let is_among = value.is_some_and(|value| values.iter().any(|allowed| allowed.is(value)));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(values.first().and_then(Field::text));
    let compared = number(value).zip(bound);
    match asked.at("operator").text() {
        Some("In") => is_among,
        Some("NotIn") => !is_among,
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => compared.is_some_and(|(value, bound)| value > bound),
        Some("Lt") => compared.is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// The nodes that take pods, and the pods that are to share them. A node that keeps ordinary pods away takes those that it
/// has: they may tolerate that.
fn pools(workloads: Vec<(BTreeSet<String>, Vec<Pod>)>, hosts: &[Host]) -> Vec<(BTreeSet<String>, Vec<Pod>)> {
    let mut pods_of: BTreeMap<BTreeSet<String>, Vec<Pod>> = BTreeMap::new();
    for (nodes, pods) in workloads {
        pods_of.entry(nodes).or_default().extend(pods);
    }
    let open = |name: &String| hosts.iter().any(|host| host.schedulable && host.name == *name);
    let pools = pods_of.into_iter().map(|(allowed, pods)| {
        let mut nodes: BTreeSet<String> = allowed.into_iter().filter(open).collect();
        nodes.extend(pods.iter().filter_map(|pod| pod.host.clone()));
        (nodes, pods)
    });
    pools.collect()
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
    let objects = rules(cx, Level::Should).await?;
    let deployment = cx.deployment()?;
    let hosts = permitted(deployment.hosts().await)?;
    let workloads = each_workload(&objects, &described(cx).await?, |_, workload| {
        may_run_on(&workload.pod, &hosts)
    })?;
    // A zone that takes none of the pods is none for them.
    let taking: BTreeSet<String> = pools(workloads, &hosts)
        .into_iter()
        .flat_map(|(nodes, _)| nodes)
        .collect();
    let there = hosts.iter().filter(|host| taking.contains(&host.name));
    let there: BTreeSet<&str> = there.filter_map(|host| host.zone.as_deref()).collect();
    if there.len() < 2 {
        return Err(Stop::Unsupported(format!(
            "the labels of the nodes that take the pods tell {} zones",
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
    if cx.shape().replicas_per_master == 0 {
        return Err(Stop::Unsupported("the deployment is to have no replica".into()));
    }
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
        assert_eq!(misled("s", &pods, &pods, &behind), expected);
    }

    #[rstest]
    // Two workloads, each with a Service of its own.
    #[case(&["s-0"], &["s-1"], Some("s-0"), &[("s-0", 1), ("s-1", 1)], 0)]
    // One Service for both.
    #[case(&["s"], &["s"], None, &[("s", 2)], 0)]
    // The clients' is for neither alone.
    #[case(&["s-0"], &["s-1"], Some("c"), &[("c", 2), ("s-0", 1), ("s-1", 1)], 0)]
    #[case(&["s-0"], &[], Some("s-0"), &[("s-0", 1)], 1)]
    #[case(&[], &[], None, &[], 0)]
    fn a_service_is_for_the_pods_of_its_workloads(
        #[case] first: &[&str],
        #[case] second: &[&str],
        #[case] client: Option<&str>,
        #[case] expected: &[(&str, usize)],
        #[case] without: usize,
    ) {
        let servers = [pod("r-0", "a", "10.0.0.1"), pod("r-1", "a", "10.0.0.2")];
        let served = |services: &[&str], pod: &Pod| {
            let services = services.iter().map(|name| (*name).to_owned());
            (services.collect::<BTreeSet<String>>(), vec![pod.clone()])
        };
        let workloads = [served(first, &servers[0]), served(second, &servers[1])];
        let meant = meant(&workloads, client, &servers);
        let counts: Vec<(&str, usize)> = meant.iter().map(|(name, pods)| (name.as_str(), pods.len())).collect();
        assert_eq!(counts, expected);
        assert_eq!(left_out(&workloads, &meant).len(), without);
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

    const ANY: &str = "{}";
    const SELECTED: &str = "{nodeSelector: {pool: data}}";

    fn required(expression: &str) -> String {
        let term = format!("{{matchExpressions: [{expression}]}}");
        let required = format!("requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{term}]}}");
        format!("{{affinity: {{nodeAffinity: {{{required}}}}}}}")
    }

    fn hosts() -> [Host; 4] {
        let host = |name: &str, pool: &str, schedulable| Host {
            name: name.into(),
            labels: [("pool".to_owned(), pool.to_owned())].into(),
            zone: None,
            schedulable,
        };
        [
            host("a", "data", true),
            host("b", "data", true),
            host("c", "web", true),
            host("d", "data", false),
        ]
    }

    #[rstest]
    #[case(ANY.to_owned(), &["a", "b", "c", "d"])]
    #[case(SELECTED.to_owned(), &["a", "b", "d"])]
    #[case(required("{key: pool, operator: In, values: [web, other]}"), &["c"])]
    #[case(required("{key: pool, operator: NotIn, values: [web]}"), &["a", "b", "d"])]
    #[case(required("{key: gpu, operator: DoesNotExist}"), &["a", "b", "c", "d"])]
    #[case(required("{key: gpu, operator: Exists}"), &[])]
    fn a_pod_may_run_on_the_nodes_that_it_selects(#[case] spec: String, #[case] expected: &[&str]) {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: r}}\nspec: {spec}\n");
        let manifest = crate::manifest::Manifest::parse("m.yaml", &text).unwrap();
        let object = crate::lint::field::Object {
            file: "m.yaml",
            document: &manifest.documents[0],
        };
        let allowed = may_run_on(&object.at("spec"), &hosts());
        assert_eq!(allowed.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    // Four nodes of which one keeps pods away: three share.
    #[case(&["a", "b", "c", "d"], &["a", "b", "c"], &["a", "b", "c"])]
    // A pod that tolerates what keeps others away.
    #[case(&["a", "b", "c", "d"], &["a", "b", "d"], &["a", "b", "c", "d"])]
    #[case(&["a", "b", "d"], &["a", "b", "a"], &["a", "b"])]
    fn the_nodes_that_may_take_pods_share_them(#[case] allowed: &[&str], #[case] on: &[&str], #[case] taking: &[&str]) {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<String>>()
        };
        let pods = on.iter().map(|host| pod("r", host, "x")).collect();
        let pools = pools(vec![(names(allowed), pods)], &hosts());
        let seen: Vec<(BTreeSet<String>, usize)> = pools.into_iter().map(|(nodes, pods)| (nodes, pods.len())).collect();
        assert_eq!(seen, [(names(taking), on.len())]);
    }

    #[test]
    fn workloads_of_the_same_nodes_share_them() {
        let all: BTreeSet<String> = hosts().into_iter().map(|host| host.name).collect();
        let one = |name: &str| (all.clone(), vec![pod(name, "a", "x")]);
        let pools = pools(vec![one("r-0"), one("r-1"), one("r-2")], &hosts());
        assert_eq!(pools.len(), 1);
        assert_eq!(crowded(&pools[0].1, pools[0].0.len()).len(), 1);
    }

    #[rstest]
    #[case("a", "b", 0)]
    #[case("a", "a2", 1)]
    fn a_shard_in_one_zone_is_told(#[case] master: &str, #[case] replica: &str, #[case] expected: usize) {
        let host = |name: &str, zone: &str| Host {
            name: name.into(),
            labels: BTreeMap::new(),
            zone: Some(zone.into()),
            schedulable: true,
        };
        let hosts = [host("a", "z1"), host("a2", "z1"), host("b", "z2")];
        let pods = [pod("m", master, "x"), pod("r", replica, "y")];
        let shards = [vec!["m".to_owned(), "r".to_owned()]];
        assert_eq!(in_one_zone(&shards, &pods, &hosts).len(), expected);
    }
}
