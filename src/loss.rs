//! Servers that are taken away together, as a loss does it: with nothing that the deployment can do before.

use crate::case::Capability;
use crate::check::{Look, eventually};
use crate::cluster::node::{Member, NodeId};
use crate::context::{Context, Fault};
use crate::verdict::{Outcome, Stop};
use futures::future::join_all;
use std::time::Instant;

/// Takes servers away together, until faults are undone; the instant at which the last of them was gone.
///
/// They are killed, where the target can: a deployment that hands over before it stops a server has no time to. What a
/// graceful stop would have saved is saved before. Else they are stopped gracefully, and the caller looks whether anything
/// was handed over ([`not_handed_over`]).
///
/// # Errors
/// When it could not be done.
pub async fn lose(cx: &Context, members: &[Member]) -> Result<Instant, Stop> {
    let fault = match kills(cx) {
        true => Fault::Kill,
        false => Fault::KeepAway,
    };
    if fault == Fault::Kill {
        for saved in join_all(members.iter().map(|member| save(cx, member))).await {
            saved?;
        }
    }
    for gone in join_all(members.iter().map(|member| cx.inject(fault, member))).await {
        gone?;
    }
    Ok(Instant::now())
}

fn kills(cx: &Context) -> bool {
    cx.capabilities().contains(&Capability::Kill)
}

/// Has a server save its data where it would do so at its end: with save points, and without an append-only file. One that
/// shows no settings is left alone.
async fn save(cx: &Context, member: &Member) -> Outcome {
    let has = async |directive: &str, without: &str| {
        let value = cx.setting(member, directive).await?;
        Ok::<bool, Stop>(value.is_some_and(|value| value != without))
    };
    if !has("save", "").await? || has("appendonly", "no").await? {
        return Ok(());
    }
    // While another save runs, or a replica is synchronised, it is refused.
    let what = format!("{member} saves its data before it is killed");
    eventually(cx, &what, cx.timing().sync(), async || {
        let reply = cx.connect(&member.address).await?.call(&["SAVE"]).await?;
        Ok(match reply.is_ok() {
            true => Look::Reached(()),
            false => Look::NotYet(format!("SAVE -> {reply}")),
        })
    })
    .await
}

/// Whether masters that were stopped gracefully had handed their slots over before: then the survivors know one of them as
/// a replica, and it was no loss. Who was killed had no time to.
///
/// # Errors
/// That such a loss cannot be made on this target, where one had.
pub async fn not_handed_over(cx: &Context, survivors: &[Member], lost: &[(&Member, &NodeId)]) -> Outcome {
    if kills(cx) {
        return Ok(());
    }
    let view = cx.look_among(survivors.to_vec()).await;
    let replica = |id: &NodeId| {
        view.nodes
            .iter()
            .any(|node| node.line(id).is_some_and(|line| line.is_replica()))
    };
    match lost.iter().find(|(_, id)| replica(id)) {
        Some((member, _)) => Err(Stop::Unsupported(format!(
            "{member} had handed its slots over before it ended, and this target cannot kill a server: nothing is lost"
        ))),
        None => Ok(()),
    }
}
