//! The bodies of chapter SLOT about keys: served in every slot, counted by their owner, spread over all masters.

use crate::cases::consistency::shards;
use crate::check::{self, Look, eventually};
use crate::cluster::node::NodeView;
use crate::cluster::redirect::{Redirect, RedirectKind};
use crate::cluster::resp::Reply;
use crate::cluster::slot::{self, SLOT_COUNT};
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeMap;

/// How many keys are asked for in one go. Their replies fit into the buffers on the way.
const BATCH: usize = 256;

/// Writes a key in each slot that a master claims. It expires by itself at once: that halves the commands.
async fn serve_all(cx: &Context, master: &NodeView) -> Result<Vec<String>, Stop> {
    let mut connection = cx.connect(&master.member.address).await?;
    let mut findings = Vec::new();
    for slots in master.own_slots().chunks(BATCH) {
        let keys: Vec<String> = slots.iter().map(|slot| cx.key_in(*slot, "served")).collect();
        let commands: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "1", "PX", "1"]).collect();
        for (slot, reply) in slots.iter().zip(connection.pipeline(&commands).await?) {
            let command = format_args!("SET in slot {slot}");
            findings.extend(check::unless(reply.is_ok(), &master.member, command, &reply));
        }
    }
    Ok(findings)
}

pub(super) async fn every_slot_served(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let unowned: Vec<u16> = (0..SLOT_COUNT).filter(|slot| view.owner_of(*slot).is_none()).collect();
    let mut findings = Vec::new();
    if !unowned.is_empty() {
        findings.push(format!("no node claims slots {}", slot::describe(unowned)));
    }
    // One after another: other cases want the servers too.
    for node in &view.nodes {
        findings.extend(serve_all(cx, node).await?);
    }
    Ok(check::no_findings("SET -> +OK in every slot on its owner", &findings)?)
}

/// How many keys of a slot are asked for by name.
const NAMES: usize = 1000;

/// Whether a master lists the key and counts as many keys as it lists; what it says otherwise.
fn owner_s_account(count: &Reply, names: &Reply, key: &str) -> Result<(), String> {
    let seen = format!("COUNTKEYSINSLOT -> {count}, GETKEYSINSLOT -> {names}");
    let (Some(count), Some(names)) = (
        count.integer().and_then(|count| usize::try_from(count).ok()),
        names.array(),
    ) else {
        return Err(seen);
    };
    let listed = count > NAMES || names.iter().any(|name| name.bytes() == Some(key.as_bytes()));
    if listed && names.len() == count.min(NAMES) {
        Ok(())
    } else {
        Err(seen)
    }
}

pub(super) async fn own_keys_counted(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    // Not the slot in the middle, which other cases use.
    let keys: Vec<(u16, String)> = shards
        .iter()
        .map(|shard| {
            let slots = shard.master.own_slots();
            let slot = slots[slots.len() / 3];
            (slot, cx.key_in(slot, "counted"))
        })
        .collect();
    let names: Vec<String> = keys.iter().map(|(_, key)| key.clone()).collect();
    let judge = async {
        let mut findings = Vec::new();
        for (shard, (slot, key)) in shards.iter().zip(&keys) {
            let owner = &shard.master.member;
            let mut connection = cx.connect(&owner.address).await?;
            let set = connection.call(&["SET", key, "1"]).await?;
            check::expect(set.is_ok(), "SET -> +OK", format!("{owner}: SET {key} -> {set}"))?;
            let (slot, most) = (slot.to_string(), NAMES.to_string());
            let questions = [
                vec!["CLUSTER", "COUNTKEYSINSLOT", &slot],
                vec!["CLUSTER", "GETKEYSINSLOT", &slot, &most],
            ];
            // Other cases write and remove keys of the slot too: between the two replies, seldom.
            let what = "the owner lists the key, and counts as many as it lists";
            eventually(cx, what, cx.timing().visible(), async || {
                let replies = connection.pipeline(&questions).await?;
                Ok(match owner_s_account(&replies[0], &replies[1], key) {
                    Ok(()) => Look::Reached(()),
                    Err(seen) => Look::NotYet(format!("{owner}: slot {slot}: {seen}")),
                })
            })
            .await?;
            for other in shards.iter().filter(|other| other.master.member != *owner) {
                let member = &other.master.member;
                let replies = cx.connect(&member.address).await?.pipeline(&questions).await?;
                let none = replies[0].integer() == Some(0);
                findings.extend(check::unless(none, member, questions[0].join(" "), &replies[0]));
                let none = replies[1].array().is_some_and(<[Reply]>::is_empty);
                findings.extend(check::unless(none, member, questions[1].join(" "), &replies[1]));
            }
            let command = ["CLUSTER", "COUNTKEYSINSLOT", "16384"];
            let reply = connection.call(&command).await?;
            let refused = reply.error_prefix() == Some("ERR");
            findings.extend(check::unless(refused, owner, command.join(" "), &reply));
        }
        Ok(check::no_findings(
            "keys counted and listed by their owner alone, and -ERR for slot 16384",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&names)).await
}

/// How many keys are asked for: their shares then differ from the slots' by less than one percentage point, as a rule.
const SPREAD: usize = 3000;
/// By how much a master's share of the keys may differ from its share of the slots.
const TOLERANCE: f64 = 0.03;

/// Where each of the keys is, by the word of one master: the id of the master that has it, or what was answered instead.
async fn placed(cx: &Context, view: &ClusterView, master: &NodeView, numbers: &[usize]) -> Result<Vec<String>, Stop> {
    let mut connection = cx.connect(&master.member.address).await?;
    let mut places = Vec::new();
    for numbers in numbers.chunks(BATCH) {
        let keys: Vec<String> = numbers
            .iter()
            .map(|number| cx.key(&format!("spread:{number}")))
            .collect();
        let commands: Vec<Vec<&str>> = keys.iter().map(|key| vec!["GET", key]).collect();
        for reply in connection.pipeline(&commands).await? {
            let moved = Redirect::parse(&reply).filter(|redirect| redirect.kind == RedirectKind::Moved);
            let line = match moved {
                Some(moved) => {
                    let shown = master.nodes.iter().find(|line| line.address == moved.address);
                    shown.or_else(|| view.named(&moved.address).and_then(NodeView::myself))
                }
                None => master.myself().filter(|_| reply == Reply::Nil),
            };
            places.push(line.map_or_else(|| reply.to_string(), |line| line.id.clone()));
        }
    }
    Ok(places)
}

pub(super) async fn even_spread(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut stray = None;
    for (at, shard) in shards.iter().enumerate() {
        let numbers: Vec<usize> = (0..SPREAD).skip(at).step_by(shards.len()).collect();
        for place in placed(cx, &view, shard.master, &numbers).await? {
            if view.by_id(&place).is_none() {
                stray.get_or_insert_with(|| format!("{}: GET -> {place}", shard.master.member));
            }
            *counts.entry(place).or_default() += 1;
        }
    }
    let mut findings = Vec::new();
    for shard in &shards {
        let member = &shard.master.member;
        let id = shard.master.myself().map_or("", |line| line.id.as_str());
        let count = counts.get(id).copied().unwrap_or_default();
        let share = 100.0 * count as f64 / SPREAD as f64;
        let slots = 100.0 * shard.master.own_slots().len() as f64 / f64::from(SLOT_COUNT);
        let told = format!("{member}: {share:.1} % of the keys, {slots:.1} % of the slots");
        cx.note(told.clone());
        if (share - slots).abs() > 100.0 * TOLERANCE {
            findings.push(told);
        }
    }
    if !findings.is_empty() {
        findings.extend(stray);
    }
    Ok(check::no_findings(
        format!(
            "{SPREAD} keys, the share of each master within {:.0} % of its slots'",
            100.0 * TOLERANCE
        ),
        &findings,
    )?)
}
