//! The bodies of chapter CONS about servers that are killed or kept away.

use crate::cases::persistence::{keys_survive, numbered, unread, write_numbered};
use crate::check::{self, Look, eventually};
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Fault, Scratch, with_cleanup};
use crate::crash::{flushed, full_bound};
use crate::failover::{Shard, pick_shard};
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) async fn crash_survived(cx: &Context) -> Outcome {
    if cx.shape().replicas_per_master == 0 {
        return Err(Stop::Unsupported("the deployment has no replicas".into()));
    }
    keys_survive(cx, Fault::Crash).await
}

/// A small cluster of one master, and so many replicas.
fn one_shard(cx: &Context, replicas: usize, directives: &[&str]) -> Scratch {
    Scratch {
        shape: Shape {
            masters: 1,
            replicas_per_master: replicas,
        },
        alterations: directives.iter().copied().map(Alteration::everywhere).collect(),
        ..cx.scratch_like_the_deployment()
    }
}

/// How long a replica may be silent before it counts no more, in seconds.
const MAX_LAG: u64 = 2;

/// Waits until `SET` of the key is answered as wanted.
async fn until_set(
    cx: &Context,
    what: &str,
    bound: Duration,
    (master, key): (&Member, &str),
    wanted: impl Fn(&Reply) -> bool,
) -> Result<Duration, Stop> {
    let began = Instant::now();
    let mut connection = None;
    eventually(cx, what, bound, async || {
        let reply = cx.ask_kept(master, &mut connection, &["SET", key, "1"]).await?;
        Ok(if wanted(&reply) {
            Look::Reached(())
        } else {
            Look::NotYet(format!("{master}: SET {key} -> {reply}"))
        })
    })
    .await?;
    Ok(began.elapsed())
}

pub(super) async fn too_few_replicas(cx: &Context) -> Outcome {
    let lag = format!("min-replicas-max-lag {MAX_LAG}");
    let directives = ["min-replicas-to-write 1", &lag, "repl-diskless-sync-delay 0"];
    cx.with_scratch(&one_shard(cx, 1, &directives), async |cx| {
        let shard = pick_shard(cx, &cx.view().await?).await?;
        let key = cx.key_in(shard.slot, "written");
        let at = (&shard.master, key.as_str());
        let timing = cx.timing();
        let back = timing.scheduling() + timing.sync();
        until_set(cx, "writes are taken with a replica", back, at, Reply::is_ok).await?;
        cx.inject(Fault::KeepAway, &shard.replica).await?;
        let bound = Duration::from_secs(MAX_LAG + 1) + timing.visible();
        let refused = |reply: &Reply| reply.error_prefix() == Some("NOREPLICAS");
        let taken = until_set(cx, "writes are refused with -NOREPLICAS", bound, at, refused).await?;
        cx.measure("refused without its replica", taken, None, Some(bound));
        let get = cx
            .connect(&shard.master.address)
            .await?
            .call(&["GET", key.as_str()])
            .await?;
        let seen = format!("{}: GET {key} -> {get}", shard.master);
        check::expect(get.text() == Some("1"), "reads are still answered", seen)?;
        cx.undo_faults().await?;
        let taken = until_set(cx, "writes are taken again", back, at, Reply::is_ok).await?;
        cx.measure("taken again with its replica", taken, None, Some(back));
        Ok(())
    })
    .await
}

/// The reply of `CONFIG GET` for one directive.
fn configured(reply: &Reply) -> Option<&str> {
    match reply.array() {
        Some([_, value]) => value.text(),
        Some(_) | None => None,
    }
}

pub(super) async fn fsync_policy(cx: &Context) -> Outcome {
    let settings = cx
        .on_every_node(async |member, connection| {
            let reply = connection.call(&["CONFIG", "GET", "appendfsync"]).await?;
            Ok((
                member.clone(),
                configured(&reply).map_or(reply.to_string(), str::to_owned),
            ))
        })
        .await?;
    let different: BTreeSet<&str> = settings.iter().map(|(_, value)| value.as_str()).collect();
    let safe = different.len() == 1 && different.iter().all(|value| ["everysec", "always"].contains(value));
    let shown: Vec<String> = settings
        .iter()
        .map(|(member, value)| format!("{member}: {value}"))
        .collect();
    let expected = "appendfsync everysec, or always, on every node alike";
    check::expect(safe, expected, shown.join("\n"))?;
    cx.with_scratch(&one_shard(cx, 0, &[]), async |cx| {
        let members = cx.all_members().await?;
        let member = &members[0];
        let keys = numbered(cx, 0);
        write_numbered(cx, member, &keys, 0).await?;
        flushed(cx, member).await?;
        cx.inject(Fault::Crash, member).await?;
        eventually(
            cx,
            "every value once it is back",
            full_bound(cx),
            async || match unread(cx, member, &keys).await? {
                Err(refused) => Ok(Look::NotYet(refused)),
                Ok(wrong) => {
                    cx.count("keys lost", wrong.len(), "keys");
                    check::no_findings("every acknowledged write, on a server that was killed", &wrong)?;
                    Ok(Look::Reached(()))
                }
            },
        )
        .await
    })
    .await
}

/// How far two accounts of one instant may lie apart, in milliseconds.
const APART: i64 = 1000;
/// How long the second key has to live.
const LATER: Duration = Duration::from_secs(600);

/// An instant between these two, as a key's end is known from outside.
struct End {
    earliest: Instant,
    latest: Instant,
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Gives a key so long to live.
async fn write_mortal(connection: &mut Connection, key: &str, life: Duration) -> Result<End, Stop> {
    let set = connection.call(&["SET", key, "mortal"]).await?;
    check::expect(set.is_ok(), "SET -> +OK", format!("SET {key} -> {set}"))?;
    let earliest = Instant::now() + life;
    let expire = connection
        .call(&["PEXPIRE", key, &milliseconds(life).to_string()])
        .await?;
    let seen = format!("PEXPIRE {key} -> {expire}");
    check::expect(expire.integer() == Some(1), "PEXPIRE -> :1", seen)?;
    Ok(End {
        earliest,
        latest: Instant::now() + life,
    })
}

/// Expects a server to say of a key that it ends when it should.
async fn same_end(member: &Member, connection: &mut Connection, key: &str, end: &End) -> Outcome {
    let asked = Instant::now();
    let reply = connection.call(&["PTTL", key]).await?;
    let least = milliseconds(end.earliest.saturating_duration_since(Instant::now())) - APART;
    let most = milliseconds(end.latest.saturating_duration_since(asked)) + APART;
    let same = reply.integer().is_some_and(|left| (least..=most).contains(&left));
    let expected = format!("PTTL {key} -> between {least} and {most} ms");
    Ok(check::expect(same, expected, format!("{member}: {reply}"))?)
}

/// Whether one of the shard's replicas was promoted and serves; which, and a connection to it.
async fn promoted(cx: &Context, shard: &Shard, key: &str) -> Result<Look<(Member, Connection)>, Stop> {
    let mut seen = Vec::new();
    for (replica, _) in &shard.replicas {
        // Without READONLY: a replica redirects, and a node of a cluster that is down refuses.
        let asked = async {
            let mut connection = cx.connect(&replica.address).await?;
            let reply = connection.call(&["GET", key]).await?;
            Ok::<_, LinkError>((connection, reply))
        };
        match asked.await {
            Ok((connection, reply)) => match reply.error() {
                None => return Ok(Look::Reached((replica.clone(), connection))),
                Some(text) => seen.push(format!("{replica}: GET {key} -> -{text}")),
            },
            // Another one may have been promoted.
            Err(error) => seen.push(error.to_string()),
        }
    }
    Ok(Look::NotYet(seen.join("\n")))
}

pub(super) async fn expiry_kept(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let [soon, later] = ["soon", "later"].map(|name| cx.key_in(shard.slot, name));
    let timing = cx.timing();
    let judge = async {
        let mut master = cx.connect(&shard.master.address).await?;
        // No replica is promoted before NT is over: the first key ends while nobody serves it.
        let first = write_mortal(&mut master, &soon, timing.node_timeout()).await?;
        let second = write_mortal(&mut master, &later, LATER).await?;
        // Any of them may be promoted.
        let replicas = shard.replicas.len();
        let limit = milliseconds(timing.reply() * 4 / 5).to_string();
        let reply = master.call(&["WAIT", &replicas.to_string(), &limit]).await?;
        let seen = format!("{}: WAIT {replicas} {limit} -> {reply}", shard.master);
        let confirmed = reply.integer() >= i64::try_from(replicas).ok();
        check::expect(confirmed, "the keys on every replica", seen)?;
        same_end(&shard.master, &mut master, &later, &second).await?;
        let mut replica = cx.connect(&shard.replica.address).await?;
        let reply = replica.call(&["READONLY"]).await?;
        check::expect(reply.is_ok(), "READONLY -> +OK", format!("{}: {reply}", shard.replica))?;
        same_end(&shard.replica, &mut replica, &later, &second).await?;
        cx.inject(Fault::KeepAway, &shard.master).await?;
        let began = Instant::now();
        let bound = timing.shutdown() + timing.failover_retry();
        let what = format!("a replica serves in the place of {}", shard.master);
        let (successor, mut promoted) =
            eventually(cx, &what, bound, async || promoted(cx, &shard, &later).await).await?;
        cx.measure("promotion", began.elapsed(), None, Some(bound));
        same_end(&successor, &mut promoted, &later, &second).await?;
        let what = "the first key has ended on the promoted replica";
        let left = first.latest.saturating_duration_since(Instant::now());
        let mut promoted = Some(promoted);
        eventually(cx, what, left + timing.visible(), async || {
            let reply = cx.ask_kept(&successor, &mut promoted, &["GET", soon.as_str()]).await?;
            Ok(match reply {
                Reply::Nil => Look::Reached(()),
                reply => Look::NotYet(format!("{successor}: GET {soon} -> {reply}")),
            })
        })
        .await?;
        let early = Instant::now() < first.earliest;
        let seen = format!("{successor}: GET {soon} -> nil too early");
        check::expect(!early, "the key until its end", seen)?;
        for key in [&soon, &later] {
            cx.ask_kept(&successor, &mut promoted, &["DEL", key.as_str()]).await?;
        }
        Ok(())
    };
    with_cleanup(judge, cx.undo_faults()).await
}
