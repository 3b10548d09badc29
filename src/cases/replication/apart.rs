//! The bodies of chapter REPL that need servers of their own: spare replicas that move, and replicas without masterauth.

use crate::check::{self, Look, eventually, steadily};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Fault, Scratch, Secret};
use crate::joining::meet;
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::Duration;

/// The delay after which a spare replica moves: CLUSTER_SLAVE_MIGRATION_DELAY.
const MIGRATION_DELAY: Duration = Duration::from_secs(5);

/// A node's id.
fn id_of(node: &NodeView) -> String {
    node.myself().map(|line| line.id.clone()).unwrap_or_default()
}

/// Servers that keep no files and synchronise at once: nothing here is about either.
pub(in crate::cases) fn quick(cx: &Context, shape: Shape, spare: usize) -> Scratch {
    Scratch {
        shape,
        spare,
        node_timeout: cx.timing().node_timeout().min(Duration::from_secs(2)),
        alterations: ["appendonly no", "save \"\"", "repl-diskless-sync-delay 0"]
            .map(Alteration::everywhere)
            .to_vec(),
        ..cx.scratch_like_the_deployment()
    }
}

/// Makes a spare server a replica: it meets the cluster, and is told its master once it knows it.
pub(in crate::cases) async fn attach(cx: &Context, spare: &Member, master: &NodeView) -> Result<(), Stop> {
    let id = id_of(master);
    let what = format!("{} replicates {}", spare.name, master.member.name);
    meet(cx, &spare.address, &[&master.member.address], &what, async || {
        let mut connection = cx.connect(&spare.address).await?;
        let reply = connection.call(&["CLUSTER", "REPLICATE", &id]).await?;
        Ok(if reply.is_ok() {
            Look::Reached(())
        } else {
            Look::NotYet(format!("CLUSTER REPLICATE -> {reply}"))
        })
    })
    .await
}

/// Waits until every server knows each of the pairs, by its `CLUSTER NODES`.
pub(in crate::cases) async fn all_know(cx: &Context, pairs: &[(&Member, String)]) -> Result<ClusterView, Stop> {
    eventually(cx, "every server knows every pair", cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let mut missing = Vec::new();
        for (member, master) in pairs {
            let Some(id) = view.of(&member.name).map(id_of) else {
                missing.push(format!("{member} does not answer"));
                continue;
            };
            let knows = |node: &&NodeView| node.line(&id).and_then(|line| line.master.as_ref()) == Some(master);
            let unaware = view.nodes.iter().filter(|node| !knows(node));
            missing.extend(unaware.map(|node| format!("{} does not know whom {member} replicates", node.member.name)));
        }
        Ok(if missing.is_empty() {
            Look::Reached(view)
        } else {
            Look::NotYet(missing.join("\n"))
        })
    })
    .await
}

/// A cluster of 3 + 3 with a second replica of its second master, whose first master then loses its only replica.
struct Orphaned {
    /// The master without a replica.
    master: String,
    /// The replicas of the second master.
    spares: [String; 2],
}

async fn orphan(cx: &Context) -> Result<Orphaned, Stop> {
    let view = cx.look().await?;
    let members = cx.members().await?;
    let masters: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
    let (Some(first), Some(second), Some(spare)) = (masters.first(), masters.get(1), members.last()) else {
        return Err(anyhow::anyhow!("the servers beside the deployment are not 3 + 3 + 1").into());
    };
    attach(cx, spare, second).await?;
    let replica_of = |master: &NodeView| view.replicas_of(&id_of(master)).next().map(|node| node.member.clone());
    let (Some(only), Some(other)) = (replica_of(first), replica_of(second)) else {
        return Err(anyhow::anyhow!("a master beside the deployment has no replica").into());
    };
    let known = all_know(cx, &[(spare, id_of(second)), (&only, id_of(first))]).await?;
    let only_id = known.of(&only.name).map(id_of).unwrap_or_default();
    let spares = [&other, spare].map(|member| known.of(&member.name).map(id_of).unwrap_or_default());
    cx.inject(Fault::KeepAway, &only).await?;
    let what = format!("{} is flagged fail by all others", only.name);
    eventually(cx, &what, cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let failed = |node: &&NodeView| node.line(&only_id).is_some_and(|line| line.is("fail"));
        Ok(match view.nodes.iter().find(|node| !failed(node)) {
            None => Look::Reached(()),
            Some(node) => Look::NotYet(format!("not by {}", node.member.name)),
        })
    })
    .await?;
    Ok(Orphaned {
        master: id_of(first),
        spares,
    })
}

/// How long a replica may take to move, once the other's failure is known: the delay, and the node-timeout for the news.
fn migration(cx: &Context) -> Duration {
    MIGRATION_DELAY + cx.timing().gossip()
}

fn scratch_for_migration(cx: &Context, allow: &str) -> Scratch {
    let shape = Shape {
        masters: 3,
        replicas_per_master: 1,
    };
    let mut scratch = quick(cx, shape, 1);
    let lines = [
        format!("cluster-allow-replica-migration {allow}"),
        "cluster-migration-barrier 1".to_owned(),
    ];
    scratch.alterations.extend(lines.map(Alteration::everywhere));
    scratch
}

pub(super) async fn spare_moves(cx: &Context) -> Outcome {
    cx.with_scratch(&scratch_for_migration(cx, "yes"), async |cx| {
        let orphaned = orphan(cx).await?;
        let began = std::time::Instant::now();
        let bound = migration(cx) + cx.timing().sync();
        eventually(cx, "a spare replica of the orphaned master", bound, async || {
            let view = cx.look().await?;
            let moved = view.replicas_of(&orphaned.master).next();
            Ok(match moved {
                Some(replica) if replica.replication("master_link_status") == "up" => Look::Reached(()),
                Some(replica) => Look::NotYet(format!("{}: its link is not up yet", replica.member.name)),
                None => Look::NotYet("the master has none".into()),
            })
        })
        .await?;
        cx.measure(
            "the spare has moved",
            began.elapsed(),
            Some(MIGRATION_DELAY),
            Some(bound),
        );
        let view = cx.look().await?;
        let left: Vec<&String> = orphaned
            .spares
            .iter()
            .filter(|id| {
                let node = view.by_id(id);
                node.and_then(|node| node.myself()?.master.clone()) != Some(orphaned.master.clone())
            })
            .collect();
        let expected = "one replica left with the master that had two";
        Ok(check::expect(
            left.len() == 1,
            expected,
            format!("{} left", left.len()),
        )?)
    })
    .await
}

pub(super) async fn spare_stays(cx: &Context) -> Outcome {
    cx.with_scratch(&scratch_for_migration(cx, "no"), async |cx| {
        let orphaned = orphan(cx).await?;
        // With migration allowed a replica moves after the delay: twice the slack of that is enough.
        let hold = migration(cx) + cx.timing().gossip();
        steadily(
            cx,
            "no replica moves to the orphaned master",
            hold,
            hold * 2,
            async || {
                let view = cx.look().await?;
                if let Some(moved) = view.replicas_of(&orphaned.master).next() {
                    let actual = format!("{} replicates it now", moved.member);
                    return Err(Mismatch::new("no replica of the orphaned master", actual).into());
                }
                Ok(Look::Reached(()))
            },
        )
        .await
    })
    .await
}

/// Three masters with a password, and a replica of the first that has no masterauth. One is enough, and no more than the
/// machine can bear: it asks its master again and again, without a pause, as fast as both can.
pub(in crate::cases) async fn with_unauthenticated_replica<F>(cx: &Context, judge: F) -> Outcome
where
    F: AsyncFnOnce(&Context, &ClusterView) -> Outcome,
{
    let shape = Shape {
        masters: 3,
        replicas_per_master: 0,
    };
    let mut scratch = quick(cx, shape, 1);
    let made_up = || Secret::new(cx.key("password"));
    scratch.password.get_or_insert_with(made_up);
    scratch.alterations.extend([
        Alteration::of(3, "masterauth \"\""),
        Alteration::everywhere("cluster-require-full-coverage yes"),
        // With the deployment's own factor, where that is 0, a replica that never had any data may stand for election.
        Alteration::everywhere("cluster-replica-validity-factor 10"),
    ]);
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.look().await?;
        let members = cx.members().await?;
        let (Some(master), Some(spare)) = (view.nodes.first(), members.get(3)) else {
            return Err(anyhow::anyhow!("the servers beside the deployment are not 3 + 1").into());
        };
        attach(cx, spare, master).await?;
        let view = all_know(cx, &[(spare, id_of(master))]).await?;
        judge(cx, &view).await
    })
    .await
}

/// What a replica without masterauth, and its master, must show: that they are not linked, while all else is well.
fn seemingly_whole(view: &ClusterView) -> Vec<String> {
    let mut findings = Vec::new();
    for node in &view.nodes {
        let (name, state) = (&node.member.name, node.info("cluster_state"));
        if state != "ok" {
            findings.push(format!("{name}: cluster_state:{state}"));
        }
        let (field, expected) = match node.role.is_master() {
            true => ("connected_slaves", "0"),
            false => ("master_link_status", "down"),
        };
        let shown = node.replication(field);
        if shown != expected {
            findings.push(format!("{name}: {field}:{shown}"));
        }
    }
    findings
}

pub(super) async fn missing_masterauth_shows(cx: &Context) -> Outcome {
    with_unauthenticated_replica(cx, async |cx, view| {
        eventually(cx, "cluster_state:ok on every node", cx.timing().stable(), async || {
            let view = cx.look().await?;
            let bad = view.nodes.iter().find(|node| node.info("cluster_state") != "ok");
            Ok(match bad {
                None => Look::Reached(()),
                Some(node) => Look::NotYet(format!("not on {}", node.member.name)),
            })
        })
        .await?;
        let expected =
            "cluster_state:ok everywhere, master_link_status:down on replicas, connected_slaves:0 on masters";
        let hold = cx.timing().sync();
        steadily(cx, expected, hold, hold * 2, async || {
            let findings = seemingly_whole(&cx.look().await?);
            check::no_findings(expected, &findings)?;
            Ok(Look::Reached(()))
        })
        .await?;
        let replicated = |master: &&NodeView| view.replicas_of(&id_of(master)).next().is_some();
        for master in view.masters().filter(replicated) {
            let mut connection = cx.connect(&master.member.address).await?;
            let key = cx.key_in(master.inner_slot().unwrap_or_default(), "unprotected");
            connection.ask(&["SET", &key, "1"]).await?;
            let reply = connection.call(&["WAIT", "1", "500"]).await?;
            let seen = format!("{}: WAIT 1 500 -> {reply}", master.member);
            check::expect(reply.integer() == Some(0), "WAIT 1 500 -> :0", seen)?;
            let named: usize = master.slots.iter().map(|entry| entry.nodes.len() - 1).sum();
            if named > 0 {
                cx.note(format!(
                    "{}: CLUSTER SLOTS names a replica that never had its data",
                    master.member.name
                ));
            }
        }
        Ok(())
    })
    .await
}
