//! All servers away at once, and back, with their data and under whatever addresses: which several cases look at.
//!
//! Servers that come back together under other addresses look for each other where they were. What is judged is therefore
//! not the state that they tell, which can be `ok` all the same, but that every node is known where it is: in the views, in
//! the files, in the redirections.

use crate::case::Capability;
use crate::check::{Look, eventually};
use crate::cluster::node::{NodeId, NodeLine};
use crate::cluster::redirect::Redirect;
use crate::cluster::slot;
use crate::cluster::view::ClusterView;
use crate::context::{Claim, Context, TargetError, Upheaval, with_cleanup};
use crate::crash::{read_all, write_all};
use crate::failover::kept;
use crate::rolling::slot_of_every_shard;
use crate::verdict::{Mismatch, Stop};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What takes all servers away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each is stopped gracefully, all at once, and made again by the platform.
    Recreated,
    /// There are to be none for a while.
    Scaled,
    /// All that makes them is deleted, but their volumes, and applied again.
    Reapplied,
}

/// What was seen.
#[derive(Debug)]
pub struct Away {
    /// How long it took, from the end of the absence, until every server was there again.
    pub back: Result<Duration, Mismatch>,
    /// How many servers came back under other addresses than before.
    pub moved: usize,
    /// How long it took from then until the cluster was whole and every node known where it is.
    pub known: Result<Duration, Mismatch>,
    /// Shards that are not made of the nodes that they were made of.
    pub different: Vec<String>,
    /// The keys written before, read after: how many there were.
    pub data: Result<usize, Mismatch>,
    /// How long it took, from the deletion, until nothing was left but claims; none where nothing was deleted, or where the
    /// platform does not let the suite look.
    pub emptied: Option<Result<Duration, Mismatch>>,
    /// The volume claims before, meanwhile and after; none where the target has no claims.
    pub claims: [Vec<Claim>; 3],
}

/// The limit for all servers to be there again, which may come one after another.
pub fn back_within(cx: &Context) -> Duration {
    let nodes = u32::try_from(cx.shape().nodes()).unwrap_or(u32::MAX);
    nodes * cx.timing().scheduling()
}

/// The limit for nodes that came back under other addresses to know each other.
pub fn known_within(cx: &Context) -> Duration {
    cx.timing().names() + 2 * cx.timing().node_timeout() + Duration::from_secs(10)
}

/// The deployment deleted and applied again in this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn reapplied(cx: &Context) -> Result<Arc<Away>, Stop> {
    let shared = cx.shared().clone();
    let observed = shared
        .reapplied
        .get_or_init(|| async { Ok(Arc::new(away_and_back(cx, Way::Reapplied).await?)) });
    Ok(observed.await.clone()?)
}

/// Takes all servers away and lets them come back.
///
/// # Errors
/// When that could not be done, or not be observed.
pub async fn away_and_back(cx: &Context, way: Way) -> Result<Away, Stop> {
    let before = cx.view().await?;
    let slots = slot_of_every_shard(cx, &before)?;
    let keys = write_all(cx, &before, &slots).await?;
    let claims_before = claims(cx).await?;
    let gone = async {
        match way {
            Way::Recreated => {
                cx.upheave(&Upheaval::Recreate).await?;
            }
            Way::Scaled => {
                cx.upheave(&Upheaval::ScaleToNothing).await?;
            }
            Way::Reapplied => {
                cx.upheave(&Upheaval::Delete).await?;
            }
        }
        let emptied = match way {
            Way::Reapplied => emptied(cx).await?,
            Way::Recreated | Way::Scaled => None,
        };
        Ok((emptied, claims(cx).await?))
    };
    let (emptied, claims_meanwhile) = with_cleanup(gone, cx.undo_faults()).await?;
    let since = Instant::now();
    let nodes = cx.shape().nodes();
    let back = eventually(cx, "every server is there again", back_within(cx), async || {
        let view = cx.look().await?;
        Ok(match view.nodes.len() == nodes {
            true => Look::Reached(since.elapsed()),
            false => Look::NotYet(format!("{} of {nodes} servers answer", view.nodes.len())),
        })
    });
    let back = kept(back.await)?;
    let since = Instant::now();
    let what = "the cluster is whole, and every node known where it is";
    let known = eventually(cx, what, known_within(cx), async || {
        let missing = whereabouts(cx).await?;
        Ok(match missing.is_empty() {
            true => Look::Reached(since.elapsed()),
            false => Look::NotYet(missing.join("\n")),
        })
    });
    let known = kept(known.await)?;
    let after = cx.look().await?;
    let data = kept(read_all(cx, &after, &keys).await)?.map(|()| keys.len());
    if known.is_ok() {
        let names: Vec<String> = keys.iter().map(|(_, key, _)| key.clone()).collect();
        cx.remove_keys(&names).await?;
    }
    Ok(Away {
        back,
        moved: moved(&before, &after),
        known,
        different: different(&before, &after),
        data,
        emptied,
        claims: [claims_before, claims_meanwhile, claims(cx).await?],
    })
}

/// The limit for everything but claims to be gone after it was deleted.
pub const EMPTIED: Duration = Duration::from_secs(60);

/// Waits until nothing is left of the deployment but its claims.
async fn emptied(cx: &Context) -> Result<Option<Result<Duration, Mismatch>>, Stop> {
    let Some(deployment) = cx.shared().target.deployment() else {
        return Ok(None);
    };
    let since = Instant::now();
    let gone = eventually(cx, "nothing is left but volume claims", EMPTIED, async || {
        Ok(match deployment.remains().await {
            Ok(left) if left.is_empty() => Look::Reached(Some(since.elapsed())),
            Ok(left) => Look::NotYet(left.join(", ")),
            Err(TargetError::NotAllowed(_)) => Look::Reached(None),
            Err(error) => return Err(error.into()),
        })
    });
    Ok(kept(gone.await)?.transpose())
}

async fn claims(cx: &Context) -> Result<Vec<Claim>, Stop> {
    match cx.shared().target.deployment() {
        Some(deployment) => Ok(deployment.claims().await?),
        None => Ok(Vec::new()),
    }
}

/// What keeps the cluster from being whole with every node known where it is: by all nodes' views, by what they redirect
/// to, and by their nodes.conf, where a program can be run beside them to read it.
///
/// # Errors
/// When a node cannot be asked.
pub async fn whereabouts(cx: &Context) -> Result<Vec<String>, Stop> {
    let view = cx.look().await?;
    let mut findings = view.astray();
    findings.extend(view.not_whole(cx.shape()));
    if findings.is_empty() {
        findings.extend(misled(cx, &view).await?);
    }
    if findings.is_empty() && cx.capabilities().contains(&Capability::Exec) {
        for saved in join_all(view.nodes.iter().map(|node| saved(cx, node))).await {
            let (name, lines) = saved?;
            findings.extend(view.astray_lines(&format!("nodes.conf of {name}"), &lines));
        }
    }
    Ok(findings)
}

/// Redirections that do not lead to where the owner of a slot is.
async fn misled(cx: &Context, view: &ClusterView) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for owner in view.masters() {
        let Some(slot) = owner.inner_slot() else { continue };
        let (key, to) = (cx.key_in(slot, "where"), view.endpoint_of(owner));
        for node in view.nodes.iter().filter(|node| node.member != owner.member) {
            let reply = cx.connect(&node.member.address).await?.call(&["GET", &key]).await?;
            if !Redirect::is_moved(&reply, slot, &to) {
                findings.push(format!(
                    "{}: GET in slot {slot} -> {reply} (its owner is {})",
                    node.member, owner.member
                ));
            }
        }
    }
    Ok(findings)
}

/// The lines of a server's nodes.conf.
async fn saved(cx: &Context, node: &crate::cluster::node::NodeView) -> Result<(String, Vec<NodeLine>), Stop> {
    let member = &node.member;
    let path = cx.nodes_conf(member).await?;
    let shown = cx.exec(member, &["cat", &path], &[], cx.patience()).await?;
    let lines = shown.stdout.lines().filter_map(|line| NodeLine::parse(line).ok());
    let lines: Vec<NodeLine> = lines.collect();
    if lines.is_empty() {
        let seen = format!(
            "{member}: cat {path} -> status {}: {}",
            shown.status,
            shown.stderr.trim()
        );
        return Err(Mismatch::new("the nodes that a server knows, in its nodes.conf", seen).into());
    }
    Ok((member.name.clone(), lines))
}

/// How many nodes, known by their ids, are at other addresses than before.
fn moved(before: &ClusterView, after: &ClusterView) -> usize {
    let nodes = before.nodes.iter().filter_map(|node| Some((node, node.myself()?)));
    nodes
        .filter_map(|(node, line)| Some((node, after.by_id(&line.id)?)))
        .filter(|(old, new)| old.member.address != new.member.address)
        .count()
}

/// The nodes of every shard, by the shard's slots. Which of them is the master may change.
fn shards(view: &ClusterView) -> BTreeMap<String, BTreeSet<NodeId>> {
    let mut shards = BTreeMap::new();
    for line in view.nodes.iter().filter_map(|node| node.myself()) {
        if line.slots.is_empty() {
            continue;
        }
        let replicas = view.replicas_of(&line.id).filter_map(|node| node.myself());
        let ids = replicas.chain([line]).map(|line| line.id.clone()).collect();
        shards.insert(slot::listed(&slot::joined(line.slots.iter().copied())), ids);
    }
    shards
}

/// The shards that are not made of the nodes that they were made of.
fn different(before: &ClusterView, after: &ClusterView) -> Vec<String> {
    let (old, new) = (shards(before), shards(after));
    let show = |ids: Option<&BTreeSet<NodeId>>| {
        let ids = ids.map(|ids| ids.iter().map(String::as_str).collect::<Vec<_>>());
        ids.map_or_else(|| "nobody".to_owned(), |ids| ids.join(", "))
    };
    let changed = old.iter().filter(|(slots, ids)| new.get(*slots) != Some(ids));
    changed
        .map(|(slots, ids)| format!("slots {slots}: {}, before: {}", show(new.get(slots)), show(Some(ids))))
        .collect()
}
