//! Making a deployment whole again after a volume was lost: what its people have to do where it does not do so itself.

use crate::check::{Look, eventually, expect};
use crate::cluster::node::Member;
use crate::context::Context;
use crate::joining::meet;
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};

/// Makes a server that came back empty a replica of its old shard, named by one of its slots: all forget its old
/// id, it meets them, and is told its master. Does nothing where the cluster is whole already. The server is known by its
/// name: where its platform has made it anew, it has another address.
///
/// # Errors
/// When the cluster is not whole in the end.
pub async fn reintegrate(cx: &Context, empty: &Member, old_id: &str, slot: u16) -> Outcome {
    if cx.look().await?.not_whole(cx.shape()).is_empty() {
        return Ok(());
    }
    let empty = &present(cx, empty).await?;
    cx.note_time(format!("{empty} is brought back by the suite"));
    let (owner, owner_id) = taken_over(cx, old_id, slot).await?;
    for member in cx.members().await? {
        // The empty one knows its old id where the deployment has begun to bring it back, and would tell the others again.
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

/// A server of that name, with the address that it has at present. One that is on its way back is waited for.
///
/// # Errors
/// A mismatch when there is none in the end.
async fn present(cx: &Context, named: &Member) -> Result<Member, Stop> {
    let what = format!("{} is there", named.name);
    eventually(
        cx,
        &what,
        cx.timing().scheduling() + cx.timing().arrange(),
        async || {
            let members = cx.members().await?;
            Ok(match members.into_iter().find(|member| member.name == named.name) {
                Some(member) => Look::Reached(member),
                None => Look::NotYet("no such server".into()),
            })
        },
    )
    .await
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
