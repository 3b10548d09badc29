//! The bodies of chapter SLOT about shards that are lost and servers that are killed.

use crate::check::no_findings;
use crate::context::Context;
use crate::crash;
use crate::outage;
use crate::verdict::Outcome;

pub(super) async fn covered(cx: &Context) -> Outcome {
    let outage = outage::observe(cx).await?;
    outage::refused(cx, &outage)?;
    Ok(outage::others_served(&outage)?)
}

pub(super) async fn uncovered(cx: &Context) -> Outcome {
    let outage = outage::observe(cx).await?;
    let took = outage.uncovered.clone()?;
    cx.measure("the other shards are served", took, None, Some(cx.timing().back()));
    Ok(())
}

pub(super) async fn map_after_crash(cx: &Context) -> Outcome {
    let crash = crash::observe_all(cx).await?;
    no_findings("the slots of before on every node, under its id of before", &crash.map)?;
    let took = crash.served.clone()?;
    cx.measure("all servers serve again", took, None, Some(crash::full_bound(cx)));
    Ok(())
}
