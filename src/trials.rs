//! Trials: one fault done several times to a whole cluster, each time with writers and looks at every node; and what was
//! seen, as figures.

mod figures;
mod looks;
mod readiness;

use self::figures::Watched;
use self::looks::Looks;
use self::readiness::Readiness;
use crate::case::Capability;
use crate::check::{Look, eventually};
use crate::cluster::node::Member;
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::partition::alone;
use crate::report::scorecard::{Figure, LostWrite, Trial};
use crate::target::{Fault, Traffic, Way};
use crate::timing::Timing;
use crate::verdict::Stop;
use crate::workload::{DirectWriter, Fate, Ledger, Writer};
use futures::FutureExt;
use std::collections::BTreeMap;
use std::time::Instant;

/// What is done to the master of a shard in each trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TrialFault {
    /// Stopped gracefully; the platform brings it back as it does (Kubernetes: its pod is deleted).
    Restart,
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
        matches!(self, Self::Restart | Self::Crash)
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
pub async fn one(cx: &Context, fault: TrialFault, number: usize) -> Result<Trial, Stop> {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let of_shard: Vec<Member> = std::iter::once(shard.master.clone())
        .chain(view.replicas_of(&shard.master_id).map(|node| node.member.clone()))
        .collect();
    let value = cx.key_in(shard.slot, "value");
    let keys: Vec<String> = std::iter::once(value.clone())
        .chain(shard.slots().into_iter().map(|slot| Writer::key(cx, slot)))
        .chain(of_shard.iter().map(|node| DirectWriter::key(cx, shard.slot, node)))
        .collect();
    let measured = measure(cx, fault, number, &view, &shard, &of_shard, value);
    let cleanup = async {
        cx.undo_faults().await?;
        cx.remove_keys(&keys).await
    };
    with_cleanup(measured, cleanup).await
}

async fn measure(
    cx: &Context,
    fault: TrialFault,
    number: usize,
    view: &ClusterView,
    shard: &Shard,
    of_shard: &[Member],
    key: String,
) -> Result<Trial, Stop> {
    let members: Vec<Member> = view.nodes.iter().map(|node| node.member.clone()).collect();
    let pair = (key, format!("trial-{number}"));
    let mut connection = cx.connect(&shard.master.address).await?;
    connection.ask(&["SET", &pair.0, &pair.1]).await?;
    let looks = Looks::new(members, shard.master_id.clone(), pair);
    let client = Writer::start(cx, &shard.slots()).await?;
    let direct = DirectWriter::start(cx, of_shard, shard.slot);
    let readiness = Readiness::default();
    let mut looking = Box::pin(async { futures::join!(looks.on(cx), readiness.on(cx)) }).fuse();
    let mut happening = Box::pin(happen(cx, fault, view, shard, &of_shard[1..], &looks)).fuse();
    let happened = futures::select_biased! {
        happened = happening => happened,
        _ = looking => Err(anyhow::anyhow!("the looks at the nodes ended by themselves").into()),
    };
    drop((happening, looking));
    let by_node = direct.stop().await;
    let record = client.stop().await;
    let happened = happened?;
    let watched = Watched {
        victim: &shard.master.name,
        shard: of_shard.iter().map(|member| member.name.as_str()).collect(),
        fault: happened.fault,
        ended: record.ended,
        seen: looks.seen(),
        ready: readiness.changes(),
        by_node: &by_node,
        client: &record.ledgers,
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
        figures,
        acked: 0,
        refused: 0,
        indeterminate: 0,
        lost: Vec::new(),
        phantom: Vec::new(),
        problem: happened.problem,
    };
    let through_clients = record.ledgers.iter().map(|ledger| (None, ledger));
    let through_nodes = by_node.iter().map(|(name, ledger)| (Some(name.as_str()), ledger));
    for (by, ledger) in through_clients.chain(through_nodes) {
        count(cx, view, &watched, &mut trial, by, ledger).await?;
    }
    Ok(trial)
}

/// Reads a ledger back, and counts what became of its writes; `view` is the cluster before the fault.
async fn count(
    cx: &Context,
    view: &ClusterView,
    watched: &Watched<'_>,
    trial: &mut Trial,
    by: Option<&str>,
    ledger: &Ledger,
) -> Result<(), Stop> {
    let there = ledger.read_back(cx).await?;
    for write in &ledger.writes {
        let found = there.contains_key(&write.number);
        match &write.fate {
            Fate::Acked => {
                trial.acked += 1;
                if !found {
                    trial.lost.push(LostWrite {
                        slot: ledger.slot,
                        shard: view.owner_of(ledger.slot).map(|owner| owner.member.name.clone()),
                        what: format!("{} of {}", write.number, ledger.key),
                        acked_by: by.map(Into::into),
                        epoch: watched.epoch_of(by, ledger.slot, write.at),
                        since_fault: watched.since_fault(write.at),
                    });
                }
            }
            Fate::Refused(text) | Fate::Unsent(text) => {
                trial.refused += 1;
                if found {
                    trial
                        .phantom
                        .push(format!("{} of {}: {text}", write.number, ledger.key));
                }
            }
            Fate::Indeterminate(_) => trial.indeterminate += 1,
        }
    }
    Ok(())
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
    replicas: &[Member],
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
            let of_shard = |change: &looks::Change| replicas.iter().any(|replica| replica.name == change.node);
            let promoted = seen.changes.iter().any(|change| of_shard(change) && master(change));
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
