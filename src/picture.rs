//! What the run keeps of the nodes' answers at one moment: [`Picture`].

use crate::cluster::node::{NodeView, Role};
use crate::cluster::slot;
use crate::cluster::view::ClusterView;
use crate::context::Shared;
use crate::report::picture::{Owner, Picture, Pictured, Silent, SlotMap};
use crate::settle;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Asks every node, and Kubernetes where there is one; nothing where no node is known to be asked.
pub async fn take(shared: &Arc<Shared>, moment: &str) -> Option<Picture> {
    let view = settle::look(shared).await.ok()?;
    let pods = match shared.target.deployment() {
        Some(deployment) => deployment.pods().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let hosts = pods.into_iter().filter_map(|pod| Some((pod.name, pod.host?)));
    Some(of(&view, &hosts.collect(), moment))
}

/// What the nodes said, with the hosts that they are on, by their names.
fn of(view: &ClusterView, hosts: &BTreeMap<String, String>, moment: &str) -> Picture {
    let mut maps: Vec<SlotMap> = Vec::new();
    for node in &view.nodes {
        let owners = owners(view, node);
        let name = node.member.name.clone();
        match maps.iter_mut().find(|map| map.owners == owners) {
            Some(map) => map.told_by.push(name),
            None => maps.push(SlotMap {
                told_by: vec![name],
                owners,
            }),
        }
    }
    // A stable sort: of two maps that as many nodes tell, the one of the first node stays first.
    maps.sort_by_key(|map| std::cmp::Reverse(map.told_by.len()));
    let silent = view.silent.iter().map(|(member, error)| Silent {
        name: member.name.clone(),
        why: error.to_string(),
    });
    Picture {
        moment: moment.into(),
        at: jiff::Timestamp::now(),
        nodes: view.nodes.iter().map(|node| pictured(view, node, hosts)).collect(),
        maps,
        silent: silent.collect(),
    }
}

fn pictured(view: &ClusterView, node: &NodeView, hosts: &BTreeMap<String, String>) -> Pictured {
    let (replicates, link) = match &node.role {
        Role::Replica { master, link, .. } => {
            let known = view.by_address(master).map(|node| node.member.name.clone());
            (Some(known.unwrap_or_else(|| master.to_string())), Some(link.clone()))
        }
        Role::Master { .. } => (None, None),
    };
    Pictured {
        name: node.member.name.clone(),
        master: node.role.is_master(),
        replicates,
        link,
        host: hosts.get(&node.member.name).cloned(),
    }
}

fn owners(view: &ClusterView, node: &NodeView) -> Vec<Owner> {
    let lines = node.nodes.iter().filter(|line| !line.slots.is_empty());
    let owners = lines.map(|line| Owner {
        name: view.name_of(&line.id),
        slots: slot::joined(line.slots.iter().copied())
            .into_iter()
            .map(|range| (range.first, range.last))
            .collect(),
    });
    let mut owners: Vec<Owner> = owners.collect();
    owners.sort_by(|one, other| (&one.slots, &one.name).cmp(&(&other.slots, &other.name)));
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::{Address, LinkError};
    use crate::cluster::node::{Member, parse_nodes};
    use crate::cluster::resp::Reply;
    use pretty_assertions::assert_eq;

    fn member(name: &str) -> Member {
        Member {
            name: name.into(),
            address: Address::new(name, 6379),
        }
    }

    /// A node that says these lines of `CLUSTER NODES`: host, flags, master, slots; a node's id is made of its host.
    fn node(name: &str, role: Role, lines: &[(&str, &str, &str, &str)]) -> NodeView {
        let lines = lines.iter().map(|(host, flags, master, slots)| {
            let flags = if *host == name {
                format!("myself,{flags}")
            } else {
                (*flags).to_owned()
            };
            let master = if *master == "-" { "-".into() } else { master.repeat(40) };
            let id = host.repeat(40);
            format!("{id} {host}:6379@16379 {flags} {master} 0 0 1 connected {slots}")
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        NodeView {
            member: member(name),
            raw: BTreeMap::new(),
            info: BTreeMap::new(),
            nodes: parse_nodes(&Reply::Bulk(text.into())).unwrap(),
            slots: vec![],
            shards: Ok(vec![]),
            role,
            replication: BTreeMap::new(),
        }
    }

    #[test]
    fn who_says_otherwise_has_a_map_of_its_own() {
        let master = || Role::Master {
            offset: 1,
            replicas: vec![],
        };
        let replica = |master: &str| Role::Replica {
            master: Address::new(master, 6379),
            link: "connected".into(),
            offset: 1,
        };
        let all = [
            ("b", "master", "-", "8000-16383"),
            ("a", "master", "-", "0-99 100-7999"),
            ("c", "slave", "a", ""),
        ];
        let behind = [
            ("a", "master", "-", "0-8000"),
            ("b", "master", "-", "8001-16383"),
            ("d", "slave", "b", ""),
        ];
        let view = ClusterView {
            nodes: vec![
                node("d", replica("gone"), &behind),
                node("a", master(), &all),
                node("c", replica("a"), &all),
            ],
            silent: vec![(
                member("b"),
                LinkError::Unreachable {
                    address: Address::new("b", 6379),
                    reason: "refused".into(),
                },
            )],
        };
        let picture = of(&view, &[("a".into(), "worker".into())].into(), "after the cases");
        let told: Vec<&[String]> = picture.maps.iter().map(|map| map.told_by.as_slice()).collect();
        assert_eq!(told, [["a", "c"].map(String::from).as_slice(), &["d".into()]]);
        let owners = |at: usize| {
            let owners = picture.maps[at].owners.iter();
            owners
                .map(|owner| (owner.name.as_str(), owner.slots.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(owners(0), [("a", vec![(0, 7999)]), ("bbbbbbbb", vec![(8000, 16383)])]);
        assert_eq!(owners(1), [("a", vec![(0, 8000)]), ("bbbbbbbb", vec![(8001, 16383)])]);
        let nodes = picture.nodes.iter().map(|node| {
            (
                node.name.as_str(),
                node.master,
                node.replicates.as_deref(),
                node.host.as_deref(),
            )
        });
        assert_eq!(
            nodes.collect::<Vec<_>>(),
            [
                ("d", false, Some("gone:6379"), None),
                ("a", true, None, Some("worker")),
                ("c", false, Some("a"), None),
            ]
        );
        assert_eq!(picture.silent[0].name, "b");
    }
}
