//! Chapter BOOT: from `apply` to a formed cluster, unattended, once, and loudly when it fails.

mod client;
pub(in crate::cases) mod copies;
mod emptied;
mod hook;
mod ids;
mod stress;
#[cfg(test)]
pub(in crate::cases) use stress::made_up;

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::cases::kubernetes;
use crate::check::{self, Look, eventually, expect, no_findings, steadily, unless};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, Pod};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("BOOT-01"),
        title: "all declared pods are ready without manual steps",
        requirement: "After `kubectl apply` the deployment MUST reach exactly the declared number of pods Running and Ready without manual steps.",
        source: "seed lines 105, 317-319; Kubernetes documentation, StatefulSets",
        level: Level::Must,
        profile: Profile::Kubernetes,
        seed: &[Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[Capability::Kubernetes],
        features: &[],
        bound: "T_deploy",
        controls: &[],
        method: "Compares the workload's declared and ready replicas with the expected number of nodes; every pod must be `Running`, `Ready`, \
                 and, where the run made the deployment, never restarted.",
        run: |cx| Box::pin(pods_ready(cx)),
    },
    Case {
        id: CaseId("BOOT-02"),
        title: "every node runs in cluster mode",
        requirement: "Every node MUST run in cluster mode.",
        source: "seed manifest line 55; Redis Cluster tutorial, section Requirements to create a Redis Cluster",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["cluster-mode-off", "frozen", "other-password"],
        method: "On every node `INFO cluster` must say `cluster_enabled:1`, and `CLUSTER INFO` must not answer with an error (`-ERR This \
                 instance has cluster support disabled`).",
        run: |cx| Box::pin(cluster_mode(cx)),
    },
    Case {
        id: CaseId("BOOT-03"),
        title: "every node says cluster_state:ok, and goes on saying it",
        requirement: "Every node MUST report `cluster_state:ok`, and keep reporting it for T_stable.",
        source: "seed line 24; Redis command page CLUSTER INFO; measured (catalogue §4.7)",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1, Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::Bus],
        bound: "T_stable within T_stable + T_fail",
        controls: &["frozen", "master-down", "other-password", "state-fail"],
        method: "Asks every node for `CLUSTER INFO` again and again; a single `ok` is a known false positive, so it counts only when all nodes \
                 say it for T_stable on end.",
        run: |cx| Box::pin(state_ok(cx)),
    },
    Case {
        id: CaseId("BOOT-04"),
        title: "every node knows every node, and the expected masters serve slots",
        requirement: "Every node MUST know exactly the declared nodes (seed: 6) and slot-serving masters (seed: 3).",
        source: "seed lines 24, 103; Redis command page CLUSTER INFO",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2, Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "T_gossip",
        controls: &["forgotten", "frozen", "other-password"],
        method: "`cluster_known_nodes` and `cluster_size` in `CLUSTER INFO` of every node.",
        run: |cx| Box::pin(node_count(cx)),
    },
    Case {
        id: CaseId("BOOT-05"),
        title: "all nodes have one view of the cluster",
        requirement: "All nodes MUST agree on every node's id, address, role, master and slots.",
        source: "Redis Cluster specification, section Configuration propagation; measured",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A1, Seed::A2, Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[Capability::Peers],
        features: &[],
        bound: "T_gossip",
        controls: &[
            "forgotten",
            "frozen",
            "leftover-line",
            "master-down",
            "other-password",
            "replica-with-slots",
            "slot-deleted",
        ],
        method: "Compares `CLUSTER NODES` of every node, without `myself`, ping times and link states; it must list as many nodes as the \
                 deployment has.",
        run: |cx| Box::pin(one_view(cx)),
    },
    Case {
        id: CaseId("BOOT-06"),
        title: "every node has an id of its own, every master an epoch of its own",
        requirement: "Node ids MUST be 40 lower-case hexadecimal digits and distinct, and masters MUST have different configuration epochs.",
        source: "Redis Cluster specification, sections Cluster node attributes and configEpoch conflicts resolution algorithm",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[Feature::MyId],
        bound: "30 s for a conflict of epochs to be resolved",
        controls: &["frozen", "id-denied", "id-given-twice", "other-password"],
        method: "`CLUSTER MYID` of every node: 40 lower-case hexadecimal digits, that of its own line in `CLUSTER NODES`, and no other \
                 node's. In every node's `CLUSTER NODES` the epochs of masters with slots must differ. \
                 Where they do not, and there is no bus over which nodes would give each other new ones, the case is unsupported.",
        run: |cx| Box::pin(ids::own_ids_and_epochs(cx)),
    },
    Case {
        id: CaseId("BOOT-07"),
        title: "the cluster forms unattended",
        requirement: "The bootstrap MUST complete without interactive input.",
        source: "seed line 24 (`echo yes`); Redis Cluster tutorial, option --cluster-yes",
        level: Level::Must,
        profile: Profile::Kubernetes,
        seed: &[Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[Capability::Kubernetes],
        features: &[],
        bound: "T_deploy",
        controls: &[],
        method: "The run applied the manifest and did nothing else: the cluster must be whole within T_sync of the last pod's readiness.",
        run: |cx| Box::pin(unattended(cx)),
    },
    Case {
        id: CaseId("BOOT-08"),
        title: "the bootstrap runs again over a living cluster and changes nothing",
        requirement: "Running the bootstrap again on a formed cluster MUST NOT change its topology, epochs or data.",
        source: "Kubernetes documentation, Container hooks (delivery at least once); seed lines 162-164; measured",
        level: Level::Must,
        profile: Profile::Kubernetes,
        seed: &[Seed::A6],
        impact: Impact::Disruptive,
        needs: &[Capability::Kubernetes, Capability::Restart],
        features: &[],
        bound: "T_sched + T_hook; unchanged for T_hook more where it is no hook",
        controls: &[],
        method: "Deletes the pod that runs the bootstrap (after its node was made a replica), then restarts its container, the one whose \
                 hook it is or its own: ids, masters, slots, epochs and a key's value must be as before. A hook has ended when its pod is \
                 Ready; any other bootstrap has T_hook more, in which nothing may change, and one in a container of its own must have run \
                 each time, by that container's log.",
        run: |cx| Box::pin(idempotent(cx)),
    },
    copies::FAILURE_IS_VISIBLE,
    stress::SLOW_PEER,
    hook::OWN_NAME,
    copies::ANY_SEARCH_PATH,
    Case {
        id: CaseId("BOOT-13"),
        title: "every node is known by the address that Kubernetes assigned",
        requirement: "The bootstrap MUST use the address that Kubernetes assigned (`status.podIP`), whatever other addresses a pod has.",
        source: "seed line 20; measured",
        level: Level::Must,
        profile: Profile::Kubernetes,
        seed: &[Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[Capability::Kubernetes],
        features: &[],
        bound: "-",
        controls: &["manifest:address-of-an-interface"],
        method: "Applies the rules of `lint` for this row to the live objects, where they can be looked at. Then, in every node's `CLUSTER \
                 NODES`, the pod that runs the bootstrap, and every other, must stand with its `status.podIP`.",
        run: |cx| Box::pin(assigned_addresses(cx)),
    },
    copies::NEVER_HANGS,
    client::TOO_SMALL,
    client::BEFORE_SLOTS,
    Case {
        id: CaseId("BOOT-17"),
        title: "clients are shown every shard's replicas, in step with their masters",
        requirement: "Replicas MUST appear in CLUSTER SLOTS, and as online in CLUSTER SHARDS, within T_sync of the bootstrap.",
        source: "Redis source, cluster.c, isReplicaAvailable (7.0); measured on 7.0.15",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A2, Seed::A6],
        impact: Impact::ReadOnly,
        needs: &[Capability::Replicas],
        features: &[],
        bound: "T_sync + T_gossip",
        controls: &[
            "forgotten",
            "frozen",
            "links-down",
            "other-password",
            "replicas-loading",
            "slots-cut-short",
            "uneven-replicas",
        ],
        method: "On every node each range of `CLUSTER SLOTS` must name its master and as many replicas as a master is meant to have, the \
                 ranges together every replica there is; where `CLUSTER SHARDS` is known, every node in it must be `online`.",
        run: |cx| Box::pin(replicas_listed(cx)),
    },
    stress::ANY_IDENTITY,
    stress::PARALLEL,
    copies::WRONG_PASSWORD,
    client::NOT_EMPTY,
    emptied::LEFT_ALONE,
    hook::ENDS_SOON,
    client::CHECKED,
];

async fn cluster_mode(cx: &Context) -> Outcome {
    cx.judge_every_node(
        "INFO cluster -> cluster_enabled:1, and CLUSTER INFO without an error",
        async |member, connection| {
            let mut findings = Vec::new();
            let info = connection.call(&["INFO", "cluster"]).await?;
            let enabled = info
                .text()
                .is_some_and(|text| text.lines().any(|line| line.trim() == "cluster_enabled:1"));
            findings.extend(unless(enabled, member, "INFO cluster", &info));
            let info = connection.call(&["CLUSTER", "INFO"]).await?;
            findings.extend(unless(info.text().is_some(), member, "CLUSTER INFO", &info));
            Ok(findings)
        },
    )
    .await
}

async fn replicas_listed(cx: &Context) -> Outcome {
    let shape = cx.shape();
    // A replica counts as in step once its offset is not 0, which on a cluster that nobody writes to takes until the
    // master's next ping. A WAIT for more replicas than there are has the master ask all of them at once.
    let more = (shape.replicas_per_master + 1).to_string();
    for master in cx.view().await?.masters() {
        let mut connection = cx.connect(&master.member.address).await?;
        connection.call(&["WAIT", &more, "100"]).await?;
    }
    let what = "every replica in CLUSTER SLOTS, and online in CLUSTER SHARDS, on every node";
    eventually(cx, what, cx.timing().sync() + cx.timing().gossip(), async || {
        let view = cx.view().await?;
        let mut findings = Vec::new();
        for node in &view.nodes {
            let name = &node.member.name;
            let mut listed = BTreeSet::new();
            for entry in &node.slots {
                let replicas = entry.nodes.len().saturating_sub(1);
                if replicas != shape.replicas_per_master {
                    findings.push(format!(
                        "{name}: CLUSTER SLOTS lists {replicas} replicas for {}",
                        entry.range
                    ));
                }
                listed.extend(entry.nodes.iter().skip(1).map(|(address, _)| address));
            }
            let expected = shape.masters * shape.replicas_per_master;
            if listed.len() != expected {
                let count = listed.len();
                findings.push(format!("{name}: CLUSTER SLOTS lists {count} replicas of {expected}"));
            }
            // Servers before 7.0 know no CLUSTER SHARDS.
            for shard in node.shards.iter().flatten() {
                for other in shard.nodes.iter().filter(|other| other.health != "online") {
                    let (who, health) = (view.name_of(&other.id), &other.health);
                    findings.push(format!("{name}: CLUSTER SHARDS calls {who} {health}"));
                }
            }
        }
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}

async fn pods_ready(cx: &Context) -> Outcome {
    let deployment = cx.deployment()?;
    let nodes = cx.shape().nodes();
    let (declared, ready) = deployment.replicas().await?;
    let pods: Vec<Pod> = deployment.pods().await?;
    expect(
        usize::try_from(declared) == Ok(nodes) && declared == ready && pods.len() == nodes,
        format!("{nodes} pods declared, and as many ready"),
        format!("{declared} declared, {ready} ready, {} pods", pods.len()),
    )?;
    let ours = cx.shared().target.is_ours();
    let findings: Vec<String> = pods
        .iter()
        .filter(|pod| pod.phase != "Running" || !pod.ready || (ours && pod.restarts > 0))
        .map(|pod| {
            let trouble = pod.trouble.as_deref().unwrap_or("no reason given");
            format!(
                "{}: {}, ready {}, {} restarts: {trouble}",
                pod.name, pod.phase, pod.ready, pod.restarts
            )
        })
        .collect();
    no_findings("every pod Running, Ready and never restarted", &findings)?;
    Ok(())
}

async fn state_ok(cx: &Context) -> Outcome {
    let hold = cx.timing().stable();
    steadily(
        cx,
        "cluster_state:ok on every node",
        hold,
        hold + cx.timing().fail(),
        async || {
            let view = cx.view().await?;
            let bad: Vec<String> = view
                .nodes
                .iter()
                .filter(|node| node.info("cluster_state") != "ok")
                .map(|node| format!("{}: cluster_state:{}", node.member.name, node.info("cluster_state")))
                .collect();
            Ok(if bad.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(bad.join("\n"))
            })
        },
    )
    .await
}

async fn node_count(cx: &Context) -> Outcome {
    let shape = cx.shape();
    let expected = [("cluster_known_nodes", shape.nodes()), ("cluster_size", shape.masters)];
    let what = format!(
        "cluster_known_nodes:{} and cluster_size:{} on every node",
        shape.nodes(),
        shape.masters
    );
    eventually(cx, &what, cx.timing().gossip(), async || {
        let view = cx.view().await?;
        let mut findings = Vec::new();
        for node in &view.nodes {
            for (field, count) in expected {
                if node.info(field) != count.to_string() {
                    findings.push(format!("{}: {field}:{}", node.member.name, node.info(field)));
                }
            }
        }
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}

async fn one_view(cx: &Context) -> Outcome {
    let nodes = cx.shape().nodes();
    eventually(cx, "one view on all nodes", cx.timing().gossip(), async || {
        let view = cx.view().await?;
        let mut findings = view.disagreements();
        for node in view.nodes.iter().filter(|node| node.nodes.len() != nodes) {
            findings.push(format!(
                "{} lists {} nodes of {nodes}",
                node.member.name,
                node.nodes.len()
            ));
        }
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}

async fn unattended(cx: &Context) -> Outcome {
    if !cx.shared().target.is_ours() {
        return Err(Stop::Unsupported(
            "the deployment was there before the run, which has not seen its bootstrap".into(),
        ));
    }
    check::whole(cx, "a whole cluster, by the manifest alone", cx.timing().sync()).await
}

/// What must not change: for each id its master, its slots and its epoch (a replica shows its master's).
fn topology(view: &ClusterView) -> BTreeMap<String, String> {
    view.nodes
        .iter()
        .filter_map(|node| node.myself())
        .map(|line| {
            let slots: Vec<String> = line.slots.iter().map(ToString::to_string).collect();
            let role = line
                .master
                .as_ref()
                .map_or_else(|| "master".into(), |master| format!("replica of {master}"));
            (
                line.id.clone(),
                format!("{role}, slots {}, epoch {}", slots.join(","), line.config_epoch),
            )
        })
        .collect()
}

async fn idempotent(cx: &Context) -> Outcome {
    let deployment = cx.deployment()?;
    let pod = crate::hook::bootstrap_pod(deployment)?;
    make_a_replica(cx, &pod).await?;
    let before = cx.view().await?;
    let slot = before
        .masters()
        .find_map(|node| Some(node.myself()?.slots.first()?.first))
        .unwrap_or(0);
    let key = cx.key_in(slot, "kept");
    let owner = |view: &ClusterView| view.owner_of(slot).map(|node| node.member.address.clone());
    let no_owner = || Mismatch::new(format!("an owner of slot {slot}"), "none");
    let address = owner(&before).ok_or_else(no_owner)?;
    cx.connect(&address).await?.ask(&["SET", &key, "as it was"]).await?;
    let limit = cx.timing().scheduling() + cx.timing().hook();
    let in_hook = crate::hook::is_the_server_s(cx).await?;
    let is_apart = deployment.bootstrap_container() != Some(deployment.server_container());
    let expected = topology(&before);
    for again in ["its pod was deleted", "its container was restarted"] {
        let old = before.of(&pod).map(|node| node.member.clone()).ok_or_else(no_owner)?;
        if again == "its pod was deleted" {
            cx.inject(Fault::Restart, &old).await?;
        } else {
            let container = deployment.bootstrap_container().unwrap_or_default();
            deployment.restart_container(&pod, &container, limit).await?;
        }
        let what = format!("the cluster as before, after {again}");
        eventually(cx, &what, limit, async || unchanged(cx, &pod, &expected).await).await?;
        if is_apart {
            run_again(cx, again, limit).await?;
        }
        if !in_hook {
            // The pod is Ready without it: it does its work when it likes.
            let (hold, settling) = (cx.timing().hook(), cx.timing().fail());
            steadily(cx, &what, hold, hold + settling, async || {
                unchanged(cx, &pod, &expected).await
            })
            .await?;
        }
    }
    let after = cx.view().await?;
    no_findings("the topology as before, at the end", &changes(&after, &expected))?;
    let mut connection = cx.connect(&owner(&after).ok_or_else(no_owner)?).await?;
    let value = connection.call(&["GET", &key]).await?;
    connection.call(&["DEL", &key]).await?;
    expect(
        value.text() == Some("as it was"),
        "the key's value as before",
        value.to_string(),
    )?;
    Ok(())
}

/// Waits until the bootstrap, in a container of its own, has said something in its present run.
async fn run_again(cx: &Context, again: &str, limit: Duration) -> Outcome {
    let deployment = cx.deployment()?;
    let what = format!("a log of the bootstrap's run after {again}");
    eventually(cx, &what, limit, async || {
        Ok(match deployment.bootstrap_said().await?.trim().is_empty() {
            true => Look::NotYet("an empty log".into()),
            false => Look::Reached(()),
        })
    })
    .await
}

/// In what the nodes' topology is not what it was.
fn changes(view: &ClusterView, expected: &BTreeMap<String, String>) -> Vec<String> {
    let seen = topology(view);
    let changed = expected.iter().filter(|(id, was)| seen.get(*id) != Some(was));
    changed
        .map(|(id, was)| {
            format!(
                "{}: was {was}, is {}",
                view.name_of(id),
                seen.get(id).map_or("gone", String::as_str)
            )
        })
        .collect()
}

/// Whether the pod is ready again and every node's topology is what it was.
async fn unchanged(cx: &Context, pod: &str, expected: &BTreeMap<String, String>) -> Result<Look<()>, Stop> {
    let pods = cx.deployment()?.pods().await?;
    let Some(state) = pods.iter().find(|other| other.name == pod) else {
        return Ok(Look::NotYet(format!("{pod} does not exist")));
    };
    if !state.ready {
        return Ok(Look::NotYet(format!(
            "{pod}: {}, {}",
            state.phase,
            state.trouble.as_deref().unwrap_or("not ready")
        )));
    }
    let view = cx.look().await?;
    let missing = view.not_whole(cx.shape());
    if !missing.is_empty() {
        return Ok(Look::NotYet(missing.join("\n")));
    }
    let changed = changes(&view, expected);
    Ok(if changed.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(changed.join("\n"))
    })
}

/// Hands the pod's slots over, so that its restart is no failover: only the bootstrap could then change anything.
async fn make_a_replica(cx: &Context, pod: &str) -> Outcome {
    let view = cx.view().await?;
    let Some(node) = view.of(pod).filter(|node| node.role.is_master()) else {
        return Ok(());
    };
    let id = node.myself().map(|line| line.id.clone()).unwrap_or_default();
    if cx.shape().replicas_per_master == 0 {
        return Err(Stop::Unsupported(format!(
            "the deployment is to have no replica, to which {pod} could hand its slots before it is started again"
        )));
    }
    let Some(replica) = view.replicas_of(&id).next() else {
        return Err(Mismatch::new(format!("a replica of {pod}"), "none").into());
    };
    cx.connect(&replica.member.address)
        .await?
        .ask(&["CLUSTER", "FAILOVER"])
        .await?;
    let bound = cx.timing().manual_failover() + cx.timing().sync();
    eventually(
        cx,
        &format!("{pod} is a replica in a whole cluster"),
        bound,
        async || {
            let view = cx.look().await?;
            let mut missing = view.not_whole(cx.shape());
            if view.of(pod).is_none_or(|node| node.role.is_master()) {
                missing.push(format!("{pod} is not yet a replica"));
            }
            Ok(if missing.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(missing.join("\n"))
            })
        },
    )
    .await
}

async fn assigned_addresses(cx: &Context) -> Outcome {
    kubernetes::rules_where_seen(cx, Level::Must).await?;
    let pods = cx.deployment()?.pods().await?;
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for pod in &pods {
        let Some(address) = &pod.address else {
            findings.push(format!("{} has no podIP", pod.name));
            continue;
        };
        let id = view
            .of(&pod.name)
            .and_then(|node| node.myself())
            .map(|line| line.id.clone())
            .unwrap_or_default();
        for node in &view.nodes {
            match node.line(&id) {
                Some(line) if &line.address.host == address => {}
                Some(line) => findings.push(format!(
                    "{} knows {} as {}, its podIP is {address}",
                    node.member.name, pod.name, line.address
                )),
                None => findings.push(format!(
                    "{} does not know {} (podIP {address})",
                    node.member.name, pod.name
                )),
            }
        }
    }
    no_findings("every node known to every node by its status.podIP", &findings)?;
    Ok(())
}
