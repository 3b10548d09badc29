//! Nodes that change their addresses, which several cases look at from their own side: one master alone, and every node
//! in turn under a client that stays connected.
//!
//! Each is done once in a run, by the first case that asks. Each expectation is kept apart: what one case fails on does not
//! fail the others.

use crate::check::{Look, eventually};
use crate::cluster::node::{Member, NodeId, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault};
use crate::failover::pick_shard;
use crate::settle;
use crate::verdict::{Mismatch, Stop};
use crate::workload::{Record, Writer};
use redis::cluster_async::ClusterConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One node that changed its address.
#[derive(Debug)]
pub struct Step {
    /// The node as it was, and its id.
    pub before: (Member, NodeId),
    /// The node as it is, and the id that it gave first.
    pub after: (Member, NodeId),
    /// The highest `cluster_current_epoch` that it gave before, and the first that it gave after.
    pub epochs: (u64, u64),
    /// All nodes before the change.
    pub view_before: ClusterView,
    /// All nodes after it.
    pub view_after: ClusterView,
    /// How long it took, from the moment at which the server had ended, until all nodes were ok and knew the new address.
    pub known: Result<Duration, Mismatch>,
    /// What was missing to a whole cluster when the wait for one had ended.
    pub whole: Result<(), String>,
}

/// Every node, one after the other.
#[derive(Debug)]
pub struct Roll {
    /// What became of each node; the first that did not become known ends it.
    pub steps: Vec<Step>,
    /// What a cluster client that had connected before met after each step: the longest time until every shard had
    /// taken a write of it.
    pub client: Vec<Result<Duration, Mismatch>>,
    /// What the continuous writer did, one ledger a shard.
    pub writes: Record,
    /// When the first node was stopped.
    pub began: Instant,
    /// The acknowledged writes that were not there at the end.
    pub lost: Vec<String>,
}

/// Why something that is observed once for several cases could not be observed: the same for each that asks.
#[derive(Clone, Debug)]
pub enum Unobserved {
    /// What it begins with was not there.
    Mismatch(Mismatch),
    /// The platform does not do it.
    Unsupported(String),
    /// The suite or its surroundings broke.
    Error(String),
}

impl From<Stop> for Unobserved {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Mismatch(mismatch) => Self::Mismatch(mismatch),
            Stop::Unsupported(reason) => Self::Unsupported(reason),
            Stop::Error(error) => Self::Error(format!("{error:#}")),
        }
    }
}

impl From<Unobserved> for Stop {
    fn from(unobserved: Unobserved) -> Self {
        match unobserved {
            Unobserved::Mismatch(mismatch) => Self::Mismatch(mismatch),
            Unobserved::Unsupported(reason) => Self::Unsupported(reason),
            Unobserved::Error(text) => Self::Error(anyhow::anyhow!(text)),
        }
    }
}

/// The change of a master's address in this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all.
pub async fn one(cx: &Context) -> Result<Arc<Step>, Stop> {
    cx.note_observation("the change of a master's address");
    let shared = cx.shared().clone();
    let observed = shared.moved.get_or_init(|| async {
        let view = cx.view().await?;
        let shard = pick_shard(cx, &view).await?;
        Ok(Arc::new(step(cx, (shard.master, shard.master_id)).await?))
    });
    Ok(observed.await.clone()?)
}

/// The change of every node's address in turn in this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all.
pub async fn every(cx: &Context) -> Result<Arc<Roll>, Stop> {
    cx.note_observation("the change of every address");
    let shared = cx.shared().clone();
    let observed = shared.rolled.get_or_init(|| async { Ok(Arc::new(roll(cx).await?)) });
    Ok(observed.await.clone()?)
}

impl From<Mismatch> for Unobserved {
    fn from(mismatch: Mismatch) -> Self {
        Self::Mismatch(mismatch)
    }
}

/// How long a node that changes its address may take to be known, from the end of its server on.
pub fn known_within(cx: &Context) -> Duration {
    cx.timing().scheduling() + cx.timing().node_timeout() + Duration::from_secs(2)
}

async fn roll(cx: &Context) -> Result<Roll, Stop> {
    let view = cx.view().await?;
    // Masters first: what goes wrong shows on them.
    let nodes = view.masters().chain(view.replicas());
    let nodes: Vec<(Member, NodeId)> = nodes
        .filter_map(|node| Some((node.member.clone(), node.myself()?.id.clone())))
        .collect();
    let slots: Vec<u16> = view.masters().filter_map(NodeView::inner_slot).collect();
    let Some((entry, _)) = nodes.first() else {
        return Err(Mismatch::new("nodes with lines of their own", "none").into());
    };
    let password = cx.shared().target.password();
    let mut client = match cx.cluster_client(&entry.address, password.as_ref()).await {
        Ok(client) => client,
        Err(error) => {
            let expected = format!("a cluster client's connection, entered at {entry}");
            return Err(Mismatch::new(expected, error.to_string()).into());
        }
    };
    serve(cx, &mut client, &slots).await?;
    let writer = Writer::start(cx, &slots).await?;
    let began = Instant::now();
    let (mut steps, mut served) = (Vec::new(), Vec::new());
    let mut rolling = Ok(());
    for node in nodes {
        let step = match step(cx, node).await {
            Ok(step) => step,
            Err(stop) => {
                rolling = Err(stop);
                break;
            }
        };
        served.push(kept(serve(cx, &mut client, &slots).await)?);
        let fine = step.known.is_ok() && step.whole.is_ok();
        steps.push(step);
        if !fine {
            break;
        }
    }
    let writes = writer.stop().await;
    let keys: Vec<String> = slots.iter().map(|slot| cx.key_in(*slot, "client")).collect();
    let removed = async {
        cx.remove_keys(&keys).await?;
        writes.lost(cx).await
    };
    let whole = steps.iter().all(|step| step.known.is_ok() && step.whole.is_ok());
    let lost = match removed.await {
        Ok(lost) => lost,
        Err(stop) if whole && rolling.is_ok() => return Err(stop),
        // What a step that failed has made unreachable cannot be read or removed, and is no further finding.
        Err(_) => Vec::new(),
    };
    rolling?;
    Ok(Roll {
        steps,
        client: served,
        writes,
        began,
        lost,
    })
}

/// A mismatch or its absence, out of a stop; anything else stops.
fn kept<T>(outcome: Result<T, Stop>) -> Result<Result<T, Mismatch>, Stop> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Mismatch(mismatch)) => Ok(Err(mismatch)),
        Err(stop) => Err(stop),
    }
}

/// Writes to every shard through a cluster client until each has taken a write.
async fn serve(cx: &Context, client: &mut ClusterConnection, slots: &[u16]) -> Result<Duration, Stop> {
    let began = Instant::now();
    for slot in slots {
        let key = cx.key_in(*slot, "client");
        eventually(
            cx,
            "a cluster client that has been connected for long writes to every shard",
            cx.timing().failover_hard(),
            async || {
                let written: Result<String, redis::RedisError> =
                    redis::cmd("SET").arg(&key).arg("1").query_async(client).await;
                Ok(match written {
                    Ok(_) => Look::Reached(()),
                    Err(error) => Look::NotYet(format!("SET in slot {slot}: {error}")),
                })
            },
        )
        .await?;
    }
    Ok(began.elapsed())
}

/// Gives a node another address, and looks at what comes of it.
async fn step(cx: &Context, (node, id): (Member, NodeId)) -> Result<Step, Stop> {
    let view_before = cx.view().await?;
    let epoch = |view: &NodeView| view.info("cluster_current_epoch").parse().unwrap_or(0);
    let epoch_before = view_before.by_id(&id).map_or(0, epoch);
    let slot = view_before.by_id(&id).and_then(NodeView::inner_slot);
    cx.inject(Fault::NewAddress, &node).await?;
    let ended = Instant::now();
    let found = eventually(
        cx,
        &format!("{} is back", node.name),
        cx.timing().scheduling() + cx.timing().reply(),
        async || {
            let members = cx.members().await?;
            let Some(found) = find_again(&view_before, &node, &members) else {
                return Ok(Look::NotYet("no new server is there".into()));
            };
            let mut connection = cx.connect(&found.address).await?;
            Ok(Look::Reached(NodeView::ask(&mut connection, found.clone()).await?))
        },
    )
    .await?;
    let line = found.myself().map(|line| line.id.clone());
    let (member, epoch_after) = (found.member.clone(), epoch(&found));
    cx.note_time(format!("{} is back as {member}", node.name));
    if member.address == node.address {
        return Err(Stop::Unsupported(format!(
            "the platform gave {member} the address that it had before"
        )));
    }
    let what = format!("every node is ok and knows {} under its new address", member.name);
    let known = eventually(cx, &what, known_within(cx), async || {
        let unknowing = unknowing(cx, &id, &node, slot).await?;
        Ok(if unknowing.is_empty() {
            Look::Reached(ended.elapsed())
        } else {
            Look::NotYet(unknowing.join("\n"))
        })
    })
    .await;
    let known = kept(known)?;
    let whole = settle::until_whole(cx.shared(), &format!("a whole cluster with {member}")).await;
    Ok(Step {
        before: (node, id),
        after: (member, line.unwrap_or_default()),
        epochs: (epoch_before, epoch_after),
        view_before,
        view_after: cx.look().await?,
        known,
        whole,
    })
}

/// The server that a node has become: that of its name, or, where names are addresses, the one that was not there before.
fn find_again<'m>(before: &ClusterView, node: &Member, now: &'m [Member]) -> Option<&'m Member> {
    let was_there = |member: &Member| before.nodes.iter().any(|view| view.member == *member);
    now.iter()
        .find(|member| member.name == node.name)
        .or_else(|| now.iter().find(|member| !was_there(member)))
}

/// What keeps the nodes from knowing a node under its present address: views, states, and redirections.
async fn unknowing(cx: &Context, id: &str, old: &Member, slot: Option<u16>) -> Result<Vec<String>, Stop> {
    let view = cx.look().await?;
    let silent = view.silent.iter();
    let mut findings: Vec<String> = silent
        .map(|(member, error)| format!("{}: {error}", member.name))
        .collect();
    let (expected, answering) = (cx.shape().nodes(), view.nodes.len());
    if answering != expected {
        findings.push(format!("{answering} of {expected} nodes answer"));
    }
    let Some(present) = view.by_id(id).map(|node| node.member.clone()) else {
        findings.push(format!("no server has the id {id} of {old}"));
        return Ok(findings);
    };
    for node in &view.nodes {
        let name = &node.member.name;
        match node.line(id) {
            None => findings.push(format!("{name}: does not know {id}")),
            Some(line) if line.address != present.address => findings.push(format!(
                "{name}: {id} is at {} (present address: {})",
                line.address, present.address
            )),
            Some(_) => {}
        }
        let dead = node.nodes.iter().filter(|line| line.address == old.address);
        findings
            .extend(dead.map(|line| format!("{name}: {} is at {}, where nobody is any more", line.id, old.address)));
        let dead = node.slots.iter().flat_map(|entry| &entry.nodes);
        if dead.into_iter().any(|(address, _)| *address == old.address) {
            findings.push(format!(
                "{name}: CLUSTER SLOTS names {}, where nobody is any more",
                old.address
            ));
        }
        if node.info("cluster_state") != "ok" {
            findings.push(format!("{name}: cluster_state:{}", node.info("cluster_state")));
        }
    }
    let Some(slot) = slot else {
        return Ok(findings);
    };
    let Some((owner, endpoint)) = view.owner_of(slot).map(|node| (&node.member, view.endpoint_of(node))) else {
        findings.push(format!("nobody says that it owns slot {slot}"));
        return Ok(findings);
    };
    let key = cx.key_in(slot, "moved");
    for node in view.nodes.iter().filter(|node| node.member != *owner) {
        let reply = cx.connect(&node.member.address).await?.call(&["GET", &key]).await?;
        if Redirect::parse(&reply).is_none_or(|redirect| !endpoint.is(&redirect.address)) {
            findings.push(format!(
                "{}: GET in slot {slot} -> {reply} (its owner is {owner})",
                node.member.name
            ));
        }
    }
    Ok(findings)
}
