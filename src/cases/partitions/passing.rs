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

pub(super) async fn short_cut(cx: &Context) -> Outcome {
    let timing = cx.timing();
    let length = timing.node_timeout() * 3 / 5;
    if timing.node_timeout() < length + TRIED_AGAIN {
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
    cut_off_for(cx, &cuts, &shard, length).await?;
    hold(cx, "a failover would come", timing.failover()).await;
    let record = writer.stop().await;
    expect_no_failover(&before, &cx.view().await?)?;
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
