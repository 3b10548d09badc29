//! The cases of chapter NET that ask from within the pods' network: names, Services, and where connections come from.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::authentication::service;
use crate::check::{Look, eventually, no_findings};
use crate::cluster::connection::Address;
use crate::cluster::node::{Endpoint, Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Pod};
use crate::inside::{self, Call, call, headless, resolve, service_domain};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const POD_NAMES: Case = Case {
    id: CaseId("NET-01"),
    title: "every ready pod's own name leads to its present address",
    requirement: "`<pod>.<headless Service>.<namespace>.svc.<domain>` MUST resolve to the current pod IP for every Ready pod.",
    source: "seed script lines 15-19; Kubernetes documentation, StatefulSets, section Stable Network ID",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[],
    bound: "T_names",
    controls: &[],
    method: "From within every server's container looks up the full name of every Ready pod, with the domain of its /etc/resolv.conf \
             (`getent`, or `dig`): in time each must lead to the `status.podIP` of that pod and nowhere else.",
    run: |cx| Box::pin(pod_names(cx)),
};

pub(super) const ALL_PODS: Case = Case {
    id: CaseId("NET-02"),
    title: "the headless name leads to every pod",
    requirement: "The headless name MUST return the IPs of all pods.",
    source: "seed manifest lines 66-80",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[],
    bound: "T_names",
    controls: &[],
    method: "From within every server's container looks up the full name of the headless Service: in time the addresses must be the \
             `status.podIP` of all pods of the deployment, as many as it is meant to have, and no other.",
    run: |cx| Box::pin(all_pods(cx)),
};

pub(super) const CLIENTS_SERVICE: Case = Case {
    id: CaseId("NET-05"),
    title: "the clients' Service answers, and every pod behind it redirects rightly",
    requirement: "The clients' Service MUST accept connections and every pod behind it MUST redirect correctly.",
    source: "seed manifest lines 82-96; seed line 325",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3],
    impact: Impact::Apart,
    needs: &[Capability::Kubernetes, Capability::Companion, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &[],
    method: "From a pod of the suite's own that is no member: 60 new connections by the Service's name, and one to each address that its \
             Endpoints name. Each must authenticate, be with a node of the cluster that says `cluster_state:ok`, and answer `GET` of a \
             key of every master as that node must: itself for its own slots, else `MOVED` to the owner. To how many servers the \
             60 led is told, and which the Endpoints do not name: for which pods it is, K8S-04 judges.",
    run: |cx| Box::pin(clients_service(cx)),
};

pub(super) const NO_TRANSLATION: Case = Case {
    id: CaseId("NET-10"),
    title: "nodes see each other's connections come from the announced addresses",
    requirement: "The announced IP and ports MUST be directly reachable (no port mapping, no NAT) or be announced explicitly.",
    source: "seed lines 29-35; Redis Cluster tutorial, section Redis Cluster and Docker",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &[],
    method: "From within every server's container a client connects to the address that every other node announces, gives itself a name \
             (`CLIENT SETNAME`) and finds itself in `CLIENT LIST`: it must be with that node, and the address there be what its own \
             server announces. Where a server announces another address than its pod's, by its configuration, it need only be reached there.",
    run: |cx| Box::pin(no_translation(cx)),
};

/// How many connections are made through the Service.
const CONNECTIONS: usize = 60;

/// Divides the answers of one connection.
const MARK: &str = "--";

async fn pod_names(cx: &Context) -> Outcome {
    let service = headless(cx).await?;
    let namespace = cx.deployment()?.namespace();
    everywhere(cx, "every Ready pod's name leads to its status.podIP", async |from| {
        let domain = service_domain(cx, from).await?;
        let pods = cx.deployment()?.pods().await?;
        let ready = pods.into_iter().filter(|pod| pod.ready);
        let wanted: Vec<(String, Pod)> = ready
            .map(|pod| (format!("{}.{service}.{namespace}.{domain}.", pod.name), pod))
            .collect();
        let names: Vec<String> = wanted.iter().map(|(name, _)| name.clone()).collect();
        let found = resolve(cx, from, &names).await?;
        let mut findings = Vec::new();
        for (name, pod) in &wanted {
            let expected: BTreeSet<String> = pod.address.iter().cloned().collect();
            findings.extend(differs(name, found.get(name), &expected));
        }
        if wanted.is_empty() {
            findings.push("no pod is Ready".into());
        }
        Ok(findings)
    })
    .await
}

async fn all_pods(cx: &Context) -> Outcome {
    let service = headless(cx).await?;
    let namespace = cx.deployment()?.namespace();
    let nodes = cx.shape().nodes();
    everywhere(cx, "the headless name leads to every pod", async |from| {
        let name = format!("{service}.{namespace}.{}.", service_domain(cx, from).await?);
        let pods = cx.deployment()?.pods().await?;
        let expected: BTreeSet<String> = pods.into_iter().filter_map(|pod| pod.address).collect();
        let found = resolve(cx, from, std::slice::from_ref(&name)).await?;
        let mut findings: Vec<String> = differs(&name, found.get(&name), &expected).into_iter().collect();
        if expected.len() != nodes {
            findings.push(format!("{} pods have an address, of {nodes}", expected.len()));
        }
        Ok(findings)
    })
    .await
}

/// What every server's container must see within T_names: no findings.
async fn everywhere<F>(cx: &Context, what: &str, look: F) -> Outcome
where
    F: AsyncFn(&Member) -> Result<Vec<String>, Stop>,
{
    let members = cx.all_members().await?;
    eventually(cx, what, cx.timing().names(), async || {
        let asked = members.iter().map(async |from| {
            let findings = look(from).await?;
            let told = findings
                .into_iter()
                .map(|finding| format!("in {}: {finding}", from.name));
            Ok::<Vec<String>, Stop>(told.collect())
        });
        let findings: Vec<String> = futures::future::try_join_all(asked).await?.concat();
        Ok(match findings.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(findings.join("\n")),
        })
    })
    .await
}

/// A finding where a name does not lead to exactly these addresses. One that leads nowhere is never right.
fn differs(name: &str, found: Option<&BTreeSet<String>>, expected: &BTreeSet<String>) -> Option<String> {
    let shown = |all: &BTreeSet<String>| match all.is_empty() {
        true => "nowhere".to_owned(),
        false => all.iter().cloned().collect::<Vec<_>>().join(", "),
    };
    let none = BTreeSet::new();
    let found = found.unwrap_or(&none);
    let right = found == expected && !expected.is_empty();
    (!right).then(|| format!("{name} leads to {}, not to {}", shown(found), shown(expected)))
}

async fn clients_service(cx: &Context) -> Outcome {
    let password = cx.shared().target.password();
    let (service, port) = service(cx)?;
    let from = inside::client(cx).await?;
    let view = cx.view().await?;
    let known: Vec<Known> = view.nodes.iter().filter_map(|node| Known::of(&view, node)).collect();
    let mut commands = vec![
        "CLUSTER MYID".to_owned(),
        format!("ECHO {MARK}"),
        "CLUSTER INFO".to_owned(),
    ];
    let mut owners = Vec::new();
    for master in view.masters() {
        if let (Some(slot), Some(owner)) = (master.inner_slot(), Known::of(&view, master)) {
            commands.extend([format!("ECHO {MARK}"), format!("GET {}", cx.key_in(slot, "absent"))]);
            owners.push((slot, owner));
        }
    }
    let behind = cx.deployment()?.behind(&service).await?;
    let ours = [service.clone()];
    let mut calls = call(cx, &from, &ours, port, CONNECTIONS, &commands, password.as_ref()).await?;
    let by_service = calls.len();
    cx.count("servers reached by the Service", reached(&calls), "servers");
    let server_port = view.nodes.first().map_or(port, |node| node.member.address.port);
    calls.extend(call(cx, &from, &behind, server_port, 1, &commands, password.as_ref()).await?);
    let mut findings: Vec<String> = calls.iter().flat_map(|call| misled(&known, &owners, call)).collect();
    if by_service < CONNECTIONS {
        findings.push(format!(
            "{service}: {by_service} of {CONNECTIONS} connections were made"
        ));
    }
    // Which pods it is for is K8S-04's matter: one for leaders alone leads to these.
    for node in view
        .nodes
        .iter()
        .filter(|node| !behind.contains(&node.member.address.host))
    {
        cx.note(format!("the Endpoints of {service} do not name {}", node.member));
    }
    findings.sort();
    findings.dedup();
    let expected = "on every connection a node of the cluster that says ok and redirects to owners";
    Ok(no_findings(expected, &findings)?)
}

/// A node, as its own line has it, and as redirections name it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: String,
    id: String,
    endpoint: Endpoint,
}

impl Known {
    fn of(view: &ClusterView, node: &NodeView) -> Option<Self> {
        let line = node.myself()?;
        Some(Self {
            name: node.member.name.clone(),
            id: line.id.clone(),
            endpoint: Endpoint {
                address: line.address.clone(),
                ..view.endpoint_of(node)
            },
        })
    }
}

fn reached(calls: &[Call]) -> usize {
    let ids: BTreeSet<String> = calls
        .iter()
        .filter_map(|call| call.parts(MARK).into_iter().next())
        .collect();
    ids.len()
}

/// What is wrong with the answers of one connection: id, `CLUSTER INFO`, and one for a key of each owner's slot.
fn misled(known: &[Known], owners: &[(u16, Known)], call: &Call) -> Vec<String> {
    let parts = call.parts(MARK);
    let part = |at: usize| parts.get(at).map_or("", String::as_str);
    let Some(node) = known.iter().find(|node| node.id == part(0)) else {
        return vec![format!("{}: no node of the cluster: {}", call.host, call.said())];
    };
    let mut findings = Vec::new();
    let place = format!("{} by {}", node.name, call.host);
    if !part(1).lines().any(|line| line == "cluster_state:ok") {
        findings.push(format!(
            "{place}: CLUSTER INFO -> {}",
            part(1).lines().next().unwrap_or("nothing")
        ));
    }
    for (at, (slot, owner)) in owners.iter().enumerate() {
        let said = parts.get(at + 2);
        let right = said.is_some_and(|said| match owner == node {
            // The key is not there: an empty line.
            true => said.is_empty(),
            false => Redirect::is_moved(&Reply::Error(said.clone()), *slot, &owner.endpoint),
        });
        if !right {
            let said = said.map_or("no answer", String::as_str);
            findings.push(format!("{place}: GET of a key of slot {slot} -> \"{said}\""));
        }
    }
    if owners.is_empty() {
        findings.push("no master has slots".into());
    }
    findings
}

async fn no_translation(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let password = cx.shared().target.password();
    let mut announced: BTreeMap<String, (String, Address)> = BTreeMap::new();
    for node in &view.nodes {
        let line = node
            .myself()
            .ok_or_else(|| Mismatch::new("its own line on every node", node.member.to_string()))?;
        announced.insert(node.member.name.clone(), (line.id.clone(), line.address.clone()));
    }
    let asked = view.nodes.iter().map(async |node| {
        let from = &node.member;
        let own = &announced[&from.name].1;
        let name = format!("rcc-{}", from.name);
        let commands = [
            "CLUSTER MYID".to_owned(),
            format!("ECHO {MARK}"),
            format!("CLIENT SETNAME {name}"),
            "CLIENT LIST".to_owned(),
        ];
        let mut findings = Vec::new();
        for (to, (id, address)) in announced.iter().filter(|(to, _)| **to != from.name) {
            let host = std::slice::from_ref(&address.host);
            let calls = call(cx, from, host, address.port, 1, &commands, password.as_ref()).await?;
            let mapped = own.host != from.address.host;
            let seen = calls.first().map(|call| (call.parts(MARK), call.said()));
            findings.extend(translated((&from.name, &own.host, mapped), (to, id), &name, seen));
        }
        Ok::<_, Stop>(findings)
    });
    let findings = futures::future::try_join_all(asked).await?.concat();
    Ok(no_findings(
        "every node with the announced address, and connections from announced addresses",
        &findings,
    )?)
}

/// What is wrong with a connection: it is with another node, or seen to come from elsewhere.
fn translated(
    (from, own, mapped): (&str, &str, bool),
    (to, id): (&str, &str),
    name: &str,
    seen: Option<(Vec<String>, String)>,
) -> Option<String> {
    let (parts, said) = seen.unwrap_or_else(|| (Vec::new(), "no answer".into()));
    if parts.first().map(String::as_str) != Some(id) {
        return Some(format!(
            "{from}: at the address that {to} announces is not {to}: {said}"
        ));
    }
    let list = parts.get(1).map_or("", String::as_str);
    let is_own = |line: &&str| line.split(' ').any(|field| field == format!("name={name}"));
    let line = list.lines().find(is_own);
    let field = line.and_then(|line| line.split(' ').find_map(|field| field.strip_prefix("addr=")));
    let source = field.and_then(|address| address.parse::<Address>().ok());
    match source {
        None => Some(format!("{to}: CLIENT LIST does not show the connection of {from}")),
        Some(source) if source.host == own || mapped => None,
        Some(source) => Some(format!(
            "{to} sees {from} come from {}, it announces {own}",
            source.host
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn set(addresses: &[&str]) -> BTreeSet<String> {
        addresses.iter().map(|address| (*address).to_owned()).collect()
    }

    #[rstest]
    #[case::right(&["10.0.0.1"], &["10.0.0.1"], true)]
    #[case::old(&["10.0.0.7"], &["10.0.0.1"], false)]
    #[case::old_beside(&["10.0.0.1", "10.0.0.7"], &["10.0.0.1"], false)]
    #[case::nowhere(&[], &["10.0.0.1"], false)]
    #[case::one_missing(&["10.0.0.1"], &["10.0.0.1", "10.0.0.2"], false)]
    #[case::nothing_wanted(&[], &[], false)]
    fn a_name_leads_to_exactly_its_addresses(#[case] found: &[&str], #[case] expected: &[&str], #[case] right: bool) {
        assert_eq!(differs("a.b.", Some(&set(found)), &set(expected)).is_none(), right);
        assert!(differs("a.b.", None, &set(expected)).is_some());
    }

    fn known(name: &str) -> Known {
        Known {
            name: name.into(),
            id: format!("id-{name}"),
            endpoint: Endpoint {
                address: Address::new(name, 6379),
                announced: Some(Address::new(format!("{name}.redis"), 6379)),
            },
        }
    }

    #[rstest]
    #[case::owner("id-a\t--\tcluster_state:ok\t--\t\t--\tMOVED 9 b:6379\t", 0)]
    #[case::the_other("id-b\t--\tcluster_state:ok\t--\tMOVED 1 a:6379\t\t--\t\t", 0)]
    #[case::by_name("id-b\t--\tcluster_state:ok\t--\tMOVED 1 a.redis:6379\t\t--\t\t", 0)]
    #[case::by_another_s_name("id-b\t--\tcluster_state:ok\t--\tMOVED 1 b.redis:6379\t\t--\t\t", 1)]
    #[case::stranger("id-c\t--\tcluster_state:ok\t--\t\t--\tMOVED 9 b:6379\t", 1)]
    #[case::down(
        "id-a\t--\tcluster_state:fail\t--\tCLUSTERDOWN The cluster is down\t--\tCLUSTERDOWN The cluster is down\t",
        3
    )]
    #[case::wrong_slot("id-a\t--\tcluster_state:ok\t--\t\t--\tMOVED 8 b:6379\t", 1)]
    #[case::astray("id-a\t--\tcluster_state:ok\t--\t\t--\tMOVED 9 c:6379\t", 1)]
    #[case::serves_what_is_not_its_own("id-a\t--\tcluster_state:ok\t--\t\t--\t\t", 1)]
    #[case::cut_short("id-a\t--\tcluster_state:ok\t--\t\t", 1)]
    #[case::refused("Could not connect to Redis at redis:6379: Connection refused\t", 1)]
    #[case::silent("", 1)]
    fn every_connection_must_be_with_a_node_that_redirects_rightly(#[case] said: &str, #[case] count: usize) {
        let call = Call {
            host: "redis".into(),
            lines: said.split('\t').map(str::to_owned).collect(),
        };
        let owners = [(1, known("a")), (9, known("b"))];
        let findings = misled(&[known("a"), known("b")], &owners, &call);
        assert_eq!(findings.len(), count, "{findings:?}");
    }

    const LIST: &str =
        "id=3 addr=10.0.0.9:40000 name=rcc-b db=0\nid=4 addr=10.0.0.1:40000 laddr=10.0.0.2:6379 name=rcc-a db=0";

    #[rstest]
    #[case::direct(&["id-b", LIST], "10.0.0.1", false, "")]
    #[case::translated(&["id-b", LIST], "10.0.0.5", false, "come from 10.0.0.1")]
    #[case::mapped_and_announced(&["id-b", LIST], "192.0.2.1", true, "")]
    #[case::another_node(&["id-c", LIST], "10.0.0.1", false, "is not b")]
    #[case::unlisted(&["id-b", ""], "10.0.0.1", false, "does not show")]
    #[case::refused(&["NOAUTH Authentication required."], "10.0.0.1", false, "is not b")]
    fn connections_come_from_announced_addresses(
        #[case] parts: &[&str],
        #[case] own: &str,
        #[case] mapped: bool,
        #[case] told: &str,
    ) {
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        let finding = translated(("a", own, mapped), ("b", "id-b"), "rcc-a", Some((parts, "said".into())));
        assert_eq!(finding.is_none(), told.is_empty(), "{finding:?}");
        assert!(finding.unwrap_or_default().contains(told));
    }

    #[test]
    fn silence_is_no_connection() {
        assert!(translated(("a", "10.0.0.1", true), ("b", "id-b"), "rcc-a", None).is_some());
    }
}
