//! One node whose links are cut in part, or who is no master.

use crate::check::{Look, eventually, look_but, no_findings, steadily};
use crate::cluster::connection::LinkError;
use crate::cluster::node::{Member, NodeView};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Cut, Traffic, Way, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::partition::{alone, expect_no_failover, hold, until_replicated, until_served};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::Duration;

/// What the other nodes say against a master whose client port is cut: another state than `ok`, flags, other owners.
async fn complaints(cx: &Context, before: &ClusterView, shard: &Shard) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for node in before.nodes.iter().filter(|node| node.member.name != shard.master.name) {
        let mut connection = cx.connect(&node.member.address).await?;
        let now = NodeView::ask(&mut connection, node.member.clone()).await?;
        let (name, state) = (&node.member.name, now.info("cluster_state"));
        findings.extend((state != "ok").then(|| format!("{name}: cluster_state:{state}")));
        for line in now.nodes.iter().filter(|line| line.is("fail") || line.is("fail?")) {
            findings.push(format!("{name}: flags {}", before.name_of(&line.id)));
        }
        let owner = |view: &NodeView| {
            let line = view.line(&shard.master_id)?;
            Some((line.is_master(), line.slots.clone(), line.config_epoch))
        };
        findings.extend((owner(&now) != owner(node)).then(|| format!("{name}: {} is another", shard.master.name)));
    }
    Ok(findings)
}

/// Expects a master's client port to give no answer.
async fn expect_silence(cx: &Context, shard: &Shard) -> Result<(), Stop> {
    let seen = match cx.connect_raw(&shard.master.address).await {
        Ok(mut connection) => match connection.call(&["PING"]).await {
            Ok(reply) => reply.to_string(),
            Err(LinkError::TimedOut { .. } | LinkError::Unreachable { .. }) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Err(LinkError::TimedOut { .. } | LinkError::Unreachable { .. }) => return Ok(()),
        Err(error) => error.to_string(),
    };
    let expected = format!("no answer from the client port of {}", shard.master.name);
    Err(Mismatch::new(expected, format!("PING -> {seen}")).into())
}

pub(super) async fn client_port(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let shard = pick_shard(cx, &before).await?;
    let timing = cx.timing();
    let watched = async {
        cx.cut(&[Cut::ClientPort(shard.master.clone())]).await?;
        let watch = timing.failover();
        let silence = expect_silence(cx, &shard);
        let what = "every other node says cluster_state:ok and names the same masters";
        let steady = steadily(cx, what, watch, watch + timing.reply(), async || {
            let findings = complaints(cx, &before, &shard).await?;
            Ok(if findings.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(findings.join("\n"))
            })
        });
        let (silent, steady) = futures::join!(silence, steady);
        silent?;
        steady
    };
    with_cleanup(watched, cx.undo_faults()).await?;
    until_replicated(cx, &shard, timing.arrange()).await?;
    Ok(expect_no_failover(&before, &cx.view().await?)?)
}

pub(super) async fn one_way(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let shard = pick_shard(cx, &before).await?;
    let timing = cx.timing();
    let cut = async {
        let master = [shard.master.clone()];
        let cut = cx.cut(&[alone(&before, &master, Traffic::All, Way::There)]).await?;
        let what = format!("every other node flags {} as fail", shard.master.name);
        let seen = eventually(cx, &what, timing.fail(), async || {
            flagged(cx, &shard.master, &shard.master_id).await
        });
        let seen = seen.await;
        hold(
            cx,
            "one direction is cut",
            timing.majority().saturating_sub(cut.elapsed()),
        )
        .await;
        seen
    };
    with_cleanup(cut, cx.undo_faults()).await?;
    let after = until_served(cx, timing.converge()).await?;
    let owner = after
        .owner_of(shard.slot)
        .map_or("nobody", |node| node.member.name.as_str());
    cx.note(format!(
        "{} was cut off in one direction, {owner} owns its slots",
        shard.master.name
    ));
    Ok(())
}

/// Whether every other node answers, and flags a node `fail`.
async fn flagged(cx: &Context, member: &Member, id: &str) -> Result<Look<()>, Stop> {
    let (others, mut findings) = look_but(cx, std::slice::from_ref(member), cx.shape().nodes() - 1).await?;
    let others = others.nodes.iter();
    let not_yet = others.filter(|node| node.line(id).is_none_or(|line| !line.is("fail")));
    findings.extend(not_yet.map(|node| format!("not yet by {}", node.member.name)));
    Ok(if findings.is_empty() {
        Look::Reached(())
    } else {
        Look::NotYet(findings.join("\n"))
    })
}

pub(super) async fn replica_alone(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let shard = pick_shard(cx, &before).await?;
    let timing = cx.timing();
    let writer = Writer::start_patiently(cx, &shard.slots()).await?;
    let watched = async {
        let replica = [shard.replica.clone()];
        let cut = cx.cut(&[alone(&before, &replica, Traffic::All, Way::Both)]).await?;
        let what = format!("every other node flags {} as fail", shard.replica.name);
        let seen = eventually(cx, &what, timing.fail(), async || {
            flagged(cx, &shard.replica, &shard.replica_id).await
        })
        .await;
        cx.measure("flagged by every other node", cut.elapsed(), None, Some(timing.fail()));
        // An election that it began alone would show by then.
        let rest = (3 * timing.node_timeout()).saturating_sub(cut.elapsed());
        hold(cx, "the replica stays alone", rest.max(Duration::from_secs(1))).await;
        seen
    };
    let watched = with_cleanup(watched, cx.undo_faults()).await;
    let record = writer.stop().await;
    watched?;
    // Where the replica did take over, the cluster may be down for a moment: then nothing can be read.
    let after = until_served(cx, timing.heal()).await?;
    let lost = record.lost(cx).await?;
    expect_no_failover(&before, &after)?;
    let findings: Vec<String> = record.interruptions(timing.reply())?.into_iter().chain(lost).collect();
    no_findings(
        "no interruption of writes, and every acknowledged write there",
        &findings,
    )?;
    until_replicated(cx, &shard, timing.arrange()).await?;
    Ok(())
}
