//! What the one observed failover showed, judged from each side, and who the masters are at present.

use super::{Lost, gap_bounds, judge_gap};
use crate::check::{Look, eventually, expect, no_findings};
use crate::context::Context;
use crate::failover::{self, Failover, Health, Watched, highest_epoch};
use crate::soak;
use crate::verdict::Outcome;
use crate::workload::{Fate, Ledger};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) async fn promotion(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    let promoted = failover.promotion.clone()?;
    let (bound, _) = gap_bounds(cx);
    cx.note(format!(
        "{} was stopped, {} was promoted",
        failover.victim.0, failover.successor.0
    ));
    cx.measure("promotion", promoted, Some(cx.timing().failover_floor()), Some(bound));
    cx.count("acknowledged writes", failover.writes.acked(), "writes");
    if let Some(lost) = &failover.lost {
        cx.count("ledgers with a lost write", lost.len(), "ledgers");
    }
    let back = failover.writable.clone()?;
    cx.measure("writes to the shard come back", back, None, None);
    let floor = Some(cx.timing().failover_floor());
    let lost = Lost::Seen(failover.election_lost());
    Ok(judge_gap(cx, failover.write_gap(), floor, lost)?)
}

pub(super) async fn graceful_stop(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    failover.writable.clone()?;
    let gap = failover.write_gap();
    if gap < cx.timing().node_timeout() {
        cx.note("the deployment handed its slots over before it stopped");
    } else {
        cx.note("no handover: the failover began when the server was gone");
    }
    Ok(judge_gap(cx, gap, None, Lost::Seen(failover.election_lost()))?)
}

pub(super) async fn new_epoch(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let after = highest_epoch(&failover.during);
    let before = failover.epoch_before;
    expect(
        after > before,
        format!("cluster_current_epoch above {before}"),
        after.to_string(),
    )?;
    let successor = &failover.successor.1;
    let mut findings = Vec::new();
    for node in &failover.during.nodes {
        let masters = node
            .nodes
            .iter()
            .filter(|line| line.is_master() && !line.slots.is_empty());
        let highest = masters.max_by_key(|line| line.config_epoch);
        if highest.is_none_or(|line| &line.id != successor) {
            let shown = highest.map_or("none".into(), |line| failover.during.name_of(&line.id));
            findings.push(format!(
                "{}: the master with the highest epoch is {shown}",
                node.member.name
            ));
        }
        let current: u64 = node.info("cluster_current_epoch").parse().unwrap_or(0);
        if current <= before {
            findings.push(format!("{}: cluster_current_epoch:{current}", node.member.name));
        }
    }
    no_findings(
        format!(
            "{} with the highest epoch, on every survivor",
            failover.successor.0.name
        ),
        &findings,
    )?;
    Ok(())
}

pub(super) async fn rejoin(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let returned = failover.returned.clone()?;
    let bound = cx.timing().scheduling() + cx.timing().sync() + Duration::from_secs(2);
    cx.measure("back as a synchronised replica", returned, None, Some(bound));
    Ok(())
}

pub(super) async fn data_kept(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let count = failover.data.clone()?;
    cx.count("keys read by value", count, "keys");
    Ok(())
}

pub(super) async fn roles_by_discovery(cx: &Context) -> Outcome {
    let findings = eventually(
        cx,
        "every node names the same masters",
        cx.timing().gossip(),
        async || {
            let view = cx.view().await?;
            let mut findings = Vec::new();
            for node in &view.nodes {
                for other in &view.nodes {
                    let Some(id) = other.myself().map(|line| &line.id) else {
                        findings.push(format!("{} has no line of its own", other.member.name));
                        continue;
                    };
                    let seen = node
                        .line(id)
                        .is_some_and(|line| line.is_master() && !line.slots.is_empty());
                    if seen != other.role.is_master() {
                        let says = if seen {
                            "a master with slots"
                        } else {
                            "no master with slots"
                        };
                        findings.push(format!(
                            "{}: {} is {says}, but its ROLE is {:?}",
                            node.member.name, other.member.name, other.role
                        ));
                    }
                }
            }
            let masters: Vec<String> = view.masters().map(|node| node.member.name.clone()).collect();
            Ok(if findings.is_empty() {
                Look::Reached(masters)
            } else {
                Look::NotYet(findings.join("\n"))
            })
        },
    )
    .await?;
    cx.note(format!("masters: {}", findings.join(", ")));
    let expected = cx.shape().masters;
    expect(
        findings.len() == expected,
        format!("{expected} masters"),
        findings.join(", "),
    )?;
    Ok(())
}

/// A ping that a busy machine left unanswered for a moment before the fault lets the time run from then.
pub(super) const HICCUP: Duration = Duration::from_millis(500);

pub(super) async fn detection(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    let watched = &failover.watched;
    let timing = cx.timing();
    let victim = &failover.victim.0.name;
    let during = |at: Instant| at < failover.restored;
    // Its end is between these two and `gone`, which a slow platform tells late.
    let alive = watched.alive.map_or(failover.fault, |alive| alive.max(failover.fault));
    let mut findings = Vec::new();
    for name in &watched.survivors {
        let changes: Vec<_> = watched
            .sightings
            .iter()
            .filter(|sighting| sighting.by == *name && during(sighting.seen))
            .collect();
        if let Some(back) = changes.windows(2).find(|pair| pair[1].health < pair[0].health) {
            findings.push(format!(
                "{name}: {victim} was {:?}, and then {:?}",
                back[0].health, back[1].health
            ));
        }
        let early = changes.first().map(|first| first.seen.saturating_duration_since(alive));
        if let Some(early) = early.filter(|after| *after + HICCUP < timing.node_timeout()) {
            findings.push(format!("{name}: a flag after {:.1} s already", early.as_secs_f64()));
        }
        match watched.first(name, Health::Failed).filter(|failed| during(failed.seen)) {
            // The last look that did not show it yet must have been within the bound.
            Some(failed) if failed.before.saturating_duration_since(failover.gone) <= timing.fail() => {}
            Some(failed) => {
                let late = failed.before.saturating_duration_since(failover.gone);
                findings.push(format!("{name}: not `fail` yet after {:.1} s", late.as_secs_f64()));
            }
            None => findings.push(format!("{name}: never `fail`")),
        }
    }
    let at_least = |health| {
        watched
            .sightings
            .iter()
            .filter(move |sighting| sighting.health >= health)
    };
    let after = |at: Instant| at.saturating_duration_since(failover.gone);
    if let Some(first) = at_least(Health::Suspected).map(|sighting| sighting.seen).min() {
        cx.measure(
            "first flag",
            after(first),
            Some(timing.node_timeout()),
            Some(timing.pfail()),
        );
    }
    if let Some(first) = at_least(Health::Failed).map(|sighting| sighting.seen).min() {
        cx.measure(
            "first flag `fail`",
            after(first),
            Some(timing.node_timeout()),
            Some(timing.fail()),
        );
    }
    // By the last look of each that did not show a flag yet: what a slow look shows may be older.
    let unflagged = at_least(Health::Suspected).map(|sighting| after(sighting.before)).min();
    if let Some(late) = unflagged.filter(|late| *late > timing.pfail() + HICCUP) {
        findings.push(format!("nobody: a flag within {:.1} s", late.as_secs_f64()));
    }
    if !watched
        .sightings
        .iter()
        .any(|sighting| sighting.health == Health::Suspected)
    {
        cx.note("no look fell between `fail?` and `fail`");
    }
    no_findings(
        format!(
            "{victim} flagged `fail?` and then `fail` by every survivor, not before {:.1} s, and `fail` within {:.1} s",
            timing.node_timeout().as_secs_f64(),
            timing.fail().as_secs_f64()
        ),
        &findings,
    )?;
    Ok(())
}

/// The instants between two at which the owner of a ledger's key said that the cluster is down.
fn refused_for_all(ledger: &Ledger, (since, until): (Instant, Instant)) -> Vec<Instant> {
    let down = |fate: &Fate| matches!(fate, Fate::Refused(text) if text.starts_with("-CLUSTERDOWN"));
    let refused = ledger
        .writes
        .iter()
        .filter(|write| write.at > since && write.at < until && down(&write.fate));
    refused.map(|write| write.at).collect()
}

pub(super) async fn other_shards(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    let (writes, timing) = (&failover.writes, cx.timing());
    let bound = Duration::from_secs(2);
    // As for the victim's own shard: an election may be lost and held again, which shows in the epochs.
    let with_lost_election = bound + timing.failover_retry().saturating_sub(timing.failover_hard());
    let (bounds, lost) = ((bound, with_lost_election), Lost::Seen(failover.election_lost()));
    let mut findings = Vec::new();
    let others = writes.ledgers.get(1..).unwrap_or_default();
    expect(!others.is_empty(), "writes to other shards", "there is no other shard")?;
    let mut longest = Duration::ZERO;
    for ledger in others {
        let gap = ledger.longest_gap(failover.fault, failover.restored);
        let refused = refused_for_all(ledger, (failover.fault, failover.restored));
        if refused.is_empty() && gap > bound && !writes.direct {
            return Err(anyhow::anyhow!(
                "slot {}: no write answered for {:.1} s, and none refused: the suite's own way to the nodes had stalled",
                ledger.slot,
                gap.as_secs_f64()
            )
            .into());
        }
        longest = longest.max(gap);
        if gap > lost.limit(gap, bounds).0 {
            findings.push(format!(
                "slot {}: {:.1} s without an acknowledged write",
                ledger.slot,
                gap.as_secs_f64()
            ));
        }
        let early = refused.first().map(|at| at.saturating_duration_since(failover.fault));
        if let Some(early) = early.filter(|after| *after + HICCUP < timing.node_timeout()) {
            findings.push(format!(
                "slot {}: CLUSTERDOWN after {:.1} s already",
                ledger.slot,
                early.as_secs_f64()
            ));
        }
    }
    cx.measure("longest gap of another shard", longest, None, Some(bound));
    let (limit, longer) = lost.limit(longest, bounds);
    if longer {
        lost.note(cx);
    }
    no_findings(
        format!(
            "every other shard refusing writes between detection and promotion only, for at most {:.1} s",
            limit.as_secs_f64()
        ),
        &findings,
    )?;
    Ok(())
}

/// What a write that was not acknowledged was told by a server; nothing where the connection failed.
fn told(fate: &Fate) -> Option<&str> {
    match fate {
        Fate::Refused(text) => Some(text),
        // Without a reply it is the text of a connection's error, which begins with an address.
        Fate::Unsent(text) => text.starts_with('-').then_some(text.as_str()),
        Fate::Acked | Fate::Indeterminate(_) => None,
    }
}

pub(super) async fn clean_errors(cx: &Context) -> Outcome {
    let failover: &Failover = &*failover::observe(cx).await?;
    let watched = &failover.watched;
    let attempts = failover.writes.ledgers.iter().flat_map(|ledger| &ledger.writes);
    let refusals = attempts.filter_map(|write| told(&write.fate));
    let mut findings: BTreeSet<String> = Watched::strange_refusals(refusals);
    findings.extend(watched.strange.iter().cloned());
    for (kind, count) in &watched.reads {
        cx.count(&format!("reads: {kind}"), *count, "reads");
    }
    let read = watched.reads.get("the value").copied().unwrap_or(0);
    expect(read > 0, "the key's value read at least once", "never")?;
    let findings: Vec<String> = findings.into_iter().collect();
    no_findings(
        "the written value, -MOVED to a node of the cluster, -CLUSTERDOWN, another refusal for the time being, or no reply",
        &findings,
    )?;
    Ok(())
}

pub(super) async fn no_false_failovers(cx: &Context) -> Outcome {
    let soak = soak::observe(cx).await?;
    cx.measure("watched under load", soak.lasted, None, None);
    cx.count("looks at all nodes", soak.looks, "looks");
    cx.count("rewrites and snapshots begun", soak.background, "times");
    expect(soak.writes.acked() > 0, "acknowledged writes", "none")?;
    let findings = [soak.detections.as_slice(), soak.changes.as_slice()].concat();
    no_findings(
        "no flag fail? or fail, no FAIL message, no other role or epoch",
        &findings,
    )?;
    Ok(())
}
