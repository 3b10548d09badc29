//! Controls of the cases about a platform: servers on loopback with what stands in for one, which does something wrong.

use super::broken::{Nodes, Wrong};
use super::{Control, GOOD};
use crate::case::Capability;
use crate::cluster::node::Member;
use crate::target::{Fault, Target, TargetError, Upheaval};
use futures::future::{BoxFuture, try_join_all};

type Done<'a> = BoxFuture<'a, Result<(), TargetError>>;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "left-alone-at-new-addresses",
        what: "nothing tells servers that came back under other addresses where the others are",
        grants: &[Capability::Tended],
        ..GOOD
    },
    Control {
        name: "left-alone-at-swapped-addresses",
        what: "nothing tells servers that came back at each other's addresses which is which",
        grants: &[Capability::Tended],
        ..GOOD
    },
    Control {
        name: "scaled-in-for-good",
        what: "a scale-in takes a master away whose replica does not take over",
        wrong: Wrong::Upheavals(scaled_in_for_good),
        grants: &[Capability::Scale],
        ..GOOD
    },
    Control {
        name: "data-lost-when-scaled",
        what: "a server has lost its data when there are servers again",
        wrong: Wrong::Upheavals(data_lost),
        grants: &[Capability::Scale],
        ..GOOD
    },
    Control {
        name: "ids-lost-when-applied-again",
        what: "what is applied again makes a node anew",
        wrong: Wrong::Upheavals(ids_lost),
        grants: &[Capability::Reapply],
        ..GOOD
    },
    Control {
        name: "failover-by-the-platform",
        what: "replicas take over only when the platform tells them to",
        wrong: Wrong::Upheavals(failover_by_the_platform),
        grants: &[Capability::LoseApi],
        ..GOOD
    },
    Control {
        name: "bootstrap-resets-a-peer",
        what: "a bootstrap on an empty volume gives a peer another epoch",
        wrong: Wrong::Faults(peer_reset),
        grants: &[Capability::Tended],
        ..GOOD
    },
];

/// From now on no replica takes over by itself.
async fn forbid_failovers(nodes: &mut Nodes<'_>) -> Result<(), TargetError> {
    for node in nodes.all() {
        let command = ["CONFIG", "SET", "cluster-replica-no-failover", "yes"];
        nodes.ask(node, &command).await?;
    }
    Ok(())
}

fn scaled_in_for_good<'a>(target: &'a dyn Target, upheaval: &'a Upheaval) -> Done<'a> {
    Box::pin(async move {
        let Upheaval::ScaleIn(member) = upheaval else {
            return target.upheave(upheaval).await;
        };
        forbid_failovers(&mut Nodes::of(target).await?).await?;
        target.inject(Fault::KeepAway, member).await
    })
}

/// Stops all servers, and removes something of the first one.
async fn all_away(target: &dyn Target, removed: &str) -> Result<(), TargetError> {
    let members = target.members().await?;
    try_join_all(members.iter().map(|member| target.inject(Fault::KeepAway, member))).await?;
    if let Some(folder) = members.first().and_then(|first| target.data_folder(first)) {
        let path = folder.join(removed);
        let gone = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        gone.map_err(|error| TargetError::Surroundings(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

fn data_lost<'a>(target: &'a dyn Target, _upheaval: &'a Upheaval) -> Done<'a> {
    Box::pin(all_away(target, "appendonlydir"))
}

fn ids_lost<'a>(target: &'a dyn Target, _upheaval: &'a Upheaval) -> Done<'a> {
    Box::pin(all_away(target, "nodes.conf"))
}

fn failover_by_the_platform<'a>(target: &'a dyn Target, _upheaval: &'a Upheaval) -> Done<'a> {
    Box::pin(async move { forbid_failovers(&mut Nodes::of(target).await?).await })
}

fn peer_reset<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        target.inject(fault, member).await?;
        if fault == Fault::LoseVolume {
            Nodes::of(target).await?.raise_an_epoch().await?;
        }
        Ok(())
    })
}
