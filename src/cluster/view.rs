//! The views of all nodes side by side: do they agree, is the cluster whole, and if not, where not.

use super::connection::{Address, LinkError};
use super::node::{Endpoint, Member, NodeLine, NodeView, Role};
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

    /// How a node is named in replies. A host name that another node announces too, with the same port, is not its name:
    /// who follows it comes to either.
    pub fn endpoint_of(&self, node: &NodeView) -> Endpoint {
        let announced = node.announced().filter(|name| {
            let mut others = self.nodes.iter().filter(|other| other.member != node.member);
            others.all(|other| other.announced().as_ref() != Some(name))
        });
        Endpoint {
            address: node.member.address.clone(),
            announced,
        }
    }

    /// The node that a reply names, by its address as the target knows it, or by the host name that it announces.
    pub fn named(&self, named: &Address) -> Option<&NodeView> {
        self.nodes.iter().find(|node| self.endpoint_of(node).is(named))
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
                    if !view.linked() {
                        findings.push(format!("{name}: replication link to {master} is \"{link}\""));
                    }
                }
            }
        }
        findings.extend(self.disagreements());
        findings
    }

    /// Where a node is shown at an address that is not its own: in `CLUSTER NODES`, in `CLUSTER SLOTS`, as a replica's
    /// master; one line a finding. Where each is, is what the target says of the server that has the id. `CLUSTER SLOTS`
    /// may name it by the host name that it announces.
    pub fn astray(&self) -> Vec<String> {
        let present: Vec<&Address> = self.nodes.iter().map(|node| &node.member.address).collect();
        let mut findings = Vec::new();
        for node in &self.nodes {
            let name = &node.member.name;
            findings.extend(self.astray_lines(name, &node.nodes));
            let shown = node.slots.iter().flat_map(|entry| &entry.nodes);
            let astray: BTreeSet<&Address> = shown
                .filter(|(address, id)| match id.as_deref().and_then(|id| self.by_id(id)) {
                    Some(meant) => !self.endpoint_of(meant).is(address),
                    None => self.named(address).is_none(),
                })
                .map(|(address, _)| address)
                .collect();
            findings.extend(
                astray.iter().map(|address| {
                    format!("{name}: CLUSTER SLOTS names {address}, where the node that it means is not")
                }),
            );
            match &node.role {
                Role::Replica { master, .. } if !present.contains(&master) => {
                    findings.push(format!("{name}: replicates {master}, where nobody is"));
                }
                Role::Replica { .. } | Role::Master { .. } => {}
            }
        }
        findings
    }

    /// [`Self::astray`] of some lines that show nodes, out of what `place` names.
    pub fn astray_lines(&self, place: &str, lines: &[NodeLine]) -> Vec<String> {
        let mut findings = Vec::new();
        for line in lines {
            match self.by_id(&line.id) {
                Some(node) if line.address != node.member.address || line.is("noaddr") => findings.push(format!(
                    "{place}: shows {} at {}{}",
                    node.member,
                    line.address,
                    if line.is("noaddr") { ", noaddr" } else { "" }
                )),
                Some(_) => {}
                None => findings.push(format!(
                    "{place}: shows {} at {}, and no server has that id",
                    beginning(&line.id),
                    line.address
                )),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::node::{SlotsEntry, parse_nodes};
    use crate::cluster::resp::Reply;
    use rstest::rstest;

    fn at(host: &str) -> Address {
        Address::new(host, 6379)
    }

    /// A node at a host, of which the id is the host's letter; `shown` are the other nodes: letter, host, flags.
    fn node(host: &str, shown: &[(&str, &str, &str)]) -> NodeView {
        let own = [(host, host, "myself,master")];
        let lines = own.iter().chain(shown).map(|(id, host, flags)| {
            let address = if host.is_empty() {
                ":0@0".into()
            } else {
                format!("{host}:6379@16379")
            };
            format!("{} {address} {flags} - 0 0 1 connected", id.repeat(40))
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        NodeView {
            member: Member {
                name: format!("node {host}"),
                address: at(host),
            },
            raw: BTreeMap::new(),
            info: BTreeMap::new(),
            nodes: parse_nodes(&Reply::Bulk(text.into())).unwrap(),
            slots: vec![],
            shards: Ok(vec![]),
            role: Role::Master {
                offset: 1,
                replicas: vec![],
            },
            replication: BTreeMap::new(),
        }
    }

    fn astray(other: NodeView) -> Vec<String> {
        let first = node("a", &[("b", "b", "master")]);
        let nodes = vec![first, other];
        ClusterView { nodes, silent: vec![] }.astray()
    }

    #[rstest]
    #[case::where_it_is("a", "master", "")]
    #[case::where_it_was("c", "master,fail", "node b: shows node a (a:6379) at c:6379")]
    #[case::nowhere("", "master,noaddr", "node b: shows node a (a:6379) at :0, noaddr")]
    #[case::at_its_old_address_all_the_same("a", "master,noaddr", "node b: shows node a (a:6379) at a:6379, noaddr")]
    #[case::where_another_is("b", "master", "node b: shows node a (a:6379) at b:6379")]
    fn a_node_shown_astray_is_told(#[case] host: &str, #[case] flags: &str, #[case] told: &str) {
        let findings = astray(node("b", &[("a", host, flags)]));
        let expected: Vec<&str> = Some(told).into_iter().filter(|told| !told.is_empty()).collect();
        assert_eq!(findings, expected);
    }

    #[test]
    fn an_id_that_no_server_has_is_told() {
        let findings = astray(node("b", &[("a", "a", "master"), ("c", "a", "slave")]));
        assert_eq!(
            findings,
            ["node b: shows cccccccc at a:6379, and no server has that id"]
        );
    }

    #[rstest]
    #[case::right("a", Some("a"), 0)]
    #[case::dead("c", Some("a"), 1)]
    #[case::exchanged("b", Some("a"), 1)]
    #[case::dead_without_an_id("c", None, 1)]
    #[case::right_without_an_id("a", None, 0)]
    fn cluster_slots_that_lead_astray_are_told(#[case] host: &str, #[case] id: Option<&str>, #[case] count: usize) {
        let mut other = node("b", &[("a", "a", "master")]);
        other.slots = vec![SlotsEntry {
            range: SlotRange { first: 0, last: 1 },
            nodes: vec![(at(host), id.map(|id| id.repeat(40)))],
        }];
        assert_eq!(astray(other).len(), count);
    }

    /// A node at a host that announces a name.
    fn announcing(host: &str, name: &str) -> NodeView {
        let mut announcing = node(host, &[]);
        announcing.nodes[0].host_name = Some(name.into());
        announcing
    }

    #[rstest]
    #[case::its_address("a", Some("node a"))]
    #[case::its_name("a.redis", Some("node a"))]
    #[case::another_s_name("b.redis", Some("node b"))]
    #[case::a_name_of_two("redis", None)]
    #[case::nobody_s_name("c.redis", None)]
    #[case::no_host("", None)]
    fn a_node_is_found_by_what_names_it_alone(#[case] host: &str, #[case] found: Option<&str>) {
        let nodes = vec![
            announcing("a", "a.redis"),
            announcing("b", "b.redis"),
            announcing("c", "redis"),
            announcing("d", "redis"),
        ];
        let view = ClusterView { nodes, silent: vec![] };
        assert_eq!(view.named(&at(host)).map(|node| node.member.name.as_str()), found);
    }

    #[rstest]
    #[case::its_own("b.redis", 0)]
    #[case::another_s("a.redis", 1)]
    #[case::nobody_s("c.redis", 1)]
    fn cluster_slots_may_give_the_name_that_the_node_announces(#[case] host: &str, #[case] count: usize) {
        let mut first = announcing("a", "a.redis");
        first.slots = vec![SlotsEntry {
            range: SlotRange { first: 0, last: 1 },
            nodes: vec![(at(host), Some("b".repeat(40)))],
        }];
        let nodes = vec![first, announcing("b", "b.redis")];
        assert_eq!(ClusterView { nodes, silent: vec![] }.astray().len(), count);
    }

    #[test]
    fn a_replica_that_follows_nobody_who_is_there_is_told() {
        let mut other = node("b", &[("a", "a", "master")]);
        other.role = Role::Replica {
            master: at("c"),
            link: "connecting".into(),
            offset: 1,
        };
        assert_eq!(astray(other), ["node b: replicates c:6379, where nobody is"]);
    }
}
