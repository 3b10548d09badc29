//! Observed crashes, which several cases look at from their own side: a master that is killed under writes, and all
//! servers that are killed at once. In both their platform brings them back.
//!
//! Each is done once in a run, by the first case that asks.

use crate::check::{Look, eventually, no_findings};
use crate::cluster::node::{Member, NodeId};
use crate::cluster::slot;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::failover::{Shard, highest_epoch, kept, pick_shard};
use crate::outage::serving;
use crate::rolling::slot_of_every_shard;
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::{Ledger, Record, Write, Writer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen of a master that was killed.
#[derive(Debug)]
pub struct Crash {
    /// The master, its id, and its replica's: where it has several and one was promoted, of that one.
    pub victim: (Member, NodeId, NodeId),
    /// The config epoch of the shard before.
    pub epoch: u64,
    /// By how much the cluster's epoch rose: every election raises it by one, won or lost.
    pub elections: u64,
    /// Every server before, by name: its address and id.
    pub before: BTreeMap<String, (String, NodeId)>,
    /// Whether every slot was writable again in time, and from then on for T_stable.
    pub served: Result<(), Mismatch>,
    /// Who owns the shard's slot afterwards, and at which epoch.
    pub owner: Option<(Member, NodeId, u64)>,
    /// What the continuous writer did, one ledger a shard, the victim's first.
    pub writes: Record,
    /// The acknowledged writes that are not there, ledger by ledger; a mismatch where the cluster was not whole again, and
    /// they could not be read.
    pub missing: Result<Vec<Vec<Write>>, Mismatch>,
    /// The attempts to count in the victim's shard.
    pub counting: Ledger,
    /// What the counter says at the end; a mismatch as for the writes that are not there.
    pub counted: Result<u64, Mismatch>,
    /// When the fault was begun.
    pub fault: Instant,
    /// How long it took until the cluster was whole again, or what was missing.
    pub whole: Result<Duration, String>,
    /// Every server once it was.
    pub after: BTreeMap<String, (String, NodeId)>,
}

/// The crash of a master of this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observe(cx: &Context) -> Result<Arc<Crash>, Stop> {
    cx.note_observation("the crash of a master");
    let shared = cx.shared().clone();
    let observed = shared
        .crash
        .get_or_init(|| async { Ok(Arc::new(kill_a_master(cx).await?)) });
    Ok(observed.await.clone()?)
}

/// Every server by name: its address, and its id by its own line.
fn identities(view: &ClusterView) -> BTreeMap<String, (String, NodeId)> {
    let lines = view.nodes.iter().filter_map(|node| {
        let line = node.myself()?;
        let address = node.member.address.to_string();
        Some((node.member.name.clone(), (address, line.id.clone())))
    });
    lines.collect()
}

/// Who owns a slot by its own line, and at which epoch.
fn owner_of(view: &ClusterView, slot: u16) -> Option<(Member, NodeId, u64)> {
    let owner = view.owner_of(slot)?;
    let line = owner.myself()?;
    Some((owner.member.clone(), line.id.clone(), line.config_epoch))
}

/// For how long before its server is killed a master's acknowledged writes may be lost: a replica may lag by T_visible; and
/// where the master itself comes back, `appendfsync everysec` may have put writing off for 2 s, which T_catch_up is.
pub fn loss_window(cx: &Context) -> Duration {
    cx.timing().visible().max(cx.timing().catch_up())
}

/// What was read after a crash. What cannot be read of a cluster that is not whole again is a mismatch, and no error.
fn readable<T>(whole: &Result<Duration, String>, read: Result<T, Stop>) -> Result<Result<T, Mismatch>, Stop> {
    match (read, whole) {
        (Ok(read), _) => Ok(Ok(read)),
        (Err(stop), Ok(_)) => Err(stop),
        (Err(_), Err(missing)) => Ok(Err(Mismatch::new("a whole cluster after the crash", missing.clone()))),
    }
}

async fn kill_a_master(cx: &Context) -> Result<Crash, Stop> {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let epoch = owner_of(&view, shard.slot).map_or(0, |(_, _, epoch)| epoch);
    let writer = Writer::start(cx, &shard.slots()).await?;
    let counter = Writer::start_counting(cx, &[shard.slot]).await?;
    // What a crash may lose is what was written last: some of it must be older than that.
    let before = loss_window(cx) + Duration::from_secs(2);
    let what = format!("{}: writes before the crash", cx.case_id());
    cx.progress().during(&what, before, tokio::time::sleep(before)).await;
    let fault = Instant::now();
    let served = async {
        cx.inject(Fault::Crash, &shard.master).await?;
        kept(served_again(cx, &shard).await)
    };
    // Where its platform does not bring it back, the suite does.
    let served = with_cleanup(served, cx.undo_faults()).await;
    let what = format!("{}: a whole cluster after the crash", cx.case_id());
    let whole = settle::until_whole(cx.shared(), &what).await.map(|()| fault.elapsed());
    let (writes, counting) = (writer.stop().await, counter.stop().await);
    let served = served?;
    let after = cx.look().await?;
    let missing = readable(&whole, writes.missing(cx).await)?;
    let counted = readable(&whole, counting.counted(cx).await)?;
    let Some(counting) = counting.ledgers.into_iter().next() else {
        return Err(anyhow::anyhow!("the counting has no record").into());
    };
    // One ledger, one counter.
    let counted: Result<u64, Mismatch> = counted.map(|counted| counted.iter().sum());
    let owner = owner_of(&after, shard.slot);
    let owner_id = owner.as_ref().map(|(_, id, _)| id);
    let promoted = shard.replicas.iter().find(|(_, id)| Some(id) == owner_id);
    let replica_id = promoted.map_or(&shard.replica_id, |(_, id)| id).clone();
    let probes: Vec<String> = shard.slots().iter().map(|slot| cx.key_in(*slot, "probe")).collect();
    if whole.is_ok() {
        cx.remove_keys(&probes).await?;
    }
    Ok(Crash {
        owner,
        victim: (shard.master, shard.master_id, replica_id),
        epoch,
        elections: highest_epoch(&after).saturating_sub(highest_epoch(&view)),
        before: identities(&view),
        served,
        writes,
        missing,
        counting,
        counted,
        fault,
        whole,
        after: identities(&after),
    })
}

/// Waits until every slot is writable, on a cluster that says `ok` on every node, and then for a time in which an
/// election that is to come has come. It may come before that: then the cluster is down once more in between.
async fn served_again(cx: &Context, shard: &Shard) -> Outcome {
    let timing = cx.timing();
    let bound = timing.scheduling() + timing.failover_retry();
    let what = "every slot is writable again";
    crate::check::steadily(cx, what, timing.stable(), timing.stable() + bound, async || {
        serving(cx, &shard.slots()).await
    })
    .await
}

/// What was seen when all servers were killed at once.
#[derive(Debug)]
pub struct FullCrash {
    /// How long it took until every node said `cluster_state:ok` and every master took writes.
    pub served: Result<Duration, Mismatch>,
    /// What is different in the slot map afterwards, one line a finding.
    pub map: Vec<String>,
    /// What is different in the topology beside it: ids, roles, epochs.
    pub topology: Vec<String>,
    /// The keys written before, one a shard and more, read by value after it.
    pub data: Result<usize, Mismatch>,
    /// The keys that were there to be read.
    pub keys: usize,
}

/// The crash of all servers of this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observe_all(cx: &Context) -> Result<Arc<FullCrash>, Stop> {
    cx.note_observation("the crash of every server");
    let shared = cx.shared().clone();
    let observed = shared
        .full_crash
        .get_or_init(|| async { Ok(Arc::new(kill_all(cx).await?)) });
    Ok(observed.await.clone()?)
}

/// The limit for all servers to serve again after they were killed at once.
pub fn full_bound(cx: &Context) -> Duration {
    cx.timing().scheduling() + cx.timing().writable_delay() + Duration::from_secs(1)
}

/// How many keys a shard has to keep.
const KEYS: usize = 100;

async fn kill_all(cx: &Context) -> Result<FullCrash, Stop> {
    let view = cx.view().await?;
    let slots = slot_of_every_shard(cx, &view)?;
    let keys = write_all(cx, &view, &slots).await?;
    let members: Vec<Member> = view.nodes.iter().map(|node| node.member.clone()).collect();
    let fault = Instant::now();
    for killed in futures::future::join_all(members.iter().map(|member| cx.inject(Fault::Crash, member))).await {
        killed?;
    }
    let served = eventually(cx, "all servers serve again", full_bound(cx), async || {
        let now = cx.look().await?;
        if let Some(node) = now.nodes.iter().find(|node| node.info("cluster_state") != "ok") {
            let state = node.info("cluster_state");
            return Ok(Look::NotYet(format!("{}: cluster_state:{state}", node.member)));
        }
        for slot in &slots {
            let Some(owner) = now.owner_of(*slot) else {
                return Ok(Look::NotYet(format!("no node claims slot {slot}")));
            };
            let key = cx.key_in(*slot, "probe");
            let mut connection = cx.connect(&owner.member.address).await?;
            let reply = connection.call(&["SET", &key, "1", "EX", "60"]).await?;
            if !reply.is_ok() {
                return Ok(Look::NotYet(format!("{}: SET {key} -> {reply}", owner.member)));
            }
        }
        Ok(match now.nodes.len() == members.len() {
            true => Look::Reached(fault.elapsed()),
            false => Look::NotYet(format!("{} of {} answer", now.nodes.len(), members.len())),
        })
    });
    let served = kept(served.await)?;
    let after = cx.look().await?;
    let data = kept(read_all(cx, &after, &keys).await)?;
    if served.is_ok() {
        let probes = slots.iter().map(|slot| cx.key_in(*slot, "probe"));
        let names: Vec<String> = keys.iter().map(|(_, key, _)| key.clone()).chain(probes).collect();
        cx.remove_keys(&names).await?;
    }
    Ok(FullCrash {
        served,
        map: differences(&view, &after, slots_of),
        topology: differences(&view, &after, |view, name| {
            let line = view.of(name)?.myself()?;
            let role = line
                .master
                .as_deref()
                .map_or("a master".into(), |id| format!("a replica of {id}"));
            Some(format!("{}, {role}, at epoch {}", line.id, line.config_epoch))
        }),
        data: data.map(|()| keys.len()),
        keys: keys.len(),
    })
}

/// The slots that a server claims, under its id.
fn slots_of(view: &ClusterView, name: &str) -> Option<String> {
    let line = view.of(name)?.myself()?;
    // A node is in all maps by its id; every node must have the same one.
    let agreed = view.nodes.iter().all(|node| {
        node.line(&line.id)
            .is_some_and(|seen| slot::joined(seen.slots.iter().copied()) == slot::joined(line.slots.iter().copied()))
    });
    let slots = slot::listed(&line.slots);
    Some(match agreed {
        true => format!("{}: {slots}", line.id),
        false => format!("{}: {slots}, not by every node", line.id),
    })
}

/// What is said of each server before and after, where it is not the same.
fn differences(
    before: &ClusterView,
    after: &ClusterView,
    said: impl Fn(&ClusterView, &str) -> Option<String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for node in &before.nodes {
        let name = &node.member.name;
        let (old, new) = (said(before, name), said(after, name));
        if old != new {
            let show = |text: Option<String>| text.unwrap_or_else(|| "no answer".into());
            found.push(format!("{name}: {}, before: {}", show(new), show(old)));
        }
    }
    let (old, new) = (highest_epoch(before), highest_epoch(after));
    if new < old {
        found.push(format!("cluster_current_epoch {new}, before: {old}"));
    }
    found
}

/// Writes keys to every master, and waits until each has given them to its append-only file: the fault is a crash of
/// servers, not of their machine. Gives each with its slot and value.
///
/// # Errors
/// A mismatch when a master does not take one; an error when it cannot be asked.
pub async fn write_all(cx: &Context, view: &ClusterView, slots: &[u16]) -> Result<Vec<(u16, String, String)>, Stop> {
    let mut keys = Vec::new();
    for slot in slots {
        let Some(owner) = view.owner_of(*slot) else { continue };
        let of_slot: Vec<(u16, String, String)> = (0..KEYS)
            .map(|number| {
                (
                    *slot,
                    cx.key_in(*slot, &format!("kept-{number}")),
                    format!("value-{number}"),
                )
            })
            .collect();
        let commands: Vec<Vec<&str>> = of_slot.iter().map(|(_, key, value)| vec!["SET", key, value]).collect();
        let mut connection = cx.connect(&owner.member.address).await?;
        let replies = connection.pipeline(&commands).await?;
        if let Some(refused) = replies.iter().find(|reply| !reply.is_ok()) {
            return Err(Mismatch::new("SET -> +OK before the fault", format!("{}: {refused}", owner.member)).into());
        }
        keys.extend(of_slot);
    }
    for node in &view.nodes {
        flushed(cx, &node.member).await?;
    }
    Ok(keys)
}

/// Waits until a server has given all that it has acknowledged to its append-only file, where it has one: while a flush
/// to disk is under way, `appendfsync everysec` puts writing off for up to 2 s.
pub async fn flushed(cx: &Context, member: &Member) -> Outcome {
    let mut connection = None;
    let what = "the append-only file holds what was acknowledged";
    // Twice the 2 s, for a busy disk.
    eventually(cx, what, cx.timing().catch_up() * 2, async || {
        let reply = cx.ask_kept(member, &mut connection, &["INFO", "persistence"]).await?;
        let Some(info) = reply.text() else {
            return Ok(Look::NotYet(format!("{member}: INFO persistence -> {reply}")));
        };
        let waiting = info
            .lines()
            .find_map(|line| line.trim_end().strip_prefix("aof_buffer_length:"));
        Ok(match waiting {
            None | Some("0") => Look::Reached(()),
            Some(waiting) => Look::NotYet(format!("{member}: aof_buffer_length:{waiting}")),
        })
    })
    .await
}

/// Expects every key by value of whoever owns its slot.
///
/// # Errors
/// A mismatch with those that are not there; an error when a node cannot be asked.
pub async fn read_all(cx: &Context, view: &ClusterView, keys: &[(u16, String, String)]) -> Outcome {
    let mut wrong = Vec::new();
    for of_slot in keys.chunk_by(|one, other| one.0 == other.0) {
        let slot = of_slot[0].0;
        let Some(owner) = view.owner_of(slot) else {
            wrong.push(format!("no node claims slot {slot}"));
            continue;
        };
        let commands: Vec<Vec<&str>> = of_slot.iter().map(|(_, key, _)| vec!["GET", key]).collect();
        let replies = cx.connect(&owner.member.address).await?.pipeline(&commands).await?;
        for ((_, key, value), reply) in of_slot.iter().zip(replies) {
            if reply.text() != Some(value) {
                wrong.push(format!("{}: GET {key} -> {reply} (written: {value})", owner.member));
            }
        }
    }
    Ok(no_findings(
        format!("every one of {} keys by value", keys.len()),
        &wrong,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::whole(true, true, "read")]
    #[case::unreadable_though_whole(true, false, "error")]
    #[case::readable_though_not_whole(false, true, "read")]
    #[case::not_whole(false, false, "mismatch")]
    fn what_a_cluster_that_is_not_whole_hides_is_no_error(#[case] whole: bool, #[case] read: bool, #[case] told: &str) {
        let whole = match whole {
            true => Ok(Duration::ZERO),
            false => Err("a node is silent".to_owned()),
        };
        let read = match read {
            true => Ok(1),
            false => Err(anyhow::anyhow!("no way to it").into()),
        };
        let found = match readable(&whole, read) {
            Ok(Ok(_)) => "read",
            Ok(Err(_)) => "mismatch",
            Err(_) => "error",
        };
        assert_eq!(found, told);
    }
}
