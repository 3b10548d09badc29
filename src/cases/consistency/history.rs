//! Whether there is one order of all operations on a list to which clients only append: the check of CONS-15.
//!
//! Every append is told its place, and every read shows a beginning of the list; so each operation tells how long the
//! list was when it happened, and real time alone is left to be compared.

use std::collections::BTreeSet;
use std::time::Instant;

/// What an operation did, as its client was told.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// A value was appended, and the list then had so many.
    Appended(String, usize),
    /// These values were read, first to last.
    Read(Vec<String>),
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// Before it was sent.
    pub(super) began: Instant,
    /// After it was answered.
    pub(super) ended: Instant,
    /// What it did.
    pub(super) done: Done,
}

impl Operation {
    /// How long the list was once it had happened.
    fn reached(&self) -> usize {
        match &self.done {
            Done::Appended(_, length) => *length,
            Done::Read(values) => values.len(),
        }
    }

    fn describe(&self) -> String {
        match &self.done {
            Done::Appended(value, length) => format!("the append of {value} at place {length}"),
            Done::Read(values) => format!("a read of {} values", values.len()),
        }
    }
}

/// What contradicts one order of all operations; `last` is the list at the end.
pub(super) fn contradictions(operations: &[Operation], last: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut appended = BTreeSet::new();
    for operation in operations {
        match &operation.done {
            Done::Appended(value, length) => {
                appended.insert(value.as_str());
                let there = length.checked_sub(1).and_then(|place| last.get(place));
                if there != Some(value) {
                    let there = there.map_or("nothing", String::as_str);
                    findings.push(format!("{}, where the list has {there}", operation.describe()));
                }
            }
            Done::Read(values) if !last.starts_with(values) => {
                findings.push(format!("{}, which are no beginning of the list", operation.describe()));
            }
            Done::Read(_) => {}
        }
    }
    let appends = operations
        .iter()
        .filter(|operation| matches!(operation.done, Done::Appended(..)));
    let appends = appends.count();
    if last.len() != appends || appended.len() != appends {
        findings.push(format!(
            "{appends} appends acknowledged, {} values in the list",
            last.len()
        ));
    }
    for later in operations {
        let before = operations.iter().filter(|earlier| earlier.ended < later.began);
        let Some(earlier) = before.max_by_key(|earlier| earlier.reached()) else {
            continue;
        };
        let in_order = match later.done {
            Done::Appended(_, length) => earlier.reached() < length,
            Done::Read(_) => earlier.reached() <= later.reached(),
        };
        if !in_order {
            findings.push(format!(
                "{} had ended before {} began",
                earlier.describe(),
                later.describe()
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::time::Duration;

    /// An operation that lasts from one second to another.
    fn operation(zero: Instant, from: u64, until: u64, done: Done) -> Operation {
        Operation {
            began: zero + Duration::from_secs(from),
            ended: zero + Duration::from_secs(until),
            done,
        }
    }

    fn append(value: &str, place: usize) -> Done {
        Done::Appended(value.into(), place)
    }

    fn read(values: &[&str]) -> Done {
        Done::Read(values.iter().map(|value| (*value).to_owned()).collect())
    }

    #[rstest]
    #[case::one_after_another(&[(0, 1, append("a", 1)), (2, 3, append("b", 2)), (4, 5, read(&["a", "b"]))], &["a", "b"], 0)]
    #[case::at_once_in_any_order(&[(0, 5, append("a", 2)), (1, 5, append("b", 1)), (2, 5, read(&[]))], &["b", "a"], 0)]
    #[case::a_late_read_is_stale(&[(0, 1, append("a", 1)), (2, 3, read(&[]))], &["a"], 1)]
    #[case::reads_step_back(&[(0, 9, append("a", 1)), (1, 2, read(&["a"])), (3, 4, read(&[]))], &["a"], 1)]
    #[case::the_later_is_first(&[(0, 1, append("a", 2)), (2, 3, append("b", 1))], &["b", "a"], 1)]
    #[case::an_append_is_lost(&[(0, 1, append("a", 1))], &[], 2)]
    #[case::a_read_shows_another_order(&[(0, 9, append("a", 1)), (0, 9, append("b", 2)), (0, 9, read(&["b"]))], &["a", "b"], 1)]
    #[case::a_value_twice(&[(0, 1, append("a", 1))], &["a", "a"], 1)]
    fn contradictions_are_found(#[case] told: &[(u64, u64, Done)], #[case] last: &[&str], #[case] count: usize) {
        let zero = Instant::now();
        let operations: Vec<Operation> = told
            .iter()
            .map(|(from, until, done)| operation(zero, *from, *until, done.clone()))
            .collect();
        let last: Vec<String> = last.iter().map(|value| (*value).to_owned()).collect();
        let found = contradictions(&operations, &last);
        assert_eq!(found.len(), count, "{found:?}");
    }
}
