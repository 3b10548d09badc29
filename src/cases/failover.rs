//! Chapter FAIL: a master that goes away is replaced, within the protocol's time, and comes back as a replica.

mod losing;
mod swapping;

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, expect, no_findings};
use crate::context::Context;
use crate::failover::{self, highest_epoch};
use crate::verdict::{Mismatch, Outcome};
use std::time::Duration;

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
        run: |cx| Box::pin(losing::deleting_a_master(cx)),
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
        run: |cx| Box::pin(swapping::manual_failover(cx)),
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
        bound: "no failed write (through an API server: none refused, no shard silent for T_reply); back within T_shutdown + T_sched + T_sync",
        controls: &[],
        method: "Writes to every shard all the time while a replica is stopped and comes back: no owner may refuse a write, no shard \
                 may be silent while others are served, and every other node must say `cluster_state:ok` at every look.",
        run: |cx| Box::pin(losing::deleting_a_replica(cx)),
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
