//! Swapping the roles of a master and its replica by command.

use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::node::Member;
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::verdict::{Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

pub(super) async fn manual_failover(cx: &Context) -> Outcome {
    let shard = pick_shard(&cx.view().await?)?;
    let writer = Writer::start(cx, &[shard.slot]).await?;
    let began = Instant::now();
    let swapped = swap(cx, &shard.replica, &shard.replica_id).await;
    if let Ok(took) = &swapped {
        cx.measure("handover", *took, None, Some(cx.timing().manual_failover()));
    }
    let settled = eventually(
        cx,
        "the old master follows, as every node knows",
        cx.timing().sync(),
        async || follows(cx, &shard).await,
    )
    .await;
    let record = writer.stop().await;
    let gap = record
        .ledgers
        .first()
        .map_or(Duration::ZERO, |ledger| ledger.longest_gap(began, record.ended));
    let lost = with_cleanup(record.lost(cx), async {
        // The roles as they were: the next case finds the deployment as it was made.
        swap(cx, &shard.master, &shard.master_id).await.map(|_| ())
    });
    let lost = if swapped.is_ok() && settled.is_ok() {
        lost.await?
    } else {
        Vec::new()
    };
    swapped?;
    settled?;
    cx.measure("write gap", gap, None, Some(cx.timing().manual_failover()));
    no_findings("every acknowledged write", &lost)?;
    let bound = cx.timing().manual_failover();
    expect(
        gap <= bound,
        format!("a pause of at most {:.1} s", bound.as_secs_f64()),
        format!("{:.1} s", gap.as_secs_f64()),
    )?;
    Ok(())
}

/// Sends `CLUSTER FAILOVER` to a replica and waits until every node says that it is the master.
async fn swap(cx: &Context, replica: &Member, id: &str) -> Result<Duration, Stop> {
    let began = Instant::now();
    let reply = cx
        .connect(&replica.address)
        .await?
        .call(&["CLUSTER", "FAILOVER"])
        .await?;
    expect(reply.is_ok(), "+OK", format!("{replica}: CLUSTER FAILOVER -> {reply}"))?;
    let what = format!("{} is the master", replica.name);
    eventually(
        cx,
        &what,
        cx.timing().manual_failover() + cx.timing().gossip(),
        async || {
            let view = cx.look().await?;
            let unaware: Vec<&str> = view
                .nodes
                .iter()
                .filter(|node| {
                    node.line(id)
                        .is_none_or(|line| !line.is_master() || line.slots.is_empty())
                })
                .map(|node| node.member.name.as_str())
                .collect();
            Ok(if unaware.is_empty() && view.silent.is_empty() {
                Look::Reached(began.elapsed())
            } else {
                Look::NotYet(format!("not yet known to {unaware:?}"))
            })
        },
    )
    .await
}

/// Whether the old master follows the new one and every node knows it. A failover that is asked for before the master
/// knows its replica is accepted and then times out: the specification wants the replica known by the majority.
async fn follows(cx: &Context, shard: &Shard) -> Result<Look<()>, Stop> {
    let view = cx.look().await?;
    let mut missing = view.not_whole(cx.shape());
    if view.of(&shard.master.name).is_none_or(|node| node.role.is_master()) {
        missing.push(format!("{} is not yet a replica", shard.master.name));
    }
    Ok(if missing.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(missing.join("\n"))
    })
}
