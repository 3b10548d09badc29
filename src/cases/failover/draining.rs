//! The case of chapter FAIL about the maintenance of a host.

use super::losing::writable_again;
use super::swapping::take_over;
use super::{Lost, gap_bounds, judge_gap};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{eventually, expect};
use crate::cluster::node::Member;
use crate::context::{Context, Pod, Upheaval, with_cleanup};
use crate::failover::{shard_of, until_votes};
use crate::placement::{hosts, placed, to_drain};
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) const DRAINED: Case = Case {
    id: CaseId("FAIL-24"),
    title: "a Kubernetes node with a master can be drained",
    requirement: "Draining a Kubernetes node with a master MUST end with a healthy cluster and respect the PodDisruptionBudget.",
    source: "Kubernetes documentation, Safely Drain a Node, and Specifying a Disruption Budget for your Application",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Drain],
    features: &[],
    bound: "T_shutdown + T_fo_hard; one lost election: T_shutdown + T_fo_retry; whole again within T_sched + T_sync + 2·NT",
    controls: &[],
    method: "Takes a node with two masters, or makes one by `CLUSTER FAILOVER` where a node has a master and another shard's replica. \
             Cordons it and asks for the eviction of every pod of the deployment there, all at once as `kubectl drain` does, under writes to \
             every shard. A refusal (429) for the sake of the PodDisruptionBudget is asked again, until nothing more can happen: a pod \
             whose volume stays with the node finds no other place, and none may follow it. At least one pod must have been let go; every \
             shard must be written to with the node still cordoned, and no shard's gap be longer than a failover. Uncordoned, the cluster must be whole in time. The report says how many pods left, and how many were refused.",
    run: |cx| Box::pin(drained(cx)),
};

async fn drained(cx: &Context) -> Outcome {
    let host = arrange(cx).await?;
    let before = cx.deployment()?.pods().await?;
    let view = cx.view().await?;
    let masters: Vec<&Pod> = before
        .iter()
        .filter(|pod| pod.host.as_ref() == Some(&host))
        .filter(|pod| view.of(&pod.name).is_some_and(|node| !node.own_slots().is_empty()))
        .collect();
    let mut shards = Vec::new();
    for pod in &masters {
        let id = view
            .of(&pod.name)
            .and_then(|node| node.myself())
            .map(|line| line.id.clone());
        let shard = id.and_then(|id| shard_of(&view, &id));
        let shard = shard.ok_or_else(|| Mismatch::new(format!("a connected replica of {}", pod.name), "none"))?;
        until_votes(cx, &shard.master, &shard.ids()).await;
        shards.push(shard);
    }
    let Some(shard) = shards.first() else {
        return Err(Mismatch::new(format!("a master on {host}"), "none").into());
    };
    cx.count("masters on the node", masters.len(), "masters");
    let writer = Writer::start(cx, &shard.slots()).await?;
    let fault = Instant::now();
    let drained = async {
        cx.upheave(&Upheaval::Drain(host.clone())).await?;
        let (gone, stayed) = evicted(&before, &cx.members().await?, &host);
        cx.count("pods evicted", gone.len(), "pods");
        cx.note(format!(
            "evicted from {host}: {}; refused: {}",
            told(&gone),
            told(&stayed)
        ));
        expect(
            !gone.is_empty(),
            format!("at least one pod evicted from {host}"),
            format!("every eviction was refused: {}", told(&stayed)),
        )?;
        let what = format!("every slot is writable with {host} drained");
        let (_, bound) = gap_bounds(cx);
        let number = u32::try_from(gone.len()).unwrap_or(1);
        eventually(cx, &what, number * bound, async || writable_again(cx, shard).await).await
    };
    let outcome = with_cleanup(drained, cx.undo_faults()).await;
    let record = writer.stop().await;
    outcome?;
    let what = format!("FAIL-24: a whole cluster with {host} given pods again");
    let whole = settle::until_whole(cx.shared(), &what).await;
    whole.map_err(|missing| Mismatch::new("a whole cluster once the node is uncordoned", missing))?;
    cx.count("acknowledged writes", record.acked(), "writes");
    cx.count("ledgers with a lost write", record.lost(cx).await?.len(), "ledgers");
    let gaps = record.ledgers.iter();
    let longest = gaps.map(|ledger| ledger.longest_gap(fault, record.ended)).max();
    // Several masters may have been replaced: the epochs rose for each.
    Ok(judge_gap(cx, longest.unwrap_or(Duration::ZERO), None, Lost::Unknown)?)
}

/// Sees to it that a host has two masters where one can. Gives the host.
async fn arrange(cx: &Context) -> Result<String, Stop> {
    let all = cx.deployment()?.hosts().await?.into_iter();
    let free: BTreeSet<String> = all.filter(|host| host.schedulable).map(|host| host.name).collect();
    let chosen = to_drain(&placed(&cx.view().await?, &hosts(cx).await?)?, &free);
    let chosen = chosen.ok_or_else(|| {
        Stop::Unsupported(
            "no node that can be given pods has a master with slots: the others are cordoned or tainted".into(),
        )
    })?;
    take_over(cx, &chosen.promote, &format!("{} holds two masters", chosen.host)).await?;
    Ok(chosen.host)
}

/// The pods that a host had before, by whether their servers have left it since. A pod whose server has ended can be on the
/// API for a minute more; and its successor has another address.
fn evicted(before: &[Pod], now: &[Member], host: &str) -> (Vec<String>, Vec<String>) {
    let there = before.iter().filter(|pod| pod.host.as_deref() == Some(host));
    let stayed = |pod: &&Pod| {
        let mut now = now.iter();
        now.any(|member| member.name == pod.name && Some(&member.address.host) == pod.address.as_ref())
    };
    let (stayed, gone): (Vec<&Pod>, Vec<&Pod>) = there.partition(stayed);
    let names = |pods: Vec<&Pod>| pods.into_iter().map(|pod| pod.name.clone()).collect();
    (names(gone), names(stayed))
}

fn told(names: &[String]) -> String {
    match names.is_empty() {
        true => "none".into(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;

    fn pod(name: &str, address: &str, host: &str) -> Pod {
        Pod {
            name: name.into(),
            uid: String::new(),
            address: Some(address.into()),
            phase: "Running".into(),
            ready: true,
            leaving: false,
            restarts: 0,
            trouble: None,
            host: Some(host.into()),
            claims: Vec::new(),
        }
    }

    fn member(name: &str, address: &str) -> Member {
        Member {
            name: name.into(),
            address: Address::new(address, 6379),
        }
    }

    #[test]
    fn a_pod_has_left_when_its_server_is_none_or_another() {
        let before = [
            pod("r-0", "10.0.0.1", "one"),
            pod("r-1", "10.0.0.2", "one"),
            pod("r-2", "10.0.0.3", "one"),
            pod("r-3", "10.0.0.4", "two"),
        ];
        let now = [member("r-0", "10.0.0.9"), member("r-1", "10.0.0.2")];
        let (gone, stayed) = evicted(&before, &now, "one");
        assert_eq!(
            (gone, stayed),
            (vec!["r-0".to_owned(), "r-2".to_owned()], vec!["r-1".to_owned()])
        );
    }
}
