//! Which cases a run is for: by prefixes of their ids, by seed assertion, by profile, by impact.

use crate::case::{Case, Impact, Profile, Seed};
use crate::contents::{Row, rows};

/// What was asked for. Everything that is empty selects all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Prefixes of ids (`SLOT`, `SLOT-0`, `slot-03`) or seed assertions (`A1`); a case is selected by any of them.
    pub wanted: Vec<String>,
    /// Prefixes or seed assertions that are left out.
    pub skipped: Vec<String>,
    /// Only these profiles.
    pub profiles: Vec<Profile>,
    /// Only cases of at most this impact.
    pub at_most: Option<Impact>,
}

impl Selection {
    /// The selected cases, in the catalogue's order.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub fn cases(&self) -> Result<Vec<&'static Case>, String> {
        let cases = self.rows()?.into_iter().filter_map(|row| match row {
            Row::Case(case) => Some(case),
            Row::Omission(_) => None,
        });
        Ok(cases.collect())
    }

    /// The selected rows of the catalogue, in its order: cases, and what is no case.
    ///
    /// # Errors
    /// When a prefix selects no row at all: a misspelt id must not look like a passed run.
    pub fn rows(&self) -> Result<Vec<Row>, String> {
        let rows = rows();
        for word in self.wanted.iter().chain(&self.skipped) {
            if !rows.iter().any(|row| matches(*row, word)) {
                return Err(format!(
                    "\"{word}\" is no id, no beginning of an id, and none of A1 to A6; `list` shows the ids"
                ));
            }
        }
        Ok(rows.into_iter().filter(|row| self.selects(*row)).collect())
    }

    fn selects(&self, row: Row) -> bool {
        let wanted = self.wanted.is_empty() || self.wanted.iter().any(|word| matches(row, word));
        let skipped = self.skipped.iter().any(|word| matches(row, word));
        let profile = self.profiles.is_empty() || self.profiles.contains(&row.profile());
        let impact = self
            .at_most
            .is_none_or(|most| row.impact().is_some_and(|impact| impact <= most));
        wanted && !skipped && profile && impact
    }
}

fn matches(row: Row, word: &str) -> bool {
    match Seed::ALL
        .into_iter()
        .find(|seed| format!("{seed:?}").eq_ignore_ascii_case(word))
    {
        Some(seed) => row.seed().contains(&seed),
        None => {
            let id = row.id().0;
            !word.is_empty()
                && id
                    .get(..word.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(word))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn select(wanted: &[&str], skipped: &[&str]) -> Result<Vec<&'static str>, String> {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let selection = Selection {
            wanted: words(wanted),
            skipped: words(skipped),
            ..Selection::default()
        };
        Ok(selection.cases()?.iter().map(|case| case.id.0).collect())
    }

    #[rstest]
    #[case(&["SLOT-01"], &[], &["SLOT-01"])]
    #[case(&["slot-01", "HASH-02"], &[], &["SLOT-01", "HASH-02"])]
    #[case(&["SLOT-0"], &["SLOT-02", "SLOT-03", "SLOT-04", "SLOT-05", "SLOT-06", "SLOT-07", "SLOT-08"], &["SLOT-01", "SLOT-09"])]
    #[case(&["OPS"], &["A5"], &["OPS-05", "OPS-06", "OPS-07", "OPS-08", "OPS-09", "OPS-12", "OPS-13", "OPS-14"])]
    fn prefixes_select(#[case] wanted: &[&str], #[case] skipped: &[&str], #[case] ids: &[&str]) {
        assert_eq!(select(wanted, skipped).unwrap(), ids);
    }

    #[test]
    fn a_seed_assertion_selects_its_cases() {
        let selected = select(&["a4"], &[]).unwrap();
        assert!(selected.contains(&"HASH-09") && !selected.contains(&"AUTH-01"));
    }

    #[test]
    fn a_misspelt_id_is_an_error() {
        assert!(select(&["SOLT-01"], &[]).unwrap_err().contains("SOLT-01"));
        assert!(select(&[""], &[]).is_err());
    }
}
