//! The bodies of chapter FAIL that need servers of their own: more failovers than a deployment should be put through, more
//! replicas than it has, and settings that it has not.

use super::{Lost, gap_bounds, judge_in_time};
use crate::cases::replication::apart::{quick, with_unauthenticated_replica};
use crate::check::{self, Look, eventually, expect, look_but, no_findings, steadily};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Fault, Secret};
use crate::failover::{Shard, election_lost, highest_epoch, pick_shard};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::{Duration, Instant};

pub(super) const THREE_AND_THREE: Shape = Shape {
    masters: 3,
    replicas_per_master: 1,
};

/// Waits until a node flags the one with `id` as `fail`.
pub(super) async fn flagged_by(cx: &Context, by: &Member, id: &str) -> Outcome {
    let what = format!("{} flags the stopped master as fail", by.name);
    eventually(cx, &what, cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let flagged = view.of(&by.name).and_then(|node| Some(node.line(id)?.is("fail")));
        Ok(match flagged {
            Some(true) => Look::Reached(()),
            Some(false) => Look::NotYet("not yet".into()),
            None => Look::NotYet("it does not answer, or does not know the master".into()),
        })
    })
    .await
}

pub(super) async fn illegal_failovers(cx: &Context) -> Outcome {
    let mut scratch = quick(cx, THREE_AND_THREE, 0);
    scratch
        .alterations
        .push(Alteration::of(3, "cluster-replica-no-failover yes"));
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let mut findings = refused_on_all(cx, &view).await?;
        let first = view
            .nodes
            .first()
            .and_then(|node| Some((node, node.myself()?.id.clone())));
        let (Some((master, id)), Some(replica)) = (first, view.nodes.get(3)) else {
            return Err(anyhow::anyhow!("the servers beside the deployment are not 3 + 3").into());
        };
        cx.inject(Fault::KeepAway, &master.member).await?;
        flagged_by(cx, &replica.member, &id).await?;
        let mut connection = cx.connect(&replica.member.address).await?;
        let reply = connection.call(&["CLUSTER", "FAILOVER"]).await?;
        let refused = reply.error_prefix() == Some("ERR");
        findings.extend(check::unless(
            refused,
            &replica.member,
            "CLUSTER FAILOVER, its master down",
            &reply,
        ));
        Ok(no_findings(
            "-ERR to CLUSTER FAILOVER on a master, with an unknown option, and on a replica whose master is down",
            &findings,
        )?)
    })
    .await
}

/// What the nodes answer to `CLUSTER FAILOVER` where it is illegal, and which roles it changed.
async fn refused_on_all(cx: &Context, view: &ClusterView) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for node in &view.nodes {
        let mut connection = cx.connect(&node.member.address).await?;
        let command: &[&str] = if node.role.is_master() {
            &["CLUSTER", "FAILOVER"]
        } else {
            &["CLUSTER", "FAILOVER", "BOGUS"]
        };
        let reply = connection.call(command).await?;
        let refused = reply.error_prefix() == Some("ERR");
        findings.extend(check::unless(refused, &node.member, command.join(" "), &reply));
    }
    let after = cx.view().await?;
    let changed = view.nodes.iter().filter(|node| {
        let now = after.of(&node.member.name);
        now.is_some_and(|now| now.role.is_master() != node.role.is_master())
    });
    findings.extend(changed.map(|node| format!("{} has changed its role", node.member)));
    Ok(findings)
}

/// Waits until the cluster is whole.
pub(super) async fn whole(cx: &Context) -> Outcome {
    check::whole(cx, "a whole cluster", cx.timing().returned()).await
}

/// Writes a key to a slot on its master, and waits until a replica has it.
async fn write_replicated(cx: &Context, master: &Member, slot: u16, value: &str) -> Result<String, Stop> {
    let key = cx.key_in(slot, "replicated");
    let mut connection = cx.connect(&master.address).await?;
    let set = connection.call(&["SET", &key, value]).await?;
    let wait = connection.call(&["WAIT", "1", "4000"]).await?;
    let seen = format!("{master}: SET -> {set}, WAIT 1 4000 -> {wait}");
    expect(
        set.is_ok() && wait.integer() >= Some(1),
        "SET -> +OK, WAIT 1 4000 -> :1",
        seen,
    )?;
    Ok(key)
}

/// Expects a key by value on a node.
async fn read(cx: &Context, on: &Member, key: &str, value: &str) -> Outcome {
    let reply = cx.connect(&on.address).await?.call(&["GET", key]).await?;
    let seen = format!("{on}: GET {key} -> {reply}");
    Ok(expect(reply.text() == Some(value), "the replicated value", seen)?)
}

/// A replica that says that it is a master.
struct Promoted<'a> {
    member: &'a Member,
    /// How long after its master was to stop that was seen.
    took: Duration,
    /// How long after its master had ended the look began that showed it: a slow look says nothing of the replica.
    looked: Duration,
    /// The highest epoch of any node by then.
    epoch: u64,
}

/// Stops a shard's master, and waits until one of `candidates` says that it is a master.
async fn replaced<'a>(cx: &Context, master: &Member, candidates: &'a [Member]) -> Result<Promoted<'a>, Stop> {
    let began = Instant::now();
    cx.inject(Fault::KeepAway, master).await?;
    let ended = Instant::now();
    let bound = cx.timing().shutdown() + cx.timing().failover_retry();
    let what = format!("a replica of {} is promoted", master.name);
    eventually(cx, &what, bound, async || {
        let looked = ended.elapsed();
        let view = cx.look().await?;
        let is_master = |member: &&Member| view.of(&member.name).is_some_and(|node| node.role.is_master());
        Ok(match candidates.iter().find(is_master) {
            Some(member) => Look::Reached(Promoted {
                member,
                took: began.elapsed(),
                looked,
                epoch: highest_epoch(&view),
            }),
            None => Look::NotYet("none is a master".into()),
        })
    })
    .await
}

/// The shard of a slot at present.
fn shard_of(view: &ClusterView, slot: u16) -> Result<(Member, Vec<Member>), Mismatch> {
    let owner = view
        .owner_of(slot)
        .and_then(|node| Some((node, node.myself()?.id.as_str())));
    let Some((owner, id)) = owner else {
        return Err(Mismatch::new(format!("an owner of slot {slot}"), "none"));
    };
    let replicas: Vec<Member> = view.replicas_of(id).map(|node| node.member.clone()).collect();
    expect(!replicas.is_empty(), format!("a replica of {}", owner.member), "none")?;
    Ok((owner.member.clone(), replicas))
}

pub(super) async fn one_after_another(cx: &Context) -> Outcome {
    cx.with_scratch(&quick(cx, THREE_AND_THREE, 0), async |cx| {
        let view = cx.view().await?;
        let slots: Vec<u16> = view.masters().filter_map(NodeView::inner_slot).collect();
        expect(slots.len() == 3, "3 masters with slots", slots.len().to_string())?;
        let (mut count, mut slowest) = (0, Duration::ZERO);
        for round in ["first", "second"] {
            for slot in &slots {
                let before = cx.view().await?;
                let (master, replicas) = shard_of(&before, *slot)?;
                let key = write_replicated(cx, &master, *slot, round).await?;
                let promoted = replaced(cx, &master, &replicas).await?;
                let lost = Lost::Seen(election_lost(highest_epoch(&before), promoted.epoch));
                let what = format!("a replica of {} promoted", master.name);
                judge_in_time(cx, &what, promoted.looked, lost, gap_bounds(cx))?;
                read(cx, promoted.member, &key, round).await?;
                slowest = slowest.max(promoted.took);
                cx.undo_faults().await?;
                whole(cx).await?;
                count += 1;
            }
        }
        cx.count("masters replaced", count, "failovers");
        let bound = cx.timing().shutdown() + cx.timing().failover_hard();
        cx.measure(
            "slowest promotion",
            slowest,
            Some(cx.timing().failover_floor()),
            Some(bound),
        );
        Ok(())
    })
    .await
}

pub(super) async fn best_replica(cx: &Context) -> Outcome {
    let shape = Shape {
        masters: 3,
        replicas_per_master: 2,
    };
    let mut scratch = quick(cx, shape, 0);
    // Without one, nothing keeps the replica from its data that the others do not see as its failure.
    scratch.password.get_or_insert_with(|| Secret::new(cx.key("password")));
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let Shard { master, slot, .. } = pick_shard(cx, &view).await?;
        let (_, replicas) = shard_of(&view, slot)?;
        let [best, worse] = replicas.as_slice() else {
            return Err(Mismatch::new("two replicas", format!("{}", replicas.len())).into());
        };
        let mut connection = cx.connect(&worse.address).await?;
        connection.ask(&["CONFIG", "SET", "masterauth", ""]).await?;
        connection.ask(&["CLIENT", "KILL", "TYPE", "master"]).await?;
        let mut connection = Some(connection);
        eventually(
            cx,
            "one replica is cut off its data",
            cx.timing().arrange(),
            async || {
                let info = cx.ask_kept(worse, &mut connection, &["INFO", "replication"]).await?;
                Ok(if info.text().unwrap_or_default().contains("master_link_status:down") {
                    Look::Reached(())
                } else {
                    Look::NotYet(format!("{worse}: its link is still up"))
                })
            },
        )
        .await?;
        // Known to it, the smaller offset delays its election by a second: it learns of the larger one by gossip.
        let key = write_replicated(cx, &master, slot, &"x".repeat(10_000)).await?;
        let Promoted {
            member: promoted, took, ..
        } = replaced(cx, &master, &replicas).await?;
        cx.measure("promotion", took, Some(cx.timing().failover_floor()), None);
        let seen = format!("{promoted} was, which lacks what was written last");
        expect(promoted == best, format!("{best} promoted, which has all data"), seen)?;
        read(cx, promoted, &key, &"x".repeat(10_000)).await
    })
    .await
}

/// The nodes that say another `cluster_state` than that, one line each.
pub(super) fn not_in_state(view: &ClusterView, state: &str) -> Vec<String> {
    let others = view.nodes.iter().filter(|node| node.info("cluster_state") != state);
    let told = |node: &NodeView| format!("{}: cluster_state:{}", node.member, node.info("cluster_state"));
    others.map(told).collect()
}

/// Waits until every survivor says that the cluster is down, and then expects the replicas to remain replicas for as
/// long as an election could take.
pub(super) async fn not_replaced(cx: &Context, master: &Member, replica: &Member) -> Outcome {
    cx.inject(Fault::KeepAway, master).await?;
    remains_a_replica(cx, replica).await
}

/// [`not_replaced`], once the master is stopped.
pub(super) async fn remains_a_replica(cx: &Context, replica: &Member) -> Outcome {
    let survivors = cx.members().await?.len();
    let bound = cx.timing().fail() + cx.timing().gossip();
    let is_replica = |view: &ClusterView| {
        let role = view.of(&replica.name).map(|node| node.role.is_master());
        expect(
            role != Some(true),
            format!("{replica} still a replica"),
            "it is a master",
        )
    };
    eventually(cx, "cluster_state:fail on every survivor", bound, async || {
        let (view, _) = look_but(cx, &[], survivors).await?;
        is_replica(&view)?;
        let down = view
            .nodes
            .iter()
            .filter(|node| node.info("cluster_state") == "fail")
            .count();
        Ok(if down == survivors {
            Look::Reached(())
        } else {
            Look::NotYet(format!("on {down} of {survivors}"))
        })
    })
    .await?;
    let hold = cx.timing().failover_hard();
    let what = "the master is not replaced, and every survivor says cluster_state:fail";
    steadily(cx, what, hold, hold * 2, async || {
        let (view, mut findings) = look_but(cx, &[], survivors).await?;
        is_replica(&view)?;
        findings.extend(not_in_state(&view, "fail"));
        Ok(match findings.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(findings.join("\n")),
        })
    })
    .await
}

pub(super) async fn no_failover_option(cx: &Context) -> Outcome {
    let mut scratch = quick(cx, THREE_AND_THREE, 0);
    scratch
        .alterations
        .push(Alteration::everywhere("cluster-require-full-coverage yes"));
    scratch
        .alterations
        .push(Alteration::of(3, "cluster-replica-no-failover yes"));
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let pair = view.nodes.first().zip(view.nodes.get(3));
        let Some((master, replica)) = pair else {
            return Err(anyhow::anyhow!("the servers beside the deployment are not 3 + 3").into());
        };
        let id = replica.myself().map(|line| line.id.clone()).unwrap_or_default();
        eventually(
            cx,
            "the replica is flagged nofailover by all",
            cx.timing().gossip(),
            async || {
                let view = cx.view().await?;
                let shows = |node: &&NodeView| node.line(&id).is_some_and(|line| line.is("nofailover"));
                Ok(match view.nodes.iter().find(|node| !shows(node)) {
                    None => Look::Reached(()),
                    Some(node) => Look::NotYet(format!("not by {}", node.member)),
                })
            },
        )
        .await?;
        not_replaced(cx, &master.member, &replica.member).await
    })
    .await
}

pub(super) async fn unauthenticated_replica(cx: &Context) -> Outcome {
    with_unauthenticated_replica(cx, async |cx, view| {
        let replica = view.replicas().next();
        let master = replica.and_then(|replica| view.by_id(replica.myself()?.master.as_deref()?));
        let Some((master, replica)) = master.zip(replica) else {
            return Err(anyhow::anyhow!("the servers beside the deployment are no pairs").into());
        };
        not_replaced(cx, &master.member, &replica.member).await
    })
    .await
}
