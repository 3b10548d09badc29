//! The bodies of chapter SHARD about nodes that join, leave and are forgotten: on servers of their own.

use super::beside;
use crate::check::{self, Look, eventually, steadily};
use crate::cluster::node::{Member, NodeId, NodeView};
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Execution, Scratch};
use crate::joining::meet;
use crate::migration::{self, Mover};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::Duration;

/// What the servers named say, without those that have not joined yet.
async fn look_at(cx: &Context, members: &[Member]) -> Result<ClusterView, Stop> {
    let mut view = cx.look().await?;
    view.nodes.retain(|node| members.contains(&node.member));
    Ok(view)
}

fn id_of(view: &ClusterView, member: &Member) -> Result<NodeId, Stop> {
    let line = view.of(&member.name).and_then(NodeView::myself);
    let line = line.ok_or_else(|| anyhow::anyhow!("{member}: CLUSTER NODES shows no line of itself"))?;
    Ok(line.id.clone())
}

/// Waits until each of the servers says this in `CLUSTER INFO`, and all agree.
async fn all_say(cx: &Context, members: &[Member], bound: Duration, fields: &[(&str, usize)]) -> Outcome {
    eventually(cx, &said(fields), bound, async || look_for(cx, members, fields).await).await
}

/// What [`look_for`] looks for, in words.
fn said(fields: &[(&str, usize)]) -> String {
    let told: Vec<String> = fields.iter().map(|(field, value)| format!("{field}:{value}")).collect();
    format!("{} on every node, in one view", told.join(", "))
}

/// Whether each of the servers says this in `CLUSTER INFO`, and all agree.
async fn look_for(cx: &Context, members: &[Member], fields: &[(&str, usize)]) -> Result<Look<()>, Stop> {
    let view = look_at(cx, members).await?;
    let mut findings = view.disagreements();
    if view.nodes.len() != members.len() {
        findings.push(format!("{} of {} nodes answer", view.nodes.len(), members.len()));
    }
    for node in &view.nodes {
        let wrong = fields
            .iter()
            .filter(|(field, value)| node.info(field) != value.to_string());
        findings.extend(wrong.map(|(field, _)| format!("{}: {field}:{}", node.member, node.info(field))));
    }
    Ok(if findings.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(findings.join("\n"))
    })
}

/// `redis-cli --cluster …` beside the first server, which it is told to enter the cluster by where it says so.
pub(super) async fn tool(cx: &Context, arguments: &[&str]) -> Result<Execution, Stop> {
    let members = cx.members().await?;
    let at = members
        .first()
        .ok_or_else(|| anyhow::anyhow!("there is no server beside the deployment"))?;
    let command: Vec<&str> = std::iter::once("--cluster").chain(arguments.iter().copied()).collect();
    cx.client_program(at, &command, cx.timing().reshape()).await
}

/// Expects that the tool ended well.
pub(super) fn ended_well(arguments: &[&str], outcome: &Execution) -> Result<(), Mismatch> {
    check::expect(
        outcome.status == 0,
        format!("--cluster {} ends with status 0", arguments.join(" ")),
        told(outcome),
    )
}

/// The end of what a tool said.
pub(super) fn told(outcome: &Execution) -> String {
    let text = format!("{}\n{}", outcome.stdout.trim(), outcome.stderr.trim());
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(5)..].join(" / ");
    format!("status {}: {last}", outcome.status)
}

/// Joins a server to a cluster by `CLUSTER MEET`, and waits until all agree.
async fn join(cx: &Context, members: &[Member], newcomer: &Member) -> Outcome {
    let fields = [("cluster_known_nodes", members.len())];
    let look = async || look_for(cx, members, &fields).await;
    meet(cx, &members[0].address, &[&newcomer.address], &said(&fields), look).await
}

pub(super) async fn empty_master(cx: &Context) -> Outcome {
    cx.with_scratch(&beside(cx, 3, 1), async |cx| {
        let members = cx.members().await?;
        let (entry, newcomer) = (members[0].address.to_string(), &members[3]);
        let arguments = ["add-node", &newcomer.address.to_string(), &entry];
        ended_well(&arguments, &tool(cx, &arguments).await?)?;
        let bound = 2 * cx.timing().node_timeout();
        let joined = [("cluster_known_nodes", 4), ("cluster_size", 3)];
        all_say(cx, &members, bound, &joined).await?;
        let view = cx.look().await?;
        let (giver, taker) = (id_of(&view, &members[0])?, id_of(&view, newcomer)?);
        let slots = view.of(&newcomer.name).map(NodeView::own_slots).unwrap_or_default();
        let role = view.of(&newcomer.name).is_some_and(|node| node.role.is_master());
        check::expect(
            role && slots.is_empty(),
            format!("{newcomer} a master without slots"),
            format!("a master: {role}, slots: {}", slots.len()),
        )?;
        let mut mover = Mover::between(cx, &view, &giver, &taker).await?;
        mover.move_slots(&[0, 1, 2]).await?;
        all_say(cx, &members, bound, &[("cluster_known_nodes", 4), ("cluster_size", 4)]).await
    })
    .await
}

/// Adds a replica by the command-line client, whose word for replica differs by product.
async fn add_replica(cx: &Context, newcomer: &Member, entry: &Member, master: Option<&str>) -> Outcome {
    let (newcomer, entry) = (newcomer.address.to_string(), entry.address.to_string());
    let mut last = None;
    for flag in ["--cluster-slave", "--cluster-replica"] {
        let mut arguments = vec!["add-node", &newcomer, &entry, flag];
        arguments.extend(master.iter().flat_map(|id| ["--cluster-master-id", id]));
        let outcome = tool(cx, &arguments).await?;
        let unknown = format!("{}{}", outcome.stdout, outcome.stderr).contains("Unrecognized option");
        last = Some(ended_well(&arguments, &outcome));
        if !unknown {
            break;
        }
    }
    Ok(last.unwrap_or(Ok(()))?)
}

/// Waits until a server is a synchronised replica of a master, as all `members` know.
async fn attached(
    cx: &Context,
    members: &[Member],
    replica: &Member,
    of: &dyn Fn(&str) -> bool,
) -> Result<NodeId, Stop> {
    let bound = 2 * cx.timing().node_timeout() + cx.timing().sync();
    let what = format!("{replica} a replica with its link up, as every node knows");
    eventually(cx, &what, bound, async || {
        let view = look_at(cx, members).await?;
        let node = view.of(&replica.name);
        let master = node.and_then(NodeView::myself).and_then(|line| line.master.clone());
        let link = node.map_or("", |node| node.replication("master_link_status"));
        let differ = view.disagreements();
        Ok(match master {
            Some(master) if of(&master) && link == "up" && differ.is_empty() => Look::Reached(master),
            other => Look::NotYet(format!(
                "master {}, master_link_status:{link}; {}",
                other.map_or("none".into(), |id| view.name_of(&id)),
                differ.join("; ")
            )),
        })
    })
    .await
}

pub(super) async fn new_replica(cx: &Context) -> Outcome {
    cx.with_scratch(&beside(cx, 3, 2), async |cx| {
        let members = cx.members().await?;
        let view = cx.look().await?;
        let wanted = id_of(&view, &members[1])?;
        add_replica(cx, &members[3], &members[0], Some(&wanted)).await?;
        attached(cx, &members[..4], &members[3], &|master| master == wanted).await?;
        // With no master named: one of those that have no replica yet.
        add_replica(cx, &members[4], &members[0], None).await?;
        let master = attached(cx, &members, &members[4], &|_| true).await?;
        Ok(check::expect(
            master != wanted,
            "a replica of a master that had none",
            format!("{} follows {}, which had one", members[4], members[1]),
        )?)
    })
    .await
}

pub(super) async fn full_node_stays(cx: &Context) -> Outcome {
    cx.with_scratch(&beside(cx, 3, 0), async |cx| {
        let members = cx.members().await?;
        let view = cx.view().await?;
        let id = id_of(&view, &members[1])?;
        let arguments = ["del-node", &members[0].address.to_string(), &id];
        let outcome = tool(cx, &arguments).await?;
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        check::expect(
            outcome.status != 0 && said.contains("is not empty"),
            "--cluster del-node of a master with slots refused: \"… is not empty!\", status 1",
            told(&outcome),
        )?;
        let after = cx.view().await?;
        let gone = after.nodes.iter().filter(|node| node.line(&id).is_none());
        let mut findings: Vec<String> = gone
            .map(|node| format!("{}: does not know {} any more", node.member, members[1]))
            .collect();
        findings.extend(after.disagreements());
        Ok(check::no_findings(
            "the node in its place, as every node knows",
            &findings,
        )?)
    })
    .await
}

/// How long a forgotten node is kept out, with some more for gossip to bring it back: a few seconds where the servers let
/// that be set (Valkey 8), else the 60 s of the source.
async fn ban(cx: &Context, members: &[Member]) -> Result<Duration, Stop> {
    const SHORT: Duration = Duration::from_secs(5);
    let seconds = SHORT.as_secs().to_string();
    let mut short = true;
    for member in members {
        let mut connection = cx.connect(&member.address).await?;
        let reply = connection
            .call(&["CONFIG", "SET", "cluster-blacklist-ttl", &seconds])
            .await?;
        short &= reply.is_ok();
    }
    Ok(if short {
        SHORT + cx.timing().fail()
    } else {
        cx.timing().ban()
    })
}

/// Which of the nodes still show a node, by its id or its address.
fn shown_by(view: &ClusterView, id: &str, member: &Member) -> Vec<String> {
    let shows = |node: &&NodeView| {
        let mut lines = node.nodes.iter();
        lines.any(|line| line.id == id || line.address == member.address)
    };
    let others = view.nodes.iter().filter(|node| node.member != *member);
    others.filter(shows).map(|node| node.member.name.clone()).collect()
}

pub(super) async fn forgetting(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: Shape {
            masters: 3,
            replicas_per_master: 1,
        },
        ..beside(cx, 3, 0)
    };
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let members: Vec<Member> = view.nodes.iter().map(|node| node.member.clone()).collect();
        let replicas: Vec<&NodeView> = view.replicas().collect();
        let [_, half, whole] = replicas[..] else {
            return Err(Mismatch::new("three replicas", replicas.len().to_string()).into());
        };
        let (half_id, whole_id) = (id_of(&view, &half.member)?, id_of(&view, &whole.member)?);
        refusals(cx, &view, whole).await?;
        let ban = ban(cx, &members).await?;
        // One is forgotten by all others, at once; another by one node alone.
        let rest: Vec<Member> = members
            .iter()
            .filter(|member| **member != whole.member)
            .cloned()
            .collect();
        for member in &rest {
            let mut connection = cx.connect(&member.address).await?;
            connection.ask(&["CLUSTER", "FORGET", &whole_id]).await?;
        }
        // As the tools do that remove a node: one that goes on pinging the others is met again by servers that mend links
        // which only one side has (seen on Valkey 9.1).
        let mut connection = cx.connect(&whole.member.address).await?;
        connection.ask(&["CLUSTER", "RESET"]).await?;
        let mut connection = cx.connect(&members[0].address).await?;
        connection.ask(&["CLUSTER", "FORGET", &half_id]).await?;
        let gossip = cx.timing().gossip();
        eventually(
            cx,
            "the node that all forgot gone from every view",
            gossip,
            async || {
                let shown = shown_by(&look_at(cx, &rest).await?, &whole_id, &whole.member);
                Ok(if shown.is_empty() {
                    Look::Reached(())
                } else {
                    Look::NotYet(format!("still shown by {}", shown.join(", ")))
                })
            },
        )
        .await?;
        // For longer than any ban, and a little more for the first look.
        let what = "the node that all forgot still gone";
        steadily(cx, what, ban, ban + gossip, async || {
            let shown = shown_by(&look_at(cx, &rest).await?, &whole_id, &whole.member);
            check::no_findings("a node that every other forgot never comes back by itself", &shown)?;
            Ok(Look::Reached(()))
        })
        .await?;
        let view = look_at(cx, &rest).await?;
        let shown = shown_by(&view, &half_id, &half.member);
        let count = rest.len() - 1;
        cx.note(format!(
            "of a node that one node alone forgot, {} of {count} others know after the ban",
            shown.len()
        ));
        // Since Redis 7.2 it is told on, and then it is gone for all; before, it comes back where it was forgotten.
        Ok(check::expect(
            shown.is_empty() || shown.len() == count,
            "a node that one node alone forgot: known to all again, or forgotten by all",
            format!("known to {}", shown.join(", ")),
        )?)
    })
    .await
}

/// What must not be forgotten: oneself, one's own master, nobody.
async fn refusals(cx: &Context, view: &ClusterView, replica: &NodeView) -> Outcome {
    let own = id_of(view, &replica.member)?;
    let master = replica
        .myself()
        .and_then(|line| line.master.clone())
        .unwrap_or_default();
    let mut connection = cx.connect(&replica.member.address).await?;
    let mut findings = Vec::new();
    for (what, id) in [("itself", own), ("its master", master), ("nobody", "0".repeat(40))] {
        let reply = connection.call(&["CLUSTER", "FORGET", &id]).await?;
        let refused = reply.error_prefix() == Some("ERR");
        let command = format!("CLUSTER FORGET of {what}");
        findings.extend(check::unless(refused, &replica.member, command, &reply));
    }
    Ok(check::no_findings(
        "-ERR to a replica that is to forget itself, its master, or an unknown id",
        &findings,
    )?)
}

pub(super) async fn emptied(cx: &Context) -> Outcome {
    let mut scratch = beside(cx, 2, 1);
    scratch.alterations = vec![Alteration::everywhere("cluster-allow-replica-migration yes")];
    cx.with_scratch(&scratch, async |cx| {
        let members = cx.members().await?;
        let newcomer = &members[2];
        join(cx, &members, newcomer).await?;
        let view = cx.look().await?;
        let (giver, taker) = (id_of(&view, &members[0])?, id_of(&view, newcomer)?);
        let mut mover = Mover::between(cx, &view, &giver, &taker).await?;
        mover.move_slots(&[0, 1, 2]).await?;
        migration::agreed(cx, cx.timing().fail()).await?;
        let mut back = mover.reversed();
        back.move_slots(&[0, 1, 2]).await?;
        let bound = cx.timing().gossip();
        let what = format!("{newcomer} a replica of {}, as every node knows", members[0]);
        eventually(cx, &what, bound, async || {
            let view = cx.look().await?;
            let unaware = view.nodes.iter().filter(|node| {
                let line = node.line(&taker);
                line.is_none_or(|line| line.master.as_deref() != Some(giver.as_str()))
            });
            let unaware: Vec<&str> = unaware.map(|node| node.member.name.as_str()).collect();
            let master = view.of(&newcomer.name).is_none_or(|node| node.role.is_master());
            Ok(if unaware.is_empty() && !master {
                Look::Reached(())
            } else {
                Look::NotYet(format!("a master: {master}; not known to {unaware:?}"))
            })
        })
        .await
    })
    .await
}
