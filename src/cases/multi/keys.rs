//! Commands over several keys, databases, and commands over the whole key space.

use super::arrange::*;
use crate::check::{self, expect};
use crate::cluster::connection::Connection;
use crate::cluster::node::{Member, NodeView};
use crate::cluster::resp::Reply;
use crate::cluster::slot::slot_of;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeSet;

/// Commands over keys of one slot, in an order in which each finds what it needs.
const TOGETHER: &[Step<'_>] = &[
    ("MSET @1 one @2 two", "+OK"),
    ("MGET @1 @2", "[\"one\", \"two\"]"),
    ("EXISTS @1 @2", ":2"),
    ("TOUCH @1 @2", ":2"),
    ("RENAME @1 @3", "+OK"),
    ("MGET @1 @3", "[nil, \"one\"]"),
    ("UNLINK @2 @3", ":2"),
    ("SADD @4 a b", ":2"),
    ("SADD @5 b c", ":2"),
    ("SUNIONSTORE @6 @4 @5", ":3"),
    ("SMOVE @4 @5 a", ":1"),
    ("RPUSH @7 a", ":1"),
    ("RPOPLPUSH @7 @8", "\"a\""),
    ("ZADD @1 1 a", ":1"),
    ("ZUNIONSTORE @2 1 @1", ":1"),
    ("PFADD @3 a", ":1"),
    ("PFMERGE @9 @3", "+OK"),
    ("DEL @1 @2 @3 @4 @5 @6 @7 @8 @9", ":8"),
];

/// Commands over two keys. One that blocks is given a time limit, for a server that carries it out.
const APART: &[&str] = &[
    "MGET @1 @2",
    "MSET @1 1 @2 2",
    "MSETNX @1 1 @2 2",
    "DEL @1 @2",
    "UNLINK @1 @2",
    "EXISTS @1 @2",
    "TOUCH @1 @2",
    "RENAME @1 @2",
    "COPY @1 @2",
    "BITOP AND @1 @2",
    "PFMERGE @1 @2",
    "SMOVE @1 @2 member",
    "LMOVE @1 @2 LEFT RIGHT",
    "BLPOP @1 @2 1",
    "LMPOP 2 @1 @2 LEFT",
    "SUNIONSTORE @1 @2",
    "SINTERCARD 2 @1 @2",
    "ZUNIONSTORE @1 1 @2",
    "XREAD STREAMS @1 @2 0 0",
    "SORT @1 STORE @2",
    "WATCH @1 @2",
    "GEOSEARCHSTORE @1 @2 FROMLONLAT 0 0 BYRADIUS 1 m",
];

/// How many keys a case writes to each master to look for them in the key space.
const WRITTEN: usize = 20;
/// The most keys of a node that are searched by `KEYS`: it holds up everybody else's commands.
const MOST_KEYS: i64 = 1_000_000;
/// How many questions are sent at once.
const QUESTIONS_AT_ONCE: usize = 500;

pub(super) async fn one_slot(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let keys_of = |master: &Master<'_>| -> Vec<String> {
        (1..=9)
            .map(|number| cx.key_in(master.slot, &format!("together-{number}")))
            .collect()
    };
    let judge = judge_masters(
        cx,
        &masters,
        "every command over keys of one slot carried out",
        async |master, connection| {
            let keys = keys_of(master);
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            Ok(play(master.member(), connection, &keys, TOGETHER).await?)
        },
    );
    with_cleanup(judge, cx.remove_keys(&all_keys(&masters, keys_of))).await
}

/// Two keys in two slots of a master.
fn two_slots(cx: &Context, master: &Master<'_>) -> Vec<String> {
    vec![cx.key_in(master.slot, "one"), cx.key_in(master.other, "other")]
}

pub(super) async fn several_slots(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let names: Vec<&str> = APART
        .iter()
        .map(|command| command.split(' ').next().unwrap_or_default())
        .collect();
    let judge = judge_masters(
        cx,
        &masters,
        "-CROSSSLOT for every command over two slots, and neither key written",
        async |master, connection| {
            let keys = two_slots(cx, master);
            let keys = [keys[0].as_str(), keys[1].as_str()];
            let known = known(connection, &names).await?;
            cx.count(
                &format!("commands sent to {}", master.member()),
                known.len(),
                "commands",
            );
            let known: Vec<Step<'_>> = APART
                .iter()
                .zip(&names)
                .filter(|(_, name)| known.contains(*name))
                .map(|(command, _)| (*command, "-CROSSSLOT*"))
                .collect();
            let mut findings = play(master.member(), connection, &keys, &known).await?;
            if known.is_empty() {
                findings.push(format!("{}: COMMAND INFO knows none of {names:?}", master.member()));
            }
            findings.extend(
                play(
                    master.member(),
                    connection,
                    &keys,
                    &[("EXISTS @1", ":0"), ("EXISTS @2", ":0")],
                )
                .await?,
            );
            Ok(findings)
        },
    );
    let keys = all_keys(&masters, |master| two_slots(cx, master));
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn one_key_twice(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let key = |master: &Master<'_>| cx.key_in(master.slot, "twice");
    let judge = judge_masters(
        cx,
        &masters,
        "MGET of one key twice -> its value twice",
        async |master, connection| {
            let steps = [
                ("SET @1 value", "+OK"),
                ("MGET @1 @1", "[\"value\", \"value\"]"),
                ("EXISTS @1 @1", ":2"),
            ];
            Ok(play(master.member(), connection, &[&key(master)], &steps).await?)
        },
    );
    with_cleanup(judge, cx.remove_keys(&all_keys(&masters, |master| vec![key(master)]))).await
}

pub(super) async fn one_database(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    cx.judge_every_node(
        "SELECT 0 -> +OK, and -ERR for every other database",
        async |member, connection| {
            let mut findings = play(member, connection, &[], &[("SELECT 0", "+OK")]).await?;
            let databases = connection.setting("cluster-databases").await?;
            if let Some(more) = databases.filter(|databases| databases != "1") {
                let told = format!("{member}: CONFIG GET cluster-databases -> {more}: the others may be selected");
                return if findings.is_empty() {
                    Err(Stop::Unsupported(told))
                } else {
                    Ok(findings)
                };
            }
            findings.extend(play(member, connection, &[], &[("SELECT 1", "-ERR*")]).await?);
            if let Some(slot) = view.of(&member.name).and_then(NodeView::inner_slot) {
                let keys = [cx.key_in(slot, "one"), cx.key_in(slot, "other")];
                // Nobody has written the keys, and swapping a database with itself does nothing.
                let steps = [
                    ("MOVE @1 1", "-ERR*"),
                    ("COPY @1 @2 DB 1", "-ERR*"),
                    ("SWAPDB 0 0", "-ERR*"),
                ];
                findings.extend(play(member, connection, &[&keys[0], &keys[1]], &steps).await?);
            }
            Ok(findings)
        },
    )
    .await
}

/// All keys with a pattern that `SCAN` finds on a node.
pub(in crate::cases) async fn scan(connection: &mut Connection, pattern: &str) -> Result<BTreeSet<String>, Stop> {
    let (mut found, mut cursor) = (BTreeSet::new(), "0".to_owned());
    loop {
        let command = ["SCAN", &cursor, "MATCH", pattern, "COUNT", "10000"];
        let reply = connection.ask(&command).await?;
        let parts = match reply.array() {
            Some([next, keys]) => next.text().zip(keys.array()),
            Some(_) | None => None,
        };
        let (next, keys) = parts.ok_or_else(|| connection.nonsense("SCAN", reply.to_string()))?;
        found.extend(keys.iter().filter_map(Reply::text).map(str::to_owned));
        if next == "0" {
            return Ok(found);
        }
        next.clone_into(&mut cursor);
    }
}

/// A finding when a command did not name exactly the keys that it should.
fn differs(member: &Member, command: &str, wanted: &BTreeSet<String>, found: &BTreeSet<String>) -> Option<String> {
    let missing = wanted.difference(found).count();
    let strange: Vec<&String> = found.difference(wanted).collect();
    (missing > 0 || !strange.is_empty()).then(|| {
        let first = strange
            .first()
            .map(|key| format!(", {key} among them"))
            .unwrap_or_default();
        format!(
            "{member}: {command}: {missing} of {} keys missing, {} keys of others{first}",
            wanted.len(),
            strange.len()
        )
    })
}

/// `DBSIZE`, and the number of keys in all slots of a node, at one moment.
async fn sizes(node: &NodeView, connection: &mut Connection) -> Result<(i64, i64), Stop> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
    let slots = node.own_slots();
    let counts = slots
        .iter()
        .map(|slot| words(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]));
    let commands: Vec<Vec<String>> = [words(&["MULTI"]), words(&["DBSIZE"])]
        .into_iter()
        .chain(counts)
        .chain([words(&["EXEC"])])
        .collect();
    let mut last = Reply::Nil;
    for chunk in commands.chunks(QUESTIONS_AT_ONCE) {
        last = connection.pipeline(chunk).await?.pop().unwrap_or(Reply::Nil);
    }
    let numbers: Option<Vec<i64>> = last
        .array()
        .map(|items| items.iter().filter_map(Reply::integer).collect());
    match numbers.as_deref() {
        Some([size, counts @ ..]) if counts.len() == slots.len() => Ok((*size, counts.iter().sum())),
        Some(_) | None => Err(connection.nonsense("EXEC", last.to_string()).into()),
    }
}

pub(super) async fn local_key_space(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let keys_of = |master: &Master<'_>| -> Vec<String> {
        (0..WRITTEN)
            .map(|number| cx.key_in(master.slot, &format!("local-{number}")))
            .collect()
    };
    let all = all_keys(&masters, keys_of);
    let pattern = format!("{}*", cx.key(""));
    let judge = async {
        for (master, keys) in masters.iter().zip(all.chunks(WRITTEN)) {
            let mut connection = cx.connect(&master.member().address).await?;
            let sets: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "1"]).collect();
            let refused = connection.pipeline(&sets).await?;
            let refused = refused.iter().find(|reply| !reply.is_ok());
            let seen = refused.map(|reply| format!("{}: SET -> {reply}", master.member()));
            expect(seen.is_none(), "+OK for every SET", seen.unwrap_or_default())?;
        }
        let expected = "KEYS, SCAN, RANDOMKEY and DBSIZE about the node's own keys, all of them, and no other";
        judge_masters(cx, &masters, expected, async |master, connection| {
            let member = master.member();
            let wanted: BTreeSet<String> = keys_of(master).into_iter().collect();
            let mut findings = Vec::new();
            let (size, counted) = sizes(master.node, connection).await?;
            if size != counted || size < WRITTEN as i64 {
                findings.push(format!(
                    "{member}: DBSIZE -> :{size}, where its slots hold {counted} keys, {WRITTEN} of the suite's among them"
                ));
            }
            if size <= MOST_KEYS {
                let reply = connection.call(&["KEYS", &pattern]).await?;
                if let Some(names) = reply.array() {
                    let found = names.iter().filter_map(Reply::text).map(str::to_owned).collect();
                    findings.extend(differs(member, &format!("KEYS {pattern}"), &wanted, &found));
                } else {
                    // Forbidden in many deployments, since it holds up everybody else's commands.
                    cx.note(format!("{member}: KEYS -> {reply}: the keys were searched by SCAN alone"));
                }
            } else {
                cx.note(format!("{member} holds {size} keys: they were not searched by KEYS"));
            }
            let found = scan(connection, &pattern).await?;
            findings.extend(differs(member, &format!("SCAN 0 MATCH {pattern}"), &wanted, &found));
            let reply = connection.ask(&["RANDOMKEY"]).await?;
            let own = reply
                .bytes()
                .is_some_and(|key| master.node.own_slots().contains(&slot_of(key)));
            findings.extend(check::unless(own, member, "RANDOMKEY (expected a key of its own)", &reply));
            Ok(findings)
        })
        .await
    };
    with_cleanup(judge, cx.remove_keys(&all)).await
}
