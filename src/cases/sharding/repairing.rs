//! The bodies of chapter SHARD about the command-line client's own moves, about values that are big, and about what a
//! master with keys refuses: on servers of their own.

use super::beside;
use super::joining::{ended_well, told, tool};
use crate::check::{self, Look, eventually};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::slot::SLOT_COUNT;
use crate::cluster::view::ClusterView;
use crate::context::{Alteration, Context};
use crate::migration::{self, Plan};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::{Duration, Instant};

/// How many slots are moved to put a cluster out of balance: well beyond the threshold of 2 %.
const UNBALANCE: u16 = 160;
/// How many keys are in the slots that are moved.
const KEYS: u16 = 20;
/// The size of a big value.
const BIG: usize = 50 * 1024 * 1024;

/// Writes keys, one to each of the slots, through a master that owns them.
async fn write_keys(cx: &Context, slots: &[u16], at: &Member) -> Result<Vec<String>, Stop> {
    let keys: Vec<String> = slots
        .iter()
        .enumerate()
        .map(|(at, slot)| cx.key_in(*slot, &at.to_string()))
        .collect();
    let mut connection = cx.connect(&at.address).await?;
    for key in &keys {
        connection.ask(&["SET", key, "kept"]).await?;
    }
    Ok(keys)
}

/// The keys that are not served with their value by exactly the owner of their slot.
async fn missing_keys(cx: &Context, keys: &[String]) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for key in keys {
        let reply = cx.call_anywhere(&["GET", key]).await?;
        if reply.text() != Some("kept") {
            findings.push(format!("GET {key} -> {reply} (written: kept)"));
        }
    }
    Ok(findings)
}

pub(super) async fn rebalance(cx: &Context) -> Outcome {
    cx.with_scratch(&beside(cx, 3, 0), async |cx| {
        let view = cx.view().await?;
        let plan = Plan::of(cx, &view, usize::from(UNBALANCE)).await?;
        let mut mover = plan.mover(cx, &view).await?;
        let keys = write_keys(cx, &plan.slots, &mover.source.member).await?;
        mover.move_slots(&plan.slots).await?;
        // The client gives up at once where nodes still differ.
        migration::agreed(cx, cx.timing().fail()).await?;
        let began = Instant::now();
        let arguments = ["rebalance", &mover.source.member.address.to_string()];
        ended_well(&arguments, &tool(cx, &arguments).await?)?;
        cx.measure("rebalance", began.elapsed(), None, Some(cx.timing().reshape()));
        migration::agreed(cx, cx.timing().fail()).await?;
        let view = cx.view().await?;
        let even = f64::from(SLOT_COUNT) / view.nodes.len() as f64;
        let mut findings: Vec<String> = view
            .nodes
            .iter()
            .filter(|node| (node.own_slots().len() as f64 - even).abs() > even * 0.02 + 1.0)
            .map(|node| format!("{}: {} slots", node.member, node.own_slots().len()))
            .collect();
        findings.extend(missing_keys(cx, &keys).await?);
        Ok(check::no_findings(
            format!("{even:.0} slots for each master, within 2 %, and every key there"),
            &findings,
        )?)
    })
    .await
}

pub(super) async fn repair(cx: &Context) -> Outcome {
    cx.with_scratch(&beside(cx, 3, 0), async |cx| {
        let view = cx.view().await?;
        let plan = Plan::of(cx, &view, 1).await?;
        let slot = plan.slots[0];
        let mut mover = plan.mover(cx, &view).await?;
        let slots = vec![slot; usize::from(KEYS)];
        let keys = write_keys(cx, &slots, &mover.source.member).await?;
        let (gone, left) = keys.split_at(keys.len() / 2);
        mover.open(slot).await?;
        mover.move_keys(slot, gone).await?;
        // Here whoever moves the slot is gone. It must still be served.
        let destination = mover.destination.endpoint.clone();
        let mut findings = Vec::new();
        for key in left {
            let reply = mover.source.connection.call(&["GET", key]).await?;
            let served = reply.text() == Some("kept");
            findings.extend(check::unless(
                served,
                &mover.source.member,
                format!("GET {key}"),
                &reply,
            ));
        }
        for key in gone {
            let reply = mover.source.connection.call(&["GET", key]).await?;
            let asks = Redirect::is_ask(&reply, slot, &destination);
            findings.extend(check::unless(asks, &mover.source.member, format!("GET {key}"), &reply));
            mover.destination.connection.ask(&["ASKING"]).await?;
            let reply = mover.destination.connection.call(&["GET", key]).await?;
            let served = reply.text() == Some("kept");
            let command = format!("GET {key} after ASKING");
            findings.extend(check::unless(served, &mover.destination.member, command, &reply));
        }
        check::no_findings("every key of the open slot served", &findings)?;
        let entry = mover.source.member.address.to_string();
        let checked = tool(cx, &["check", &entry]).await?;
        let said = format!("{}{}", checked.stdout, checked.stderr);
        check::expect(
            said.contains("slots are open") || said.contains("in migrating state"),
            "--cluster check tells the open slot",
            told(&checked),
        )?;
        let began = Instant::now();
        let arguments = ["fix", &entry];
        ended_well(&arguments, &tool(cx, &arguments).await?)?;
        cx.measure("fix", began.elapsed(), None, Some(cx.timing().reshape()));
        migration::agreed(cx, cx.timing().fail()).await?;
        let missing = missing_keys(cx, &keys).await?;
        Ok(check::no_findings(
            "every key at the slot's owner after --cluster fix",
            &missing,
        )?)
    })
    .await
}

pub(super) async fn big_value(cx: &Context) -> Outcome {
    let mut scratch = beside(cx, 3, 0);
    // The transfer keeps both ends from answering anybody: that must be short against the node-timeout.
    scratch.node_timeout = Duration::from_secs(10);
    // As many bytes on the way as there are in the value; and none of them on a disk.
    scratch.alterations = ["rdbcompression no", "appendonly no", "save \"\""]
        .map(Alteration::everywhere)
        .to_vec();
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let plan = Plan::of(cx, &view, 1).await?;
        let (slot, key) = (plan.slots[0], cx.key_in(plan.slots[0], "big"));
        let mut mover = plan.mover(cx, &view).await?;
        let last = (BIG - 1).to_string();
        mover.source.connection.ask(&["SETRANGE", &key, &last, "!"]).await?;
        // Longer than one reply may take: what is waited for is a transfer.
        mover.source.connection = cx
            .connect(&mover.source.member.address)
            .await?
            .with_patience(cx.timing().reshape());
        let done = std::cell::Cell::new(false);
        let moving = async {
            let moved = mover.move_slots(&[slot]).await;
            done.set(true);
            moved
        };
        // The two masters may answer nobody for a while: the third one says what it thinks of them.
        let third = bystander(&view, &plan)?;
        let mut asked = cx.connect(&third.member.address).await?;
        let watching = async {
            let mut flags = std::collections::BTreeSet::new();
            eventually(cx, "the value moved", cx.timing().reshape(), async || {
                let node = NodeView::ask(&mut asked, third.member.clone()).await?;
                flags.extend(flagged(&node));
                Ok(if done.get() {
                    Look::Reached(())
                } else {
                    Look::NotYet("still being moved".into())
                })
            })
            .await?;
            flags.extend(cx.view().await?.nodes.iter().flat_map(flagged));
            Ok::<_, Stop>(flags)
        };
        let (moved, flags) = futures::join!(moving, watching);
        cx.measure("50 MiB moved", moved?.took, None, None);
        let flags: Vec<String> = flags?.into_iter().collect();
        check::no_findings("no node flagged `fail?` or `fail`", &flags)?;
        let length = mover.destination.connection.ask(&["STRLEN", &key]).await?;
        let end = mover
            .destination
            .connection
            .ask(&["GETRANGE", &key, &last, &last])
            .await?;
        Ok(check::expect(
            length.integer() == i64::try_from(BIG).ok() && end.text() == Some("!"),
            format!("{BIG} bytes at the new owner, the last one \"!\""),
            format!("STRLEN -> {length}, GETRANGE of the last -> {end}"),
        )?)
    })
    .await
}

/// A master that has no part in the move.
fn bystander<'a>(view: &'a ClusterView, plan: &Plan) -> Result<&'a NodeView, Mismatch> {
    let takes_part = |node: &NodeView| {
        let id = node.myself().map(|line| line.id.as_str());
        id == Some(plan.source.as_str()) || id == Some(plan.destination.as_str())
    };
    let third = view.nodes.iter().find(|node| !takes_part(node));
    third.ok_or_else(|| Mismatch::new("a third master", "there is none"))
}

/// Whom a node flags.
fn flagged(node: &NodeView) -> Vec<String> {
    let bad = node.nodes.iter().filter(|line| line.is("fail?") || line.is("fail"));
    bad.map(|line| format!("{}: flags {}", node.member, line.address))
        .collect()
}

pub(super) async fn reset_refused(cx: &Context) -> Outcome {
    cx.with_scratch(&beside(cx, 1, 0), async |cx| {
        let view = cx.view().await?;
        let node = &view.nodes[0];
        let key = cx.key_in(0, "kept");
        let mut connection = cx.connect(&node.member.address).await?;
        connection.ask(&["SET", &key, "kept"]).await?;
        let mut findings = Vec::new();
        let commands: [&[&str]; 4] = [
            &["CLUSTER", "RESET"],
            &["CLUSTER", "RESET", "SOFT"],
            &["CLUSTER", "RESET", "HARD"],
            &["CLUSTER", "FLUSHSLOTS"],
        ];
        for command in commands {
            let reply = connection.call(command).await?;
            let refused = reply.error_prefix() == Some("ERR");
            findings.extend(check::unless(refused, &node.member, command.join(" "), &reply));
        }
        let after = cx.view().await?;
        let own = |node: &NodeView| node.myself().map(|line| (line.id.clone(), line.slots.clone()));
        if after.nodes.first().and_then(own) != own(node) {
            findings.push(format!("{}: its id or its slots have changed", node.member));
        }
        let reply = connection.call(&["GET", &key]).await?;
        let there = reply == Reply::Bulk("kept".into());
        findings.extend(check::unless(there, &node.member, format!("GET {key}"), &reply));
        Ok(check::no_findings(
            "-ERR while the master has keys, and nothing changed",
            &findings,
        )?)
    })
    .await
}
