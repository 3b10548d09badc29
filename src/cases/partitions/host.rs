//! The case of chapter PART about the loss of a whole host.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::failover::swapping::take_over;
use crate::cases::failover::{Lost, crash_bounds, judge_in_time};
use crate::check::{self, Look, eventually, expect, no_findings};
use crate::cluster::node::Member;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Upheaval, with_cleanup};
use crate::failover::{highest_epoch, until_votes};
use crate::placement::{hosts, placed, to_lose};
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};

pub(super) const HOST_LOST: Case = Case {
    id: CaseId("PART-16"),
    title: "the loss of a whole Kubernetes node is survived",
    requirement: "Losing a whole Kubernetes node MUST be survived where it holds no whole shard and no majority of the masters.",
    source: "Kubernetes documentation, Nodes, section Conditions, and Force Delete StatefulSet Pods; catalogue REPL-12 and REPL-13",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::LoseHost],
    features: &[],
    bound: "T_fo_hard; one lost election: T_fo_retry; whole again within T_sched + T_sync + 2·NT of the node's return",
    controls: &[],
    method: "Chooses a node that holds a master and no whole shard, lets replicas elsewhere take over where it holds too many masters, \
             writes a key to every shard with `WAIT 1`, and freezes the node with all that runs on it. Every server elsewhere must say \
             `cluster_state:ok`, and every shard be written to, with its key there by value. The longer bound is for an election that was lost: then \
             `cluster_current_epoch` has risen by two (with several masters on the node it does not tell). The node goes on: the cluster must be whole in \
             time. Then the node is started again, as after a loss of power: whole once more, with every key.",
    run: |cx| Box::pin(host_lost(cx)),
};

/// What is to be lost, and what must be there all the same.
struct Loss {
    host: String,
    /// The servers that are not on it.
    survivors: Vec<Member>,
    /// How many masters with slots are on it: so many elections are to be won.
    masters: u64,
    /// The highest epoch of any node before.
    epoch: u64,
    /// A slot of every shard with a key in it.
    keys: Vec<(u16, String)>,
}

async fn host_lost(cx: &Context) -> Outcome {
    let loss = arrange(cx).await?;
    let frozen = async {
        let fault = cx.upheave(&Upheaval::FreezeHost(loss.host.clone())).await?;
        let bounds = crash_bounds(cx);
        let what = format!("every shard is written to without {}", loss.host);
        let (took, epoch) = eventually(cx, &what, bounds.1, async || {
            // A slow look says nothing of the servers.
            let looked = fault.elapsed();
            let view = cx.look_among(loss.survivors.clone()).await;
            Ok(match served(cx, &view, &loss.keys).await? {
                Look::Reached(()) => Look::Reached((looked, highest_epoch(&view))),
                Look::NotYet(missing) => Look::NotYet(missing),
            })
        })
        .await?;
        cx.measure(
            "every shard written to again",
            took,
            Some(cx.timing().failover_floor()),
            Some(bounds.0),
        );
        let lost = election_lost(loss.masters, epoch.saturating_sub(loss.epoch));
        Ok(judge_in_time(cx, &what, took, lost, bounds)?)
    };
    with_cleanup(frozen, cx.undo_faults()).await?;
    whole(cx, &loss, "goes on").await?;
    cx.upheave(&Upheaval::RestartHost(loss.host.clone())).await?;
    whole(cx, &loss, "was started again").await?;
    let keys: Vec<String> = loss.keys.iter().map(|(_, key)| key.clone()).collect();
    cx.remove_keys(&keys).await
}

/// Whether an election was lost, where so many masters were to be replaced and the epoch rose by so much. Replicas of two may
/// ask for votes at one and the same epoch: then one of them loses, and the epoch does not show it.
fn election_lost(masters: u64, rose: u64) -> Lost {
    match masters {
        0 | 1 => Lost::Seen(rose > masters),
        _ => Lost::Unknown,
    }
}

async fn arrange(cx: &Context) -> Result<Loss, Stop> {
    let view = cx.view().await?;
    let hosts = hosts(cx).await?;
    let chosen = to_lose(&placed(&view, &hosts)?).map_err(Stop::Unsupported)?;
    take_over(cx, &chosen.promote, &format!("{} holds no majority", chosen.host)).await?;
    let view = cx.view().await?;
    let on_host = |member: &Member| hosts.get(&member.name) == Some(&chosen.host);
    let (mut keys, mut masters) = (Vec::new(), 0);
    for master in view.masters() {
        let Some(slot) = master.own_slots().first().copied() else {
            continue;
        };
        if let Some(line) = master.myself().filter(|_| on_host(&master.member)) {
            masters += 1;
            let replicas = view.replicas_of(&line.id).filter_map(|replica| replica.myself());
            let ids: Vec<&str> = replicas
                .map(|line| line.id.as_str())
                .chain([line.id.as_str()])
                .collect();
            until_votes(cx, &master.member, &ids).await;
        }
        let key = cx.key_in(slot, "kept");
        let mut connection = cx.connect(&master.member.address).await?;
        let set = connection.call(&["SET", &key, "kept"]).await?;
        let wait = connection.call(&["WAIT", "1", "4000"]).await?;
        expect(
            set.is_ok() && wait.integer() >= Some(1),
            "SET -> +OK, WAIT 1 4000 -> :1, before the fault",
            format!("{}: SET -> {set}, WAIT 1 4000 -> {wait}", master.member),
        )?;
        keys.push((slot, key));
    }
    let servers = view.nodes.iter().map(|node| node.member.clone());
    Ok(Loss {
        survivors: servers.filter(|member| !on_host(member)).collect(),
        masters,
        epoch: highest_epoch(&view),
        host: chosen.host,
        keys,
    })
}

/// Whether these servers say `cluster_state:ok`, and the owner of each key's slot among them has its value and takes a
/// write.
async fn served(cx: &Context, view: &ClusterView, keys: &[(u16, String)]) -> Result<Look<()>, Stop> {
    let mut missing: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
    let states = view.nodes.iter().filter(|node| node.info("cluster_state") != "ok");
    missing.extend(states.map(|node| format!("{}: cluster_state:{}", node.member, node.info("cluster_state"))));
    for (slot, key) in keys {
        let Some(owner) = view.owner_of(*slot) else {
            missing.push(format!("no server that is left owns slot {slot}"));
            continue;
        };
        let probe = cx.key_in(*slot, "probe");
        let mut connection = cx.connect(&owner.member.address).await?;
        let set = connection.call(&["SET", &probe, "1", "EX", "60"]).await?;
        missing.extend(check::unless(
            set.is_ok(),
            &owner.member,
            format!("SET in slot {slot}"),
            &set,
        ));
        let value = connection.call(&["GET", key]).await?;
        missing.extend(check::unless(
            value.text() == Some("kept"),
            &owner.member,
            format!("GET of the key of slot {slot}"),
            &value,
        ));
    }
    Ok(match missing.is_empty() {
        true => Look::Reached(()),
        false => Look::NotYet(missing.join("\n")),
    })
}

/// Expects the cluster to be whole in time, with every key.
async fn whole(cx: &Context, loss: &Loss, how: &str) -> Outcome {
    let what = format!("PART-16: a whole cluster once {} {how}", loss.host);
    let whole = settle::until_whole(cx.shared(), &what).await;
    whole.map_err(|missing| Mismatch::new(format!("a whole cluster once {} {how}", loss.host), missing))?;
    let lost = match served(cx, &cx.view().await?, &loss.keys).await? {
        Look::Reached(()) => Vec::new(),
        Look::NotYet(missing) => vec![missing],
    };
    Ok(no_findings("every key by value of the owner of its slot", &lost)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::the_one_that_was_won(1, 1, Lost::Seen(false))]
    #[case::one_before_it(1, 2, Lost::Seen(true))]
    #[case::several_before_it(1, 4, Lost::Seen(true))]
    #[case::one_of_each_master(2, 2, Lost::Unknown)]
    #[case::more_than_that(2, 3, Lost::Unknown)]
    fn the_epoch_tells_of_a_lost_election_for_one_master(
        #[case] masters: u64,
        #[case] rose: u64,
        #[case] expected: Lost,
    ) {
        assert_eq!(election_lost(masters, rose), expected);
    }
}
