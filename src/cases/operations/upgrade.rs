//! The case of chapter OPS about the way to another version of the server.

use super::{judge_gaps, rollout};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{expect, no_findings};
use crate::context::{Context, Upheaval};
use crate::rolling::slot_of_every_shard;
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;

pub(super) const UPGRADED: Case = Case {
    id: CaseId("OPS-04"),
    title: "an upgrade to the next version keeps the service up",
    requirement: "An upgrade between supported versions, replicas first or pod after pod, MUST keep the service up.",
    source: "Redis documentation, Upgrade a Redis Cluster; Redis Cluster tutorial, section Upgrade nodes in a Redis Cluster",
    level: Level::Must,
    profile: Profile::Extended,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Upgrade],
    features: &[],
    bound: "T_sched + T_sync + 2·NT for each server; T_shutdown + T_fo_hard without a write; one lost election: T_shutdown + T_fo_retry",
    controls: &[],
    method: "Writes to every shard all the time and changes the image of the pods' template to that of `--upgrade-to`, as the last of all \
             disruptive cases. Every pod must be made anew and be a member in step, on the new version; the cluster must be whole; no \
             shard may be without an acknowledged write for longer than one failover takes; every acknowledged write is read back.",
    run: |cx| Box::pin(upgraded(cx)),
};

/// What the servers say they are: `Redis 7.0.15`.
async fn version(cx: &Context) -> Result<String, Stop> {
    let server = settle::probe(&*cx.shared().target, cx.timing()).await?;
    Ok(format!("{} {}", server.product, server.version))
}

async fn upgraded(cx: &Context) -> Outcome {
    let slots = slot_of_every_shard(cx, &cx.view().await?)?;
    let before = version(cx).await?;
    let writer = Writer::start(cx, &slots).await?;
    let followed = rollout::follow(cx, &Upheaval::Upgrade).await;
    let whole = settle::until_whole(cx.shared(), "OPS-04: a whole cluster after the upgrade").await;
    let writes = writer.stop().await;
    let followed = followed?;
    cx.count("acknowledged writes", writes.acked(), "writes");
    let lost = writes.lost(cx).await?;
    followed.over?;
    let after = version(cx).await?;
    cx.note(format!("from {before} to {after}"));
    // Where servers are of several versions, all are named.
    expect(
        before != after && !after.contains(','),
        format!("one other version than {before} on every server, from the image of --upgrade-to"),
        after,
    )?;
    whole.map_err(|missing| Mismatch::new("a whole cluster after the upgrade", missing))?;
    no_findings("every acknowledged write", &lost)?;
    judge_gaps(cx, &writes)
}
