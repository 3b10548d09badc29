//! Scripts and functions.

use super::arrange::*;
use crate::check::{Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::NodeView;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Outcome, Stop};

/// Writes its first key.
const WRITES_A_KEY: &str = "return redis.call('SET', KEYS[1], ARGV[1])";
/// Writes a key that it does not declare.
const WRITES_UNDECLARED: &str = "return redis.call('SET', ARGV[1], '1')";
/// Writes two keys that it does not declare.
const WRITES_TWO: &str = "return {redis.call('SET', ARGV[1], '1'), redis.call('SET', ARGV[2], '1')}";

/// The name of the case's library of functions, and of its function: letters, digits and underscores are allowed.
fn library(cx: &Context, node: &NodeView) -> String {
    let name = cx.key(&node.member.name);
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .collect()
}

/// Whether a server has functions.
async fn has_functions(connection: &mut Connection) -> Result<bool, Stop> {
    Ok(!known(connection, &["FCALL"]).await?.is_empty())
}

/// Deletes the case's libraries, where they are.
async fn remove_libraries(cx: &Context, masters: &[Master<'_>]) -> Result<(), Stop> {
    for master in masters {
        let mut connection = cx.connect(&master.member().address).await?;
        // A server without functions, or without this library, says so.
        connection
            .call(&["FUNCTION", "DELETE", &library(cx, master.node)])
            .await?;
    }
    Ok(())
}

/// The SHA1 of a script that a server was given.
async fn load_script(connection: &mut Connection, script: &str) -> Result<String, Stop> {
    Ok(connection.ask_text(&["SCRIPT", "LOAD", script]).await?)
}

pub(super) async fn keys_of_one_slot(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let key = |master: &Master<'_>| cx.key_in(master.slot, "script");
    let judge = judge_masters(
        cx,
        &masters,
        "scripts and functions carried out on the owner of their keys, -MOVED elsewhere",
        async |master, connection| {
            let (member, key, library) = (master.member(), key(master), library(cx, master.node));
            let sha = load_script(connection, WRITES_A_KEY).await?;
            let mut calls = vec!["EVAL @2 1 @1 value", "EVALSHA @3 1 @1 value"];
            if has_functions(connection).await? {
                let code = format!(
                    "#!lua name={library}\nredis.register_function('{library}', function(keys, args) return \
                     redis.call('SET', keys[1], args[1]) end)"
                );
                connection.ask(&["FUNCTION", "LOAD", &code]).await?;
                calls.push("FCALL @4 1 @1 value");
            }
            let arguments = [key.as_str(), WRITES_A_KEY, &sha, &library];
            let mut findings = Vec::new();
            for call in &calls {
                let steps = [(*call, "+OK"), ("GET @1", "\"value\""), ("DEL @1", ":1")];
                findings.extend(play(member, connection, &arguments, &steps).await?);
            }
            let owner = view.endpoint_of(master.node);
            for other in view.nodes.iter().filter(|node| node.member != *member) {
                let (other, mut connection) = (&other.member, cx.connect(&other.member.address).await?);
                let to = (master.slot, &owner);
                findings.extend(redirected(other, &mut connection, &arguments, &calls, to).await?);
            }
            Ok(findings)
        },
    );
    let keys = all_keys(&masters, |master| vec![key(master)]);
    with_cleanup(judge, async {
        cx.remove_keys(&keys).await?;
        remove_libraries(cx, &masters).await
    })
    .await
}

/// Two keys in two slots of a master.
fn two_slots(cx: &Context, master: &Master<'_>) -> Vec<String> {
    vec![cx.key_in(master.slot, "one"), cx.key_in(master.other, "other")]
}

pub(super) async fn keys_of_two_slots(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let judge = judge_masters(
        cx,
        &masters,
        "-CROSSSLOT for a script with keys of two slots, and neither written",
        async |master, connection| {
            let keys = two_slots(cx, master);
            let steps = [
                ("EVAL @3 2 @1 @2 value", "-CROSSSLOT*"),
                ("EXISTS @1", ":0"),
                ("EXISTS @2", ":0"),
            ];
            let arguments = [keys[0].as_str(), &keys[1], WRITES_A_KEY];
            Ok(play(master.member(), connection, &arguments, &steps).await?)
        },
    );
    let keys = all_keys(&masters, |master| two_slots(cx, master));
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn undeclared_foreign_key(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let keys_of = |master: &Master<'_>| vec![cx.key_in(master.slot, "own"), cx.key_in(master.foreign, "foreign")];
    let judge = judge_masters(
        cx,
        &masters,
        "an error that names a non local key, and the key not written",
        async |master, connection| {
            let keys = keys_of(master);
            let arguments = [keys[0].as_str(), &keys[1], WRITES_UNDECLARED];
            let steps = [
                ("EVAL @3 0 @2", "-*non local key*"),
                ("EVAL @3 1 @1 @2", "-*non local key*"),
            ];
            let mut findings = play(master.member(), connection, &arguments, &steps).await?;
            let mut owner = cx.connect(&master.next.member.address).await?;
            findings.extend(play(&master.next.member, &mut owner, &arguments, &[("EXISTS @2", ":0")]).await?);
            Ok(findings)
        },
    );
    with_cleanup(judge, cx.remove_keys(&all_keys(&masters, keys_of))).await
}

pub(super) async fn script_flags(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let (bound, free) = (
        format!("#!lua\n{WRITES_TWO}"),
        format!("#!lua flags=allow-cross-slot-keys\n{WRITES_TWO}"),
    );
    let judge = judge_masters(
        cx,
        &masters,
        "an error at the second slot without the flag, both keys written with it",
        async |master, connection| {
            let keys = two_slots(cx, master);
            let arguments = [keys[0].as_str(), &keys[1], &bound, &free];
            let steps = [
                ("EVAL @3 0 @1 @2", "-*same slot*"),
                ("EXISTS @2", ":0"),
                ("EVAL @4 0 @1 @2", "[+OK, +OK]"),
            ];
            Ok(play(master.member(), connection, &arguments, &steps).await?)
        },
    );
    let keys = all_keys(&masters, |master| two_slots(cx, master));
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn known_where_loaded(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let judge = judge_masters(
        cx,
        &masters,
        "a script or function where it was loaded, and on no other shard",
        async |master, connection| {
            let (member, library) = (master.member(), library(cx, master.node));
            let sha = load_script(connection, &format!("return '{library}'")).await?;
            let there = format!("\"{library}\"");
            let arguments = [sha.as_str(), &library];
            let mut findings = play(member, connection, &arguments, &[("EVALSHA @1 0", &there)]).await?;
            let mut steps = vec![("EVALSHA @1 0", "-NOSCRIPT*")];
            if has_functions(connection).await? {
                let code = format!(
                    "#!lua name={library}\nredis.register_function{{function_name='{library}', callback=function() \
                     return '{library}' end, flags={{'no-writes'}}}}"
                );
                connection.ask(&["FUNCTION", "LOAD", &code]).await?;
                findings.extend(play(member, connection, &arguments, &[("FCALL @2 0", &there)]).await?);
                steps.push(("FCALL @2 0", "-ERR*unction not found*"));
                for replica in view.replicas_of(master.node.myself().map_or("", |line| &line.id)) {
                    has_library(cx, replica, &library).await?;
                }
            }
            for stranger in master.strangers(&view) {
                let mut connection = cx.connect(&stranger.member.address).await?;
                findings.extend(play(&stranger.member, &mut connection, &arguments, &steps).await?);
            }
            Ok(findings)
        },
    );
    with_cleanup(judge, remove_libraries(cx, &masters)).await
}

/// Waits until a replica has a library that its master was given.
async fn has_library(cx: &Context, replica: &NodeView, library: &str) -> Result<(), Stop> {
    let what = format!("the master's library on {}", replica.member);
    eventually(cx, &what, cx.timing().catch_up(), async || {
        let mut connection = cx.connect(&replica.member.address).await?;
        let reply = connection.ask(&["FUNCTION", "LIST", "LIBRARYNAME", library]).await?;
        Ok(match &reply {
            Reply::Array(found) if !found.is_empty() => Look::Reached(()),
            other => Look::NotYet(format!("FUNCTION LIST -> {other}")),
        })
    })
    .await
}
