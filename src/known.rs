//! The file of failures that are known (`--known-failing`), read and held against the table of cases.

use crate::cases;
use crate::manifest::list::{self, Form};
use crate::report::known::{Known, Listed};
use anyhow::{Context as _, bail};
use jiff::civil::Date;
use serde::Deserialize;
use std::path::Path;

/// What a file may say.
const FORM: Form = Form {
    fields: &["case", "reason", "until", "flaky"],
    words: "each entry has `case` (an id, as `list` shows them), `reason`, `until` (2027-03-31) and, where it fails only \
            sometimes, `flaky: true`",
};

#[derive(Deserialize)]
struct Entry {
    case: String,
    reason: String,
    until: String,
    #[serde(default)]
    flaky: bool,
}

/// Reads a file of known failures; `today` (UTC) decides which entries have expired.
///
/// # Errors
/// When it cannot be read, or an entry is of no use: a field that is unknown or missing, an id that is no case's, a case
/// that is listed twice, an empty reason, a date that is none. The text names file and line, and says what is expected.
pub fn read(path: &Path, today: Date) -> anyhow::Result<Listed> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&path.display().to_string(), &text, today)
}

fn parse(file: &str, text: &str, today: Date) -> anyhow::Result<Listed> {
    let (listed, places) = list::parse(file, text, &FORM)?;
    let mut entries: Vec<(String, Known)> = Vec::new();
    for (index, entry) in listed.into_iter().enumerate() {
        let place = |field: &str| places.of(index, field);
        let Entry {
            case,
            reason,
            until,
            flaky,
        } = entry;
        if !cases::all().any(|known| known.id.0 == case) {
            bail!("{}: \"{case}\" is no case; `list` shows them", place("/case"));
        }
        if entries.iter().any(|(id, _)| *id == case) {
            bail!("{}: {case} is listed twice; one entry a case", place("/case"));
        }
        if reason.trim().is_empty() {
            bail!(
                "{}: {case} has no reason; say why it fails, and where that is followed up",
                place("/reason")
            );
        }
        let until: Date = until.parse().map_err(|_| {
            anyhow::anyhow!(
                "{}: \"{until}\" is no date; the last day on which the entry holds, as 2027-03-31",
                place("/until")
            )
        })?;
        let expired = until < today;
        entries.push((
            case,
            Known {
                reason,
                until,
                flaky,
                expired,
            },
        ));
    }
    Ok(Listed {
        file: file.to_owned(),
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use pretty_assertions::assert_eq;
    use rstest::rstest;

    #[test]
    fn entries_hold_through_their_last_day() {
        let text = "# why\n- case: SLOT-01\n  reason: a, b\n  until: 2027-03-31\n\
                    - {case: FAIL-01, reason: c, until: 2027-03-30, flaky: true}\n";
        let listed = parse("known.yaml", text, date(2027, 3, 31)).expect("a good file");
        let known = |reason: &str, day, flaky, expired| Known {
            reason: reason.into(),
            until: date(2027, 3, day),
            flaky,
            expired,
        };
        let expected = [
            ("SLOT-01".to_owned(), known("a, b", 31, false, false)),
            ("FAIL-01".to_owned(), known("c", 30, true, true)),
        ];
        assert_eq!(listed.entries, expected);
    }

    #[rstest]
    #[case::empty("")]
    #[case::comments("# none yet\n")]
    #[case::list("[]\n")]
    fn a_file_may_list_nothing(#[case] text: &str) {
        let listed = parse("known.yaml", text, date(2027, 3, 31)).expect("a good file");
        assert_eq!(listed.entries, []);
    }

    #[rstest]
    #[case::no_case(
        "- case: SLOT-01\n  reason: a\n  until: 2027-03-31\n- reason: b\n  case: SLOT-99\n  until: 2027-03-31\n",
        5,
        "\"SLOT-99\" is no case"
    )]
    #[case::omission("- {case: NET-14, reason: a, until: 2027-03-31}\n", 1, "\"NET-14\" is no case")]
    #[case::prefix("- {case: SLOT, reason: a, until: 2027-03-31}\n", 1, "\"SLOT\" is no case")]
    #[case::unknown_field("- case: SLOT-01\n  reason: a\n  till: 2027-03-31\n", 3, "no field \"till\"")]
    #[case::missing_field("\n- case: SLOT-01\n  reason: a\n", 2, "missing field `until`")]
    #[case::twice(
        "- {case: SLOT-01, reason: a, until: 2027-03-31}\n- {case: SLOT-01, reason: a, until: 2027-03-31}\n",
        2,
        "listed twice"
    )]
    #[case::no_reason("- case: SLOT-01\n  until: 2027-03-31\n  reason: ' '\n", 3, "no reason")]
    #[case::no_date("- case: SLOT-01\n  reason: a\n  until: soon\n", 3, "\"soon\" is no date")]
    #[case::no_such_day("- case: SLOT-01\n  reason: a\n  until: 2027-02-30\n", 3, "is no date")]
    #[case::no_list("case: SLOT-01\n", 1, "a list is expected")]
    #[case::no_entry("- SLOT-01\n", 1, "each entry has")]
    #[case::no_yaml("- case: [\n", 2, "a list is expected")]
    fn what_is_of_no_use_is_named_with_its_line(#[case] text: &str, #[case] line: usize, #[case] says: &str) {
        let error = parse("known.yaml", text, date(2027, 3, 31))
            .expect_err("a bad file")
            .to_string();
        assert!(error.starts_with(&format!("known.yaml:{line}: ")), "{error}");
        assert!(error.contains(says), "{error}");
    }
}
