//! The bodies of chapter REPL about replicas that go away and come back.

use super::pairing::pairs;
use crate::check::{self, Look, eventually};
use crate::cluster::connection::LinkError;
use crate::cluster::node::{Attached, Member, NodeView};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

/// The first replica, with its id.
fn first_replica<'a>(cx: &Context, view: &'a ClusterView) -> Result<(&'a NodeView, &'a str), Mismatch> {
    let replica = pairs(cx, view)?.first().map(|(replica, _)| *replica);
    let replica = replica.and_then(|replica| Some((replica, replica.myself()?.id.as_str())));
    replica.ok_or_else(|| Mismatch::new("a replica", "there is none"))
}

/// Which of the nodes other than `victim` do not say `cluster_state:ok`, and which do not flag it `fail`.
fn seen_by_others(view: &ClusterView, victim: &Member, id: &str) -> (Vec<String>, Vec<String>) {
    let others = || view.nodes.iter().filter(|node| node.member.name != victim.name);
    // A broken way to a node says nothing about it.
    let told = |error: &LinkError| !matches!(error, LinkError::Unreachable { .. });
    let silent = view
        .silent
        .iter()
        .filter(|(member, error)| member.name != victim.name && told(error));
    let not_ok = others()
        .filter(|node| node.info("cluster_state") != "ok")
        .map(|node| format!("{}: cluster_state:{}", node.member, node.info("cluster_state")))
        .chain(silent.map(|(member, error)| format!("{}: {error}", member.name)))
        .collect();
    let unflagged = others().filter(|node| !node.line(id).is_some_and(|line| line.is("fail")));
    (
        not_ok,
        unflagged
            .map(|node| format!("{} does not flag {} as fail", node.member, victim.name))
            .collect(),
    )
}

/// Keeps a replica away for more than T_fail, and looks at all others all the while.
async fn keep_away(cx: &Context, replica: &Member, id: &str) -> Outcome {
    let bound = cx.timing().fail();
    cx.inject(Fault::KeepAway, replica).await?;
    let gone = Instant::now();
    let mut flagged = None;
    // Longer than the bound, so that a flag that comes late is told with its time.
    eventually(
        cx,
        "the replica flagged `fail` by all others",
        bound * 3 / 2,
        async || {
            let (not_ok, unflagged) = seen_by_others(&cx.look().await?, replica, id);
            check::no_findings("cluster_state:ok on every other node throughout", &not_ok)?;
            if unflagged.is_empty() {
                flagged.get_or_insert_with(|| gone.elapsed());
            }
            let over = flagged.is_some() && gone.elapsed() > bound;
            Ok(if over {
                Look::Reached(())
            } else {
                Look::NotYet(unflagged.join("\n"))
            })
        },
    )
    .await?;
    let after = flagged.unwrap_or_default();
    cx.measure("flagged fail by all", after, None, Some(bound));
    let (expected, seen) = (
        format!("flagged fail by all within {bound:.1?}"),
        format!("after {after:.1?}"),
    );
    Ok(check::expect(after <= bound, expected, seen)?)
}

pub(super) async fn replica_lost(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let (replica, id) = first_replica(cx, &view)?;
    let slots: Vec<u16> = view.masters().filter_map(NodeView::inner_slot).collect();
    let masters = cx.shape().masters;
    check::expect(
        slots.len() == masters,
        format!("{masters} masters with slots"),
        slots.len().to_string(),
    )?;
    let writer = Writer::start(cx, &slots).await?;
    let outcome = with_cleanup(keep_away(cx, &replica.member, id), cx.undo_faults()).await;
    let record = writer.stop().await;
    let lost = record.lost(cx).await;
    cx.count("writes acknowledged", record.acked(), "writes");
    outcome?;
    let findings: Vec<String> = record
        .interruptions(cx.timing().reply())?
        .into_iter()
        .chain(lost?)
        .collect();
    Ok(check::no_findings(
        "no interruption of writes, and every acknowledged one there, while a replica was away",
        &findings,
    )?)
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

/// Restarts the first replica, and waits for at most `bound` until another process with its id is there and `missing`
/// finds nothing amiss any more.
async fn restart_replica(
    cx: &Context,
    bound: Duration,
    missing: impl Fn(&ClusterView, &NodeView) -> Vec<String>,
) -> Outcome {
    let view = cx.view().await?;
    let (replica, id) = first_replica(cx, &view)?;
    let run_before = run_of(cx, &replica.member).await?;
    let began = cx.inject(Fault::Restart, &replica.member).await?;
    eventually(cx, "the restarted replica back in its place", bound, async || {
        let view = cx.look().await?;
        let Some(node) = view.by_id(id) else {
            return Ok(Look::NotYet(format!("no server has the id of {}", replica.member.name)));
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
    let online = |at: &Attached| at.address == replica.member.address && at.state == "online";
    let listed = master.is_some_and(|master| master.attached().iter().any(online));
    (!listed).then(|| format!("{}: its master does not list it with state=online", replica.member))
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
