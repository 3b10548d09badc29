//! Chapter SLOT: every slot is assigned, served, and seen the same by every node.

use crate::case::{Case, CaseId, Impact, Level, Profile, Seed};
use crate::check;
use crate::cluster::slot::SLOT_COUNT;
use crate::context::Context;
use crate::verdict::Outcome;

/// The cases of this chapter.
pub static CASES: &[Case] = &[Case {
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
    controls: &[],
    method: "Asks every node for `CLUSTER INFO`.",
    run: |cx| Box::pin(all_slots_assigned(cx)),
}];

async fn all_slots_assigned(cx: &Context) -> Outcome {
    let findings: Vec<String> = cx
        .on_every_node(async |member, connection| {
            let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
            let line = info.lines().find(|line| line.starts_with("cluster_slots_assigned:")).unwrap_or("no such field");
            Ok((line != format!("cluster_slots_assigned:{SLOT_COUNT}")).then(|| format!("{member}: {line}")))
        })
        .await?
        .into_iter()
        .flatten()
        .collect();
    check::no_findings("cluster_slots_assigned:16384 on every node", &findings)?;
    Ok(())
}
