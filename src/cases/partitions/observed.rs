//! What the one observed partition showed, judged from each side.

use crate::cases::failover::{Lost, judge_in_time};
use crate::check::{expect, no_findings};
use crate::context::Context;
use crate::partition::{self, Attempt, Partition, Told, recovery_bounds};
use crate::verdict::{Mismatch, Outcome};
use std::collections::BTreeSet;
use std::time::Instant;

/// Expects the master that was alone to have stopped in time, and to have said why.
fn expect_stopped(cx: &Context, partition: &Partition) -> Outcome {
    let bound = cx.timing().minority();
    let expected = format!(
        "{} takes no write later than {:.1} s after the cut, and answers -CLUSTERDOWN from then until the heal",
        partition.alone.0.name,
        bound.as_secs_f64()
    );
    let last = partition.last_of_minority().map_or(partition.cut, |last| last.answered);
    let stopped = last.saturating_duration_since(partition.cut);
    cx.measure("the minority's last write after the cut", stopped, None, Some(bound));
    let taken = format!("took a write {:.1} s after the cut", stopped.as_secs_f64());
    expect(stopped <= bound, expected.as_str(), taken)?;
    let attempts = partition.minority.attempts().iter();
    let later = attempts.filter(|attempt| attempt.sent > last && attempt.answered < partition.healing);
    let later: Vec<&Attempt> = later.collect();
    let unreachable = |attempt: &&Attempt| matches!(attempt.told, Told::Unreachable(_));
    if !later.is_empty() && later.iter().all(unreachable) {
        let alone = &partition.alone.0;
        return Err(anyhow::anyhow!("the suite's way to {alone} was broken once it had taken its last write").into());
    }
    Ok(no_findings(expected, &unfit(later, partition.cut + bound))?)
}

/// What a master that is alone told its client after the last write that it took, and should not have: anything but
/// refusals; another than `-CLUSTERDOWN` once that was there, or to what was sent after `by`; and no `-CLUSTERDOWN` at all.
/// Where the way to it was broken it has told nothing.
fn unfit<'a>(attempts: impl IntoIterator<Item = &'a Attempt>, by: Instant) -> Vec<String> {
    let mut down = false;
    let mut found = BTreeSet::new();
    for attempt in attempts {
        match &attempt.told {
            Told::Refused(text) if text.starts_with("-CLUSTERDOWN") => down = true,
            // It may miss its replicas (`min-replicas-to-write`) before it misses the other masters.
            Told::Refused(text) if text.starts_with('-') && !down && attempt.sent <= by => {}
            Told::Refused(text) | Told::Nothing(text) => {
                found.insert(format!("it then answered: {text}"));
            }
            Told::Done => {
                found.insert("it then answered: a write that was done".to_owned());
            }
            Told::Unreachable(_) => {}
        }
    }
    if !down {
        found.insert("it never answered -CLUSTERDOWN".to_owned());
    }
    found.into_iter().collect()
}

/// Expects the other side to have replaced the master in time: with a lost election in the time for one.
fn expect_recovered(cx: &Context, partition: &Partition) -> Result<(), Mismatch> {
    let recovered = partition.recovery.clone()?;
    let bounds = recovery_bounds(cx);
    cx.measure(
        "the majority takes writes after the cut",
        recovered,
        Some(cx.timing().failover_floor()),
        Some(bounds.0),
    );
    cx.note(format!(
        "{} was alone, {} was promoted",
        partition.alone.0, partition.successor.0
    ));
    let what = format!(
        "a replica of {} and every other master take writes",
        partition.alone.0.name
    );
    judge_in_time(cx, &what, recovered, Lost::Seen(partition.election_lost), bounds)
}

pub(super) async fn minority_stops(cx: &Context) -> Outcome {
    let partition = partition::observe(cx).await?;
    expect_stopped(cx, &partition)
}

pub(super) async fn majority_recovers(cx: &Context) -> Outcome {
    Ok(expect_recovered(cx, &*partition::observe(cx).await?)?)
}

pub(super) async fn no_overlap(cx: &Context) -> Outcome {
    let partition = partition::observe(cx).await?;
    partition.recovery.clone()?;
    let (Some(last), Some(first)) = (partition.last_of_minority(), partition.first_of_majority()) else {
        return Err(Mismatch::new("a write on either side", "none").into());
    };
    let overlap = last.answered.saturating_duration_since(first.sent);
    let margin = first.sent.saturating_duration_since(last.answered);
    let bound = cx.timing().overlap();
    cx.measure("the minority stopped before", margin, None, None);
    cx.measure("both sides took writes", overlap, None, Some(bound));
    let expected = format!("both sides take writes for at most {:.1} s", bound.as_secs_f64());
    Ok(expect(
        overlap <= bound,
        expected,
        format!("{:.1} s", overlap.as_secs_f64()),
    )?)
}

pub(super) async fn old_master_follows(cx: &Context) -> Outcome {
    let partition = partition::observe(cx).await?;
    let demoted = partition.demotion.clone()?;
    cx.measure("a replica after the heal", demoted, None, Some(cx.timing().demotion()));
    let late = |attempt: &&Attempt| attempt.sent >= partition.healing;
    let stale: Vec<String> = partition
        .minority
        .done()
        .filter(late)
        .map(|attempt| attempt.value.clone())
        .collect();
    let expected = format!("no write sent to {} after the heal is done", partition.alone.0.name);
    Ok(no_findings(expected, &stale)?)
}

pub(super) async fn wait_tells_the_truth(cx: &Context) -> Outcome {
    let partition = partition::observe(cx).await?;
    let confirmations = partition.confirmations.iter();
    let during: Vec<_> = confirmations
        .filter(|confirmation| confirmation.written > partition.cut && confirmation.answered < partition.healing)
        .collect();
    cx.count("WAIT in the minority", during.len(), "commands");
    expect(
        !during.is_empty(),
        "WAIT after a write of the cut",
        "no write was acknowledged",
    )?;
    let boasts: Vec<String> = during
        .iter()
        .filter(|confirmation| confirmation.reply.integer() != Some(0))
        .map(|confirmation| {
            let after = confirmation.written - partition.cut;
            format!(
                "{:.1} s after the cut: WAIT 1 300 -> {}",
                after.as_secs_f64(),
                confirmation.reply
            )
        })
        .collect();
    let expected = format!("WAIT 1 300 -> :0 on {}, which is alone", partition.alone.0.name);
    Ok(no_findings(expected, &boasts)?)
}

/// What the successor holds in the end.
fn held(partition: &Partition) -> Result<BTreeSet<&str>, Mismatch> {
    partition.recovery.clone()?;
    Ok(partition.held.iter().map(String::as_str).collect())
}

/// The successor's writes that were acknowledged and are not held; and those of another replica that took some.
fn lost_by_successor(partition: &Partition, held: &BTreeSet<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for client in partition.of_replicas() {
        let lost = client.done().filter(|attempt| !held.contains(attempt.value.as_str()));
        found.extend(lost.map(|attempt| format!("{}, acknowledged by {}", attempt.value, client.member.name)));
    }
    found
}

/// The writes that the old master was sent once its successor had taken one, and that are held all the same.
fn merged(partition: &Partition, held: &BTreeSet<&str>) -> Vec<String> {
    let Some(first) = partition.first_of_majority() else {
        return Vec::new();
    };
    let attempts = partition.minority.attempts().iter();
    let late = attempts.filter(|attempt| attempt.sent > first.answered && held.contains(attempt.value.as_str()));
    late.map(|attempt| {
        format!(
            "{}, sent to {} when {} had taken over",
            attempt.value, partition.alone.0.name, partition.successor.0.name
        )
    })
    .collect()
}

pub(super) async fn loss_is_bounded(cx: &Context) -> Outcome {
    let partition = partition::observe(cx).await?;
    let held = held(&partition)?;
    let bound = cx.timing().minority();
    let lost = partition
        .minority
        .done()
        .filter(|attempt| !held.contains(attempt.value.as_str()));
    let lost: Vec<&Attempt> = lost.collect();
    cx.count("acknowledged writes", partition.minority.done().count(), "writes");
    cx.count("lost writes", lost.len(), "writes");
    let outside = lost
        .iter()
        .filter(|attempt| attempt.answered < partition.replicated || attempt.answered > partition.cut + bound);
    let findings = outside.map(|attempt| {
        let since = attempt.answered.saturating_duration_since(partition.cut);
        format!("{}, {:.1} s after the cut", attempt.value, since.as_secs_f64())
    });
    let mut findings: Vec<String> = findings.collect();
    findings.extend(lost_by_successor(&partition, &held));
    match &partition.lost_elsewhere {
        Ok(lost) => findings.extend(lost.iter().cloned()),
        Err(mismatch) => findings.push(mismatch.to_string()),
    }
    let expected = format!(
        "no acknowledged write lost but those of the minority, from the cut until {:.1} s after it",
        bound.as_secs_f64()
    );
    Ok(no_findings(expected, &findings)?)
}

pub(super) async fn bus_alone(cx: &Context) -> Outcome {
    let partition = partition::observe_bus(cx).await?;
    let confirmations = partition.confirmations.iter();
    let confirmed = confirmations
        .filter(|confirmation| confirmation.written > partition.cut && confirmation.reply.integer() >= Some(1))
        .count();
    cx.count("WAIT answered :1 during the cut", confirmed, "commands");
    expect_stopped(cx, &partition)?;
    expect_recovered(cx, &partition)?;
    let expected = "WAIT 1 300 -> :1 at first, since client ports are not cut";
    Ok(expect(
        confirmed > 0,
        expected,
        "no write was confirmed during the cut",
    )?)
}

pub(in crate::cases) async fn last_failover_wins(cx: &Context) -> Outcome {
    let partition = partition::observe(cx).await?;
    let held = held(&partition)?;
    let nodes = partition.same.clone()?;
    cx.count("nodes that hold the same", nodes, "nodes");
    cx.count("values on each", held.len(), "values");
    let mut findings = lost_by_successor(&partition, &held);
    findings.extend(merged(&partition, &held));
    let expected = "every write that the successor acknowledged, and none that the old master was sent after it had taken \
                    over, on every node of the shard";
    Ok(no_findings(expected, &findings)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::time::Duration;

    const DOWN: &str = "-CLUSTERDOWN The cluster is down";
    const LONELY: &str = "-NOREPLICAS Not enough good replicas to write.";

    /// Attempts a second apart, of which what each was told is given; `by` is when the third is sent.
    fn unfit_of(told: &[Told]) -> Vec<String> {
        let began = Instant::now();
        let after = |place: usize| began + Duration::from_secs(place as u64);
        let attempts = told.iter().enumerate().map(|(place, told)| Attempt {
            value: format!("minority-{place}"),
            sent: after(place),
            answered: after(place),
            told: told.clone(),
        });
        let attempts: Vec<Attempt> = attempts.collect();
        unfit(&attempts, after(2))
    }

    fn refused(text: &str) -> Told {
        Told::Refused(text.into())
    }

    fn broken() -> Told {
        Told::Unreachable("the way to it broke".into())
    }

    #[rstest]
    #[case::down(vec![refused(DOWN), refused(DOWN)])]
    #[case::lonely_first(vec![refused(LONELY), refused(LONELY), refused(LONELY), refused(DOWN)])]
    #[case::a_broken_way(vec![refused(DOWN), broken(), refused(DOWN), broken()])]
    #[case::a_broken_way_first(vec![broken(), broken(), broken(), broken(), refused(DOWN)])]
    fn a_master_that_stops_is_fit(#[case] told: Vec<Told>) {
        assert!(unfit_of(&told).is_empty());
    }

    #[rstest]
    #[case::nothing_at_all(vec![])]
    #[case::lonely_for_ever(vec![refused(LONELY), refused(LONELY)])]
    #[case::lonely_too_long(vec![refused(LONELY), refused(LONELY), refused(LONELY), refused(LONELY), refused(DOWN)])]
    #[case::lonely_again(vec![refused(DOWN), refused(LONELY)])]
    #[case::no_refusal(vec![refused("+OK"), refused(DOWN)])]
    #[case::silence(vec![Told::Nothing("no reply".into()), refused(DOWN)])]
    #[case::a_write(vec![refused(DOWN), Told::Done])]
    fn one_that_goes_on_is_not(#[case] told: Vec<Told>) {
        assert_eq!(unfit_of(&told).len(), 1);
    }
}
