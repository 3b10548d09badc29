//! The bodies of chapter FAIL about servers that are killed or frozen, and about several that go at once.

use super::observed::HICCUP;
use super::{Lost, crash_bounds, gap_bounds, judge_gap, judge_gap_within};
use crate::check::{Look, eventually, expect, no_findings, steadily};
use crate::cluster::node::{Endpoint, Member, NodeId, NodeView, Role};
use crate::cluster::redirect::Redirect;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::crash;
use crate::failover::{Shard, election_lost, highest_epoch, pick_shard, until_writes_come_back};
use crate::loss::{lose, not_handed_over};
use crate::outage::{self, recovery_bound, serving};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

pub(super) async fn killed_master(cx: &Context) -> Outcome {
    let crash = crash::observe(cx).await?;
    crash.served.clone()?;
    let (victim, id, replica) = &crash.victim;
    let Some((owner, owner_id, epoch)) = &crash.owner else {
        return Err(Mismatch::new("an owner of the shard's slots", "none says it owns them").into());
    };
    let promoted = owner_id != id;
    if promoted {
        cx.note(format!("outcome: {owner} was promoted"));
        let seen = format!("{owner} owns the slots, at epoch {epoch}");
        let expected = format!("the replica {replica} promoted, at an epoch above {}", crash.epoch);
        expect(owner_id == replica && *epoch > crash.epoch, expected, seen)?;
    } else {
        cx.note(format!(
            "outcome: {victim} came back before it was replaced, and is the master as before"
        ));
        expect(
            *epoch == crash.epoch,
            format!("epoch {}, as before", crash.epoch),
            epoch.to_string(),
        )?;
    }
    let ledger = crash.writes.ledgers.first();
    let gap = ledger.map_or(Duration::ZERO, |ledger| {
        ledger.longest_gap(crash.fault, crash.writes.ended)
    });
    cx.count("acknowledged writes", crash.writes.acked(), "writes");
    let floor = promoted.then(|| cx.timing().failover_floor());
    let lost = Lost::Seen(crash.elections > u64::from(promoted));
    Ok(judge_gap_within(cx, gap, floor, lost, crash_bounds(cx))?)
}

/// The servers of a view but for these.
pub(in crate::cases) fn others(view: &ClusterView, but: &[&Member]) -> Vec<Member> {
    let members = view.nodes.iter().map(|node| node.member.clone());
    members.filter(|member| !but.contains(&member)).collect()
}

/// A master's successor, and what the survivors said when all of them knew it.
pub(in crate::cases) struct Replaced {
    /// The replica that was promoted.
    pub(in crate::cases) successor: Member,
    /// Its id.
    pub(in crate::cases) id: NodeId,
    /// What the survivors said.
    pub(in crate::cases) view: ClusterView,
}

impl Replaced {
    /// Whether an election was lost before the successor won one, by the view from before.
    pub(in crate::cases) fn lost(&self, before: &ClusterView) -> Lost {
        Lost::Seen(election_lost(highest_epoch(before), highest_epoch(&self.view)))
    }
}

/// Whether one of the shard's replicas is promoted, and every survivor says so and that the cluster is whole enough to
/// serve.
pub(in crate::cases) async fn replaced(cx: &Context, survivors: &[Member], shard: &Shard) -> Look<Replaced> {
    let view = cx.look_among(survivors.to_vec()).await;
    let mut missing: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
    let is_master = |replica: &Member| view.of(&replica.name).is_some_and(|node| node.role.is_master());
    let promoted = shard.replicas.iter().find(|(replica, _)| is_master(replica));
    let (successor, id) = match promoted {
        Some((replica, id)) => (replica, id),
        None => {
            missing.push(format!("no replica of {} is a master", shard.master.name));
            (&shard.replica, &shard.replica_id)
        }
    };
    for node in &view.nodes {
        let owns = node.line(id).is_some_and(|line| !line.slots.is_empty());
        if !owns || node.info("cluster_state") != "ok" {
            missing.push(format!(
                "{}: cluster_state:{}, and {} its slots to {}",
                node.member,
                node.info("cluster_state"),
                if owns { "gives" } else { "does not give" },
                successor.name
            ));
        }
    }
    match missing.is_empty() {
        true => Look::Reached(Replaced {
            successor: successor.clone(),
            id: id.clone(),
            view,
        }),
        false => Look::NotYet(missing.join("\n")),
    }
}

pub(super) async fn frozen_master(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let survivors = others(&view, &[&shard.master]);
    let writer = Writer::start(cx, &shard.slots()).await?;
    let fault = Instant::now();
    let (_, patience) = crash_bounds(cx);
    let promotion = async {
        cx.inject(Fault::Pause, &shard.master).await?;
        let frozen = Instant::now();
        let what = format!("a replica takes over for the frozen {}", shard.master.name);
        let replaced = eventually(cx, &what, patience, async || Ok(replaced(cx, &survivors, &shard).await)).await?;
        let took = fault.elapsed();
        until_writes_come_back(cx, &survivors, &[shard.slot], (frozen, patience)).await?;
        Ok((replaced, took))
    };
    let promotion = with_cleanup(promotion, cx.undo_faults()).await;
    let thawed = Instant::now();
    let bound = cx.timing().gossip() + cx.timing().sync();
    let demotion = match &promotion {
        Ok((Replaced { successor, view, .. }, _)) => {
            let named = view.of(&successor.name).map(|node| view.endpoint_of(node));
            let named = named.unwrap_or_else(|| Endpoint::from(&successor.address));
            let what = format!("{} follows {} and redirects to it", shard.master.name, successor.name);
            let followed = eventually(cx, &what, bound, async || follows(cx, &shard, &named).await).await;
            followed.map(|()| thawed.elapsed())
        }
        Err(_) => Ok(Duration::ZERO),
    };
    let record = writer.stop().await;
    let (replaced, promotion) = promotion?;
    let demotion = demotion?;
    cx.measure(
        "promotion",
        promotion,
        Some(cx.timing().failover_floor()),
        Some(patience),
    );
    cx.measure("demoted, and its link up", demotion, None, Some(bound));
    let ledger = record.ledgers.first();
    let gap = ledger.map_or(Duration::ZERO, |ledger| ledger.longest_gap(fault, record.ended));
    cx.count("acknowledged writes", record.acked(), "writes");
    cx.count("ledgers with a lost write", record.lost(cx).await?.len(), "ledgers");
    let floor = Some(cx.timing().failover_floor());
    let lost = replaced.lost(&view);
    Ok(judge_gap_within(cx, gap, floor, lost, crash_bounds(cx))?)
}

/// Whether the old master is a synchronised replica of the new one, and sends clients there.
async fn follows(cx: &Context, shard: &Shard, successor: &Endpoint) -> Result<Look<()>, Stop> {
    let view = cx.look_among(vec![shard.master.clone()]).await;
    let Some(node) = view.nodes.first() else {
        return Ok(Look::NotYet(format!("{} does not answer", shard.master.name)));
    };
    let follows = matches!(&node.role, Role::Replica { master, .. } if *master == successor.address);
    if !follows || !node.linked() {
        return Ok(Look::NotYet(format!("{}: {:?}", shard.master.name, node.role)));
    }
    let key = cx.key_in(shard.slot, "ledger");
    let reply = cx
        .connect(&shard.master.address)
        .await?
        .call(&["GET", key.as_str()])
        .await?;
    Ok(match Redirect::is_moved(&reply, shard.slot, successor) {
        true => Look::Reached(()),
        false => Look::NotYet(format!("{}: GET {key} -> {reply}", shard.master.name)),
    })
}

pub(super) async fn whole_shard_lost(cx: &Context) -> Outcome {
    let outage = outage::observe(cx).await?;
    outage::refused(cx, &outage)?;
    let took = outage.recovered.clone()?;
    cx.measure("served again", took, None, Some(recovery_bound(cx)));
    Ok(outage.data.clone()?)
}

/// A master with slots: its server, its id, a slot of its own.
type Owner = (Member, NodeId, u16);

/// Every master with slots.
fn owners(view: &ClusterView) -> Vec<Owner> {
    let owner = |node: &NodeView| Some((node.member.clone(), node.myself()?.id.clone(), node.inner_slot()?));
    view.masters().filter_map(owner).collect()
}

pub(super) async fn majority_lost(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = owners(&view);
    if masters.len() < 3 {
        let reason = "with fewer than three masters there is no minority that could go on";
        return Err(Stop::Unsupported(reason.into()));
    }
    let (lost, left) = masters.split_at(masters.len() - masters.len() / 2);
    let gone: Vec<Member> = lost.iter().map(|(member, _, _)| member.clone()).collect();
    let survivors = others(&view, &gone.iter().collect::<Vec<_>>());
    let slots: Vec<u16> = masters.iter().map(|(_, _, slot)| *slot).collect();
    let probes: Vec<String> = masters.iter().map(|(_, _, slot)| cx.key_in(*slot, "probe")).collect();
    let outage = async {
        let gone = lose(cx, &gone).await?;
        let lost: Vec<_> = lost.iter().map(|(member, id, _)| (member, id)).collect();
        not_handed_over(cx, &survivors, &lost).await?;
        let bound = cx.timing().minority();
        eventually(cx, "the survivors refuse writes", bound + HICCUP, async || {
            minority(cx, &survivors, &view, left).await
        })
        .await?;
        cx.measure("refused", gone.elapsed(), None, Some(bound));
        let hold = 3 * cx.timing().node_timeout();
        let what = "the survivors refuse writes, and nobody is promoted";
        steadily(cx, what, hold, hold * 2, async || {
            minority(cx, &survivors, &view, left).await
        })
        .await
    };
    with_cleanup(outage, cx.undo_faults()).await?;
    let restored = Instant::now();
    let bound = recovery_bound(cx);
    eventually(cx, "every shard is served again", bound, async || {
        serving(cx, &slots).await
    })
    .await?;
    cx.measure("served again", restored.elapsed(), None, Some(bound));
    cx.remove_keys(&probes).await
}

/// Whether the survivors of a lost majority refuse; a mismatch when one of them is promoted.
async fn minority(cx: &Context, survivors: &[Member], before: &ClusterView, left: &[Owner]) -> Result<Look<()>, Stop> {
    let view = cx.look_among(survivors.to_vec()).await;
    let was_master = |node: &NodeView| before.of(&node.member.name).is_some_and(|old| old.role.is_master());
    let promoted = view.masters().filter(|node| !was_master(node));
    let promoted: Vec<String> = promoted.map(|node| format!("{} is a master", node.member)).collect();
    no_findings("no replica promoted without a majority of masters", &promoted)?;
    let mut missing: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
    let up = view.nodes.iter().filter(|node| node.info("cluster_state") != "fail");
    missing.extend(up.map(|node| format!("{}: cluster_state:{}", node.member, node.info("cluster_state"))));
    for (member, _, slot) in left {
        let key = cx.key_in(*slot, "probe");
        let mut connection = cx.connect(&member.address).await?;
        let reply = connection.call(&["SET", &key, "1", "EX", "60"]).await?;
        if reply.error_prefix() != Some("CLUSTERDOWN") {
            missing.push(format!("{member}: SET {key} -> {reply}"));
        }
    }
    Ok(match missing.is_empty() {
        true => Look::Reached(()),
        false => Look::NotYet(missing.join("\n")),
    })
}

pub(super) async fn master_and_foreign_replica(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let foreign = view.replicas().find(|node| {
        node.myself()
            .is_some_and(|line| line.master.as_ref() != Some(&shard.master_id))
    });
    let Some(foreign) = foreign.map(|node| node.member.clone()) else {
        return Err(Stop::Unsupported("no other shard has a replica".into()));
    };
    cx.note(format!("lost together: {}, {foreign}", shard.master));
    let survivors = others(&view, &[&shard.master, &foreign]);
    let writer = Writer::start(cx, &shard.slots()).await?;
    let fault = Instant::now();
    let (_, patience) = gap_bounds(cx);
    let failover = async {
        let gone = lose(cx, &[shard.master.clone(), foreign.clone()]).await?;
        let what = format!("a replica takes over for {}", shard.master.name);
        let replaced = eventually(cx, &what, patience, async || Ok(replaced(cx, &survivors, &shard).await)).await?;
        // To the shard that has lost a replica too.
        until_writes_come_back(cx, &survivors, &shard.slots(), (gone, patience)).await?;
        Ok(replaced)
    };
    let replaced = with_cleanup(failover, cx.undo_faults()).await;
    let record = writer.stop().await;
    let replaced = replaced?;
    let gaps = record.ledgers.iter();
    let longest = gaps.map(|ledger| ledger.longest_gap(fault, record.ended)).max();
    cx.count("ledgers with a lost write", record.lost(cx).await?.len(), "ledgers");
    no_findings(
        "every other master at its epoch of before, and every other replica still one",
        &changes(&view, &replaced),
    )?;
    let floor = Some(cx.timing().failover_floor());
    Ok(judge_gap(cx, longest.unwrap_or_default(), floor, replaced.lost(&view))?)
}

/// What has become of the survivors that have nothing to do with the failover.
fn changes(before: &ClusterView, replaced: &Replaced) -> Vec<String> {
    let mut found = Vec::new();
    let nodes = replaced.view.nodes.iter();
    for node in nodes.filter(|node| node.member != replaced.successor) {
        let old = before.of(&node.member.name);
        let of = |node: &NodeView| {
            let line = node.myself()?;
            Some((line.is_master(), line.is_master().then_some(line.config_epoch)))
        };
        let (old, new) = (old.and_then(of), of(node));
        if old != new {
            let show = |said: Option<(bool, Option<u64>)>| match said {
                Some((true, epoch)) => format!("a master at epoch {}", epoch.unwrap_or_default()),
                Some((false, _)) => "a replica".into(),
                None => "nothing of itself".into(),
            };
            found.push(format!("{}: {}, before: {}", node.member, show(new), show(old)));
        }
    }
    found
}
