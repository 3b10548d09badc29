//! The bodies of chapter CONS about `WAIT` and `WAITAOF`.

use super::{Shard, shards};
use crate::check;
use crate::cluster::connection::Connection;
use crate::cluster::node::NodeView;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Outcome, Stop};
use futures::future::join_all;
use std::time::{Duration, Instant};

fn milliseconds(limit: Duration) -> String {
    limit.as_millis().to_string()
}

/// The longest that a server may wait for its replicas: a little less than the suite waits for its reply.
fn longest(cx: &Context) -> Duration {
    cx.timing().reply() * 4 / 5
}

/// A deployment without replicas has nobody to wait for.
fn expect_replicas(cx: &Context) -> Result<(), Stop> {
    match cx.shape().replicas_per_master {
        0 => Err(Stop::Unsupported("the deployment has no replicas".into())),
        _ => Ok(()),
    }
}

/// Writes a key to every master, has `ask` judge on the same connection, all at once, and removes the keys.
async fn after_a_write<F>(cx: &Context, expected: &str, ask: F) -> Outcome
where
    F: AsyncFn(&Shard<'_>, &mut Connection) -> Result<Option<String>, Stop>,
{
    expect_replicas(cx)?;
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    let keys: Vec<String> = shards.iter().map(|shard| cx.key_in(shard.slot, "waited for")).collect();
    let judge = async {
        let asked = shards.iter().zip(&keys).map(async |(shard, key)| {
            let member = &shard.master.member;
            let mut connection = cx.connect(&member.address).await?;
            let set = connection.call(&["SET", key, "1"]).await?;
            check::expect(set.is_ok(), "SET -> +OK", format!("{member}: SET {key} -> {set}"))?;
            ask(shard, &mut connection).await
        });
        let findings: Vec<Option<String>> = join_all(asked).await.into_iter().collect::<Result<_, Stop>>()?;
        let findings: Vec<String> = findings.into_iter().flatten().collect();
        Ok(check::no_findings(expected, &findings)?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn replicas_counted(cx: &Context) -> Outcome {
    let limit = milliseconds(longest(cx));
    let command = ["WAIT", "1", &limit];
    let expected = format!("{} -> at least :1 from every master", command.join(" "));
    after_a_write(cx, &expected, async |shard, connection| {
        let asked = Instant::now();
        let reply = connection.call(&command).await?;
        let name = format!("acknowledged to {}", shard.master.member.name);
        cx.measure(&name, asked.elapsed(), None, Some(longest(cx)));
        let enough = reply.integer().is_some_and(|count| count >= 1);
        Ok(check::unless(enough, &shard.master.member, command.join(" "), &reply))
    })
    .await
}

/// By how much a server's clock, which it reads once a turn, may be behind.
const CLOCK: Duration = Duration::from_millis(50);

/// How long after its time limit `WAIT` may be answered: a server ends it in its next turn, and it, its machine, the way to
/// it and the suite may all be busy.
fn lateness(cx: &Context) -> Duration {
    cx.timing().catch_up()
}

pub(super) async fn time_limit_kept(cx: &Context) -> Outcome {
    let limit = cx.timing().visible();
    let bound = limit + lateness(cx);
    let replicas = cx.shape().replicas_per_master;
    let (more, text) = ((replicas + 1).to_string(), milliseconds(limit));
    let command = ["WAIT", &more, &text];
    let expected = format!(
        "{} -> :{replicas} from every master, after {:.1} to {:.1} s",
        command.join(" "),
        limit.as_secs_f64(),
        bound.as_secs_f64()
    );
    after_a_write(cx, &expected, async |shard, connection| {
        let asked = Instant::now();
        let reply = connection.call(&command).await?;
        let taken = asked.elapsed();
        let name = format!("WAIT on {}", shard.master.member.name);
        cx.measure(&name, taken, Some(limit), Some(bound));
        let counted = reply
            .integer()
            .is_some_and(|count| usize::try_from(count) == Ok(replicas));
        let kept = taken + CLOCK >= limit && taken <= bound;
        let told = format!("{} after {:.2} s", command.join(" "), taken.as_secs_f64());
        Ok(check::unless(counted && kept, &shard.master.member, told, &reply))
    })
    .await
}

pub(super) async fn refused_by_replicas(cx: &Context) -> Outcome {
    expect_replicas(cx)?;
    let view = cx.view().await?;
    let replicas: Vec<&NodeView> = shards(cx, &view)?
        .into_iter()
        .flat_map(|shard| shard.replicas)
        .collect();
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    let seen = replicas.len().to_string();
    check::expect(replicas.len() == expected, format!("{expected} replicas"), seen)?;
    let mut findings = Vec::new();
    for replica in replicas {
        let reply = cx
            .connect(&replica.member.address)
            .await?
            .call(&["WAIT", "1", "100"])
            .await?;
        let refused = reply.error_prefix() == Some("ERR");
        findings.extend(check::unless(refused, &replica.member, "WAIT 1 100", &reply));
    }
    Ok(check::no_findings("-ERR … from every replica", &findings)?)
}

pub(super) async fn on_disk(cx: &Context) -> Outcome {
    let limit = milliseconds(longest(cx));
    let command = ["WAITAOF", "1", "1", &limit];
    let expected = format!("{} -> [1, at least 1] from every master", command.join(" "));
    after_a_write(cx, &expected, async |shard, connection| {
        let reply = connection.call(&command).await?;
        let confirmed = match reply.array() {
            Some([here, there]) => here.integer() == Some(1) && there.integer().is_some_and(|count| count >= 1),
            Some(_) | None => false,
        };
        Ok(check::unless(
            confirmed,
            &shard.master.member,
            command.join(" "),
            &reply,
        ))
    })
    .await
}
