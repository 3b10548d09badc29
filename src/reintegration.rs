//! Making a deployment whole again after a volume was lost: what its people have to do where it does not do so itself.

use crate::check::{Look, eventually, expect};
use crate::cluster::node::Member;
use crate::context::Context;
use crate::joining::meet;
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};

/// Makes a server that came back empty a replica of its old shard, named by one of its slots: the others forget its old
/// id, it meets them, and is told its master. Does nothing where the cluster is whole already.
///
/// # Errors
/// When the cluster is not whole in the end.
pub async fn reintegrate(cx: &Context, empty: &Member, old_id: &str, slot: u16) -> Outcome {
    if cx.look().await?.not_whole(cx.shape()).is_empty() {
        return Ok(());
    }
    // Where addresses change with every start, it is no more where it was.
    let members = cx.members().await?;
    let empty = members.iter().find(|member| member.name == empty.name).unwrap_or(empty);
    cx.note_time(format!("{empty} is brought back by the suite"));
    let (owner, owner_id) = taken_over(cx, old_id, slot).await?;
    for member in &members {
        let mut connection = cx.connect(&member.address).await?;
        let reply = connection.call(&["CLUSTER", "FORGET", old_id]).await?;
        let gone = reply.is_ok() || reply.error().is_some_and(|text| text.contains("Unknown node"));
        expect(gone, "+OK", format!("{member}: CLUSTER FORGET {old_id} -> {reply}"))?;
    }
    let what = format!("{} replicates {}", empty.name, owner.name);
    meet(cx, &empty.address, &[&owner.address], &what, async || {
        let mut connection = cx.connect(&empty.address).await?;
        let reply = connection.call(&["CLUSTER", "REPLICATE", &owner_id]).await?;
        Ok(match reply.is_ok() {
            true => Look::Reached(()),
            false => Look::NotYet(format!("CLUSTER REPLICATE -> {reply}")),
        })
    })
    .await?;
    let what = format!("{}: a whole cluster with {} in it", cx.case_id(), empty.name);
    settle::until_whole(cx.shared(), &what)
        .await
        .map_err(|missing| Mismatch::new("a whole cluster, once the suite has made it so", missing).into())
}

/// Waits until every server that is left gives the slot to another living one; its id. A node that is forgotten while it
/// still has slots leaves them to nobody: where no replica was promoted by itself, one is now.
async fn taken_over(cx: &Context, old_id: &str, slot: u16) -> Result<(Member, String), Stop> {
    let what = "nobody gives slots to the lost server";
    eventually(cx, what, cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let gives = |line: &crate::cluster::node::NodeLine| line.id == old_id && !line.slots.is_empty();
        let giving = view.nodes.iter().find(|node| node.nodes.iter().any(gives));
        if giving.is_some() {
            for replica in view.replicas_of(old_id) {
                let mut connection = cx.connect(&replica.member.address).await?;
                let reply = connection.call(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await?;
                cx.note_time(format!("{}: CLUSTER FAILOVER TAKEOVER -> {reply}", replica.member));
            }
        }
        let owner = view.owner_of(slot).and_then(|node| Some((node, node.myself()?)));
        Ok(match (giving, owner) {
            (None, Some((owner, line))) => Look::Reached((owner.member.clone(), line.id.clone())),
            (Some(node), _) => Look::NotYet(format!("{} gives it slots", node.member)),
            (None, None) => Look::NotYet(format!("no server claims slot {slot}")),
        })
    })
    .await
}
