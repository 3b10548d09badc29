//! The read-back of a trial: every ledger from its master and from each of its replicas, and what became of every write.

use super::figures::Watched;
use crate::check::{Look, eventually};
use crate::cluster::node::Member;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::report::scorecard::{LostWrite, Trial};
use crate::verdict::Stop;
use crate::workload::{Fate, Ledger};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Reads a ledger back, and counts what became of its writes. `before` and `view` are the cluster before the fault and now;
/// `by` is the node that all went through, where one alone was written to.
pub(super) async fn count(
    cx: &Context,
    before: &ClusterView,
    view: &ClusterView,
    watched: &Watched<'_>,
    trial: &mut Trial,
    by: Option<&str>,
    ledger: &Ledger,
) -> Result<(), Stop> {
    let there = ledger.read(cx).await?;
    let found: BTreeSet<u64> = there.iter().copied().collect();
    for write in &ledger.writes {
        let found = found.contains(&write.number);
        match &write.fate {
            Fate::Acked => {
                trial.acked += 1;
                if !found {
                    trial.lost.push(LostWrite {
                        slot: ledger.slot,
                        shard: before.owner_of(ledger.slot).map(|owner| owner.member.name.clone()),
                        what: format!("{} of {}", write.number, ledger.key),
                        acked_by: by.map(Into::into),
                        epoch: watched.epoch_of(by, ledger.slot, write.at),
                        since_fault: watched.since_fault(write.at),
                    });
                }
            }
            Fate::Refused(text) | Fate::Unsent(text) => {
                trial.refused += 1;
                if found {
                    trial
                        .phantom
                        .push(format!("{} of {}: {text}", write.number, ledger.key));
                }
            }
            Fate::Indeterminate(_) => trial.indeterminate += 1,
        }
    }
    trial.strange.extend(strange(ledger, &there));
    let owner = view.owner_of(ledger.slot).and_then(|owner| owner.myself());
    let replicas = owner.into_iter().flat_map(|owner| view.replicas_of(&owner.id));
    for replica in replicas {
        // Where the cluster is not whole there is nothing to be waited for.
        let patience = match trial.problem {
            None => cx.timing().sync(),
            Some(_) => Duration::ZERO,
        };
        trial
            .strange
            .extend(unlike(cx, ledger, &replica.member, patience).await?);
    }
    Ok(())
}

/// How a replica's list differs from its master's, where it does so for longer than `patience`.
async fn unlike(cx: &Context, ledger: &Ledger, replica: &Member, patience: Duration) -> Result<Option<String>, Stop> {
    let what = format!("{replica} holds {} as its master does", ledger.key);
    let same = eventually(cx, &what, patience, async || {
        let (of_master, of_replica) = (ledger.read(cx).await?, ledger.read_at(cx, replica).await?);
        Ok(if of_master == of_replica {
            Look::Reached(())
        } else {
            Look::NotYet(format!("{} numbers, its master {}", of_replica.len(), of_master.len()))
        })
    });
    super::told(same.await)
}

/// What a list cannot be where each number was written once, and none before the last one was sent: a number that is there
/// twice, and acknowledged ones that do not stand in their order. One line for each kind.
fn strange(ledger: &Ledger, there: &[u64]) -> Vec<String> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for number in there {
        *counts.entry(*number).or_default() += 1;
    }
    let twice: Vec<u64> = counts
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(number, _)| *number)
        .collect();
    let acked: BTreeSet<u64> = ledger.acked().map(|write| write.number).collect();
    let in_order: Vec<u64> = there.iter().copied().filter(|number| acked.contains(number)).collect();
    let swapped = in_order.windows(2).find(|pair| pair[0] > pair[1]);
    let twice = twice.first().map(|first| {
        format!(
            "{}: {} numbers are there more than once, {first} among them",
            ledger.key,
            twice.len()
        )
    });
    let swapped = swapped.map(|pair| {
        format!(
            "{}: {} stands before {}, which was acknowledged too",
            ledger.key, pair[0], pair[1]
        )
    });
    twice.into_iter().chain(swapped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Write;
    use pretty_assertions::assert_eq;
    use rstest::rstest;
    use std::time::Instant;

    #[rstest]
    #[case::as_it_must(&[0, 1, 3], &[])]
    #[case::of_unknown_fate_anywhere(&[2, 0, 1, 3], &[])]
    #[case::lost_is_told_elsewhere(&[0, 3], &[])]
    #[case::twice(&[0, 1, 1, 3], &["k: 1 numbers are there more than once, 1 among them"])]
    #[case::swapped(&[1, 0, 3], &["k: 1 stands before 0, which was acknowledged too"])]
    #[case::twice_and_swapped(
        &[0, 1, 3, 0],
        &["k: 1 numbers are there more than once, 0 among them", "k: 3 stands before 0, which was acknowledged too"]
    )]
    fn a_list_shows_what_cannot_be(#[case] there: &[u64], #[case] expected: &[&str]) {
        let fates = [
            Fate::Acked,
            Fate::Acked,
            Fate::Indeterminate("closed".into()),
            Fate::Acked,
        ];
        let write = |(number, fate): (usize, &Fate)| Write {
            number: number as u64,
            due: Instant::now(),
            at: Instant::now(),
            fate: fate.clone(),
            redirections: 0,
        };
        let ledger = Ledger {
            slot: 0,
            key: "k".into(),
            writes: fates.iter().enumerate().map(write).collect(),
        };
        assert_eq!(strange(&ledger, there), expected);
    }
}
