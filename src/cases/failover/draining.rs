//! The case of chapter FAIL about the maintenance of a host.

use super::losing::writable_again;
use super::{gap_bounds, judge_gap};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{eventually, expect};
use crate::cluster::node::Member;
use crate::context::{Context, Pod, Upheaval, with_cleanup};
use crate::failover::pick_shard;
use crate::settle;
use crate::verdict::{Mismatch, Outcome};
use crate::workload::Writer;
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
    method: "Cordons the node that a master is on and asks for the eviction of every pod of the deployment there, all at once as `kubectl \
             drain` does, under writes to every shard. A refusal (429) for the sake of the PodDisruptionBudget is asked again, until \
             nothing more can happen: a pod whose volume stays with the node finds no other place, and none may follow it. At least one \
             pod must have been let go; every shard must be written to with the node still cordoned, and no gap be longer than a \
             failover. Uncordoned, the cluster must be whole in time. The report says how many pods left, and how many were refused.",
    run: |cx| Box::pin(drained(cx)),
};

async fn drained(cx: &Context) -> Outcome {
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let before = cx.deployment()?.pods().await?;
    let master = before.iter().find(|pod| pod.name == shard.master.name);
    let Some(host) = master.and_then(|pod| pod.host.clone()) else {
        return Err(anyhow::anyhow!("pod {} has no node at present", shard.master.name).into());
    };
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
        eventually(cx, &what, number * bound, async || writable_again(cx, &shard).await).await
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
    Ok(judge_gap(cx, longest.unwrap_or(Duration::ZERO), None)?)
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
