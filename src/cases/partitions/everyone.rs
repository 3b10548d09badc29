//! Cuts after which nobody has a majority.

use crate::check::{Look, eventually, expect, look_but, steadily};
use crate::cluster::node::{Member, NodeId};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Traffic, with_cleanup};
use crate::partition::{epochs, groups_apart, hold, until_served};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::BTreeMap;

/// Each master with slots, a slot of its own, and its replicas' names and ids.
struct Group {
    master: Member,
    slot: u16,
    members: Vec<Member>,
    ids: Vec<NodeId>,
}

fn groups(view: &ClusterView) -> Vec<Group> {
    let groups = view.masters().filter_map(|master| {
        let line = master.myself()?;
        let slot = line.slots.first()?.first;
        let nodes = || std::iter::once(master).chain(view.replicas_of(&line.id));
        Some(Group {
            master: master.member.clone(),
            slot,
            members: nodes().map(|node| node.member.clone()).collect(),
            ids: nodes().filter_map(|node| Some(node.myself()?.id.clone())).collect(),
        })
    });
    groups.collect()
}

/// What each master answers to a write, where that is no `-CLUSTERDOWN`.
async fn not_refusing(cx: &Context, groups: &[Group]) -> Result<Look<()>, Stop> {
    let mut findings = Vec::new();
    for group in groups {
        let mut connection = cx.connect(&group.master.address).await?;
        let key = cx.key_in(group.slot, "split");
        let reply = connection.call(&["RPUSH", key.as_str(), "minority"]).await?;
        if reply.error_prefix() != Some("CLUSTERDOWN") {
            findings.push(format!("{}: RPUSH -> {reply}", group.master));
        }
    }
    Ok(if findings.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(findings.join("\n"))
    })
}

pub(super) async fn no_majority(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let groups = groups(&before);
    let timing = cx.timing();
    let members: Vec<Vec<Member>> = groups.iter().map(|group| group.members.clone()).collect();
    let parted = async {
        let cut = cx.cut(&groups_apart(&members, Traffic::All)).await?;
        let what = "every master answers a write with -CLUSTERDOWN";
        eventually(cx, what, timing.minority(), async || not_refusing(cx, &groups).await).await?;
        cx.measure(
            "refused everywhere after the cut",
            cut.elapsed(),
            None,
            Some(timing.minority()),
        );
        let watch = timing.node_timeout();
        steadily(cx, what, watch, watch + timing.reply(), async || {
            not_refusing(cx, &groups).await
        })
        .await?;
        let during = cx.view().await?;
        let promoted = epochs(&during).keys().ne(epochs(&before).keys());
        expect(!promoted, "nobody promoted", "there are other masters than before")?;
        Ok(())
    };
    with_cleanup(parted, cx.undo_faults()).await?;
    until_served(cx, timing.heal()).await?;
    let keys: Vec<String> = groups.iter().map(|group| cx.key_in(group.slot, "split")).collect();
    cx.remove_keys(&keys).await
}

/// Whether every node answers, and says that the cluster is down.
async fn down_everywhere(cx: &Context) -> Result<Look<()>, Stop> {
    let (view, mut findings) = look_but(cx, &[], cx.shape().nodes()).await?;
    let up = view.nodes.iter().filter(|node| node.info("cluster_state") != "fail");
    findings.extend(up.map(|node| format!("not on {}", node.member.name)));
    Ok(if findings.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(findings.join("\n"))
    })
}

pub(super) async fn total_cut(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let shards: BTreeMap<u16, Vec<NodeId>> = groups(&before)
        .into_iter()
        .map(|group| (group.slot, group.ids))
        .collect();
    let each: Vec<Vec<Member>> = before.nodes.iter().map(|node| vec![node.member.clone()]).collect();
    let timing = cx.timing();
    let parted = async {
        let cut = cx.cut(&groups_apart(&each, Traffic::Bus)).await?;
        let what = "every node says cluster_state:fail";
        eventually(cx, what, timing.minority(), async || down_everywhere(cx).await).await?;
        cx.measure(
            "down everywhere after the cut",
            cut.elapsed(),
            None,
            Some(timing.minority()),
        );
        let rest = (3 * timing.node_timeout()).saturating_sub(cut.elapsed());
        hold(cx, "the bus stays cut", rest).await;
        Ok(())
    };
    with_cleanup(parted, cx.undo_faults()).await?;
    let after = until_served(cx, timing.heal()).await?;
    for (slot, ids) in &shards {
        let owner = after.owner_of(*slot).and_then(|node| node.myself());
        let owner = owner.map_or("nobody", |line| line.id.as_str());
        if !ids.iter().any(|id| id == owner) {
            let expected = format!("slot {slot} with its shard");
            return Err(Mismatch::new(expected, format!("{} owns it", after.name_of(owner))).into());
        }
    }
    cx.note(match epochs(&after) == epochs(&before) {
        true => "no election".to_owned(),
        false => "there were elections".to_owned(),
    });
    Ok(())
}
