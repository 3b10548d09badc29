//! One observed rolling restart, which several cases look at from their own side: every node is stopped gracefully and
//! comes back as its platform brings it back, one after another, with a whole cluster between, while every shard is
//! written to.
//!
//! It is done once in a run, by the first case that asks.

use crate::check::expect;
use crate::cluster::node::Member;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault};
use crate::settle;
use crate::verdict::{Mismatch, Stop};
use crate::workload::{Record, Writer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen.
#[derive(Debug)]
pub struct Rolling {
    /// The nodes that were restarted, in that order, each with the time until the cluster was whole again, or with what
    /// was missing after the bound. The first that fails is the last.
    pub restarts: Vec<(Member, Result<Duration, String>)>,
    /// How many nodes there are.
    pub nodes: usize,
    /// How long all of it took.
    pub lasted: Duration,
    /// What the continuous writer did, one ledger a shard.
    pub writes: Record,
    /// Acknowledged writes that were not there at the end.
    pub lost: Vec<String>,
}

/// The rolling restart of this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observe(cx: &Context) -> Result<Arc<Rolling>, Stop> {
    cx.note_observation("the rolling restart");
    let shared = cx.shared().clone();
    let observed = shared
        .rolling
        .get_or_init(|| async {
            match make_happen(cx).await {
                Ok(rolling) => Ok(Ok(Arc::new(rolling))),
                Err(Stop::Mismatch(mismatch)) => Ok(Err(mismatch)),
                Err(Stop::Error(error)) => Err(format!("{error:#}")),
                Err(Stop::Unsupported(reason)) => Err(reason),
            }
        })
        .await;
    match observed {
        Ok(Ok(rolling)) => Ok(rolling.clone()),
        Ok(Err(mismatch)) => Err(mismatch.clone().into()),
        Err(reason) => Err(anyhow::anyhow!("the rolling restart could not be observed: {reason}").into()),
    }
}

/// A slot of every shard, for a writer.
///
/// # Errors
/// A mismatch when there are not as many masters with slots as there should be.
pub fn slot_of_every_shard(cx: &Context, view: &ClusterView) -> Result<Vec<u16>, Mismatch> {
    let lines = view.nodes.iter().filter_map(|node| node.myself());
    let slots: Vec<u16> = lines
        .filter(|line| line.is_master())
        .filter_map(|line| line.slots.first().map(|range| range.first))
        .collect();
    let shards = cx.shape().masters;
    expect(
        slots.len() == shards,
        format!("{shards} masters with slots"),
        slots.len().to_string(),
    )?;
    Ok(slots)
}

async fn make_happen(cx: &Context) -> Result<Rolling, Stop> {
    let view = cx.view().await?;
    let slots = slot_of_every_shard(cx, &view)?;
    // The last first, as a StatefulSet's controller does it.
    let members: Vec<Member> = view.nodes.iter().rev().map(|node| node.member.clone()).collect();
    let writer = Writer::start(cx, &slots).await?;
    let began = Instant::now();
    let mut restarts = Vec::new();
    let mut failed = Ok(());
    for member in &members {
        let since = Instant::now();
        if let Err(stop) = cx.inject(Fault::Restart, member).await {
            failed = Err(stop);
            break;
        }
        let what = format!("{}: a whole cluster after the restart of {}", cx.case_id(), member.name);
        let whole = settle::until_whole(cx.shared(), &what).await;
        cx.note_time(match &whole {
            Ok(()) => format!("a whole cluster after the restart of {}", member.name),
            Err(_) => format!("no whole cluster after the restart of {}", member.name),
        });
        let over = whole.is_err();
        restarts.push((member.clone(), whole.map(|()| since.elapsed())));
        if over {
            break;
        }
    }
    let lasted = began.elapsed();
    let writes = writer.stop().await;
    failed?;
    let whole = restarts.iter().all(|(_, whole)| whole.is_ok());
    let lost = match writes.lost(cx).await {
        Ok(lost) => lost,
        Err(stop) if whole => return Err(stop),
        // What a restart that failed has made unreachable cannot be read, and is no further finding.
        Err(_) => Vec::new(),
    };
    Ok(Rolling {
        restarts,
        nodes: members.len(),
        lasted,
        writes,
        lost,
    })
}
