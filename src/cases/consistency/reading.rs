//! The bodies of chapter CONS about what is read while nothing fails.

use super::history::{Done, Operation, contradictions};
use super::registers::{self, judge_register};
use super::{Shard, shards};
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::NodeView;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};
use futures::future::{join_all, try_join_all};
use std::cell::Cell;
use std::time::Instant;

/// How often a key is written and read back.
const OWN: u32 = 200;

async fn read_own_writes(cx: &Context, shard: &Shard<'_>, key: &str) -> Result<Option<String>, Stop> {
    let member = &shard.master.member;
    let mut connection = cx.connect(&member.address).await?;
    for number in 1..=OWN {
        let value = number.to_string();
        let set = connection.call(&["SET", key, &value]).await?;
        let get = connection.call(&["GET", key]).await?;
        if !set.is_ok() || get.text() != Some(&value) {
            return Ok(Some(format!("{member}: SET {value} -> {set}, then GET -> {get}")));
        }
    }
    Ok(None)
}

pub(super) async fn own_writes(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    let keys: Vec<String> = shards.iter().map(|shard| cx.key_in(shard.slot, "own")).collect();
    let judge = async {
        let asked = shards
            .iter()
            .zip(&keys)
            .map(|(shard, key)| read_own_writes(cx, shard, key));
        let mut findings = Vec::new();
        for found in join_all(asked).await {
            findings.extend(found?);
        }
        Ok(check::no_findings(
            "each number read as soon as it is written, on every master",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

/// How many numbers are written while a replica is read.
const WRITTEN: u64 = 300;

/// The number that a reply holds; nothing yet is 0.
fn number(replica: &NodeView, reply: &Reply) -> Result<u64, Mismatch> {
    let number = match reply {
        Reply::Nil => Some(0),
        reply => reply.text().and_then(|text| text.parse().ok()),
    };
    number.ok_or_else(|| Mismatch::new("GET -> a number", format!("{}: GET -> {reply}", replica.member)))
}

/// Reads a key once more: no lower a number than `last`.
async fn read_on(replica: &NodeView, connection: &mut Connection, key: &str, last: u64) -> Result<u64, Stop> {
    let value = number(replica, &connection.call(&["GET", key]).await?)?;
    let seen = format!("{}: GET -> {value}, after {last}", replica.member);
    check::expect(value >= last, "a number no lower than the one before", seen)?;
    Ok(value)
}

/// A connection on which a replica answers reads.
async fn reader(cx: &Context, replica: &NodeView) -> Result<Connection, Stop> {
    let mut connection = cx.connect(&replica.member.address).await?;
    let reply = connection.call(&["READONLY"]).await?;
    let seen = format!("{}: {reply}", replica.member);
    check::expect(reply.is_ok(), "READONLY -> +OK", seen)?;
    Ok(connection)
}

/// Writes numbers to a key of a master, and reads them on its replica all the while.
async fn follow(cx: &Context, shard: &Shard<'_>, replica: &NodeView, key: &str) -> Result<usize, Stop> {
    let mut writing = cx.connect(&shard.master.member.address).await?;
    let mut reading = reader(cx, replica).await?;
    let written = Cell::new(false);
    let write = async {
        for number in 1..=WRITTEN {
            let reply = writing.call(&["SET", key, &number.to_string()]).await?;
            let seen = format!("{}: {reply}", shard.master.member);
            check::expect(reply.is_ok(), "SET -> +OK", seen)?;
        }
        written.set(true);
        Ok::<_, Stop>(())
    };
    let read = async {
        let (mut last, mut reads) = (0, 0);
        while !written.get() {
            last = read_on(replica, &mut reading, key, last).await?;
            reads += 1;
        }
        Ok::<_, Stop>((last, reads))
    };
    let ((), (mut last, reads)) = futures::try_join!(write, read)?;
    let ended = Instant::now();
    let mut kept = Some(reading);
    eventually(
        cx,
        "the last number on the replica",
        cx.timing().catch_up(),
        async || {
            // One that had an error is of no further use.
            let mut reading = match kept.take() {
                Some(reading) => reading,
                None => reader(cx, replica).await?,
            };
            last = read_on(replica, &mut reading, key, last).await?;
            kept = Some(reading);
            Ok(if last == WRITTEN {
                Look::Reached(())
            } else {
                Look::NotYet(format!("{}: GET -> {last} of {WRITTEN}", replica.member))
            })
        },
    )
    .await?;
    let name = format!("{} caught up", replica.member.name);
    cx.measure(&name, ended.elapsed(), None, Some(cx.timing().catch_up()));
    Ok(reads)
}

pub(super) async fn converges(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    let pairs: Vec<(&Shard<'_>, &NodeView, String)> = shards
        .iter()
        .flat_map(|shard| shard.replicas.iter().map(move |replica| (shard, *replica)))
        .map(|(shard, replica)| (shard, replica, cx.key_in(shard.slot, &replica.member.name)))
        .collect();
    let expected = cx.shape().masters * cx.shape().replicas_per_master;
    if expected == 0 {
        return Err(Stop::Unsupported("the deployment has no replicas".into()));
    }
    let seen = pairs.len().to_string();
    check::expect(pairs.len() == expected, format!("{expected} replicas"), seen)?;
    let keys: Vec<String> = pairs.iter().map(|(_, _, key)| key.clone()).collect();
    let judge = async {
        let followed = pairs
            .iter()
            .map(|(shard, replica, key)| follow(cx, shard, replica, key));
        let reads = try_join_all(followed).await?;
        cx.count("reads while keys were written", reads.iter().sum(), "reads");
        Ok(())
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

/// How many clients append to a list, and how many values each.
const WRITERS: usize = 3;
const APPENDS: usize = 30;
/// How many clients read it meanwhile, and how often each.
const READERS: usize = 2;
const READS: usize = 20;

async fn timed(connection: &mut Connection, command: &[&str]) -> Result<(Instant, Instant, Reply), Stop> {
    let began = Instant::now();
    let reply = connection.call(command).await?;
    Ok((began, Instant::now(), reply))
}

/// One client of one list: an appending one, or a reading one.
async fn client(cx: &Context, shard: &Shard<'_>, key: &str, client: usize) -> Result<Vec<Operation>, Stop> {
    let member = &shard.master.member;
    let mut connection = cx.connect(&member.address).await?;
    let mut operations = Vec::new();
    let appends = client < WRITERS;
    for number in 0..if appends { APPENDS } else { READS } {
        let value = format!("{client}-{number}");
        let command: &[&str] = if appends {
            &["RPUSH", key, &value]
        } else {
            &["LRANGE", key, "0", "-1"]
        };
        let (began, ended, reply) = timed(&mut connection, command).await?;
        let length = reply.integer().and_then(|length| usize::try_from(length).ok());
        let done = match (length, values(&reply)) {
            (Some(length), None) if appends => Done::Appended(value, length),
            (None, Some(values)) if !appends => Done::Read(values),
            _ => return Err(Mismatch::new("an answer", format!("{member}: {} -> {reply}", command[0])).into()),
        };
        operations.push(Operation { began, ended, done });
    }
    Ok(operations)
}

/// The texts of an array.
fn values(reply: &Reply) -> Option<Vec<String>> {
    let items = reply.array()?;
    items.iter().map(|item| item.text().map(str::to_owned)).collect()
}

async fn judge_history(cx: &Context, shard: &Shard<'_>, key: &str) -> Result<Vec<String>, Stop> {
    let clients = (0..WRITERS + READERS).map(|number| client(cx, shard, key, number));
    let operations: Vec<Operation> = try_join_all(clients).await?.into_iter().flatten().collect();
    let member = &shard.master.member;
    let reply = cx
        .connect(&member.address)
        .await?
        .call(&["LRANGE", key, "0", "-1"])
        .await?;
    let last = values(&reply).ok_or_else(|| Mismatch::new("LRANGE -> the list", format!("{member}: {reply}")))?;
    let found = contradictions(&operations, &last).into_iter();
    Ok(found.map(|finding| format!("{member}: {finding}")).collect())
}

pub(super) async fn one_order(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    let lists: Vec<String> = shards.iter().map(|shard| cx.key_in(shard.slot, "list")).collect();
    let values: Vec<String> = shards.iter().map(|shard| cx.key_in(shard.slot, "register")).collect();
    let judge = async {
        let of_lists = shards
            .iter()
            .zip(&lists)
            .map(|(shard, key)| judge_history(cx, shard, key));
        let mut findings: Vec<String> = try_join_all(of_lists).await?.into_iter().flatten().collect();
        let of_values = shards
            .iter()
            .zip(&values)
            .map(|(shard, key)| judge_register(cx, shard, key));
        findings.extend(try_join_all(of_values).await?.into_iter().flatten());
        let each = WRITERS * APPENDS + READERS * READS + registers::OPERATIONS;
        cx.count("operations", shards.len() * each, "operations");
        Ok(check::no_findings(
            "one order of all operations on each list and on each value",
            &findings,
        )?)
    };
    let keys: Vec<String> = lists.iter().chain(&values).cloned().collect();
    with_cleanup(judge, cx.remove_keys(&keys)).await
}
