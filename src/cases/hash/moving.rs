//! Keys of one tag while their slot changes hands.

use super::checks::{apart, keys_in_slot};
use crate::cases::failover::swapping::{swap_back, swap_in_time};
use crate::check::{self, no_findings};
use crate::cluster::node::NodeView;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::failover::pick_shard;
use crate::migration::{Mover, bring_home, empty_slots};
use crate::verdict::{Mismatch, Outcome};

/// The values of the pair, as [`apart`] writes them.
const VALUES: [&str; 2] = ["Angela", "White"];

/// Expects the pair of an earlier [`apart`] to be still there on the slot's owner, together, and to be usable together.
async fn still_together(cx: &Context, slot: u16, pair: &[String], when: &str) -> Outcome {
    let view = cx.view().await?;
    let owner = view.owner_of(slot);
    let owner: &NodeView = owner.ok_or_else(|| Mismatch::new(format!("an owner of slot {slot} {when}"), "nobody"))?;
    let mut connection = cx.connect(&owner.member.address).await?;
    let got = connection.call(&["MGET", &pair[0], &pair[1]]).await?;
    let both = Reply::Array(
        VALUES
            .map(|value| Reply::Bulk(bytes::Bytes::from_static(value.as_bytes())))
            .to_vec(),
    );
    let mut findings: Vec<String> = check::unless(got == both, &owner.member, "MGET of the pair", &got)
        .into_iter()
        .collect();
    findings.extend(apart(cx, owner, slot, pair).await?);
    for other in view.masters().filter(|node| node.member != owner.member) {
        let left = keys_in_slot(cx, other, slot).await?;
        if pair.iter().any(|key| left.iter().any(|name| name == key.as_bytes())) {
            findings.push(format!("{}: a key of the pair is here too", other.member));
        }
    }
    let expected = format!("both keys together on the owner of their slot {when}");
    Ok(no_findings(expected, &findings)?)
}

pub(super) async fn colocation_survives(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let node = view.by_id(&shard.master_id);
    let other = shard.other_slots.first().and_then(|slot| view.owner_of(*slot));
    let (Some(node), Some(other)) = (node, other.and_then(NodeView::myself)) else {
        return Err(Mismatch::new("two masters with slots", "there are fewer").into());
    };
    let slot = empty_slots(cx, node, 1).await?[0];
    let pair = ["name", "surname"].map(|name| cx.key_in(slot, name));
    let judge = async {
        let written = apart(cx, node, slot, &pair).await?;
        no_findings("both keys together before anything changes", &written)?;
        swap_in_time(cx, &shard.replica, &shard.replica_id).await?;
        still_together(cx, slot, &pair, "after the failover").await?;
        swap_back(cx, &shard).await?;
        still_together(cx, slot, &pair, "after handing back").await?;
        let view = cx.view().await?;
        let mut mover = Mover::between(cx, &view, &shard.master_id, &other.id).await?;
        mover.move_slots(&[slot]).await?;
        still_together(cx, slot, &pair, "after the move").await?;
        bring_home(cx, &[slot], &shard.master_id).await?;
        still_together(cx, slot, &pair, "after its return").await
    };
    let cleanup = async {
        swap_back(cx, &shard).await?;
        bring_home(cx, &[slot], &shard.master_id).await?;
        cx.remove_keys(&pair).await
    };
    with_cleanup(judge, cleanup).await
}
