//! Chapter SLOT: every slot is assigned, served, and seen the same by every node.

use crate::case::{Case, CaseId, Impact, Level, Profile, Seed};
use crate::check;
use crate::cluster::node::NodeView;
use crate::cluster::slot::{self, SLOT_COUNT};
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::verdict::Outcome;
use std::collections::BTreeSet;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("SLOT-01"),
        title: "every node reports all 16384 slots assigned",
        requirement: "Every node MUST report `cluster_slots_assigned:16384`.",
        source: "Redis command page CLUSTER INFO; seed line 41",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "master-down", "other-password", "slot-deleted"],
        method: "Asks every node for `CLUSTER INFO` and expects the line `cluster_slots_assigned:16384`.",
        run: |cx| Box::pin(all_slots_assigned(cx)),
    },
    Case {
        id: CaseId("SLOT-02"),
        title: "every node reports all 16384 slots ok, none failing",
        requirement: "In steady state every node MUST report `cluster_slots_ok:16384`, `cluster_slots_pfail:0` and \
                      `cluster_slots_fail:0`.",
        source: "Redis command page CLUSTER INFO",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "other-password",
            "slot-deleted",
            "slot-failing",
        ],
        method: "Asks every node for `CLUSTER INFO` and expects the three lines `cluster_slots_ok:16384`, \
                 `cluster_slots_pfail:0`, `cluster_slots_fail:0`.",
        run: |cx| Box::pin(all_slots_ok(cx)),
    },
    Case {
        id: CaseId("SLOT-03"),
        title: "the masters' ranges cover every slot exactly once",
        requirement: "The slot ranges of the masters MUST cover 0 to 16383 exactly once, with no hole and no overlap.",
        source: "Redis Cluster specification, section Key distribution model; seed lines 43-47",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "other-password",
            "slot-deleted",
            "slots-cut-short",
        ],
        method: "Spreads the reply of `CLUSTER SLOTS` of every node over an array of 16384 entries; each entry must be \
                 set exactly once. The ranges that each master claims on its own line of `CLUSTER NODES` likewise.",
        run: |cx| Box::pin(exact_partition(cx)),
    },
    Case {
        id: CaseId("SLOT-04"),
        title: "CLUSTER SLOTS, SHARDS and NODES give the same slot map on every node",
        requirement: "`CLUSTER SLOTS`, `CLUSTER SHARDS` (Redis 7.0 and later) and `CLUSTER NODES` MUST describe the \
                      same slot map.",
        source: "Redis command pages CLUSTER SLOTS, CLUSTER SHARDS, CLUSTER NODES",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &[
            "frozen",
            "master-down",
            "other-password",
            "replica-with-slots",
            "slot-deleted",
            "slots-cut-short",
        ],
        method: "Makes an array of 16384 owners of each of the three replies of every node; all arrays must be equal. \
                 The order of the replies does not count. Where the server does not know `CLUSTER SHARDS`, the other \
                 two are compared, and a note says so.",
        run: |cx| Box::pin(three_commands_agree(cx)),
    },
    Case {
        id: CaseId("SLOT-06"),
        title: "a key in each boundary slot is written and read on its owner",
        requirement: "A write and a read of a key in each boundary slot MUST succeed on the slot's owner.",
        source: "Redis Cluster specification, section Key distribution model",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "T_reply",
        controls: &["frozen", "hang-up", "last-slot-lost", "master-down", "other-password"],
        method: "For slots 0, 5460, 5461, 10922, 10923, 16383 and both ends of every range that a master owns: `SET` on \
                 the owner must answer `+OK`, and `GET` the value, each within T_reply.",
        run: |cx| Box::pin(boundary_slots_served(cx)),
    },
    Case {
        id: CaseId("SLOT-08"),
        title: "no replica is shown with slots",
        requirement: "Lines of replicas in `CLUSTER NODES` MUST list no slots.",
        source: "Redis command page CLUSTER NODES",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["forgotten", "frozen", "other-password", "replica-with-slots"],
        method: "Reads every line of `CLUSTER NODES` on every node: only lines flagged `master` may end in slots, and as \
                 many lines as the deployment has replicas must be flagged `slave`.",
        run: |cx| Box::pin(only_masters_own_slots(cx)),
    },
    Case {
        id: CaseId("SLOT-09"),
        title: "no node holds an open slot",
        requirement: "In steady state a node MUST NOT show a migrating `[n->-id]` or importing `[n-<-id]` entry.",
        source: "Redis command page CLUSTER NODES, section Special slot entries",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "open-slot", "other-password"],
        method: "Reads the line flagged `myself` of `CLUSTER NODES` on every node, since open slots are known to their \
                 own node only; it must hold no entry in brackets.",
        run: |cx| Box::pin(no_open_slots(cx)),
    },
];

/// The slots at the ends of the three ranges into which `redis-cli --cluster create` splits three masters.
pub(super) const DEFAULT_BOUNDARIES: [u16; 6] = [0, 5460, 5461, 10922, 10923, 16383];

/// The default boundaries, and both ends of every range that a node claims on its own line.
pub(super) fn boundary_slots(view: &ClusterView) -> BTreeSet<u16> {
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

async fn all_slots_assigned(cx: &Context) -> Outcome {
    info_lines(cx, &[("cluster_slots_assigned", SLOT_COUNT.to_string())]).await
}

async fn all_slots_ok(cx: &Context) -> Outcome {
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

async fn exact_partition(cx: &Context) -> Outcome {
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
type SlotMap = (String, Result<Vec<Option<String>>, String>);

/// The slot maps of one node, one for each command that it knows.
fn slot_maps(cx: &Context, node: &NodeView) -> Vec<SlotMap> {
    let owned = |map: Vec<Option<&str>>| map.into_iter().map(|owner| owner.map(str::to_owned)).collect();
    let mut maps = vec![("NODES", node.owners().map(owned)), ("SLOTS", node.owners_by_slots())];
    match &node.shards {
        Err(text) if text.to_lowercase().starts_with("err unknown subcommand") => {
            cx.note(format!(
                "{}: CLUSTER SHARDS -> -{text}; the other two were compared",
                node.member
            ));
        }
        Ok(_) | Err(_) => maps.push(("SHARDS", node.owners_by_shards())),
    }
    maps.into_iter()
        .map(|(command, map)| (format!("{}: CLUSTER {command}", node.member), map))
        .collect()
}

async fn three_commands_agree(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    let mut reference: Option<(String, Vec<Option<String>>)> = None;
    for (source, map) in view.nodes.iter().flat_map(|node| slot_maps(cx, node)) {
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
            let name = |owner: &Option<String>| owner.as_ref().map_or("nobody".into(), |id| view.name_of(id));
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

async fn boundary_slots_served(cx: &Context) -> Outcome {
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

async fn only_masters_own_slots(cx: &Context) -> Outcome {
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

async fn no_open_slots(cx: &Context) -> Outcome {
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
