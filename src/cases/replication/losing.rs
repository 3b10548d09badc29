//! The bodies of chapter REPL about replicas that go away and come back.

use super::pairing::pairs;
use crate::check::{self, Look, eventually};
use crate::cluster::connection::{Address, LinkError};
use crate::cluster::node::{Attached, Member, NodeId, NodeView};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::failover::Absence;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first replica, with its id.
fn first_replica<'a>(cx: &Context, view: &'a ClusterView) -> Result<(&'a NodeView, &'a str), Mismatch> {
    let replica = pairs(cx, view)?.first().map(|(replica, _)| *replica);
    let replica = replica.and_then(|replica| Some((replica, replica.myself()?.id.as_str())));
    replica.ok_or_else(|| Mismatch::new("a replica", "there is none"))
}

/// What the nodes other than the replica say while it is away.
#[derive(Default)]
struct Others {
    /// Those that do not say `cluster_state:ok`, or do not answer.
    not_ok: Vec<String>,
    /// Those that do not flag the replica `fail`.
    unflagged: Vec<String>,
    /// Those that still name it in `CLUSTER SLOTS`, or have no line `slave,fail` of it in `CLUSTER NODES`.
    showing: Vec<String>,
}

impl Others {
    fn of(view: &ClusterView, victim: &Member, id: &str) -> Self {
        // A broken way to a node says nothing about it.
        let told = |error: &LinkError| !matches!(error, LinkError::Unreachable { .. });
        let silent = view
            .silent
            .iter()
            .filter(|(member, error)| member.name != victim.name && told(error));
        let mut others = Self {
            not_ok: silent
                .map(|(member, _)| format!("{} does not answer", member.name))
                .collect(),
            ..Self::default()
        };
        for node in view.nodes.iter().filter(|node| node.member.name != victim.name) {
            let (name, state) = (&node.member, node.info("cluster_state"));
            if state != "ok" {
                others.not_ok.push(format!("{name}: cluster_state:{state}"));
            }
            if !node.line(id).is_some_and(|line| line.is("fail")) {
                others
                    .unflagged
                    .push(format!("{name} does not flag {} as fail", victim.name));
            }
            let named = |(address, other): &(Address, Option<NodeId>)| {
                *address == victim.address || other.as_deref() == Some(id)
            };
            if node.slots.iter().any(|entry| entry.nodes.iter().any(named)) {
                others
                    .showing
                    .push(format!("{name}: CLUSTER SLOTS names {}", victim.name));
            }
            if !node.line(id).is_some_and(|line| line.is("slave") && line.is("fail")) {
                others.showing.push(format!(
                    "{name}: CLUSTER NODES has no line slave,fail of {}",
                    victim.name
                ));
            }
        }
        others
    }
}

/// What was seen while it was away, as in [`Absence`].
struct Seen {
    not_ok: Vec<String>,
    flagged: Result<Duration, Mismatch>,
    hidden: Result<Duration, Mismatch>,
}

/// Keeps a replica away for more than T_fail, and looks at all others all the while.
async fn keep_away(cx: &Context, replica: &Member, id: &str) -> Result<Seen, Stop> {
    let bound = cx.timing().fail();
    cx.inject(Fault::KeepAway, replica).await?;
    let gone = Instant::now();
    let (mut not_ok, mut last) = (BTreeSet::new(), Others::default());
    let (mut flagged, mut hidden) = (None, None);
    let looking = eventually(
        cx,
        "the replica flagged and hidden by all others",
        bound * 3 / 2,
        async || {
            last = Others::of(&cx.look().await?, replica, id);
            not_ok.extend(std::mem::take(&mut last.not_ok));
            if last.unflagged.is_empty() {
                flagged.get_or_insert_with(|| gone.elapsed());
            }
            if last.showing.is_empty() {
                hidden.get_or_insert_with(|| gone.elapsed());
            }
            let over = flagged.is_some() && hidden.is_some() && gone.elapsed() > bound;
            Ok(if over {
                Look::Reached(())
            } else {
                Look::NotYet([last.unflagged.clone(), last.showing.clone()].concat().join("\n"))
            })
        },
    );
    match looking.await {
        Ok(()) | Err(Stop::Mismatch(_)) => {}
        Err(stop) => return Err(stop),
    }
    let in_time = |after: Option<Duration>, what: &str, missing: &[String]| match after {
        Some(after) if after <= bound => Ok(after),
        Some(after) => Err(Mismatch::new(
            format!("{what} within {bound:.1?}"),
            format!("after {after:.1?}"),
        )),
        None => Err(Mismatch::new(format!("{what} within {bound:.1?}"), missing.join("\n"))),
    };
    let hiding = "slave,fail in CLUSTER NODES and not in CLUSTER SLOTS of any other node";
    Ok(Seen {
        not_ok: not_ok.into_iter().collect(),
        flagged: in_time(flagged, "flagged fail by all others", &last.unflagged),
        hidden: in_time(hidden, hiding, &last.showing),
    })
}

/// The absence of this run; the first case that asks makes it happen. Where it could not be observed at all, that is the same
/// for every case that asks.
async fn observe(cx: &Context) -> Result<Arc<Absence>, Stop> {
    cx.note_observation("the absence of a replica");
    let shared = cx.shared().clone();
    let observed = shared
        .absence
        .get_or_init(|| async { Ok(Arc::new(lose_a_replica(cx).await?)) });
    Ok(observed.await.clone()?)
}

async fn lose_a_replica(cx: &Context) -> Result<Absence, Stop> {
    let view = cx.view().await?;
    let (replica, id) = first_replica(cx, &view)?;
    let slots: Vec<u16> = view.masters().filter_map(NodeView::inner_slot).collect();
    let masters = cx.shape().masters;
    check::expect(
        slots.len() == masters,
        format!("{masters} masters with slots"),
        slots.len().to_string(),
    )?;
    let writer = Writer::start_patiently(cx, &slots).await?;
    let outcome = with_cleanup(keep_away(cx, &replica.member, id), cx.undo_faults()).await;
    let writes = writer.stop().await;
    let lost = writes.lost(cx).await;
    let Seen {
        not_ok,
        flagged,
        hidden,
    } = outcome?;
    Ok(Absence {
        replica: replica.member.clone(),
        not_ok,
        flagged,
        hidden,
        writes,
        lost: lost?,
    })
}

pub(super) async fn replica_lost(cx: &Context) -> Outcome {
    let absence = observe(cx).await?;
    cx.count("writes acknowledged", absence.writes.acked(), "writes");
    check::no_findings("cluster_state:ok on every other node throughout", &absence.not_ok)?;
    let flagged = absence.flagged.clone()?;
    cx.measure("flagged fail by all", flagged, None, Some(cx.timing().fail()));
    let interruptions = absence.writes.interruptions(cx.timing().reply())?;
    let findings: Vec<String> = interruptions.into_iter().chain(absence.lost.clone()).collect();
    Ok(check::no_findings(
        "no interruption of writes, and every acknowledged one there, while a replica was away",
        &findings,
    )?)
}

pub(super) async fn replica_hidden(cx: &Context) -> Outcome {
    let absence = observe(cx).await?;
    let hidden = absence.hidden.clone()?;
    cx.note(format!("{} was kept away", absence.replica));
    cx.measure("hidden by all", hidden, None, Some(cx.timing().fail()));
    Ok(())
}

/// The name that a server process has for its own lifetime.
async fn run_of(cx: &Context, member: &Member) -> Result<String, Stop> {
    let mut connection = cx.connect(&member.address).await?;
    let info = connection.ask_text(&["INFO", "server"]).await?;
    let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(run
        .ok_or_else(|| connection.nonsense("INFO server", "no run_id"))?
        .to_owned())
}

/// The server in the place of one of before: that of its name, under whatever id, since a platform may give a new server
/// no data of the old one. Where it gives it another name, that with its id, else one that was not there before.
fn in_place_of<'v>(before: &ClusterView, now: &'v ClusterView, name: &str, id: &str) -> Option<&'v NodeView> {
    let fresh = |node: &&NodeView| before.of(&node.member.name).is_none();
    now.of(name)
        .or_else(|| now.by_id(id))
        .or_else(|| now.nodes.iter().find(fresh))
}

/// Restarts the first replica, and waits for at most `bound` until another process is there in its place and `missing`
/// finds nothing amiss any more.
async fn restart_replica(
    cx: &Context,
    bound: Duration,
    missing: impl Fn(&ClusterView, &NodeView) -> Vec<String>,
) -> Outcome {
    let before = cx.view().await?;
    let (replica, id) = first_replica(cx, &before)?;
    let run_before = run_of(cx, &replica.member).await?;
    let began = cx.inject(Fault::Restart, &replica.member).await?;
    eventually(cx, "the restarted replica back in its place", bound, async || {
        let view = cx.look().await?;
        let Some(node) = in_place_of(&before, &view, &replica.member.name, id) else {
            return Ok(Look::NotYet(format!(
                "no server is in the place of {}",
                replica.member.name
            )));
        };
        if run_of(cx, &node.member).await? == run_before {
            return Ok(Look::NotYet(format!("{}: still the process from before", node.member)));
        }
        let findings = missing(&view, node);
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await?;
    cx.measure("back in its place", began.elapsed(), None, Some(bound));
    Ok(())
}

/// Whether the replica's link is up, and its master lists it as online.
fn link_down(view: &ClusterView, replica: &NodeView) -> Option<String> {
    let (role, link) = (replica.replication("role"), replica.replication("master_link_status"));
    if (role, link) != ("slave", "up") {
        return Some(format!("{}: role:{role}, master_link_status:{link}", replica.member));
    }
    let master = replica.myself().and_then(|line| view.by_id(line.master.as_deref()?));
    let online = |at: &Attached| at.address == replica.member.address && at.is_online();
    let listed = master.is_some_and(|master| master.attached().iter().any(online));
    (!listed).then(|| {
        format!(
            "{}: its master does not list it, or in another state than online",
            replica.member
        )
    })
}

pub(super) async fn replica_returns(cx: &Context) -> Outcome {
    let bound = cx.timing().scheduling() + cx.timing().sync();
    restart_replica(cx, bound, |view, node| link_down(view, node).into_iter().collect()).await
}

pub(super) async fn protected_again(cx: &Context) -> Outcome {
    let bound = cx.timing().scheduling() + cx.timing().sync() + cx.timing().node_timeout();
    let masters = cx.shape().masters;
    restart_replica(cx, bound, |view, _| {
        let owners: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
        let count = (owners.len() != masters).then(|| format!("{} masters with slots", owners.len()));
        let unprotected = owners.iter().filter(|master| {
            let id = master.myself().map_or("", |line| line.id.as_str());
            !view.replicas_of(id).any(|replica| link_down(view, replica).is_none())
        });
        count
            .into_iter()
            .chain(unprotected.map(|master| format!("{}: no online replica", master.member)))
            .collect()
    })
    .await
}
