//! The cases of chapter OPS about the platform: fewer servers, none, all made anew, and its API gone.

use crate::away::{Away, Way, away_and_back, reapplied};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::failover::outages::{others, replaced};
use crate::cases::failover::swapping::swap_in_time;
use crate::cases::failover::{Lost, crash_bounds, judge_gap_within};
use crate::cases::networking::all_known;
use crate::check::{eventually, no_findings};
use crate::cluster::node::Member;
use crate::context::{Context, Fault, Upheaval, with_cleanup};
use crate::failover::{Shard, election_lost, highest_epoch, pick_shard, shard_of, until_votes, until_writes_come_back};
use crate::outage::serving;
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::Instant;

pub(super) const SCALED_IN: Case = Case {
    id: CaseId("OPS-06"),
    title: "a scale-in that takes a master away leaves no slot without an owner",
    requirement: "Lowering the number of servers MUST NOT remove the owner of slots without the slots being moved or taken over.",
    source: "seed, replicas of the StatefulSet; Kubernetes documentation, StatefulSets, section Deployment and Scaling Guarantees",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A1],
    impact: Impact::Disruptive,
    needs: &[Capability::Scale],
    features: &[],
    bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry; whole again within T_sched + T_sync + 2·NT",
    controls: &["scaled-in-for-good"],
    method: "Makes the server that leaves first a master (Kubernetes: the pod of the highest number), and has one server less under \
             writes to every shard: the StatefulSet is scaled. Every server that is left must say `cluster_state:ok` and every shard \
             take writes, whether its slots were moved before or its replica took over. Scaled out again, the cluster must be whole.",
    run: |cx| Box::pin(scaled_in(cx)),
};

pub(super) const ALL_GONE: Case = Case {
    id: CaseId("OPS-08"),
    title: "the cluster is back with its data after there was no server at all",
    requirement: "After all servers are gone and made again the cluster MUST return by itself, with its data.",
    source: "catalogue NET-07 and PERS-04; redis-operator#1794; Kubernetes documentation, StatefulSets, section Stable Storage",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Scale],
    features: &[],
    bound: "all back within T_sched for each; whole T_names + 2·NT + 10 s after that",
    controls: &["data-lost-when-scaled"],
    method: "Writes 100 keys to every master, has no server at all (Kubernetes: the StatefulSet is scaled to 0), and as many as before \
             again. In time the cluster must be whole with every node known where it is, as in NET-07; every shard must be made of \
             the nodes that it was made of, and every key be there by value.",
    run: |cx| Box::pin(all_gone(cx)),
};

pub(super) const APPLIED_AGAIN: Case = Case {
    id: CaseId("OPS-09"),
    title: "deleted and applied again, the deployment is the same cluster with its data",
    requirement: "A manifest that is deleted, its volume claims kept, and applied again MUST give the same nodes with their data.",
    source: "Kubernetes documentation, StatefulSets, sections Limitations and Stable Storage; catalogue BOOT-08",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Reapply],
    features: &[],
    bound: "all back within T_sched for each; whole T_names + 2·NT + 10 s after that",
    controls: &["ids-lost-when-applied-again"],
    method: "Writes 100 keys to every master, deletes every object that the run applied, waits until all servers have ended, and applies \
             them again. The expectations are those of OPS-08: the bootstrap, which runs once more, must have wiped nothing.",
    run: |cx| Box::pin(applied_again(cx)),
};

pub(super) const WITHOUT_API: Case = Case {
    id: CaseId("OPS-15"),
    title: "a master is replaced in time while the platform's API is down",
    requirement: "Loss of the Kubernetes API MUST NOT affect serving or failover.",
    source: "Redis Cluster specification: nothing in it depends on a platform",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::LoseApi, Capability::Pause],
    features: &[],
    bound: "T_fo_hard; one lost election: T_fo_retry",
    controls: &["failover-by-the-platform"],
    method: "Stops the process of the API server, which then answers nobody, and reaches the servers from within their machine. Under \
             writes to every shard a master is frozen: a replica must take over, and the writes come back, as in FAIL-05; the \
             longest time without one is judged. Then the master and the API server go on.",
    run: |cx| Box::pin(without_api(cx)),
};

/// The number at the end of a server's name: the one with the highest leaves first.
fn number(member: &Member) -> Option<u64> {
    let digits = member.name.rsplit(|at: char| !at.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok())
}

/// The shard of the server that leaves first, which is made its master where it is a replica.
async fn shard_that_leaves(cx: &Context) -> Result<Shard, Stop> {
    let view = cx.view().await?;
    let last = view.nodes.iter().max_by_key(|node| number(&node.member));
    let last = last.ok_or_else(|| Mismatch::new("servers", "none"))?;
    let id = last.myself().map(|line| line.id.clone()).unwrap_or_default();
    if !last.role.is_master() {
        swap_in_time(cx, &last.member, &id).await?;
        let what = format!("OPS-06: a whole cluster with {} as a master", last.member.name);
        let whole = settle::until_whole(cx.shared(), &what).await;
        whole.map_err(|missing| Mismatch::new("a whole cluster after a manual failover", missing))?;
    }
    let shard = shard_of(&cx.view().await?, &id);
    let shard = shard.ok_or_else(|| Mismatch::new("a master with a connected replica", last.member.to_string()))?;
    until_votes(cx, &shard.master, &shard.ids()).await;
    Ok(shard)
}

async fn scaled_in(cx: &Context) -> Outcome {
    let shard = shard_that_leaves(cx).await?;
    let slots = shard.slots();
    let epoch = highest_epoch(&cx.view().await?);
    let writer = Writer::start(cx, &slots).await?;
    let began = Instant::now();
    let timing = cx.timing();
    let bound = timing.shutdown() + timing.failover_hard();
    let patience = timing.shutdown() + timing.failover_retry();
    let less = async {
        cx.upheave(&Upheaval::ScaleIn(shard.master.clone())).await?;
        let what = format!("every shard takes writes without {}", shard.master.name);
        eventually(cx, &what, patience, async || serving(cx, &slots).await).await
    };
    let judged = with_cleanup(less, cx.undo_faults()).await;
    let what = format!("OPS-06: a whole cluster with {} back", shard.master.name);
    let whole = settle::until_whole(cx.shared(), &what).await;
    let record = writer.stop().await;
    let lost = record.lost(cx).await;
    judged?;
    whole.map_err(|missing| Mismatch::new("a whole cluster, scaled out again", missing))?;
    cx.count("ledgers with a lost write", lost?.len(), "ledgers");
    let ledger = record.ledgers.first();
    let gap = ledger.map(|ledger| ledger.longest_gap(began, record.ended));
    let gap = gap.unwrap_or_default();
    let lost = Lost::Seen(election_lost(epoch, highest_epoch(&cx.view().await?)));
    Ok(judge_gap_within(cx, gap, None, lost, (bound, patience))?)
}

/// Expects all to be as it was: every node known, in its shard, with every key.
fn as_it_was(cx: &Context, seen: &Away) -> Result<(), Mismatch> {
    all_known(cx, seen)?;
    no_findings("every shard made of the nodes of before", &seen.different)?;
    cx.count("keys read by value", seen.data.clone()?, "keys");
    Ok(())
}

async fn all_gone(cx: &Context) -> Outcome {
    Ok(as_it_was(cx, &away_and_back(cx, Way::Scaled).await?)?)
}

async fn applied_again(cx: &Context) -> Outcome {
    let seen = reapplied(cx).await?;
    Ok(as_it_was(cx, &seen)?)
}

async fn without_api(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let survivors = others(&view, &[&shard.master]);
    let bounds = crash_bounds(cx);
    let without = async {
        cx.upheave(&Upheaval::LoseApi).await?;
        // Begun now: its connections must not lead through the API.
        let writer = Writer::start(cx, &shard.slots()).await?;
        let fault = Instant::now();
        let replaced = async {
            cx.inject(Fault::Pause, &shard.master).await?;
            let frozen = Instant::now();
            let what = format!("a replica takes over for {}", shard.master.name);
            let replaced = eventually(cx, &what, bounds.1, async || Ok(replaced(cx, &survivors, &shard).await)).await?;
            until_writes_come_back(cx, &survivors, &[shard.slot], (frozen, bounds.1)).await?;
            Ok(replaced)
        };
        let replaced: Result<_, Stop> = replaced.await;
        let record = writer.stop().await;
        Ok((fault, record, replaced?))
    };
    let (fault, record, replaced) = with_cleanup(without, cx.undo_faults()).await?;
    cx.count("acknowledged writes", record.acked(), "writes");
    let ledger = record.ledgers.first();
    let gap = ledger.map(|ledger| ledger.longest_gap(fault, record.ended));
    let what = "OPS-15: a whole cluster with its API back";
    let whole = settle::until_whole(cx.shared(), what).await;
    whole.map_err(|missing| Mismatch::new("a whole cluster with the API back", missing))?;
    cx.count("ledgers with a lost write", record.lost(cx).await?.len(), "ledgers");
    let floor = Some(cx.timing().failover_floor());
    let lost = replaced.lost(&view);
    Ok(judge_gap_within(cx, gap.unwrap_or_default(), floor, lost, bounds)?)
}
