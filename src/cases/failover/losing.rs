//! Stopping a master, or a replica, under writes to every shard, and what its platform makes of it.

use super::apart::not_in_state;
use super::{Lost, gap_bounds, judge_gap};
use crate::check::{Look, eventually, expect, no_findings, steadily, unanswered};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault};
use crate::failover::{Shard, highest_epoch, pick_shard};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) async fn deleting_a_master(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let before = cx.view().await?;
    let epoch = before
        .by_id(&shard.master_id)
        .and_then(|view| view.myself())
        .map_or(0, |line| line.config_epoch);
    let writer = Writer::start(cx, &shard.slots()).await?;
    let fault = Instant::now();
    cx.inject(Fault::Restart, &shard.master).await?;
    let (_, bound) = gap_bounds(cx);
    eventually(cx, "every slot is writable again", bound, async || {
        writable_again(cx, &shard).await
    })
    .await?;
    let hold = cx.timing().stable();
    let names = before.nodes.iter().map(|node| node.member.name.clone());
    let survivors: BTreeSet<String> = names.filter(|name| *name != shard.master.name).collect();
    steadily(
        cx,
        "cluster_state:ok on every node, but for the one that was stopped and is not back",
        hold,
        hold + bound,
        async || all_ok(cx, &survivors).await,
    )
    .await?;
    let record = writer.stop().await;
    let gap = record
        .ledgers
        .first()
        .map_or(Duration::ZERO, |ledger| ledger.longest_gap(fault, record.ended));
    cx.count("acknowledged writes", record.acked(), "writes");
    cx.count("ledgers with a lost write", record.lost(cx).await?.len(), "ledgers");
    let after = cx.look().await?;
    let Some(owner) = after.owner_of(shard.slot).and_then(|view| view.myself()) else {
        return Err(Mismatch::new("an owner of the shard's slots", "none says it owns them").into());
    };
    let promoted = owner.id != shard.master_id;
    if !promoted {
        cx.note(format!(
            "outcome: {} came back before it was replaced, and is the master as before",
            shard.master.name
        ));
        expect(
            owner.config_epoch == epoch,
            format!("epoch {epoch}, as before"),
            owner.config_epoch.to_string(),
        )?;
    } else {
        cx.note(format!("outcome: {} was promoted", after.name_of(&owner.id)));
        expect(
            owner.config_epoch > epoch,
            format!("an epoch above {epoch}"),
            owner.config_epoch.to_string(),
        )?;
        expect(
            shard.replicas.iter().any(|(_, id)| *id == owner.id),
            format!("a replica of {} promoted", shard.master.name),
            format!("{} owns the slots", after.name_of(&owner.id)),
        )?;
    }
    let floor = promoted.then(|| cx.timing().failover_floor());
    // Every attempt raises the epoch; of a master that came back in time nobody has won one.
    let attempts = highest_epoch(&after).saturating_sub(highest_epoch(&before));
    let lost = Lost::Seen(attempts > u64::from(promoted));
    Ok(judge_gap(cx, gap, floor, lost)?)
}

/// Whether all nodes that answer agree who owns the shard, say ok, and the owner takes a write.
pub(super) async fn writable_again(cx: &Context, shard: &Shard) -> Result<Look<()>, Stop> {
    let view = cx.look().await?;
    for node in &view.nodes {
        if node.info("cluster_state") != "ok" {
            return Ok(Look::NotYet(format!(
                "{}: cluster_state:{}",
                node.member.name,
                node.info("cluster_state")
            )));
        }
    }
    for slot in shard.slots() {
        let claims: Vec<&str> = view
            .nodes
            .iter()
            .filter_map(|node| node.owners().ok()?[usize::from(slot)].map(str::to_owned))
            .filter_map(|id| view.by_id(&id).map(|owner| owner.member.name.as_str()))
            .collect();
        let agreed = claims.len() == view.nodes.len() && claims.windows(2).all(|pair| pair[0] == pair[1]);
        let Some(owner) = claims.first().filter(|_| agreed).and_then(|name| view.of(name)) else {
            return Ok(Look::NotYet(format!(
                "the nodes do not agree on a living owner of slot {slot}: {}",
                claims.join(", ")
            )));
        };
        let mut connection = cx.connect(&owner.member.address).await?;
        let key = cx.key_in(slot, "probe");
        let reply = connection.call(&["SET", &key, "1", "EX", "60"]).await?;
        if !reply.is_ok() {
            return Ok(Look::NotYet(format!(
                "{}: SET in slot {slot} -> {reply}",
                owner.member.name
            )));
        }
        connection.call(&["DEL", &key]).await?;
    }
    Ok(Look::Reached(()))
}

/// Whether every survivor answers, and every server that does says `cluster_state:ok`. Whatever has taken the stopped one's place,
/// by whichever name, may not answer yet.
async fn all_ok(cx: &Context, survivors: &BTreeSet<String>) -> Result<Look<()>, Stop> {
    let mut view = cx.look().await?;
    view.silent.retain(|(member, _)| survivors.contains(&member.name));
    let newcomers = view.nodes.iter().filter(|node| !survivors.contains(&node.member.name));
    let expected = survivors.len() + newcomers.count();
    let mut findings = unanswered(&mut view, expected)?;
    findings.extend(not_in_state(&view, "ok"));
    Ok(match findings.is_empty() {
        true => Look::Reached(()),
        false => Look::NotYet(findings.join("\n")),
    })
}

pub(super) async fn deleting_a_replica(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let writer = Writer::start_patiently(cx, &shard.slots()).await?;
    let began = Instant::now();
    let bound = cx.timing().shutdown() + cx.timing().scheduling() + cx.timing().sync();
    let what = format!("{} is back with its link up", shard.replica.name);
    let (injected, back) = futures::join!(
        cx.inject(Fault::Restart, &shard.replica),
        eventually(cx, &what, bound, async || replica_back(cx, &shard, began).await)
    );
    let record = writer.stop().await;
    injected?;
    let back = back?;
    cx.measure("replica back with its link up", back, None, Some(bound));
    cx.count("acknowledged writes", record.acked(), "writes");
    let interruptions = record.interruptions(cx.timing().reply());
    let mut findings = record.lost(cx).await?;
    findings.extend(interruptions?);
    no_findings(
        "no interruption of writes to any shard, and every acknowledged write there",
        &findings,
    )?;
    Ok(())
}

/// Whether the replica has been away and is back; a mismatch when another node stopped serving meanwhile.
async fn replica_back(cx: &Context, shard: &Shard, began: Instant) -> Result<Look<Duration>, Stop> {
    let view: ClusterView = cx.look().await?;
    for node in view.nodes.iter().filter(|node| node.member.name != shard.replica.name) {
        let state = node.info("cluster_state");
        expect(
            state == "ok",
            "cluster_state:ok on every other node",
            format!("{}: cluster_state:{state}", node.member.name),
        )?;
    }
    let Some(node) = view.of(&shard.replica.name) else {
        return Ok(Look::NotYet(format!("{} does not answer", shard.replica.name)));
    };
    let uptime = {
        let mut connection = cx.connect(&node.member.address).await?;
        let info = connection.ask_text(&["INFO", "server"]).await?;
        let seconds = info
            .lines()
            .find_map(|line| line.strip_prefix("uptime_in_seconds:")?.trim().parse::<u64>().ok());
        Duration::from_secs(seconds.unwrap_or(u64::MAX))
    };
    Ok(match &node.role {
        // One second of tolerance: the server's uptime counts whole seconds.
        _ if uptime > began.elapsed() + Duration::from_secs(1) => {
            Look::NotYet(format!("{} has not been stopped yet", shard.replica.name))
        }
        _ if node.linked() => Look::Reached(began.elapsed()),
        role => Look::NotYet(format!("{}: {role:?}", shard.replica.name)),
    })
}

/// How long the way back to writes may take beyond what the protocol sets: the server's own clock and a busy machine.
const SLACK: Duration = Duration::from_secs(1);

pub(super) async fn fast_return(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let shard = pick_shard(cx, &before).await?;
    let epoch_of = |view: &ClusterView| Some(view.by_id(&shard.master_id)?.myself()?.config_epoch);
    let epoch = epoch_of(&before);
    let writer = Writer::start(cx, &shard.slots()).await?;
    let fault = Instant::now();
    let bound = cx.timing().scheduling() + cx.timing().sync();
    let (injected, back) = futures::join!(
        cx.inject(Fault::Crash, &shard.master),
        eventually(cx, "the killed master answers again", bound, async || {
            restarted(cx, &shard, &before).await
        })
    );
    injected?;
    back?;
    let away = fault.elapsed();
    cx.measure("time away", away, None, Some(cx.timing().node_timeout()));
    if away >= cx.timing().node_timeout() {
        writer.stop().await;
        return Err(Stop::Unsupported(format!(
            "{} was away for {:.1} s, longer than the node-timeout: its failure may have been detected",
            shard.master.name,
            away.as_secs_f64()
        )));
    }
    // Longer than detection and an election could take: one that is to come has come by then.
    let hold = cx.timing().stable();
    let (_, patience) = gap_bounds(cx);
    let steady = steadily(
        cx,
        "the killed master serves its slots again",
        hold,
        hold + patience,
        async || {
            let view = cx.look().await?;
            for (replica, id) in &shard.replicas {
                let replaced = view.nodes.iter().find(|node| {
                    let line = node.line(id);
                    line.is_some_and(|line| !line.slots.is_empty())
                });
                if let Some(node) = replaced {
                    let actual = format!("{} gives its slots to {}", node.member, replica.name);
                    return Err(Mismatch::new(format!("{} still the master", shard.master.name), actual).into());
                }
            }
            writable_again(cx, &shard).await
        },
    );
    let steady = steady.await;
    let record = writer.stop().await;
    steady?;
    let after = cx.look().await?;
    expect(
        epoch_of(&after) == epoch,
        format!("{} under its id, at epoch {epoch:?}", shard.master.name),
        format!("epoch {:?}", epoch_of(&after)),
    )?;
    let gap = record
        .ledgers
        .first()
        .map_or(Duration::ZERO, |ledger| ledger.longest_gap(fault, record.ended));
    cx.count("ledgers with a lost write", record.lost(cx).await?.len(), "ledgers");
    let bound = away + cx.timing().writable_delay() + SLACK;
    cx.measure("write gap", gap, None, Some(bound));
    let expected = format!("at most {:.1} s without an acknowledged write", bound.as_secs_f64());
    Ok(expect(gap <= bound, expected, format!("{:.1} s", gap.as_secs_f64()))?)
}

/// Whether the master answers again, as another process than before, and has loaded its data.
async fn restarted(cx: &Context, shard: &Shard, before: &ClusterView) -> Result<Look<()>, Stop> {
    let members = cx.members().await?;
    let Some(member) = members.iter().find(|member| member.name == shard.master.name) else {
        return Ok(Look::NotYet(format!("{} is missing", shard.master.name)));
    };
    let offset = |info: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix("master_replid:").map(str::to_owned))
    };
    let mut connection = cx.connect(&member.address).await?;
    let info = connection.ask_text(&["INFO", "replication"]).await?;
    // A server that has started anew has another history than the one before.
    let old = before
        .of(&shard.master.name)
        .map(|node| node.replication("master_replid").to_owned());
    if offset(&info).map(|id| id.trim().to_owned()) == old {
        return Ok(Look::NotYet(format!("{} has not been killed yet", shard.master.name)));
    }
    let info = connection.ask_text(&["INFO", "persistence"]).await?;
    Ok(if info.lines().any(|line| line.trim_end() == "loading:1") {
        Look::NotYet(format!("{} is loading its data", shard.master.name))
    } else {
        Look::Reached(())
    })
}
