//! Chapter FAIL: a master that goes away is replaced, within the protocol's time, and comes back as a replica.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, expect, no_findings, steadily};
use crate::cluster::node::Role;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::failover::{self, Shard, highest_epoch, pick_shard};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("FAIL-01"),
        title: "writes come back after a master's pod is deleted",
        requirement: "After deletion of a pod that is a master, all 16384 slots MUST be writable again within T_fo_hard.",
        source: "seed lines 61-65; Redis Cluster tutorial, section Test the failover; redis-doc#2667",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &[],
        method: "Finds a master by `ROLE`, writes to every shard all the time, and stops it as its platform does. Two outcomes are \
                 legal, and the report says which was seen: its replica was promoted with a higher epoch, or it came back in time and \
                 is the master under the same id and epoch. `cluster_state:ok` counts when it holds for T_stable on every node.",
        run: |cx| Box::pin(deleting_a_master(cx)),
    },
    Case {
        id: CaseId("FAIL-02"),
        title: "a master that stays away is replaced by its replica",
        requirement: "If a master stays away longer than the failover window, its replica MUST be promoted.",
        source: "seed line 65; Redis Cluster specification, section Replica election and promotion",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &[],
        method: "Stops a master and keeps it away; `ROLE` of its replica must become `master`, and writes to its shard must come back.",
        run: |cx| Box::pin(promotion(cx)),
    },
    Case {
        id: CaseId("FAIL-04"),
        title: "after a graceful stop the gap is that of a failover or of a handover",
        requirement: "A graceful stop MUST be followed by a failover in the protocol's time, unless the deployment hands its slots over before it.",
        source: "Redis source, prepareForShutdown; measured; redis#14559",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry",
        controls: &[],
        method: "Looks at the graceful stop of FAIL-02: the longest gap without an acknowledged write to the master's shard, and whether \
                 the deployment handed over (a gap shorter than the node-timeout). No handover is expected of Redis; the report says what was seen.",
        run: |cx| Box::pin(graceful_stop(cx)),
    },
    Case {
        id: CaseId("FAIL-08"),
        title: "a promotion raises the epoch, and the new master has the highest",
        requirement: "A promotion MUST raise `cluster_current_epoch` and give the new master the highest configuration epoch.",
        source: "Redis Cluster specification, section Configuration epoch",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_fo",
        controls: &[],
        method: "Compares `cluster_current_epoch` of every survivor before and after the promotion of FAIL-02, and the masters' epochs in \
                 every survivor's `CLUSTER NODES`.",
        run: |cx| Box::pin(new_epoch(cx)),
    },
    Case {
        id: CaseId("FAIL-09"),
        title: "the old master comes back as a replica of its successor",
        requirement: "A failed-over master MUST rejoin as a replica of the node that took its slots, with the same node id.",
        source: "Redis Cluster specification, section How nodes rejoin the cluster",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5, Seed::A2],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_sched + T_sync + 2 s",
        controls: &[],
        method: "Lets the master of FAIL-02 come back; its `ROLE` must become `slave` of the promoted node with the link `connected`, and \
                 `CLUSTER MYID` must be the old one.",
        run: |cx| Box::pin(rejoin(cx)),
    },
    Case {
        id: CaseId("FAIL-11"),
        title: "a manual failover swaps the roles and loses nothing",
        requirement: "`CLUSTER FAILOVER` on a replica MUST swap the roles without losing acknowledged writes and with a short pause.",
        source: "Redis command page CLUSTER FAILOVER",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[],
        features: &[],
        bound: "T_manual",
        controls: &[],
        method: "Writes to the shard all the time, sends `CLUSTER FAILOVER` to the replica (`+OK`), waits until the roles are swapped, \
                 reads every acknowledged write back, and swaps the roles again.",
        run: |cx| Box::pin(manual_failover(cx)),
    },
    Case {
        id: CaseId("FAIL-21"),
        title: "replicated data is there by value after a promotion",
        requirement: "After a promotion every key of the shard that was acknowledged and replicated before the failure MUST be readable.",
        source: "Redis Cluster tutorial, section Test the failover; measured",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_fo",
        controls: &[],
        method: "Writes 1000 keys and `WAIT 1` before the fault of FAIL-02, and reads each by value from the promoted node.",
        run: |cx| Box::pin(data_kept(cx)),
    },
    Case {
        id: CaseId("FAIL-28"),
        title: "deleting a replica's pod interrupts nobody",
        requirement: "Deleting a replica's pod MUST cause no outage.",
        source: "seed line 63; Redis Cluster specification, section Availability",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "no refused write, no shard silent for T_reply; back within T_shutdown + T_sched + T_sync",
        controls: &[],
        method: "Writes to every shard all the time while a replica is stopped and comes back: no owner may refuse a write, no shard \
                 may be silent while others are served, and every other node must say `cluster_state:ok` at every look.",
        run: |cx| Box::pin(deleting_a_replica(cx)),
    },
    Case {
        id: CaseId("FAIL-30"),
        title: "masters are found by their role, on every node alike",
        requirement: "After failovers nobody MUST assume that the first pods are the masters: `ROLE`, flags and slots say which they are.",
        source: "Redis Cluster specification, section Replica election and promotion",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "T_gossip",
        controls: &["frozen", "other-password", "role-denied"],
        method: "Compares the nodes whose `ROLE` is master with those that every node's `CLUSTER NODES` flags as masters and gives slots.",
        run: |cx| Box::pin(roles_by_discovery(cx)),
    },
];

/// The longest legal gap after a graceful stop, and the one with a lost election.
fn gap_bounds(cx: &Context) -> (Duration, Duration) {
    let timing = cx.timing();
    (
        timing.shutdown() + timing.failover_hard(),
        timing.shutdown() + timing.failover_retry(),
    )
}

/// Expects a gap within the bound; with one lost election, within the longer one, and then says so. The floor is that of
/// an election: a master that comes back in time needs none.
fn judge_gap(cx: &Context, gap: Duration, floor: Option<Duration>) -> Result<(), Mismatch> {
    let (bound, with_lost_election) = gap_bounds(cx);
    cx.measure("write gap", gap, floor, Some(bound));
    if gap > bound && gap <= with_lost_election {
        cx.note("one election was lost: the gap is within the bound for that");
    }
    expect(
        gap <= with_lost_election,
        format!(
            "no longer than {:.1} s without an acknowledged write",
            with_lost_election.as_secs_f64()
        ),
        format!("{:.1} s", gap.as_secs_f64()),
    )
}

async fn deleting_a_master(cx: &Context) -> Outcome {
    let shard = pick_shard(&cx.view().await?)?;
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
    steadily(
        cx,
        "cluster_state:ok on every node that answers",
        hold,
        hold + bound,
        async || all_ok(cx).await,
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
            owner.id == shard.replica_id,
            format!("the replica {} promoted", shard.replica.name),
            format!("{} owns the slots", after.name_of(&owner.id)),
        )?;
    }
    Ok(judge_gap(cx, gap, promoted.then(|| cx.timing().failover_floor()))?)
}

/// Whether all nodes that answer agree who owns the shard, say ok, and the owner takes a write.
async fn writable_again(cx: &Context, shard: &Shard) -> Result<Look<()>, Stop> {
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

async fn all_ok(cx: &Context) -> Result<Look<()>, Stop> {
    let view = cx.look().await?;
    let bad = view.nodes.iter().find(|node| node.info("cluster_state") != "ok");
    Ok(match bad {
        None if view.nodes.len() >= cx.shape().nodes() - 1 => Look::Reached(()),
        None => Look::NotYet(format!("only {} nodes answer", view.nodes.len())),
        Some(node) => Look::NotYet(format!(
            "{}: cluster_state:{}",
            node.member.name,
            node.info("cluster_state")
        )),
    })
}

async fn promotion(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    let promoted = failover.promotion.clone()?;
    let (bound, _) = gap_bounds(cx);
    cx.note(format!(
        "{} was stopped, {} was promoted",
        failover.victim.0, failover.successor.0
    ));
    cx.measure("promotion", promoted, Some(cx.timing().failover_floor()), Some(bound));
    cx.count("acknowledged writes", failover.writes.acked(), "writes");
    cx.count("ledgers with a lost write", failover.lost.len(), "ledgers");
    Ok(judge_gap(cx, failover.write_gap(), Some(cx.timing().failover_floor()))?)
}

async fn graceful_stop(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let gap = failover.write_gap();
    if gap < cx.timing().node_timeout() {
        cx.note("the deployment handed its slots over before it stopped");
    } else {
        cx.note("no handover: the failover began when the server was gone");
    }
    Ok(judge_gap(cx, gap, None)?)
}

async fn new_epoch(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let after = highest_epoch(&failover.during);
    let before = failover.epoch_before;
    expect(
        after > before,
        format!("cluster_current_epoch above {before}"),
        after.to_string(),
    )?;
    let successor = &failover.successor.1;
    let mut findings = Vec::new();
    for node in &failover.during.nodes {
        let masters = node
            .nodes
            .iter()
            .filter(|line| line.is_master() && !line.slots.is_empty());
        let highest = masters.max_by_key(|line| line.config_epoch);
        if highest.is_none_or(|line| &line.id != successor) {
            let shown = highest.map_or("none".into(), |line| failover.during.name_of(&line.id));
            findings.push(format!(
                "{}: the master with the highest epoch is {shown}",
                node.member.name
            ));
        }
        let current: u64 = node.info("cluster_current_epoch").parse().unwrap_or(0);
        if current <= before {
            findings.push(format!("{}: cluster_current_epoch:{current}", node.member.name));
        }
    }
    no_findings(
        format!(
            "{} with the highest epoch, on every survivor",
            failover.successor.0.name
        ),
        &findings,
    )?;
    Ok(())
}

async fn rejoin(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let returned = failover.returned.clone()?;
    let bound = cx.timing().scheduling() + cx.timing().sync() + Duration::from_secs(2);
    cx.measure("back as a synchronised replica", returned, None, Some(bound));
    Ok(())
}

async fn data_kept(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let count = failover.data.clone()?;
    cx.count("keys read by value", count, "keys");
    Ok(())
}

async fn manual_failover(cx: &Context) -> Outcome {
    let shard = pick_shard(&cx.view().await?)?;
    let writer = Writer::start(cx, &[shard.slot]).await?;
    let began = Instant::now();
    let swapped = swap(cx, &shard.replica, &shard.replica_id).await;
    if let Ok(took) = &swapped {
        cx.measure("handover", *took, None, Some(cx.timing().manual_failover()));
    }
    let settled = eventually(
        cx,
        "the old master follows, as every node knows",
        cx.timing().sync(),
        async || follows(cx, &shard).await,
    )
    .await;
    let record = writer.stop().await;
    let gap = record
        .ledgers
        .first()
        .map_or(Duration::ZERO, |ledger| ledger.longest_gap(began, record.ended));
    let lost = with_cleanup(record.lost(cx), async {
        // The roles as they were: the next case finds the deployment as it was made.
        swap(cx, &shard.master, &shard.master_id).await.map(|_| ())
    });
    let lost = if swapped.is_ok() && settled.is_ok() {
        lost.await?
    } else {
        Vec::new()
    };
    swapped?;
    settled?;
    cx.measure("write gap", gap, None, Some(cx.timing().manual_failover()));
    no_findings("every acknowledged write", &lost)?;
    let bound = cx.timing().manual_failover();
    expect(
        gap <= bound,
        format!("a pause of at most {:.1} s", bound.as_secs_f64()),
        format!("{:.1} s", gap.as_secs_f64()),
    )?;
    Ok(())
}

/// Sends `CLUSTER FAILOVER` to a replica and waits until every node says that it is the master.
async fn swap(cx: &Context, replica: &crate::cluster::node::Member, id: &str) -> Result<Duration, Stop> {
    let began = Instant::now();
    let reply = cx
        .connect(&replica.address)
        .await?
        .call(&["CLUSTER", "FAILOVER"])
        .await?;
    expect(reply.is_ok(), "+OK", format!("{replica}: CLUSTER FAILOVER -> {reply}"))?;
    let what = format!("{} is the master", replica.name);
    eventually(
        cx,
        &what,
        cx.timing().manual_failover() + cx.timing().gossip(),
        async || {
            let view = cx.look().await?;
            let unaware: Vec<&str> = view
                .nodes
                .iter()
                .filter(|node| {
                    node.line(id)
                        .is_none_or(|line| !line.is_master() || line.slots.is_empty())
                })
                .map(|node| node.member.name.as_str())
                .collect();
            Ok(if unaware.is_empty() && view.silent.is_empty() {
                Look::Reached(began.elapsed())
            } else {
                Look::NotYet(format!("not yet known to {unaware:?}"))
            })
        },
    )
    .await
}

/// Whether the old master follows the new one and every node knows it. A failover that is asked for before the master
/// knows its replica is accepted and then times out: the specification wants the replica known by the majority.
async fn follows(cx: &Context, shard: &Shard) -> Result<Look<()>, Stop> {
    let view = cx.look().await?;
    let mut missing = view.not_whole(cx.shape());
    if view.of(&shard.master.name).is_none_or(|node| node.role.is_master()) {
        missing.push(format!("{} is not yet a replica", shard.master.name));
    }
    Ok(if missing.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(missing.join("\n"))
    })
}

async fn deleting_a_replica(cx: &Context) -> Outcome {
    let shard = pick_shard(&cx.view().await?)?;
    let writer = Writer::start(cx, &shard.slots()).await?;
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
    record.lost(cx).await?;
    no_findings("no interruption of writes to any shard", &interruptions?)?;
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
        Role::Replica { link, .. } if link == "connected" => Look::Reached(began.elapsed()),
        role => Look::NotYet(format!("{}: {role:?}", shard.replica.name)),
    })
}

async fn roles_by_discovery(cx: &Context) -> Outcome {
    let findings = eventually(
        cx,
        "every node names the same masters",
        cx.timing().gossip(),
        async || {
            let view = cx.view().await?;
            let mut findings = Vec::new();
            for node in &view.nodes {
                for other in &view.nodes {
                    let Some(id) = other.myself().map(|line| &line.id) else {
                        findings.push(format!("{} has no line of its own", other.member.name));
                        continue;
                    };
                    let seen = node
                        .line(id)
                        .is_some_and(|line| line.is_master() && !line.slots.is_empty());
                    if seen != other.role.is_master() {
                        let says = if seen {
                            "a master with slots"
                        } else {
                            "no master with slots"
                        };
                        findings.push(format!(
                            "{}: {} is {says}, but its ROLE is {:?}",
                            node.member.name, other.member.name, other.role
                        ));
                    }
                }
            }
            let masters: Vec<String> = view.masters().map(|node| node.member.name.clone()).collect();
            Ok(if findings.is_empty() {
                Look::Reached(masters)
            } else {
                Look::NotYet(findings.join("\n"))
            })
        },
    )
    .await?;
    cx.note(format!("masters: {}", findings.join(", ")));
    let expected = cx.shape().masters;
    expect(
        findings.len() == expected,
        format!("{expected} masters"),
        findings.join(", "),
    )?;
    Ok(())
}
