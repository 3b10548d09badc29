//! How soon all nodes know of a change, and whether they run under the same settings.

use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::node::{Member, NodeView};
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::verdict::{Outcome, Stop};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

pub(super) async fn owner_spreads(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    with_cleanup(watch(cx, &shard), swap_back(cx, &shard)).await
}

/// Lets a replica take its master's place, and waits until it says that the slots are its own.
async fn take_over(cx: &Context, replica: &Member, id: &str, slot: u16) -> Result<(), Stop> {
    let mut connection = cx.connect(&replica.address).await?;
    let reply = connection.call(&["CLUSTER", "FAILOVER"]).await?;
    expect(reply.is_ok(), "+OK", format!("{replica}: CLUSTER FAILOVER -> {reply}"))?;
    let bound = cx.timing().manual_failover() + cx.timing().gossip();
    let what = format!("{} says that the slots of its shard are its own", replica.name);
    eventually(cx, &what, bound, async || {
        let view = cx.look().await?;
        let owns = view.by_id(id).is_some_and(|node| node.own_slots().contains(&slot));
        Ok(if owns {
            Look::Reached(())
        } else {
            Look::NotYet(format!("{} does not", replica.name))
        })
    })
    .await
}

async fn watch(cx: &Context, shard: &Shard) -> Outcome {
    // A master that has written nothing since its start has the offset 0, which Redis 6.0 takes for none: no handover.
    let key = cx.key_in(shard.slot, "written");
    let mut master = cx.connect(&shard.master.address).await?;
    master.ask(&["SET", &key, "1"]).await?;
    master.ask(&["DEL", &key]).await?;
    take_over(cx, &shard.replica, &shard.replica_id, shard.slot).await?;
    let taken = Instant::now();
    let (bound, expected) = (cx.timing().gossip(), cx.shape().nodes());
    let what = format!("every node gives the slots to {}", shard.replica.name);
    let known = eventually(cx, &what, bound, async || {
        let view = cx.look().await?;
        let elsewhere = view.nodes.iter().filter(|node| {
            let line = node.line(&shard.replica_id);
            let holds = |line: &crate::cluster::node::NodeLine| {
                let mut ranges = line.slots.iter();
                ranges.any(|range| (range.first..=range.last).contains(&shard.slot))
            };
            !line.is_some_and(holds)
        });
        let elsewhere: Vec<&str> = elsewhere.map(|node| node.member.name.as_str()).collect();
        Ok(if elsewhere.is_empty() && view.nodes.len() == expected {
            Look::Reached(taken.elapsed())
        } else {
            Look::NotYet(format!("not yet: {elsewhere:?}; {} nodes answer", view.nodes.len()))
        })
    })
    .await?;
    cx.measure("known to all", known, None, Some(bound));
    Ok(())
}

/// Gives the roles back, where they were swapped: the next case finds the deployment as it was made.
async fn swap_back(cx: &Context, shard: &Shard) -> Outcome {
    let view = cx.look().await?;
    if !view.by_id(&shard.replica_id).is_some_and(|node| node.role.is_master()) {
        return Ok(());
    }
    let what = format!(
        "{} follows {}, as every master knows",
        shard.master.name, shard.replica.name
    );
    eventually(cx, &what, cx.timing().sync(), async || {
        let view = cx.look().await?;
        let follows = view.by_id(&shard.master_id).is_some_and(NodeView::linked);
        // A failover that is asked for before the masters know the replica is accepted, and then times out.
        let known = view.masters().all(|master| {
            let line = master.line(&shard.master_id);
            line.is_some_and(|line| line.is_replica() && line.master.as_ref() == Some(&shard.replica_id))
        });
        Ok(if follows && known {
            Look::Reached(())
        } else {
            Look::NotYet(format!("follows: {follows}, known: {known}"))
        })
    })
    .await?;
    take_over(cx, &shard.master, &shard.master_id, shard.slot).await
}

/// Settings that are each node's own: what it announces, and its files and ports.
fn is_own(setting: &str) -> bool {
    setting.starts_with("cluster-announce-") || ["cluster-config-file", "cluster-port"].contains(&setting)
}

pub(super) async fn same_settings(cx: &Context) -> Outcome {
    let values: RefCell<BTreeMap<String, BTreeMap<String, Vec<String>>>> = RefCell::default();
    // Other implementations have other directives: what no node knows is no setting.
    let unknown: RefCell<BTreeMap<&str, Vec<String>>> = RefCell::default();
    let expected = "the same cluster-*, appendonly and maxmemory* settings on every node";
    let asked = cx.judge_every_node(expected, async |member, connection| {
        let patterns = ["cluster-*", "appendonly", "maxmemory*"];
        let commands: Vec<Vec<&str>> = patterns.iter().map(|name| vec!["CONFIG", "GET", *name]).collect();
        let mut found = BTreeSet::new();
        let mut refused = Vec::new();
        for (pattern, reply) in patterns.iter().zip(connection.pipeline(&commands).await?) {
            let items = reply.array().unwrap_or_default();
            if items.is_empty() {
                let told = format!("{}: CONFIG GET {pattern} -> {reply}", member.name);
                if reply.array().is_some() {
                    unknown.borrow_mut().entry(*pattern).or_default().push(told);
                } else {
                    refused.push(told);
                }
            }
            for pair in items.chunks_exact(2) {
                if let (Some(name), Some(value)) = (pair[0].text(), pair[1].text()) {
                    found.insert((name.to_owned(), value.to_owned()));
                }
            }
        }
        for (name, value) in found.into_iter().filter(|(name, _)| !is_own(name)) {
            let mut values = values.borrow_mut();
            let alike = values.entry(name).or_default().entry(value).or_default();
            alike.push(member.name.clone());
        }
        Ok(refused)
    });
    asked.await?;
    let nodes = cx.shape().nodes();
    let mut findings = Vec::new();
    for (pattern, told) in unknown.into_inner() {
        if told.len() == nodes {
            cx.note(format!("CONFIG GET {pattern} is empty on every node"));
        } else {
            findings.extend(told);
        }
    }
    let values = values.into_inner();
    if values.is_empty() && findings.is_empty() {
        return Err(Stop::Unsupported("CONFIG GET knows none of these settings".into()));
    }
    for (setting, values) in values {
        let missing = nodes - values.values().map(Vec::len).sum::<usize>();
        if values.len() > 1 || missing > 0 {
            let shown: Vec<String> = values
                .iter()
                .map(|(value, names)| format!("\"{value}\" on {}", names.join(", ")))
                .collect();
            let absent = if missing > 0 {
                format!("; absent on {missing} nodes")
            } else {
                String::new()
            };
            findings.push(format!("{setting}: {}{absent}", shown.join("; ")));
        }
    }
    Ok(no_findings(expected, &findings)?)
}
