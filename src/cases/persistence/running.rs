//! The bodies of chapter PERS about servers that run.

use super::files::masters;
use super::returning::{numbered, unread, write_numbered};
use crate::case::Capability;
use crate::cases::consistency::shards;
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::{Fields, Member, parse_fields};
use crate::context::{Context, Fault};
use crate::crash::{flushed, full_bound};
use crate::verdict::{Outcome, Stop};
use crate::workload::Writer;

async fn persistence(connection: &mut Connection) -> Result<Fields, Stop> {
    let reply = connection.ask(&["INFO", "persistence"]).await?;
    Ok(parse_fields(&reply).map_err(|reason| connection.nonsense("INFO persistence", reason))?)
}

/// The fields that are not as they must be.
fn unlike(member: &Member, fields: &Fields, expected: &[(&str, &str)]) -> Vec<String> {
    expected
        .iter()
        .map(|(name, value)| (name, value, fields.get(*name).map_or("(no such field)", String::as_str)))
        .filter(|(_, value, seen)| *value != seen)
        .map(|(name, _, seen)| format!("{member}: INFO persistence -> {name}:{seen}"))
        .collect()
}

pub(super) async fn append_only(cx: &Context) -> Outcome {
    let expected = "appendonly yes, aof_enabled:1, aof_last_write_status:ok on every node";
    cx.judge_every_node(expected, async |member, connection| {
        let reply = connection.call(&["CONFIG", "GET", "appendonly"]).await?;
        let value = reply.array().and_then(|items| items.get(1)?.text());
        let mut findings = Vec::new();
        if reply.error().is_some() {
            cx.note(format!(
                "{member}: CONFIG GET appendonly -> {reply}; INFO alone was asked"
            ));
        } else {
            findings.extend(check::unless(
                value == Some("yes"),
                member,
                "CONFIG GET appendonly",
                &reply,
            ));
        }
        let fields = persistence(connection).await?;
        findings.extend(unlike(
            member,
            &fields,
            &[("aof_enabled", "1"), ("aof_last_write_status", "ok")],
        ));
        Ok(findings)
    })
    .await
}

pub(super) async fn configuration_saved(cx: &Context) -> Outcome {
    cx.judge_every_node("CLUSTER SAVECONFIG -> +OK on every node", async |member, connection| {
        let reply = connection.call(&["CLUSTER", "SAVECONFIG"]).await?;
        let finding = check::unless(reply.is_ok(), member, "CLUSTER SAVECONFIG", &reply);
        Ok(finding.into_iter().collect())
    })
    .await
}

/// Has a node rewrite its append-only file, and waits for the end of it.
async fn rewrite(cx: &Context, member: &Member, connection: &mut Connection) -> Result<Vec<String>, Stop> {
    let reply = connection.call(&["BGREWRITEAOF"]).await?;
    // One that is under way already does as well.
    let under_way = reply
        .error()
        .is_none_or(|text| text.to_lowercase().contains("already in progress"));
    if let Some(finding) = check::unless(under_way, member, "BGREWRITEAOF", &reply) {
        return Ok(vec![finding]);
    }
    let what = format!("the rewrite on {} to end", member.name);
    let fields = eventually(cx, &what, cx.timing().rewrite(), async || {
        let fields = persistence(connection).await?;
        let open = unlike(
            member,
            &fields,
            &[("aof_rewrite_in_progress", "0"), ("aof_rewrite_scheduled", "0")],
        );
        let ended = fields
            .get("aof_last_rewrite_time_sec")
            .is_some_and(|seconds| seconds != "-1");
        Ok(match open.first() {
            Some(open) => Look::NotYet(open.clone()),
            None if ended
                || fields
                    .get("aof_last_bgrewrite_status")
                    .is_some_and(|status| status != "ok") =>
            {
                Look::Reached(fields)
            }
            None => Look::NotYet(format!("{member}: no rewrite has ended yet")),
        })
    })
    .await?;
    Ok(unlike(
        member,
        &fields,
        &[("aof_last_bgrewrite_status", "ok"), ("aof_last_write_status", "ok")],
    ))
}

pub(super) async fn rewritten(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let slots: Vec<u16> = shards(cx, &view)?.iter().map(|shard| shard.slot).collect();
    let writer = Writer::start_patiently(cx, &slots).await?;
    let outcome = cx
        .judge_every_node(
            "a rewrite that ends with the status ok on every node",
            async |member, connection| rewrite(cx, member, connection).await,
        )
        .await;
    let record = writer.stop().await;
    cx.count("acknowledged writes", record.acked(), "writes");
    let lost = record.lost(cx).await;
    outcome?;
    check::no_findings("every acknowledged write there", &lost?)?;
    let can = cx.capabilities();
    if !can.contains(&Capability::Scratch) || !can.contains(&Capability::Crash) {
        cx.note("what a rewritten file holds was not read: the target cannot kill servers of its own");
        return Ok(());
    }
    cx.with_scratch(&masters(cx, 1, &["appendonly yes"]), async |cx| from_the_file(cx).await)
        .await
}

/// Has the one server beside the deployment rewrite its append-only file under writes, kills it, and expects all that it
/// has acknowledged: a server that runs answers from its memory, one that has started anew from its file.
async fn from_the_file(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shards = shards(cx, &view)?;
    let Some(shard) = shards.first() else {
        return Err(anyhow::anyhow!("there is no server beside the deployment").into());
    };
    let member = &shard.master.member;
    let keys = numbered(cx, shard.slot);
    write_numbered(cx, member, &keys, 0).await?;
    let writer = Writer::start_patiently(cx, &[shard.slot]).await?;
    let rewriting = async {
        let mut connection = cx.connect(&member.address).await?;
        rewrite(cx, member, &mut connection).await
    };
    let rewriting = rewriting.await;
    let record = writer.stop().await;
    check::no_findings("a rewrite that ends with the status ok", &rewriting?)?;
    flushed(cx, member).await?;
    cx.inject(Fault::Crash, member).await?;
    // A master that has just started refuses for a while.
    eventually(cx, "the server serves again", full_bound(cx), async || {
        Ok(match unread(cx, member, &keys).await? {
            Err(refused) => Look::NotYet(refused),
            Ok(wrong) => {
                check::no_findings(format!("every one of {} keys in the new file", keys.len()), &wrong)?;
                Look::Reached(())
            }
        })
    })
    .await?;
    cx.count("acknowledged writes beside the deployment", record.acked(), "writes");
    let lost = record.lost(cx).await?;
    Ok(check::no_findings("every acknowledged write in the new file", &lost)?)
}
