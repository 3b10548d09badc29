//! One observed failover, which several cases look at from their own side: a master is stopped gracefully and kept away
//! until its replica has been promoted, and then comes back.
//!
//! It is done once in a run, by the first case that asks, so that one failover pays for all of them. Each expectation
//! is kept apart: what one case fails on does not fail the others.

mod watch;

pub use watch::{Health, Sighting, Watched};

use crate::check::{Look, eventually};
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
    /// The replica of it that was promoted, and its id; where none was, the first that it had.
    pub successor: (Member, NodeId),
    /// The highest `cluster_current_epoch` of any node before.
    pub epoch_before: u64,
    /// How long it took from the fault until the successor said it is a master.
    pub promotion: Result<Duration, Mismatch>,
    /// How long it took from the fault until a survivor took a write to the victim's shard.
    pub writable: Result<Duration, Mismatch>,
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
    /// The acknowledged writes that were not there at the end; nothing where they could not be read back after
    /// something else had gone wrong.
    pub lost: Option<Vec<String>>,
}

impl Failover {
    /// The longest time without an acknowledged write to the victim's shard.
    pub fn write_gap(&self) -> Duration {
        self.writes.ledgers.first().map_or(Duration::ZERO, |ledger| {
            ledger.longest_gap(self.fault, self.writes.ended)
        })
    }

    /// Whether an election was lost before the successor won one.
    pub fn election_lost(&self) -> bool {
        election_lost(self.epoch_before, highest_epoch(&self.during))
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
        .get_or_init(|| async { Ok(Arc::new(make_happen(cx).await?)) });
    Ok(observed.await.clone()?)
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
    /// Every replica of it whose link is connected, with its id, that one first: any of them may be promoted.
    pub replicas: Vec<(Member, NodeId)>,
    /// A slot of its own.
    pub slot: u16,
    /// A slot of every other shard.
    pub other_slots: Vec<u16>,
}

impl Shard {
    /// The ids of the master and its connected replicas.
    pub fn ids(&self) -> Vec<&str> {
        let replicas = self.replicas.iter().map(|(_, id)| id.as_str());
        std::iter::once(self.master_id.as_str()).chain(replicas).collect()
    }

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
        .min_by_key(|shard| cx.no_vote_for(&shard.ids()));
    let Some(shard) = soonest else {
        if cx.shape().replicas_per_master == 0 {
            return Err(Stop::Unsupported("the deployment has no replicas".into()));
        }
        return Err(Mismatch::new("a master that owns slots and has a connected replica", "none").into());
    };
    until_votes(cx, &shard.master, &shard.ids()).await;
    Ok(shard)
}

/// A master to do something to, with its id and one of its slots: that of [`pick_shard`], or any where none has a replica.
///
/// # Errors
/// A mismatch when there is none.
pub async fn pick_master(cx: &Context, view: &ClusterView) -> Result<(Member, NodeId, u16), Stop> {
    if cx.shape().replicas_per_master > 0 {
        let shard = pick_shard(cx, view).await?;
        return Ok((shard.master, shard.master_id, shard.slot));
    }
    let with_slots = view.masters().find_map(|master| {
        let line = master.myself()?;
        Some((master.member.clone(), line.id.clone(), line.slots.first()?.first))
    });
    Ok(with_slots.ok_or_else(|| Mismatch::new("a master that owns slots", "none"))?)
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
        let linked = view.replicas_of(&line.id).filter(|replica| replica.linked());
        let replicas: Vec<(Member, NodeId)> = linked
            .filter_map(|replica| Some((replica.member.clone(), replica.myself()?.id.clone())))
            .collect();
        let Some((replica, replica_id)) = replicas.first().cloned() else {
            continue;
        };
        let others = view
            .masters()
            .filter_map(|other| other.myself())
            .filter(|other| other.id != line.id);
        found.push(Shard {
            master: master.member.clone(),
            master_id: line.id.clone(),
            replica,
            replica_id,
            replicas,
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

/// Whether an election was lost before one was won, by the highest current epoch before and afterwards: every attempt
/// raises it by one.
pub fn election_lost(before: u64, afterwards: u64) -> bool {
    afterwards >= before.saturating_add(2)
}

/// Whether the owner of each of these slots, who must be one of the survivors, takes a write.
///
/// # Errors
/// When an owner cannot be asked.
async fn writes_taken(cx: &Context, survivors: &[Member], slots: &[u16]) -> Result<Look<()>, Stop> {
    let view = cx.look_among(survivors.to_vec()).await;
    for slot in slots.iter().copied() {
        let Some(owner) = view.owner_of(slot) else {
            return Ok(Look::NotYet(format!("no survivor claims slot {slot}")));
        };
        let key = cx.key_in(slot, "probe");
        let mut connection = cx.connect(&owner.member.address).await?;
        let reply = connection.call(&["SET", &key, "1", "EX", "60"]).await?;
        if !reply.is_ok() {
            return Ok(Look::NotYet(format!("{}: SET {key} -> {reply}", owner.member)));
        }
        connection.call(&["DEL", &key]).await?;
    }
    Ok(Look::Reached(()))
}

/// Waits until the survivors take writes to these slots, once a replica was promoted and its master is still away:
/// one that refuses them all is no replacement. A gap may last for `patience` from `gone` on.
///
/// # Errors
/// A mismatch when they do not.
pub async fn until_writes_come_back(
    cx: &Context,
    survivors: &[Member],
    slots: &[u16],
    (gone, patience): (Instant, Duration),
) -> Result<(), Stop> {
    // However late the promotion came, all nodes may take so long to hear of it.
    let left = patience.saturating_sub(gone.elapsed()).max(cx.timing().gossip());
    eventually(cx, "writes to the shard come back", left, async || {
        writes_taken(cx, survivors, slots).await
    })
    .await
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
    let read = async {
        let lost = writes.lost(cx).await?;
        remove_preloaded(cx, &shard).await?;
        Ok(lost)
    };
    let lost = match read.await {
        Ok(lost) => Some(lost),
        Err(stop) if seen.fine() => return Err(stop),
        // What a shard that did not come back has made unreachable is no further finding.
        Err(_) => None,
    };
    Ok(Failover {
        victim: (shard.master, shard.master_id),
        successor: seen.successor,
        epoch_before,
        promotion: seen.promotion,
        writable: seen.writable,
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
    successor: (Member, NodeId),
    promotion: Result<Duration, Mismatch>,
    writable: Result<Duration, Mismatch>,
    during: ClusterView,
    data: Result<usize, Mismatch>,
    returned: Result<Duration, Mismatch>,
}

impl Seen {
    /// Whether all went as it should.
    fn fine(&self) -> bool {
        self.promotion.is_ok() && self.writable.is_ok() && self.data.is_ok() && self.returned.is_ok()
    }
}

/// Stops the master, waits for its successor, and lets it come back.
async fn stop_and_return(cx: &Context, shard: &Shard, watch: &watch::Watch) -> Result<Seen, Stop> {
    let fault = Instant::now();
    let timing = cx.timing();
    let patience = timing.shutdown() + timing.failover_retry();
    let what = format!("a replica of {} is promoted", shard.master);
    let survivors: Vec<Member> = watch.survivors();
    let watched = async {
        let mut injecting = Box::pin(async {
            cx.inject(Fault::KeepAway, &shard.master).await?;
            Ok::<Instant, Stop>(Instant::now())
        });
        let mut beside = None;
        // A deployment may hand over before the server ends: that is seen while it does.
        let injected = tokio::select! {
            biased;
            seen = eventually(cx, &what, patience, async || promoted(cx, shard, fault).await) => {
                beside = Some(seen);
                injecting.await
            }
            injected = &mut injecting => injected,
        };
        let gone = injected?;
        let promotion = match beside.map(kept).transpose()? {
            Some(Ok(seen)) => Ok(seen),
            // Its platform may have let the server live for long: the bound counts from its end.
            Some(Err(_)) | None => {
                kept(eventually(cx, &what, patience, async || promoted(cx, shard, fault).await).await)?
            }
        };
        let (promotion, successor) = match promotion {
            Ok((took, successor)) => (Ok(took), successor),
            Err(mismatch) => (Err(mismatch), (shard.replica.clone(), shard.replica_id.clone())),
        };
        let mut during = ClusterView::default();
        let (kept_data, not_promoted) = ("the data on the promoted replica", "there was no promotion");
        let mut data = Err(Mismatch::new(kept_data, not_promoted));
        let mut writable = Err(Mismatch::new("writes to the shard come back", not_promoted));
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
            let back = until_writes_come_back(cx, &survivors, &[shard.slot], (gone, patience)).await;
            writable = kept(back)?.map(|()| fault.elapsed());
            data = match (read_back(cx, shard, &successor.0).await, &writable) {
                // Who takes no writes need not answer at all: that is no error of the suite.
                (Err(Stop::Error(error)), Err(_)) => Err(Mismatch::new(kept_data, format!("{error:#}"))),
                (read, _) => kept(read)?,
            };
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
        Ok((gone, successor, promotion, writable, during, data))
    };
    let mut restored = Instant::now();
    let undo = async {
        restored = Instant::now();
        cx.undo_faults().await
    };
    let (gone, successor, promotion, writable, during, data) = with_cleanup(watched, undo).await?;
    let back = Instant::now();
    let returned = kept(
        eventually(
            cx,
            &format!(
                "{} is a synchronised replica of {}",
                shard.master.name, successor.0.name
            ),
            timing.scheduling() + timing.sync() + Duration::from_secs(2),
            async || returned(cx, shard, &successor.1, back).await,
        )
        .await,
    )?;
    Ok(Seen {
        fault,
        gone,
        restored,
        successor,
        promotion,
        writable,
        during,
        data,
        returned,
    })
}

/// Whether a replica of the shard says that it is a master; after how long, and which.
async fn promoted(cx: &Context, shard: &Shard, since: Instant) -> Result<Look<(Duration, (Member, NodeId))>, Stop> {
    let view = cx.look().await?;
    let mut seen = Vec::new();
    for (replica, id) in &shard.replicas {
        match view.of(&replica.name) {
            Some(node) if node.role.is_master() => {
                cx.note_time(format!("{replica} says it is a master"));
                return Ok(Look::Reached((since.elapsed(), (replica.clone(), id.clone()))));
            }
            Some(node) => seen.push(format!(
                "{} is a replica, its cluster_state:{}",
                replica.name,
                node.info("cluster_state")
            )),
            None => seen.push(format!("{} does not answer", replica.name)),
        }
    }
    Ok(Look::NotYet(seen.join("\n")))
}

/// Whether the old master is a replica of the new one, under its old id, with its link up.
async fn returned(cx: &Context, shard: &Shard, successor: &str, since: Instant) -> Result<Look<Duration>, Stop> {
    let view = cx.look().await?;
    let Some(node) = view.of(&shard.master.name) else {
        return Ok(Look::NotYet(format!("{} does not answer", shard.master.name)));
    };
    let line = node.myself().cloned();
    let (id, master) = line
        .map(|line| (line.id, line.master.unwrap_or_default()))
        .unwrap_or_default();
    Ok(match &node.role {
        Role::Replica { .. } if node.linked() && id == shard.master_id && master == successor => {
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

/// Writes the keys and waits until every replica has them: only what was replicated before the fault must survive it,
/// and any of them may be promoted.
async fn preload(cx: &Context, shard: &Shard) -> Result<(), Stop> {
    let mut connection = cx.connect(&shard.master.address).await?;
    let keys = preloaded(cx, shard);
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, value)| vec!["SET", key, value]).collect();
    let replies = connection.pipeline(&commands).await?;
    if let Some(refused) = replies.iter().find(|reply| !reply.is_ok()) {
        return Err(anyhow::anyhow!("{}: SET before the fault -> {refused}", shard.master).into());
    }
    let replicas = shard.replicas.len();
    let what = format!("WAIT {replicas} 4000 -> :{replicas}, before the fault");
    let (number, wanted) = (replicas.to_string(), i64::try_from(replicas).ok());
    // A replica that is held up for a while, as by a busy disk, is no broken one. It is this connection's writes that are meant.
    eventually(cx, &what, cx.timing().sync(), async || {
        let acknowledged = connection.call(&["WAIT", &number, "4000"]).await;
        Ok(match &acknowledged {
            Ok(reply) if reply.integer() < wanted => Look::NotYet(format!("{}: {reply}", shard.master)),
            Ok(_) | Err(_) => Look::Reached(acknowledged),
        })
    })
    .await??;
    Ok(())
}

async fn read_back(cx: &Context, shard: &Shard, successor: &Member) -> Result<usize, Stop> {
    let mut connection = cx.connect(&successor.address).await?;
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
        format!("every one of {PRELOADED} replicated keys by value on {successor}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::no_attempt(7, 7, false)]
    #[case::the_one_that_was_won(7, 8, false)]
    #[case::one_before_it(7, 9, true)]
    #[case::several(7, 12, true)]
    #[case::nobody_was_asked(7, 0, false)]
    #[case::the_largest(u64::MAX, u64::MAX - 1, false)]
    fn every_attempt_raises_the_epoch(#[case] before: u64, #[case] afterwards: u64, #[case] lost: bool) {
        assert_eq!(election_lost(before, afterwards), lost);
    }
}
