//! The bodies of chapter REPL about who replicates whom, and whether both ends say so.

use crate::check::{self, Look, eventually};
use crate::cluster::node::{NodeLine, NodeView, Role};
use crate::cluster::view::{ClusterView, Shape};
use crate::context::Context;
use crate::verdict::{Mismatch, Outcome, Stop};

/// Whether a line of `CLUSTER NODES` shows a node that is there.
fn is_present(line: &&NodeLine) -> bool {
    !["fail", "noaddr", "handshake"].iter().any(|flag| line.is(flag))
}

pub(super) async fn three_and_three(cx: &Context) -> Outcome {
    let (view, shape) = (cx.view().await?, cx.shape());
    let mut findings = Vec::new();
    for node in &view.nodes {
        let lines: Vec<&NodeLine> = node.nodes.iter().filter(is_present).collect();
        let masters: Vec<&&NodeLine> = lines
            .iter()
            .filter(|line| line.is_master() && !line.slots.is_empty())
            .collect();
        let replicas = lines.iter().filter(|line| line.is_replica()).count();
        if (masters.len(), replicas) != (shape.masters, shape.masters * shape.replicas_per_master) {
            let count = masters.len();
            findings.push(format!(
                "{}: CLUSTER NODES shows {count} masters with slots, {replicas} replicas",
                node.member
            ));
        }
        for master in masters {
            let followers = lines
                .iter()
                .filter(|line| line.master.as_deref() == Some(&master.id))
                .count();
            if followers != shape.replicas_per_master {
                let name = view.name_of(&master.id);
                findings.push(format!(
                    "{}: CLUSTER NODES shows {followers} replicas of {name}",
                    node.member
                ));
            }
        }
    }
    let Shape {
        masters,
        replicas_per_master,
    } = shape;
    let expected =
        format!("{masters} masters with slots and {replicas_per_master} replicas of each, on every node's account");
    Ok(check::no_findings(expected, &findings)?)
}

pub(super) async fn no_chains(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    let mut findings = Vec::new();
    for node in view.replicas() {
        let Role::Replica { master, link, .. } = &node.role else {
            continue;
        };
        match (link.as_str(), node.replication("master_link_status")) {
            ("connected", _) => {}
            (word, "up") => cx.note(format!("{}: ROLE calls a link that is up \"{word}\"", node.member)),
            (word, _) => findings.push(format!("{}: ROLE -> slave of {master}, \"{word}\"", node.member)),
        }
        match view.by_address(master) {
            None => findings.push(format!(
                "{}: ROLE -> slave of {master}, where there is no server",
                node.member
            )),
            Some(at) if at.role.is_master() => {}
            Some(at) => findings.push(format!(
                "{}: ROLE -> slave of {}, itself a slave",
                node.member, at.member
            )),
        }
    }
    if view.replicas().count() != expected {
        findings.push(format!("{} nodes answer ROLE as a slave", view.replicas().count()));
    }
    Ok(check::no_findings(
        format!("{expected} nodes are slaves, each connected to a master"),
        &findings,
    )?)
}

/// What keeps the pairs from being up by `INFO replication`, seen from both ends; empty when all are.
pub(in crate::cases) fn links_not_up(view: &ClusterView, shape: Shape) -> Vec<String> {
    let mut findings: Vec<String> = view
        .silent
        .iter()
        .map(|(member, error)| format!("{}: {error}", member.name))
        .collect();
    let mut replicas = 0;
    for node in &view.nodes {
        let member = &node.member;
        match node.replication("role") {
            "slave" => {
                replicas += 1;
                if node.replication("master_link_status") != "up" {
                    findings.push(format!(
                        "{member}: master_link_status:{}",
                        node.replication("master_link_status")
                    ));
                }
            }
            "master" => {
                let (count, attached) = (node.replication("connected_slaves"), node.attached());
                let online = attached.iter().filter(|replica| replica.is_online()).count();
                if count != shape.replicas_per_master.to_string() || online != shape.replicas_per_master {
                    findings.push(format!(
                        "{member}: connected_slaves:{count}, {online} of them listed, and in no other state than online"
                    ));
                }
            }
            other => findings.push(format!("{member}: INFO replication -> role:{other}")),
        }
    }
    if replicas != shape.masters * shape.replicas_per_master {
        findings.push(format!("{replicas} nodes show role:slave"));
    }
    findings
}

/// Waits for at most T_sync until every pair is up, by `INFO replication` of both ends.
pub(in crate::cases) async fn links_up(cx: &Context) -> Outcome {
    eventually(
        cx,
        "every replica's link up, seen from both ends",
        cx.timing().sync(),
        async || {
            let findings = links_not_up(&cx.look().await?, cx.shape());
            Ok(if findings.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(findings.join("\n"))
            })
        },
    )
    .await
}

/// The views of all nodes, once every pair is up, or once T_sync has passed: what is only just synchronising is no
/// finding of the cases that look at something else.
pub(super) async fn attached_view(cx: &Context) -> Result<ClusterView, Stop> {
    match links_up(cx).await {
        Ok(()) | Err(Stop::Mismatch(_)) => cx.view().await,
        Err(stop) => Err(stop),
    }
}

/// Every replica with its master, by the replica's own line of `CLUSTER NODES`, as many as there should be.
pub(super) fn pairs<'a>(cx: &Context, view: &'a ClusterView) -> Result<Vec<(&'a NodeView, &'a NodeView)>, Mismatch> {
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    let pairs: Vec<_> = view
        .nodes
        .iter()
        .filter_map(|node| Some((node, view.by_id(node.myself()?.master.as_deref()?)?)))
        .collect();
    let shown: Vec<String> = pairs
        .iter()
        .map(|(replica, master)| format!("{} of {}", replica.member.name, master.member.name))
        .collect();
    let expectation = format!("{expected} replicas, each of one of the servers");
    check::expect(
        pairs.len() == expected,
        expectation,
        format!("{}: {}", shown.len(), shown.join(", ")),
    )?;
    Ok(pairs)
}

/// Which sources of the replica's side, and of all others' `CLUSTER NODES`, do not show the pair.
fn dissent(view: &ClusterView, replica: &NodeView, master: &NodeView) -> Vec<String> {
    let (ours, theirs) = (&replica.member, &master.member);
    let id = replica.myself().map_or("", |line| line.id.as_str());
    let master_id = master.myself().map(|line| line.id.as_str());
    let mut findings = Vec::new();
    for node in &view.nodes {
        let line = node.line(id);
        if line.and_then(|line| line.master.as_deref()) != master_id {
            findings.push(format!(
                "{}: CLUSTER NODES does not show {ours} as a replica of {theirs}",
                node.member
            ));
        }
        let pair = [(line, ours), (master_id.and_then(|id| node.line(id)), theirs)];
        // A node may not know its own host.
        let others = pair.into_iter().filter(|(_, member)| **member != node.member);
        for (line, member) in others {
            if let Some(line) = line.filter(|line| line.address != member.address) {
                findings.push(format!(
                    "{}: CLUSTER NODES shows {member} at {}",
                    node.member, line.address
                ));
            }
        }
    }
    if !matches!(&replica.role, Role::Replica { master, .. } if master == &theirs.address) {
        findings.push(format!(
            "{ours}: ROLE -> {:?}, but CLUSTER NODES names {theirs}",
            replica.role
        ));
    }
    let (host, port) = (replica.replication("master_host"), replica.replication("master_port"));
    if host != theirs.address.host || port != theirs.address.port.to_string() {
        findings.push(format!(
            "{ours}: INFO replication names master {host}:{port}, CLUSTER NODES {theirs}"
        ));
    }
    findings
}

/// A node's replicas by its `ROLE` and by its `INFO replication`, where they are not those expected.
fn other_replicas(node: &NodeView, expected: Vec<String>) -> Option<String> {
    let by_role = match &node.role {
        Role::Master { replicas, .. } => replicas.iter().map(|(address, _)| address.to_string()).collect(),
        Role::Replica { .. } => Vec::new(),
    };
    let by_info = node
        .attached()
        .iter()
        .map(|replica| replica.address.to_string())
        .collect();
    let [nodes, role, info] = [expected, by_role, by_info].map(|mut list| {
        list.sort_unstable();
        if list.is_empty() {
            "none".into()
        } else {
            list.join(", ")
        }
    });
    let differ = role != nodes || info != nodes;
    differ.then(|| {
        format!(
            "{}: replicas by CLUSTER NODES: {nodes}; by ROLE: {role}; by INFO: {info}",
            node.member
        )
    })
}

pub(super) async fn three_sources(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let pairs = pairs(cx, &view)?;
    let mut findings: Vec<String> = pairs
        .iter()
        .flat_map(|(replica, master)| dissent(&view, replica, master))
        .collect();
    findings.extend(view.nodes.iter().filter_map(|node| {
        let of_node = pairs.iter().filter(|(_, master)| master.member == node.member);
        other_replicas(
            node,
            of_node.map(|(replica, _)| replica.member.address.to_string()).collect(),
        )
    }));
    Ok(check::no_findings(
        "the same pairs from CLUSTER NODES, ROLE and INFO replication of both ends",
        &findings,
    )?)
}
