//! One observed failover, which several cases look at from their own side: a master is stopped gracefully and kept away
//! until its replica has been promoted, and then comes back.
//!
//! It is done once in a run, by the first case that asks, so that one failover pays for all of them. Each expectation
//! is kept apart: what one case fails on does not fail the others.

mod watch;

pub use watch::{Health, Sighting, Watched};

use crate::check::{Look, eventually, expect};
use crate::cluster::node::{Member, NodeId, Role};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::verdict::{Mismatch, Stop};
use crate::workload::{Record, Writer};
use futures::FutureExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many keys are written before the fault, to be read by value after it.
const PRELOADED: usize = 1000;

/// What was seen.
#[derive(Debug)]
pub struct Failover {
    /// The master that was stopped, and its id.
    pub victim: (Member, NodeId),
    /// Its replica, and its id.
    pub successor: (Member, NodeId),
    /// The highest `cluster_current_epoch` of any node before.
    pub epoch_before: u64,
    /// How long it took from the fault until the successor said it is a master.
    pub promotion: Result<Duration, Mismatch>,
    /// The view of all nodes before the fault.
    pub before: ClusterView,
    /// The view of the survivors once writes had come back.
    pub during: ClusterView,
    /// The view of all nodes after the victim had come back.
    pub after: ClusterView,
    /// The preloaded keys that could not be read by value from the survivors, or how many there were.
    pub data: Result<usize, Mismatch>,
    /// How long it took from the end of the fault until the victim was a synchronised replica of its successor.
    pub returned: Result<Duration, Mismatch>,
    /// What the continuous writer did, one ledger a shard, the victim's first.
    pub writes: Record,
    /// When the fault was begun.
    pub fault: Instant,
    /// When the victim's server had ended.
    pub gone: Instant,
    /// When the fault was undone.
    pub restored: Instant,
    /// What every node said of the victim, and of a key of its shard, at every look from before the fault on.
    pub watched: Watched,
    /// The acknowledged writes that were not there at the end.
    pub lost: Vec<String>,
}

impl Failover {
    /// The longest time without an acknowledged write to the victim's shard.
    pub fn write_gap(&self) -> Duration {
        self.writes.ledgers.first().map_or(Duration::ZERO, |ledger| {
            ledger.longest_gap(self.fault, self.writes.ended)
        })
    }
}

/// What was seen while a replica was kept away for longer than it takes to detect that, with writes to every shard.
#[derive(Debug)]
pub struct Absence {
    /// The replica.
    pub replica: Member,
    /// Nodes that did not say `cluster_state:ok` at some look, or did not answer; each told once.
    pub not_ok: Vec<String>,
    /// How long it took until every other node flagged the replica `fail`.
    pub flagged: Result<Duration, Mismatch>,
    /// How long it took until every other node showed it as `slave,fail` in `CLUSTER NODES` and left it out of
    /// `CLUSTER SLOTS`.
    pub hidden: Result<Duration, Mismatch>,
    /// What the continuous writer did, one ledger a shard.
    pub writes: Record,
    /// The acknowledged writes that were not there at the end.
    pub lost: Vec<String>,
}

/// The observed failover of this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observe(cx: &Context) -> Result<Arc<Failover>, Stop> {
    cx.note_observation("the failover");
    let shared = cx.shared().clone();
    let observed = shared
        .failover
        .get_or_init(|| async {
            match make_happen(cx).await {
                Ok(failover) => Ok(Arc::new(failover)),
                Err(Stop::Mismatch(mismatch)) => Err(mismatch.to_string()),
                Err(Stop::Error(error)) => Err(format!("{error:#}")),
                Err(Stop::Unsupported(reason)) => Err(reason),
            }
        })
        .await;
    match observed {
        Ok(failover) => Ok(failover.clone()),
        Err(reason) => Err(anyhow::anyhow!("the failover could not be observed: {reason}").into()),
    }
}

/// A mismatch or its absence, out of a stop; anything else stops.
pub(crate) fn kept<T>(outcome: Result<T, Stop>) -> Result<Result<T, Mismatch>, Stop> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Mismatch(mismatch)) => Ok(Err(mismatch)),
        Err(stop) => Err(stop),
    }
}

/// A master with a connected replica, with one slot of its own, and one slot of every other shard.
pub struct Shard {
    /// The master.
    pub master: Member,
    /// Its id.
    pub master_id: NodeId,
    /// A replica of it whose link is connected.
    pub replica: Member,
    /// The replica's id.
    pub replica_id: NodeId,
    /// A slot of its own.
    pub slot: u16,
    /// A slot of every other shard.
    pub other_slots: Vec<u16>,
}

impl Shard {
    /// The slots for a writer: the shard's own first.
    pub fn slots(&self) -> Vec<u16> {
        std::iter::once(self.slot)
            .chain(self.other_slots.iter().copied())
            .collect()
    }
}

/// Picks a shard whose master can be broken: found by `ROLE`, never by a pod's number. A shard that has
/// just had an election cannot be relied on for another (see [`Context::no_vote_for`]): it is passed over, and where every
/// shard has had one, the first that is free again is waited for.
///
/// # Errors
/// A mismatch when no master has a connected replica.
pub async fn pick_shard(cx: &Context, view: &ClusterView) -> Result<Shard, Stop> {
    let soonest = shards(view)
        .into_iter()
        .min_by_key(|shard| cx.no_vote_for(&[&shard.master_id, &shard.replica_id]));
    let Some(shard) = soonest else {
        return Err(Mismatch::new("a master that owns slots and has a connected replica", "none").into());
    };
    until_votes(cx, &shard.master, &[&shard.master_id, &shard.replica_id]).await;
    Ok(shard)
}

/// Waits until a shard, named by its master and the ids of its nodes, can be relied on for an election after its last one
/// (see [`Context::no_vote_for`]).
pub async fn until_votes(cx: &Context, master: &Member, ids: &[&str]) {
    let wait = cx.no_vote_for(ids);
    if !wait.is_zero() {
        let what = format!("{}: the masters may vote about {} again", cx.case_id(), master.name);
        cx.note_time(&what);
        cx.progress().during(&what, wait, tokio::time::sleep(wait)).await;
    }
}

/// The shard of a master that can be broken, by its id.
pub fn shard_of(view: &ClusterView, master_id: &str) -> Option<Shard> {
    shards(view).into_iter().find(|shard| shard.master_id == master_id)
}

/// Every shard whose master can be broken, in the order of the masters.
fn shards(view: &ClusterView) -> Vec<Shard> {
    let owned = |id: &str| {
        let line = view.by_id(id)?.myself()?;
        line.slots.first().map(|range| range.first)
    };
    let mut found = Vec::new();
    for master in view.masters() {
        let Some((line, slot)) = master.myself().and_then(|line| Some((line, owned(&line.id)?))) else {
            continue;
        };
        let connected = view
            .replicas_of(&line.id)
            .find(|replica| matches!(&replica.role, Role::Replica { link, .. } if link == "connected"));
        let Some((replica, replica_line)) = connected.and_then(|replica| Some((replica, replica.myself()?))) else {
            continue;
        };
        let others = view
            .masters()
            .filter_map(|other| other.myself())
            .filter(|other| other.id != line.id);
        found.push(Shard {
            master: master.member.clone(),
            master_id: line.id.clone(),
            replica: replica.member.clone(),
            replica_id: replica_line.id.clone(),
            slot,
            other_slots: others.filter_map(|other| owned(&other.id)).collect(),
        });
    }
    found
}

/// The highest current epoch that any node reports.
pub fn highest_epoch(view: &ClusterView) -> u64 {
    view.nodes
        .iter()
        .filter_map(|node| node.info("cluster_current_epoch").parse().ok())
        .max()
        .unwrap_or(0)
}

async fn make_happen(cx: &Context) -> Result<Failover, Stop> {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let epoch_before = highest_epoch(&view);
    preload(cx, &shard).await?;
    let writer = Writer::start(cx, &shard.slots()).await?;
    let watch = watch::Watch::new(&view, &shard, preloaded(cx, &shard).swap_remove(0));
    let mut watching = Box::pin(watch.on(cx)).fuse();
    let mut happening = Box::pin(stop_and_return(cx, &shard, &watch)).fuse();
    let seen = futures::select_biased! {
        seen = happening => seen?,
        () = watching => return Err(anyhow::anyhow!("the watch of the nodes ended by itself").into()),
    };
    drop((happening, watching));
    let after = cx.look().await?;
    let writes = writer.stop().await;
    let lost = writes.lost(cx).await?;
    remove_preloaded(cx, &shard).await?;
    Ok(Failover {
        victim: (shard.master, shard.master_id),
        successor: (shard.replica, shard.replica_id),
        epoch_before,
        promotion: seen.promotion,
        before: view,
        during: seen.during,
        after,
        data: seen.data,
        returned: seen.returned,
        writes,
        fault: seen.fault,
        gone: seen.gone,
        restored: seen.restored,
        watched: watch.into_watched(),
        lost,
    })
}

/// What the fault and the return gave.
struct Seen {
    fault: Instant,
    gone: Instant,
    restored: Instant,
    promotion: Result<Duration, Mismatch>,
    during: ClusterView,
    data: Result<usize, Mismatch>,
    returned: Result<Duration, Mismatch>,
}

/// Stops the master, waits for its successor, and lets it come back.
async fn stop_and_return(cx: &Context, shard: &Shard, watch: &watch::Watch) -> Result<Seen, Stop> {
    let fault = Instant::now();
    let timing = cx.timing();
    let patience = timing.shutdown() + timing.failover_retry();
    let what = format!("{} is promoted", shard.replica);
    let watched = async {
        let (injected, promotion) = futures::join!(
            async { cx.inject(Fault::KeepAway, &shard.master).await.map(|_| Instant::now()) },
            eventually(cx, &what, patience, async || { promoted(cx, shard, fault).await })
        );
        let gone = injected?;
        let promotion = kept(promotion)?;
        let mut during = ClusterView::default();
        let mut data = Err(Mismatch::new(
            "the data on the promoted replica",
            "there was no promotion",
        ));
        if promotion.is_ok() {
            kept(
                eventually(
                    cx,
                    "every survivor says cluster_state:ok",
                    timing.failover_hard(),
                    async || {
                        let view = cx.look().await?;
                        let bad: Vec<&str> = view
                            .nodes
                            .iter()
                            .filter(|node| node.info("cluster_state") != "ok")
                            .map(|node| node.member.name.as_str())
                            .collect();
                        Ok(if bad.is_empty() && view.silent.is_empty() {
                            Look::Reached(())
                        } else {
                            Look::NotYet(format!("not ok on {bad:?}, silent: {}", view.silent.len()))
                        })
                    },
                )
                .await,
            )?
            .ok();
            data = kept(read_back(cx, shard).await)?;
            during = cx.look().await?;
            // Almost always done by now; a survivor that is late must not be cut off by the victim's return.
            let what = format!("every survivor flags {} as fail", shard.master.name);
            let flagged = eventually(cx, &what, timing.fail(), async || {
                Ok(match watch.unflagged() {
                    none if none.is_empty() => Look::Reached(()),
                    others => Look::NotYet(format!("not yet by {}", others.join(", "))),
                })
            });
            kept(flagged.await)?.ok();
        }
        Ok((gone, promotion, during, data))
    };
    let mut restored = Instant::now();
    let undo = async {
        restored = Instant::now();
        cx.undo_faults().await
    };
    let (gone, promotion, during, data) = with_cleanup(watched, undo).await?;
    let back = Instant::now();
    let returned = kept(
        eventually(
            cx,
            &format!(
                "{} is a synchronised replica of {}",
                shard.master.name, shard.replica.name
            ),
            timing.scheduling() + timing.sync() + Duration::from_secs(2),
            async || returned(cx, shard, back).await,
        )
        .await,
    )?;
    Ok(Seen {
        fault,
        gone,
        restored,
        promotion,
        during,
        data,
        returned,
    })
}

/// Whether the replica says that it is a master.
async fn promoted(cx: &Context, shard: &Shard, since: Instant) -> Result<Look<Duration>, Stop> {
    let view = cx.look().await?;
    Ok(match view.of(&shard.replica.name) {
        Some(node) if node.role.is_master() => {
            cx.note_time(format!("{} says it is a master", shard.replica));
            Look::Reached(since.elapsed())
        }
        Some(node) => Look::NotYet(format!(
            "{} is a replica, its cluster_state:{}",
            shard.replica.name,
            node.info("cluster_state")
        )),
        None => Look::NotYet(format!("{} does not answer", shard.replica.name)),
    })
}

/// Whether the old master is a replica of the new one, under its old id, with its link up.
async fn returned(cx: &Context, shard: &Shard, since: Instant) -> Result<Look<Duration>, Stop> {
    let view = cx.look().await?;
    let Some(node) = view.of(&shard.master.name) else {
        return Ok(Look::NotYet(format!("{} does not answer", shard.master.name)));
    };
    let line = node.myself().cloned();
    let (id, master) = line
        .map(|line| (line.id, line.master.unwrap_or_default()))
        .unwrap_or_default();
    Ok(match &node.role {
        Role::Replica { link, .. } if link == "connected" && id == shard.master_id && master == shard.replica_id => {
            cx.note_time(format!("{} is a synchronised replica", shard.master.name));
            Look::Reached(since.elapsed())
        }
        Role::Replica { link, .. } => Look::NotYet(format!(
            "a replica of {}, link \"{link}\", id {id}",
            view.name_of(&master)
        )),
        Role::Master { .. } => Look::NotYet(format!("a master, id {id}")),
    })
}

fn preloaded(cx: &Context, shard: &Shard) -> Vec<(String, String)> {
    (0..PRELOADED)
        .map(|number| {
            (
                cx.key_in(shard.slot, &format!("kept-{number}")),
                format!("value-{number}"),
            )
        })
        .collect()
}

/// Writes the keys and waits until the replica has them: only what was replicated before the fault must survive it.
async fn preload(cx: &Context, shard: &Shard) -> Result<(), Stop> {
    let mut connection = cx.connect(&shard.master.address).await?;
    let keys = preloaded(cx, shard);
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, value)| vec!["SET", key, value]).collect();
    let replies = connection.pipeline(&commands).await?;
    if let Some(refused) = replies.iter().find(|reply| !reply.is_ok()) {
        return Err(anyhow::anyhow!("{}: SET before the fault -> {refused}", shard.master).into());
    }
    let acknowledged = connection.call(&["WAIT", "1", "4000"]).await?;
    expect(
        acknowledged.integer() >= Some(1),
        "WAIT 1 4000 -> :1, before the fault",
        format!("{}: {acknowledged}", shard.master),
    )?;
    Ok(())
}

async fn read_back(cx: &Context, shard: &Shard) -> Result<usize, Stop> {
    let mut connection = cx.connect(&shard.replica.address).await?;
    let keys = preloaded(cx, shard);
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, _)| vec!["GET", key]).collect();
    let replies = connection.pipeline(&commands).await?;
    let wrong: Vec<String> = keys
        .iter()
        .zip(&replies)
        .filter(|((_, value), reply)| reply.text() != Some(value))
        .map(|((key, value), reply)| format!("GET {key} -> {reply} (written: {value})"))
        .collect();
    crate::check::no_findings(
        format!("every one of {PRELOADED} replicated keys by value on {}", shard.replica),
        &wrong,
    )?;
    Ok(keys.len())
}

async fn remove_preloaded(cx: &Context, shard: &Shard) -> Result<(), Stop> {
    let view = cx.look().await?;
    let Some(owner) = view.owner_of(shard.slot) else {
        return Ok(());
    };
    let mut connection = cx.connect(&owner.member.address).await?;
    let keys = preloaded(cx, shard);
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, _)| vec!["DEL", key]).collect();
    connection.pipeline(&commands).await?;
    Ok(())
}
