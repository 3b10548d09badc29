//! The body of chapter CONS about two servers that fail together: what `WAIT` confirmed, and who had it.

use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::node::{Member, Role};
use crate::cluster::resp::Reply;
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Fault, Scratch};
use crate::failover::kept;
use crate::migration::agreed;
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::{Duration, Instant};

/// How many writes are confirmed by each number of replicas.
const WRITES: usize = 100;

/// A master whose data have two more copies: of all writes at one replica, and of the first ones alone at the other.
struct Trio {
    master: Member,
    near: Member,
    far: Member,
    slot: u16,
}

impl Trio {
    fn pick(view: &ClusterView) -> Result<Self, Mismatch> {
        let mut trios = view.masters().filter_map(|node| {
            let id = &node.myself()?.id;
            let linked = view.replicas_of(id).filter(|node| node.linked());
            let mut replicas = linked.map(|node| node.member.clone());
            Some(Self {
                master: node.member.clone(),
                slot: node.inner_slot()?,
                near: replicas.next()?,
                far: replicas.next()?,
            })
        });
        trios
            .next()
            .ok_or_else(|| Mismatch::new("a master with two connected replicas", "none"))
    }

    /// Keys in the shard, each with its value.
    fn keys(&self, cx: &Context, name: &str) -> Vec<(String, String)> {
        let numbers = 0..WRITES;
        numbers
            .map(|number| {
                let key = cx.key_in(self.slot, &format!("{name}-{number}"));
                (key, format!("{name}-{number}"))
            })
            .collect()
    }
}

/// Writes to the master, and has `WAIT` confirm that so many replicas have it.
async fn confirmed(cx: &Context, trio: &Trio, keys: &[(String, String)], replicas: usize) -> Outcome {
    let mut connection = cx.connect(&trio.master.address).await?;
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, value)| vec!["SET", key, value]).collect();
    let replies = connection.pipeline(&commands).await?;
    if let Some(refused) = replies.iter().find(|reply| !reply.is_ok()) {
        let seen = format!("{}: {refused}", trio.master);
        return Err(Mismatch::new("SET -> +OK before the fault", seen).into());
    }
    let limit = (cx.timing().reply() * 4 / 5).as_millis().to_string();
    let command = ["WAIT", &replicas.to_string(), &limit];
    let reply = connection.call(&command).await?;
    let count = reply.integer().and_then(|count| usize::try_from(count).ok());
    let enough = count.is_some_and(|count| count >= replicas);
    let seen = format!("{}: {} -> {reply}", trio.master, command.join(" "));
    Ok(expect(enough, format!("at least :{replicas} before the fault"), seen)?)
}

/// Sets the password with which a replica asks its master for data.
async fn set_masterauth(cx: &Context, replica: &Member, password: &str) -> Outcome {
    let mut connection = cx.connect(&replica.address).await?;
    connection.ask(&["CONFIG", "SET", "masterauth", password]).await?;
    Ok(())
}

/// Keeps the far replica from its master's data, while it stays in the cluster and electable: it asks with a password
/// that is none.
async fn fall_behind(cx: &Context, trio: &Trio) -> Outcome {
    set_masterauth(cx, &trio.far, "not the password").await?;
    let mut connection = cx.connect(&trio.far.address).await?;
    connection.ask(&["CLIENT", "KILL", "TYPE", "master"]).await?;
    let what = format!("{} has one replica left, and {} no link", trio.master, trio.far);
    eventually(cx, &what, cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let attached = match view.of(&trio.master.name).map(|node| &node.role) {
            Some(Role::Master { replicas, .. }) => replicas.len(),
            Some(Role::Replica { .. }) | None => 0,
        };
        let down = view
            .of(&trio.far.name)
            .is_some_and(|node| node.replication("master_link_status") == "down");
        Ok(if attached == 1 && down {
            Look::Reached(())
        } else {
            Look::NotYet(format!("{attached} replicas are attached; the link is down: {down}"))
        })
    })
    .await
}

/// Waits until the far replica serves the shard as its master.
async fn promoted(cx: &Context, trio: &Trio, key: &str, bound: Duration) -> Outcome {
    let what = format!("{} serves in its master's place", trio.far);
    eventually(cx, &what, bound, async || {
        // Without READONLY: a replica redirects, and a node of a cluster that is down refuses.
        let reply = cx.connect(&trio.far.address).await?.call(&["GET", key]).await?;
        Ok(match reply.error() {
            None => Look::Reached(()),
            Some(text) => Look::NotYet(format!("{}: GET {key} -> -{text}", trio.far)),
        })
    })
    .await
}

/// What the shard's owner answers for the keys, once it serves.
async fn read(cx: &Context, slot: u16, keys: &[(String, String)]) -> Result<Vec<Reply>, Stop> {
    let bound = cx.timing().failover_retry();
    eventually(cx, "the shard is served", bound, async || {
        let view = cx.look().await?;
        let Some(owner) = view.owner_of(slot) else {
            return Ok(Look::NotYet(format!("no node claims slot {slot}")));
        };
        let commands: Vec<Vec<&str>> = keys.iter().map(|(key, _)| vec!["GET", key]).collect();
        let replies = cx.connect(&owner.member.address).await?.pipeline(&commands).await?;
        let refused = replies.iter().find_map(Reply::error);
        let refused = refused.map(|text| format!("{}: GET -> -{text}", owner.member));
        Ok(refused.map_or(Look::Reached(replies), Look::NotYet))
    })
    .await
}

/// Counts what the two failures took, and expects no more than they can take: a write that three servers had, or a value
/// that nobody had written, is not theirs.
async fn judge(cx: &Context, trio: &Trio, everywhere: &[(String, String)], nearby: &[(String, String)]) -> Outcome {
    let mut findings = Vec::new();
    for ((key, value), reply) in everywhere.iter().zip(read(cx, trio.slot, everywhere).await?) {
        if reply.text() != Some(value) {
            findings.push(format!("GET {key} -> {reply} (three servers had {value})"));
        }
    }
    let mut lost = 0;
    for ((key, value), reply) in nearby.iter().zip(read(cx, trio.slot, nearby).await?) {
        match reply {
            Reply::Nil => lost += 1,
            reply if reply.text() == Some(value) => {}
            reply => findings.push(format!("GET {key} -> {reply} (nobody wrote that)")),
        }
    }
    cx.count("writes that WAIT had confirmed", nearby.len(), "writes");
    cx.count("of those lost in the double failure", lost, "writes");
    cx.note(match lost {
        0 => "outcome: none of the writes that `WAIT 1` had confirmed was lost",
        _ => "outcome: writes that `WAIT 1` had confirmed were lost with the two servers that had them; that is no failure",
    });
    Ok(no_findings(
        "every write that three servers had, and no value that nobody wrote",
        &findings,
    )?)
}

/// Kills the master and the replica that has all of its writes, and puts the other one's password right again.
async fn both_fail(cx: &Context, trio: &Trio) -> Outcome {
    let kills = [&trio.master, &trio.near].map(|member| cx.inject(Fault::Kill, member));
    for killed in futures::future::join_all(kills).await {
        killed?;
    }
    let password = cx.shared().target.password();
    let password = password.as_ref().map_or("", |password| password.expose());
    set_masterauth(cx, &trio.far, password).await
}

pub(super) async fn double_failure(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: Shape {
            masters: 3,
            replicas_per_master: 2,
        },
        node_timeout: cx.timing().node_timeout().min(Duration::from_secs(2)),
        alterations: ["repl-diskless-sync-delay 0", "cluster-migration-barrier 9"]
            .map(Alteration::everywhere)
            .to_vec(),
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |cx| {
        let trio = Trio::pick(&cx.view().await?)?;
        let (everywhere, nearby) = (trio.keys(cx, "everywhere"), trio.keys(cx, "nearby"));
        confirmed(cx, &trio, &everywhere, 2).await?;
        fall_behind(cx, &trio).await?;
        confirmed(cx, &trio, &nearby, 1).await?;
        let fault = Instant::now();
        both_fail(cx, &trio).await?;
        let bound = cx.timing().failover_retry();
        match kept(promoted(cx, &trio, &everywhere[0].0, bound).await)? {
            Ok(()) => cx.measure("promotion", fault.elapsed(), None, Some(bound)),
            Err(_) => cx.note(format!("{} was not promoted while both were away", trio.far)),
        }
        cx.undo_faults().await?;
        let timing = cx.timing();
        agreed(cx, timing.scheduling() + timing.failover_retry()).await?;
        judge(cx, &trio, &everywhere, &nearby).await
    })
    .await
}
