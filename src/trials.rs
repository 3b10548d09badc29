//! Trials: one fault done several times to a whole cluster, each time with writers and looks at every node; and what was
//! seen, as figures.

mod figures;
mod looks;
mod readback;
mod readiness;

use self::figures::Watched;
use self::looks::Looks;
use self::readiness::Readiness;
use crate::case::Capability;
use crate::check::{Look, eventually};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::partition::alone;
use crate::report::scorecard::{Figure, Trial};
use crate::target::{Fault, Traffic, Way};
use crate::timing::Timing;
use crate::verdict::Stop;
use crate::workload::{Load, Rate};
use futures::FutureExt;
use std::collections::BTreeMap;
use std::time::Instant;

/// What trials are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    /// What is done each time.
    pub fault: TrialFault,
    /// How many times.
    pub count: usize,
    /// How much is written meanwhile.
    pub rate: Rate,
}

/// What is done to the master of a shard in each trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TrialFault {
    /// Stopped gracefully; the platform brings it back as it does (Kubernetes: its pod is deleted).
    Restart,
    /// Evicted by the platform, as by a drain; it brings it back.
    Evict,
    /// Struck off by its platform at once, which makes another whether the server has ended or not.
    ForceDelete,
    /// Stopped gracefully, and away until another master is there.
    Stop,
    /// Killed; the platform brings it back as it does.
    Crash,
    /// Killed, and away until another master is there.
    Kill,
    /// Frozen until another master is there.
    Pause,
    /// Off the network, for clients and for the bus, until another master is there.
    Disconnect,
    /// Cut off from all other servers, but not from clients, until another master is there.
    Partition,
}

impl TrialFault {
    /// Its name, as `--fault` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Evict => "evict",
            Self::ForceDelete => "force-delete",
            Self::Stop => "stop",
            Self::Crash => "crash",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Disconnect => "disconnect",
            Self::Partition => "partition",
        }
    }

    /// What is done to the server itself; nothing where only its links are cut.
    fn fault(self) -> Option<Fault> {
        match self {
            Self::Restart => Some(Fault::Restart),
            Self::Evict => Some(Fault::Evict),
            Self::ForceDelete => Some(Fault::ForceDelete),
            Self::Stop => Some(Fault::KeepAway),
            Self::Crash => Some(Fault::Crash),
            Self::Kill => Some(Fault::Kill),
            Self::Pause => Some(Fault::Pause),
            Self::Disconnect => Some(Fault::Disconnect),
            Self::Partition => None,
        }
    }

    /// What the target must be able to do.
    pub fn capability(self) -> Capability {
        self.fault().map_or(Capability::CutLink, Fault::capability)
    }

    /// Whether the platform brings the server back by itself.
    fn returns(self) -> bool {
        matches!(self, Self::Restart | Self::Evict | Self::ForceDelete | Self::Crash)
    }
}

/// The floor and the bound of a figure by the protocol's arithmetic, in seconds. A fault after which the server comes back
/// by itself may be over before anything of the protocol begins: it has no floor.
pub fn protocol(fault: TrialFault, timing: &Timing, figure: Figure) -> (Option<f64>, Option<f64>) {
    let seconds = |limit: std::time::Duration| Some(limit.as_secs_f64());
    let (floor, bound) = match figure {
        Figure::Suspected => (seconds(timing.node_timeout()), seconds(timing.pfail())),
        Figure::Failed => (seconds(timing.node_timeout()), seconds(timing.fail())),
        Figure::Election | Figure::Promoted | Figure::FirstWrite | Figure::FirstRead | Figure::WriteGap => {
            (seconds(timing.failover_floor()), seconds(timing.failover_hard()))
        }
        Figure::Returned | Figure::Redundant | Figure::Whole | Figure::OtherGap | Figure::ReadyAndRefusing => {
            (None, None)
        }
    };
    // A master in the minority goes on acknowledging for a while: its writes fill the gap.
    let filled = fault == TrialFault::Partition && figure == Figure::WriteGap;
    if fault.returns() || filled {
        (None, bound)
    } else {
        (floor, bound)
    }
}

/// Does the fault once, and measures. The cluster must be whole.
///
/// # Errors
/// When there is no shard to hit, or the writers cannot begin: then the trial says nothing.
pub async fn one(cx: &Context, asked: Trials, number: usize) -> Result<Trial, Stop> {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let value = cx.key_in(shard.slot, "value");
    let nodes = with_slots(&view, &shard);
    let mut keys = Load::keys(cx, asked.rate, &shard.slots(), &nodes);
    keys.push(value.clone());
    let measured = measure(cx, asked, number, &view, &shard, &nodes, value);
    let cleanup = async {
        cx.undo_faults().await?;
        cx.remove_keys(&keys).await
    };
    with_cleanup(measured, cleanup).await
}

/// Every node, with a slot of its shard; of the shard that is hit, the slot that all of it is measured by.
fn with_slots(view: &ClusterView, shard: &Shard) -> Vec<(Member, u16)> {
    let slot = |node: &NodeView| {
        let line = node.myself()?;
        let master = line.master.as_deref().unwrap_or(&line.id);
        if master == shard.master_id {
            return Some(shard.slot);
        }
        Some(view.by_id(master)?.myself()?.slots.first()?.first)
    };
    let nodes = view.nodes.iter();
    nodes
        .filter_map(|node| Some((node.member.clone(), slot(node)?)))
        .collect()
}

async fn measure(
    cx: &Context,
    asked: Trials,
    number: usize,
    view: &ClusterView,
    shard: &Shard,
    nodes: &[(Member, u16)],
    key: String,
) -> Result<Trial, Stop> {
    let members: Vec<Member> = view.nodes.iter().map(|node| node.member.clone()).collect();
    let of_shard: Vec<&str> = nodes
        .iter()
        .filter(|(_, slot)| *slot == shard.slot)
        .map(|(node, _)| node.name.as_str())
        .collect();
    let pair = (key, format!("trial-{number}"));
    let mut connection = cx.connect(&shard.master.address).await?;
    connection.ask(&["SET", &pair.0, &pair.1]).await?;
    let looks = Looks::new(members, shard.master_id.clone(), pair);
    let load = Load::start(cx, asked.rate, &shard.slots(), nodes).await?;
    let readiness = Readiness::default();
    let mut looking = Box::pin(async { futures::join!(looks.on(cx), readiness.on(cx)) }).fuse();
    let mut happening = Box::pin(happen(cx, asked.fault, view, shard, &of_shard, &looks)).fuse();
    let happened = futures::select_biased! {
        happened = happening => happened,
        _ = looking => Err(anyhow::anyhow!("the looks at the nodes ended by themselves").into()),
    };
    drop((happening, looking));
    let loaded = load.stop().await;
    let happened = happened?;
    let watched = Watched {
        victim: &shard.master.name,
        slot: shard.slot,
        shard: of_shard,
        fault: happened.fault,
        ended: loaded.ended,
        seen: looks.seen(),
        ready: readiness.changes(),
        by_node: &loaded.by_node,
        client: &loaded.clients,
    };
    let mut figures = watched.figures();
    figures.extend(
        happened
            .whole
            .map(|at| (Figure::Whole, (at - happened.fault).as_secs_f64())),
    );
    let mut trial = Trial {
        number,
        victim: shard.master.name.clone(),
        master: watched.master(),
        returned_as: watched.returned_as(),
        coarsest_look: watched.seen.coarsest.as_secs_f64(),
        latest_write: loaded.latest.as_secs_f64(),
        figures,
        acked: 0,
        refused: 0,
        indeterminate: 0,
        lost: Vec::new(),
        phantom: Vec::new(),
        strange: Vec::new(),
        problem: happened.problem,
        series: Some(watched.series(loaded.began)),
    };
    let now = cx.look().await?;
    let through_clients = loaded.clients.iter().map(|ledger| (None, ledger));
    let through_nodes = loaded
        .by_node
        .iter()
        .map(|(name, ledger)| (Some(name.as_str()), ledger));
    for (by, ledger) in through_clients.chain(through_nodes) {
        readback::count(cx, view, &now, &watched, &mut trial, by, ledger).await?;
    }
    Ok(trial)
}

/// What was done, and when.
struct Happened {
    fault: Instant,
    whole: Option<Instant>,
    problem: Option<String>,
}

async fn happen(
    cx: &Context,
    fault: TrialFault,
    view: &ClusterView,
    shard: &Shard,
    of_shard: &[&str],
    looks: &Looks,
) -> Result<Happened, Stop> {
    let timing = cx.timing();
    eventually(cx, "every node was looked at", timing.arrange(), async || {
        Ok(if looks.begun() {
            Look::Reached(())
        } else {
            Look::NotYet("not yet".into())
        })
    })
    .await?;
    let at = Instant::now();
    match fault.fault() {
        Some(fault) => cx.inject(fault, &shard.master).await.map(drop)?,
        None => {
            let hit = std::slice::from_ref(&shard.master);
            cx.cut(&[alone(view, hit, Traffic::All, Way::Both)]).await.map(drop)?;
        }
    }
    let mut problem = None;
    if !fault.returns() {
        let what = format!("a replica of {} is promoted", shard.master.name);
        let replaced = eventually(cx, &what, timing.failover_retry() + timing.shutdown(), async || {
            let seen = looks.seen();
            let master = |change: &looks::Change| change.at > at && change.said.master && change.said.reads;
            let replica =
                |change: &looks::Change| change.node != shard.master.name && of_shard.contains(&change.node.as_str());
            let promoted = seen.changes.iter().any(|change| replica(change) && master(change));
            Ok(if promoted {
                Look::Reached(())
            } else {
                Look::NotYet("no other node reads the shard's value as a master".into())
            })
        });
        problem = told(replaced.await)?;
        cx.undo_faults().await?;
    }
    let shape = cx.shape();
    let mut whole = None;
    let waited = eventually(
        cx,
        "the cluster whole again",
        timing.scheduling() + timing.sync() + timing.failover_retry(),
        async || {
            let looked = Instant::now();
            // A node that has not noticed anything yet shows a whole cluster.
            let gone = looks.seen().changes.iter().any(|change| {
                change.node == shard.master.name && change.at > at && !(change.said.answers && change.said.master)
            });
            let missing = match cx.look().await {
                Ok(view) => view.not_whole(shape),
                Err(Stop::Mismatch(mismatch)) => vec![mismatch.to_string()],
                Err(stop) => return Err(stop),
            };
            Ok(match missing.first() {
                None if gone => {
                    whole = Some(looked);
                    Look::Reached(())
                }
                None => Look::NotYet(format!("{} has answered all the time", shard.master.name)),
                Some(missing) => Look::NotYet(missing.clone()),
            })
        },
    );
    let unmended = told(waited.await)?;
    Ok(Happened {
        fault: at,
        whole,
        problem: problem.or(unmended),
    })
}

/// What a wait missed; anything but that stops.
fn told<T>(outcome: Result<T, Stop>) -> Result<Option<String>, Stop> {
    match outcome {
        Ok(_) => Ok(None),
        Err(Stop::Mismatch(mismatch)) => Ok(Some(mismatch.to_string())),
        Err(stop) => Err(stop),
    }
}

/// Figures by name.
type Figures = BTreeMap<Figure, f64>;
