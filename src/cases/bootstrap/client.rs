//! The cases of chapter BOOT about the command-line client that makes clusters, and about nodes before they are in one.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{self, Look, eventually, expect, no_findings};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Execution, Scratch};
use crate::verdict::{Outcome, Stop};
use std::time::Duration;

pub(super) const TOO_SMALL: Case = Case {
    id: CaseId("BOOT-15"),
    title: "a cluster of fewer than three masters is not made",
    requirement: "Creation of a cluster with fewer than 3 masters MUST be refused, at least until somebody confirms it, and leave the \
                  nodes as they were.",
    source: "Redis Cluster tutorial, section Requirements to create a Redis Cluster; redis-cli source; measured on 7.0.15; valkey-cli \
             since 8.1 asks, and takes --cluster-yes for an answer",
    level: Level::Must,
    profile: Profile::Extended,
    seed: &[Seed::A6],
    impact: Impact::Apart,
    needs: &[Capability::Scratch, Capability::Exec],
    features: &[],
    bound: "T_hook",
    controls: &["create-always-agrees"],
    method: "Runs `--cluster create` over 5 new nodes with 1 replica each, with nobody to confirm anything: the exit status must not \
             be 0, the client must name the least number of 3, and every node must still know itself alone and no slot.",
    run: |cx| Box::pin(too_small(cx)),
};

pub(super) const BEFORE_SLOTS: Case = Case {
    id: CaseId("BOOT-16"),
    title: "a new node serves no key before it has slots",
    requirement: "A new node MUST say `cluster_state:fail` with no slot assigned, and refuse commands about keys.",
    source: "Redis Cluster specification, section Hash slots configuration propagation; measured on 7.0.15",
    level: Level::Must,
    profile: Profile::Core,
    seed: &[Seed::A6],
    impact: Impact::Apart,
    needs: &[Capability::Scratch],
    features: &[],
    bound: "-",
    controls: &["slot-from-the-start"],
    method: "Starts a server from the deployment's configuration beside it: `CLUSTER INFO` -> `cluster_state:fail` and \
             `cluster_slots_assigned:0`, `CLUSTER SLOTS` -> an empty list, `SET` and `GET` -> `-CLUSTERDOWN`, `PING` -> `+PONG`.",
    run: |cx| Box::pin(before_slots(cx)),
};

pub(super) const NOT_EMPTY: Case = Case {
    id: CaseId("BOOT-21"),
    title: "no cluster is made of a node that holds keys or knows other nodes",
    requirement: "The bootstrap MUST refuse a node that holds keys or knows other nodes.",
    source: "redis-cli source, clusterManagerNodeIsEmpty; measured on 7.0.15",
    level: Level::Must,
    profile: Profile::Extended,
    seed: &[Seed::A6],
    impact: Impact::Apart,
    needs: &[Capability::Scratch, Capability::Exec],
    features: &[],
    bound: "T_hook",
    controls: &["create-always-agrees"],
    method: "Runs `--cluster create` over 3 nodes of which one holds a key, and again when it is empty and two know each other: each \
             time the exit status must not be 0, the client must say that a node is not empty, and no node may have a slot.",
    run: |cx| Box::pin(not_empty(cx)),
};

pub(super) const CHECKED: Case = Case {
    id: CaseId("BOOT-24"),
    title: "the client's own check of the cluster passes at every node",
    requirement: "The check of the command-line client MUST pass against every node; that it does is not enough.",
    source: "Redis Cluster tutorial, section Reshard the cluster; measured on 7.0.15: it passes with a shard that has no replica",
    level: Level::Must,
    profile: Profile::Core,
    seed: &[Seed::A1, Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Exec],
    features: &[],
    bound: "T_hook",
    controls: &[
        "frozen",
        "master-down",
        "open-node",
        "open-slot",
        "other-password",
        "slot-deleted",
    ],
    method: "Runs `--cluster check` beside every node, against that node: exit status 0, `[OK] All nodes agree about slots \
             configuration.` and `[OK] All 16384 slots covered.` What the check does not look at, BOOT-05 and the chapters SLOT and \
             REPL do.",
    run: |cx| Box::pin(checked(cx)),
};

fn new_servers(cx: &Context, count: usize) -> Scratch {
    Scratch {
        shape: Shape {
            masters: 0,
            replicas_per_master: 0,
        },
        spare: count,
        ..cx.scratch_like_the_deployment()
    }
}

/// What the client printed, on one line, from its end.
fn end_of(outcome: &Execution) -> String {
    let printed = format!("{} {}", outcome.stdout, outcome.stderr);
    let line = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = line.chars().count().saturating_sub(300);
    line.chars().skip(skipped).collect()
}

fn printed(outcome: &Execution, text: &str) -> bool {
    outcome.stdout.contains(text) || outcome.stderr.contains(text)
}

/// Has the client make a cluster of the nodes; `confirmed` answers its questions with yes, where else nobody answers.
async fn create(beside: &Context, members: &[Member], replicas: &str, confirmed: bool) -> Result<Execution, Stop> {
    let Some(first) = members.first() else {
        return Err(anyhow::anyhow!("there is no server to make a cluster of").into());
    };
    let addresses: Vec<String> = members.iter().map(|member| member.address.to_string()).collect();
    let mut arguments = vec!["--cluster", "create"];
    arguments.extend(addresses.iter().map(String::as_str));
    arguments.extend(["--cluster-replicas", replicas]);
    if confirmed {
        arguments.push("--cluster-yes");
    }
    beside.client_program(first, &arguments, beside.timing().hook()).await
}

/// What is wrong with an outcome that should be a refusal in these words.
fn not_refused(outcome: &Execution, words: &str, what: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if outcome.status == 0 {
        findings.push(format!("{what}: exit status 0: {}", end_of(outcome)));
    }
    if !printed(outcome, words) {
        findings.push(format!(
            "{what}: the client does not say \"{words}\": {}",
            end_of(outcome)
        ));
    }
    findings
}

/// A field of `CLUSTER INFO` on each node.
async fn fields(beside: &Context, members: &[Member], field: &str) -> Result<Vec<String>, Stop> {
    let mut values = Vec::new();
    for member in members {
        let mut connection = beside.connect(&member.address).await?;
        let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
        let prefix = format!("{field}:");
        let value = info.lines().find_map(|line| line.trim().strip_prefix(&prefix));
        values.push(value.unwrap_or_default().to_owned());
    }
    Ok(values)
}

async fn too_small(cx: &Context) -> Outcome {
    cx.with_scratch(&new_servers(cx, 5), async |beside| {
        let members = beside.members().await?;
        let outcome = create(beside, &members, "1", false).await?;
        let mut findings = not_refused(&outcome, "requires at least 3", "--cluster create over 5 nodes");
        for (field, expected) in [("cluster_known_nodes", "1"), ("cluster_slots_assigned", "0")] {
            let values = fields(beside, &members, field).await?;
            let changed = members.iter().zip(values).filter(|(_, value)| value != expected);
            findings.extend(changed.map(|(member, value)| format!("{member}: {field}:{value} afterwards")));
        }
        no_findings(
            "a refusal that names 3 masters, and 5 nodes as new as before",
            &findings,
        )?;
        Ok(())
    })
    .await
}

async fn before_slots(cx: &Context) -> Outcome {
    cx.with_scratch(&new_servers(cx, 1), async |beside| {
        let members = beside.members().await?;
        expect(members.len() == 1, "one server", members.len().to_string())?;
        let mut findings = Vec::new();
        for (field, expected) in [("cluster_state", "fail"), ("cluster_slots_assigned", "0")] {
            let values = fields(beside, &members, field).await?;
            findings.extend(
                values
                    .iter()
                    .filter(|value| *value != expected)
                    .map(|value| format!("{field}:{value}")),
            );
        }
        for member in &members {
            let mut connection = beside.connect(&member.address).await?;
            let key = beside.key("early");
            for command in [["SET", &key, "1"].as_slice(), &["GET", &key]] {
                let reply = connection.call(command).await?;
                let refused = reply.error_prefix() == Some("CLUSTERDOWN");
                findings.extend(check::unless(refused, member, command[0], &reply));
            }
            let reply = connection.call(&["PING"]).await?;
            let answered = reply == Reply::Simple("PONG".into());
            findings.extend(check::unless(answered, member, "PING", &reply));
            let reply = connection.call(&["CLUSTER", "SLOTS"]).await?;
            let none = reply.array().is_some_and(<[Reply]>::is_empty);
            findings.extend(check::unless(none, member, "CLUSTER SLOTS", &reply));
        }
        no_findings("a node that is up, has no slot and serves no key", &findings)?;
        Ok(())
    })
    .await
}

async fn not_empty(cx: &Context) -> Outcome {
    let mut scratch = new_servers(cx, 3);
    // A single slot is enough then to take a key.
    let coverage = Alteration::everywhere("cluster-require-full-coverage no");
    scratch.alterations.push(coverage);
    cx.with_scratch(&scratch, async |beside| {
        let members = beside.members().await?;
        let [holder, one, other] = members.as_slice() else {
            return Err(anyhow::anyhow!("{} servers instead of 3", members.len()).into());
        };
        let words = "is not empty";
        let mut findings = Vec::new();
        if hold_a_key(beside, holder).await? {
            let outcome = create(beside, &members, "0", true).await?;
            findings.extend(not_refused(&outcome, words, "a node holds a key"));
            let mut connection = beside.connect(&holder.address).await?;
            let kept = connection.call(&["DBSIZE"]).await?;
            findings.extend(check::unless(kept.integer() == Some(1), holder, "DBSIZE", &kept));
            connection.ask(&["FLUSHALL"]).await?;
        } else {
            beside
                .note("a node that gives up a slot deletes its keys here: only nodes that know each other were tried");
        }
        let port = other.address.port.to_string();
        let meet = ["CLUSTER", "MEET", other.address.host.as_str(), port.as_str()];
        beside.connect(&one.address).await?.ask(&meet).await?;
        eventually(
            beside,
            "two nodes know each other",
            beside.timing().gossip() + beside.timing().fail(),
            async || {
                let known = fields(beside, &[one.clone(), other.clone()], "cluster_known_nodes").await?;
                if known.first().is_some_and(|known| known == "1") {
                    // A busy machine can keep two nodes from meeting in the time that they give themselves.
                    beside.connect(&one.address).await?.ask(&meet).await?;
                }
                Ok(if known == ["2", "2"] {
                    Look::Reached(())
                } else {
                    Look::NotYet(format!("they know {} nodes", known.join(" and ")))
                })
            },
        )
        .await?;
        let outcome = create(beside, &members, "0", true).await?;
        findings.extend(not_refused(&outcome, words, "two nodes know each other"));
        let assigned = fields(beside, &members, "cluster_slots_assigned").await?;
        let changed = members.iter().zip(assigned).filter(|(_, count)| count != "0");
        findings.extend(changed.map(|(member, count)| format!("{member}: cluster_slots_assigned:{count} afterwards")));
        no_findings(
            "two refusals that say which node is not empty, and no slot assigned",
            &findings,
        )?;
        Ok(())
    })
    .await
}

/// Leaves a key on a node that is in no cluster: it takes one while it has the key's slot. Whether the key is still there
/// when the slot has been given up.
async fn hold_a_key(beside: &Context, member: &Member) -> Result<bool, Stop> {
    let mut connection = beside.connect(&member.address).await?;
    let key = beside.key_in(0, "left");
    connection.ask(&["CLUSTER", "ADDSLOTS", "0"]).await?;
    // A node that has just started serves none for a while.
    let bound = beside.timing().writable_delay() + Duration::from_secs(3);
    eventually(beside, "the node takes a key", bound, async || {
        let reply = beside.connect(&member.address).await?.call(&["SET", &key, "1"]).await?;
        Ok(if reply.is_ok() {
            Look::Reached(())
        } else {
            Look::NotYet(reply.to_string())
        })
    })
    .await?;
    connection.ask(&["CLUSTER", "DELSLOTS", "0"]).await?;
    let size = connection.ask(&["DBSIZE"]).await?;
    Ok(size.integer() == Some(1))
}

async fn checked(cx: &Context) -> Outcome {
    // A server that does not answer would let the client wait for ever.
    cx.view().await?;
    let limit = cx.timing().hook();
    cx.judge_every_member(
        "exit status 0, all nodes agree and all slots are covered, by the check at every node",
        async |member| {
            let address = member.address.to_string();
            let outcome = cx
                .client_program(member, &["--cluster", "check", &address], limit)
                .await?;
            let mut missing = Vec::new();
            if outcome.status != 0 {
                missing.push(format!("exit status {}", outcome.status));
            }
            for line in [
                "[OK] All nodes agree about slots configuration.",
                "[OK] All 16384 slots covered.",
            ] {
                if !printed(&outcome, line) {
                    missing.push(format!("not printed: {line}"));
                }
            }
            Ok(match missing.is_empty() {
                true => Vec::new(),
                false => vec![format!("{member}: {}: {}", missing.join(", "), end_of(&outcome))],
            })
        },
    )
    .await
}
