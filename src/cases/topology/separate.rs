//! Two clusters in one network, whose servers come back at each other's addresses.

use crate::check::{Look, eventually, no_findings};
use crate::cluster::formation;
use crate::cluster::node::{Member, NodeId, NodeView, Role};
use crate::cluster::slot::SLOT_COUNT;
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Scratch, Upheaval};
use crate::verdict::{Outcome, Stop};
use std::time::{Duration, Instant};

/// How often servers come back at other addresses.
const CYCLES: usize = 10;
const SHAPE: Shape = Shape {
    masters: 3,
    replicas_per_master: 1,
};

/// One of the two.
struct Cluster {
    /// Its nodes, masters first, then their replicas.
    ids: Vec<NodeId>,
    /// What every key of it says.
    value: &'static str,
}

impl Cluster {
    fn has(&self, id: &str) -> bool {
        self.ids.iter().any(|own| own == id)
    }

    /// What its own nodes say in a look at all.
    fn part_of(&self, view: &ClusterView) -> ClusterView {
        let own = |node: &&NodeView| node.myself().is_some_and(|line| self.has(&line.id));
        ClusterView {
            nodes: view.nodes.iter().filter(own).cloned().collect(),
            silent: Vec::new(),
        }
    }
}

/// A key of each third of the slots: of each shard of both clusters.
fn keys(cx: &Context) -> [String; 3] {
    [1, 3, 5].map(|sixth| cx.key_in(SLOT_COUNT / 6 * sixth, "whose"))
}

/// Makes one cluster of these servers unless they are one, and writes its keys.
async fn cluster(cx: &Context, members: &[Member], formed: bool, value: &'static str) -> Result<Cluster, Stop> {
    let mut connections = Vec::new();
    for member in members {
        connections.push(cx.connect(&member.address).await?);
    }
    if !formed {
        let formation = formation::form(members, &mut connections, SHAPE, cx.timing().deployment());
        formation.await.map_err(anyhow::Error::from)?;
    }
    let mut ids = Vec::new();
    for connection in &mut connections {
        ids.push(connection.ask_text(&["CLUSTER", "MYID"]).await?);
    }
    for (key, master) in keys(cx).iter().zip(&mut connections) {
        master.ask(&["SET", key, value]).await?;
    }
    Ok(Cluster { ids, value })
}

/// What a node knows that is none of its own cluster, or does not know that is.
fn strangers(view: &ClusterView, clusters: &[Cluster; 2]) -> Vec<String> {
    let mut findings = Vec::new();
    for node in &view.nodes {
        let own = node.myself().map_or("", |line| line.id.as_str());
        let Some(cluster) = clusters.iter().find(|cluster| cluster.has(own)) else {
            findings.push(format!("{}: has the new id {own}", node.member));
            continue;
        };
        let foreign = node.nodes.iter().filter(|line| !cluster.has(&line.id));
        findings.extend(foreign.map(|line| format!("{}: knows {} at {}", node.member, line.id, line.address)));
        let known = node.info("cluster_known_nodes");
        if known != SHAPE.nodes().to_string() {
            findings.push(format!("{}: cluster_known_nodes:{known}", node.member));
        }
    }
    findings
}

/// Stops a server of each cluster, and has both come back with each other's addresses. In the first cycles master meets
/// master and replica meets replica, later one the other.
async fn exchange(cx: &Context, clusters: &[Cluster; 2], cycle: usize) -> Outcome {
    let view = cx.look().await?;
    let count = SHAPE.nodes();
    let (one, other) = (cycle % count, (cycle + cycle / count * SHAPE.masters) % count);
    let member = |cluster: &Cluster, at: usize| {
        let node = view.by_id(&cluster.ids[at]);
        node.map(|node| node.member.clone())
            .ok_or_else(|| anyhow::anyhow!("no server has the id {}", cluster.ids[at]))
    };
    let (one, other) = (member(&clusters[0], one)?, member(&clusters[1], other)?);
    cx.upheave(&Upheaval::SwapAddresses(one, other)).await.map(drop)
}

/// What keeps a cluster from serving with all its nodes. Epochs are not compared: before it finds out that another server
/// has a node's address, a server may take that one's epoch for the node's (Redis source, cluster.c of 7.0,
/// getNodeFromLinkAndMsg; seen on 7.0.15), and keeps it.
fn unserved(part: &ClusterView) -> Vec<String> {
    let mut findings = Vec::new();
    for node in &part.nodes {
        let state = node.info("cluster_state");
        if state != "ok" {
            findings.push(format!("{}: cluster_state:{state}", node.member));
        }
        for line in &node.nodes {
            let place = part.by_id(&line.id).map(|node| &node.member.address);
            let bad = ["fail", "fail?", "noaddr", "handshake"]
                .iter()
                .any(|flag| line.is(flag));
            if bad || !line.connected || place != Some(&line.address) {
                let flags: Vec<&str> = line.flags.iter().map(String::as_str).collect();
                findings.push(format!(
                    "{}: {} at {} {}",
                    node.member,
                    line.id,
                    line.address,
                    flags.join(",")
                ));
            }
        }
        if let Role::Replica { link, .. } = &node.role
            && !node.linked()
        {
            findings.push(format!("{}: its link is {link}", node.member));
        }
    }
    findings
}

/// Waits until both serve again with all their nodes, and expects at every look that no node of one is known to the other.
async fn whole_and_apart(cx: &Context, clusters: &[Cluster; 2]) -> Result<Duration, Stop> {
    let (began, bound) = (Instant::now(), cx.timing().scheduling() + cx.timing().heal());
    let what = "both clusters serve again, each with its six nodes";
    eventually(cx, what, bound, async || {
        let view = cx.look().await?;
        let expected = "every node knows the six nodes of its own cluster and no other";
        no_findings(expected, &strangers(&view, clusters))?;
        let mut missing: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
        let parts = clusters.iter().map(|cluster| cluster.part_of(&view));
        missing.extend(parts.flat_map(|part| unserved(&part)));
        Ok(if missing.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(missing.join("\n"))
        })
    })
    .await?;
    Ok(began.elapsed())
}

/// Notes where nodes of one cluster differ, which by now can be about epochs alone.
async fn note_epochs(cx: &Context, clusters: &[Cluster; 2]) -> Outcome {
    let view = cx.look().await?;
    let parts = clusters.iter().map(|cluster| cluster.part_of(&view));
    let different: Vec<String> = parts.flat_map(|part| part.disagreements()).collect();
    if let Some(first) = different.first() {
        cx.note(format!(
            "epochs of one cluster were taken for the other's; {} views differ, the first: {first}",
            different.len()
        ));
    }
    Ok(())
}

/// Expects of every node the value of its own cluster for the key of its shard.
async fn own_values(cx: &Context, clusters: &[Cluster; 2]) -> Outcome {
    let view = cx.look().await?;
    let mut findings = Vec::new();
    for (cluster, part) in clusters.iter().map(|cluster| (cluster, cluster.part_of(&view))) {
        for node in &part.nodes {
            let mut connection = cx.connect(&node.member.address).await?;
            connection.call(&["READONLY"]).await?;
            let mut own = 0;
            for key in keys(cx) {
                let reply = connection.call(&["GET", &key]).await?;
                match reply.error_prefix() {
                    Some("MOVED") => {}
                    _ if reply.text() == Some(cluster.value) => own += 1,
                    _ => findings.push(format!(
                        "{}: GET {key} -> {reply} (written: {})",
                        node.member, cluster.value
                    )),
                }
            }
            if own != 1 {
                findings.push(format!("{}: {own} of {} keys are its own", node.member, SHAPE.masters));
            }
        }
    }
    Ok(no_findings("its own cluster's value from every node", &findings)?)
}

pub(super) async fn stay_separate(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: SHAPE,
        spare: SHAPE.nodes(),
        node_timeout: cx.timing().node_timeout().min(Duration::from_secs(2)),
        alterations: vec![Alteration::everywhere("repl-diskless-sync-delay 0")],
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |cx| {
        let members = cx.members().await?;
        let (first, second) = members.split_at(SHAPE.nodes());
        let clusters = [
            cluster(cx, first, true, "the first cluster's").await?,
            cluster(cx, second, false, "the second cluster's").await?,
        ];
        let mut longest = Duration::ZERO;
        for cycle in 0..CYCLES {
            exchange(cx, &clusters, cycle).await?;
            longest = longest.max(whole_and_apart(cx, &clusters).await?);
            own_values(cx, &clusters).await?;
        }
        note_epochs(cx, &clusters).await?;
        let bound = cx.timing().scheduling() + cx.timing().heal();
        cx.count("exchanges of addresses", CYCLES, "exchanges");
        cx.measure("longest until both were whole", longest, None, Some(bound));
        Ok(())
    })
    .await
}
