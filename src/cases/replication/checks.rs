//! The bodies of chapter REPL.

use crate::check::{self, Look, eventually};
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{Member, NodeLine, NodeView, Role, parse_fields};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Context, Fault, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;

/// Whether a line of `CLUSTER NODES` shows a node that is there.
fn is_present(line: &&NodeLine) -> bool {
    !["fail", "noaddr", "handshake"].iter().any(|flag| line.is(flag))
}

pub(super) async fn three_and_three(cx: &Context) -> Outcome {
    let (view, shape) = (cx.view().await?, cx.shape());
    let mut findings = Vec::new();
    for node in &view.nodes {
        let lines: Vec<&NodeLine> = node.nodes.iter().filter(is_present).collect();
        let masters: Vec<&&NodeLine> = lines
            .iter()
            .filter(|line| line.is_master() && !line.slots.is_empty())
            .collect();
        let replicas = lines.iter().filter(|line| line.is_replica()).count();
        if (masters.len(), replicas) != (shape.masters, shape.masters * shape.replicas_per_master) {
            let count = masters.len();
            findings.push(format!(
                "{}: CLUSTER NODES shows {count} masters with slots, {replicas} replicas",
                node.member
            ));
        }
        for master in masters {
            let followers = lines
                .iter()
                .filter(|line| line.master.as_deref() == Some(&master.id))
                .count();
            if followers != shape.replicas_per_master {
                let name = view.name_of(&master.id);
                findings.push(format!(
                    "{}: CLUSTER NODES shows {followers} replicas of {name}",
                    node.member
                ));
            }
        }
    }
    let Shape {
        masters,
        replicas_per_master,
    } = shape;
    let expected =
        format!("{masters} masters with slots and {replicas_per_master} replicas of each, on every node's account");
    Ok(check::no_findings(expected, &findings)?)
}

pub(super) async fn no_chains(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    let mut findings = Vec::new();
    for node in view.replicas() {
        let Role::Replica { master, link, .. } = &node.role else {
            continue;
        };
        if link != "connected" {
            findings.push(format!("{}: ROLE -> slave of {master}, \"{link}\"", node.member));
        }
        match view.by_address(master) {
            None => findings.push(format!(
                "{}: ROLE -> slave of {master}, where there is no server",
                node.member
            )),
            Some(at) if at.role.is_master() => {}
            Some(at) => findings.push(format!(
                "{}: ROLE -> slave of {}, itself a slave",
                node.member, at.member
            )),
        }
    }
    if view.replicas().count() != expected {
        findings.push(format!("{} nodes answer ROLE as a slave", view.replicas().count()));
    }
    Ok(check::no_findings(
        format!("{expected} nodes are slaves, each connected to a master"),
        &findings,
    )?)
}

/// What keeps the pairs from being up by `INFO replication`, seen from both ends; empty when all are.
pub(in crate::cases) fn links_not_up(view: &ClusterView, shape: Shape) -> Vec<String> {
    let mut findings: Vec<String> = view
        .silent
        .iter()
        .map(|(member, error)| format!("{}: {error}", member.name))
        .collect();
    let mut replicas = 0;
    for node in &view.nodes {
        let member = &node.member;
        match node.replication("role") {
            "slave" => {
                replicas += 1;
                if node.replication("master_link_status") != "up" {
                    findings.push(format!(
                        "{member}: master_link_status:{}",
                        node.replication("master_link_status")
                    ));
                }
            }
            "master" => {
                let (count, attached) = (node.replication("connected_slaves"), node.attached());
                let online = attached.iter().filter(|replica| replica.state == "online").count();
                if count != shape.replicas_per_master.to_string() || online != shape.replicas_per_master {
                    findings.push(format!(
                        "{member}: connected_slaves:{count}, {online} of them with state=online"
                    ));
                }
            }
            other => findings.push(format!("{member}: INFO replication -> role:{other}")),
        }
    }
    if replicas != shape.masters * shape.replicas_per_master {
        findings.push(format!("{replicas} nodes show role:slave"));
    }
    findings
}

/// Waits for at most T_sync until every pair is up, by `INFO replication` of both ends.
pub(in crate::cases) async fn links_up(cx: &Context) -> Outcome {
    eventually(
        cx,
        "every replica's link up, seen from both ends",
        cx.timing().sync(),
        async || {
            let findings = links_not_up(&cx.look().await?, cx.shape());
            Ok(if findings.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(findings.join("\n"))
            })
        },
    )
    .await
}

/// Every replica with its master, by the replica's own line of `CLUSTER NODES`, as many as there should be.
fn pairs<'a>(cx: &Context, view: &'a ClusterView) -> Result<Vec<(&'a NodeView, &'a NodeView)>, Mismatch> {
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    let pairs: Vec<_> = view
        .nodes
        .iter()
        .filter_map(|node| Some((node, view.by_id(node.myself()?.master.as_deref()?)?)))
        .collect();
    let shown: Vec<String> = pairs
        .iter()
        .map(|(replica, master)| format!("{} of {}", replica.member.name, master.member.name))
        .collect();
    let expectation = format!("{expected} replicas, each of one of the servers");
    check::expect(
        pairs.len() == expected,
        expectation,
        format!("{}: {}", shown.len(), shown.join(", ")),
    )?;
    Ok(pairs)
}

pub(super) async fn three_sources(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let mut findings = Vec::new();
    for (replica, master) in &pairs {
        let (ours, theirs) = (&replica.member, &master.member);
        let id = replica.myself().map_or("", |line| line.id.as_str());
        let master_id = master.myself().map(|line| line.id.as_str());
        let dissent = view
            .nodes
            .iter()
            .filter(|node| node.line(id).and_then(|line| line.master.as_deref()) != master_id);
        findings.extend(dissent.map(|node| {
            format!(
                "{}: CLUSTER NODES does not show {ours} as a replica of {theirs}",
                node.member
            )
        }));
        if !matches!(&replica.role, Role::Replica { master, .. } if master == &theirs.address) {
            findings.push(format!(
                "{ours}: ROLE -> {:?}, but CLUSTER NODES names {theirs}",
                replica.role
            ));
        }
        let named = (replica.replication("master_host"), replica.replication("master_port"));
        if named != (theirs.address.host.as_str(), theirs.address.port.to_string().as_str()) {
            findings.push(format!(
                "{ours}: INFO replication names master {}:{}, CLUSTER NODES {theirs}",
                named.0, named.1
            ));
        }
    }
    for node in &view.nodes {
        let of_node = pairs.iter().filter(|(_, master)| master.member == node.member);
        let mut expected: Vec<String> = of_node.map(|(replica, _)| replica.member.address.to_string()).collect();
        let mut by_role: Vec<String> = match &node.role {
            Role::Master { replicas, .. } => replicas.iter().map(|(address, _)| address.to_string()).collect(),
            Role::Replica { .. } => Vec::new(),
        };
        let mut by_info: Vec<String> = node
            .attached()
            .iter()
            .map(|replica| replica.address.to_string())
            .collect();
        for list in [&mut expected, &mut by_role, &mut by_info] {
            list.sort_unstable();
        }
        if by_role != expected || by_info != expected {
            let show = |list: &[String]| {
                if list.is_empty() {
                    "none".into()
                } else {
                    list.join(", ")
                }
            };
            let (nodes, role, info) = (show(&expected), show(&by_role), show(&by_info));
            findings.push(format!(
                "{}: replicas by CLUSTER NODES {nodes}; by ROLE {role}; by INFO {info}",
                node.member
            ));
        }
    }
    Ok(check::no_findings(
        "the same pairs from CLUSTER NODES, ROLE and INFO replication of both ends",
        &findings,
    )?)
}

/// A key in a slot of a master.
fn key_of(cx: &Context, master: &NodeView, name: &str) -> Result<(u16, String), Mismatch> {
    match master.inner_slot() {
        Some(slot) => Ok((slot, cx.key_in(slot, name))),
        None => Err(Mismatch::new(
            "a master with slots",
            format!("{} claims none", master.member),
        )),
    }
}

/// Keys in a slot of the master of each pair.
fn keys_of(cx: &Context, pairs: &[(&NodeView, &NodeView)]) -> Result<Vec<String>, Mismatch> {
    pairs
        .iter()
        .map(|(replica, master)| Ok(key_of(cx, master, &replica.member.name)?.1))
        .collect()
}

/// The number in a field of a node's `INFO replication`.
async fn offset(connection: &mut Connection, field: &str) -> Result<u64, Stop> {
    let reply = connection.ask(&["INFO", "replication"]).await?;
    let fields = parse_fields(&reply).map_err(|reason| connection.nonsense("INFO replication", reason))?;
    let number = fields.get(field).and_then(|value| value.parse().ok());
    Ok(number.ok_or_else(|| connection.nonsense("INFO replication", format!("no number {field}")))?)
}

pub(super) async fn offsets_converge(cx: &Context) -> Outcome {
    const WRITES: usize = 1000;
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let keys = keys_of(cx, &pairs)?;
    let judge = async {
        for ((replica, master), key) in pairs.iter().zip(&keys) {
            let mut writing = cx.connect(&master.member.address).await?;
            let before = offset(&mut writing, "master_repl_offset").await?;
            let values: Vec<String> = (1..=WRITES).map(|number| number.to_string()).collect();
            let writes: Vec<Vec<&str>> = values.iter().map(|value| vec!["SET", key.as_str(), value]).collect();
            let refused = writing
                .pipeline(&writes)
                .await?
                .into_iter()
                .find(|reply| !reply.is_ok());
            if let Some(reply) = refused {
                return Err(Mismatch::new("SET -> +OK", format!("{}: SET -> {reply}", master.member)).into());
            }
            let goal = offset(&mut writing, "master_repl_offset").await?;
            check::expect(
                goal > before,
                "a growing master_repl_offset",
                format!("{}: {before}, then {goal}", master.member),
            )?;
            let mut reading = cx.connect(&replica.member.address).await?;
            eventually(
                cx,
                "the replica at its master's offset",
                cx.timing().catch_up(),
                async || {
                    let reached = offset(&mut reading, "slave_repl_offset").await?;
                    let seen = format!("{}: slave_repl_offset:{reached} of {goal}", replica.member);
                    Ok(if reached >= goal {
                        Look::Reached(())
                    } else {
                        Look::NotYet(seen)
                    })
                },
            )
            .await?;
            reading.ask(&["READONLY"]).await?;
            let reply = reading.call(&["GET", key.as_str()]).await?;
            let seen = format!("{}: GET {key} -> {reply}", replica.member);
            check::expect(
                reply.text() == Some(&WRITES.to_string()),
                "the last value on the replica",
                seen,
            )?;
        }
        Ok(())
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn readonly_reads(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let keys = keys_of(cx, &pairs)?;
    let judge = async {
        for ((replica, master), key) in pairs.iter().zip(&keys) {
            let mut reading = cx.connect(&replica.member.address).await?;
            let readonly = reading.call(&["READONLY"]).await?;
            check::expect(
                readonly.is_ok(),
                "READONLY -> +OK",
                format!("{}: READONLY -> {readonly}", replica.member),
            )?;
            let set = cx
                .connect(&master.member.address)
                .await?
                .call(&["SET", key.as_str(), "read me"])
                .await?;
            check::expect(
                set.is_ok(),
                "SET -> +OK",
                format!("{}: SET {key} -> {set}", master.member),
            )?;
            eventually(cx, "the value on the replica", cx.timing().visible(), async || {
                let reply = reading.call(&["GET", key.as_str()]).await?;
                let seen = format!("{}: GET {key} -> {reply}", replica.member);
                Ok(if reply.bytes() == Some(b"read me") {
                    Look::Reached(())
                } else {
                    Look::NotYet(seen)
                })
            })
            .await?;
        }
        Ok(())
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn redirects_by_default(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for (replica, master) in pairs(cx, &view)? {
        let (slot, key) = key_of(cx, master, "read")?;
        let reply = cx
            .connect(&replica.member.address)
            .await?
            .call(&["GET", key.as_str()])
            .await?;
        let moved = Redirect::is_moved(&reply, slot, &master.member.address);
        let command = format!("GET {key} (slot {slot} of {})", master.member);
        findings.extend(check::unless(moved, &replica.member, command, &reply));
    }
    Ok(check::no_findings(
        "-MOVED <slot> <its master> from every replica",
        &findings,
    )?)
}

pub(super) async fn writes_refused(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let keys = keys_of(cx, &pairs)?;
    let judge = async {
        let mut findings = Vec::new();
        for ((replica, master), key) in pairs.iter().zip(&keys) {
            let (member, slot) = (&replica.member, key_of(cx, master, "")?.0);
            let mut connection = cx.connect(&member.address).await?;
            connection.ask(&["READONLY"]).await?;
            for command in [&["SET", key, "1"] as &[&str], &["DEL", key]] {
                let reply = connection.call(command).await?;
                let moved = Redirect::is_moved(&reply, slot, &master.member.address);
                findings.extend(check::unless(
                    moved,
                    member,
                    format!("{} {key} (slot {slot})", command[0]),
                    &reply,
                ));
            }
            let read = connection.call(&["GET", key.as_str()]).await?;
            findings.extend(check::unless(
                read == Reply::Nil,
                member,
                format!("GET {key} after them"),
                &read,
            ));
            let swap = connection.call(&["SWAPDB", "0", "0"]).await?;
            if swap
                .error()
                .is_some_and(|text| text.to_lowercase().starts_with("err unknown command"))
            {
                cx.note(format!("{member}: SWAPDB -> {swap}; no write without keys was tried"));
            } else {
                let refused = swap.error_prefix() == Some("READONLY");
                findings.extend(check::unless(refused, member, "SWAPDB 0 0", &swap));
            }
        }
        let expected =
            "SET and DEL -> -MOVED <slot> <its master>, GET -> nil, SWAPDB 0 0 -> -READONLY on every replica";
        Ok(check::no_findings(expected, &findings)?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn foreign_slots_redirected(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for (replica, master) in pairs(cx, &view)? {
        let mut connection = cx.connect(&replica.member.address).await?;
        connection.ask(&["READONLY"]).await?;
        for other in view.masters().filter(|other| other.member != master.member) {
            let (slot, key) = key_of(cx, other, "foreign")?;
            let reply = connection.call(&["GET", key.as_str()]).await?;
            let moved = Redirect::is_moved(&reply, slot, &other.member.address);
            let command = format!("GET {key} (slot {slot} of {})", other.member);
            findings.extend(check::unless(moved, &replica.member, command, &reply));
        }
    }
    Ok(check::no_findings(
        "-MOVED <slot> <its owner> for every other shard's slots, also after READONLY",
        &findings,
    )?)
}

/// Which of the nodes other than `victim` do not say `cluster_state:ok`, and which do not flag it `fail`.
fn seen_by_others(view: &ClusterView, victim: &Member, id: &str) -> (Vec<String>, Vec<String>) {
    let others = || view.nodes.iter().filter(|node| &node.member.name != &victim.name);
    // A broken way to a node says nothing about it.
    let told = |error: &LinkError| !matches!(error, LinkError::Unreachable { .. });
    let silent = view
        .silent
        .iter()
        .filter(|(member, error)| member.name != victim.name && told(error));
    let not_ok = others()
        .filter(|node| node.info("cluster_state") != "ok")
        .map(|node| format!("{}: cluster_state:{}", node.member, node.info("cluster_state")))
        .chain(silent.map(|(member, error)| format!("{}: {error}", member.name)))
        .collect();
    let unflagged = others().filter(|node| !node.line(id).is_some_and(|line| line.is("fail")));
    (
        not_ok,
        unflagged
            .map(|node| format!("{} does not flag {} as fail", node.member, victim.name))
            .collect(),
    )
}

pub(super) async fn replica_lost(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let pairs = pairs(cx, &view)?;
    let Some(((replica, _), id)) = pairs.first().and_then(|pair| Some((pair, pair.0.myself()?.id.clone()))) else {
        return Err(Mismatch::new("a replica", "there is none").into());
    };
    let slots: Vec<u16> = view.masters().filter_map(NodeView::inner_slot).collect();
    let writer = Writer::start(cx, &slots).await?;
    let bound = cx.timing().fail();
    let away = async {
        cx.inject(Fault::KeepAway, &replica.member).await?;
        let gone = std::time::Instant::now();
        let mut flagged = None;
        // The look goes on for the whole of T_fail and a little longer, so that a late change of state is seen too.
        eventually(
            cx,
            "the replica flagged `fail` by all others",
            bound * 3 / 2,
            async || {
                let (not_ok, unflagged) = seen_by_others(&cx.look().await?, &replica.member, &id);
                check::no_findings("cluster_state:ok on every other node throughout", &not_ok)?;
                if unflagged.is_empty() && flagged.is_none() {
                    flagged = Some(gone.elapsed());
                }
                let over = gone.elapsed() > bound;
                Ok(if over && flagged.is_some() {
                    Look::Reached(())
                } else {
                    Look::NotYet(unflagged.join("\n"))
                })
            },
        )
        .await?;
        let after = flagged.unwrap_or_default();
        cx.measure("flagged fail by all", after, None, Some(bound));
        Ok(check::expect(
            after <= bound,
            format!("within {bound:.1?}"),
            format!("after {after:.1?}"),
        )?)
    };
    let outcome = with_cleanup(away, cx.undo_faults()).await;
    let record = writer.stop().await;
    let lost = record.lost(cx).await;
    cx.count("writes acknowledged", record.acked(), "writes");
    outcome?;
    let findings: Vec<String> = record.failures().into_iter().chain(lost?).collect();
    Ok(check::no_findings(
        "every write acknowledged while a replica was away",
        &findings,
    )?)
}

/// The name that a server process has for its own lifetime.
async fn run_of(cx: &Context, member: &Member) -> Result<String, Stop> {
    let mut connection = cx.connect(&member.address).await?;
    let info = connection.ask_text(&["INFO", "server"]).await?;
    let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(run
        .ok_or_else(|| connection.nonsense("INFO server", "no run_id"))?
        .to_owned())
}

/// Restarts the first replica, and waits for at most `bound` until another process with its id is there and `missing`
/// finds nothing amiss any more.
async fn restart_replica(
    cx: &Context,
    bound: std::time::Duration,
    missing: impl Fn(&ClusterView, &NodeView) -> Vec<String>,
) -> Outcome {
    let view = cx.view().await?;
    let replica = pairs(cx, &view)?.first().map(|(replica, _)| *replica);
    let replica = replica.ok_or_else(|| Mismatch::new("a replica", "there is none"))?;
    let id = replica.myself().map_or("", |line| line.id.as_str());
    let run_before = run_of(cx, &replica.member).await?;
    let began = cx.inject(Fault::Restart, &replica.member).await?;
    eventually(cx, "the restarted replica back in its place", bound, async || {
        let view = cx.look().await?;
        let Some(node) = view.by_id(id) else {
            return Ok(Look::NotYet(format!("no server has the id of {}", replica.member.name)));
        };
        if run_of(cx, &node.member).await? == run_before {
            return Ok(Look::NotYet(format!("{}: still the process from before", node.member)));
        }
        let findings = missing(&view, node);
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await?;
    cx.measure("back in its place", began.elapsed(), None, Some(bound));
    Ok(())
}

/// Whether the replica's link is up, and its master lists it as online.
fn link_down(view: &ClusterView, replica: &NodeView) -> Option<String> {
    let (role, link) = (replica.replication("role"), replica.replication("master_link_status"));
    if (role, link) != ("slave", "up") {
        return Some(format!("{}: role:{role}, master_link_status:{link}", replica.member));
    }
    let master = replica.myself().and_then(|line| view.by_id(line.master.as_deref()?));
    let online = |at: &crate::cluster::node::Attached| at.address == replica.member.address && at.state == "online";
    let listed = master.is_some_and(|master| master.attached().iter().any(online));
    (!listed).then(|| format!("{}: its master does not list it with state=online", replica.member))
}

pub(super) async fn replica_returns(cx: &Context) -> Outcome {
    let bound = cx.timing().scheduling() + cx.timing().sync();
    restart_replica(cx, bound, |view, node| link_down(view, node).into_iter().collect()).await
}

pub(super) async fn protected_again(cx: &Context) -> Outcome {
    let bound = cx.timing().scheduling() + cx.timing().sync() + cx.timing().node_timeout();
    let masters = cx.shape().masters;
    restart_replica(cx, bound, |view, _| {
        let owners: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
        let count = (owners.len() != masters).then(|| format!("{} masters with slots", owners.len()));
        let unprotected = owners.iter().filter(|master| {
            let id = master.myself().map_or("", |line| line.id.as_str());
            !view.replicas_of(id).any(|replica| link_down(view, replica).is_none())
        });
        count
            .into_iter()
            .chain(unprotected.map(|master| format!("{}: no online replica", master.member)))
            .collect()
    })
    .await
}
