//! Cuts that are over before anybody is called failed.

use crate::check::{expect, no_findings};
use crate::context::{Context, Traffic, Way};
use crate::failover::{highest_epoch, pick_shard};
use crate::partition::{alone, cut_off_for, expect_no_failover, hold, until_replicated, until_served};
use crate::verdict::{Outcome, Stop};
use crate::workload::Writer;
use std::time::Duration;

/// After so long TCP tries for the first time to make a connection again; and a turn of the servers' clocks.
const TRIED_AGAIN: Duration = Duration::from_millis(1200);

/// Whether links may come back after a cut of that length only when the node-timeout is over.
fn may_be_missed(cut: Duration, node_timeout: Duration) -> bool {
    node_timeout < cut + TRIED_AGAIN
}

pub(super) async fn short_cut(cx: &Context) -> Outcome {
    let timing = cx.timing();
    let length = timing.node_timeout() * 3 / 5;
    if may_be_missed(length, timing.node_timeout()) {
        return Err(Stop::Unsupported(format!(
            "after a cut of 0.6·NT = {:.1} s TCP may not try again before the node-timeout",
            length.as_secs_f64()
        )));
    }
    let before = cx.view().await?;
    let shard = pick_shard(cx, &before).await?;
    let writer = Writer::start(cx, &shard.slots()).await?;
    let cuts = [alone(
        &before,
        std::slice::from_ref(&shard.master),
        Traffic::All,
        Way::Both,
    )];
    let parted = cut_off_for(cx, &cuts, &shard, length).await?;
    cx.measure(
        "the cut, with its making and its mending",
        parted,
        Some(length),
        Some(timing.node_timeout().saturating_sub(TRIED_AGAIN)),
    );
    hold(cx, "a failover would come", timing.failover()).await;
    let record = writer.stop().await;
    let kept = expect_no_failover(&before, &cx.view().await?);
    if kept.is_err() && may_be_missed(parted, timing.node_timeout()) {
        return Err(Stop::Unsupported(format!(
            "there was a failover, but the cut of {:.1} s took {:.1} s to be made and mended: TCP, which tries again up to {:.1} s later, may not have done so \
             before the node-timeout of {:.1} s",
            length.as_secs_f64(),
            parted.as_secs_f64(),
            TRIED_AGAIN.as_secs_f64(),
            timing.node_timeout().as_secs_f64()
        )));
    }
    kept?;
    cx.count("acknowledged writes", record.acked(), "writes");
    no_findings("every acknowledged write there", &record.lost(cx).await?)?;
    until_replicated(cx, &shard, timing.arrange()).await?;
    cx.remove_keys(&[cx.key_in(shard.slot, "cut off")]).await
}

/// How often the links come and go.
const CUTS: u64 = 10;

pub(super) async fn flapping(cx: &Context) -> Outcome {
    let before = cx.view().await?;
    let shard = pick_shard(cx, &before).await?;
    let half = cx.timing().node_timeout() / 2;
    let cuts = [alone(
        &before,
        std::slice::from_ref(&shard.master),
        Traffic::All,
        Way::Both,
    )];
    for number in 1..=CUTS {
        cut_off_for(cx, &cuts, &shard, half).await?;
        hold(cx, &format!("mended {number} of {CUTS}"), half).await;
    }
    let after = until_served(cx, cx.timing().heal()).await?;
    cx.remove_keys(&[cx.key_in(shard.slot, "cut off")]).await?;
    let (first, last) = (highest_epoch(&before), highest_epoch(&after));
    cx.count(
        "elections",
        usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX),
        "epochs",
    );
    let expected = format!("cluster_current_epoch of at most {}, from {first}", first + CUTS);
    Ok(expect(last <= first + CUTS, expected, last.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::in_time(3000, 5000, false)]
    #[case::just_in_time(3800, 5000, false)]
    #[case::made_and_mended_slowly(3801, 5000, true)]
    #[case::longer_than_the_node_timeout(6000, 5000, true)]
    #[case::a_short_node_timeout(600, 1000, true)]
    fn a_cut_may_be_missed_where_tcp_tries_again_too_late(
        #[case] cut: u64,
        #[case] node_timeout: u64,
        #[case] missed: bool,
    ) {
        let [cut, node_timeout] = [cut, node_timeout].map(Duration::from_millis);
        assert_eq!(may_be_missed(cut, node_timeout), missed);
    }
}
