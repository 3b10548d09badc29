//! One observed outage of a whole shard, which several cases look at from their own side: a master and all its replicas
//! are lost together and kept away until the survivors have been asked, and then come back.
//!
//! It is done once in a run, by the first case that asks. What survivors do depends on `cluster-require-full-coverage`:
//! it is set to `yes` first, then to `no`, and at the end to what it was.

use crate::check::{self, Look, eventually, expect, no_findings};
use crate::cluster::node::{Endpoint, Member};
use crate::cluster::redirect::Redirect;
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, kept, pick_shard};
use crate::loss::{lose, not_handed_over};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The directive that says whether a cluster with slots that nobody serves serves the others.
const COVERAGE: &str = "cluster-require-full-coverage";

/// What was seen.
#[derive(Debug)]
pub struct Outage {
    /// The servers that were lost, the master first.
    pub stopped: Vec<Member>,
    /// How long it took, from the end of the last of them, until every survivor refused keys of every shard.
    pub refused: Result<Duration, Mismatch>,
    /// What survivors did not answer then as they should, of what is no key: `PING`, `CLUSTER NODES`, the count of slots
    /// that have failed.
    pub unserved: Vec<String>,
    /// How long it took, once coverage was not asked for any more, until the other shards were served and keys of the lost
    /// one led to its master.
    pub uncovered: Result<Duration, Mismatch>,
    /// How long it took, from the end of the fault, until every node said `cluster_state:ok` and the shard took writes.
    pub recovered: Result<Duration, Mismatch>,
    /// The key written before the outage, read after it.
    pub data: Result<(), Mismatch>,
}

/// The outage of this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observe(cx: &Context) -> Result<Arc<Outage>, Stop> {
    cx.note_observation("the outage of a shard");
    let shared = cx.shared().clone();
    let observed = shared
        .outage
        .get_or_init(|| async { Ok(Arc::new(make_happen(cx).await?)) });
    Ok(observed.await.clone()?)
}

/// Those who are left, with what they are asked about.
struct Survivors {
    members: Vec<Member>,
    shard: Shard,
    /// How many slots the lost shard has.
    size: usize,
    /// Where its master was, as redirections name it.
    lost: Endpoint,
}

/// The limit for a shard to be served again once its servers start.
pub fn recovery_bound(cx: &Context) -> Duration {
    let timing = cx.timing();
    timing.scheduling() + timing.undo() + timing.writable_delay() + Duration::from_secs(1)
}

async fn make_happen(cx: &Context) -> Result<Outage, Stop> {
    let view = cx.view().await?;
    if view.masters().count() < 3 {
        return Err(Stop::Unsupported(
            "with fewer than three masters the others are no majority".into(),
        ));
    }
    let shard = pick_shard(cx, &view).await?;
    let (stopped, survivors) = divide(&view, shard)?;
    let key = cx.key_in(survivors.shard.slot, "kept");
    let before = settings(cx, &survivors.members).await?;
    let (slots, owner) = (survivors.shard.slots(), survivors.shard.slot);
    write(cx, &survivors.shard.master, &key).await?;
    let during = async {
        set_coverage(cx, &survivors.members, &before, Some("yes")).await?;
        let master = (&survivors.shard.master, &survivors.shard.master_id);
        let gone = lose(cx, &stopped).await?;
        not_handed_over(cx, &survivors.members, &[master]).await?;
        let refused = eventually(cx, "every survivor refuses keys", cx.timing().fail(), async || {
            Ok(match still_served(cx, &survivors).await? {
                none if none.is_empty() => Look::Reached(gone.elapsed()),
                served => Look::NotYet(served.join("\n")),
            })
        });
        let refused = kept(refused.await)?;
        let unserved = unserved(cx, &survivors).await?;
        set_coverage(cx, &survivors.members, &before, Some("no")).await?;
        let uncovered = kept(uncovered(cx, &survivors).await)?;
        Ok((refused, unserved, uncovered))
    };
    let mut restored = Instant::now();
    let undo = async {
        set_coverage(cx, &survivors.members, &before, None).await?;
        restored = Instant::now();
        cx.undo_faults().await
    };
    let (refused, unserved, uncovered) = with_cleanup(during, undo).await?;
    let recovered = eventually(cx, "the lost shard is served again", recovery_bound(cx), async || {
        serving(cx, &slots).await.map(|look| match look {
            Look::Reached(()) => Look::Reached(restored.elapsed()),
            Look::NotYet(seen) => Look::NotYet(seen),
        })
    });
    let recovered = kept(recovered.await)?;
    let data = kept(read(cx, owner, &key).await)?;
    let probes = slots.iter().map(|slot| cx.key_in(*slot, "probe"));
    let keys: Vec<String> = probes.chain([key]).collect();
    if recovered.is_ok() {
        cx.remove_keys(&keys).await?;
    }
    Ok(Outage {
        stopped,
        refused,
        unserved,
        uncovered,
        recovered,
        data,
    })
}

/// The servers of the shard, the master first, and those that are left.
fn divide(view: &ClusterView, shard: Shard) -> Result<(Vec<Member>, Survivors), Mismatch> {
    let master = view
        .by_id(&shard.master_id)
        .and_then(|node| Some((node, node.myself()?)));
    let (node, line) = master.ok_or_else(|| Mismatch::new("a line of its own", shard.master.name.clone()))?;
    let mut stopped = vec![shard.master.clone()];
    stopped.extend(view.replicas_of(&shard.master_id).map(|node| node.member.clone()));
    let members = view.nodes.iter().map(|node| node.member.clone());
    let survivors = Survivors {
        members: members.filter(|member| !stopped.contains(member)).collect(),
        size: line.slot_count(),
        lost: Endpoint {
            address: line.address.clone(),
            ..view.endpoint_of(node)
        },
        shard,
    };
    Ok((stopped, survivors))
}

/// Whether each server asks for full coverage.
async fn settings(cx: &Context, members: &[Member]) -> Result<Vec<String>, Stop> {
    let mut found = Vec::new();
    for member in members {
        let value = cx.setting(member, COVERAGE).await?;
        found.push(value.ok_or_else(|| anyhow::anyhow!("{member}: CONFIG GET {COVERAGE} gives no value"))?);
    }
    Ok(found)
}

/// Sets whether the servers ask for full coverage; with no value, to what each said before.
async fn set_coverage(cx: &Context, members: &[Member], before: &[String], value: Option<&str>) -> Outcome {
    for (member, before) in members.iter().zip(before) {
        let value = value.unwrap_or(before);
        let mut connection = cx.connect(&member.address).await?;
        let reply = connection.call(&["CONFIG", "SET", COVERAGE, value]).await?;
        let seen = format!("{member}: CONFIG SET {COVERAGE} {value} -> {reply}");
        expect(reply.is_ok(), "+OK", seen)?;
    }
    Ok(())
}

/// Writes the key that must be there after the outage.
async fn write(cx: &Context, master: &Member, key: &str) -> Outcome {
    let mut connection = cx.connect(&master.address).await?;
    let set = connection.call(&["SET", key, "kept"]).await?;
    let wait = connection.call(&["WAIT", "1", "4000"]).await?;
    let seen = format!("{master}: SET -> {set}, WAIT 1 4000 -> {wait}");
    let written = set.is_ok() && wait.integer() >= Some(1);
    Ok(expect(
        written,
        "SET -> +OK, WAIT 1 4000 -> :1, before the fault",
        seen,
    )?)
}

/// Expects that key of whoever owns its slot.
async fn read(cx: &Context, slot: u16, key: &str) -> Outcome {
    let view = cx.look().await?;
    let Some(owner) = view.owner_of(slot) else {
        return Err(Mismatch::new(format!("an owner of slot {slot}"), "no node claims it").into());
    };
    let reply = cx.connect(&owner.member.address).await?.call(&["GET", key]).await?;
    let seen = format!("{}: GET {key} -> {reply}", owner.member);
    Ok(expect(
        reply.text() == Some("kept"),
        "the value written before the outage",
        seen,
    )?)
}

/// The replies of survivors about keys of every shard that are no `-CLUSTERDOWN`.
async fn still_served(cx: &Context, survivors: &Survivors) -> Result<Vec<String>, Stop> {
    let mut found = Vec::new();
    for member in &survivors.members {
        // Where the deployment lets a cluster that is down be read, only writes are refused.
        let read = cx.setting(member, "cluster-allow-reads-when-down").await?.as_deref() == Some("yes");
        let mut connection = cx.connect(&member.address).await?;
        for slot in survivors.shard.slots() {
            let key = cx.key_in(slot, "probe");
            let mut commands = vec![vec!["SET", key.as_str(), "1", "EX", "60"]];
            if !read {
                commands.push(vec!["GET", key.as_str()]);
            }
            for (command, reply) in commands.iter().zip(connection.pipeline(&commands).await?) {
                let refused = reply.error_prefix() == Some("CLUSTERDOWN");
                found.extend(check::unless(refused, member, command[..2].join(" "), &reply));
            }
        }
    }
    Ok(found)
}

/// What survivors do not answer as they should, though the cluster is down.
async fn unserved(cx: &Context, survivors: &Survivors) -> Result<Vec<String>, Stop> {
    let mut found = Vec::new();
    for member in &survivors.members {
        let mut connection = cx.connect(&member.address).await?;
        let commands = [vec!["PING"], vec!["CLUSTER", "NODES"]];
        let replies = connection.pipeline(&commands).await?;
        found.extend(check::unless(
            replies[0].text() == Some("PONG"),
            member,
            "PING",
            &replies[0],
        ));
        let listed = replies[1]
            .text()
            .is_some_and(|text| text.contains(&survivors.shard.master_id));
        found.extend(check::unless(listed, member, "CLUSTER NODES", &replies[1]));
        let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
        for (field, value) in [
            ("cluster_state", "fail".to_owned()),
            ("cluster_slots_fail", survivors.size.to_string()),
        ] {
            let wanted = format!("{field}:{value}");
            let line = info.lines().find(|line| line.starts_with(&format!("{field}:")));
            if line.map(str::trim_end) != Some(wanted.as_str()) {
                found.push(format!(
                    "{member}: {} (expected {wanted})",
                    line.unwrap_or("no such field").trim_end()
                ));
            }
        }
    }
    Ok(found)
}

/// Waits until the other shards are written to, and every survivor sends whoever asks for a key of the lost one to where
/// its master was.
async fn uncovered(cx: &Context, survivors: &Survivors) -> Result<Duration, Stop> {
    let began = Instant::now();
    let key = cx.key_in(survivors.shard.slot, "probe");
    let what = "the other shards are served, and keys of the lost one lead to its master";
    eventually(cx, what, cx.timing().back(), async || {
        let view = cx.look_among(survivors.members.clone()).await;
        let mut missing: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
        for slot in &survivors.shard.other_slots {
            let Some(owner) = view.owner_of(*slot) else {
                missing.push(format!("no survivor claims slot {slot}"));
                continue;
            };
            let key = cx.key_in(*slot, "probe");
            let mut connection = cx.connect(&owner.member.address).await?;
            let reply = connection.call(&["SET", &key, "1", "EX", "60"]).await?;
            missing.extend(check::unless(
                reply.is_ok(),
                &owner.member,
                format!("SET in slot {slot}"),
                &reply,
            ));
        }
        for node in &view.nodes {
            let mut connection = cx.connect(&node.member.address).await?;
            let reply = connection.call(&["GET", &key]).await?;
            let leads = Redirect::is_moved(&reply, survivors.shard.slot, &survivors.lost);
            missing.extend(check::unless(
                leads,
                &node.member,
                "GET of a key of the lost shard",
                &reply,
            ));
        }
        Ok(if missing.is_empty() {
            Look::Reached(began.elapsed())
        } else {
            Look::NotYet(missing.join("\n"))
        })
    })
    .await
}

/// Whether every node says `cluster_state:ok`, and the owner of each of the slots takes a write.
///
/// # Errors
/// When a node cannot be asked.
pub async fn serving(cx: &Context, slots: &[u16]) -> Result<Look<()>, Stop> {
    let view = cx.look().await?;
    let mut missing: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
    let states = view.nodes.iter().filter(|node| node.info("cluster_state") != "ok");
    missing.extend(states.map(|node| format!("{}: cluster_state:{}", node.member, node.info("cluster_state"))));
    for slot in slots.iter().copied() {
        let Some(owner) = view.owner_of(slot).filter(|_| missing.is_empty()) else {
            missing.push(format!("slot {slot} not written to"));
            continue;
        };
        let key = cx.key_in(slot, "probe");
        let mut connection = cx.connect(&owner.member.address).await?;
        let reply = connection.call(&["SET", &key, "1", "EX", "60"]).await?;
        missing.extend(check::unless(
            reply.is_ok(),
            &owner.member,
            format!("SET in slot {slot}"),
            &reply,
        ));
    }
    Ok(if missing.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(missing.join("\n"))
    })
}

/// Expects the survivors to refuse every key, as they must with full coverage.
///
/// # Errors
/// A mismatch with what they served.
pub fn refused(cx: &Context, outage: &Outage) -> Result<(), Mismatch> {
    let took = outage.refused.clone()?;
    let names: Vec<&str> = outage.stopped.iter().map(|member| member.name.as_str()).collect();
    cx.note(format!("lost together: {}", names.join(", ")));
    cx.measure("every survivor refuses", took, None, Some(cx.timing().fail()));
    Ok(())
}

/// Expects what is no key to be served by the survivors all the same.
///
/// # Errors
/// A mismatch with what was not.
pub fn others_served(outage: &Outage) -> Result<(), Mismatch> {
    no_findings(
        "+PONG, CLUSTER NODES, cluster_state:fail, and as many cluster_slots_fail as the lost shard has, of every survivor",
        &outage.unserved,
    )
}
