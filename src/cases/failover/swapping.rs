//! Swapping the roles of a master and its replica by command.

use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::connection::LinkError;
use crate::cluster::node::{Member, NodeView};
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

pub(super) async fn manual_failover(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
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

pub(super) async fn blocked_clients(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let key = cx.key_in(shard.slot, "empty");
    // T_manual, T_reply, and what the way to the server may add: the time for which it is judged.
    let patience = cx.timing().manual_failover() + cx.patience();
    let mut blocked = cx.connect(&shard.master.address).await?.with_patience(patience);
    blocked.send(&["BLPOP", &key, "0"]).await?;
    eventually(cx, "the client is blocked", cx.timing().reply(), async || {
        let mut connection = cx.connect(&shard.master.address).await?;
        let info = connection.ask_text(&["INFO", "clients"]).await?;
        let count = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
        Ok(match count.and_then(|count| count.trim().parse::<u64>().ok()) {
            Some(1..) => Look::Reached(()),
            other => Look::NotYet(format!("blocked_clients:{other:?}")),
        })
    })
    .await?;
    let began = Instant::now();
    let released = async { (blocked.receive().await, began.elapsed()) };
    let (swapped, (released, after)) = futures::join!(swap(cx, &shard.replica, &shard.replica_id), released);
    let judged = async {
        swapped?;
        let seen = match released {
            Err(LinkError::Closed { .. }) => {
                cx.note("the blocked client's connection was closed");
                Ok(())
            }
            Err(LinkError::TimedOut { .. }) => Err(format!("still blocked after {:.1} s", after.as_secs_f64())),
            Err(error) => return Err(error.into()),
            Ok(reply) if matches!(reply.error_prefix(), Some("UNBLOCKED" | "MOVED")) => {
                cx.note(format!("the blocked client was told {reply}"));
                Ok(())
            }
            Ok(reply) => Err(reply.to_string()),
        };
        cx.measure("released", after, None, Some(patience));
        let expected = format!(
            "-UNBLOCKED, -MOVED or a closed connection for the client blocked in BLPOP, within {:.1} s",
            patience.as_secs_f64()
        );
        seen.map_err(|actual| Mismatch::new(expected, actual).into())
    };
    let back = async {
        // The roles as they were: the next case finds the deployment as it was made.
        if cx
            .look()
            .await?
            .of(&shard.replica.name)
            .is_some_and(|node| node.role.is_master())
        {
            eventually(
                cx,
                "the old master follows, as every node knows",
                cx.timing().sync(),
                async || follows(cx, &shard).await,
            )
            .await?;
            swap(cx, &shard.master, &shard.master_id).await?;
        }
        Ok(())
    };
    with_cleanup(judged, back).await
}

/// Makes a replica the master, for cases that are not about how long that takes: it is asked again until the masters
/// vote, which they do about one master once in twice the node-timeout, and until it stands for election again, which one
/// that has lost an election does after four times the node-timeout ("Failover attempt expired" is all that it says).
///
/// Source: Redis source, cluster_legacy.c, clusterHandleSlaveFailover (auth_timeout, auth_retry_time).
pub(in crate::cases) async fn swap_in_time(cx: &Context, replica: &Member, id: &str) -> Result<(), Stop> {
    let timing = cx.timing();
    let bound = 4 * timing.node_timeout() + timing.manual_failover() + timing.gossip();
    let mut asked: Option<Instant> = None;
    let what = format!("{} is the master, as every node knows", replica.name);
    eventually(cx, &what, bound, async || {
        let view = cx.look().await?;
        let knows = |node: &NodeView| {
            node.line(id)
                .is_some_and(|line| line.is_master() && !line.slots.is_empty())
        };
        if view.silent.is_empty() && view.nodes.iter().all(knows) {
            return Ok(Look::Reached(()));
        }
        let promoted = view.of(&replica.name).is_some_and(|node| node.role.is_master());
        if !promoted && asked.is_none_or(|asked| asked.elapsed() > timing.manual_failover()) {
            let mut connection = cx.connect(&replica.address).await?;
            let reply = connection.call(&["CLUSTER", "FAILOVER"]).await?;
            expect(reply.is_ok(), "+OK", format!("{replica}: CLUSTER FAILOVER -> {reply}"))?;
            asked = Some(Instant::now());
        }
        Ok(Look::NotYet("not yet".into()))
    })
    .await
}

/// Has replicas take over one after the other, each with a whole cluster at the end; `why` says to what end.
pub(in crate::cases) async fn take_over(cx: &Context, replicas: &[String], why: &str) -> Result<(), Stop> {
    for name in replicas {
        let view = cx.view().await?;
        let replica = view.of(name).ok_or_else(|| Mismatch::new(name, "it does not answer"))?;
        let id = replica.myself().map(|line| line.id.clone()).unwrap_or_default();
        cx.note(format!("{name} takes over, so that {why}"));
        swap_in_time(cx, &replica.member, &id).await?;
        let arranged = settle::until_whole(cx.shared(), &format!("a whole cluster with {name} as a master")).await;
        arranged.map_err(|missing| Mismatch::new("a whole cluster after a manual failover", missing))?;
    }
    Ok(())
}

/// Gives a shard its roles back after [`swap_in_time`], where they have changed.
pub(in crate::cases) async fn swap_back(cx: &Context, shard: &Shard) -> Result<(), Stop> {
    let view = cx.look().await?;
    if view.of(&shard.master.name).is_some_and(|node| node.role.is_master()) {
        return Ok(());
    }
    let what = "the old master follows, as every node knows";
    eventually(cx, what, cx.timing().sync(), async || follows(cx, shard).await).await?;
    swap_in_time(cx, &shard.master, &shard.master_id).await
}
