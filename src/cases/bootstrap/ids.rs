//! Who the nodes are once they have met: an id of its own for each, and an epoch of its own for each master.

use crate::case::Feature;
use crate::check::{Look, eventually, no_findings};
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long nodes may take to give two masters of one epoch different ones.
const EPOCHS_RESOLVED: Duration = Duration::from_secs(30);

pub(super) async fn own_ids_and_epochs(cx: &Context) -> Outcome {
    let asked = cx
        .on_every_node(async |member, connection| {
            let id = connection.ask_text(&["CLUSTER", "MYID"]).await?;
            Ok((member.name.clone(), id))
        })
        .await?;
    let view = cx.view().await?;
    let mut findings = Vec::new();
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, id) in &asked {
        let digits = id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if id.len() != 40 || !digits {
            findings.push(format!("{name}: CLUSTER MYID -> \"{id}\""));
        }
        if let Some(other) = owners.insert(id, name) {
            findings.push(format!("{name} and {other} have the id {id}"));
        }
        let line = view.of(name).and_then(|node| node.myself());
        if line.is_none_or(|line| &line.id != id) {
            let shown = line.map_or("none", |line| line.id.as_str());
            findings.push(format!(
                "{name}: CLUSTER MYID -> {id}, its own line in CLUSTER NODES has {shown}"
            ));
        }
    }
    no_findings("an id of its own on every node", &findings)?;
    let shared = shared_epochs(&view);
    if let (Some(one), Some(reason)) = (shared.first(), no_bus(cx, &shared).await?) {
        return Err(Stop::Unsupported(format!(
            "the ids are as they must be; epochs mean nothing without a bus ({one}): {reason}"
        )));
    }
    let what = "the epochs of all masters differ, on every node's account";
    eventually(cx, what, EPOCHS_RESOLVED, async || {
        let shared = shared_epochs(&cx.view().await?);
        Ok(if shared.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(shared.join("\n"))
        })
    })
    .await
}

/// Why no node is on a bus, where masters share epochs and so it matters.
async fn no_bus(cx: &Context, shared: &[String]) -> Result<Option<String>, Stop> {
    if shared.is_empty() {
        return Ok(None);
    }
    let answers = cx.on_every_node(async |_, connection| Ok(Feature::Bus.lacking(connection).await?));
    let everywhere: Option<Vec<String>> = answers.await?.into_iter().collect();
    Ok(everywhere.and_then(|reasons| reasons.into_iter().next()))
}

/// The masters with slots that have one epoch, on each node's account; and the nodes that show no such master.
fn shared_epochs(view: &ClusterView) -> Vec<String> {
    let mut shared = Vec::new();
    for node in &view.nodes {
        let masters = node
            .nodes
            .iter()
            .filter(|line| line.is_master() && !line.slots.is_empty());
        let mut epochs = BTreeMap::new();
        let mut count = 0;
        for line in masters {
            count += 1;
            if let Some(other) = epochs.insert(line.config_epoch, &line.id) {
                let (one, other) = (view.name_of(&line.id), view.name_of(other));
                let name = &node.member.name;
                shared.push(format!(
                    "{name}: {one} and {other} have the epoch {}",
                    line.config_epoch
                ));
            }
        }
        if count == 0 {
            shared.push(format!("{}: no master with slots", node.member.name));
        }
    }
    shared
}
