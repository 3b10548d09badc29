//! The bodies of chapter REPL about commands of replication: what they tell, and what they must refuse.

use super::pairing::{attached_view, pairs};
use crate::check::{self, expect};
use crate::cluster::connection::Connection;
use crate::cluster::node::{Member, NodeView, parse_role};
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::feature::is_no_subcommand;
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeSet;

/// Whether a command was refused: by an error of its own, or by the rules for users.
fn is_refused(reply: &Reply) -> bool {
    matches!(reply.error_prefix(), Some("ERR" | "NOPERM"))
}

pub(super) async fn replicaof_refused(cx: &Context) -> Outcome {
    cx.judge_every_node("REPLICAOF and SLAVEOF refused", async |member, connection| {
        let before = connection.ask(&["ROLE"]).await?;
        let role = parse_role(&before).map_err(|reason| connection.nonsense("ROLE", reason))?;
        // What the server does already: whoever wrongly obeys changes nothing.
        let (host, port) = match role {
            crate::cluster::node::Role::Master { .. } => ("NO".to_owned(), "ONE".to_owned()),
            crate::cluster::node::Role::Replica { master, .. } => (master.host, master.port.to_string()),
        };
        let mut findings = Vec::new();
        for name in ["REPLICAOF", "SLAVEOF"] {
            let reply = connection.call(&[name, host.as_str(), port.as_str()]).await?;
            let command = format!("{name} {host} {port}");
            findings.extend(check::unless(is_refused(&reply), member, command, &reply));
        }
        Ok(findings)
    })
    .await
}

/// Sends `CLUSTER REPLICATE` with an id that cannot be replicated; a finding where it is not refused.
async fn not_replicated(
    connection: &mut Connection,
    member: &Member,
    id: &str,
    whose: &str,
) -> Result<Option<String>, Stop> {
    let reply = connection.call(&["CLUSTER", "REPLICATE", id]).await?;
    let command = format!("CLUSTER REPLICATE {id} ({whose})");
    Ok(check::unless(is_refused(&reply), member, command, &reply))
}

pub(super) async fn illegal_masters_refused(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let known: BTreeSet<&str> = view
        .nodes
        .iter()
        .flat_map(|node| &node.nodes)
        .map(|line| line.id.as_str())
        .collect();
    let unknown = ["0", "1", "2"].map(|digit| digit.repeat(40));
    let unknown = unknown
        .iter()
        .find(|id| !known.contains(id.as_str()))
        .cloned()
        .unwrap_or_default();
    let id_of = |node: &NodeView| node.myself().map(|line| line.id.clone()).unwrap_or_default();
    let expected = "CLUSTER REPLICATE refused for oneself, a replica, an unknown id, and on a master with slots";
    cx.judge_every_node(expected, async |member, connection| {
        let (Some(node), Some((replica, master))) = (
            view.of(&member.name),
            pairs.iter().find(|(replica, _)| replica.member.name != member.name),
        ) else {
            return Ok(vec![format!(
                "{member} is not among the nodes seen before, or there is no other replica"
            )]);
        };
        let mut findings = Vec::new();
        findings.extend(not_replicated(connection, member, &id_of(node), "itself").await?);
        findings.extend(not_replicated(connection, member, &unknown, "unknown").await?);
        findings.extend(not_replicated(connection, member, &id_of(replica), "a replica").await?);
        // Only a server that has refused so far is asked for what would cost its slots.
        if findings.is_empty() && node.role.is_master() && master.member.name != member.name {
            let whose = "another master; this one has slots";
            findings.extend(not_replicated(connection, member, &id_of(master), whose).await?);
        }
        restore(connection, node).await?;
        Ok(findings)
    })
    .await
}

/// Makes a replica follow its master again, where it wrongly took another.
async fn restore(connection: &mut Connection, before: &NodeView) -> Result<(), Stop> {
    let now = NodeView::ask(connection, before.member.clone()).await?;
    let master = |node: &NodeView| node.myself().and_then(|line| line.master.clone());
    if let Some(master) = master(before).filter(|_| master(&now) != master(before)) {
        connection.ask(&["CLUSTER", "REPLICATE", &master]).await?;
    }
    Ok(())
}

/// The ids and masters' ids in a reply of `CLUSTER REPLICAS`: a list of lines as in `CLUSTER NODES`.
fn listed(reply: &Reply) -> Result<BTreeSet<(String, String)>, String> {
    let lines = reply.array().ok_or_else(|| format!("unexpected {reply}"))?;
    let texts: Option<Vec<&str>> = lines.iter().map(Reply::text).collect();
    let text = texts.ok_or_else(|| format!("unexpected {reply}"))?.join("\n");
    let parsed = crate::cluster::node::parse_nodes(&Reply::Bulk(text.into()))?;
    let replicas = parsed.into_iter().map(|line| match (line.is_replica(), line.master) {
        (true, Some(master)) => Ok((line.id, master)),
        _ => Err(format!("{} is not shown as a replica", line.id)),
    });
    replicas.collect()
}

pub(super) async fn replicas_listed(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let pairs = pairs(cx, &view)?;
    let id_of = |node: &NodeView| node.myself().map(|line| line.id.clone()).unwrap_or_default();
    let masters: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
    let count = cx.shape().masters;
    expect(
        masters.len() == count,
        format!("{count} masters with slots"),
        masters.len().to_string(),
    )?;
    let expected = "CLUSTER REPLICAS (and SLAVES) of each master: exactly its replicas; of a replica: an error";
    cx.judge_every_node(expected, async |member, connection| {
        let mut findings = Vec::new();
        for name in ["REPLICAS", "SLAVES"] {
            for master in &masters {
                let id = id_of(master);
                let command = ["CLUSTER", name, &id];
                let reply = connection.call(&command).await?;
                if name == "SLAVES" && is_no_subcommand(connection, &command, &reply).await? {
                    cx.note(format!("{member}: CLUSTER SLAVES -> {reply}"));
                    break;
                }
                let of_master = pairs.iter().filter(|(_, other)| other.member == master.member);
                let ours: BTreeSet<_> = of_master.map(|(replica, _)| (id_of(replica), id.clone())).collect();
                match listed(&reply) {
                    Ok(shown) if shown == ours => {}
                    Ok(shown) => {
                        let names = |set: &BTreeSet<(String, String)>| {
                            let names: Vec<String> = set.iter().map(|(id, _)| view.name_of(id)).collect();
                            names.join(", ")
                        };
                        findings.push(format!(
                            "{member}: CLUSTER {name} of {} -> [{}], its replicas: [{}]",
                            master.member.name,
                            names(&shown),
                            names(&ours)
                        ));
                    }
                    Err(reason) => {
                        findings.push(format!("{member}: CLUSTER {name} of {}: {reason}", master.member.name));
                    }
                }
            }
        }
        for (replica, _) in &pairs {
            let reply = connection.call(&["CLUSTER", "REPLICAS", &id_of(replica)]).await?;
            let command = format!("CLUSTER REPLICAS of {}, a replica", replica.member.name);
            findings.extend(check::unless(
                reply.error_prefix() == Some("ERR"),
                member,
                command,
                &reply,
            ));
        }
        Ok(findings)
    })
    .await
}

/// The pairs that `redis-cli --cluster create` makes of so many nodes with an address each: the first are masters, and
/// the rest, the list turned by one, are given to them in order. By ordinal: replica, master.
fn created_pairs(masters: usize, replicas_per_master: usize) -> Vec<(usize, usize)> {
    let mut replicas: Vec<usize> = (masters..masters * (1 + replicas_per_master)).collect();
    if !replicas.is_empty() {
        replicas.rotate_left(1);
    }
    let each = replicas.chunks(replicas_per_master.max(1)).enumerate();
    each.flat_map(|(master, replicas)| replicas.iter().map(move |replica| (*replica, master)))
        .collect()
}

pub(super) async fn pairing_by_creation(cx: &Context) -> Outcome {
    let unsupported = |reason: String| Err(Stop::Unsupported(reason));
    let log = cx.deployment()?.bootstrap_log().await.unwrap_or_default();
    // What the tool prints first; other tools pair as they like.
    if !log.contains("Performing hash slots allocation") {
        return unsupported(
            "the bootstrap's log does not show that redis-cli --cluster create made the cluster".into(),
        );
    }
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let hosts: BTreeSet<&str> = view
        .nodes
        .iter()
        .map(|node| node.member.address.host.as_str())
        .collect();
    if hosts.len() < view.nodes.len() {
        return unsupported("several servers share an address: the tool then pairs by chance".into());
    }
    let ordinal = |node: &NodeView| {
        node.member
            .name
            .rsplit('-')
            .next()
            .and_then(|word| word.parse::<usize>().ok())
    };
    let shape = cx.shape();
    // The tool gives the nodes the epochs 1, 2, … in their order: a failover since then shows.
    let as_created = |master: usize| {
        let node = view.nodes.iter().find(|node| ordinal(node) == Some(master));
        let line = node.and_then(NodeView::myself);
        line.is_some_and(|line| line.is_master() && line.config_epoch == master as u64 + 1)
    };
    if let Some(changed) = (0..shape.masters).find(|master| !as_created(*master)) {
        return unsupported(format!(
            "the server of ordinal {changed} is not the master at epoch {} that the creation made of it: roles have changed since",
            changed + 1
        ));
    }
    let findings: Vec<String> = created_pairs(shape.masters, shape.replicas_per_master)
        .into_iter()
        .filter(|pair| {
            let made = |(replica, master): &(&NodeView, &NodeView)| (ordinal(replica), ordinal(master));
            !pairs.iter().any(|found| made(found) == (Some(pair.0), Some(pair.1)))
        })
        .map(|(replica, master)| {
            let found = pairs.iter().find(|(other, _)| ordinal(other) == Some(replica));
            let of = found.map_or("nobody", |(_, master)| master.member.name.as_str());
            format!("the server of ordinal {replica} replicates {of}, not the one of ordinal {master}")
        })
        .collect();
    Ok(check::no_findings(
        "the pairs that redis-cli --cluster create makes of distinct addresses",
        &findings,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_tool_pairs_the_seed_s_pods_so() {
        assert_eq!(created_pairs(3, 1), [(4, 0), (5, 1), (3, 2)]);
        assert_eq!(created_pairs(3, 0), []);
        assert_eq!(created_pairs(2, 2), [(3, 0), (4, 0), (5, 1), (2, 1)]);
    }
}
