//! Whether the recorded operations on one key can have happened in one order, each between its beginning and its end: a
//! register that is linearizable (Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects").
//!
//! No value is written twice. So each read names the write that it saw, a write and its reads stand together in every
//! order, and whether an order exists can be told from where these groups lie in time (Gibbons and Korach, "Testing shared
//! memories", section 4.1): n operations take n·log n steps.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What an operation did to the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It wrote this value.
    Wrote(u64),
    /// It read this value; `None` where nothing had been written yet.
    Read(Option<u64>),
}

/// One operation. Times count from the beginning of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Before it was sent.
    pub began: Duration,
    /// After it was answered. `None` for a write whose fate is unknown: it may have happened at any time since it began,
    /// also after the end of the record, or never.
    pub ended: Option<Duration>,
    /// What it did.
    pub done: Done,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.done {
            Done::Wrote(value) => write!(f, "the write of {value}")?,
            Done::Read(Some(value)) => write!(f, "a read of {value}")?,
            Done::Read(None) => f.write_str("a read of nothing")?,
        }
        let began = self.began.as_secs_f64();
        match self.ended {
            Some(ended) => write!(f, " ({began:.3} to {:.3} s)", ended.as_secs_f64()),
            None => write!(f, " (from {began:.3} s, fate unknown)"),
        }
    }
}

/// A write with the reads that saw it.
struct Group<'a> {
    /// The write; `None` for what was there before all writes.
    write: Option<&'a Operation>,
    /// The first end of one of its operations: by then the value was there. `None` where no end is known.
    first_end: Option<Duration>,
    /// The operation that ended first.
    first: Option<&'a Operation>,
    /// The last beginning of one of its operations: the value was still there, or was not there yet.
    last_begin: Duration,
    /// The operation that began last.
    last: Option<&'a Operation>,
}

impl<'a> Group<'a> {
    fn add(&mut self, operation: &'a Operation) {
        if let Some(ended) = operation.ended
            && self.first_end.is_none_or(|first| ended < first)
        {
            (self.first_end, self.first) = (Some(ended), Some(operation));
        }
        if self.last.is_none() || operation.began > self.last_begin {
            (self.last_begin, self.last) = (operation.began, Some(operation));
        }
    }

    /// The time during which the register must have held this group's value: from the first end to the last beginning.
    fn held(&self) -> Option<(Duration, Duration)> {
        self.first_end
            .filter(|end| *end < self.last_begin)
            .map(|end| (end, self.last_begin))
    }

    /// Otherwise all its operations overlap at one time, and the register need have held the value for an instant only,
    /// between the two.
    fn instant(&self) -> Option<(Duration, Duration)> {
        match self.held() {
            Some(_) => None,
            None => Some((self.last_begin, self.first_end.unwrap_or(Duration::MAX))),
        }
    }

    fn describe(&self) -> String {
        let name =
            |operation: Option<&Operation>| operation.map_or_else(|| "the beginning".into(), ToString::to_string);
        match (self.write, self.last) {
            (write, Some(last)) if write != Some(last) => format!("{} with {last}", name(write)),
            (write, _) => name(write),
        }
    }
}

/// Why the operations cannot have happened in one order; empty where they can. Each sentence is a proof by itself.
///
/// The register holds nothing at the beginning. Writes that were certainly not done must not be given, but a read of such a
/// value is found: nobody wrote it. A value that is written twice is told as well: then nothing can be said.
pub fn contradictions(operations: &[Operation]) -> Vec<String> {
    let mut findings = Vec::new();
    let empty = Group {
        write: None,
        first_end: Some(Duration::ZERO),
        first: None,
        last_begin: Duration::ZERO,
        last: None,
    };
    let mut groups: BTreeMap<Option<u64>, Group<'_>> = BTreeMap::from([(None, empty)]);
    for operation in operations {
        if let Done::Wrote(value) = operation.done {
            let mut group = Group {
                write: Some(operation),
                first_end: None,
                first: None,
                last_begin: Duration::ZERO,
                last: None,
            };
            group.add(operation);
            if groups.insert(Some(value), group).is_some() {
                findings.push(format!("{value} is written twice: nothing can be told of this record"));
            }
        }
    }
    for operation in operations {
        let Done::Read(value) = operation.done else { continue };
        // A read that was never answered says nothing.
        let Some(ended) = operation.ended else { continue };
        match groups.get_mut(&value) {
            None => findings.push(format!("{operation}, which nobody wrote")),
            Some(group) => match group.write {
                Some(write) if ended < write.began => {
                    findings.push(format!("{operation} had ended before {write} began"))
                }
                Some(_) | None => group.add(operation),
            },
        }
    }
    findings.extend(overlaps(&groups.into_values().collect::<Vec<_>>()));
    findings
}

/// Two groups that must have been held at one time, and groups whose instant lies wholly within the time of another.
fn overlaps(groups: &[Group<'_>]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut held: Vec<(Duration, Duration, &Group<'_>)> = groups
        .iter()
        .filter_map(|group| group.held().map(|(from, until)| (from, until, group)))
        .collect();
    held.sort_by_key(|(from, until, _)| (*from, *until));
    for pair in held.windows(2) {
        let ((_, until, earlier), (from, _, later)) = (&pair[0], &pair[1]);
        if from < until {
            findings.push(format!(
                "the register must have held two values at {:.3} s: {}; {}",
                from.as_secs_f64(),
                earlier.describe(),
                later.describe()
            ));
        }
    }
    for group in groups {
        let Some((from, until)) = group.instant() else { continue };
        // Of those that begin before it, the last: those held do not overlap, or that has been told.
        let at = held.partition_point(|(begin, _, _)| *begin < from);
        if let Some((_, end, around)) = at.checked_sub(1).map(|at| &held[at])
            && until < *end
        {
            findings.push(format!(
                "{} lies within the time in which the register must have held another value: {}",
                group.describe(),
                around.describe()
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::collections::BTreeSet;

    /// An operation from one second to another; no end for a write of unknown fate.
    fn operation(began: u64, ended: Option<u64>, done: Done) -> Operation {
        Operation {
            began: Duration::from_secs(began),
            ended: ended.map(Duration::from_secs),
            done,
        }
    }

    fn wrote(began: u64, ended: u64, value: u64) -> Operation {
        operation(began, Some(ended), Done::Wrote(value))
    }

    fn unknown(began: u64, value: u64) -> Operation {
        operation(began, None, Done::Wrote(value))
    }

    fn read(began: u64, ended: u64, value: impl Into<Option<u64>>) -> Operation {
        operation(began, Some(ended), Done::Read(value.into()))
    }

    #[rstest]
    #[case::nothing_happened(&[], true)]
    #[case::one_after_another(&[wrote(1, 2, 1), read(3, 4, 1), wrote(5, 6, 2), read(7, 8, 2)], true)]
    #[case::a_stale_read(&[wrote(1, 2, 1), wrote(3, 4, 2), read(5, 6, 1)], false)]
    #[case::a_lost_write(&[wrote(1, 2, 1), read(3, 4, None)], false)]
    #[case::a_read_from_the_future(&[read(1, 2, 1), wrote(3, 4, 1)], false)]
    #[case::a_value_of_nobody(&[wrote(1, 2, 1), read(3, 4, 7)], false)]
    #[case::at_once_either_may_be_first(&[wrote(1, 5, 1), wrote(1, 5, 2), read(6, 7, 1)], true)]
    #[case::two_readers_disagree(&[wrote(1, 9, 1), wrote(1, 9, 2), read(2, 3, 1), read(4, 5, 2), read(6, 7, 1)], false)]
    #[case::reads_step_back(&[wrote(1, 2, 1), wrote(3, 9, 2), read(4, 5, 2), read(6, 7, 1)], false)]
    #[case::of_unknown_fate_and_not_done(&[wrote(1, 2, 1), unknown(3, 2), read(8, 9, 1)], true)]
    #[case::of_unknown_fate_and_done_late(&[wrote(1, 2, 1), unknown(3, 2), read(4, 5, 1), read(8, 9, 2)], true)]
    #[case::of_unknown_fate_and_undone_again(&[wrote(1, 2, 1), unknown(3, 2), read(4, 5, 2), read(8, 9, 1)], false)]
    #[case::an_unanswered_read_says_nothing(&[operation(1, None, Done::Read(Some(9)))], true)]
    #[case::written_twice(&[wrote(1, 2, 1), wrote(3, 4, 1)], false)]
    fn known_histories(#[case] operations: &[Operation], #[case] linearizable: bool) {
        let found = contradictions(operations);
        assert_eq!(found.is_empty(), linearizable, "{found:?}");
    }

    #[test]
    fn a_contradiction_names_its_operations() {
        let found = contradictions(&[wrote(1, 2, 1), wrote(3, 4, 2), read(5, 6, 1)]);
        assert_eq!(
            found,
            [
                "the write of 2 (3.000 to 4.000 s) lies within the time in which the register must have held another \
                 value: the write of 1 (1.000 to 2.000 s) with a read of 1 (5.000 to 6.000 s)"
            ]
        );
    }

    /// The second implementation: tries every order (Wing and Gong). An operation may come next when none that is left
    /// ended before it began; a write of unknown fate need never come.
    fn exists_order(operations: &[Operation]) -> bool {
        fn search(
            operations: &[Operation],
            done: u32,
            value: Option<u64>,
            seen: &mut BTreeSet<(u32, Option<u64>)>,
        ) -> bool {
            let left = || (0..operations.len()).filter(|at| done & (1 << at) == 0);
            if left().all(|at| operations[at].ended.is_none()) {
                return true;
            }
            if !seen.insert((done, value)) {
                return false;
            }
            left().any(|at| {
                let next = &operations[at];
                if left().any(|other| operations[other].ended.is_some_and(|ended| ended < next.began)) {
                    return false;
                }
                match next.done {
                    Done::Wrote(written) => search(operations, done | 1 << at, Some(written), seen),
                    Done::Read(_) if next.ended.is_none() => false,
                    Done::Read(found) => found == value && search(operations, done | 1 << at, value, seen),
                }
            })
        }
        search(operations, 0, None, &mut BTreeSet::new())
    }

    /// Up to ten operations at times so near to each other that many overlap; the n-th write writes n.
    fn histories() -> impl Strategy<Value = Vec<Operation>> {
        let one = (0u64..12, 0u64..6, 0u8..8, 0u64..5);
        prop::collection::vec(one, 0..10).prop_map(|drawn| {
            let mut written = 0;
            let mut operations = Vec::new();
            for (began, lasted, kind, value) in drawn {
                // Times are whole seconds counted from 1: the beginning lies before all.
                let (began, ended) = (began + 1, began + 1 + lasted);
                operations.push(match kind {
                    0..3 => {
                        written += 1;
                        wrote(began, ended, written)
                    }
                    3 => {
                        written += 1;
                        unknown(began, written)
                    }
                    _ => read(began, ended, Some(value).filter(|value| *value > 0)),
                });
            }
            operations
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn both_implementations_agree(operations in histories()) {
            let found = contradictions(&operations);
            prop_assert_eq!(found.is_empty(), exists_order(&operations), "{:?}", found);
        }
    }
}
