//! The bodies of chapter SLOT about the slot map as every node shows it.

use crate::case::Feature;
use crate::check;
use crate::cluster::node::NodeView;
use crate::cluster::slot::{self, SLOT_COUNT};
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::verdict::Outcome;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The slots at the ends of the three ranges into which `redis-cli --cluster create` splits three masters.
const DEFAULT_BOUNDARIES: [u16; 6] = [0, 5460, 5461, 10922, 10923, 16383];

/// The default boundaries, and both ends of every range that a node claims on its own line.
pub(in crate::cases) fn boundary_slots(view: &ClusterView) -> BTreeSet<u16> {
    let own_ranges = view
        .nodes
        .iter()
        .filter_map(NodeView::myself)
        .flat_map(|line| &line.slots);
    DEFAULT_BOUNDARIES
        .into_iter()
        .chain(own_ranges.flat_map(|range| [range.first, range.last]))
        .collect()
}

/// Expects lines of `CLUSTER INFO` on every node.
async fn info_lines(cx: &Context, expected: &[(&str, String)]) -> Outcome {
    let lines: Vec<String> = expected
        .iter()
        .map(|(field, value)| format!("{field}:{value}"))
        .collect();
    cx.judge_every_node(
        &format!("{} on every node", lines.join(", ")),
        async |member, connection| {
            let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
            let wrong = expected
                .iter()
                .zip(&lines)
                .filter(|(_, line)| !info.lines().any(|seen| seen == *line));
            Ok(wrong
                .map(|((field, _), _)| {
                    let seen = info.lines().find(|seen| seen.split(':').next() == Some(field));
                    format!(
                        "{member}: CLUSTER INFO -> {}",
                        seen.map_or(format!("no field {field}"), str::to_owned)
                    )
                })
                .collect())
        },
    )
    .await
}

pub(super) async fn all_slots_assigned(cx: &Context) -> Outcome {
    info_lines(cx, &[("cluster_slots_assigned", SLOT_COUNT.to_string())]).await
}

pub(super) async fn all_slots_ok(cx: &Context) -> Outcome {
    let none = || "0".to_owned();
    let expected = [
        ("cluster_slots_ok", SLOT_COUNT.to_string()),
        ("cluster_slots_pfail", none()),
        ("cluster_slots_fail", none()),
    ];
    info_lines(cx, &expected).await
}

/// The slots without an owner as a finding, or the text that two owners claim one.
fn holes<O>(source: &str, owners: Result<Vec<Option<O>>, String>) -> Option<String> {
    match owners {
        Err(claim) => Some(format!("{source}: {claim}")),
        Ok(owners) => {
            let free: Vec<u16> = (0..)
                .zip(&owners)
                .filter(|(_, owner)| owner.is_none())
                .map(|(slot, _)| slot)
                .collect();
            (!free.is_empty()).then(|| format!("{source}: slots {} have no owner", slot::describe(free)))
        }
    }
}

pub(super) async fn exact_partition(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings: Vec<String> = view
        .nodes
        .iter()
        .filter_map(|node| holes(&format!("{}: CLUSTER SLOTS", node.member), node.owners_by_slots()))
        .collect();
    let own_lines = view.nodes.iter().filter_map(|node| Some((node, node.myself()?)));
    let claims = own_lines.flat_map(|(node, line)| line.slots.iter().map(|range| (*range, node.member.name.as_str())));
    findings.extend(holes(
        "the masters' own lines of CLUSTER NODES",
        crate::cluster::node::owners(claims),
    ));
    Ok(check::no_findings(
        "slots 0-16383 owned exactly once, by every node's account",
        &findings,
    )?)
}

/// A reply's name, `node: CLUSTER SLOTS`, and the owner of every slot by it.
type SlotMap<'v> = (String, Result<Vec<Option<Cow<'v, str>>>, String>);

/// The slot maps of one node, one for each command that it knows; `lacking` says why it does not know one of them.
fn slot_maps<'v>(cx: &Context, node: &'v NodeView, lacking: Option<&String>) -> Vec<SlotMap<'v>> {
    let shown = |map: Vec<Option<&'v str>>| map.into_iter().map(|owner| owner.map(Cow::from)).collect();
    let mut maps = vec![("NODES", node.owners().map(shown)), ("SLOTS", node.owners_by_slots())];
    match lacking {
        Some(reason) => cx.note(format!("{}: {reason}; the other two were compared", node.member)),
        None => maps.push(("SHARDS", node.owners_by_shards().map(shown))),
    }
    maps.into_iter()
        .map(|(command, map)| (format!("{}: CLUSTER {command}", node.member), map))
        .collect()
}

pub(super) async fn three_commands_agree(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let lacking = cx.on_every_node(async |member, connection| {
        let reason = Feature::ClusterShards.lacking(connection).await?;
        Ok(reason.map(|reason| (member.name.clone(), reason)))
    });
    let lacking: BTreeMap<String, String> = lacking.await?.into_iter().flatten().collect();
    let mut findings = Vec::new();
    let mut reference: Option<(String, Vec<Option<Cow<'_, str>>>)> = None;
    let mut maps = Vec::new();
    for node in &view.nodes {
        maps.extend(slot_maps(cx, node, lacking.get(&node.member.name)));
    }
    for (source, map) in maps {
        let map = match map {
            Ok(map) => map,
            Err(reason) => {
                findings.push(format!("{source} -> {reason}"));
                continue;
            }
        };
        let (first, expected) = reference.get_or_insert_with(|| (source.clone(), map.clone()));
        let place = |slot: &u16| usize::from(*slot);
        let differ: Vec<u16> = (0..SLOT_COUNT)
            .filter(|slot| map[place(slot)] != expected[place(slot)])
            .collect();
        if let Some(at) = differ.first() {
            let name = |owner: &Option<Cow<'_, str>>| owner.as_ref().map_or("nobody".into(), |id| view.name_of(id));
            let (here, there) = (name(&map[place(at)]), name(&expected[place(at)]));
            let slots = slot::describe(differ.iter().copied());
            findings.push(format!(
                "{source} gives slot {at} to {here}, {first} to {there}; they differ in slots {slots}"
            ));
        }
    }
    Ok(check::no_findings(
        "one and the same map of 16384 owners from every node and command",
        &findings,
    )?)
}

pub(super) async fn boundary_slots_served(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let wanted = boundary_slots(&view);
    let keys: Vec<(u16, String)> = wanted
        .into_iter()
        .map(|slot| (slot, cx.key_in(slot, "boundary")))
        .collect();
    let names: Vec<String> = keys.iter().map(|(_, key)| key.clone()).collect();
    let unowned = keys.iter().filter(|(slot, _)| view.owner_of(*slot).is_none());
    let mut findings: Vec<String> = unowned.map(|(slot, _)| format!("no node claims slot {slot}")).collect();
    let judge = async {
        for node in &view.nodes {
            let is_mine = |slot: u16| view.owner_of(slot).is_some_and(|owner| owner.member == node.member);
            let mine: Vec<&(u16, String)> = keys.iter().filter(|(slot, _)| is_mine(*slot)).collect();
            if mine.is_empty() {
                continue;
            }
            let mut connection = cx.connect(&node.member.address).await?;
            for (slot, key) in mine {
                let value = format!("value of slot {slot}");
                let set = connection.call(&["SET", key.as_str(), &value]).await?;
                findings.extend(check::unless(
                    set.is_ok(),
                    &node.member,
                    format!("SET {key} ({slot})"),
                    &set,
                ));
                let get = connection.call(&["GET", key.as_str()]).await?;
                let read = get.bytes() == Some(value.as_bytes());
                findings.extend(check::unless(read, &node.member, format!("GET {key} ({slot})"), &get));
            }
        }
        Ok(check::no_findings(
            "SET -> +OK and GET -> the value, in every boundary slot on its owner",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&names)).await
}

pub(super) async fn only_masters_own_slots(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    let mut findings = Vec::new();
    for node in &view.nodes {
        let replicas = node.nodes.iter().filter(|line| line.is_replica()).count();
        if replicas < expected {
            findings.push(format!("{}: CLUSTER NODES flags {replicas} lines `slave`", node.member));
        }
        for line in node
            .nodes
            .iter()
            .filter(|line| !line.is_master() && !line.slots.is_empty())
        {
            let slots = slot::describe(line.slots.iter().flat_map(|range| range.slots()));
            findings.push(format!(
                "{}: CLUSTER NODES shows {} with slots {slots}",
                node.member,
                view.name_of(&line.id)
            ));
        }
    }
    Ok(check::no_findings(
        format!("{expected} replicas on every node's account, none with slots"),
        &findings,
    )?)
}

pub(super) async fn no_open_slots(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let findings: Vec<String> = view
        .nodes
        .iter()
        .filter_map(|node| match node.myself() {
            None => Some(format!("{}: CLUSTER NODES has no line flagged `myself`", node.member)),
            Some(line) if line.open_slots.is_empty() => None,
            Some(line) => Some(format!(
                "{}: CLUSTER NODES -> {}",
                node.member,
                line.open_slots.join(" ")
            )),
        })
        .collect();
    Ok(check::no_findings("no open slot on any node", &findings)?)
}

/// What is wrong with one node's reply of `CLUSTER SHARDS`.
fn odd_shards(cx: &Context, node: &NodeView) -> Vec<String> {
    let shards = match &node.shards {
        Ok(shards) => shards,
        Err(text) => return vec![format!("CLUSTER SHARDS -> -{text}")],
    };
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    for shard in shards {
        let masters = shard.nodes.iter().filter(|listed| listed.role == "master").count();
        if masters != 1 {
            let ranges: Vec<String> = shard.slots.iter().map(ToString::to_string).collect();
            findings.push(format!(
                "the shard of slots \"{}\" has {masters} masters",
                ranges.join(",")
            ));
        }
        for listed in &shard.nodes {
            let (id, role, health) = (&listed.id, listed.role.as_str(), listed.health.as_str());
            if !known.insert(id) {
                findings.push(format!("node {id} is listed twice"));
            }
            // The command page says `failed`, the source `fail`.
            let sane =
                ["master", "replica"].contains(&role) && ["online", "loading", "fail", "failed"].contains(&health);
            if !sane {
                findings.push(format!("node {id} has role {role} and health {health}"));
            }
        }
    }
    let expected = cx.shape().nodes();
    if known.len() != expected {
        findings.push(format!("{} different nodes (expected {expected})", known.len()));
    }
    findings
}

pub(super) async fn sane_shards(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let findings: Vec<String> = view
        .nodes
        .iter()
        .flat_map(|node| {
            let found = odd_shards(cx, node).into_iter();
            found.map(move |finding| format!("{}: {finding}", node.member))
        })
        .collect();
    Ok(check::no_findings(
        "every node once, and one master a shard, in CLUSTER SHARDS of every node",
        &findings,
    )?)
}
