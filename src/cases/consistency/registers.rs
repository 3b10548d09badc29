//! Several clients write and read one key of each shard while nothing fails: the register of CONS-15.

use super::Shard;
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::register::{Done, Operation, contradictions};
use crate::verdict::{Mismatch, Stop};
use futures::future::try_join_all;
use std::time::Instant;

/// How many clients write, and how often each.
const WRITERS: u64 = 3;
const WRITES: u64 = 100;
/// How many clients read meanwhile, and one more when all have ended; and how often each.
const READERS: u64 = 2;
const READS: u64 = 100;
/// How many operations are recorded of one key.
pub(super) const OPERATIONS: usize = (WRITERS * WRITES + (READERS + 1) * READS) as usize;

/// The number that a client writes at its n-th time: nobody writes it again.
fn number(client: u64, n: u64) -> u64 {
    client * 1_000_000 + n
}

/// What a reply tells of an operation; `None` where it is no answer.
fn done(written: Option<u64>, reply: &Reply) -> Option<Done> {
    match (written, reply) {
        (Some(number), reply) if reply.is_ok() => Some(Done::Wrote(number)),
        (None, Reply::Nil) => Some(Done::Read(None)),
        (None, reply) => Some(Done::Read(Some(reply.text()?.parse().ok()?))),
        (Some(_), _) => None,
    }
}

/// One client: a writing one, or a reading one.
async fn client(
    cx: &Context,
    shard: &Shard<'_>,
    key: &str,
    client: u64,
    zero: Instant,
) -> Result<Vec<Operation>, Stop> {
    let member = &shard.master.member;
    let mut connection = cx.connect(&member.address).await?;
    let mut operations = Vec::new();
    let writes = client < WRITERS;
    for n in 0..if writes { WRITES } else { READS } {
        let written = writes.then(|| number(client, n));
        let began = zero.elapsed();
        let reply = match written {
            Some(number) => connection.call(&["SET", key, &number.to_string()]).await?,
            None => connection.call(&["GET", key]).await?,
        };
        let ended = Some(zero.elapsed());
        let Some(done) = done(written, &reply) else {
            let command = if writes { "SET" } else { "GET" };
            return Err(Mismatch::new("an answer", format!("{member}: {command} -> {reply}")).into());
        };
        operations.push(Operation { began, ended, done });
    }
    Ok(operations)
}

/// What contradicts one order of all operations on a key of a shard.
pub(super) async fn judge_register(cx: &Context, shard: &Shard<'_>, key: &str) -> Result<Vec<String>, Stop> {
    let zero = Instant::now();
    let clients = (0..WRITERS + READERS).map(|number| client(cx, shard, key, number, zero));
    let mut operations: Vec<Operation> = try_join_all(clients).await?.into_iter().flatten().collect();
    // What is there at the end is read by a client that began when all others had ended.
    operations.extend(client(cx, shard, key, WRITERS, zero).await?);
    let member = &shard.master.member;
    let found = contradictions(&operations).into_iter();
    Ok(found.map(|finding| format!("{member}: {finding}")).collect())
}
