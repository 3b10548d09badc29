//! Chapter OPS: the deployment over its life.

mod backup;
mod diagnosis;
mod platform;
mod rollout;
mod scaling;
mod upgrade;

use super::failover::swapping::swap_in_time;
use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check::{self, expect, no_findings};
use crate::context::{Context, with_cleanup};
use crate::crash;
use crate::failover::until_votes;
use crate::rolling;
use crate::settle;
use crate::soak;
use crate::verdict::{Mismatch, Outcome};
use crate::workload::Record;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("OPS-01"),
        title: "a rolling restart under load loses nothing and ends with a whole cluster",
        requirement: "A rolling restart under load MUST lose no acknowledged write and end with a whole cluster.",
        source: "Redis Cluster tutorial, section Upgrade nodes in a Redis Cluster; measured on 7.0.15 (nothing lost in five variants)",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_sched + T_sync + 2·NT for each node",
        controls: &["nothing-persisted"],
        method: "Writes to every shard all the time and restarts each node as its platform does, the last first, each when the cluster is \
                 whole again: one view, `cluster_state:ok` and every link up on all nodes. At the end every acknowledged write is read back.",
        run: |cx| Box::pin(rolling_restart_loses_nothing(cx)),
    },
    Case {
        id: CaseId("OPS-02"),
        title: "no shard is without writes for longer than a failover in a rolling restart",
        requirement: "In a rolling restart no shard MUST be without acknowledged writes for longer than one failover takes.",
        source: "Redis Cluster tutorial, section Upgrade nodes in a Redis Cluster; measured on 7.0.15: no gap above 0.5 s with a handover \
                 before each stop, 3 s to 14 s without",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Restart],
        features: &[],
        bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry; 1 s is reached only by handing over before a stop",
        controls: &["late-return"],
        method: "Looks at the writes during the restart of OPS-01: the longest time without an acknowledged write, shard by shard. The \
                 report says each, and whether they show that the deployment hands its slots over before it stops a master.",
        run: |cx| Box::pin(rolling_restart_gaps(cx)),
    },
    rollout::ONE_AT_A_TIME,
    upgrade::UPGRADED,
    scaling::SCALED_OUT,
    platform::SCALED_IN,
    scaling::MEMBERS_ONLY,
    platform::ALL_GONE,
    platform::APPLIED_AGAIN,
    Case {
        id: CaseId("OPS-10"),
        title: "masters can be moved away and back without errors",
        requirement: "It SHOULD be possible to move every master to its replica and back by CLUSTER FAILOVER without errors.",
        source: "Redis Cluster tutorial, section Manual failover; Redis command page CLUSTER FAILOVER",
        level: Level::Should,
        profile: Profile::Extended,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Replicas],
        features: &[Feature::ManualFailover],
        bound: "4·NT + T_manual + T_gossip for each move, T_sync + T_stable until the cluster is whole",
        controls: &["failover-refused"],
        method: "Sends `CLUSTER FAILOVER` to one replica of every shard in turn (`+OK`, and every node must say that it is the master; asked \
                 again while an election from before is in the way, since how long it takes is FAIL-11's matter), waits for a whole cluster, and does the same with the old masters: the layout must be that of the beginning.",
        run: |cx| Box::pin(layout_restored(cx)),
    },
    Case {
        id: CaseId("OPS-11"),
        title: "a server that is killed and started in place is the same node again",
        requirement: "A container that is started again in place MUST come back as the same node at the same address, into a whole cluster.",
        source: "Kubernetes documentation, Pod lifecycle, section Container restarts; Redis Cluster specification, section Cluster nodes \
                 attributes",
        level: Level::Must,
        profile: Profile::Chaos,
        seed: &[Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::Crash, Capability::Replicas],
        features: &[],
        bound: "T_sched + T_sync + 2·NT",
        controls: &["restarted-elsewhere"],
        method: "Kills a master's server under writes and lets its platform start it again in its place. Every server must then have the \
                 address and the id of before, and the cluster be whole: one view, `cluster_state:ok` and every link up.",
        run: |cx| Box::pin(restarted_in_place(cx)),
    },
    diagnosis::REACHABLE,
    Case {
        id: CaseId("OPS-13"),
        title: "a long time under load brings no error, no change of role, no restart",
        requirement: "A long time of mixed load without faults MUST give no errors, no changes of role and no restarts.",
        source: "rule of the suite: whatever a fault is blamed for must not happen without one",
        level: Level::Must,
        profile: Profile::Extended,
        seed: &[],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "T_soak without anything, T_reply for one shard's writes",
        controls: &[
            "epoch-falls",
            "frozen",
            "hang-up",
            "master-down",
            "other-password",
            "some-writes-refused",
            "some-writes-unanswered",
            "writes-in-circles",
        ],
        method: "Writes to every shard and reads it (`LRANGE`, `GET`) for T_soak (60 s; `--timing T_soak=600` for ten minutes) while each \
                 node rewrites its append-only file and takes snapshots where it keeps them, and looks at all nodes all the time: no \
                 owner may refuse a write or a read, nor, where the way to the servers is direct, end a connection or send nonsense in \
                 place of a reply. One that is only late is no error, unless a shard has had no acknowledged write for T_reply while \
                 others had. Every acknowledged write must be there at the end, roles, epochs and processes must be those of the \
                 beginning.",
        run: |cx| Box::pin(soak_without_incident(cx)),
    },
    backup::RESTORED,
    platform::WITHOUT_API,
    Case {
        id: CaseId("OPS-16"),
        title: "the deployment is whole again after every disruptive case",
        requirement: "Every disruption MUST be followed by a whole cluster before the next: one view, every slot, every replica linked.",
        source: "rule of the suite; catalogue OPS-16, BOOT-03, BOOT-04, REPL-01, REPL-03, SLOT-03",
        level: Level::Must,
        profile: Profile::Core,
        seed: &Seed::ALL,
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "T_sched + T_sync + 2·NT",
        controls: &[
            "identity-lost",
            "ids-lost-when-applied-again",
            "killed-without-nodes-conf",
            "left-alone-at-new-addresses",
            "left-alone-at-swapped-addresses",
            "leftover-line",
            "old-address-announced",
            "epoch-lost",
            "forgotten",
            "frozen",
            "links-down",
            "master-down",
            "masterauth-forgotten",
            "nodes-conf-lost",
            "open-slot",
            "other-password",
            "replica-with-slots",
            "slot-deleted",
            "state-fail",
            "uneven-replicas",
            "volume-lost",
        ],
        method: "After each disruptive case the runner waits until every node answers, says `cluster_state:ok`, agrees with all others, and \
             every replica's link is up. This case comes last: it fails when one of these waits did, and looks once more itself.",
        run: |cx| Box::pin(whole_after_all(cx)),
    },
];

async fn restarted_in_place(cx: &Context) -> Outcome {
    let crash = crash::observe(cx).await?;
    let (victim, _, _) = &crash.victim;
    cx.note(format!("killed: {victim}"));
    let mut findings = Vec::new();
    for (name, (address, id)) in &crash.before {
        match crash.after.get(name) {
            Some((now, is)) if now == address && is == id => {}
            Some((now, is)) => findings.push(format!("{name}: {is} at {now}, before: {id} at {address}")),
            None => findings.push(format!("{name}: no answer, before: {id} at {address}")),
        }
    }
    no_findings("every server with its id at its address of before", &findings)?;
    let bound = cx.timing().returned();
    match &crash.whole {
        Ok(took) => cx.measure("whole again", *took, None, Some(bound)),
        Err(missing) => return Err(Mismatch::new("a whole cluster after the crash", missing.clone()).into()),
    }
    Ok(())
}

async fn rolling_restart_loses_nothing(cx: &Context) -> Outcome {
    let rolling = rolling::observe(cx).await?;
    let bound = cx.timing().returned();
    for (member, whole) in &rolling.restarts {
        if let Ok(took) = whole {
            cx.measure(
                &format!("whole after the restart of {}", member.name),
                *took,
                None,
                Some(bound),
            );
        }
    }
    cx.measure("the whole rolling restart", rolling.lasted, None, None);
    cx.count("acknowledged writes", rolling.writes.acked(), "writes");
    let missing: Vec<String> = rolling
        .restarts
        .iter()
        .filter_map(|(member, whole)| whole.as_ref().err().map(|missing| format!("{member}: {missing}")))
        .collect();
    no_findings("a whole cluster after the restart of every node", &missing)?;
    expect(
        rolling.restarts.len() == rolling.nodes,
        format!("{} nodes restarted", rolling.nodes),
        rolling.restarts.len().to_string(),
    )?;
    no_findings("every acknowledged write", &rolling.lost)?;
    Ok(())
}

/// A gap below this shows a handover before the stop: a restart alone takes longer.
const HANDED_OVER: Duration = Duration::from_secs(1);

async fn rolling_restart_gaps(cx: &Context) -> Outcome {
    let rolling = rolling::observe(cx).await?;
    judge_gaps(cx, &rolling.writes)
}

/// Measures the longest time that each shard was without an acknowledged write, and expects it to be one failover at most.
fn judge_gaps(cx: &Context, writes: &Record) -> Outcome {
    let timing = cx.timing();
    let bound = timing.shutdown() + timing.failover_hard();
    let with_lost_election = timing.shutdown() + timing.failover_retry();
    let mut findings = Vec::new();
    let mut longest = Duration::ZERO;
    for ledger in &writes.ledgers {
        let gap = ledger.longest_gap(writes.began, writes.ended);
        longest = longest.max(gap);
        cx.measure(
            &format!("longest gap of the shard of slot {}", ledger.slot),
            gap,
            None,
            Some(bound),
        );
        if gap > with_lost_election {
            findings.push(format!("the shard of slot {}: {:.1} s", ledger.slot, gap.as_secs_f64()));
        } else if gap > bound {
            cx.note("one election was lost: the gap is within the bound for that");
        }
    }
    cx.note(if longest < HANDED_OVER {
        "the deployment hands its slots over before it stops a master"
    } else if longest < timing.node_timeout() {
        "no shard waited for an election: its slots were handed over, or its master was back before"
    } else {
        "the deployment does not hand its slots over before it stops a master"
    });
    expect(
        writes.ledgers.len() == cx.shape().masters,
        format!("{} shards written to", cx.shape().masters),
        writes.ledgers.len().to_string(),
    )?;
    let limit = with_lost_election.as_secs_f64();
    no_findings(
        format!("no shard without an acknowledged write for longer than {limit:.1} s"),
        &findings,
    )?;
    Ok(())
}

async fn layout_restored(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut pairs = Vec::new();
    for master in view.masters() {
        let line = master.myself();
        let id = line.map(|line| line.id.clone()).unwrap_or_default();
        let replica = view.replicas_of(&id).find_map(|node| {
            let line = node.myself()?;
            Some((node.member.clone(), line.id.clone()))
        });
        if let Some(replica) = replica {
            pairs.push(((master.member.clone(), id), replica));
        }
    }
    let shards = cx.shape().masters;
    expect(
        pairs.len() == shards,
        format!("{shards} masters with a replica"),
        pairs.len().to_string(),
    )?;
    let began = Instant::now();
    let moved = Mutex::new(Vec::new());
    let away = async {
        for (master, (replica, id)) in &pairs {
            // Moved back also when it is not known whether it was moved.
            moved.lock().await.push(master.clone());
            until_votes(cx, &master.0, &[&master.1, id]).await;
            swap_in_time(cx, replica, id).await?;
        }
        whole_again(cx).await
    };
    let back = async {
        for (master, id) in moved.lock().await.iter() {
            let seen = cx.look().await?;
            if seen.of(&master.name).is_none_or(|node| !node.role.is_master()) {
                swap_in_time(cx, master, id).await?;
            }
        }
        whole_again(cx).await
    };
    with_cleanup(away, back).await?;
    cx.measure("all masters moved away and back", began.elapsed(), None, None);
    let after = cx.view().await?;
    let findings: Vec<String> = pairs
        .iter()
        .filter(|((master, _), _)| after.of(&master.name).is_none_or(|node| !node.role.is_master()))
        .map(|((master, _), _)| format!("{master} is not a master again"))
        .collect();
    no_findings("the masters of the beginning", &findings)?;
    Ok(())
}

async fn whole_again(cx: &Context) -> Outcome {
    let bound = cx.timing().sync() + cx.timing().stable();
    check::whole(cx, "a whole cluster after the moves", bound).await
}

async fn soak_without_incident(cx: &Context) -> Outcome {
    let soak = soak::observe(cx).await?;
    cx.measure("watched under load", soak.lasted, None, None);
    cx.count("acknowledged writes", soak.writes.acked(), "writes");
    cx.count("looks at all nodes", soak.looks, "looks");
    cx.count("rewrites and snapshots begun", soak.background, "times");
    cx.count("reads answered", soak.reads, "reads");
    expect(
        soak.looks > 1,
        "several looks at all nodes",
        format!("{} looks", soak.looks),
    )?;
    let seen = [
        &soak.interruptions,
        &soak.misread,
        &soak.lost,
        &soak.changes,
        &soak.restarts,
    ];
    let findings: Vec<&String> = seen.into_iter().flatten().collect();
    no_findings(
        "no write or read refused or broken off, no lost write, no change of roles or epochs, no restart",
        &findings,
    )?;
    if soak.reads == 0 {
        return Err(anyhow::anyhow!("no read reached a server: the suite's own way to the nodes was gone").into());
    }
    Ok(())
}

async fn whole_after_all(cx: &Context) -> Outcome {
    let settled = cx
        .shared()
        .settled
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let missed: Vec<String> = settled
        .iter()
        .filter_map(|(place, wait)| wait.as_ref().err().map(|missing| format!("{place}: {missing}")))
        .collect();
    no_findings("a whole cluster after every disruptive case", &missed)?;
    let bound = cx.timing().returned();
    let slowest = settled.iter().filter_map(|(_, wait)| wait.as_ref().ok()).max();
    if let Some(slowest) = slowest {
        cx.measure("slowest return to a whole cluster", *slowest, None, Some(bound));
        cx.count("disruptive cases followed by a whole cluster", settled.len(), "cases");
    }
    settle::until_whole(cx.shared(), "OPS-16: a whole cluster")
        .await
        .map_err(|missing| Mismatch::new("a whole cluster", missing))?;
    let known = cx.view().await?.nodes.len();
    expect(
        known == cx.shape().nodes(),
        format!("{} nodes", cx.shape().nodes()),
        known.to_string(),
    )?;
    Ok(())
}
