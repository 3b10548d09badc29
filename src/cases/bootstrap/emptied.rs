//! The case of chapter BOOT about a bootstrap that finds itself on an empty volume beside a living cluster.

use super::make_a_replica;
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, steadily};
use crate::cluster::node::{Member, NodeId};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, with_cleanup};
use crate::reintegration::reintegrate;
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const LEFT_ALONE: Case = Case {
    id: CaseId("BOOT-22"),
    title: "a bootstrap on an empty volume makes no second cluster and resets no peer",
    requirement: "A bootstrap pod that comes back empty MUST rejoin or stay out, and never make a second cluster or reset peers.",
    source: "Kubernetes documentation, StatefulSets; seed lines 22-44; measured on 7.0.15: it stays alone",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::LoseVolume, Capability::Tended],
    features: &[],
    bound: "T_sched + T_hook until it is back, or longer not Ready, then T_sync + 30 s; held for T_stable",
    controls: &["bootstrap-resets-a-peer"],
    method: "Makes the server whose start runs the bootstrap a replica (Kubernetes: the pod with the hook), kills it, loses its volume, \
             and lets it come back. Every other node must keep its id, role, slots and epoch all the time; the new server must own no slot, \
             and be a member known to all or know nobody. The report says which, and whether its pod is Ready. Afterwards the suite itself makes the cluster whole.",
    run: |cx| Box::pin(left_alone(cx)),
};

/// Each node but one: its id, its master, its slots, its epoch.
fn peers(view: &ClusterView, but: &str) -> BTreeMap<String, String> {
    let others = view.nodes.iter().filter(|node| node.member.name != but);
    others
        .filter_map(|node| Some((node, node.myself()?)))
        .map(|(node, line)| {
            let slots: Vec<String> = line.slots.iter().map(ToString::to_string).collect();
            let master = line.master.as_deref().unwrap_or("itself");
            let told = format!(
                "{}, master {master}, slots {}, epoch {}",
                line.id,
                slots.join(","),
                line.config_epoch
            );
            (node.member.name.clone(), told)
        })
        .collect()
}

/// The server whose start runs the bootstrap.
async fn bootstrapper(cx: &Context) -> Result<String, Stop> {
    if let Some(deployment) = cx.shared().target.deployment() {
        return crate::hook::bootstrap_pod(deployment);
    }
    let members = cx.members().await?;
    let last = members.last().ok_or_else(|| Mismatch::new("servers", "none"))?;
    Ok(last.name.clone())
}

async fn left_alone(cx: &Context) -> Outcome {
    let name = bootstrapper(cx).await?;
    make_a_replica(cx, &name).await?;
    let view = cx.view().await?;
    let place = view
        .of(&name)
        .and_then(|node| Some((node.member.clone(), node.myself()?)));
    let (victim, line) = place.ok_or_else(|| Mismatch::new(format!("the server {name}"), "none"))?;
    let master = line.master.as_deref().and_then(|id| view.by_id(id));
    let slot = master.and_then(|node| node.inner_slot());
    let slot = slot.ok_or_else(|| Mismatch::new(format!("a master of {name}"), "none"))?;
    let before = peers(&view, &name);
    let judged = async {
        let lost = async { cx.inject(Fault::LoseVolume, &victim).await.map(|_| ()) };
        with_cleanup(lost, cx.undo_faults()).await?;
        let bound = cx.timing().scheduling() + cx.timing().hook();
        let returned = eventually(cx, &format!("{name} is back"), bound, async || {
            back(cx, &name, &line.id).await
        })
        .await;
        match returned {
            // A probe that asks for a cluster that is well keeps an empty server out, for ever. The bootstrap has had its time.
            Err(Stop::Mismatch(_)) if is_new(cx, &name, &line.id).await? => {
                cx.note(format!(
                    "{name} answers, and its pod is not Ready after {:.0} s",
                    bound.as_secs_f64()
                ));
            }
            returned => returned?,
        }
        let hold = cx.timing().stable();
        let bound = cx.timing().sync() + Duration::from_secs(30) + hold;
        let what = format!("{name} is a member or alone, and its peers are as they were");
        steadily(cx, &what, hold, bound, async || {
            let findings = disturbed(&cx.look().await?, &before, &name);
            Ok(match findings.is_empty() {
                true => Look::Reached(()),
                false => Look::NotYet(findings.join("\n")),
            })
        })
        .await?;
        let view = cx.look().await?;
        let known = view.of(&name).map_or(0, |node| node.nodes.len());
        cx.note(match known {
            1 => "outcome: the empty server stays alone".to_owned(),
            _ => format!("outcome: the empty server is a member again, under a new id; it knows {known} nodes"),
        });
        Ok(())
    };
    with_cleanup(judged, reintegrate(cx, &victim, &line.id, slot)).await
}

/// Whether the server is there again under another id than before, and its pod Ready where it has one: then its hook has ended.
async fn back(cx: &Context, name: &str, old_id: &NodeId) -> Result<Look<()>, Stop> {
    if let Some(deployment) = cx.shared().target.deployment() {
        let pods = deployment.pods().await?;
        let pod = pods.iter().find(|pod| pod.name == name);
        if pod.is_none_or(|pod| !pod.ready) {
            let seen = pod.map_or("there is none", |pod| pod.trouble.as_deref().unwrap_or(&pod.phase));
            return Ok(Look::NotYet(format!("pod {name}: {seen}")));
        }
    }
    match is_new(cx, name, old_id).await? {
        true => Ok(Look::Reached(())),
        false => Ok(Look::NotYet(format!("{name} does not answer"))),
    }
}

/// Whether the server answers, and under another id than before.
async fn is_new(cx: &Context, name: &str, old_id: &NodeId) -> Result<bool, Stop> {
    let view = cx.look().await?;
    let line = view.of(name).and_then(|node| node.myself());
    match line.is_some_and(|line| line.id == *old_id) {
        true => Err(anyhow::anyhow!("{name} has its old id: its volume was not lost").into()),
        false => Ok(line.is_some()),
    }
}

/// What has changed at the peers of the server that came back empty, and what it does that it must not.
fn disturbed(view: &ClusterView, before: &BTreeMap<String, String>, name: &str) -> Vec<String> {
    let now = peers(view, name);
    let changed = before.iter().filter(|(peer, told)| now.get(*peer) != Some(told));
    let mut findings: Vec<String> = changed
        .map(|(peer, told)| {
            format!(
                "{peer}: {}, before: {told}",
                now.get(peer).map_or("no answer", String::as_str)
            )
        })
        .collect();
    let Some(empty) = view.of(name) else {
        findings.push(format!("{name} does not answer"));
        return findings;
    };
    let slots = empty.own_slots().len();
    if slots > 0 {
        findings.push(format!("{name} owns {slots} slots"));
    }
    let id = empty.myself().map_or("", |line| line.id.as_str());
    let others: Vec<&Member> = view
        .nodes
        .iter()
        .map(|node| &node.member)
        .filter(|member| member.name != name)
        .collect();
    let knowing = view
        .nodes
        .iter()
        .filter(|node| node.member.name != name && node.line(id).is_some());
    let known = view.nodes.iter().filter_map(|node| node.myself());
    let known = known
        .filter(|line| line.id != id && empty.line(&line.id).is_some())
        .count();
    match (knowing.count(), known) {
        (0, 0) if empty.nodes.len() == 1 => {}
        (knowing, known) if knowing == others.len() && known == others.len() => {}
        (knowing, known) => findings.push(format!(
            "{name} is known to {knowing} of {0} nodes, and knows {known} of {0} and {1} in all",
            others.len(),
            empty.nodes.len()
        )),
    }
    findings
}
