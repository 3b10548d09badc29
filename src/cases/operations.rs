//! Chapter OPS: the deployment over its life.

use crate::case::{Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{expect, no_findings};
use crate::context::Context;
use crate::settle;
use crate::verdict::{Mismatch, Outcome};

/// The cases of this chapter.
pub static CASES: &[Case] = &[Case {
    id: CaseId("OPS-16"),
    title: "the deployment is whole again after every disruptive case",
    requirement: "Every disruption MUST be followed by a whole cluster before the next: one view, every slot, every replica linked.",
    source: "rule of the suite; catalogue OPS-16, BOOT-03, BOOT-04, REPL-01, REPL-03, SLOT-03",
    level: Level::Must,
    profile: Profile::Core,
    seed: &Seed::ALL,
    impact: Impact::ReadOnly,
    needs: &[],
    features: &[],
    bound: "T_sched + T_sync + 2·NT",
    controls: &[
        "forgotten",
        "frozen",
        "links-down",
        "master-down",
        "open-slot",
        "other-password",
        "replica-with-slots",
        "slot-deleted",
        "state-fail",
        "uneven-replicas",
    ],
    method: "After each disruptive case the runner waits until every node answers, says `cluster_state:ok`, agrees with all others, and \
             every replica's link is up. This case comes last: it fails when one of these waits did, and looks once more itself.",
    run: |cx| Box::pin(whole_after_all(cx)),
}];

async fn whole_after_all(cx: &Context) -> Outcome {
    let settled = cx
        .shared()
        .settled
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let missed: Vec<String> = settled
        .iter()
        .filter_map(|(place, wait)| wait.as_ref().err().map(|missing| format!("{place}: {missing}")))
        .collect();
    no_findings("a whole cluster after every disruptive case", &missed)?;
    let bound = cx.timing().scheduling() + cx.timing().sync() + 2 * cx.timing().node_timeout();
    let slowest = settled.iter().filter_map(|(_, wait)| wait.as_ref().ok()).max();
    if let Some(slowest) = slowest {
        cx.measure("slowest return to a whole cluster", *slowest, None, Some(bound));
        cx.count("disruptive cases followed by a whole cluster", settled.len(), "cases");
    }
    settle::until_whole(cx.shared(), "OPS-16: a whole cluster")
        .await
        .map_err(|missing| Mismatch::new("a whole cluster", missing))?;
    let known = cx.view().await?.nodes.len();
    expect(
        known == cx.shape().nodes(),
        format!("{} nodes", cx.shape().nodes()),
        known.to_string(),
    )?;
    Ok(())
}
