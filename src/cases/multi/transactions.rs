//! Transactions: `MULTI`, `EXEC`, `WATCH`.

use super::arrange::*;
use crate::context::{Context, with_cleanup};
use crate::verdict::Outcome;

/// Two keys of one slot of a master.
fn pair(cx: &Context, master: &Master<'_>) -> Vec<String> {
    vec![cx.key_in(master.slot, "one"), cx.key_in(master.slot, "two")]
}

pub(super) async fn all_at_once(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let judge = judge_masters(
        cx,
        &masters,
        "a transaction that nobody sees before EXEC, and its replies in order",
        async |master, connection| {
            let (member, keys) = (master.member(), pair(cx, master));
            let key = [keys[0].as_str()];
            let queued = [("MULTI", "+OK"), ("SET @1 1", "+QUEUED"), ("INCR @1", "+QUEUED")];
            let mut findings = play(member, connection, &key, &queued).await?;
            let mut other = cx.connect(&member.address).await?;
            findings.extend(play(member, &mut other, &key, &[("GET @1", "nil")]).await?);
            findings.extend(play(member, connection, &key, &[("EXEC", "[+OK, :2]")]).await?);
            findings.extend(play(member, &mut other, &key, &[("GET @1", "\"2\"")]).await?);
            Ok(findings)
        },
    );
    let keys = all_keys(&masters, |master| pair(cx, master));
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn foreign_key_queued(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let keys_of = |master: &Master<'_>| vec![cx.key_in(master.slot, "own"), cx.key_in(master.foreign, "foreign")];
    let judge = judge_masters(
        cx,
        &masters,
        "-MOVED for the other node's key, -EXECABORT, and nothing written",
        async |master, connection| {
            let (member, keys) = (master.member(), keys_of(master));
            let keys = [keys[0].as_str(), keys[1].as_str()];
            let queued = [("MULTI", "+OK"), ("SET @1 1", "+QUEUED")];
            let mut findings = play(member, connection, &keys, &queued).await?;
            let to = (master.foreign, &view.endpoint_of(master.next));
            findings.extend(redirected(member, connection, &keys, &["SET @2 1"], to).await?);
            let aborted = [("EXEC", "-EXECABORT*"), ("EXISTS @1", ":0")];
            findings.extend(play(member, connection, &keys, &aborted).await?);
            let mut owner = cx.connect(&master.next.member.address).await?;
            findings.extend(play(&master.next.member, &mut owner, &keys, &[("EXISTS @2", ":0")]).await?);
            Ok(findings)
        },
    );
    with_cleanup(judge, cx.remove_keys(&all_keys(&masters, keys_of))).await
}

pub(super) async fn two_slots_queued(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let keys_of = |master: &Master<'_>| vec![cx.key_in(master.slot, "one"), cx.key_in(master.other, "other")];
    let judge = judge_masters(
        cx,
        &masters,
        "keys of two slots queued, -CROSSSLOT at EXEC, and nothing written",
        async |master, connection| {
            let keys = keys_of(master);
            let steps = [
                ("MULTI", "+OK"),
                ("SET @1 1", "+QUEUED"),
                ("SET @2 1", "+QUEUED"),
                ("EXEC", "-CROSSSLOT*"),
                ("EXISTS @1", ":0"),
                ("EXISTS @2", ":0"),
            ];
            Ok(play(master.member(), connection, &[&keys[0], &keys[1]], &steps).await?)
        },
    );
    with_cleanup(judge, cx.remove_keys(&all_keys(&masters, keys_of))).await
}

pub(super) async fn watched_key(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    let judge = judge_masters(
        cx,
        &masters,
        "EXEC -> nil after a watched key was changed, and carried out when it was not",
        async |master, connection| {
            let (member, keys) = (master.member(), pair(cx, master));
            let keys = [keys[0].as_str(), keys[1].as_str()];
            let mut findings = play(member, connection, &keys, &[("WATCH @1", "+OK")]).await?;
            let mut other = cx.connect(&member.address).await?;
            findings.extend(play(member, &mut other, &keys, &[("SET @1 changed", "+OK")]).await?);
            let steps = [
                ("MULTI", "+OK"),
                ("SET @2 1", "+QUEUED"),
                ("EXEC", "nil"),
                ("EXISTS @2", ":0"),
                ("WATCH @1", "+OK"),
                ("MULTI", "+OK"),
                ("SET @2 1", "+QUEUED"),
                ("EXEC", "[+OK]"),
            ];
            findings.extend(play(member, connection, &keys, &steps).await?);
            Ok(findings)
        },
    );
    let keys = all_keys(&masters, |master| pair(cx, master));
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn without_multi(cx: &Context) -> Outcome {
    cx.judge_every_node("-ERR for EXEC and DISCARD without MULTI", async |member, connection| {
        let steps = [("EXEC", "-ERR*without MULTI*"), ("DISCARD", "-ERR*without MULTI*")];
        Ok(play(member, connection, &[], &steps).await?)
    })
    .await
}
