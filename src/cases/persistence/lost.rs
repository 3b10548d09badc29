//! The bodies of chapter PERS about servers that are killed all at once, or with all that they have on disk.

use super::returning::{numbered, setting, unread, write_numbered};
use crate::case::Capability;
use crate::cases::failover::outages::{Replaced, replaced};
use crate::cases::failover::{crash_bounds, judge_gap_within};
use crate::check::{self, Look, eventually, expect, no_findings, steadily};
use crate::cluster::node::{Member, NodeLine, NodeView, Role};
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Context, Fault, Scratch, with_cleanup};
use crate::crash::{self, flushed};
use crate::failover::{Shard, pick_shard, until_writes_come_back};
use crate::reintegration::reintegrate;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

pub(super) async fn all_killed(cx: &Context) -> Outcome {
    let crash = crash::observe_all(cx).await?;
    let took = crash.served.clone()?;
    cx.measure("all servers serve again", took, None, Some(crash::full_bound(cx)));
    let different = [crash.topology.as_slice(), crash.map.as_slice()].concat();
    no_findings("every node with its id, role, slots and epoch of before", &different)?;
    let keys = crash.data.clone()?;
    cx.count("keys read by value", keys, "keys");
    Ok(())
}

/// The servers of a view but for one.
fn others(view: &ClusterView, but: &Member) -> Vec<Member> {
    let members = view.nodes.iter().map(|node| node.member.clone());
    members.filter(|member| member != but).collect()
}

pub(super) async fn volume_of_a_replica(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let survivors = others(&view, &shard.replica);
    let judge = async {
        let flagged = async {
            cx.inject(Fault::LoseVolume, &shard.replica).await?;
            let what = format!("every other node flags {} as fail", shard.replica.name);
            eventually(cx, &what, cx.timing().fail(), async || {
                let view = cx.look_among(survivors.clone()).await;
                let fails = |node: &&NodeView| node.line(&shard.replica_id).is_some_and(|line| line.is("fail"));
                let unaware = view.nodes.iter().find(|node| !fails(node));
                Ok(match unaware {
                    None if view.silent.is_empty() => Look::Reached(()),
                    None => Look::NotYet("one does not answer".into()),
                    Some(node) => Look::NotYet(format!("not by {}", node.member)),
                })
            })
            .await
        };
        with_cleanup(flagged, cx.undo_faults()).await?;
        let hold = cx.timing().stable();
        let bound = cx.timing().scheduling() + cx.timing().sync() + Duration::from_secs(30) + hold;
        let what = format!("{} is back in its shard, or missed by all", shard.replica.name);
        steadily(cx, &what, hold, bound, async || missed(cx, &shard).await).await?;
        let view = cx.look().await?;
        let (whole, back) = (view.not_whole(cx.shape()).is_empty(), replicates_again(&view, &shard));
        cx.note(match whole {
            true => "outcome: it is back in its shard",
            false if back => "outcome: it is back in its shard, under a new id; the nodes still list the lost one",
            false => "outcome: every node shows that it is missing; nobody has brought it back",
        });
        Ok(())
    };
    let back = reintegrate(cx, &shard.replica, &shard.replica_id, shard.slot);
    with_cleanup(judge, back).await
}

/// Whether the cluster is whole again, or every node shows that it is not, and the empty server serves nothing.
async fn missed(cx: &Context, shard: &Shard) -> Result<Look<()>, Stop> {
    let view = cx.look().await?;
    if view.not_whole(cx.shape()).is_empty() {
        return Ok(Look::Reached(()));
    }
    if replicates_again(&view, shard) {
        return Ok(Look::Reached(()));
    }
    let unasked = view
        .silent
        .iter()
        .filter(|(member, _)| member.name != shard.replica.name);
    let mut silent: Vec<String> = unasked.map(|(_, error)| error.to_string()).collect();
    for node in &view.nodes {
        // The empty server itself knows nothing of the id that it had.
        if node.member.name != shard.replica.name
            && let Some(said) = unmissed(node.line(&shard.replica_id))
        {
            silent.push(format!("{} {said} {}", node.member, shard.replica.name));
        }
        if let Role::Master { replicas, .. } = &node.role
            && node.member == shard.master
            && replicas.len() >= cx.shape().replicas_per_master
        {
            silent.push(format!("{} shows {} replicas", node.member, replicas.len()));
        }
    }
    match view.of(&shard.replica.name) {
        Some(empty) if empty.info("cluster_state") != "fail" => {
            silent.push(format!(
                "{}: cluster_state:{}",
                empty.member,
                empty.info("cluster_state")
            ));
        }
        Some(empty) => silent.extend(serves(cx, &empty.member, &cx.key_in(shard.slot, "lost")).await?),
        None => silent.push(format!("{} does not answer", shard.replica.name)),
    }
    Ok(match silent.is_empty() {
        true => Look::Reached(()),
        false => Look::NotYet(silent.join("\n")),
    })
}

/// What a node does with a lost id in place of missing it. Who has forgotten it shows nobody that a replica is gone.
fn unmissed(line: Option<&NodeLine>) -> Option<&'static str> {
    match line {
        None => Some("has forgotten"),
        Some(line) if line.is("fail") || line.is("noaddr") => None,
        Some(_) => Some("takes for fine"),
    }
}

/// Whether the server is a linked replica of its master again, under a new id that every node knows, while the lost id is
/// flagged or forgotten.
fn replicates_again(view: &ClusterView, shard: &Shard) -> bool {
    let Some(empty) = view.of(&shard.replica.name) else {
        return false;
    };
    let follows = matches!(&empty.role, Role::Replica { master, .. } if *master == shard.master.address);
    let id = empty.myself().map_or("", |line| line.id.as_str());
    let known = |node: &NodeView| {
        node.line(id)
            .is_some_and(|line| line.master.as_ref() == Some(&shard.master_id))
    };
    let lost = |node: &NodeView| {
        let line = node.line(&shard.replica_id);
        line.is_none_or(|line| line.is("fail") || line.is("noaddr"))
    };
    follows && empty.linked() && view.silent.is_empty() && view.nodes.iter().all(|node| known(node) && lost(node))
}

/// What an empty server answers about a key, unless it refuses or redirects.
async fn serves(cx: &Context, member: &Member, key: &str) -> Result<Option<String>, Stop> {
    let reply = cx.connect(&member.address).await?.call(&["GET", key]).await?;
    let refuses = matches!(reply.error_prefix(), Some("CLUSTERDOWN" | "MOVED"));
    Ok(check::unless(refuses, member, format!("GET {key}"), &reply))
}

pub(super) async fn volume_of_a_master(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let keys = numbered(cx, shard.slot);
    let names: Vec<String> = keys.iter().map(|(key, _)| key.clone()).collect();
    let judge = async {
        write_numbered(cx, &shard.master, &keys, 1).await?;
        on_every_replica(cx, &shard, &keys).await?;
        Box::pin(lose_a_master(cx, &view, &shard, &keys)).await
    };
    with_cleanup(judge, cx.remove_keys(&names)).await
}

/// Has a master lose its volume, whose replicas have the keys, and puts the cluster together again.
async fn lose_a_master(cx: &Context, view: &ClusterView, shard: &Shard, keys: &[(String, String)]) -> Outcome {
    let survivors = others(view, &shard.master);
    let writer = Writer::start(cx, &shard.slots()).await?;
    let fault = Instant::now();
    let judge = async {
        let replaced = async {
            cx.inject(Fault::LoseVolume, &shard.master).await?;
            let gone = Instant::now();
            let (_, bound) = crash_bounds(cx);
            let what = format!("a replica takes over for {}", shard.master.name);
            let replaced = eventually(cx, &what, bound, async || Ok(replaced(cx, &survivors, shard).await)).await?;
            cx.measure(
                "promotion",
                fault.elapsed(),
                Some(cx.timing().failover_floor()),
                Some(bound),
            );
            until_writes_come_back(cx, &survivors, &[shard.slot], (gone, bound)).await?;
            all_there(cx, &replaced.successor, keys).await?;
            Ok(replaced)
        };
        let replaced = with_cleanup(replaced, cx.undo_faults()).await?;
        let hold = cx.timing().stable();
        let bound = cx.timing().scheduling() + 2 * hold;
        let what = "the empty server serves nothing, and its successor keeps what it has";
        steadily(cx, what, hold, bound, async || {
            untouched(cx, (survivors.as_slice(), &replaced), shard, keys).await
        })
        .await?;
        all_there(cx, &replaced.successor, keys).await?;
        Ok(replaced.lost(view))
    };
    let judged: Result<_, Stop> = judge.await;
    let record = writer.stop().await;
    let outcome = async {
        let lost = judged?;
        let ledger = record.ledgers.first();
        let gap = ledger.map_or(Duration::ZERO, |ledger| ledger.longest_gap(fault, record.ended));
        let floor = Some(cx.timing().failover_floor());
        Ok(judge_gap_within(cx, gap, floor, lost, crash_bounds(cx))?)
    };
    let back = async {
        reintegrate(cx, &shard.master, &shard.master_id, shard.slot).await?;
        let missing = record.missing(cx).await?;
        cx.count("acknowledged writes", record.acked(), "writes");
        cx.count("acknowledged writes lost", missing.iter().map(Vec::len).sum(), "writes");
        Ok(())
    };
    with_cleanup(outcome, back).await
}

/// Has every connected replica of the shard confirm what was written: any of them may be promoted.
async fn on_every_replica(cx: &Context, shard: &Shard, keys: &[(String, String)]) -> Outcome {
    let Some((key, value)) = keys.last() else {
        return Err(anyhow::anyhow!("no keys").into());
    };
    let mut connection = cx.connect(&shard.master.address).await?;
    // WAIT is about the writes of its own connection: the last one, done again, comes after all the others.
    let set = connection.call(&["SET", key, value]).await?;
    let limit = (cx.timing().reply() * 4 / 5).as_millis().to_string();
    let replicas = shard.replicas.len();
    let wait = connection.call(&["WAIT", &replicas.to_string(), &limit]).await?;
    let confirmed = set.is_ok() && wait.integer() >= i64::try_from(replicas).ok();
    let expected = format!("SET -> +OK, WAIT {replicas} {limit} -> at least :{replicas} before the fault");
    let seen = format!("{}: SET -> {set}, WAIT -> {wait}", shard.master);
    Ok(expect(confirmed, expected, seen)?)
}

/// Expects every key by value of a server.
async fn all_there(cx: &Context, member: &Member, keys: &[(String, String)]) -> Outcome {
    match unread(cx, member, keys).await? {
        Err(refused) => Err(Mismatch::new("the values that were replicated", refused).into()),
        Ok(wrong) => Ok(no_findings(
            format!("every one of {} replicated keys by value on {member}", keys.len()),
            &wrong,
        )?),
    }
}

/// Whether the empty server is there and serves nothing, while its successor has slots and values; a mismatch when not.
async fn untouched(
    cx: &Context,
    (survivors, replaced): (&[Member], &Replaced),
    shard: &Shard,
    keys: &[(String, String)],
) -> Result<Look<()>, Stop> {
    let view = cx.look_among(survivors.to_vec()).await;
    if let Some((_, error)) = view.silent.first() {
        return Ok(Look::NotYet(error.to_string()));
    }
    let (successor, id) = (&replaced.successor, &replaced.id);
    let other = view.nodes.iter().find(|node| {
        let line = node.line(id);
        line.is_none_or(|line| !line.is_master() || line.slots.is_empty())
    });
    if let Some(node) = other {
        let seen = format!("{} gives it no slots", node.member);
        return Err(Mismatch::new(format!("{successor} with its slots"), seen).into());
    }
    let Some((key, value)) = keys.first() else {
        return Err(anyhow::anyhow!("no keys").into());
    };
    let reply = cx.connect(&successor.address).await?.call(&["GET", key]).await?;
    let seen = format!("{successor}: GET {key} -> {reply}");
    expect(reply.text() == Some(value), "the value on the promoted replica", seen)?;
    let members = cx.members().await?;
    let Some(empty) = members.iter().find(|member| member.name == shard.master.name) else {
        return Ok(Look::NotYet(format!("{} is not there", shard.master.name)));
    };
    let served = serves(cx, empty, key).await?;
    let served: Vec<String> = served.into_iter().collect();
    no_findings("-CLUSTERDOWN or -MOVED from the server that has lost its data", &served)?;
    Ok(Look::Reached(()))
}

pub(super) async fn back_before_missed(cx: &Context) -> Outcome {
    let mut without = Vec::new();
    let mut appends = true;
    for member in cx.all_members().await? {
        let append = setting(cx, &member, "appendonly").await?;
        appends &= append == "yes";
        if append != "yes" && setting(cx, &member, "save").await?.is_empty() {
            without.push(format!("{member}: appendonly {append}, save \"\""));
        }
    }
    no_findings("appendonly yes, or a snapshot now and then, on every node", &without)?;
    let can = cx.capabilities();
    if !can.contains(&Capability::Scratch) || !can.contains(&Capability::Crash) {
        cx.note("the configuration was read; the target cannot kill servers of its own to try it");
        return Ok(());
    }
    let scratch = Scratch {
        shape: Shape {
            masters: 1,
            replicas_per_master: 1,
        },
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |cx| killed_and_back(cx, appends).await)
        .await
}

/// Kills a master with replicated keys, which is started at once, and expects them on it and on its replica.
async fn killed_and_back(cx: &Context, appends: bool) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let keys = numbered(cx, shard.slot);
    write_numbered(cx, &shard.master, &keys, 1).await?;
    match appends {
        true => flushed(cx, &shard.master).await?,
        // A snapshot is all that there is; when the next one is due is not the question.
        false => {
            let mut connection = cx.connect(&shard.master.address).await?;
            connection.ask(&["SAVE"]).await?;
        }
    }
    cx.inject(Fault::Crash, &shard.master).await?;
    let bound = cx.timing().scheduling() + cx.timing().sync();
    eventually(cx, "master and replica have every value", bound, async || {
        let view = cx.look().await?;
        let linked = view.of(&shard.replica.name).is_some_and(NodeView::linked);
        let served = match unread(cx, &shard.master, &keys).await? {
            Err(refused) => return Ok(Look::NotYet(refused)),
            Ok(wrong) => wrong,
        };
        no_findings("every key by value on the master that was killed", &served)?;
        if !linked {
            return Ok(Look::NotYet(format!("{} has no link", shard.replica)));
        }
        let mut connection = cx.connect(&shard.replica.address).await?;
        connection.ask(&["READONLY"]).await?;
        let commands: Vec<Vec<&str>> = keys.iter().map(|(key, _)| vec!["GET", key]).collect();
        let replies = connection.pipeline(&commands).await?;
        let wrong = keys
            .iter()
            .zip(&replies)
            .filter(|((_, value), reply)| reply.text() != Some(value));
        let wrong: Vec<String> = wrong
            .map(|((key, _), reply)| format!("{}: GET {key} -> {reply}", shard.replica))
            .collect();
        no_findings("every key by value on the replica", &wrong)?;
        Ok(Look::Reached(()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::failed(Some("slave,fail"), None)]
    #[case::without_an_address(Some("slave,noaddr"), None)]
    #[case::only_suspected(Some("slave,fail?"), Some("takes for fine"))]
    #[case::fine(Some("slave"), Some("takes for fine"))]
    #[case::forgotten(None, Some("has forgotten"))]
    fn a_lost_id_is_missed_by_who_flags_it_alone(#[case] flags: Option<&str>, #[case] told: Option<&str>) {
        let (id, master) = ("a".repeat(40), "b".repeat(40));
        let line = flags.map(|flags| format!("{id} 10.0.0.1:6379@16379 {flags} {master} 0 0 1 connected"));
        let line = line.map(|line| NodeLine::parse(&line).unwrap());
        assert_eq!(unmissed(line.as_ref()), told);
    }
}
