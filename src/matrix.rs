//! The list of cells that `matrix` runs: each is a name and the words of a `run`. Read here; run by the command line, one
//! child process a cell; shown by [`crate::report::matrix`].

use crate::manifest::list::{self, Form};
use anyhow::{Context as _, bail};
use serde::Deserialize;
use std::path::Path;

/// What a list may say.
const FORM: Form = Form {
    fields: &["cell", "run"],
    words: "each entry has `cell` (a name) and `run` (the options of `run`, as they are typed in a shell)",
};

/// A cell of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, which is also that of its folder.
    pub name: String,
    /// What follows `run` on its command line, but for `--out`.
    pub arguments: Vec<String>,
    /// Where its `run` stands: file and line.
    pub place: String,
}

#[derive(Deserialize)]
struct Entry {
    cell: String,
    run: String,
}

/// Reads a list of cells.
///
/// # Errors
/// When it cannot be read, or an entry is of no use: a field that is unknown or missing, a name that is given twice or cannot
/// be a folder's, a quote that does not end. The text names file and line, and says what is expected.
pub fn read(path: &Path) -> anyhow::Result<Vec<Listed>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{} cannot be read: the list of cells; manifests/matrix.yaml of this project is one",
            path.display()
        )
    })?;
    parse(&path.display().to_string(), &text)
}

fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Listed>> {
    let (listed, places) = list::parse(file, text, &FORM)?;
    let mut cells: Vec<Listed> = Vec::new();
    for (index, Entry { cell: name, run }) in listed.into_iter().enumerate() {
        let place = |field: &str| places.of(index, field);
        if !can_be_a_folder(&name) {
            bail!(
                "{}: \"{name}\" cannot be a cell's name: small letters, digits, dots and hyphens, and a letter or a digit first",
                place("/cell")
            );
        }
        if cells.iter().any(|cell| cell.name == name) {
            bail!("{}: there is a cell {name} already", place("/cell"));
        }
        let Some(arguments) = shlex::split(&run) else {
            bail!("{}: a quote of {name} does not end", place("/run"));
        };
        cells.push(Listed {
            name,
            arguments,
            place: place("/run"),
        });
    }
    Ok(cells)
}

fn can_be_a_folder(name: &str) -> bool {
    let letter = |at: u8| at.is_ascii_lowercase() || at.is_ascii_digit();
    name.bytes().next().is_some_and(letter) && name.bytes().all(|at| letter(at) || at == b'.' || at == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use rstest::rstest;

    #[test]
    fn a_cell_is_a_name_and_words() {
        let text = "# why\n- cell: redis-7.0-docker\n  run: >-\n    --target docker\n    --image 'a b'\n\
                    - {cell: b, run: SLOT-01 --target processes}\n- {cell: c, run: ''}\n";
        let cell = |name: &str, arguments: &[&str], line: usize| Listed {
            name: name.into(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            place: format!("m.yaml:{line}"),
        };
        assert_eq!(
            parse("m.yaml", text).expect("a good list"),
            [
                cell("redis-7.0-docker", &["--target", "docker", "--image", "a b"], 3),
                cell("b", &["SLOT-01", "--target", "processes"], 6),
                cell("c", &[], 7),
            ]
        );
    }

    #[rstest]
    #[case::empty("")]
    #[case::comments("# none yet\n")]
    #[case::list("[]\n")]
    fn a_list_may_be_empty(#[case] text: &str) {
        assert_eq!(parse("m.yaml", text).expect("a good list"), []);
    }

    #[rstest]
    #[case::twice("- {cell: a, run: ''}\n- {cell: a, run: ''}\n", 2, "there is a cell a already")]
    #[case::up("- {cell: .., run: ''}\n", 1, "\"..\" cannot be a cell's name")]
    #[case::elsewhere("- cell: a/b\n  run: ''\n", 1, "\"a/b\" cannot be")]
    #[case::nameless("- cell: ''\n  run: ''\n", 1, "\"\" cannot be")]
    #[case::an_option("- run: ''\n  cell: --keep\n", 2, "\"--keep\" cannot be")]
    #[case::open_quote("- cell: a\n  run: --image 'b\n", 2, "a quote of a does not end")]
    #[case::no_run("\n- cell: a\n", 2, "missing field `run`")]
    #[case::unknown("- cell: a\n  run: ''\n  image: b\n", 3, "no field \"image\"")]
    #[case::words("- {cell: a, run: [--keep]}\n", 1, "each entry has `cell`")]
    #[case::no_list("cell: a\n", 1, "a list is expected")]
    #[case::no_yaml("- cell: [\n", 2, "a list is expected")]
    fn what_is_of_no_use_is_named_with_its_line(#[case] text: &str, #[case] line: usize, #[case] says: &str) {
        let error = parse("m.yaml", text).expect_err("a bad list").to_string();
        assert!(error.starts_with(&format!("m.yaml:{line}: ")), "{error}");
        assert!(error.contains(says), "{error}");
    }
}
