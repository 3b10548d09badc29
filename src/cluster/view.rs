//! The views of all nodes side by side: do they agree, is the cluster whole, and if not, where not.

use super::connection::{Address, LinkError};
use super::node::{Member, NodeLine, NodeView, Role};
use super::slot::{self, SLOT_COUNT, SlotRange};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The size that a deployment is meant to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Shape {
    /// Masters that own slots.
    pub masters: usize,
    /// Replicas of each master.
    pub replicas_per_master: usize,
}

impl Shape {
    /// All nodes.
    pub fn nodes(self) -> usize {
        self.masters * (1 + self.replicas_per_master)
    }
}

/// A node as every other node should see it: what must be equal in all views (`myself`, ping times and link state differ).
#[derive(Debug, PartialEq, Eq)]
struct AgreedNode<'a> {
    address: &'a Address,
    master: bool,
    /// The master's id, for a replica.
    master_id: Option<&'a str>,
    /// As few ranges as possible, in ascending order.
    slots: Vec<SlotRange>,
    /// For a master; a replica shows its master's.
    config_epoch: Option<u64>,
}

/// What all nodes answered at about one moment.
#[derive(Debug, Default)]
pub struct ClusterView {
    /// One entry for each node that answered, ordered by name.
    pub nodes: Vec<NodeView>,
    /// The nodes that did not.
    pub silent: Vec<(Member, LinkError)>,
}

impl ClusterView {
    /// The view of one node.
    pub fn of(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|view| view.member.name == name)
    }

    /// The nodes that say they are masters (`ROLE`).
    pub fn masters(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|view| view.role.is_master())
    }

    /// The nodes that say they are replicas (`ROLE`).
    pub fn replicas(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|view| !view.role.is_master())
    }

    /// The node with an id, by its own line.
    pub fn by_id(&self, id: &str) -> Option<&NodeView> {
        self.nodes
            .iter()
            .find(|view| view.myself().is_some_and(|line| line.id == id))
    }

    /// The node at an address, as the target knows it.
    pub fn by_address(&self, address: &Address) -> Option<&NodeView> {
        self.nodes.iter().find(|view| &view.member.address == address)
    }

    /// The node that owns a slot, by its own line.
    pub fn owner_of(&self, slot: u16) -> Option<&NodeView> {
        self.nodes.iter().find(|view| {
            view.myself().is_some_and(|line| {
                line.slots
                    .iter()
                    .any(|range| (range.first..=range.last).contains(&slot))
            })
        })
    }

    /// The replicas of a master, by their own lines.
    pub fn replicas_of<'a>(&'a self, master_id: &'a str) -> impl Iterator<Item = &'a NodeView> {
        self.nodes.iter().filter(move |view| {
            view.myself()
                .is_some_and(|line| line.master.as_deref() == Some(master_id))
        })
    }

    /// What each node knows of each node, reduced to what must agree.
    fn agreed(view: &NodeView) -> BTreeMap<&str, AgreedNode<'_>> {
        view.nodes
            .iter()
            .map(|line: &NodeLine| {
                let node = AgreedNode {
                    address: &line.address,
                    master: line.is_master(),
                    master_id: line.master.as_deref(),
                    slots: slot::joined(line.slots.iter().copied()),
                    config_epoch: line.is_master().then_some(line.config_epoch),
                };
                (line.id.as_str(), node)
            })
            .collect()
    }

    /// Where the views of two nodes differ, one line a difference; empty when all agree.
    pub fn disagreements(&self) -> Vec<String> {
        let Some((first, others)) = self.nodes.split_first() else {
            return vec!["no node answered".into()];
        };
        let reference = Self::agreed(first);
        let mut differences = Vec::new();
        for other in others {
            let seen = Self::agreed(other);
            if seen == reference {
                continue;
            }
            let ids: BTreeSet<&str> = reference.keys().chain(seen.keys()).copied().collect();
            for id in ids {
                let (here, there) = (reference.get(id), seen.get(id));
                if here != there {
                    let show = |node: Option<&AgreedNode<'_>>| node.map_or("unknown".into(), AgreedNode::describe);
                    differences.push(format!(
                        "node {}: {} says {}, {} says {}",
                        beginning(id),
                        first.member.name,
                        show(here),
                        other.member.name,
                        show(there)
                    ));
                }
            }
        }
        differences
    }

    /// What keeps the cluster from being whole, one line a finding; empty when it is. Whole means (OPS-16): every node
    /// answers, knows exactly the expected nodes and says `cluster_state:ok`; all views agree and cover every slot; every
    /// master has its replicas, with their links up; no node is flagged or without an address.
    pub fn not_whole(&self, shape: Shape) -> Vec<String> {
        let mut findings: Vec<String> = self
            .silent
            .iter()
            .map(|(member, error)| format!("{}: {error}", member.name))
            .collect();
        if self.nodes.len() != shape.nodes() {
            findings.push(format!("{} of {} nodes answer", self.nodes.len(), shape.nodes()));
        }
        for view in &self.nodes {
            let name = &view.member.name;
            let expected = [
                ("cluster_state", "ok".to_owned()),
                ("cluster_known_nodes", shape.nodes().to_string()),
                ("cluster_size", shape.masters.to_string()),
                ("cluster_slots_ok", SLOT_COUNT.to_string()),
            ];
            for (field, value) in expected {
                if view.info(field) != value {
                    findings.push(format!("{name}: {field}:{} (expected {value})", view.info(field)));
                }
            }
            match view.owners() {
                Err(claim) => findings.push(format!("{name}: {claim}")),
                Ok(owners) => {
                    let holes: Vec<u16> = (0..SLOT_COUNT)
                        .filter(|slot| owners[usize::from(*slot)].is_none())
                        .collect();
                    if !holes.is_empty() {
                        findings.push(format!("{name}: slots {} have no owner", slot::describe(holes)));
                    }
                }
            }
            for line in &view.nodes {
                let bad: Vec<&str> = ["fail", "fail?", "noaddr", "handshake"]
                    .into_iter()
                    .filter(|flag| line.is(flag))
                    .collect();
                if !bad.is_empty() {
                    findings.push(format!("{name}: flags {} as {}", self.name_of(&line.id), bad.join(",")));
                } else if !line.connected {
                    findings.push(format!(
                        "{name}: bus link to {} is disconnected",
                        self.name_of(&line.id)
                    ));
                }
                if !line.open_slots.is_empty() {
                    findings.push(format!("{name}: open slots {}", line.open_slots.join(" ")));
                }
            }
            match &view.role {
                Role::Master { replicas, .. } => {
                    if replicas.len() != shape.replicas_per_master {
                        findings.push(format!(
                            "{name}: a master with {} attached replicas (expected {})",
                            replicas.len(),
                            shape.replicas_per_master
                        ));
                    }
                }
                Role::Replica { link, master, .. } => {
                    if link != "connected" {
                        findings.push(format!("{name}: replication link to {master} is \"{link}\""));
                    }
                }
            }
        }
        findings.extend(self.disagreements());
        findings
    }

    /// The deployment's name of a node id, else the id's first eight digits.
    pub fn name_of(&self, id: &str) -> String {
        self.by_id(id)
            .map_or_else(|| beginning(id).to_owned(), |view| view.member.name.clone())
    }
}

impl AgreedNode<'_> {
    fn describe(&self) -> String {
        let role = match (self.master_id, self.config_epoch) {
            (Some(master), _) => format!("replica of {}", beginning(master)),
            (None, Some(epoch)) => format!("master of slots {} at epoch {epoch}", slot::listed(&self.slots)),
            (None, None) => "neither master nor replica".into(),
        };
        format!("{} {role}", self.address)
    }
}

/// The first eight digits of an id. What a server gives for one need not be digits.
fn beginning(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
