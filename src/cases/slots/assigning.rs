//! The bodies of chapter SLOT about how slots are divided, given and taken.

use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::formation::split;
use crate::cluster::node::{Member, NodeLine, NodeView, parse_nodes};
use crate::cluster::resp::Reply;
use crate::cluster::slot::{SLOT_COUNT, SlotRange};
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Scratch};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::Duration;

fn describe(ranges: &[SlotRange]) -> String {
    let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    ranges.join(", ")
}

async fn lines_of(connection: &mut Connection) -> Result<Vec<NodeLine>, Stop> {
    let reply = connection.ask(&["CLUSTER", "NODES"]).await?;
    Ok(parse_nodes(&reply).map_err(|reason| connection.nonsense("CLUSTER NODES", reason))?)
}

pub(super) async fn even_split(cx: &Context) -> Outcome {
    let expected = split(cx.shape().masters);
    let expectation = format!("the ranges {} on every node", describe(&expected));
    cx.judge_every_node(&expectation, async |member, connection| {
        let lines = lines_of(connection).await?;
        let masters = lines.iter().filter(|line| line.is_master());
        let mut ranges: Vec<SlotRange> = masters.flat_map(|line| line.slots.iter().copied()).collect();
        ranges.sort_unstable();
        Ok(if ranges == expected {
            Vec::new()
        } else {
            vec![format!("{member}: {}", describe(&ranges))]
        })
    })
    .await
}

/// A finding unless a command was refused with `-ERR …`. A server that does not know it is not judged by it.
fn unless_refused(member: &Member, command: &[&str], reply: &Reply) -> Result<Option<String>, Stop> {
    let unknown = |text: &str| text.to_lowercase().contains("unknown");
    if reply.error().is_some_and(unknown) {
        return Err(Stop::Unsupported(format!("{member}: {} -> {reply}", command.join(" "))));
    }
    let refused = reply.error_prefix() == Some("ERR");
    Ok(check::unless(refused, member, command.join(" "), reply))
}

/// Gives a master's slot twice to `CLUSTER DELSLOTS`. A server that takes it gets the slot back.
async fn delete_twice(member: &Member, connection: &mut Connection, slot: &str) -> Result<Option<String>, Stop> {
    let command = ["CLUSTER", "DELSLOTS", slot, slot];
    let reply = connection.call(&command).await?;
    if reply.is_ok() {
        connection.call(&["CLUSTER", "ADDSLOTS", slot]).await?;
    }
    unless_refused(member, &command, &reply)
}

pub(super) async fn invalid_use_refused(cx: &Context) -> Outcome {
    let expected =
        "-ERR … for a slot that is taken, that does not exist, or that is given twice, and no change, on every node";
    cx.judge_every_node(expected, async |member, connection| {
        let before = lines_of(connection).await?;
        let mut findings = Vec::new();
        let Some(taken) = before.iter().flat_map(|line| &line.slots).next() else {
            return Ok(vec![format!("{member}: CLUSTER NODES shows no slot of any node")]);
        };
        let taken = taken.first.to_string();
        for slot in [taken.as_str(), "16384", "-1"] {
            let command = ["CLUSTER", "ADDSLOTS", slot];
            let reply = connection.call(&command).await?;
            findings.extend(unless_refused(member, &command, &reply)?);
        }
        let own = |lines: &[NodeLine]| {
            let myself = lines.iter().find(|line| line.is("myself"));
            myself.map_or(Vec::new(), |line| line.slots.clone())
        };
        let own_before = own(&before);
        if let Some(slot) = own_before.first() {
            findings.extend(delete_twice(member, connection, &slot.first.to_string()).await?);
        }
        let own_after = own(&lines_of(connection).await?);
        if own_after != own_before {
            let (before, after) = (describe(&own_before), describe(&own_after));
            findings.push(format!("{member}: claims {after} after them, {before} before"));
        }
        Ok(findings)
    })
    .await
}

/// The slot that is taken from every node, and one that stays.
const TAKEN: u16 = 100;
const KEPT: u16 = 101;

/// Takes the slot from every node until none knows an owner. Each node is told: a slot without an owner is not gossiped.
async fn take_from_all(cx: &Context) -> Outcome {
    eventually(
        cx,
        "no node knows an owner of the slot",
        cx.timing().fail(),
        async || {
            let left = cx
                .on_every_node(async |member, connection| {
                    let owned = lines_of(connection).await?.iter().any(|line| {
                        let mut slots = line.slots.iter().flat_map(|range| range.slots());
                        slots.any(|slot| slot == TAKEN)
                    });
                    if owned {
                        connection.call(&["CLUSTER", "DELSLOTS", &TAKEN.to_string()]).await?;
                    }
                    Ok(owned.then(|| format!("{member} still knew an owner of slot {TAKEN}")))
                })
                .await?;
            let left: Vec<String> = left.into_iter().flatten().collect();
            Ok(if left.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(left.join("\n"))
            })
        },
    )
    .await
}

/// Expects every node to refuse a key of the slot that has no owner.
async fn refused_by_all(cx: &Context, coverage: &str) -> Outcome {
    let key = cx.key_in(TAKEN, "unowned");
    let expected = format!("-CLUSTERDOWN Hash slot not served, with cluster-require-full-coverage {coverage}");
    cx.judge_every_node(&expected, async |member, connection| {
        let mut findings = Vec::new();
        for command in [&["GET", key.as_str()] as &[&str], &["SET", &key, "1"]] {
            let reply = connection.call(command).await?;
            let refused = reply.error_prefix() == Some("CLUSTERDOWN")
                && reply.error().is_some_and(|text| text.contains("not served"));
            findings.extend(check::unless(refused, member, command[0], &reply));
        }
        Ok(findings)
    })
    .await
}

pub(super) async fn unowned_slot_refused(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: Shape {
            masters: 3,
            replicas_per_master: 0,
        },
        node_timeout: cx.timing().node_timeout().min(Duration::from_secs(2)),
        alterations: vec![Alteration::everywhere("cluster-require-full-coverage yes")],
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let owner = view.owner_of(KEPT).map(|owner: &NodeView| owner.member.clone());
        let owner = owner.ok_or_else(|| Mismatch::new(format!("an owner of slot {KEPT}"), "none"))?;
        take_from_all(cx).await?;
        refused_by_all(cx, "yes").await?;
        cx.on_every_node(async |_, connection| {
            let command = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
            Ok(connection.ask(&command).await?)
        })
        .await?;
        let key = cx.key_in(KEPT, "owned");
        // Only then does the node serve at all, and its refusal is about the slot alone.
        eventually(cx, "a key of another slot is written", cx.timing().fail(), async || {
            let reply = cx
                .connect(&owner.address)
                .await?
                .call(&["SET", key.as_str(), "1"])
                .await?;
            Ok(if reply.is_ok() {
                Look::Reached(())
            } else {
                Look::NotYet(format!("{owner}: SET {key} -> {reply}"))
            })
        })
        .await?;
        refused_by_all(cx, "no").await?;
        let info = cx.connect(&owner.address).await?.ask_text(&["CLUSTER", "INFO"]).await?;
        let assigned = format!("cluster_slots_assigned:{}", SLOT_COUNT - 1);
        let seen = info.lines().find(|line| line.starts_with("cluster_slots_assigned:"));
        let seen = seen.unwrap_or("no such field").to_owned();
        Ok(check::expect(
            info.contains(&assigned),
            assigned,
            format!("{owner}: {seen}"),
        )?)
    })
    .await
}
