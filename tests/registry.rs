//! The table of cases is sound, agrees with the catalogue, and the source keeps to its layers. No cluster is needed.
//!
//! `RCC_UPDATE=1 cargo test --test registry` writes `CASES.md` anew; review the difference.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use pretty_assertions::assert_eq;
use redis_cluster_conformance::case::{Case, Level, Profile};
use redis_cluster_conformance::cases;
use redis_cluster_conformance::contents::{self, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The catalogue's ids, each with its profile and the seed assertions that it belongs to.
const CATALOGUE: &str = include_str!("catalogue-ids.csv");

/// The rows of the catalogue by id: profile, seed assertions.
fn catalogue() -> BTreeMap<&'static str, (&'static str, BTreeSet<&'static str>)> {
    CATALOGUE
        .lines()
        .skip(1)
        .map(|row| match row.split(',').collect::<Vec<_>>()[..] {
            [id, profile, seed] => (id, (profile, seed.split(' ').filter(|seed| !seed.is_empty()).collect())),
            _ => panic!("{row}"),
        })
        .collect()
}

fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Core => "core",
        Profile::Extended => "extended",
        Profile::Kubernetes => "kubernetes",
        Profile::Chaos => "chaos",
    }
}

/// The complaints about every row of the catalogue that there is: cases, and what is no case.
fn complaints(about: impl Fn(&Row) -> Option<String>) -> Vec<String> {
    contents::rows()
        .iter()
        .filter_map(|row| about(row).map(|text| format!("{}: {text}", row.id())))
        .collect()
}

/// The complaints about every case.
fn complaints_of_cases(about: impl Fn(&Case) -> Option<String>) -> Vec<String> {
    complaints(|row| match row {
        Row::Case(case) => about(case),
        Row::Omission(_) => None,
    })
}

#[track_caller]
fn none(complaints: Vec<String>) {
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn ids_are_unique_and_ascend_within_a_chapter() {
    for chapter in cases::CHAPTERS {
        let ids: Vec<&str> = chapter.iter().map(|case| case.id.0).collect();
        let sorted: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids, sorted.into_iter().collect::<Vec<_>>());
        let chapters: BTreeSet<&str> = chapter.iter().map(|case| case.id.chapter()).collect();
        assert!(chapters.len() <= 1, "one file holds the chapters {chapters:?}");
    }
    let all: BTreeSet<&str> = contents::rows().iter().map(|row| row.id().0).collect();
    assert_eq!(all.len(), contents::rows().len(), "a row is there twice");
}

#[test]
fn every_row_is_in_a_chapter_of_the_contents() {
    let chapters: BTreeSet<&str> = contents::CHAPTERS.iter().map(|(chapter, _)| *chapter).collect();
    none(complaints(|row| {
        (!chapters.contains(row.id().chapter())).then(|| "no such chapter in contents.rs".into())
    }));
}

#[test]
fn ids_are_a_chapter_and_two_digits() {
    none(complaints(|row| {
        let (chapter, number) = row.id().0.split_once('-')?;
        let fine = chapter
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && number.len() == 2
            && number.bytes().all(|byte| byte.is_ascii_digit());
        (!fine).then(|| "not of the form SLOT-03".into())
    }));
}

#[test]
fn every_case_is_the_catalogue_s() {
    let catalogue = catalogue();
    none(complaints(|row| {
        let Some((profile, seed)) = catalogue.get(row.id().0) else {
            return Some("not in the catalogue".into());
        };
        let ours: Vec<String> = row.seed().iter().map(|seed| format!("{seed:?}")).collect();
        let ours: BTreeSet<&str> = ours.iter().map(String::as_str).collect();
        ((profile_name(row.profile()), &ours) != (*profile, seed)).then(|| {
            format!(
                "{} {ours:?}, in the catalogue {profile} {seed:?}",
                profile_name(row.profile())
            )
        })
    }));
}

#[test]
fn titles_are_short_facts() {
    none(complaints(|row| {
        let length = row.title().chars().count();
        let first = row.title().split(' ').next().unwrap_or_default().to_lowercase();
        if length == 0 || length > 80 {
            Some(format!("the title has {length} characters"))
        } else if ["test", "tests", "verify", "verifies", "check", "checks"].contains(&first.as_str()) {
            Some(format!("the title begins with \"{first}\""))
        } else {
            row.title()
                .ends_with('.')
                .then(|| "the title ends in a full stop".into())
        }
    }));
}

#[test]
fn a_requirement_is_one_sentence_that_agrees_with_its_level() {
    none(complaints(|row| {
        let requirement = row.requirement();
        let words: Vec<&str> = requirement.split(|at: char| !at.is_ascii_alphabetic()).collect();
        let found = (words.contains(&"MUST"), words.contains(&"SHOULD"));
        let expected = match row.level() {
            Level::Must => (true, false),
            Level::Should => (false, true),
        };
        if found != expected {
            return Some(format!("level {:?}, but: {requirement}", row.level()));
        }
        let sentences = requirement.matches(". ").count() + 1;
        (sentences != 1 || !requirement.ends_with('.')).then(|| format!("not one sentence: {requirement}"))
    }));
}

#[test]
fn nothing_is_left_blank() {
    none(complaints(|row| {
        let own = match row {
            Row::Case(case) => [("bound", case.bound), ("method", case.method)],
            Row::Omission(omission) => [("reason", omission.reason), ("requirement", omission.requirement)],
        };
        let fields = [[("source", row.source()), ("title", row.title())], own].concat();
        let blank = fields
            .iter()
            .find(|(_, text)| text.trim().is_empty() || text.contains("  "));
        blank.map(|(field, text)| format!("{field} is \"{text}\""))
    }));
}

/// A name that is no timing would stand in `explain` without its formula.
#[test]
fn bounds_name_timings_that_there_are() {
    let known: BTreeSet<&str> = redis_cluster_conformance::timing::TIMINGS
        .iter()
        .map(|named| named.name)
        .collect();
    none(complaints_of_cases(|case| {
        let words = case.bound.split(|at: char| !(at.is_alphanumeric() || at == '_'));
        let unknown = words
            .filter(|word| word.starts_with("T_"))
            .find(|word| !known.contains(word));
        unknown.map(|word| format!("its bound names {word}: there is no such timing"))
    }));
}

/// Every row of the profiles that need neither Kubernetes nor faults is a case, or says why it is none. Of the others
/// those that are not there yet are told.
#[test]
fn no_row_of_the_catalogue_is_forgotten() {
    let there: BTreeSet<&str> = contents::rows().iter().map(|row| row.id().0).collect();
    let missing = |profiles: &[&str]| -> Vec<&'static str> {
        catalogue()
            .into_iter()
            .filter(|(id, (profile, _))| profiles.contains(profile) && !there.contains(id))
            .map(|(id, _)| id)
            .collect()
    };
    let later = missing(&["kubernetes", "chaos"]);
    if !later.is_empty() {
        eprintln!("not there yet ({}): {}", later.len(), later.join(" "));
    }
    let forgotten = missing(&["core", "extended"]);
    assert!(
        forgotten.is_empty(),
        "{} rows are neither a case nor an omission (src/cases/omissions.rs): {}",
        forgotten.len(),
        forgotten.join(" ")
    );
}

#[test]
fn the_contents_are_as_kept() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CASES.md");
    let text = contents::markdown();
    if std::env::var_os("RCC_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let first = kept.lines().zip(text.lines()).find(|(kept, now)| kept != now);
    assert!(
        kept == text,
        "CASES.md is stale, first in {first:?}; RCC_UPDATE=1 cargo test --test registry writes it anew"
    );
}

#[test]
fn every_row_can_be_explained() {
    none(complaints(|row| {
        let text = contents::explain(*row);
        [row.requirement(), row.source()]
            .into_iter()
            .find(|part| !text.contains(part))
            .map(|part| format!("explain leaves out: {part}"))
    }));
}

#[test]
fn an_id_is_found_in_either_case() {
    assert_eq!(cases::find("slot-01").map(|case| case.id.0), Some("SLOT-01"));
    assert!(cases::find("SLOT-00").is_none());
}

/// Every Rust file below a folder of `src`, or one file of it.
fn sources(place: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(place);
    if path.is_file() {
        return vec![path];
    }
    let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries
        .flat_map(|entry| {
            let path = entry.expect("a readable folder").path();
            let within = path
                .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
                .unwrap();
            if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
                sources(within.to_str().expect("a path in UTF-8"))
            } else {
                Vec::new()
            }
        })
        .collect()
}

/// Where the code (not the comments) below a place of `src` holds one of the words.
fn uses(place: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(place) {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let used = words.iter().filter(|word| line.contains(**word));
            found.extend(used.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
        }
    }
    found
}

/// The names of what a table of Cargo.toml lists, as the code writes them.
fn dependencies(table: &str) -> Vec<String> {
    let manifest = document("Cargo.toml");
    let lines = manifest
        .lines()
        .skip_while(|line| *line != format!("[{table}]"))
        .skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.replace('-', "_"))
        .collect()
}

#[test]
fn every_dependency_is_used() {
    // One that is not is built for nothing; or what it was taken for is not done.
    for (table, places) in [
        ("dependencies", &[""][..]),
        ("dev-dependencies", &["", "../tests", "../benches"][..]),
    ] {
        let named = dependencies(table);
        assert!(named.len() > 5, "{table}: {named:?}");
        let unused = named
            .into_iter()
            .filter(|name| places.iter().all(|place| uses(place, &[name]).is_empty()));
        none(
            unused
                .map(|name| format!("[{table}] {name}: no file names it"))
                .collect(),
        );
    }
}

#[test]
fn bodies_print_nothing_sleep_nowhere_and_read_no_environment() {
    none(uses(
        "cases",
        &["println!", "print!", "dbg!", "sleep(", "std::env", "env::var"],
    ));
}

#[test]
fn cases_reach_a_deployment_through_their_context_alone() {
    none(uses(
        "cases",
        &[
            "crate::target",
            "crate::runner",
            "crate::report",
            "crate::evidence",
            "crate::cli",
        ],
    ));
}

#[test]
fn redis_knowledge_knows_no_target_and_no_kubernetes() {
    none(uses(
        "cluster",
        &[
            "crate::target",
            "crate::cases",
            "crate::context",
            "crate::check",
            "crate::runner",
            "kube",
            "k8s",
        ],
    ));
}

#[test]
fn targets_know_no_cases() {
    none(uses(
        "target",
        &[
            "crate::cases",
            "crate::context",
            "crate::check",
            "crate::runner",
            "crate::report",
        ],
    ));
}

#[test]
fn reports_see_the_finished_run_and_nothing_else() {
    none(uses("report", &["crate::runner", "crate::cases", "crate::check"]));
}

/// What a document of the project's folder says.
fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The blocks of code of a document; remarks behind commands are left out, since they are translated.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let parts = text.split("\n```");
    let inner = parts.enumerate().filter(|(at, _)| at % 2 == 1).map(|(_, part)| part);
    inner
        .map(|part| {
            part.lines()
                .map(|line| line.split("  #").next().unwrap().trim_end())
                .collect()
        })
        .collect()
}

#[test]
fn both_readmes_show_the_same_commands_and_output() {
    let (english, chinese) = (document("README.md"), document("README.zh-CN.md"));
    assert!(blocks(&english).len() > 8, "the blocks are found");
    assert_eq!(blocks(&english), blocks(&chinese));
    let count = |text: &str, start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    for start in ["## ", "| "] {
        assert_eq!(
            count(&english, start),
            count(&chinese, start),
            "lines that begin with {start:?}"
        );
    }
    assert!(english.contains("(README.zh-CN.md)") && chinese.contains("(README.md)"));
}

/// The places that a document links to, but for those on other sites.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn readmes_link_to_what_is_there() {
    for name in ["README.md", "README.zh-CN.md"] {
        let text = document(name);
        let missing: Vec<&str> = links(&text)
            .into_iter()
            .filter(|target| {
                !Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join(target.split('#').next().unwrap())
                    .exists()
            })
            .collect();
        assert_eq!(missing, Vec::<&str>::new(), "{name}");
    }
}
