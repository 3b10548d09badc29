//! Addresses that change under a living cluster.

use crate::check::{expect, no_findings};
use crate::context::Context;
use crate::moving::{self, Roll, Step};
use crate::verdict::{Mismatch, Outcome};
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) async fn one_address(cx: &Context) -> Outcome {
    let step = moving::one(cx).await?;
    let took = step.known.clone()?;
    let bound = moving::known_within(cx);
    cx.note(format!("{} came back as {}", step.before.0, step.after.0));
    cx.measure("known under the new address", took, None, Some(bound));
    let (was, is) = (&step.before.1, &step.after.1);
    Ok(expect(was == is, format!("the id {was}, as before"), is)?)
}

/// What went wrong with a step.
fn trouble(step: &Step) -> Option<String> {
    let (old, new) = (&step.before.0, &step.after.0);
    match (&step.known, &step.whole) {
        (Err(mismatch), _) => Some(format!("{old}, now {new}: {mismatch}")),
        (Ok(_), Err(missing)) => Some(format!("{old}, now {new}: the cluster was not whole {missing}")),
        (Ok(_), Ok(())) => None,
    }
}

/// Expects that every node came to another address.
fn all_moved(cx: &Context, roll: &Roll) -> Result<(), Mismatch> {
    let first: BTreeSet<_> = roll.steps.iter().map(|step| &step.before.0.address).collect();
    let nodes = cx.shape().nodes();
    expect(
        first.len() == nodes,
        format!("{nodes} nodes under other addresses"),
        format!("{}: the first that did not become known ended it", first.len()),
    )
}

pub(super) async fn every_address(cx: &Context) -> Outcome {
    let roll = moving::every(cx).await?;
    let troubles: Vec<String> = roll.steps.iter().filter_map(trouble).collect();
    no_findings(
        "every node known under its new address, and a whole cluster after each",
        &troubles,
    )?;
    all_moved(cx, &roll)?;
    let known = roll.steps.iter().filter_map(|step| step.known.as_ref().ok());
    let longest = known.max().copied().unwrap_or_default();
    let bound = moving::known_within(cx);
    cx.measure("longest until known under the new address", longest, None, Some(bound));
    let gaps = roll.writes.ledgers.iter();
    let gaps = gaps.map(|ledger| ledger.longest_gap(roll.began, roll.writes.ended));
    let gap = gaps.max().unwrap_or(Duration::MAX);
    let bound = cx.timing().shutdown() + cx.timing().failover_retry();
    cx.measure("write gap", gap, None, Some(bound));
    cx.count("acknowledged writes", roll.writes.acked(), "writes");
    cx.count("ledgers with a lost write", roll.lost.len(), "ledgers");
    Ok(expect(
        gap <= bound,
        format!(
            "no shard without an acknowledged write for longer than {:.1} s",
            bound.as_secs_f64()
        ),
        format!("{:.1} s", gap.as_secs_f64()),
    )?)
}

pub(super) async fn client_keeps_up(cx: &Context) -> Outcome {
    let roll = moving::every(cx).await?;
    let steps = roll.steps.iter().zip(&roll.client);
    let left_behind: Vec<String> = steps
        .filter_map(|(step, served)| {
            let mismatch = served.as_ref().err()?;
            Some(format!("after {} became {}: {mismatch}", step.before.0, step.after.0))
        })
        .collect();
    no_findings("a write to every shard after each step", &left_behind)?;
    all_moved(cx, &roll)?;
    let longest = roll.client.iter().filter_map(|served| served.as_ref().ok()).max();
    let longest = longest.copied().unwrap_or_default();
    let bound = cx.timing().failover_hard();
    cx.measure("longest until every shard took a write", longest, None, Some(bound));
    Ok(())
}
