//! Addresses that change for several nodes at once.

use crate::away::{self, Away, Way, away_and_back, known_within, whereabouts};
use crate::check::{Look, eventually, expect};
use crate::cluster::node::Member;
use crate::context::{Context, Upheaval};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::Instant;

/// Expects all servers back, and every node known where it is.
pub(in crate::cases) fn all_known(cx: &Context, seen: &Away) -> Result<(), Mismatch> {
    let (back, known) = (seen.back.clone()?, seen.known.clone()?);
    cx.measure("every server is there again", back, None, Some(away::back_within(cx)));
    cx.measure("whole, and known where it is", known, None, Some(known_within(cx)));
    cx.note(format!(
        "{} of {} servers came back under other addresses",
        seen.moved,
        cx.shape().nodes()
    ));
    Ok(())
}

pub(super) async fn every_address_at_once(cx: &Context) -> Outcome {
    let seen = away_and_back(cx, Way::Recreated).await?;
    if seen.back.is_ok() && seen.known.is_ok() && seen.moved < cx.shape().nodes() {
        return Err(Stop::Unsupported(format!(
            "the platform gave other addresses to {} servers only",
            seen.moved
        )));
    }
    Ok(all_known(cx, &seen)?)
}

pub(super) async fn exchanged(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    // Replicas: that no master is away keeps what elections do out of it.
    let replicas: Vec<&Member> = view.replicas().map(|node| &node.member).collect();
    let [one, other, ..] = replicas.as_slice() else {
        return Err(Mismatch::new("two replicas", replicas.len().to_string()).into());
    };
    cx.upheave(&Upheaval::SwapAddresses((*one).clone(), (*other).clone()))
        .await?;
    let since = Instant::now();
    let bound = known_within(cx);
    let what = "the cluster is whole, and every node known where it is";
    let took = eventually(cx, what, bound, async || {
        let missing = whereabouts(cx).await?;
        Ok(match missing.is_empty() {
            true => Look::Reached(since.elapsed()),
            false => Look::NotYet(missing.join("\n")),
        })
    })
    .await?;
    cx.measure("known where they are", took, None, Some(bound));
    let after = cx.view().await?;
    let swapped = |from: &Member, to: &Member| {
        let id = view.of(&from.name).and_then(|node| Some(node.myself()?.id.clone()));
        let now = id.and_then(|id| Some(after.by_id(&id)?.member.address.clone()));
        now.as_ref() == Some(&to.address)
    };
    let seen = format!("{one} and {other} are not where the other was");
    let is = swapped(one, other) && swapped(other, one);
    Ok(expect(
        is,
        format!("{one} and {other}, each where the other was"),
        seen,
    )?)
}
